"""``wattd store repair``: mend what can be mended; set the rest aside, delete nothing.

Damage in a segment file: the file is cut where it begins, and what follows goes to a folder
``damaged-<n>``; the database is computed again from the good part, and the node fetches the rest
from its peers. A damaged database is computed again. A kill in between leaves a store that the
next repair treats the same way: the database goes first, so it never knows of blocks that are gone.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from consensus.errors import StorageError
from node.store.powtree import mend_active_headers
from node.store.progress import Progress
from node.store.reindex import reindex
from node.store.target import Target
from storage import schema, swap
from storage.files import Files, storage_error
from storage.index import Index
from storage.restart import coins_tip_is_active
from storage.segments import HEAD_BYTES, SegmentFault, Segments
from storage.store import ChainStore

Say = Callable[[str], None]
_COPY_BYTES = 1 << 20
_PROGRESS_KEYS = 1000
HOPELESS = ("pruned", "reindex-short", "replay-failed")


def repair(target: Target, progress: Progress, say: Say, files: Files | None = None) -> bool:
    """Mend the store and say what was done; return whether anything had to be.

    Raises StorageError for what no tool can mend: a full disk, another chain, a newer schema.
    """
    work = _Repair(target, progress, say, files or Files())
    try:
        return work.run()
    except OSError as error:
        raise storage_error(error, target.path) from error


class _Repair:
    def __init__(self, target: Target, progress: Progress, say: Say, files: Files) -> None:
        self._target, self._progress, self._say, self._files = target, progress, say, files
        self._blocks = target.path / swap.BLOCKS
        self._index = target.path / swap.INDEX
        self._aside: Path | None = None

    def run(self) -> bool:
        self._blocks.mkdir(mode=0o700, exist_ok=True)
        first = self._index_fault_or_first()
        absent = first is not None and first[0] > 0
        while (fault := self._segment_fault(first[1] if first else self._lowest())) is not None:
            self._say(f"found: {fault.reason}")
            if absent or (first is None and self._lowest()):
                self._start_over()
                return True
            self._cut(fault)
            first = None
        if first is None and self._lowest():
            self._start_over()
            return True
        if first is None or not self._index_covers_segments():
            self._set_aside(self._index)
            self._recompute()
        mended = self._index.is_dir() and not self._target.has_quorums and self._mend_headers()
        return self._aside is not None or first is None or mended

    def _mend_headers(self) -> bool:
        """See that the header index of a pow chain has the active chain; return whether it lacked it."""
        with ExitStack() as opened:
            index = Index.open(self._index, self._target.cache_bytes // 2, create=False)
            closing = opened.enter_context(ExitStack())
            closing.callback(index.close)
            store = ChainStore.over(
                self._target.path,
                self._target.held_lock,
                index,
                self._open_segments,
                self._target.cache_bytes // 2,
                self._target.chain_id,
            )
            closing.pop_all()
            opened.callback(store.close)
            mended = mend_active_headers(store, self._progress)
        if mended:
            self._say(f"done: {mended} headers of the active chain are in the header index again")
        return mended > 0

    def _open_segments(self, watermark: tuple[int, int] | None, first: int) -> Segments:
        return Segments.open(self._blocks, self._target.chain_id, watermark, self._files, first)

    # ---- finding

    def _index_fault_or_first(self) -> tuple[int, int] | None:
        """Read the whole database; return what was pruned (see ``schema.PRUNED``), None if it is bad."""
        if not self._index.is_dir():
            self._say("found: there is no database")
            return None
        self._progress.begin("reading the database", 0)
        try:
            index = Index.open(self._index, self._target.cache_bytes // 2, create=False)
            try:
                for count, _ in enumerate(index.scan(b"")):
                    if count % _PROGRESS_KEYS == 0:
                        self._progress.advance(0)
                return schema.decode_pruned(index.get(schema.PRUNED))
            finally:
                index.close()
        except StorageError as error:
            if error.code != "leveldb-corrupt":
                raise
            self._say(f"found: {error.reason}")
            return None

    def _segment_fault(self, first: int) -> SegmentFault | None:
        try:
            segments = Segments.view(self._blocks, self._target.chain_id, first)
        except SegmentFault as fault:
            return fault
        try:
            self._progress.begin("reading segment files", segments.bytes_on_disk())
            for record in segments.scan(None):
                self._progress.advance(record.end - record.position.offset)
        except SegmentFault as fault:
            return fault
        finally:
            segments.close()
        return None

    def _lowest(self) -> int:
        """Return the number of the lowest segment file, 0 if there is none."""
        return min((int(path.stem[4:]) for path in self._blocks.glob("seg-*.dat")), default=0)

    def _index_covers_segments(self) -> bool:
        """Return whether the database knows of nothing behind the end of the segment files."""
        index = Index.open(self._index, self._target.cache_bytes // 2, create=False)
        try:
            stored = index.get(schema.WATERMARK)
            _, first = schema.decode_pruned(index.get(schema.PRUNED))
            if stored is None or index.get(schema.TIP) is None:
                self._say("found: the database has no tip")
                return False
            if not coins_tip_is_active(index):
                self._say("found: the unspent outputs stand at a block off the active chain")
                return False
        finally:
            index.close()
        segments = Segments.view(self._blocks, self._target.chain_id, first)
        segments.close()
        if schema.decode_watermark(stored) > max(segments.end, (0, 0)):
            self._say("found: the database knows of records that the segment files do not have")
            return False
        return True

    # ---- mending

    def _cut(self, fault: SegmentFault) -> None:
        """Set aside everything from the damage on. The database goes first."""
        self._set_aside(self._index)
        swap.forget_building(self._target.path)
        later = [path for path in self._blocks.glob("seg-*.dat") if int(path.stem[4:]) > fault.number]
        for path in sorted(later, key=lambda path: int(path.stem[4:]), reverse=True):
            self._set_aside(path)
        path = self._blocks / f"seg-{fault.number:05d}.dat"
        if not path.exists():
            return
        if fault.offset < HEAD_BYTES:
            self._set_aside(path)
            return
        self._copy_tail(path, fault.offset, self._folder() / f"{path.name}.from-{fault.offset}")
        fd = self._files.open(path)
        try:
            self._files.truncate(fd, fault.offset)
            self._files.sync(fd)
        finally:
            self._files.close(fd)
        self._say(f"cut: {path} at offset {fault.offset}, its end is in {self._folder()}")

    def _copy_tail(self, source: Path, offset: int, copy: Path) -> None:
        reading, writing = self._files.open(source), self._files.open(copy, create=True)
        try:
            at = 0
            while data := self._files.read(reading, _COPY_BYTES, offset + at):
                self._files.write(writing, data, at)
                at += len(data)
            self._files.sync(writing)
        finally:
            self._files.close(reading)
            self._files.close(writing)
        self._files.sync_directory(copy.parent)

    def _recompute(self) -> None:
        try:
            done = reindex(self._target, self._progress, keep_old=True, files=self._files)
        except StorageError as error:
            if error.code not in HOPELESS:
                raise
            self._say(f"found: {error.reason}")
            self._start_over()
            return
        self._say(f"done: the database is computed again up to height {done.height}")

    def _start_over(self) -> None:
        swap.forget_building(self._target.path)
        self._set_aside(self._index)
        self._set_aside(self._blocks)
        self._say(
            "done: nothing is left to go on from; import a snapshot, or start the node to fetch the chain"
        )

    def _set_aside(self, path: Path) -> None:
        if not path.exists():
            return
        target = self._folder() / path.name
        os.rename(path, target)
        self._files.sync_directory(path.parent)
        self._say(f"moved: {path} to {target}")

    def _folder(self) -> Path:
        """Return the folder that takes what is set aside, made at the first use."""
        if self._aside is None:
            number = 1
            while (self._target.path / f"damaged-{number}").exists():
                number += 1
            self._aside = self._target.path / f"damaged-{number}"
            self._aside.mkdir(mode=0o700)
            self._files.sync_directory(self._target.path)
        return self._aside
