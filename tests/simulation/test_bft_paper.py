"""The paper's algorithms fail in every way that section 1 of CONSENSUS.md names; the engine does not."""

from random import Random

import pytest

from consensus.bft.config import Timing
from consensus.bft.engine import step
from consensus.bft.quorum import faults, quorum
from consensus.bft.slots import order, permutation
from consensus.bft.state import initial
from consensus.bft.types import (
    EC,
    QC,
    Committed,
    Grant,
    Kind,
    Misbehaviour,
    Propose,
    Received,
    ShowEC,
    Start,
)
from tests.simulation import paper
from tests.simulation.cluster import CHAIN_ID, Cluster, config_of
from tests.simulation.paper import Role, World, delegates, replace_failed, validated_commits, votes_win
from tests.simulation.villains import Villain

STEADY = Timing(400, 40, 300, 60, 50, 50, 0, 5)


def running(n, seed=1, height=3, *villains, timing=STEADY):
    cluster = Cluster(n, seed, timing=timing)
    for index, *strategies in villains:
        Villain(cluster.nodes[index], tuple(strategies), Random(seed))
    cluster.start()
    cluster.work(100)
    cluster.reach(height, 10_000)
    return cluster


# --- 1.1 thresholds -----------------------------------------------------------------------------

TABLE = {
    # n: (V of Alg. 2, silent it tolerates, votes of Alg. 1, silent it tolerates, shared: winners, 2f + 1)
    4: (4, -1, 4, 0, 4, 2),
    5: (4, 0, 4, 1, 3, 1),
    6: (4, 1, 5, 1, 4, 0),
    7: (6, 0, 5, 2, 3, 3),
    10: (8, 1, 7, 3, 4, 4),
    13: (10, 2, 8, 5, 3, 5),
    19: (14, 4, 11, 8, 3, 7),
    21: (14, 6, 12, 9, 3, 5),
    22: (16, 5, 13, 9, 4, 8),
    50: (34, 15, 27, 23, 4, 16),
}


@pytest.mark.parametrize("n", TABLE)
def test_thresholds(n):
    """The table of section 1.1, counted from the printed conditions; ours beside it."""
    f = faults(n)
    needs_v = next(v for v in range(2 * n) if validated_commits(v, n))
    needs_votes = next(v for v in range(2 * n) if votes_win(v, n))
    shared = 2 * needs_votes - n
    row = (needs_v, n - 1 - needs_v, needs_votes, n - needs_votes, shared, 2 * (2 * f + 1) - n)
    assert row == TABLE[n]
    assert 2 * quorum(n) - n > f, "two of our quorums share an honest validator"
    assert n - quorum(n) >= f, "and f may be silent"


@pytest.mark.parametrize("n", [4, 7, 10, 13])
def test_l2_fewer_than_f_silent_followers_stop_every_commit(n):
    """n = 4 commits nothing with no fault at all; n = 3f + 1 tolerates f - 2."""

    def commits(silent):
        world = World(n)
        world.elect(0)
        world.down = set(range(n - silent, n))
        world.nodes[0].propose("B1")
        world.deliver()
        return bool(world.nodes[0].chain)

    f = faults(n)
    assert not commits(f)
    assert not commits(f - 1)
    assert commits(f - 2) == (n > 4)
    cluster = Cluster(n, 2, timing=STEADY)
    leader = order(cluster.nodes[0].config.seed, 1, n)[0]
    cluster.start(*[(leader + step) % n for step in range(n - f)])
    cluster.reach(3, 5_000, [node for node in cluster.nodes if node.up])


# --- 1.2 a Byzantine leader ---------------------------------------------------------------------


def test_s1_committed_proves_nothing():
    world = World(4, 0)
    for to, name in ((1, "B1"), (2, "B2"), (3, "B2")):
        world.send(0, to, paper.Committed(paper.Block("genesis", name)))
    world.deliver()
    assert world.forks() == [{"B1", "B2"}]

    state, _ = step(initial(config_of(4, 1)), Start(), 0)
    bare = Committed(QC(Kind.COMMIT, 0, 1, 1, bytes(32), bytes([1]), (bytes(64),)))
    state, effects = step(state, Received(0, bare), 1)
    assert effects == (Misbehaviour(0, "bad-cert-quorum"),)


