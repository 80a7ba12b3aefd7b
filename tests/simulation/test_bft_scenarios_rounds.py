"""Named histories of rounds: sets that change, delegates that fail, members that come and go; versions.

Scenarios 25 to 27 and 32 of CONSENSUS.md, section 5.5.
"""

import copy
from dataclasses import replace

import pytest

from consensus import dpos
from consensus.bft import slots
from consensus.bft.quorum import faults
from consensus.bft.types import (
    Committed,
    CommitVote,
    Prepared,
    PreVote,
    Propose,
    Report,
    Validated,
    VoteGranted,
)
from consensus.commitment import find_commitment
from consensus.transaction import Transaction
from tests.simulation import cluster as cluster_module
from tests.simulation.cluster import TIMING, Cluster, Disk
from tests.simulation.elections import ElectedCluster, Framing
from tests.simulation.invariants import Violation
from tests.simulation.mutants import removed
from tests.simulation.test_bft_scenarios import STEADY, others

SIGNED = (PreVote, Propose, VoteGranted, CommitVote, Validated)


def started(n, seed, spares, height=5, timing=STEADY, **options):
    cluster = Cluster(n, seed, timing=timing, spares=spares, **options)
    cluster.tracing = True
    cluster.start()
    cluster.work(100)
    cluster.reach(height, 4_000)
    return cluster


def first_in_line(cluster, number):
    """Who holds slot 0 in the first term of a round."""
    config = next(node.config for node in cluster.nodes if node.round == number)
    order = slots.order(config.seed, config.electorate.base.term + 1, config.validator_set.n)
    return cluster.committees.members(number)[order[0]]


def spoken(cluster, node, since=0):
    """What a node signed and sent since then."""
    return [
        m
        for at, source, _, m in cluster.trace
        if source == node.index and at >= since and isinstance(m, SIGNED)
    ]


# --- 25 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_25_five_of_21_replaced_without_the_old_leader_and_the_new_slot_0_falls(seed):
    cluster = started(21, seed, 5)
    leader = cluster.leader()
    gone = [leader.index, *[key for key in range(21) if key != leader.index][:4]]
    members = (*range(21, 26), *[key for key in range(20, -1, -1) if key not in gone])
    height = max(cluster.heights()) + 6
    cluster.change_at(height, members)
    cluster.work(100)
    fallen = []

    def at_boundary(node):
        if not fallen:
            cluster.at(0, lambda: fall(node))

    def fall(node):
        if not fallen:
            fallen.append(first_in_line(cluster, 1))
            cluster.nodes[fallen[0]].crash()

    cluster.at_boundary = at_boundary
    cluster.run_until(lambda: fallen, 4_000)
    alive = [node for node in cluster.nodes if node.index not in fallen]
    cluster.reach(height + 20, 6_000, alive)
    assert fallen[0] in members
    assert leader.round == 1
    assert leader.config.me is None
    assert cluster.leader().index not in (*gone, *fallen)
    since = max(at for at, _, _, m in cluster.trace if isinstance(m, Committed) and m.qc.height == height)
    assert all(not spoken(cluster, cluster.nodes[key], since) for key in gone)
    assert all(spoken(cluster, cluster.nodes[key]) for key in range(21, 26) if key not in fallen)
    cluster.nodes[fallen[0]].start()
    cluster.reach(max(cluster.heights()) + 3, 4_000)
    assert cluster.nodes[fallen[0]].state.config.me is not None


def test_25_nothing_stands_still_at_a_boundary():
    """Without faults the first block of a round follows within a second: one election in the first slot."""
    cluster = started(7, 2, 3)
    heights = [max(cluster.heights()) + 5 * at for at in (1, 2, 3)]
    for at, height in enumerate(heights):
        members = tuple((key + at + 1) % 10 for key in range(7))
        cluster.change_at(height, members)
    cluster.work(100)
    for height in heights:
        cluster.run_until(lambda height=height: max(cluster.heights()) >= height, 3_000)
        cluster.run_until(lambda height=height: max(cluster.heights()) > height, 1_000)
    cluster.reach(heights[-1] + 5, 3_000)


# --- 26 -----------------------------------------------------------------------------------------

QUICK = replace(TIMING, tenure_blocks=6)


def electing(seed, **options):
    """Four delegates of seven candidates, in the first elected round."""
    cluster = ElectedCluster(4, 7, seed, timing=QUICK, **options)
    cluster.start()
    cluster.work(100)
    cluster.run_until(lambda: len(cluster.rounds) > 1, 12_000)
    cluster.work(100)
    return cluster


