"""Stories of mined blocks: what a miner may put into one, what it earns, and each refusal by its code."""

import random

import pytest

from consensus.assemble import assemble_template
from consensus.connect import check_clock
from consensus.errors import RuleError
from consensus.genesis import genesis_block
from consensus.history import EMPTY_ROOT
from consensus.params import COIN
from consensus.pow.rules import median
from consensus.pow.target import target_of
from consensus.script.templates import data_carrier
from consensus.transaction import Transaction, TxIn, TxOut
from tests.unit.consensus_pow.powblocks import Quarry, prove, with_nonce
from tests.unit.consensus_pow.powkit import GENESIS_TIME, SPACING, make_params


@pytest.fixture
def quarry(tools):
    return Quarry(tools)


def paid(block):
    return sum(output.value for output in block.txs[0].vout)


# ---- genesis and honest blocks


def test_genesis_has_the_chain_files_target_and_needs_no_proof(tools):
    """Nobody mines it: every node makes it from the chain file."""
    for bits in (0x200FFFFF, 0x1D00FFFF):
        params = make_params(bits=bits)
        block = genesis_block(params, tools.ToyContracts())
        assert (block.header.bits, block.header.nonce, block.header.time_s) == (bits, 0, GENESIS_TIME)
        assert int.from_bytes(block.hash, "little") > target_of(0x1D00FFFF)
    other = genesis_block(make_params(spacing_s=11), tools.ToyContracts())
    assert other.hash != genesis_block(make_params(), tools.ToyContracts()).hash


def test_a_chain_of_mined_blocks_pays_subsidy_and_fees(quarry):
    w = quarry.world
    for number in range(14):
        txs = []
        if number == 2:
            txs = [w.pay(w.purses[0], [(500, quarry.script)], fee=2_000, witness=(b"s", b"k"))]
        issued = w.tip.issued
        block = quarry.mined(txs)
        assert block.header.bits == w.env.params.pow.bits  # on schedule nothing becomes harder
        connected = quarry.append(block)
        due = 50 * COIN >> w.tip.height // 5
        assert w.tip.issued - issued == due
        assert connected.fees == (2_000 if number == 2 else 0)
        assert paid(block) == due + connected.fees
        assert w.conserved()


def test_assembled_and_connected_agree(quarry):
    """What a template promises is what connecting the mined block does, but for the hash of its header."""
    w = quarry.world
    tx = w.pay(w.purses[0], [(500, quarry.script), (0, quarry.tools.payload("put", b"k", b"v"))], fee=3_000)
    made = assemble_template(
        w.tip, [tx], w.coins, w.state, w.env, time_s=w.tip.time_s + 7, payout_script=quarry.script
    )
    connected = w.connect(prove(made.block))
    for part in ("txids", "coins", "coins_undo", "state", "state_undo", "fees"):
        assert getattr(connected, part) == getattr(made.connected, part)
    assert connected.tip.effects_digest == made.connected.tip.effects_digest


def test_a_miner_may_share_its_reward_out(quarry):
    block = quarry.mined()
    (reward, commitment) = block.txs[0].vout
    shares = (TxOut(1, quarry.tools.script_of(1)), TxOut(reward.value - 1, quarry.tools.script_of(2)))
    connected = quarry.append(quarry.changed(block, vout=(*shares, commitment)))
    assert connected.tip.height == 1
    assert quarry.world.conserved()


# ---- refusals


def test_high_hash(quarry):
    block = quarry.mined()
    target = target_of(block.header.bits)
    spoiled = next(
        bad
        for nonce in range(1000)
        if int.from_bytes((bad := with_nonce(block, nonce)).hash, "little") > target
    )
    assert quarry.refusal(spoiled) == "high-hash"


def test_bad_diffbits(quarry):
    """Neither easier nor harder than ASERT asks, however good the hash."""
    block = quarry.mined()
    for bits in (0x207FFFFF, 0x200FFFFE, 0x1F7FFFFF, 0x20800000, 0):
        forged = quarry.tools.rebuild(block, bits=bits)
        assert quarry.refusal(prove(forged) if target_of(bits) else forged) == "bad-diffbits"


def test_time_too_old(quarry):
    for _ in range(12):
        quarry.dig()
    past = median(quarry.tip.times)
    block = quarry.mined()
    for time_s in (past, past - 1, GENESIS_TIME):
        assert quarry.refusal(quarry.changed(block, time_s=time_s)) == "time-too-old"
    quarry.append(quarry.changed(block, time_s=past + 1))


def test_time_too_new_is_no_fault_of_the_block(quarry):
    limit_s = quarry.params.pow.future_limit_s
    header = quarry.mined(step_s=limit_s).header
    check_clock(header, quarry.tip.time_s, quarry.params)
    with pytest.raises(RuleError) as caught:
        check_clock(header, quarry.tip.time_s - 1, quarry.params)
    assert (caught.value.code, caught.value.permanent) == ("time-too-new", False)


