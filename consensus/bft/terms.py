"""Terms: how long a node is patient, how it gives a term up, and how it comes into one.

A term is left only with a certificate (q PreVotes), so no node can disturb a leader alone: leader
stickiness with a proof. Sections 2.5, 2.6 and 2.11 of CONSENSUS.md.
"""

from consensus.bft import evidence, slots, statements
from consensus.bft.certificates import bitmap_of
from consensus.bft.limits import MAX_BACKOFF_EXPONENT
from consensus.bft.state import Role, State
from consensus.bft.turn import Turn
from consensus.bft.types import (
    EC,
    QC,
    TC,
    AskEC,
    Committed,
    PreVote,
    Proof,
    ShowEC,
    TermProof,
    TermRecord,
    Timer,
)

# --- patience -----------------------------------------------------------------------------------


def backed_off(s: State, base_ms: int) -> int:
    """Return ``base_ms`` times 1.5 per term without a commit, from the second on."""
    k = s.cur_term - s.last_commit_term - 1
    exponent = min(max(k - 1, 0), s.config.timing.kmax, MAX_BACKOFF_EXPONENT)
    return int(base_ms * 3**exponent) >> exponent


def progress_ms(s: State) -> int:
    """Return how long a leader may be silent."""
    return backed_off(s, s.config.timing.progress_timeout_ms)


def elect_ms(s: State) -> int:
    """Return T_elect, (f + 2) slots and four round trips, a round trip being at most a slot."""
    return backed_off(s, (s.config.validator_set.f + 6) * s.config.timing.slot_step_ms)


