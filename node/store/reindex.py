"""``wattd store reindex``: the database computed again from the segment files.

It is built under ``index.building`` and takes the place of the old one at the end (``storage.swap``).
A run that was killed goes on where it was; until the exchange the old database is untouched.
"""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import NamedTuple

from consensus.errors import StorageError
from node.sigcheck import SignatureVerifier
from node.store.powtree import connect_best, enter_headers
from node.store.progress import Progress
from node.store.replay import ReplayStore, execute_stored, replay_store
from node.store.target import Target, need_room, size_of
from storage import schema, swap
from storage.files import Files
from storage.headers import HeaderIndex
from storage.index import Index
from storage.segments import Segments


@dataclass(frozen=True, slots=True)
class Reindexed:
    """What came of it: height of the tip, where a former run had left off (-1: nowhere), work (pow)."""

    height: int
    resumed_at: int
    work: int = 0


def reindex(
    target: Target,
    progress: Progress,
    *,
    verify: bool = False,
    keep_old: bool = False,
    files: Files | None = None,
) -> Reindexed:
    """Execute the blocks of the segment files into a new database and let it replace the old.

    On a bft chain these are the certified ones, on a pow chain the branch of most work. ``verify`` checks
    the signatures of transactions again, for which certificates vouch, or that they were connected once.
    Raises StorageError: "pruned" if blocks are absent, "replay-failed", "segment-corrupt", "disk-full".
    """
    former = _former(target)
    swap.forget_import(target.path)
    building = target.path / swap.INDEX_BUILDING
    need_room(target.path, max(0, size_of(target.path / swap.INDEX) - size_of(building)), "the new database")
    run = _Run(target, former, verify, progress, files)
    try:
        done = run.build()
    except StorageError as error:
        if not building.is_dir() or error.code in (
            "disk-full",
            "not-writable",
            "replay-failed",
            "reindex-short",
        ):
            raise
        # What a former run left may be damaged itself, or older than a repair: once more from the start.
        swap.forget_building(target.path)
        done = run.build()
    finally:
        run.close()
    if (done.work, done.height) < (former.work, former.height if target.has_quorums else 0):
        raise StorageError(
            "reindex-short",
            f"the database in use reaches height {former.height}, the blocks in the segment files only "
            f"{done.height}",
            fix="wattd store repair finds what is damaged",
        )
    swap.decide(target.path, files)
    if not keep_old:
        shutil.rmtree(target.path / swap.INDEX_OLD, ignore_errors=True)
    return done


class _Former(NamedTuple):
    """What the database in use says: height, tip and work of the tip, as far as it can be read."""

    height: int = -1
    tip: bytes | None = None
    work: int = 0


class _Run:
    """One reindex: what both attempts need."""

    def __init__(
        self, target: Target, former: _Former, verify: bool, progress: Progress, files: Files | None
    ) -> None:
        self._target, self._former, self._verify = target, former, verify
        self._progress, self._files = progress, files
        # Blocks of a pow chain that were never connected are checked in any case.
        wanted = verify or not target.has_quorums
        self._verifier = SignatureVerifier(target.contracts) if wanted else None

    def close(self) -> None:
        """End the threads that check signatures."""
        if self._verifier is not None:
            self._verifier.close()

    def build(self) -> Reindexed:
        """Build the new database, or go on where a former run left off."""
        target = self._target
        blocks = target.path / swap.BLOCKS
        blocks.mkdir(mode=0o700, exist_ok=True)
        open_segments = partial(Segments.open, blocks, target.chain_id, files=self._files)
        with replay_store(target, target.path / swap.INDEX_BUILDING, open_segments, self._progress) as store:
            resumed_at = store.height
            if not target.has_quorums:
                return self._build_pow(store, resumed_at)
            chain = execute_stored(target, store, self._verifier, self._progress)
            if store.highest_certified > chain.tip.height:
                raise _short(f"certified blocks up to {store.highest_certified}", chain.tip.height)
            return Reindexed(chain.tip.height, resumed_at)

    def _build_pow(self, store: ReplayStore, resumed_at: int) -> Reindexed:
        target, verifier = self._target, self._verifier
        if verifier is None:
            raise TypeError("a pow chain is reindexed with a verifier")
        chain = target.chain_over(store, verifier)
        with ExitStack() as opened:
            enter_headers(target, store, self._progress, _former_headers(target, opened))
        connect_best(target, store, chain, self._former.tip, self._progress, verify=self._verify)
        off = store.bodies_off_chain(-1)
        if off and not chain.tip.height and all(store.headers.get(each) is None for _, each in off):
            raise _short(f"blocks up to {off[-1][0]}", chain.tip.height)
        tip = store.headers.get(chain.tip.block_hash)
        return Reindexed(chain.tip.height, resumed_at, 0 if tip is None else tip.work)


def _short(held: str, height: int) -> StorageError:
    return StorageError(
        "reindex-short",
        f"the segment files hold {held}, but height {height + 1} is missing: the chain came from a snapshot",
        fix="move blocks/ and index/ away, then import a snapshot or start again to fetch the chain",
    )


def _former_headers(target: Target, opened: ExitStack) -> HeaderIndex | None:
    """Return the header index of the database in use, None if that cannot be read."""
    if not (target.path / swap.INDEX).is_dir():
        return None
    try:
        index = Index.open(target.path / swap.INDEX, 0, create=False)
    except StorageError:
        return None
    opened.callback(index.close)
    return HeaderIndex(index, RLock())


def _former(target: Target) -> _Former:
    """Return what the database in use says. Raises "pruned"."""
    path = target.path / swap.INDEX
    if not path.is_dir():
        return _Former()
    try:
        index = Index.open(path, 0, create=False)
    except StorageError:
        return _Former()  # a damaged one is what we are here for; missing files show when they are read
    below, found = 0, _Former()
    try:
        below, _ = schema.decode_pruned(index.get(schema.PRUNED))
        stored = index.get(schema.TIP)
        if stored is not None:
            height, tip, _ = schema.decode_tip(stored)
            record = HeaderIndex(index, RLock()).get(tip)
            found = _Former(height, tip, 0 if record is None else record.work)
    except StorageError:
        pass
    finally:
        index.close()
    if below:
        raise StorageError(
            "pruned",
            f"blocks below {below} are absent, so the database cannot be computed again",
            fix="move blocks/ and index/ away, then import a snapshot or start again to fetch the chain",
        )
    return found
