"""Addresses: every kind both ways, and every misuse refused."""

import bitcoin
import pytest
from bitcoin.bech32 import CBech32Data
from hypothesis import given
from hypothesis import strategies as st

from consensus import base58, bech32
from consensus.address import decode_address, decode_wif, encode_address, encode_wif
from consensus.errors import DecodeError, RuleError
from consensus.params import AddressPrefixes
from consensus.script import templates as t

TEST = AddressPrefixes(p2pkh=111, p2sh=196, wif=239, bech32_hrp="tb")
MAIN = AddressPrefixes(p2pkh=0, p2sh=5, wif=128, bech32_hrp="bc")
hashes20 = st.binary(min_size=20, max_size=20)
hashes32 = st.binary(min_size=32, max_size=32)
scripts = st.one_of(
    hashes20.map(t.p2pkh),
    hashes20.map(t.p2sh),
    hashes20.map(t.p2wpkh),
    hashes32.map(t.p2wsh),
    hashes32.map(t.p2tr),
    st.builds(t.witness_program, st.integers(1, 16), st.binary(min_size=2, max_size=40)),
)


@given(scripts)
def test_both_ways_and_on_one_network(script: bytes) -> None:
    text = encode_address(script, TEST)
    assert text is not None
    assert decode_address(text, TEST) == script
    with pytest.raises(RuleError) as caught:
        decode_address(text, MAIN)
    assert caught.value.code == "bad-address"


@given(scripts, st.data())
def test_a_mistyped_character_is_noticed(script: bytes, data: st.DataObject) -> None:
    text = encode_address(script, TEST)
    assert text is not None
    at = data.draw(st.integers(0, len(text) - 1))
    typed = text[:at] + data.draw(st.sampled_from(base58.ALPHABET)) + text[at + 1 :]
    if typed.lower() != text.lower():
        with pytest.raises(RuleError, match="bad-address"):
            decode_address(typed, TEST)


@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    for function, code in ((decode_address, "bad-address"), (decode_wif, "bad-secret-key")):
        with pytest.raises(RuleError, match=code):
            function(text, TEST)


@given(st.binary(max_size=60))
def test_base58_both_ways(data: bytes) -> None:
    assert base58.decode(base58.encode(data)) == data
    assert base58.decode_check(base58.encode_check(data)) == data


@given(hashes20)
def test_segwit_addresses_as_bitcoinlib_writes_them(program: bytes) -> None:
    bitcoin.SelectParams("testnet")
    assert encode_address(t.p2wpkh(program), TEST) == str(CBech32Data.from_bytes(0, program))


@pytest.mark.parametrize(
    "script",
    [b"", b"\x51", t.data_carrier(b"x"), t.p2pk(b"\x02" + bytes(32)), t.witness_program(0, bytes(21))],
)
def test_other_scripts_have_no_address(script: bytes) -> None:
    assert encode_address(script, TEST) is None


@given(st.integers(1, 2**250), st.booleans())
def test_keys_both_ways(number: int, compressed: bool) -> None:
    secret = number.to_bytes(32, "big")
    text = encode_wif(secret, TEST, compressed=compressed)
    assert decode_wif(text, TEST) == (secret, compressed)
    with pytest.raises(RuleError) as caught:
        decode_wif(text, MAIN)
    assert caught.value.code == "bad-secret-key"
    assert secret.hex() not in str(caught.value)


@pytest.mark.parametrize(
    "payload", [b"", b"\x6f", b"\x6f" + bytes(19), b"\x6f" + bytes(21), b"\x70" + bytes(20)]
)
def test_base58_payloads_that_are_no_address(payload: bytes) -> None:
    with pytest.raises(RuleError, match="bad-address"):
        decode_address(base58.encode_check(payload), TEST)


@pytest.mark.parametrize(
    "payload", [b"\xef" + bytes(31), b"\xef" + bytes(32) + b"\x02", b"\xef" + bytes(33) + b"\x01"]
)
def test_base58_payloads_that_are_no_key(payload: bytes) -> None:
    with pytest.raises(RuleError, match="bad-secret-key"):
        decode_wif(base58.encode_check(payload), TEST)


def test_bech32_refuses() -> None:
    good = bech32.encode_witness("tb", 1, bytes(32))
    values = bech32.decode(good)[1]
    for text in (
        good[:5] + good[5].upper() + good[6:],
        good + "q" * 40,
        "tb1" + good[3:9],
        "1" + good[3:],
        "tb",
        good.replace("q", "b", 1),
        bech32.encode("tb", values, bech32.BECH32),
        bech32.encode("tb", [], bech32.BECH32),
        bech32.encode("tb", [17, *values[1:]], bech32.BECH32M),
        bech32.encode("tb", [*values[:-1], values[-1] | 1], bech32.BECH32M),
        bech32.encode("tb", [1, *[0] * 33], bech32.BECH32M),  # 20 bytes and a whole group of padding
    ):
        with pytest.raises(DecodeError) as caught:
            bech32.decode_witness("tb", text)
        assert caught.value.code == "bad-bech32"
