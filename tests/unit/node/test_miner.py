"""The miner over a real chain on disk: real templates, real searches on real threads."""

import asyncio
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cext import pow_search
from consensus.assemble import MAX_EXTRA_NONCE
from consensus.errors import RuleError
from consensus.pow.mining import Work
from consensus.transaction import Transaction, TxOut
from node import miner as module
from node.limits import MINING_MAX_BEHIND_BLOCKS, MINING_MAX_SLICE, MINING_REFRESH_S, TEMPLATE_CACHE
from node.mempool import Staging
from node.miner import Budget, Miner, Templates
from node.testnet import TEST_POW
from tests.unit.node.conftest import FEE, OTHER, RICH, account, pay
from tests.unit.node.pownet import Hill, PowNode

WAIT_S = 10.0
HARD = replace(TEST_POW, bits=0x1A00FFFF, max_target=0x1A00FFFF)
"""A block takes 2^56 hashes."""


class Hopeless(Work):
    """Searches like ``Work``, but for a hash of zero. Notes who searched what."""

    seen = []
    running = []
    peak = 0

    def header(self, extra_nonce, time_s=None):
        header = super().header(extra_nonce, time_s)
        self.seen.append((threading.get_ident(), extra_nonce, header))
        return header

    def search(self, header, start, count):
        self.running.append(header)
        Hopeless.peak = max(self.peak, len(self.running))
        try:
            return pow_search(header.raw, start, count, 0)
        finally:
            self.running.pop()


@pytest.fixture(scope="module")
def hill():
    return Hill()


@pytest.fixture
async def make(tmp_path):
    """Return nodes with a miner that is not run; closed after the test."""
    nodes = []

    def build(hill, **given):
        node = PowNode(len(nodes), tmp_path / f"node-{len(nodes)}", hill)
        given = {"script": RICH.script, "dice": lambda count: b"\x07" * count} | given
        node.miner = Miner(node.driver, node.clock, revision=lambda: node.mempool.revision, **given)
        node.runs = []
        nodes.append(node)
        return node

    yield build
    for node in nodes:
        for run in node.runs:
            run.cancel()
        await asyncio.gather(*node.runs, return_exceptions=True)
        node.miner.close()
        await node.close()
    assert [each.name for each in threading.enumerate() if each.name.startswith("miner")] == []


@pytest.fixture
async def node(make, hill):
    return make(hill)


def run(node):
    task = asyncio.create_task(node.miner.run())
    node.runs.append(task)
    return task


async def until(condition):
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.002)


def payee(node, height):
    return node.chain.block(node.store.block_hash(height)).txs[0].vout[0].script_pubkey


def add(node, tx):
    entry = node.mempool.check(tx, Staging(), node.clock.now_s())
    node.mempool.add(entry)


@pytest.fixture
def hopeless(monkeypatch):
    monkeypatch.setattr(module, "Work", Hopeless)
    monkeypatch.setattr(Hopeless, "seen", [])
    monkeypatch.setattr(Hopeless, "peak", 0)
    return Hopeless.seen


# ---- as many as asked for ----------------------------------------------------------------------


async def test_generate_mines_blocks_on_top_of_each_other_with_what_waits(node, hill):
    tx = pay(hill.coin(0))
    add(node, tx)
    hashes = await node.miner.generate(3, OTHER.script, 1_000_000)
    assert [node.store.block_hash(height) for height in (1, 2, 3)] == hashes
    first = node.chain.block(hashes[0])
    assert first.txs[1:] == (tx,)
    assert first.txs[0].vout[0] == TxOut(TEST_POW.subsidy + FEE, OTHER.script)
    headers = [node.chain.block(each).header for each in hashes]
    assert node.miner._meter.total == sum(header.nonce + 1 for header in headers)
    status = node.miner.status()
    assert status.blocks_found == 3
    assert (status.last.height, status.last.txs) == (3, 0)
    assert status.last.weight - 4 * 24 == node.chain.block(hashes[2]).weight
    assert not status.enabled


@pytest.mark.parametrize("threads", [1, 3])
async def test_generate_ends_after_as_many_hashes_as_it_may_try(make, threads):
    node = make(Hill(HARD), threads=threads)
    assert await node.miner.generate(2, RICH.script, 30_001) == []
    assert node.miner._meter.total == 30_001
    assert node.miner.status().hashes_per_s > 0
    assert node.height == 0


async def test_generate_beside_the_miner(node, hill):
    run(node)
    node.miner.start()
    hashes = await node.miner.generate(4, OTHER.script, 1_000_000)
    node.miner.stop()
    assert len(set(hashes)) == 4
    assert all(node.store.height_of(each) for each in hashes)
    assert {node.chain.block(each).txs[0].vout[0].script_pubkey for each in hashes} == {OTHER.script}