def test_bad_prevblk(quarry):
    block = quarry.mined()
    assert quarry.refusal(quarry.changed(block, prev_hash=bytes(32))) == "bad-prevblk"


@pytest.mark.parametrize("off", [1, -1])
def test_bad_cb_amount(quarry, off):
    """Nobody prints money, and nobody loses any by mistake."""
    w = quarry.world
    block = quarry.mined([w.pay(w.purses[0], [(500, quarry.script)], fee=2_000)])
    reward, *rest = block.txs[0].vout
    assert quarry.refusal(
        quarry.changed(block, vout=(TxOut(reward.value + off, reward.script_pubkey), *rest))
    ) == ("bad-cb-amount")


def test_bad_cb_amount_without_the_fee_or_the_subsidy(quarry):
    w = quarry.world
    block = quarry.mined([w.pay(w.purses[0], [(500, quarry.script)], fee=2_000)])
    reward, *rest = block.txs[0].vout
    for value in (50 * COIN, 2_000, 0):
        vout = (TxOut(value, reward.script_pubkey), *rest)
        assert quarry.refusal(quarry.changed(block, vout=vout)) == "bad-cb-amount"


def test_bad_cb_payouts(quarry):
    """What contracts owe comes first, in its order, and to whom it is owed."""
    w, tools = quarry.world, quarry.tools
    quarry.dig([w.pay(w.purses[n], [(5_000_000, tools.payload("deposit"))]) for n in (0, 1)])
    block = quarry.applied[-1]
    purses = [
        tools.Wallet(txid + (1).to_bytes(4, "little"), w.purses[n].amount - 5_001_000, w.purses[n].script)
        for n, txid in enumerate(block.txids[1:])
    ]
    quarry.dig([
        w.pay(purses[n], [(0, tools.payload("withdraw", amount))]) for n, amount in ((0, 30_000), (1, 40_000))
    ])  # fmt: skip
    due = quarry.mined()
    first, second, *rest = due.txs[0].vout
    assert [first.value, second.value] == [30_000, 40_000]
    stolen = (TxOut(30_000, quarry.script), second, *rest)
    swapped = (second, first, *rest)
    late = (rest[0], first, second, *rest[1:])
    for vout in (stolen, swapped, late):
        assert quarry.refusal(quarry.changed(due, vout=vout)) == "bad-cb-payouts"
    kept = (TxOut(70_000 + rest[0].value, quarry.script), *rest[1:])
    assert quarry.refusal(quarry.changed(due, vout=kept)) == "bad-cb-payouts"
    quarry.append(due)
    assert w.conserved()


def test_bad_cb_unspendable_value(quarry):
    """The amounts add up, but value on OP_RETURN would vanish from what exists."""
    block = quarry.mined()
    reward, commitment = block.txs[0].vout
    vout = (TxOut(reward.value - 5, reward.script_pubkey), TxOut(5, data_carrier(b"gone")), commitment)
    assert quarry.refusal(quarry.changed(block, vout=vout)) == "bad-cb-unspendable-value"


VOTES = {"set_hash": bytes(32), "proposer": 0, "last_bitmap": b"\x0f", "evidence_root": EMPTY_ROOT}


@pytest.mark.parametrize(
    ("forged", "code"),
    [
        (VOTES, "bad-set-hash"),
        (VOTES | {"last_bitmap": b"", "reveal": bytes(32), "next_set_hash": bytes(32)}, "bad-set-hash"),
        *[({name: value}, "bad-commitment-form") for name, value in VOTES.items()],
        ({"next_set_hash": bytes(32)}, "bad-commitment-form"),
        ({"reveal": bytes(32)}, "bad-commitment-form"),
        ({"state_root": bytes(32)}, "bad-state-root"),
        ({"history_root": bytes(32)}, "bad-history-root"),
        ({"effects_digest": bytes(32)}, "bad-effects-digest"),
    ],
)
def test_a_commitment_with_votes_or_other_contents(quarry, forged, code):
    quarry.dig()
    assert quarry.refusal(quarry.changed(quarry.mined(), commitment=forged)) == code


def test_bad_cb_height(quarry):
    quarry.dig()
    block = quarry.mined()
    assert quarry.refusal(quarry.changed(block, script_sig=b"\x51\x00")) == "bad-cb-height"  # height 1, not 2


def test_bad_txnmrklroot_before_anything_else(quarry):
    block = quarry.mined()
    assert quarry.refusal(quarry.changed(block, merkle_root=bytes(32))) == "bad-txnmrklroot"


# ---- issue


