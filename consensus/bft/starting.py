"""The start of a validator: it signs nothing before its peers have said what they hold of it.

A node cannot see by itself that its disk went back in time: restored from a backup or a snapshot of the
machine, wiped, swapped. Its peers can: they hold statements that it signed and that its vote log lacks. It
is then a learner for as long as its log may be used. Section 2.7 of CONSENSUS.md.
"""

from collections.abc import Iterator
from dataclasses import replace

from consensus.bft import statements, terms
from consensus.bft.certificates import members_of
from consensus.bft.evidence import given_in
from consensus.bft.limits import ASK_GRACE_TICKS
from consensus.bft.shown import SHOWN, Given, Signed, Vote
from consensus.bft.state import Role, State
from consensus.bft.turn import Turn
from consensus.bft.types import (
    EC,
    QC,
    Ask,
    Committed,
    Kind,
    LearnerRecord,
    Rank,
    Report,
    Retired,
    TermRecord,
    Timer,
)

# --- asking -------------------------------------------------------------------------------------


def start(turn: Turn, session: int | None) -> None:
    """Ask what the others hold of us, or begin at once if nobody needs to be asked."""
    s = turn.s
    if session is None:
        _begin(turn)
        return
    s.session, s.asking = session, True
    if retire_if_signed(turn, s.commit_qc):
        return
    turn.broadcast(_question(s, session))
    look(turn)


def _question(s: State, session: int) -> Ask:
    return Ask(session, s.committed_height)


def on_tick(turn: Turn) -> None:
    """Ask again who has not answered; who is behind asks everybody for the latest certificate."""
    s = turn.s
    look(turn)
    if not s.asking or s.session is None:
        return
    behind = s.committed_height < _target(s)
    for member in range(s.config.validator_set.n):
        if behind or member not in s.reports:
            turn.send(member, _question(s, s.session))


def on_report(turn: Turn, sender: int | None, m: Report) -> None:
    """Count an answer, or become a learner if it shows what our log lacks.

    Raises RuleError ``bad-vote-signature`` if it shows what we never signed.
    """
    s = turn.s
    if sender is None or m.session != s.session:
        return
    items = [
        (turn.me, turn.block_digest(shown.vote, shown.term, shown.height, shown.block_hash), shown.sig)
        for shown in m.statements
    ]
    if m.grant is not None:
        items.append((turn.me, _grant_digest(turn, m.grant), m.grant.sig))
    turn.verify(items)
    for shown in m.statements:
        if _lacks(s, shown):
            what = f"{_NAMES[shown.vote]} of term {shown.term}, height {shown.height}"
            retire(turn, f"validator {sender} shows our {what}, not in our log")
            return
    if m.grant is not None and _lacks_grant(s, m.grant):
        retire(turn, f"validator {sender} shows our vote for a leader of term {m.grant.term}, not in our log")
        return
    if s.asking:
        s.reports = {**s.reports, sender: m.committed_height}
        look(turn)


def _grant_digest(turn: Turn, given: Given) -> bytes:
    lock = given.lock_term, given.lock_height, given.lock_hash
    return statements.grant(turn.electorate, given.term, given.cand, *lock)


_NAMES = {Vote.PROPOSE: "proposal", Vote.VALIDATED: "Validated", Vote.COMMIT: "CommitVote"}


def _lacks(s: State, shown: Signed) -> bool:
    """Return whether our records do not vouch for a statement about a block.

    Every Validated leaves after its VAL, every CommitVote after its LOCK; a proposal is not logged, but
    the grant before it is, so its term is.
    """
    rank = Rank(shown.term, shown.height)
    if shown.vote is Vote.VALIDATED:
        return rank > s.val.rank or (rank == s.val.rank and shown.block_hash != s.val.block_hash)
    if shown.vote is Vote.COMMIT:
        return rank > s.lock.rank or (rank == s.lock.rank and shown.block_hash != s.lock.block_hash)
    return s.asking and (shown.term > s.cur_term or (shown.term == s.cur_term and not s.resumed))


def _lacks_grant(s: State, given: Given) -> bool:
    return given.term > s.cur_term or (given.term == s.cur_term and given.cand != s.voted_for)


def retire_if_signed(turn: Turn, qc: QC) -> bool:
    """Become a learner if a certificate bears a signature of ours that our log lacks, while we ask."""
    s = turn.s
    if not s.asking or not qc.sigs or turn.me not in members_of(qc.bitmap):
        return False
    known = s.lock.rank if qc.kind is Kind.COMMIT else s.val.rank
    if qc.rank <= known:
        return False
    retire(turn, f"the certificate of height {qc.height} bears a signature of ours that our log lacks")
    return True


# --- enough answers -----------------------------------------------------------------------------


def _target(s: State) -> int:
    """Return the height that a node with an empty log must know first: its old votes may be below.

    The (f + 1)-th highest that was reported: an honest node was there, and f liars cannot keep us waiting.
    """
    heights = sorted(s.reports.values(), reverse=True)
    at = s.config.validator_set.f
    return heights[at] if s.fresh and len(heights) > at else 0


