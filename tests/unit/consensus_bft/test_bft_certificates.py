from dataclasses import replace

import pytest

from consensus.bft import statements
from consensus.bft.certificates import (
    bitmap_of,
    check_ec,
    check_qc,
    check_tc,
    check_term_proof,
    members_of,
)
from consensus.bft.config import SCHNORR, Electorate, VoterSet, genesis_base
from consensus.bft.shown import Vote
from consensus.bft.types import EC, QC, Kind
from consensus.errors import RuleError
from tests.simulation.cluster import config_of, secrets_of
from tests.unit.consensus_bft.bftkit import (
    BASE,
    ELECTORATE,
    N,
    block_sig,
    make_ec,
    make_grant,
    make_qc,
    make_tc,
    sign,
)

HASH = bytes(range(32))
GOOD = make_qc(Kind.COMMIT, 3, 7, HASH)


def refused(code, check, *arguments):
    with pytest.raises(RuleError) as caught:
        check(*arguments)
    assert caught.value.code == code


def test_a_good_certificate_holds():
    check_qc(ELECTORATE, GOOD, Kind.COMMIT)
    check_qc(ELECTORATE, make_qc(Kind.PREPARE, 3, 7, HASH, (0, 1, 2, 3)), Kind.PREPARE)
    check_tc(ELECTORATE, make_tc(5))
    check_ec(ELECTORATE, make_ec(5, 2))


def test_real_signatures():
    config = config_of(4, 0, SCHNORR)
    electorate = config.electorate
    digest = statements.block_vote(electorate, Vote.COMMIT, 1, 1, HASH)
    sigs = tuple(SCHNORR.sign(secret, digest) for secret in secrets_of(4)[:3])
    qc = QC(Kind.COMMIT, 0, 1, 1, HASH, b"\x07", sigs)
    check_qc(electorate, qc, Kind.COMMIT)
    refused("bad-cert-signature", check_qc, electorate, qc._replace(height=2), Kind.COMMIT)
    refused("bad-cert-signature", check_qc, electorate, qc._replace(bitmap=b"\x0b"), Kind.COMMIT)


def test_kinds_are_not_interchangeable():
    refused("bad-qc-kind", check_qc, ELECTORATE, GOOD, Kind.PREPARE)
    disguised = GOOD._replace(kind=Kind.PREPARE)
    refused("bad-cert-signature", check_qc, ELECTORATE, disguised, Kind.PREPARE)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"round": 1}, "bad-cert-round"),
        ({"term": 4}, "bad-cert-signature"),
        ({"height": 8}, "bad-cert-signature"),
        ({"block_hash": bytes(32)}, "bad-cert-signature"),
        ({"bitmap": b"\x0b"}, "bad-cert-signature"),
        ({"bitmap": b"\x17"}, "bad-cert-bitmap"),
        ({"bitmap": b"\x0f"}, "bad-cert-bitmap"),
        ({"bitmap": b"\x07\x00"}, "bad-cert-bitmap"),
        ({"bitmap": b""}, "bad-cert-bitmap"),
        ({"bitmap": b"\x03", "sigs": GOOD.sigs[:2]}, "bad-cert-quorum"),
        ({"bitmap": b"\x00", "sigs": ()}, "bad-cert-quorum"),
        ({"sigs": (*GOOD.sigs[:2], bytes(64))}, "bad-cert-signature"),
        ({"sigs": GOOD.sigs[::-1]}, "bad-cert-signature"),
    ],
)
def test_what_a_quorum_certificate_must_not_be(change, code):
    refused(code, check_qc, ELECTORATE, GOOD._replace(**change), Kind.COMMIT)


def test_one_signer_cannot_count_twice():
    """Signers are bits, so the same one cannot be named twice; its signature again is not another's."""
    sig = block_sig(0, Vote.COMMIT, 3, 7, HASH)
    forged = GOOD._replace(sigs=(sig, sig, sig))
    refused("bad-cert-signature", check_qc, ELECTORATE, forged, Kind.COMMIT)
    grants = tuple(make_grant(0, 5, 2, BASE) for _ in range(3))
    refused("bad-ec-votes", check_ec, ELECTORATE, EC(0, 5, 2, grants, BASE))
    with pytest.raises(ValueError):
        VoterSet(0, 1, bytes(32), (HASH, HASH, bytes(32)))


@pytest.mark.parametrize("chain_id", [bytes(32), HASH])
def test_another_chain_or_set(chain_id):
    voters = ELECTORATE.voters
    elsewhere = Electorate(chain_id, voters, genesis_base(chain_id), ELECTORATE.scheme)
    refused("bad-cert-signature", check_qc, elsewhere, GOOD, Kind.COMMIT)
    other_set = replace(voters, set_hash=HASH)
    reshuffled = Electorate(ELECTORATE.chain_id, other_set, BASE, ELECTORATE.scheme)
    refused("bad-cert-signature", check_qc, reshuffled, GOOD, Kind.COMMIT)


