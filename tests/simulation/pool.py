"""The adversarial pool: untimed, the real step function, and an adversary who owns everything else.

f Byzantine validators lead every term. The adversary owns network and clocks, keeps every signature it
has seen, assembles any certificate from them and its own, and delivers any justified message to any
honest node in any order; nodes crash and come back from what was synced. Two commit certificates that it
can assemble for blocks not on one chain are a fork, whether or not anybody has seen them.
"""

from itertools import combinations
from random import Random
from typing import Any

from consensus.bft import statements
from consensus.bft.certificates import bitmap_of
from consensus.bft.config import Timing
from consensus.bft.engine import step
from consensus.bft.quorum import faults
from consensus.bft.shown import Vote
from consensus.bft.state import CommittedTip, initial, restore
from consensus.bft.types import (
    EC,
    QC,
    TC,
    BlockAvailable,
    Broadcast,
    Censored,
    Check,
    Checked,
    Commit,
    Committed,
    CommitVote,
    Event,
    Fetch,
    Fsync,
    Grant,
    Halt,
    Kind,
    Message,
    Persist,
    PersistBody,
    Prepared,
    PreVote,
    Proposal,
    Propose,
    Received,
    RequestVote,
    Send,
    Start,
    Timer,
    TimerFired,
    Validated,
    VoteGranted,
)
from tests.simulation.cluster import CHAIN_ID, config_of, make_proposal
from tests.simulation.traces import block_of, describe, watch

NEXT_SET = b"\x5e" * 32

POOL_MOVES = 120
"""Moves of the adversary in one schedule."""

TIMING = Timing(progress_timeout_ms=10**6, slot_step_ms=1, retransmit_ms=10**6, tenure_blocks=0)


class Fork(AssertionError):
    """Two commit certificates that are not on one chain."""


class Honest:
    """One honest engine with its disk; blocks check out and bodies arrive at once."""

    def __init__(self, pool: "Pool", index: int) -> None:
        self.pool = pool
        self.config = config_of(pool.n, index, timing=TIMING)
        self.index = index
        self.now = 0
        self.records: list[Any] = []
        self.bodies: dict[bytes, tuple[int, Proposal]] = {}
        self.unsynced: list[Any] = []
        self.chain: list[tuple[bytes, QC]] = []
        self.state = initial(self.config)
        self.feed(Start())

    def restart(self, keep: int) -> None:
        for save in self.unsynced[:keep]:
            self._save(save)
        self.unsynced = []
        base = self.config.electorate.base
        block_hash, qc = self.chain[-1] if self.chain else (base.block_hash, base)
        tip = CommittedTip(len(self.chain), block_hash, qc)
        self.state = restore(self.config, self.records, tip, self.bodies.values())
        self.state.ended = len(self.chain) == self.pool.last  # its shell starts the next round instead
        self.feed(Start())

    def _save(self, save: Any) -> None:
        if isinstance(save, Persist):
            self.records.append(save.record)
        else:
            self.bodies[save.block_hash] = self.pool.blocks[save.block_hash]

    def feed(self, event: Event) -> None:
        self.now += 1_000
        events = [event]
        while events:
            self.state, effects = step(self.state, events.pop(0), self.now)
            for effect in effects:
                events += self._perform(effect)

    def let_slot_come(self) -> None:
        """Let the slot of whoever asked for a vote come, if it is waited for."""
        armed = self.state.timers.get(Timer.GRANT)
        if armed is not None:
            self.now = max(self.now, armed.at_ms)
            self.feed(TimerFired(Timer.GRANT, armed.token))

    def _perform(self, effect: Any) -> list[Event]:
        if isinstance(effect, Persist | PersistBody):
            self.unsynced.append(effect)
        elif isinstance(effect, Fsync):
            for save in self.unsynced:
                self._save(save)
            self.unsynced = []
        elif isinstance(effect, Send | Broadcast):
            self.pool.hear(effect.message)
        elif isinstance(effect, Check):
            return [Checked(effect.proposal.block_hash, effect.proposal.block_hash not in self.pool.invalid)]
        elif isinstance(effect, Fetch) and effect.block_hash in self.pool.blocks:
            height, proposal = self.pool.blocks[effect.block_hash]
            return [BlockAvailable(height, proposal)]
        elif isinstance(effect, Commit):
            self.chain.append((effect.block_hash, effect.qc))
        elif isinstance(effect, Halt):
            raise Fork(effect.reason)
        return []


