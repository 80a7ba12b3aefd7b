"""The header index of a proof-of-work chain: every accepted header of every branch, and marks of invalidity.

It lives in the same LevelDB as the rest. A power cut may take its last batches like any other; a header
that was lost comes again from the peers, or from the body of its block, and it is always older in the
log than the batch that connects its block.
"""

from collections.abc import Iterable, Iterator
from threading import RLock
from typing import NamedTuple

from storage import schema
from storage.index import Index


class HeaderRecord(NamedTuple):
    """A header: 80 bytes, its height, and the work of the chain up to it."""

    block_hash: bytes
    height: int
    header: bytes
    work: int


class HeaderIndex:
    """Headers by hash and by height. ``lock`` is that of all writes to ``index``."""

    def __init__(self, index: Index, lock: "RLock") -> None:
        self._index = index
        self._lock = lock

    def put(self, records: Iterable[HeaderRecord]) -> None:
        """Add headers; those that are there already stay as they are."""
        with self._lock:
            batch = self._index.batch()
            for record in records:
                batch.put(schema.HEADER_HEIGHT + record.block_hash, schema.U32.pack(record.height))
                key = schema.branch_key(record.height, record.block_hash)
                batch.put(key, schema.encode_branch(record.header, record.work))
            self._index.write(batch)

    def get(self, block_hash: bytes) -> HeaderRecord | None:
        """Return a header by its hash."""
        stored = self._index.get(schema.HEADER_HEIGHT + block_hash)
        if stored is None:
            return None
        (height,) = schema.U32.unpack(stored)
        value = self._index.get(schema.branch_key(height, block_hash))
        if value is None:
            return None
        return HeaderRecord(block_hash, height, *schema.decode_branch(value))

    def above(self, height: int) -> Iterator[HeaderRecord]:
        """Yield the headers of all branches above ``height``, the lowest first, as they are at this call."""
        start = schema.branch_prefix(height + 1)
        for key, value in self._index.scan_from(start, schema.BRANCH + b"\xff" * 37):
            at, block_hash = schema.parse_branch_key(key)
            yield HeaderRecord(block_hash, at, *schema.decode_branch(value))

    def mark(self, block_hash: bytes, code: str) -> None:
        """Remember that a block is invalid, and by which rule."""
        self._write(schema.INVALID + block_hash, code.encode())

    def unmark(self, block_hash: bytes) -> None:
        """Forget that a block is invalid."""
        self._write(schema.INVALID + block_hash, None)

    def marks(self) -> dict[bytes, str]:
        """Return {block hash: code} of the blocks that are invalid by themselves."""
        return {block_hash: code.decode() for block_hash, code in self._index.scan(schema.INVALID)}

    def _write(self, key: bytes, value: bytes | None) -> None:
        with self._lock:
            batch = self._index.synced_batch()
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
            self._index.write(batch)