def test_the_base_needs_no_signatures_and_nothing_else_does():
    check_qc(ELECTORATE, BASE, Kind.PREPARE)
    refused("bad-cert-bitmap", check_qc, ELECTORATE, BASE._replace(height=1), Kind.PREPARE)
    refused("bad-cert-bitmap", check_qc, ELECTORATE, BASE._replace(block_hash=HASH), Kind.PREPARE)
    refused("bad-qc-kind", check_qc, ELECTORATE, BASE, Kind.COMMIT)


def test_term_certificates():
    tc = make_tc(5)
    refused("bad-cert-signature", check_tc, ELECTORATE, tc._replace(term=6))
    refused("bad-cert-quorum", check_tc, ELECTORATE, tc._replace(bitmap=b"\x03", sigs=tc.sigs[:2]))
    refused("bad-cert-round", check_tc, ELECTORATE, tc._replace(round=9))


LOCK = make_qc(Kind.PREPARE, 2, 6, HASH)
ELECTED = make_ec(5, 2, {0: BASE, 1: LOCK, 3: BASE})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"round": 1}, "bad-cert-round"),
        ({"cand": 1}, "bad-cert-signature"),
        ({"cand": 4}, "bad-ec-votes"),
        ({"term": 6}, "bad-cert-signature"),
        ({"term": 2}, "bad-ec-votes"),
        ({"votes": ELECTED.votes[:2]}, "bad-ec-votes"),
        ({"votes": ELECTED.votes[::-1]}, "bad-ec-votes"),
        ({"high": BASE}, "bad-ec-high"),
        ({"high": make_qc(Kind.PREPARE, 2, 6, bytes(32))}, "bad-ec-high"),
        ({"high": LOCK._replace(kind=Kind.COMMIT)}, "bad-qc-kind"),
        ({"high": LOCK._replace(sigs=(bytes(64),) * 3)}, "bad-cert-signature"),
    ],
)
def test_what_an_election_certificate_must_not_be(change, code):
    check_ec(ELECTORATE, ELECTED)
    refused(code, check_ec, ELECTORATE, ELECTED._replace(**change))


def test_a_voter_cannot_be_given_another_lock():
    lied = tuple(vote._replace(term=0, height=0, block_hash=BASE.block_hash) for vote in ELECTED.votes)
    refused("bad-cert-signature", check_ec, ELECTORATE, ELECTED._replace(votes=lied, high=BASE))


def test_proofs_of_terms():
    check_term_proof(ELECTORATE, 1, None)
    check_term_proof(ELECTORATE, 6, make_tc(5))
    check_term_proof(ELECTORATE, 5, make_ec(5, 0))
    check_term_proof(ELECTORATE, 3, GOOD)
    refused("bad-term-proof", check_term_proof, ELECTORATE, 2, None)
    refused("bad-term-proof", check_term_proof, ELECTORATE, 5, make_tc(5))
    refused("bad-term-proof", check_term_proof, ELECTORATE, 4, GOOD)
    refused("bad-term-proof", check_term_proof, ELECTORATE, 0, BASE)
    refused("bad-cert-signature", check_term_proof, ELECTORATE, 4, GOOD._replace(term=4))


def test_a_remembered_certificate_is_not_checked_again():
    broken = GOOD._replace(term=4)
    check_qc(ELECTORATE, broken, Kind.COMMIT, {broken: None})


@pytest.mark.parametrize("n", [1, 4, 8, 9, 50])
def test_bitmaps(n):
    members = tuple(range(0, n, 3))
    assert members_of(bitmap_of(members, n)) == members
    assert len(bitmap_of((), n)) == (n + 7) // 8
    assert bitmap_of((0,), n)[0] == 1


def test_statements_differ_in_every_field():
    digests = {
        statements.block_vote(ELECTORATE, vote, term, height, block_hash)
        for vote in (Vote.PROPOSE, Vote.VALIDATED, Vote.COMMIT)
        for term in (1, 2)
        for height in (1, 2)
        for block_hash in (HASH, bytes(32))
    }
    digests |= {statements.pre_vote(ELECTORATE, term) for term in (1, 2)}
    digests |= {
        statements.grant(ELECTORATE, 1, cand, t, h, HASH) for cand in (0, 1) for t in (0, 1) for h in (0, 1)
    }
    assert len(digests) == 24 + 2 + 8
    assert sign(0, b"x" * 32) != sign(1, b"x" * 32)
    assert len(ELECTORATE.voters.keys) == N
