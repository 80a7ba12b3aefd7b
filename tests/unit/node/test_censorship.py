"""T_tx: a leader that passes a transaction over loses its term; full blocks and floods cost nobody a term."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import RuleError
from contracts.operations import Deposit
from node import censorship
from node.censorship import EMPTY, CensorWatch, PassedOver
from node.limits import MAX_WATCHED_TXS, PASSED_OVER_BLOCKS

A, B = bytes(32), bytes([1]) * 32


def test_the_limit_is_what_a_leader_may_pass_over():
    counts = PassedOver(3)
    assert counts.on_block(1, [A], [A]) == []  # it may have come after the proposal
    for _ in range(3):
        assert counts.on_block(1, [A], [A]) == []
    assert counts.on_block(1, [A], [A]) == [A]
    assert counts.on_block(1, [], [A]) == []
    assert counts.on_block(1, [A], [A]) == [A]  # as long as it goes on


def test_another_leader_begins_anew():
    counts = PassedOver(2)
    for _ in range(4):
        counts.on_block(1, [A], [A])
    assert counts.on_block(2, [A], [A]) == []
    assert [counts.on_block(2, [A], [A]) for _ in range(3)] == [[], [], [A]]


def test_what_left_the_pool_is_forgotten():
    counts = PassedOver(2)
    for _ in range(3):
        counts.on_block(1, [A], [A])
    counts.on_block(1, [], [B])
    assert A not in counts
    assert [counts.on_block(1, [A], [A]) for _ in range(4)] == [[], [], [], [A]]


blocks = st.lists(
    st.tuples(st.integers(1, 2), st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4))), max_size=60
)


@given(blocks, st.integers(0, 4))
def test_counts_are_those_of_somebody_who_keeps_everything(history, limit):
    """The judge reads the whole history anew for each transaction after each block."""
    counts = PassedOver(limit)
    told = []
    for at, (term, passed, watched) in enumerate(history):
        told.append(sorted(counts.on_block(term, sorted(passed), sorted(watched))))
        expected = []
        for tx in sorted(passed & watched):
            count, back = 0, at
            while back > 0 and history[back][0] == history[back - 1][0]:
                if tx not in history[back - 1][2] or tx not in history[back][2]:
                    break
                count += tx in history[back][1]
                back -= 1
            if count > limit:
                expected.append(tx)
        assert told[-1] == expected


# ---- with a pool and blocks ---------------------------------------------------------------------


@pytest.fixture
def watch(node):
    return CensorWatch(node.mempool, node.params.ledger)


def follow(node, watch, txs=(), term=1):
    """Commit a block on a node and let the watch look at it, as the driver does."""
    block = node.build(txs, term=term)
    node.chain.commit(block.hash, b"certificate")
    cheapest = watch.cheapest(block)
    node.mempool.connect(block.txs[1:], node.chain.ground(), node.clock.now_s())
    return watch.on_block(block, cheapest, lambda: node.chain.open_session(node.clock.now_s()))


def test_empty_blocks_pass_everything_over(node, watch, kit, chain4):
    tx = kit.pay(chain4.coin(0))
    node.add(tx)
    found = [follow(node, watch) for _ in range(PASSED_OVER_BLOCKS + 2)]
    assert found == [None] * (PASSED_OVER_BLOCKS + 1) + [tx.txid]


def test_only_blocks_with_something_cheaper_count(node, watch, kit, chain4):
    poor = kit.pay(chain4.coin(0), fee=2_000)
    node.add(poor)
    rich = [kit.pay(chain4.coin(1 + at), fee=9_000) for at in range(PASSED_OVER_BLOCKS + 3)]
    for tx in rich:
        node.add(tx)
        assert follow(node, watch, [tx]) is None


def test_full_blocks_say_nothing(node, watch, kit, chain4):
    node.add(kit.pay(chain4.coin(0), fee=9_000))
    watch._ledger = replace(node.params.ledger, max_block_weight=1_000)
    assert [follow(node, watch) for _ in range(PASSED_OVER_BLOCKS + 4)].count(None) == PASSED_OVER_BLOCKS + 4


def test_an_operation_counts_where_the_budget_had_room_and_it_still_runs(
    node, watch, kit, chain4, monkeypatch
):
    node.add(kit.operate(chain4.coin(0), Deposit(), value=90_000))
    monkeypatch.setattr(censorship, "MAX_COUNTED_OPERATIONS", -1)
    cheap = [kit.pay(chain4.coin(1 + at), fee=500) for at in range(3)]
    for tx in cheap:
        node.add(tx)
    for at in range(PASSED_OVER_BLOCKS + 3):
        assert follow(node, watch, cheap[at : at + 1]) is None or at >= PASSED_OVER_BLOCKS

    def refuse(session, entry):
        raise RuleError("no")

    monkeypatch.setattr(censorship, "try_operation", refuse)
    assert follow(node, watch) is None
    monkeypatch.undo()
    assert follow(node, watch) is not None


def test_a_child_of_what_is_pending_is_not_judged(node, watch, kit, chain4):
    parent = kit.pay(chain4.coin(0), fee=2_000)
    child = kit.pay(parent.txid + bytes(4), 5_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    for tx in (parent, child):
        node.add(tx)
    found = [follow(node, watch) for _ in range(PASSED_OVER_BLOCKS + 3)]
    assert set(found) == {None, parent.txid}


def test_the_watch_is_bounded_and_keeps_what_it_counts(node, watch, kit, chain4, monkeypatch):
    monkeypatch.setattr(censorship, "MAX_WATCHED_TXS", 4)
    assert MAX_WATCHED_TXS > 4
    for at in range(12):
        node.add(kit.pay(chain4.coin(at), 5_000 + at, fee=2_000 + at))
    for _ in range(4):
        follow(node, watch)
        assert len(watch._counts) <= 4
    before = watch._counts.counted()
    node.add(kit.pay(chain4.coin(20), fee=50_000))
    follow(node, watch)
    assert watch._counts.counted() == before


def test_nothing_pending_costs_nothing(node, watch):
    assert follow(node, watch) is None
    assert watch.cheapest(node.build()) is None
    assert EMPTY < 0


# ---- four nodes, one of which censors ----------------------------------------------------------


class Wires:
    """Links between drivers in one process: every message is delivered by the loop."""

    def __init__(self, nodes, index):
        self.nodes, self.index = nodes, index

    def _deliver(self, to, call, *args):
        asyncio.get_running_loop().call_soon(lambda: getattr(self.nodes[to].driver, call)(*args))
        return True

    def send(self, validator, payload):
        return self._deliver(validator, "receive", self.index, payload)

    def broadcast(self, payload):
        for to in range(len(self.nodes)):
            if to != self.index:
                self.send(to, payload)

    def connected(self):
        return [to for to in range(len(self.nodes)) if to != self.index]

    def ask_txs(self, validator, block_hash, wtxids):
        found = [self.nodes[validator].mempool.by_wtxid(wtxid) for wtxid in wtxids]
        return self._deliver(self.index, "supply", [tx for tx in found if tx is not None])

    def ask_body(self, validator, block_hash):
        block = self.nodes[validator].chain.block(block_hash)
        return block is not None and self._deliver(self.index, "take_body", block)

    def punish(self, validator, code):
        pytest.fail(f"{validator} is charged with {code}")


@pytest.fixture
async def four(make_node, kit, chain4):
    """Four validators that hear each other, not started."""
    clock = kit.RealTime()
    nodes = [make_node(chain4, index, clock=clock) for index in range(4)]
    for index, node in enumerate(nodes):
        node.links = Wires(nodes, index)
        node.open_driver(replace(kit.FAST, slot_step_ms=30))
    return nodes


async def test_a_censoring_leader_loses_its_term_and_the_transaction_is_final(four, kit, chain4):
    victim, others = kit.pay(chain4.coin(0), fee=9_000), [kit.pay(chain4.coin(1 + at)) for at in range(6)]
    last = 10**6  # the last term whose leader censors

    def censors(node):
        real = node.mempool.candidates

        def candidates(exclude):
            censored = node.driver.status()["term"] <= last
            return (tx for tx in real(exclude) if tx.txid != victim.txid or not censored)

        return candidates

    for node in four:
        node.mempool.candidates = censors(node)
        node.add(victim)
        node.driver.start()
    for node in four:
        await node.ear.reach(3)
    last = max(node.driver.status()["term"] for node in four)
    for tx in others:
        for node in four:
            node.add(tx)
            node.driver.report_work()
    async with asyncio.timeout(kit.WAIT_S):
        while any(node.mempool.get(victim.txid) is not None for node in four):
            await asyncio.sleep(0.01)
    for node in four:
        confirmed = [(block.header.nonce, tx) for block, _, _ in node.ear.blocks for tx in block.txs]
        [term] = [term for term, tx in confirmed if tx == victim]
        assert term > last
        assert node.ear.errors == []
    alarms = [alarm for node in four for alarm in node.ear.alarms]
    assert {name for name, _ in alarms} == {"transaction-passed-over"}
    assert {(fields["txid"], fields["term"]) for _, fields in alarms} == {(victim.txid[::-1].hex(), last)}
    assert len(alarms) >= 3


async def test_an_honest_leader_under_a_flood_keeps_its_term(four, kit, chain4):
    """Better paying payments come all the time, and each block takes what there is."""
    for node in four:
        node.driver.start()
    for node in four:
        await node.ear.reach(3)
    terms = {node.driver.status()["term"] for node in four}
    for at in range(30):
        tx = kit.pay(chain4.coin(at), 5_000 + at)
        for node in four:
            node.add(tx)
            node.driver.report_work()
        await four[at % 4].ear.reach(four[at % 4].chain.tip.height + 1)
    assert {node.driver.status()["term"] for node in four} == terms
    assert not any(node.ear.alarms for node in four)
