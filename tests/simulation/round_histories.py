"""Seeded histories in which the validators change, with faults around each change."""

from random import Random
from typing import Any

from consensus.bft.quorum import faults
from consensus.bft.types import Committed, Message
from tests.simulation.cluster import Cluster
from tests.simulation.committees import Members
from tests.simulation.histories import PhaseCuts, regroup, settle
from tests.simulation.pool import POOL_MOVES, Pool
from tests.simulation.villains import STRATEGIES, Villain

SPARES = 4
MARKS = ("double", "stale", "equivocate", "sibling", "selective", "overrun", "extend")


def plan(cluster: Cluster, rng: Random, villains: tuple[int, ...], rounds: int, first: int) -> None:
    """Change the set at heights from ``first`` on: some replaced, or only the order, or one more or less."""
    height = first
    members: Members = tuple(range(cluster.n))
    for _ in range(rounds):
        members = _next_members(cluster, rng, villains, members)
        cluster.change_at(height, members)
        height += rng.choice((1, 2, 2, 4, 7, 12))


def _next_members(cluster: Cluster, rng: Random, villains: tuple[int, ...], members: Members) -> Members:
    size = min(max(4, len(members) + rng.choice((-1, 0, 0, 1))), cluster.n + SPARES)
    bad = [key for key in villains if rng.random() < 0.7][: faults(size)]
    good = [key for key in range(cluster.n + SPARES) if key not in villains]
    kept = [key for key in members if key in good]
    rng.shuffle(kept)
    rng.shuffle(good)
    gone = rng.choice((0, 0, 1, 2, len(kept)))
    good.sort(key=lambda key: key in members)  # newcomers first
    honest = list(dict.fromkeys([*kept[gone:], *good]))[: size - len(bad)]
    chosen = [*honest, *bad]
    rng.shuffle(chosen)
    return tuple(chosen)


def chaos_rounds(n: int, seed: int, gst_ms: int = 2_500, tail_ms: int = 12_000) -> Cluster:
    """Anything goes while validators change; then the network behaves and everybody must commit again."""
    rng = Random(seed)
    cluster = Cluster(n, seed, through_codec=rng.random() < 0.1, observers=rng.randint(0, 1), spares=SPARES)
    villains = tuple(rng.sample(range(n + SPARES), rng.randint(0, faults(n))))
    while sum(key < n for key in villains) > faults(n):
        villains = villains[1:]
    for key in villains:
        Villain(cluster.nodes[key], tuple(rng.sample(STRATEGIES, rng.randint(1, 3))), Random(rng.random()))
    plan(cluster, rng, villains, rng.randint(1, 4), rng.randint(1, 12))
    cluster.delays_ms = (1, rng.choice((20, 100, 400)))
    cluster.drop = rng.choice((0.0, 0.02, 0.1, 0.3))
    cluster.duplicate = rng.choice((0.0, 0.05))
    cluster.crash_rate = rng.choice((0.0, 0.0, 0.002, 0.01))
    cluster.boundary_crash_rate = rng.choice((0.0, 0.2, 0.5))
    late = [key for key in range(n, n + SPARES) if rng.random() < 0.3]
    cluster.start(*(node.index for node in cluster.nodes if node.index not in late))
    cluster.work(rng.choice((0, 5, 100)))
    for key in late:
        cluster.at(
            rng.randint(0, gst_ms), lambda key=key: cluster.nodes[key].up or cluster.nodes[key].start()
        )
    for _ in range(rng.randint(0, 3)):
        _disturb(cluster, rng, gst_ms)
    cluster.run(gst_ms)
    finish(cluster, tail_ms)
    return cluster


def cut_rounds(n: int, seed: int, cut_ms: int = 2_500, tail_ms: int = 12_000) -> Cluster:
    """Few know a commit, few hold a lock, and then the validators change."""
    rng = Random(seed)
    cluster = Cluster(n, seed, spares=SPARES)
    villains = tuple(rng.sample(range(n), rng.randint(0, faults(n))))
    for key in villains:
        Villain(cluster.nodes[key], tuple(rng.sample(MARKS, 2)), Random(rng.random()))
    plan(cluster, rng, villains, rng.randint(1, 5), rng.randint(1, 4))
    cluster.crash_rate = rng.choice((0.0, 0.0, 0.002))
    cluster.boundary_crash_rate = rng.choice((0.0, 0.0, 0.3))
    cluster.restart_ms = (20, 300)
    cluster.filters = [PhaseCuts(cluster, rng, cut_ms)]
    cluster.start()
    cluster.work(rng.choice((5, 100)))
    cluster.run(cut_ms)
    finish(cluster, tail_ms)
    return cluster


