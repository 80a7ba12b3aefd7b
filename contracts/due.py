"""Running due timers within a block's budget."""

from collections.abc import Callable
from typing import Any

from contracts import keys, timers
from contracts.energy.billing import close_day
from contracts.energy.market import close_gate
from contracts.energy.settlement import settle
from contracts.governance import admission, reveals
from contracts.records import unpack
from contracts.scope import Scope

Runner = Callable[[Scope, Any, int, int], int | None]
"""Runs a timer of (subject, number) within a budget; returns the units it took, None if they are too few."""

_RUNNERS: dict[str, Runner] = {
    timers.GATE: close_gate,
    timers.SETTLE: settle,
    timers.BILL: close_day,
    admission.APPLICATION_TIMER: admission.expire_application,
    admission.REMOVAL_TIMER: admission.expire_removal,
    reveals.REVEALS_TIMER: reveals.start_reveals,
}


def run_due(scope: Scope) -> None:
    """Run timers in order, at most ``timer_budget`` units of them; the rest waits for the next block.

    A timer that does not fit what is left of the budget waits, and so do all behind it, or a day
    could be billed before its last slot is settled. Each fits a whole budget, as the chain's
    parameters make sure. No timer sets another one that is due, so one pass over the keys is enough.
    """
    budget = scope.params.ledger.timer_budget
    for key, value in scope.state.scan(keys.TIMER):
        if not budget or keys.timer_due(key) > scope.context.time_s:
            return
        kind, subject, number = unpack(value)
        units = _RUNNERS[kind](scope, subject, number, budget)
        if units is None:
            return
        budget -= units
        scope.state.delete(key)
