"""RPC methods of the energy contract: the market, money, readings and bills.

Amounts are base units, energies watt-hours, times seconds of block time; accounts are shown as
addresses. What does not exist (yet) is null; a community that the chain file does not know is an
error.
"""

from dataclasses import fields
from typing import Any, TypeVar

from consensus.address import encode_address
from consensus.chain_fields import parse_script
from consensus.errors import RuleError
from consensus.opcodes import operations
from consensus.params import AddressPrefixes
from contracts import payload, queries
from contracts.limits import MAX_ACCOUNT_BYTES, MAX_SLOT
from contracts.operations import ReadingItem
from node.rpc.backend import Backend
from node.rpc.errors import DESERIALIZATION_ERROR, INVALID_ADDRESS_OR_KEY, RpcError
from node.rpc.registry import HexBytes, Key32, Natural, Text, invalid, method

SECTION = "Energy"

View = TypeVar("View", dict[str, Any], list[dict[str, Any]])

_ACCOUNT_FIELDS = (
    "account",
    "owner",
    "provider",
    "grid_operator",
    "creditor",
    "member",
    "organisation",
    "approvals",
    "approved_by",
    "voted_by",
    "delegates",
    "alternates",
)
"""Fields that hold the script of an account in hex, or a list of them."""


def addressed(view: View, prefixes: AddressPrefixes) -> View:
    """Return a view with the scripts of accounts as addresses; one without address stays hex."""
    shaped: View = _addressed(view, prefixes)
    return shaped


def _addressed(value: Any, prefixes: AddressPrefixes) -> Any:
    if isinstance(value, list):
        return [_addressed(item, prefixes) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _shown(item, prefixes) if key in _ACCOUNT_FIELDS else _addressed(item, prefixes)
        for key, item in value.items()
    }


def _shown(value: Any, prefixes: AddressPrefixes) -> Any:
    if isinstance(value, str):
        return _address(value, prefixes)
    return [_address(item, prefixes) for item in value] if isinstance(value, list) else value


def _address(script_hex: str, prefixes: AddressPrefixes) -> str:
    return encode_address(bytes.fromhex(script_hex), prefixes) or script_hex


def account_script(node: Backend, name: str, text: str) -> bytes:
    """Return the script of an address, or of hex. Raises RpcError -5."""
    script = parse_script(text, node.params.addresses)
    if script is None:
        raise RpcError(
            INVALID_ADDRESS_OR_KEY, f"{name} is neither an address of this chain nor a script in hex"
        )
    if len(script) > MAX_ACCOUNT_BYTES:
        what = f"{name} is a script of {len(script)} bytes: no account has more than {MAX_ACCOUNT_BYTES}"
        raise RpcError(INVALID_ADDRESS_OR_KEY, what)
    return script


def known_community(node: Backend, community: str) -> str:
    """Return ``community`` if the chain file knows it. Raises RpcError -5."""
    if all(each.id != community for each in node.params.energy.communities):
        raise RpcError(INVALID_ADDRESS_OR_KEY, "community is not one of this chain")
    return community


def known_slot(slot: int) -> int:
    """Return ``slot`` (or day) if it fits a key. Raises RpcError -8."""
    if slot > MAX_SLOT:
        raise invalid("slot", f"must be at most {MAX_SLOT}")
    return slot


