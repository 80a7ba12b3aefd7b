"""The mempool over a real chain state: what it takes, in which order it gives, what leaves and why."""

import pytest

from consensus.errors import RuleError, StorageError
from consensus.script.templates import data_carrier
from consensus.transaction import Transaction, TxIn, TxOut, outpoint
from contracts.operations import Deposit, Withdraw
from node import mempool as module
from node.limits import MAX_PENDING_PER_ACCOUNT
from node.mempool import Mempool, Staging, try_operation

ROOM = 1_600
"""Bytes of the budget that a payment takes, and a little."""


def refusal(node, tx, staging=None):
    """Return (code, permanent) of the rejection of ``tx``."""
    try:
        node.mempool.add(node.mempool.check(tx, staging or Staging(), node.clock.now_s()))
    except RuleError as error:
        return error.code, error.permanent
    return "", False


def accounts_for(mempool):
    """Return (bytes, fees, virtual bytes) as the entries say, to compare with the running totals."""
    entries = list(mempool.entries())
    return (
        sum(entry.cost_bytes for entry in entries),
        sum(entry.fee for entry in entries),
        sum(entry.tx.vsize for entry in entries),
    )


def totals(mempool):
    return mempool.bytes_used, mempool.fee_total, mempool.vsize_total


def test_a_payment_is_found_by_every_key(node, kit, chain4):
    tx = kit.pay(chain4.coin(0))
    entry = node.add(tx)
    pool = node.mempool
    assert (pool.count, len(pool), pool.get(tx.txid), pool.by_wtxid(tx.wtxid)) == (1, 1, entry, tx)
    assert pool.spender(chain4.coin(0)) == tx.txid
    assert pool.coin(outpoint(tx.txid, 0))[12:] == kit.OTHER.script
    assert pool.coin(outpoint(tx.txid, 2)) is None
    assert pool.coin(chain4.coin(0)) == entry.spent[0]  # confirmed, though spent in the pool
    assert (entry.fee, entry.rate, entry.ancestor_count, entry.account) == (
        kit.FEE,
        kit.FEE * 1000 // tx.vsize,
        1,
        None,
    )
    assert totals(pool) == accounts_for(pool)


def test_rejections_without_a_look_at_coins(node, kit, chain4):
    coin = chain4.coin(0)
    good = kit.pay(coin)
    no_input = TxIn(bytes(32) + b"\xff" * 4, b"\x01\x01")
    payload = data_carrier(b"WT\x01\xff")
    cases = {
        ("bad-txns-vout-empty", True): Transaction.build(2, [TxIn(coin, b"")], []),
        ("bad-txns-inputs-duplicate", True): Transaction.build(2, [TxIn(coin, b"")] * 2, good.vout),
        ("coinbase", True): Transaction.build(2, [no_input], good.vout),
        ("bad-op-encoding", True): Transaction.build(2, [TxIn(coin, b"")], [TxOut(0, payload), *good.vout]),
    }
    for expected, tx in cases.items():
        assert refusal(node, tx) == expected


def test_rejections_by_coins_and_chain(node, kit, chain4):
    coin = chain4.coin(0)
    assert refusal(node, kit.pay(bytes(36))) == ("bad-txns-inputs-missingorspent", False)
    assert refusal(node, kit.pay(coin, 2 * kit.TOKEN, fee=-kit.TOKEN)) == ("bad-txns-in-belowout", True)
    assert refusal(node, kit.pay(coin, fee=10)) == ("min-fee-not-met", True)
    later = Transaction.build(2, [TxIn(coin, b"", 0)], kit.pay(coin).vout, 1_000)
    assert refusal(node, later) == ("bad-txns-nonfinal", False)
    relative = Transaction.build(2, [TxIn(coin, b"", 5)], kit.pay(coin).vout)
    assert refusal(node, relative) == ("bad-txns-nonfinal", False)
    assert node.mempool.count == 0


def test_what_is_in_the_pool_or_in_the_chain_is_told_apart(node, kit, chain4):
    tx = kit.pay(chain4.coin(0))
    node.add(tx)
    assert refusal(node, tx) == ("txn-already-in-mempool", False)
    assert refusal(node, kit.pay(chain4.coin(0), 5_000)) == ("txn-mempool-conflict", False)
    done = kit.pay(chain4.coin(1))
    node.extend([done])
    node.mempool.connect([done], node.chain.ground(), node.clock.now_s())
    assert refusal(node, done) == ("txn-already-known", False)


