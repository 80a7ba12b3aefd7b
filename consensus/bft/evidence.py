"""Evidence: two signed statements of one validator that exclude each other, and who finds them.

Pairs (CONSENSUS.md, section 2.13): two proposals, two Validated or two CommitVotes of one rank for different
blocks; two votes for different leaders of one term; and amnesia, a CommitVote above the lock that a later
vote for a leader shows. Facts (a) to (c) of the safety argument say why an honest validator never signs such
a pair. Both signatures bind chain and set, so evidence is of one round.
"""

from typing import Any

from consensus import canonical
from consensus.bft import statements
from consensus.bft.certificates import members_of
from consensus.bft.config import Electorate
from consensus.bft.limits import MAX_EVIDENCE_BYTES
from consensus.bft.packing import MAX_DEPTH, pack_evidence, round_field, unpack_evidence
from consensus.bft.shown import Evidence, Given, Shown, Signed, Vote
from consensus.bft.state import State
from consensus.bft.turn import Turn
from consensus.bft.types import EC, QC, Accuse, Grant, Slash
from consensus.errors import DecodeError, RuleError

# --- bytes --------------------------------------------------------------------------------------


def encode_evidence(round_number: int, evidence: Evidence) -> bytes:
    """Return evidence of a round as canonical MessagePack; the order of its statements does not matter."""
    ordered = evidence_of(evidence.offender, evidence.first, evidence.second)
    return canonical.encode([round_number, *pack_evidence(ordered)], max_depth=MAX_DEPTH)


def decode_evidence(data: bytes) -> tuple[int, Evidence]:
    """Return (round, evidence); there is one form of bytes for each.

    Raises RuleError ``bad-evidence-form``. Whether it proves anything is for ``check_evidence`` to say.
    """
    if len(data) > MAX_EVIDENCE_BYTES:
        raise RuleError("bad-evidence-form", f"{len(data)} bytes")
    try:
        value: Any = canonical.decode(data, max_depth=MAX_DEPTH)
        if type(value) is not list or not value:
            raise RuleError("bad-evidence-form", "not an array")
        return round_field(value[0]), unpack_evidence(value[1:])
    except DecodeError as error:
        raise RuleError("bad-evidence-form", str(error)) from None


# --- judging ------------------------------------------------------------------------------------


def evidence_of(offender: int, one: Shown, other: Shown) -> Evidence:
    """Return evidence with its statements in their order."""
    first, second = sorted((one, other), key=lambda shown: shown.order)
    return Evidence(offender, first, second)


def exclude_each_other(one: Shown, other: Shown) -> bool:
    """Return whether no honest validator signs both."""
    if isinstance(one, Given) and isinstance(other, Given):
        return one.term == other.term and one.cand != other.cand
    if isinstance(one, Signed) and isinstance(other, Signed):
        same_place = (one.vote, one.term, one.height) == (other.vote, other.term, other.height)
        return same_place and one.block_hash != other.block_hash
    commit, grant = (one, other) if isinstance(one, Signed) else (other, one)
    return (
        isinstance(commit, Signed)
        and isinstance(grant, Given)
        and commit.vote is Vote.COMMIT
        and grant.term > commit.term
        and (grant.lock_term, grant.lock_height) < (commit.term, commit.height)
    )


def check_evidence(electorate: Electorate, evidence: Evidence) -> None:
    """Check that evidence convicts its offender, a member of ``electorate``.

    Raises RuleError: ``bad-evidence-form`` (no such member, or the statements are not in order),
    ``bad-evidence-pair`` (an honest validator may sign both), ``bad-evidence-signature``.
    """
    first, second = evidence.first, evidence.second
    if not 0 <= evidence.offender < electorate.voters.n:
        raise RuleError("bad-evidence-form", "no such validator")
    if first.order >= second.order:
        raise RuleError("bad-evidence-form", "statements are not in order")
    if not exclude_each_other(first, second):
        raise RuleError("bad-evidence-pair")
    key = electorate.voters.keys[evidence.offender]
    batch = [(_digest(electorate, shown), key, shown.sig) for shown in (first, second)]
    if not all(electorate.scheme.verify(batch)):
        raise RuleError("bad-evidence-signature")


