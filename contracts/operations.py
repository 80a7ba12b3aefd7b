"""The operations of the contracts, as clients build them and nodes read them; those of governance are in
``governance.operations``.

A payload is ``WT``, a version byte and the canonical MessagePack array ``[name, fields...]``; its
output is ``OP_RETURN <payload>``. The account that acts is the scriptPubKey of input 0.

    payload = encode(PlaceOrder("bremen", slot, "buy", energy_wh=420, limit_price_per_kwh=31_000_000))
    output = TxOut(collateral, payload_script(payload))
    order = object_id(outpoint_of_input_0, payload)
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

from consensus import canonical
from consensus.errors import RuleError
from consensus.hashes import sha256
from contracts import fields
from contracts.governance.operations import KINDS as GOVERNANCE_KINDS
from contracts.governance.operations import GovernanceOperation
from contracts.limits import (
    MAX_AMOUNT,
    MAX_ENERGY_WH,
    MAX_PAYLOAD_BYTES,
    MAX_READINGS_PER_BATCH,
    MAX_SLOT,
)
from contracts.records import BUY, SELL, pack

MARK = b"WT"
VERSION = 1
OP_RETURN = 0x6A
OP_PUSHDATA1 = 0x4C
OP_PUSHDATA2 = 0x4D
OP_PUSHDATA4 = 0x4E


@dataclass(frozen=True, slots=True)
class Deposit:
    """Credit the value of the payload output to the account."""

    NAME: ClassVar[str] = "energy.deposit"

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return []

    @classmethod
    def parse(cls) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``, TypeError for their number."""
        return cls()


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Queue a payout of ``amount`` base units to the account's own script."""

    NAME: ClassVar[str] = "energy.withdraw"
    amount: int

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return [self.amount]

    @classmethod
    def parse(cls, amount: Any) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``, TypeError for their number."""
        return cls(fields.uint("amount", amount, 1, MAX_AMOUNT))


@dataclass(frozen=True, slots=True)
class RegisterMember:
    """Admit ``member`` to a community, served by ``provider``; by the community's grid operator."""

    NAME: ClassVar[str] = "energy.register"
    community: str
    member: bytes
    provider: bytes

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return [self.community, self.member, self.provider]

    @classmethod
    def parse(cls, community: Any, member: Any, provider: Any) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``, TypeError for their number."""
        return cls(
            fields.community("community", community),
            fields.account("member", member),
            fields.script("provider", provider),
        )


@dataclass(frozen=True, slots=True)
class RegisterDevice:
    """Register a meter of a member; by the community's grid operator.

    ``proof`` is the device's Ed25519 signature over ``devices.registration_message``.
    """

    NAME: ClassVar[str] = "device.register"
    device_key: bytes
    owner: bytes
    provider: bytes
    community: str
    proof: bytes

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return [self.device_key, self.owner, self.provider, self.community, self.proof]

    @classmethod
    def parse(cls, device_key: Any, owner: Any, provider: Any, community: Any, proof: Any) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``, TypeError for their number."""
        return cls(
            fields.fixed("device_key", device_key, 32),
            fields.account("owner", owner),
            fields.script("provider", provider),
            fields.community("community", community),
            fields.fixed("proof", proof, 64),
        )


@dataclass(frozen=True, slots=True)
class RevokeDevice:
    """Take a meter out of use for ever; by the grid operator of its community."""

    NAME: ClassVar[str] = "device.revoke"
    device_key: bytes

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return [self.device_key]

    @classmethod
    def parse(cls, device_key: Any) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``, TypeError for their number."""
        return cls(fields.fixed("device_key", device_key, 32))


@dataclass(frozen=True, slots=True)
class ReassignDevice:
    """Let another provider serve a meter; by the grid operator of its community."""

    NAME: ClassVar[str] = "device.reassign"
    device_key: bytes
    provider: bytes

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return [self.device_key, self.provider]

    @classmethod
    def parse(cls, device_key: Any, provider: Any) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``, TypeError for their number."""
        return cls(fields.fixed("device_key", device_key, 32), fields.script("provider", provider))


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """Offer to buy or sell energy in one slot; the output's value is credited, then collateral locked.

    ``limit_price_per_kwh`` is the highest price to pay or the lowest to take, base units per kWh.
    """

    NAME: ClassVar[str] = "energy.order"
    community: str
    slot: int
    side: str
    energy_wh: int
    limit_price_per_kwh: int

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return [self.community, self.slot, self.side, self.energy_wh, self.limit_price_per_kwh]

    @classmethod
    def parse(cls, community: Any, slot: Any, side: Any, energy_wh: Any, limit_price_per_kwh: Any) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``, TypeError for their number."""
        return cls(
            fields.community("community", community),
            fields.uint("slot", slot, 0, MAX_SLOT),
            fields.choice("side", side, (BUY, SELL)),
            fields.uint("energy_wh", energy_wh, 1, MAX_ENERGY_WH),
            fields.uint("limit_price_per_kwh", limit_price_per_kwh, 0, MAX_AMOUNT),
        )


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """Take an own order back before its gate closes; its collateral is released."""

    NAME: ClassVar[str] = "energy.cancel"
    order_id: bytes

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return [self.order_id]

    @classmethod
    def parse(cls, order_id: Any) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``, TypeError for their number."""
        return cls(fields.fixed("order_id", order_id, 32))


