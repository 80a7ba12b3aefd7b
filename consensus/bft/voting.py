"""Voting on proposals: what a validator signs, and what it must have on disk before.

Honest facts that safety rests on (section 2.8): ranks of Validated strictly increase, one hash per
rank; at most one of them per term is justified by an EC, and it is the first of its term; a CommitVote
is signed only in the term of its certificate and under a lock at least as high.
"""

from consensus.bft import catchup, evidence, starting, terms
from consensus.bft.certificates import members_of
from consensus.bft.limits import MAX_CHECKING, MAX_PROPOSED, MAX_SUFFIX
from consensus.bft.shown import Signed, Vote
from consensus.bft.state import Known, Role, State
from consensus.bft.turn import Turn
from consensus.bft.types import (
    EC,
    QC,
    AskEC,
    Check,
    Checked,
    CommitVote,
    Kind,
    LockRecord,
    Prepared,
    Proof,
    Propose,
    Validated,
    ValRecord,
)
from consensus.errors import RuleError

# --- proposals arrive ---------------------------------------------------------------------------


def on_propose(turn: Turn, sender: int | None, m: Propose) -> None:
    """Judge a proposal by public data only, then park it until it can be voted on."""
    s = turn.s
    if m.term < s.cur_term:
        turn.reply(sender, Proof(s.cur_term, s.proof))
        return
    if sender != m.leader:
        # The signature covers the header: others could send it with transactions that do not belong to it.
        raise RuleError("not-the-leader", "a proposal comes over its leader's own link")
    known = s.proposed.get(m.height) if m.term == s.cur_term else None
    if known is not None and known.block_hash == m.block_hash and known.leader == m.leader:
        _on_repeated(turn, known)
        return
    _check_proposal(turn, m)
    if m.term > s.cur_term:
        terms.enter(turn, m.term, m.justify)
    elif isinstance(m.justify, EC):
        terms.adopt(turn, m.justify)
    if s.leader is None:
        turn.send(m.leader, AskEC(m.term))
    elif s.leader != m.leader:
        raise RuleError("not-the-leader")
    if known is not None:
        evidence.report(turn, m.leader, _signed(known), _signed(m))
        return
    keep_proposal(s, m)
    starting.note(s, m.leader, _signed(m))
    if m.commit_qc is not None:
        catchup.learn(turn, m.commit_qc)
    if (
        m.term == s.cur_term
        and (outranks(m, s.val) or repeats(m, s.val))
        and (s.pending is None or m.rank > s.pending.rank)
    ):
        s.pending = m
    turn.stir()


def _check_proposal(turn: Turn, m: Propose) -> None:
    """Check signature, justification and certificates of a proposal. Raises RuleError."""
    turn.verify([(m.leader, turn.block_digest(Vote.PROPOSE, m.term, m.height, m.block_hash), m.sig)])
    justify = m.justify
    if justify.term != m.term:
        raise RuleError("bad-justification", "of another term")
    if isinstance(justify, QC):
        if (justify.height, justify.block_hash) != (m.height - 1, m.proposal.parent):
            raise RuleError("bad-justification", "not for the parent")
        turn.check_qc(justify, Kind.PREPARE)
    else:
        if justify.cand != m.leader:
            raise RuleError("bad-justification", "somebody else was elected")
        if not follows_high(m, justify.high):
            raise RuleError("bad-justification", "neither the highest prepared block nor its child")
        turn.check_ec(justify)
    if is_new(m) and m.proposal.term != m.term:
        raise RuleError("bad-block-term", "a new block carries the term of its proposal")
    if m.commit_qc is not None:
        turn.check_qc(m.commit_qc, Kind.COMMIT)


def follows_high(m: Propose, high: QC) -> bool:
    """Return whether this is the block of EC.high again, or a child of it."""
    if (m.height, m.block_hash) == (high.height, high.block_hash):
        return True
    return (m.height, m.proposal.parent) == (high.height + 1, high.block_hash)


def outranks(m: Propose, val: ValRecord) -> bool:
    """Return whether a vote here would stand above the last one: at most one per rank, never back."""
    return m.rank > val.rank


def repeats(m: Propose, val: ValRecord) -> bool:
    """Return whether this is what the last vote was for: a restart may have lost the vote on its way."""
    return m.rank == val.rank and m.block_hash == val.block_hash


