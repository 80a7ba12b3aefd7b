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
from contracts.records import Market, Outcome, ReadableState, Reading, pack, unpack
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
    judge = _Judge(scope, call)
    for item in operation.items:
        item_hash = reading_hash(item)
        code = judge.judge(item, item_hash)
        if code != ACCEPTED:
            earlier = find_outcome(scope.state, item_hash)
            if earlier is not None and earlier.code == ACCEPTED:
                continue
        elif counting:
            activity.note_reading(scope.state, call.account, item.device_key, scope.context.time_s)
        scope.state.put(keys.OUTCOME + item_hash, judge.outcome(code))


class _Judge:
    """Judges the readings of one batch; what many of them share is looked up once."""

    def __init__(self, scope: Scope, call: Call) -> None:
        self._scope = scope
        self._call = call
        self._outcomes: dict[str, bytes] = {}
        self._slots: dict[int, str] = {}
        self._prefixes: dict[tuple[str, int], bytes] = {}
        """Where the readings of a community and slot are, once its market is known to be there."""

    def outcome(self, code: str) -> bytes:
        """Return the record of an outcome in this block and transaction."""
        if code not in self._outcomes:
            self._outcomes[code] = pack(Outcome(code, self._scope.context.height, self._call.txid))
        return self._outcomes[code]

    def judge(self, item: ReadingItem, item_hash: bytes) -> str:
        """Accept a reading or return why not.

        One that was accepted before is there and conflicts with itself, since a device never changes its
        community: only what is refused here has to be looked up among the outcomes.
        """
        state = self._scope.state
        known = device(state, item.device_key)
        if known is None:
            return UNKNOWN_DEVICE
        if known.provider != self._call.account:
            return WRONG_PROVIDER
        if known.revoked_at is not None:
            return REVOKED
        if wrong := self._time_fault(item.slot):
            return wrong
        place = known.community, item.slot
        prefix = self._prefixes.get(place) or keys.numbered(keys.READING, *place)
        key = prefix + item.device_key
        if state.get(key) is not None:
            return CONFLICT
        if place not in self._prefixes:
            self._open_market(*place)
            self._prefixes[place] = prefix
        height = self._scope.context.height
        state.put(key, pack((known.owner, item.import_wh, item.export_wh, item_hash, height)))
        return ACCEPTED

    def _time_fault(self, slot: int) -> str:
        """Return why no reading of ``slot`` is taken now, "" if it is."""
        if slot not in self._slots:
            energy, now_s = self._scope.params.energy, self._scope.context.time_s
            if now_s < calendar.slot_end_s(energy, slot):
                self._slots[slot] = TOO_EARLY
            else:
                self._slots[slot] = TOO_LATE if now_s >= calendar.settlement_s(energy, slot) else ""
        return self._slots[slot]

    def _open_market(self, community: str, slot: int) -> None:
        """Let a slot be settled in which nothing happened before."""
        if find_market(self._scope.state, community, slot) is None:
            timers.schedule_slot(self._scope, community, slot, with_gate=False)
            store_market(self._scope.state, community, slot, Market())
