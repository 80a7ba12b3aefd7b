"""Bitcoin's rules by the names under which people know them: each with a story and the code of its refusal.

Blocks here pass through ``check_block`` and ``connect_block`` with the real interpreter where scripts
matter. Other files go to the limits of each rule; this one shows that none is missing.
"""

import pytest

from consensus.block_rules import check_block
from consensus.coin_rules import SpendContext, check_spend, signature_cost_limit
from consensus.coins import encode_coin
from consensus.connect import connect_block
from consensus.errors import RuleError
from consensus.hashes import hash160
from consensus.keys import CURVE_ORDER, encode_der, pubkey_from_secret, sign_ecdsa
from consensus.limits import MAX_TX_SIGOPS_COST
from consensus.merkle import txid_root
from consensus.script import ScriptError, verify_transaction
from consensus.script import templates as t
from consensus.sighash import legacy
from consensus.transaction import NULL_PREVOUT, Transaction, TxIn, TxOut

SECRET = bytes(31) + b"\x07"
PUBKEY = pubkey_from_secret(SECRET)
FINAL, NOT_FINAL = 0xFFFFFFFF, 0xFFFFFFFE
SECONDS = 1 << 22
DISABLED = 1 << 31
T0 = 1_700_000_000
SCRIPT_FAILED = "mandatory-script-verify-flag-failed"


class RealScripts:
    """Runs every script."""

    def check(self, items):
        for tx, spent in items:
            verify_transaction(tx, spent)


@pytest.fixture
def rebuild(tools):
    return tools.rebuild


@pytest.fixture
def scripts(tools):
    return tools.World(signatures=RealScripts())


def refused_in_block(world, rebuild, *txs):
    """Return the code by which a block of ``txs`` is refused; else it is an empty block that is not."""
    block = world.block()
    return world.refusal(rebuild(block, txs=[block.txs[0], *txs]))


def coin_of(world, tools, script, *, amount=50_000, height=0, coinbase=False, number=1):
    """Give the world a coin with ``script`` and return it as a purse."""
    purse = tools.Wallet(bytes([0x90 + number]) * 36, amount, script)
    world.coins.data[purse.prevout] = encode_coin(height, coinbase, amount, script)
    return purse


def spend(purse, script_sig=b"", witness=(), *, version=2, sequence=FINAL, fee=20_000, lock_time=0):
    out = TxOut(purse.amount - fee, t.p2pkh(bytes(20)))
    return Transaction.build(version, [TxIn(purse.prevout, script_sig, sequence, witness)], [out], lock_time)


# ---- heights and coinbases


def test_bip34_the_coinbase_begins_with_the_height(world, rebuild):
    block = world.block()
    for start in (t.push_number(2), b"\x02\x01\x00", b"\x01\x01", b"\x00\x51"):
        assert world.refusal(rebuild(block, script_sig=start + b"\x00")) == "bad-cb-height"
    world.connect(rebuild(block, script_sig=t.push_number(1) + b"any note"))


def test_bip30_no_two_transactions_have_one_txid(world, tools, rebuild):
    """Also CVE-2012-1909. The same coinbase cannot come again, since heights differ from the first block on;
    another transaction cannot, since what it spends is spent."""
    txids = set()
    for _ in range(20):
        connected = world.extend([])
        assert connected.txids[0] not in txids
        txids.update(connected.txids)
    old = world.block()
    world.extend([world.pay(world.purses[0], [], fee=5_000)])
    again = rebuild(old, prev_hash=world.tip.block_hash, time_s=world.tip.time_s + 1)
    assert world.refusal(again) in ("bad-cb-height", "bad-history-root")
    again = rebuild(world.block(), script_sig=old.txs[0].vin[0].script_sig)
    assert world.refusal(again) == "bad-cb-height"
    tx = world.pay(world.purses[1], [])
    world.extend([tx])
    assert refused_in_block(world, rebuild, tx) == "bad-txns-inputs-missingorspent"


@pytest.mark.parametrize("size", [0, 1, 101, 200])
def test_coinbase_script_length(world, rebuild, size):
    block = world.block()
    assert world.refusal(rebuild(block, script_sig=bytes(size))) == "bad-cb-length"


def test_coinbase_script_of_100_bytes(world, rebuild):
    world.connect(rebuild(world.block(), script_sig=t.push_number(1) + bytes(99)))


