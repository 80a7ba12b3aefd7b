"""Attackers, and the attacks that they play on networks of honest nodes.

An attacker has an engine of its own to see the public chain with, keeps blocks back, mines where it
likes and stamps them as it likes, but finds them by its share of the hash rate alone. Each attack is a
function of a seed and returns what came of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from consensus.pow import types as t
from tests.simulation.pow_world import Merchant, Mined, Node, Payment, World, agreed, simulated_params

GOODS = Payment(1, "merchant")
BACK = Payment(1, "attacker")
FOREVER_S = 10.0**9


class Attacker(Node):
    """Keeps a branch of its own back until it is shown. ``early``: stamps as early as the rules allow."""

    def __init__(self, world: World, share: float = 0.0, *, early: bool = False, **given: Any) -> None:
        super().__init__(world, share, **given)
        self.early = early
        self.branch: list[Mined] = []
        self.first: Sequence[Payment] = ()
        """Payments of the branch's first block; the others are empty."""
        self.hiding = False

    def relay(self) -> None:
        """An attacker passes nothing on."""

    def on_payment(self, source: int, payment: Payment) -> None:
        """Nor does it care what others pay."""

    def payload(self, parent: bytes) -> list[Payment]:
        return [] if self.branch else list(self.first)

    def stamp(self, parent: bytes) -> int:
        return self.world.median_of(parent) + 1 if self.early else super().stamp(parent)

    def ground(self) -> bytes:
        return self.branch[-1].header.hash if self.branch else self.base()

    def base(self) -> bytes:
        """Return where a new branch starts."""
        return self.chain[-1]

    def found(self, block: Mined) -> None:
        self.branch.append(block)
        self.mine()

    def show(self, blocks: Sequence[Mined] | None = None, to: Sequence[int] | None = None) -> None:
        """Publish blocks of the branch, by default all and to everybody."""
        shown = self.branch if blocks is None else blocks
        fresh = [block for block in shown if block.header.hash not in self.bodies]
        headers = tuple(block.header for block in fresh)
        if not fresh:
            return
        self.bodies.update(header.hash for header in headers)
        for peer in self.others() if to is None else to:
            self.world.send(self.index, peer, "headers", headers)
        self.do(t.Headers(None, headers), *[t.BodyStored(header.hash) for header in headers])

    def pay(self, payment: Payment, to: Sequence[int]) -> None:
        for peer in to:
            self.world.send(self.index, peer, "payment", payment)


def settled_network(seed: int, miners: int, *, confirmations: int, latency_s: float = 0.2) -> World:
    """Return a network with so many equal miners and, as the last node, a merchant, all started."""
    world = World(seed, latency_s=latency_s)
    for _ in range(miners):
        Node(world, 1 / miners)
    Merchant(world, confirmations=confirmations)
    return world


def warm_up(world: World, height: int = 12) -> None:
    """Start and wait until all nodes, attackers too, know one chain of this height."""
    world.start()
    world.run(FOREVER_S, lambda: world.nodes[0].tip.height >= height and agreed(world.nodes))


# ---- with little or no hash rate


def race(seed: int, confirmations: int) -> Merchant:
    """Race attack: one payment to the merchant and another of the same coin to the miners, at once."""
    world = settled_network(seed, 3, confirmations=confirmations)
    merchant = world.nodes[-1]
    attacker = Attacker(world)
    warm_up(world)
    attacker.pay(GOODS, [merchant.index])
    attacker.pay(BACK, [0, 1, 2])
    height = merchant.tip.height
    world.run(FOREVER_S, lambda: merchant.tip.height >= height + 8 and agreed(world.nodes[:4]))
    return merchant


