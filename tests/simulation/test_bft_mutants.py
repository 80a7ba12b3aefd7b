"""A simulator is worth what it catches: every rule removed must end in a fork or a broken invariant."""

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.pool import Pool


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_dies(name, monkeypatch):
    mutate, n, first_seed = MUTANTS[name]
    mutate(lambda owner, attribute, value: monkeypatch.setattr(owner, attribute, value, raising=False))
    for seed in range(first_seed, first_seed + 1_500):
        try:
            Pool(n, seed).run(120)
        except Exception:
            return
    pytest.fail(f"{name} survived 1,500 schedules")
