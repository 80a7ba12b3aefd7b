"""A whole cluster of engines in one process: virtual milliseconds, a heap of events, one seed.

It drives the real step function. The network delays, drops, duplicates, reorders and partitions; nodes
crash between any two effects of a step and restart from what had been synced; some are Byzantine
(see ``villains``). Honest nodes are watched at every step (see ``invariants``).
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from consensus.bft import codec, wal
from consensus.bft.config import Config, Scheme, Timing, VoteSecret
from consensus.bft.engine import step
from consensus.bft.state import CommittedTip, State, checkpoint, initial, next_round, restore
from consensus.bft.types import (
    QC,
    BlockAvailable,
    Broadcast,
    Build,
    Built,
    CancelTimer,
    Check,
    Checked,
    Commit,
    Committed,
    Effects,
    Event,
    Fetch,
    Fsync,
    Halt,
    Message,
    Misbehaviour,
    PendingWork,
    Persist,
    PersistBody,
    Proposal,
    Received,
    Report,
    Retired,
    Send,
    SetTimer,
    Slash,
    Start,
    Synced,
    TimerFired,
)
from consensus.commitment import Commitment
from consensus.errors import DecodeError
from consensus.hashes import sha256
from consensus.transaction import Transaction, TxIn, TxOut
from tests.simulation import committees
from tests.simulation.committees import Committees, secret_of, voters_of
from tests.simulation.invariants import Monitor
from tests.simulation.traces import block_of, describe, watch

CHAIN_ID = sha256(b"simulated chain")
TIMING = Timing(
    progress_timeout_ms=400,
    slot_step_ms=40,
    idle_interval_ms=300,
    block_interval_ms=60,
    retransmit_ms=50,
    min_batch_txs=50,
    tenure_blocks=64,
    kmax=5,
)


class Unchanged:
    """A twin: runs the honest code, and is a villain for having a double."""

    def saw(self, event: Event) -> None:
        pass

    def rewrite(self, event: Event, effects: Effects) -> Effects:
        return effects


SYNC_BLOCKS = 200
"""Committed blocks in one answer."""

SYNC_AGAIN_MS = 150
"""How long an answer of block sync is waited for."""

GOSSIP_MS = 100
"""How often nodes tell some others their height, on chains whose validators change."""


def turned(old: State, config: Config) -> State:
    """The engine of the next round."""
    return next_round(old, config)


class CheapScheme:
    """Signatures that cost one hash. Forgeable, but no villain of ours forges."""

    def sign(self, secret: bytes, digest: bytes) -> bytes:
        return sha256(secret + digest) * 2

    def verify(self, items: Any) -> list[bool]:
        return [sha256(key + digest) * 2 == sig for digest, key, sig in items]


CHEAP = CheapScheme()


def secrets_of(n: int) -> list[bytes]:
    return [secret_of(key) for key in range(n)]


def config_of(
    n: int, me: int | None, scheme: Scheme = CHEAP, timing: Timing = TIMING, seed: bytes = bytes(32)
) -> Config:
    """An engine of the founders, whose places are their keys."""
    secret = None if me is None else VoteSecret(secret_of(me), scheme)
    voters = voters_of(0, 1, tuple(range(n)), scheme)
    return Config(CHAIN_ID, voters, me, secret, seed, timing, scheme=scheme)


def make_proposal(
    parent: bytes, height: int, term: int, salt: bytes, txs: int = 2, next_set: bytes | None = None
) -> Proposal:
    """A block; the coinbase is real where it has to say something: who signs from the next height on."""
    header = (4).to_bytes(4, "little") + parent + sha256(salt) + bytes(8) + term.to_bytes(4, "little")
    wtxids = tuple(sha256(salt + bytes([index])) for index in range(txs))
    coinbase = b"coinbase" + height.to_bytes(4, "little")
    if next_set is not None:
        coinbase = last_coinbase(height, next_set)
    return Proposal(header, coinbase, wtxids)


def last_coinbase(height: int, next_set: bytes) -> bytes:
    """The coinbase of a block that ends its round."""
    commitment = Commitment(bytes(32), bytes(32), bytes(32), 0, b"", next_set_hash=next_set)
    entry = TxIn(bytes(32) + b"\xff" * 4, height.to_bytes(4, "little"))
    return Transaction.build(2, (entry,), (TxOut(0, commitment.encode_script()),)).raw


@dataclass
class Disk:
    """What survives a crash."""

    records: list[tuple[int, bytes]] = field(default_factory=list)
    bodies: dict[bytes, tuple[int, Proposal]] = field(default_factory=dict)
    blocks: list[tuple[bytes, Proposal, Any]] = field(default_factory=list)
    """Committed (hash, proposal, certificate) from height 1 on."""


class Node:
    """One engine and its shell. ``key`` names the validator that it is when its key is in the set."""

    def __init__(self, cluster: "Cluster", index: int, key: int | None) -> None:
        self.cluster = cluster
        self.index = index
        self.key = key
        self.round = 0
        self.turning = False
        """The round's last block is committed: what is left of its engine's effects is void."""
        self.syncing_until = 0
        self.config = cluster.config_for(key, 0, None)
        self.disk = Disk()
        self.villain: Any = None
        self.state: State = initial(self.config)
        self.up = False
        self.life = 0
        self.halted = ""
        self.unsynced: list[Persist | PersistBody] = []
        self.volatile: dict[bytes, tuple[int, Proposal]] = {}
        self.executed: set[bytes] = set()
        self.misbehaviours: list[Misbehaviour] = []
        self.evidence: list[Slash] = []
        self.load = 0
        self.paused: list[Event] | None = None
        self.performed = 0
        self.crash_at_effect: int | None = None
        self.syncs_left: int | None = None
        """How often the disk still syncs before it is full; None: always."""

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        self.up = True
        self.life += 1
        self.paused = None
        self.unsynced = []
        self.volatile = dict(self.disk.bodies)
        self.executed = set()
        self.turning = False
        self.syncing_until = 0
        self._enter_round(self.cluster.committees.round_of(self.height + 1))
        if self.disk.records or self.disk.blocks:
            records = [wal.decode_record(kind, payload) for kind, payload in self.disk.records]
            bodies = list(self.disk.bodies.values())
            self.state = restore(self.config, records, self._tip(), bodies)
        else:
            self.state = initial(self.config)
        if self.round:
            self._rewrite_log()
        self.cluster.monitor.on_start(self)
        self.cluster.tell(f"{self.index} starts in term {self.state.cur_term}")
        self.cluster.sessions += 1
        self.feed(Start(self.cluster.sessions))
        if self.load:
            self.feed(PendingWork(self.load))

    def _enter_round(self, number: int) -> None:
        """Take part in a round, or follow it; its base is committed here."""
        self.round, base = number, None
        if number:
            height = self.cluster.committees.changes_at(number)
            _, last, qc = self.disk.blocks[height - 1]
            base = committees.base_of(number, last, height, qc)
        self.config = self.cluster.config_for(self.key, number, base)

    def _rewrite_log(self) -> None:
        self.disk.records = [wal.encode_record(record) for record in checkpoint(self.state)]
        for record in checkpoint(self.state):
            self.cluster.monitor.on_saved(self, record)

    def _turn(self) -> None:
        """The round has ended: start the engine of the next, whose log begins before it speaks."""
        cluster, old = self.cluster, self.state
        self.turning, self.unsynced, self.executed = False, [], set()
        if cluster.crashes_at_boundary():
            cluster.crashed(self)
            return
        self._enter_round(self.round + 1)
        self.state = turned(old, self.config)
        self._rewrite_log()
        cluster.monitor.on_turn(self)
        cluster.tell(f"{self.index} turns to round {self.round} as {self.config.me}")
        if cluster.crashes_at_boundary():
            cluster.crashed(self)
            return
        cluster.sessions += 1
        self.feed(Start(None if old.votes else cluster.sessions))
        if self.load:
            self.feed(PendingWork(self.load))

    def _tip(self) -> CommittedTip:
        if not self.disk.blocks:
            base = self.config.electorate.base
            return CommittedTip(base.height, base.block_hash, base)
        block_hash, _, qc = self.disk.blocks[-1]
        return CommittedTip(len(self.disk.blocks), block_hash, qc)

    def crash(self) -> None:
        """Lose what is not on the disk; of the records not yet synced a prefix may be there."""
        if not self.up:
            return
        self.up = False
        self.cluster.tell(f"{self.index} crashes, {len(self.unsynced)} records not synced")
        kept = self.cluster.rng.randint(0, len(self.unsynced))
        for save in self.unsynced[:kept]:
            self._save(save)
        self.unsynced = []

    def _save(self, save: Persist | PersistBody) -> None:
        if isinstance(save, Persist):
            self.disk.records.append(wal.encode_record(save.record))
            self.cluster.monitor.on_saved(self, save.record)
        else:
            self.disk.bodies[save.block_hash] = self.volatile[save.block_hash]

    # --- steps ----------------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        if not self.up:
            return
        if self.paused is not None:
            self.paused.append(event)
            return
        cluster = self.cluster
        before = self.state
        self.state, effects = step(before, event, cluster.clock_of(self))
        cluster.steps += 1
        if self.villain is not None:
            effects = self.villain.rewrite(event, effects)
        else:
            cluster.monitor.on_step(self, before, effects)
        stop = len(effects) + 1
        if cluster.crash_rate and cluster.rng.random() < cluster.crash_rate:
            stop = cluster.rng.randint(0, len(effects))
        if self.crash_at_effect is not None and self.crash_at_effect <= self.performed + len(effects):
            stop = self.crash_at_effect - self.performed
            self.crash_at_effect = None
        self.performed += min(stop, len(effects))
        for count, effect in enumerate(effects):
            if count == stop or not self.up or self.turning:
                break
            self.perform(effect)
        if stop <= len(effects) and self.up:
            cluster.crashed(self)
        elif self.turning and self.up:
            self._turn()

    def pause(self) -> None:
        """Stop the process (SIGSTOP): what arrives and what falls due waits."""
        self.paused = []

    def resume(self) -> None:
        """Continue: all that waited comes at once, at the time of now."""
        waiting, self.paused = self.paused or [], None
        for event in waiting:
            self.feed(event)

    def perform(self, effect: Any) -> None:
        handler = _PERFORM[type(effect)]
        handler(self, effect)

    def _later(self, delay_ms: int, event: Event) -> None:
        life = self.life

        def deliver() -> None:
            if self.life == life:
                self.feed(event)

        self.cluster.at(delay_ms, deliver)

    def _persist(self, effect: Persist | PersistBody) -> None:
        self.unsynced.append(effect)

    def _fsync(self, effect: Fsync) -> None:
        if self.syncs_left is not None:
            self.syncs_left -= 1
            if self.syncs_left < 0:
                self.crash()  # what cannot be saved is not sent: the daemon ends
                return
        for save in self.unsynced:
            self._save(save)
        self.unsynced = []
        self.cluster.monitor.on_sync(self)

    def _send(self, effect: Send) -> None:
        self.cluster.monitor.on_sent(self, effect.message)
        self.cluster.transmit(self, effect.to, effect.message)

    def _broadcast(self, effect: Broadcast) -> None:
        self.cluster.monitor.on_sent(self, effect.message)
        for place in range(self.config.validator_set.n):
            if place != self.config.me:
                self.cluster.transmit(self, place, effect.message)

    def _set_timer(self, effect: SetTimer) -> None:
        delay = max(0, effect.at_ms - self.cluster.clock_of(self))
        self._later(self.cluster.stretch(self, delay), TimerFired(effect.name, effect.token))

    def _commit(self, effect: Commit) -> None:
        _, proposal = self.volatile[effect.block_hash]
        if effect.height != len(self.disk.blocks) + 1:
            raise AssertionError("commits are not contiguous")
        self.disk.blocks.append((effect.block_hash, proposal, effect.qc))
        self.cluster.tell(f"{self.index} commits {effect.height} {effect.block_hash[:3].hex()}")
        for block_hash, (height, _) in list(self.volatile.items()):
            if height <= effect.height:
                self.volatile.pop(block_hash)
                self.disk.bodies.pop(block_hash, None)
        self.unsynced = [
            save
            for save in self.unsynced
            if not isinstance(save, PersistBody) or save.block_hash in self.volatile
        ]
        self.cluster.is_final(self, effect.height, proposal)
        self.cluster.monitor.on_commit(self, effect, proposal)
        self.cluster.announce(self, effect)
        self.turning = effect.height in self.cluster.committees.changes
        if self.turning:
            self.cluster.at_boundary(self)

    def _build(self, effect: Build) -> None:
        cluster = self.cluster
        cluster.salt += 1
        salt = b"%d/%d" % (self.index, cluster.salt)
        if effect.parent_hash != self._tip().block_hash and effect.parent_hash not in self.executed:
            raise AssertionError("a block to be built on a parent that was not executed")
        proposal = cluster.block(
            self, effect.parent_hash, effect.height, effect.term, salt, effect.last_bitmap
        )
        self.executed.add(proposal.block_hash)
        self.volatile[proposal.block_hash] = (effect.height, proposal)
        self._later(cluster.rng.randint(*cluster.shell_ms), Built(effect.parent_hash, effect.term, proposal))
        if self.load:
            self._later(5, PendingWork(self.load))

    def _check(self, effect: Check) -> None:
        block_hash = effect.proposal.block_hash
        height = effect.height
        ok = block_hash not in self.cluster.invalid and self.cluster.follows_rules(self, effect)
        if self.cluster.withheld(self, effect):
            return
        if effect.parent_hash != self._tip().block_hash and effect.parent_hash not in self.executed:
            raise AssertionError("a check on a parent that was not executed")
        self.volatile[block_hash] = (height, effect.proposal)
        if ok:
            self.executed.add(block_hash)
        self._later(
            self.cluster.rng.randint(*self.cluster.shell_ms),
            Checked(block_hash, ok, "" if ok else "bad-block"),
        )

    def _fetch(self, effect: Fetch) -> None:
        cluster = self.cluster
        members = cluster.committees.members(self.round)
        choices = list(effect.candidates) or [at for at in range(len(members)) if at != self.config.me]
        peer = cluster.nodes[members[cluster.rng.choice(choices)]] if choices else self
        self.ask(peer, effect)

    def ask(self, peer: "Node", effect: Fetch) -> None:
        """Fetch blocks from another node, whatever it is."""
        cluster = self.cluster
        there, back = cluster.delay(self, peer), cluster.delay(peer, self)
        if there is None or back is None:
            return
        life = self.life

        def answer() -> None:
            if peer.up and self.life == life:
                cluster.at(back, lambda: self.receive_blocks(life, peer.serve(effect)))

        cluster.at(there, answer)

    def serve(self, effect: Fetch) -> tuple[list[Any], Any, list[tuple[int, Proposal]]]:
        """Return committed (height, hash, proposal), their certificate, and uncommitted bodies."""
        blocks = self.disk.blocks
        committees = self.cluster.committees
        top = min(len(blocks), effect.first_height + SYNC_BLOCKS - 1)
        last = committees.last_height(committees.round_of(effect.first_height))
        if last is not None:
            top = min(top, last)  # a certificate of one round says nothing about blocks of another
        while top and blocks[top - 1][2].height != top:
            top -= 1
        segment = [(height, *blocks[height - 1][:2]) for height in range(effect.first_height, top + 1)]
        qc = blocks[top - 1][2] if segment else None
        loose = []
        block_hash = effect.block_hash
        while block_hash in self.volatile:
            height, proposal = self.volatile[block_hash]
            loose.append((height, proposal))
            block_hash = proposal.parent
        if not segment:
            for height in range(min(effect.last_height, len(blocks)), effect.first_height - 1, -1):
                loose.append((height, blocks[height - 1][1]))
        return segment, qc, loose[::-1]

    def receive_blocks(self, life: int, served: tuple[list[Any], Any, list[Any]]) -> None:
        if self.life != life or not self.up:
            return
        segment, qc, loose = served
        if segment and segment[-1][0] > len(self.disk.blocks):
            for height, block_hash, proposal in segment:
                if height > len(self.disk.blocks):
                    self.volatile[block_hash] = (height, proposal)
            blocks = tuple((height, h, p.parent) for height, h, p in segment)
            number = self.round
            self.feed(Synced(None, blocks, qc))
            if self.round != number:
                return
        for height, proposal in loose:
            if height > len(self.disk.blocks):
                self.volatile[proposal.block_hash] = (height, proposal)
                self.feed(BlockAvailable(height, proposal))

    def hear_height(self, peer: "Node") -> None:
        """Somebody says how far it is: who cannot be told by its own round asks for what it lacks."""
        behind = peer.height - self.height
        if not self.up or self.paused is not None or not peer.up or behind < 1:
            return
        if behind < 4 and peer.round == self.round and self.state.votes:
            return  # its own engine fetches that
        if self.syncing_until > self.cluster.now:
            return
        self.syncing_until = self.cluster.now + SYNC_AGAIN_MS
        self.ask(peer, Fetch(b"", self.height + 1, peer.height, ()))

    def _slash(self, effect: Slash) -> None:
        self.evidence.append(effect)
        self.cluster.monitor.on_slash(self, effect)

    def _retired(self, effect: Retired) -> None:
        self.cluster.tell(f"{self.index} is a learner: {effect.reason}")
        self.cluster.monitor.on_retired(self, effect)

    def _misbehaviour(self, effect: Misbehaviour) -> None:
        self.misbehaviours.append(effect)
        self.cluster.monitor.on_misbehaviour(self, effect)

    def _halt(self, effect: Halt) -> None:
        self.halted = effect.reason
        self.up = False
        self.cluster.monitor.on_halt(self, effect)

    @property
    def height(self) -> int:
        return len(self.disk.blocks)


_PERFORM: dict[type, Callable[[Node, Any], None]] = {
    PersistBody: Node._persist,
    Persist: Node._persist,
    Fsync: Node._fsync,
    Send: Node._send,
    Broadcast: Node._broadcast,
    SetTimer: Node._set_timer,
    CancelTimer: lambda node, effect: None,
    Commit: Node._commit,
    Build: Node._build,
    Check: Node._check,
    Fetch: Node._fetch,
    Slash: Node._slash,
    Retired: Node._retired,
    Misbehaviour: Node._misbehaviour,
    Halt: Node._halt,
}


def takes(node: Node, number: int) -> bool:
    """Whether a node takes a message of a round: votes of another mean nothing to its engine."""
    return node.round == number


class Cluster:
    """Nodes, network and clock; its rates, delays and blocked links may change at any time."""

    def __init__(
        self,
        n: int,
        seed: int,
        *,
        scheme: Scheme = CHEAP,
        timing: Timing = TIMING,
        through_codec: bool = False,
        observers: int = 0,
        spares: int = 0,
    ) -> None:
        """``spares`` are nodes with keys that the founders' set has not; keys are numbered on."""
        self.n = n
        self.rng = Random(seed)
        self.seed_bytes = sha256(b"seed %d" % seed)
        self.scheme = scheme
        self.timing = timing
        self.committees = Committees(tuple(range(n)), scheme)
        self.boundary_crash_rate = 0.0
        self.wire: Callable[[Node, Node, bytes], bytes] = lambda source, target, data: data
        """What one version sends to another, where messages go through the codec."""
        self.refused: list[tuple[int, int, str]] = []
        self.at_boundary: Callable[[Node], None] = lambda node: None
        self.through_codec = through_codec
        self.now = 0
        self.steps = 0
        self.salt = 0
        self.sessions = 0
        self.heap: list[tuple[int, int, Callable[[], None]]] = []
        self.count = 0
        self.delays_ms = (1, 20)
        self.shell_ms = (0, 4)
        self.drop = 0.0
        self.duplicate = 0.0
        self.crash_rate = 0.0
        self.restart_ms = (50, 1500)
        self.blocked: set[tuple[int, int]] = set()
        self.rates: dict[int, tuple[int, int]] = {}
        self.filters: list[Callable[[Node, Node, Message], int | None]] = []
        self.invalid: set[bytes] = set()
        self.withheld: Callable[[Node, Check], bool] = lambda node, check: False
        self.trace: list[tuple[int, int, int, Message]] = []
        self.tracing = False
        self.journal: list[str] = []
        self.journalling = watch(self)
        self.monitor = Monitor(self)
        self.nodes = [Node(self, index, index) for index in range(n)]
        self.nodes += [Node(self, n + index, n + index) for index in range(spares)]
        self.nodes += [Node(self, n + spares + index, None) for index in range(observers)]
        self.twins: dict[int, Node] = {}

    # --- rounds ---------------------------------------------------------------------------------

    def config_for(self, key: int | None, number: int, base: QC | None) -> Config:
        """The engine of a node in a round: a validator if its key is in the set."""
        voters = self.committees.voters(number)
        members = self.committees.members(number)
        me = None if key is None or key not in members else members.index(key)
        secret = None if key is None or me is None else VoteSecret(secret_of(key), self.scheme)
        seed = sha256(self.seed_bytes + bytes([number])) if number else self.seed_bytes
        return Config(CHAIN_ID, voters, me, secret, seed, self.timing, base, self.scheme)

    def change_at(self, height: int, members: tuple[int, ...]) -> None:
        """Let the round of block ``height`` end with it; ``members``, by key, sign what follows."""
        if not self.committees.changes:
            self.at(GOSSIP_MS, self.gossip)
        self.committees.change(height, members)

    def gossip(self) -> None:
        """Each node tells two others how far it is, as nodes do on their links."""
        for node in self.nodes:
            for target in self.rng.sample(self.nodes, min(2, len(self.nodes))):
                delay = self.delay(node, target)
                if node.up and target is not node and delay is not None:
                    self.at(delay, lambda target=target, node=node: target.hear_height(node))
        self.at(GOSSIP_MS, self.gossip)

    def block(
        self, node: Node, parent: bytes, height: int, term: int, salt: bytes, last_bitmap: bytes = b""
    ) -> Proposal:
        """A valid block of a node: at the end of a round it names the next set."""
        return make_proposal(parent, height, term, salt, next_set=self.committees.next_set(height))

    def follows_rules(self, node: Node, check: Check) -> bool:
        """Whether a block ends its round where it has to, as the node sees it."""
        return check.proposal.ends_round == (check.height in self.committees.changes)

    def is_final(self, node: Node, height: int, proposal: Proposal) -> None:
        """A node commits a block."""

    def crashes_at_boundary(self) -> bool:
        return self.boundary_crash_rate > 0 and self.rng.random() < self.boundary_crash_rate

    def tell(self, what: str) -> None:
        """Add a line to the journal, if one is kept."""
        if self.journalling:
            self.journal.append(f"{self.now:6} {what}")

    # --- time -----------------------------------------------------------------------------------

    def at(self, delay_ms: int, call: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.heap, (self.now + delay_ms, self.count, call))

    def clock_of(self, node: Node) -> int:
        """The node's own clock: real time scaled by its rate, plus an offset."""
        rate, offset = self.rates.get(node.index, (100, 0))
        return self.now * rate // 100 + offset

    def stretch(self, node: Node, local_ms: int) -> int:
        """Real milliseconds that pass while ``local_ms`` pass on the node's clock."""
        rate, _ = self.rates.get(node.index, (100, 0))
        return -(-local_ms * 100 // rate)

    def start(self, *indices: int) -> "Cluster":
        for index in indices or range(len(self.nodes)):
            self.nodes[index].start()
        return self

    def run(self, ms: int) -> None:
        end = self.now + ms
        while self.heap and self.heap[0][0] <= end:
            self.now, _, call = heapq.heappop(self.heap)
            call()
        self.now = end

    def run_until(self, goal: Callable[[], bool], limit_ms: int) -> None:
        end = self.now + limit_ms
        while not goal():
            if not self.heap or self.heap[0][0] > end:
                raise AssertionError(f"not reached within {limit_ms} ms: {self.describe()}")
            self.now, _, call = heapq.heappop(self.heap)
            call()

    # --- network --------------------------------------------------------------------------------

    def delay(self, source: Node, target: Node) -> int | None:
        """Milliseconds on the way, None if it is lost."""
        if (source.index, target.index) in self.blocked or self.rng.random() < self.drop:
            return None
        return self.rng.randint(*self.delays_ms)

    def add_twin(self, index: int) -> None:
        """Let a second instance run with the key of ``index``: both get its mail, as far as links allow."""
        twin = Node(self, len(self.nodes), index)
        self.nodes.append(twin)
        self.twins[index] = twin
        for instance in (self.nodes[index], twin):
            instance.villain = Unchanged()

    def transmit(self, source: Node, to: int, message: Message) -> None:
        """Send to a place in the set of the source's round; villains may name one that is not there."""
        members = self.committees.members(source.round)
        if to >= len(members):
            return
        key = members[to]
        self._transmit(source, self.nodes[key], message)
        if key in self.twins:
            self._transmit(source, self.twins[key], message)

    def _transmit(self, source: Node, target: Node, message: Message) -> None:
        number = source.round
        if self.tracing:
            self.trace.append((self.now, source.index, target.index, message))
        if self.through_codec:
            try:
                number, encoded = codec.unframe(self.wire(source, target, codec.frame(number, message)))
                if number == source.round:
                    message = codec.decode(encoded)
            except DecodeError as error:
                self.refused.append((source.index, target.index, error.code))
                return
        extra = 0
        for rule in self.filters:
            added = rule(source, target, message)
            if added is None:
                self._tell_sent(source, target, message, "is cut")
                return
            extra += added
        if isinstance(message, Report) and isinstance(target.villain, Unchanged):
            message = replace(message, statements=(), grant=None)  # a twin has a double
        event = Received(source.config.me, message)
        copies = 2 if self.duplicate and self.rng.random() < self.duplicate else 1
        for _ in range(copies):
            delay = self.delay(source, target)
            if delay is not None:
                self.at(delay + extra, lambda: self._arrive(source, target, number, event))
            self._tell_sent(source, target, message, "is lost" if delay is None else f"+{delay + extra}")

    def _tell_sent(self, source: Node, target: Node, message: Message, fate: str) -> None:
        if self.journalling:
            self.tell(f"{source.index}>{target.index} {describe(message)}{block_of(message)} {fate}")

    def _arrive(self, source: Node, target: Node, number: int, event: Received) -> None:
        if target.villain is not None:
            target.villain.saw(event)
        if takes(target, number):
            target.feed(event)
        elif number > target.round:
            target.hear_height(source)

    def announce(self, node: Node, effect: Commit) -> None:
        """Observers and learners hear of commits from whoever they are connected to."""
        for observer in self.nodes:
            if observer is not node and (observer.index >= self.n or observer.state.config.me is None):
                self._transmit(node, observer, Committed(effect.qc))

    def partition(self, *groups: tuple[int, ...]) -> None:
        """Cut all links between groups, both ways."""
        for group in groups:
            for other in groups:
                if other is not group:
                    self.blocked |= {(a, b) for a in group for b in other}

    def heal(self) -> None:
        self.blocked = set()
        self.filters = []
        self.drop = self.duplicate = self.crash_rate = self.boundary_crash_rate = 0.0
        self.delays_ms = (1, 20)

    # --- nodes ----------------------------------------------------------------------------------

    def crashed(self, node: Node) -> None:
        """A crash out of the crash rate: come back later."""
        node.crash()
        self.at(self.rng.randint(*self.restart_ms), lambda: node.up or node.halted or node.start())

    @property
    def honest(self) -> list[Node]:
        return [node for node in self.nodes if node.villain is None]

    def leader(self) -> Node | None:
        """The leader of the highest term, if it is up."""
        leading = [
            node for node in self.nodes if node.up and node.key == node.index and node.state.role == "leader"
        ]
        return max(leading, key=lambda node: (node.round, node.state.cur_term), default=None)

    def heights(self) -> list[int]:
        return [node.height for node in self.honest]

    def reach(self, height: int, limit_ms: int, nodes: list[Node] | None = None) -> None:
        """Run until all honest nodes (or those named) have committed ``height``."""
        watched = self.honest if nodes is None else nodes
        self.run_until(lambda: all(node.height >= height for node in watched), limit_ms)

    def work(self, tx_count: int, *indices: int) -> None:
        for index in indices or range(len(self.nodes) if self.committees.changes else self.n):
            self.nodes[index].load = tx_count
            self.nodes[index].feed(PendingWork(tx_count))

    def describe(self) -> str:
        return "; ".join(
            f"{node.index}{'' if node.up else ' down'}{' villain' if node.villain else ''}"
            f"{f' round {node.round}' if node.round else ''}"
            f" term {node.state.cur_term} {node.state.role} leader {node.state.leader} height {node.height}"
            f" lock {tuple(node.state.lock.rank)}"
            for node in self.nodes
        )