def round_blocks(cluster, number, node):
    """The blocks of a round as the duties are counted from."""
    first = cluster.rounds[number].first_height
    last = cluster.committees.last_height(number)
    found = []
    for _, proposal, _ in node.disk.blocks[first - 1 : last]:
        said = find_commitment(Transaction.parse(proposal.coinbase))
        found.append(dpos.RoundBlock(proposal.term, said.proposer, said.last_bitmap))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_26_a_silent_delegate_is_replaced_by_the_seeded_alternate(seed):
    cluster = electing(seed)
    before = cluster.rounds[1]
    silent = cluster.nodes[cluster.members(1)[seed % 4]]
    cluster.run_until(lambda: silent.round == 1, 2_000)
    silent.crash()
    cluster.run_until(lambda: len(cluster.rounds) > 2, 8_000)
    after = cluster.rounds[2]
    awake = others(cluster, silent)
    cluster.reach(after.first_height + 3, 6_000, awake)
    # All came to that by themselves (``is_final`` compares); here it is again, from all blocks at once.
    *counted, boundary = round_blocks(cluster, 1, awake[0])
    duty = dpos.duties(4, before.slot_seed, counted)
    assert boundary.term >= counted[-1].term
    assert dpos.failed(duty) == (cluster.members(1).index(silent.key),)
    names = [member.payout_script for member in before.members]
    chosen, _ = dpos.substitute(
        names,
        [each.payout_script for each in before.alternates],
        dpos.failed(duty),
        before.seed,
        after.first_height - 1,
    )
    assert tuple(member.payout_script for member in after.members) == chosen
    assert after.epoch == before.epoch
    assert silent.key not in cluster.members(2)
    assert len(set(cluster.members(2)) & set(cluster.members(1))) == 3
    # It comes back, serves, and may be elected again.
    silent.start()
    cluster.reach(max(cluster.heights()) + 2, 6_000)


@pytest.mark.parametrize("seed", range(3))
def test_26_a_leader_that_leaves_a_name_out_frames_nobody(seed):
    """It leads often and reports the same absence each time: one distinct leader of the two that it takes."""
    cluster = electing(seed)
    liar, victim = cluster.members(1)[:2]
    framing = Framing(cluster.nodes[liar], victim)
    epoch = cluster.rounds[1].epoch
    cluster.run_until(lambda: cluster.rounds[-1].epoch > epoch, 12_000)
    assert framing.left_out > 5
    for number, found in enumerate(cluster.rounds):
        if number and found.epoch == epoch:
            assert victim in cluster.members(number)
    blocks = round_blocks(cluster, 1, cluster.nodes[victim])
    seat = cluster.members(1).index(victim)
    by_liar = [block for block in blocks[1:] if block.proposer == cluster.members(1).index(liar)]
    assert by_liar
    assert not any(int.from_bytes(block.last_bitmap, "little") >> seat & 1 for block in by_liar)
    assert dpos.absences(4, blocks)[seat] <= faults(4)


def test_26_whatever_falls_all_nodes_elect_the_same():
    """Epochs and substitutions, crashes at boundaries: every commit compares the round that follows."""
    for seed in range(3):
        cluster = ElectedCluster(4, 7, seed, timing=QUICK)
        cluster.crash_rate, cluster.boundary_crash_rate, cluster.drop = 0.002, 0.4, 0.05
        cluster.start()
        cluster.work(100)
        cluster.run(26_000)
        cluster.heal()
        for node in cluster.nodes:
            if not node.up:
                node.start()
        cluster.reach(max(cluster.heights()) + 3, 8_000)
        assert {found.epoch for found in cluster.rounds} >= {0, 1, 2, 3}


# --- 27 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("counted", [False, True], ids=["its-vote-is-lost", "its-vote-counts"])
def test_27_a_validator_is_removed_while_it_holds_the_highest_lock(counted):
    """It alone saw the last block prepared; the leader falls. It has no seat in the next round."""
    cluster = started(7, 3, 1)
    leader = cluster.leader()
    holder = others(cluster, leader, cluster.nodes[7])[0]
    height = max(cluster.heights()) + 4
    members = (7, *[key for key in range(7) if key != holder.index])
    cluster.change_at(height, members)

    def only_holder(source, target, m):
        if isinstance(m, Prepared) and m.qc.height == height and source is leader and target is not holder:
            return None
        if isinstance(m, CommitVote) and m.height == height and target is leader:
            return None
        return None if isinstance(m, VoteGranted) and source is holder and not counted else 0

    cluster.filters = [only_holder]
    cluster.run_until(lambda: holder.state.lock.height == height, 4_000)
    locked = holder.state.lock.block_hash
    assert not any(node.state.lock.height == height for node in others(cluster, holder, leader))
    leader.crash()
    alive = others(cluster, leader)
    cluster.reach(height + 5, 8_000, alive)
    cluster.filters = []
    last = holder.disk.blocks[height - 1][0]
    assert (last == locked) == counted
    assert (holder.round, holder.config.me) == (1, None)
    assert holder.halted == ""
    since = cluster.now
    leader.start()
    cluster.reach(max(cluster.heights()) + 5, 6_000)
    assert not spoken(cluster, holder, since)


