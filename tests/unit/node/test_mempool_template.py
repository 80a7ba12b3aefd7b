"""The order of candidates for a block: packages by the fee rate that they pay together."""

from random import Random

import pytest

from consensus.errors import RuleError
from consensus.transaction import Transaction, TxIn, TxOut, outpoint


def check_order(pool, order, exclude=frozenset()):
    """All but ``exclude``, each once, parents before children."""
    seen = set(exclude)
    for tx in order:
        assert tx.txid not in seen
        assert all(prevout[:32] in seen or pool.get(prevout[:32]) is None for prevout in tx.prevouts)
        seen.add(tx.txid)
    assert seen >= {entry.tx.txid for entry in pool.entries()}


def chain(kit, prevout, fees):
    txs, have = [], kit.TOKEN
    for fee in fees:
        txs.append(kit.pay(prevout, 1_000, have=have, fee=fee))
        prevout, have = outpoint(txs[-1].txid, 1), txs[-1].vout[1].value
    return txs


def test_a_child_pays_for_its_parent(node, kit, chain4):
    poor, paying = chain(kit, chain4.coin(0), (300, 9_000))
    middle = kit.pay(chain4.coin(1), 1_000, fee=3_000)
    for tx in (poor, middle, paying):
        node.add(tx)
    assert list(node.mempool.candidates(set())) == [poor, paying, middle]


def test_a_rich_parent_does_not_carry_a_poor_child(node, kit, chain4):
    rich, poor = chain(kit, chain4.coin(0), (9_000, 300))
    middle = kit.pay(chain4.coin(1), 1_000, fee=3_000)
    for tx in (rich, poor, middle):
        node.add(tx)
    assert list(node.mempool.candidates(set())) == [rich, middle, poor]


def test_a_child_is_valued_anew_when_its_parent_is_taken(node, kit, chain4):
    """With its parent it pays 2,150 on average; once another child brought the parent in, 4,000."""
    share = kit.TOKEN // 2 - 500
    parent = kit.RICH.sign(
        Transaction.build(2, [TxIn(chain4.coin(0), b"")], [TxOut(share, kit.RICH.script)] * 2)
    )
    first = kit.pay(outpoint(parent.txid, 0), 1_000, have=share, fee=12_000)
    second = kit.pay(outpoint(parent.txid, 1), 1_000, have=share, fee=4_000)
    middle = kit.pay(chain4.coin(1), 1_000, fee=3_000)
    for tx in (parent, first, second, middle):
        node.add(tx)
    assert list(node.mempool.candidates(set())) == [parent, first, second, middle]


def test_a_child_loses_the_parent_that_paid_for_it(node, kit, chain4):
    """Its rich parent is taken alone, so what is left with the poor one is worth less than before."""
    rich = kit.pay(chain4.coin(0), kit.TOKEN // 2 - 20_000, fee=20_000)
    poor = kit.pay(chain4.coin(1), kit.TOKEN // 2 - 300, fee=300)
    ends = [outpoint(rich.txid, 1), outpoint(poor.txid, 1)]
    child = kit.pay(ends, 1_000, have=kit.TOKEN // 2, fee=9_000)
    middle = kit.pay(chain4.coin(2), 1_000, fee=4_520)
    for tx in (rich, poor, child, middle):
        node.add(tx)
    assert list(node.mempool.candidates(set())) == [rich, middle, poor, child]


def test_what_a_block_under_way_holds_is_paid_for(node, kit, chain4):
    poor, paying = chain(kit, chain4.coin(0), (300, 4_000))
    middle = kit.pay(chain4.coin(1), 1_000, fee=3_000)
    for tx in (poor, paying, middle):
        node.add(tx)
    assert list(node.mempool.candidates(set())) == [middle, poor, paying]
    assert list(node.mempool.candidates({poor.txid})) == [paying, middle]
    assert list(node.mempool.candidates({poor.txid, b"unknown"})) == [paying, middle]


def test_priority_moves_a_transaction_and_its_package(node, kit, chain4):
    poor, child = chain(kit, chain4.coin(0), (300, 400))
    middle = kit.pay(chain4.coin(1), 1_000, fee=3_000)
    for tx in (poor, child, middle):
        node.add(tx)
    assert next(node.mempool.candidates(set())) == middle
    node.mempool.prioritise(child.txid, 20_000)
    assert list(node.mempool.candidates(set())) == [poor, child, middle]
    assert node.mempool.get(poor.txid).descendant_fees == 20_700
    node.mempool.prioritise(child.txid, -20_000)
    assert next(node.mempool.candidates(set())) == middle
    assert node.mempool.deltas() == {}


def test_priority_may_be_given_in_advance(node, kit, chain4):
    tx, middle = kit.pay(chain4.coin(0), fee=500), kit.pay(chain4.coin(1), fee=3_000)
    node.mempool.prioritise(tx.txid, 10_000)
    node.add(middle)
    entry = node.add(tx)
    assert (entry.fee, entry.modified_fee) == (500, 10_500)
    assert next(node.mempool.candidates(set())) == tx
    node.extend([tx])
    node.mempool.connect([tx], node.chain.ground(), 0)
    assert node.mempool.deltas() == {}


@pytest.mark.parametrize("seed", range(6))
def test_any_pool_comes_out_whole_and_in_order(make_node, kit, chain4, seed):
    node = make_node(chain4)
    dice = Random(seed)
    free = [(chain4.coin(at), kit.TOKEN) for at in range(20)]
    for _ in range(60):
        picked = [free.pop(dice.randrange(len(free))) for _ in range(dice.choice((1, 1, 1, 2)))]
        have, fee = sum(value for _, value in picked), dice.randrange(600, 20_000)
        outputs = [TxOut(have // 2, kit.RICH.script), TxOut(have - have // 2 - fee, kit.RICH.script)]
        tx = kit.RICH.sign(Transaction.build(2, [TxIn(prevout, b"") for prevout, _ in picked], outputs))
        try:
            node.add(tx)
        except RuleError:  # a chain that is too long is not the point here
            continue
        free += [(outpoint(tx.txid, at), output.value) for at, output in enumerate(tx.vout)]
    pool = node.mempool
    check_order(pool, list(pool.candidates(set())))
    roots = {entry.tx.txid for entry in pool.entries() if entry.ancestor_count == 1}
    check_order(pool, list(pool.candidates(roots)), roots)


def test_a_block_is_built_from_packages(node, kit, chain4):
    poor, paying = chain(kit, chain4.coin(0), (300, 9_000))
    for tx in (poor, paying):
        node.add(tx)
    block = node.build(list(node.mempool.candidates(set())))
    assert list(block.txs[1:]) == [poor, paying]