class Pool:
    """All that the adversary has."""

    def __init__(self, n: int, seed: int, max_term: int = 6, last: int | None = None) -> None:
        """``last``: the height at which the round ends; None: it does not."""
        self.n = n
        self.last = last
        self.rng = Random(seed)
        self.max_term = max_term
        self.villains = tuple(range(faults(n)))
        self.blocks: dict[bytes, tuple[int, Proposal]] = {}
        self.invalid: set[bytes] = set()
        self.pre_votes: dict[int, dict[int, bytes]] = {}
        self.grants: dict[tuple[int, int], dict[int, tuple[Grant, QC]]] = {}
        self.votes: dict[tuple[Kind, int, int, bytes], dict[int, bytes]] = {}
        self.proofs: dict[int, TC | None] = {1: None}
        self.ecs: list[EC] = []
        self.qcs: list[QC] = []
        self.certified: list[tuple[int, bytes]] = []
        self.salt = 0
        self.journal: list[str] = []
        self.journalling = watch(self)
        configs = [config_of(n, index, timing=TIMING) for index in range(n)]
        self.configs = configs
        self.electorate = configs[0].electorate
        self.q = configs[0].validator_set.q
        self.honest = [Honest(self, index) for index in range(len(self.villains), n)]

    def tell(self, what: str) -> None:
        """Add a line to the journal, if one is kept."""
        if self.journalling:
            self.journal.append(what)

    def describe(self) -> str:
        return "; ".join(
            f"{node.index} term {node.state.cur_term} lock {tuple(node.state.lock.rank)}"
            f" height {node.state.committed_height}"
            for node in self.honest
        )

    # --- signatures -----------------------------------------------------------------------------

    def sign(self, villain: int, digest: bytes) -> bytes:
        secret = self.configs[villain].secret
        assert secret is not None
        return secret.sign(digest)

    def hear(self, m: Message) -> None:
        if self.journalling:
            self.tell(f"  heard {describe(m)}{block_of(m)} of {getattr(m, 'voter', '-')}")
        if isinstance(m, PreVote):
            self.pre_votes.setdefault(m.term, {})[m.voter] = m.sig
        elif isinstance(m, VoteGranted):
            grant = Grant(m.voter, m.hq.term, m.hq.height, m.hq.block_hash, m.sig)
            self.grants.setdefault((m.term, m.cand), {})[m.voter] = (grant, m.hq)
        elif isinstance(m, Validated):
            self._vote(Kind.PREPARE, m)
            if m.commit is not None:
                self._vote(Kind.COMMIT, m.commit)
        elif isinstance(m, CommitVote):
            self._vote(Kind.COMMIT, m)

    def _vote(self, kind: Kind, m: Validated | CommitVote) -> None:
        key = (kind, m.term, m.height, m.block_hash)
        votes = self.votes.setdefault(key, {})
        if self.last is not None and m.height > self.last:
            raise Fork(f"a vote for height {m.height} in a round that ends at {self.last}")
        if m.voter in votes:
            return
        votes[m.voter] = m.sig
        if len(votes) + len(self.villains) == self.q:
            qc = self._certificate(*key)
            self.qcs.append(qc)
            if kind is Kind.COMMIT:
                self._certify(qc)

    def _certificate(self, kind: Kind, term: int, height: int, block_hash: bytes) -> QC:
        votes = dict(self.votes[kind, term, height, block_hash])
        vote = Vote.VALIDATED if kind is Kind.PREPARE else Vote.COMMIT
        digest = statements.block_vote(self.electorate, vote, term, height, block_hash)
        for villain in self.villains:
            votes.setdefault(villain, self.sign(villain, digest))
        members = sorted(votes)[: self.q]
        sigs = tuple(votes[member] for member in members)
        return QC(kind, 0, term, height, block_hash, bitmap_of(members, self.n), sigs)

    def _certify(self, qc: QC) -> None:
        """I1: every commit certificate lies on one chain with all others."""
        if qc.block_hash in self.invalid:
            raise Fork("an invalid block is certified")
        for height, block_hash in self.certified:
            low, high = sorted(((height, block_hash), (qc.height, qc.block_hash)))
            if self._ancestor(high, low[0]) != low[1]:
                raise Fork(f"heights {low[0]} and {high[0]}")
        self.certified.append((qc.height, qc.block_hash))

    def _ancestor(self, block: tuple[int, bytes], height: int) -> bytes:
        at, block_hash = block
        while at > height:
            block_hash = self.blocks[block_hash][1].parent
            at -= 1
        return block_hash

    # --- moves ----------------------------------------------------------------------------------

    def run(self, moves: int) -> None:
        actions = (
            [self._give_up] * 3
            + [self._stand] * 6
            + [self._elect] * 4
            + [self._propose_first] * 8
            + [self._propose_next] * 4
            + [self._show_qc] * 6
            + [self._restart]
        )
        for _ in range(moves):
            self.rng.choice(actions)()

    def _some(self) -> list[Honest]:
        """One, just enough for a quorum, or all; in any order."""
        needed = self.q - len(self.villains)
        size = self.rng.choice((1, needed, needed, len(self.honest)))
        return self.rng.sample(self.honest, size)

    def _recent(self, items: list[Any]) -> Any:
        """The newest most of the time: an adversary with a plan."""
        return items[-1] if self.rng.random() < 0.6 else self.rng.choice(items[-4:])

    def _deliver(self, node: Honest, villain: int, m: Message) -> None:
        if self.journalling:
            self.tell(f"{villain}>{node.index} {describe(m)}{block_of(m)}")
        node.feed(Received(villain, m))

    def _give_up(self) -> None:
        """Make the patience of some end; maybe assemble the certificate of the term."""
        for node in self._some():
            if node.state.cur_term < self.max_term:
                self.tell(f"{node.index} gives up term {node.state.cur_term}")
                node.feed(Censored())
        self.assemble_proofs()

    def assemble_proofs(self) -> None:
        """Make the certificate of every term that enough have given up."""
        for term, votes in list(self.pre_votes.items()):
            if term + 1 in self.proofs or len(votes) + len(self.villains) < self.q:
                continue
            digest = statements.pre_vote(self.electorate, term)
            full = {villain: self.sign(villain, digest) for villain in self.villains} | votes
            members = sorted(full)[: self.q]
            sigs = tuple(full[member] for member in members)
            self.proofs[term + 1] = TC(0, term, bitmap_of(members, self.n), sigs)

    def _stand(self) -> None:
        """A villain asks some for their votes."""
        term = self._recent(list(self.proofs))
        villain = self.rng.choice(self.villains)
        for node in self._some():
            self._deliver(node, villain, RequestVote(term, villain, self.proofs[term]))
            node.let_slot_come()

    def _elect(self) -> None:
        """Assemble an EC from some q of the grants; villains report whatever lock they like."""
        if not self.grants:
            return
        term, cand = self._recent(list(self.grants))
        grants = dict(self.grants[term, cand])
        if len(grants) + len(self.villains) < self.q:
            return
        prepared = [qc for qc in self.qcs if qc.kind is Kind.PREPARE and qc.term < term]
        for villain in self.villains:
            lock = self.rng.choice([self.electorate.base, self.electorate.base, *prepared])
            digest = statements.grant(self.electorate, term, cand, lock.term, lock.height, lock.block_hash)
            sig = self.sign(villain, digest)
            grants[villain] = (Grant(villain, lock.term, lock.height, lock.block_hash, sig), lock)
        members = self.rng.choice(list(combinations(sorted(grants), self.q)))
        chosen = [grants[member] for member in members]
        highest = self.rng.choice((max, max, max, min))  # the lowest should never be accepted
        high = highest(chosen, key=lambda item: item[1].rank)[1]
        self.ecs.append(EC(0, term, cand, tuple(grant for grant, _ in chosen), high))

    def _block(self, parent: bytes, height: int, term: int) -> Proposal:
        """A child of ``parent``: one of those that exist, or another."""
        known = [p for h, p in self.blocks.values() if p.parent == parent and p.term == term and h == height]
        if known and (len(known) > 2 or self.rng.random() < 0.7):
            return self.rng.choice(known)
        self.salt += 1
        next_set = NEXT_SET if height == self.last else None
        proposal = make_proposal(parent, height, term, b"%d" % self.salt, next_set=next_set)
        self.blocks[proposal.block_hash] = (height, proposal)
        if self.rng.random() < 0.1:
            self.invalid.add(proposal.block_hash)
        return proposal

    def _signed(self, villain: int, term: int, height: int, proposal: Proposal, justify: EC | QC) -> Propose:
        digest = statements.block_vote(self.electorate, Vote.PROPOSE, term, height, proposal.block_hash)
        commits = [qc for qc in self.qcs if qc.kind is Kind.COMMIT and qc.term <= term]
        commit = max(commits, key=lambda qc: qc.height, default=None) if self.rng.random() < 0.3 else None
        return Propose(term, height, villain, proposal, justify, commit, self.sign(villain, digest))

    def _propose_first(self) -> None:
        """Offer an EC's block, its child, or what no EC allows."""
        if not self.ecs:
            return
        ec = self._recent(self.ecs)
        high = ec.high
        dice = self.rng.random()
        if dice < 0.5 and high.block_hash in self.blocks:
            height, proposal = self.blocks[high.block_hash]
        elif dice < 0.85:
            height = high.height + 1
            proposal = self._block(high.block_hash, height, ec.term)
        else:
            parent = self.blocks[high.block_hash][1].parent if high.block_hash in self.blocks else CHAIN_ID
            height = max(high.height, 1)
            proposal = self._block(parent, height, ec.term)
        for node in self._some():
            self._deliver(node, ec.cand, self._signed(ec.cand, ec.term, height, proposal, ec))

    def _propose_next(self) -> None:
        """Extend a prepared block in its term."""
        prepared = [qc for qc in self.qcs if qc.kind is Kind.PREPARE]
        leaders = {ec.term: ec.cand for ec in self.ecs}
        if not prepared:
            return
        qc = self._recent(prepared)
        villain = leaders.get(qc.term)
        if villain is None:
            return
        proposal = self._block(qc.block_hash, qc.height + 1, qc.term)
        for node in self._some():
            self._deliver(node, villain, self._signed(villain, qc.term, qc.height + 1, proposal, qc))

    def _show_qc(self) -> None:
        if not self.qcs:
            return
        prepared = [qc for qc in self.qcs if qc.kind is Kind.PREPARE]
        qc = self._recent(prepared) if prepared and self.rng.random() < 0.8 else self.rng.choice(self.qcs)
        message = Prepared(qc) if qc.kind is Kind.PREPARE else Committed(qc)
        for node in self._some():
            self._deliver(node, self.rng.choice(self.villains), message)

    def _restart(self) -> None:
        node = self.rng.choice(self.honest)
        self.tell(f"{node.index} restarts")
        node.restart(self.rng.randint(0, len(node.unsynced)))
