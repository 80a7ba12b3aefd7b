"""Block stories: accepted, or rejected with this code."""

from dataclasses import replace

import pytest

from consensus.block import Block, BlockHeader
from consensus.block_rules import check_block, payload_of, witness_commitment_script
from consensus.coin_rules import SpendContext, check_spend
from consensus.commitment import find_commitment
from consensus.connect import check_clock, connect_block
from consensus.errors import RuleError
from consensus.merkle import witness_root
from consensus.script.templates import data_carrier
from consensus.transaction import NULL_PREVOUT, Transaction, TxIn, TxOut


@pytest.fixture
def rebuild(tools):
    return tools.rebuild


# ---- accepted


def test_empty_block_moves_only_the_tip_and_what_timers_write(world):
    world.extend()  # the first of its leader begins the counters of duty
    world.extend(last_bitmap=b"\x0f")  # and the second shows who signs
    before = dict(world.coins.data)
    ticks = world.state.data[b"ticks"]
    connected = world.extend(last_bitmap=b"\x0f")
    assert world.tip.height == 3
    assert world.tip.time_s == world.params.genesis_time_s + 3
    assert (connected.coins, connected.coins_undo) == ({}, {})
    assert world.coins.data == before
    assert list(connected.state) == [b"ticks"]
    assert connected.state_undo == {b"ticks": ticks}
    assert connected.fees == 0


def test_payment_moves_coins_and_pays_the_proposer(world, tools):
    purse = world.purses[0]
    tx = world.pay(purse, [(500, tools.script_of(77))], fee=1234)
    connected = world.extend([tx], proposer=2)
    assert connected.fees == 1234
    assert connected.coins[purse.prevout] is None
    assert connected.coins_undo[purse.prevout][4:12] == purse.amount.to_bytes(8, "little")
    new = connected.coins[tx.txid + bytes(4)]
    assert new == (2).to_bytes(4, "little") + (500).to_bytes(8, "little") + tools.script_of(77)
    reward = connected.coins[connected.txids[0] + bytes(4)]
    assert int.from_bytes(reward[:4], "little") == 3  # height 1, coinbase
    assert reward[12:] == world.params.bft.validators[2].payout_script
    assert int.from_bytes(reward[4:12], "little") == 1234


def test_coin_created_and_spent_in_one_block_is_in_neither_diff(world, tools):
    first = world.pay(world.purses[0], [(10_000, tools.script_of(9))])
    second = world.pay(world.output(first, 0), [(7_000, tools.script_of(10))])
    connected = world.extend([first, second])
    assert first.txid + bytes(4) not in connected.coins
    assert connected.coins.keys() == connected.coins_undo.keys()
    assert world.coins.get(second.txid + bytes(4)) is not None


def test_fee_output_can_be_spent_in_the_next_block(world, tools):
    connected = world.extend([world.pay(world.purses[0], [], fee=50_000)])
    reward = tools.Wallet(connected.txids[0] + bytes(4), 50_000, tools.script_of(201))
    world.extend([world.pay(reward, [(40_000, tools.script_of(1))], fee=10_000)])
    assert world.conserved()


def test_unspendable_output_never_becomes_a_coin(world):
    tx = world.pay(world.purses[0], [(0, data_carrier(b"hello"))])
    connected = world.extend([tx])
    assert tx.txid + bytes(4) not in connected.coins
    assert tx.txid + b"\x01\0\0\0" in connected.coins


def test_deposit_and_withdrawal_come_back_through_the_coinbase(world, tools):
    deposit = world.pay(world.purses[0], [(90_000, tools.payload("deposit"))])
    world.extend([deposit])
    assert world.conserved()
    assert world.contracts.accounting(world.state) == {"accounts": 90_000, "payouts": 0}
    change = world.output(deposit, 1)
    txs = []
    for amount in (11_000, 12_000, 13_000):
        txs.append(world.pay(change, [(0, tools.payload("withdraw", amount))]))
        change = world.output(txs[-1], 1)
    world.extend(txs)
    assert world.contracts.accounting(world.state)["payouts"] == 36_000
    paid = world.extend().coins  # two per block in the toy contract
    assert sorted(int.from_bytes(c[4:12], "little") for c in paid.values()) == [11_000, 12_000]
    last = world.block()
    assert [o.value for o in last.txs[0].vout] == [13_000, 0]
    world.apply(world.connect(last))
    assert world.contracts.accounting(world.state)["payouts"] == 0
    assert world.conserved()


