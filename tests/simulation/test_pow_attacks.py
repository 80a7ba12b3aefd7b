"""The attacks that are told of proof of work, played on networks of real engines.

Each test says with how many confirmations the victim loses and with how many it does not. Seeds are
fixed; a failure names its own, and the function called with it repeats the history.
"""

import math
from fractions import Fraction
from random import Random

import pytest

from consensus.pow import types as t
from tests.simulation.pow_attacks import (
    counterfeit,
    finney,
    majority,
    one_confirmation,
    partition,
    race,
    rewrite,
    selfish,
    warp,
)
from tests.simulation.pow_models import lottery, rewrites, selfish_walk
from tests.simulation.pow_risk import double_spend, selfish_revenue
from tests.simulation.pow_world import Node, Payment, World, agreed, simulated_params
from tests.unit.consensus_pow.powbounds import binomial_bounds

SEEDS = range(6)


def victims(attack, confirmations):
    """Return the seeds whose merchant lost the goods."""
    return [seed for seed in SEEDS if attack(seed, confirmations).robbed]


# ---- without hash rate: one block at most


def test_race_attack_takes_who_delivers_unconfirmed_and_nobody_else():
    """What the merchant saw first is not what the miners saw first. (How a node's mempool keeps the first of
    two payments, and when it lets one replace the other, is tested in tests/unit/node.)"""
    assert victims(race, 0) == list(SEEDS)
    for seed in SEEDS:
        merchant = race(seed, 1)
        assert merchant.delivered_at is None, (
            f"seed {seed}: a payment that was never mined was taken for paid"
        )
        assert merchant.spent[1].payee == "attacker"


def test_finney_attack_takes_who_delivers_unconfirmed_and_nobody_else():
    """A block found beforehand beats the mempool at once, unless the public finds one first; it does not beat
    a block that is there already, since the first seen stays."""
    assert len(victims(finney, 0)) >= 4
    assert victims(finney, 1) == []
    assert victims(finney, 2) == []


def test_one_confirmation_attack_takes_who_trusts_the_last_block():
    """Vector76: the merchant's one confirmation is a block that nobody else will build on."""
    assert victims(one_confirmation, 1) == list(SEEDS)
    assert victims(one_confirmation, 2) == []


# ---- by hash rate: alternative history


@pytest.mark.parametrize(("share", "depth", "lead"), [(0.1, 1, 1), (0.3, 2, 0), (0.3, 3, 1), (0.45, 6, 1)])
def test_an_alternative_history_succeeds_exactly_where_the_random_walk_does(share, depth, lead):
    """The engine's histories and the walk that the formulas are about, find by find."""
    succeeded = 0
    for seed in range(15):
        result = rewrite(seed, share, depth, lead=lead)
        assert result.succeeded == rewrites(result.order, depth, lead=lead, patience=14), f"seed {seed}"
        assert result.robbed == result.succeeded, f"seed {seed}"
        succeeded += result.succeeded
    low, high = binomial_bounds(15, float(double_spend(share_of(share), depth, lead)))
    assert low <= succeeded <= high


def share_of(share):
    return Fraction(round(share * 100), 100)


@pytest.mark.parametrize(
    ("share", "depth", "lead"),
    [
        (0.1, 1, 1),
        (0.1, 2, 1),
        (0.2, 4, 1),
        (0.3, 1, 0),
        (0.3, 6, 1),
        (0.3, 6, 0),
        (0.4, 10, 1),
        (0.45, 6, 1),
    ],
)
def test_success_rates_of_the_walk_are_rosenfelds(share, depth, lead):
    """5,000 runs each; a right model fails with probability 1e-6. It gives up 40 behind: at worst, with 45 %,
    (9/11)^40 = 0.03 % of the runs are counted as failures that would not be."""
    dice = Random(4)
    runs = 5_000
    succeeded = sum(rewrites(lottery(dice, share), depth, lead=lead, patience=40) for _ in range(runs))
    expected = float(double_spend(share_of(share), depth, lead))
    low, high = binomial_bounds(runs, expected)
    print(f"seed 4: {succeeded} of {runs}, expected {runs * expected:.1f}, bounds {low} to {high}")
    assert low - runs * (share / (1 - share)) ** 40 <= succeeded <= high


