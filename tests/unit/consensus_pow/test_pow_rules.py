"""Rules of headers and issue on their own: medians for locks, the schedule of subsidies, the anchor."""

import random
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import ConfigError, RuleError
from consensus.limits import MAX_HALVINGS
from consensus.params import COIN
from consensus.pow.limits import MEDIAN_SPAN
from consensus.pow.rules import (
    MedianTimes,
    check_bits,
    check_clock,
    check_time,
    expected_bits,
    median,
    subsidy_at,
)
from consensus.pow.target import target_of
from tests.unit.consensus_pow.powkit import GENESIS_TIME, SPACING, Hill, make_params


class Stored:
    """Header times of committed blocks; ``asked`` has the heights that were looked up."""

    def __init__(self, times, missing=()):
        self.times = times
        self.missing = set(missing)
        self.asked = []

    def time_at(self, height):
        self.asked.append(height)
        return None if height in self.missing else self.times[height]


# ---- medians


def test_median_takes_the_last_eleven_and_of_an_even_number_the_later_middle_one():
    assert median([7]) == 7
    assert median([1, 9]) == 9
    assert median([1, 9, 5]) == 5
    assert median([4, 1, 3, 2]) == 3
    assert median([10**9] * 5 + [*range(11)]) == 5
    assert median([*range(11), 0]) == 5


def reference(times, height):
    """BIP68: the median time past of the block before the coin's, over the whole chain's times."""
    last = max(0, height - 1)
    window = sorted(times[max(0, last - 10) : last + 1])
    return window[len(window) // 2]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, MEDIAN_SPAN))
def test_median_times_are_the_same_from_the_tip_and_from_the_store(seed, length, known):
    """Wherever the boundary between the tip's own times and the store's falls in the window."""
    dice = random.Random(seed)
    times = [GENESIS_TIME + dice.randrange(-300, 300) + 10 * n for n in range(length)]
    recent = times[-known:]
    stored = Stored(times)
    clock = MedianTimes(length - 1, recent, stored)
    for height in range(length + 1):  # a coin of the block in question itself has height ``length``
        assert clock.time_at(height) == reference(times, height)
    assert all(height <= length - 1 - len(recent) for height in stored.asked)


def test_median_times_at_the_boundary_ask_only_for_what_the_tip_lacks():
    times = [GENESIS_TIME + 10 * n for n in range(40)]
    stored = Stored(times)
    clock = MedianTimes(39, times[-11:], stored)
    assert clock.time_at(40) == times[34]
    assert stored.asked == []
    assert clock.time_at(39) == times[33]
    assert stored.asked == [28]
    stored.asked.clear()
    assert clock.time_at(29) == times[23]  # times 18 to 28, of which the tip knows none
    assert stored.asked == list(range(18, 29))


def test_median_times_say_nothing_without_the_whole_window():
    times = [GENESIS_TIME + 10 * n for n in range(40)]
    for older in (None, Stored(times, missing={20})):
        clock = MedianTimes(39, times[-11:], older)
        assert clock.time_at(25) is None
        assert clock.time_at(40) == times[34]
    assert MedianTimes(3, times[:4], None).time_at(2) == times[1]  # a young chain is known in full
    assert MedianTimes(3, times[:4], None).time_at(0) == times[0]


# ---- times of headers


def test_time_too_old_and_time_too_new_at_their_edges():
    params = make_params()
    header = Hill(params).genesis
    check_time(header, header.time_s - 1)
    with pytest.raises(RuleError) as caught:
        check_time(header, header.time_s)
    assert (caught.value.code, caught.value.permanent) == ("time-too-old", True)
    limit_s = params.pow.future_limit_s
    check_clock(header, header.time_s - limit_s, params)
    check_clock(header, header.time_s + 10**9, params)
    with pytest.raises(RuleError) as caught:
        check_clock(header, header.time_s - limit_s - 1, params)
    assert (caught.value.code, caught.value.permanent) == ("time-too-new", False)


@given(st.integers(0, 2**32))
def test_a_header_that_is_allowed_never_lets_the_median_fall(seed):
    dice = random.Random(seed)
    times = [dice.randrange(1000)]
    for _ in range(60):
        past = median(times)
        times.append(past + 1 + (0 if dice.random() < 0.5 else dice.randrange(200)))
        assert median(times) >= past


# ---- difficulty


def test_the_anchor_is_genesis_as_if_its_parent_had_come_one_interval_before():
    params = make_params()
    assert expected_bits(params, 0, GENESIS_TIME) == params.pow.bits
    for height in (1, 10, 1_000):
        assert expected_bits(params, height, GENESIS_TIME + SPACING * height) == params.pow.bits
    half_life = params.pow.half_life_s
    harder = target_of(expected_bits(params, 500, GENESIS_TIME + SPACING * 500 - half_life))
    assert Fraction(harder, target_of(params.pow.bits)) == pytest.approx(Fraction(1, 2), rel=1e-4)


def test_difficulty_never_falls_below_the_chains_least():
    params = make_params()
    assert expected_bits(params, 1, GENESIS_TIME + 10**7) == params.pow.max_target


def test_bits_off_by_one_are_refused():
    header = Hill().genesis
    check_bits(header, header.bits)
    for bits in (header.bits - 1, header.bits + 1):
        with pytest.raises(RuleError) as caught:
            check_bits(header, bits)
        assert caught.value.code == "bad-diffbits"


def test_parameters_that_are_no_targets_are_a_local_fault():
    params = make_params()
    for broken in ({"bits": 0x1D800000}, {"max_target": 0}):
        with pytest.raises(ConfigError):
            expected_bits(replace(params, pow=replace(params.pow, **broken)), 0, GENESIS_TIME)


# ---- issue


def test_the_schedule_halves_and_ends():
    params = make_params(subsidy=50 * COIN, subsidy_halving_blocks=10)
    assert subsidy_at(params, 0, 0) == 0  # genesis issues its allocations alone
    assert [subsidy_at(params, height, 0) for height in (1, 9, 10, 19, 20)] == [
        50 * COIN, 50 * COIN, 25 * COIN, 25 * COIN, 25 * COIN // 2
    ]  # fmt: skip
    assert subsidy_at(params, 10 * 32, 0) == 1  # 50 COIN has 33 bits
    assert subsidy_at(params, 10 * 33, 0) == 0
    assert subsidy_at(params, 10 * MAX_HALVINGS, 0) == subsidy_at(params, 2**31, 0) == 0


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 100),
    st.integers(1, 9),
    st.integers(0, 2_000),
    st.integers(0, 500),
)
def test_never_more_than_max_money_is_issued_and_all_of_it_if_the_schedule_allows(
    subsidy, halving, most, allocated
):
    params = make_params(subsidy=subsidy, subsidy_halving_blocks=halving, ledger={"max_money": most})
    issued = min(allocated, most)
    start = issued
    whole = 0
    for height in range(1, 10 * halving):
        due = subsidy_at(params, height, issued)
        assert due >= 0
        issued += due
        whole += subsidy >> height // halving
        assert issued == min(most, start + whole)
