"""What the engine talks about: certificates, messages, events and effects, all immutable.

Shapes follow CONSENSUS.md, sections 2.2, 2.3 and 2.6. Terms and heights are ints below 2^32,
validators are indices into the ordered set of the round, hashes are 32 bytes in internal order,
signatures are 64 bytes (BIP340), times are milliseconds of a monotonic clock. What comes in great numbers
is a NamedTuple, which is made in half the time.
"""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple, TypeAlias

from consensus.bft.shown import Evidence, Given, Signed
from consensus.commitment import find_commitment
from consensus.errors import PeerFault
from consensus.hashes import sha256d
from consensus.transaction import Transaction


class Rank(NamedTuple):
    """Position of a vote; compared lexicographically."""

    term: int
    height: int


class Kind(IntEnum):
    """What the signatures of a QC say."""

    PREPARE = 1
    COMMIT = 2


class QC(NamedTuple):
    """Quorum certificate: at least q validators of ``round`` signed this block at this rank.

    Bit i (least significant first) of ``bitmap`` stands for validator i; ``sigs`` are in that order.
    The chain is not named: every signature binds chain id and set hash. A certificate without
    signatures is the base of the round (genesis, or the last block of the round before), valid only where
    it equals the local base.
    """

    kind: Kind
    round: int
    term: int
    height: int
    block_hash: bytes
    bitmap: bytes
    sigs: tuple[bytes, ...]

    @property
    def rank(self) -> Rank:
        """Return (term, height)."""
        return Rank(self.term, self.height)


class TC(NamedTuple):
    """Term certificate: q PreVotes, the term is given up; bitmap and sigs as in a QC."""

    round: int
    term: int
    bitmap: bytes
    sigs: tuple[bytes, ...]


class Grant(NamedTuple):
    """One vote inside an EC: the voter's lock (rank and hash) is part of what it signed."""

    voter: int
    term: int
    height: int
    block_hash: bytes
    sig: bytes

    @property
    def rank(self) -> Rank:
        """Return (term, height) of the reported lock."""
        return Rank(self.term, self.height)


class EC(NamedTuple):
    """Election certificate of ``cand`` in ``term``: q grants by ascending voter.

    ``high`` is the QC of the highest lock that the grants report.
    """

    round: int
    term: int
    cand: int
    votes: tuple[Grant, ...]
    high: QC


TermProof: TypeAlias = TC | EC | QC | None
"""What allows a node to be in a term: None for the first, TC of the one before, EC or QC of it."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A block as proposed: 80-byte header, raw coinbase, ordered wtxids of the other transactions."""

    header: bytes
    coinbase: bytes = field(repr=False)
    wtxids: tuple[bytes, ...] = field(repr=False)
    block_hash: bytes = field(init=False, compare=False)
    _ends_round: bool | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_hash", sha256d(self.header))
        object.__setattr__(self, "_ends_round", None)

    @property
    def parent(self) -> bytes:
        """Return the hash of the parent."""
        return self.header[4:36]

    @property
    def term(self) -> int:
        """Return the term of the first proposal of this block (the header's nonce)."""
        return int.from_bytes(self.header[76:80], "little")

    @property
    def ends_round(self) -> bool:
        """Return whether the coinbase commits to a next validator set; read once.

        False for a coinbase that cannot be read: such a block is refused anyway.
        """
        if self._ends_round is None:
            object.__setattr__(self, "_ends_round", _commits_to_next_set(self.coinbase))
        return bool(self._ends_round)


def _commits_to_next_set(coinbase: bytes) -> bool:
    try:
        return find_commitment(Transaction.parse(coinbase)).next_set_hash is not None
    except PeerFault:
        return False


# --- messages -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PreVote:
    """Any to all: I give ``term`` up. ``proof`` shows that the term was reached at all."""

    term: int
    voter: int
    sig: bytes = field(repr=False)
    proof: TermProof = field(repr=False)
    committed_height: int


@dataclass(frozen=True, slots=True)
class RequestVote:
    """Candidate to all. Not signed: the link must be the candidate's own."""

    term: int
    cand: int
    proof: TermProof = field(repr=False)


