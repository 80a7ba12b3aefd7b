"""``wattd store prune``: let old blocks go, keep headers and state."""

from bisect import bisect_left
from contextlib import ExitStack
from dataclasses import dataclass

from consensus.block import BlockHeader
from consensus.errors import StorageError
from node.stateroots import StateRoots
from node.store.progress import Progress
from node.store.target import Target
from storage import swap
from storage.files import Files
from storage.index import Index
from storage.segments import Segments
from storage.store import ChainStore


@dataclass(frozen=True, slots=True)
class Limit:
    """What is to stay; exactly one of the three: blocks, bytes of segment files, blocks from a time on."""

    keep_blocks: int | None = None
    keep_bytes: int | None = None
    before_s: int | None = None


@dataclass(frozen=True, slots=True)
class Pruned:
    """Bytes set free, and the height below which blocks are absent now."""

    freed: int
    below: int


def prune(target: Target, limit: Limit, progress: Progress, files: Files | None = None) -> Pruned:
    """Remove the segment files that hold only blocks beyond ``limit``, with their index entries.

    The last ``storage.limits.KEEP_BLOCKS_MIN`` blocks stay in any case. A run that was interrupted or
    killed is ended by the next. Raises StorageError.
    """
    with ExitStack() as opened:
        index = Index.open(target.path / swap.INDEX, target.cache_bytes // 2, create=False)
        closing = opened.enter_context(ExitStack())
        closing.callback(index.close)

        def open_segments(watermark: tuple[int, int] | None, first: int) -> Segments:
            return Segments.open(target.path / swap.BLOCKS, target.chain_id, watermark, files, first)

        store = ChainStore.over(
            target.path, target.held_lock, index, open_segments, target.cache_bytes // 2, target.chain_id
        )
        closing.pop_all()
        opened.callback(store.close)
        swap.forget_building(target.path)  # a reindex under way would miss what goes now
        below = _height_of(store, limit)
        _compute_state_root(target, store)

        def step(done: int, total: int) -> None:
            if done == 0:
                progress.begin("pruning", total)
            else:
                progress.advance()

        freed = store.prune(below, step)
        return Pruned(freed, store.pruned_below)


def _compute_state_root(target: Target, store: ChainStore) -> None:
    """Work out the state root that the next block may need, while the undo records for it are there."""
    interval = target.params.ledger.snapshot_interval_blocks
    height = store.height // interval * interval if interval else 0
    if height > 0:
        StateRoots(store, target.params).root_at(height)


def _height_of(store: ChainStore, limit: Limit) -> int:
    """Return the height below which blocks may go."""
    if limit.keep_blocks is not None:
        return store.height + 1 - limit.keep_blocks
    if limit.before_s is not None:
        return bisect_left(
            range(store.height + 1), limit.before_s, key=lambda height: _time_at(store, height)
        )
    below, kept = 0, store.segment_files()
    rest = sum(file.size for file in kept)
    for _, size, highest in kept:
        if limit.keep_bytes is None or rest <= limit.keep_bytes:
            break
        rest -= size
        below = max(below, highest + 1)
    return below


def _time_at(store: ChainStore, height: int) -> int:
    raw = store.header(height)
    if raw is None:
        raise StorageError("leveldb-corrupt", f"no header at height {height}", fix="wattd store repair")
    return BlockHeader.parse(raw).time_s
