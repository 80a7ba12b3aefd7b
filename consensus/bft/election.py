"""Elections: candidates stand in seeded slots, voters grant one vote per term and show their lock.

Sections 2.5 and 2.6 of CONSENSUS.md.
"""

from consensus.bft import evidence, starting, statements, terms
from consensus.bft.shown import Given
from consensus.bft.state import Granted, Role, State
from consensus.bft.turn import Turn
from consensus.bft.types import EC, Grant, Kind, Proof, RequestVote, TermRecord, Timer, VoteGranted
from consensus.errors import RuleError


def _slot_at(s: State, cand: int) -> int:
    """Return from when on ``cand`` may stand in the current term."""
    return s.entered_at + s.order.index(cand) * s.config.timing.slot_step_ms


def _is_open(s: State) -> bool:
    """Return whether the current term still lacks a leader, as far as we can know."""
    return s.leader is None and s.lock.term < s.cur_term


def on_slot_timer(turn: Turn) -> None:
    """Our slot has come: stand, unless there is a leader or we restarted in this term."""
    s = turn.s
    if not _is_open(s) or s.resumed:
        return
    s.role = Role.CANDIDATE
    request_votes(turn)
    if s.voted_for is None:
        grant = _grant(turn, turn.me)
        s.grants = {turn.me: Granted(grant, s.lock)}
        _elect(turn)


def request_votes(turn: Turn) -> None:
    """Ask all for their votes."""
    s = turn.s
    turn.broadcast(RequestVote(s.cur_term, turn.me, s.proof))


def _grant(turn: Turn, cand: int) -> Grant:
    """Give our vote of this term to ``cand``: durable before it counts."""
    s = turn.s
    if s.voted_for is None:
        s.voted_for = cand
        turn.persist(TermRecord(s.cur_term, cand, s.proof))
    turn.sync()
    lock = s.lock
    digest = statements.grant(turn.electorate, s.cur_term, cand, lock.term, lock.height, lock.block_hash)
    return Grant(turn.me, lock.term, lock.height, lock.block_hash, turn.sign(digest))


def on_request_vote(turn: Turn, sender: int | None, m: RequestVote) -> None:
    """Remember who stands; grant when its slot has come."""
    s = turn.s
    if sender != m.cand or m.cand >= s.config.validator_set.n:
        raise RuleError("not-the-candidate", "a candidate asks for itself")
    if m.term < s.cur_term:
        turn.reply(sender, Proof(s.cur_term, s.proof))
        return
    if m.term > s.cur_term:
        turn.check_proof(m.term, m.proof)
        terms.enter(turn, m.term, m.proof)
    if not _is_open(s):
        return
    if s.voted_for is None and m.cand not in s.requests:
        s.requests = (*s.requests, m.cand)
        grant_in_turn(turn)
    elif s.voted_for == m.cand:
        _send_grant(turn, m.cand)


def grant_in_turn(turn: Turn) -> None:
    """Grant the lowest slot among those that have come, or wait for the first."""
    s = turn.s
    if s.voted_for is not None or not s.requests or not _is_open(s):
        return
    first = min(s.requests, key=s.order.index)
    at_ms = _slot_at(s, first)
    if turn.now >= at_ms:
        _send_grant(turn, first)
    else:
        turn.set_timer(Timer.GRANT, at_ms)


def _send_grant(turn: Turn, cand: int) -> None:
    s = turn.s
    grant = _grant(turn, cand)
    turn.send(cand, VoteGranted(s.cur_term, cand, turn.me, s.lock, grant.sig))


def on_vote_granted(turn: Turn, sender: int | None, m: VoteGranted) -> None:
    """Count a vote for us."""
    s = turn.s
    if (m.term, m.cand) != (s.cur_term, turn.me) or m.voter in s.grants:
        return
    if s.role is not Role.CANDIDATE and not _elected_another(s, m.voter):
        return
    lock = m.hq
    if lock.term >= m.term:
        raise RuleError("bad-grant", "a lock of the elected term itself")
    turn.check_qc(lock, Kind.PREPARE)
    digest = statements.grant(turn.electorate, m.term, m.cand, lock.term, lock.height, lock.block_hash)
    turn.verify([(m.voter, digest, m.sig)])
    grant = Grant(m.voter, lock.term, lock.height, lock.block_hash, m.sig)
    given = Given(m.term, m.cand, lock.term, lock.height, lock.block_hash, m.sig)
    starting.note_given(s, m.voter, given)
    evidence.judge_grant(turn, m.voter, given)
    if s.role is Role.CANDIDATE:
        s.grants = {**s.grants, m.voter: Granted(grant, lock)}
        _elect(turn)


def _elected_another(s: State, voter: int) -> bool:
    """Return whether a vote for us would be a second vote of somebody who is not convicted yet."""
    elected = evidence.elected_by(s, voter)
    return elected is not None and elected.cand != s.config.me and voter not in s.slashed


def _elect(turn: Turn) -> None:
    """Become leader at q votes."""
    s = turn.s
    voters = s.config.validator_set
    if len(s.grants) < voters.q:
        return
    granted = [s.grants[voter] for voter in sorted(s.grants)]
    high = max(granted, key=lambda item: item.hq.rank).hq
    ec = EC(voters.round, s.cur_term, turn.me, tuple(item.grant for item in granted), high)
    turn.remember(ec)
    s.role = Role.LEADER
    terms.adopt(turn, ec)
