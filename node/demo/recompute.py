"""The market and its money once more, from what the demo submitted: written apart from the contracts.

The auction is searched by brute force over all prices that occur in orders; settlement follows the words
of docs/contracts.md. Only which buyer is paired with which seller is taken from the chain, since it
decides how trades are rounded and nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from contracts.operations import ReadingItem
from contracts.records import BUY
from node.demo.journal import PlacedOrder

WH_PER_KWH = 1000


@dataclass(slots=True)
class Sums:
    """Energy (Wh) and money (base units) of one household over a slot or more."""

    bought_wh: int = 0
    sold_wh: int = 0
    from_grid_wh: int = 0
    to_grid_wh: int = 0
    import_wh: int = 0
    export_wh: int = 0
    trade_paid: int = 0
    trade_received: int = 0
    grid_paid: int = 0
    grid_received: int = 0
    tariff_paid: int = 0
    tariff_received: int = 0

    def add(self, other: "Sums") -> None:
        """Add what another one holds."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def paid(self) -> int:
        """Return what was paid to others and to the grid."""
        return self.trade_paid + self.grid_paid

    @property
    def received(self) -> int:
        """Return what others and the grid paid."""
        return self.trade_received + self.grid_received

    @property
    def saved(self) -> int:
        """Return what is better than with the grid's tariff alone."""
        return (self.tariff_paid - self.tariff_received) - (self.paid - self.received)


@dataclass(frozen=True, slots=True)
class Cleared:
    """An auction's result: ``fills`` is what each order trades, by id, where it trades."""

    price_per_kwh: int | None
    volume_wh: int
    fills: Mapping[bytes, int]


def money(energy_wh: int, price_per_kwh: int) -> int:
    """Return what energy costs, base units, rounded down."""
    return energy_wh * price_per_kwh // WH_PER_KWH


def clear(orders: Mapping[bytes, PlacedOrder]) -> Cleared:
    """Clear one slot: the most energy that any price can trade, at the middle of the prices that do so."""
    bids = {order_id: order for order_id, order in orders.items() if order.wish.side == BUY}
    asks = {order_id: order for order_id, order in orders.items() if order.wish.side != BUY}
    limits = sorted({order.wish.limit_price_per_kwh for order in orders.values()})
    tradable = {price: _tradable(bids.values(), asks.values(), price) for price in limits}
    volume = max(tradable.values(), default=0)
    if not volume:
        return Cleared(None, 0, {})
    filled_bids, bid_ends = _fill(bids, volume, -1)
    filled_asks, ask_ends = _fill(asks, volume, 1)
    # Whoever is filled sets one end of the range, whoever is left out the other.
    low = max(ask_ends[0], *([] if bid_ends[1] is None else [bid_ends[1]]), 0)
    high = min(end for end in (bid_ends[0], ask_ends[1]) if end is not None)
    return Cleared((low + high) // 2, volume, {**filled_bids, **filled_asks})


def _tradable(bids: Iterable[PlacedOrder], asks: Iterable[PlacedOrder], price: int) -> int:
    demand = sum(order.wish.energy_wh for order in bids if order.wish.limit_price_per_kwh >= price)
    supply = sum(order.wish.energy_wh for order in asks if order.wish.limit_price_per_kwh <= price)
    return min(demand, supply)


def _fill(
    orders: Mapping[bytes, PlacedOrder], volume: int, sign: int
) -> tuple[dict[bytes, int], tuple[int, int | None]]:
    """Return fills by id, and (limit of the last one filled, limit of the best one not filled whole)."""
    left = volume
    fills: dict[bytes, int] = {}
    marginal, unfilled = 0, None
    for limit in sorted({order.wish.limit_price_per_kwh for order in orders.values()}, key=sign.__mul__):
        level = {
            order_id: order.wish.energy_wh
            for order_id, order in sorted(orders.items())
            if order.wish.limit_price_per_kwh == limit
        }
        if not left:
            unfilled = limit
            break
        marginal, total = limit, sum(level.values())
        if total <= left:
            fills.update(level)
            left -= total
            continue
        shares = {order_id: energy_wh * left // total for order_id, energy_wh in level.items()}
        for order_id in list(shares)[: left - sum(shares.values())]:
            shares[order_id] += 1
        fills.update({order_id: share for order_id, share in shares.items() if share})
        unfilled = limit
        break
    return fills, (marginal, unfilled)


def settle(
    owners: Mapping[bytes, bytes],
    orders: Mapping[bytes, PlacedOrder],
    cleared: Cleared,
    trades: Sequence[Mapping[str, Any]],
    readings: Iterable[ReadingItem],
    grid_price_per_kwh: int,
    feed_in_price_per_kwh: int,
) -> dict[bytes, Sums]:
    """Return what each household trades, meters and pays in one slot, by account.

    ``owners`` maps a device key to its owner's account; ``trades`` are the chain's pairs.
    """
    sums: dict[bytes, Sums] = {}
    for order_id, filled_wh in cleared.fills.items():
        order = orders[order_id]
        mine = sums.setdefault(order.account, Sums())
        if order.wish.side == BUY:
            mine.bought_wh += filled_wh
        else:
            mine.sold_wh += filled_wh
    for trade in trades:
        price = money(trade["energy_wh"], cleared.price_per_kwh or 0)
        sums[orders[bytes.fromhex(trade["buy_id"])].account].trade_paid += price
        sums[orders[bytes.fromhex(trade["sell_id"])].account].trade_received += price
    for order in orders.values():
        sums.setdefault(order.account, Sums())
    for item in readings:
        mine = sums.setdefault(owners[item.device_key], Sums())
        mine.import_wh += item.import_wh
        mine.export_wh += item.export_wh
    for mine in sums.values():
        _balance(mine, grid_price_per_kwh, feed_in_price_per_kwh)
    return sums


def _balance(mine: Sums, grid_price_per_kwh: int, feed_in_price_per_kwh: int) -> None:
    net_wh = mine.import_wh - mine.export_wh
    mine.import_wh, mine.export_wh = max(net_wh, 0), max(-net_wh, 0)
    imbalance_wh = net_wh - (mine.bought_wh - mine.sold_wh)
    mine.from_grid_wh, mine.to_grid_wh = max(imbalance_wh, 0), max(-imbalance_wh, 0)
    mine.grid_paid = money(mine.from_grid_wh, grid_price_per_kwh)
    mine.grid_received = money(mine.to_grid_wh, feed_in_price_per_kwh)
    mine.tariff_paid = money(mine.import_wh, grid_price_per_kwh)
    mine.tariff_received = money(mine.export_wh, feed_in_price_per_kwh)
