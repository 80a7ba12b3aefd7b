"""Computing the state again from the segment files, into a database of its own."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from consensus.block import Block
from consensus.block_rules import check_block
from consensus.chain import Connected
from consensus.errors import PeerFault, StorageError
from consensus.ports import SignatureChecker
from node.chainstate import ChainState
from node.store.progress import Progress
from node.store.target import Target
from storage import swap
from storage.index import Index
from storage.segments import Segments
from storage.store import ChainStore

OpenSegments = Callable[[tuple[int, int] | None], Segments]
StoredBlock = tuple[int, bytes, bytes | None]
See = Callable[[Connected], None]


class ReplayStore(ChainStore):
    """A store whose blocks above the tip are executed when the tool asks for them, not at start."""

    def replayable(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield nothing: ``stored`` has them."""
        return iter(())

    def stored(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield (height, raw block, certificate) of the certified blocks above the tip."""
        return super().replayable()


@contextmanager
def replay_store(
    target: Target, index_path: Path, open_segments: OpenSegments, progress: Progress
) -> Iterator[ReplayStore]:
    """Yield a store over the segment files with its database at ``index_path``; close it at the end."""
    with ExitStack() as opened:
        index = Index.open(index_path, target.cache_bytes // 2)
        closing = opened.enter_context(ExitStack())
        closing.callback(index.close)

        def watched(watermark: tuple[int, int] | None, _: int) -> Segments:
            segments = open_segments(watermark)
            progress.begin("reading segment files", segments.bytes_on_disk())
            segments.watch = lambda record: progress.advance(record.end - record.position.offset)
            return segments

        store = ReplayStore.over(
            target.path, target.held_lock, index, watched, target.cache_bytes // 2, target.chain_id
        )
        closing.pop_all()  # the store closes it
        opened.callback(store.close)
        yield store


def execute_stored(
    target: Target,
    store: ReplayStore,
    signatures: SignatureChecker | None,
    progress: Progress,
    *,
    live: ChainStore | None = None,
    see: See = lambda connected: None,
) -> ChainState:
    """Execute the certified blocks of the segment files, or the active chain of ``live``; genesis first.

    ``signatures`` checks them too; None trusts the certificates. ``see`` gets what each block
    changed before it is committed. Raises StorageError "replay-failed" for a block that breaks a rule.
    """
    trusting = signatures is None
    chain = target.chain_over(store, signatures or _Nothing())
    blocks: Iterable[StoredBlock] = store.stored() if live is None else active_blocks(live)
    highest = store.highest_certified if live is None else live.height
    progress.begin("executing blocks", max(0, highest - chain.tip.height))
    for height, raw, certificate in blocks:
        try:
            block = Block.parse(raw)
            check_block(block, target.params)
            see(chain.execute(block, chain.tip.block_hash, certified=trusting))
        except PeerFault as fault:
            raise StorageError(
                "replay-failed",
                f"block {height} in the segment files breaks a rule ({fault})",
                fix=f"move {target.path / swap.BLOCKS} and {target.path / swap.INDEX} away and start again: "
                "the node fetches the chain from its peers",
            ) from fault
        chain.commit(block.hash, certificate)
        progress.advance()
    return chain


def active_blocks(store: ChainStore) -> Iterator[StoredBlock]:
    """Yield (height, raw block, certificate) of the active chain behind genesis, while bodies are there."""
    for height in range(1, store.height + 1):
        block_hash = store.block_hash(height)
        raw = None if block_hash is None else store.body(block_hash)
        if raw is None:
            return
        yield height, raw, store.certificate(height)


class _Nothing:
    """Checks no signature: ``execute(certified=True)`` never asks."""

    def check(self, items: object) -> None:
        """Refuse to be asked."""
        raise TypeError("a trusting replay asked for signatures")
