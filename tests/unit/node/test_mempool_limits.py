"""Limits of the pool: chains of unconfirmed transactions, eviction, the dynamic minimum fee, expiry.

The behaviours are those of Bitcoin Core's mempool_packages, mempool_limit and mempool_expiry tests.
"""

from random import Random

import pytest

from consensus.errors import RuleError
from consensus.transaction import Transaction, TxIn, TxOut, outpoint
from node import mempool_graph
from node.limits import FEE_HALF_LIFE_S, MAX_ANCESTORS, MAX_DESCENDANTS, MEMPOOL_EXPIRY_S
from node.mempool import Staging
from node.mempool_graph import ancestor_score, descendant_score
from node.mempool_policy import RollingFee

ROOM = 1_600


def refusal(node, tx, staging=None):
    try:
        node.mempool.add(node.mempool.check(tx, staging or Staging(), node.clock.now_s()))
    except RuleError as error:
        return error.code, error.permanent
    return "", False


def chain(kit, prevout, length, *, fee=None, have=None):
    """Return payments in a row, each spending the change of the one before."""
    have = have or kit.TOKEN
    txs = []
    for _ in range(length):
        txs.append(kit.pay(prevout, 1_000, have=have, fee=fee or kit.FEE))
        prevout, have = outpoint(txs[-1].txid, 1), txs[-1].vout[1].value
    return txs


def fan(kit, prevout, width):
    """Return a payment with ``width`` outputs back to the payer, and one spender of each."""
    share = (kit.TOKEN - 50_000) // width
    root = kit.RICH.sign(Transaction.build(2, [TxIn(prevout, b"")], [TxOut(share, kit.RICH.script)] * width))
    return root, [kit.pay(outpoint(root.txid, at), 1_000, have=share) for at in range(width)]


def check_totals(pool):
    """Compare the running totals and both orders with what the entries say."""
    places = {}
    for index, score in (
        (pool._graph.by_eviction, descendant_score),
        (pool._graph.by_mining, ancestor_score),
    ):
        assert index.rates == sorted(set(index.rates))
        assert set(index.rates) == set(index._buckets)
        for rate in index.rates:
            for entry in index.at(rate):
                assert score(entry) == rate
                places[entry.tx.txid] = places.get(entry.tx.txid, 0) + 1
    for entry in pool.entries():
        txid = entry.tx.txid
        above, below = [entry, *pool.ancestors(txid)], [entry, *pool.descendants(txid)]
        assert (entry.ancestor_count, entry.ancestor_vsize, entry.ancestor_fees) == (
            len(above),
            sum(each.tx.vsize for each in above),
            sum(each.modified_fee for each in above),
        )
        assert (entry.descendant_count, entry.descendant_vsize, entry.descendant_fees) == (
            len(below),
            sum(each.tx.vsize for each in below),
            sum(each.modified_fee for each in below),
        )
        assert places.pop(txid) == 2
        # Relations as the outputs say, independent of the tables that the pool keeps.
        parents = {prevout[:32] for prevout in entry.tx.prevouts if pool.get(prevout[:32])}
        assert {each.tx.txid for each in above if txid in set(pool.children(each.tx.txid))} == parents
    assert places == {}


# ---- chains ------------------------------------------------------------------------------------


def test_a_chain_has_at_most_25(node, kit, chain4):
    txs = chain(kit, chain4.coin(0), MAX_ANCESTORS + 1)
    for tx in txs[:-1]:
        node.add(tx)
    with pytest.raises(RuleError, match="too many unconfirmed ancestors") as refused:
        node.mempool.check(txs[-1], Staging(), 0)
    assert (refused.value.code, refused.value.permanent) == ("too-long-mempool-chain", False)
    assert node.mempool.get(txs[-2].txid).ancestor_count == 25
    assert node.mempool.get(txs[0].txid).descendant_count == 25
    check_totals(node.mempool)


def test_a_chain_within_one_batch_is_no_longer(node, kit, chain4):
    staging = Staging()
    txs = chain(kit, chain4.coin(0), MAX_ANCESTORS + 1)
    for tx in txs[:-1]:
        staging.add(node.mempool.check(tx, staging, 0))
    assert refusal(node, txs[-1], staging) == ("too-long-mempool-chain", False)


def test_ancestors_count_over_all_branches(node, kit, chain4):
    """Two chains of 12 make 24 ancestors; one more is 25, two more are too many."""
    left, right = chain(kit, chain4.coin(0), 12), chain(kit, chain4.coin(1), 13)
    for tx in left + right:
        node.add(tx)
    ends = [outpoint(left[-1].txid, 1), outpoint(right[-2].txid, 1)]
    have = (left[-1].vout[1].value + right[-2].vout[1].value) // 2
    assert refusal(node, kit.pay([ends[0], outpoint(right[-1].txid, 1)], 1_000, have=have - 1_000)) == (
        "too-long-mempool-chain",
        False,
    )
    node.mempool.remove_with_descendants(right[-1].txid)
    assert refusal(node, kit.pay(ends, 1_000, have=have)) == ("", False)
    check_totals(node.mempool)


