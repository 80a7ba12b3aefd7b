"""Leading a term: the first proposal re-certifies what may be committed, then blocks follow in a pipeline.

Block h + 1 is proposed when h is prepared and h - 1 committed; its votes carry the commit votes of h
(D7). When no block is due, ``Prepared`` and ``Committed`` are sent alone.
"""

from consensus.bft import catchup, evidence, starting, terms, voting
from consensus.bft.certificates import bitmap_of, members_of
from consensus.bft.limits import MAX_SUFFIX
from consensus.bft.shown import Signed, Vote
from consensus.bft.state import Known, Role, State
from consensus.bft.turn import Turn
from consensus.bft.types import (
    EC,
    QC,
    Build,
    Built,
    Committed,
    CommitVote,
    Kind,
    Message,
    Prepared,
    Proposal,
    Propose,
    ShowEC,
    Timer,
    Validated,
)

_LEADER, _VALIDATED, _COMMIT = Role.LEADER, Vote.VALIDATED, Vote.COMMIT
"""Names of their own, for what every vote passes: Python 3.11 finds a member of a class by a call."""


def settle(turn: Turn) -> None:
    """Make the leader's next move, if there is one."""
    s = turn.s
    if s.role is not _LEADER or s.ec is None:
        return
    if s.mine is None:
        if not s.ended:
            _lead_first(turn, s.ec)
    else:
        _advance(turn, s.mine)


# --- proposing ----------------------------------------------------------------------------------


def _lead_first(turn: Turn, ec: EC) -> None:
    """Re-certify EC.high under our term, or extend it if it is committed."""
    s = turn.s
    high = ec.high
    if high.height > s.committed_height:
        path = catchup.trace(s, high.block_hash, high.height)
        if path.gap is None and len(path.chain) <= MAX_SUFFIX:
            _propose(turn, s.blocks[high.block_hash].proposal, high.height, ec)
            return
        catchup.want(turn, *(path.gap or (high.block_hash, high.height)), members_of(high.bitmap))
    elif (high.height, high.block_hash) == (s.committed_height, s.committed_hash):
        _build(turn, high.block_hash, high.height + 1, _last_signers(s, high))
    if s.announced is None:
        # Bodies and building take time: until then the others should know that there is a leader.
        s.announced = Kind.PREPARE
        _speak(turn, ShowEC(ec))


def _last_signers(s: State, high: QC) -> tuple[int, ...]:
    """Return who is known to have signed the committed block that a new leader extends."""
    members = set(members_of(high.bitmap))
    if s.commit_qc.block_hash == high.block_hash:
        members.update(members_of(s.commit_qc.bitmap))
    return tuple(sorted(members))


def _build(turn: Turn, parent: bytes, height: int, signers: tuple[int, ...]) -> None:
    """Have the shell build a block, unless it is at it or has just failed to.

    Its bitmap reports ``signers``, and who answers so late that the next block is always under way: a
    validator that is far from the others is not absent.
    """
    s = turn.s
    if s.building is not None:
        return
    if turn.now < s.retry_build_at:
        _wake_at(turn, s.retry_build_at)
        return
    s.building = parent
    seen = bitmap_of({*signers, *s.answered}, s.config.validator_set.n)
    s.answered = {}
    turn.act(Build(parent, height, s.cur_term, seen))


def on_built(turn: Turn, event: Built) -> None:
    """Propose what was built, if it is still wanted."""
    s = turn.s
    if s.role is not Role.LEADER or (event.term, event.parent_hash) != (s.cur_term, s.building):
        return
    s.building = None
    proposal = event.proposal
    if proposal is None or (proposal.parent, proposal.term) != (event.parent_hash, s.cur_term):
        s.retry_build_at = turn.now + s.config.timing.tick_ms
        turn.stir()
        return
    last = s.mine
    justify = s.ec if last is None else s.prepared
    if justify is None:
        return
    height = (justify.high.height if isinstance(justify, EC) else justify.height) + 1
    catchup.add_block(turn, proposal.block_hash, Known(height, proposal, checked=True, durable=False))
    s.work = max(0, s.work - len(proposal.wtxids))
    _propose(turn, proposal, height, justify)


def _propose(turn: Turn, proposal: Proposal, height: int, justify: EC | QC) -> None:
    """Send a proposal to all and park it for our own vote."""
    s = turn.s
    sig = turn.sign_block(Vote.PROPOSE, s.cur_term, height, proposal.block_hash)
    commit_qc = s.commit_qc if s.commit_qc.sigs else None
    m = Propose(s.cur_term, height, turn.me, proposal, justify, commit_qc, sig)
    if isinstance(justify, QC) and justify.height > s.committed_height:
        _collect_commits(s, justify)
    s.mine, s.validated, s.prepared, s.announced = m, {}, None, None
    s.proposed_at, s.attempts = turn.now, 0
    voting.keep_proposal(s, m)
    s.pending = m
    _speak(turn, m)
    turn.stir()


