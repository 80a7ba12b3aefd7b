"""Reveal chains: what is registered, what is revealed, and what is not ours."""

import hmac
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.limits import MAX_REVEALS
from node.keyfile import Secret
from node.limits import REVEAL_CHECKPOINT_STEP
from node.reveals import RevealChain, Reveals

SECRET, CHAIN_ID = Secret(b"\x07" * 32), b"\x09" * 32


def plain(generation, length):
    """Return x_0 to x_length, as the definition says."""
    text = b"wattd/reveal" + CHAIN_ID + generation.to_bytes(4, "little")
    values = [hmac.new(SECRET.reveal(), text, "sha256").digest()]
    for _ in range(length):
        values.append(sha256(values[-1]).digest())
    return values


@settings(deadline=None)
@given(st.integers(0, 3), st.integers(1, 3 * REVEAL_CHECKPOINT_STEP))
def test_a_chain_is_what_the_definition_says(generation, length):
    values = plain(generation, length)
    chain = Reveals(SECRET, CHAIN_ID).chain(generation, length)
    assert chain.top == values[length]
    assert [chain.value(at) for at in range(length + 1)] == values


def test_the_whole_chain_is_revealed_in_order():
    length = 2 * REVEAL_CHECKPOINT_STEP + 3
    reveals = Reveals(SECRET, CHAIN_ID)
    top = reveals.chain(4, length).top
    for left in range(length, 0, -1):
        found = reveals.reveal(4, left, top)
        assert found is not None
        assert sha256(found).digest() == top
        top = found
    assert reveals.reveal(4, 0, top) is None


def test_the_longest_chain_keeps_few_values():
    reveals = Reveals(SECRET, CHAIN_ID)
    chain = reveals.chain(0)
    assert chain.length == MAX_REVEALS
    assert len(chain._kept) == MAX_REVEALS // REVEAL_CHECKPOINT_STEP
    assert sha256(reveals.reveal(0, MAX_REVEALS, chain.top)).digest() == chain.top


def test_a_chain_of_other_keys_is_not_revealed():
    top = Reveals(Secret(b"\x08" * 32), CHAIN_ID).chain(0, 10).top
    ours = Reveals(SECRET, CHAIN_ID)
    assert ours.reveal(0, 10, top) is None
    assert ours.reveal(0, 10, ours.chain(1, 10).top) is None  # of another generation
    assert ours.reveal(0, 9, ours.chain(0, 10).top) is None  # of another place
    assert ours.reveal(0, MAX_REVEALS + 1, top) is None


def test_generations_and_chains_differ():
    tops = {
        Reveals(SECRET, bytes([at]) * 32).chain(generation, 5).top for at in (1, 2) for generation in (0, 1)
    }
    assert len(tops) == 4


@pytest.mark.parametrize("length", [0, -1, MAX_REVEALS + 1])
def test_a_chain_has_a_length(length):
    with pytest.raises(ValueError, match="reveals"):
        RevealChain(bytes(32), length)
