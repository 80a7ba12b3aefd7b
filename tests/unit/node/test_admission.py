"""Admission: batches, verdicts for clients, blame for peers, orphans, budgets, and how it ends."""

import asyncio

import pytest

from consensus.errors import RuleError, StorageError
from consensus.transaction import Transaction, TxIn, outpoint
from contracts.operations import Deposit, Withdraw
from node import admission as module
from node.limits import MAX_ORPHANS

PEER = 5


@pytest.fixture
async def busy(node):
    """A node whose admission runs."""
    admission = node.open_admission()
    task = asyncio.create_task(admission.run())
    node.task = task
    yield node
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def settle(node):
    """Return when everything offered so far was judged."""
    async with asyncio.timeout(5):
        while node.admission.backlog or node.admission._batch:
            await asyncio.sleep(0)


def verdicts(node):
    return [(code, blame) for _, code, blame in node.refused]


async def submit(node, tx):
    """Submit as a client; return the code of the refusal, "" if it was taken."""
    try:
        async with asyncio.timeout(5):
            await node.admission.submit(tx)
    except RuleError as refusal:
        return refusal.code
    return ""


async def test_a_client_gets_its_verdict(busy, kit, chain4):
    tx = kit.pay(chain4.coin(0))
    assert await submit(busy, tx) == ""
    assert busy.mempool.by_wtxid(tx.wtxid) == tx
    assert [job.tx for job in busy.accepted] == [tx]
    assert await submit(busy, kit.pay(bytes(36))) == "bad-txns-inputs-missingorspent"
    assert await submit(busy, kit.unsigned(kit.pay(chain4.coin(1)))) == "mandatory-script-verify-flag-failed"
    assert await submit(busy, tx) == "txn-already-in-mempool"
    assert busy.refused == []  # clients are told, nobody is charged