def test_an_attacker_who_may_draw_level_is_the_formula_without_ties_and_one_block_more():
    dice, runs = Random(5), 5_000
    level = sum(rewrites(lottery(dice, 0.3), 3, lead=0, patience=40, ties=True) for _ in range(runs))
    low, high = binomial_bounds(runs, float(double_spend(share_of(0.3), 3, 1)))
    assert low <= level <= high


def test_of_two_branches_as_long_the_one_stamped_earlier_weighs_more():
    """So ties of two and more blocks go to who stamps early, seen first or not: the formula that gives the
    attacker the tie is the right one here."""
    world = World(1, simulated_params(bits=0x1F01FFFF))  # 32,768 hashes: one second is 0.07 per cent
    node = Node(world)
    node.do(t.Start())
    fork = world.genesis.hash

    def branch(stamps):
        parent, blocks = fork, []
        for step_s in stamps:
            blocks.append(world.find(9, parent, [], world.blocks[fork].header.time_s + step_s))
            parent = blocks[-1].header.hash
        return blocks

    node.clock_s = 1_000
    late, early, single = branch([10, 20]), branch([9, 20]), branch([9])
    for blocks in (late, single, early):
        for block in blocks:
            node.bodies.add(block.header.hash)
            node.do(t.Headers(1, (block.header,)), t.BodyStored(block.header.hash))
        if blocks is single:
            assert node.chain[-1] == late[-1].header.hash
    assert single[0].work == late[0].work  # a tie of one block is one: both have the same parent
    assert early[-1].work > late[-1].work
    assert node.chain[-1] == early[-1].header.hash


def test_early_stamps_win_more_races_than_a_tie_that_is_lost():
    """With free stamps a rewriter of no lead does better than the formula in which it must get ahead."""
    runs = 60
    early = sum(rewrite(seed, 0.3, 3, on_schedule=False, early=True).succeeded for seed in range(runs))
    low, high = binomial_bounds(runs, float(double_spend(share_of(0.3), 3, 1)))
    print(f"{early} of {runs}, bounds {low} to {high}")
    assert low <= early <= high
    assert early > runs * double_spend(share_of(0.3), 3, 0)


# ---- by most of the hash rate


@pytest.mark.parametrize("seed", range(2))
def test_51_percent_attack_always_succeeds_in_the_end_and_is_told(seed):
    result = majority(seed, 0.6, confirmations=8)
    assert result.attacker.succeeded
    assert result.merchant.robbed
    for node in (*result.nodes, result.merchant):
        assert node.reorganised >= 8
        assert max(told.depth for told in node.seen(t.DeepReorg)) == node.reorganised


@pytest.mark.parametrize("seed", range(2))
def test_51_percent_attack_stops_at_a_checkpoint_where_there_is_one(seed):
    result = majority(seed, 0.6, confirmations=8, checkpointed=[0, 1, 3])
    assert not result.merchant.robbed
    for node in (*result.nodes[:2], result.merchant):
        assert not node.seen(t.DeepReorg)
        assert "checkpoint-mismatch" in [told.code for told in node.seen(t.Misbehaviour)]
    assert result.nodes[2].reorganised >= 8  # its operator did nothing


def test_51_percent_cannot_make_a_double_spend_valid():
    result = counterfeit(1, 0.7)
    bad = result.attacker.branch[0].header.hash
    for node in (*result.nodes, result.merchant):
        assert bad not in node.chain
        assert node.tip.work < result.attacker.branch[-1].work
        assert node.seen(t.InvalidLead) == [t.InvalidLead(bad, "bad-txns-inputs-missingorspent")]


# ---- selfish mining


@pytest.mark.parametrize(("share", "honest"), [(0.2, 1), (0.35, 1), (0.45, 2), (0.4, 4)])
def test_selfish_mining_earns_what_the_state_machine_says_of_the_same_finds(share, honest):
    """Real engines against Eyal and Sirer's machine, block by block. In a tie the finder of the honest block
    stays on it, and all others are on the attacker's, whom they heard first: gamma is 1 - 1/honest."""
    for seed in range(2):
        result = selfish(seed, share, 150, honest=honest)
        order = [0 if finder == result.attacker else finder + 1 for finder in result.order]
        assert (result.own, result.blocks) == selfish_walk(order, lambda finder, rival: finder != rival)
        assert result.races > 5


