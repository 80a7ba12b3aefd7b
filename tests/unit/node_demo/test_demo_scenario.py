"""The plan of a run: what is replayed, ordered and killed, and when."""

import pytest

from contracts.energy import calendar
from contracts.records import BUY, SELL
from node.demo.profiles import FIRST_DAY, midnight_s
from node.demo.scenario import Kill, plan
from node.testnet import TEST_ENERGY

pytest.importorskip("pvlib", reason="the extra sim is not installed")
pytest.importorskip("demandlib", reason="the extra sim is not installed")


def planned(**changes):
    options = {"seed": 1, "households": 12, "days": 1, "slots": None, "speed": 900, "market": TEST_ENERGY}
    return plan(**{**options, **changes})


@pytest.fixture(scope="module")
def day():
    return planned()


def test_a_day_is_the_local_day(day):
    assert (day.slots, day.start_s(0)) == (96, midnight_s(FIRST_DAY))
    assert [day.time_of_day(at) for at in (0, 1, 95, 96)] == ["00:00", "00:15", "23:45", "00:00"]
    assert day.energy.day_offset_s == -5 * 3600


def test_each_day_is_one_billing_day(day):
    for scenario in (day, planned(slots=12, households=2), planned(days=2, households=2)):
        days = {calendar.day_of(scenario.energy, scenario.slot_number(at)) for at in range(scenario.slots)}
        assert sorted(days) == scenario.chain_days()
        assert len(days) == -(-scenario.slots // 96)
        last = scenario.slot_number(scenario.slots - 1)
        assert calendar.last_slot(scenario.energy, max(days)) == last
        assert scenario.settled_s() == calendar.settlement_s(scenario.energy, last)


def test_a_short_run_lies_around_noon():
    short = planned(slots=12, households=2)
    assert (short.slots, short.time_of_day(0), short.time_of_day(11)) == (12, "10:30", "13:15")
    assert any(wish.side == SELL for wishes in short.wishes for wish in wishes.values())


def test_the_faults_of_a_day_and_of_a_short_run(day):
    assert list(day.kills) == [Kill(40, 50, leader=False), Kill(60, 70, leader=True)]
    assert list(planned(days=2, households=2).kills) == list(day.kills)
    short = planned(slots=24, speed=1800, households=2)
    assert [kill.at for kill in short.kills] == [10, 15]
    # Long enough in real time to be missed.
    assert all((kill.back_at - kill.at) * 900 >= 2 * 1800 for kill in short.kills)


def test_times_leave_room_for_a_change_of_leader():
    for speed in (900, 3600):
        scenario = planned(speed=speed, slots=8, households=2)
        lead_s = scenario.start_s(5) - scenario.energy.gate_lead_s - scenario.order_time_s(5)
        assert lead_s / speed >= 5
        assert scenario.energy.reading_window_s / speed >= 5


def test_orders_follow_the_forecast_and_the_forecast_errs(day):
    forecast_errs = 0
    for member in day.households:
        for at, wish in day.wishes[member.index].items():
            net_wh = day.energies[member.index].net_wh(at)
            assert wish.slot == day.slot_number(at)
            assert wish.energy_wh > 0
            assert (
                day.energy.feed_in_price_per_kwh <= wish.limit_price_per_kwh <= day.energy.grid_price_per_kwh
            )
            if abs(net_wh) > 400:
                assert wish.side == (BUY if net_wh > 0 else SELL)
            forecast_errs += wish.energy_wh != abs(net_wh)
    assert forecast_errs > 900


def test_the_seed_decides(day):
    assert planned().wishes == day.wishes
    assert planned(seed=2).wishes != day.wishes
    assert {household.provider for household in planned(households=2).households} == {0, 1}
