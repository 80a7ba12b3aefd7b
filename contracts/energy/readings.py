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
    verdicts = [batch.judge(meter, item) for meter, item in zip(meters, items, strict=True)]
    batch.look_up([verdict for verdict in verdicts if isinstance(verdict, bytes)])
    for meter, item, item_hash, verdict in zip(meters, items, operation.item_hashes, verdicts, strict=True):
        if meter is None or isinstance(verdict, str):
            batch.refuse(item_hash, str(verdict))
        else:
            batch.accept(verdict, meter, item, item_hash)
    batch.write()


@dataclass(slots=True)
class _Slot:
    """What the readings of one community and slot share: where they are, or why none is taken now."""

    fault: str
    prefix: bytes
    is_open: bool = False
    """Whether its market is known to be there."""


class _Batch:
    """Judges the readings of one batch: what it asks the state for is asked at once, and so it writes.

    A reading that was accepted before is there and conflicts with itself, since a device never changes its
    community: only what is refused here has to be looked up among the outcomes.
    """

    def __init__(self, scope: Scope, call: Call) -> None:
        self._scope = scope
        self._call = call
        self._counting = activity.is_counting(scope.state)
        self._accepted = self._outcome(ACCEPTED)
        self._slots: dict[tuple[str, int], _Slot] = {}
        self._taken: set[bytes] = set()
        """The keys under which there is a reading already."""
        self._writes: dict[bytes, bytes] = {}

    def judge(self, meter: Device | None, item: ReadingItem) -> bytes | str:
        """Return the key of a reading, or why it is refused whatever was read before."""
        if meter is None:
            return UNKNOWN_DEVICE
        if meter.provider != self._call.account:
            return WRONG_PROVIDER
        if meter.revoked_at is not None:
            return REVOKED
        slot = self._slots.get((meter.community, item.slot)) or self._slot(meter.community, item.slot)
        return slot.fault or slot.prefix + item.device_key

    def _slot(self, community: str, slot: int) -> _Slot:
        found = _Slot(self._time_fault(slot), keys.numbered(keys.READING, community, slot))
        self._slots[community, slot] = found
        return found

    def _time_fault(self, slot: int) -> str:
        """Return why no reading of ``slot`` is taken now, "" if it is."""
        energy, now_s = self._scope.params.energy, self._scope.context.time_s
        if now_s < calendar.slot_end_s(energy, slot):
            return TOO_EARLY
        return TOO_LATE if now_s >= calendar.settlement_s(energy, slot) else ""

    def look_up(self, places: Sequence[bytes]) -> None:
        """Find out under which keys there is a reading."""
        values = self._scope.state.get_many(places)
        self._taken.update([key for key, value in zip(places, values, strict=True) if value is not None])

    def accept(self, key: bytes, meter: Device, item: ReadingItem, item_hash: bytes) -> None:
        """Write a reading in which nothing is wrong, unless there is one."""
        if key in self._taken:
            self.refuse(item_hash, CONFLICT)
            return
        self._taken.add(key)
        owner, _, community, _, _ = meter
        device_key, number, import_wh, export_wh, _ = item
        slot = self._slots[community, number]
        if not slot.is_open:
            self._open_market(community, number)
            slot.is_open = True
        if self._counting:
            activity.note_reading(
                self._scope.state, self._call.account, device_key, self._scope.context.time_s
            )
        height = self._scope.context.height
        self._writes[key] = pack((owner, import_wh, export_wh, item_hash, height))
        self._writes[keys.OUTCOME + item_hash] = self._accepted

    def refuse(self, item_hash: bytes, code: str) -> None:
        """Write why a reading is refused, unless it was accepted before."""
        key = keys.OUTCOME + item_hash
        earlier = self._writes.get(key) or self._scope.state.get(key)
        if earlier is None or Outcome(*unpack(earlier)).code != ACCEPTED:
            self._writes[key] = self._outcome(code)

    def write(self) -> None:
        """Hand readings and outcomes to the state."""
        self._scope.state.put_many(self._writes)

    def _outcome(self, code: str) -> bytes:
        """Return the record of an outcome in this block and transaction."""
        return pack(Outcome(code, self._scope.context.height, self._call.txid))

    def _open_market(self, community: str, slot: int) -> None:
        """Let a slot be settled in which nothing happened before."""
        if find_market(self._scope.state, community, slot) is None:
            timers.schedule_slot(self._scope, community, slot, with_gate=False)
            store_market(self._scope.state, community, slot, Market())
