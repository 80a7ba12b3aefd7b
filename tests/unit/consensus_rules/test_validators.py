"""Signed entries and validator sets."""

import hashlib
from dataclasses import replace

import pytest

from consensus.errors import RuleError
from consensus.validators import ValidatorSet, check_entry, entry_digest, initial_set, set_hash, sign_entry


@pytest.fixture
def entry(tools):
    return sign_entry(
        b"\x01" * 32,
        b"\x02" * 32,
        chain_name="toy",
        name="grid",
        role="grid-operator",
        payout_script=tools.script_of(1),
    )


def test_signed_entry_holds(entry):
    check_entry("toy", entry)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "grit"},
        {"role": "service-provider"},
        {"payout_script": b"\x51"},
        {"vote_key": bytes(32)},
        {"vote_signature": bytes(64)},
        {"vote_key": b"short"},
    ],
)
def test_changed_entry_does_not_hold(entry, change):
    with pytest.raises(RuleError, match="bad-vote-signature"):
        check_entry("toy", replace(entry, **change))


@pytest.mark.parametrize("change", [{"identity_signature": bytes(64)}, {"identity_signature": b""}])
def test_identity_key_signs_too(entry, change):
    with pytest.raises(RuleError, match="bad-identity-signature"):
        check_entry("toy", replace(entry, **change))


def test_entry_is_for_one_chain(entry):
    assert entry_digest("toy", entry) != entry_digest("toys", entry)
    with pytest.raises(RuleError):
        check_entry("toys", entry)


def test_signatures_are_not_part_of_what_they_sign(entry):
    assert entry_digest("toy", entry) == entry_digest("toy", replace(entry, vote_signature=bytes(64)))


def test_set_hash_by_hand():
    tag = hashlib.sha256(b"wattd/set").digest()
    body = (3).to_bytes(4, "little") + (97).to_bytes(4, "little") + b"a" * 32 + b"b" * 32
    assert set_hash(3, 97, (b"a" * 32, b"b" * 32)) == hashlib.sha256(tag + tag + body).digest()


def test_set_hash_names_round_height_and_order(tools):
    entries = tools.make_params().bft.validators
    sets = [
        ValidatorSet(0, 1, entries),
        ValidatorSet(1, 1, entries),
        ValidatorSet(0, 2, entries),
        ValidatorSet(0, 1, entries[::-1]),
        ValidatorSet(0, 1, entries[1:]),
    ]
    assert len({one.set_hash for one in sets}) == 5
    assert ValidatorSet(0, 1, entries) == sets[0]


@pytest.mark.parametrize(("n", "f", "q"), [(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 1, 3), (5, 1, 4), (7, 2, 5)])
def test_counts(tools, n, f, q):
    validators = initial_set(tools.make_params(validators=n))
    assert (validators.n, validators.f, validators.q) == (n, f, q)
    assert (validators.round, validators.first_height) == (0, 1)
