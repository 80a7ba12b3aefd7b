"""What must hold of honest nodes at every step (CONSENSUS.md, section 5.3)."""

from typing import Any

from consensus.bft import certificates, limits
from consensus.bft.evidence import check_evidence
from consensus.bft.state import State
from consensus.bft.types import (
    EC,
    QC,
    Commit,
    CommitVote,
    Effects,
    Fsync,
    Halt,
    Kind,
    LockRecord,
    Message,
    Misbehaviour,
    Persist,
    PreVote,
    Propose,
    Rank,
    Record,
    Retired,
    Slash,
    TermRecord,
    Validated,
    ValRecord,
    VoteGranted,
)

NO_RANK = Rank(0, 0)
SIGNED = PreVote | Propose | VoteGranted | CommitVote | Validated


class Violation(AssertionError):
    """An invariant does not hold."""


class Durable:
    """What the disk of one node vouches for."""

    def __init__(self) -> None:
        self.term: TermRecord | None = None
        self.vals: set[ValRecord] = set()
        self.lock = NO_RANK

    def add(self, record: Record) -> None:
        if isinstance(record, TermRecord):
            self.term = record
        elif isinstance(record, ValRecord):
            self.vals.add(record)
        elif isinstance(record, LockRecord):
            self.lock = max(self.lock, record.qc.rank)


