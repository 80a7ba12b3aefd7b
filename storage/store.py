"""The store of a chain: segment files as the log, LevelDB as the state that the log leads to.

The order in ``ChainStore.connect`` is the invariant on which every restart rests:

1. body, undo and certificate are appended to the segment files and synced;
2. then ONE LevelDB batch moves contract state, indexes and the tip together;
3. the block's coins stay in memory. Now and then ONE batch, the flush, writes the coins of all blocks
   since the last one, and moves the coins tip to the tip.

So at any instant, whatever batch a power cut ends at:

- contract state and indexes in LevelDB are exactly those at the tip;
- coins in LevelDB are exactly those at the coins tip, which is the tip or an ancestor of it on the
  active chain: a flush follows the batches of its blocks, and ``disconnect`` never leaves the coins tip
  above the tip, because the batch that takes its block off writes the coins too;
- the bodies between the two are durable in the segments, and pruning leaves them there. ``open``
  computes their coins from them (``storage.restart``);
- LevelDB names no record that is not durable, because whatever enters one syncs the segments first
  (``BlockLog.begin``), and none whose file was pruned (``storage.pruning``);
- headers of all branches, marks of invalidity and the optional indexes have batches of their own. A
  header comes before the batch that connects its block, a mark is synced before the engine acts on it.

A power cut may take LevelDB's last batches, never a part of one; ``replayable`` hands out what has to
be executed again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, Self

from storage import limits, schema, swap
from storage.blocklog import BlockLog
from storage.cache import ByteCache
from storage.coincache import CoinCache, Diff, overlaid, put_all
from storage.files import Files, storage_error
from storage.headers import HeaderIndex
from storage.index import Index
from storage.lock import DirectoryLock
from storage.migrations import Progress, check_identity, migrate, need_current
from storage.pruning import SegmentFile, Slice, prune_slices, segment_files
from storage.restart import CoinsOf, block_coins, coins_of_stored, coins_tip_is_active, off_chain
from storage.roots import StateRootRecords
from storage.segments import Kind, Segments
from storage.side import SideIndexes
from storage.views import StoredCoins, StoredState, StoreSizes

__all__ = ["ChainStore", "ConnectBatch", "Diff", "StoreSizes"]

OpenSegments = Callable[[tuple[int, int] | None, int], Segments]
"""Opens the segment files, given the watermark and the first file that was not pruned."""


@dataclass(frozen=True, slots=True)
class ConnectBatch:
    """One block to connect: ``header`` 80 bytes, ``body`` the raw block, hashes in internal byte order.

    ``coins`` has None for the coins that it spends and values for those that it creates, which must be
    new. ``tip`` is the encoded ChainTip of this block, ``undo`` whatever takes the block off again,
    ``certificate`` the encoded commit certificate of a bft chain, ``round_end`` what proves the block if it
    ended a round, kept when the block is pruned; none of them is looked into.
    """

    height: int
    block_hash: bytes
    header: bytes
    body: bytes
    txids: tuple[bytes, ...]
    tip: bytes
    coins: Diff
    state: Diff
    undo: bytes
    certificate: bytes | None = None
    round_end: bytes | None = None


class ChainStore:
    """All that a node keeps of its chain. Methods may be called from any thread; writes are serialised."""

    VIEW: ClassVar[bool] = False
    """True for a store that is looked at: nothing is written, not even what its opening finds out."""

    def __init__(
        self, path: Path, lock: DirectoryLock, index: Index, segments: Segments, cache_bytes: int
    ) -> None:
        self.path = path
        self._directory_lock = lock
        self._index = index
        self._segments = segments
        self._lock = RLock()
        self._coins = CoinCache(cache_bytes * 2 // 3)
        self._state_cache = ByteCache(cache_bytes - cache_bytes * 2 // 3)
        self._blocks = BlockLog(index, segments, self._lock, view=self.VIEW)
        self._closed = False
        self._tip: bytes | None = None
        self._height = -1
        self._tip_hash: bytes | None = None
        self._coins_height = -1
        self._unflushed_bytes = 0
        self._body_share = cache_bytes // limits.FLUSH_BODY_SHARE
        self.pruned_below = 0
        """Height from which on bodies, undo data and certificates are there."""
        self.coins_view = StoredCoins(self.coin)
        self.state_view = StoredState(self.state_value, self.state_values, index)
        self.headers = HeaderIndex(index, self._lock)
        """Headers of all branches, on a proof-of-work chain."""
        self.state_roots = StateRootRecords(index, self._lock)
        """State roots that were computed, on a chain with a snapshot interval."""
        self.side = SideIndexes(index, self._lock)
        """The optional indexes."""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        chain_id: bytes,
        cache_bytes: int = limits.CACHE_BYTES,
        files: Files | None = None,
        coins_of: CoinsOf = block_coins,
        migrating: Progress | None = None,
    ) -> "ChainStore":
        """Open the store in the data directory ``path``, creating what is missing.

        ``cache_bytes``: half of it is for coins, a quarter each for contract state and LevelDB's block
        cache. ``coins_of`` computes what a stored body changes in the coins, ``migrating`` hears how
        far a migration of the schema is. Raises StorageError with code "datadir-locked",
        "datadir-foreign-chain", "schema-too-new", "migration-needs-disk", "segment-corrupt",
        "leveldb-corrupt", "disk-full" or "not-writable".
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (path / "blocks").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise storage_error(error, path) from error
        with ExitStack() as opened:
            lock = DirectoryLock.acquire(path)
            opened.callback(lock.release)
            swap.finish(path)
            index = Index.open(path / swap.INDEX, cache_bytes // 4)
            opened.callback(index.close)

            def open_segments(watermark: tuple[int, int] | None, first: int) -> Segments:
                return Segments.open(path / swap.BLOCKS, chain_id, watermark, files, first)

            store = cls.over(
                path,
                lock,
                index,
                open_segments,
                cache_bytes - cache_bytes // 4,
                chain_id,
                files=files,
                coins_of=coins_of,
                migrating=migrating,
            )
            opened.pop_all()
        return store

    @classmethod
    def over(
        cls,
        path: Path,
        lock: DirectoryLock,
        index: Index,
        open_segments: OpenSegments,
        cache_bytes: int,
        chain_id: bytes,
        *,
        files: Files | None = None,
        coins_of: CoinsOf = block_coins,
        migrating: Progress | None = None,
    ) -> Self:
        """Put a store together from parts; ``cache_bytes`` is for coins and contract state. See ``open``.

        If this raises, ``lock`` and ``index`` are still the caller's.
        """
        check_identity(index, path, chain_id)
        if cls.VIEW:
            need_current(index, path)
        else:
            migrate(index, path, migrating, files)
        stored = index.get(schema.WATERMARK)
        watermark = None if stored is None else schema.decode_watermark(stored)
        below, first = schema.decode_pruned(index.get(schema.PRUNED))
        segments = open_segments(watermark, first)
        try:
            store = cls(path, lock, index, segments, cache_bytes)
            store.pruned_below = below
            store._recover(watermark, coins_of)
        except BaseException:
            segments.close()
            raise
        return store

    def __enter__(self) -> "ChainStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the tip

    @property
    def tip(self) -> bytes | None:
        """The encoded ChainTip as it was given to ``connect``, None while the store is empty."""
        return self._tip

    @property
    def height(self) -> int:
        """Height of the tip, -1 while the store is empty."""
        return self._height

    @property
    def tip_hash(self) -> bytes | None:
        """Block hash of the tip, None while the store is empty."""
        return self._tip_hash

    # -- coins and contract state at the tip

    def coin(self, prevout: bytes, /) -> bytes | None:
        """Return the coin of an outpoint (36 bytes), None if there is none unspent."""
        with self._lock:
            value = self._coins.get(prevout)
            return self._load_coin(prevout) if value is None else value or None

    def coins(self, prevouts: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the coins that exist among ``prevouts``, read in key order, and cache them."""
        found: dict[bytes, bytes] = {}
        with self._lock:
            for prevout in sorted(self._coins.take_known(prevouts, found)):
                value = self._load_coin(prevout)
                if value is not None:
                    found[prevout] = value
        return found

    def state_value(self, key: bytes, /) -> bytes | None:
        """Return the value of a key of the contract state, None if it has none."""
        with self._lock:
            value = self._state_cache.get(key)
            if value is None:
                value = self._index.get(schema.STATE + key)
                if value is not None:
                    self._state_cache.put(key, value)
            return value

    def state_values(self, keys: Sequence[bytes], /) -> list[bytes | None]:
        """Return the values of ``keys`` of the contract state in their order, None where there is none."""
        with self._lock:
            cache, load = self._state_cache, self._index.get
            values = cache.get_many(keys)
            for at, value in enumerate(values):
                if value is None and (value := load(schema.STATE + keys[at])) is not None:
                    values[at] = value
                    cache.put(keys[at], value)
            return values

    def iterate_coins(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over (prevout, coin) in key order as of this call, whatever is connected meanwhile."""
        with self._lock:
            return overlaid(self._index.scan(schema.COIN), self._coins.changes())

    # -- blocks

    def header(self, height: int) -> bytes | None:
        """Return the 80-byte header at ``height`` of the active chain."""
        value = self._index.get(schema.header_key(height)) if height >= 0 else None
        return None if value is None else value[32:]

    def block_hash(self, height: int) -> bytes | None:
        """Return the block hash at ``height`` of the active chain."""
        return self._blocks.active_hash(height)

    def header_run(self, first: int, count: int) -> list[bytes]:
        """Return up to ``count`` headers of the active chain from height ``first`` on."""
        rows = self._index.scan_from(schema.header_key(first), schema.header_key(first + count))
        return [value[32:] for _, value in rows]

    def bodies_off_chain(self, above: int) -> list[tuple[int, bytes]]:
        """Return (height, block hash) of bodies above height ``above`` off the active chain, lowest first."""
        with self._lock:
            found = self._blocks.pending(above + 1)
            return [(height, block_hash) for height, block_hash in found if self.has_body(block_hash)]

    def has_body(self, block_hash: bytes) -> bool:
        """Tell whether the raw block is here, on the active chain or not."""
        return self._blocks.has_body(block_hash)

    def height_of(self, block_hash: bytes) -> int | None:
        """Return the height of a block of the active chain."""
        records = self._blocks.records(block_hash)
        if records is None or self.block_hash(records.height) != block_hash:
            return None
        return records.height

    def body(self, block_hash: bytes) -> bytes | None:
        """Return the raw block, committed or not."""
        return self._blocks.read(Kind.BODY, block_hash)

    def undo(self, block_hash: bytes) -> bytes | None:
        """Return the undo bytes that came with ``connect``."""
        return self._blocks.read(Kind.UNDO, block_hash)

    def certificate(self, height: int) -> bytes | None:
        """Return the commit certificate of the active block at ``height``."""
        block_hash = self.block_hash(height)
        return None if block_hash is None else self._blocks.read(Kind.CERTIFICATE, block_hash)

    def round_end(self, height: int) -> bytes | None:
        """Return the ``round_end`` that came with the active block at ``height``, pruned or not."""
        return self._index.get(schema.round_end_key(height))

    def find_tx(self, txid: bytes) -> tuple[int, int] | None:
        """Return (height, index in the block) of a transaction of the active chain, if it is indexed."""
        value = self._index.get(schema.TX + txid) if self.side.finds_txids else None
        if value is None:
            return None
        height, index, tag = schema.decode_tx(value)
        block_hash = self.block_hash(height)
        if block_hash is None or block_hash[:8] != tag:
            return None
        return height, index

    # -- writing

    def put_body(self, block_hash: bytes, height: int, raw: bytes) -> None:
        """Append a body unless this very one is there. It survives a power cut only after ``sync``."""
        with self._lock:
            self._ensure_writable()
            self._blocks.append(Kind.BODY, block_hash, height, raw)
            if len(self._blocks.unindexed) >= limits.UNINDEXED_RECORDS_MAX:
                self._blocks.enter()

    def sync(self) -> None:
        """Make every body put so far durable: a vote for a block leaves only after this returned."""
        with self._lock:
            self._ensure_writable()
            self._segments.sync()

    def connect(self, block: ConnectBatch) -> None:
        """Make ``block`` the tip: log first, then one batch (see the head of this file).

        Raises ValueError if the block does not follow the tip, StorageError if the disk fails;
        after that every write is refused and only a new ``open`` helps.
        """
        with self._lock:
            self._ensure_writable()
            self._check_follows(block)
            block_hash, height = block.block_hash, block.height
            self._blocks.append(Kind.BODY, block_hash, height, block.body)
            self._blocks.append(Kind.UNDO, block_hash, height, block.undo)
            if block.certificate is not None:
                self._blocks.append(Kind.CERTIFICATE, block_hash, height, block.certificate)
            batch = self._blocks.begin()
            batch.delete(schema.pending_key(height, block_hash))
            batch.put(schema.header_key(height), block_hash + block.header)
            if block.round_end is not None:
                batch.put(schema.round_end_key(height), block.round_end)
            put, encode_tx = batch.put, schema.encode_tx
            for index, txid in enumerate(block.txids if self.side.enters_txids else ()):
                put(schema.TX + txid, encode_tx(height, index, block_hash))
            self._finish(batch, (height, block_hash, block.tip), block.state)
            self._coins.connect(block.coins)
            self._unflushed_bytes += len(block.body)
            if self._wants_flush:
                self._flush_coins(height, block_hash)
            self.side.tip_moved()

    def disconnect(self, height: int, coins: Diff, state: Diff, tip: bytes) -> None:
        """Take the tip block at ``height`` off: one batch with the values of before and its parent's ``tip``.

        Its records stay in the segments. Raises ValueError if ``height`` is not the tip's or is 0.
        """
        with self._lock:
            self._ensure_writable()
            parent_hash = self.block_hash(height - 1)
            if height != self._height or self._tip_hash is None or parent_hash is None:
                raise ValueError(f"cannot disconnect height {height} from a tip at {self._height}")
            batch = self._blocks.begin()
            batch.delete(schema.header_key(height))
            batch.put(schema.pending_key(height, self._tip_hash), b"")
            # The coins tip must not stay above the tip: where it would, the same batch writes all coins.
            # Else this block's coins are in memory alone, and so is what takes them back.
            flushing = self._coins_height == height
            if flushing:
                self._coins.write(batch)
                put_all(batch, schema.COIN, coins)
                batch.put(schema.COINS_TIP, schema.encode_tip(height - 1, parent_hash, b""))
            self._finish(batch, (height - 1, parent_hash, tip), state)
            self._coins.disconnect(coins)
            if flushing:
                self._flushed(height - 1)
            self.side.tip_moved()

    def flush(self) -> None:
        """Write the coins that LevelDB lacks. Raises StorageError."""
        with self._lock:
            self._ensure_writable()
            if self._tip_hash is not None and self._coins_height != self._height:
                self._flush_coins(self._height, self._tip_hash)

    def prune(self, below: int, step: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Remove the segment files that hold no block of ``below`` or higher, with their index entries.

        The headers stay. The last ``limits.KEEP_BLOCKS_MIN`` blocks always stay, and so do the file that is
        written to and what an index still needs. ``step(done, total)`` hears of each file. Returns the bytes
        set free.
        """
        seen, freed = -1, 0
        for at in self.prune_slices(below):
            freed = at.freed
            if at.done != seen:
                step(at.done, at.total)
                seen = at.done
        return freed

    def prunable(self, below: int) -> int:
        """Return how far pruning may go if it is asked for the blocks under ``below``."""
        undo_floor = self.state_roots.undo_floor()
        needed = [self._fork_below(*place) for place in self.side.places]
        needed += [] if undo_floor is None else [undo_floor]
        return min(below, self._height + 1 - limits.KEEP_BLOCKS_MIN, *needed)

    def _fork_below(self, height: int, block_hash: bytes) -> int:
        """Return the height at which a branch leaves the active chain; that of the block if it is on it.

        An index that stands on the branch takes its blocks off one by one, down to there, before it goes on.
        """
        while height >= 0 and self.block_hash(height) != block_hash:
            raw = self.body(block_hash)
            if raw is None:
                return 0
            height, block_hash = height - 1, raw[4:36]
        return height

    def prune_slices(self, below: int) -> Iterator[Slice]:
        """Do the work of ``prune`` in steps of some milliseconds, which a thread may take beside a node.

        Between two steps nothing is held; whoever stops asking leaves the rest to the next pruning.
        """
        with self._lock:
            self._blocks.enter()
            below = self.prunable(below)
            if below > self._coins_height + 1:
                self.flush()  # a restart would need the bodies from the coins tip on
        for slice_ in prune_slices(self._index, self._segments, self._lock, below):
            self.pruned_below, _ = schema.decode_pruned(self._index.get(schema.PRUNED))
            yield slice_

    def segment_files(self) -> list[SegmentFile]:
        """Return the segment files, the oldest first. This reads an entry per block: call it on a thread."""
        with self._lock:
            self._blocks.enter()
        return segment_files(self._index, self._segments)

    @property
    def last_segment(self) -> int:
        """Number of the segment file that is written to."""
        return self._segments.end[0]

    @property
    def last_segment_bytes(self) -> int:
        """Length of the segment file that is written to."""
        return self._segments.end[1]

    def close(self) -> None:
        """Leave everything durable, unless a write failed before, and let the directory go."""
        with self._lock, ExitStack() as closing:
            closing.callback(self._directory_lock.release)
            closing.callback(self._index.close)
            closing.callback(self._segments.close)
            if not self._closed and not self._segments.failed and not self._index.failed:
                self._closed = True
                self._write_last()

    # -- restart

    def replayable(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield (height, raw block, certificate) of the certified blocks above the tip, each on the last one.

        These were committed, but LevelDB lost them (or was removed): execute and connect each
        before asking for the next. Blocks without a certificate are in ``uncommitted_bodies``.
        """
        height, parent = self._height, self._tip_hash or bytes(32)
        while (child := self._blocks.certified_child(height + 1, parent)) is not None:
            parent, raw, certificate = child
            height += 1
            yield height, raw, certificate

    @property
    def highest_certified(self) -> int:
        """Height of the highest certified body in the segment files, at least the tip's."""
        return self._blocks.highest_certified(self._height)

    def uncommitted_bodies(self) -> dict[bytes, tuple[int, bytes]]:
        """Return {block hash: (height, raw block)} of bodies above the tip that have no certificate.

        At most ``limits.UNCOMMITTED_BYTES``, the newest first; older ones are still there for ``body``.
        """
        found = self._blocks.uncertified(self._height + 1)
        return {block_hash: (height, raw) for block_hash, height, raw in found}

    def sizes(self) -> StoreSizes:
        """Return what the store occupies, for metrics."""
        cached = self._coins.used_bytes + self._state_cache.used_bytes
        return StoreSizes(self._segments.bytes_on_disk(), self._index.bytes_on_disk(), cached)

    # -- inside

    def _recover(self, watermark: tuple[int, int] | None, coins_of: CoinsOf) -> None:
        """Read the tip, roll the coins forward to it, learn the records that LevelDB has not heard of."""
        stored = self._index.get(schema.TIP)
        if stored is not None:
            self._height, self._tip_hash, self._tip = schema.decode_tip(stored)
            self._roll_coins_forward(coins_of)
        self._blocks.learn(watermark)

    def _roll_coins_forward(self, coins_of: CoinsOf) -> None:
        """Compute the coins of the blocks above the coins tip from their bodies."""
        stored = self._index.get(schema.COINS_TIP)
        if stored is not None:
            self._coins_height, _, _ = schema.decode_tip(stored)
            if not coins_tip_is_active(self._index):
                off_chain(self.path, self._coins_height)
        for height in range(self._coins_height + 1, self._height + 1):
            block_hash = self.block_hash(height)
            raw = None if block_hash is None else self.body(block_hash)
            self._coins.connect(coins_of_stored(coins_of, self.path, height, raw))
            self._unflushed_bytes += len(raw or b"")
            if self._coins.is_full and block_hash is not None:
                self._flush_coins(height, block_hash)

    def _load_coin(self, prevout: bytes) -> bytes | None:
        value = self._index.get(schema.COIN + prevout)
        if value is not None:
            self._coins.note(prevout, value)
        return value

    @property
    def _wants_flush(self) -> bool:
        return (
            self._coins.is_full
            or self._height - self._coins_height >= limits.FLUSH_BLOCKS_MAX
            or self._unflushed_bytes >= max(limits.FLUSH_BODY_BYTES_MAX, self._body_share)
        )

    def _flush_coins(self, height: int, block_hash: bytes) -> None:
        """Write what LevelDB lacks of the coins at ``height``, and the coins tip, in one batch."""
        if self.VIEW:
            return
        batch = self._index.batch()
        self._put_coins(batch, height, block_hash)
        self._index.write(batch)
        self._flushed(height)

    def _put_coins(self, batch: Any, height: int, block_hash: bytes) -> None:
        self._coins.write(batch)
        batch.put(schema.COINS_TIP, schema.encode_tip(height, block_hash, b""))

    def _flushed(self, height: int) -> None:
        self._coins.flushed()
        self._coins_height, self._unflushed_bytes = height, 0

    def _ensure_writable(self) -> None:
        """One failed write, in the segments or in LevelDB, ends all writing until the next open."""
        self._segments.ensure_writable()
        self._index.ensure_writable()

    def _check_follows(self, block: ConnectBatch) -> None:
        parent = self._tip_hash or bytes(32)
        if block.height != self._height + 1 or block.header[4:36] != parent:
            raise ValueError(f"block at height {block.height} does not follow the tip at {self._height}")
        if len(block.header) != 80 or block.body[:80] != block.header or len(block.block_hash) != 32:
            raise ValueError("header, body and hash of the block do not belong together")

    def _finish(self, batch: Any, tip: tuple[int, bytes, bytes], state: Diff) -> None:
        """Write the batch with the new tip in it, then let memory follow."""
        put_all(batch, schema.STATE, state)
        batch.put(schema.TIP, schema.encode_tip(*tip))
        self._index.write(batch)
        self._blocks.entered()
        self._height, self._tip_hash, self._tip = tip
        self._state_cache.apply(state)

    def _write_last(self) -> None:
        """Make LevelDB durable, and spare the next start the replay of LevelDB's own log and of the coins."""
        batch = self._blocks.begin(synced=True)
        if self._tip_hash is not None:
            self._put_coins(batch, self._height, self._tip_hash)
        self._index.write(batch)
        self._blocks.entered()
        self._flushed(self._height)
        self._index.flush()