def look(turn: Turn) -> None:
    """Take part once all have answered, or q - 1 have and the others took too long."""
    s = turn.s
    voters = s.config.validator_set
    if not s.asking or len(s.reports) < voters.q - 1:
        return
    if s.enough_at is None:
        s.enough_at = turn.now + ASK_GRACE_TICKS * s.config.timing.tick_ms
    if len(s.reports) < voters.n - 1 and turn.now < s.enough_at:
        return
    if s.committed_height < _target(s):
        return
    s.asking, s.reports = False, {}
    s.last_commit_term = max(s.last_commit_term, s.commit_qc.term)
    if s.commit_qc.term > s.cur_term:
        terms.enter(turn, s.commit_qc.term, s.commit_qc)
    else:
        _begin(turn)


def _begin(turn: Turn) -> None:
    """Go on in the term of the log, or of the certificate that ``restore`` went by.

    The latter is in no record yet, and a log with votes of a term that it never entered makes no sense.
    """
    s = turn.s
    if s.resumed and s.proof is not None:
        turn.persist(TermRecord(s.cur_term, s.voted_for, s.proof))
    terms.begin(turn)


def retire(turn: Turn, reason: str) -> None:
    """Never sign again with this log: from here on the engine of an observer."""
    s = turn.s
    turn.persist(LearnerRecord(reason))
    turn.sync()
    turn.sends.clear()
    for timer in (Timer.PROGRESS, Timer.SLOT, Timer.GRANT, Timer.BLOCK):
        turn.cancel_timer(timer)
    s.learner, s.asking, s.reports = reason, False, {}
    s.config = turn.config = replace(s.config, me=None, secret=None)
    s.role, s.leader, s.ec, s.suspect = Role.FOLLOWER, None, None, False
    s.pending = s.held = s.last_vote = s.mine = s.prepared = s.committing = s.building = None
    s.checking, s.fetches = {}, {}
    turn.act(Retired(reason))
    turn.stir()


# --- answering ----------------------------------------------------------------------------------


def on_ask(turn: Turn, sender: int | None, m: Ask) -> None:
    """Tell what we hold of who asks; also while we ask ourselves, or nobody could ever begin."""
    s = turn.s
    if sender is None:
        return
    check_late(turn, sender)
    shown = held_of(s, sender)
    grant = grant_of(s, sender)
    turn.send(sender, Report(m.session, s.cur_term, s.committed_height, shown, grant))
    if m.committed_height < s.committed_height and s.commit_qc.sigs:
        turn.send(sender, Committed(s.commit_qc))


def note(s: State, member: int, shown: Signed) -> None:
    """Remember the highest statement of each type that a validator sent us."""
    key = member, shown.vote
    known = s.seen.get(key)
    if known is None or (shown.term, shown.height) >= (known.term, known.height):
        s.seen = {**s.seen, key: shown}


def check_late(turn: Turn, member: int) -> None:
    """Remember the late vote of a validator if it did sign it; what it did not sign is dropped."""
    s = turn.s
    shown = s.late.get(member)
    if shown is None:
        return
    s.late = {other: vote for other, vote in s.late.items() if other != member}
    if turn.is_signed(member, shown):
        note(s, member, shown)


def note_given(s: State, member: int, given: Given) -> None:
    """Remember the vote of the highest term that a validator gave."""
    known = s.given.get(member)
    if known is None or given.term >= known.term:
        s.given = {**s.given, member: given}


def _certificates(s: State) -> Iterator[QC | EC]:
    """Yield the certificates that we hold and have checked."""
    yield s.lock
    yield s.commit_qc
    for certificate in (s.ec, s.proof, *s.verified):
        if isinstance(certificate, QC):
            yield certificate
        elif isinstance(certificate, EC):
            yield certificate
            yield certificate.high


def held_of(s: State, member: int) -> tuple[Signed, ...]:
    """Return the highest proposal, Validated and CommitVote of a validator that we hold."""
    highest = {vote: s.seen[member, vote] for vote in SHOWN if (member, vote) in s.seen}
    for qc in _certificates(s):
        if isinstance(qc, EC) or not qc.sigs:
            continue
        members = members_of(qc.bitmap)
        if member not in members:
            continue
        vote = Vote.VALIDATED if qc.kind is Kind.PREPARE else Vote.COMMIT
        known = highest.get(vote)
        if known is None or qc.rank > (known.term, known.height):
            sig = qc.sigs[members.index(member)]
            highest[vote] = Signed(vote, qc.term, qc.height, qc.block_hash, sig)
    return tuple(highest[vote] for vote in SHOWN if vote in highest)


def grant_of(s: State, member: int) -> Given | None:
    """Return the vote of the highest term that a validator gave, as far as we hold it."""
    found = s.given.get(member)
    for ec in _certificates(s):
        if not isinstance(ec, EC) or (found is not None and ec.term <= found.term):
            continue
        for vote in ec.votes:
            if vote.voter == member:
                found = given_in(ec, vote)
    return found
