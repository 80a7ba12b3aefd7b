"""The order book of a slot: orders, cancellation, and the gate at which the slot is cleared."""

from consensus.errors import RuleError
from contracts import keys, timers
from contracts.energy import calendar
from contracts.energy.clearing import Clearing, Quote, clear
from contracts.energy.membership import member_of
from contracts.limits import MAX_ORDERS_PER_MEMBER, ORDER_HORIZON_S
from contracts.operations import CancelOrder, PlaceOrder
from contracts.records import (
    BUY,
    CLEARED,
    SELL,
    Market,
    Order,
    ReadableState,
    Trade,
    WritableState,
    pack,
    unpack,
)
from contracts.scope import Call, Scope

WH_PER_KWH = 1000


def cost(energy_wh: int, price_per_kwh: int) -> int:
    """Return what energy costs, base units; the remainder stays with the buyer."""
    return energy_wh * price_per_kwh // WH_PER_KWH


def find_market(state: ReadableState, community: str, slot: int) -> Market | None:
    """Return the market of a slot, None if nothing happened in it yet."""
    value = state.get(keys.numbered(keys.MARKET, community, slot))
    return None if value is None else Market(*unpack(value))


def store_market(state: WritableState, community: str, slot: int, market: Market) -> None:
    """Write the market of a slot."""
    state.put(keys.numbered(keys.MARKET, community, slot), pack(market))


def find_order(state: ReadableState, order_id: bytes) -> tuple[str, int, Order] | None:
    """Return (community, slot, order), None if there is no such order."""
    place = state.get(keys.ORDER_AT + order_id)
    if place is None:
        return None
    community, slot = unpack(place)
    value = state.get(keys.numbered(keys.ORDER, community, slot) + order_id)
    return None if value is None else (community, slot, Order(*unpack(value)))


def orders_of_slot(state: ReadableState, community: str, slot: int) -> list[tuple[bytes, Order]]:
    """Return (id, order) of every live order of a slot, in order of id."""
    prefix = keys.numbered(keys.ORDER, community, slot)
    return [(key[len(prefix) :], Order(*unpack(value))) for key, value in state.scan(prefix)]


# ---- orders --------------------------------------------------------------------------------------


def place_order(scope: Scope, call: Call, operation: PlaceOrder) -> None:
    """Credit what the order brings, lock its collateral and enter it into the book.

    A buyer's collateral is what the order costs at its limit; a seller's is what the grid charges
    for the energy, should it not be delivered. Raises RuleError: unknown-community,
    not-a-member, gate-closed, slot-too-far, slot-full, too-many-orders, insufficient-balance.
    """
    state, community, slot = scope.state, operation.community, operation.slot
    member_of(state, community, call.account)
    _check_gate(scope, slot)
    market = _market_with_room(scope, community, slot)
    _count_orders(state, community, slot, call.account, 1)
    collateral = cost(operation.energy_wh, _collateral_price(scope, operation))
    scope.bank.deposit(call.account, call.value)
    scope.bank.lock(call.account, collateral)
    order = Order(
        call.account,
        operation.side,
        operation.energy_wh,
        operation.limit_price_per_kwh,
        collateral,
        scope.context.height,
    )
    state.put(keys.numbered(keys.ORDER, community, slot) + call.object_id, pack(order))
    state.put(keys.ORDER_AT + call.object_id, pack((community, slot)))
    store_market(state, community, slot, market._replace(orders=market.orders + 1))


def _collateral_price(scope: Scope, operation: PlaceOrder) -> int:
    if operation.side == BUY:
        return operation.limit_price_per_kwh
    return scope.params.energy.grid_price_per_kwh


def _check_gate(scope: Scope, slot: int) -> None:
    energy, now_s = scope.params.energy, scope.context.time_s
    gate_s = calendar.gate_s(energy, slot)
    if now_s >= gate_s:
        raise RuleError("gate-closed", f"the gate of slot {slot} closed at {gate_s}, it is {now_s}")
    if slot > (now_s + ORDER_HORIZON_S) // energy.slot_s:
        raise RuleError("slot-too-far", f"slot {slot} is more than two days ahead", permanent=False)


def _market_with_room(scope: Scope, community: str, slot: int) -> Market:
    """Return the market of a slot that takes one more order; the first one sets its timers."""
    market = find_market(scope.state, community, slot)
    if market is None:
        timers.schedule_slot(scope, community, slot, with_gate=True)
        return Market()
    if market.orders >= scope.params.energy.max_orders_per_slot:
        raise RuleError("slot-full", f"slot {slot} has {market.orders} orders", permanent=False)
    return market


