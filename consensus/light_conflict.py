"""Two chains with certificates: what a light client keeps when its sources contradict each other; pure.

A quorum of a set finalises one successor. If two pages of steps that both hold lead to different blocks at
the end of one round, more than a third of its validators lied. The client can no longer tell what is final:
it stops, and keeps the two certificates, which prove it to everybody (CONSENSUS.md, section 4.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from consensus.bft.certificates import members_of
from consensus.bft.evidence import evidence_of
from consensus.bft.shown import Evidence, Signed, Vote
from consensus.bft.types import QC
from consensus.light import Certified, CoinbaseProof, RoundStep, Signers, Trust


@dataclass(frozen=True, slots=True)
class Branch:
    """One of two certified ends of a round, and the set that signed it."""

    signers: Signers
    boundary: Certified
    coinbase: CoinbaseProof
    following: Signers


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two ends of one round; both certificates hold."""

    one: Branch
    other: Branch

    @property
    def round(self) -> int:
        """Return the round that ends twice."""
        return self.one.signers.round

    @property
    def liars(self) -> tuple[bytes, ...]:
        """Return the vote keys under both certificates, in voting order of the first."""
        mine, theirs = _keys(self.one), set(_keys(self.other))
        return tuple([key for key in mine if key in theirs])


def find_conflict(trust: Trust, one: Sequence[RoundStep], other: Sequence[RoundStep]) -> Conflict | None:
    """Return the first round that two runs of steps, both followed from ``trust``, end in different ways."""
    mine, theirs = _branches(trust, one), _branches(trust, other)
    for number in sorted(mine):
        if number in theirs:
            a, b = mine[number], theirs[number]
            if (a.boundary.header.hash, a.following) != (b.boundary.header.hash, b.following):
                return Conflict(a, b)
    return None


def evidence_in(conflict: Conflict) -> tuple[Evidence, ...]:
    """Return the double votes in a conflict: whoever committed two blocks at one height in one term.

    Empty where the certificates are of different terms: then no pair of votes alone convicts anybody.
    """
    one, other = conflict.one.boundary.certificate, conflict.other.boundary.certificate
    same_set = conflict.one.signers == conflict.other.signers
    if not same_set or (one.term, one.height) != (other.term, other.height):
        return ()
    if one.block_hash == other.block_hash:
        return ()
    mine, theirs = _votes(one), _votes(other)
    return tuple([evidence_of(at, vote, theirs[at]) for at, vote in mine.items() if at in theirs])


def _branches(trust: Trust, steps: Sequence[RoundStep]) -> dict[int, Branch]:
    found = {}
    signers = trust.signers
    for step in steps:
        if step.signers.round <= signers.round:
            continue
        voters = step.voters or signers
        found[voters.round] = Branch(voters, step.boundary, step.coinbase, step.signers)
        signers = step.signers
    return found


def _keys(branch: Branch) -> list[bytes]:
    keys = branch.signers.keys
    return [keys[member] for member in members_of(branch.boundary.certificate.bitmap)]


def _votes(certificate: QC) -> dict[int, Signed]:
    members = members_of(certificate.bitmap)
    said = certificate.term, certificate.height, certificate.block_hash
    return {
        member: Signed(Vote.COMMIT, *said, sig) for member, sig in zip(members, certificate.sigs, strict=True)
    }
