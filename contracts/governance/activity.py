"""Weights: how many active meters a provider serves.

A meter is active if its last accepted reading came within two days of block time. Per meter the state
holds the step of six hours of that reading, per provider and step how many meters it has there. A
reading costs one look-up, and three small writes if it is the first of its meter in a step; the weight
is the sum of eight counters. No timer runs and nothing is scanned.
"""

from contracts import keys
from contracts.limits import ACTIVITY_STEP_S, ACTIVITY_STEPS
from contracts.records import ReadableState, WritableState


def is_counting(state: ReadableState) -> bool:
    """Whether readings count for weights: since the first operation of governance."""
    return state.get(keys.GOVERNANCE) is not None


def note_reading(state: WritableState, provider: bytes, device_key: bytes, time_s: int) -> None:
    """Take note of an accepted reading in a block of ``time_s``."""
    step = keys.number(time_s // ACTIVITY_STEP_S)
    earlier = state.get(keys.METER_READ + device_key)
    if earlier == step:
        return
    if earlier is not None:
        _add(state, provider, earlier, -1)
    _add(state, provider, step, 1)
    state.put(keys.METER_READ + device_key, step)


def forget_meter(state: WritableState, provider: bytes, device_key: bytes) -> None:
    """Take a meter that was revoked out of its provider's weight."""
    step = state.get(keys.METER_READ + device_key)
    if step is not None:
        _add(state, provider, step, -1)
        state.delete(keys.METER_READ + device_key)


def move_meter(state: WritableState, old: bytes, new: bytes, device_key: bytes) -> None:
    """Let a meter weigh for the provider that serves it from now on."""
    step = state.get(keys.METER_READ + device_key)
    if step is not None:
        _add(state, old, step, -1)
        _add(state, new, step, 1)


def active_meters(state: ReadableState, provider: bytes, time_s: int) -> int:
    """Return w_i, the active meters of ``provider`` at block time ``time_s``."""
    last = time_s // ACTIVITY_STEP_S
    steps = range(max(0, last - ACTIVITY_STEPS + 1), last + 1)
    return sum(_count(state, provider, keys.number(step)) for step in steps)


def _count(state: ReadableState, provider: bytes, step: bytes) -> int:
    value = state.get(keys.owned(keys.METERS_READ, provider) + step)
    return 0 if value is None else int.from_bytes(value, "big")


def _add(state: WritableState, provider: bytes, step: bytes, change: int) -> None:
    key = keys.owned(keys.METERS_READ, provider) + step
    count = _count(state, provider, step) + change
    if count:
        state.put(key, keys.number(count))
    else:
        state.delete(key)