def test_witness_transactions_bring_a_commitment(world):
    tx = world.pay(world.purses[0], [], witness=(b"sig", b"key"))
    block = world.block([tx])
    assert block.txs[0].has_witness
    world.apply(world.connect(block))


def test_signatures_are_asked_for_once_per_block(world, tools):
    block = world.block([world.pay(purse, [(1000, tools.script_of(3))]) for purse in world.purses])
    world.signatures.calls = 0
    world.connect(block)
    assert world.signatures.calls == 1


def test_outside_coins_are_prefetched_once(world, tools):
    first = world.pay(world.purses[0], [(10_000, tools.script_of(9))])
    second = world.pay(world.output(first, 0), [])
    block = world.block([first, second])
    world.coins.prefetched.clear()
    world.connect(block)
    assert world.coins.prefetched == [[world.purses[0].prevout]]


def test_contracts_see_only_transactions_that_may_carry_a_payload(world, tools):
    block = world.block([world.pay(world.purses[0], []), world.pay(world.purses[1], [])])
    assert world.contracts.executed == 0
    world.apply(world.connect(block))
    world.extend([world.pay(world.purses[2], [(5000, tools.payload("deposit"))])])
    assert world.contracts.executed == 2  # once to assemble, once to connect


def test_absolute_lock_opens_at_its_height_and_time(world):
    height_locked = world.pay(world.purses[0], [], lock_time=world.tip.height, sequence=0xFFFFFFFE)
    at = world.tip.time_s + 1
    time_locked = world.pay(world.purses[1], [], lock_time=at - 1, sequence=0xFFFFFFFE)
    world.extend([height_locked, time_locked], time_s=at)


def test_relative_lock_in_blocks_opens_after_its_blocks(world):
    tx = world.pay(world.purses[0], [], sequence=2)
    assert world.assemble([tx]).refused[0][1].code == "bad-txns-nonfinal"
    world.extend()
    world.extend([tx])


def test_relative_lock_of_version_1_transactions_means_nothing(world):
    world.extend([world.pay(world.purses[0], [], version=1, sequence=50)])


class Times:
    """Header times of committed blocks; refuses to be asked for recent ones."""

    def __init__(self, world):
        self.world = world
        self.asked = []

    def time_at(self, height):
        self.asked.append(height)
        assert height <= self.world.tip.height - 11
        return self.world.params.genesis_time_s + 100 * height


@pytest.mark.parametrize(("passed_s", "opens"), [(511, False), (512, True)])
def test_relative_lock_in_seconds_counts_from_the_coins_block(world, passed_s, opens):
    start_s = world.tip.time_s
    tx = world.pay(world.purses[0], [], sequence=1 << 22 | 1)
    refused = world.assemble([tx], time_s=start_s + passed_s).refused
    assert (not refused) is opens


@pytest.mark.parametrize("blocks", [1, 2, 10, 11, 12, 30])
def test_relative_lock_in_seconds_is_the_same_however_far_back(tools, blocks):
    """The times of young blocks come from the tip, so that committing a block changes no verdict."""
    world = tools.World()
    times = Times(world)
    world.env = replace(world.env, times=times)
    base_s = world.tip.time_s
    world.extend(time_s=base_s + 100)
    tx = world.pay(world.purses[0], [])
    world.extend([tx], time_s=base_s + 200)
    for number in range(blocks - 1):
        world.extend(time_s=base_s + 300 + 100 * number)
    spend = world.pay(world.output(tx, 0), [], sequence=1 << 22 | 10)
    early, due = base_s + 200 + 5119, base_s + 200 + 5120
    assert world.assemble([spend], time_s=early).refused[0][1].code == "bad-txns-nonfinal"
    world.extend([spend], time_s=due)
    assert (times.asked != []) is (blocks > 11)


def test_relative_lock_in_seconds_stays_shut_where_times_are_not_known(world):
    for _ in range(11):
        world.extend()
    tx = world.pay(world.purses[0], [], sequence=1 << 22 | 1)
    (refused,) = world.assemble([tx], time_s=world.tip.time_s + 10_000).refused
    assert (refused[1].code, refused[1].permanent) == ("bad-txns-nonfinal", False)


def test_zero_lock_lets_a_coin_of_the_same_block_be_spent(world):
    tx = world.pay(world.purses[0], [])
    blocks = [world.pay(world.output(tx, 0), [], sequence=sequence) for sequence in (0, 1 << 22)]
    assert world.assemble([tx, blocks[0]]).refused == []
    assert world.assemble([tx, blocks[1]]).refused == []
    for sequence in (1, 1 << 22 | 1):
        child = world.pay(world.output(tx, 0), [], sequence=sequence)
        assert world.assemble([tx, child]).refused[0][1].code == "bad-txns-nonfinal"


