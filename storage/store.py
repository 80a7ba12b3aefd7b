"""The store of a chain: segment files as the log, LevelDB as the state that the log leads to.

The order in ``ChainStore.connect`` is the invariant on which every restart rests:

1. body, undo and certificate are appended to the segment files and synced;
2. then ONE LevelDB batch moves coins, contract state, indexes and the tip together.

So at any instant the state in LevelDB is exactly the state at its tip, and everything needed to go
from there to the last connected block is durable in the segments. A power cut may take LevelDB's
last batches, never a part of one; ``replayable`` hands out what has to be executed again.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, Self

from consensus.errors import StorageError
from storage import limits, schema, swap
from storage.cache import ByteCache
from storage.files import Files, storage_error
from storage.headers import HeaderIndex
from storage.index import Index
from storage.lock import DirectoryLock
from storage.roots import StateRootRecords
from storage.pruning import highest_blocks, prune_segments
from storage.schema import BlockRecords
from storage.segments import Kind, Record, Segments
from storage.side import SideIndexes

OpenSegments = Callable[[tuple[int, int] | None, int], Segments]
"""Opens the segment files, given the watermark and the first file that was not pruned."""

Diff = dict[bytes, bytes | None]
"""Key to new value, None where the key goes away."""


@dataclass(frozen=True, slots=True)
class ConnectBatch:
    """One block to connect: ``header`` 80 bytes, ``body`` the raw block, hashes in internal byte order.

    ``tip`` is the encoded ChainTip of this block, ``undo`` whatever takes the block off again,
    ``certificate`` the encoded commit certificate of a bft chain; none of them is looked into.
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


@dataclass(frozen=True, slots=True)
class StoreSizes:
    """Bytes that the store occupies: on the disk in segment files and LevelDB, and in its read caches."""

    segments: int
    index: int
    cache: int


class StoredCoins:
    """The unspent outputs at the tip, as ``consensus.ports.CoinView``."""

    def __init__(self, store: "ChainStore") -> None:
        self.get = store.coin