def test_many_outputs_do_not_cost_many_reads(node, kit, chain4, monkeypatch):
    reads = []
    coins = node.chain.ground().coins
    outputs = [TxOut(1, kit.OTHER.script)] * 2_500
    tx = Transaction.build(2, [TxIn(bytes(36), b"")], outputs)
    monkeypatch.setattr(node.mempool._ground.coins, "get", lambda key: reads.append(key) or None)
    assert refusal(node, tx) == ("bad-txns-inputs-missingorspent", False)
    assert len(reads) < 10
    assert coins is node.mempool._ground.coins


def test_the_tip_may_move_between_check_and_add(node, kit, chain4):
    """Both checks of a transaction lie on either side of the signature checks."""
    tx, rival = kit.pay(chain4.coin(0)), kit.pay(chain4.coin(0), 7_000)
    entry = node.mempool.check(tx, Staging(), 0)
    node.extend([rival])
    node.mempool.connect([rival], node.chain.ground(), 0)
    with pytest.raises(RuleError, match="bad-txns-inputs-missingorspent"):
        node.mempool.add(entry)
    first, second = kit.pay(chain4.coin(1)), kit.pay(chain4.coin(1), 7_000)
    early = node.mempool.check(first, Staging(), 0)
    node.add(second)
    with pytest.raises(RuleError, match="txn-mempool-conflict"):
        node.mempool.add(early)
    node.mempool.remove_with_descendants(second.txid)
    node.mempool.add(early)
    with pytest.raises(RuleError, match="txn-already-in-mempool"):
        node.mempool.add(early)