@dataclass(frozen=True, slots=True)
class VoteGranted:
    """Voter to candidate, with the voter's lock."""

    term: int
    cand: int
    voter: int
    hq: QC = field(repr=False)
    sig: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Propose:
    """Leader to all. ``justify`` is EC(term) or the prepare certificate of the parent in ``term``."""

    term: int
    height: int
    leader: int
    proposal: Proposal
    justify: EC | QC = field(repr=False)
    commit_qc: QC | None = field(repr=False)
    sig: bytes = field(repr=False)

    @property
    def rank(self) -> Rank:
        """Return (term, height)."""
        return Rank(self.term, self.height)

    @property
    def block_hash(self) -> bytes:
        """Return the hash of the proposed block."""
        return self.proposal.block_hash


class CommitVote(NamedTuple):
    """Follower to leader: second phase."""

    term: int
    height: int
    block_hash: bytes
    voter: int
    sig: bytes


class Validated(NamedTuple):
    """Follower to leader: first phase; ``commit`` is the second phase of the parent."""

    term: int
    height: int
    block_hash: bytes
    voter: int
    sig: bytes
    commit: CommitVote | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Leader to all, when no next block is due."""

    qc: QC


@dataclass(frozen=True, slots=True)
class Committed:
    """Anybody to anybody: this block is final. From a leader also the sign of life."""

    qc: QC


@dataclass(frozen=True, slots=True)
class Proof:
    """Anybody to a laggard: how we came into ``term``."""

    term: int
    proof: TermProof = field(repr=False)


@dataclass(frozen=True, slots=True)
class AskEC:
    """Who leads ``term``?"""

    term: int


@dataclass(frozen=True, slots=True)
class ShowEC:
    """The answer; also sent by a new leader that has no block to propose yet."""

    ec: EC = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ask:
    """A validator after its start, to all: what do you hold of me? ``session`` tells starts apart."""

    session: int
    committed_height: int


@dataclass(frozen=True, slots=True)
class Report:
    """The answer: where we are, and the highest statements of the one who asks that we hold."""

    session: int
    term: int
    committed_height: int
    statements: tuple[Signed, ...] = field(repr=False)
    grant: Given | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Accuse:
    """Any to all: a validator of this round signed what excludes each other."""

    round: int
    evidence: Evidence


Message: TypeAlias = (
    PreVote
    | RequestVote
    | VoteGranted
    | Propose
    | Validated
    | CommitVote
    | Prepared
    | Committed
    | Proof
    | AskEC
    | ShowEC
    | Ask
    | Report
    | Accuse
)


# --- records of the write-ahead log -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TermRecord:
    """TERM: the current term, whom we voted for in it, and how we came into it."""

    term: int
    voted_for: int | None
    proof: TermProof = field(repr=False)


@dataclass(frozen=True, slots=True)
class ValRecord:
    """VAL: the last Validated."""

    term: int
    height: int
    block_hash: bytes

    @property
    def rank(self) -> Rank:
        """Return (term, height)."""
        return Rank(self.term, self.height)


@dataclass(frozen=True, slots=True)
class LockRecord:
    """LOCK: the highest prepare certificate seen."""

    qc: QC


@dataclass(frozen=True, slots=True)
class LearnerRecord:
    """LEARNER: this log lacks what its validator signed; it does not vote with it in this round."""

    reason: str


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """ROUND, the first record of a log: what follows was promised in this round. Without it: in round 0."""

    round: int
    first_height: int


Record: TypeAlias = TermRecord | ValRecord | LockRecord | LearnerRecord | RoundRecord


# --- events -------------------------------------------------------------------------------------


class Timer(StrEnum):
    """Names of timers; one of each at most, setting one again replaces it."""

    PROGRESS = "progress"
    SLOT = "slot"
    GRANT = "grant"
    BLOCK = "block"
    TICK = "tick"


@dataclass(frozen=True, slots=True)
class Start:
    """The shell is ready; the first event after construction or restore.

    ``session`` (u32) is a number that no other start of this validator used: the engine asks its peers
    what they hold of it before it signs. None: the log is known to be whole (models without backups).
    """

    session: int | None = None


class Received(NamedTuple):
    """A message from a link authenticated as validator ``sender``; None: no validator."""

    sender: int | None
    message: Message


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The timer ``name`` that was set with ``token`` is due."""

    name: Timer
    token: int


