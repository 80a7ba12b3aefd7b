"""Plain payments in C: the same verdicts, fees, coins and undo values as the rules in Python."""

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import coin_rules, keys, tx_rules
from consensus.coin_rules import CoinChanges, SpendContext, check_spend
from consensus.coins import encode_coin
from consensus.errors import RuleError
from consensus.fastpath import signature_items
from consensus.hashes import hash160, ripemd160
from consensus.keys import verify_ecdsa
from consensus.limits import FORBIDDEN_TX_SIZE, MAX_TX_WEIGHT
from consensus.params import LedgerParams
from consensus.script import templates as t
from consensus.signing import sign_input
from consensus.transaction import Transaction, TxIn, TxOut, outpoint
from consensus.tx_rules import check_transactions

SECRETS = [bytes(31) + bytes((n,)) for n in range(1, 4)]
HASHES = [hash160(keys.pubkey_from_secret(secret)) for secret in SECRETS]
LEDGER = LedgerParams(
    max_money=10_000,
    max_block_weight=4_000_000,
    min_fee_per_kvb=1000,
    min_payout=1,
    op_budget=10,
    timer_budget=10,
)
CONTEXT = SpendContext(100, 1_700_000_000, LEDGER)
SCRIPTS = [
    t.p2pkh(HASHES[0]),
    b"\x00\x14" + HASHES[1],
    t.p2sh(HASHES[2]),
    b"\x51\x20" + bytes(32),
    t.data_carrier(b"note"),
    t.data_carrier(b"WTx"),
    t.data_carrier(b"n" * 80),
    t.data_carrier(b"n" * 300),
    b"\x6a",
    b"",
    b"\x6a\x02n",
    b"\x6a\x01n\xac",
    b"\x6a\xac",
    b"\x6a\x4c",
    b"\x6a\x4d\x01",
    b"\x6a\x4e\x01\x00\x00\x00n",
]
COIN_SCRIPTS, CARRIERS = SCRIPTS[:4], SCRIPTS[4:9]

coins = st.builds(
    encode_coin,
    st.sampled_from([0, 0, 1, 99]),
    st.sampled_from([False, False, True]),
    st.sampled_from([0, 600, 5_000, 10_000, 10_001, 1 << 61]),
    st.sampled_from([t.p2pkh(HASHES[0]), t.p2pkh(HASHES[0]), b"\x00\x14" + HASHES[0], t.p2sh(HASHES[0])]),
)
inputs = st.tuples(
    st.integers(0, 3),  # which outpoint: two inputs may name the same
    st.sampled_from([0xFFFFFFFF, 0xFFFFFFFE, 5, 1 << 22]),
    st.sampled_from([b"", b"\x01\x00\x01\x00", b"\x00\xac"]),
)
outputs = st.tuples(st.sampled_from([0, 1, 500, 4_000, 10_001, -1, (1 << 63) - 1]), st.sampled_from(SCRIPTS))
transactions = st.builds(
    lambda version, vin, vout, lock: Transaction.build(
        version,
        [TxIn(outpoint(bytes(32) if n == 3 else bytes((n + 1,)) * 32, n), script, s) for n, s, script in vin],
        [TxOut(*output) for output in vout],
        lock,
    ),
    st.sampled_from([1, 2, 0xFFFFFFFF]),
    st.lists(inputs, min_size=1, max_size=3),
    st.lists(outputs, max_size=3),
    st.sampled_from([0, 0, 0, 5, 101]),
)


@pytest.fixture(scope="module")
def native() -> ModuleType:
    return pytest.importorskip("cext._native", reason="the native module is not built", exc_type=ImportError)


def code_of(work: object, *arguments: object) -> object:
    """Return what a call returns, or the code with which it refuses."""
    try:
        return work(*arguments)  # type: ignore[operator]
    except RuleError as error:
        return error.code


@given(st.binary(max_size=200))
def test_ripemd160(native: ModuleType, data: bytes) -> None:
    assert native.ripemd160(data) == ripemd160(data)


@settings(max_examples=400, deadline=None)
@given(st.lists(transactions, max_size=4))
def test_forms_are_judged_alike(native: ModuleType, txs: list[Transaction]) -> None:
    limit = LEDGER.max_money
    verdicts = [code_of(tx_rules._check_unusual, tx, limit) for tx in txs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tx_rules, "next_unusual", native.next_unusual)
        assert [code_of(tx_rules.check_transaction, tx, limit) for tx in txs] == verdicts
        assert code_of(check_transactions, txs, limit) == next((v for v in verdicts if v is not None), None)


