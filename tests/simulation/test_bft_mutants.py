"""A simulator is worth what it catches: the mutation score, with recorded seeds."""

import pytest

from tests.simulation.mutants import MUTANTS, OF_THE_SPECIFICATION
from tests.simulation.score import kill

IN_MODEL_ALONE = {"second_first_proposal", "extends_uncommitted_high", "suffix_unbounded"}
IN_CLUSTER = [
    name
    for name, mutant in MUTANTS.items()
    if mutant.cluster >= 0 and name != "extends_uncommitted_high"  # rare: left to the campaign
]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_dies_in_the_model(name):
    assert kill(name, "model")


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in IN_MODEL_ALONE])
def test_a_mutant_dies_in_the_pool(name):
    assert kill(name, "pool")


@pytest.mark.parametrize("name", IN_CLUSTER)
def test_a_mutant_dies_in_the_cluster(name):
    assert kill(name, "cluster")


def test_enough_of_the_specification_s_mutants_are_played_in_each_layer():
    named = list(MUTANTS)[:OF_THE_SPECIFICATION]
    assert len(named) == 13
    assert sum(name in IN_CLUSTER for name in named) >= 8


def test_a_removed_rule_comes_back():
    from consensus.bft import voting

    before = voting.bump_lock
    kill("lock_not_updated", "cluster")
    assert voting.bump_lock is before
