"""Bodies, undo data and certificates by block hash: records in segment files, and what LevelDB knows of them.

A record that was appended is first known in memory alone; the next batch enters where it lies, and
the watermark with it. What a kill leaves behind the watermark is learnt again from the files at open.
"""

from collections.abc import Iterator
from threading import RLock
from typing import Any

from storage import limits, schema
from storage.index import Index
from storage.schema import BlockRecords
from storage.segments import Kind, SegmentFault, Segments

_FIELD = {Kind.BODY: "body", Kind.UNDO: "undo", Kind.CERTIFICATE: "certificate"}
_PENDING_END = schema.PENDING + b"\xff" * 37


class BlockLog:
    """The blocks of a store. ``lock`` is that of all writes; ``view``: nothing may be written."""

    def __init__(self, index: Index, segments: Segments, lock: "RLock", *, view: bool = False) -> None:
        self._index = index
        self._segments = segments
        self._lock = lock
        self._view = view
        self.unindexed: dict[bytes, BlockRecords] = {}
        """Blocks with records that LevelDB has not heard of."""

    # -- reading

    def records(self, block_hash: bytes) -> BlockRecords | None:
        """Return height and records of a block."""
        with self._lock:
            records = self.unindexed.get(block_hash)
            if records is None:
                value = self._index.get(schema.BLOCK + block_hash)
                records = None if value is None else schema.decode_block(value)
            return records

    def read(self, kind: Kind, block_hash: bytes) -> bytes | None:
        """Read a record; None if there is none, or if its file was pruned."""
        records = self.records(block_hash)
        position: schema.Position | None = records and getattr(records, _FIELD[kind])
        if position is None or position.segment < self._segments.first:
            return None
        try:
            return self._segments.read(position, kind, block_hash)
        except SegmentFault:
            if position.segment < self._segments.first:
                return None  # pruned between the look and the read
            raise

    def has_body(self, block_hash: bytes) -> bool:
        """Tell whether the raw block is here."""
        records = self.records(block_hash)
        return (
            records is not None and records.body is not None and records.body.segment >= self._segments.first
        )

    def active_hash(self, height: int) -> bytes | None:
        """Return the block hash at ``height`` of the active chain."""
        value = self._index.get(schema.header_key(height)) if height >= 0 else None
        return None if value is None else value[:32]

    def pending(self, first: int, last: int | None = None) -> list[tuple[int, bytes]]:
        """Return (height, block hash) of what is off the active chain from ``first`` on, lowest first."""
        with self._lock:
            self.enter()
            stop = _PENDING_END if last is None else schema.pending_prefix(last + 1)
            rows = self._index.scan_from(schema.pending_prefix(first), stop)
            return [schema.parse_pending_key(key) for key, _ in rows]

    def certified_child(self, height: int, parent: bytes) -> tuple[bytes, bytes, bytes] | None:
        """Return (block hash, raw block, certificate) of a child of ``parent`` that is off the chain."""
        for _, block_hash in self.pending(height, height):
            certificate = self.read(Kind.CERTIFICATE, block_hash)
            raw = self.read(Kind.BODY, block_hash) if certificate is not None else None
            if certificate is not None and raw is not None and raw[4:36] == parent:
                return block_hash, raw, certificate
        return None

    def highest_certified(self, height: int) -> int:
        """Return the height of the highest certified block above ``height``, which stands for none."""
        for at, block_hash in self.pending(height + 1):
            records = self.records(block_hash)
            if records is not None and records.certificate is not None:
                height = at
        return height

    def uncertified(self, first: int) -> Iterator[tuple[bytes, int, bytes]]:
        """Yield (block hash, height, raw block) of bodies from ``first`` on, the newest first.

        They have no certificate, and altogether at most ``limits.UNCOMMITTED_BYTES``.
        """
        positions = []
        for height, block_hash in self.pending(first):
            records = self.records(block_hash)
            if records is not None and records.body is not None and records.certificate is None:
                positions.append((records.body, height, block_hash))
        room = limits.UNCOMMITTED_BYTES
        for position, height, block_hash in sorted(positions, reverse=True):
            room -= position.length
            if room < 0:
                return
            yield block_hash, height, self._segments.read(position, Kind.BODY, block_hash)

    # -- writing

    def append(self, kind: Kind, block_hash: bytes, height: int, data: bytes) -> None:
        """Append a record unless the block has one of this kind.

        A body is compared: the block hash does not cover witnesses, so a mutated copy may have come first.
        """
        known = self.records(block_hash) or BlockRecords(height)
        position: schema.Position | None = getattr(known, _FIELD[kind])
        if position is not None and kind is Kind.BODY:
            position = position if self._segments.read(position, kind, block_hash) == data else None
        if position is None:
            self._note(kind, block_hash, known, self._segments.append(kind, block_hash, height, data))

    def begin(self, watermark: tuple[int, int] | None = None, *, synced: bool = False) -> Any:
        """Sync the files and return a batch that enters every record before ``watermark`` (default: all).

        Once it is written call ``entered``.
        """
        self._segments.sync()
        batch = self._index.synced_batch() if synced else self._index.batch()
        for block_hash, records in self.unindexed.items():
            batch.put(schema.BLOCK + block_hash, schema.encode_block(records))
            if self.active_hash(records.height) != block_hash:
                batch.put(schema.pending_key(records.height, block_hash), b"")
        batch.put(schema.WATERMARK, schema.encode_watermark(*(watermark or self._segments.end)))
        return batch

    def entered(self) -> None:
        """LevelDB knows of everything that ``begin`` put into its batch."""
        self.unindexed.clear()

    def enter(self, watermark: tuple[int, int] | None = None) -> None:
        """Move what is known only in memory into LevelDB. A view keeps it in memory."""
        if self.unindexed and not self._view:
            self._index.write(self.begin(watermark))
            self.entered()

    def learn(self, watermark: tuple[int, int] | None) -> None:
        """Read the records that LevelDB has not heard of."""
        for record in self._segments.scan(watermark):
            known = self.records(record.block_hash) or BlockRecords(record.height)
            self._note(record.kind, record.block_hash, known, record.position)
            if len(self.unindexed) >= limits.UNINDEXED_RECORDS_MAX:
                self.enter((record.position.segment, record.end))

    def _note(self, kind: Kind, block_hash: bytes, known: BlockRecords, position: schema.Position) -> None:
        positions = {**known._asdict(), _FIELD[kind]: position}
        self.unindexed[block_hash] = BlockRecords(**positions)
