"""Evidence: what convicts a validator, what does not, its bytes, and who finds it."""

from dataclasses import replace

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from consensus import canonical
from consensus.bft import statements
from consensus.bft.codec import decode, encode
from consensus.bft.config import SCHNORR
from consensus.bft.engine import check_stranger
from consensus.bft.evidence import (
    check_evidence,
    decode_evidence,
    encode_evidence,
    evidence_of,
    exclude_each_other,
)
from consensus.bft.limits import MAX_EVIDENCE_BYTES
from consensus.bft.shown import Evidence, Given, Signed, Vote
from consensus.bft.state import Role
from consensus.bft.types import (
    Accuse,
    Ask,
    Built,
    Committed,
    CommitVote,
    Kind,
    Misbehaviour,
    Prepared,
    Proof,
    Report,
    ShowEC,
    Slash,
    Start,
    Timer,
    Validated,
    VoteGranted,
)
from consensus.errors import RuleError
from consensus.keys import sign_schnorr, xonly_from_secret
from tests.simulation.cluster import config_of
from tests.unit.consensus_bft.bftkit import (
    B1,
    B2,
    BASE,
    CONFIGS,
    CQ1,
    EC1,
    ELECTORATE,
    P1,
    PQ1,
    Engine,
    block,
    block_sig,
    elected,
    make_ec,
    make_grant,
    make_propose,
    make_qc,
    make_tc,
    sign,
)

OTHER = b"\x07" * 32
THIRD = b"\x09" * 32


def shown(vote, term, height, block_hash, by=2):
    return Signed(Vote(vote), term, height, block_hash, block_sig(by, vote, term, height, block_hash))


def voted(term, cand, lock=(0, 0, BASE.block_hash), by=2):
    return Given(term, cand, *lock, sign(by, statements.grant(ELECTORATE, term, cand, *lock)))


def code_of(check, *args):
    try:
        check(*args)
    except RuleError as error:
        return error.code
    return None


CONVICTING = {
    "proposals": (shown("P", 3, 7, OTHER), shown("P", 3, 7, THIRD)),
    "validated": (shown("V", 3, 7, OTHER), shown("V", 3, 7, THIRD)),
    "commit-votes": (shown("C", 3, 7, OTHER), shown("C", 3, 7, THIRD)),
    "two-leaders": (voted(4, 0), voted(4, 1)),
    "two-leaders-with-locks": (voted(4, 3, (2, 2, OTHER)), voted(4, 1)),
    "amnesia-term": (shown("C", 3, 7, OTHER), voted(4, 1, (2, 9, THIRD))),
    "amnesia-height": (shown("C", 3, 7, OTHER), voted(9, 1, (3, 6, THIRD))),
    "amnesia-base": (shown("C", 1, 1, OTHER), voted(2, 2)),
}

INNOCENT = {
    "twice-the-same": (shown("V", 3, 7, OTHER), shown("C", 3, 7, OTHER)),
    "other-height": (shown("V", 3, 7, OTHER), shown("V", 3, 8, THIRD)),
    "other-term": (shown("P", 3, 7, OTHER), shown("P", 4, 7, THIRD)),
    "proposed-and-validated": (shown("P", 3, 7, OTHER), shown("V", 3, 7, THIRD)),
    "validated-and-locked": (shown("V", 3, 7, OTHER), shown("C", 3, 7, THIRD)),
    "other-terms-leaders": (voted(4, 0), voted(5, 1)),
    "one-leader-later-lock": (voted(4, 0), voted(4, 0, (3, 3, OTHER))),
    "commit-under-its-lock": (shown("C", 3, 7, OTHER), voted(4, 1, (3, 7, OTHER))),
    "commit-under-a-higher-lock": (shown("C", 3, 7, OTHER), voted(6, 1, (5, 1, THIRD))),
    "vote-before-the-commit": (shown("C", 3, 7, OTHER), voted(3, 1)),
    "vote-long-before-the-commit": (shown("C", 3, 7, OTHER), voted(2, 1)),
    "validated-above-the-lock": (shown("V", 3, 7, OTHER), voted(4, 1)),
    "proposed-above-the-lock": (shown("P", 3, 7, OTHER), voted(4, 1)),
}


