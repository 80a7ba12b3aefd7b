"""Restarts of a consortium: the survivors' highest certificate keeps all that was ever final.

Histories of real engines end with a catastrophe. The survivors are as few as may restart a chain, and those
that know least: everybody who is ahead is lost.
"""

from collections.abc import Iterator
from random import Random

import pytest

from consensus.bft import wal
from consensus.bft.quorum import quorum
from consensus.bft.state import restore
from consensus.bft.types import QC
from consensus.restart import needed_signers
from tests.simulation.cluster import Cluster, Node
from tests.simulation.histories import PhaseCuts

SEEDS = range(40)


def catastrophe(n: int, seed: int) -> Cluster:
    """A network in which phases of terms reach few, ended in mid-work; disks keep what was synced."""
    rng = Random(seed)
    cluster = Cluster(n, seed)
    end_ms = rng.randint(300, 1_500)
    cluster.delays_ms = (1, rng.choice((5, 20, 60)))
    cluster.drop = rng.choice((0.0, 0.05, 0.2))
    cluster.filters = [PhaseCuts(cluster, rng, end_ms)]
    cluster.start()
    cluster.work(100)
    cluster.run(end_ms)
    for node in cluster.nodes:
        node.crash()
    return cluster


def highest(node: Node) -> QC:
    """What a stopped node reports (``node.restarts.Survivor.highest``)."""
    records = [wal.decode_record(kind, payload) for kind, payload in node.disk.records]
    state = restore(node.config, records, node._tip(), list(node.disk.bodies.values()))
    return state.lock if state.lock.rank > state.commit_qc.rank else state.commit_qc


def chain_to(cluster: Cluster, block_hash: bytes) -> Iterator[bytes]:
    parents = {}
    for node in cluster.nodes:
        parents |= {key: proposal.parent for key, (_, proposal) in node.volatile.items()}
        parents |= {key: proposal.parent for key, proposal, _ in node.disk.blocks}
    while block_hash in parents:
        yield block_hash
        block_hash = parents[block_hash]


def lost_blocks(cluster: Cluster, survivors: list[Node], *, only_final: bool = False) -> set[bytes]:
    """Return the blocks that were final somewhere and are not on the chain that the survivors go on from."""
    known = [node._tip().qc if only_final else highest(node) for node in survivors]
    kept = set(chain_to(cluster, max(known, key=lambda qc: qc.rank).block_hash))
    final = {block_hash for node in cluster.nodes for block_hash, _, _ in node.disk.blocks}
    return final - kept


def least_knowing(cluster: Cluster, count: int) -> list[Node]:
    return sorted(cluster.nodes, key=lambda node: (highest(node).rank, node.height))[:count]


@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_nothing_final_is_lost(n):
    beyond = 0
    for seed in SEEDS:
        cluster = catastrophe(n, seed)
        survivors = least_knowing(cluster, needed_signers(n))
        assert not lost_blocks(cluster, survivors), f"n {n}, seed {seed}"
        beyond += max(cluster.heights()) > max(node.height for node in survivors)
    assert beyond >= len(SEEDS) // 20, "no history in which the lost knew more"


@pytest.mark.parametrize("n", [4, 5, 6, 7, 9])
def test_one_survivor_fewer_may_know_nothing_of_what_was_final(n):
    """A bare quorum went on alone and is lost. That is why with 6 or 9 validators f + 1 are not enough."""
    cluster = Cluster(n, 1)
    alone = tuple(range(quorum(n)))
    cluster.partition(alone, tuple(range(quorum(n), n)))
    cluster.start()
    cluster.work(100)
    cluster.run(3_000)
    for node in cluster.nodes:
        node.crash()
    few = least_knowing(cluster, needed_signers(n) - 1)
    assert {node.index for node in few}.isdisjoint(alone)
    assert max(cluster.heights()) > 0
    assert lost_blocks(cluster, few)
    assert not lost_blocks(cluster, least_knowing(cluster, needed_signers(n)))


@pytest.mark.parametrize("n", [4, 7])
def test_their_final_blocks_alone_would_lose_what_was_final(n):
    lost = []
    for seed in SEEDS:
        cluster = catastrophe(n, seed)
        if lost_blocks(cluster, least_knowing(cluster, needed_signers(n)), only_final=True):
            lost.append(seed)
    assert lost
