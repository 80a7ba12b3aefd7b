"""The uniform-price double auction of one slot: a pure function over plain integers.

**Volume.** Bids in falling, asks in rising order of their limits are matched while the bid reaches the
ask; that is the largest energy that any price can trade.

**Price.** Every price between ``max(marginal ask, best unfilled bid)`` and ``min(marginal bid, best
unfilled ask)`` clears that volume and leaves nobody with a better limit unserved. The price is the
midpoint of the two, rounded down, so that the gain is shared between the sides. A level that is filled
in part counts as unfilled too, which leaves its limit as the only price.

**Rationing.** Orders at the one level that is filled in part get their share pro rata,
``floor(energy * filled / level)``; the watt-hours left over go one each to the orders with the lowest ids.

**Pairing.** Fills are paired in order of limit and id, so trades are fewer than orders and the same on
every node. What a trade costs is rounded for each trade, once, for both sides.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Quote(NamedTuple):
    """One side of the book: an order's id, energy (at least 1 Wh) and limit, base units per kWh."""

    order_id: bytes
    energy_wh: int
    limit_price_per_kwh: int


class Clearing(NamedTuple):
    """The result: ``price_per_kwh`` is None if nothing is traded; ``fills`` has what was, by order id."""

    price_per_kwh: int | None
    volume_wh: int
    trades: list[tuple[bytes, bytes, int]]
    fills: dict[bytes, int]


Ranked = list[tuple[int, bytes, int]]
"""(rank, id, energy), ascending: the rank is the ask's limit, or the bid's limit negated."""


class _Side(NamedTuple):
    """Fills of one side in order of rank and id, the last rank filled, the first one left unfilled."""

    fills: list[tuple[bytes, int]]
    marginal: int
    unfilled: int | None


def clear(bids: Sequence[Quote], asks: Sequence[Quote]) -> Clearing:
    """Clear one slot; ids are unique. The result does not depend on the order of the arguments."""
    ranked_bids = sorted([(-limit, order_id, energy) for order_id, energy, limit in bids])
    ranked_asks = sorted([(limit, order_id, energy) for order_id, energy, limit in asks])
    volume = _volume(ranked_bids, ranked_asks)
    if not volume:
        return Clearing(None, 0, [], {})
    buying, selling = _fill(ranked_bids, volume), _fill(ranked_asks, volume)
    low, high = selling.marginal, -buying.marginal
    if buying.unfilled is not None:
        low = max(low, -buying.unfilled)
    if selling.unfilled is not None:
        high = min(high, selling.unfilled)
    fills = dict(buying.fills + selling.fills)
    return Clearing((low + high) // 2, volume, _pair(buying.fills, selling.fills), fills)


def _volume(bids: Ranked, asks: Ranked) -> int:
    """Return the largest energy that can be traded."""
    volume = bid_at = ask_at = bid_left = ask_left = bid_rank = ask_rank = 0
    while True:
        if not bid_left:
            if bid_at == len(bids):
                return volume
            bid_rank, _, bid_left = bids[bid_at]
            bid_at += 1
        if not ask_left:
            if ask_at == len(asks):
                return volume
            ask_rank, _, ask_left = asks[ask_at]
            ask_at += 1
        if -bid_rank < ask_rank:
            return volume
        traded = min(bid_left, ask_left)
        volume += traded
        bid_left -= traded
        ask_left -= traded


def _fill(ranked: Ranked, volume: int) -> _Side:
    """Share ``volume``, at most what the side has and more than 0, among its orders."""
    fills: list[tuple[bytes, int]] = []
    start, marginal = 0, 0
    while start < len(ranked):
        marginal = ranked[start][0]
        end, level = start, 0
        while end < len(ranked) and ranked[end][0] == marginal:
            level += ranked[end][2]
            end += 1
        if level > volume:
            fills += _ration(ranked[start:end], level, volume)
            return _Side(fills, marginal, marginal)
        fills += [(order_id, energy) for _, order_id, energy in ranked[start:end]]
        volume -= level
        start = end
        if not volume:
            break
    return _Side(fills, marginal, ranked[start][0] if start < len(ranked) else None)


def _ration(orders: Ranked, level: int, volume: int) -> list[tuple[bytes, int]]:
    """Share ``volume`` pro rata among orders of one limit, by id; their energies add up to ``level``."""
    shares = [(order_id, energy * volume // level) for _, order_id, energy in orders]
    left = volume - sum(share for _, share in shares)
    topped = [(order_id, share + (at < left)) for at, (order_id, share) in enumerate(shares)]
    return [(order_id, share) for order_id, share in topped if share]


def _pair(buys: list[tuple[bytes, int]], sells: list[tuple[bytes, int]]) -> list[tuple[bytes, bytes, int]]:
    """Return (buy id, sell id, energy) of each trade; both sides have the same energy."""
    trades: list[tuple[bytes, bytes, int]] = []
    sell_at, sell_left = -1, 0
    for buy_id, buy_left in buys:
        while buy_left:
            if not sell_left:
                sell_at += 1
                sell_left = sells[sell_at][1]
            traded = min(buy_left, sell_left)
            trades.append((buy_id, sells[sell_at][0], traded))
            buy_left -= traded
            sell_left -= traded
    return trades
