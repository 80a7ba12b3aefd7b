"""Replacement (BIP125) and double spends; cases after Bitcoin Core's feature_rbf test."""

import asyncio

import pytest

from consensus.errors import RuleError
from consensus.transaction import Transaction, TxIn, TxOut, outpoint
from contracts.operations import Deposit
from node import mempool_policy
from node.limits import MAX_ANCESTORS
from node.mempool import Conflict, DoubleSpend, Mempool, Staging

SIGNAL = 0xFFFFFFFD
PEER = 5


def refusal(node, tx, staging=None):
    try:
        node.mempool.add(node.mempool.check(tx, staging or Staging(), node.clock.now_s()))
    except RuleError as error:
        return error.code, error.permanent
    return "", False


@pytest.fixture
def spend(kit):
    """Return payments of RICH to itself: coins of ``have`` each to ``outputs`` parts, signalling."""

    def make(prevouts, *, fee=1_000, have=kit.TOKEN, outputs=2, sequence=SIGNAL):
        prevouts = [prevouts] if isinstance(prevouts, bytes) else prevouts
        total = have * len(prevouts)
        share = (total - fee) // outputs
        parts = [TxOut(share, kit.RICH.script)] * (outputs - 1)
        parts.append(TxOut(total - fee - share * (outputs - 1), kit.RICH.script))
        return kit.RICH.sign(
            Transaction.build(2, [TxIn(prevout, b"", sequence) for prevout in prevouts], parts)
        )

    return make


@pytest.fixture
def heard(make_node, chain4):
    """A node that notes its double-spend events."""
    node = make_node(chain4)
    node.events = []
    node.mempool = Mempool(
        node.chain.ground(),
        node.contracts,
        chain4.params.ledger,
        max_bytes=1 << 20,
        on_double_spend=node.events.append,
    )
    return node


def test_a_signalling_transaction_is_replaced_with_its_descendants(node, chain4, spend):
    old = spend(chain4.coin(0))
    child = spend(outpoint(old.txid, 0), have=old.vout[0].value)
    other = spend(chain4.coin(1))
    for tx in (old, child, other):
        node.add(tx)
    new = spend(chain4.coin(0), fee=9_000)
    entry = node.mempool.check(new, Staging(), 0)
    assert set(node.mempool.add(entry)) == {old, child}
    assert {each.tx for each in node.mempool.entries()} == {other, new}
    assert node.mempool.spender(chain4.coin(0)) == new.txid
    assert node.mempool.replaceable(new.txid)


def test_a_check_changes_nothing(node, chain4, spend):
    old = spend(chain4.coin(0))
    node.add(old)
    node.mempool.check(spend(chain4.coin(0), fee=9_000), Staging(), 0)
    assert [entry.tx for entry in node.mempool.entries()] == [old]


@pytest.mark.parametrize("sequence", [0xFFFFFFFE, 0xFFFFFFFF])
def test_without_the_signal_the_first_stays(node, chain4, spend, sequence):
    old = spend(chain4.coin(0), sequence=sequence)
    node.add(old)
    assert refusal(node, spend(chain4.coin(0), fee=90_000)) == ("txn-mempool-conflict", False)
    assert node.mempool.get(old.txid) is not None
    assert not node.mempool.replaceable(old.txid)


def test_every_conflict_must_signal(node, chain4, spend):
    node.add(spend(chain4.coin(0)))
    node.add(spend(chain4.coin(1), sequence=0xFFFFFFFF))
    both = spend([chain4.coin(0), chain4.coin(1)], fee=90_000)
    assert refusal(node, both) == ("txn-mempool-conflict", False)
    assert node.mempool.count == 2


def test_full_rbf_needs_no_signal(make_node, chain4, spend):
    node = make_node(chain4)
    node.mempool.full_rbf = True
    node.add(spend(chain4.coin(0), sequence=0xFFFFFFFF))
    assert refusal(node, spend(chain4.coin(0), fee=9_000)) == ("", False)


def test_a_child_of_a_signalling_transaction_is_replaceable(node, chain4, spend):
    parent = spend(chain4.coin(0))
    child = spend(outpoint(parent.txid, 0), have=parent.vout[0].value, sequence=0xFFFFFFFF)
    for tx in (parent, child):
        node.add(tx)
    assert node.mempool.replaceable(child.txid)


def test_a_signal_is_not_inherited_when_the_child_itself_is_contended(node, chain4, spend):
    """As in Bitcoin Core: what conflicts must signal itself."""
    parent = spend(chain4.coin(0))
    prevout, have = outpoint(parent.txid, 0), parent.vout[0].value
    node.add(parent)
    node.add(spend(prevout, have=have, sequence=0xFFFFFFFF))
    assert refusal(node, spend(prevout, have=have, fee=9_000)) == ("txn-mempool-conflict", False)


