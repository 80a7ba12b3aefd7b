"""Metered energy: batches of signed readings, judged one by one.

A batch that is well formed and correctly signed is valid whatever the state says; each item gets an
outcome, so nobody can block a provider's batch by sending one of its readings twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from consensus.errors import RuleError
from contracts import keys, timers
from contracts.energy import calendar
from contracts.energy.market import find_market, store_market
from contracts.governance import activity
from contracts.operations import ReadingItem, SubmitReadings
from contracts.records import Device, Market, Outcome, ReadableState, Reading, pack, unpack
from contracts.registry import devices
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
    state, items = scope.state, operation.items
    if organisation_role(state, call.account) != SERVICE_PROVIDER:
        raise RuleError(
            "not-service-provider", "batches of readings come from service providers", permanent=False
        )
    batch = _Batch(scope, call)
    meters = devices(state, [item.device_key for item in items])
    places = [batch.place(meter, item) for meter, item in zip(meters, items, strict=True)]
    batch.judge(meters, operation, places)
    state.put_many(batch.writes)


@dataclass(slots=True)
class _Place:
    """What readings of one community and slot share: where they are, or why none is taken now."""

    fault: str
    community: str = ""
    slot: int = 0
    prefix: bytes = b""
    is_open: bool = False
    """Whether its market is known to be there."""


_UNKNOWN, _WRONG, _REVOKED = _Place(UNKNOWN_DEVICE), _Place(WRONG_PROVIDER), _Place(REVOKED)


class _Batch:
    """Judges the readings of one batch: what it asks the state for is asked at once, and so it writes.

    A reading that was accepted before is there and conflicts with itself, since a device never changes its
    community: only what is refused here has to be looked up among the outcomes.
    """

    def __init__(self, scope: Scope, call: Call) -> None:
        self._scope = scope
        self._call = call
        self._counting = activity.is_counting(scope.state)
        self._places: dict[tuple[str, int], _Place] = {}
        self.writes: dict[bytes, bytes] = {}

    def place(self, meter: Device | None, item: ReadingItem) -> _Place:
        """Return where a reading belongs; with a fault if it is refused whatever was read before."""
        if meter is None:
            return _UNKNOWN
        if meter.provider != self._call.account:
            return _WRONG
        if meter.revoked_at is not None:
            return _REVOKED
        return self._places.get((meter.community, item.slot)) or self._new_place(meter.community, item.slot)

    def _new_place(self, community: str, slot: int) -> _Place:
        prefix = keys.numbered(keys.READING, community, slot)
        found = _Place(self._time_fault(slot), community, slot, prefix)
        self._places[community, slot] = found
        return found

    def _time_fault(self, slot: int) -> str:
        """Return why no reading of ``slot`` is taken now, "" if it is."""
        energy, now_s = self._scope.params.energy, self._scope.context.time_s
        if now_s < calendar.slot_end_s(energy, slot):
            return TOO_EARLY
        return TOO_LATE if now_s >= calendar.settlement_s(energy, slot) else ""

    def judge(
        self, meters: Sequence[Device | None], operation: SubmitReadings, places: Sequence[_Place]
    ) -> None:
        """Put the outcome of every reading, and those that are accepted, into ``writes``."""
        items, writes = operation.items, self.writes
        found = [place.prefix + item.device_key for place, item in zip(places, items, strict=True)]
        taken = self._taken(places, found)
        height, accepted = self._scope.context.height, self._outcome(ACCEPTED)
        for place, key, meter, item, item_hash in zip(
            places, found, meters, items, operation.item_hashes, strict=True
        ):
            if meter is None or place.fault:
                self._refuse(item_hash, place.fault)
                continue
            if key in taken:
                self._refuse(item_hash, CONFLICT)
                continue
            taken.add(key)
            device_key, _, import_wh, export_wh, _ = item
            if not place.is_open:
                self._open_market(place)
            if self._counting:
                self._note(device_key)
            writes[key] = pack((meter.owner, import_wh, export_wh, item_hash, height))
            writes[keys.OUTCOME + item_hash] = accepted

    def _taken(self, places: Sequence[_Place], found: Sequence[bytes]) -> set[bytes]:
        """Return which of the keys ``found`` have a reading already."""
        state = self._scope.state
        taken: set[bytes] = set()
        asked: dict[bytes, list[bytes]] = {
            place.prefix: [] for place in self._places.values() if not place.fault
        }
        for place, key in zip(places, found, strict=True):
            if not place.fault:
                asked[place.prefix].append(key)
        for prefix, own in asked.items():
            values = state.get_many_under(prefix, own)
            taken.update([key for key, value in zip(own, values, strict=True) if value is not None])
        return taken

    def _refuse(self, item_hash: bytes, code: str) -> None:
        """Write why a reading is refused, unless it was accepted before."""
        key = keys.OUTCOME + item_hash
        earlier = self.writes.get(key) or self._scope.state.get(key)
        if earlier is None or Outcome(*unpack(earlier)).code != ACCEPTED:
            self.writes[key] = self._outcome(code)

    def _outcome(self, code: str) -> bytes:
        """Return the record of an outcome in this block and transaction."""
        return pack(Outcome(code, self._scope.context.height, self._call.txid))

    def _note(self, device_key: bytes) -> None:
        """Let the meter weigh for its provider."""
        activity.note_reading(self._scope.state, self._call.account, device_key, self._scope.context.time_s)

    def _open_market(self, place: _Place) -> None:
        """Let a slot be settled in which nothing happened before."""
        if find_market(self._scope.state, place.community, place.slot) is None:
            timers.schedule_slot(self._scope, place.community, place.slot, with_gate=False)
            store_market(self._scope.state, place.community, place.slot, Market())
        place.is_open = True