def test_s2_two_blocks_at_one_height():
    """Every honest follower validates both; the leader sends the votes of all for either to one half."""
    world = World(7, 0)
    for node in world.honest:
        node.receive(0, paper.LeaderConfirmed(1))
    one, other = (paper.Block("genesis", name) for name in ("B1", "B2"))
    for block in (one, other):
        for node in world.honest:
            world.send(0, node.index, paper.BlockSent(block))
    world.deliver()
    for block in (one, other):
        assert validated_commits(world.heard.count((1, paper.Validated(block))) * 6, 7)
        assert len({source for source, m in world.heard if m == paper.Validated(block)}) == 6
    for node in world.honest:
        world.send(0, node.index, paper.Committed(one if node.index < 4 else other))
    world.deliver()
    assert world.forks() == [{"B1", "B2"}]

    first = order(Cluster(7, 3).nodes[0].config.seed, 1, 7)[0]
    cluster = running(7, 3, 20, (first, "equivocate"))
    assert cluster.monitor.chain


def test_s4_two_leaders_of_one_tenure():
    """n = 21: six Byzantine vote for both, six honest for either."""
    n = 21
    world = World(n, *range(6))
    x, y = 6, 13
    friends = {x: set(range(6, 13)), y: set(range(13, 21))}
    for candidate in (x, y):
        world.nodes[candidate].time_out()
    world.deliver(lambda source, to, m: source not in friends or to in friends[source])
    for candidate in (x, y):
        for villain in world.villains:
            world.send(villain, candidate, paper.Vote(1))
    world.deliver(lambda source, to, m: isinstance(m, paper.Vote))
    assert [world.nodes[index].role for index in (x, y)] == [Role.LEADER, Role.LEADER]
    assert world.nodes[x].tenure == world.nodes[y].tenure == 1
    assert 2 * (quorum(n) - 6) > n - 6, "ours: two winners would need one honest voter twice"


# --- 1.3 nobody is Byzantine ----------------------------------------------------------------------


def test_s3_a_block_that_was_committed_is_lost():
    """The leader adds B1 and dies before Committed leaves; the next one never saw that it was committed."""
    n = 21
    world = World(n)
    world.elect(0)
    world.nodes[0].propose("B1")
    world.deliver(lambda source, to, m: not isinstance(m, paper.Committed))
    assert world.nodes[0].tip == "B1"
    world.down = {0}
    for node in world.nodes[1:]:
        node.leader = None  # even if they notice
    world.elect(1)
    world.nodes[1].propose("B2")
    world.deliver()
    world.down = set()
    assert world.forks() == [{"B1", "B2"}]

    cluster = running(7, 5)
    leader = cluster.leader()
    cluster.filters = [
        lambda source, target, m: None if source is leader and isinstance(m, Propose | Committed) else 0
    ]
    top = max(node.height for node in cluster.nodes if node is not leader)
    cluster.run_until(lambda: leader.height > top, 3_000)
    block = leader.disk.blocks[-1][0]
    height = leader.height
    leader.crash()
    cluster.filters = []
    cluster.reach(height + 2, 6_000, [node for node in cluster.nodes if node is not leader])
    assert cluster.monitor.chain[height] == block


def test_s5_a_restart_forgets_the_vote():
    world = World(4, 0)
    node = world.nodes[1]
    node.receive(0, paper.LeaderConfirmed(1))
    node.receive(0, paper.BlockSent(paper.Block("genesis", "B1")))
    node.start()
    node.receive(0, paper.LeaderConfirmed(1))
    node.receive(0, paper.BlockSent(paper.Block("genesis", "B2")))
    world.deliver()
    assert [m.block.name for _, m in world.heard if isinstance(m, paper.Validated)] == ["B1", "B2"]

    cluster = Cluster(4, 9)
    cluster.nodes[1].crash_at_effect = 60
    cluster.restart_ms = (30, 30)
    cluster.start()
    cluster.work(100)
    cluster.run(1_500)  # the monitor refuses a second vote at a rank, across restarts too
    assert cluster.nodes[1].life == 2


# --- 1.4 liveness -------------------------------------------------------------------------------


def test_l1_four_nodes_cannot_replace_a_crashed_leader():
    world = World(4)
    world.elect(0)
    world.down = {0}
    for tenure in range(50):
        for node in world.nodes[1:]:
            node.leader = None  # even if they notice
        world.elect(1 + tenure % 3)
    assert not any(node.role is Role.LEADER for node in world.nodes[1:])

    cluster = running(4, 2)
    leader = cluster.leader()
    top = max(cluster.heights())
    leader.crash()
    cluster.reach(top + 3, 5_000, [node for node in cluster.nodes if node is not leader])


@pytest.mark.parametrize("step", [1, 2**64 - 1])
def test_l3_one_node_disturbs_for_ever(step):
    """A request with a higher tenure deposes any leader; with 2^64 - 1 there is no higher one left."""
    world = World(7, 6)
    for attempt in range(40):
        world.elect(attempt % 6)
        tenure = max(node.tenure for node in world.honest)
        for node in world.honest:
            world.send(6, node.index, paper.VoteRequest(max(tenure + 1, step)))
        world.deliver()
        for node in world.honest:
            node.propose("B")
        world.deliver()
    assert all(node.chain == [] for node in world.honest)

    cluster = running(7, 2, 3, (6, "spam"))
    start = min(cluster.heights())
    cluster.run(4_000)
    assert min(cluster.heights()) > start + 20
    assert max(node.state.cur_term for node in cluster.honest) <= 3