# ---- rejected: header and commitment


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 4}, "bad-version"),
        ({"prev_hash": bytes(32)}, "bad-prevblk"),
        ({"time_s": 1_749_999_999}, "time-too-old"),
        ({"bits": 0x1D00FFFF}, "bad-diffbits"),
        ({"nonce": 0}, "bad-term"),
        ({"merkle_root": bytes(32)}, "bad-txnmrklroot"),
    ],
)
def test_header_is_refused(world, rebuild, change, code):
    assert world.refusal(rebuild(world.block(), **change)) == code


def test_terms_never_go_back(world, rebuild):
    world.extend(term=7)
    assert world.refusal(rebuild(world.block(term=7), nonce=6)) == "bad-term"
    world.extend(term=7)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"effects_digest": bytes(32)}, "bad-effects-digest"),
        ({"history_root": bytes(32)}, "bad-history-root"),
        ({"set_hash": bytes(32)}, "bad-set-hash"),
        ({"proposer": 4}, "bad-proposer"),
        ({"last_bitmap": b""}, "bad-last-bitmap"),
        ({"last_bitmap": b"\x10"}, "bad-last-bitmap"),
        ({"last_bitmap": b"\x0f\x00"}, "bad-last-bitmap"),
        ({"state_root": bytes(32)}, "bad-state-root"),
        ({"next_set_hash": bytes(32)}, "bad-next-set-hash"),
        ({"reveal": bytes(32)}, "bad-reveal"),
        ({"evidence_root": b"\x01" * 32}, "bad-evidence-root"),
        ({"version": 2}, "bad-commitment-version"),
        ({"effects_digest": b"short"}, "bad-commitment-form"),
        ({"proposer": -1}, "bad-commitment-form"),
    ],
)
def test_commitment_is_refused(world, rebuild, change, code):
    assert world.refusal(rebuild(world.block(), commitment=change)) == code


def test_a_full_bitmap_is_accepted(world, rebuild):
    world.extend(last_bitmap=b"\x0f")


def test_another_proposer_cannot_take_the_fees(world, rebuild):
    block = world.block([world.pay(world.purses[0], [])], proposer=1)
    assert world.refusal(rebuild(block, commitment={"proposer": 2})) == "bad-cb-fee-output"


def test_commitment_stands_once_and_last(world, rebuild, tools):
    block = world.block()
    wc = block.txs[0].vout[-1]
    spare = TxOut(0, data_carrier(b"note"))
    assert world.refusal(rebuild(block, vout=[spare])) == "bad-commitment-missing"
    assert world.refusal(rebuild(block, vout=[wc, wc])) == "bad-commitment-multiple"
    assert world.refusal(rebuild(block, vout=[wc, spare])) == "bad-commitment-place"
    assert world.refusal(rebuild(block, vout=[spare, wc])) == "bad-cb-extra-output"
    padded = TxOut(0, wc.script_pubkey + b"\x00")
    assert world.refusal(rebuild(block, vout=[padded])) == "bad-commitment-form"
    garbage = TxOut(0, data_carrier(b"WC\xc1"))
    assert world.refusal(rebuild(block, vout=[garbage])) == "bad-commitment-form"


# ---- rejected: coinbase


def test_coinbase_is_first_and_alone(world, rebuild):
    block = world.block([world.pay(world.purses[0], [])])
    coinbase, tx = block.txs
    assert world.refusal(rebuild(block, txs=[tx])) == "bad-cb-missing"
    assert world.refusal(rebuild(block, txs=[tx, coinbase])) == "bad-cb-missing"
    other = Transaction.build(1, [TxIn(NULL_PREVOUT, b"\x01\x02")], coinbase.vout)
    assert world.refusal(rebuild(block, txs=[coinbase, tx, other])) == "bad-cb-multiple"


