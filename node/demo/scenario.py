"""The plan of a run: which slots are replayed, what everybody meters and orders in each, and when.

Nothing here knows a node. All that looks random follows from the seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from math import ceil

from consensus.params import EnergyParams
from contracts.records import BUY, SELL
from node.demo.households import Household, make_households
from node.demo.profiles import (
    FIRST_DAY,
    SLOT_S,
    SLOTS_PER_DAY,
    Weather,
    load_wh,
    midnight_s,
    pv_wh,
    read_weather,
)
from node.demo.seeded import Seeded

PROVIDERS = 3

ORDER_LEAD_REAL_S = 6.0
"""Orders are placed so long before their gate closes, in real time: a change of leader takes one or
two seconds, and every order must still be in a block in time."""

READING_WINDOW_REAL_S = 10.0
"""Readings have so long, in real time, for the same reason."""

MIN_READING_WINDOW_S = 7_200

FORECAST_SPREAD = 0.12
"""Standard deviation of the relative error of a household's forecast for one slot."""

PRICE_STEP = 100_000
"""Households think in tenths of a cent."""

BUY_RANGE = (0.35, 0.95)
SELL_RANGE = (0.05, 0.60)
"""Where limits lie between the feed-in price (0) and the grid price (1)."""

KILL_FOLLOWER_AT = 40
KILL_LEADER_AT = 60
DOWN_SLOTS = 10
MIN_DOWN_REAL_S = 2.0
"""A short run's nodes stay away at least so long, to have something to catch up with."""


@dataclass(frozen=True, slots=True)
class Energy:
    """What a household consumes, generates and meters in each slot of the run, watt-hours."""

    load_wh: Sequence[int]
    pv_wh: Sequence[int]

    def net_wh(self, at: int) -> int:
        """Return what the household draws from outside in slot ``at``; negative for feeding in."""
        return self.load_wh[at] - self.pv_wh[at]


@dataclass(frozen=True, slots=True)
class Wish:
    """An order that a household is going to place."""

    slot: int
    side: str
    energy_wh: int
    limit_price_per_kwh: int


