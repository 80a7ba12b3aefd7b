"""Committees in one process: real engines, rules, stores and encrypted connections, time of their own.

Every node has a clock as if it ran on a machine of its own: what it does takes the processor time that it
really took, and what it sends arrives after that and the latency. So the time of a block is that of a
network of ``size`` machines, although one does the work, and what else this machine does hardly matters.
Waiting for disks is not in it: files are written and not synced. The transactions are at hand everywhere.
"""

import gc
import heapq
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from time import thread_time_ns
from typing import Any

from consensus.bft.codec import decode, decode_qc, encode_qc, frame, unframe
from consensus.bft.config import Config, Timing, VoterSet, VoteSecret
from consensus.bft.engine import step
from consensus.bft.state import initial
from consensus.bft.types import (
    BlockAvailable,
    Broadcast,
    Build,
    Built,
    CancelTimer,
    Check,
    Checked,
    Commit,
    Effect,
    Event,
    Fetch,
    Fsync,
    Halt,
    Misbehaviour,
    PendingWork,
    Persist,
    PersistBody,
    Received,
    Send,
    SetTimer,
    Start,
    Synced,
    Timer,
    TimerFired,
)
from consensus.bft.wal import encode_record
from consensus.block import Block
from consensus.errors import LocalFault
from consensus.genesis import genesis_block
from consensus.params import Allocation, ChainParams
from consensus.rounds import founding
from consensus.transaction import Transaction
from contracts.api import EnergyContracts
from node.bench.grown import Unsynced
from node.bodies import Parked, complete_block, proposal_of
from node.chainstate import ChainState, Trusting, block_height
from node.keyfile import NodeKeys, generate_keys
from node.testnet import TEST_BFT, TEST_LEDGER, ChainPlan, Founder
from p2p import peer as wire
from p2p.framing import frame as framed
from p2p.messages import (
    MIN_PROTOCOL_VERSION,
    SERVICE_BLOCKS,
    Bft,
    Blocks,
    Body,
    GetBlocks,
    GetBody,
    Hello,
    Message,
    Status,
    encode,
)
from p2p.noise import NodeKeys as WireKeys
from p2p.sync import BlockSync, serve_blocks
from storage.files import Files
from storage.store import ChainStore
from storage.wal import VoteLog

LATENCY_NS = 500_000
"""One way between two nodes: a local network."""

SYNC_TICK_NS = 100_000_000
GENESIS_S = 1_700_000_000
NEVER_S = 1_000_000_000
"""Rounds so long that none ends."""

TIMING = Timing(
    progress_timeout_ms=60_000,
    slot_step_ms=2_000,
    idle_interval_ms=30_000,
    block_interval_ms=1,
    retransmit_ms=10_000,
    min_batch_txs=1,
    tenure_blocks=0,
)
"""A block as soon as there is work and the protocol allows it, and nothing that is said twice."""


