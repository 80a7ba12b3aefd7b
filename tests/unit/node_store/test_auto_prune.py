"""Pruning beside a node at work: what goes, when, and that it never holds the event loop up for long."""

import asyncio
import threading
from contextlib import suppress

import plyvel
import pytest

from consensus.block import Block
from consensus.errors import StorageError
from node.pruner import Pruner
from storage import limits, schema
from storage.store import ChainStore


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Let files and the guard of the last blocks fit a short chain."""
    monkeypatch.setattr(limits, "KEEP_BLOCKS_MIN", 5)
    monkeypatch.setattr(limits, "SEGMENT_BYTES", 8_000)
    monkeypatch.setattr(limits, "PRUNE_BATCH_KEYS", 4)


@pytest.fixture
def node(kit, chain, tmp_path):
    """A node on an empty chain."""
    node = kit.node.Node(kit.make_datadir(tmp_path / "node", chain, -1), chain)
    yield node
    node.close()


class Threads:
    """``asyncio.to_thread`` that counts, and stops at a chosen call until it is let go."""

    def __init__(self, stop_at=0):
        self.calls = 0
        self.stop_at = stop_at
        self.stopped = asyncio.Event()
        self.go = threading.Event()
        self.ended = 0

    async def __call__(self, call, *arguments):
        self.calls += 1
        number = self.calls

        def work():
            if number == self.stop_at:
                assert self.go.wait(10)
            try:
                return call(*arguments)
            finally:
                self.ended += 1

        working = asyncio.create_task(asyncio.to_thread(work))
        if number == self.stop_at:
            self.stopped.set()
        return await working


def files_of(node):
    return sorted(int(path.stem[4:]) for path in (node.chain.store.path / "blocks").glob("seg-*.dat"))


async def until(condition):
    """Wait for a condition that another task brings about."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


async def grown(node, kit, chain, pruner, count):
    for _ in range(count):
        kit.grow(node, chain, 1)
        pruner.on_commit()


def assert_pruned(node, chain):
    store = node.chain.store
    below, path = store.pruned_below, store.path
    kept = set()
    for height in range(store.height + 1):
        block_hash = store.block_hash(height)
        assert store.height_of(block_hash) == height
        raw = store.body(block_hash)
        assert (raw is None) == (height < below)
        kept |= {tx.txid for tx in Block.parse(raw).txs} if raw else set()
    tip, coins = store.tip, dict(store.iterate_coins())
    node.close()
    with plyvel.DB(str(path / "index")) as index:
        assert {key[1:] for key in index.iterator(prefix=schema.TX, include_value=False)} == kept
    with ChainStore.open(path, chain_id=chain.genesis.hash) as again:
        assert (again.tip, dict(again.iterate_coins()), again.pruned_below) == (tip, coins, below)


async def test_blocks_beyond_the_limit_go_as_the_chain_grows(node, kit, chain):
    pruner = Pruner(node.chain.store, keep_blocks=7, keep_bytes=0)
    task = asyncio.create_task(pruner.run())
    for _ in range(8):
        await grown(node, kit, chain, pruner, 3)
        files = node.chain.store.segment_files()
        due = [file.number for file in files[:-1] if file.highest < node.chain.tip.height + 1 - 7]
        kept = [file.number for file in files if file.number not in due]
        await until(lambda kept=kept: files_of(node) == kept or task.done())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert 0 < node.chain.store.pruned_below <= node.chain.tip.height + 1 - 7
    assert_pruned(node, chain)


async def test_files_beyond_the_bytes_go(node, kit, chain):
    pruner = Pruner(node.chain.store, keep_blocks=0, keep_bytes=30_000)
    task = asyncio.create_task(pruner.run())
    await grown(node, kit, chain, pruner, 25)

    def size():
        total = 0
        for path in (node.chain.store.path / "blocks").glob("*.dat"):
            with suppress(FileNotFoundError):  # the pruner removes files meanwhile
                total += path.stat().st_size
        return total

    await until(lambda: size() <= 30_000 or task.done())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert 15_000 < size() <= 30_000
    assert_pruned(node, chain)


async def test_nothing_goes_that_is_not_to_go(node, kit, chain):
    off = Pruner(node.chain.store, keep_blocks=0, keep_bytes=0)
    assert not off.is_on
    await off.run()
    threads = Threads()
    pruner = Pruner(node.chain.store, keep_blocks=1_000, keep_bytes=1 << 30, in_thread=threads)
    task = asyncio.create_task(pruner.run())
    await grown(node, kit, chain, pruner, 20)
    await until(lambda: threads.ended == 1)
    for _ in range(100):
        await asyncio.sleep(0)
    count = len(files_of(node))
    assert files_of(node) == list(range(count))
    assert threads.calls <= count + 1  # a look per new file, no work per block
    task.cancel()


async def test_the_node_connects_blocks_between_any_two_slices(node, kit, chain):
    await grown(node, kit, chain, Pruner(node.chain.store, keep_blocks=0, keep_bytes=0), 15)
    for stop_at in range(2, 9):
        threads = Threads(stop_at)
        pruner = Pruner(node.chain.store, keep_blocks=6, keep_bytes=0, in_thread=threads)
        task = asyncio.create_task(pruner.run())
        done, _ = await asyncio.wait(
            [asyncio.create_task(threads.stopped.wait()), task], timeout=0.5, return_when="FIRST_COMPLETED"
        )
        height = node.chain.tip.height
        kit.grow(node, chain, 1)
        assert node.chain.tip.height == height + 1
        task.cancel()
        threads.go.set()
        await asyncio.gather(task, return_exceptions=True)
        assert threads.ended == threads.calls  # a cancelled task leaves no thread inside the store
        assert done is not None
    pruner = Pruner(node.chain.store, keep_blocks=6, keep_bytes=0)
    task = asyncio.create_task(pruner.run())
    await until(lambda: files_of(node)[0] > 0 and node.chain.store.pruned_below > 0)
    await until(lambda: node.chain.store._segments.first == files_of(node)[0])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert_pruned(node, chain)


async def test_a_failing_disk_ends_it_with_the_reason(node, kit, chain, monkeypatch):
    await grown(node, kit, chain, Pruner(node.chain.store, keep_blocks=0, keep_bytes=0), 20)
    failure = StorageError("disk-full", "no room", fix="free some")

    def full(number):
        raise failure

    monkeypatch.setattr(node.chain.store._segments, "remove", full)
    with pytest.raises(StorageError) as caught:
        await Pruner(node.chain.store, keep_blocks=6, keep_bytes=0).run()
    assert caught.value is failure
