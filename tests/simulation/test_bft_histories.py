"""Hundreds of seeded histories of whole clusters: never a fork, and progress after the network heals.

A failure names its seed: ``chaos(n, seed)`` or ``phase_cuts(n, seed)`` replays it.
"""

import pytest

from consensus.bft.config import SCHNORR
from tests.simulation.cluster import Cluster
from tests.simulation.histories import chaos, phase_cuts, twins
from tests.simulation.pool import Pool


def replay(history, n, seeds):
    for seed in seeds:
        try:
            history(n, seed)
        except Exception as error:
            raise AssertionError(f"{history.__name__}({n}, {seed})") from error


@pytest.mark.parametrize(("n", "count"), [(1, 20), (2, 10), (3, 10), (4, 60), (5, 15), (7, 15), (10, 6)])
def test_chaos(n, count):
    replay(chaos, n, range(1_000 * n, 1_000 * n + count))


@pytest.mark.parametrize(("n", "count"), [(4, 30), (5, 10), (7, 10)])
def test_phase_cuts(n, count):
    replay(phase_cuts, n, range(1_000 * n, 1_000 * n + count))


@pytest.mark.parametrize(("n", "count"), [(4, 20), (7, 8)])
def test_twins(n, count):
    replay(twins, n, range(1_000 * n, 1_000 * n + count))


def pool(n, seed):
    Pool(n, seed).run(120)


@pytest.mark.parametrize(("n", "count"), [(4, 150), (5, 40), (7, 40)])
def test_adversarial_pool(n, count):
    replay(pool, n, range(2_000_000, 2_000_000 + count))


def test_the_pool_reaches_what_it_is_for():
    """An adversary that never gets a block certified or a leader deposed would prove nothing."""
    certified = terms = 0
    for seed in range(40):
        world = Pool(4, seed)
        world.run(120)
        certified += len(world.certified)
        terms += max(node.state.cur_term for node in world.honest)
    assert certified > 80
    assert terms > 120


def test_with_real_signatures_and_encoded_messages():
    cluster = Cluster(4, 11, scheme=SCHNORR, through_codec=True)
    cluster.drop = 0.05
    cluster.start()
    cluster.work(5)
    cluster.run(1_000)
    cluster.nodes[1].crash()
    cluster.run(500)
    cluster.heal()
    cluster.nodes[1].start()
    cluster.reach(max(cluster.heights()) + 3, 5_000)
    assert not any(node.misbehaviours for node in cluster.nodes)


def test_a_large_set():
    cluster = Cluster(21, 3)
    cluster.start()
    cluster.work(100)
    cluster.reach(20, 5_000)
    first = cluster.leader().index
    for index in range(6):
        cluster.nodes[(first + index) % 21].crash()
    cluster.reach(30, 8_000, [node for node in cluster.nodes if node.up])