@settings(max_examples=500, deadline=None)
@given(transactions, st.data())
def test_fees_are_judged_alike(native: ModuleType, tx: Transaction, data: st.DataObject) -> None:
    spent = [data.draw(coins) for _ in tx.prevouts]
    if code_of(tx_rules._check_unusual, tx, LEDGER.max_money) is not None:
        return  # check_transaction comes first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coin_rules, "plain_fee", lambda *_: -1)
        expected = code_of(check_spend, tx, spent, CONTEXT)
    found = native.plain_fee(tx, spent, LEDGER.max_money, LEDGER.min_fee_per_kvb)
    assert found in (-1, expected)


@settings(max_examples=500, deadline=None)
@given(transactions, st.data())
def test_usual_payments_pass_every_rule(native: ModuleType, tx: Transaction, data: st.DataObject) -> None:
    spent = [data.draw(coins) for _ in tx.prevouts]
    limits = (LEDGER.max_money, LEDGER.min_fee_per_kvb)
    usual = native.next_unusual([tx], 0, LEDGER.max_money, MAX_TX_WEIGHT, FORBIDDEN_TX_SIZE) == 1
    found = native.usual_fee(tx, spent, *limits, MAX_TX_WEIGHT, FORBIDDEN_TX_SIZE)
    assert found == (native.plain_fee(tx, spent, *limits) if usual else -1)
    assert found == -1 or b"WT" not in tx.raw
    assert native.usual_fee(tx, [*spent, b""], *limits, MAX_TX_WEIGHT, FORBIDDEN_TX_SIZE) == -1


def test_sizes_of_usual_payments(native: ModuleType) -> None:
    two, spent = signed([(0, False), (1, True)])
    tx = Transaction.build(2, two.vin[1:], two.vout)

    def fee(max_weight: int, forbidden_size: int) -> object:
        return native.usual_fee(tx, spent[1:], 10_000, 0, max_weight, forbidden_size)

    assert fee(tx.weight, 64) == 1_000 - 107
    assert fee(tx.weight - 1, 64) == -1
    assert fee(tx.weight, tx.stripped_size) == -1


@settings(max_examples=200, deadline=None)
@given(transactions, st.integers(0, 4), st.sampled_from([0, 1, 100 << 1, 0xFFFFFFFE]))
def test_an_output_becomes_the_same_coin(native: ModuleType, tx: Transaction, index: int, code: int) -> None:
    import cext._pure

    expected = None
    if index < tx.output_count:
        value, script = tx.vout[index]
        expected = code.to_bytes(4, "little") + value.to_bytes(8, "little", signed=True) + script
    assert native.output_coin(tx, index, code) == cext._pure.output_coin(tx, index, code) == expected


def test_outputs_with_long_scripts_are_passed_over(native: ModuleType) -> None:
    import cext._pure

    outputs = [TxOut(n, bytes(size)) for n, size in enumerate((0, 252, 253, 65_535, 65_536, 3))]
    tx = Transaction.build(2, [TxIn(outpoint(bytes(32), 1), b"")], outputs * 50)
    for twin in (native, cext._pure):
        coins_made = [twin.output_coin(tx, index, 6) for index in range(tx.output_count + 1)]
        assert coins_made == [encode_coin(3, False, *output) for output in outputs] * 50 + [None]


@settings(max_examples=300, deadline=None)
@given(transactions, st.data())
def test_costs_are_counted_alike(native: ModuleType, tx: Transaction, data: st.DataObject) -> None:
    spent = [data.draw(coins) for _ in tx.prevouts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coin_rules, "plain_cost", lambda *_: -1)
        expected = coin_rules.signature_cost(tx, spent)
    assert native.plain_cost(tx, spent) in (-1, expected)


@settings(max_examples=200, deadline=None)
@given(transactions)
def test_outputs_become_the_same_coins(native: ModuleType, tx: Transaction) -> None:
    changes = CoinChanges({}, CONTEXT.height)  # type: ignore[arg-type]
    changes.create(tx.txid, tx.vout, coinbase=False)
    found: tuple[dict[bytes, bytes | None], dict[bytes, bytes | None]] = ({}, {})
    done = native.create_coins(tx, *found, CONTEXT.height << 1)
    assert done == all(s in COIN_SCRIPTS or (s in CARRIERS and not value) for value, s in tx.vout)
    assert found == ((changes.coins, changes.undo) if done else ({}, {}))