def finney(seed: int, confirmations: int) -> Merchant:
    """Finney attack: a block with the payment back is found, then the merchant is paid, then it is shown."""
    world = settled_network(seed, 3, confirmations=confirmations)
    merchant = world.nodes[-1]
    attacker = Attacker(world)
    attacker.first = [BACK]
    warm_up(world)
    attacker.win()
    attacker.pay(GOODS, range(4))
    height = merchant.tip.height
    world.run(FOREVER_S, lambda: merchant.delivered_at is not None or merchant.tip.height >= height + 8)
    attacker.show()
    world.run(FOREVER_S, lambda: merchant.tip.height >= height + 10 and agreed(world.nodes[:4]))
    return merchant


class Vector76(Attacker):
    """Shows its block to the merchant alone, once the public has found another one of that height."""

    def moved(self) -> None:
        if (
            self.branch
            and self.tip.height >= self.branch[0].height
            and self.branch[0].header.hash not in self.bodies
        ):
            self.show(to=[3])
            self.pay(BACK, [0, 1, 2])


def one_confirmation(seed: int, confirmations: int) -> Merchant:
    """Vector76: a block that pays the merchant, kept back and shown to him alone when it is already lost.

    The attacker sits beside the merchant, whose other links are slow: he sees its block first.
    """
    world = settled_network(seed, 3, confirmations=confirmations)
    merchant = world.nodes[-1]
    attacker = Vector76(world)
    attacker.first = [GOODS]
    far = world.latency
    world.latency = lambda a, b: (
        0.02 if attacker.index in (a, b) else 2.0 if merchant.index in (a, b) else far(a, b)
    )
    warm_up(world)
    attacker.win()
    height = merchant.tip.height
    world.run(FOREVER_S, lambda: merchant.tip.height >= height + 8 and agreed(world.nodes[:4]))
    return merchant


# ---- by hash rate


class Rewriter(Attacker):
    """Mines its own history and shows it once it is ahead and the goods are delivered."""

    def __init__(self, world: World, share: float, *, victim: Merchant, patience: int, **given: Any) -> None:
        super().__init__(world, share, **given)
        self.first = [BACK]
        self.victim = victim
        self.patience = patience
        self.fork: Mined | None = None
        self.succeeded: bool | None = None

    def base(self) -> bytes:
        return self.chain[-1] if self.fork is None else self.fork.header.hash

    def begin(self, lead: int) -> None:
        """Fork off here with so many blocks found beforehand, and pay the merchant."""
        self.fork = self.tip
        for _ in range(lead):
            self.win()
        self.pay(GOODS, [self.victim.index])
        self.mine()

    def found(self, block: Mined) -> None:
        super().found(block)
        self.look()
        if self.succeeded:
            self.show()

    def moved(self) -> None:
        self.look()

    def look(self) -> None:
        if self.fork is None or self.succeeded is not None:
            return
        own = self.branch[-1] if self.branch else self.fork
        if self.victim.delivered_at is not None and own.work > self.tip.work and self.first == [BACK]:
            self.succeeded = True
            self.show()
        elif self.tip.height - own.height > self.patience:
            self.succeeded = False


class OnSchedule(World):
    """A world where all stamps are on schedule, so that all blocks weigh the same: the textbook's model."""

    def find(self, miner: int, parent: bytes, payments: Sequence[Payment], time_s: int) -> Mined:
        below = self.blocks[parent]
        return super().find(miner, parent, payments, below.header.time_s + self.params.pow.spacing_s)


@dataclass
class Rewritten:
    """What came of one alternative history: who found each block, in order (True: the attacker)."""

    succeeded: bool
    robbed: bool
    order: list[bool]


def rewrite(
    seed: int,
    share: float,
    confirmations: int,
    *,
    lead: int = 0,
    patience: int = 14,
    on_schedule: bool = True,
    early: bool = False,
) -> Rewritten:
    """Brute force: an attacker with ``share`` of the hash rate rewrites ``confirmations`` blocks.

    It gives up ``patience`` blocks behind. On schedule every block has the same work.
    """
    params = simulated_params(future_limit_s=7_000, half_life_s=10**6) if on_schedule else None
    world = (OnSchedule if on_schedule else World)(seed, params, latency_s=0.0)
    merchant = Merchant(world, 1 - share, confirmations=confirmations)
    attacker = Rewriter(world, share, victim=merchant, patience=patience, early=early)
    quiet, attacker.share = attacker.share, 0.0
    warm_up(world)
    attacker.share = quiet
    known = len(world.blocks)
    attacker.begin(lead)
    world.run(FOREVER_S, lambda: attacker.succeeded is not None)
    order = [block.miner == attacker.index for block in list(world.blocks.values())[known + lead :]]
    world.run(5.0)
    return Rewritten(bool(attacker.succeeded), merchant.robbed, order)


