"""The device registry: which meters exist, whose they are, and which are out of use."""

from collections.abc import Sequence
from functools import lru_cache

from consensus.errors import RuleError
from contracts import keys
from contracts.energy.membership import member_of, store_member
from contracts.governance import activity
from contracts.limits import DEVICES_DECODED, MAX_DEVICES_PER_MEMBER
from contracts.operations import ReassignDevice, RegisterDevice, RevokeDevice
from contracts.records import Device, ReadableState, pack, unpack
from contracts.scope import Call, Scope, require_operator, require_provider
from contracts.state import SessionState


def device(state: ReadableState, device_key: bytes) -> Device | None:
    """Return a registered device, revoked or not."""
    value = state.get(keys.DEVICE + device_key)
    return None if value is None else _decoded(value)


def devices(state: SessionState, device_keys: Sequence[bytes]) -> list[Device | None]:
    """Return the registered devices of ``device_keys`` in their order, None for an unknown key."""
    values = state.get_many([keys.DEVICE + device_key for device_key in device_keys])
    return [None if value is None else _decoded(value) for value in values]


@lru_cache(DEVICES_DECODED)
def _decoded(value: bytes) -> Device:
    return Device(*unpack(value))


def register_device(scope: Scope, call: Call, operation: RegisterDevice) -> None:
    """Enter a meter of a member. The signature checks have shown that it holds its key.

    Raises RuleError: unknown-community, not-grid-operator, device-known, unknown-provider,
    not-a-member, too-many-devices.
    """
    state = scope.state
    require_operator(state, operation.community, call.account)
    if device(state, operation.device_key) is not None:
        raise RuleError("device-known", "a key is registered once and for ever")
    require_provider(state, operation.provider)
    member = member_of(state, operation.community, operation.owner)
    if len(member.devices) >= MAX_DEVICES_PER_MEMBER:
        raise RuleError(
            "too-many-devices", f"a member has {MAX_DEVICES_PER_MEMBER} meters at most", permanent=False
        )
    record = Device(operation.owner, operation.provider, operation.community, scope.context.height)
    state.put(keys.DEVICE + operation.device_key, pack(record))
    devices = (*member.devices, operation.device_key)
    store_member(state, operation.community, operation.owner, member._replace(devices=devices))


def revoke_device(scope: Scope, call: Call, operation: RevokeDevice) -> None:
    """Take a meter out of use: no reading of it is accepted from here on.

    Raises RuleError: unknown-device, not-grid-operator, device-revoked.
    """
    state = scope.state
    record = _device_in_use(scope, call, operation.device_key)
    state.put(keys.DEVICE + operation.device_key, pack(record._replace(revoked_at=scope.context.height)))
    activity.forget_meter(state, record.provider, operation.device_key)
    member = member_of(state, record.community, record.owner)
    devices = tuple([key for key in member.devices if key != operation.device_key])
    store_member(state, record.community, record.owner, member._replace(devices=devices))


def reassign_device(scope: Scope, call: Call, operation: ReassignDevice) -> None:
    """Let another provider serve a meter from here on, as when its own is no organisation any more.

    The owner is noted as the new provider's, if it was the old one's. Raises RuleError: unknown-device,
    not-grid-operator, device-revoked, unknown-provider, same-provider.
    """
    state = scope.state
    record = _device_in_use(scope, call, operation.device_key)
    require_provider(state, operation.provider)
    if record.provider == operation.provider:
        raise RuleError("same-provider", "the provider serves the meter already", permanent=False)
    state.put(keys.DEVICE + operation.device_key, pack(record._replace(provider=operation.provider)))
    activity.move_meter(state, record.provider, operation.provider, operation.device_key)
    member = member_of(state, record.community, record.owner)
    if member.provider == record.provider:
        store_member(state, record.community, record.owner, member._replace(provider=operation.provider))


def _device_in_use(scope: Scope, call: Call, device_key: bytes) -> Device:
    """Return a device that the caller may change.

    Raises RuleError: unknown-device, not-grid-operator, device-revoked.
    """
    record = device(scope.state, device_key)
    if record is None:
        raise RuleError("unknown-device", "no such device is registered", permanent=False)
    require_operator(scope.state, record.community, call.account)
    if record.revoked_at is not None:
        raise RuleError("device-revoked", f"revoked at height {record.revoked_at}")
    return record