def test_coinbase_pays_exactly_fees_and_payouts(world, rebuild, tools):
    block = world.block([world.pay(world.purses[0], [], fee=5000)])
    fee, wc = block.txs[0].vout
    assert world.refusal(rebuild(block, vout=[fee._replace(value=5001), wc])) == "bad-cb-amount"
    assert world.refusal(rebuild(block, vout=[fee._replace(value=4999), wc])) == "bad-cb-amount"
    assert world.refusal(rebuild(block, vout=[wc])) == "bad-cb-amount"
    elsewhere = TxOut(5000, tools.script_of(1))
    assert world.refusal(rebuild(block, vout=[elsewhere, wc])) == "bad-cb-fee-output"
    halves = [TxOut(2500, fee.script_pubkey), TxOut(2500, fee.script_pubkey), wc]
    assert world.refusal(rebuild(block, vout=halves)) == "bad-cb-fee-output"
    assert world.refusal(rebuild(block, vout=[fee, TxOut(0, fee.script_pubkey), wc])) == "bad-cb-extra-output"


def test_payouts_stand_in_queue_order(world, rebuild, tools):
    deposit = world.pay(world.purses[0], [(50_000, tools.payload("deposit"))])
    first = world.pay(world.output(deposit, 1), [(0, tools.payload("withdraw", 20_000))])
    second = world.pay(world.output(first, 1), [(0, tools.payload("withdraw", 10_000))])
    world.extend([deposit, first, second])
    block = world.block()
    one, two, wc = block.txs[0].vout
    assert world.refusal(rebuild(block, vout=[two, one, wc])) == "bad-cb-payouts"
    assert world.refusal(rebuild(block, vout=[one, wc])) == "bad-cb-amount"
    stolen = one._replace(script_pubkey=tools.script_of(99))
    assert world.refusal(rebuild(block, vout=[stolen, two, wc])) == "bad-cb-payouts"
    world.apply(world.connect(block))


def test_coinbase_starts_with_the_height(world, rebuild):
    assert world.refusal(rebuild(world.block(), script_sig=b"\x52\x00")) == "bad-cb-height"
    world.apply(world.connect(rebuild(world.block(), script_sig=b"\x51and a note")))


def test_coinbase_is_final(world):
    block = world.block()
    locked = Transaction.build(1, [block.txs[0].vin[0]._replace(sequence=0)], block.txs[0].vout, 99)
    built = BlockHeader.build(
        version=block.header.version,
        prev_hash=block.header.prev_hash,
        merkle_root=locked.txid,
        time_s=block.header.time_s,
        bits=block.header.bits,
        nonce=1,
    )
    assert world.refusal(Block.build(built, [locked])) == "bad-txns-nonfinal"


def test_genesis_passes_the_rules_of_form(world):
    check_block(world.genesis, world.params)


def test_fee_out_of_range_is_refused_even_where_forms_were_not_checked(world):
    negative = Transaction.build(1, [TxIn(bytes(36), b"")], [TxOut(-1, b"\x51")])
    coin = bytes(4) + world.params.ledger.max_money.to_bytes(8, "little") + b"\x51"
    with pytest.raises(RuleError, match="bad-txns-fee-outofrange"):
        check_spend(negative, [coin], SpendContext(1, 1, world.params.ledger))


def test_coinbase_carries_no_payload(world, rebuild, tools):
    block = world.block()
    wc = block.txs[0].vout[-1]
    carrying = rebuild(block, vout=[TxOut(0, tools.payload("put", b"k", b"v")), wc])
    assert world.refusal(carrying) == "bad-cb-payload"


# ---- rejected: body


def test_repeated_transactions_are_refused_but_may_be_another_body(world, rebuild):
    block = world.block([world.pay(purse, []) for purse in world.purses[:2]])
    doubled = rebuild(block, txs=[*block.txs, block.txs[-1]], merkle_root=block.header.merkle_root)
    with pytest.raises(RuleError) as caught:
        check_block(doubled, world.params)
    assert caught.value.code == "bad-txns-duplicate"
    assert not caught.value.permanent


def test_block_without_transactions_is_refused(world):
    block = world.block()
    empty = type(block).parse(block.header.raw + b"\x00")
    assert world.refusal(empty) == "bad-cb-missing"


def test_witness_rules_of_bip141(world, rebuild):
    tx = world.pay(world.purses[0], [], witness=(b"sig",))
    block = world.block([tx])
    *paid, commitment, wc = block.txs[0].vout
    cases = {
        "bad-witness-nonce-size": rebuild(block, witness=(bytes(31),)),
        "bad-witness-merkle-match": rebuild(block, witness=(b"\x01" * 32,)),
        "unexpected-witness": rebuild(block, vout=[*paid, wc], witness=()),
    }
    for code, bad in cases.items():
        with pytest.raises(RuleError) as caught:
            check_block(bad, world.params)
        assert (caught.value.code, caught.value.permanent) == (code, False)
    swapped = Transaction.parse(tx.raw.replace(b"sig", b"gis"))
    assert swapped.txid == tx.txid
    assert world.refusal(rebuild(block, txs=[block.txs[0], swapped])) == "bad-witness-merkle-match"
    assert commitment.script_pubkey == witness_commitment_script(witness_root(block.txs), bytes(32))
    twice = rebuild(block, vout=[*paid, commitment, commitment, wc])
    assert world.refusal(twice) == "bad-cb-extra-output"


