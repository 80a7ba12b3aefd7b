"""Scripts in words, descriptors and targets, against values that Bitcoin Core prints."""

import pytest

from consensus.params import AddressPrefixes
from consensus.script import templates
from node.rpc.scripts import add_checksum, decoded_script, descriptor, script_asm, script_shape
from node.rpc.shapes import difficulty_of, target_of

MAIN = AddressPrefixes(0, 5, 128, "bc")
KEY = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")


@pytest.mark.parametrize(
    ("script", "asm"),
    [
        ("", ""),
        ("00", "0"),
        ("4f", "-1"),
        ("5160", "1 16"),
        ("0101", "1"),
        ("0181", "-1"),
        ("04ffffffff", "-2147483647"),
        ("05ffffffffff", "ffffffffff"),
        ("6a", "OP_RETURN"),
        ("76a9", "OP_DUP OP_HASH160"),
        ("b1b2", "OP_CHECKLOCKTIMEVERIFY OP_CHECKSEQUENCEVERIFY"),
        ("ba", "OP_CHECKSIGADD"),
        ("bb", "OP_UNKNOWN"),
        ("ff", "OP_INVALIDOPCODE"),
        ("510201", "1 [error]"),
        ("4c", "[error]"),
    ],
)
def test_asm(script, asm):
    assert script_asm(bytes.fromhex(script)) == asm


def test_asm_names_hash_types_only_of_signatures():
    der = "304402" + "20" + "11" * 32 + "02" + "20" + "22" * 32
    push = "47" + der
    assert script_asm(bytes.fromhex(push + "01"), decode_hash_types=True) == der + "[ALL]"
    assert script_asm(bytes.fromhex(push + "83"), decode_hash_types=True) == der + "[SINGLE|ANYONECANPAY]"
    assert script_asm(bytes.fromhex(push + "01")) == der + "01"
    assert script_asm(bytes.fromhex(push + "04"), decode_hash_types=True) == der + "04"


@pytest.mark.parametrize(
    "text",
    # BIP380's test vector, and two that Bitcoin Core's own tests use
    ["raw(deadbeef)#89f8spxm", "addr(mkmZxiEcEd8ZqjQWVZuC6so5dFMKEFpN2j)#02wpgw69"],
)
def test_descriptor_checksums(text):
    assert add_checksum(text.partition("#")[0]) == text


def test_descriptors():
    assert descriptor(templates.p2pk(KEY), None).startswith(f"pk({KEY.hex()})#")
    assert descriptor(templates.p2pk(b"\x02" + bytes(32)), None).startswith("raw(2102")
    assert descriptor(templates.multisig(1, [KEY, KEY]), None).startswith(
        f"multi(1,{KEY.hex()},{KEY.hex()})#"
    )
    assert descriptor(templates.p2tr(KEY[1:]), "bc1p...").startswith(f"rawtr({KEY[1:].hex()})#")
    assert descriptor(templates.p2tr(b"\xff" * 32), "bc1px").startswith("addr(bc1px)#")


def test_script_shapes():
    shape = script_shape(templates.p2pkh(bytes(20)), MAIN)
    assert list(shape) == ["asm", "desc", "hex", "address", "type"]
    assert shape["address"] == "1111111111111111111114oLvT2"
    assert "address" not in script_shape(templates.p2pk(KEY), MAIN)
    assert script_shape(templates.data_carrier(b"hello"), MAIN)["type"] == "nulldata"
    assert script_shape(b"\x51\x02\x4e\x73", MAIN)["type"] == "anchor"


def test_decoded_scripts_wrap_only_what_can_be_wrapped():
    assert decoded_script(templates.p2pk(KEY), MAIN)["segwit"]["type"] == "witness_v0_keyhash"
    assert decoded_script(templates.p2pkh(bytes(20)), MAIN)["segwit"]["hex"] == "0014" + "00" * 20
    uncompressed = b"\x04" + bytes(64)
    assert "segwit" not in decoded_script(templates.p2pk(uncompressed), MAIN)
    assert "p2sh" in decoded_script(templates.p2pk(uncompressed), MAIN)
    assert "segwit" not in decoded_script(templates.p2wpkh(bytes(20)), MAIN)
    for script in (templates.p2sh(bytes(20)), templates.p2tr(KEY[1:]), b"\x6a", b"\x02\x01", b"\xba"):
        assert "p2sh" not in decoded_script(script, MAIN)


def test_targets():
    assert target_of(0x1D00FFFF) == 0xFFFF << 208
    assert target_of(0x207FFFFF) == 0x7FFFFF << 232
    assert target_of(0x01003456) == 0
    assert target_of(0x04800000) == 0
    assert difficulty_of(0x1D00FFFF) == 1.0