# ---- all the time ------------------------------------------------------------------------------


async def test_it_mines_while_it_is_told_to_and_pays_whom_it_is_told_to(node):
    run(node)
    node.miner.start()
    await until(lambda: node.height >= 3)
    node.miner.start(OTHER.script, 2)
    await until(
        lambda: node.chain.block(node.chain.tip.block_hash).txs[0].vout[0].script_pubkey == OTHER.script
    )
    assert node.chain.block(node.store.block_hash(1)).txs[0].vout[0].script_pubkey == RICH.script
    node.miner.stop()
    await until(lambda: not node.miner._searches and node.miner.status().blocks_found == node.height)
    status = node.miner.status()
    assert (status.enabled, status.threads, status.script) == (False, 2, OTHER.script)
    height = node.height
    await node.miner.generate(1, RICH.script, 1_000_000)
    assert node.height == height + 1
    with pytest.raises(ValueError):
        node.miner.start(threads=0)


async def test_a_new_tip_ends_the_search_below_it(node, hopeless):
    run(node)
    node.miner.start(threads=2)
    await until(lambda: hopeless)
    [search] = node.miner._searches
    [block] = await node.mine()
    await until(lambda: hopeless[-1][2].prev_hash == block.hash)
    assert search not in node.miner._searches
    assert search._stopped
    for _ in range(5):
        [block] = await node.mine()
        await until(lambda block=block: hopeless[-1][2].prev_hash == block.hash)
    assert Hopeless.peak <= 2


async def test_threads_share_no_extra_nonce(node, hopeless, monkeypatch):
    monkeypatch.setattr(module, "NONCES", 5_000)
    run(node)
    node.miner.start(threads=3)
    await until(lambda: len({thread for thread, _, _ in hopeless}) == 3 and len(hopeless) > 50)
    extras = [extra for _, extra, _ in hopeless]
    assert len(set(extras)) == len(extras)
    assert min(int.from_bytes(extra, "little") for extra in extras) == 0x07070707070707


async def test_the_header_keeps_its_time_and_new_transactions_come_in(node, hill, hopeless, monkeypatch):
    monkeypatch.setattr(module, "MINING_REFRESH_S", 0.02)
    run(node)
    node.miner.start()
    await until(lambda: hopeless)
    began_s = hopeless[0][2].time_s
    assert began_s == node.clock.time_s
    node.clock.time_s += 7
    await until(lambda: hopeless[-1][2].time_s == began_s + 7)
    assert node.miner.status().last.txs == 0
    add(node, pay(hill.coin(0)))
    node.clock.ms += 20
    await until(lambda: node.miner.status().last.txs == 1)


async def test_a_thread_that_finds_nothing_is_paced_by_the_clock(hopeless):
    size = 4_096
    for took_s, expected in ((0.0, 8_192), (0.009, 16_384), (0.015, 16_384), (0.03, 8_192)):
        size = module._next_size(size, took_s)
        assert size == expected
    assert module._next_size(1, 9.0) == 1
    assert module._next_size(MINING_MAX_SLICE, 0.0) == MINING_MAX_SLICE