def test_one_coinbase_and_it_comes_first(world, rebuild):
    block = world.block([world.pay(world.purses[0], [])])
    coinbase, tx = block.txs
    for txs, code in (
        ((tx, coinbase), "bad-cb-missing"),
        ((tx,), "bad-cb-missing"),
        ((coinbase, tx, coinbase), "bad-cb-multiple"),
    ):
        assert world.refusal(rebuild(block, txs=txs)) == code
    null = spend(tools_purse(NULL_PREVOUT), b"\x00\x00")
    also_null = Transaction.build(2, [*null.vin, TxIn(b"\x01" * 36, b"")], null.vout)
    assert world.refusal(rebuild(block, txs=[coinbase, also_null])) == "bad-txns-prevout-null"


def tools_purse(prevout):
    class Purse:
        amount, script = 50_000, b"\x51"

    Purse.prevout = prevout
    return Purse


@pytest.mark.parametrize("maturity", [1, 2, 100])
def test_coinbase_maturity_is_that_of_the_chain_file(tools, maturity):
    ledger = tools.make_params(coinbase_maturity_blocks=maturity).ledger
    tx = spend(tools_purse(b"\x01" * 36))
    for coinbase, height, opens in (
        (True, 7 + maturity - 1, False),
        (True, 7 + maturity, True),
        (False, 7, True),
    ):
        coin = encode_coin(7, coinbase, 50_000, b"\x51")
        context = SpendContext(height, T0, ledger)
        if opens:
            assert check_spend(tx, [coin], context) == 20_000
            continue
        with pytest.raises(RuleError) as caught:
            check_spend(tx, [coin], context)
        assert (caught.value.code, caught.value.permanent) == ("bad-txns-premature-spend-of-coinbase", False)


def test_immature_coinbase_refuses_the_block(tools, rebuild):
    world = tools.World(params=tools.make_params(coinbase_maturity_blocks=3))
    connected = world.extend([world.pay(world.purses[0], [], fee=50_000)])
    reward = tools.Wallet(connected.txids[0] + bytes(4), 50_000, tools.script_of(201))
    tx = world.pay(reward, [], fee=20_000)
    assert refused_in_block(world, rebuild, tx) == "bad-txns-premature-spend-of-coinbase"
    world.extend()
    assert refused_in_block(world, rebuild, tx) == "bad-txns-premature-spend-of-coinbase"
    world.extend()
    world.extend([tx])  # height 4, three above its own


def test_genesis_allocations_and_bft_coinbases_need_not_wait(tools):
    world = tools.World(params=tools.make_params(coinbase_maturity_blocks=100))
    world.extend([world.pay(world.purses[0], [])])
    world = tools.World()
    assert world.params.ledger.coinbase_maturity_blocks == 0
    connected = world.extend([world.pay(world.purses[0], [], fee=50_000)])
    world.extend(
        [world.pay(tools.Wallet(connected.txids[0] + bytes(4), 50_000, tools.script_of(201)), [], fee=20_000)]
    )


# ---- lock times


def test_bip113_lock_times_look_at_the_chains_clock(world, rebuild):
    """On a bft chain the clock is the header time, which never runs backwards; on a pow chain the caller
    gives the median time past as the context's time. Either way a lock opens strictly after its time."""
    time_s = world.tip.time_s + 1
    shut = world.pay(world.purses[0], [], lock_time=time_s, sequence=NOT_FINAL)
    assert refused_in_block(world, rebuild, shut) == "bad-txns-nonfinal"
    assert refused_in_block(
        world, rebuild, world.pay(world.purses[0], [], lock_time=1, sequence=NOT_FINAL)
    ) == ("bad-txns-nonfinal")
    world.connect(world.block([world.pay(world.purses[0], [], lock_time=time_s - 1, sequence=NOT_FINAL)]))
    world.connect(world.block([world.pay(world.purses[0], [], lock_time=time_s, sequence=FINAL)]))
    coin = encode_coin(0, False, 50_000, b"\x51")
    purse = tools_purse(b"\x01" * 36)
    median = 1_700_000_000
    ledger = world.params.ledger
    for lock_time, opens in ((median - 1, True), (median, False), (median + 3_600, False)):
        tx = spend(purse, sequence=NOT_FINAL, lock_time=lock_time)
        if opens:
            assert check_spend(tx, [coin], SpendContext(9, median, ledger)) == 20_000
        else:
            with pytest.raises(RuleError, match="bad-txns-nonfinal"):
                check_spend(tx, [coin], SpendContext(9, median, ledger))