class StoredState:
    """The contract state at the tip, as ``consensus.ports.StateView``."""

    def __init__(self, store: "ChainStore", index: Index) -> None:
        self.get = store.state_value
        self._index = index

    def scan(self, prefix: bytes, /) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) with ``prefix`` in ascending order, as the state is at this call."""
        return self._index.scan(schema.STATE, prefix)


class ChainStore:
    """All that a node keeps of its chain. Methods may be called from any thread; writes are serialised."""

    def __init__(
        self, path: Path, lock: DirectoryLock, index: Index, segments: Segments, cache_bytes: int
    ) -> None:
        self.path = path
        self._directory_lock = lock
        self._index = index
        self._segments = segments
        self._lock = RLock()
        self._coin_cache = ByteCache(cache_bytes // 2)
        self._state_cache = ByteCache(cache_bytes - cache_bytes // 2)
        self._unindexed: dict[bytes, BlockRecords] = {}
        self._closed = False
        self._tip: bytes | None = None
        self._height = -1
        self._tip_hash: bytes | None = None
        self.pruned_below = 0
        """Height from which on bodies, undo data and certificates are there."""
        self.coins_view = StoredCoins(self)
        self.state_view = StoredState(self, index)
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
    ) -> "ChainStore":
        """Open the store in the data directory ``path``, creating what is missing.

        ``cache_bytes`` is shared by LevelDB's block cache (half), coins and contract state (a
        quarter each). Raises StorageError with code "datadir-locked", "datadir-foreign-chain",
        "schema-too-new", "segment-corrupt", "leveldb-corrupt", "disk-full" or "not-writable".
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
            index = Index.open(path / swap.INDEX, cache_bytes // 2)
            opened.callback(index.close)

            def open_segments(watermark: tuple[int, int] | None, first: int) -> Segments:
                return Segments.open(path / swap.BLOCKS, chain_id, watermark, files, first)

            store = cls.over(path, lock, index, open_segments, cache_bytes - cache_bytes // 2, chain_id)
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
    ) -> Self:
        """Put a store together from parts; ``cache_bytes`` is for coins and contract state. See ``open``.

        If this raises, ``lock`` and ``index`` are still the caller's.
        """
        check_identity(index, path, chain_id)
        stored = index.get(schema.WATERMARK)
        watermark = None if stored is None else schema.decode_watermark(stored)
        below, first = schema.decode_pruned(index.get(schema.PRUNED))
        segments = open_segments(watermark, first)
        try:
            store = cls(path, lock, index, segments, cache_bytes)
            store.pruned_below = below
            store._recover(watermark)
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
            return self._cached(self._coin_cache, schema.COIN, prevout)

    def coins(self, prevouts: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the coins that exist among ``prevouts``, read in key order, and cache them."""
        found: dict[bytes, bytes] = {}
        missing = []
        cached = self._coin_cache.get
        with self._lock:
            for prevout in prevouts:
                value = cached(prevout)
                if value is None:
                    missing.append(prevout)
                else:
                    found[prevout] = value
            for prevout in sorted(missing):
                value = self._cached(self._coin_cache, schema.COIN, prevout)
                if value is not None:
                    found[prevout] = value
        return found

    def state_value(self, key: bytes, /) -> bytes | None:
        """Return the value of a key of the contract state, None if it has none."""
        with self._lock:
            return self._cached(self._state_cache, schema.STATE, key)

    def iterate_coins(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over (prevout, coin) in key order as of this call, whatever is connected meanwhile."""
        return self._index.scan(schema.COIN)

    # -- blocks

    def header(self, height: int) -> bytes | None:
        """Return the 80-byte header at ``height`` of the active chain."""
        value = self._active(height)
        return None if value is None else value[32:]

    def block_hash(self, height: int) -> bytes | None:
        """Return the block hash at ``height`` of the active chain."""
        value = self._active(height)
        return None if value is None else value[:32]

    def header_run(self, first: int, count: int) -> list[bytes]:
        """Return up to ``count`` headers of the active chain from height ``first`` on."""
        rows = self._index.scan_from(schema.header_key(first), schema.header_key(first + count))
        return [value[32:] for _, value in rows]

    def bodies_off_chain(self, above: int) -> list[tuple[int, bytes]]:
        """Return (height, block hash) of bodies above height ``above`` off the active chain, lowest first."""
        with self._lock:
            self._index_records()
            rows = self._index.scan_from(schema.pending_prefix(above + 1), schema.PENDING + b"\xff" * 37)
            found = [schema.parse_pending_key(key) for key, _ in rows]
            return [(height, block_hash) for height, block_hash in found if self.has_body(block_hash)]

    def has_body(self, block_hash: bytes) -> bool:
        """Tell whether the raw block is here, on the active chain or not."""
        records = self._records(block_hash)
        return (
            records is not None and records.body is not None and records.body.segment >= self._segments.first
        )

    def height_of(self, block_hash: bytes) -> int | None:
        """Return the height of a block of the active chain."""
        records = self._records(block_hash)
        if records is None or self.block_hash(records.height) != block_hash:
            return None
        return records.height

    def body(self, block_hash: bytes) -> bytes | None:
        """Return the raw block, committed or not."""
        records = self._records(block_hash)
        return self._read(records and records.body, Kind.BODY, block_hash)

    def undo(self, block_hash: bytes) -> bytes | None:
        """Return the undo bytes that came with ``connect``."""
        records = self._records(block_hash)
        return self._read(records and records.undo, Kind.UNDO, block_hash)

    def certificate(self, height: int) -> bytes | None:
        """Return the commit certificate of the active block at ``height``."""
        block_hash = self.block_hash(height)
        return None if block_hash is None else self._certificate_of(block_hash)

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
            self._append(Kind.BODY, block_hash, height, raw)
            if len(self._unindexed) >= limits.UNINDEXED_RECORDS_MAX:
                self._index_records()

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
            self._append(Kind.BODY, block_hash, height, block.body)
            self._append(Kind.UNDO, block_hash, height, block.undo)
            if block.certificate is not None:
                self._append(Kind.CERTIFICATE, block_hash, height, block.certificate)
            batch = self._begin()
            batch.delete(schema.pending_key(height, block_hash))
            batch.put(schema.header_key(height), block_hash + block.header)
            put, encode_tx = batch.put, schema.encode_tx
            for index, txid in enumerate(block.txids if self.side.enters_txids else ()):
                put(schema.TX + txid, encode_tx(height, index, block_hash))
            self._finish(batch, (height, block_hash, block.tip), block.coins, block.state)

    def disconnect(self, height: int, coins: Diff, state: Diff, tip: bytes) -> None:
        """Take the tip block at ``height`` off: one batch with the values of before and its parent's ``tip``.

        Its records stay in the segments. Raises ValueError if ``height`` is not the tip's or is 0.
        """
        with self._lock:
            self._ensure_writable()
            parent_hash = self.block_hash(height - 1)
            if height != self._height or self._tip_hash is None or parent_hash is None:
                raise ValueError(f"cannot disconnect height {height} from a tip at {self._height}")
            batch = self._begin()
            batch.delete(schema.header_key(height))
            batch.put(schema.pending_key(height, self._tip_hash), b"")
            self._finish(batch, (height - 1, parent_hash, tip), coins, state)

    def prune(self, below: int, step: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Remove the segment files that hold no block of ``below`` or higher, with their index entries.

        The headers stay. The last ``limits.KEEP_BLOCKS_MIN`` blocks always stay, and so do the file that is
        written to and what an index still needs. ``step(done, total)`` hears of each file. Returns the bytes
        set free.
        """
        with self._lock:
            self._index_records()
            below = min(below, self._height + 1 - limits.KEEP_BLOCKS_MIN)
            needed = self.side.prune_floor
            below = below if needed is None else min(below, needed)
            freed = prune_segments(self._index, self._segments, below, step)
            self.pruned_below, _ = schema.decode_pruned(self._index.get(schema.PRUNED))
        return freed

    def segment_sizes(self) -> list[tuple[int, int]]:
        """Return (bytes, height of the highest block in it) per segment file, the oldest first."""
        with self._lock:
            self._index_records()
            highest = highest_blocks(self._index)
            last, _ = self._segments.end
            numbers = range(self._segments.first, last + 1)
            return [(self._segments.size_of(number), highest.get(number, -1)) for number in numbers]

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
        while True:
            height += 1
            for block_hash in self._pending_at(height):
                certificate = self._certificate_of(block_hash)
                raw = self.body(block_hash) if certificate is not None else None
                if certificate is not None and raw is not None and raw[4:36] == parent:
                    break
            else:
                return
            yield height, raw, certificate
            parent = block_hash

    @property
    def highest_certified(self) -> int:
        """Height of the highest certified body in the segment files, at least the tip's."""
        with self._lock:
            self._index_records()
            start = schema.pending_prefix(self._height + 1)
            highest = self._height
            for key, _ in self._index.scan_from(start, schema.PENDING + b"\xff" * 37):
                height, block_hash = schema.parse_pending_key(key)
                records = self._records(block_hash)
                if records is not None and records.certificate is not None:
                    highest = height
            return highest

    def uncommitted_bodies(self) -> dict[bytes, tuple[int, bytes]]:
        """Return {block hash: (height, raw block)} of bodies above the tip that have no certificate.

        At most ``limits.UNCOMMITTED_BYTES``, the newest first; older ones are still there for ``body``.
        """
        with self._lock:
            self._index_records()
            start = schema.pending_prefix(self._height + 1)
            positions = []
            for key, _ in self._index.scan_from(start, schema.PENDING + b"\xff" * 37):
                height, block_hash = schema.parse_pending_key(key)
                records = self._records(block_hash)
                if records is not None and records.body is not None and records.certificate is None:
                    positions.append((records.body, height, block_hash))
        bodies, room = {}, limits.UNCOMMITTED_BYTES
        for position, height, block_hash in sorted(positions, reverse=True):
            room -= position.length
            if room < 0:
                break
            bodies[block_hash] = (height, self._segments.read(position, Kind.BODY, block_hash))
        return bodies

    def sizes(self) -> StoreSizes:
        """Return what the store occupies, for metrics."""
        cached = self._coin_cache.used_bytes + self._state_cache.used_bytes
        return StoreSizes(self._segments.bytes_on_disk(), self._index.bytes_on_disk(), cached)

    # -- inside

    def _recover(self, watermark: tuple[int, int] | None) -> None:
        """Read the tip and learn the segment records that LevelDB has not heard of."""
        stored = self._index.get(schema.TIP)
        if stored is not None:
            self._height, self._tip_hash, self._tip = schema.decode_tip(stored)
        for record in self._segments.scan(watermark):
            self._learn(record)
            if len(self._unindexed) >= limits.UNINDEXED_RECORDS_MAX:
                self._index_records((record.position.segment, record.end))

    def _learn(self, record: Record) -> None:
        known = self._records(record.block_hash) or BlockRecords(record.height)
        self._note(record.kind, record.block_hash, known, record.position)

    def _note(self, kind: Kind, block_hash: bytes, known: BlockRecords, position: schema.Position) -> None:
        positions = {**known._asdict(), _FIELD[kind]: position}
        self._unindexed[block_hash] = BlockRecords(**positions)

    def _append(self, kind: Kind, block_hash: bytes, height: int, data: bytes) -> None:
        """Append a record unless the block has one of this kind.

        A body is compared: the block hash does not cover witnesses, so a mutated copy may have come first.
        """
        known = self._records(block_hash) or BlockRecords(height)
        position: schema.Position | None = getattr(known, _FIELD[kind])
        if position is not None and kind is Kind.BODY:
            position = position if self._segments.read(position, kind, block_hash) == data else None
        if position is None:
            self._note(kind, block_hash, known, self._segments.append(kind, block_hash, height, data))

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

    def _begin(self, watermark: tuple[int, int] | None = None, *, last: bool = False) -> Any:
        """Sync the log and return a batch that indexes every record before ``watermark`` (default: all)."""
        self._segments.sync()
        batch = self._index.synced_batch() if last else self._index.batch()
        for block_hash, records in self._unindexed.items():
            batch.put(schema.BLOCK + block_hash, schema.encode_block(records))
            if self.block_hash(records.height) != block_hash:
                batch.put(schema.pending_key(records.height, block_hash), b"")
        batch.put(schema.WATERMARK, schema.encode_watermark(*(watermark or self._segments.end)))
        return batch

    def _finish(self, batch: Any, tip: tuple[int, bytes, bytes], coins: Diff, state: Diff) -> None:
        """Write the batch with the new tip in it, then let memory follow."""
        for prefix, diff in ((schema.COIN, coins), (schema.STATE, state)):
            put, delete = batch.put, batch.delete
            for key, value in diff.items():
                if value is None:
                    delete(prefix + key)
                else:
                    put(prefix + key, value)
        batch.put(schema.TIP, schema.encode_tip(*tip))
        self._index.write(batch)
        self._unindexed.clear()
        self._height, self._tip_hash, self._tip = tip
        self._coin_cache.apply(coins)
        self._state_cache.apply(state)
        self.side.tip_moved()

    def _index_records(self, watermark: tuple[int, int] | None = None) -> None:
        """Move what is known only in memory into LevelDB."""
        if self._unindexed:
            self._index.write(self._begin(watermark))
            self._unindexed.clear()

    def _write_last(self) -> None:
        """Make LevelDB durable, and spare the next start the replay of LevelDB's own log."""
        self._index.write(self._begin(last=True))
        self._unindexed.clear()
        self._index.flush()

    def _cached(self, cache: ByteCache, prefix: bytes, key: bytes) -> bytes | None:
        value = cache.get(key)
        if value is None:
            value = self._index.get(prefix + key)
            if value is not None:
                cache.put(key, value)
        return value

    def _active(self, height: int) -> bytes | None:
        return self._index.get(schema.header_key(height)) if height >= 0 else None

    def _records(self, block_hash: bytes) -> BlockRecords | None:
        with self._lock:
            records = self._unindexed.get(block_hash)
            if records is None:
                value = self._index.get(schema.BLOCK + block_hash)
                records = None if value is None else schema.decode_block(value)
            return records

    def _certificate_of(self, block_hash: bytes) -> bytes | None:
        records = self._records(block_hash)
        return self._read(records and records.certificate, Kind.CERTIFICATE, block_hash)

    def _read(self, position: schema.Position | None, kind: Kind, block_hash: bytes) -> bytes | None:
        """Read a record; None if there is none, or if its file was pruned (it may not be removed yet)."""
        if position is None or position.segment < self._segments.first:
            return None
        return self._segments.read(position, kind, block_hash)

    def _pending_at(self, height: int) -> list[bytes]:
        with self._lock:
            self._index_records()
            return [block_hash for block_hash, _ in self._index.scan(schema.pending_prefix(height))]


_FIELD = {Kind.BODY: "body", Kind.UNDO: "undo", Kind.CERTIFICATE: "certificate"}


def check_identity(index: Index, path: Path, chain_id: bytes) -> None:
    """Check schema version and chain of the database, or write them into an empty one."""
    if index.is_empty:
        batch = index.synced_batch()
        batch.put(schema.VERSION, schema.U32.pack(schema.SCHEMA_VERSION))
        batch.put(schema.CHAIN_ID, chain_id)
        index.write(batch)
        return
    (version,) = schema.U32.unpack(index.get(schema.VERSION) or bytes(4))
    if version > schema.SCHEMA_VERSION:
        raise StorageError(
            "schema-too-new",
            f"{path} was written by schema {version}, this version reads {schema.SCHEMA_VERSION}",
            fix="install the newer version again",
        )
    found = index.get(schema.CHAIN_ID) or b""
    if found != chain_id:
        raise StorageError(
            "datadir-foreign-chain",
            f"{path} holds chain {found[::-1].hex()}, not {chain_id[::-1].hex()}",
            fix="give each chain a data directory of its own",
        )