def _digest(electorate: Electorate, shown: Shown) -> bytes:
    if isinstance(shown, Signed):
        return statements.block_vote(electorate, shown.vote, shown.term, shown.height, shown.block_hash)
    lock = shown.lock_term, shown.lock_height, shown.lock_hash
    return statements.grant(electorate, shown.term, shown.cand, *lock)


# --- finding ------------------------------------------------------------------------------------


def report(turn: Turn, offender: int, one: Shown, other: Shown) -> None:
    """Hand over what we found ourselves, once per validator and round, and tell the others."""
    if offender in turn.s.slashed:
        return
    evidence = evidence_of(offender, one, other)
    _convict(turn, evidence)
    turn.broadcast(Accuse(turn.electorate.voters.round, evidence))


def on_accuse(turn: Turn, sender: int | None, m: Accuse) -> None:
    """Somebody shows evidence. Raises RuleError if it is none; that is charged to who sent it."""
    if check_accuse(turn.s, m):
        _convict(turn, m.evidence)


def check_accuse(s: State, m: Accuse) -> bool:
    """Return whether an accusation tells something new, once per validator and round.

    Raises RuleError as ``check_evidence``, and ``bad-evidence-form`` for one of another round.
    """
    electorate = s.config.electorate
    if m.round != electorate.voters.round:
        raise RuleError("bad-evidence-form", "of another round")
    if m.evidence.offender in s.slashed:
        return False
    check_evidence(electorate, m.evidence)
    return True


def _convict(turn: Turn, evidence: Evidence) -> None:
    turn.s.slashed = {**turn.s.slashed, evidence.offender: None}
    turn.act(Slash(evidence))


def given_in(ec: EC, vote: Grant) -> Given:
    """Return a vote out of an election certificate, as its voter signed it."""
    return Given(ec.term, ec.cand, vote.term, vote.height, vote.block_hash, vote.sig)


def judge_election(turn: Turn, ec: EC) -> None:
    """Compare the votes of a checked EC with what their voters signed before, as far as we hold it."""
    s = turn.s
    for vote in ec.votes:
        given = given_in(ec, vote)
        held: list[Shown | None] = [
            s.given.get(vote.voter),
            s.seen.get((vote.voter, Vote.COMMIT)),
            _commit_of(s.commit_qc, vote.voter) if s.commit_qc.term < ec.term else None,
        ]
        _compare(turn, vote.voter, given, held)


def judge_grant(turn: Turn, voter: int, given: Given) -> None:
    """Compare a checked vote for us with what its voter signed before, as far as we hold it."""
    s = turn.s
    held: list[Shown | None] = [
        s.seen.get((voter, Vote.COMMIT)),
        _commit_of(s.commit_qc, voter),
        elected_by(s, voter),
    ]
    _compare(turn, voter, given, held)


def judge_commit(turn: Turn, qc: QC) -> None:
    """Compare a checked commit certificate with the votes of a later election."""
    ec = turn.s.ec
    if ec is None or ec.term <= qc.term or not qc.sigs:
        return
    for vote in ec.votes:
        _compare(turn, vote.voter, given_in(ec, vote), [_commit_of(qc, vote.voter)])


def elected_by(s: State, voter: int) -> Given | None:
    """Return the vote of a validator in the EC of the current term, if it is there."""
    if s.ec is None:
        return None
    return next((given_in(s.ec, vote) for vote in s.ec.votes if vote.voter == voter), None)


def _compare(turn: Turn, member: int, shown: Shown, held: list[Shown | None]) -> None:
    for other in held:
        if other is not None and exclude_each_other(shown, other):
            report(turn, member, shown, other)


def _commit_of(qc: QC, member: int) -> Signed | None:
    """Return the CommitVote of a validator in a commit certificate, if it is there."""
    members = members_of(qc.bitmap)
    if not qc.sigs or member not in members:
        return None
    sig = qc.sigs[members.index(member)]
    return Signed(Vote.COMMIT, qc.term, qc.height, qc.block_hash, sig)