def test_the_fee_rate_must_rise(node, chain4, spend):
    """More fee in all, but less per byte: a larger transaction in place of a small one."""
    node.add(spend(chain4.coin(0), fee=2_000))
    with pytest.raises(RuleError, match="old feerate") as refused:
        node.mempool.check(spend(chain4.coin(0), fee=4_000, outputs=40), Staging(), 0)
    assert (refused.value.code, refused.value.permanent) == ("insufficient fee", False)


def test_the_same_fee_rate_is_not_enough(node, chain4, spend):
    """However much more a larger transaction pays in all."""
    rate = node.add(spend(chain4.coin(0), fee=2_000)).rate
    size = spend(chain4.coin(0), fee=4_000, outputs=40).vsize
    fees = range(rate * (size - 2) // 1000, rate * (size + 2) // 1000 + 2)
    larger = [spend(chain4.coin(0), fee=fee, outputs=40) for fee in fees]
    same = [tx for fee, tx in zip(fees, larger, strict=True) if fee * 1000 // tx.vsize == rate]
    assert same
    assert [refusal(node, tx)[0] for tx in same] == ["insufficient fee"] * len(same)
    assert refusal(node, spend(chain4.coin(0), fee=fees[-1] + 20, outputs=40)) == ("", False)


def test_the_fees_of_all_that_leaves_are_paid(node, chain4, spend):
    old = spend(chain4.coin(0), fee=1_000)
    child = spend(outpoint(old.txid, 0), have=old.vout[0].value, fee=50_000)
    for tx in (old, child):
        node.add(tx)
    with pytest.raises(RuleError, match="less fees than conflicting") as refused:
        node.mempool.check(spend(chain4.coin(0), fee=50_999), Staging(), 0)
    assert refused.value.code == "insufficient fee"


def test_the_incremental_rate_is_paid_on_top(node, chain4, spend):
    old = spend(chain4.coin(0), fee=1_000)
    node.add(old)
    step = -(-node.mempool.incremental_per_kvb * old.vsize // 1000)
    with pytest.raises(RuleError, match="not enough additional fees") as refused:
        node.mempool.check(spend(chain4.coin(0), fee=1_000 + step - 3), Staging(), 0)
    assert refused.value.code == "insufficient fee"
    assert refusal(node, spend(chain4.coin(0), fee=1_000 + step + 3)) == ("", False)


def test_few_are_replaced_at_once(node, chain4, spend, monkeypatch):
    monkeypatch.setattr(mempool_policy, "MAX_REPLACED", 4)
    for at in range(2):
        tx = spend(chain4.coin(at))
        node.add(tx)
        node.add(spend(outpoint(tx.txid, 0), have=tx.vout[0].value))
    coins = [chain4.coin(0), chain4.coin(1)]
    extra = spend(chain4.coin(2))
    node.add(extra)
    assert refusal(node, spend([*coins, chain4.coin(2)], fee=90_000)) == (
        "too many potential replacements",
        False,
    )
    assert refusal(node, spend(coins, fee=90_000)) == ("", False)


def test_no_new_unconfirmed_inputs(node, chain4, spend):
    parent, old = spend(chain4.coin(0)), spend(chain4.coin(1))
    for tx in (parent, old):
        node.add(tx)
    have = parent.vout[0].value
    new = spend([chain4.coin(1), outpoint(parent.txid, 0)], fee=90_000, have=have)
    assert refusal(node, new) == ("replacement-adds-unconfirmed", False)


def test_unconfirmed_inputs_that_were_there_may_stay(node, chain4, spend):
    parent = spend(chain4.coin(0))
    node.add(parent)
    prevout, have = outpoint(parent.txid, 0), parent.vout[0].value
    node.add(spend(prevout, have=have))
    assert refusal(node, spend(prevout, have=have, fee=9_000)) == ("", False)
    assert node.mempool.get(parent.txid).descendant_count == 2


def test_nobody_replaces_his_own_parent(node, chain4, spend):
    old = spend(chain4.coin(0))
    node.add(old)
    own_child = spend([chain4.coin(0), outpoint(old.txid, 0)], fee=90_000, have=old.vout[0].value)
    assert refusal(node, own_child)[0] == "bad-txns-spends-conflicting-tx"


def test_what_leaves_makes_room_in_a_chain(node, kit, chain4, spend):
    """The last of 25 may be replaced: there are still 25."""
    prevout, have = chain4.coin(0), kit.TOKEN
    for _ in range(MAX_ANCESTORS):
        tx = spend(prevout, have=have, outputs=1)
        node.add(tx)
        last, prevout, had, have = prevout, outpoint(tx.txid, 0), have, tx.vout[0].value
    assert refusal(node, spend(last, have=had, outputs=1, fee=9_000)) == ("", False)
    assert node.mempool.count == MAX_ANCESTORS


def test_an_operation_that_cannot_hold_replaces_nothing(node, kit, chain4, monkeypatch):
    old = node.add(kit.pay(chain4.coin(0))).tx
    node.mempool.full_rbf = True
    new = kit.operate(chain4.coin(0), Deposit(), value=5_000, fee=20_000)

    def refuse(session, entry):
        raise RuleError("gate-closed")

    monkeypatch.setattr("node.mempool.try_operation", refuse)
    assert refusal(node, new)[0] == "gate-closed"
    assert node.mempool.get(old.txid) is not None


# ---- double spends -----------------------------------------------------------------------------


async def admit(node, *txs):
    """Offer transactions as a peer, one batch each, and wait for the verdicts."""
    admission = node.open_admission()
    task = asyncio.create_task(admission.run())
    for tx in txs:
        admission.offer([tx], PEER)
        async with asyncio.timeout(5):
            while admission.backlog or admission._batch:
                await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return [(code, blame) for _, code, blame in node.refused]


async def test_a_signed_rival_is_reported_once(heard, kit, chain4):
    first, second, third = (kit.pay(chain4.coin(0), 1_000 + at) for at in range(3))
    checked = []
    check_many = heard.verifier.check_many

    async def count(items):
        checked.extend(tx for tx, _ in items)
        return await check_many(items)

    heard.verifier.check_many = count
    codes = await admit(heard, first, second, third)
    assert codes == [("txn-mempool-conflict", False)] * 2
    assert heard.events == [DoubleSpend(chain4.coin(0), first.txid, second.txid, confirmed=False)]
    assert checked == [first, second]


async def test_of_many_rivals_in_a_batch_one_is_checked(heard, kit, chain4):
    heard.add(kit.pay(chain4.coin(0)))
    admission = heard.open_admission()
    admission.offer([kit.pay(chain4.coin(0), 7_000 + at) for at in range(4)], PEER)
    sizes = []
    check_many = heard.verifier.check_many

    async def count(items):
        sizes.append(len(items))
        return await check_many(items)

    heard.verifier.check_many = count
    await admission._admit()
    assert sizes == [1]
    assert [code for _, code, _ in heard.refused] == ["txn-mempool-conflict"] * 4
    assert len(heard.events) == 1


async def test_a_forged_rival_is_no_double_spend(heard, kit, chain4):
    first = kit.pay(chain4.coin(0))
    forged = kit.unsigned(kit.pay(chain4.coin(0), 7_000))
    codes = await admit(heard, first, forged)
    assert codes == [("mandatory-script-verify-flag-failed", True)]
    assert heard.events == []
    honest = kit.pay(chain4.coin(0), 8_000)
    heard.refused.clear()
    await admit(heard, honest)
    assert [event.second for event in heard.events] == [honest.txid]


async def test_a_rival_that_arrives_during_the_checks_is_reported(heard, kit, chain4):
    first, second = kit.pay(chain4.coin(0)), kit.pay(chain4.coin(0), 7_000)
    check_many = heard.verifier.check_many

    async def overtake(items):
        if heard.mempool.get(first.txid) is None:
            heard.add(first)
        return await check_many(items)

    heard.verifier.check_many = overtake
    assert await admit(heard, second) == [("txn-mempool-conflict", False)]
    assert [(event.first, event.second) for event in heard.events] == [(first.txid, second.txid)]


def test_a_block_with_a_rival_is_reported(heard, kit, chain4):
    lost, rival = kit.pay(chain4.coin(0)), kit.pay(chain4.coin(0), 7_000)
    heard.add(lost)
    heard.extend([rival])
    assert heard.mempool.connect([rival], heard.chain.ground(), 0) == [lost]
    assert heard.events == [DoubleSpend(chain4.coin(0), lost.txid, rival.txid, confirmed=True)]


def test_a_replacement_is_no_double_spend(heard, chain4, spend):
    heard.add(spend(chain4.coin(0)))
    heard.add(spend(chain4.coin(0), fee=9_000))
    assert heard.events == []


def test_what_was_reported_is_forgotten_in_time(heard, monkeypatch):
    monkeypatch.setattr("node.mempool.MAX_REPORTED_CONFLICTS", 3)
    for at in range(5):
        heard.mempool.report(DoubleSpend(bytes(36), bytes([at]) * 32, bytes(32), confirmed=False))
    assert len(heard.events) == 5
    assert len(heard.mempool._reported) == 3


def test_a_conflict_says_who_was_first(node, kit, chain4):
    first = node.add(kit.pay(chain4.coin(0))).tx
    with pytest.raises(Conflict) as refused:
        node.mempool.check(kit.pay(chain4.coin(0), 7_000), Staging(), 0)
    assert refused.value.event.first == first.txid
