"""Reading the contract state for clients: pure functions from a StateView to plain values.

Results are dicts, lists, ints, strings, booleans and None, ready for JSON. Scripts, keys and ids are
hex in byte order; a ``txid`` is hex as people see it, reversed. Money is in base units, energy in
watt-hours, times in seconds. What does not exist is None.
"""

from itertools import islice
from typing import Any

from consensus.hashes import sha256
from consensus.params import ChainParams
from consensus.ports import StateView
from consensus.transaction import hash_hex
from contracts import keys
from contracts.bank import Bank, sums
from contracts.devices import chain_tag
from contracts.energy import calendar
from contracts.energy.market import find_market, find_order, orders_of_slot
from contracts.energy.membership import find_member, member_count
from contracts.energy.readings import find_outcome, find_reading, readings_of_slot
from contracts.limits import MAX_READINGS_PER_BATCH, ORDER_HORIZON_S
from contracts.records import SETTLED, Bill, Device, Market, Member, Order, Reading, Totals, Trade, unpack
from contracts.registry import device as find_device
from contracts.state import SessionState

View = dict[str, Any]


def params_view(params: ChainParams) -> View:
    """Return the market parameters, the communities and the tag that devices sign."""
    energy = params.energy
    return {
        "chain_tag": chain_tag(params).hex(),
        "slot_s": energy.slot_s,
        "gate_lead_s": energy.gate_lead_s,
        "reading_window_s": energy.reading_window_s,
        "day_offset_s": energy.day_offset_s,
        "order_horizon_s": ORDER_HORIZON_S,
        "grid_price_per_kwh": energy.grid_price_per_kwh,
        "feed_in_price_per_kwh": energy.feed_in_price_per_kwh,
        "max_price_per_kwh": energy.max_price_per_kwh,
        "max_orders_per_slot": energy.max_orders_per_slot,
        "max_participants": energy.max_participants,
        "max_readings_per_batch": MAX_READINGS_PER_BATCH,
        "min_payout": params.ledger.min_payout,
        "communities": [
            {"id": community.id, "grid_operator": community.grid_operator.hex()}
            for community in energy.communities
        ],
    }


def slot_times(params: ChainParams, slot: int) -> View:
    """Return the timeline of a slot."""
    energy = params.energy
    day = calendar.day_of(energy, slot)
    return {
        "slot": slot,
        "day": day,
        "gate_closes_s": calendar.gate_s(energy, slot),
        "starts_s": calendar.slot_start_s(energy, slot),
        "ends_s": calendar.slot_end_s(energy, slot),
        "settles_s": calendar.settlement_s(energy, slot),
        "billed_s": calendar.settlement_s(energy, calendar.last_slot(energy, day)),
    }


# ---- organisations and members -----------------------------------------------------------------


def organisations(state: StateView) -> list[View]:
    """Return the organisations of the chain in order of script."""
    found = []
    for key, value in state.scan(keys.ORGANISATION):
        name, role = unpack(value)
        found.append({"account": key[len(keys.ORGANISATION) :].hex(), "name": name, "role": role})
    return found


def member(state: StateView, community: str, account: bytes) -> View | None:
    """Return one member of a community."""
    found = find_member(state, community, account)
    return None if found is None else _member_view(community, account, found)


def members(state: StateView, community: str) -> list[View]:
    """Return the members of a community in order of script."""
    prefix = keys.of_community(keys.MEMBER, community)
    return [
        _member_view(community, key[len(prefix) :], Member(*unpack(value)))
        for key, value in state.scan(prefix)
    ]


def _member_view(community: str, account: bytes, found: Member) -> View:
    return {
        "account": account.hex(),
        "community": community,
        "provider": found.provider.hex(),
        "height": found.height,
        "devices": [device_key.hex() for device_key in found.devices],
    }


def device(state: StateView, device_key: bytes) -> View | None:
    """Return a registered device."""
    found = find_device(state, device_key)
    return None if found is None else _device_view(device_key, found)


