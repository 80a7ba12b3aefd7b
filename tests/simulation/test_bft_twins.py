"""Scenario 18: one validator of four runs twice; every split of the instances in each phase of a term."""

import secrets

import pytest

from tests.simulation.mutants import two_votes_per_rank
from tests.simulation.twin_worlds import ELECT, FINISH, HONEST, SPLITS, VOTE, Fork, Twins


def test_18_every_split_and_every_leader_of_a_term():
    """64 elections, then 16 splits for the votes and 16 for the end: 16,384 schedules, 722 different worlds.

    From each of them on a random term follows.
    """
    twins = Twins()
    stages = twins.enumerate((ELECT, VOTE, FINISH))
    assert [len(worlds) for worlds in stages] == [15, 99, 722]
    first = secrets.randbelow(2**31)
    print(f"second terms from seed {first}")
    heights = set()
    for number, world in enumerate(stages[-1]):
        after = twins.wander(first + number, 1, world)
        heights |= {len(after.instances[index].chain) for index in HONEST}
    assert heights >= {0, 1, 2}


def test_18_random_schedules_of_four_terms():
    first = secrets.randbelow(2**31)
    print(f"Twins().wander(seed, 4) from seed {first}")
    for seed in range(first, first + 250):
        Twins().wander(seed, 4)


def test_both_twins_lead_and_propose_different_blocks():
    """The method is for this: two proposals under one key, none of which is malformed."""
    twins = Twins()
    world = twins.play(twins.begin(), next(c for c in twins.choices(ELECT) if c.split == SPLITS[0]))
    leaders = [instance.state.mine for instance in world.instances[:2]]
    assert all(leaders)
    assert leaders[0].block_hash != leaders[1].block_hash


def test_without_a_rule_the_schedules_find_a_fork(monkeypatch):
    two_votes_per_rank(lambda owner, name, value: monkeypatch.setattr(owner, name, value, raising=False))

    def play_many():
        for seed in range(3_000):
            Twins().wander(seed, 4)

    with pytest.raises(Fork):
        play_many()