class ReadingItem(NamedTuple):
    """A meter's signed reading of one slot; ``signature`` covers ``devices.reading_message``."""

    device_key: bytes
    slot: int
    import_wh: int
    export_wh: int
    signature: bytes


def reading_hash(item: ReadingItem) -> bytes:
    """Return SHA256 of the canonical item, under which its outcome is found."""
    return sha256(pack(item))


@dataclass(frozen=True)
class SubmitReadings:
    """A batch of readings; by a service provider, for meters that it serves."""

    NAME: ClassVar[str] = "energy.readings"
    items: tuple[ReadingItem, ...]

    @cached_property
    def item_hashes(self) -> tuple[bytes, ...]:
        """Return ``reading_hash`` of each item; a batch is run when it arrives, and again in its block."""
        return tuple([reading_hash(item) for item in self.items])

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return [list(item) for item in self.items]

    @classmethod
    def parse(cls, *items: Any) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``."""
        if not 1 <= len(items) <= MAX_READINGS_PER_BATCH:
            raise fields.bad_field("items", f"1 to {MAX_READINGS_PER_BATCH} readings wanted")
        return cls(tuple([_reading(number, item) for number, item in enumerate(items)]))


def _reading(number: int, item: Any) -> ReadingItem:
    if type(item) is not list or len(item) != 5:
        raise fields.bad_field(f"items[{number}]", "an array of 5 fields wanted")
    device_key, slot, import_wh, export_wh, signature = item
    return ReadingItem(
        fields.fixed(f"items[{number}].device_key", device_key, 32),
        fields.uint(f"items[{number}].slot", slot, 0, MAX_SLOT),
        fields.uint(f"items[{number}].import_wh", import_wh, 0, MAX_ENERGY_WH),
        fields.uint(f"items[{number}].export_wh", export_wh, 0, MAX_ENERGY_WH),
        fields.fixed(f"items[{number}].signature", signature, 64),
    )


Operation = (
    Deposit
    | Withdraw
    | RegisterMember
    | RegisterDevice
    | RevokeDevice
    | ReassignDevice
    | PlaceOrder
    | CancelOrder
    | SubmitReadings
    | GovernanceOperation
)

_KINDS: tuple[type[Operation], ...] = (
    Deposit,
    Withdraw,
    RegisterMember,
    RegisterDevice,
    RevokeDevice,
    ReassignDevice,
    PlaceOrder,
    CancelOrder,
    SubmitReadings,
    *GOVERNANCE_KINDS,
)
_BY_NAME: dict[str, type[Operation]] = {kind.NAME: kind for kind in _KINDS}


def encode(operation: Operation) -> bytes:
    """Return the payload: mark, version, canonical array. ValueError for a batch that is too large."""
    payload = MARK + bytes([VERSION]) + canonical.encode([operation.NAME, *operation.fields()])
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"payload of {len(payload)} bytes, {MAX_PAYLOAD_BYTES} at most")
    return payload


def from_array(array: Any) -> Operation:
    """Build the operation of a decoded payload array.

    Raises RuleError: ``bad-op-encoding``, ``bad-op-unknown`` or ``bad-op-field``.
    """
    if type(array) is not list or not array or type(array[0]) is not str:
        raise RuleError("bad-op-encoding", "an array that starts with the operation's name wanted")
    kind = _BY_NAME.get(array[0])
    if kind is None:
        raise RuleError("bad-op-unknown", repr(array[0][:64]))
    wanted = len(dataclasses.fields(kind))
    if kind is not SubmitReadings and len(array) - 1 != wanted:
        raise fields.bad_field("fields", f"{kind.NAME} has {wanted}, not {len(array) - 1}")
    return kind.parse(*array[1:])


def payload_script(payload: bytes) -> bytes:
    """Return ``OP_RETURN <payload>`` with the shortest push. ValueError above 65,535 bytes."""
    size = len(payload)
    if size < OP_PUSHDATA1:
        return bytes([OP_RETURN, size]) + payload
    if size <= 0xFF:
        return bytes([OP_RETURN, OP_PUSHDATA1, size]) + payload
    if size > MAX_PAYLOAD_BYTES:
        raise ValueError(f"payload of {size} bytes, {MAX_PAYLOAD_BYTES} at most")
    return bytes([OP_RETURN, OP_PUSHDATA2]) + size.to_bytes(2, "little") + payload


def object_id(outpoint: bytes, payload: bytes) -> bytes:
    """Return the id of what an operation creates: SHA256(outpoint of input 0, 36 bytes || payload)."""
    return sha256(outpoint + payload)


order_id = object_id
"""The id of the order that a PlaceOrder payload creates."""