@pytest.mark.parametrize("pair", CONVICTING.values(), ids=CONVICTING)
def test_what_convicts(pair):
    for one, other in (pair, pair[::-1]):
        evidence = evidence_of(2, one, other)
        assert exclude_each_other(one, other)
        assert code_of(check_evidence, ELECTORATE, evidence) is None
    assert decode_evidence(encode_evidence(5, evidence)) == (5, evidence)


@pytest.mark.parametrize("pair", INNOCENT.values(), ids=INNOCENT)
def test_what_an_honest_validator_may_sign(pair):
    for one, other in (pair, pair[::-1]):
        assert not exclude_each_other(one, other)
        assert code_of(check_evidence, ELECTORATE, evidence_of(2, one, other)) == "bad-evidence-pair"


@pytest.mark.parametrize("pair", CONVICTING.values(), ids=CONVICTING)
def test_forged_pairs(pair):
    good = evidence_of(2, *pair)
    for offender in (0, 1, 3):
        assert (
            code_of(check_evidence, ELECTORATE, good._replace(offender=offender)) == "bad-evidence-signature"
        )
    for name in ("first", "second"):
        statement = getattr(good, name)
        forged = good._replace(**{name: statement._replace(sig=bytes(64))})
        assert code_of(check_evidence, ELECTORATE, forged) == "bad-evidence-signature"
        moved = good._replace(
            **{name: statement._replace(sig=getattr(good, "first" if name == "second" else "second").sig)}
        )
        assert code_of(check_evidence, ELECTORATE, moved) == "bad-evidence-signature"
    for offender in (-1, 4, 50):
        assert code_of(check_evidence, ELECTORATE, good._replace(offender=offender)) == "bad-evidence-form"
    turned = Evidence(2, good.second, good.first)
    assert code_of(check_evidence, ELECTORATE, turned) == "bad-evidence-form"
    assert encode_evidence(0, turned) == encode_evidence(0, good)


def test_one_statement_is_no_pair():
    one = shown("V", 3, 7, OTHER)
    again = one._replace(sig=bytes(64))
    assert not exclude_each_other(one, again)
    assert code_of(check_evidence, ELECTORATE, Evidence(2, one, again)) == "bad-evidence-form"
    assert (
        code_of(
            decode_evidence, canonical.encode([0, 2, [1, 3, 7, OTHER, one.sig], [1, 3, 7, OTHER, one.sig]])
        )
        == "bad-evidence-form"
    )


def test_evidence_is_of_one_round():
    """The same keys in another round: the set hash is another, so no signature holds."""
    later = replace(CONFIGS[0], validator_set=replace(CONFIGS[0].validator_set, round=1, set_hash=THIRD))
    for pair in CONVICTING.values():
        assert code_of(check_evidence, later.electorate, evidence_of(2, *pair)) == "bad-evidence-signature"


def test_real_signatures():
    config = config_of(4, 1, SCHNORR)
    electorate = config.electorate
    digests = [statements.block_vote(electorate, Vote.COMMIT, 3, 7, each) for each in (OTHER, THIRD)]
    pair = [
        Signed(Vote.COMMIT, 3, 7, each, config.secret.sign(digest))
        for each, digest in zip((OTHER, THIRD), digests, strict=True)
    ]
    check_evidence(electorate, evidence_of(1, *pair))
    assert code_of(check_evidence, electorate, evidence_of(0, *pair)) == "bad-evidence-signature"
    stranger = bytes(31) + b"\x05"
    assert xonly_from_secret(stranger) not in electorate.voters.keys
    forged = pair[1]._replace(sig=sign_schnorr(stranger, digests[1]))
    assert code_of(check_evidence, electorate, evidence_of(1, pair[0], forged)) == "bad-evidence-signature"


# --- bytes --------------------------------------------------------------------------------------

u32 = st.integers(0, 0xFFFF_FFFF)
hashes = st.binary(min_size=32, max_size=32)
sigs = st.binary(min_size=64, max_size=64)
statement = st.one_of(
    st.builds(Signed, st.sampled_from((Vote.PROPOSE, Vote.VALIDATED, Vote.COMMIT)), u32, u32, hashes, sigs),
    st.builds(Given, u32, st.integers(0, 49), u32, u32, hashes, sigs),
)