@pytest.mark.parametrize(
    ("version", "sequence", "height", "time_s", "opens"),
    [
        # In blocks: the coin is of height 100.
        (2, 5, 104, T0, False),
        (2, 5, 105, T0, True),
        (2, 0xFFFF, 100 + 0xFFFE, T0, False),
        (2, 0xFFFF, 100 + 0xFFFF, T0, True),
        (2, 0, 100, T0, True),
        # In units of 512 seconds: the coin's block is of T0.
        (2, SECONDS | 2, 101, T0 + 1023, False),
        (2, SECONDS | 2, 101, T0 + 1024, True),
        (2, SECONDS | 0xFFFF, 101, T0 + 512 * 0xFFFF - 1, False),
        (2, SECONDS | 0xFFFF, 101, T0 + 512 * 0xFFFF, True),
        (2, SECONDS, 101, T0, True),
        # Bits outside the mask mean nothing.
        (2, 0x003F_0000 | 5, 104, T0, False),
        (2, 0x003F_0000 | 5, 105, T0, True),
        (2, 0x7F80_0000 | 5, 104, T0, False),
        # Switched off by the top bit, and by versions below 2.
        (2, DISABLED | 5, 100, T0, True),
        (2, FINAL, 100, T0, True),
        (1, 5, 100, T0, True),
        (0, 5, 100, T0, True),
        # The version is unsigned: what Bitcoin once read as negative is large.
        (0xFFFF_FFFF, 5, 104, T0, False),
        (3, 5, 104, T0, False),
    ],
)
def test_bip68_relative_locks(world, version, sequence, height, time_s, opens):
    class Times:
        def time_at(self, asked):
            return T0 if asked == 100 else None

    coin = encode_coin(100, False, 50_000, b"\x51")
    tx = spend(tools_purse(b"\x01" * 36), version=version, sequence=sequence)
    context = SpendContext(height, time_s, world.params.ledger, Times())
    if opens:
        assert check_spend(tx, [coin], context) == 20_000
        return
    with pytest.raises(RuleError) as caught:
        check_spend(tx, [coin], context)
    assert (caught.value.code, caught.value.permanent) == ("bad-txns-nonfinal", False)


@pytest.mark.parametrize(
    ("operator", "operand", "fields", "opens"),
    [
        ("\xb1", 100, {"lock_time": 100, "sequence": NOT_FINAL}, True),
        ("\xb1", 101, {"lock_time": 100, "sequence": NOT_FINAL}, False),
        ("\xb1", 100, {"lock_time": 100, "sequence": FINAL}, False),
        ("\xb1", 100, {"lock_time": T0, "sequence": NOT_FINAL}, False),
        ("\xb2", 5, {"sequence": 5}, True),
        ("\xb2", 6, {"sequence": 5}, False),
        ("\xb2", 5, {"sequence": 5 | SECONDS}, False),
        ("\xb2", 5, {"sequence": 5, "version": 1}, False),
    ],
)
def test_bip65_and_bip112_scripts_hold_coins_back(operator, operand, fields, opens):
    script = t.push_number(operand) + operator.encode("latin-1")
    tx = spend(tools_purse(b"\x01" * 36), **fields)
    coin = encode_coin(0, False, 50_000, script)
    if opens:
        verify_transaction(tx, [coin])
        return
    with pytest.raises(ScriptError) as caught:
        verify_transaction(tx, [coin])
    assert caught.value.name == "UNSATISFIED_LOCKTIME"


# ---- scripts


def test_bip16_p2sh_runs_its_redeem_script(scripts, tools, rebuild):
    """Before, knowing the script was enough."""
    for number, (redeem, opens) in enumerate(((b"\x51", True), (b"\x00", False))):
        purse = coin_of(scripts, tools, t.p2sh(hash160(redeem)), number=number)
        tx = spend(purse, t.push(redeem))
        if opens:
            scripts.connect(scripts.block([tx]))
            assert refused_in_block(scripts, rebuild, spend(purse, t.push(b"\x52"))) == SCRIPT_FAILED
        else:
            assert refused_in_block(scripts, rebuild, tx) == SCRIPT_FAILED


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda r, s: b"\x00" + encode_der(r, s), "SIG_DER"),  # BIP66
        (lambda r, s: encode_der(r, CURVE_ORDER - s), "SIG_HIGH_S"),  # BIP146, LOW_S
        (lambda r, s: encode_der(r, s ^ 1), "NULLFAIL"),  # BIP146: only an empty signature may fail
        (lambda r, s: encode_der(r, s), None),
    ],
)
def test_bip66_and_bip146_signatures(spoil, name):
    script = t.p2pk(PUBKEY)
    blank = spend(tools_purse(b"\x01" * 36))
    der = sign_ecdsa(SECRET, legacy(blank, 0, script, 1))
    r_size = der[3]
    r, s = int.from_bytes(der[4 : 4 + r_size], "big"), int.from_bytes(der[6 + r_size :], "big")
    tx = spend(tools_purse(b"\x01" * 36), t.push(spoil(r, s) + b"\x01"))
    coin = encode_coin(0, False, 50_000, script)
    if name is None:
        verify_transaction(tx, [coin])
        return
    with pytest.raises(ScriptError) as caught:
        verify_transaction(tx, [coin])
    assert (caught.value.name, caught.value.code) == (name, SCRIPT_FAILED)