class Monitor:
    """Watches all honest nodes; ``signatures`` off leaves agreement as the only judge."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.signatures = True
        self.expect_halt = False
        self.charges = True
        """Whether the honest never charge each other; off where a history forges what they say."""
        self.expect_learners: set[int] = set()
        self.restored: set[int] = set()
        """Nodes whose disk a history turned back: what they sign is judged, what they start with is not."""
        self.chain: dict[int, bytes] = {}
        self.signed: dict[tuple[Any, ...], Any] = {}
        self.elected: dict[tuple[int, int], int] = {}
        self.bases: dict[int, QC] = {}
        self.verified: dict[Any, None] = {}
        self.floor: dict[tuple[int, int], tuple[Rank, Rank]] = {}
        self.durable: dict[tuple[int, int], Durable] = {}
        """Promises by (node, round): votes are bound to their round."""
        self.given: set[tuple[int, int, int, int | None]] = set()

    def fail(self, node: Any, what: str) -> None:
        raise Violation(f"node {node.index} at {self.cluster.now} ms: {what}; {self.cluster.describe()}")

    def _watches(self, node: Any) -> bool:
        return self.signatures and node.villain is None and node.config.me is not None

    # --- rounds ---------------------------------------------------------------------------------

    def on_turn(self, node: Any) -> None:
        """A round starts from one and the same base, at all nodes; nothing of the old one is left."""
        s: State = node.state
        base = s.config.electorate.base
        if self.bases.setdefault(node.round, base) != base:
            self.fail(node, f"another base of round {node.round}")
        if (base.height, base.block_hash) != (node.height, node.disk.blocks[-1][0]):
            self.fail(node, "a round that does not start from the committed tip")
        if s.lock != base or s.voted_for is not None or s.val.rank != base.rank:
            self.fail(node, "a round that starts with a promise of the one before")

    def _in_round(self, node: Any, height: int) -> None:
        """What is signed is about a height of the signer's own round."""
        if self.cluster.committees.round_of(height) != node.round:
            self.fail(node, f"signed something about height {height}, which is not of round {node.round}")

    # --- restarts -------------------------------------------------------------------------------

    def on_start(self, node: Any) -> None:
        """I6 across restarts: what was signed and left is remembered."""
        s: State = node.state
        val, lock = self.floor.get((node.index, node.round), (NO_RANK, NO_RANK))
        self.given.add((node.index, node.round, s.cur_term, s.voted_for))
        if node.index in self.restored:
            return
        if self._watches(node):
            certificates.check_qc(s.config.electorate, s.lock, Kind.PREPARE, self.verified)
        if node.villain is None and s.learner is not None and node.index not in self.expect_learners:
            self.fail(node, f"came back as a learner: {s.learner}")
        if self._watches(node) and (node.state.val.rank < val or node.state.lock.rank < lock):
            self.fail(node, "I6: came back with an older vote or lock than what left")

    def on_halt(self, node: Any, effect: Halt) -> None:
        if not self.expect_halt:
            self.fail(node, f"halted: {effect.reason}")

    def on_retired(self, node: Any, effect: Retired) -> None:
        """Whose disk forgot nothing keeps its vote."""
        if node.villain is None and node.index not in self.expect_learners:
            self.fail(node, f"became a learner: {effect.reason}")

    def on_misbehaviour(self, node: Any, effect: Misbehaviour) -> None:
        """Nobody honest is charged with anything."""
        if node.villain is not None or effect.sender is None or not (self.charges and self.signatures):
            return
        sender = self.cluster.committees.members(node.round)[effect.sender]
        if self.cluster.nodes[sender].villain is None:
            self.fail(node, f"charged {sender}, which is honest, with {effect.code}")

    def on_slash(self, node: Any, effect: Slash) -> None:
        """What one node finds convinces all, and nobody honest is ever convicted."""
        if node.villain is not None:
            return
        check_evidence(node.config.electorate, effect.evidence)
        offender = self.cluster.committees.members(node.round)[effect.evidence.offender]
        if self.signatures and self.cluster.nodes[offender].villain is None:
            self.fail(node, f"convicted {offender}, which is honest, for {effect.evidence}")

    # --- steps ----------------------------------------------------------------------------------

    def on_step(self, node: Any, before: State, effects: Effects) -> None:
        after: State = node.state
        if node.config.me is None:
            return
        if self.signatures:
            self._ranks(node, before, after, effects)
        self._terms(node, before, after)
        self._bounds(node, after)

    def _ranks(self, node: Any, before: State, after: State, effects: Effects) -> None:
        if after.val.rank < before.val.rank or after.lock.rank < before.lock.rank:
            self.fail(node, "I6: a rank went down")
        if after.val is before.val:
            return
        if after.val.rank <= before.val.rank:
            self.fail(node, "I6: a second vote at a rank")
        if after.val.term not in (after.cur_term, before.cur_term):
            self.fail(node, "a vote of a term that is not current")
        if after.val.height > max(after.committed_height, before.committed_height) + limits.MAX_SUFFIX:
            self.fail(node, "I9: a vote for a block more than two above the committed tip")
        saved = [effect.record for effect in effects if isinstance(effect, Persist)]
        if after.val not in saved or not any(isinstance(effect, Fsync) for effect in effects):
            self.fail(node, "I11: a vote that is not on its way to the disk")

    # --- the disk and the wire, as the shell carries effects out ---------------------------------

    def on_saved(self, node: Any, record: Record) -> None:
        self._disk(node).add(record)

    def on_sync(self, node: Any) -> None:
        """A leader's own votes count from here on."""
        s: State = node.state
        if not self._watches(node):
            return
        if s.val.rank > s.config.electorate.base.rank:
            self._once(node, ("V", s.val.term, s.val.height), s.val.block_hash)
        if s.committing is not None and s.config.me in s.commits:
            self._once(node, ("C", s.committing.term, s.committing.height), s.committing.block_hash)
            self._under_lock(node, s.committing.rank)

    def on_sent(self, node: Any, m: Message) -> None:
        """I5, I7, I11: what leaves is unique, of the current term, and on the disk before."""
        if (
            self.signatures
            and node.villain is None
            and node.state.config.me is None
            and isinstance(m, SIGNED)
        ):
            self.fail(node, "signed something in a round in which it has no vote")
        if not self._watches(node):
            return
        if node.state.asking and isinstance(m, SIGNED):
            self.fail(node, "signed something before its peers reported")
        if isinstance(m, Propose):
            self._once(node, ("P", m.term, m.height), m.block_hash)
        elif isinstance(m, VoteGranted):
            self._on_grant(node, m)
        elif isinstance(m, CommitVote):
            self._on_commit_vote(node, m)
        elif isinstance(m, Validated):
            self._once(node, ("V", m.term, m.height), m.block_hash)
            if ValRecord(m.term, m.height, m.block_hash) not in self._disk(node).vals:
                self.fail(node, "I11: a vote left before its record was durable")
            self._raise_floor(node, val=Rank(m.term, m.height))
            if m.commit is not None:
                self._on_commit_vote(node, m.commit)

    def _on_grant(self, node: Any, m: VoteGranted) -> None:
        # A grant that a crash kept from leaving was given in its slot, before the restart.
        again = (node.index, node.round, "VG", m.term) in self.signed
        again |= (node.index, node.round, m.term, m.cand) in self.given
        self._once(node, ("VG", m.term), m.cand)
        s: State = node.state
        slot_at = s.entered_at + s.order.index(m.cand) * s.config.timing.slot_step_ms
        if not again and m.term == s.cur_term and self.cluster.clock_of(node) < slot_at:
            self.fail(node, "a vote before the candidate's slot")
        term = self._disk(node).term
        if term is None or (term.term, term.voted_for) != (m.term, m.cand):
            self.fail(node, "I11: a grant left before its record was durable")
        self._under_lock(node, m.hq.rank)
        if m.hq.rank < self.floor[node.index, node.round][1]:
            self.fail(node, "a grant shows a lock below a commit vote that left")

    def _on_commit_vote(self, node: Any, m: CommitVote) -> None:
        self._once(node, ("C", m.term, m.height), m.block_hash)
        if m.term < node.state.cur_term:
            self.fail(node, "I7: a commit vote of a lower term")
        self._under_lock(node, Rank(m.term, m.height))

    def _under_lock(self, node: Any, rank: Rank) -> None:
        if self._disk(node).lock < rank:
            self.fail(node, "I11: a vote left before its lock was durable")
        self._raise_floor(node, lock=rank)

    def _disk(self, node: Any) -> Durable:
        return self.durable.setdefault((node.index, node.round), Durable())

    def _raise_floor(self, node: Any, val: Rank = NO_RANK, lock: Rank = NO_RANK) -> None:
        known = self.floor.get((node.index, node.round), (NO_RANK, NO_RANK))
        self.floor[node.index, node.round] = (max(known[0], val), max(known[1], lock))

    def _once(self, node: Any, what: tuple[Any, ...], value: Any) -> None:
        """I5: one statement per key and position, ever."""
        if what[0] in ("P", "V", "C"):
            self._in_round(node, what[2])
        if self.signed.setdefault((node.index, node.round, *what), value) != value:
            self.fail(node, f"I5: signed two different statements {what}")

    def _terms(self, node: Any, before: State, after: State) -> None:
        """I8, I12: a term rises with a proof, and has one leader."""
        if after.cur_term < before.cur_term:
            self.fail(node, "a term went down")
        if after.cur_term > before.cur_term:
            certificates.check_term_proof(after.config.electorate, after.cur_term, after.proof, self.verified)
            if after.proof is not None:
                self.verified[after.proof] = None
        ec = after.ec
        if isinstance(ec, EC) and self.elected.setdefault((node.round, ec.term), ec.cand) != ec.cand:
            self.fail(node, f"I8: two leaders of term {ec.term}")

    def _bounds(self, node: Any, s: State) -> None:
        """I13: tables stay small."""
        n = s.config.validator_set.n
        if (
            len(s.blocks) > limits.MAX_BLOCKS
            or len(s.checking) > limits.MAX_CHECKING
            or len(s.verified) > limits.MAX_VERIFIED
            or len(s.fetches) > limits.MAX_FETCHES
            or len(s.recent) > limits.MAX_RECENT
            or len(s.proposed) > limits.MAX_PROPOSED
            or max(len(s.pre_votes), len(s.grants), len(s.validated), len(s.commits), len(s.requests)) > n
            or len(s.late) > n
        ):
            self.fail(node, "I13: a table outgrew its bound")

    # --- commits --------------------------------------------------------------------------------

    def on_commit(self, node: Any, effect: Commit, proposal: Any) -> None:
        """I1 agreement, I2 linked, I3 certified, I4 valid."""
        if node.villain is not None:
            return
        height = effect.height
        if self.chain.setdefault(height, effect.block_hash) != effect.block_hash:
            self.fail(node, f"I1: two blocks committed at height {height}")
        parent = node.disk.blocks[height - 2][0] if height > 1 else node.config.chain_id
        if proposal.parent != parent or proposal.block_hash != effect.block_hash:
            self.fail(node, "I2: a committed block is not the child of the one before")
        if self.cluster.committees.round_of(height) != node.round:
            self.fail(node, f"committed height {height} in round {node.round}")
        if proposal.ends_round != (height in self.cluster.committees.changes):
            self.fail(node, "a committed block ends a round too early, or too late")
        if effect.block_hash in self.cluster.invalid:
            self.fail(node, "I4: an invalid block was committed")
        self._certified(node, effect.qc, height)

    def _certified(self, node: Any, qc: QC, height: int) -> None:
        if qc not in self.verified:
            certificates.check_qc(node.config.electorate, qc, Kind.COMMIT)
            self.verified[qc] = None
        if qc.height < height:
            self.fail(node, "I3: certified by a block below")
