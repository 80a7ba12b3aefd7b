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
from consensus.bft.config import SCHNORR, Config, Scheme, Timing, VoterSet, VoteSecret
from consensus.bft.engine import step
from consensus.bft.state import CommittedTip, State, initial, restore
from consensus.bft.types import (
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
from consensus.hashes import sha256
from consensus.keys import xonly_from_secret
from consensus.transaction import Transaction, TxIn, TxOut
from consensus.validators import set_hash
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


class CheapScheme:
    """Signatures that cost one hash. Forgeable, but no villain of ours forges."""

    def sign(self, secret: bytes, digest: bytes) -> bytes:
        return sha256(secret + digest) * 2

    def verify(self, items: Any) -> list[bool]:
        return [sha256(key + digest) * 2 == sig for digest, key, sig in items]


CHEAP = CheapScheme()


def secrets_of(n: int) -> list[bytes]:
    return [sha256(b"validator %d" % index) for index in range(n)]


def voter_set(n: int, scheme: Scheme) -> VoterSet:
    secrets = secrets_of(n)
    keys = tuple(xonly_from_secret(secret) for secret in secrets) if scheme is SCHNORR else tuple(secrets)
    return VoterSet(0, 1, set_hash(0, 1, keys), keys)


def config_of(
    n: int, me: int | None, scheme: Scheme = CHEAP, timing: Timing = TIMING, seed: bytes = bytes(32)
) -> Config:
    secret = None if me is None else VoteSecret(secrets_of(n)[me], scheme)
    return Config(CHAIN_ID, voter_set(n, scheme), me, secret, seed, timing, scheme=scheme)


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
    """One engine and its shell."""

    def __init__(self, cluster: "Cluster", index: int, me: int | None) -> None:
        self.cluster = cluster
        self.index = index
        self.config = config_of(cluster.n, me, cluster.scheme, cluster.timing, cluster.seed_bytes)
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
        if self.disk.records or self.disk.blocks:
            records = [wal.decode_record(kind, payload) for kind, payload in self.disk.records]
            bodies = list(self.disk.bodies.values())
            self.state = restore(self.config, records, self._tip(), bodies)
        else:
            self.state = initial(self.config)
        self.cluster.monitor.on_start(self)
        self.cluster.tell(f"{self.index} starts in term {self.state.cur_term}")
        self.cluster.sessions += 1
        self.feed(Start(self.cluster.sessions))
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
            if count == stop or not self.up:
                break
            self.perform(effect)
        if stop <= len(effects) and self.up:
            cluster.crashed(self)

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
        for peer in self.cluster.nodes[: self.cluster.n]:
            if peer.index != self.config.me:
                self.cluster.transmit(self, peer.index, effect.message)

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
        self.cluster.monitor.on_commit(self, effect, proposal)
        self.cluster.announce(self, effect)

    def _build(self, effect: Build) -> None:
        cluster = self.cluster
        cluster.salt += 1
        salt = b"%d/%d" % (self.index, cluster.salt)
        if effect.parent_hash != self._tip().block_hash and effect.parent_hash not in self.executed:
            raise AssertionError("a block to be built on a parent that was not executed")
        proposal = make_proposal(effect.parent_hash, effect.height, effect.term, salt)
        self.executed.add(proposal.block_hash)
        self.volatile[proposal.block_hash] = (effect.height, proposal)
        self._later(cluster.rng.randint(*cluster.shell_ms), Built(effect.parent_hash, effect.term, proposal))
        if self.load:
            self._later(5, PendingWork(self.load))

    def _check(self, effect: Check) -> None:
        block_hash = effect.proposal.block_hash
        ok = block_hash not in self.cluster.invalid
        height = effect.height
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
        choices = list(effect.candidates) or [index for index in range(cluster.n) if index != self.config.me]
        choices = choices or [self.index]
        peer = cluster.nodes[cluster.rng.choice(choices)]
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
        top = min(len(blocks), effect.first_height + SYNC_BLOCKS - 1)
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
            self.feed(Synced(None, blocks, qc))
        for height, proposal in loose:
            if height > len(self.disk.blocks):
                self.volatile[proposal.block_hash] = (height, proposal)
                self.feed(BlockAvailable(height, proposal))

    def _slash(self, effect: Slash) -> None:
        self.evidence.append(effect)
        self.cluster.monitor.on_slash(self, effect)

    def _retired(self, effect: Retired) -> None:
        self.cluster.tell(f"{self.index} is a learner: {effect.reason}")
        self.cluster.monitor.on_retired(self, effect)

    def _misbehaviour(self, effect: Misbehaviour) -> None:
        self.misbehaviours.append(effect)

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
    ) -> None:
        self.n = n
        self.rng = Random(seed)
        self.seed_bytes = sha256(b"seed %d" % seed)
        self.scheme = scheme
        self.timing = timing
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
        self.nodes += [Node(self, n + index, None) for index in range(observers)]
        self.twins: dict[int, Node] = {}

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
        self._transmit(source, self.nodes[to], message)
        if to in self.twins:
            self._transmit(source, self.twins[to], message)

    def _transmit(self, source: Node, target: Node, message: Message) -> None:
        if self.tracing:
            self.trace.append((self.now, source.index, target.index, message))
        if self.through_codec:
            message = codec.decode(codec.encode(message))
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
                self.at(delay + extra, lambda: self._arrive(target, event))
            self._tell_sent(source, target, message, "is lost" if delay is None else f"+{delay + extra}")

    def _tell_sent(self, source: Node, target: Node, message: Message, fate: str) -> None:
        if self.journalling:
            self.tell(f"{source.index}>{target.index} {describe(message)}{block_of(message)} {fate}")

    def _arrive(self, target: Node, event: Received) -> None:
        if target.villain is not None:
            target.villain.saw(event)
        target.feed(event)

    def announce(self, node: Node, effect: Commit) -> None:
        """Observers and learners hear of commits from whoever they are connected to."""
        for observer in self.nodes:
            if observer is not node and (observer.index >= self.n or observer.state.learner):
                self.transmit(node, observer.index, Committed(effect.qc))

    def partition(self, *groups: tuple[int, ...]) -> None:
        """Cut all links between groups, both ways."""
        for group in groups:
            for other in groups:
                if other is not group:
                    self.blocked |= {(a, b) for a in group for b in other}

    def heal(self) -> None:
        self.blocked = set()
        self.filters = []
        self.drop = self.duplicate = self.crash_rate = 0.0
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
        leading = [n for n in self.nodes if n.up and n.state.leader == n.index and n.state.role == "leader"]
        return max(leading, key=lambda node: node.state.cur_term, default=None)

    def heights(self) -> list[int]:
        return [node.height for node in self.honest]

    def reach(self, height: int, limit_ms: int, nodes: list[Node] | None = None) -> None:
        """Run until all honest nodes (or those named) have committed ``height``."""
        watched = self.honest if nodes is None else nodes
        self.run_until(lambda: all(node.height >= height for node in watched), limit_ms)

    def work(self, tx_count: int, *indices: int) -> None:
        for index in indices or range(self.n):
            self.nodes[index].load = tx_count
            self.nodes[index].feed(PendingWork(tx_count))

    def describe(self) -> str:
        return "; ".join(
            f"{node.index}{'' if node.up else ' down'}{' villain' if node.villain else ''}"
            f" term {node.state.cur_term} {node.state.role} leader {node.state.leader} height {node.height}"
            f" lock {tuple(node.state.lock.rank)}"
            for node in self.nodes
        )