def newcomer(seed=4, height=40):
    """Validator 4 has a seat from height 10 on, and is started with an empty disk at ``height``."""
    cluster = Cluster(4, seed, timing=STEADY, spares=1)
    cluster.tracing = True
    cluster.change_at(10, (1, 4, 3, 2))
    cluster.start(0, 1, 2, 3)
    cluster.work(100)
    cluster.reach(height, 12_000, [cluster.nodes[key] for key in range(4)])
    return cluster, cluster.nodes[4]


@pytest.mark.parametrize("seed", range(4))
def test_27_a_validator_with_an_empty_disk_does_not_vote_before_it_has_caught_up(seed):
    cluster, late = newcomer(seed)
    target = max(cluster.heights())
    late.start()
    while not spoken(cluster, late):
        assert cluster.now < 30_000
        cluster.run(5)
    assert late.round == 1
    assert late.state.val.height > target
    assert late.height >= target
    first = next(at for at, source, _, m in cluster.trace if source == 4 and isinstance(m, SIGNED))
    answered = {s for at, s, to, m in cluster.trace if isinstance(m, Report) and to == 4 and at < first}
    assert len(answered) >= late.config.validator_set.q - 1
    cluster.reach(max(cluster.heights()) + 5, 4_000)


def test_27_a_validator_that_was_elected_while_it_was_down_votes():
    """Its log is of round 0, where it had a vote too; it has two rounds to go through."""
    cluster = started(4, 2, 2)
    away = others(cluster, cluster.leader(), *cluster.nodes[4:])[0]
    stay = tuple(key for key in range(4) if key != away.index)
    top = max(cluster.heights())
    cluster.change_at(top + 4, (*stay, 4))
    cluster.change_at(top + 8, (*stay, away.index))
    away.crash()
    cluster.run_until(lambda: max(cluster.heights()) > top + 20, 8_000)
    away.start()
    cluster.run_until(lambda: away.state.val.height > top + 20, 4_000)
    assert (away.round, away.state.learner) == (2, None)


def test_27_a_learner_votes_again_in_the_next_round():
    """Its disk came out of a backup. What it signed in that round binds it for that round alone."""
    cluster = started(4, 1, 0)
    victim = others(cluster, cluster.leader())[0]
    backup = copy.deepcopy(victim.disk)
    cluster.reach(20, 6_000)
    victim.crash()
    cluster.run(100)
    cluster.monitor.expect_learners.add(victim.index)
    cluster.monitor.restored.add(victim.index)
    victim.disk = backup
    victim.start()
    cluster.run_until(lambda: victim.state.learner is not None, 2_000)
    height = max(cluster.heights()) + 10
    cluster.change_at(height, (3, 2, 1, 0))
    cluster.reach(height + 1, 6_000)
    cluster.run_until(lambda: victim.state.val.height > height, 4_000)
    assert (victim.round, victim.state.learner) == (1, None)
    victim.crash()
    victim.start()
    assert victim.state.learner is None


def wiped_in_round_1(seed):
    """A validator that has voted in round 1 loses its disk and syncs from genesis into that round."""
    cluster = started(4, seed, 0)
    height = max(cluster.heights()) + 3
    cluster.change_at(height, (2, 0, 3, 1))
    cluster.reach(height + 15, 8_000)
    victim = others(cluster, cluster.leader())[seed % 3]
    victim.crash()
    cluster.monitor.expect_learners.add(victim.index)
    cluster.monitor.restored.add(victim.index)
    victim.disk = Disk()
    # Nobody hears of new blocks: it stands at a height at which it has voted.
    leader = cluster.leader()
    cluster.filters = [lambda source, target, m: None if target is victim and isinstance(m, Propose) else 0]
    leader.crash()
    victim.start()
    cluster.run(2_500)
    leader.start()
    cluster.reach(max(cluster.heights()) + 3, 8_000, others(cluster, victim))
    return cluster, victim


