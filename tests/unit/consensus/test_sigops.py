"""Signature operation cost: the cases of Bitcoin Core's sigopcount_tests.cpp, and our quick count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.coin_rules import signature_cost
from consensus.coins import encode_coin
from consensus.hashes import hash160, sha256
from consensus.keys import pubkey_from_secret
from consensus.script import templates as t
from consensus.script.sigops import bare_checks, count_checks, input_cost, transaction_cost
from consensus.transaction import NULL_PREVOUT, Transaction, TxIn, TxOut

KEYS = [pubkey_from_secret(bytes(31) + bytes((n,))) for n in range(1, 4)]
PREVOUT = b"\x01" * 36
# What sigopcount_tests.cpp spends: 1 of 2 with CHECKMULTISIGVERIFY.
MULTI = t.multisig(1, KEYS[:2])[:-1] + b"\xaf"


def cost(script_pubkey: bytes, script_sig: bytes = b"", witness: tuple[bytes, ...] = ()) -> tuple[int, int]:
    """Return the costs of creating and of spending an output."""
    creation = Transaction.build(1, [TxIn(PREVOUT, b"")], [TxOut(1, script_pubkey)])
    spending = Transaction.build(1, [TxIn(PREVOUT, script_sig, witness=witness)], [TxOut(1, b"")])
    nothing = encode_coin(1, False, 1, b"\x51")
    return (
        transaction_cost(creation, [nothing]),
        transaction_cost(spending, [encode_coin(1, False, 1, script_pubkey)]),
    )


def test_counting_in_a_script() -> None:
    assert count_checks(b"") == 0
    plain = b"\x51" + t.push(bytes(20)) * 2 + b"\x52\xae"  # 1 <hash> <hash> 2 CHECKMULTISIG
    assert (count_checks(plain), count_checks(plain, accurate=False)) == (2, 20)
    more = plain + b"\x63\xac\x68"  # IF CHECKSIG ENDIF
    assert (count_checks(more), count_checks(more, accurate=False)) == (3, 21)


def test_p2sh_counts_what_the_redeem_script_says() -> None:
    redeem = b"\x51" + t.push(bytes(20)) * 2 + b"\x52\xae\x63\xac\x68"
    script = t.p2sh(hash160(redeem))
    assert count_checks(script) == 0
    assert input_cost(TxIn(PREVOUT, b"\x00" + t.push(redeem)), script) == 3 * 4
    three = t.multisig(1, KEYS)
    assert input_cost(TxIn(PREVOUT, b"\x00\x00" + t.push(three)), t.p2sh(hash160(three))) == 3 * 4
    # A scriptSig that does more than push is counted for itself alone.
    assert input_cost(TxIn(PREVOUT, b"\xac" + t.push(three)), t.p2sh(hash160(three))) == 4


@pytest.mark.parametrize(
    ("script_pubkey", "script_sig", "witness", "expected"),
    [
        (MULTI, b"\x00\x00", (), (20 * 4, 0)),
        (t.p2sh(hash160(MULTI)), b"\x00\x00" + t.push(MULTI), (), (0, 2 * 4)),
        (t.p2wpkh(bytes(20)), b"", (b"", b""), (0, 1)),
        (t.p2wpkh(bytes(20)), b"", (), (0, 1)),
        (t.p2sh(hash160(t.p2wpkh(bytes(20)))), t.push(t.p2wpkh(bytes(20))), (b"", b""), (0, 1)),
        # As the BIP has it, only version 0 counts.
        (b"\x51" + t.p2wpkh(bytes(20))[1:], b"", (b"", b""), (0, 0)),
        (t.p2wsh(sha256(MULTI)), b"", (b"", b"", MULTI), (0, 2)),
        (t.p2wsh(sha256(MULTI)), b"", (), (0, 0)),
        (t.p2sh(hash160(t.p2wsh(sha256(MULTI)))), t.push(t.p2wsh(sha256(MULTI))), (b"", MULTI), (0, 2)),
        (t.p2tr(bytes(32)), b"", (bytes(64),), (0, 0)),
        (t.p2pkh(bytes(20)), t.push(bytes(71)) + t.push(KEYS[0]), (), (4, 0)),
        (t.p2pk(KEYS[0]), t.push(bytes(71)), (), (4, 0)),
        (t.data_carrier(b"\xac" * 9), b"", (), (0, 0)),
        (b"\x6a\xac\xad", b"", (), (8, 0)),
    ],
)
def test_cost(
    script_pubkey: bytes, script_sig: bytes, witness: tuple[bytes, ...], expected: tuple[int, int]
) -> None:
    assert cost(script_pubkey, script_sig, witness) == expected


def test_a_coinbase_counts_its_script_and_no_witness() -> None:
    coinbase = Transaction.build(
        1, [TxIn(NULL_PREVOUT, b"\xac\xae", witness=(MULTI,))], [TxOut(1, t.p2pkh(bytes(20)))]
    )
    assert transaction_cost(coinbase, ()) == 4 * 21 + 4


def test_bare_scripts_of_more_than_one_check() -> None:
    for script in (t.p2pk(KEYS[0]), t.p2pkh(bytes(20)), t.p2sh(bytes(20)), t.p2wsh(bytes(32)), b"\x51"):
        assert bare_checks(script) == 0
    assert bare_checks(t.multisig(1, KEYS)) == 3
    assert bare_checks(b"\xac" * 7) == 7


SCRIPTS = [
    t.p2pkh(bytes(20)),
    t.p2wpkh(bytes(20)),
    t.p2sh(hash160(MULTI)),
    t.p2wsh(sha256(MULTI)),
    t.p2tr(bytes(32)),
    t.p2pk(KEYS[0]),
    t.multisig(2, KEYS),
    t.data_carrier(b"\xac\xae"),
    b"\xac" * 5 + b"\xae",
    t.p2pkh(bytes(20)) + b"\xac",
    b"",
]


@given(st.lists(st.sampled_from(SCRIPTS), min_size=1), st.lists(st.sampled_from(SCRIPTS), min_size=1))
def test_the_fast_way_counts_the_same_and_bare_scripts_on_top(spent: list[bytes], paid: list[bytes]) -> None:
    vin = [TxIn(PREVOUT, t.push(MULTI), witness=(b"", MULTI)) for _ in spent]
    tx = Transaction.build(2, vin, [TxOut(1, script) for script in paid])
    coins = [encode_coin(3, False, 1, script) for script in spent]
    assert signature_cost(tx, coins) == transaction_cost(tx, coins) + 4 * sum(map(bare_checks, spent))