def connect(
    txs: list[Transaction], base: dict[bytes, bytes], known: dict[bytes, bytes]
) -> tuple[object, CoinChanges, list[object]]:
    changes = CoinChanges(base, CONTEXT.height)  # type: ignore[arg-type]
    items: list[object] = []

    def run() -> int:
        at = fees = 0
        while True:
            at, paid, _ = changes.move_payments(txs, at, items, known, LEDGER)  # type: ignore[arg-type]
            fees += paid
            if at == len(txs):
                return fees
            spent = changes.find(txs[at])
            fees += check_spend(txs[at], spent, CONTEXT)
            changes.apply(txs[at], spent)
            items.append((txs[at], spent))
            at += 1

    return code_of(run), changes, items


@settings(max_examples=300, deadline=None)
@given(st.lists(transactions, max_size=4), st.lists(coins, min_size=4, max_size=4), st.booleans())
def test_coins_move_alike(
    native: ModuleType, txs: list[Transaction], values: list[bytes], ahead: bool
) -> None:
    txs = [tx for tx in txs if code_of(tx_rules._check_unusual, tx, LEDGER.max_money) is None]
    base = {outpoint(bytes((n + 1,)) * 32, n): value for n, value in enumerate(values)}
    # Each also spends what the one before it has made.
    for at in range(1, len(txs)):
        vin = [*txs[at].vin, TxIn(outpoint(txs[at - 1].txid, 0), b"")]
        txs[at] = Transaction.build(txs[at].version, vin, txs[at].vout, txs[at].lock_time)
    results = []
    for move, fee in (
        (lambda _, start, *rest: (start, 0, 0, 0, 0), lambda *_: -1),
        (native.move_payments, native.plain_fee),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(coin_rules, "move_payments", move)
            patch.setattr(coin_rules, "plain_fee", fee)
            patch.setattr(coin_rules, "create_coins", lambda *_: False)
            results.append(connect(txs, base, dict(base) if ahead else {}))
    (code, changes, items), (native_code, native_changes, native_items) = results
    assert native_code == code
    if not isinstance(code, str):
        assert native_items == items
        assert native_changes.coins == changes.coins
        assert native_changes.undo == changes.undo


def signed(kinds: list[tuple[int, bool]]) -> tuple[Transaction, list[bytes]]:
    vin = [TxIn(outpoint(bytes((n,)) * 32, n), b"", 0xFFFFFFFF - n) for n in range(len(kinds))]
    tx = Transaction.build(2, vin, [TxOut(100, SCRIPTS[0]), TxOut(7, SCRIPTS[1])], 9)
    spent = [
        encode_coin(3, False, 1000, (t.p2wpkh if witness else t.p2pkh)(HASHES[key])) for key, witness in kinds
    ]
    for index, (key, _) in enumerate(kinds):
        tx = sign_input(tx, index, SECRETS[key], spent[index])
    return tx, spent


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=4), st.data())
def test_signatures_are_judged_alike(
    native: ModuleType, kinds: list[tuple[int, bool]], data: st.DataObject
) -> None:
    tx, spent = signed(kinds)
    assert native.judge_payments([(tx, spent)]) == b"\x01"
    raw = bytearray(tx.raw)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        damaged = Transaction.parse(bytes(raw))
    except Exception:
        return
    if damaged.input_count != len(spent):
        return
    items = signature_items(damaged, spent)
    expected = 2 if items is None else int(all(verify_ecdsa(k, m, s) for m, k, s in items))
    verdict = native.judge_payments([(damaged, spent)])[0]
    assert verdict in (2, expected)
    if verdict == 2 and items is not None:  # only another hash type is left to the twin
        assert any(unlock[-1:] != b"\x01" for unlock in _signatures(damaged))


def _signatures(tx: Transaction) -> list[bytes]:
    return [i.witness[0] if i.witness else i.script_sig[1 : 1 + i.script_sig[0]] for i in tx.vin]


def test_many_transactions_of_all_kinds(native: ModuleType) -> None:
    good, other = signed([(0, False), (1, True)]), signed([(2, True)])
    forged = (
        good[0],
        [good[1][0], encode_coin(3, False, 1001, good[1][1][12:])],
    )  # the witness hash covers it
    foreign = (other[0], [encode_coin(3, False, 1000, t.p2sh(HASHES[0]))])
    verdicts = native.judge_payments([good, forged, other, foreign] * 10)
    assert verdicts == b"\x01\x00\x01\x02" * 10
    assert native.judge_payments([]) == b""