def _speak(turn: Turn, message: Message) -> None:
    turn.broadcast(message)
    turn.s.spoke_at = turn.now


def _collect_commits(s: State, qc: QC) -> None:
    """Collect the second phase for ``qc``; votes that are there already stay."""
    if s.committing != qc:
        s.committing, s.commits = qc, {}


# --- votes --------------------------------------------------------------------------------------


def on_validated(turn: Turn, sender: int | None, m: Validated) -> None:
    """Count both votes that the message carries, checked in one batch."""
    s = turn.s
    mine = s.mine
    if mine is None or m.term != s.cur_term or s.role is not _LEADER:
        return
    if sender == m.voter and sender not in s.answered:
        s.answered = {**s.answered, m.voter: None}
    digest = turn.block_digest(_VALIDATED, m.term, m.height, m.block_hash)
    if m.height == mine.height and m.block_hash != mine.block_hash:
        _on_double_vote(turn, m, digest)
        return
    items = []
    first = m.height == mine.height and m.voter not in s.validated
    if first and s.prepared is not None and sender == m.voter:
        # The certificate stands without it: checked once it is to be shown (see ``State.late``).
        s.late = {**s.late, m.voter: Signed(_VALIDATED, m.term, m.height, m.block_hash, m.sig)}
        first = False
    if first:
        items.append((m.voter, digest, m.sig))
    commit = m.commit
    if commit is not None and (commit.voter != m.voter or not _is_wanted(s, commit)):
        commit = None
    if commit is not None:
        items.append((m.voter, _commit_digest(turn, commit), commit.sig))
    if not items:
        return
    turn.verify(items)
    if first:
        s.validated = {**s.validated, m.voter: m.sig}
        starting.note(s, m.voter, Signed(_VALIDATED, m.term, m.height, m.block_hash, m.sig))
        if s.prepared is None and len(s.validated) >= s.config.validator_set.q:
            turn.stir()
    if commit is not None:
        _count_commit(turn, commit)


def on_commit_vote(turn: Turn, sender: int | None, m: CommitVote) -> None:
    """Count a vote of the second phase that came alone."""
    s = turn.s
    if _is_wanted(s, m) and s.role is _LEADER:
        turn.verify([(m.voter, _commit_digest(turn, m), m.sig)])
        _count_commit(turn, m)


def _count_commit(turn: Turn, m: CommitVote) -> None:
    s = turn.s
    s.commits = {**s.commits, m.voter: m.sig}
    starting.note(s, m.voter, Signed(_COMMIT, m.term, m.height, m.block_hash, m.sig))
    if len(s.commits) >= s.config.validator_set.q:
        turn.stir()


def _is_wanted(s: State, m: CommitVote) -> bool:
    qc = s.committing
    return (
        qc is not None
        and (m.term, m.height, m.block_hash) == (qc.term, qc.height, qc.block_hash)
        and m.voter not in s.commits
    )


def _commit_digest(turn: Turn, m: CommitVote) -> bytes:
    return turn.block_digest(_COMMIT, m.term, m.height, m.block_hash)


def _on_double_vote(turn: Turn, m: Validated, digest: bytes) -> None:
    """Somebody validated another block at the rank of ours: evidence if it validated ours too."""
    s = turn.s
    if m.voter in s.slashed:
        return
    starting.check_late(turn, m.voter)
    ours = s.seen.get((m.voter, _VALIDATED))
    other = Signed(_VALIDATED, m.term, m.height, m.block_hash, m.sig)
    if ours is None or not evidence.exclude_each_other(ours, other):
        return
    turn.verify([(m.voter, digest, m.sig)])
    evidence.report(turn, m.voter, ours, other)


def _certificate(s: State, kind: Kind, m: Propose | QC, votes: dict[int, bytes]) -> QC:
    voters = s.config.validator_set
    members = sorted(votes)
    sigs = tuple(votes[member] for member in members)
    bitmap = bitmap_of(members, voters.n)
    return QC(kind, voters.round, m.term, m.height, m.block_hash, bitmap, sigs)


# --- advancing ----------------------------------------------------------------------------------


