"""Signature hashes, compared with python-bitcoinlib's and with the examples of BIP143."""

import pytest
from bitcoin.core import CTransaction
from bitcoin.core.script import SIGVERSION_WITNESS_V0, CScript, RawSignatureHash, SignatureHash
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import sighash
from consensus.hashes import sha256, tagged_hash
from consensus.opcodes import Op
from consensus.script.templates import push_data
from consensus.sighash import Midstates, TapLeaf
from consensus.transaction import Transaction, TxIn, TxOut

inputs = st.builds(
    TxIn,
    prevout=st.binary(min_size=36, max_size=36),
    script_sig=st.binary(max_size=10),
    sequence=st.integers(0, 2**32 - 1),
)
outputs = st.builds(TxOut, value=st.integers(0, 2**62), script_pubkey=st.binary(max_size=10))
transactions = st.builds(
    Transaction.build,
    version=st.integers(0, 2**31 - 1),
    vin=st.lists(inputs, min_size=1, max_size=5),
    vout=st.lists(outputs, max_size=4),
    lock_time=st.integers(0, 2**31 - 1),  # bitcoinlib packs it signed
)
operations = st.sampled_from(
    [bytes((op,)) for op in (Op.OP_DUP, Op.OP_CHECKSIG, Op.OP_CODESEPARATOR, Op.OP_1, Op.OP_IF)]
) | st.binary(max_size=80).map(push_data)
script_codes = st.lists(operations, max_size=8).map(b"".join)
hash_types = st.sampled_from([0, 1, 2, 3, 0x81, 0x82, 0x83]) | st.integers(0, 255)


@settings(max_examples=200)
@given(transactions, script_codes, hash_types, st.data())
def test_legacy_as_bitcoinlib(tx: Transaction, code: bytes, hash_type: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(tx.vin) - 1))
    expected, _ = RawSignatureHash(CScript(code), CTransaction.deserialize(tx.raw), index, hash_type)
    assert sighash.legacy(tx, index, code, hash_type) == expected


@settings(max_examples=200)
@given(transactions, script_codes, hash_types, st.integers(0, 2**62), st.data())
def test_segwit_as_bitcoinlib(
    tx: Transaction, code: bytes, hash_type: int, amount: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(tx.vin) - 1))
    other = CTransaction.deserialize(tx.raw)
    expected = SignatureHash(
        CScript(code), other, index, hash_type, amount=amount, sigversion=SIGVERSION_WITNESS_V0
    )
    assert sighash.segwit_v0(tx, index, code, amount, hash_type) == expected
    assert sighash.segwit_v0(tx, index, code, amount, hash_type, Midstates(tx)) == expected


@pytest.mark.parametrize("hash_type", [1, 2, 3, 0x81, 0x82, 0x83])
def test_every_input_of_a_larger_transaction(hash_type: int) -> None:
    vin = [TxIn(bytes((n,)) * 36, b"\x51", n) for n in range(4)]
    tx = Transaction.build(2, vin, [TxOut(n, bytes(n)) for n in range(3)], 9)
    other = CTransaction.deserialize(tx.raw)
    code = b"\x76\xa9"
    for index in range(4):
        expected, _ = RawSignatureHash(CScript(code), other, index, hash_type)
        assert sighash.legacy(tx, index, code, hash_type) == expected
        expected = SignatureHash(
            CScript(code), other, index, hash_type, amount=5, sigversion=SIGVERSION_WITNESS_V0
        )
        assert sighash.segwit_v0(tx, index, code, 5, hash_type) == expected


@pytest.mark.parametrize("annex", [None, b"\x50", b"\x50" + bytes(300)])
@pytest.mark.parametrize("leaf", [None, TapLeaf(b"\x0b" * 32, 7)])
def test_a_taproot_message_is_put_together_as_bip341_lists_it(
    annex: bytes | None, leaf: TapLeaf | None
) -> None:
    tx = Transaction.build(2, [TxIn(b"\x0a" * 36, b"", 5)], [TxOut(6, b"\x51")], 9)
    spent = TxOut(8, b"\x52\x53")
    amount, spent_script, output = "0800000000000000", "025253", "0600000000000000" + "0151"
    message = "00" + "00" + "02000000" + "09000000"
    for part in ("0a" * 36, amount, spent_script, "05000000", output):
        message += sha256(bytes.fromhex(part)).hex()
    spend_type = (2 if leaf else 0) + (1 if annex else 0)
    message += f"{spend_type:02x}" + "00000000"
    if annex:
        size = "01" if len(annex) == 1 else "fd2d01"
        message += sha256(bytes.fromhex(size) + annex).hex()
    if leaf:
        message += "0b" * 32 + "00" + "07000000"
    expected = tagged_hash("TapSighash", bytes.fromhex(message))
    assert sighash.taproot(Midstates(tx, [spent]), 0, 0, annex, leaf) == expected