@drawn(u32, st.integers(0, 49), statement, statement)
def test_bytes_come_back(number, offender, one, other):
    data = encode_evidence(number, Evidence(offender, one, other))
    assert len(data) <= MAX_EVIDENCE_BYTES
    if one.order == other.order:
        assert code_of(decode_evidence, data) == "bad-evidence-form"
        return
    back = decode_evidence(data)
    assert back == (number, evidence_of(offender, one, other))
    assert encode_evidence(*back) == data
    accusation = Accuse(*back)
    assert decode(encode(accusation)) == accusation


@drawn(st.binary(max_size=600))
def test_noise_is_no_evidence(data):
    assert code_of(decode_evidence, data) == "bad-evidence-form"


@pytest.mark.parametrize(
    "value",
    [
        [],
        [0],
        7,
        [2**32, 2, [1, 3, 7, OTHER, bytes(64)], [1, 3, 7, THIRD, bytes(64)]],
        [0, 2, [1, 3, 7, THIRD, bytes(64)], [1, 3, 7, OTHER, bytes(64)]],
        [0, 50, [1, 3, 7, OTHER, bytes(64)], [1, 3, 7, THIRD, bytes(64)]],
        [0, 2, [1, 3, 7, OTHER, bytes(64)], [1, 3, 7, THIRD, bytes(64)], None],
        [0, 2, [1, 3, 7, OTHER, bytes(64)], [4, 3, 7, THIRD, bytes(64)]],
        [0, 2, [1, 3, 7, OTHER, bytes(64), 0], [1, 3, 7, THIRD, bytes(64)]],
        [0, 2, [1, 3, 7, OTHER, bytes(64)], [3, 3, 0, 7, 1, THIRD]],
    ],
)
def test_other_forms_are_refused(value):
    assert code_of(decode_evidence, canonical.encode(value)) == "bad-evidence-form"


def test_there_is_one_form():
    data = encode_evidence(0, evidence_of(2, *CONVICTING["validated"]))
    assert decode_evidence(data)
    assert code_of(decode_evidence, data + b"\x00") == "bad-evidence-form"
    # The same values with a longer encoding of the round.
    assert code_of(decode_evidence, data[:1] + b"\xcc\x00" + data[2:]) == "bad-evidence-form"


# --- accusations --------------------------------------------------------------------------------


def slashed(engine):
    return [effect.evidence for effect in engine.effects(Slash)]


@pytest.mark.parametrize("pair", CONVICTING.values(), ids=CONVICTING)
def test_an_accusation_is_believed_once_in_a_round(pair):
    engine = Engine()
    evidence = evidence_of(2, *pair)
    for peer in (1, 3):
        engine.receive(peer, Accuse(0, evidence))
        assert slashed(engine) == ([evidence] if peer == 1 else [])
        assert not engine.sent(object)
    engine.receive(3, Accuse(0, evidence_of(2, *CONVICTING["commit-votes"])))
    assert slashed(engine) == []
    # Another term changes nothing: the round is what counts.
    engine.receive(1, ShowEC(make_ec(2, 1)))
    assert engine.state.cur_term == 2
    engine.receive(1, Accuse(0, evidence))
    assert slashed(engine) == []


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Accuse(1, evidence_of(2, *CONVICTING["validated"])), "bad-evidence-form"),
        (Accuse(0, evidence_of(2, *INNOCENT["other-term"])), "bad-evidence-pair"),
        (Accuse(0, evidence_of(1, *CONVICTING["validated"])), "bad-evidence-signature"),
        (Accuse(0, evidence_of(7, *CONVICTING["validated"])), "bad-evidence-form"),
    ],
)
def test_a_false_accusation_is_charged_to_its_sender(message, code):
    engine = Engine()
    assert engine.receive(3, message) == (Misbehaviour(3, code),)
    assert engine.state.slashed == {}


def retired():
    """A validator that has lost its vote: a peer shows what its log lacks."""
    engine = Engine(start=False)
    engine.feed(Start(5))
    shown = Signed(Vote.VALIDATED, 1, 1, OTHER, block_sig(0, Vote.VALIDATED, 1, 1, OTHER))
    engine.receive(1, Report(5, 1, 0, (shown,), None))
    assert engine.state.learner is not None
    return engine


def asking():
    engine = Engine(start=False)
    engine.feed(Start(5))
    assert engine.state.asking
    return engine