def test_commitment_to_witnesses_is_welcome_where_there_are_none(world, rebuild):
    block = world.block()
    script = witness_commitment_script(witness_root(block.txs), bytes(32))
    block = rebuild(block, vout=[TxOut(0, script), block.txs[0].vout[-1]], witness=(bytes(32),))
    world.connect(block)


def test_heavy_blocks_are_refused(tools):
    params = tools.make_params(max_block_weight=200_000)
    roomy = tools.World(params=tools.make_params())
    fat = roomy.pay(roomy.purses[0], [(0, data_carrier(bytes(60_000)))], fee=100_000)
    block = roomy.block([fat])
    assert 200_000 < block.weight < 4_000_000
    with pytest.raises(RuleError, match="bad-blk-length"):
        check_block(block, params)
    witness = roomy.pay(roomy.purses[0], [], fee=1_000_000, witness=(bytes(200_000),))
    with pytest.raises(RuleError, match="bad-blk-weight"):
        check_block(roomy.block([witness]), params)


def test_unspendable_outputs_carry_nothing_but_payloads_may(world, tools, rebuild):
    sloppy = b"\x6a\x4c\x04WT\x01\x90"  # PUSHDATA1 where one byte would do
    for script in (data_carrier(b"burn"), sloppy, b"\x6a", b"\x51" * 10_001):
        burn = world.pay(world.purses[0], [(1, script)], fee=20_000)
        assert refusal_of(world, rebuild, burn) == ("bad-txns-unspendable-value",) * 2
        world.assemble([world.pay(world.purses[0], [(0, script)], fee=20_000)])
    world.extend([world.pay(world.purses[0], [(1, tools.payload("deposit"))])])


@pytest.mark.parametrize("size", [3, 75, 76, 255, 256, 65_535])
def test_payload_of_accepts_minimal_pushes(size):
    data = b"WT" + bytes(size - 2)
    assert payload_of(data_carrier(data)) == data
    assert payload_of(data_carrier(b"WX" + bytes(size - 2))) is None
    assert payload_of(data_carrier(data) + b"\x00") is None


def test_payload_of_refuses_what_is_too_short_or_too_long():
    assert payload_of(data_carrier(b"WT")) is None
    assert payload_of(data_carrier(b"WT" + bytes(65_534))) is None
    assert payload_of(b"\x6a") is None
    assert payload_of(b"") is None


# ---- rejected: transactions in their place


def refusal_of(world, rebuild, tx):
    """Return the code by which a block with ``tx`` is refused, and the code when assembling."""
    block = world.block([world.pay(world.purses[-1], [])])
    in_block = world.refusal(rebuild(block, txs=[block.txs[0], tx]))
    (refused,) = world.assemble([tx]).refused
    assert refused[0] == tx.txid
    return in_block, refused[1].code


def test_transactions_against_the_coins(world, rebuild, tools):
    spent = world.purses[0]
    world.extend([world.pay(spent, [])])
    script = tools.script_of(1)
    ghost = tools.Wallet(b"\x07" * 36, 5000, script)
    coin = world.purses[1]
    cases = {
        "bad-txns-inputs-missingorspent": [world.pay(ghost, []), world.pay(spent, [])],
        "bad-txns-in-belowout": [world.pay(coin, [(coin.amount + 1, script)])],
        "min-fee-not-met": [world.pay(coin, [], fee=60), world.pay(coin, [], fee=0)],
        "bad-txns-nonfinal": [
            world.pay(coin, [], lock_time=2, sequence=0xFFFFFFFE),
            world.pay(coin, [], lock_time=world.tip.time_s + 1, sequence=0xFFFFFFFE),
            world.pay(coin, [], sequence=3),
        ],
    }
    for code, txs in cases.items():
        for tx in txs:
            assert refusal_of(world, rebuild, tx) == (code, code)


def test_minimum_fee_counts_virtual_bytes_exactly(world, rebuild):
    size = world.pay(world.purses[0], []).vsize
    world.extend([world.pay(world.purses[0], [], fee=size)])
    assert refusal_of(world, rebuild, world.pay(world.purses[1], [], fee=size - 1))[0] == "min-fee-not-met"


