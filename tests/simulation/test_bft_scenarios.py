"""Named histories: the faults that broke other systems, one test each (CONSENSUS.md, section 5.5)."""

import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from consensus.bft.config import Timing
from consensus.bft.types import (
    Committed,
    PreVote,
    Propose,
    RequestVote,
    TimerFired,
    Validated,
    VoteGranted,
)
from tests.simulation.cluster import TIMING, Cluster
from tests.simulation.traces import describe
from tests.simulation.villains import Villain

STEADY = Timing(
    progress_timeout_ms=400,
    slot_step_ms=40,
    idle_interval_ms=300,
    block_interval_ms=60,
    retransmit_ms=50,
    min_batch_txs=50,
    tenure_blocks=0,
    kmax=5,
)
"""As the others, without planned rotation."""

GOLDEN = Path(__file__).with_name("golden") / "happy_path.txt"


def running(n=4, seed=1, height=5, timing=STEADY, **options):
    """A cluster with work that has committed ``height`` blocks everywhere."""
    cluster = Cluster(n, seed, timing=timing, **options)
    cluster.start()
    cluster.work(100)
    cluster.reach(height, 3_000)
    return cluster


def others(cluster, *out):
    gone = {node.index for node in out}
    return [node for node in cluster.nodes if node.index not in gone]


