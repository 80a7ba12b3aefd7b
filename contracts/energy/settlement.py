"""Settlement of a slot: what was traded against what was metered, and the money that follows.

For each participant (a member with an order or a reading in the slot)

    imbalance = (imported - exported) - (bought - sold)

is bought from the community's grid operator at the grid price if positive, sold to it at the feed-in
price if negative. Trades are paid from the buyers' locked collateral; imbalance is paid from what is
left of the participant's collateral, then from its available money, and what it cannot pay is a debt.
A meter without a reading counts as zero and is noted as missing.
"""

from contracts import keys
from contracts.energy import calendar
from contracts.energy.market import cost, find_market, orders_of_slot, store_market
from contracts.energy.membership import find_member
from contracts.energy.readings import readings_of_slot
from contracts.limits import MAX_AMOUNT
from contracts.records import BUY, SETTLED, Market, Order, Reading, Totals, pack, unpack
from contracts.scope import Scope, grid_operator


class Position:
    """What one participant traded and metered in a slot; ``collateral`` is still locked for it."""

    __slots__ = (
        "bought_wh",
        "collateral",
        "export_wh",
        "import_wh",
        "read",
        "sold_wh",
        "trade_paid",
        "trade_received",
    )

    def __init__(self) -> None:
        self.bought_wh = 0
        self.sold_wh = 0
        self.trade_paid = 0
        self.trade_received = 0
        self.collateral = 0
        self.import_wh = 0
        self.export_wh = 0
        self.read: list[bytes] = []

    def add_order(self, order: Order) -> None:
        """Count what an order traded."""
        self.collateral += order.collateral
        if order.side == BUY:
            self.bought_wh += order.filled_wh
            self.trade_paid += order.amount
        else:
            self.sold_wh += order.filled_wh
            self.trade_received += order.amount

    def add_reading(self, device_key: bytes, reading: Reading) -> None:
        """Count what a meter of the participant read."""
        self.import_wh += reading.import_wh
        self.export_wh += reading.export_wh
        self.read.append(device_key)

    @property
    def metered_wh(self) -> int:
        """Net consumption, negative for net feed-in."""
        return self.import_wh - self.export_wh

    @property
    def imbalance_wh(self) -> int:
        """What the grid covers; negative for what it takes."""
        return self.metered_wh - (self.bought_wh - self.sold_wh)


Positions = list[tuple[bytes, Position]]
"""(account, position), in order of account."""


def settle(scope: Scope, community: str, slot: int, budget: int) -> int | None:
    """Settle a slot; return the units it took, one per participant, or None if ``budget`` is too small."""
    positions = _positions(scope, community, slot)
    units = max(1, len(positions))
    if units > budget:
        return None
    _pay_trades(scope, positions)
    _balance(scope, grid_operator(scope.state, community), positions)
    results = [(who, _result(scope, community, who, position)) for who, position in positions]
    for who, result in results:
        scope.state.put(keys.numbered(keys.RESULT, community, slot) + who, pack(result))
        _add_to_day(scope, community, calendar.day_of(scope.params.energy, slot), who, result)
    market = find_market(scope.state, community, slot) or Market()
    store_market(scope.state, community, slot, _closed(market, [result for _, result in results]))
    return units


def _positions(scope: Scope, community: str, slot: int) -> Positions:
    found: dict[bytes, Position] = {}
    for _, order in orders_of_slot(scope.state, community, slot):
        found.setdefault(order.account, Position()).add_order(order)
    for device_key, reading in readings_of_slot(scope.state, community, slot):
        found.setdefault(reading.owner, Position()).add_reading(device_key, reading)
    return sorted(found.items())


def _pay_trades(scope: Scope, positions: Positions) -> None:
    payments = [(who, position.trade_paid) for who, position in positions if position.trade_paid]
    receipts = [(who, position.trade_received) for who, position in positions if position.trade_received]
    scope.bank.move_locked(payments, receipts)
    for _, position in positions:
        position.collateral -= position.trade_paid


def _balance(scope: Scope, operator: bytes, positions: Positions) -> None:
    """Charge imbalance, those who owe first, so that the operator can pay the others from it."""
    energy = scope.params.energy
    for who, position in positions:
        locked = position.collateral
        if position.imbalance_wh > 0:
            amount = cost(position.imbalance_wh, energy.grid_price_per_kwh)
            locked = scope.bank.charge(who, operator, amount, locked=locked)
        scope.bank.release(who, locked)
    for who, position in positions:
        if position.imbalance_wh < 0:
            scope.bank.charge(operator, who, cost(-position.imbalance_wh, energy.feed_in_price_per_kwh))


def _result(scope: Scope, community: str, who: bytes, position: Position) -> Totals:
    energy = scope.params.energy
    from_grid_wh, to_grid_wh = _split(position.imbalance_wh)
    import_wh, export_wh = _split(position.metered_wh)
    return Totals(
        bought_wh=position.bought_wh,
        sold_wh=position.sold_wh,
        from_grid_wh=from_grid_wh,
        to_grid_wh=to_grid_wh,
        trade_paid=position.trade_paid,
        trade_received=position.trade_received,
        grid_paid=capped(cost(from_grid_wh, energy.grid_price_per_kwh)),
        grid_received=capped(cost(to_grid_wh, energy.feed_in_price_per_kwh)),
        import_wh=import_wh,
        export_wh=export_wh,
        tariff_paid=capped(cost(import_wh, energy.grid_price_per_kwh)),
        tariff_received=capped(cost(export_wh, energy.feed_in_price_per_kwh)),
        slots=1,
        missing=_missing(scope, community, who, position),
    )


def _split(net_wh: int) -> tuple[int, int]:
    """Return (energy taken, energy given)."""
    return (net_wh, 0) if net_wh >= 0 else (0, -net_wh)


def capped(amount: int) -> int:
    """Return ``amount``, at most what a record holds."""
    return min(amount, MAX_AMOUNT)


def _missing(scope: Scope, community: str, who: bytes, position: Position) -> int:
    """Return how many meters in use gave no reading; 1 for a participant without a meter."""
    member = find_member(scope.state, community, who)
    devices = () if member is None else member.devices
    if not devices and not position.read:
        return 1
    return sum(device_key not in position.read for device_key in devices)


def _add_to_day(scope: Scope, community: str, day: int, who: bytes, result: Totals) -> None:
    key = keys.numbered(keys.DAY, community, day) + who
    value = scope.state.get(key)
    earlier = Totals() if value is None else Totals(*unpack(value))
    total = Totals(*[capped(sum(pair)) for pair in zip(earlier, result, strict=True)])
    scope.state.put(key, pack(total))


def _closed(market: Market, results: list[Totals]) -> Market:
    return market._replace(
        status=SETTLED,
        participants=len(results),
        import_wh=sum(result.import_wh for result in results),
        export_wh=sum(result.export_wh for result in results),
        from_grid_wh=sum(result.from_grid_wh for result in results),
        to_grid_wh=sum(result.to_grid_wh for result in results),
        missing=sum(result.missing for result in results),
    )
