"""Coin values."""

from hypothesis import given
from hypothesis import strategies as st

from consensus.coins import (
    coin_amount,
    coin_height,
    coin_is_coinbase,
    coin_script,
    encode_coin,
    is_unspendable,
)
from consensus.limits import MAX_SCRIPT_SIZE


@given(st.integers(0, 2**31 - 1), st.booleans(), st.integers(0, 2**63 - 1), st.binary(max_size=60))
def test_fields_come_back(height: int, is_coinbase: bool, amount: int, script: bytes) -> None:
    coin = encode_coin(height, is_coinbase, amount, script)
    assert coin_height(coin) == height
    assert coin_is_coinbase(coin) is is_coinbase
    assert coin_amount(coin) == amount
    assert coin_script(coin) == script


def test_layout() -> None:
    assert encode_coin(3, True, 258, b"\x51").hex() == "07000000" + "0201000000000000" + "51"


def test_what_nobody_can_spend_is_no_coin() -> None:
    assert is_unspendable(b"\x6a")
    assert is_unspendable(b"\x6a\x01a")
    assert is_unspendable(bytes(MAX_SCRIPT_SIZE + 1))
    assert not is_unspendable(bytes(MAX_SCRIPT_SIZE))
    assert not is_unspendable(b"")
    assert not is_unspendable(b"\x51\x6a")
