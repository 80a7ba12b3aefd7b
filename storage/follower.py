"""Keeps an optional index in step with the active chain, in bounded slices.

The invariant: the progress that is stored says exactly which entries are there, because both change in
one batch. ``WHOLE`` at a block: the entries of that block and all before it. ``CONNECTING`` with ``done``:
the first ``done`` changes of that block too. ``DISCONNECTING``: its first ``done`` changes were taken back,
the others may or may not be there. So a kill between two batches costs nothing.

A follower whose block left the active chain takes blocks off, one by one, with their bodies and undo
data, until it stands on the active chain again, and then goes forward.
"""

from collections.abc import Iterator
from itertools import islice

from consensus.block import Block
from consensus.errors import DecodeError, StorageError
from consensus.undo import decode_undo
from storage import limits
from storage.indexes import BlockIndex, Change, Coins
from storage.schema import Mode, Phase, Progress
from storage.store import ChainStore


class _Slice:
    """The changes of one batch, and how much more it takes. A later change of a key counts."""

    def __init__(self) -> None:
        self.changes: dict[bytes, bytes | None] = {}
        self._bytes = limits.SIDE_SLICE_BYTES
        self._body_bytes = limits.SIDE_SLICE_BODY_BYTES
        self._blocks = limits.SIDE_SLICE_BLOCKS

    @property
    def is_full(self) -> bool:
        return len(self.changes) >= limits.SIDE_SLICE_ITEMS or self._bytes <= 0

    @property
    def is_done(self) -> bool:
        """Full, or with enough blocks read for the changes there are."""
        return self.is_full or self._body_bytes <= 0 or self._blocks <= 0

    def put(self, key: bytes, value: bytes | None) -> None:
        self.changes[key] = value
        self._bytes -= len(key) + len(value or b"")

    def read_block(self, length: int) -> None:
        self._body_bytes -= length
        self._blocks -= 1


