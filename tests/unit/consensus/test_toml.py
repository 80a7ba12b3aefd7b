import pytest

from consensus.chainfile import parse_chain_file
from consensus.errors import ConfigError
from consensus.toml import parse_toml


def test_tables_come_as_they_are():
    assert parse_toml("a = 1\n[b]\nc = ['x', {d = true}]\n") == {"a": 1, "b": {"c": ["x", {"d": True}]}}
    limits = f"low = {-(2**63)}\nhigh = {2**63 - 1}"
    assert parse_toml(limits) == {"low": -(2**63), "high": 2**63 - 1}


@pytest.mark.parametrize(
    "text",
    [
        "a =",
        f"a = {2**63}",
        "a = " + "9" * 5_000,
        "a = 0x" + "f" * 5_000,
        "a = [1, [-9223372036854775809]]",
        "a = " + "[" * 3_000,
        "a = " + "{a = " * 400 + "1" + "}" * 400,
        "a." * 400 + "a = 1",
        "a = " + "[" * 8 + "1" + "]" * 8,
    ],
    ids=["grammar", "u64", "digits", "hex", "inside", "arrays", "tables", "dotted", "deep"],
)
def test_whatever_is_wrong_is_one_value_error(text):
    with pytest.raises(ValueError):
        parse_toml(text)
    with pytest.raises(ConfigError) as caught:
        parse_chain_file(text)
    assert caught.value.code == "bad-chain-file"


def test_the_deepest_that_is_read():
    text = "a = " + "[" * 6 + "1" + "]" * 6
    assert parse_toml(text)["a"][0][0][0][0][0] == [1]
