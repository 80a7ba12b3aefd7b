"""A network of proof-of-work nodes in one process: real engines, virtual seconds, one seed.

Every node runs the real step function over real headers with real proofs of a few hashes each. Who
finds a block when is drawn: a miner with a share of the hash rate finds blocks as a Poisson process
whose rate follows from the target that ASERT asks for. Bodies are lists of payments of abstract coins,
and a body that spends a coin twice does not connect, so that double spending means something.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, NamedTuple

from cext import pow_search
from consensus.block import BlockHeader
from consensus.hashes import sha256
from consensus.params import ChainParams
from consensus.pow import types as t
from consensus.pow.engine import State, begin, config_of, restore, step
from consensus.pow.limits import MAX_HEADERS, MEDIAN_SPAN
from consensus.pow.rules import expected_bits, median
from consensus.pow.state import StoredHeader
from consensus.pow.target import target_of, work_of
from tests.unit.consensus_pow.powkit import GENESIS_TIME, make_params

SPACE = 1 << 256


class Payment(NamedTuple):
    """An abstract coin paid to somebody; two payments of one coin exclude each other."""

    coin: int
    payee: str


class Mined(NamedTuple):
    """What the world knows of a block, whoever else does. ``work`` is cumulative, ``found_at`` virtual."""

    header: BlockHeader
    height: int
    work: int
    payments: tuple[Payment, ...]
    miner: int
    found_at: float


def simulated_params(spacing_s: int = 10, **rules: Any) -> ChainParams:
    """Return a chain in the proportions of the defaults: half-life 96 intervals, future limit 10.

    A block takes some 512 hashes, enough for work to tell targets apart that differ by a fifth of a per cent.
    """
    given = {
        "bits": 0x1F7FFFFF,
        "spacing_s": spacing_s,
        "half_life_s": 96 * spacing_s,
        "future_limit_s": 10 * spacing_s,
    }
    return make_params(**(given | {"reorg_warn_depth": 6} | rules))


class World:
    """Clock, network, lottery, and a register of all blocks that were ever found."""

    def __init__(
        self, seed: int, params: ChainParams | None = None, *, latency_s: float = 0.2, even: bool = False
    ) -> None:
        self.seed = seed
        self.dice = Random(seed)
        self.params = params or simulated_params()
        rules = self.params.pow
        self.now = 0.0
        self.nodes: list[Node] = []
        self.blocks: dict[bytes, Mined] = {}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self.hash_rate = work_of(rules.bits) / rules.spacing_s
        """Hashes per second of all miners together: one interval a block at the first target."""
        self.latency: Callable[[int, int], float] = lambda a, b: latency_s * (0.5 + self.dice.random())
        self.even = even
        """Blocks come exactly when expected, so that nothing but a strategy moves difficulty."""
        self.islands: list[set[int]] = []
        self.loss = 0.0
        """Part of the messages that never arrive, as where a connection breaks."""
        self.genesis = self._search(bytes(32), b"genesis", GENESIS_TIME, rules.bits)
        self.blocks[self.genesis.hash] = Mined(self.genesis, 0, work_of(rules.bits), (), -1, 0.0)

    # ---- time

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Do something at a virtual time; of equal times the first that was asked for."""
        self._number += 1
        heapq.heappush(self._agenda, (when, self._number, act))

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; stop early once ``until`` holds. Tell whether it holds."""
        end = self.now + seconds
        while self._agenda and self._agenda[0][0] <= end:
            self.now, _, act = heapq.heappop(self._agenda)
            act()
            if until is not None and until():
                return True
        self.now = end
        return until is not None and until()

    def start(self) -> None:
        """Start all nodes that were added."""
        for node in self.nodes:
            node.start()

    def add(self, node: "Node") -> "Node":
        self.nodes.append(node)
        return node

    # ---- network

    def send(self, source: int, target: int, kind: str, *payload: Any) -> None:
        """Deliver to ``on_<kind>`` after the link's latency, unless a partition is between or it is lost."""
        if self.parted(source, target) or (self.loss and self.dice.random() < self.loss):
            return
        node = self.nodes[target]
        self.at(
            self.now + self.latency(source, target), lambda: getattr(node, f"on_{kind}")(source, *payload)
        )

    def parted(self, a: int, b: int) -> bool:
        return any((a in island) != (b in island) for island in self.islands)

    def part(self, *islands: Iterable[int]) -> None:
        """Cut these groups off from everybody else; nothing: all are one again."""
        self.islands = [set(island) for island in islands]

    # ---- blocks

    def _search(self, prev: bytes, root: bytes, time_s: int, bits: int) -> BlockHeader:
        header = BlockHeader.build(
            version=0x20000000, prev_hash=prev, merkle_root=sha256(root), time_s=time_s, bits=bits, nonce=0
        )
        nonce = pow_search(header.raw, 0, 1 << 32, target_of(bits))
        return BlockHeader.parse(header.raw[:76] + nonce.to_bytes(4, "little"))

    def bits_after(self, parent: bytes) -> int:
        block = self.blocks[parent]
        return expected_bits(self.params, block.height, block.header.time_s)

    def median_of(self, block_hash: bytes) -> int:
        """Return the median time past of a block."""
        times: list[int] = []
        while block_hash in self.blocks and len(times) < MEDIAN_SPAN:
            times.append(self.blocks[block_hash].header.time_s)
            block_hash = self.blocks[block_hash].header.prev_hash
        return median(times[::-1])

    def find(self, miner: int, parent: bytes, payments: Sequence[Payment], time_s: int) -> Mined:
        """Mine and register a block on ``parent``; nobody is told."""
        bits = self.bits_after(parent)
        salt = f"{miner}:{len(self.blocks)}:{payments}".encode()
        header = self._search(parent, salt, time_s, bits)
        below = self.blocks[parent]
        made = Mined(header, below.height + 1, below.work + work_of(bits), tuple(payments), miner, self.now)
        self.blocks[header.hash] = made
        return made

    def ancestry(self, block_hash: bytes) -> list[Mined]:
        """Return the blocks from genesis up to this one."""
        chain = []
        while block_hash in self.blocks:
            chain.append(self.blocks[block_hash])
            block_hash = chain[-1].header.prev_hash
        return chain[::-1]


