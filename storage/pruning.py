"""Removing old segment files with what LevelDB knows of them.

The order is the invariant: first one synced batch says which files and which blocks are gone
(``schema.PRUNED``); from then on nothing reads them. Then, file by file, the entries go and after
them the file. A kill leaves files that ``Segments.open`` passes over, and the next pruning ends the work.
"""

from collections.abc import Callable, Iterator

from consensus.block import Block
from storage import limits, schema
from storage.index import Index
from storage.schema import BlockRecords, Position
from storage.segments import Kind, Segments

Step = Callable[[int, int], None]


def prune_segments(index: Index, segments: Segments, below: int, step: Step) -> int:
    """Remove the files at the front that hold no block of height ``below`` or more; return bytes freed.

    Raises StorageError. Every record must be in the index (see ``ChainStore.prune``).
    """
    floor, first = schema.decode_pruned(index.get(schema.PRUNED))
    new_floor, new_first = _plan(index, segments, below)
    if new_first > first:
        floor, first = max(floor, new_floor), new_first
        batch = index.synced_batch()
        batch.put(schema.PRUNED, schema.encode_pruned(floor, first))
        index.write(batch)
        segments.first = first
    leftover = [number for number in segments.numbers_on_disk() if number < first]
    freed = 0
    for done, number in enumerate(leftover):
        step(done, len(leftover))
        _forget_entries(index, segments, number)
        freed += segments.size_of(number)
        segments.remove(number)
    step(len(leftover), len(leftover))
    return freed


def _plan(index: Index, segments: Segments, below: int) -> tuple[int, int]:
    """Return (height below which bodies will be absent, first file to keep)."""
    highest = highest_blocks(index)
    first, floor = segments.first, 0
    last, _ = segments.end
    while first < last and highest.get(first, -1) < below:
        floor = max(floor, highest.get(first, -1) + 1)
        first += 1
    return floor, first


def highest_blocks(index: Index) -> dict[int, int]:
    """Return the height of the highest block per segment file."""
    highest: dict[int, int] = {}
    for _, value in index.scan(schema.BLOCK):
        records = schema.decode_block(value)
        for position in records[1:]:
            if isinstance(position, Position):
                highest[position.segment] = max(highest.get(position.segment, -1), records.height)
    return highest


def _forget_entries(index: Index, segments: Segments, number: int) -> None:
    """Remove the index entries of what lies in file ``number``; done twice it does no harm."""
    batch, keys = index.batch(), 0
    for block_hash, height, txids in _contents(segments, number):
        active = (index.get(schema.header_key(height)) or b"")[:32] == block_hash
        if active:
            batch.put(schema.BLOCK + block_hash, schema.encode_block(BlockRecords(height)))
        else:
            batch.delete(schema.BLOCK + block_hash)
            batch.delete(schema.pending_key(height, block_hash))
        for txid in txids:
            stored = index.get(schema.TX + txid)
            if stored is not None and schema.decode_tx(stored)[::2] == (height, block_hash[:8]):
                batch.delete(schema.TX + txid)
        keys += len(txids) + 2
        if keys >= limits.PRUNE_BATCH_KEYS:
            index.write(batch)
            batch, keys = index.batch(), 0
    index.write(batch)


def _contents(segments: Segments, number: int) -> Iterator[tuple[bytes, int, list[bytes]]]:
    """Yield (block hash, height, txids of a body or []) per record."""
    for record in segments.records_of(number):
        txids = [tx.txid for tx in Block.parse(record.data).txs] if record.kind is Kind.BODY else []
        yield record.block_hash, record.height, txids
