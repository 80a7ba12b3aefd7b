"""The indexes beside a node at work: the loop stays free, blocks are taken at once, a stop waits."""

import asyncio
import threading
from random import Random

import pytest

from consensus.coins import coin_amount, coin_script
from consensus.errors import PeerFault, StorageError
from node import indexer as indexer_module
from node.indexer import Indexer
from storage import limits
from storage.follower import Follower
from storage.indexes import script_hash
from storage.store import ChainStore
from tests.unit.node.pownet import Hill, PowNode
from tests.unit.storage.chainkit import CHAIN_ID
from tests.unit.storage.indexkit import RandomChain, assert_indexed

WAIT_S = 5.0


class Running:
    """An indexer at work."""

    def __init__(self, indexer):
        self.indexer = indexer
        self.task = asyncio.create_task(indexer.run())

    async def until_synced(self):
        async with asyncio.timeout(WAIT_S):
            while not all(index.synced for index in self.indexer.info().values()):
                assert not self.task.done()
                await asyncio.sleep(0)

    async def stop(self):
        self.task.cancel()
        return (await asyncio.gather(self.task, return_exceptions=True))[0]


@pytest.fixture
async def start():
    running = []

    def begin(indexer):
        running.append(Running(indexer))
        return running[-1]

    yield begin
    for each in running:
        await each.stop()


@pytest.fixture
def node(make_node, chain4):
    return make_node(chain4, address_index=True)


def payment(kit, node, number):
    return kit.pay(node.given.coin(number))


def balances(store):
    """Sum the UTXO set by script."""
    found = {}
    for _, coin in store.iterate_coins():
        found[coin_script(coin)] = found.get(coin_script(coin), 0) + coin_amount(coin)
    return found


async def balance(indexer, script):
    """Return (sum of the unspent outputs of a script, height that it is for)."""

    def read(view):
        with view.unspent([script_hash(script)]) as rows:
            return sum(row.amount for _, row in rows), view.place.height

    return await indexer.read_addresses(read)


async def test_each_block_is_taken_at_once(node, kit, start):
    await start(node.indexer).until_synced()
    for number in range(8):
        node.extend([payment(kit, node, number)])
        height = number + 1
        assert await balance(node.indexer, kit.RICH.script) == (balances(node.store)[kit.RICH.script], height)
        assert await balance(node.indexer, kit.OTHER.script) == (
            balances(node.store)[kit.OTHER.script],
            height,
        )
    assert node.indexer.info()["addressindex"].best_height == 8


async def test_slices_run_beside_the_loop(node, kit, start, monkeypatch):
    """While a slice is stuck in its thread the loop goes on, and blocks are connected."""
    threads, gate, entered = [], threading.Event(), threading.Event()
    step = Follower.step

    def slow(self):
        threads.append(threading.current_thread())
        entered.set()
        assert gate.wait(WAIT_S)
        return step(self)

    monkeypatch.setattr(Follower, "step", slow)
    running = start(node.indexer)
    async with asyncio.timeout(WAIT_S):
        while not entered.is_set():
            await asyncio.sleep(0)
    node.extend([payment(kit, node, 0)])
    assert node.chain.tip.height == 1
    gate.set()
    await running.until_synced()
    assert threading.main_thread() not in threads
    assert len(set(threads)) == 1


async def test_a_stop_waits_for_the_slice_under_way(make_node, chain4, start, monkeypatch):
    node = make_node(chain4, address_index=True)
    entered, gate, left = threading.Event(), threading.Event(), []
    step = Follower.step

    def slow(self):
        entered.set()
        assert gate.wait(WAIT_S)
        left.append(step(self))

    monkeypatch.setattr(Follower, "step", slow)
    running = start(node.indexer)
    async with asyncio.timeout(WAIT_S):
        while not entered.is_set():
            await asyncio.sleep(0)
    await running.stop()
    threading.Timer(0.02, gate.set).start()
    node.indexer.close()
    assert left != []
    before = len(left)
    node.extend([])
    await asyncio.sleep(0)
    assert len(left) == before


async def test_after_the_stop_nobody_is_told_of_tips(node, start):
    running = start(node.indexer)
    await running.until_synced()
    await running.stop()
    node.extend([])
    assert node.store.side.tip_moved is indexer_module._nobody


