"""Metered energy: batches of signed readings, judged one by one.

A batch that is well formed and correctly signed is valid whatever the state says; each item gets an
outcome, so nobody can block a provider's batch by sending one of its readings twice.
"""

from consensus.errors import RuleError
from contracts import keys, timers
from contracts.energy import calendar
from contracts.energy.market import find_market, store_market
from contracts.governance import activity
from contracts.operations import ReadingItem, SubmitReadings, reading_hash
from contracts.records import Device, Market, Outcome, ReadableState, Reading, pack, unpack
from contracts.registry import device
from contracts.scope import SERVICE_PROVIDER, Call, Scope, organisation_role

ACCEPTED = "accepted"
UNKNOWN_DEVICE = "unknown-device"
WRONG_PROVIDER = "wrong-provider"
REVOKED = "revoked"
TOO_EARLY = "too-early"
TOO_LATE = "too-late"
CONFLICT = "conflict"


def find_outcome(state: ReadableState, item_hash: bytes) -> Outcome | None:
    """Return the latest outcome of a reading, None if it was never on the chain."""
    value = state.get(keys.OUTCOME + item_hash)
    return None if value is None else Outcome(*unpack(value))


def find_reading(state: ReadableState, community: str, slot: int, device_key: bytes) -> Reading | None:
    """Return the accepted reading of a device for a slot."""
    value = state.get(keys.numbered(keys.READING, community, slot) + device_key)
    return None if value is None else Reading(*unpack(value))


def readings_of_slot(state: ReadableState, community: str, slot: int) -> list[tuple[bytes, Reading]]:
    """Return (device key, reading) of every accepted reading of a slot, in order of key."""
    prefix = keys.numbered(keys.READING, community, slot)
    return [(key[len(prefix) :], Reading(*unpack(value))) for key, value in state.scan(prefix)]


def submit(scope: Scope, call: Call, operation: SubmitReadings) -> None:
    """Judge every reading of a batch and write its outcome; a repeated one changes nothing.

    Raises RuleError ``not-service-provider``; who provides services is no matter of the single item.
    """
    if organisation_role(scope.state, call.account) != SERVICE_PROVIDER:
        raise RuleError(
            "not-service-provider", "batches of readings come from service providers", permanent=False
        )
    counting = activity.is_counting(scope.state)
    for item in operation.items:
        item_hash = reading_hash(item)
        earlier = find_outcome(scope.state, item_hash)
        if earlier is None or earlier.code != ACCEPTED:
            code = _judge(scope, call, item, item_hash)
            outcome = Outcome(code, scope.context.height, call.txid)
            scope.state.put(keys.OUTCOME + item_hash, pack(outcome))
            if code == ACCEPTED and counting:
                activity.note_reading(scope.state, call.account, item.device_key, scope.context.time_s)


def _judge(scope: Scope, call: Call, item: ReadingItem, item_hash: bytes) -> str:
    """Accept a reading or return why not."""
    state, energy, now_s = scope.state, scope.params.energy, scope.context.time_s
    known = device(state, item.device_key)
    if known is None:
        return UNKNOWN_DEVICE
    if known.provider != call.account:
        return WRONG_PROVIDER
    if known.revoked_at is not None:
        return REVOKED
    if now_s < calendar.slot_end_s(energy, item.slot):
        return TOO_EARLY
    if now_s >= calendar.settlement_s(energy, item.slot):
        return TOO_LATE
    if find_reading(state, known.community, item.slot, item.device_key) is not None:
        return CONFLICT
    _accept(scope, known, item, item_hash)
    return ACCEPTED


def _accept(scope: Scope, known: Device, item: ReadingItem, item_hash: bytes) -> None:
    if find_market(scope.state, known.community, item.slot) is None:
        timers.schedule_slot(scope, known.community, item.slot, with_gate=False)
        store_market(scope.state, known.community, item.slot, Market())
    key = keys.numbered(keys.READING, known.community, item.slot) + item.device_key
    height = scope.context.height
    scope.state.put(key, pack(Reading(known.owner, item.import_wh, item.export_wh, item_hash, height)))