@dataclass
class Told:
    """An effect for the operator or against a peer, and when it was seen."""

    when: float
    effect: Any


class Node:
    """An honest node and miner: follows its engine, relays what it connected, mines on its tip."""

    def __init__(
        self,
        world: World,
        share: float = 0.0,
        *,
        clock_s: int = 0,
        checkpoints: dict[int, bytes] | None = None,
        keep_depth: int = 10_000,
    ) -> None:
        self.world = world
        self.index = len(world.nodes)
        self.share = share
        self.clock_s = clock_s
        config = config_of(world.params, keep_depth=keep_depth)
        if checkpoints is not None:
            config = replace(config, checkpoints=checkpoints)
        self.state: State = begin(config, world.genesis)
        self.chain = [world.genesis.hash]
        self.bodies = {world.genesis.hash}
        self.source: dict[bytes, int] = {}
        self.spent: dict[int, Payment] = {}
        self.mempool: dict[int, Payment] = {}
        self.told: list[Told] = []
        self.reorganised = 0
        """Most blocks that were taken off at once."""
        self.watchers: list[Callable[[Node], None]] = []
        self.peers: list[int] | None = None
        self._events: list[Any] = []
        self._ticket = 0
        self._announced = world.genesis.hash
        world.add(self)

    # ---- driving the engine

    @property
    def now_s(self) -> int:
        return GENESIS_TIME + int(self.world.now) + self.clock_s

    @property
    def tip(self) -> Mined:
        return self.world.blocks[self.chain[-1]]

    def start(self) -> None:
        self.do(t.Start())
        self.tick()
        self.mine()

    def restart(self, checkpoints: dict[int, bytes]) -> None:
        """Start again from what is stored, with the checkpoints that the operator has put into the file."""
        world = self.world
        known = [world.blocks[h] for h in self.state.tree.entries if h != world.genesis.hash]
        stored = [StoredHeader(block.header, block.header.hash in self.bodies) for block in known]
        config = replace(self.state.config, checkpoints=checkpoints)
        work = world.blocks[world.genesis.hash].work
        self.state = restore(config, world.genesis, 0, work, stored, self.chain[-1])
        self.do(t.Start())

    def tick(self) -> None:
        self.do(t.Tick())
        self.world.at(self.world.now + self.world.params.pow.spacing_s, self.tick)

    def do(self, *events: Any) -> None:
        """Take events and all that their effects lead to, watched."""
        self._events += events
        if len(self._events) > len(events):
            return  # under way already
        before, work = self.chain[-1], self.tip.work
        height = self.tip.height
        lowest = height
        while self._events:
            self.state, effects = step(self.state, self._events[0], self.now_s)
            for effect in effects:
                self.perform(effect)
                lowest = min(lowest, len(self.chain) - 1)
            del self._events[0]
        self.reorganised = max(self.reorganised, height - lowest)
        if self.state.tree.tip.block_hash != self.chain[-1]:
            raise AssertionError("engine and node have different tips")
        if self.tip.work < work:
            raise AssertionError("the tip fell to lower work")
        if self.chain[-1] != before:
            self.moved()

    def perform(self, effect: Any) -> None:
        if isinstance(effect, t.AskHeaders):
            for peer in self.others() if effect.peer is None else [effect.peer]:
                self.world.send(self.index, peer, "get_headers", effect.locator)
        elif isinstance(effect, t.FetchBodies):
            for block_hash in effect.block_hashes:
                peer = self.source.pop(block_hash, None)
                if peer is None and self.others():
                    peer = self.world.dice.choice(self.others())
                if peer is not None:
                    self.world.send(self.index, peer, "get_body", block_hash)
        elif isinstance(effect, t.Recall):
            self._events.append(t.Recalled(self.recalled(effect)))
        elif isinstance(effect, t.Disconnect):
            self.disconnect(effect.block_hash)
        elif isinstance(effect, t.Connect):
            self._events.append(self.connect(effect.block_hash))
        elif isinstance(effect, (t.DeepReorg, t.StaleTip, t.InvalidLead, t.Misbehaviour)):
            self.told.append(Told(self.world.now, effect))

    def recalled(self, ask: t.Recall) -> tuple[BlockHeader, ...]:
        if ask.block_hash not in self.chain[: ask.root_height]:
            return ()
        lowest = max(0, self.world.blocks[ask.block_hash].height - MEDIAN_SPAN)
        return tuple(self.world.blocks[h].header for h in self.chain[lowest : ask.root_height])

    def connect(self, block_hash: bytes) -> Any:
        block = self.world.blocks[block_hash]
        if block.header.prev_hash != self.chain[-1]:
            raise AssertionError("not a child of the tip")
        coins = [payment.coin for payment in block.payments]
        if len(set(coins)) < len(coins) or any(coin in self.spent for coin in coins):
            return t.Refused(block_hash, "bad-txns-inputs-missingorspent")
        self.chain.append(block_hash)
        for payment in block.payments:
            self.spent[payment.coin] = payment
            self.mempool.pop(payment.coin, None)
        return t.Connected(block_hash)

    def disconnect(self, block_hash: bytes) -> None:
        if self.chain.pop() != block_hash:
            raise AssertionError("not the tip")
        for payment in self.world.blocks[block_hash].payments:
            del self.spent[payment.coin]
            self.mempool.setdefault(payment.coin, payment)

    def seen(self, kind: type) -> list[Any]:
        """Return the effects of one kind that were told."""
        return [told.effect for told in self.told if isinstance(told.effect, kind)]

    # ---- network

    def others(self) -> list[int]:
        if self.peers is not None:
            return self.peers
        return [node.index for node in self.world.nodes if node is not self]

    def moved(self) -> None:
        """The tip is another: mine on it and tell about it."""
        self.mine()
        self.relay()
        for watch in self.watchers:
            watch(self)

    def relay(self) -> None:
        if self.chain[-1] != self._announced:
            self._announced = self.chain[-1]
            for peer in self.others():
                self.world.send(self.index, peer, "headers", (self.tip.header,))

    def on_headers(self, source: int, headers: tuple[BlockHeader, ...]) -> None:
        for header in headers:
            self.source[header.hash] = source
        self.do(t.Headers(source, headers))

    def on_get_headers(self, source: int, locator: tuple[bytes, ...]) -> None:
        known = set(self.chain)
        fork = next((h for h in locator if h in known), self.world.genesis.hash)
        above = self.world.blocks[fork].height + 1
        reply = tuple(self.world.blocks[h].header for h in self.chain[above : above + MAX_HEADERS])
        if reply:
            self.world.send(self.index, source, "headers", reply)

    def on_get_body(self, source: int, block_hash: bytes) -> None:
        if block_hash in self.bodies:
            self.world.send(self.index, source, "body", block_hash)

    def on_body(self, source: int, block_hash: bytes) -> None:
        if block_hash not in self.bodies:
            self.bodies.add(block_hash)
            self.do(t.BodyStored(block_hash))

    def on_payment(self, source: int, payment: Payment) -> None:
        """Take a payment unless another one of its coin was there first; pass it on."""
        if payment.coin in self.spent or payment.coin in self.mempool:
            return
        self.mempool[payment.coin] = payment
        for peer in self.others():
            self.world.send(self.index, peer, "payment", payment)
        for watch in self.watchers:
            watch(self)

    # ---- mining

    def ground(self) -> bytes:
        """Return the block to mine on."""
        return self.chain[-1]

    def stamp(self, parent: bytes) -> int:
        """Return the header time of a block on ``parent``: the clock's, but after the median."""
        return max(self.now_s, self.world.median_of(parent) + 1)

    def mine(self) -> None:
        """Draw when the next block will be found. Drawing again changes no odds: the search has no memory."""
        self._ticket += 1
        if not self.share:
            return
        ticket, parent = self._ticket, self.ground()
        rate = self.share * self.world.hash_rate * (target_of(self.world.bits_after(parent)) + 1) / SPACE
        when = self.world.now + (1 / rate if self.world.even else self.world.dice.expovariate(rate))
        self.world.at(when, lambda: self.win(parent) if ticket == self._ticket else None)

    def win(self, parent: bytes | None = None) -> Mined:
        """Find a block now."""
        parent = self.ground() if parent is None else parent
        block = self.world.find(self.index, parent, self.payload(parent), self.stamp(parent))
        self.found(block)
        return block

    def payload(self, parent: bytes) -> list[Payment]:
        return list(self.mempool.values())

    def found(self, block: Mined) -> None:
        self.bodies.add(block.header.hash)
        self.do(t.Headers(None, (block.header,)), t.BodyStored(block.header.hash))
        self.mine()


class Merchant(Node):
    """A node that hands goods over once a payment to it has enough confirmations, and does so once."""

    def __init__(self, world: World, share: float = 0.0, *, confirmations: int, **given: Any) -> None:
        super().__init__(world, share, **given)
        self.confirmations = confirmations
        self.delivered_at: float | None = None
        self.watchers.append(lambda node: self.look())

    def depth(self) -> int | None:
        """Return the confirmations of the payment, 0 in the mempool, None if there is none."""
        for back, block_hash in enumerate(reversed(self.chain)):
            if any(payment.payee == "merchant" for payment in self.world.blocks[block_hash].payments):
                return back + 1
        return 0 if any(payment.payee == "merchant" for payment in self.mempool.values()) else None

    def look(self) -> None:
        depth = self.depth()
        if self.delivered_at is None and depth is not None and depth >= self.confirmations:
            self.delivered_at = self.world.now

    @property
    def robbed(self) -> bool:
        """Tell whether goods were handed over for a payment that is on no chain any more."""
        return self.delivered_at is not None and self.depth() is None


def agreed(nodes: Iterable[Node]) -> bool:
    """Tell whether all nodes have one tip."""
    return len({node.chain[-1] for node in nodes}) == 1