@pytest.mark.parametrize(
    ("alpha", "gamma"),
    [(0.1, 0.0), (0.25, 0.0), (0.25, 0.5), (1 / 3, 0.0), (0.4, 0.0), (0.4, 2 / 3), (0.45, 1.0)],
)
def test_revenue_of_the_state_machine_is_the_closed_form(alpha, gamma):
    """Mean of 30 runs of 4,000 blocks within 5.5 standard errors of the runs: false alarm about 1e-5."""
    dice = Random(6)
    runs = []
    for _ in range(30):
        order = [0 if dice.random() < alpha else 1 for _ in range(4_000)]
        own, blocks = selfish_walk(order, lambda finder, rival: dice.random() < gamma)
        runs.append(own / blocks)
    mean = sum(runs) / len(runs)
    error = math.sqrt(sum((run - mean) ** 2 for run in runs) / (len(runs) - 1) / len(runs))
    exact = float(selfish_revenue(Fraction(alpha), Fraction(gamma)))
    print(f"seed 6: {mean:.4f} +- {error:.4f}, closed form {exact:.4f}")
    assert abs(mean - exact) < 5.5 * error


def test_first_seen_alone_leaves_a_third_as_the_threshold():
    """One honest miner, gamma 0: below a third selfish mining costs, above it pays. 300 blocks each."""
    low, high = selfish(0, 0.2, 300), selfish(3, 0.45, 300)
    print(low.revenue, high.revenue)
    assert low.revenue < 0.2 < 0.45 < high.revenue


# ---- partitions and clocks


@pytest.mark.parametrize("seed", range(3))
def test_a_partition_heals_to_one_chain_and_pays_again_what_was_lost(seed):
    healed = partition(seed, 30)
    assert agreed(healed.world.nodes)
    assert {node.spent[1].payee for node in healed.world.nodes} == {"heavy"}
    assert {node.spent[2].payee for node in healed.world.nodes} == {"light alone"}
    for node in healed.light:
        assert node.reorganised >= healed.lost > 0
        assert (node.reorganised > 6) == bool(node.seen(t.DeepReorg))


def test_stamping_ahead_gains_the_future_limit_once_and_never_more():
    """All miners lie as far as clocks allow, for ever: ten blocks, whether for 450 intervals or 900."""
    honest = {intervals: warp(1, 0.0, "ahead", intervals, even=True)[0] for intervals in (450, 900)}
    for intervals, height in honest.items():
        assert abs(height - intervals) <= 2
        assert 9 <= warp(1, 1.0, "ahead", intervals, even=True)[0] - height <= 11
    assert 0 <= warp(1, 1.0, "zigzag", 450, even=True)[0] - honest[450] <= 11
    assert warp(1, 1.0, "behind", 450, even=True)[0] < honest[450]  # it makes it harder for oneself


@pytest.mark.parametrize("lie", ["ahead", "behind", "zigzag"])
def test_a_minority_that_lies_about_time_gains_nothing(lie):
    height, part = warp(2, 0.3, lie, 400)
    assert 400 - 50 <= height <= 400 + 50
    assert part < 0.3 + 0.08


def test_stamps_beyond_the_limit_lose_the_block():
    """The header is kept back until its time has come; by then others have built elsewhere."""
    height, part = warp(2, 0.3, "ahead", 400, limit_s=200)
    assert part < 0.05
    assert height > 300


# ---- the simulator itself


def test_a_seed_is_a_history():
    def story(seed):
        world = World(seed)
        for _ in range(3):
            Node(world, 1 / 3)
        world.start()
        world.nodes[0].on_payment(1, Payment(1, "a"))
        world.run(400)
        return list(world.blocks)

    assert story(1) == story(1)
    assert story(1) != story(2)


def test_honest_blocks_come_once_per_interval_and_by_share_of_hash_rate():
    """Nothing of the attacks' figures would mean anything otherwise. False alarm 1e-6 each."""
    world = World(8, latency_s=0.01)
    for share in (0.5, 0.3, 0.2):
        Node(world, share)
    world.start()
    world.run(4_000)
    chain = world.ancestry(world.nodes[0].chain[-1])[1:]
    assert 400 - 45 <= len(chain) <= 400 + 45  # ASERT holds the sum, so it varies by eight, not by 20
    for node in world.nodes:
        low, high = binomial_bounds(len(chain), node.share)
        assert low <= sum(block.miner == node.index for block in chain) <= high