def _advance(turn: Turn, mine: Propose) -> None:
    """Turn votes into certificates, certificates into commits and the next proposal."""
    s = turn.s
    quorum = s.config.validator_set.q
    if s.prepared is None and len(s.validated) >= quorum:
        s.prepared = _certificate(s, Kind.PREPARE, mine, dict(s.validated))
        turn.remember(s.prepared)
        voting.bump_lock(turn, s.prepared)
    if s.committing is not None and len(s.commits) >= quorum:
        done = _certificate(s, Kind.COMMIT, s.committing, dict(s.commits))
        s.committing = None
        turn.remember(done)
        catchup.learn(turn, done)
    if s.committing is not None and s.committing.height <= s.committed_height:
        s.committing = None
    if s.prepared is None or s.committing not in (None, s.prepared):
        return
    if s.pending_commit is not None:
        return  # commits come first; they stir us again
    if s.committing is None and s.committed_height < mine.height:
        _collect_commits(s, s.prepared)
        voting.commit_vote(turn, s.prepared)
    _continue(turn, mine, s.prepared)


def _continue(turn: Turn, mine: Propose, prepared: QC) -> None:
    """Build the next block if one is due; else let the others finish the last one, and wait."""
    s = turn.s
    may_extend = not ends_round(mine) and _may_extend(s, mine)
    at_ms = max(_due_at(s), s.retry_build_at)
    if may_extend and (s.building is not None or turn.now >= at_ms):
        _build(turn, mine.block_hash, mine.height + 1, tuple(sorted(s.validated)))
        return
    if s.committed_height < mine.height:
        if s.announced is None:
            s.announced = Kind.PREPARE
            _speak(turn, Prepared(prepared))
    elif s.announced is not Kind.COMMIT:
        s.announced = Kind.COMMIT
        _speak(turn, Committed(s.commit_qc))
    if may_extend:
        _wake_at(turn, at_ms)


def ends_round(mine: Propose) -> bool:
    """Return whether nothing may follow our last block in this round."""
    return mine.proposal.ends_round


def _may_extend(s: State, mine: Propose) -> bool:
    """Return whether our last block is executed and its parent committed, and our tenure is not over."""
    known = s.blocks.get(mine.block_hash)
    executed = mine.block_hash == s.committed_hash or (known is not None and known.checked)
    return executed and s.committed_height >= mine.height - 1 and not terms.past_tenure(s)


def _due_at(s: State) -> int:
    """Return when the next block is due: a full batch at once, less after an interval, none when idle."""
    timing = s.config.timing
    if s.work >= timing.min_batch_txs:
        return s.proposed_at
    wait = timing.block_interval_ms if s.work > 0 else timing.idle_interval_ms
    return s.proposed_at + wait


def _wake_at(turn: Turn, at_ms: int) -> None:
    armed = turn.s.timers.get(Timer.BLOCK)
    if armed is None or armed.at_ms != at_ms:
        turn.set_timer(Timer.BLOCK, at_ms)


# --- retransmission -----------------------------------------------------------------------------


def on_tick(turn: Turn) -> None:
    """Give a sign of life, and our last message again to those who have not answered it.

    A proposal can be large: it is sent again after 1, 2, 4, 8... periods.
    """
    s = turn.s
    if s.role is not Role.LEADER or s.ec is None:
        return
    period_ms = s.config.timing.tick_ms
    if s.mine is not None and turn.now - s.proposed_at >= period_ms:
        s.attempts += 1
        message, answered = _outstanding(s, s.mine)
        if message is not None and s.attempts & (s.attempts - 1) == 0:
            for member in range(s.config.validator_set.n):
                if member not in answered:
                    turn.send(member, message)
    if turn.now - s.spoke_at >= period_ms:
        idle = s.mine is not None and s.commit_qc.sigs
        _speak(turn, Committed(s.commit_qc) if idle else ShowEC(s.ec))


def _outstanding(s: State, mine: Propose) -> tuple[Message | None, tuple[int, ...]]:
    """Return what we wait for an answer to, and who has answered; also for ``status``."""
    if s.prepared is None:
        return mine, tuple(s.validated)
    if s.committing is not None and s.committing != s.prepared:
        return mine, tuple(s.commits)
    if s.committing is not None and s.announced is Kind.PREPARE:
        return Prepared(s.prepared), tuple(s.commits)
    return None, ()


def missing(s: State) -> tuple[int, ...]:
    """Return who has not answered the leader's last message."""
    if s.role is not Role.LEADER or s.mine is None:
        return ()
    message, answered = _outstanding(s, s.mine)
    if message is None:
        return ()
    return tuple(member for member in range(s.config.validator_set.n) if member not in answered)