def test_a_batch_sees_its_own_parents_and_rivals(node, kit, chain4):
    staging = Staging()
    parent = kit.pay(chain4.coin(0))
    child = kit.pay(outpoint(parent.txid, 0), 5_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    staging.add(node.mempool.check(parent, staging, 0))
    entry = node.mempool.check(child, staging, 0)
    assert entry.parents == (parent.txid,)
    rival = kit.pay(chain4.coin(0), 6_000)
    assert staging.rivals(rival)
    assert staging.rivals(parent)
    assert not staging.rivals(child)
    assert refusal(node, rival, staging) == ("txn-mempool-conflict", False)
    assert refusal(node, parent, staging) == ("txn-already-in-mempool", False)
    with pytest.raises(RuleError, match="bad-txns-inputs-missingorspent"):
        node.mempool.add(entry)  # the parent failed its signatures


def test_an_unspendable_output_is_no_coin(node, kit, chain4):
    tx = kit.RICH.sign(
        Transaction.build(
            2, [TxIn(chain4.coin(0), b"")], [TxOut(0, b"\x6a\x01x"), TxOut(9, kit.OTHER.script)]
        )
    )
    node.add(tx)
    assert refusal(node, kit.pay(outpoint(tx.txid, 0))) == ("bad-txns-inputs-missingorspent", False)


# ---- templates ---------------------------------------------------------------------------------


def test_candidates_come_by_package_rate_with_parents_first(node, kit, chain4):
    cheap = kit.pay(chain4.coin(0), fee=500)
    dear = kit.pay(chain4.coin(1), kit.TOKEN // 2 - 4_500, fee=5_000)
    child = kit.pay(outpoint(cheap.txid, 0), 1_000, payer=kit.OTHER, have=kit.TOKEN // 2, fee=9_000)
    both = kit.pay(
        [outpoint(dear.txid, 1), outpoint(cheap.txid, 1)],
        1_000,
        have=kit.TOKEN // 2 - 500,
        fee=2_000,
    )
    middle = kit.pay(chain4.coin(2), fee=3_000)
    for tx in (cheap, middle, dear, child, both):
        node.add(tx)
    order = list(node.mempool.candidates(set()))
    assert order == [dear, cheap, child, middle, both]
    assert list(node.mempool.candidates({cheap.txid, dear.txid})) == [child, middle, both]


# ---- leaving -----------------------------------------------------------------------------------


def test_a_block_confirms_and_evicts(node, kit, chain4):
    kept, confirmed = kit.pay(chain4.coin(0), fee=1_100), kit.pay(chain4.coin(1))
    child = kit.pay(outpoint(confirmed.txid, 0), 1_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    loser = kit.pay(chain4.coin(2))
    orphaned = kit.pay(outpoint(loser.txid, 0), 1_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    for tx in (kept, confirmed, child, loser, orphaned):
        node.add(tx)
    rival = kit.pay(chain4.coin(2), 7_000)
    block = node.extend([confirmed, rival]).block
    evicted = node.mempool.connect(block.txs[1:], node.chain.ground(), node.clock.now_s())
    assert {tx.txid for tx in evicted} == {loser.txid, orphaned.txid}
    assert {entry.tx for entry in node.mempool.entries()} == {kept, child}
    assert list(node.mempool.candidates(set())) == [kept, child]
    assert totals(node.mempool) == accounts_for(node.mempool)


def test_the_lowest_rate_leaves_a_full_pool_with_what_spends_it(make_node, kit, chain4):
    node = make_node(chain4, max_bytes=4 * ROOM)
    low = kit.pay(chain4.coin(0), fee=500)
    child = kit.pay(outpoint(low.txid, 0), 1_000, payer=kit.OTHER, have=kit.TOKEN // 2, fee=510)
    for tx in (low, child, kit.pay(chain4.coin(1), fee=600), kit.pay(chain4.coin(2), fee=700)):
        node.add(tx)
    entry = node.mempool.check(kit.pay(chain4.coin(3), fee=800), Staging(), 0)
    assert set(node.mempool.add(entry)) == {low, child}
    node.add(kit.pay(chain4.coin(4), fee=900))
    assert refusal(node, kit.pay(chain4.coin(6), fee=510)) == ("mempool min fee not met", False)
    assert node.mempool.bytes_used <= node.mempool.max_bytes
    assert totals(node.mempool) == accounts_for(node.mempool)


def test_who_is_below_everything_that_waits_finds_a_full_pool(make_node, kit, chain4):
    node = make_node(chain4, max_bytes=2 * ROOM)
    for at in range(2):
        node.add(kit.pay(chain4.coin(at), fee=900))
    assert refusal(node, kit.pay(chain4.coin(2), fee=510)) == ("mempool full", False)
    assert node.mempool.count == 2


def test_of_equal_rates_the_newest_leaves(make_node, kit, chain4):
    node = make_node(chain4, max_bytes=2 * ROOM)
    alike = [tx for at in range(10) if (tx := kit.pay(chain4.coin(at), fee=904)).vsize == 226]
    kept, newest = (node.add(tx).tx for tx in alike[:2])
    entry = node.mempool.check(kit.pay(chain4.coin(10), fee=2_000), Staging(), 0)
    assert len({each.rate for each in node.mempool.entries()}) == 1
    assert node.mempool.add(entry) == [newest]
    assert node.mempool.get(kept.txid) is not None


def test_many_small_parts_count_for_what_they_take(node, kit, chain4):
    outputs = [TxOut(1, b"\x51")] * 1_000
    node.add(kit.RICH.sign(Transaction.build(2, [TxIn(chain4.coin(0), b"")], outputs)))
    [entry] = node.mempool.entries()
    assert entry.cost_bytes > 10 * len(entry.tx.raw)


def test_the_pool_empties_to_nothing(node, kit, chain4):
    """Rates, spenders, accounts and totals: nothing stays behind."""
    txs = [kit.pay(chain4.coin(at), fee=500 + 7 * at) for at in range(10)]
    txs += [kit.operate(chain4.coin(10 + at), Deposit(), value=5_000, fee=1_000 + at) for at in range(5)]
    for tx in txs:
        node.add(tx)
    for tx in txs[::2] + txs[1::2]:
        assert node.mempool.remove_with_descendants(tx.txid) == [tx]
    assert node.mempool.remove_with_descendants(txs[0].txid) == []
    pool = node.mempool
    assert totals(pool) == (0, 0, 0)
    graph = pool._graph
    tables = (pool._entries, pool._by_wtxid, pool._spenders, pool._operations, pool._pending_of)
    indexes = (graph._children, graph.by_eviction._buckets, graph.by_mining._buckets, graph.by_mining.rates)
    assert [len(table) for table in (*tables, *indexes, graph.by_eviction.rates)] == [0] * 10


# ---- operations --------------------------------------------------------------------------------


def test_operations_run_on_what_is_pending(node, kit, chain4):
    """A withdrawal needs the deposit that no block holds yet."""
    withdraw = kit.operate(chain4.coin(0), Withdraw(40_000))
    assert refusal(node, withdraw) == ("insufficient-balance", False)
    node.add(kit.operate(chain4.coin(1), Deposit(), value=50_000))
    node.add(withdraw)
    assert refusal(node, kit.operate(chain4.coin(2), Withdraw(40_000))) == ("insufficient-balance", False)
    assert node.mempool.get(withdraw.txid).account == kit.RICH.script


def test_operations_run_again_on_a_new_tip(node, kit, chain4):
    deposit = kit.operate(chain4.coin(0), Deposit(), value=50_000)
    withdraw = kit.operate(chain4.coin(1), Withdraw(40_000))
    paying = kit.pay(outpoint(withdraw.txid, 1), 1_000, have=kit.TOKEN - kit.FEE)
    for tx in (deposit, withdraw, paying):
        node.add(tx)
    rival = kit.pay(chain4.coin(0))
    node.extend([rival])
    evicted = node.mempool.connect([rival], node.chain.ground(), node.clock.now_s())
    assert {tx.txid for tx in evicted} == {deposit.txid, withdraw.txid, paying.txid}
    assert totals(node.mempool) == (0, 0, 0)


def test_an_account_has_few_operations_pending_even_in_one_batch(node, kit, chain4):
    """All of a batch are checked before the first of it is added."""
    operations = [
        kit.operate(chain4.coin(at), Deposit(), value=5_000) for at in range(MAX_PENDING_PER_ACCOUNT + 1)
    ]
    staging = Staging()
    entries = [node.mempool.check(tx, staging, 0) for tx in operations]
    for entry in entries[:-1]:
        node.mempool.add(entry)
    with pytest.raises(RuleError, match="too-many-pending-operations"):
        node.mempool.add(entries[-1])
    assert refusal(node, operations[-1]) == ("too-many-pending-operations", False)
    node.mempool.remove_with_descendants(operations[0].txid)
    node.mempool.add(entries[-1])


def test_all_accounts_together_have_a_bound(node, kit, chain4, monkeypatch):
    monkeypatch.setattr(module, "MAX_PENDING_OPERATIONS", 2)
    for at in range(2):
        node.add(kit.operate(chain4.coin(at), Deposit(), value=5_000))
    assert refusal(node, kit.operate(chain4.coin(2), Deposit(), value=5_000)) == (
        "too-many-pending-operations",
        False,
    )
    node.add(kit.pay(chain4.coin(3)))


class Scripted:
    """A session that raises what the test says, by transaction id."""

    def __init__(self):
        self.faults = {}
        self.ran = []

    def execute(self, tx, spent):
        self.ran.append(tx.txid)
        if tx.txid in self.faults:
            raise self.faults[tx.txid]


@pytest.fixture
def scripted(node, monkeypatch):
    session = Scripted()
    monkeypatch.setattr(node.chain, "open_session", lambda now_s: session)
    node.mempool._ground = node.chain.ground()
    return session


def test_a_crashing_contract_refuses_the_transaction_only(node, kit, chain4, scripted, caplog):
    """DESIGN section 4: discard, refuse, log; the node lives on."""
    bad, good = (kit.operate(chain4.coin(at), Deposit(), value=5_000) for at in range(2))
    scripted.faults[bad.txid] = ZeroDivisionError("bug")
    assert refusal(node, bad) == ("contract-crash", True)
    assert "contract crashed" in caplog.text
    node.add(good)
    scripted.faults[good.txid] = KeyError("bug on the new tip")
    assert node.mempool.connect([], node.chain.ground(), 0) == [good]
    assert node.mempool.count == 0


def test_a_failing_disk_is_no_fault_of_the_transaction(node, kit, chain4, scripted):
    tx = kit.operate(chain4.coin(0), Deposit(), value=5_000)
    scripted.faults[tx.txid] = StorageError("disk-failed", "no")
    with pytest.raises(StorageError):
        node.add(tx)


def test_a_trial_leaves_out_what_time_has_overtaken(node, kit, chain4, scripted):
    stale, fresh = (kit.operate(chain4.coin(at), Deposit(), value=5_000) for at in range(2))
    node.add(stale)
    node.add(fresh)
    scripted.faults[stale.txid] = RuleError("gate-closed")
    scripted.ran.clear()
    assert node.mempool.trial(0) is scripted
    assert scripted.ran == [stale.txid, fresh.txid]


def test_try_operation_passes_rule_errors_on(node, kit, chain4, scripted):
    entry = node.add(kit.operate(chain4.coin(0), Deposit(), value=5_000))
    scripted.faults[entry.tx.txid] = RuleError("gate-closed")
    with pytest.raises(RuleError, match="gate-closed"):
        try_operation(scripted, entry)


def test_an_empty_pool_gives_nothing(node):
    pool: Mempool = node.mempool
    assert (list(pool.candidates(set())), pool.wtxids(), pool.get(bytes(32)), pool.by_wtxid(bytes(32))) == (
        [],
        [],
        None,
        None,
    )
