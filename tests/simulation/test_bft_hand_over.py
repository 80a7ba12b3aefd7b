"""Seeded histories in which the validators change, and what a removed rule of the hand-over breaks."""

import pytest

from consensus.bft.types import Commit
from tests.simulation.cluster import Cluster
from tests.simulation.round_histories import chaos_rounds, cut_rounds, lone_rounds, pool_rounds, twin_rounds
from tests.simulation.round_mutants import ROUND_MUTANTS, hunt
from tests.simulation.score import LAYERS


@pytest.mark.parametrize(
    ("history", "n", "count"),
    [
        (chaos_rounds, 4, 12),
        (chaos_rounds, 5, 4),
        (chaos_rounds, 7, 4),
        (cut_rounds, 4, 14),
        (cut_rounds, 7, 4),
        (lone_rounds, 4, 8),
        (lone_rounds, 7, 2),
        (twin_rounds, 4, 8),
        (twin_rounds, 7, 2),
        (pool_rounds, 4, 80),
        (pool_rounds, 7, 20),
    ],
)
def test_no_fork_and_every_round_is_reached(history, n, count):
    for seed in range(1_000 * n, 1_000 * n + count):
        try:
            history(n, seed)
        except Exception as error:
            raise AssertionError(f"{history.__name__}({n}, {seed})") from error


def test_the_histories_reach_what_they_are_for():
    """Sets that change in part, wholly and in order alone; certificates of two terms for one last block."""
    kept: set[int] = set()
    terms = set()
    rounds = 0
    for seed in range(20):
        cluster = lone_rounds(4, seed) if seed % 2 else chaos_rounds(4, seed)
        rounds += len(cluster.committees.changes)
        for number in range(len(cluster.committees.changes)):
            before, after = (set(cluster.committees.members(number + at)) for at in (0, 1))
            kept.add(len(before & after))
        for height in cluster.committees.changes:
            terms.add(len({node.disk.blocks[height - 1][2].term for node in cluster.honest}))
    assert rounds > 40
    assert kept >= {0, 1, 2, 3, 4}
    assert terms >= {1, 2}


@pytest.mark.parametrize("name", ROUND_MUTANTS)
def test_a_mutant_of_the_hand_over_dies(name):
    found = [hunt(name, layer, 120) for layer in LAYERS]
    assert any(found)


def test_a_history_follows_from_its_seed():
    def told(seed):
        cluster = chaos_rounds(4, seed)
        return cluster.steps, cluster.now, [node.disk.blocks[-1][0] for node in cluster.nodes]

    assert told(7) == told(7)


def test_nothing_of_the_old_engine_is_carried_out_behind_its_last_commit():
    """Effects of one step behind the commit of the last block are void; the log names the new round first."""
    cluster = Cluster(4, 3, spares=1)
    cluster.change_at(3, (4, 1, 2, 3))
    performed = []
    node = cluster.nodes[1]
    original = node.perform
    node.perform = lambda effect: (performed.append((node.round, effect)), original(effect))[1]
    cluster.start()
    cluster.work(100)
    cluster.reach(8, 4_000)
    at = [
        number
        for number, (_, effect) in enumerate(performed)
        if isinstance(effect, Commit) and effect.height == 3
    ]
    assert len(at) == 1
    assert {number for number, _ in performed[: at[0] + 1]} == {0}
    assert {number for number, _ in performed[at[0] + 1 :]} == {1}
    assert cluster.nodes[0].config.me is None
    assert cluster.nodes[4].config.me == 0