async def test_parents_and_children_of_one_batch(busy, kit, chain4):
    parent = kit.pay(chain4.coin(0))
    child = kit.pay(outpoint(parent.txid, 0), 5_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    assert busy.admission.offer([parent, child], PEER) == []
    await settle(busy)
    assert [job.tx for job in busy.accepted] == [parent, child]


async def test_peers_are_blamed_for_what_no_node_would_take(busy, kit, chain4):
    spoilt = kit.unsigned(kit.pay(chain4.coin(0)))
    cheap = kit.pay(chain4.coin(1), fee=1)
    busy.admission.offer([spoilt, cheap], PEER)
    await settle(busy)
    assert sorted(verdicts(busy)) == [
        ("mandatory-script-verify-flag-failed", True),
        ("min-fee-not-met", True),
    ]


async def test_nobody_is_blamed_for_another_view_of_the_chain(busy, kit, chain4, monkeypatch):
    """An honest peer may be a block ahead, or its clock a second behind a gate."""
    busy.add(kit.pay(chain4.coin(0)))
    conflict = kit.pay(chain4.coin(0), 7_000)
    broke = kit.operate(chain4.coin(1), Withdraw(40_000))
    late = kit.operate(chain4.coin(2), Deposit(), value=5_000)

    def try_operation(session, entry):
        raise (
            RuleError("gate-closed")
            if entry.tx == late
            else RuleError("insufficient-balance", permanent=False)
        )

    monkeypatch.setattr("node.mempool.try_operation", try_operation)
    busy.admission.offer([conflict, broke, late], PEER)
    await settle(busy)
    assert sorted(verdicts(busy)) == [
        ("gate-closed", False),
        ("insufficient-balance", False),
        ("txn-mempool-conflict", False),
    ]


async def test_a_forged_rival_in_the_same_batch_does_no_harm(busy, kit, chain4):
    good = kit.pay(chain4.coin(0))
    forged = kit.unsigned(kit.pay(chain4.coin(0), 7_000))
    busy.admission.offer([forged], PEER)
    assert await submit(busy, good) == ""
    assert verdicts(busy) == [("mandatory-script-verify-flag-failed", True)]
    assert busy.admission._queue_bytes == 0
    assert busy.admission._queued == {}


async def test_of_rivals_the_first_counts(busy, kit, chain4):
    txs = [kit.pay(chain4.coin(0), 1_000 + at) for at in range(4)]
    assert busy.admission.offer(txs, PEER) == []
    await settle(busy)
    assert [job.tx for job in busy.accepted] == txs[:1]
    assert verdicts(busy) == [("txn-mempool-conflict", False)] * 3
    assert busy.admission._queue_bytes == 0
    assert busy.admission._queued == {}


async def test_what_waits_can_be_found_and_is_not_queued_twice(node, kit, chain4):
    admission = node.open_admission()
    tx = kit.pay(chain4.coin(0))
    assert admission.offer([tx, tx], PEER) == []
    assert (admission.backlog, admission.find(tx.wtxid), admission.find(bytes(32))) == (1, tx, None)
    node.add(kit.pay(chain4.coin(1)))
    assert admission.offer([kit.pay(chain4.coin(1))], PEER) == []
    assert admission.backlog == 1


async def test_the_queue_has_a_budget(node, kit, chain4, monkeypatch):
    admission = node.open_admission()
    txs = [kit.pay(chain4.coin(at)) for at in range(3)]
    monkeypatch.setattr(
        module, "ADMISSION_QUEUE_BYTES", 2 * (len(txs[0].raw) + 1 + module.JOB_OVERHEAD_BYTES)
    )
    assert admission.offer(txs, PEER) == txs[2:]
    assert admission.dropped == 1
    assert await submit(node, txs[2]) == "admission-queue-full"


async def test_a_batch_is_bounded_in_bytes_and_number(node, kit, chain4, monkeypatch):
    admission = node.open_admission()
    txs = [kit.pay(chain4.coin(at)) for at in range(6)]
    admission.offer(txs, PEER)
    monkeypatch.setattr(module, "ADMISSION_BATCH_BYTES", 2 * len(txs[0].raw) + 10)
    assert len(admission._take()) == 2
    monkeypatch.setattr(module, "ADMISSION_BATCH_TXS", 1)
    assert len(admission._take()) == 1
    monkeypatch.setattr(module, "ADMISSION_BATCH_BYTES", 1)
    assert len(admission._take()) == 1  # one is always taken, however large


# ---- orphans -----------------------------------------------------------------------------------


async def test_an_orphan_waits_for_its_parent(busy, kit, chain4):
    parent = kit.pay(chain4.coin(0))
    child = kit.pay(outpoint(parent.txid, 0), 5_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    busy.admission.offer([child], PEER)
    await settle(busy)
    assert (busy.admission.orphans, busy.refused) == (1, [])
    busy.admission.offer([parent], PEER)
    async with asyncio.timeout(5):
        while len(busy.accepted) < 2:
            await asyncio.sleep(0)
    assert [job.tx for job in busy.accepted] == [parent, child]
    assert busy.admission.orphans == 0


async def test_a_block_brings_parents_too(busy, kit, chain4):
    parent = kit.pay(chain4.coin(0))
    child = kit.pay(outpoint(parent.txid, 0), 5_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    busy.admission.offer([child], PEER)
    await settle(busy)
    busy.extend([parent])
    busy.mempool.connect([parent], busy.chain.ground(), 0)
    busy.admission.retry_orphans({parent.txid})
    await settle(busy)
    assert [job.tx for job in busy.accepted] == [child]


async def test_orphans_that_make_room_are_given_back(busy, kit, monkeypatch):
    """Gossip must forget them, or it would never ask for them again."""
    monkeypatch.setattr(module, "MAX_ORPHANS_PER_PEER", MAX_ORPHANS)
    orphans = [
        Transaction.build(2, [TxIn(at.to_bytes(36, "little"), b"")], kit.pay(bytes(36)).vout)
        for at in range(MAX_ORPHANS + 2)
    ]
    busy.admission.offer(orphans, PEER)
    await settle(busy)
    assert busy.admission.orphans == MAX_ORPHANS
    assert [(job.tx, code, blame) for job, code, blame in busy.refused] == [
        (tx, "bad-txns-inputs-missingorspent", False) for tx in orphans[:2]
    ]


def test_orphans_are_bounded_in_bytes(kit, monkeypatch):
    monkeypatch.setattr(module, "MAX_ORPHAN_BYTES", 500)
    orphans = module.Orphans()
    jobs = [module.Job(kit.pay(at.to_bytes(36, "little")), PEER, None) for at in range(3)]
    assert [orphans.add(job, 0) for job in jobs[:2]] == [[], []]
    assert orphans.add(jobs[1], 0) == []  # the same again: one place
    assert orphans.add(jobs[2], 0) == [jobs[0]]
    assert orphans.take_children({jobs[2].tx.prevouts[0][:32]}) == [jobs[2]]
    assert orphans.take_children({bytes(31) + b"x"}) == []
    assert len(orphans) == 1


def orphan(kit, number, source=PEER):
    return module.Job(kit.pay(number.to_bytes(36, "little")), source, None)


def test_a_peer_has_few_orphans_and_cannot_push_out_those_of_others(kit, monkeypatch):
    monkeypatch.setattr(module, "MAX_ORPHANS_PER_PEER", 3)
    orphans = module.Orphans()
    other = orphan(kit, 99, source=6)
    orphans.add(other, 0)
    jobs = [orphan(kit, at) for at in range(5)]
    assert [orphans.add(job, 0) for job in jobs] == [[], [], [], [jobs[0]], [jobs[1]]]
    assert orphans.take_children({other.tx.prevouts[0][:32]}) == [other]
    assert len(orphans) == 3


def test_orphans_expire(kit):
    orphans = module.Orphans()
    old, young = orphan(kit, 0), orphan(kit, 1)
    orphans.add(old, 0)
    orphans.add(young, 1_000)
    assert orphans.expire(module.ORPHAN_EXPIRY_MS - 1) == []
    assert orphans.add(orphan(kit, 2), module.ORPHAN_EXPIRY_MS) == [old]
    assert orphans.expire(module.ORPHAN_EXPIRY_MS + 1_000) == [young]
    assert len(orphans) == 1


def test_orphans_leave_with_their_peer(kit):
    orphans = module.Orphans()
    jobs = [orphan(kit, at) for at in range(3)]
    other = orphan(kit, 9, source=6)
    for job in (*jobs, other):
        orphans.add(job, 0)
    assert orphans.drop_peer(PEER) == jobs
    assert orphans.drop_peer(PEER) == []
    assert (len(orphans), orphans._bytes, list(orphans._of_peer)) == (1, len(other.tx.raw), [6])


async def test_gossip_forgets_the_orphans_of_a_lost_peer(busy, kit, chain4):
    child = kit.pay(bytes(36))
    busy.admission.offer([child], PEER)
    await settle(busy)
    assert busy.admission.orphans == 1
    busy.admission.peer_lost(PEER)
    assert busy.admission.orphans == 0
    assert [(job.tx, code, blame) for job, code, blame in busy.refused] == [
        (child, "bad-txns-inputs-missingorspent", False)
    ]


async def test_unknown_parents_are_asked_for(busy, kit, chain4):
    """Those that are confirmed or pending are not."""
    pending = busy.add(kit.pay(chain4.coin(0))).tx
    asked = []
    busy.admission._on_orphan = lambda job, parents: asked.append((job.source, parents))
    child = kit.pay([chain4.coin(1), b"p" * 36, outpoint(pending.txid, 1), b"p" * 32 + bytes(4)])
    busy.admission.offer([child], PEER)
    await settle(busy)
    assert asked == [(PEER, [b"p" * 32])]


# ---- faults and ends ---------------------------------------------------------------------------


async def test_a_crash_in_the_checks_refuses_the_transaction_only(busy, kit, chain4, monkeypatch, caplog):
    bad, good = kit.pay(chain4.coin(0)), kit.pay(chain4.coin(1))
    check = busy.mempool.check

    def crash(tx, *rest):
        if tx == bad:
            raise IndexError("bug")
        return check(tx, *rest)

    monkeypatch.setattr(busy.mempool, "check", crash)
    assert await submit(busy, bad) == "transaction-crash"
    assert await submit(busy, good) == ""
    busy.admission.offer([bad], PEER)
    await settle(busy)
    assert verdicts(busy) == [("transaction-crash", False)]
    assert "crashed its checks" in caplog.text


async def test_no_client_waits_for_ever_when_it_stops(busy, kit, chain4, monkeypatch):
    blocked = asyncio.Event()

    async def check_many(items):
        blocked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(busy.verifier, "check_many", check_many)
    waiting = [asyncio.create_task(submit(busy, kit.pay(chain4.coin(at)))) for at in range(2)]
    await blocked.wait()
    waiting.append(asyncio.create_task(submit(busy, kit.pay(chain4.coin(2)))))
    await asyncio.sleep(0)
    busy.task.cancel()
    assert await asyncio.gather(*waiting) == ["node-stopping"] * 3
    assert await submit(busy, kit.pay(chain4.coin(3))) == "node-stopping"


async def test_a_failing_disk_ends_it_and_answers_everybody(busy, kit, chain4, monkeypatch):
    def fail(*_):
        raise StorageError("disk-failed", "no")

    monkeypatch.setattr(busy.mempool, "check", fail)
    assert await submit(busy, kit.pay(chain4.coin(0))) == "node-stopping"
    with pytest.raises(StorageError):
        await busy.task


async def test_a_client_that_left_disturbs_nobody(busy, kit, chain4):
    tx = kit.pay(chain4.coin(0))
    task = asyncio.create_task(busy.admission.submit(tx))
    await asyncio.sleep(0)
    task.cancel()
    assert await submit(busy, kit.pay(chain4.coin(1))) == ""
    assert busy.mempool.get(tx.txid) is not None


async def test_each_of_many_submissions_gets_its_own_verdict(busy, kit, chain4):
    good, dear, later = kit.pay(chain4.coin(0)), kit.pay(chain4.coin(1), fee=50_000), kit.pay(chain4.coin(2))
    child = kit.pay(outpoint(good.txid, 1), 1_000, have=good.vout[1].value)
    forged = kit.unsigned(kit.pay(chain4.coin(3)))
    txs = [good, dear, good, child, kit.pay(bytes(36)), forged, later]
    rate = 50_000 * 1000 // dear.vsize
    faults = await busy.admission.submit_many(txs, [rate - 1] * len(txs))
    assert [fault and fault.code for fault in faults] == [
        None,
        "max-fee-exceeded",
        "txn-already-in-mempool",
        None,
        "bad-txns-inputs-missingorspent",
        "mandatory-script-verify-flag-failed",
        None,
    ]
    assert await busy.admission.submit_many([dear], [rate + 1]) == [None]
    assert {entry.tx for entry in busy.mempool.entries()} == {good, dear, child, later}
    assert await busy.admission.submit_many([], []) == []
    assert busy.admission._queue_bytes == 0
    assert busy.refused == []


async def test_what_the_queue_has_no_room_for_does_not_hold_up_the_rest(busy, kit, chain4, monkeypatch):
    txs = [kit.pay(chain4.coin(at)) for at in range(3)]
    room = 2 * (len(txs[0].raw) + 1 + module.JOB_OVERHEAD_BYTES)
    monkeypatch.setattr(module, "ADMISSION_QUEUE_BYTES", room)
    faults = await busy.admission.submit_many(txs, [0, 0, 0])
    assert [fault and fault.code for fault in faults] == [None, None, "admission-queue-full"]
    assert await busy.admission.submit_many(txs[2:], [0]) == [None]