@dataclass
class Takeover:
    """Honest nodes after an attack with most of the hash rate."""

    world: World
    merchant: Merchant
    nodes: list[Node]
    attacker: Rewriter


def majority(seed: int, share: float, confirmations: int, *, checkpointed: Sequence[int] = ()) -> Takeover:
    """51 % attack on three nodes and a merchant.

    The operators of ``checkpointed`` fix the block of the payment once the merchant has delivered.
    """
    world = World(seed)
    nodes = [Node(world, (1 - share) / 3) for _ in range(3)]
    merchant = Merchant(world, confirmations=confirmations)
    attacker = Rewriter(world, share, victim=merchant, patience=10**6)
    attacker.share = 0.0
    warm_up(world)
    attacker.begin(0)
    fork = attacker.tip.height
    world.run(FOREVER_S, lambda: merchant.delivered_at is not None)
    if checkpointed:
        world.run(FOREVER_S, lambda: agreed([*nodes, merchant]))
    for index in checkpointed:
        world.nodes[index].restart({fork + 1: world.nodes[index].chain[fork + 1]})
    attacker.share = share
    attacker.mine()
    free = [node for node in (*nodes, merchant) if node.index not in checkpointed]
    world.run(FOREVER_S, lambda: all(node.spent.get(1) == BACK for node in free))
    attacker.share = 0.0
    attacker.mine()
    world.run(300.0)
    return Takeover(world, merchant, nodes, attacker)


def counterfeit(seed: int, share: float) -> Takeover:
    """Most of the hash rate behind a branch that spends a coin which was spent before the fork."""
    world = World(seed)
    nodes = [Node(world, (1 - share) / 3) for _ in range(3)]
    merchant = Merchant(world, confirmations=3)
    attacker = Rewriter(world, share, victim=merchant, patience=10**6)
    attacker.share = 0.0
    warm_up(world)
    nodes[0].on_payment(0, Payment(7, "somebody"))
    world.run(FOREVER_S, lambda: all(7 in node.spent for node in world.nodes))
    attacker.first = [Payment(7, "attacker")]
    attacker.share = share
    attacker.begin(0)
    lead = 10 * (merchant.tip.work - world.blocks[merchant.tip.header.prev_hash].work)
    world.run(
        FOREVER_S, lambda: bool(attacker.branch) and attacker.branch[-1].work > attacker.tip.work + lead
    )
    attacker.share = 0.0
    attacker.mine()
    attacker.show()
    world.run(120.0)
    return Takeover(world, merchant, nodes, attacker)


class SelfishMiner(Attacker):
    """Eyal and Sirer's strategy: shows blocks only to make others' work worthless."""

    def __init__(self, world: World, share: float) -> None:
        super().__init__(world, share)
        self.racing = False
        self.races = 0

    def found(self, block: Mined) -> None:
        self.branch.append(block)
        if self.racing:
            self.racing = False
            self.show()
            self.branch = []
        self.mine()

    def moved(self) -> None:
        """The public chain has moved, by others or by what was shown."""
        if self.branch:
            lead = self.branch[-1].height - self.tip.height
            if lead < 0:
                self.branch, self.racing = [], False
            elif self.tip not in self.branch:
                if lead == 0:
                    self.racing = True
                    self.races += 1
                shown = [block for block in self.branch if lead <= 1 or block.height <= self.tip.height]
                self.show(shown)
                if lead == 1:
                    self.branch = []
        self.mine()