@dataclass(frozen=True, slots=True)
class PendingWork:
    """Executable transactions in the mempool that are in no uncommitted block."""

    tx_count: int


@dataclass(frozen=True, slots=True)
class Built:
    """Answer to Build; None if no block could be built."""

    parent_hash: bytes
    term: int
    proposal: Proposal | None


@dataclass(frozen=True, slots=True)
class Checked:
    """Answer to Check. ``ok`` means: body complete, executed on its parent, valid."""

    block_hash: bytes
    ok: bool
    code: str = ""


@dataclass(frozen=True, slots=True)
class BlockAvailable:
    """Answer to Fetch: the whole body of this uncommitted block is here (not yet executed)."""

    height: int
    proposal: Proposal


@dataclass(frozen=True, slots=True)
class Synced:
    """Answer to Fetch or the work of block sync: bodies are here, a certificate commits the last.

    ``blocks`` are (height, hash, parent hash) in ascending order; it may overlap what is committed.
    """

    sender: int | None
    blocks: tuple[tuple[int, bytes, bytes], ...]
    qc: QC


@dataclass(frozen=True, slots=True)
class Censored:
    """T_tx is over: the shell saw a transaction passed over for too long (section 2.5)."""


Event: TypeAlias = (
    Start | Received | TimerFired | PendingWork | Built | Checked | BlockAvailable | Synced | Censored
)


# --- effects ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PersistBody:
    """Append the body of this block (built, checked or fetched before) to stable storage."""

    block_hash: bytes


@dataclass(frozen=True, slots=True)
class Persist:
    """Append to the write-ahead log."""

    record: Record


@dataclass(frozen=True, slots=True)
class Fsync:
    """Make all that was persisted durable before anything behind this is carried out."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send to one validator, never to ourselves."""

    to: int
    message: Message


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send to all other validators."""

    message: Message


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Deliver TimerFired(name, token) at ``at_ms``; replaces an earlier timer of that name."""

    name: Timer
    at_ms: int
    token: int


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget the timer of that name."""

    name: Timer


@dataclass(frozen=True, slots=True)
class Commit:
    """Apply this block: it is final. ``qc`` certifies it or a descendant."""

    height: int
    block_hash: bytes
    qc: QC


@dataclass(frozen=True, slots=True)
class Fetch:
    """Obtain ``block_hash`` at ``last_height`` and what we lack of its ancestors from ``first_height`` on.

    Ask one of ``candidates`` (validator indices, best first; empty: anybody). Answered by
    BlockAvailable per uncommitted block and by Synced for committed ones; asked again until then.
    """

    block_hash: bytes
    first_height: int
    last_height: int
    candidates: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Build:
    """Build a block on this parent; the nonce is ``term``. Answered by Built."""

    parent_hash: bytes
    height: int
    term: int
    last_bitmap: bytes


@dataclass(frozen=True, slots=True)
class Check:
    """Fetch what is missing of the body, execute and judge it. Answered by Checked.

    ``is_new`` is False for a re-proposed block: exempt from the clock check (section 2.9).
    """

    proposal: Proposal
    height: int
    is_new: bool
    parent_hash: bytes
    from_validator: int


@dataclass(frozen=True, slots=True)
class Slash:
    """A validator contradicted itself."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Retired:
    """Our vote log lacks what we signed: from here on a learner, which follows and signs nothing."""

    reason: str


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """What this link sent is refused; nothing of it was taken over."""

    sender: int | None
    code: str


@dataclass(frozen=True, slots=True)
class Halt:
    """More than f validators are Byzantine: stop the daemon and keep everything for inspection."""

    reason: str


Effect: TypeAlias = (
    PersistBody
    | Persist
    | Fsync
    | Send
    | Broadcast
    | SetTimer
    | CancelTimer
    | Commit
    | Fetch
    | Build
    | Check
    | Slash
    | Retired
    | Misbehaviour
    | Halt
)

Effects: TypeAlias = tuple[Effect, ...]