class Follower:
    """Moves one index along. ``step`` is for one thread at a time, the properties for any."""

    def __init__(self, store: ChainStore, kind: BlockIndex, progress: Progress, *, wanted: bool) -> None:
        self.kind = kind
        self.is_wanted = wanted
        """Whether the configuration turns this index on."""
        self._store = store
        self._progress = progress
        self._under_way: tuple[Progress, Iterator[Change]] | None = None
        self._drop_from = b""

    @classmethod
    def open(cls, store: ChainStore, kind: BlockIndex, *, wanted: bool) -> "Follower":
        """Turn an index on or off; for an empty store this must come before its first block.

        Raises StorageError "index-needs-blocks" if blocks that it needs were pruned.
        """
        stored = store.side.progress(kind.name) or Progress(kind.absent)
        follower = cls(store, kind, stored, wanted=wanted)
        configured = follower._configured(stored)
        if configured != stored:
            follower._set(configured, {})
        return follower

    # -- what others see

    @property
    def height(self) -> int:
        """Height of the last block that is in the index whole, -1 for none."""
        now = self._progress
        if now.mode is Mode.KEPT:
            return self._store.height
        if now.mode is not Mode.FOLLOW:
            return -1
        return now.height if now.phase is Phase.WHOLE else now.height - 1

    @property
    def is_synced(self) -> bool:
        """Whether the index holds every block up to the tip."""
        now = self._progress
        return now.mode is Mode.KEPT or (now.mode is Mode.FOLLOW and self._at_tip(now))

    @property
    def has_work(self) -> bool:
        """Whether ``step`` has something to do now."""
        now = self._progress
        if now.mode is Mode.FOLLOW:
            return self.kind.absent is Mode.KEPT or not self._at_tip(now)
        return now.mode is Mode.DROP

    # -- one slice

    def step(self) -> bool:
        """Do one bounded slice of work; return whether there is more. Raises StorageError."""
        now = self._progress
        if now.mode is Mode.FOLLOW:
            self._follow(now)
        elif now.mode is Mode.DROP:
            self._drop()
        return self.has_work

    def _follow(self, start: Progress) -> None:
        """Advance as far as one batch reaches. At the tip, what ``connect`` can keep is left to it."""
        now, batch = start, _Slice()
        while now.mode is Mode.FOLLOW and not batch.is_done:
            following = self._advance(now, batch)
            if following is None:
                break
            now = following
        if now != start:
            self._set(now, batch.changes)
        if self.kind.absent is Mode.KEPT and now.mode is Mode.FOLLOW:
            side = self._store.side
            if side.write(self.kind.name, None, {}, still=lambda: self._at_tip(now)):
                self._progress = Progress(Mode.KEPT)

    def _advance(self, now: Progress, batch: _Slice) -> Progress | None:
        """Return the progress after one more piece of work, None at the tip."""
        active = now.height < 0 or self._store.block_hash(now.height) == now.block_hash
        if now.phase is Phase.DISCONNECTING:
            return self._take_off(now, batch)
        if not active:
            return now._replace(phase=Phase.DISCONNECTING, done=0)
        if now.phase is Phase.CONNECTING:
            return self._work(now, batch) or now._replace(phase=Phase.WHOLE, done=0)
        block_hash = self._store.block_hash(now.height + 1)
        if block_hash is None:
            return None
        return Progress(Mode.FOLLOW, Phase.CONNECTING, now.height + 1, 0, block_hash)

    def _take_off(self, now: Progress, batch: _Slice) -> Progress:
        """Take back entries of a block that left the chain; without its records, begin anew."""
        if self._resumable(now) is None and self._records(now) is None:
            return Progress(Mode.DROP)
        following = self._work(now, batch)
        if following is not None:
            return following
        raw = self._store.body(now.block_hash)
        if raw is None:
            return Progress(Mode.DROP)
        return Progress(Mode.FOLLOW, Phase.WHOLE, now.height - 1, 0, raw[4:36])

    def _work(self, now: Progress, batch: _Slice) -> Progress | None:
        """Move changes of a block into the batch; return the progress, None once the block is done."""
        back = now.phase is Phase.DISCONNECTING
        source = self._resumable(now) or self._changes(now, batch)
        done = now.done
        try:
            for key, before, after in source:
                batch.put(key, before if back else after)
                done += 1
                if batch.is_full:
                    now = now._replace(done=done)
                    self._under_way = now, source
                    return now
        except KeyError as error:
            raise self._unreadable(now.height, f"nobody knows the coin {error} that it spends") from error
        self._under_way = None
        return None

    def _resumable(self, now: Progress) -> Iterator[Change] | None:
        """Return the changes that are left of a block, if the last slice ended within it."""
        known = self._under_way
        return known[1] if known is not None and known[0] == now else None

    def _records(self, now: Progress) -> tuple[bytes, bytes] | None:
        """Return body and undo data of a block, None if something that this index needs is absent."""
        raw, undo = self._store.body(now.block_hash), self._store.undo(now.block_hash)
        if raw is None or (undo is None and self.kind.needs_all_blocks):
            return None
        return raw, undo or b""

    def _changes(self, now: Progress, batch: _Slice) -> Iterator[Change]:
        """Return the changes of a block that are still to be made. Raises StorageError."""
        records = self._records(now)
        if records is None:
            raise self._missing(now.height)
        raw, undo = records
        batch.read_block(len(raw) + len(undo))
        try:
            coins: Coins = decode_undo(undo)[0] if undo else {}
            return islice(self.kind.changes(Block.parse(raw), coins, now.height), now.done, None)
        except DecodeError as error:
            raise self._unreadable(now.height, str(error)) from error

    def _drop(self) -> None:
        """Remove one batch of entries; after the last, begin anew if the index is wanted."""
        for space in self.kind.spaces:
            start, stop = max(space, self._drop_from), bytes([space[0] + 1])
            keys = self._store.side.keys(start, stop, limits.SIDE_SLICE_ITEMS)
            if keys:
                self._drop_from = keys[-1]
                self._set(Progress(Mode.DROP), dict.fromkeys(keys))
                return
        self._set(self._beginning() if self.is_wanted else Progress(Mode.OFF), {})

    # -- states

    def _configured(self, stored: Progress) -> Progress:
        """Return what becomes of the stored progress under the configuration."""
        if not self.is_wanted:
            if stored.mode is Mode.OFF or (stored.mode is Mode.KEPT and self._store.height < 0):
                return Progress(Mode.OFF)
            return Progress(Mode.DROP)
        if stored.mode is Mode.OFF:
            return self._beginning()
        if stored.mode is Mode.FOLLOW and stored.height + 1 < self._store.pruned_below:
            return self._beginning()
        return stored

    def _beginning(self) -> Progress:
        """Return the progress of an index without entries. Raises StorageError "index-needs-blocks"."""
        below = self._store.pruned_below
        if below and self.kind.needs_all_blocks:
            raise self._missing(below - 1)
        parent = self._store.block_hash(below - 1)
        if parent is None:
            return Progress(Mode.FOLLOW)
        return Progress(Mode.FOLLOW, height=below - 1, block_hash=parent)

    def _at_tip(self, now: Progress) -> bool:
        tip_hash = self._store.tip_hash
        return now.phase is Phase.WHOLE and (
            now.height < 0 if tip_hash is None else now.block_hash == tip_hash
        )

    def _set(self, progress: Progress, changes: dict[bytes, bytes | None]) -> None:
        stored = None if progress.mode is self.kind.absent else progress
        self._store.side.write(self.kind.name, stored, changes)
        self._progress = progress

    def _missing(self, height: int) -> StorageError:
        name, below = self.kind.name.decode(), self._store.pruned_below
        if height >= below:
            return self._unreadable(height, "its body or undo data is missing")
        return StorageError(
            "index-needs-blocks",
            f"the {name} index needs all blocks, but those below {below} are not there any more",
            fix=f"set [storage] {name}_index = false, or sync again without pruning: move blocks/ and "
            "index/ away and start",
        )

    def _unreadable(self, height: int, what: str) -> StorageError:
        return StorageError(
            "segment-corrupt",
            f"{self._store.path}: the {self.kind.name.decode()} index cannot use block {height}: {what}",
            fix=f"wattd store repair --datadir {self._store.path}, then start again",
        )