@dataclass
class Selfish:
    """A selfish miner's success. ``order`` has who found each block, by node, shown or not."""

    blocks: int
    own: int
    races: int
    order: list[int]
    attacker: int

    @property
    def revenue(self) -> float:
        """Return its part of the blocks on the chain that the honest follow."""
        return self.own / self.blocks


def selfish(seed: int, share: float, blocks: int, *, honest: int = 1) -> Selfish:
    """Selfish mining against ``honest`` equal miners for so many blocks of the public chain, to a quiet end.

    The attacker hears and is heard a thousand times faster than the honest hear each other, so in a tie
    all but the finder of the honest block see its block first. Against one miner that is nobody.
    """
    world = World(seed, simulated_params(spacing_s=3_000, future_limit_s=7_000))
    for _ in range(honest):
        Node(world, (1 - share) / honest)
    attacker = SelfishMiner(world, share)
    # So short that two blocks are never on their way at once: the strategy's machine knows no other forks.
    world.latency = lambda a, b: 3e-8 if attacker.index in (a, b) else 3e-5
    world.start()
    judge = world.nodes[0]
    world.run(FOREVER_S, lambda: judge.tip.height >= blocks and not attacker.branch and agreed(world.nodes))
    chain = world.ancestry(judge.chain[-1])[1:]
    own = sum(block.miner == attacker.index for block in chain)
    order = [block.miner for block in list(world.blocks.values())[1:]]
    return Selfish(len(chain), own, attacker.races, order, attacker.index)


# ---- partitions and clocks


@dataclass
class Healed:
    """A network after a partition."""

    world: World
    light: list[Node]
    heavy: list[Node]
    lost: int
    """Blocks of the light side."""


def partition(seed: int, intervals: int, light_share: float = 0.3) -> Healed:
    """Cut two of six nodes off with ``light_share`` of the hash rate, spend one coin on both sides, heal."""
    world = World(seed)
    light = [Node(world, light_share / 2) for _ in range(2)]
    heavy = [Node(world, (1 - light_share) / 4) for _ in range(4)]
    warm_up(world)
    fork = light[0].tip.height
    world.part([0, 1])
    light[0].on_payment(1, Payment(1, "light"))
    light[0].on_payment(1, Payment(2, "light alone"))
    heavy[0].on_payment(3, Payment(1, "heavy"))
    world.run(intervals * 10.0)
    lost = max(node.tip.height for node in light) - fork
    world.part()
    world.run(FOREVER_S, lambda: agreed(world.nodes))
    world.run(FOREVER_S, lambda: agreed(world.nodes) and all(2 in node.spent for node in world.nodes))
    return Healed(world, light, heavy, lost)


class Warper(Node):
    """Stamps its blocks as a strategy says; ``limit_s`` is how far ahead of the clock it dares."""

    def __init__(self, world: World, share: float, *, strategy: str, limit_s: int, **given: Any) -> None:
        super().__init__(world, share, **given)
        self.strategy = strategy
        self.limit_s = limit_s

    def stamp(self, parent: bytes) -> int:
        late, early = self.now_s + self.limit_s, self.world.median_of(parent) + 1
        ahead = {"ahead": True, "behind": False, "zigzag": self.world.blocks[parent].height % 2 == 0}
        return late if ahead[self.strategy] else early


def warp(
    seed: int, share: float, strategy: str, intervals: int, *, limit_s: int = 100, even: bool = False
) -> tuple[int, float]:
    """Let a miner with ``share`` lie about time for so many intervals.

    Returns the height of the honest node's chain and the liar's part of its blocks. ``even`` takes chance
    out and is for shares of 0 and 1, where nobody races.
    """
    world = World(seed, latency_s=0.02, even=even)
    honest = Node(world, 1 - share)
    liar = Warper(world, share, strategy=strategy, limit_s=limit_s)
    world.start()
    world.run(intervals * 10.0)
    chain = world.ancestry(honest.chain[-1])[1:]
    return len(chain), sum(block.miner == liar.index for block in chain) / max(1, len(chain))
