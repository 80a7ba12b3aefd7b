"""Removing old segment files with what LevelDB knows of them.

The order is the invariant: first one synced batch says which files and which blocks are gone
(``schema.PRUNED``); from then on nothing reads them. Then, file by file, the entries go, and after them
the file, once a synced batch has made that final: the entries of a file can be found only while it is
there. A kill leaves files that ``Segments.open`` passes over, and the next pruning ends the work.

Bodies above the coins tip stay, because a restart computes coins from them: ``ChainStore`` flushes
first where that would get in the way.
"""

from collections.abc import Iterator
from threading import RLock
from typing import NamedTuple

from consensus.block import Block
from consensus.undo import decode_undo
from storage import limits, schema
from storage.index import Index
from storage.indexes import history_keys
from storage.schema import BlockRecords, Position
from storage.segments import Kind, Segments
from storage.side import ADDRESS_INDEX


class Slice(NamedTuple):
    """How far a pruning is: files done and altogether, bytes set free so far."""

    done: int
    total: int
    freed: int


class SegmentFile(NamedTuple):
    """A segment file: its number, bytes, and the height of the highest block in it (-1: none)."""

    number: int
    size: int
    highest: int


def prune_slices(index: Index, segments: Segments, lock: "RLock", below: int) -> Iterator[Slice]:
    """Remove the files at the front that hold no block of height ``below`` or more, a slice per step.

    ``lock`` (that of all writes) is held for a few milliseconds at a time and never between two
    steps, so a thread may take them beside a node at work. Every record must be in the index (see
    ``ChainStore.prune``). Raises StorageError.
    """
    files = segment_files(index, segments)
    with lock:
        first = _declare(index, segments, files, below)
    leftover = [number for number in segments.numbers_on_disk() if number < first]
    freed = 0
    for done, number in enumerate(leftover):
        yield Slice(done, len(leftover), freed)
        for changes in _entries(index, segments, number):
            with lock:
                batch = index.batch()
                for key, value in changes.items():
                    batch.delete(key) if value is None else batch.put(key, value)
                index.write(batch)
            yield Slice(done, len(leftover), freed)
        with lock:
            index.write(index.synced_batch())
        freed += segments.size_of(number)
        segments.remove(number)
    yield Slice(len(leftover), len(leftover), freed)


def _declare(index: Index, segments: Segments, files: list[SegmentFile], below: int) -> int:
    """Say in one synced batch what is gone; return the number of the first file that is kept."""
    floor, first = schema.decode_pruned(index.get(schema.PRUNED))
    for file in files[:-1]:
        if file.highest >= below:
            break
        floor, first = max(floor, file.highest + 1), file.number + 1
    if first > segments.first:
        batch = index.synced_batch()
        batch.put(schema.PRUNED, schema.encode_pruned(floor, first))
        index.write(batch)
        segments.first = first
    return first


def segment_files(index: Index, segments: Segments) -> list[SegmentFile]:
    """Return the files that are kept, the oldest first; the last one is written to.

    What it says of the others stays true: nothing is ever written to them again.
    """
    last, _ = segments.end
    highest = _highest_blocks(index)
    numbers = range(segments.first, last + 1)
    return [SegmentFile(number, segments.size_of(number), highest.get(number, -1)) for number in numbers]


def _highest_blocks(index: Index) -> dict[int, int]:
    """Return the height of the highest block per segment file."""
    highest: dict[int, int] = {}
    for _, value in index.scan(schema.BLOCK):
        records = schema.decode_block(value)
        for position in records[1:]:
            if isinstance(position, Position):
                highest[position.segment] = max(highest.get(position.segment, -1), records.height)
    return highest


def _entries(index: Index, segments: Segments, number: int) -> Iterator[dict[bytes, bytes | None]]:
    """Yield what has to change in the index, in pieces; done twice it does no harm.

    It may be read without the lock: no reorganisation reaches below what was declared as gone.
    """
    changes: dict[bytes, bytes | None] = {}
    for block_hash, height, block in _contents(segments, number):
        active = (index.get(schema.header_key(height)) or b"")[:32] == block_hash
        if active:
            changes.update(dict.fromkeys(_history(index, segments, number, block, height)))
            changes[schema.BLOCK + block_hash] = schema.encode_block(BlockRecords(height))
        else:
            changes[schema.BLOCK + block_hash] = None
            changes[schema.pending_key(height, block_hash)] = None
        for tx in () if block is None else block.txs:
            stored = index.get(schema.TX + tx.txid)
            if stored is not None and schema.decode_tx(stored)[::2] == (height, block_hash[:8]):
                changes[schema.TX + tx.txid] = None
        if len(changes) >= limits.PRUNE_BATCH_KEYS:
            yield changes
            changes = {}
    if changes:
        yield changes


def _history(
    index: Index, segments: Segments, number: int, block: Block | None, height: int
) -> Iterator[bytes]:
    """Yield the keys of a block in the history of addresses: none without that index, or if they went before.

    They go in the batch that forgets where the block's undo data lies. It lies in the file of the body or
    in a later one; an earlier one had a copy of the body, and took them along.
    """
    stored = None if block is None else index.get(schema.BLOCK + block.hash)
    undo = None if stored is None else schema.decode_block(stored).undo
    if block is None or undo is None or undo.segment < number:
        return
    if index.get(schema.PROGRESS + ADDRESS_INDEX) is not None:
        coins, _ = decode_undo(segments.read(undo, Kind.UNDO, block.hash))
        yield from history_keys(block, coins, height)


def _contents(segments: Segments, number: int) -> Iterator[tuple[bytes, int, Block | None]]:
    """Yield (block hash, height, the block if it is a body) per record."""
    for record in segments.records_of(number):
        block = Block.parse(record.data) if record.kind is Kind.BODY else None
        yield record.block_hash, record.height, block
