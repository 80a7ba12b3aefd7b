"""The driver: proposals whose signatures are checked on worker threads, while the loop goes on."""

import asyncio
import threading

import pytest

from cext import PaymentBatch
from consensus.bft.types import AskEC, Check, Checked, Commit, Send
from consensus.errors import StorageError
from node import sigcheck
from node.bodies import proposal_of

MANY = 40
"""Payments whose signatures are not checked on the loop."""


class Gate:
    """Holds signature checks up in their threads until it is opened."""

    def __init__(self, monkeypatch):
        self.entered, self.opened = threading.Semaphore(0), threading.Event()
        gate = self

        class Held:
            def __init__(self, items):
                self.real = PaymentBatch(items)
                self.marked = self.real.marked
                self.verdicts = b""

            def start(self, threads, wake):
                return 0  # no native threads: those cannot be held up

            def judge(self):
                gate.entered.release()
                assert gate.opened.wait(5)
                self.real.judge()
                self.verdicts = self.real.verdicts

        monkeypatch.setattr(sigcheck, "PaymentBatch", Held)

    async def reached(self):
        """Return when a thread stands at the gate."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=5)


@pytest.fixture
async def big(scripted, make_node, kit, chain4):
    """A block whose transactions the validator holds without having checked them."""
    txs = [kit.pay(chain4.coin(at % 40), 5_000 + at) for at in range(MANY)]
    for tx in txs:
        scripted.add(tx)
    block = make_node(chain4).build(txs, proposer=1)
    scripted.driver._state.checking = {block.hash: None}
    return block


def check_of(block, *, is_new=True, leader=0):
    return Check(proposal_of(block), 1, is_new, block.header.prev_hash, leader)


async def answers(scripted, count=1):
    """Wait for so many answers to checks, and return them."""
    async with asyncio.timeout(5):
        while True:
            found = [event for event in scripted.script.events if isinstance(event, Checked)]
            if len(found) >= count:
                return found
            await asyncio.sleep(0)


async def test_the_loop_goes_on_while_a_proposal_is_checked(scripted, big, monkeypatch):
    gate = Gate(monkeypatch)
    assert await scripted.run(check_of(big, leader=1)) == []
    await gate.reached()
    await scripted.run(Send(1, AskEC(1)))
    assert len(scripted.links.sent) == 1
    await scripted.run(check_of(big, leader=1))  # asked again: one answer serves both
    gate.opened.set()
    assert await answers(scripted) == [Checked(big.hash, True)]
    assert scripted.chain.candidate(big.hash) is not None
    assert (scripted.driver._judge._under_way, scripted.ear.errors) == ({}, [])


async def test_a_forged_signature_is_found_off_the_loop(scripted, big, kit, monkeypatch):
    forged = kit.remade(big, txs=(*big.txs[:-1], kit.unsigned(big.txs[-1])))
    scripted.links.up = [1]
    scripted.driver._state.checking = {forged.hash: None}
    monkeypatch.setattr(scripted.chain, "execute", lambda *_, **__: pytest.fail("needs no execution"))
    assert await scripted.run(check_of(forged, leader=1)) == []
    scripted.driver.supply(forged.txs[-1:])
    assert await answers(scripted) == [Checked(forged.hash, False, "mandatory-script-verify-flag-failed")]
    assert scripted.ear.errors == []


async def test_checks_may_overtake_each_other(scripted, big, make_node, chain4, monkeypatch):
    gate = Gate(monkeypatch)
    small = make_node(chain4).build(proposer=1)
    scripted.driver._state.checking = {big.hash: None, small.hash: None}
    answer, *_ = await scripted.run(check_of(big, leader=1), check_of(small, leader=1))
    assert answer == Checked(small.hash, True)
    gate.opened.set()
    assert await answers(scripted, 2) == [Checked(small.hash, True), Checked(big.hash, True)]


async def test_what_the_engine_gave_up_is_not_executed(scripted, big, monkeypatch):
    gate = Gate(monkeypatch)
    await scripted.run(check_of(big, leader=1))
    await gate.reached()
    scripted.driver._state.checking = {}
    _, task = scripted.driver._judge._under_way[big.hash]
    gate.opened.set()
    await asyncio.wait_for(task, 5)
    assert scripted.chain.candidate(big.hash) is None
    assert [event for event in scripted.script.events if isinstance(event, Checked)] == []
    assert scripted.driver._judge._under_way == {}


async def test_a_block_that_was_committed_meanwhile_is_not_judged(scripted, big, monkeypatch):
    gate = Gate(monkeypatch)
    await scripted.run(check_of(big, leader=1))
    await gate.reached()
    scripted.chain.execute(big, big.header.prev_hash, certified=True)
    qc = scripted.driver._state.commit_qc._replace(height=1, block_hash=big.hash)
    await scripted.run(Commit(1, big.hash, qc))
    scripted.driver._state.checking = {}
    gate.opened.set()
    async with asyncio.timeout(5):
        while scripted.driver._judge._under_way:
            await asyncio.sleep(0)
    assert (scripted.chain.tip.height, scripted.ear.errors) == (1, [])


async def test_another_body_of_the_block_takes_the_place(scripted, big, kit, monkeypatch):
    gate = Gate(monkeypatch)
    await scripted.run(check_of(big, leader=1))
    await gate.reached()
    broken = kit.remade(big, txs=big.txs + big.txs[1:], merkle_root=big.header.merkle_root)
    scripted.driver._judge._judge_later(check_of(big, leader=1), broken)
    assert (await answers(scripted))[0] == Checked(big.hash, False, "bad-txnmrklroot")
    gate.opened.set()
    await scripted.run()
    assert len(await answers(scripted)) == 1


async def test_stop_ends_the_checks_under_way(scripted, big, monkeypatch):
    gate = Gate(monkeypatch)
    await scripted.run(check_of(big, leader=1))
    await gate.reached()
    _, task = scripted.driver._judge._under_way[big.hash]
    scripted.driver.stop()
    gate.opened.set()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert scripted.chain.candidate(big.hash) is None
    assert scripted.ear.errors == []


async def test_a_bug_or_a_failing_disk_under_a_check_stops_the_node(scripted, big, monkeypatch):
    def fail(*_, **__):
        raise StorageError("disk-failed", "no")

    monkeypatch.setattr(scripted.chain, "execute", fail)
    await scripted.run(check_of(big, leader=1))
    async with asyncio.timeout(5):
        await scripted.ear.changed.wait()
    assert [error.code for error in scripted.ear.errors] == ["disk-failed"]