def _patience(s: State, share: int) -> int:
    """Return when 1 / ``share`` of the patience with this term is used up."""
    if s.leader is None:
        return s.entered_at + elect_ms(s) // share
    silence = progress_ms(s)
    stall = s.progress_at + (silence + s.config.timing.idle_interval_ms) // share
    if s.leader == s.config.me:
        return stall
    return min(stall, s.leader_at + silence // share)


def deadline(s: State) -> int:
    """Return when this node gives the term up.

    Without a leader: T_elect after entering. With one: after T_prog without a sign of life, or after
    the idle interval and T_prog without a commit, whatever signs of life there are.
    """
    return _patience(s, 1)


def past_tenure(s: State) -> bool:
    """Return whether the leader has committed its share of blocks: planned rotation."""
    tenure = s.config.timing.tenure_blocks
    return tenure > 0 and s.ec is not None and s.committed_height >= s.ec.high.height + tenure


# --- entering -----------------------------------------------------------------------------------


def enter(turn: Turn, term: int, proof: TermProof) -> None:
    """Come into a higher term with a proof that was checked."""
    s = turn.s
    s.cur_term, s.proof, s.voted_for = term, proof, None
    s.resumed = False
    turn.persist(TermRecord(term, None, proof))
    begin(turn)


def begin(turn: Turn) -> None:
    """Start the current term from nothing: roles, tables and timers."""
    s = turn.s
    s.role, s.leader, s.ec, s.suspect = Role.FOLLOWER, None, None, False
    s.entered_at = s.progress_at = s.leader_at = turn.now
    s.order = slots.order(s.config.seed, s.cur_term, s.config.validator_set.n)
    s.pre_votes, s.requests, s.grants = {}, (), {}
    s.pending, s.proposed, s.held, s.last_vote, s.refused = None, {}, None, None, {}
    s.mine, s.validated, s.prepared, s.committing, s.commits = None, {}, None, None, {}
    s.answered = {}
    s.announced, s.building, s.attempts, s.lagged = None, None, 0, False
    turn.cancel_timer(Timer.GRANT)
    turn.cancel_timer(Timer.BLOCK)
    turn.cancel_timer(Timer.SLOT)
    turn.set_timer(Timer.PROGRESS, deadline(s))
    if isinstance(s.proof, EC):
        adopt(turn, s.proof)
    elif not isinstance(s.proof, QC) and not s.resumed:
        slot = s.order.index(turn.me)
        turn.set_timer(Timer.SLOT, turn.now + slot * s.config.timing.slot_step_ms)
    turn.stir()


def adopt(turn: Turn, ec: EC) -> None:
    """Follow the leader that a checked EC of the current term names; the first EC stays."""
    s = turn.s
    if s.leader is not None:
        return
    s.leader, s.ec, s.leader_at = ec.cand, ec, turn.now
    evidence.judge_election(turn, ec)
    if ec.cand != s.config.me:
        s.role = Role.FOLLOWER
    turn.cancel_timer(Timer.SLOT)
    turn.cancel_timer(Timer.GRANT)
    if not s.suspect:
        turn.set_timer(Timer.PROGRESS, deadline(s))
    turn.stir()


# --- giving up ----------------------------------------------------------------------------------


def on_progress_timer(turn: Turn, due_ms: int) -> None:
    """Patience may be over; signs of life since the timer was set only moved the deadline."""
    s = turn.s
    if s.suspect:
        return
    at_ms = deadline(s)
    if turn.now < at_ms:
        turn.set_timer(Timer.PROGRESS, at_ms)
    elif not s.lagged and turn.now - due_ms > s.config.timing.progress_timeout_ms // 4:
        # We were late ourselves: what the leader sent may be waiting in our own queue. Look once more.
        s.lagged = True
        turn.set_timer(Timer.PROGRESS, turn.now + s.config.timing.progress_timeout_ms // 2)
    else:
        suspect(turn)


def suspect(turn: Turn) -> None:
    """Give the current term up: PreVote, repeated until the term ends or moves on."""
    s = turn.s
    if s.suspect:
        return
    s.suspect = True
    if turn.me not in s.pre_votes:
        sig = turn.sign(statements.pre_vote(turn.electorate, s.cur_term))
        s.pre_votes = {**s.pre_votes, turn.me: sig}
    send_pre_vote(turn)
    _count_pre_votes(turn)


def send_pre_vote(turn: Turn) -> None:
    """Broadcast our PreVote of the current term."""
    s = turn.s
    sig = s.pre_votes[turn.me]
    turn.broadcast(PreVote(s.cur_term, turn.me, sig, s.proof, s.committed_height))


def on_pre_vote(turn: Turn, sender: int | None, m: PreVote) -> None:
    """Count who gives the term up; join at f + 1 unless the leader is doing well; leave at q."""
    s = turn.s
    if m.committed_height < s.committed_height and s.commit_qc.sigs:
        turn.reply(sender, Committed(s.commit_qc))
    if m.term < s.cur_term:
        turn.reply(sender, Proof(s.cur_term, s.proof))
        return
    if m.term > s.cur_term:
        turn.check_proof(m.term, m.proof)
    if m.term > s.cur_term or m.voter not in s.pre_votes:
        turn.verify([(m.voter, statements.pre_vote(turn.electorate, m.term), m.sig)])
    if m.term > s.cur_term:
        enter(turn, m.term, m.proof)
    s.pre_votes = {m.voter: m.sig, **s.pre_votes}
    joined = len(s.pre_votes) > s.config.validator_set.f
    if joined and not s.suspect and (past_tenure(s) or turn.now >= _patience(s, 2)):
        suspect(turn)
    else:
        _count_pre_votes(turn)


def _count_pre_votes(turn: Turn) -> None:
    s = turn.s
    voters = s.config.validator_set
    if len(s.pre_votes) < voters.q:
        return
    members = sorted(s.pre_votes)[: voters.q]
    tc = TC(
        voters.round,
        s.cur_term,
        bitmap_of(members, voters.n),
        tuple(s.pre_votes[member] for member in members),
    )
    turn.remember(tc)
    enter(turn, s.cur_term + 1, tc)


# --- being told ---------------------------------------------------------------------------------


def on_proof(turn: Turn, sender: int | None, m: Proof) -> None:
    """Somebody shows that a higher term exists."""
    if m.term > turn.s.cur_term:
        turn.check_proof(m.term, m.proof)
        enter(turn, m.term, m.proof)


def on_ask_ec(turn: Turn, sender: int | None, m: AskEC) -> None:
    """Say who leads the current term, if we know."""
    s = turn.s
    if m.term < s.cur_term:
        turn.reply(sender, Proof(s.cur_term, s.proof))
    elif m.term == s.cur_term and s.ec is not None:
        turn.reply(sender, ShowEC(s.ec))


def on_show_ec(turn: Turn, sender: int | None, m: ShowEC) -> None:
    """Learn who leads."""
    s = turn.s
    if m.ec.term < s.cur_term or (m.ec.term == s.cur_term and s.leader is not None):
        return
    turn.check_ec(m.ec)
    if m.ec.term > s.cur_term:
        enter(turn, m.ec.term, m.ec)
    else:
        adopt(turn, m.ec)


def note_commit(turn: Turn, qc: QC) -> None:
    """Restart patience after a commit of this term; give the term up where its tenure is over."""
    s = turn.s
    s.last_commit_term = max(s.last_commit_term, qc.term)
    if qc.term == s.cur_term:
        s.progress_at = turn.now
        s.lagged = False
        if s.suspect and not past_tenure(s):
            s.suspect = False
            turn.set_timer(Timer.PROGRESS, deadline(s))
    if past_tenure(s) and s.started and not s.ended:
        suspect(turn)
