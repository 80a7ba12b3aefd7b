"""Base58, addresses and private keys: Bitcoin Core's vectors for all its networks."""

import json
from pathlib import Path

import pytest

from consensus import base58
from consensus.address import decode_address, decode_wif, encode_address, encode_wif
from consensus.errors import DecodeError, RuleError
from consensus.params import AddressPrefixes

TEST = AddressPrefixes(p2pkh=111, p2sh=196, wif=239, bech32_hrp="tb")
NETWORKS = {
    "main": AddressPrefixes(p2pkh=0, p2sh=5, wif=128, bech32_hrp="bc"),
    "test": TEST,
    "testnet4": TEST,
    "signet": TEST,
    "regtest": AddressPrefixes(p2pkh=111, p2sh=196, wif=239, bech32_hrp="bcrt"),
}


def load(shared_vectors: Path, name: str) -> list:
    return json.loads((shared_vectors / "bitcoin" / name).read_text())


def test_base58_both_ways(shared_vectors: Path) -> None:
    cases = load(shared_vectors, "base58_encode_decode.json")
    assert cases
    for raw, text in cases:
        assert base58.encode(bytes.fromhex(raw)) == text
        assert base58.decode(text) == bytes.fromhex(raw)


def test_valid_addresses_and_keys(shared_vectors: Path) -> None:
    cases = load(shared_vectors, "key_io_valid.json")
    assert {info["chain"] for _, _, info in cases} <= set(NETWORKS)
    for text, payload, info in cases:
        prefixes = NETWORKS[info["chain"]]
        if info["isPrivkey"]:
            secret = bytes.fromhex(payload)
            assert decode_wif(text, prefixes) == (secret, info["isCompressed"])
            assert encode_wif(secret, prefixes, compressed=info["isCompressed"]) == text
            with pytest.raises(RuleError, match="bad-address"):
                decode_address(text, prefixes)
            continue
        script = bytes.fromhex(payload)
        assert decode_address(text, prefixes) == script
        assert encode_address(script, prefixes) == text
        with pytest.raises(RuleError, match="bad-secret-key"):
            decode_wif(text, prefixes)
        flipped = text.swapcase()
        if info.get("tryCaseFlip"):
            assert decode_address(flipped, prefixes) == script
        else:
            with pytest.raises(RuleError, match="bad-address"):
                decode_address(flipped, prefixes)


def test_invalid_strings_are_refused_on_every_network(shared_vectors: Path) -> None:
    cases = load(shared_vectors, "key_io_invalid.json")
    assert cases
    for (text,) in cases:
        for prefixes in NETWORKS.values():
            with pytest.raises(RuleError, match="bad-address"):
                decode_address(text, prefixes)
            with pytest.raises(RuleError, match="bad-secret-key"):
                decode_wif(text, prefixes)


@pytest.mark.parametrize("text", ["0", "O", "I", "l", "a b", "é", "1" * 1025])
def test_base58_refuses_what_is_outside_its_alphabet(text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        base58.decode(text)
    assert caught.value.code == "bad-base58"
