"""Energy of a household per quarter-hour: load from standard profiles, generation from real weather.

Load: the BDEW standard load profiles of 2025 (``demandlib``): H25 households, G25 commerce, L25 farms.
P25 and S25 describe what households with PV, or with PV and a battery, take from the grid; here
PV is modelled itself, so they would count it twice.

Generation: irradiance of a typical meteorological year (``data/723170TYA.CSV`` of ``pvlib``, TMY3 of
NREL, whose days are measured ones) on the tilted plane (Hay and Davies), cell temperature (Faiman),
DC and AC power (PVWatts). All results are whole watt-hours per slot.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

SLOTS_PER_DAY = 96
SLOT_S = 900
WEATHER_FILE = "data/723170TYA.CSV"
PLACE = "Greensboro, North Carolina"
UTC_OFFSET_S = -5 * 3600
"""The file is in Eastern Standard Time all year."""

TIME_ZONE = "Etc/GMT+5"
FIRST_DAY = date(1981, 7, 15)
"""A Wednesday, the sunniest summer weekday of the file: 7.7 kWh/m2 on the ground."""

LAST_DAY = date(1981, 7, 30)
"""The file's July is that of 1981; its last day lacks the hour after midnight to interpolate to."""

MAX_DAYS = (LAST_DAY - FIRST_DAY).days + 1

GAMMA_PDC_PER_K = -0.0037
"""Loss of power per kelvin of a common crystalline module (PVWatts' default for "standard" is -0.0047)."""

INVERTER_SIZE = 1.1
"""Peak of the modules over the rating of the inverter."""

_DIRECT = ("H25", "G25", "L25")


@dataclass(frozen=True, slots=True)
class PvSystem:
    """A roof: ``tilt_deg`` from the horizontal, ``azimuth_deg`` clockwise from north (180 is south)."""

    peak_w: int
    tilt_deg: int
    azimuth_deg: int


@dataclass(frozen=True, slots=True)
class Weather:
    """What the file says of the chosen days: a frame per quarter-hour, and the place."""

    frame: Any
    latitude: float
    longitude: float
    altitude: float


def midnight_s(day: date) -> int:
    """Return the local midnight at which ``day`` begins, seconds since 1970 UTC."""
    local = datetime(day.year, day.month, day.day, tzinfo=timezone(timedelta(seconds=UTC_OFFSET_S)))
    return int(local.timestamp())


def whole_watt_hours(values: Sequence[float]) -> list[int]:
    """Round each value so that the running sums are never more than half a watt-hour off."""
    rounded: list[int] = []
    exact, given = 0.0, 0
    for value in values:
        exact += value
        rounded.append(round(exact) - given)
        given += rounded[-1]
    return rounded


# ---- load -----------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def year_shares(kind: str, year: int) -> tuple[float, ...]:
    """Return the share of each quarter-hour in a year's consumption; they add up to 1.

    ``kind`` is a profile of ``demandlib.bdew``: "H25", "G25" or "L25".
    """
    if kind not in _DIRECT:
        raise ValueError(f"no load profile {kind!r}, there are {', '.join(_DIRECT)}")
    import pandas as pd
    from demandlib import bdew

    count = ((date(year + 1, 1, 1) - date(year, 1, 1)).days) * SLOTS_PER_DAY
    index = pd.date_range(datetime(year, 1, 1), periods=count, freq="15min")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas announces changes that concern demandlib
        values = [float(value) for value in getattr(bdew, kind)(index)]
    total = sum(values)
    return tuple(value / total for value in values)


def load_wh(kind: str, annual_kwh: int, first_day: date, days: int) -> list[int]:
    """Return the consumption per slot of ``days`` days, of somebody who takes ``annual_kwh`` a year."""
    shares = year_shares(kind, first_day.year)
    start = (first_day - date(first_day.year, 1, 1)).days * SLOTS_PER_DAY
    window = shares[start : start + days * SLOTS_PER_DAY]
    return whole_watt_hours([share * annual_kwh * 1000 for share in window])


# ---- generation -----------------------------------------------------------------------------------


def read_weather(first_day: date, days: int) -> Weather:
    """Return the weather of the middle of each slot of these days.

    The hours of the file are means that end at their stamp, so they stand for the half hour before it.
    """
    import pandas as pd
    import pvlib

    path = Path(pvlib.__file__).parent / WEATHER_FILE
    hourly, place = pvlib.iotools.read_tmy3(path, map_variables=True)
    hourly = hourly[["ghi", "dni", "dhi", "temp_air", "wind_speed"]].astype(float)
    hourly.index = hourly.index.tz_convert(TIME_ZONE) - pd.Timedelta(minutes=30)
    start = pd.Timestamp(first_day).tz_localize(TIME_ZONE)
    end = start + pd.Timedelta(days=days)
    hour = pd.Timedelta(hours=1)
    hourly = hourly[(hourly.index >= start - hour) & (hourly.index <= end + hour)]
    middles = pd.date_range(start, end, freq="15min", inclusive="left") + pd.Timedelta(seconds=SLOT_S / 2)
    frame = hourly.reindex(hourly.index.union(middles)).interpolate("time").loc[middles]
    return Weather(frame, place["latitude"], place["longitude"], place["altitude"])


def pv_wh(system: PvSystem, weather: Weather) -> list[int]:
    """Return what a roof generates per slot of ``weather``, after the inverter."""
    import pvlib

    frame = weather.frame
    sun = pvlib.solarposition.get_solarposition(
        frame.index, weather.latitude, weather.longitude, weather.altitude
    )
    plane = pvlib.irradiance.get_total_irradiance(
        system.tilt_deg,
        system.azimuth_deg,
        sun["apparent_zenith"],
        sun["azimuth"],
        frame["dni"],
        frame["ghi"],
        frame["dhi"],
        dni_extra=pvlib.irradiance.get_extra_radiation(frame.index),
        model="haydavies",
    )
    # With the sun below the horizon what the interpolation leaves over of the last hour is not light.
    light = plane["poa_global"].fillna(0.0).clip(lower=0.0).where(sun["apparent_elevation"] > 0.0, 0.0)
    cell = pvlib.temperature.faiman(light, frame["temp_air"], frame["wind_speed"])
    dc = pvlib.pvsystem.pvwatts_dc(light, cell, float(system.peak_w), GAMMA_PDC_PER_K)
    dc = dc * (1.0 - pvlib.pvsystem.pvwatts_losses() / 100.0)
    ac = pvlib.inverter.pvwatts(dc, system.peak_w / INVERTER_SIZE)
    return whole_watt_hours([max(0.0, float(watts)) * SLOT_S / 3600 for watts in ac.fillna(0.0)])