def test_1_happy_path_is_the_golden_trace():
    """WATTD_GOLDEN=1 rewrites the trace: do so once you understand the change."""
    cluster = Cluster(4, 5, timing=STEADY)
    cluster.delays_ms, cluster.shell_ms, cluster.tracing = (2, 2), (1, 1), True
    cluster.start()
    cluster.work(100, _slot_zero(cluster.nodes[0].config))
    cluster.run(37)
    cluster.work(0)
    for node in cluster.nodes:
        node.load = 0
    cluster.run(300)
    lines = [f"{at:4} {source}>{to} {describe(m)}" for at, source, to, m in cluster.trace]
    text = "\n".join(lines) + "\n"
    if os.environ.get("WATTD_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_1_a_pipelined_block_costs_two_messages_per_follower():
    cluster = running(height=10)
    cluster.trace, cluster.tracing = [], True
    start = min(cluster.heights())
    cluster.reach(start + 200, 20_000)
    counts = Counter(type(m).__name__ for _, _, _, m in cluster.trace)
    blocks = max(cluster.heights()) - start
    assert set(counts) <= {"Propose", "Validated", "Committed", "Prepared", "CommitVote"}
    assert counts["Propose"] + counts["Validated"] <= 6 * (blocks + 3)
    assert sum(counts.values()) <= 6.2 * blocks
    assert {node.state.cur_term for node in cluster.nodes} == {1}


@pytest.mark.parametrize("seed", range(6))
def test_2_a_block_that_q_validated_survives_its_leader(seed):
    cluster = running(seed=seed)
    leader = cluster.leader()
    cluster.run_until(
        lambda: leader.state.prepared is not None and leader.state.prepared.height > leader.height, 2_000
    )
    prepared = leader.state.prepared
    holders = [node for node in others(cluster, leader) if node.state.lock.rank >= prepared.rank]
    cluster.filters = [lambda source, target, message: None if source is leader else 0]
    cluster.run(30)
    leader.crash()
    cluster.filters = []
    cluster.reach(prepared.height + 2, 6_000, others(cluster, leader))
    if holders:
        assert cluster.monitor.chain[prepared.height] == prepared.block_hash
    leader.start()
    cluster.reach(prepared.height + 4, 6_000)


def commits_alone(cluster):
    """Run until only the leader knows that a block is committed; return (leader, height, hash)."""
    leader = cluster.leader()
    cluster.filters = [
        lambda source, target, m: None if source is leader and isinstance(m, Propose | Committed) else 0
    ]
    top = max(node.height for node in others(cluster, leader))
    cluster.run_until(lambda: leader.height > top, 3_000)
    return leader, leader.height, leader.disk.blocks[-1][0]


@pytest.mark.parametrize("seed", range(6))
def test_3_and_17_a_commit_that_only_the_leader_knows(seed):
    cluster = running(seed=seed)
    leader, height, block_hash = commits_alone(cluster)
    cluster.partition((leader.index,), tuple(node.index for node in others(cluster, leader)))
    term = leader.state.cur_term
    cluster.filters = []
    cluster.run_until(lambda: max(n.state.cur_term for n in others(cluster, leader)) > term, 5_000)
    cluster.reach(height + 2, 6_000, others(cluster, leader))
    assert cluster.monitor.chain[height] == block_hash
    cluster.heal()
    cluster.reach(height + 5, 6_000)


@pytest.mark.parametrize("deaf", [True, False])
def test_4_and_19_a_leader_that_cannot_hear_or_cannot_speak(deaf):
    """The old leader goes on in its term while the next one leads: a duel that it cannot win."""
    cluster = running()
    leader = cluster.leader()
    for node in others(cluster, leader):
        link = (node.index, leader.index) if deaf else (leader.index, node.index)
        cluster.blocked.add(link)
    top = max(cluster.heights())
    cluster.reach(top + 5, 8_000, others(cluster, leader))
    assert deaf == (leader.state.role == "leader")
    cluster.heal()
    cluster.reach(max(cluster.heights()) + 3, 6_000)
    assert leader.state.cur_term == cluster.leader().state.cur_term


def test_5_two_and_two():
    cluster = running()
    cluster.partition((0, 1), (2, 3))
    cluster.run(100)
    heights, term = cluster.heights(), cluster.nodes[0].state.cur_term
    cluster.run(5_000)
    assert cluster.heights() == heights
    assert max(node.state.cur_term for node in cluster.nodes) == term
    cluster.heal()
    cluster.reach(max(heights) + 3, 6_000)


@pytest.mark.parametrize(("n", "reach"), [(5, 1), (7, 2), (7, 1)])
def test_6_every_node_sees_another_majority(n, reach):
    cluster = running(n=n)
    near = {(a, (a + d) % n) for a in range(n) for d in range(-reach, reach + 1)}
    cluster.blocked = {(a, b) for a in range(n) for b in range(n) if (a, b) not in near}
    cluster.run(4_000)
    cluster.heal()
    cluster.reach(max(cluster.heights()) + 3, 8_000)


def test_7_an_isolated_node_disturbs_nobody():
    cluster = running()
    leader = cluster.leader()
    lost = others(cluster, leader)[0]
    rest = others(cluster, lost)
    cluster.partition((lost.index,), tuple(node.index for node in rest))
    cluster.run(30_000)
    top = min(node.height for node in rest)
    assert top > 200
    assert {node.state.cur_term for node in cluster.nodes} == {1}
    cluster.heal()
    cluster.reach(top, 4_000, [lost])
    assert {node.state.cur_term for node in cluster.nodes} == {1}
    assert cluster.leader() is leader


@pytest.mark.parametrize("strategy", ["spam", "racer", "replay", "stale"])
def test_8_and_9_nobody_gains_by_noise_or_by_haste(strategy):
    """Grants before the slot are caught by the monitor; terms do not run away."""
    quiet = running(n=4, seed=3)
    quiet.run(6_000)
    cluster = Cluster(4, 3, timing=STEADY)
    Villain(cluster.nodes[0], (strategy,), Random(1))
    cluster.start()
    cluster.work(100)
    cluster.run(6_000)
    assert min(cluster.heights()) > 0.8 * min(quiet.heights())
    assert max(node.state.cur_term for node in cluster.honest) <= 3


def test_9_a_silent_racing_leader_keeps_no_term():
    """It leads only when its slot is first, once in n terms, and loses that term in T_prog."""
    cluster = Cluster(4, 7, timing=TIMING)
    villain = Villain(cluster.nodes[2], ("racer", "withhold"), Random(1))
    cluster.start()
    cluster.work(100)
    cluster.run(20_000)
    assert min(cluster.heights()) > 400
    led = [term for (_, term), leader in cluster.monitor.elected.items() if leader == villain.node.index]
    assert len(led) <= 2 + max(cluster.monitor.elected)[1] // 3


@pytest.mark.parametrize("seed", range(4))
def test_10_an_equivocating_leader(seed):
    """Two halves see two blocks: at most one is prepared, and the next term commits."""
    cluster = Cluster(4, seed, timing=TIMING)
    first = cluster.nodes[0].config
    leader = cluster.nodes[_slot_zero(first)]
    Villain(leader, ("equivocate",), Random(seed))
    cluster.start()
    cluster.work(100)
    cluster.reach(40, 15_000)


def _slot_zero(config):
    from consensus.bft.slots import order

    return order(config.seed, 1, config.validator_set.n)[0]


def test_10_and_11_contradictions_are_evidence():
    cluster = Cluster(4, 2, timing=STEADY)
    Villain(cluster.nodes[0], ("double",), Random(1))
    cluster.start()
    cluster.work(100)
    cluster.reach(20, 5_000)
    found = [slash.evidence for node in cluster.honest for slash in node.evidence]
    assert found
    assert all(evidence.offender == 0 for evidence in found)
    assert all(e.first.block_hash != e.second.block_hash for e in found)
    assert all((e.first.term, e.first.height) == (e.second.term, e.second.height) for e in found)


@pytest.mark.parametrize("seed", range(8))
def test_12_a_liar_in_the_electorate_cannot_hide_a_lock(seed):
    """One honest node committed, others hold the lock, the villain reports none: the block must win."""
    cluster = running(seed=seed)
    leader, height, block_hash = commits_alone(cluster)
    rest = others(cluster, leader)
    Villain(rest[seed % 3], ("stale", "double"), Random(seed))
    cluster.partition((leader.index,), tuple(node.index for node in rest))
    cluster.filters = []
    honest = [node for node in rest if node.villain is None]
    cluster.run(3_000)
    assert all(node.state.cur_term >= leader.state.cur_term for node in honest)
    cluster.heal()
    cluster.reach(height + 3, 8_000)
    assert cluster.monitor.chain[height] == block_hash


@pytest.mark.parametrize("seed", range(4))
def test_15_three_leaders_crash_in_a_row(seed):
    """The suffix stays within two (I9 watches every vote), and the highest prepared block survives."""
    cluster = running(n=7, seed=seed)
    for _ in range(3):
        leader = cluster.leader()
        cluster.run_until(lambda leader=leader: leader.state.lock.height > leader.height, 3_000)
        leader.crash()
        cluster.at(700, leader.start)
        cluster.run_until(lambda: cluster.leader() is not None, 6_000)
    cluster.reach(max(cluster.heights()) + 3, 10_000)


@pytest.mark.parametrize("seed", range(3))
def test_16_a_withheld_body_costs_one_term(seed):
    cluster = running(seed=seed)
    leader = cluster.leader()
    term = leader.state.cur_term
    cluster.withheld = lambda node, check: check.from_validator == leader.index and check.is_new
    top = max(cluster.heights())
    cluster.reach(top + 5, 8_000)
    assert min(node.state.cur_term for node in others(cluster, leader)) > term


def test_16_a_body_that_a_quorum_holds_is_fetched():
    """A follower that never got the body commits it all the same, from those who signed."""
    cluster = running()
    victim = others(cluster, cluster.leader())[0]
    start = victim.height
    cluster.withheld = lambda node, check: node is victim
    cluster.run_until(lambda: bool(victim.state.checking), 1_000)
    cluster.reach(start + 20, 6_000)


def test_16_a_lone_block_that_never_checks_out_is_fetched_once_it_is_certified():
    cluster = Cluster(4, 2, timing=STEADY)
    cluster.start()
    cluster.reach(1, 2_000)
    victim = others(cluster, cluster.leader())[0]
    cluster.withheld = lambda node, check: node is victim
    for height in (2, 3):
        cluster.reach(height, 2_000, others(cluster, victim))
        cluster.reach(height, 6 * STEADY.retransmit_ms, [victim])


def test_20_crash_at_any_effect():
    """One node is killed at every 7th effect of its life: it comes back, and no promise is broken."""
    reference = Cluster(4, 9)
    reference.start()
    reference.work(100)
    reference.run(900)
    total = reference.nodes[1].performed
    assert total > 200
    for count in range(1, total, 7):
        cluster = Cluster(4, 9)
        cluster.restart_ms = (30, 30)
        cluster.nodes[1].crash_at_effect = count
        cluster.start()
        cluster.work(100)
        cluster.run(1_000)
        assert cluster.nodes[1].life == 2, count
        cluster.reach(max(cluster.heights()) + 2, 4_000)


def test_22_all_nodes_restart_at_once():
    cluster = running()
    for _ in range(4):
        cluster.run(cluster.rng.randint(10, 500))
        for node in cluster.nodes:
            node.crash()
        for node in cluster.nodes:
            cluster.at(cluster.rng.randint(10, 200), node.start)
        cluster.run(250)
        cluster.reach(max(cluster.heights()) + 3, 8_000)


def test_22_restart_with_terms_apart():
    """Two nodes in a term that the others never saw: its proof must have survived the restart."""
    cluster = running()
    cluster.filters = [lambda source, target, m: None if target.index > 1 and source.index < 2 else 0]
    leader = cluster.leader()
    leader.crash()
    cluster.run(4_000)
    leader.start()
    cluster.run(1_000)
    for node in cluster.nodes:
        node.crash()
    cluster.heal()
    cluster.start()
    cluster.reach(max(cluster.heights()) + 3, 8_000)


def test_22_rolling_restarts():
    cluster = running(timing=TIMING)
    for turn in range(12):
        node = cluster.nodes[turn % 4]
        node.crash()
        cluster.run(150)
        node.start()
        cluster.run(100)
    cluster.reach(max(cluster.heights()) + 3, 6_000)


def test_23_a_paused_leader_comes_back_stale():
    cluster = running()
    leader = cluster.leader()
    leader.pause()
    cluster.run(10_000)
    assert min(node.height for node in others(cluster, leader)) > leader.height + 20
    leader.resume()
    cluster.reach(max(cluster.heights()) + 2, 4_000)


def test_24_clocks_that_drift_and_jump():
    cluster = Cluster(4, 4, timing=TIMING)
    cluster.rates = {0: (80, 0), 1: (120, 5), 2: (100, 0), 3: (95, 1_000)}
    cluster.start()
    cluster.work(100)
    cluster.reach(30, 6_000)
    cluster.rates[2] = (100, 3_600_000)
    cluster.reach(60, 6_000)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_small_sets_need_everybody_and_work(n):
    cluster = running(n=n, timing=TIMING)
    cluster.reach(150, 15_000)
    assert max(node.state.cur_term for node in cluster.nodes) > 1, "tenure rotates"
    cluster.nodes[0].crash()
    height = max(cluster.heights())
    cluster.run(2_000)
    assert max(cluster.heights()) <= height + 1
    cluster.nodes[0].start()
    cluster.reach(height + 5, 6_000)


def test_an_observer_follows_and_never_speaks():
    cluster = Cluster(4, 6, observers=1)
    cluster.start()
    cluster.work(100)
    cluster.tracing = True
    cluster.reach(20, 4_000)
    observer = cluster.nodes[4]
    said = [m for _, source, _, m in cluster.trace if source == 4]
    assert not said
    observer.crash()
    cluster.run(1_000)
    observer.start()
    cluster.reach(max(cluster.heights()), 3_000, [observer])


def test_idle_chain_keeps_its_leader_and_its_cadence():
    cluster = Cluster(4, 8, timing=STEADY)
    cluster.start()
    cluster.run(30_000)
    assert {node.state.cur_term for node in cluster.nodes} == {1}
    assert 80 <= min(cluster.heights()) <= 100, "one empty block per idle interval"


def test_a_dead_leader_is_missed_long_before_the_idle_interval():
    """Signs of life: a crash is noticed after T_prog, although the chain is idle."""
    timing = Timing(progress_timeout_ms=300, slot_step_ms=40, idle_interval_ms=5_000, retransmit_ms=50)
    cluster = Cluster(4, 8, timing=timing)
    cluster.start()
    cluster.reach(1, 2_000)
    leader = cluster.leader()
    cluster.run(400)
    leader.crash()
    top = max(cluster.heights())
    cluster.reach(top + 1, 1_500, others(cluster, leader))


def test_signs_of_life_do_not_save_a_leader_that_commits_nothing():
    cluster = running()
    leader = cluster.leader()
    cluster.filters = [lambda source, target, m: None if source is leader and isinstance(m, Propose) else 0]
    cluster.run_until(lambda: min(n.state.cur_term for n in others(cluster, leader)) > 1, 2_000)


def test_tenure_rotates_without_a_pause():
    cluster = Cluster(4, 3, timing=TIMING)
    cluster.start()
    cluster.work(100)
    cluster.reach(640, 60_000)
    assert len({cluster.monitor.elected[0, term] for term in range(1, 9)}) >= 3
    assert cluster.now < 60_000


def test_elections_use_every_message_that_they_should():
    cluster = Cluster(4, 3, timing=TIMING)
    cluster.tracing = True
    cluster.start()
    cluster.work(100)
    cluster.reach(70, 10_000)
    kinds = {type(m) for _, _, _, m in cluster.trace}
    assert {PreVote, RequestVote, VoteGranted, Propose, Validated} <= kinds
    assert TimerFired not in kinds