@pytest.mark.parametrize("seed", range(4))
def test_27_a_wiped_validator_that_syncs_into_the_round_is_found_out(seed):
    _, victim = wiped_in_round_1(seed)
    assert victim.round == 1
    assert victim.state.learner is not None


def test_27_without_the_question_it_breaks_its_own_promises():
    original = cluster_module.Start
    caught = []
    with removed(lambda patch: patch(cluster_module, "Start", lambda session=None: original(None))):
        for seed in range(6):
            try:
                wiped_in_round_1(seed)
            except Violation as violation:
                caught.append(str(violation).split(";")[0])
    assert len(caught) >= 3
    assert any("two different statements" in told or "lock below" in told for told in caught)


# --- 32 -----------------------------------------------------------------------------------------


def other_type(data):
    """A message has a type that nobody knows yet."""
    return data[:5] + b"\x63" + data[6:]


def one_field_more(data):
    """A message has a field at its end that nobody knows yet."""
    return data[:4] + bytes([data[4] + 1]) + data[5:] + b"\xc0"


def no_message(data):
    """A frame with nothing in it."""
    return data[:4]


def no_round(data):
    """Not even a frame."""
    return data[:3]


CHANGES = [
    (other_type, "bft-unknown-type"),
    (one_field_more, "bad-bft-field"),
    (no_message, "bft-unknown-type"),
    (no_round, "bad-bft-field"),
]


@pytest.mark.parametrize(("change", "code"), CHANGES)
def test_32_a_few_that_speak_another_version_are_refused_and_the_rest_goes_on(change, code):
    """Two of seven come back with a version that the others cannot read; they read the others."""
    cluster = Cluster(7, 2, timing=STEADY, through_codec=True)
    cluster.gossip()
    cluster.start()
    cluster.work(100)
    cluster.reach(5, 4_000)
    newer = [node for node in cluster.nodes if node is not cluster.leader()][:2]
    cluster.wire = lambda source, target, data: change(data) if source in newer else data
    for node in newer:
        node.crash()
        node.start()
    old = others(cluster, *newer)
    top = max(cluster.heights())
    cluster.reach(top + 30, 6_000, old)
    assert {source for source, _, _ in cluster.refused} == {node.index for node in newer}
    assert {refused for _, _, refused in cluster.refused} == {code}
    # A message that cannot be read changes nothing, and they follow the chain, though nobody hears them.
    assert not any(node.misbehaviours for node in cluster.nodes)
    cluster.reach(top + 30, 6_000, newer)
    assert all(node.state.asking for node in newer)
    # Put back to the common version, they take part again.
    cluster.wire = lambda source, target, data: data
    cluster.run_until(lambda: all(node.state.val.height > top + 30 for node in newer), 6_000)


@pytest.mark.parametrize(("change", "code"), CHANGES[:2])
def test_32_a_rolling_upgrade_stands_still_where_neither_version_has_a_quorum(change, code):
    """The new version reads both. Nothing is lost on the way, and four new nodes go on as before."""
    newer = set()

    def wire(source, target, data):
        return change(data) if source in newer and target not in newer else data

    cluster = Cluster(4, 6, timing=STEADY, through_codec=True)
    cluster.wire = wire
    cluster.gossip()
    cluster.start()
    cluster.work(100)
    cluster.reach(5, 4_000)
    for count, node in enumerate(list(cluster.nodes), 1):
        node.crash()
        newer.add(node)
        cluster.run(200)
        node.start()
        top = max(cluster.heights())
        if count == 1:
            cluster.reach(top + 10, 6_000, others(cluster, node))
        elif count == 2:
            cluster.run(3_000)
            assert max(cluster.heights()) <= top + 2
    cluster.reach(max(cluster.heights()) + 10, 20_000)
    assert {refused for _, _, refused in cluster.refused} == {code}
    assert not any(node.misbehaviours for node in cluster.nodes)


def test_32_a_kind_of_message_that_only_newer_nodes_know_costs_nothing_else():
    """Two of four also say something that the others cannot read: that is refused, the rest counts."""
    cluster = Cluster(4, 8, timing=STEADY, through_codec=True)

    def wire(source, target, data):
        also = source.index in (2, 3) and cluster.rng.random() < 0.05
        return data[:4] + b"\x92\x63\x01" if also else data

    cluster.wire = wire
    cluster.start()
    cluster.work(100)
    cluster.reach(40, 12_000)
    assert {source for source, _, _ in cluster.refused} == {2, 3}
    assert {code for _, _, code in cluster.refused} == {"bft-unknown-type"}
    assert not any(node.misbehaviours for node in cluster.nodes)