def keep_proposal(s: State, m: Propose) -> None:
    """Remember a proposal of the term by its height, to know repetitions and contradictions."""
    proposed = {**s.proposed, m.height: m}
    if len(proposed) > MAX_PROPOSED:
        del proposed[next(iter(proposed))]
    s.proposed = proposed


def is_beyond(s: State, m: Propose) -> bool:
    """Return whether the parent ends the round: then this block belongs to the next one."""
    parent = s.blocks.get(m.proposal.parent)
    return parent is not None and parent.proposal.ends_round


def is_new(m: Propose) -> bool:
    """Return whether this is the block's first proposal, not a re-certification of EC.high."""
    return isinstance(m.justify, QC) or m.block_hash != m.justify.high.block_hash


def _on_repeated(turn: Turn, known: Propose) -> None:
    """The leader lacks our vote: send the same again, or look at the proposal once more."""
    s = turn.s
    if s.last_vote is not None and s.val.rank == known.rank:
        if s.leader is not None:
            turn.send(s.leader, s.last_vote)
    elif outranks(known, s.val) and s.pending is None:
        if s.refused.get(known.block_hash, turn.now) <= turn.now:
            s.pending = known
            turn.stir()
        elif isinstance(known.justify, QC):
            _commit_vote_alone(turn, known.justify)


def _signed(m: Propose) -> Signed:
    return Signed(Vote.PROPOSE, m.term, m.height, m.block_hash, m.sig)


# --- voting -------------------------------------------------------------------------------------


def settle(turn: Turn) -> None:
    """Vote on the parked proposal as far as what we have allows."""
    s = turn.s
    m = s.pending
    if m is None or s.leader is None:
        return
    again = repeats(m, s.val)
    if m.term != s.cur_term or m.leader != s.leader or not (again or outranks(m, s.val)):
        s.pending = None
        return
    if isinstance(m.justify, QC):
        ready = _parent_ready(turn, m, m.justify)
    else:
        ready = again or _high_ready(turn, m, m.justify)
    if not ready:
        return
    if is_beyond(s, m):
        # The parent itself is still to be committed.
        s.pending = None
        flush_held(turn)
        return
    committed = s.recent.get(m.height) if m.height <= s.committed_height else None
    known = s.blocks.get(m.block_hash)
    if committed is not None and committed != m.block_hash:
        s.pending = None
    elif again or committed is not None or (known is not None and known.checked):
        _cast(turn, m, known)
    else:
        _ask_check(turn, m)


def _parent_ready(turn: Turn, m: Propose, justify: QC) -> bool:
    """Take over the parent's certificate once its body is here; True if the parent may be extended."""
    s = turn.s
    if not _connected(turn, m, justify):
        return False
    bump_lock(turn, justify)
    commit_vote(turn, justify)
    return m.height <= s.committed_height + MAX_SUFFIX


def _high_ready(turn: Turn, m: Propose, ec: EC) -> bool:
    """Return whether the first proposal of a term may be voted on: EC.high, or its committed child."""
    s = turn.s
    high = ec.high
    if s.val.term >= m.term:
        s.pending = None
        return False
    if is_new(m):
        return s.recent.get(high.height) == high.block_hash
    if not _connected(turn, m, high):
        return False
    if m.height > s.committed_height + MAX_SUFFIX:
        # A prepared block has at most one uncommitted parent, so somebody knows the certificates between.
        catchup.want(turn, m.block_hash, m.height, members_of(high.bitmap))
        return False
    return True


def _connected(turn: Turn, m: Propose, known_to: QC) -> bool:
    """Return whether the parent extends our committed tip; ask those who signed for what is missing."""
    s = turn.s
    if m.height <= s.committed_height:
        return True
    path = catchup.trace(s, m.proposal.parent, m.height - 1)
    if path.gap is not None:
        catchup.want(turn, *path.gap, members_of(known_to.bitmap))
        return False
    if path.root != s.committed_hash:
        s.pending = None
        return False
    return True


def _ask_check(turn: Turn, m: Propose) -> None:
    """Have the shell complete, execute and judge the block, or first its parent if that was only fetched."""
    s = turn.s
    parent_hash = m.proposal.parent
    parent = s.blocks.get(parent_hash)
    if parent is not None and not parent.checked:
        _check(turn, parent_hash, parent, is_new=False, leader=m.leader)
        return
    entry = s.blocks.get(m.block_hash) or Known(m.height, m.proposal, checked=False, durable=False)
    _check(turn, m.block_hash, entry, is_new=is_new(m), leader=m.leader)


