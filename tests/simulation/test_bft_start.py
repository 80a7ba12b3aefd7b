"""Starts with a disk that went back in time, and starts of nodes whose disk did not (section 2.7)."""

import copy

import pytest

from consensus.bft import starting
from consensus.bft.types import Ask, Propose, Report
from tests.simulation.cluster import Cluster, Disk
from tests.simulation.invariants import Violation
from tests.simulation.mutants import removed
from tests.simulation.test_bft_scenarios import STEADY, others, running


def restored(seed, backup_at, ahead, *, n=4, wiped=False):
    """A follower comes back with an old disk; then the leader falls before it has heard anything new.

    Its vote in the next election would carry a lock below what it voted to commit.
    """
    cluster = running(n=n, seed=seed, height=backup_at)
    victim = others(cluster, cluster.leader())[seed % (n - 1)]
    backup = Disk() if wiped else copy.deepcopy(victim.disk)
    cluster.reach(backup_at + ahead, 4_000)
    victim.crash()
    cluster.run(100)
    cluster.monitor.expect_learners.add(victim.index)
    cluster.monitor.restored.add(victim.index)
    leader = cluster.leader()
    cluster.filters = [lambda source, target, m: None if target is victim and isinstance(m, Propose) else 0]
    victim.disk = backup
    cluster.tracing = True
    victim.start()
    cluster.run_until(lambda: not victim.state.asking, 1_000)
    leader.crash()
    cluster.run(1_500)
    cluster.filters = []
    leader.start()
    cluster.reach(max(cluster.heights()) + 3, 8_000, others(cluster, victim))
    return cluster, victim


@pytest.mark.parametrize("seed", range(6))
def test_a_log_from_a_backup_makes_a_learner_that_follows(seed):
    """No statement of its second life contradicts one of its first: the monitor remembers them all."""
    cluster, victim = restored(seed, 5, 12)
    assert victim.state.learner is not None
    assert {type(m) for _, source, _, m in cluster.trace if source == victim.index} == {Ask}
    cluster.reach(max(cluster.heights()), 4_000, [victim])
    victim.crash()
    victim.start()
    cluster.run(500)
    assert victim.state.config.me is None


@pytest.mark.parametrize("seed", range(6))
def test_a_wiped_disk_is_found_out(seed):
    cluster, victim = restored(seed, 5, 12, wiped=True)
    assert victim.state.learner is not None
    cluster.reach(max(cluster.heights()), 4_000, [victim])


def question_ignored(patch):
    """Answers are counted and not read."""
    patch(starting, "_lacks", lambda s, shown: False)
    patch(starting, "_lacks_grant", lambda s, given: False)
    patch(starting, "retire_if_signed", lambda turn, qc: False)


def test_without_the_question_a_backup_breaks_its_own_promises():
    caught = []
    with removed(question_ignored):
        for seed in range(6):
            try:
                restored(seed, 5, 12)
            except Violation as violation:
                caught.append(str(violation).split(";")[0])
    assert len(caught) >= 3
    assert any("shows a lock below a commit vote that left" in told for told in caught)


def question_before_votes_dropped(patch):
    """A validator signs while it waits for answers."""
    original = starting.start

    def start(turn, session):
        original(turn, session)
        turn.s.asking = False
        starting.terms.begin(turn)

    patch(starting, "start", start)


def test_without_waiting_for_the_answers_a_backup_breaks_its_own_promises():
    caught = 0
    with removed(question_before_votes_dropped):
        for seed in range(6):
            cluster = running(seed=seed, height=5)
            leader = cluster.leader()
            victim = others(cluster, leader)[0]
            backup = copy.deepcopy(victim.disk)
            cluster.reach(17, 4_000)
            victim.crash()
            cluster.monitor.expect_learners.add(victim.index)
            cluster.monitor.restored.add(victim.index)
            cluster.filters = [
                lambda source, target, m, victim=victim: (
                    None if target is victim and isinstance(m, Propose | Report) else 0
                )
            ]
            victim.disk = backup
            leader.crash()
            victim.start()
            try:
                cluster.run(2_000)
            except Violation:
                caught += 1
    assert caught >= 3


# --- nobody is kept from voting without need ----------------------------------------------------


def test_a_late_founder_votes_once_it_has_caught_up():
    """An empty log at a height of the network: a new node is no wiped one."""
    cluster = Cluster(4, 3, timing=STEADY)
    late = cluster.nodes[2]
    cluster.start(0, 1, 3)
    cluster.work(100)
    cluster.reach(30, 6_000, others(cluster, late))
    late.start()
    cluster.run_until(lambda: late.state.val.height > 30, 2_000)
    assert late.state.learner is None


def test_one_restart_of_four_votes_again_within_a_second():
    cluster = running()
    node = others(cluster, cluster.leader())[0]
    node.crash()
    cluster.run(300)
    before = node.state.val.height
    node.start()
    cluster.run_until(lambda: not node.state.asking and node.state.val.height > before, 1_000)


def test_exactly_a_quorum_goes_on_after_a_restart():
    cluster = running()
    gone = others(cluster, cluster.leader())[0]
    gone.crash()
    for node in others(cluster, gone):
        node.crash()
        cluster.run(50)
        node.start()
        cluster.run(50)
    cluster.reach(max(cluster.heights()) + 3, 6_000, others(cluster, gone))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_a_whole_network_starts_and_restarts_together(n):
    cluster = running(n=n)
    for _ in range(3):
        for node in cluster.nodes:
            node.crash()
        cluster.start()
        cluster.reach(max(cluster.heights()) + 2, 4_000)


def test_a_liar_neither_stops_nor_retires_a_node():
    """One peer answers with a height that nobody reached, and with nothing at all."""
    cluster = Cluster(4, 3, timing=STEADY)
    cluster.start(0, 1, 3)
    cluster.work(100)
    cluster.reach(10, 6_000, [cluster.nodes[index] for index in (0, 1, 3)])

    def lie(source, target, message):
        if isinstance(message, Report) and source.index == 0:
            object.__setattr__(message, "committed_height", 10**6)
            object.__setattr__(message, "statements", ())
        return 0

    cluster.filters = [lie]
    cluster.nodes[2].start()
    cluster.run_until(lambda: cluster.nodes[2].state.val.height > 10, 2_000)