def _count_orders(state: WritableState, community: str, slot: int, account: bytes, change: int) -> None:
    key = keys.numbered(keys.ORDERS_OF, community, slot) + account
    value = state.get(key)
    count = (0 if value is None else int.from_bytes(value, "big")) + change
    if count > MAX_ORDERS_PER_MEMBER:
        raise RuleError(
            "too-many-orders", f"{MAX_ORDERS_PER_MEMBER} orders per member and slot", permanent=False
        )
    if count:
        state.put(key, keys.number(count))
    else:
        state.delete(key)


def cancel_order(scope: Scope, call: Call, operation: CancelOrder) -> None:
    """Take an own order out of the book and release its collateral.

    Raises RuleError: unknown-order, not-order-owner, gate-closed.
    """
    state = scope.state
    found = find_order(state, operation.order_id)
    if found is None:
        raise RuleError("unknown-order", "no such order", permanent=False)
    community, slot, order = found
    if order.account != call.account:
        raise RuleError("not-order-owner", "the order belongs to another account")
    _check_gate(scope, slot)
    state.delete(keys.numbered(keys.ORDER, community, slot) + operation.order_id)
    state.delete(keys.ORDER_AT + operation.order_id)
    _count_orders(state, community, slot, call.account, -1)
    market = find_market(state, community, slot) or Market()
    store_market(state, community, slot, market._replace(orders=market.orders - 1))
    scope.bank.release(call.account, order.collateral)


# ---- gate ----------------------------------------------------------------------------------------


def close_gate(scope: Scope, community: str, slot: int, budget: int) -> int | None:
    """Clear a slot; return the units it took, one per order, or None if ``budget`` is too small."""
    book = orders_of_slot(scope.state, community, slot)
    units = max(1, len(book))
    if units > budget:
        return None
    result = clear(_quotes(book, BUY), _quotes(book, SELL))
    amounts = _record_trades(scope, community, slot, result)
    released = _record_fills(scope, community, slot, book, result, amounts)
    for account in sorted(released):
        scope.bank.release(account, released[account])
        scope.state.delete(keys.numbered(keys.ORDERS_OF, community, slot) + account)
    market = find_market(scope.state, community, slot) or Market()
    market = market._replace(
        status=CLEARED,
        price_per_kwh=result.price_per_kwh,
        volume_wh=result.volume_wh,
        trades=len(result.trades),
    )
    store_market(scope.state, community, slot, market)
    return units


def _quotes(book: list[tuple[bytes, Order]], side: str) -> list[Quote]:
    return [
        Quote(order_id, order.energy_wh, order.limit_price_per_kwh)
        for order_id, order in book
        if order.side == side
    ]


def _record_trades(scope: Scope, community: str, slot: int, result: Clearing) -> dict[bytes, int]:
    """Write the trades; return what each order pays or gets, by order id."""
    amounts: dict[bytes, int] = {}
    prefix = keys.numbered(keys.TRADE, community, slot)
    for at, (buy_id, sell_id, energy_wh) in enumerate(result.trades):
        amount = cost(energy_wh, result.price_per_kwh or 0)
        amounts[buy_id] = amounts.get(buy_id, 0) + amount
        amounts[sell_id] = amounts.get(sell_id, 0) + amount
        scope.state.put(prefix + at.to_bytes(4, "big"), pack(Trade(buy_id, sell_id, energy_wh, amount)))
    return amounts


def _record_fills(
    scope: Scope,
    community: str,
    slot: int,
    book: list[tuple[bytes, Order]],
    result: Clearing,
    amounts: dict[bytes, int],
) -> dict[bytes, int]:
    """Write what became of each order; return the collateral that each account gets back.

    What was filled keeps its collateral until settlement: a buyer's at the limit, a seller's at the
    grid price.
    """
    released: dict[bytes, int] = {}
    grid_price = scope.params.energy.grid_price_per_kwh
    prefix = keys.numbered(keys.ORDER, community, slot)
    for order_id, order in book:
        filled_wh = result.fills.get(order_id, 0)
        kept = cost(filled_wh, order.limit_price_per_kwh if order.side == BUY else grid_price)
        released[order.account] = released.get(order.account, 0) + order.collateral - kept
        record = order._replace(collateral=kept, filled_wh=filled_wh, amount=amounts.get(order_id, 0))
        scope.state.put(prefix + order_id, pack(record))
    return released
