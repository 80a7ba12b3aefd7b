from collections import Counter

import pytest

from consensus.bft.slots import order, permutation

SEED = bytes(range(32))


@pytest.mark.parametrize("n", [1, 2, 4, 7, 21, 50])
def test_everybody_is_first_once_per_cycle(n):
    for cycle in range(3):
        terms = range(cycle * n, cycle * n + n)
        assert sorted(order(SEED, term, n)[0] for term in terms) == list(range(n))
        assert all(sorted(order(SEED, term, n)) == list(range(n)) for term in terms)


def test_known_orders():
    """A change here makes nodes of two versions grant different candidates."""
    assert permutation(SEED, 0, 4) == (2, 0, 3, 1)
    assert permutation(SEED, 1, 7) == (5, 0, 3, 4, 1, 6, 2)
    assert order(SEED, 9, 7) == (3, 4, 1, 6, 2, 5, 0)


def test_rotation_inside_a_cycle():
    names = permutation(SEED, 2, 7)
    assert order(SEED, 14, 7) == names
    assert order(SEED, 17, 7) == names[3:] + names[:3]


def test_seed_and_cycle_matter():
    orders = {permutation(SEED, cycle, 21) for cycle in range(50)}
    orders |= {permutation(bytes([index]) * 32, 0, 21) for index in range(50)}
    assert len(orders) == 100


def test_places_are_uniform():
    counts = Counter(permutation(SEED, cycle, 5).index(3) for cycle in range(2_000))
    assert all(340 < counts[place] < 460 for place in range(5))