def test_bip147_the_dummy_of_checkmultisig_is_empty(scripts, tools, rebuild):
    purse = coin_of(scripts, tools, b"\x00" + t.push(PUBKEY) + b"\x51\xae")  # 0 of 1
    scripts.connect(scripts.block([spend(purse, b"\x00")]))
    assert refused_in_block(scripts, rebuild, spend(purse, b"\x51")) == SCRIPT_FAILED
    with pytest.raises(ScriptError) as caught:
        verify_transaction(spend(purse, b"\x51"), [scripts.coins.get(purse.prevout)])
    assert caught.value.name == "SIG_NULLDUMMY"


def test_cve_2010_5141_return_in_a_scriptsig_opens_nothing(scripts, tools, rebuild):
    purse = coin_of(scripts, tools, t.p2pk(PUBKEY))
    assert refused_in_block(scripts, rebuild, spend(purse, b"\x51\x6a")) == (SCRIPT_FAILED)


# ---- what blocks weigh and cost


def test_weight(tools):
    params = tools.make_params(max_block_weight=200_000)
    roomy = tools.World(params=tools.make_params())
    for given, code in (
        ({"outputs": [(0, t.data_carrier(bytes(60_000)))]}, "bad-blk-length"),
        ({"outputs": [], "witness": (bytes(200_000),)}, "bad-blk-weight"),
    ):
        block = roomy.block([roomy.pay(roomy.purses[0], fee=1_000_000, **given)])
        with pytest.raises(RuleError) as caught:
            check_block(block, params)
        assert caught.value.code == code


