"""Context-free rules of transactions: each refusal by its code, each limit on both sides."""

import pytest

from consensus.errors import RuleError
from consensus.limits import MAX_COINBASE_WEIGHT, MAX_TX_WEIGHT
from consensus.transaction import NULL_PREVOUT, SEQUENCE_FINAL, Transaction, TxIn, TxOut, outpoint
from consensus.tx_rules import check_transaction, is_final

MAX_MONEY = 21_000_000 * 100_000_000
IN = TxIn(outpoint(b"\x01" * 32, 0), b"\x51\x51")
OUT = TxOut(1, bytes(25))


def tx_of(vin: list[TxIn], vout: list[TxOut], lock_time: int = 0) -> Transaction:
    return Transaction.build(2, vin, vout, lock_time)


def code_of(tx: Transaction) -> str | None:
    try:
        check_transaction(tx, MAX_MONEY)
    except RuleError as error:
        return error.code
    return None


def coinbase(script_size: int) -> Transaction:
    return tx_of([TxIn(NULL_PREVOUT, bytes(script_size))], [OUT])


@pytest.mark.parametrize(
    ("tx", "code"),
    [
        (tx_of([IN], [OUT]), None),
        (tx_of([IN], []), "bad-txns-vout-empty"),
        (tx_of([IN], [TxOut(-1, bytes(25))]), "bad-txns-vout-negative"),
        (tx_of([IN], [TxOut(MAX_MONEY, bytes(25))]), None),
        (tx_of([IN], [TxOut(MAX_MONEY + 1, bytes(25))]), "bad-txns-vout-toolarge"),
        (tx_of([IN], [TxOut(MAX_MONEY, b""), OUT]), "bad-txns-txouttotal-toolarge"),
        (tx_of([IN], [TxOut(2**63 - 1, b""), OUT]), "bad-txns-vout-toolarge"),
        (tx_of([IN, IN], [OUT]), "bad-txns-inputs-duplicate"),
        (tx_of([IN, IN._replace(prevout=outpoint(b"\x01" * 32, 1))], [OUT]), None),
        (coinbase(1), "bad-cb-length"),
        (coinbase(2), None),
        (coinbase(100), None),
        (coinbase(101), "bad-cb-length"),
        (tx_of([IN, TxIn(NULL_PREVOUT, b"")], [OUT]), "bad-txns-prevout-null"),
        (tx_of([TxIn(NULL_PREVOUT, b"ab"), IN], [OUT]), "bad-txns-prevout-null"),
        (tx_of([IN._replace(script_sig=b"")], [TxOut(0, bytes(4))]), "bad-txns-size-64"),
        (tx_of([IN._replace(script_sig=b"")], [TxOut(0, bytes(3))]), None),
        (tx_of([IN._replace(script_sig=b"")], [TxOut(0, bytes(5))]), None),
        (tx_of([IN._replace(script_sig=b"", witness=(b"a",))], [TxOut(0, bytes(4))]), "bad-txns-size-64"),
    ],
)
def test_verdict(tx: Transaction, code: str | None) -> None:
    assert code_of(tx) == code


def test_no_inputs() -> None:
    empty = Transaction.parse(bytes.fromhex("01000000" + "00" + "00" + "00000000"))
    assert code_of(empty) == "bad-txns-vin-empty"


def filled(vin: TxIn, weight: int) -> Transaction:
    frame = tx_of([vin], [TxOut(0, bytes(70_000))]).weight - 4 * 70_000
    return tx_of([vin], [TxOut(0, bytes((weight - frame) // 4))])


def test_weight_is_bounded_and_witness_counts() -> None:
    largest = filled(IN, MAX_TX_WEIGHT)
    assert largest.weight == MAX_TX_WEIGHT
    assert code_of(largest) is None
    assert code_of(tx_of([IN], [TxOut(0, largest.vout[0].script_pubkey + b"\x00")])) == "bad-txns-oversize"
    assert code_of(tx_of([IN._replace(witness=(b"a",))], list(largest.vout))) == "bad-txns-oversize"


def test_a_coinbase_may_be_heavier() -> None:
    source = TxIn(NULL_PREVOUT, b"ab")
    assert code_of(filled(source, MAX_COINBASE_WEIGHT)) is None
    assert code_of(filled(source, MAX_COINBASE_WEIGHT + 4)) == "bad-txns-oversize"


@pytest.mark.parametrize(
    ("lock_time", "sequence", "final"),
    [
        (0, 0, True),
        (99, 0, True),
        (100, 0, False),
        (100, SEQUENCE_FINAL, True),
        (499_999_999, 0, False),
        (500_000_000, 0, True),
        (1_700_000_000 - 1, 0, True),
        (1_700_000_000, 0, False),
        (1_700_000_000, SEQUENCE_FINAL, True),
    ],
)
def test_final_at_height_100(lock_time: int, sequence: int, final: bool) -> None:
    tx = tx_of([IN._replace(sequence=SEQUENCE_FINAL), IN._replace(sequence=sequence)], [OUT], lock_time)
    assert is_final(tx, 100, 1_700_000_000) is final