def test_inputs_beyond_max_money_are_refused(tools, rebuild):
    params = tools.make_params(max_money=8_000 * 100_000_000)  # just what genesis issues
    world = tools.World(params=params)
    extra = tools.Wallet(b"\x05" * 36, 1, tools.script_of(1))
    world.coins.data[extra.prevout] = (0).to_bytes(4, "little") + (1).to_bytes(8, "little") + extra.script
    tx = world.pay([*world.purses, extra], [], fee=params.ledger.max_money)
    (refused,) = world.assemble([tx]).refused
    assert refused[1].code == "bad-txns-inputvalues-outofrange"


def test_double_spend_in_a_block_is_refused(world, rebuild, tools):
    block = world.block([world.pay(world.purses[0], [])])
    rival = world.pay(world.purses[0], [(700, tools.script_of(4))])
    assert world.refusal(rebuild(block, txs=[*block.txs, rival])) == "bad-txns-inputs-missingorspent"


def test_repeated_input_never_prints_money(world, tools):
    """CVE-2018-17144: the rule stands even where the context-free check was skipped."""
    tx = world.pay([world.purses[0], world.purses[0]], [])
    block = world.block()
    block = tools.rebuild(block, txs=[*block.txs, tx])
    assert world.refusal(block) == "bad-txns-inputs-duplicate"
    with pytest.raises(RuleError, match="bad-txns-inputs-duplicate"):
        connect_block(block, world.tip, world.coins, world.state, world.env)


def test_own_coinbase_cannot_be_spent_in_its_block(world, tools, rebuild):
    block = world.block([world.pay(world.purses[0], [])])
    reward = tools.Wallet(block.txs[0].txid + bytes(4), 1000, tools.script_of(201))
    tx = world.pay(reward, [], fee=300)
    assert world.refusal(rebuild(block, txs=[*block.txs, tx])) == "bad-txns-inputs-missingorspent"


def test_forged_signature_refuses_the_block(world):
    tx = world.pay(world.purses[0], [])
    block = world.block([tx])
    world.signatures.forged[tx.txid] = True
    assert world.refusal(block) == "mandatory-script-verify-flag-failed"


def test_refused_operation_refuses_the_block_and_names_the_transaction(world, tools, rebuild):
    tx = world.pay(world.purses[0], [(0, tools.payload("fail"))])
    block = rebuild(world.block(), txs=[world.block().txs[0], tx])
    with pytest.raises(RuleError, match=tx.txid[::-1].hex()) as caught:
        world.connect(block)
    assert caught.value.code == "bad-toy-op"


def test_second_payload_refuses_the_block(world, tools, rebuild):
    two = [(0, tools.payload("put", b"k", b"v"))] * 2
    block = rebuild(world.block(), txs=[world.block().txs[0], world.pay(world.purses[0], two)])
    assert world.refusal(block) == "bad-op-multiple"


def test_unforeseen_exception_passes_through(world, tools, rebuild):
    tx = world.pay(world.purses[0], [(0, tools.payload("crash"))])
    block = rebuild(world.block(), txs=[world.block().txs[0], tx])
    with pytest.raises(ZeroDivisionError):
        world.connect(block)


def test_order_of_operations_is_the_order_of_transactions(world, tools, rebuild):
    one = world.pay(world.purses[0], [(0, tools.payload("put", b"k", b"1"))])
    two = world.pay(world.purses[1], [(0, tools.payload("put", b"k", b"2"))])
    block = world.block([one, two])
    assert world.refusal(rebuild(block, txs=[block.txs[0], two, one])) == "bad-effects-digest"
    world.apply(world.connect(block))
    assert world.state.get(b"k") == b"2"


@pytest.mark.parametrize(
    ("ahead_s", "code"), [(2, None), (3, "time-too-new"), (-2, None), (-3, "time-too-far-back")]
)
def test_clock_of_a_new_block(world, ahead_s, code):
    header = world.block().header
    if code is None:
        check_clock(header, header.time_s - ahead_s, world.params)
        return
    with pytest.raises(RuleError) as caught:
        check_clock(header, header.time_s - ahead_s, world.params)
    assert (caught.value.code, caught.value.permanent) == (code, False)


def test_commitment_names_history_and_proposer(world):
    world.extend()
    commitment = find_commitment(world.block(proposer=3).txs[0])
    assert commitment.proposer == 3
    assert commitment.set_hash == world.signers.set_hash
