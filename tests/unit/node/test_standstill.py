"""When a chain stands still, who is told, and in which words."""

import asyncio
from dataclasses import replace

import pytest

from consensus.bft.codec import frame
from consensus.bft.config import Timing
from consensus.bft.status import status
from consensus.bft.types import Committed
from node.limits import MIN_STALL_MS, STALL_TIMEOUTS
from node.standstill import Standstill, explain
from tests.simulation.cluster import Cluster
from tests.simulation.test_bft_scenarios import STEADY

NAMES = ["grid", "north", "south", "west"]
TIMING = Timing(progress_timeout_ms=2_000, idle_interval_ms=1_000)
LIMIT_MS = STALL_TIMEOUTS * 3_000


def test_a_standstill_is_told_once_and_its_end_too():
    watch = Standstill(TIMING, 0)
    assert watch.limit_ms == LIMIT_MS
    assert not watch.look(LIMIT_MS - 1)
    assert watch.next_look_ms(LIMIT_MS - 1) == 1
    assert watch.look(LIMIT_MS)
    assert not watch.look(LIMIT_MS * 3)
    assert watch.advanced(LIMIT_MS + 500) == LIMIT_MS + 500
    assert watch.advanced(LIMIT_MS + 600) is None
    assert not watch.look(LIMIT_MS + 700)
    assert watch.look(2 * LIMIT_MS + 600)


def test_short_time_outs_do_not_make_alarms_of_pauses():
    assert Standstill(Timing(progress_timeout_ms=20, idle_interval_ms=5), 0).limit_ms == MIN_STALL_MS


def test_blocks_in_time_raise_nothing():
    watch = Standstill(TIMING, 0)
    for now_ms in range(0, 20 * LIMIT_MS, LIMIT_MS - 1):
        assert not watch.look(now_ms)
        assert watch.advanced(now_ms) is None


# ---- words -------------------------------------------------------------------------------------


def words(node, cluster, *, connected=(0, 1, 2, 3), silent=()):
    now = status(node.state, cluster.clock_of(node))
    links = [index for index in connected if index != node.index]
    now |= {"connected": links, "silent": list(silent)}
    return now["phase"], explain(now, NAMES, node.index)


def running(seed=1):
    cluster = Cluster(4, seed, timing=STEADY)
    cluster.start()
    cluster.reach(3, 5_000)
    return cluster


def test_a_start_names_who_has_answered():
    cluster = Cluster(4, 1, timing=STEADY)
    cluster.start(0, 1)
    cluster.run(200)
    phase, told = words(cluster.nodes[0], cluster, connected=(0, 1))
    assert phase == "starting"
    assert "needs 2 others to say what they hold of it, 1 did (north)" in told["waiting"]
    assert told["missing"] == ["south", "west"]


def test_two_of_four_that_are_gone_are_named():
    cluster = running()
    leader = cluster.leader()
    rest = [node for node in cluster.nodes if node is not leader]
    for node in (leader, rest[0]):
        node.crash()
    cluster.run(3_000)
    phase, told = words(rest[1], cluster, connected=(rest[1].index, rest[2].index))
    assert phase == "election"
    assert sorted(told["missing"]) == sorted(NAMES[node.index] for node in (leader, rest[0]))
    assert "given up" in told["waiting"] or "has no leader since" in told["waiting"]
    assert f"gave term {rest[1].state.cur_term} up, 3 must" in told["waiting"]


def test_a_leader_names_whose_votes_it_lacks_and_a_follower_its_leader():
    cluster = running()
    leader = cluster.leader()
    away = next(node for node in cluster.nodes if node is not leader)
    cluster.partition((leader.index,), tuple(node.index for node in cluster.nodes if node is not leader))
    cluster.run_until(lambda: leader.state.mine.height > leader.height, 2_000)
    phase, told = words(leader, cluster, silent=[away.index])
    assert phase in ("votes", "checking")
    if phase == "votes":
        assert NAMES[away.index] in told["waiting"]
    assert told["missing"] == [NAMES[away.index]]


def test_an_idle_chain_waits_for_its_leader():
    cluster = running()
    cluster.run(250)
    found = {words(node, cluster)[0] for node in cluster.nodes}
    assert found <= {"idle", "votes", "checking"}
    quiet = next(node for node in cluster.nodes if words(node, cluster)[0] == "idle")
    assert "the next block of the leader" in words(quiet, cluster)[1]["waiting"]
    assert words(quiet, cluster)[1]["missing"] == []


def test_a_learner_says_why():
    cluster = running()
    node = cluster.nodes[2]
    node.state.learner, node.state.config = "its log is old", replace(node.config, me=None, secret=None)
    phase, told = words(node, cluster)
    assert phase == "following"
    assert told["waiting"] == "blocks of the others; this validator has no vote: its log is old"


def test_a_missing_body_is_named_by_its_height():
    cluster = running()
    node = cluster.nodes[2]
    node.state.pending_commit = node.state.commit_qc._replace(height=9)
    phase, told = words(node, cluster)
    assert phase == "bodies"
    assert "the body of block 9" in told["waiting"]


# ---- in the driver -----------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("node.standstill.MIN_STALL_MS", 40)
    monkeypatch.setattr("node.standstill.STALL_TIMEOUTS", 1)


async def test_the_driver_tells_of_a_standstill_and_of_its_end(make_node, kit, chain1, chain4, impatient):
    """One of four alone stands still; the block that then comes by sync ends it."""
    node = make_node(chain4, 0, clock=kit.RealTime())
    node.open_driver(Timing(progress_timeout_ms=30, idle_interval_ms=10)).start()
    async with asyncio.timeout(kit.WAIT_S):
        while not node.ear.alarms:
            await asyncio.sleep(0.005)
    [(name, fields)] = node.ear.alarms
    assert name == "chain-stands-still"
    assert fields["phase"] == "starting"
    assert len(fields["missing"]) == 3
    assert node.ear.events == []
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert len(node.ear.alarms) == 1
    alone = make_node(chain1, 0, clock=kit.RealTime())
    alone.open_driver(kit.FAST)
    alone.driver._standstill.since_ms -= 10_000
    assert alone.driver._standstill.look(kit.RealTime().monotonic_ms())
    alone.driver.start()
    await alone.ear.reach(1)
    [(name, fields)] = alone.ear.events
    assert (name, fields["height"]) == ("chain-advances", 1)
    assert fields["stood_s"] >= 10


async def test_who_is_silent_is_missing(make_node, kit, chain4):
    node = make_node(chain4, 0)
    node.open_driver()
    node.links.up = [1, 2]
    assert node.driver.status()["missing"] == [node.params.bft.validators[3].name]
    node.clock.ms += 60_000
    node.driver.receive(1, frame(0, Committed(node.driver._state.commit_qc)))
    now = node.driver.status()
    assert now["silent"] == [2]
    assert now["missing"] == [node.params.bft.validators[index].name for index in (2, 3)]