@dataclass(frozen=True, slots=True)
class Kill:
    """A fault of the story: in which slot which node dies, and in which it comes back."""

    at: int
    back_at: int
    leader: bool


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run. ``first_slot`` is the number of the first slot on the chain, ``slots`` how many follow.

    ``first_of_day`` is the first slot's place in its local day, for the time shown.
    """

    day: date
    first_slot: int
    first_of_day: int
    slots: int
    speed: int
    energy: EnergyParams
    households: Sequence[Household]
    energies: Sequence[Energy]
    wishes: Sequence[Mapping[int, Wish]]
    kills: Sequence[Kill]

    def slot_number(self, at: int) -> int:
        """Return the chain's number of the slot at position ``at``."""
        return self.first_slot + at

    def time_of_day(self, at: int) -> str:
        """Return the local time at which slot ``at`` starts, "HH:MM"."""
        minutes = (self.first_of_day + at) % SLOTS_PER_DAY * (SLOT_S // 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}"

    def start_s(self, at: int) -> int:
        """Return the chain time at which slot ``at`` starts."""
        return self.slot_number(at) * SLOT_S

    def order_time_s(self, at: int) -> int:
        """Return the chain time at which the orders of slot ``at`` are placed."""
        return self.start_s(at) - self.energy.gate_lead_s - int(ORDER_LEAD_REAL_S * self.speed)

    def settled_s(self) -> int:
        """Return the chain time at which the last slot is settled and the last day billed."""
        return self.start_s(self.slots) + self.energy.reading_window_s

    def chain_days(self) -> list[int]:
        """Return the numbers of the chain's days that the run covers, each billed at its end."""
        first = (self.start_s(0) + self.energy.day_offset_s) // 86_400
        last = (self.start_s(self.slots - 1) + self.energy.day_offset_s) // 86_400
        return list(range(first, last + 1))


def plan(
    *, seed: int, households: int, days: int, slots: int | None, speed: int, market: EnergyParams
) -> Scenario:
    """Return the run: whole days, or with ``slots`` as many around the noon of the first.

    ``market`` gives prices and slot length; window and day boundary are set to fit the run. A
    short run's billing day ends with its last slot, so that it too ends with bills.
    """
    source = Seeded(seed)
    members = make_households(households, PROVIDERS, source)
    weather = read_weather(FIRST_DAY, days)
    start_at, count = _cut(days, slots)
    energies = [_energy(member, weather, days, start_at, count) for member in members]
    first_slot = midnight_s(FIRST_DAY) // SLOT_S + start_at
    energy = _market(market, speed, (first_slot + count) * SLOT_S)
    wishes = [_wishes(member, energies[member.index], first_slot, energy, source) for member in members]
    return Scenario(
        day=FIRST_DAY + timedelta(days=start_at // SLOTS_PER_DAY),
        first_slot=first_slot,
        first_of_day=start_at % SLOTS_PER_DAY,
        slots=count,
        speed=speed,
        energy=energy,
        households=members,
        energies=energies,
        wishes=wishes,
        kills=_kills(count, speed),
    )


def _cut(days: int, slots: int | None) -> tuple[int, int]:
    """Return (first slot of the run from the first midnight, number of slots)."""
    if slots is None or slots >= days * SLOTS_PER_DAY:
        return 0, days * SLOTS_PER_DAY
    if slots > SLOTS_PER_DAY:
        return 0, slots
    return (SLOTS_PER_DAY - slots) // 2, slots


def _energy(member: Household, weather: Weather, days: int, start_at: int, count: int) -> Energy:
    load = load_wh(member.kind, member.annual_kwh, FIRST_DAY, days)
    roof = [0] * len(load) if member.pv is None else pv_wh(member.pv, weather)
    return Energy(load[start_at : start_at + count], roof[start_at : start_at + count])


def _market(market: EnergyParams, speed: int, end_s: int) -> EnergyParams:
    window_s = max(MIN_READING_WINDOW_S, int(READING_WINDOW_REAL_S * speed))
    offset_s = -(end_s % 86_400)
    if offset_s < -43_200:
        offset_s += 86_400
    return replace(market, reading_window_s=window_s, day_offset_s=offset_s)


def _wishes(
    member: Household, energy: Energy, first_slot: int, market: EnergyParams, source: Seeded
) -> dict[int, Wish]:
    """Return the order of each slot, by position: the forecast net energy, at a limit in between.

    The forecast errs, so that metered energy differs from traded energy as it does in the field.
    """
    wishes = {}
    for at in range(len(energy.load_wh)):
        load = energy.load_wh[at] * (1.0 + source.error(FORECAST_SPREAD, "load", member.index, at))
        roof = energy.pv_wh[at] * (1.0 + source.error(FORECAST_SPREAD, "roof", member.index, at))
        forecast_wh = round(load - roof)
        if forecast_wh == 0:
            continue
        side, limits = (BUY, BUY_RANGE) if forecast_wh > 0 else (SELL, SELL_RANGE)
        limit = _limit(limits, market, source, member.index, at)
        wishes[at] = Wish(first_slot + at, side, abs(forecast_wh), limit)
    return wishes


def _limit(limits: tuple[float, float], market: EnergyParams, source: Seeded, member: int, at: int) -> int:
    """Return a limit price: a household has its own mind, and changes it a little every slot."""
    low, high = limits
    mind = 0.7 * source.fraction("mind", member) + 0.3 * source.fraction("mood", member, at)
    span = market.grid_price_per_kwh - market.feed_in_price_per_kwh
    price = market.feed_in_price_per_kwh + span * (low + (high - low) * mind)
    return int(price) // PRICE_STEP * PRICE_STEP


def _kills(slots: int, speed: int) -> list[Kill]:
    """Return the faults: at slots 40 and 60 of a day, in a shorter run at the same fractions of it."""
    span = min(slots, SLOTS_PER_DAY)
    down = max(DOWN_SLOTS * span // SLOTS_PER_DAY, ceil(MIN_DOWN_REAL_S * speed / SLOT_S))
    follower, leader = KILL_FOLLOWER_AT * span // SLOTS_PER_DAY, KILL_LEADER_AT * span // SLOTS_PER_DAY
    return [Kill(follower, follower + down, leader=False), Kill(leader, leader + down, leader=True)]