def test_l4_who_waits_least_leads_always():
    """Honest nodes draw a time-out; the Byzantine one's is zero: it wins every tenure, proposes nothing."""
    world, rng = World(7, 6), Random(4)
    for _ in range(40):
        for node in world.honest:
            node.leader = None  # even if they notice
        waits = {node.index: rng.uniform(150, 300) for node in world.honest} | {6: 0.0}
        first = min(waits, key=waits.__getitem__)
        assert first == 6
        tenure = 1 + max(node.tenure for node in world.honest)
        world.heard = []
        for node in world.honest:
            world.send(6, node.index, paper.VoteRequest(tenure))
        world.deliver()
        assert votes_win(1 + sum(isinstance(m, paper.Vote) for _, m in world.heard), 7)
    assert all(node.chain == [] for node in world.honest)

    for seed in range(5):
        cycles = [permutation(bytes([seed]) * 32, cycle, 7)[0] for cycle in range(30)]
        assert len(set(cycles)) > 1
        firsts = [order(bytes([seed]) * 32, term, 7)[0] for term in range(70)]
        assert firsts.count(6) == 10, "slot 0 exactly once in n terms, however fast it is"


def test_l5_anybody_may_say_that_it_leads():
    world = World(4, 3)
    for tenure in range(1, 30):
        world.nodes[0].time_out()
        for node in world.honest:
            node.receive(3, paper.LeaderConfirmed(tenure))
        world.deliver()
        assert world.nodes[0].role is Role.FOLLOWER
        for node in world.honest:
            node.leader = None  # even if they notice
    assert not any(node.role is Role.LEADER for node in world.honest)

    config = config_of(4, 1)
    base = config.electorate.base
    votes = tuple(Grant(index, 0, 0, CHAIN_ID, bytes(64)) for index in range(3))
    state, _ = step(initial(config), Start(), 0)
    state, effects = step(state, Received(3, ShowEC(EC(0, 1, 3, votes, base))), 1)
    assert effects == (Misbehaviour(3, "bad-cert-signature"),)
    assert state.leader is None


def test_l6_a_silent_leader_stays():
    world = World(7)
    world.elect(0)
    world.down = {0}
    for _ in range(50):
        for node in world.nodes[1:]:
            node.time_out()  # a follower that knows a leader has no timer
        world.deliver()
    assert {node.leader for node in world.nodes} == {0}
    assert {node.tenure for node in world.nodes} == {1}

    cluster = running(7, 2)
    leader = cluster.leader()
    leader.crash()
    rest = [node for node in cluster.nodes if node is not leader]
    cluster.run_until(lambda: min(node.state.cur_term for node in rest) > 1, 3_000)


# --- 1.5 algorithm 3 ------------------------------------------------------------------------------


def approval(n=30):
    meters = dict.fromkeys(range(n), 100)
    return meters, {voter: set(range(n)) for voter in range(n)}


def test_each_node_draws_its_own_delegates():
    """ "Randomly" and "shuffle" are local: the lists differ in order, after one failure in members too."""
    meters, approvals = approval()
    lists = [delegates(meters, approvals, Random(node)) for node in range(10)]
    assert len({tuple(chosen) for chosen in lists}) > 1
    after = [
        replace_failed(chosen, 3, list(range(21, 30)), Random(100 + node))
        for node, chosen in enumerate(lists)
    ]
    assert len({frozenset(chosen) for chosen in after}) > 1
    assert order(bytes(32), 9, 21) == order(bytes(32), 9, 21), "ours come from a public seed"


def test_meters_are_minted_by_declaring_them():
    meters, approvals = approval()
    friends = set(range(25, 30))
    for voter in friends:
        approvals[voter] = friends
    for voter in range(25):
        approvals[voter] = set(range(25))
    assert not friends & set(delegates(meters, approvals, Random(1)))
    meters[29] = 10**9
    assert friends - {29} <= set(delegates(meters, approvals, Random(1)))


def test_half_of_the_meters_take_every_seat():
    """Approval voting: 51 % of the meters fill all 21 seats, so f = 6 says nothing about meters."""
    n = 42
    meters = {index: 51 if index < 21 else 49 for index in range(n)}
    approvals = {voter: set(range(21)) if voter < 21 else set(range(21, 42)) for voter in range(n)}
    meters[0] += 100
    chosen = delegates(meters, approvals, Random(1))
    assert sorted(chosen) == list(range(21))
