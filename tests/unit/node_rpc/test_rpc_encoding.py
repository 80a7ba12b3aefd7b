"""JSON without floats: the fast encoder, its slow twin and the standard library agree."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.rpc.encoding import Amount, Encoded, coins, decode, encode, encode_pretty, encode_slowly

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(PLAIN)
def test_plain_values_read_back(value):
    assert json.loads(encode(value)) == value
    assert encode(value) == encode_slowly(value)
    assert json.loads(encode_pretty(value)) == value


@given(st.integers(-(1 << 70), 1 << 70))
def test_amounts_are_exact(value):
    text = encode([coins(value), {"value": coins(value)}])
    assert text == encode_slowly([coins(value), {"value": coins(value)}])
    first, second = decode(text)
    assert first == second["value"] == Decimal(value) / 10**8
    assert len(str(coins(value)).partition(".")[2]) == 8


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00000000"), (1, "0.00000001"), (-1, "-0.00000001"), (-150_000_000, "-1.50000000")],
)
def test_amount_texts(value, text):
    assert coins(value) == text
    assert encode_pretty({"a": [coins(value)]}) == '{\n  "a": [\n    ' + text + "\n  ]\n}"


def test_a_string_like_an_amount_stays_a_string():
    assert encode(["1.00000000", Amount("1.00000000")]) == '["1.00000000",1.00000000]'


def test_decimals_pass_through_unrounded():
    assert encode_pretty(decode("[0.00000001, 50.00000000]")) == "[\n  0.00000001,\n  50.00000000\n]"
    assert encode([Decimal("1E-8")]) == "[0.00000001]"


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", float("nan"), Decimal("NaN")])
def test_what_json_lacks_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        encode([value])
    with pytest.raises((TypeError, ValueError)):
        encode_slowly([value])


@pytest.mark.parametrize("text", ["", "{", "NaN", "[Infinity]", "[" * 200_000, "1" * 5000])
def test_bad_json(text):
    with pytest.raises(ValueError):
        decode(text)


def test_what_is_encoded_already_is_copied():
    inner = Encoded(encode([{"a": 'quote "'}, coins(5)]))
    for way in (encode, encode_slowly):
        assert way({"rows": inner, "n": 1}) == '{"rows":[{"a":"quote \\""},0.00000005],"n":1}'