def test_descendants_are_counted_over_all_outputs(node, kit, chain4):
    root, children = fan(kit, chain4.coin(0), MAX_DESCENDANTS)
    node.add(root)
    for child in children[:-1]:
        node.add(child)
    with pytest.raises(RuleError, match="too many descendants") as refused:
        node.mempool.check(children[-1], Staging(), 0)
    assert refused.value.code == "too-long-mempool-chain"
    node.mempool.remove_with_descendants(children[0].txid)
    node.add(children[-1])
    check_totals(node.mempool)


def test_many_parents_are_refused_before_anybody_looks_at_theirs(node, kit, chain4, monkeypatch):
    parents = [node.add(kit.pay(chain4.coin(at))).tx for at in range(MAX_ANCESTORS)]
    monkeypatch.setattr(node.mempool, "_graph", None)
    many = kit.pay([outpoint(parent.txid, 1) for parent in parents], 1_000, have=kit.TOKEN // 2 - kit.FEE)
    assert refusal(node, many) == ("too-long-mempool-chain", False)


def test_virtual_bytes_of_a_chain_are_bounded(node, kit, chain4, monkeypatch):
    txs = chain(kit, chain4.coin(0), 3)
    size = max(tx.vsize for tx in txs)
    node.add(txs[0])
    monkeypatch.setattr(mempool_graph, "MAX_ANCESTOR_VSIZE", 2 * size)
    node.add(txs[1])
    with pytest.raises(RuleError, match="ancestor size limit"):
        node.mempool.check(txs[2], Staging(), 0)
    monkeypatch.setattr(mempool_graph, "MAX_ANCESTOR_VSIZE", 101_000)
    monkeypatch.setattr(mempool_graph, "MAX_DESCENDANT_VSIZE", 2 * size)
    with pytest.raises(RuleError, match="descendant size limit"):
        node.mempool.check(txs[2], Staging(), 0)


def test_the_pool_may_have_grown_since_the_check(node, kit, chain4):
    root, children = fan(kit, chain4.coin(0), MAX_DESCENDANTS)
    node.add(root)
    entries = [node.mempool.check(child, Staging(), 0) for child in children]
    for entry in entries[:-1]:
        node.mempool.add(entry)
    with pytest.raises(RuleError, match="too-long-mempool-chain"):
        node.mempool.add(entries[-1])


def test_a_block_shortens_chains(node, kit, chain4):
    txs = chain(kit, chain4.coin(0), MAX_ANCESTORS)
    for tx in txs:
        node.add(tx)
    node.extend(txs[:10])
    node.mempool.connect(txs[:10], node.chain.ground(), 0)
    assert node.mempool.get(txs[10].txid).ancestor_count == 1
    assert node.mempool.get(txs[-1].txid).ancestor_count == 15
    check_totals(node.mempool)


@pytest.mark.parametrize("seed", range(4))
def test_totals_hold_whatever_comes_and_goes(make_node, kit, chain4, seed):
    node = make_node(chain4, max_bytes=30 * ROOM)
    dice = Random(seed)
    free = [(chain4.coin(at), kit.TOKEN) for at in range(12)]
    for step in range(120):
        if dice.random() < 0.75 and free:
            picked = [
                free.pop(dice.randrange(len(free))) for _ in range(min(len(free), dice.choice((1, 1, 2))))
            ]
            have = sum(value for _, value in picked)
            half, fee = have // 2, dice.randrange(600, 9_000)
            outputs = [TxOut(half, kit.RICH.script), TxOut(have - half - fee, kit.RICH.script)]
            tx = kit.RICH.sign(Transaction.build(2, [TxIn(prevout, b"") for prevout, _ in picked], outputs))
            if refusal(node, tx)[0] == "":
                free += [(outpoint(tx.txid, at), output.value) for at, output in enumerate(tx.vout)]
        elif node.mempool.count:
            txid = dice.choice([entry.tx.txid for entry in node.mempool.entries()])
            if dice.random() < 0.5:
                node.mempool.prioritise(txid, dice.randrange(-500, 5_000))
            else:
                node.mempool.remove_with_descendants(txid)
        if step % 10 == 9:
            check_totals(node.mempool)
    node.mempool.expire(node.clock.now_s() + MEMPOOL_EXPIRY_S + 1)
    assert node.mempool.count == node.mempool.bytes_used == node.mempool.fee_total == 0


# ---- eviction and the dynamic minimum ----------------------------------------------------------


def test_a_child_that_pays_keeps_its_parent(make_node, kit, chain4):
    node = make_node(chain4, max_bytes=4 * ROOM)
    low = kit.pay(chain4.coin(0), fee=500)
    child = kit.pay(outpoint(low.txid, 0), 1_000, payer=kit.OTHER, have=kit.TOKEN // 2, fee=50_000)
    lonely = kit.pay(chain4.coin(1), fee=600)
    for tx in (low, child, lonely, kit.pay(chain4.coin(2), fee=700)):
        node.add(tx)
    entry = node.mempool.check(kit.pay(chain4.coin(3), fee=800), Staging(), 0)
    assert node.mempool.add(entry) == [lonely]
    assert node.mempool.get(low.txid) is not None


def test_the_minimum_rises_with_eviction_and_is_enforced(make_node, kit, chain4):
    node = make_node(chain4, max_bytes=2 * ROOM)
    pool, now_s = node.mempool, node.clock.now_s()
    assert pool.min_fee(now_s) == pool.min_fee_per_kvb
    low = node.add(kit.pay(chain4.coin(0), fee=500))
    node.add(kit.pay(chain4.coin(1), fee=900))
    node.add(kit.pay(chain4.coin(2), fee=800))
    assert pool.get(low.tx.txid) is None
    assert pool.min_fee(now_s) == low.rate + pool.incremental_per_kvb
    assert refusal(node, kit.pay(chain4.coin(3), fee=510)) == ("mempool min fee not met", False)
    enough = kit.pay(chain4.coin(3), fee=1_000)
    assert refusal(node, enough) == ("", False)
    check_totals(pool)


def test_the_rate_of_an_evicted_package_counts(make_node, kit, chain4):
    """What was lost is the parent with its child, so the minimum is what they paid together."""
    node = make_node(chain4, max_bytes=3 * ROOM)
    parent = node.add(kit.pay(chain4.coin(0), fee=500))
    child = node.add(
        kit.pay(outpoint(parent.tx.txid, 0), 1_000, payer=kit.OTHER, have=kit.TOKEN // 2, fee=700)
    )
    together = (parent.fee + child.fee) * 1000 // (parent.vsize + child.vsize)
    node.add(kit.pay(chain4.coin(1), fee=900))
    node.add(kit.pay(chain4.coin(2), fee=901))
    assert node.mempool.get(parent.tx.txid) is None
    assert node.mempool.min_fee(0) == together + node.mempool.incremental_per_kvb


def test_the_minimum_falls_only_after_a_block_and_by_halves():
    fee = RollingFee(1_000, 100)
    fee.evicted(7_000)
    assert fee.rate(10**9, 100) == 8_000
    fee.block(0)
    assert fee.rate(9, 100) == 8_000
    assert fee.rate(FEE_HALF_LIFE_S, 100) == 4_000
    assert fee.rate(2 * FEE_HALF_LIFE_S, 100) == 2_000
    assert fee.rate(3 * FEE_HALF_LIFE_S, 100) == 1_000
    assert fee.rate(4 * FEE_HALF_LIFE_S + FEE_HALF_LIFE_S // 2, 100) == 0
    assert fee.rate(5 * FEE_HALF_LIFE_S, 100) == 0


@pytest.mark.parametrize(("used", "part"), [(100, 1), (49, 2), (24, 4)])
def test_an_emptier_pool_forgets_faster(used, part):
    fee = RollingFee(1_000, 100)
    fee.evicted(15_000)
    fee.block(0)
    assert fee.rate(FEE_HALF_LIFE_S // part, used) == 8_000


def test_an_eviction_stops_the_fall():
    fee = RollingFee(1_000, 100)
    fee.evicted(7_000)
    fee.block(0)
    fee.evicted(8_000)
    assert fee.rate(FEE_HALF_LIFE_S, 100) == 9_000
    fee.evicted(1_000)
    assert fee.rate(FEE_HALF_LIFE_S, 100) == 9_000


# ---- expiry ------------------------------------------------------------------------------------


def test_what_waits_too_long_leaves_with_descendants(node, kit, chain4):
    start = node.clock.time_s
    old = node.add(kit.pay(chain4.coin(0))).tx
    node.clock.time_s += MEMPOOL_EXPIRY_S // 2
    young = node.add(kit.pay(chain4.coin(1))).tx
    heir = node.add(kit.pay(outpoint(old.txid, 0), 1_000, payer=kit.OTHER, have=kit.TOKEN // 2)).tx
    block = node.extend([])
    assert node.mempool.connect([], node.chain.ground(), start + MEMPOOL_EXPIRY_S) == []
    left = node.mempool.connect([], node.chain.ground(), start + MEMPOOL_EXPIRY_S + 1)
    assert set(left) == {old, heir}
    assert [entry.tx for entry in node.mempool.entries()] == [young]
    assert block is not None
    check_totals(node.mempool)


def test_age_survives_a_restart(node, kit, chain4):
    tx = node.add(kit.pay(chain4.coin(0))).tx
    node.mempool.backdate(tx.txid, 1_000)
    assert node.mempool.get(tx.txid).added_s == 1_000
    assert node.mempool.expire(1_000 + MEMPOOL_EXPIRY_S) == []
    assert node.mempool.expire(1_001 + MEMPOOL_EXPIRY_S) == [tx]
