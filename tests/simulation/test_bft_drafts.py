"""Errors of the protocol's own drafts, put back in: a history stalls with the error and goes on without.

CONSENSUS.md, section 5.4: a proof of the term that was not kept, a term without a leader that waited as long
as one with a leader, and shuffles that did not know of each other.
"""

import pytest

from consensus.bft import slots, terms
from consensus.bft.config import Timing
from consensus.bft.quorum import faults
from consensus.bft.types import Proof, RequestVote
from tests.simulation import cluster as cluster_module
from tests.simulation.cluster import Cluster

STEADY = Timing(400, 40, 300, 60, 50, 50, 0, 5)


def two_and_two(seed):
    """Two nodes reach a term that the other two never hear of; then all restart at once, network healed."""
    cluster = Cluster(4, seed, timing=STEADY)
    cluster.start()
    cluster.work(100)
    cluster.reach(5, 3_000)
    ahead, behind = cluster.nodes[:2], cluster.nodes[2:]
    cluster.filters = [
        lambda source, target, m: None if source in ahead and target in behind else 0,
        lambda source, target, m: None if isinstance(m, RequestVote | Proof) else 0,
    ]
    leader = cluster.leader()
    leader.pause()
    cluster.run(1_500)
    leader.resume()
    cluster.run_until(
        lambda: (
            min(n.state.cur_term for n in ahead) > max(n.state.cur_term for n in behind)
            and all(node.disk.records for node in cluster.nodes)
        ),
        20_000,
    )
    for node in cluster.nodes:
        for save in node.unsynced:
            node._save(save)
        node.unsynced = []
        node.crash()
    cluster.heal()
    cluster.start()
    return cluster


def test_a_term_is_kept_with_its_proof():
    cluster = two_and_two(3)
    cluster.reach(max(cluster.heights()) + 3, 8_000)


def test_without_its_proof_a_restart_of_all_dead_locks(monkeypatch):
    restore = cluster_module.restore

    def forgetful(*arguments):
        state = restore(*arguments)
        state.proof = None
        return state

    monkeypatch.setattr(cluster_module, "restore", forgetful)
    cluster = two_and_two(3)
    cluster.monitor.charges = False
    top = max(cluster.heights())
    cluster.run(20_000)
    assert max(cluster.heights()) == top


def length_of_an_empty_term():
    """How long all stay in a term in which nobody can be elected, milliseconds."""
    cluster = Cluster(4, 1, timing=STEADY)
    cluster.filters = [lambda source, target, m: None if isinstance(m, RequestVote) and m.term == 1 else 0]
    cluster.start()
    cluster.run_until(lambda: min(node.state.cur_term for node in cluster.nodes) == 2, 10_000)
    return cluster.now


def test_a_term_without_a_leader_ends_early(monkeypatch):
    early = length_of_an_empty_term()
    monkeypatch.setattr(terms, "elect_ms", lambda s: terms.progress_ms(s) + s.config.timing.idle_interval_ms)
    assert 2 * early < length_of_an_empty_term()


def longest_run(firsts, byzantine):
    longest = run = 0
    for first in firsts:
        run = run + 1 if first in byzantine else 0
        longest = max(longest, run)
    return longest


@pytest.mark.parametrize("n", [4, 7, 10, 21])
def test_rotation_bounds_the_terms_in_a_row_that_byzantine_nodes_lead(n):
    """At most 2f, across the border of two cycles."""
    seed = bytes(31) + bytes([n])
    firsts = [slots.order(seed, term, n)[0] for term in range(400 * n)]
    assert longest_run(firsts, set(range(faults(n)))) <= 2 * faults(n)


@pytest.mark.parametrize("n", [4, 7])
def test_a_shuffle_for_each_term_has_no_bound(n):
    seed = bytes(31) + bytes([n])
    firsts = [slots.permutation(seed, term, n)[0] for term in range(400 * n)]
    assert longest_run(firsts, set(range(faults(n)))) > 2 * faults(n)
