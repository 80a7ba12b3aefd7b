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
from consensus.bft.shown import Given, Signed, Vote
from consensus.bft.types import (
    EC,
    QC,
    CommitVote,
    Grant,
    Kind,
    LearnerRecord,
    LockRecord,
    Proposal,
    Propose,
    Record,
    RoundRecord,
    TermProof,
    TermRecord,
    Timer,
    Validated,
    ValRecord,
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
    """Who was convicted in this round."""

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
    answered: Mapping[int, None] = field(default_factory=dict)
    """Who voted on blocks of ours since we built the last, however late, as its own link shows."""
    late: Mapping[int, Signed] = field(default_factory=dict)
    """The last Validated that each sent behind the certificate of its block, not checked: it decides nothing,
    but is shown to its signer after a restart, or beside another that excludes it."""
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
    ended: bool = False
    """The round's last block is committed: this engine is done, the next round has its own."""
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
    without a vote (section 2.7). Records of an earlier round promise nothing in this one. Raises
    RuleError ``bad-wal`` if the records contradict each other or are of a later round, ValueError if the
    base of the round is not committed.
    """
    base = config.electorate.base
    if committed.height < base.height:
        raise ValueError(f"the round starts from height {base.height}, committed is {committed.height}")
    if committed.height == base.height:
        # Its own certificate is of the round before and proves nothing in this one.
        committed = CommittedTip(base.height, base.block_hash, base)
    log = promises(config, records)
    advanced = committed.height > base.height
    state = _replay(config, log or (), committed, resumed=advanced or bool(log))
    if log is None and advanced and config.me is not None:
        _retire(state, "its vote log is of an earlier round, though blocks of this one are committed here")
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


def promises(config: Config, records: Iterable[Record]) -> tuple[Record, ...] | None:
    """Return the records of a log that hold in the round of ``config``; None: it is of an earlier round.

    Raises RuleError ``bad-wal`` for a log of a later round, and for one of several rounds.
    """
    voters = config.validator_set
    log = tuple(records)
    began = bool(log)
    number, first_height = 0, 1
    if log and isinstance(log[0], RoundRecord):
        number, first_height = log[0].round, log[0].first_height
        log = log[1:]
    if any(isinstance(record, RoundRecord) for record in log):
        raise RuleError("bad-wal", "a round begins in the middle")
    if number > voters.round:
        raise RuleError("bad-wal", f"of round {number}, this is round {voters.round}")
    if number < voters.round:
        return None if began else ()
    if first_height != voters.first_height:
        raise RuleError("bad-wal", f"round {number} begins at height {voters.first_height}")
    return log


def _replay(config: Config, records: Iterable[Record], committed: CommittedTip, *, resumed: bool) -> State:
    """Return the state that the records of this round and the committed tip make."""
    base = config.electorate.base
    term = TermRecord(base.term + 1, None, None)
    val = ValRecord(base.term, base.height, base.block_hash)
    lock = base
    learner: str | None = None
    for record in records:
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
        elif isinstance(record, LockRecord) and record.qc.rank > lock.rank:
            lock = record.qc
    if max(val.term, lock.term) > term.term:
        raise RuleError("bad-wal", "a vote of a term that was never entered")
    state = State(
        config=config,
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
    )
    if learner is not None:
        _retire(state, learner)
    return state


def _retire(state: State, reason: str) -> None:
    state.learner = reason
    state.config = replace(state.config, me=None, secret=None)


def next_round(state: State, config: Config) -> State:
    """Return the engine of the round after that of ``state``; it starts from ``config.base``, not started.

    Nothing of the old round holds in the new one, where votes are bound to another set: no term, lock or
    vote, and no learner. Tokens of timers go on, so that a timer of the old engine fires for nobody.
    """
    successor = initial(config)
    successor.work, successor.next_token = state.work, state.next_token
    return successor


def checkpoint(state: State) -> tuple[Record, ...]:
    """Return the records that a rewritten log must hold: restore of them gives the same promises."""
    voters = state.config.validator_set
    kept = (
        RoundRecord(voters.round, voters.first_height),
        TermRecord(state.cur_term, state.voted_for, state.proof),
        LockRecord(state.lock),
        state.val,
    )
    return kept if state.learner is None else (*kept, LearnerRecord(state.learner))


def remember(recent: Mapping[int, bytes], height: int, block_hash: bytes) -> Mapping[int, bytes]:
    """Return the table of committed hashes with one more, without those that are too old."""
    kept = {**recent, height: block_hash}
    kept.pop(height - MAX_RECENT, None)
    return kept