def test_subsidy_halves_and_stops_at_max_money(tools):
    """1,000 tokens to each of three at genesis, 130 more to mine: 4 x 50 would be 200."""
    quarry = Quarry(tools, ledger={"max_money": 3_130 * COIN})
    rewards = []
    for _ in range(6):
        block = quarry.mined()
        rewards.append(paid(block) // COIN)
        reward, *rest = block.txs[0].vout
        more = (TxOut(reward.value + 1, quarry.script), *rest)
        if reward.value:
            assert quarry.refusal(quarry.changed(block, vout=more)) == "bad-cb-amount"
        quarry.append(block)
        assert quarry.world.conserved()
    assert rewards == [50, 50, 30, 0, 0, 0]
    assert quarry.tip.issued == 3_130 * COIN


def test_nothing_is_left_to_mine_but_fees(tools):
    quarry = Quarry(tools, subsidy=0)
    quarry.dig()
    w = quarry.world
    assert quarry.dig([w.pay(w.purses[0], [(500, quarry.script)], fee=2_000)]).fees == 2_000
    assert w.tip.issued == 3_000 * COIN
    block = quarry.mined()
    assert quarry.refusal(
        quarry.changed(block, vout=(TxOut(1, quarry.script), *block.txs[0].vout))
    ) == "bad-cb-amount"  # fmt: skip


# ---- coinbase maturity and reorganisation


def test_a_mined_coin_waits_and_the_wait_is_part_of_no_template(tools):
    quarry = Quarry(tools, ledger={"coinbase_maturity_blocks": 4})
    prevout = quarry.dig().txids[0] + bytes(4)
    tx = Transaction.build(2, [TxIn(prevout, b"\x01\x01")], [TxOut(49 * COIN, quarry.script)], 0)
    for _ in range(3):
        with pytest.raises(RuleError) as caught:
            quarry.template([tx])
        assert caught.value.code == "bad-txns-premature-spend-of-coinbase"
        quarry.dig()
    quarry.dig([tx])
    quarry.undo()
    quarry.undo()
    with pytest.raises(RuleError):
        quarry.template([tx])  # the reorganisation made it young again


@pytest.mark.parametrize("seed", range(6))
def test_taking_blocks_off_leaves_what_the_other_branch_alone_gives(tools, seed):
    """The heart of a reorganisation: coins, contracts, tip and clock as if the old branch had never been."""
    print(f"seed {seed}")
    dice = random.Random(seed)

    def grow(quarry, purses, length, salt):
        w = quarry.world
        for number in range(length):
            txs = []
            if purses and dice.random() < 0.7:
                purse = purses.pop(dice.randrange(len(purses)))
                kind = dice.choice([("deposit",), ("put", bytes([dice.randrange(3)]), bytes([salt, number]))])
                tx = w.pay(purse, [(20_000_000 if kind == ("deposit",) else 0, tools.payload(*kind))])
                txs.append(tx)
                purses.append(w.output(tx, 1))
            quarry.dig(txs, step_s=dice.choice([1, 5, 10, 30]), extra_nonce=bytes([salt]))

    quarry = Quarry(tools)
    common = list(quarry.world.purses)
    grow(quarry, common, 3, 0)
    base = len(quarry.applied)
    grow(quarry, list(common), dice.randrange(1, 5), 1)
    lost = {txid for connected in quarry.applied[base:] for txid in connected.txids}
    while len(quarry.applied) > base:
        quarry.undo()
    after = dice.getstate()
    grow(quarry, list(common), 4, 2)

    dice.seed(seed)
    straight = Quarry(tools)
    purses = list(straight.world.purses)
    grow(straight, purses, 3, 0)
    dice.setstate(after)
    grow(straight, purses, 4, 2)
    assert quarry.tip == straight.tip
    assert quarry.world.coins.data == straight.world.coins.data
    assert quarry.world.state.data == straight.world.state.data
    assert quarry.history.times == straight.history.times
    assert quarry.world.conserved()
    kept = {txid for connected in quarry.applied for txid in connected.txids}
    assert not any(prevout[:32] in lost - kept for prevout in quarry.world.coins.data)


# ---- the clock of contracts


def test_contract_time_is_the_parents_median_and_never_runs_backwards(tools):
    """Whatever miners stamp within the rules, slots and gates of a market go forward alone."""
    for seed in range(3):
        dice = random.Random(seed)
        quarry = Quarry(tools)
        for _ in range(40):
            past = median(quarry.tip.times)
            low, high = past + 1 - quarry.tip.time_s, 100
            parent = quarry.tip
            quarry.contexts.clear()
            quarry.dig(step_s=dice.choice([low, high, dice.randrange(low, high + 1)]))
            told = {context.time_s for context in quarry.contexts}
            assert told == {past} == {sorted(parent.times)[len(parent.times) // 2]}, f"seed {seed}"
            assert median(quarry.tip.times) >= past, f"seed {seed}"


def test_contract_time_does_not_follow_one_miner_ahead(quarry):
    """Half of the last eleven have to agree before a gate opens early."""
    for _ in range(11):
        quarry.dig()
    before = median(quarry.tip.times)
    for _ in range(5):
        quarry.dig(step_s=100 if quarry.tip.time_s < before + 500 else 1)
    assert median(quarry.tip.times) <= before + 5 * SPACING