@method("energy.params", SECTION)
def params(node: Backend) -> dict[str, Any]:
    """Return prices, slot times and limits of the market, and the communities.

    ``time_s`` is the tip's block time, ``slot`` the slot in which it lies.
    """
    view = addressed(queries.params_view(node.params), node.params.addresses)
    time_s = node.tip().time_s
    return {**view, "time_s": time_s, "slot": time_s // node.params.energy.slot_s}


@method("energy.market", SECTION)
def market(node: Backend, community: Text, slot: Natural) -> dict[str, Any]:
    """Return the market of a slot: times, status, orders, clearing price and volume, settlement."""
    known = known_community(node, community)
    return queries.market(node.state(), node.params, known, known_slot(slot))


@method("energy.order", SECTION)
def order(node: Backend, id: Key32) -> dict[str, Any] | None:
    """Return an order by the id that its operation got."""
    found = queries.order(node.state(), id)
    return None if found is None else addressed(found, node.params.addresses)


@method("energy.orders", SECTION)
def orders(node: Backend, community: Text, slot: Natural) -> list[dict[str, Any]]:
    """Return the orders of a slot."""
    found = queries.orders(node.state(), known_community(node, community), known_slot(slot))
    return addressed(found, node.params.addresses)


@method("energy.trades", SECTION)
def trades(node: Backend, community: Text, slot: Natural) -> list[dict[str, Any]]:
    """Return the trades of a cleared slot."""
    return queries.trades(node.state(), known_community(node, community), known_slot(slot))


@method("energy.results", SECTION)
def results(node: Backend, community: Text, slot: Natural) -> list[dict[str, Any]]:
    """Return what settlement found for each participant of a slot."""
    found = queries.results(node.state(), known_community(node, community), known_slot(slot))
    return addressed(found, node.params.addresses)


@method("energy.account", SECTION)
def account(node: Backend, address: Text) -> dict[str, Any]:
    """Return what the contracts hold for an account: available, locked in orders, and debts."""
    found = queries.account(node.state(), account_script(node, "address", address))
    return addressed(found, node.params.addresses)


@method("energy.reading", SECTION)
def reading(node: Backend, device: Key32, slot: Natural) -> dict[str, Any] | None:
    """Return the accepted reading of a device for a slot."""
    state = node.state()
    found = queries.device(state, device)
    if found is None:
        return None
    view = queries.reading(state, found["community"], known_slot(slot), device)
    return None if view is None else addressed(view, node.params.addresses)


@method("energy.readings", SECTION)
def readings(node: Backend, community: Text, slot: Natural) -> list[dict[str, Any]]:
    """Return the accepted readings of a slot."""
    found = queries.readings(node.state(), known_community(node, community), known_slot(slot))
    return addressed(found, node.params.addresses)


@method("energy.outcome", SECTION)
def outcome(node: Backend, hash: Key32) -> dict[str, Any] | None:
    """Return what became of a submitted reading; ``hash`` is the SHA-256 of its canonical item."""
    return queries.outcome(node.state(), hash)


@method("energy.bill", SECTION)
def bill(node: Backend, community: Text, day: Natural, address: Text) -> dict[str, Any] | None:
    """Return the bill of a member for a day."""
    script = account_script(node, "address", address)
    found = queries.bill(node.state(), known_community(node, community), known_slot(day), script)
    return None if found is None else addressed(found, node.params.addresses)


@method("energy.bills", SECTION)
def bills(node: Backend, community: Text, day: Natural) -> dict[str, Any] | None:
    """Return all bills of a day with the hash over them."""
    found = queries.bills(node.state(), known_community(node, community), known_slot(day))
    return None if found is None else addressed(found, node.params.addresses)


@method("energy.day", SECTION)
def day_totals(node: Backend, community: Text, day: Natural) -> list[dict[str, Any]]:
    """Return the totals of a day per member, so far or as billed."""
    found = queries.day_totals(node.state(), known_community(node, community), known_slot(day))
    return addressed(found, node.params.addresses)


@method("energy.members", SECTION)
def members(node: Backend, community: Text) -> list[dict[str, Any]]:
    """Return the members of a community, their providers and meters."""
    found = queries.members(node.state(), known_community(node, community))
    return addressed(found, node.params.addresses)


@method("energy.organisations", SECTION)
def organisations(node: Backend) -> list[dict[str, Any]]:
    """Return the organisations of the chain with their roles."""
    return addressed(queries.organisations(node.state()), node.params.addresses)


@method("energy.payouts", SECTION)
def payouts(node: Backend, limit: Natural | None = None) -> list[dict[str, Any]]:
    """Return the payout queue, first in first out, at most ``limit`` entries."""
    return addressed(queries.payouts(node.state(), limit), node.params.addresses)


@method("energy.totals", SECTION)
def totals(node: Backend) -> dict[str, Any]:
    """Return the sums of all accounts, debts and queued payouts at the tip."""
    tip = node.tip()
    return {"height": tip.height, "issued": tip.issued, **queries.accounting(node.state())}


@method("energy.decode", SECTION)
def decode(node: Backend, payload_hex: HexBytes) -> dict[str, Any]:
    """Return the operation that a payload, or the script that carries one, stands for."""
    data = payload_hex
    if payload.is_payload_script(data):
        [(_, pushed), *_] = operations(data[1:])
        data = pushed or b""
    try:
        operation = payload.decode(data)
    except RuleError as error:
        raise RpcError(DESERIALIZATION_ERROR, str(error)) from None
    values = {
        field.name: _plain(getattr(operation, field.name), field.name, node.params.addresses)
        for field in fields(operation)
    }
    return {"operation": operation.NAME, "fields": values}


def _plain(value: Any, name: str, prefixes: AddressPrefixes) -> Any:
    if isinstance(value, ReadingItem):
        return {key: _plain(item, key, prefixes) for key, item in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(item, name, prefixes) for item in value]
    if isinstance(value, bytes):
        return _address(value.hex(), prefixes) if name in _ACCOUNT_FIELDS else value.hex()
    return value