def _check(turn: Turn, block_hash: bytes, entry: Known, *, is_new: bool, leader: int) -> None:
    s = turn.s
    if block_hash in s.checking:
        return
    checking = {**s.checking, block_hash: entry}
    if len(checking) > MAX_CHECKING:
        del checking[next(iter(checking))]
    s.checking = checking
    turn.act(Check(entry.proposal, entry.height, is_new, entry.proposal.parent, leader))


def on_checked(turn: Turn, event: Checked) -> None:
    """The shell judged a block."""
    s = turn.s
    entry = s.checking.get(event.block_hash)
    if entry is None:
        return
    s.checking = {key: known for key, known in s.checking.items() if key != event.block_hash}
    if event.ok:
        known = s.blocks.get(event.block_hash, entry)
        catchup.add_block(turn, event.block_hash, known._replace(checked=True))
        return
    again_at = turn.now + 2 * s.config.timing.tick_ms
    s.refused = {key: at for key, at in s.refused.items() if at > turn.now} | {event.block_hash: again_at}
    if s.pending is not None and event.block_hash in (s.pending.block_hash, s.pending.proposal.parent):
        s.pending = None
        flush_held(turn)
    turn.stir()


def _cast(turn: Turn, m: Propose, known: Known | None) -> None:
    """Sign Validated, once its body and its record are on the way to the disk."""
    s = turn.s
    if not repeats(m, s.val):
        if known is not None and not known.durable:
            turn.persist_body(m.block_hash)
            s.blocks = {**s.blocks, m.block_hash: known._replace(durable=True)}
        s.val = ValRecord(m.term, m.height, m.block_hash)
        turn.persist(s.val)
    turn.sync()
    sig = turn.sign_block(Vote.VALIDATED, m.term, m.height, m.block_hash)
    s.last_vote = Validated(m.term, m.height, m.block_hash, turn.me, sig, s.held)
    s.pending, s.held = None, None
    if s.role is Role.LEADER:
        s.validated = {**s.validated, turn.me: sig}
        turn.stir()
    else:
        turn.send(m.leader, s.last_vote)


# --- second phase -------------------------------------------------------------------------------


def bump_lock(turn: Turn, qc: QC) -> None:
    """Raise the lock to a prepare certificate that was checked."""
    s = turn.s
    if qc.rank > s.lock.rank:
        s.lock = qc
        turn.persist(LockRecord(qc))


def commit_vote(turn: Turn, qc: QC) -> CommitVote | None:
    """Sign the second phase for ``qc``: only in its own term, only under itself as the lock.

    A leader counts it at once; a follower holds it, to send it with its next Validated.
    """
    s = turn.s
    if qc.term != s.cur_term or qc.rank != s.lock.rank:
        return None
    if s.held is not None and (s.held.height, s.held.block_hash) == (qc.height, qc.block_hash):
        return s.held
    if s.role is Role.LEADER and (qc != s.committing or turn.me in s.commits):
        return None
    sig = turn.sign_block(Vote.COMMIT, qc.term, qc.height, qc.block_hash)
    vote = CommitVote(qc.term, qc.height, qc.block_hash, turn.me, sig)
    if s.role is Role.LEADER:
        turn.sync()
        s.commits = {**s.commits, turn.me: sig}
        turn.stir()
    else:
        s.held = vote
    return vote


def flush_held(turn: Turn) -> None:
    """Send a held CommitVote alone: the Validated that it waits for is late. It stays held."""
    s = turn.s
    if s.held is not None and s.leader is not None:
        turn.sync()
        turn.send(s.leader, s.held)


def _commit_vote_alone(turn: Turn, qc: QC) -> None:
    vote = commit_vote(turn, qc)
    if vote is not None:
        flush_held(turn)


def on_prepared(turn: Turn, sender: int | None, m: Prepared) -> None:
    """Lock, and vote for the commit if the certificate is of our term."""
    s = turn.s
    qc = m.qc
    turn.check_qc(qc, Kind.PREPARE)
    if qc.term > s.cur_term:
        terms.enter(turn, qc.term, qc)
    bump_lock(turn, qc)
    if s.role is Role.LEADER:
        return
    vote = commit_vote(turn, qc)
    if vote is not None:
        turn.sync()
        turn.reply(sender if s.leader is None else s.leader, vote)
    if s.leader is None and qc.term == s.cur_term:
        turn.reply(sender, AskEC(qc.term))