def observer():
    return Engine(config_of(4, None))


@pytest.mark.parametrize("make", [asking, retired, observer, Engine])
def test_whoever_listens_takes_evidence_from_anybody(make):
    """It proves itself: no vote is needed to hear it, and none to show it."""
    for sender in (1, None):
        engine = make()
        for code, forged in (
            ("bad-evidence-signature", evidence_of(1, *CONVICTING["validated"])),
            ("bad-evidence-pair", evidence_of(2, *INNOCENT["other-term"])),
        ):
            assert engine.receive(sender, Accuse(0, forged)) == (Misbehaviour(sender, code),)
        evidence = evidence_of(2, *CONVICTING["validated"])
        engine.receive(sender, Accuse(0, evidence))
        assert slashed(engine) == [evidence]
        assert not engine.sent(object)
        engine.receive(3, Accuse(0, evidence))
        assert slashed(engine) == []


def test_who_asks_still_knows_it_when_it_takes_part():
    engine = asking()
    engine.receive(1, Accuse(0, evidence_of(2, *CONVICTING["validated"])))
    for peer in (1, 2, 3):
        engine.receive(peer, Report(5, 1, 0, (), None))
    assert engine.state.votes
    engine.receive(3, Accuse(0, evidence_of(2, *CONVICTING["commit-votes"])))
    assert slashed(engine) == []


def test_a_stranger_is_charged_for_what_proves_nothing():
    state = Engine().state
    evidence = evidence_of(2, *CONVICTING["validated"])
    check_stranger(state, Accuse(0, evidence))
    assert (
        code_of(check_stranger, state, Accuse(0, evidence._replace(offender=3))) == "bad-evidence-signature"
    )
    assert code_of(check_stranger, state, Accuse(1, evidence)) == "bad-evidence-form"
    assert code_of(check_stranger, state, Ask(1, 0)) == "not-a-validator"


# --- finding ------------------------------------------------------------------------------------


def told(engine):
    """What the engine found itself: said to all, and handed over."""
    found = [message.evidence for message in engine.sent(Accuse)]
    assert found == slashed(engine)
    for evidence in found:
        check_evidence(ELECTORATE, evidence)
    return [(evidence.offender, evidence.first.vote, evidence.second.vote) for evidence in found]


def test_two_proposals():
    engine = Engine()
    engine.receive(1, P1)
    engine.receive(1, make_propose(1, 1, 1, block(B1.parent, 1, 1, b"other"), EC1))
    assert told(engine) == [(1, "P", "P")]


def committed(engine):
    engine.validate(P1)
    engine.receive(1, Prepared(PQ1))
    engine.receive(1, Committed(CQ1))
    assert engine.state.committed_height == 1


def test_amnesia_against_our_commit_certificate():
    """Validators 1 and 2 signed the commit of block 1, and vote as if they had never seen it prepared."""
    engine = Engine()
    committed(engine)
    engine.receive(1, ShowEC(make_ec(2, 3, {0: PQ1, 1: BASE, 2: PQ1, 3: BASE})))
    assert engine.state.leader == 3
    assert told(engine) == [(1, "C", "VG")]
    # 3 did not sign the certificate; who reports its lock is innocent.
    engine.receive(1, ShowEC(make_ec(3, 3, {0: PQ1, 1: BASE, 2: BASE})))
    assert told(engine) == [(2, "C", "VG")]


def test_amnesia_found_by_a_certificate_that_comes_late():
    engine = Engine()
    engine.validate(P1)
    engine.receive(3, ShowEC(make_ec(2, 3, {1: BASE, 2: BASE, 3: BASE})))
    assert told(engine) == []
    engine.receive(3, Committed(make_qc(Kind.COMMIT, 1, 1, B1.block_hash, (0, 2, 3))))
    assert told(engine) == [(2, "C", "VG"), (3, "C", "VG")]


def test_amnesia_against_a_commit_vote_that_made_no_certificate():
    engine = elected(1)
    engine.feed(Built(BASE.block_hash, 1, B1))
    for voter in (0, 2):
        engine.receive(
            voter, Validated(1, 1, B1.block_hash, voter, block_sig(voter, "V", 1, 1, B1.block_hash), None)
        )
    engine.receive(3, CommitVote(1, 1, B1.block_hash, 3, block_sig(3, "C", 1, 1, B1.block_hash)))
    assert engine.state.committed_height == 0
    engine.receive(2, ShowEC(make_ec(2, 2, {0: BASE, 2: BASE, 3: BASE})))
    assert told(engine) == [(3, "C", "VG")]


