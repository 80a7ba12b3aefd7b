"""Who may act: the kinds of input 0, and the signature hash types that cover the payload."""

import pytest

from consensus.coins import encode_coin
from consensus.errors import RuleError
from consensus.script.templates import multisig, push_data
from consensus.transaction import Transaction, TxIn, TxOut
from contracts.auth import authorise

SIG = bytes(70)
KEY = b"\x02" + bytes(32)
P2PKH = b"\x76\xa9\x14" + bytes(20) + b"\x88\xac"
P2WPKH = b"\x00\x14" + bytes(20)
P2SH = b"\xa9\x14" + bytes(20) + b"\x87"
P2WSH = b"\x00\x20" + bytes(32)
P2TR = b"\x51\x20" + bytes(32)
TWO_OF_THREE = multisig(2, [KEY] * 3)
TWENTY = multisig(1, [KEY] * 20)


def run(script, script_sig=b"", witness=()):
    tx = Transaction.build(2, [TxIn(bytes(36), script_sig, 0, tuple(witness))], [TxOut(0, b"\x51")])
    return authorise(tx, [encode_coin(1, False, 5, script)])


def pushes(*items):
    return b"".join(push_data(item) for item in items)


def good(hash_type):
    """Return inputs whose signatures all end in ``hash_type``."""
    sig = SIG + bytes([hash_type])
    return [
        (P2PKH, pushes(sig, KEY), ()),
        (P2WPKH, b"", (sig, KEY)),
        (P2SH, pushes(P2WPKH), (sig, KEY)),
        (P2SH, pushes(b"", sig, sig, TWO_OF_THREE), ()),
        (P2WSH, b"", (b"", sig, sig, TWO_OF_THREE)),
        (P2WSH, b"", (b"", sig, TWENTY)),
        (P2TR, b"", (bytes(64) + bytes([hash_type]),)),
    ]


@pytest.mark.parametrize("case", good(0x01))
def test_sighash_all_speaks_for_the_account(case):
    assert run(*case) == case[0]


def test_taproot_default_speaks_for_the_account():
    assert run(P2TR, b"", (bytes(64),)) == P2TR


@pytest.mark.parametrize("hash_type", [0x00, 0x02, 0x03, 0x81, 0x82, 0x83])
def test_other_signature_hash_types_do_not(hash_type):
    for case in good(hash_type):
        with pytest.raises(RuleError) as caught:
            run(*case)
        assert caught.value.code == "bad-op-auth"


A = SIG + b"\x01"
NONE = SIG + b"\x02"


@pytest.mark.parametrize(
    ("script", "script_sig", "witness"),
    [
        (b"\x21" + KEY + b"\xac", pushes(A), ()),  # P2PK
        (TWO_OF_THREE, pushes(b"", A, A), ()),  # bare multisig
        (b"\x51", b"", ()),
        (b"", b"", ()),
        (b"\x52\x20" + bytes(32), b"", (A,)),  # an unknown witness version
        (b"\x51\x02\x4e\x73", b"", ()),  # pay to anchor
        (P2PKH, b"", ()),
        (P2PKH, pushes(A), ()),
        (P2PKH, pushes(A, KEY, KEY), ()),
        (P2PKH, pushes(A, KEY), (A,)),
        (P2PKH, pushes(A, KEY) + b"\x51", ()),
        (P2PKH, pushes(A, KEY)[:-1], ()),
        (P2PKH, pushes(b"", KEY), ()),
        (P2WPKH, b"\x00", (A, KEY)),
        (P2WPKH, b"", (A,)),
        (P2WPKH, b"", (b"", KEY)),
        (P2SH, b"", ()),
        (P2SH, b"", (A, KEY)),
        (P2SH, pushes(b"\x51"), ()),
        (P2SH, pushes(P2WSH), (b"", A, A, TWO_OF_THREE)),  # nested P2WSH
        (P2SH, pushes(A, P2WPKH), (A, KEY)),
        (P2SH, pushes(b"", A, A, TWO_OF_THREE), (A,)),
        (P2SH, pushes(b"", A, NONE, TWO_OF_THREE), ()),
        (P2SH, pushes(b"", A, TWO_OF_THREE), ()),
        (P2SH, pushes(b"", A, A, A, TWO_OF_THREE), ()),
        (P2SH, pushes(b"\x00", A, A, TWO_OF_THREE), ()),
        (P2SH, pushes(A, KEY + b"\xac"), ()),
        (P2WSH, b"", (b"", A, A, TWO_OF_THREE + b"\x51")),
        (P2WSH, b"", (b"", A, NONE, TWO_OF_THREE)),
        (P2WSH, b"", (b"\x51",)),
        (P2WSH, b"", ()),
        (P2WSH, b"\x00", (b"", A, A, TWO_OF_THREE)),
        (P2TR, b"", ()),
        (P2TR, b"", (bytes(64), b"\x50annex")),
        (P2TR, b"", (bytes(64), b"\x51", b"\xc0" + bytes(32))),  # a script path
        (P2TR, b"", (bytes(63),)),
        (P2TR, b"\x00", (bytes(64),)),
    ],
)
def test_whatever_leaves_room_for_a_stranger_is_refused(script, script_sig, witness):
    with pytest.raises(RuleError) as caught:
        run(script, script_sig, witness)
    assert caught.value.code == "bad-op-auth"
    assert caught.value.permanent


def test_only_input_0_is_asked():
    vin = [TxIn(bytes(36), pushes(A, KEY)), TxIn(bytes(35) + b"\x01", pushes(NONE, KEY))]
    tx = Transaction.build(2, vin, [TxOut(0, b"\x51")])
    other = P2PKH[:3] + b"\x09" * 20 + P2PKH[23:]
    assert authorise(tx, [encode_coin(1, False, 5, P2PKH), encode_coin(1, False, 5, other)]) == P2PKH
