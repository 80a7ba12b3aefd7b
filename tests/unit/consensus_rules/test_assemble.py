"""Building blocks: what goes in, what is refused, what merely waits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import RuleError
from consensus.ledger_limits import MAX_POSTPONED_IN_ROW


def codes(assembled):
    return {txid: error.code for txid, error in assembled.refused}


def test_result_equals_what_connecting_gives(world, tools):
    txs = [world.pay(purse, [(9_000, tools.payload("deposit"))]) for purse in world.purses]
    made = world.assemble(txs)
    assert made.refused == []
    assert made.crashed == []
    assert world.connect(made.block) == made.connected


def test_refused_candidates_take_their_children_along(world, tools):
    bad = world.pay(world.purses[0], [(0, tools.payload("fail"))])
    child = world.pay(world.output(bad, 1), [])
    good = world.pay(world.purses[1], [])
    made = world.assemble([bad, child, good])
    assert codes(made) == {bad.txid: "bad-toy-op", child.txid: "bad-txns-inputs-missingorspent"}
    assert [tx.txid for tx in made.block.txs[1:]] == [good.txid]
    assert world.connect(made.block) == made.connected


def test_a_refused_candidate_leaves_its_coins_to_others(world, tools):
    bad = world.pay(world.purses[0], [(0, tools.payload("fail"))])
    good = world.pay(world.purses[0], [])
    made = world.assemble([bad, good])
    assert made.connected.txids[1:] == (good.txid,)


def test_weight_limit_holds_and_small_ones_fill_the_gap(world, tools):
    fat = [world.pay(p, [(1_000, tools.script_of(1))] * 200, fee=20_000) for p in world.purses[:3]]
    small = world.pay(world.purses[4], [])
    limit = world.assemble([fat[0], small]).block.weight + 300  # room kept for a witness commitment
    made = world.assemble([*fat, small], max_weight=limit)
    assert made.connected.txids[1:] == (fat[0].txid, small.txid)
    assert made.refused == []
    assert made.block.weight <= limit
    assert world.connect(made.block) == made.connected


def test_weight_limit_is_exact_for_blocks_with_witnesses_and_payouts(world, tools):
    deposit = world.pay(world.purses[0], [(50_000, tools.payload("deposit"))])
    draw = world.pay(world.output(deposit, 1), [(0, tools.payload("withdraw", 20_000))])
    world.extend([deposit, draw])
    tx = world.pay(world.purses[1], [], witness=(b"w" * 70,))
    weight = world.assemble([tx]).block.weight
    reserve = 4 * 4  # the count of transactions may need five bytes, and needs one here
    assert len(world.assemble([tx], max_weight=weight + reserve).block.txs) == 2
    assert len(world.assemble([tx], max_weight=weight + reserve - 1).block.txs) == 1


def test_children_of_what_did_not_fit_wait_with_it(world, tools):
    fat = world.pay(world.purses[0], [(1_000, tools.script_of(1))] * 200, fee=20_000)
    child = world.pay(world.output(fat, 0), [], fee=500)
    made = world.assemble([fat, child], max_weight=20_000)
    assert made.refused == []
    assert len(made.block.txs) == 1


def test_operations_beyond_the_budget_wait(tools):
    world = tools.World(op_budget=2)
    txs = [world.pay(purse, [(0, tools.payload("put", b"k", b"v"))]) for purse in world.purses[:4]]
    plain = world.pay(world.purses[5], [])
    made = world.assemble([*txs, plain])
    assert made.refused == []
    assert made.connected.txids[1:] == (txs[0].txid, txs[1].txid, plain.txid)
    assert world.connect(made.block) == made.connected


def test_signature_checks_beyond_the_limit_wait(tools):
    world = tools.World(params=tools.make_params(max_block_weight=1_000_000))  # a cost of 20,000
    costly = tools.Wallet(b"\x09" * 36, 10**9, b"\xac" * 1_500)
    cheap = world.purses[0]
    for purse in (costly, twin := tools.Wallet(b"\x0a" * 36, 10**9, b"\xac" * 999)):
        world.coins.data[purse.prevout] = bytes(4) + purse.amount.to_bytes(8, "little") + purse.script
    outputs = [(5_000, tools.script_of(7))]
    txs = [world.pay(purse, outputs, fee=10_000) for purse in (costly, twin, cheap)]
    made = world.assemble(txs)
    assert made.refused == []
    assert made.connected.txids[1:] == (txs[0].txid, txs[2].txid)
    assert world.connect(made.block) == made.connected
    block = world.block()
    overloaded = tools.rebuild(block, txs=[block.txs[0], *txs])
    assert world.refusal(overloaded) == "bad-blk-sigops"


def test_a_full_block_does_not_read_the_whole_mempool(world, tools):
    read = []

    def endless():
        while True:
            read.append(1)
            yield world.pay(world.purses[0], [(1_000, tools.script_of(1))] * 200, fee=20_000)

    world.assemble(endless(), max_weight=30_000)
    assert len(read) <= 1_000 >= MAX_POSTPONED_IN_ROW


def test_forged_candidates_are_found_and_left_out(world):
    txs = [world.pay(purse, []) for purse in world.purses]
    child = world.pay(world.output(txs[3], 0), [], fee=2_000)
    world.signatures.forged[txs[3].txid] = True
    made = world.assemble([*txs, child])
    assert codes(made) == {
        txs[3].txid: "mandatory-script-verify-flag-failed",
        child.txid: "bad-txns-inputs-missingorspent",
    }
    assert len(made.block.txs) == len(txs)
    assert world.connect(made.block) == made.connected


def test_honest_candidates_cost_one_call_to_the_signature_checker(world):
    world.assemble([world.pay(purse, []) for purse in world.purses])
    assert world.signatures.calls == 1


def test_checker_that_contradicts_itself_is_not_swallowed(world):
    class Moody:
        def check(self, items):
            if len(items) > 1:
                raise RuleError("mood")

    world.env = type(world.env)(world.params, world.env.chain_id, world.contracts, Moody())
    with pytest.raises(RuleError, match="mood"):
        world.assemble([world.pay(purse, []) for purse in world.purses])


def test_a_contract_that_crashes_costs_one_transaction_not_the_block(world, tools):
    before = world.pay(world.purses[0], [(0, tools.payload("put", b"k", b"v"))])
    poison = world.pay(world.purses[1], [(0, tools.payload("crash"))])
    made = world.assemble([before, poison, world.pay(world.purses[2], [])])
    assert codes(made) == {poison.txid: "contract-crash"}
    ((txid, error),) = made.crashed
    assert txid == poison.txid
    assert isinstance(error, ZeroDivisionError)
    assert len(made.block.txs) == 3
    assert world.connect(made.block) == made.connected


@pytest.mark.parametrize(
    "given_options",
    [{"time_s": 1}, {"term": 0}, {"term": 2}],
)
def test_a_block_that_cannot_connect_is_not_built(world, given_options):
    world.extend(term=3)
    with pytest.raises(ValueError, match="fits here"):
        world.assemble([], **({"term": 3} | given_options))


@pytest.mark.parametrize("proposer", [4, -1])
def test_nobody_outside_the_set_builds(world, proposer):
    with pytest.raises(RuleError) as caught:
        world.assemble([], proposer=proposer)
    assert caught.value.code == "bad-proposer"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_mixture_assembles_to_a_block_that_connects(tools, data):
    world = tools.World(op_budget=data.draw(st.integers(0, 4), "budget"))
    purses = list(world.purses)
    txs = []
    operations = [("deposit",), ("withdraw", 5), ("fail",), ("crash",), ("put", b"k", b"v")]
    for _ in range(data.draw(st.integers(0, 12), "count")):
        purse = data.draw(st.sampled_from(purses))
        outputs = [(data.draw(st.integers(0, 100)), tools.script_of(5))]
        if data.draw(st.booleans()):
            operation = data.draw(st.sampled_from(operations))
            outputs.append((700 if operation == ("deposit",) else 0, tools.payload(*operation)))
        fee = data.draw(st.sampled_from([0, 1000]))
        witness = data.draw(st.sampled_from([(), (b"w" * 50,)]))
        sequence = data.draw(st.sampled_from([0xFFFFFFFF, 0, 5]))
        txs.append(world.pay(purse, outputs, fee=fee, witness=witness, sequence=sequence))
        purses.append(world.output(txs[-1], len(txs[-1].vout) - 1))
    limit = data.draw(st.integers(4_000, 20_000), "weight")
    made = world.assemble(txs, max_weight=limit)
    assert made.block.weight <= max(limit, 1_500)
    assert world.connect(type(made.block).parse(made.block.raw)) == made.connected
    world.apply(made.connected)
    assert world.conserved()