def lone_rounds(n: int, seed: int, cut_ms: int = 4_000, tail_ms: int = 12_000) -> Cluster:
    """Whoever is first to commit the last block of a round is cut off or falls before anybody hears of it.

    The others commit the same block under another certificate, of a later term.
    """
    rng = Random(seed)
    cluster = Cluster(n, seed, spares=SPARES)
    for key in rng.sample(range(n), rng.choice((0, 0, faults(n)))):
        Villain(cluster.nodes[key], (rng.choice(MARKS),), Random(rng.random()))
    villains = tuple(node.index for node in cluster.nodes if node.villain is not None)
    plan(cluster, rng, villains, rng.randint(1, 4), rng.randint(1, 4))
    told: dict[int, int] = {}

    def hush(source: Any, target: Any, message: Message) -> int | None:
        if cluster.now > cut_ms or not isinstance(message, Committed):
            return 0
        height = message.qc.height
        if height not in cluster.committees.changes or told.setdefault(height, source.index) != source.index:
            return 0
        return None

    def alone(node: Any) -> None:
        if cluster.now > cut_ms or told.setdefault(node.height, node.index) != node.index:
            return
        if rng.random() < 0.3:
            cluster.at(0, lambda: node.up and cluster.crashed(node))
            return
        others = [other.index for other in cluster.nodes if other is not node]
        cluster.partition((node.index,), tuple(others))
        cluster.at(rng.randint(200, 2_000), lambda: setattr(cluster, "blocked", set()))

    cluster.filters = [hush]
    cluster.at_boundary = alone
    cluster.restart_ms = (500, 2_000)
    cluster.start()
    cluster.work(100)
    cluster.run(cut_ms)
    finish(cluster, tail_ms)
    return cluster


def twin_rounds(n: int, seed: int, cut_ms: int = 2_500, tail_ms: int = 12_000) -> Cluster:
    """f validators run twice, in whatever rounds they have a seat; the network splits anew all the time."""
    rng = Random(seed)
    cluster = Cluster(n, seed, spares=SPARES)
    doubled = tuple(rng.sample(range(n), faults(n)))
    for key in doubled:
        cluster.add_twin(key)
    plan(cluster, rng, doubled, rng.randint(1, 4), rng.randint(1, 6))
    cluster.boundary_crash_rate = rng.choice((0.0, 0.2))
    regroup(cluster, rng, cut_ms)
    cluster.start()
    cluster.work(100)
    cluster.run(cut_ms)
    finish(cluster, tail_ms)
    return cluster


def pool_rounds(n: int, seed: int) -> None:
    """One schedule of the adversarial pool in a round that ends at height 1, 2 or 3."""
    Pool(n, seed, last=1 + seed % 3).run(POOL_MOVES)


def finish(cluster: Cluster, limit_ms: int) -> None:
    """Heal, go on, and let every round that is planned be reached: all its members vote."""
    settle(cluster, limit_ms)
    last = max(cluster.committees.changes)
    cluster.reach(last + 2, limit_ms)
    for node in cluster.honest:
        if node.round != len(cluster.committees.changes):
            raise AssertionError(f"node {node.index} is left in round {node.round}")


def _disturb(cluster: Cluster, rng: Random, within_ms: int) -> None:
    """Plan a partition, or the fall of some, somewhere before the end or right at a change."""
    everybody = range(len(cluster.nodes))
    side = tuple(rng.sample(everybody, rng.randint(1, len(everybody))))
    other = tuple(index for index in everybody if index not in side)
    both, falls = rng.random() < 0.7, rng.random() < 0.4
    heal_ms = rng.randint(100, 1_000)

    def strike() -> None:
        if falls:
            for index in side:
                if cluster.nodes[index].up:
                    cluster.crashed(cluster.nodes[index])
            return
        cluster.blocked |= {(a, b) for a in side for b in other}
        if both:
            cluster.blocked |= {(b, a) for a in side for b in other}
        cluster.at(heal_ms, lambda: setattr(cluster, "blocked", set()))

    if rng.random() < 0.5:
        cluster.at(rng.randint(0, within_ms), strike)
        return
    height = rng.choice(list(cluster.committees.changes))

    def watch() -> None:
        if max(cluster.heights()) >= height:
            strike()
        elif cluster.now < within_ms:
            cluster.at(10, watch)

    cluster.at(0, watch)
