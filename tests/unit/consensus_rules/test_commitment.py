"""The WC commitment and the effects digest."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import canonical
from consensus.commitment import Commitment, effects_digest, effects_root, find_commitment, is_commitment
from consensus.errors import RuleError
from consensus.script.templates import data_carrier
from consensus.transaction import NULL_PREVOUT, Transaction, TxIn, TxOut

hashes = st.binary(min_size=32, max_size=32)


def coinbase(*scripts, value=0):
    outputs = [TxOut(value, script) for script in scripts]
    return Transaction.build(1, [TxIn(NULL_PREVOUT, b"\x51\x00")], outputs)


@given(
    st.builds(
        Commitment,
        effects_digest=hashes,
        history_root=hashes,
        set_hash=hashes,
        proposer=st.integers(0, 49),
        last_bitmap=st.binary(max_size=7),
        state_root=st.none() | hashes,
        next_set_hash=st.none() | hashes,
        reveal=st.none() | hashes,
        evidence_root=hashes,
    )
)
def test_commitment_survives_the_coinbase(commitment):
    script = commitment.encode_script()
    assert is_commitment(script)
    assert find_commitment(coinbase(b"\x51", script)) == commitment


def test_layout_is_the_documented_array():
    script = Commitment(b"e" * 32, b"h" * 32, b"s" * 32, 3, b"\x0f").encode_script()
    assert script[:2] == b"\x6a\x4c"
    assert script[3:5] == b"WC"
    assert canonical.decode(script[5:]) == [
        1, b"e" * 32, b"h" * 32, None, b"s" * 32, None, 3, b"\x0f", None, bytes(32),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [1] * 9,
        [True, *[bytes(32)] * 9],
        [1, bytes(32), bytes(32), None, bytes(32), None, True, b"", None, bytes(32)],
        [1, bytes(32), bytes(32), None, bytes(32), None, 0, "", None, bytes(32)],
        [1, bytes(32), bytes(32), None, None, None, 0, b"", None, bytes(32)],
        [1, bytes(32), bytes(32), bytes(31), bytes(32), None, 0, b"", None, bytes(32)],
        {"a": 1},
        7,
    ],
)
def test_other_arrays_are_refused(fields):
    with pytest.raises(RuleError, match=r"bad-commitment-(form|version)"):
        find_commitment(coinbase(data_carrier(b"WC" + canonical.encode(fields))))


def test_commitment_output_carries_no_value():
    script = Commitment(bytes(32), bytes(32), bytes(32), 0, b"").encode_script()
    with pytest.raises(RuleError, match="bad-commitment-value"):
        find_commitment(coinbase(script, value=1))


def test_effects_root_by_hand():
    def leaf(key, tail):
        return hashlib.sha256(b"\x00" + len(key).to_bytes(4, "little") + key + tail).digest()

    def node(left, right):
        return hashlib.sha256(b"\x01" + left + right).digest()

    writes = {b"b": b"2", b"a": None, b"ab": b""}
    expected = node(node(leaf(b"a", b"\x00"), leaf(b"ab", b"\x01")), leaf(b"b", b"\x012"))
    assert effects_root(writes) == expected
    assert effects_root({}) == bytes(32)
    assert effects_digest(b"p" * 32, writes) == hashlib.sha256(b"p" * 32 + expected).digest()


@given(st.dictionaries(st.binary(max_size=4), st.none() | st.binary(max_size=4), max_size=9), st.randoms())
def test_order_of_writes_does_not_matter(writes, random):
    shuffled = list(writes.items())
    random.shuffle(shuffled)
    assert effects_root(dict(shuffled)) == effects_root(writes)


@given(st.dictionaries(st.binary(max_size=3), st.none() | st.binary(max_size=3), min_size=1, max_size=6))
def test_every_write_counts(writes):
    base = effects_root(writes)
    for key, value in writes.items():
        assert effects_root(writes | {key: (value or b"") + b"x"}) != base
        assert effects_root({k: v for k, v in writes.items() if k != key}) != base
    deleted = dict.fromkeys(writes)
    emptied = dict.fromkeys(writes, b"")
    assert effects_root(deleted) != effects_root(emptied)