def test_single_without_its_output_signs_the_number_one() -> None:
    tx = Transaction.build(1, [TxIn(bytes(36), b""), TxIn(b"\x01" * 36, b"")], [TxOut(1, b"")])
    for hash_type in (3, 0x83):
        assert sighash.legacy(tx, 1, b"\x51", hash_type) == (1).to_bytes(32, "little")
        assert sighash.legacy(tx, 0, b"\x51", hash_type) != (1).to_bytes(32, "little")


def test_the_hash_type_is_a_32_bit_number() -> None:
    tx = Transaction.build(1, [TxIn(bytes(36), b"")], [TxOut(1, b"")])
    assert sighash.legacy(tx, 0, b"", -1) == sighash.legacy(tx, 0, b"", 0xFFFFFFFF)
    assert sighash.legacy(tx, 0, b"", 0x101) != sighash.legacy(tx, 0, b"", 1)


def test_code_separators_go_but_pushed_ones_stay() -> None:
    assert sighash.without_code_separators(b"\xab\x51\xab\x01\xab\xab") == b"\x51\x01\xab"
    assert sighash.without_code_separators(b"\xab\x4c\x05\xab") == b"\x4c\x05\xab"


def test_no_hash_without_an_input() -> None:
    tx = Transaction.build(1, [TxIn(bytes(36), b"")], [TxOut(1, b"")])
    with pytest.raises(IndexError):
        sighash.legacy(tx, 1, b"", 1)


def test_the_bip143_example() -> None:
    # Native P2WPKH: unsigned transaction, scriptCode, amount and sigHash as the BIP prints them.
    tx = Transaction.parse(
        bytes.fromhex(
            "0100000002fff7f7881a8099afa6940d42d1e7f6362bec38171ea3edf433541db4e4ad969f0000000000eeffffffef51e1b8"
            "04cc89d182d279655c3aa89e815b1b309fe287d9b2b55d57b90ec68a0100000000ffffffff02202cb206000000001976a914"
            "8280b37df378db99f66f85c95a783a76ac7a6d5988ac9093510d000000001976a9143bde42dbee7e4dbe6a21b2d50ce2f016"
            "7faa815988ac11000000"
        )
    )
    code = bytes.fromhex("76a9141d0f172a0ecb48aee1be1f2687d2963ae33f71a188ac")
    digest = sighash.segwit_v0(tx, 1, code, 600_000_000, 1)
    assert digest.hex() == "c37af31116d1b27caf68aae9e3ac82f1477929014d5b917657d0eb49478cb670"


@pytest.mark.parametrize("hash_type", [4, 0x80, 0x84, 0xFF, 0x41])
def test_taproot_has_seven_hash_types(hash_type: int) -> None:
    tx = Transaction.build(1, [TxIn(bytes(36), b"")], [TxOut(1, b"")])
    assert sighash.taproot(Midstates(tx, [TxOut(1, b"")]), 0, hash_type) is None


def test_taproot_single_needs_its_output_and_spent_outputs_always() -> None:
    tx = Transaction.build(1, [TxIn(bytes(36), b""), TxIn(b"\x01" * 36, b"")], [TxOut(1, b"")])
    spent = [TxOut(1, b""), TxOut(2, b"")]
    assert sighash.taproot(Midstates(tx, spent), 0, 3) is not None
    assert sighash.taproot(Midstates(tx, spent), 1, 3) is None
    with pytest.raises(ValueError):
        sighash.taproot(Midstates(tx), 0, 0)
    with pytest.raises(ValueError):
        Midstates(tx, spent[:1])
