"""When things happen: the times of a slot, and the days that bills cover. Seconds of block time.

Slot ``s`` runs from ``s * slot_s`` to ``(s + 1) * slot_s``. Its gate closes ``gate_lead_s`` before it
starts; readings are taken from its end for ``reading_window_s``, then it is settled. Day ``d`` covers the
local times ``[d, d + 1) * 86400``, where local time is UTC plus ``day_offset_s``; a slot belongs to the
day in which it starts.
"""

from consensus.params import EnergyParams

DAY_S = 86_400


def slot_start_s(energy: EnergyParams, slot: int) -> int:
    """Return when ``slot`` starts."""
    return slot * energy.slot_s


def slot_end_s(energy: EnergyParams, slot: int) -> int:
    """Return when ``slot`` is over; from then on readings are taken."""
    return (slot + 1) * energy.slot_s


def gate_s(energy: EnergyParams, slot: int) -> int:
    """Return when the gate of ``slot`` closes; at that time it is closed."""
    return slot * energy.slot_s - energy.gate_lead_s


def settlement_s(energy: EnergyParams, slot: int) -> int:
    """Return when ``slot`` is settled; at that time its readings are too late."""
    return slot_end_s(energy, slot) + energy.reading_window_s


def day_of(energy: EnergyParams, slot: int) -> int:
    """Return the day of ``slot``; what lies before day 0 counts as day 0."""
    return max(0, (slot_start_s(energy, slot) + energy.day_offset_s) // DAY_S)


def last_slot(energy: EnergyParams, day: int) -> int:
    """Return the last slot that starts in ``day``."""
    return ((day + 1) * DAY_S - energy.day_offset_s - 1) // energy.slot_s