@pytest.mark.parametrize("voter", [2, 3])  # the last that the certificate needs, and one behind it
def test_two_votes_of_one_rank(voter):
    engine = elected(0)
    engine.feed(Built(BASE.block_hash, 1, B1))
    for each in (1, 2, 3):
        engine.receive(each, validated_by(each, B1.block_hash))
    assert engine.state.prepared is not None
    assert (3 in engine.state.validated) == (3 not in engine.state.late)
    forged = validated_by(voter, OTHER)._replace(sig=bytes(64))
    assert engine.receive(voter, forged) == (Misbehaviour(voter, "bad-vote-signature"),)
    engine.receive(voter, validated_by(voter, OTHER))
    assert told(engine) == [(voter, "V", "V")]
    assert engine.receive(voter, validated_by(voter, THIRD)) == ()


def test_a_late_vote_that_was_never_signed_convicts_nobody():
    engine = elected(0)
    engine.feed(Built(BASE.block_hash, 1, B1))
    for each in (1, 2):
        engine.receive(each, validated_by(each, B1.block_hash))
    engine.receive(3, validated_by(3, B1.block_hash)._replace(sig=bytes(64)))
    assert engine.receive(3, validated_by(3, OTHER)) == ()
    assert engine.state.late == {}


def validated_by(voter, block_hash):
    return Validated(1, 1, block_hash, voter, block_sig(voter, "V", 1, 1, block_hash), None)


def candidate(term=2):
    engine = Engine()
    committed(engine)
    engine.receive(1, ShowEC(make_ec(term - 1, 1)) if term > 2 else Prepared(PQ1))
    engine.receive(1, Proof(term, make_tc(term - 1)))
    assert engine.state.cur_term == term
    engine.fire(Timer.SLOT)
    assert engine.state.role is Role.CANDIDATE
    return engine


def vote_for_us(term, voter, lock):
    grant = make_grant(voter, term, 0, lock)
    return VoteGranted(term, 0, voter, lock, grant.sig)


def test_amnesia_in_a_vote_for_us():
    engine = candidate()
    engine.receive(2, vote_for_us(2, 2, BASE))
    assert told(engine) == [(2, "C", "VG")]
    assert 2 in engine.state.grants  # who is convicted still has a vote: the set decides, not we


def test_a_vote_for_us_and_one_for_the_elected():
    engine = candidate()
    engine.receive(3, vote_for_us(2, 3, BASE))
    assert told(engine) == []
    engine.receive(1, ShowEC(make_ec(2, 1, {1: PQ1, 2: PQ1, 3: BASE})))
    assert told(engine) == [(3, "VG", "VG")]
    # The other way round: the vote for us comes when another is elected.
    assert engine.receive(2, vote_for_us(2, 2, PQ1))
    assert told(engine) == [(2, "VG", "VG")]
    assert engine.receive(2, vote_for_us(2, 2, PQ1)) == ()


def test_a_late_vote_of_nobody_that_voted_is_not_even_checked():
    engine = candidate()
    engine.receive(1, ShowEC(make_ec(2, 1, {1: PQ1, 2: PQ1, 3: BASE})))
    engine.state.slashed = {2: None}
    forged = vote_for_us(2, 2, PQ1)
    assert engine.receive(2, replace(forged, sig=bytes(64))) == ()


def test_honest_votes_over_several_terms_accuse_nobody():
    engine = Engine()
    committed(engine)
    later = make_qc(Kind.PREPARE, 2, 2, B2.block_hash)
    for term, locks in (
        (2, {0: PQ1, 1: PQ1, 2: PQ1}),
        (3, {1: later, 2: PQ1, 3: BASE}),
        (5, {0: PQ1, 1: later, 3: BASE}),
    ):
        engine.receive(1, ShowEC(make_ec(term, 1, locks)))
        assert told(engine) == []
    engine.receive(1, Ask(9, 0))
    assert engine.sent(Report)