@given(left=st.integers(0, 10_000), wanted=st.lists(st.lists(st.integers(1, 500), max_size=40), max_size=4))
def test_threads_never_take_more_than_the_budget(left, wanted):
    budget, taken = Budget(left), []
    threads = [
        threading.Thread(target=lambda share: taken.extend(map(budget.take, share)), args=[share])
        for share in wanted
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(map(sum, wanted))
    assert sum(taken) == min(left, total)
    assert budget.is_spent == (total >= left)


# ---- when it cannot or must not mine -----------------------------------------------------------


async def test_it_waits_for_the_clock_of_a_chain_that_is_ahead(node, monkeypatch):
    monkeypatch.setattr(module, "MINING_RETRY_S", 0.005)
    await node.mine(12)
    node.clock.time_s -= 1_000
    with pytest.raises(RuleError) as caught:
        await node.miner.generate(1, RICH.script, 1_000)
    assert caught.value.code == "time-too-new"
    run(node)
    node.miner.start()
    await until(lambda: node.miner.status().waits_for.startswith("the clock"))
    node.miner.stop()
    assert node.miner.status().waits_for == ""
    node.miner.start()
    await until(lambda: node.miner.status().waits_for.startswith("the clock"))
    node.clock.time_s += 1_000
    await until(lambda: node.height > 12)
    assert node.miner.status().waits_for == ""


async def test_it_waits_for_blocks_whose_headers_are_far_ahead(make, hill, monkeypatch):
    monkeypatch.setattr(module, "MINING_RETRY_S", 0.005)
    other, node = make(hill), make(hill)
    blocks = await other.mine(MINING_MAX_BEHIND_BLOCKS + 1)
    node.clock.time_s = other.clock.time_s
    for block in blocks[:-1]:
        await node.driver.submit_header(block.header)
    assert not node.miner.templates.is_behind(node.miner.templates.get(RICH.script).template)
    await node.driver.submit_header(blocks[-1].header)
    assert node.miner.templates.is_behind(node.miner.templates.get(RICH.script).template)
    run(node)
    node.miner.start()
    await until(lambda: node.miner.status().waits_for.startswith("blocks"))
    for block in blocks:
        await node.driver.submit_block(block)
    await until(lambda: node.height > len(blocks))


class Greedy(Work):
    """Pays its miner one unit more than is due."""

    def coinbase(self, extra_nonce):
        honest = super().coinbase(extra_nonce)
        reward = honest.vout[0]
        outputs = (reward._replace(value=reward.value + 1), *honest.vout[1:])
        return Transaction.build(honest.version, honest.vin, outputs, honest.lock_time)


async def test_a_block_found_here_that_the_rules_refuse_is_a_bug_and_ends_it(node, monkeypatch):
    monkeypatch.setattr(module, "Work", Greedy)
    task = run(node)
    node.miner.start()
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(RuntimeError, match="bad-cb-amount"):
            await task
    with pytest.raises(RuleError) as caught:
        await node.miner.generate(1, RICH.script, 1_000)
    assert caught.value.code == "node-stopping"


async def test_a_block_of_a_parent_that_was_left_is_only_too_late(node):
    """The operator takes the parent away while its child is searched."""
    [parent] = await node.mine()
    tip = node.driver.watch()
    child = node.solve()
    await node.driver.invalidate(parent.hash)
    assert await node.miner._hand_in(child, tip) is False
    assert node.miner.status().blocks_found == 0


async def test_a_bug_in_a_thread_ends_it(node, monkeypatch):
    class Broken(Work):
        def search(self, header, start, count):
            raise ZeroDivisionError

    monkeypatch.setattr(module, "Work", Broken)
    task = run(node)
    node.miner.start(threads=2)
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(ZeroDivisionError):
            await task
    assert node.miner.closed.done()


async def test_a_stop_ends_all_searches_and_their_threads(make):
    node = make(Hill(HARD), threads=2)
    task = run(node)
    node.miner.start()
    asked = asyncio.create_task(node.miner.generate(1, RICH.script, 1 << 62))
    await until(lambda: len(node.miner._searches) == 2 and node.miner._meter.total > 10_000)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    with pytest.raises(RuleError) as caught:
        await asked
    assert caught.value.code == "node-stopping"
    assert not [each for each in threading.enumerate() if each.name.startswith("miner")]


# ---- templates ---------------------------------------------------------------------------------


async def test_a_template_is_kept_until_there_is_something_better(node, hill):
    templates = node.miner.templates
    first = templates.get(RICH.script)
    assert templates.get(RICH.script) is first
    add(node, pay(hill.coin(0)))
    assert templates.get(RICH.script) is first
    node.clock.ms += int(MINING_REFRESH_S * 1000)
    second = templates.get(RICH.script)
    assert len(second.template.block.txs) == 2
    assert second.revision > first.revision
    node.clock.ms += 1_000_000
    assert templates.get(RICH.script) is second
    await node.mine()
    third = templates.get(RICH.script)
    assert third.template.block.header.prev_hash == node.chain.tip.block_hash
    assert len(third.template.block.txs) == 1


async def test_a_template_has_room_for_every_extra_nonce(make, hill):
    """A block that is full to the last unit must not break the limit by what a miner adds."""
    node = make(hill)
    for number in range(4):
        add(node, pay(hill.coin(number)))
    template = node.miner.templates.get(RICH.script).template
    work = Work(template.block, template.height)
    for size in (0, 8, MAX_EXTRA_NONCE):
        header = work.header(bytes(size))
        assert work.solved(bytes(size), header, 0).weight <= template.block.weight


async def test_a_delta_of_the_operator_makes_a_template_old(node, hill):
    tx = pay(hill.coin(0))
    add(node, tx)
    before = node.miner.templates.get(RICH.script)
    node.mempool.prioritise(tx.txid, 5)
    node.clock.ms += int(MINING_REFRESH_S * 1000)
    assert node.miner.templates.get(RICH.script) is not before


async def test_only_so_many_templates_are_kept(node):
    templates = Templates(node.driver, node.clock, lambda: 0)
    kept = [templates.get(account(20 + at).script) for at in range(TEMPLATE_CACHE + 1)]
    assert templates.get(account(20 + TEMPLATE_CACHE).script) is kept[-1]
    assert templates.get(account(21).script) is kept[1]
    assert templates.get(account(20).script) is not kept[0]