def devices(state: StateView, community: str | None = None) -> list[View]:
    """Return all devices, or those of one community, in order of key."""
    found = [(key[len(keys.DEVICE) :], Device(*unpack(value))) for key, value in state.scan(keys.DEVICE)]
    return [_device_view(key, record) for key, record in found if community in (None, record.community)]


def _device_view(device_key: bytes, found: Device) -> View:
    return {
        "device_key": device_key.hex(),
        "owner": found.owner.hex(),
        "provider": found.provider.hex(),
        "community": found.community,
        "height": found.height,
        "revoked": found.revoked_at is not None,
        "revoked_at": found.revoked_at,
    }


# ---- market ------------------------------------------------------------------------------------


def market(state: StateView, params: ChainParams, community: str, slot: int) -> View:
    """Return the market of a slot; its status is "open", "cleared" or "settled"."""
    found = find_market(state, community, slot) or Market()
    return {"community": community, **slot_times(params, slot), **found._asdict()}


def order(state: StateView, order_id: bytes) -> View | None:
    """Return an order."""
    found = find_order(state, order_id)
    if found is None:
        return None
    community, slot, record = found
    settled = (find_market(state, community, slot) or Market()).status == SETTLED
    return _order_view(community, slot, order_id, record, settled)


def orders(state: StateView, community: str, slot: int) -> list[View]:
    """Return the orders of a slot in order of id."""
    settled = (find_market(state, community, slot) or Market()).status == SETTLED
    return [
        _order_view(community, slot, order_id, record, settled)
        for order_id, record in orders_of_slot(state, community, slot)
    ]


def _order_view(community: str, slot: int, order_id: bytes, record: Order, settled: bool) -> View:
    return {
        "order_id": order_id.hex(),
        "community": community,
        "slot": slot,
        "account": record.account.hex(),
        "side": record.side,
        "energy_wh": record.energy_wh,
        "limit_price_per_kwh": record.limit_price_per_kwh,
        "collateral": 0 if settled else record.collateral,
        "filled_wh": record.filled_wh,
        "amount": record.amount,
        "height": record.height,
    }


def trades(state: StateView, community: str, slot: int) -> list[View]:
    """Return the trades of a slot in the order in which orders were paired."""
    found = [Trade(*unpack(value)) for _, value in state.scan(keys.numbered(keys.TRADE, community, slot))]
    return [
        {
            "buy_id": trade.buy_id.hex(),
            "sell_id": trade.sell_id.hex(),
            "energy_wh": trade.energy_wh,
            "amount": trade.amount,
        }
        for trade in found
    ]


def results(state: StateView, community: str, slot: int) -> list[View]:
    """Return what settlement found for each participant of a slot, in order of script."""
    prefix = keys.numbered(keys.RESULT, community, slot)
    return [
        {"account": key[len(prefix) :].hex(), **_totals_view(Totals(*unpack(value)))}
        for key, value in state.scan(prefix)
    ]


# ---- readings ----------------------------------------------------------------------------------


def reading(state: StateView, community: str, slot: int, device_key: bytes) -> View | None:
    """Return the accepted reading of a device for a slot."""
    found = find_reading(state, community, slot, device_key)
    return None if found is None else _reading_view(slot, device_key, found)


def readings(state: StateView, community: str, slot: int) -> list[View]:
    """Return the accepted readings of a slot in order of device key."""
    found = readings_of_slot(state, community, slot)
    return [_reading_view(slot, device_key, record) for device_key, record in found]


def _reading_view(slot: int, device_key: bytes, record: Reading) -> View:
    return {
        "device_key": device_key.hex(),
        "slot": slot,
        "owner": record.owner.hex(),
        "import_wh": record.import_wh,
        "export_wh": record.export_wh,
        "item_hash": record.item_hash.hex(),
        "height": record.height,
    }