def test_prevouts_from_outside_are_told_alike(native: ModuleType) -> None:
    import cext._pure

    first, _ = signed([(0, False), (1, True)])
    child = Transaction.build(2, [TxIn(outpoint(first.txid, 0), b""), TxIn(outpoint(b"x" * 32, 1), b"")], [])
    own = Transaction.build(2, [TxIn(outpoint(first.txid, 9), b"")], [TxOut(1, b"")])
    for txs in ([], [first], [child, first], [first, child, own], [child]):
        expected = cext._pure.outside_prevouts(txs)
        assert native.outside_prevouts(txs) == expected
        assert all(prevout[:32] not in {tx.txid for tx in txs} for prevout in expected)
    assert native.outside_prevouts([child]) == list(child.prevouts)


def test_threads_share_one_batch(native: ModuleType) -> None:
    """Whoever is faster takes more; every payment is judged once, and each verdict stands at its place."""
    good, other = signed([(0, False), (1, True)]), signed([(2, True)])
    forged = (good[0], [good[1][0], encode_coin(3, False, 1001, good[1][1][12:])])
    batch = native.PaymentBatch([good, forged, other] * 100)
    assert batch.verdicts == b"\x02" * 300
    with ThreadPoolExecutor(4) as pool:
        for call in [pool.submit(batch.judge) for _ in range(4)]:
            assert call.result() is None
    assert batch.verdicts == b"\x01\x00\x01" * 100
    batch.judge()
    assert batch.verdicts == b"\x01\x00\x01" * 100


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="no eventfd here")
@pytest.mark.parametrize("threads", [1, 4])
def test_native_threads_judge_a_batch_and_say_when_they_end(native: ModuleType, threads: int) -> None:
    good, other = signed([(0, False), (1, True)]), signed([(2, True)])
    forged = (good[0], [good[1][0], encode_coin(3, False, 1001, good[1][1][12:])])
    wake = os.eventfd(0)
    try:
        batch = native.PaymentBatch([good, forged, other] * 50)
        assert batch.start(threads, wake) == threads
        assert batch.start(threads, wake) == 0  # they run already
        ended = 0
        while ended < threads:
            ended += os.eventfd_read(wake)
        batch.finish()
        assert batch.verdicts == b"\x01\x00\x01" * 50
        assert native.PaymentBatch([]).start(threads, wake) == 0
        native.PaymentBatch([good] * 50).start(threads, wake)  # and nobody waits: it is freed when they end
    finally:
        os.close(wake)


def test_a_batch_holds_what_it_points_into(native: ModuleType) -> None:
    tx, spent = signed([(0, False)])
    items = [(Transaction.parse(tx.raw), [bytes(bytearray(coin)) for coin in spent]) for _ in range(40)]
    batch = native.PaymentBatch(items)
    for item in items:
        item[1].clear()
    items.clear()
    gc.collect()
    batch.judge()
    assert batch.verdicts == b"\x01" * 40


def test_marks_of_payloads_are_found(native: ModuleType) -> None:
    import cext._pure

    tx, spent = signed([(0, False)])
    outputs = [TxOut(1, b"\x6a\x02WT"), TxOut(1, b"\x6a\x02TW"), TxOut(1, b"\x6a\x01W"), TxOut(1, b"T")]
    txs = [Transaction.build(2, tx.vin, [output]) for output in outputs]
    expected = [index for index, made in enumerate(txs) if b"WT" in made.raw]
    for twin in (native, cext._pure):
        assert twin.PaymentBatch([(made, spent) for made in txs]).marked() == expected
        assert twin.PaymentBatch([]).marked() == []
    assert 0 in expected


def test_coins_that_are_no_bytes_are_a_mistake(native: ModuleType) -> None:
    tx, _ = signed([(0, False)])
    for wrong in (None, "coin", 5):
        with pytest.raises(TypeError):
            native.PaymentBatch([(tx, [wrong])])


def test_one_coin_per_input_is_wanted(native: ModuleType) -> None:
    import cext._pure

    tx, spent = signed([(0, False)])
    for judge in (native.judge_payments, cext._pure.judge_payments):
        with pytest.raises(ValueError, match="one coin per input"):
            judge([(tx, [*spent, *spent])])
