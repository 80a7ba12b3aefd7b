"""Seeded histories: chaos (swarm options per seed) and phase cuts (one phase of a term reaches few)."""

from random import Random
from typing import Any

from consensus.bft.quorum import faults
from consensus.bft.types import (
    Committed,
    CommitVote,
    Message,
    Prepared,
    Propose,
    Validated,
)
from tests.simulation.cluster import Cluster
from tests.simulation.traces import term_of
from tests.simulation.villains import STRATEGIES, Villain

PHASES = (Propose, Validated, Prepared, CommitVote, Committed)


def chaos(n: int, seed: int, gst_ms: int = 1_500, tail_ms: int = 12_000) -> Cluster:
    """Anything goes until ``gst_ms``; then the network behaves and everybody must commit again."""
    rng = Random(seed)
    cluster = Cluster(n, seed, through_codec=rng.random() < 0.1, observers=rng.randint(0, 1))
    cluster.delays_ms = (1, rng.choice((20, 200, 800)))
    cluster.drop = rng.choice((0.0, 0.02, 0.1, 0.3))
    cluster.duplicate = rng.choice((0.0, 0.05))
    cluster.crash_rate = rng.choice((0.0, 0.0, 0.002, 0.01))
    for index in rng.sample(range(n), rng.randint(0, faults(n))):
        strategies = tuple(rng.sample(STRATEGIES, rng.randint(1, 3)))
        Villain(cluster.nodes[index], strategies, Random(rng.random()))
    if rng.random() < 0.3:
        for index in range(n):
            cluster.rates[index] = (rng.randint(80, 120), rng.randint(0, 10_000))
    cluster.start()
    cluster.work(rng.choice((0, 5, 100)))
    for _ in range(rng.randint(0, 3)):
        _disturb(cluster, rng, gst_ms)
    cluster.run(gst_ms)
    settle(cluster, tail_ms)
    return cluster


def twins(n: int, seed: int, cut_ms: int = 2_500, tail_ms: int = 12_000) -> Cluster:
    """f validators run twice with one key; who sees which instance changes all the time."""
    rng = Random(seed)
    cluster = Cluster(n, seed)
    for index in rng.sample(range(n), faults(n)):
        cluster.add_twin(index)
    if rng.random() < 0.5:
        cluster.filters = [PhaseCuts(cluster, rng, cut_ms)]

    regroup(cluster, rng, cut_ms)
    cluster.start()
    cluster.work(100)
    cluster.run(cut_ms)
    settle(cluster, tail_ms)
    return cluster


def regroup(cluster: Cluster, rng: Random, cut_ms: int) -> None:
    """Split the network anew, or heal it, again and again until ``cut_ms``."""
    if cluster.now >= cut_ms:
        return
    sides = [rng.randint(0, 1) for _ in cluster.nodes]
    size = range(len(sides))
    cluster.blocked = {(a, b) for a in size for b in size if sides[a] != sides[b] and a != b}
    if rng.random() < 0.4:
        cluster.blocked = set()
    cluster.at(rng.randint(50, 500), lambda: regroup(cluster, rng, cut_ms))


def _disturb(cluster: Cluster, rng: Random, within_ms: int) -> None:
    """Plan a partition or a crash somewhere before GST."""
    at_ms = rng.randint(0, within_ms)
    if rng.random() < 0.6:
        side = tuple(rng.sample(range(cluster.n), rng.randint(1, cluster.n)))
        other = tuple(index for index in range(cluster.n) if index not in side)
        both = rng.random() < 0.7

        def cut() -> None:
            cluster.blocked |= {(a, b) for a in side for b in other}
            if both:
                cluster.blocked |= {(b, a) for a in side for b in other}

        cluster.at(at_ms, cut)
        cluster.at(at_ms + rng.randint(100, 1_000), lambda: setattr(cluster, "blocked", set()))
    else:
        victims = rng.sample(cluster.nodes, rng.randint(1, len(cluster.nodes)))

        def strike() -> None:
            for node in victims:
                if node.up:
                    cluster.crashed(node)

        cluster.at(at_ms, strike)


def settle(cluster: Cluster, limit_ms: int) -> None:
    """GST: heal everything, then every honest node must commit two new blocks in time."""
    cluster.heal()
    for node in cluster.nodes:
        if not node.up:
            node.start()
    top = max(cluster.heights())
    cluster.reach(top + 2, limit_ms)


class PhaseCuts:
    """Per term: from the k-th block on, one phase reaches only a subset; the rest is lost or late."""

    def __init__(
        self,
        cluster: Cluster,
        rng: Random,
        until_ms: int,
        late_ms: tuple[int | None, ...] = (None, 40, 400),
    ) -> None:
        self.cluster = cluster
        self.late_ms = late_ms
        self.rng = rng
        self.until_ms = until_ms
        self.plans: dict[int, Any] = {}
        self.struck: set[int] = set()

    def _plan(self, term: int) -> Any:
        if term not in self.plans:
            rng = self.rng
            chosen = frozenset(rng.sample(range(self.cluster.n), rng.randint(0, self.cluster.n - 1)))
            self.plans[term] = (
                rng.choice(PHASES),
                chosen,
                rng.randint(0, 3),
                rng.choice(self.late_ms),
                set(),
            )
        return self.plans[term]

    def __call__(self, source: Any, target: Any, message: Message) -> int | None:
        if self.cluster.now > self.until_ms:
            return 0
        term = term_of(message)
        phase, chosen, skip, late, heights = self._plan(term)
        if not isinstance(message, PHASES):
            return 0
        if term in self.struck and not isinstance(message, phase):
            return self._lost(late)
        if isinstance(message, phase):
            heights.add(message.qc.height if isinstance(message, Prepared | Committed) else message.height)
            if len(heights) > skip:
                self.struck.add(term)
                if target.index not in chosen:
                    return self._lost(late)
        return 0

    def _lost(self, late: int | None) -> int | None:
        return None if late is None else self.rng.randint(40, 40 + late)


def phase_cuts(n: int, seed: int, cut_ms: int = 2_500, tail_ms: int = 12_000) -> Cluster:
    """Commits that one node knows, locks that few hold, bodies that are scarce: then leaders change."""
    rng = Random(seed)
    cluster = Cluster(n, seed)
    cluster.crash_rate = rng.choice((0.0, 0.0, 0.002))
    cluster.restart_ms = (20, 300)
    for index in rng.sample(range(n), rng.randint(0, faults(n))):
        strategies = tuple(rng.sample(("double", "stale", "equivocate", "sibling", "selective"), 2))
        Villain(cluster.nodes[index], strategies, Random(rng.random()))
    cluster.filters = [PhaseCuts(cluster, rng, cut_ms)]
    cluster.start()
    cluster.work(rng.choice((5, 100)))
    cluster.run(cut_ms)
    settle(cluster, tail_ms)
    return cluster


def coups(n: int, seed: int, cut_ms: int = 4_000, tail_ms: int = 12_000) -> Cluster:
    """As phase cuts, but a leader falls as soon as one phase was cut, and f villains lead against EC.high."""
    rng = Random(seed)
    cluster = Cluster(n, seed)
    for index in rng.sample(range(n), faults(n)):
        Villain(cluster.nodes[index], (rng.choice(("sibling", "extend")), "stale"), Random(rng.random()))
    cluster.filters = [PhaseCuts(cluster, rng, cut_ms, late_ms=(None,))]
    cluster.start()
    cluster.work(100)
    cluster.run(cut_ms)
    settle(cluster, tail_ms)
    return cluster