def test_signature_operations_of_a_block(tools, rebuild):
    """Counted over outputs, as in Bitcoin Core: 80,000 of them fit, one unit of four more does not."""
    world = tools.World()
    assert signature_cost_limit(world.params.ledger) == 80_000
    fee_output = 4
    each = MAX_TX_SIGOPS_COST - 4  # its change is P2PKH
    txs = [world.pay(world.purses[at], [(1, b"\xac" * (each // 4))], fee=50_000) for at in range(5)]
    free = 80_000 - fee_output - 5 * MAX_TX_SIGOPS_COST
    assert free < 0
    last = world.pay(world.purses[4], [(1, b"\xac" * ((each + free) // 4))], fee=50_000)
    block = world.block([*txs[:4], last])
    world.connect(block)
    assert world.refusal(rebuild(block, txs=[block.txs[0], *txs])) == "bad-blk-sigops"


def test_signature_operations_of_a_transaction(world, tools, rebuild):
    most = world.pay(world.purses[0], [(1, b"\xac" * 3_999)], fee=50_000)  # its change is P2PKH
    world.connect(world.block([most]))
    over = world.pay(world.purses[0], [(1, b"\xac" * 4_000)], fee=50_000)
    assert refused_in_block(world, rebuild, over) == "bad-txns-too-many-sigops"
    (refused,) = world.assemble([over]).refused
    assert refused[1].code == "bad-txns-too-many-sigops"


def test_bare_scripts_cost_where_they_run(world, tools, rebuild):
    """What an old output would make every node do now was counted in some other block."""
    purses = [coin_of(world, tools, b"\xac" * 200, number=number) for number in range(20)]
    allowed = [spend(purse) for purse in purses]
    world.connect(world.block(allowed))
    heavy = [coin_of(world, tools, b"\xac" * 3_999, number=20 + number) for number in range(6)]
    assert refused_in_block(world, rebuild, *[spend(purse) for purse in heavy]) == "bad-blk-sigops"


# ---- witnesses


def test_bip141_witness_commitment(world, rebuild):
    tx = world.pay(world.purses[0], [], witness=(b"sig",))
    block = world.block([tx])
    *paid, _, wc = block.txs[0].vout
    for code, bad in (
        ("unexpected-witness", rebuild(block, vout=[*paid, wc], witness=())),
        ("bad-witness-nonce-size", rebuild(block, witness=(bytes(31),))),
        ("bad-witness-nonce-size", rebuild(block, witness=(bytes(32), bytes(32)))),
        ("bad-witness-merkle-match", rebuild(block, witness=(b"\x01" * 32,))),
    ):
        with pytest.raises(RuleError) as caught:
            check_block(bad, world.params)
        # Another body may belong to this header, so its hash is not remembered as invalid.
        assert (caught.value.code, caught.value.permanent) == (code, False)


# ---- what went wrong in Bitcoin once


@pytest.mark.parametrize("count", [3, 5, 6, 7])
def test_cve_2012_2459_repeated_transactions_under_the_same_root(world, rebuild, count):
    """A Merkle tree with an odd level repeats its last node, so a block has a twin that is not valid. The
    twin is refused, and its header not remembered as bad: the block itself may come yet."""
    block = world.block([world.pay(purse, []) for purse in world.purses[: count - 1]])
    txs = list(block.txs)
    size = 1
    while len(txs) % (2 * size) == 0:
        size *= 2
    twin = rebuild(block, txs=[*txs, *txs[-size:]], merkle_root=block.header.merkle_root)
    assert txid_root(twin.txs) == (block.header.merkle_root, True)
    with pytest.raises(RuleError) as caught:
        check_block(twin, world.params)
    assert (caught.value.code, caught.value.permanent) == ("bad-txns-duplicate", False)
    world.connect(block)
    wrong = rebuild(block, txs=[txs[0], *txs[:0:-1]], merkle_root=bytes(32))
    with pytest.raises(RuleError) as caught:
        check_block(wrong, world.params)
    assert (caught.value.code, caught.value.permanent) == ("bad-txnmrklroot", False)


def test_cve_2018_17144_an_input_that_stands_twice(world, rebuild):
    purse = world.purses[0]
    twice = Transaction.build(
        2, [TxIn(purse.prevout, b"\x51")] * 2, [TxOut(2 * purse.amount - 50_000, purse.script)]
    )
    assert refused_in_block(world, rebuild, twice) == "bad-txns-inputs-duplicate"
    block = world.block()
    unchecked = rebuild(block, txs=[block.txs[0], twice])
    with pytest.raises(RuleError, match="bad-txns-inputs-duplicate"):  # even past check_block
        connect_block(unchecked, world.tip, world.coins, world.state, world.env)


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ((2**63 - 1, 2**63 - 1), "bad-txns-vout-toolarge"),  # block 74,638 of Bitcoin
        ((21_000_000 * 10**8, 1), "bad-txns-txouttotal-toolarge"),
        ((21_000_000 * 10**8 + 1,), "bad-txns-vout-toolarge"),
        ((-1, 5), "bad-txns-vout-negative"),
        ((-(2**63), 5), "bad-txns-vout-negative"),
    ],
)
def test_cve_2010_5139_value_overflow(world, rebuild, values, code):
    purse = world.purses[0]
    outputs = [TxOut(value, purse.script) for value in values]
    tx = Transaction.build(2, [TxIn(purse.prevout, b"\x51")], outputs)
    assert refused_in_block(world, rebuild, tx) == code


def test_spending_more_than_there_is(world, rebuild):
    purse = world.purses[0]
    tx = Transaction.build(2, [TxIn(purse.prevout, b"\x51")], [TxOut(purse.amount + 1, purse.script)])
    assert refused_in_block(world, rebuild, tx) == "bad-txns-in-belowout"


@pytest.mark.parametrize(("padding", "code"), [(3, None), (4, "bad-txns-size-64"), (5, None)])
def test_cve_2017_12842_a_transaction_of_64_bytes(world, rebuild, padding, code):
    """It could pass for two hashes of the Merkle tree, and prove a payment that nobody made."""
    purse = world.purses[0]
    tx = Transaction.build(2, [TxIn(purse.prevout, b"")], [TxOut(0, b"\x6a" + bytes(padding - 1))])
    assert len(tx.raw) == 60 + padding
    if code is None:
        world.connect(world.block([tx]))
    else:
        assert refused_in_block(world, rebuild, tx) == code


def test_spending_twice(world, rebuild):
    purse = world.purses[0]
    one, other = world.pay(purse, [], fee=1_000), world.pay(purse, [], fee=2_000)
    assert refused_in_block(world, rebuild, one, other) == "bad-txns-inputs-missingorspent"
    world.extend([one])
    assert refused_in_block(world, rebuild, other) == "bad-txns-inputs-missingorspent"
