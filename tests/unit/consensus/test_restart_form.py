"""Restart files: who must sign, what is checked, what is refused with which code."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.bft import statements
from consensus.bft.certificates import bitmap_of, check_qc
from consensus.bft.config import Electorate, VoterSet
from consensus.bft.quorum import faults, quorum
from consensus.bft.shown import Vote
from consensus.bft.types import QC, Kind
from consensus.errors import DecodeError, PeerFault, RuleError
from consensus.keys import sign_schnorr
from consensus.restart import (
    Restart,
    check_form,
    check_members,
    check_signed,
    check_whole,
    decode_restart,
    decree,
    decreed,
    digest,
    draft,
    encode_restart,
    join,
    needed_signers,
    round_after,
    sign,
)
from consensus.rounds import Round
from consensus.validators import sign_entry

CHAIN, OTHER, HASH = b"\x11" * 32, b"\x12" * 32, b"\x22" * 32
NAME = "riverside"
FIRST, HEIGHT = 101, 140


def secret(number):
    return (number + 1).to_bytes(32, "big")


def entry(number, chain_name=NAME):
    return sign_entry(
        secret(number), secret(number), chain_name=chain_name, name=f"p{number}", role="service-provider",
        payout_script=bytes([0x51, number]),
    )  # fmt: skip


ENTRIES = [entry(number) for number in range(12)]


def round_of(n, number=3):
    return Round(number, 2, FIRST, b"s" * 32, b"t" * 32, 9, tuple(ENTRIES[:n]))


def certificate(found, kind=Kind.COMMIT, height=HEIGHT, block_hash=HASH, term=12, chain=CHAIN):
    """A certificate of the first q members of a round."""
    electorate = Electorate(chain, VoterSet.of(found.validator_set), found.base(b"b" * 32))
    vote = Vote.COMMIT if kind is Kind.COMMIT else Vote.VALIDATED
    said = statements.block_vote(electorate, vote, term, height, block_hash)
    signers = range(electorate.voters.q)
    sigs = tuple(sign_schnorr(secret(number), said) for number in signers)
    return QC(kind, found.number, term, height, block_hash, bitmap_of(signers, electorate.voters.n), sigs)


def restart(n=7, members=(4, 5, 6), kind=Kind.COMMIT, signed=True, **changes):
    found = round_of(n)
    made = draft(
        Restart(
            chain_id=CHAIN,
            round=found.number + 1,
            height=HEIGHT,
            block_hash=HASH,
            certificate=certificate(found, kind),
            members=tuple(ENTRIES[number] for number in members),
            dismissed=(ENTRIES[10].payout_script, ENTRIES[11].payout_script),
            reason="the data centre burnt down",
            signatures=(),
        )
    )
    made = replace(made, **changes)
    for number in members if signed else ():
        made = sign(made, secret(number))
    return made


def code_of(check, *arguments):
    with pytest.raises(PeerFault) as caught:
        check(*arguments)
    return caught.value.code


def whole(made, n=7, chain=CHAIN, name=NAME):
    check_whole(made, round_of(n), chain, name)


@pytest.mark.parametrize("kind", [Kind.COMMIT, Kind.PREPARE])
@pytest.mark.parametrize(
    ("n", "members"), [(7, (4, 5, 6)), (4, (3, 0)), (4, (2, 3, 8)), (1, (0,)), (6, (1, 2, 3))]
)
def test_a_signed_restart_holds(kind, n, members):
    whole(restart(n, members, kind), n)


@pytest.mark.parametrize(
    ("n", "least"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3), (9, 4), (21, 8), (50, 17)]
)
def test_how_many_of_the_old_set_must_sign(n, least):
    assert needed_signers(n) == least


@given(st.integers(1, 50))
def test_those_who_sign_meet_every_quorum_and_leave_none_behind(n):
    assert quorum(n) + needed_signers(n) > n
    assert n - needed_signers(n) < quorum(n)
    assert needed_signers(n) >= faults(n) + 1


def test_too_few_of_the_old_set_are_refused_however_many_strangers_sign():
    assert code_of(whole, restart(7, (5, 6, 7, 8, 9))) == "restart-too-few"
    assert code_of(whole, restart(6, (4, 5)), 6) == "restart-too-few"


def test_each_signature_is_needed_and_must_be_right():
    made = restart()
    for place in range(3):
        signatures = list(made.signatures)
        signatures[place] = b""
        partial = replace(made, signatures=tuple(signatures))
        assert [member.name for member in partial.missing] == [ENTRIES[4 + place].name]
        assert code_of(check_signed, partial) == code_of(whole, partial) == "restart-unsigned"
        signatures[place] = made.signatures[place - 1]
        assert code_of(whole, replace(made, signatures=tuple(signatures))) == "restart-bad-signature"


def test_every_field_is_signed():
    made = restart()
    found = round_of(7)
    changes = [
        {"round": 5},
        {"height": HEIGHT + 1},
        {"block_hash": bytes(32)},
        {"certificate": certificate(found, term=13)},
        {"members": made.members[::-1]},
        {"dismissed": ()},
        {"reason": "another"},
        {"chain_id": OTHER},
    ]
    digests = {digest(replace(made, **change)) for change in changes}
    assert len(digests) == len(changes)
    assert digest(made) not in digests
    changed = replace(made, reason="another")
    assert code_of(whole, changed) == "restart-bad-signature"


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("restart-wrong-round", {"round": 5}),
        ("restart-wrong-round", {"round": 3}),
        ("restart-bad-certificate", {"height": HEIGHT + 1}),
        ("restart-bad-certificate", {"block_hash": bytes(32)}),
        ("restart-wrong-chain", {"chain_id": OTHER}),
        ("restart-bad-set", {"dismissed": (ENTRIES[4].payout_script,)}),
        ("restart-bad-certificate", {"certificate": certificate(round_of(7), chain=OTHER)}),
        ("restart-wrong-round", {"certificate": certificate(round_of(7, number=2))}),
        ("restart-bad-certificate", {"certificate": certificate(round_of(4))}),
        ("restart-bad-certificate", {"certificate": round_of(7).base(HASH)}),
    ],
)
def test_what_does_not_fit_is_refused(code, changes):
    assert code_of(whole, restart(**changes)) == code


def test_a_height_before_the_round_is_refused():
    found = round_of(7)
    early = certificate(found, height=FIRST - 2)
    assert code_of(whole, restart(height=FIRST - 2, certificate=early)) == "restart-wrong-height"


def test_a_round_that_never_began_can_be_restarted_on_its_base():
    found = round_of(7)
    made = restart(height=FIRST - 1, certificate=found.base(HASH))
    whole(made)
    assert decree(made) is None
    assert round_after(made, found, 33).first_height == FIRST


def test_members_are_distinct_and_bring_entries_of_this_chain():
    blank = restart(signed=False)
    twin = replace(ENTRIES[5], name="p4")
    twins = replace(blank, members=(ENTRIES[4], twin, ENTRIES[6]))
    assert code_of(check_form, twins, CHAIN, NAME) == "restart-bad-set"
    foreign = replace(blank, members=(entry(4, "elsewhere"), *ENTRIES[5:7]))
    assert code_of(check_form, foreign, CHAIN, NAME) == "bad-vote-signature"


def test_strangers_are_refused():
    made = restart(members=(4, 5, 6, 9))
    check_members(made, ENTRIES)
    assert code_of(check_members, made, ENTRIES[:9]) == "restart-unknown-member"
    forged = replace(made, members=(*made.members[:3], replace(ENTRIES[9], payout_script=b"\x51")))
    assert code_of(check_members, forged, ENTRIES) == "restart-unknown-member"


def test_only_members_sign_and_copies_are_joined():
    blank = restart(signed=False)
    assert code_of(sign, blank, secret(0)) == "restart-not-a-member"
    parts = [sign(blank, secret(number)) for number in (6, 4, 5)]
    joined = join(parts)
    assert joined == restart()
    assert code_of(join, [parts[0], replace(parts[1], reason="x")]) == "restart-different"


def test_a_prepared_block_is_final_by_decree_alone():
    made = restart(kind=Kind.PREPARE)
    by_decree = decree(made)
    assert by_decree is not None
    assert (by_decree.kind, by_decree.height, by_decree.block_hash, by_decree.sigs) == (
        Kind.COMMIT,
        HEIGHT,
        HASH,
        (),
    )
    found = round_of(7)
    electorate = Electorate(CHAIN, VoterSet.of(found.validator_set), found.base(b"b" * 32))
    assert code_of(check_qc, electorate, by_decree, Kind.COMMIT) == "bad-cert-bitmap"
    knowing = replace(electorate, decrees=decreed({HASH: made}, found))
    check_qc(knowing, by_decree, Kind.COMMIT)
    assert code_of(check_qc, knowing, by_decree._replace(term=13), Kind.COMMIT) == "bad-cert-bitmap"
    assert code_of(check_qc, knowing, by_decree._replace(block_hash=CHAIN), Kind.COMMIT) == "bad-cert-bitmap"
    assert decreed({HASH: made}, round_of(7, number=4)) == ()
    assert decree(restart()) is None


def test_the_new_round_goes_on_in_the_epoch_with_terms_above_the_block():
    found = round_of(7)
    after = round_after(restart(), found, 12)
    assert (after.number, after.epoch, after.first_height, after.base_term) == (4, 2, HEIGHT + 1, 12)
    assert after.members == tuple(ENTRIES[4:7])
    assert not after.alternates
    assert after.seed == found.seed
    assert after.slot_seed != found.slot_seed
    assert after.validator_set.set_hash != replace(after, number=5).validator_set.set_hash


def test_files_are_read_back_and_bad_ones_refused():
    made = restart(kind=Kind.PREPARE)
    data = encode_restart(made)
    assert decode_restart(data) == made
    partial = draft(made)
    assert decode_restart(encode_restart(partial)) == partial
    for broken in (
        b"",
        data[:-1],
        data + b"\x00",
        data[1:],
        bytes(70_000),
        encode_restart(restart(reason="a\nb")),
    ):
        assert code_of(decode_restart, broken) == "bad-restart-file"


@given(st.data())
def test_any_bytes_are_read_or_refused(data):
    raw = bytearray(encode_restart(FILE))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_restart(bytes(raw))
    except DecodeError:
        return
    if found != FILE:
        with pytest.raises(RuleError):
            whole(found)


FILE = restart()
