"""Timers: what the contracts do by themselves when block time reaches a point.

A timer is a key ``timer/<due>/<contract>/<key>`` of the state, so that ascending keys are the order in
which timers run: due time, contract, key. The key starts with the kind, so of what is due at one
moment gates close first, then slots are settled, then days are billed.
"""

from contracts import keys
from contracts.energy import calendar
from contracts.records import pack
from contracts.scope import Scope

CONTRACT = b"energy"
GATE = "1-gate"
SETTLE = "2-settle"
BILL = "3-bill"


def _schedule(scope: Scope, due_s: int, kind: str, community: str, number: int) -> None:
    key = b"%b/%b/%b" % (kind.encode(), community.encode(), keys.number(number))
    scope.state.put(keys.timer(due_s, CONTRACT, key), pack((kind, community, number)))


def schedule_slot(scope: Scope, community: str, slot: int, *, with_gate: bool) -> None:
    """Set the timers of a slot in which something happens for the first time, and of its day's bills.

    All of them lie ahead: orders come before the gate, readings before the settlement, and the day
    is billed when its last slot is settled.
    """
    energy = scope.params.energy
    if with_gate:
        _schedule(scope, calendar.gate_s(energy, slot), GATE, community, slot)
    _schedule(scope, calendar.settlement_s(energy, slot), SETTLE, community, slot)
    day = calendar.day_of(energy, slot)
    last = calendar.last_slot(energy, day)
    _schedule(scope, calendar.settlement_s(energy, last), BILL, community, day)
