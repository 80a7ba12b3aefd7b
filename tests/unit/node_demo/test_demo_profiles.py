"""Loads and roofs: sums that must come out, light that must not be there, the same again by seed."""

from datetime import date

import pytest

from node.demo.households import has_pv, make_households
from node.demo.profiles import (
    FIRST_DAY,
    LAST_DAY,
    SLOTS_PER_DAY,
    PvSystem,
    load_wh,
    midnight_s,
    pv_wh,
    read_weather,
    whole_watt_hours,
    year_shares,
)
from node.demo.seeded import Seeded

pytest.importorskip("pvlib", reason="the extra sim is not installed")
pytest.importorskip("demandlib", reason="the extra sim is not installed")

SOUTH = PvSystem(5_000, 30, 180)


@pytest.fixture(scope="module")
def weather():
    return read_weather(FIRST_DAY, 1)


@pytest.mark.parametrize("kind", ["H25", "G25", "L25"])
@pytest.mark.parametrize("annual_kwh", [1_900, 14_000])
def test_a_year_of_load_is_the_annual_size(kind, annual_kwh):
    year = load_wh(kind, annual_kwh, date(1981, 1, 1), 365)
    assert len(year) == 365 * SLOTS_PER_DAY
    assert sum(year) == annual_kwh * 1000
    assert min(year) >= 0


def test_the_days_of_a_run_are_those_of_the_year():
    year = load_wh("H25", 4_000, date(1981, 1, 1), 365)
    at = (FIRST_DAY - date(1981, 1, 1)).days * SLOTS_PER_DAY
    day = load_wh("H25", 4_000, FIRST_DAY, 1)
    assert abs(sum(day) - sum(year[at : at + SLOTS_PER_DAY])) <= 1


def test_profiles_differ():
    assert len({year_shares(kind, 1981) for kind in ("H25", "G25", "L25")}) == 3
    with pytest.raises(ValueError, match="no load profile 'X25'"):
        year_shares("X25", 1981)


def test_there_is_no_sun_at_night(weather):
    day = pv_wh(SOUTH, weather)
    assert len(day) == SLOTS_PER_DAY
    assert not any(day[:19])
    assert not any(day[79:])
    assert all(day[24:72])


def test_a_sunny_day_gives_what_such_roofs_give(weather):
    # Five to six and a half full-load hours on a clear summer day, never more than the rated power.
    day = pv_wh(SOUTH, weather)
    assert 5.0 <= sum(day) / SOUTH.peak_w <= 6.5
    assert max(day) <= SOUTH.peak_w / 4


def test_roofs_look_where_they_look(weather):
    def noon(azimuth_deg):
        day = pv_wh(PvSystem(5_000, 30, azimuth_deg), weather)
        return sum(at * energy_wh for at, energy_wh in enumerate(day)) / sum(day)

    assert noon(90) < noon(180) < noon(270)


def test_twice_the_roof_gives_twice_the_energy(weather):
    once, twice = sum(pv_wh(SOUTH, weather)), sum(pv_wh(PvSystem(10_000, 30, 180), weather))
    assert abs(twice - 2 * once) <= 2


def test_the_last_day_that_is_offered_has_weather():
    weather = read_weather(LAST_DAY, 1)
    assert len(weather.frame) == SLOTS_PER_DAY
    assert not weather.frame.isna().any().any()


def test_local_midnight():
    assert midnight_s(date(1970, 1, 1)) == 5 * 3600
    assert midnight_s(FIRST_DAY) % 900 == 0


def test_rounding_keeps_the_running_sum():
    assert whole_watt_hours([0.4] * 5) == [0, 1, 0, 1, 0]
    assert whole_watt_hours([]) == []


# ---- households -----------------------------------------------------------------------------------


def test_seven_of_twelve_have_pv():
    assert sum(has_pv(index) for index in range(12)) == 7
    assert [sum(has_pv(index) for index in range(count)) for count in (2, 4, 24, 120)] == [1, 2, 14, 70]


def test_households_follow_from_the_seed():
    first, again, other = (make_households(12, 3, Seeded(seed)) for seed in (1, 1, 2))
    assert [member.script for member in first] == [member.script for member in again]
    assert [member.pv for member in first] == [member.pv for member in again]
    assert not {member.script for member in first} & {member.script for member in other}
    assert [member.annual_kwh for member in first] != [member.annual_kwh for member in other]
    roofs = [member.pv for member in first if member.pv is not None]
    assert len({(roof.peak_w, roof.tilt_deg, roof.azimuth_deg) for roof in roofs}) == 7
    assert {member.provider for member in first} == {0, 1, 2}
    assert len({member.name for member in first}) == 12
    assert len({member.kind for member in first}) == 3


def test_a_household_hides_its_keys():
    member = make_households(2, 3, Seeded(1))[0]
    assert member.device.reveal().hex() not in repr(member)


# ---- seeded numbers -------------------------------------------------------------------------------


def test_seeded_numbers():
    source = Seeded(5)
    assert source.fraction("a", 1) == Seeded(5).fraction("a", 1)
    assert source.fraction("a", 1) != source.fraction("a", 2)
    assert source.fraction("a", 1) != Seeded(6).fraction("a", 1)
    assert {source.between(3, 5, at) for at in range(100)} == {3, 4, 5}
    errors = [source.error(0.1, at) for at in range(2_000)]
    mean = sum(errors) / len(errors)
    spread = (sum(error * error for error in errors) / len(errors)) ** 0.5
    assert abs(mean) < 0.01
    assert abs(spread - 0.1) < 0.01
    assert max(map(abs, errors)) < 0.36


def test_a_stream_goes_on():
    first, second = Seeded(1).stream("x"), Seeded(1).stream("x")
    assert first(5) == second(5)
    assert first(40) == second(40)
    assert first(32) != first(32)
    assert len(first(7)) == 7