async def test_it_is_built_with_pauses_while_the_tip_is_far(tmp_path, start, monkeypatch):
    """The chain was there before; while the index is built, queries are refused, then all is right."""
    monkeypatch.setattr(limits, "SIDE_SLICE_BLOCKS", 2)
    monkeypatch.setattr(indexer_module, "INDEX_WAIT_BLOCKS", 10)
    chain = RandomChain(Random(5))
    with ChainStore.open(tmp_path, chain_id=CHAIN_ID) as store:
        for _ in range(20):
            store.connect(chain.connect(chain.make_block()))
        indexer = Indexer(store, tx_index=True, address_index=True)
        pauses = []
        sleep = asyncio.sleep

        async def noted(delay):
            pauses.append(delay)
            await sleep(0)

        monkeypatch.setattr(indexer_module.asyncio, "sleep", noted)
        with pytest.raises(PeerFault) as caught:
            await balance(indexer, b"\x51")
        assert caught.value.code == "address-index-building"
        assert caught.value.reason.startswith("it is at height -1 of 19")
        running = start(indexer)
        async with asyncio.timeout(WAIT_S):
            while not indexer.info()["addressindex"].synced:
                await sleep(0)
        assert len(pauses) >= 8
        assert_indexed(store, chain)

        for _ in range(4):  # a reorganisation under way
            store.disconnect(*chain.disconnect())
        for _ in range(6):
            store.connect(chain.connect(chain.make_block()))
        assert (await balance(indexer, b"\x51"))[1] == store.height
        assert_indexed(store, chain)
        await running.stop()
        indexer.close()


async def test_turned_off_it_goes_in_the_background(make_node, chain4, kit, start):
    node = make_node(chain4, address_index=True)
    node.extend([payment(kit, node, 0)])
    first = start(node.indexer)
    await first.until_synced()
    await first.stop()
    node.indexer.close()
    node.indexer = Indexer(node.store, tx_index=False, address_index=False)
    start(node.indexer)
    assert node.indexer.info() == {}
    assert node.store.find_tx(node.given.genesis.txs[0].txid) is None
    with pytest.raises(PeerFault) as caught:
        await balance(node.indexer, kit.RICH.script)
    assert caught.value.code == "address-index-off"
    async with asyncio.timeout(WAIT_S):
        while any(follower.has_work for follower in node.indexer._followers.values()):
            await asyncio.sleep(0)
    for space in (b"a", b"u", b"t"):
        assert list(node.store._index.scan(space)) == []


async def test_a_failing_disk_ends_the_task_with_the_reason(node, start, monkeypatch):
    fault = StorageError("disk-full", "no space left", fix="free some")

    def failing(self):
        raise fault

    monkeypatch.setattr(Follower, "step", failing)
    running = start(node.indexer)
    async with asyncio.timeout(WAIT_S):
        await asyncio.wait([running.task])
    assert running.task.exception() is fault


async def test_a_query_that_waits_for_nobody_gives_up(node, kit, monkeypatch):
    monkeypatch.setattr(indexer_module, "INDEX_WAIT_S", 0.02)
    with pytest.raises(PeerFault) as caught:
        await balance(node.indexer, kit.RICH.script)
    assert caught.value.code == "address-index-building"


async def test_it_follows_a_reorganisation_of_proof_of_work(tmp_path, kit, start):
    """Two branches spend the same coin; the index tells of the one that is active, then of the other."""
    hill, clock = Hill(), kit.FakeClock()
    one, two = (PowNode(number, tmp_path / f"node-{number}", hill, clock) for number in (1, 2))
    try:
        indexer = Indexer(one.store, tx_index=True, address_index=True)
        await start(indexer).until_synced()
        await one.admission.submit(kit.pay(hill.coin(0)))
        await one.mine(2, extra=b"\x01")
        assert await balance(indexer, kit.OTHER.script) == (kit.TOKEN // 2, 2)
        await two.admission.submit(kit.pay(hill.coin(0), kit.TOKEN // 4))
        for block in await two.mine(4, extra=b"\x02"):
            await one.driver.submit_block(block)
        assert len(one.disconnected) == 2
        assert await balance(indexer, kit.OTHER.script) == (kit.TOKEN // 4, 4)
        assert await balance(indexer, kit.RICH.script) == (balances(one.store)[kit.RICH.script], 4)
        await one.driver.invalidate(one.store.block_hash(3))
        assert (await balance(indexer, kit.RICH.script))[0] == balances(one.store)[kit.RICH.script]
        indexer.close()
    finally:
        await one.close()
        await two.close()