def outcome(state: StateView, item_hash: bytes) -> View | None:
    """Return what became of a reading; ``item_hash`` as of ``operations.reading_hash``."""
    found = find_outcome(state, item_hash)
    if found is None:
        return None
    return {
        "item_hash": item_hash.hex(),
        "code": found.code,
        "height": found.height,
        "txid": hash_hex(found.txid),
    }


# ---- money -------------------------------------------------------------------------------------


def account(state: StateView, script: bytes) -> View:
    """Return the balances and debts of an account; zeros if it has none."""
    found = Bank(SessionState(state)).account(script)
    debts = []
    for _, value in state.scan(keys.owned(keys.DEBT, script)):
        creditor, amount = unpack(value)
        debts.append({"creditor": creditor.hex(), "amount": amount})
    return {
        "account": script.hex(),
        "available": found.available,
        "locked": found.locked,
        "owed": sum(debt["amount"] for debt in debts),
        "debts": debts,
    }


def payouts(state: StateView, limit: int | None = None) -> list[View]:
    """Return the payout queue, first in first out; at most ``limit`` entries."""
    found = []
    for key, value in islice(state.scan(keys.PAYOUT), limit):
        script, amount, height = unpack(value)
        number = int.from_bytes(key[len(keys.PAYOUT) :], "big")
        found.append({"number": number, "account": script.hex(), "amount": amount, "height": height})
    return found


# ---- days --------------------------------------------------------------------------------------


def day_totals(state: StateView, community: str, day: int) -> list[View]:
    """Return the totals of a day per member: so far, or as billed; in order of script."""
    prefix = keys.numbered(keys.DAY, community, day)
    open_days = [
        {"account": key[len(prefix) :].hex(), **_totals_view(Totals(*unpack(value)))}
        for key, value in state.scan(prefix)
    ]
    return open_days or [
        {name: value for name, value in view.items() if name not in ("community", "day", "bill_hash")}
        for view in _bills(state, community, day)
    ]


def bill(state: StateView, community: str, day: int, script: bytes) -> View | None:
    """Return the bill of a member for a day."""
    value = state.get(keys.numbered(keys.BILL, community, day) + script)
    return None if value is None else _bill_view(value)


def bills(state: StateView, community: str, day: int) -> View | None:
    """Return all bills of a day with the hash over them; None before the day is billed."""
    value = state.get(keys.numbered(keys.BILLS, community, day))
    if value is None:
        return None
    count, day_hash, time_s = unpack(value)
    return {
        "community": community,
        "day": day,
        "count": count,
        "hash": day_hash.hex(),
        "time_s": time_s,
        "bills": _bills(state, community, day),
    }


def _bills(state: StateView, community: str, day: int) -> list[View]:
    return [_bill_view(value) for _, value in state.scan(keys.numbered(keys.BILL, community, day))]


def _bill_view(value: bytes) -> View:
    community, day, who, totals = Bill(*unpack(value))
    return {
        "community": community,
        "day": day,
        "account": who.hex(),
        "bill_hash": sha256(value).hex(),
        **_totals_view(Totals(*totals)),
    }


def _totals_view(totals: Totals) -> View:
    """Return totals with the sums of both parts, and what was saved against the grid's tariff."""
    paid = totals.trade_paid + totals.grid_paid
    received = totals.trade_received + totals.grid_received
    saved = (totals.tariff_paid - totals.tariff_received) - (paid - received)
    return {**totals._asdict(), "paid": paid, "received": received, "saved": saved}


# ---- sums --------------------------------------------------------------------------------------


def community_view(state: StateView, params: ChainParams, community: str) -> View | None:
    """Return a community of the chain file and how many members it has."""
    for found in params.energy.communities:
        if found.id == community:
            return {
                "id": community,
                "grid_operator": found.grid_operator.hex(),
                "members": member_count(state, community),
            }
    return None


def accounting(state: StateView) -> View:
    """Return the sums of available and locked money, of debts and of queued payouts."""
    return dict(sums(state))