@contextmanager
def no_collector() -> Iterator[None]:
    """Keep the cyclic collector out of measurements, as the daemon nearly does."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def committee_keys(validators: int) -> list[NodeKeys]:
    """Return the keys of so many founders, the same in each run."""
    return [generate_keys(Random(at).randbytes) for at in range(validators)]


def committee_params(
    keys: Sequence[NodeKeys], allocations: tuple[Allocation, ...], **plan: Any
) -> ChainParams:
    """Return a chain with these founders, all of whom vote, and nobody else ever."""
    names = [Founder("grid", "grid-operator")]
    names += [Founder(f"provider-{at}", "service-provider") for at in range(1, len(keys))]
    bft = replace(TEST_BFT, round_s=NEVER_S, substitution_s=NEVER_S, delegates=max(21, len(keys)))
    ledger = replace(TEST_LEDGER, op_budget=1_000_000)
    base: dict[str, Any] = {"name": "bench", "genesis_time_s": GENESIS_S, "bft": bft, "ledger": ledger}
    made = ChainPlan(allocations=allocations, **(base | plan))
    return made.params(list(zip(names, keys, strict=True)))


@dataclass(slots=True)
class Traffic:
    """What the nodes sent since ``Committee.count`` began, by type of message: how often, bytes."""

    messages: Counter[str] = field(default_factory=Counter)
    wire_bytes: Counter[str] = field(default_factory=Counter)

    def note(self, message: Message, size: int, peers: int = 1) -> None:
        """Count one message to so many peers; ``size`` is that of its frame."""
        kind = type(message).__name__
        self.messages[kind] += peers
        self.wire_bytes[kind] += peers * (size + RECORD_BYTES)


RECORD_BYTES = 18
"""What encryption adds to a message that travels alone: a length and a tag."""


class Node:
    """One engine with its shell. ``me`` is its place among the validators, None for a follower.

    ``clock`` tells the time that work takes, nanoseconds; ``files`` is what it writes with.
    """

    clock: Callable[[], int] = staticmethod(thread_time_ns)
    files: Files = Unsynced()

    def __init__(self, committee: "Committee", index: int, me: int | None, home: Path) -> None:
        self.committee = committee
        self.index = index
        self.free_ns = self.worked_ns = 0
        self.links: dict[int, wire.Connection] = {}
        self._began_ns = self._began_cpu_ns = 0
        self._events: deque[Event] = deque()
        self._timers: dict[Timer, int] = {}
        self._fetched: dict[bytes, Block] = {}
        self._wanted: set[bytes] = set()
        self._dirty: dict[int, None] = {}
        self._sync = BlockSync(0)
        contracts, genesis = committee.contracts(), committee.genesis
        self.contracts = contracts
        store = ChainStore.open(home, chain_id=genesis.hash, files=self.files)
        committee.resources.callback(store.close)
        self.chain = ChainState(store, genesis, committee.params, contracts, contracts.open, Trusting())
        self._log, _ = VoteLog.open(home / "votes.wal", self.files)
        committee.resources.callback(self._log.close)
        found = self.chain.round
        self.state = initial(
            Config(
                chain_id=genesis.hash,
                validator_set=VoterSet.of(found.validator_set),
                me=me,
                secret=None if me is None else VoteSecret(committee.keys[me].vote.reveal()),
                seed=found.slot_seed,
                timing=TIMING,
                base=self.chain.round_base(),
            )
        )

    @property
    def me(self) -> int | None:
        """Return its place among the validators."""
        return self.state.config.me

    @property
    def now_ns(self) -> int:
        """Return the time on this node's own machine."""
        return self._began_ns + self.clock() - self._began_cpu_ns

    def work(self, at_ns: int, what: Callable[[], None]) -> None:
        """Do ``what`` from ``at_ns`` on, and all that follows from it; then the node is free again."""
        self._began_ns, self._began_cpu_ns = at_ns, self.clock()
        what()
        self._pump()
        self._flush()
        self.free_ns = self.now_ns
        self.worked_ns += self.free_ns - at_ns

    # ---- events in -----------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Give the engine an event; it is stepped before the node rests."""
        self._events.append(event)

    def take(self, peer: int, data: bytes) -> None:
        """Take bytes from the wire."""
        for event in self.links[peer].receive(data, self.now_ns // 1_000_000):
            if isinstance(event, wire.Received):
                self._route(peer, event.message)
            elif isinstance(event, wire.Fault | wire.Closed):
                raise LocalFault("bench-wire", f"{event.code}: {event.reason}")

    def _route(self, peer: int, message: Message) -> None:
        match message:
            case Bft(payload):
                sender = peer if peer < self.committee.validators else None
                said = decode(unframe(payload)[1])
                self.post(Received(sender, said))
            case Status(height, _):
                self._sync.peer_height(peer, height)
                self._look()
            case GetBlocks():
                self._send(peer, self._serve(message))
            case Blocks():
                self._sync.on_blocks(peer, message)
                self._look()
            case GetBody(block_hash):
                self._send(peer, Body(block_hash, self.chain.raw_block(block_hash)))
            case Body(block_hash, raw) if raw is not None and block_hash in self._wanted:
                self._wanted.discard(block_hash)
                block = Block.parse(raw)
                self._fetched[block_hash] = block
                self.post(BlockAvailable(block_height(block), proposal_of(block)))

    # ---- engine --------------------------------------------------------------------------------

    def _pump(self) -> None:
        while self._events:
            self.state, effects = step(self.state, self._events.popleft(), self.now_ns // 1_000_000)
            self._save(effects)
            for effect in effects:
                self._perform(effect)

    def _save(self, effects: tuple[Effect, ...]) -> None:
        bodies = False
        for effect in effects:
            match effect:
                case PersistBody(block_hash):
                    self.save_body(block_hash)
                    bodies = True
                case Persist(record):
                    self._log.append(*encode_record(record))
                case Fsync():
                    if bodies:
                        self.chain.store.sync()
                    self._log.sync()

    def save_body(self, block_hash: bytes) -> None:
        """Append a body to the store."""
        block = self._fetched.get(block_hash) or self.chain.block(block_hash)
        if block is None:
            raise LocalFault("bench-lost", "a block to be saved is not here")
        self.chain.save_body(block)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(to, message):
                self._send(to, Bft(frame(0, message)))
            case Broadcast(message):
                self._broadcast(Bft(frame(0, message)))
            case SetTimer(name, at_ms, token):
                self._timers[name] = token
                at_ns = max(at_ms * 1_000_000, self.now_ns)
                self.committee.at(at_ns, self, lambda: self._fire(name, token))
            case CancelTimer(name):
                self._timers.pop(name, None)
            case Commit():
                self._commit(effect)
            case Build():
                self._build(effect)
            case Check():
                self._check(effect)
            case Fetch(block_hash, _, _, candidates):
                self._fetch(block_hash, candidates)
            case Misbehaviour(_, code) | Halt(code):
                raise LocalFault("bench-refused", code)

    def _fire(self, name: Timer, token: int) -> None:
        if self._timers.get(name) == token:
            del self._timers[name]
            self.post(TimerFired(name, token))

    def _build(self, effect: Build) -> None:
        if self.me is None:
            raise LocalFault("bench-refused", "a follower was asked to build")
        made = self.chain.build(
            effect.parent_hash,
            lambda pending: self.candidates(effect.height, pending),
            time_s=self.committee.time_s,
            term=effect.term,
            proposer=self.me,
            last_bitmap=effect.last_bitmap,
        )
        if made.refused:
            raise LocalFault("bench-refused", str(made.refused[0]))
        self.post(Built(effect.parent_hash, effect.term, proposal_of(made.block)))
        self.post(PendingWork(len(self.committee.supply(effect.height + 1))))

    def candidates(self, height: int, pending: set[bytes]) -> Iterable[Transaction]:
        """Return what a block of ``height`` may take; ``pending`` are ids that blocks under way hold."""
        return self.committee.supply(height)

    def _check(self, effect: Check) -> None:
        self.execute(effect)
        self.post(Checked(effect.proposal.block_hash, True))

    def execute(self, effect: Check) -> None:
        """Execute a proposed block; one that breaks a rule ends the benchmark."""
        if self.chain.candidate(effect.proposal.block_hash) is None:
            pool = self.committee.pool
            txs: list[Transaction | None] = [pool[wtxid] for wtxid in effect.proposal.wtxids]
            block = complete_block(Parked(effect, self.chain.tip.time_s, txs, {}))
            self.chain.execute(block, effect.parent_hash)

    def _commit(self, effect: Commit) -> None:
        self.apply(effect)
        self._sync.advanced(effect.height)
        self._broadcast(Status(effect.height, effect.block_hash))
        self.committee.committed(self, effect.height)

    def apply(self, effect: Commit) -> None:
        """Make a block final."""
        if effect.height <= self.chain.tip.height:
            return
        if self.chain.candidate(effect.block_hash) is None:
            block = self._fetched[effect.block_hash]
            self.chain.execute(block, self.chain.tip.block_hash, certified=True)
        self.chain.commit(effect.block_hash, encode_qc(effect.qc))
        self._fetched.pop(effect.block_hash, None)

    # ---- blocks from others --------------------------------------------------------------------

    def _fetch(self, block_hash: bytes, candidates: tuple[int, ...]) -> None:
        if block_hash in self._fetched:
            return
        self._wanted.add(block_hash)
        others = [*candidates, *range(self.committee.validators)]
        self._send(next(each for each in others if each != self.index), GetBody(block_hash))

    def _serve(self, request: GetBlocks) -> Blocks:
        store = self.chain.store

        def read_block(height: int) -> bytes | None:
            block_hash = store.block_hash(height)
            return None if block_hash is None else store.body(block_hash)

        return serve_blocks(request, self.chain.tip.height, read_block, store.certificate)

    def meet(self, peer: int) -> None:
        """Let block sync know a peer."""
        self._sync.peer_ready(peer, 0)

    def sync_tick(self) -> None:
        """Look at what block sync wants, and again after a while."""
        self._look()
        self.committee.at(self.now_ns + SYNC_TICK_NS, self, self.sync_tick)

    def _look(self) -> None:
        sync = self._sync
        sync.tick(self.now_ns // 1_000_000)
        for peer, request in sync.take_outgoing():
            self._send(peer, request)
        if sync.buffered_bytes and (batch := sync.next_batch()) is not None:
            blocks = [Block.parse(raw) for raw in batch.blocks]
            self._fetched |= {block.hash: block for block in blocks}
            refs = tuple(
                (batch.from_height + at, block.hash, block.header.prev_hash)
                for at, block in enumerate(blocks)
            )
            self.post(Synced(None, refs, decode_qc(batch.certificate)))
            self._pump()
            sync.report(batch, ok=True)

    # ---- messages out --------------------------------------------------------------------------

    def _send(self, to: int, message: Message) -> None:
        self._push((to,), message)

    def _broadcast(self, message: Message) -> None:
        self._push(self.links, message)

    def _push(self, peers: Collection[int], message: Message) -> None:
        data = framed(encode(message))
        for peer in peers:
            if not self.links[peer].send_framed(message, data):
                raise LocalFault("bench-wire", "a connection takes no more")
            self._dirty[peer] = None
        self.committee.traffic.note(message, len(data), len(peers))

    def _flush(self) -> None:
        """Write what waits, one peer after the other: each leaves when it is encrypted."""
        for peer in self._dirty:
            while data := self.links[peer].wire():
                self.committee.deliver(self, peer, data, self.now_ns + LATENCY_NS)
        self._dirty.clear()


class Committee:
    """``validators`` that vote and ``followers`` that do not, every two of them connected.

    ``blocks`` are the transactions of the heights from 1 on; ``seat`` makes the nodes, ``contracts`` what
    their chain runs.
    """

    def __init__(
        self,
        root: Path,
        params: ChainParams,
        keys: list[NodeKeys],
        followers: int,
        blocks: list[list[Transaction]],
        seat: "Callable[[Committee, int, int | None, Path], Node]" = Node,
        contracts: Callable[[], EnergyContracts] | None = None,
    ) -> None:
        self.params, self.keys = params, keys
        self.contracts = contracts or (lambda: EnergyContracts(params))
        self.validators = len(keys)
        self.genesis = genesis_block(params, self.contracts())
        self.resources = ExitStack()
        self.traffic = Traffic()
        self.pool = {tx.wtxid: tx for block in blocks for tx in block}
        self.commits_ns: dict[int, dict[int, int]] = {}
        self.time_s = GENESIS_S
        self.blocks = blocks
        self.now_ns = 0
        self.slot_seed = founding(params, self.genesis.hash).slot_seed
        self._queue: list[tuple[int, int, Node, Callable[[], None]]] = []
        self._number = 0
        self._under_way = 0
        places = [*range(self.validators), *[None] * followers]
        self.nodes = [seat(self, at, me, root / f"node-{at}") for at, me in enumerate(places)]
        self._connect()

    def __enter__(self) -> "Committee":
        return self

    def __exit__(self, *_: object) -> None:
        self.resources.close()

    def extend(self, blocks: Iterable[list[Transaction]]) -> None:
        """Add blocks, before the start."""
        for block in blocks:
            self.blocks.append(block)
            self.pool |= {tx.wtxid: tx for tx in block}

    def _connect(self) -> None:
        wires = [WireKeys(Random(1_000 + at).randbytes(32)) for at in range(len(self.nodes))]
        for at, low in enumerate(self.nodes):
            for high in self.nodes[at + 1 :]:
                ends = [
                    wire.Connection(wires[node.index], self._hello(wires[node.index]), 0, initiator=first)
                    for node, first in ((low, True), (high, False))
                ]
                _shake_hands(*ends)
                low.links[high.index], high.links[low.index] = ends
                low.meet(high.index)
                high.meet(low.index)

    def _hello(self, keys: WireKeys) -> Callable[[], Hello]:
        tip = self.genesis.hash
        hello = Hello(MIN_PROTOCOL_VERSION, tip, keys.identity, 0, tip, SERVICE_BLOCKS, "bench", GENESIS_S, 1)
        return lambda: hello

    def supply(self, height: int) -> list[Transaction]:
        """Return the transactions of a height."""
        return self.blocks[height - 1] if height <= len(self.blocks) else []

    # ---- time ----------------------------------------------------------------------------------

    def at(self, at_ns: int, node: Node, what: Callable[[], None]) -> None:
        """Let ``node`` do something at a time, or as soon as it is free then."""
        self._number += 1
        heapq.heappush(self._queue, (at_ns, self._number, node, what))

    def deliver(self, sender: Node, peer: int, data: bytes, at_ns: int) -> None:
        """Let bytes arrive."""
        self._under_way += 1
        self.at(at_ns, self.nodes[peer], lambda: self._arrive(sender, peer, data))

    def _arrive(self, sender: Node, peer: int, data: bytes) -> None:
        self._under_way -= 1
        self.nodes[peer].take(sender.index, data)

    def committed(self, node: Node, height: int) -> None:
        """Note when ``node`` held a block to be final."""
        self.commits_ns.setdefault(height, {})[node.index] = node.now_ns

    def start(self) -> None:
        """Start all nodes at time 0."""
        for node in self.nodes:
            self.at(0, node, lambda node=node: self._begin(node))  # type: ignore[misc]

    def _begin(self, node: Node) -> None:
        node.post(Start(None))
        node.post(PendingWork(len(self.supply(1))))
        if node.me is None:
            self.at(0, node, node.sync_tick)

    def run_to(self, height: int) -> None:
        """Go on until every node has committed ``height``."""
        self.run(lambda: len(self.commits_ns.get(height, ())) == len(self.nodes))

    def settle(self) -> None:
        """Go on until everything that was sent has arrived; timers may be pending."""
        self.run(lambda: not self._under_way)

    def run(self, is_done: Callable[[], bool]) -> None:
        """Go on until something is so."""
        with no_collector():
            while not is_done():
                at_ns, number, node, what = heapq.heappop(self._queue)
                if node.free_ns > at_ns:
                    heapq.heappush(self._queue, (node.free_ns, number, node, what))
                    continue
                self.now_ns = at_ns
                node.work(at_ns, what)

    def count(self) -> Traffic:
        """Begin to count anew; return what was counted until now."""
        before, self.traffic = self.traffic, Traffic()
        return before

    def block_ns(self, first: int, last: int) -> float:
        """Return the time per block between two heights, as the leader saw them become final."""
        leader = min(self.commits_ns[first], key=lambda index: self.commits_ns[first][index])
        return (self.commits_ns[last][leader] - self.commits_ns[first][leader]) / (last - first)


def _shake_hands(dialler: wire.Connection, answerer: wire.Connection) -> None:
    """Bring two ends of a connection into the state in which they carry messages."""
    sides = (dialler, answerer)
    while any(side.state is not wire.State.READY for side in sides):
        for side, other in (sides, sides[::-1]):
            while data := side.wire():
                for event in other.receive(data, 0):
                    if isinstance(event, wire.Fault | wire.Closed):
                        raise LocalFault("bench-wire", f"{event.code}: {event.reason}")
