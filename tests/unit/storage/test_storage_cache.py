from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.cache import ByteCache
from storage.limits import CACHE_ENTRY_BYTES

KEYS = st.sampled_from([b"a", b"b", b"c", b"dd", b"ee"])


def test_keeps_within_its_budget_and_forgets_the_least_used() -> None:
    cache = ByteCache(20 * (CACHE_ENTRY_BYTES + 10))
    for number in range(1000):
        cache.put(b"%04d" % number, b"v" * 6)
        assert cache.get(b"0000") == b"v" * 6
        assert cache.used_bytes <= 20 * (CACHE_ENTRY_BYTES + 10)
    assert cache.get(b"0999") is not None
    assert cache.get(b"0500") is None


def test_a_pair_larger_than_half_the_budget_is_not_kept_and_the_older_value_goes() -> None:
    cache = ByteCache(4 * CACHE_ENTRY_BYTES)
    cache.put(b"k", b"old")
    cache.put(b"k", bytes(3 * CACHE_ENTRY_BYTES))
    assert cache.get(b"k") is None


@pytest.mark.parametrize("budget", [0, 3 * CACHE_ENTRY_BYTES, 9 * CACHE_ENTRY_BYTES, 1 << 20])
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(KEYS, st.binary(max_size=300)),
            st.tuples(KEYS, st.none()),
            st.dictionaries(KEYS, st.none() | st.binary(max_size=40), max_size=8),
        )
    ),
    seed=st.integers(0, 9),
)
def test_never_answers_with_anything_but_the_last_value(budget: int, steps: list, seed: int) -> None:
    cache, truth, rng = ByteCache(budget), {}, Random(seed)
    for step in steps:
        if isinstance(step, dict):
            cache.apply(step)
            truth.update(step)
        elif step[1] is None:
            cache.drop(step[0])
            truth[step[0]] = None
        else:
            cache.put(*step)
            truth[step[0]] = step[1]
        for key in rng.sample(sorted(truth), min(3, len(truth))):
            assert cache.get(key) in (truth[key], None)
        assert cache.used_bytes <= max(budget, 0)
