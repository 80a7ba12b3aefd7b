"""The state of one engine: a value.

A step works on a shallow copy and replaces collections instead of changing them (they are typed as
read-only), so an old state stays what it was. All collections are bounded by ``limits``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from consensus.bft.certificates import Certificate
from consensus.bft.config import Config
from consensus.bft.limits import MAX_RECENT
from consensus.bft.types import (
    EC,
    QC,
    CommitVote,
    Given,
    Grant,
    Kind,
    LearnerRecord,
    LockRecord,
    Proposal,
    Propose,
    Record,
    Signed,
    TermProof,
    TermRecord,
    Timer,
    Validated,
    ValRecord,
    Vote,
)
from consensus.errors import RuleError


class Role(StrEnum):
    """What a validator is in the current term."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Known(NamedTuple):
    """An uncommitted block whose body the shell holds.

    ``checked``: executed and valid. ``durable``: PersistBody was issued.
    """

    height: int
    proposal: Proposal
    checked: bool
    durable: bool


class Granted(NamedTuple):
    """A grant that a candidate received, and the lock that came with it."""

    grant: Grant
    hq: QC


class Armed(NamedTuple):
    """A timer that is set."""

    at_ms: int
    token: int


@dataclass(eq=False)
class State:
    """Section 2.4 of CONSENSUS.md; times are those that ``step`` was given.

    No slots: copying one dict is ten times faster than copying fifty slots, at every step.
    """

    config: Config

    # durable
    cur_term: int
    voted_for: int | None
    proof: TermProof
    val: ValRecord
    lock: QC

    # committed
    committed_height: int
    committed_hash: bytes
    commit_qc: QC
    last_commit_term: int
    recent: Mapping[int, bytes]

    # blocks above the committed tip
    blocks: Mapping[bytes, Known] = field(default_factory=dict)
    checking: Mapping[bytes, Known] = field(default_factory=dict)
    pending_commit: QC | None = None
    fetches: Mapping[bytes, int] = field(default_factory=dict)

    # the term
    role: Role = Role.FOLLOWER
    leader: int | None = None
    ec: EC | None = None
    suspect: bool = False
    resumed: bool = False
    entered_at: int = 0
    progress_at: int = 0
    leader_at: int = 0
    order: tuple[int, ...] = ()
    pre_votes: Mapping[int, bytes] = field(default_factory=dict)
    requests: tuple[int, ...] = ()
    grants: Mapping[int, Granted] = field(default_factory=dict)
    slashed: Mapping[int, None] = field(default_factory=dict)

    # the start
    session: int | None = None
    asking: bool = False
    fresh: bool = False
    """Nothing was signed as far as the log knows: a new node, or one that was wiped."""
    reports: Mapping[int, int] = field(default_factory=dict)
    enough_at: int | None = None
    learner: str | None = None
    seen: Mapping[tuple[int, Vote], Signed] = field(default_factory=dict)
    given: Mapping[int, Given] = field(default_factory=dict)

    # voting
    pending: Propose | None = None
    proposed: Mapping[int, Propose] = field(default_factory=dict)
    held: CommitVote | None = None
    last_vote: Validated | None = None
    refused: Mapping[bytes, int] = field(default_factory=dict)

    # leading
    mine: Propose | None = None
    validated: Mapping[int, bytes] = field(default_factory=dict)
    prepared: QC | None = None
    committing: QC | None = None
    commits: Mapping[int, bytes] = field(default_factory=dict)
    announced: Kind | None = None
    building: bytes | None = None
    retry_build_at: int = 0
    proposed_at: int = 0
    spoke_at: int = 0
    attempts: int = 0

    # the shell
    work: int = 0
    ticks: int = 0
    timers: Mapping[Timer, Armed] = field(default_factory=dict)
    next_token: int = 1
    lagged: bool = False
    verified: Mapping[Certificate, None] = field(default_factory=dict)
    started: bool = False
    halted: str | None = None

    @property
    def votes(self) -> bool:
        """Return whether this node takes part: a validator that may sign."""
        return self.config.me is not None and not self.asking

    def fork(self) -> "State":
        """Return a copy that a step may change."""
        other: State = object.__new__(State)
        other.__dict__ = self.__dict__.copy()
        return other


@dataclass(frozen=True, slots=True)
class CommittedTip:
    """The committed tip that the block store knows; ``qc`` may certify a descendant."""

    height: int
    block_hash: bytes
    qc: QC


def initial(config: Config) -> State:
    """Return the state of a node that has signed nothing and committed only the base."""
    base = config.electorate.base
    return restore(config, (), CommittedTip(base.height, base.block_hash, base), ())


def restore(
    config: Config,
    records: Iterable[Record],
    committed: CommittedTip,
    bodies: Iterable[tuple[int, Proposal]],
) -> State:
    """Return the state after a start: WAL records in order, committed tip, (height, body) above it.

    A node that comes back to a term does not lead in it, one whose log says that it is a learner follows
    without a vote (section 2.7). Raises RuleError ``bad-wal`` if the records contradict each other.
    """
    base = config.electorate.base
    term = TermRecord(base.term + 1, None, None)
    val = ValRecord(base.term, base.height, base.block_hash)
    lock = base
    resumed = committed.height > base.height
    learner: str | None = None
    for record in records:
        resumed = True
        if isinstance(record, TermRecord):
            if record.term < term.term:
                raise RuleError("bad-wal", "terms go backwards")
            term = record
        elif isinstance(record, ValRecord):
            if record.rank < val.rank:
                raise RuleError("bad-wal", "votes go backwards")
            val = record
        elif isinstance(record, LearnerRecord):
            learner = record.reason
        elif record.qc.rank > lock.rank:
            lock = record.qc
    if max(val.term, lock.term) > term.term:
        raise RuleError("bad-wal", "a vote of a term that was never entered")
    state = State(
        config=config if learner is None else replace(config, me=None, secret=None),
        cur_term=term.term,
        voted_for=term.voted_for,
        proof=term.proof,
        val=val,
        lock=lock,
        committed_height=committed.height,
        committed_hash=committed.block_hash,
        commit_qc=committed.qc,
        last_commit_term=committed.qc.term,
        recent={committed.height: committed.block_hash},
        resumed=resumed,
        fresh=(val.rank, lock, term.voted_for) == (base.rank, base, None),
        learner=learner,
    )
    if committed.qc.height > committed.height:
        state.pending_commit = committed.qc
    if committed.qc.term > state.cur_term:
        # The certificate was durable and the term's record not yet: nothing was signed in that term.
        state.cur_term, state.voted_for, state.proof = committed.qc.term, None, committed.qc
    state.blocks = {
        proposal.block_hash: Known(height, proposal, checked=False, durable=True)
        for height, proposal in bodies
        if height > committed.height
    }
    return state


def checkpoint(state: State) -> tuple[Record, ...]:
    """Return the records that a rewritten log must hold: restore of them gives the same promises."""
    promises = (
        TermRecord(state.cur_term, state.voted_for, state.proof),
        LockRecord(state.lock),
        state.val,
    )
    return promises if state.learner is None else (*promises, LearnerRecord(state.learner))


def remember(recent: Mapping[int, bytes], height: int, block_hash: bytes) -> Mapping[int, bytes]:
    """Return the table of committed hashes with one more, without those that are too old."""
    kept = {**recent, height: block_hash}
    kept.pop(height - MAX_RECENT, None)
    return kept
