"""The demo's own auction and settlement: by hand, and against the contracts' on random markets."""

from hypothesis import given
from hypothesis import strategies as st

from contracts.energy.clearing import Quote
from contracts.energy.clearing import clear as contract_clear
from contracts.operations import ReadingItem
from contracts.records import BUY, SELL
from node.demo.journal import PlacedOrder
from node.demo.recompute import Sums, clear, money, settle
from node.demo.scenario import Wish

GRID, FEED_IN = 30_000_000, 8_000_000


def order(account, side, energy_wh, limit):
    return PlacedOrder(account, Wish(7, side, energy_wh, limit), 0)


def reading(device_key, import_wh, export_wh):
    return ReadingItem(device_key, 7, import_wh, export_wh, bytes(64))


@given(
    st.lists(
        st.tuples(st.sampled_from([BUY, SELL]), st.integers(1, 60), st.integers(0, 6)),
        max_size=14,
    )
)
def test_the_auction_is_that_of_the_contracts(book):
    orders = {bytes([at]) * 32: order(b"a", *each) for at, each in enumerate(book)}
    quotes = {
        side: [
            Quote(order_id, each.wish.energy_wh, each.wish.limit_price_per_kwh)
            for order_id, each in orders.items()
            if each.wish.side == side
        ]
        for side in (BUY, SELL)
    }
    theirs, mine = contract_clear(quotes[BUY], quotes[SELL]), clear(orders)
    assert (mine.price_per_kwh, mine.volume_wh) == (theirs.price_per_kwh, theirs.volume_wh)
    assert mine.fills == theirs.fills


def test_a_market_without_a_match():
    orders = {b"1": order(b"a", BUY, 10, 5), b"2": order(b"b", SELL, 10, 6)}
    assert clear(orders) == clear({})
    assert clear({}).price_per_kwh is None


def test_settlement_by_hand():
    buyer, seller = b"buyer", b"seller"
    orders = {b"\x01": order(buyer, BUY, 400, 25_000_000), b"\x02": order(seller, SELL, 700, 12_000_000)}
    cleared = clear(orders)
    # The seller's level is filled in part, so its limit is the price.
    assert (cleared.price_per_kwh, cleared.volume_wh) == (12_000_000, 400)
    trades = [{"buy_id": "01", "sell_id": "02", "energy_wh": 400}]
    readings = [reading(b"meter-b", 450, 0), reading(b"meter-s", 20, 700)]
    owners = {b"meter-b": buyer, b"meter-s": seller}
    sums = settle(owners, orders, cleared, trades, readings, GRID, FEED_IN)
    assert sums[buyer] == Sums(
        bought_wh=400,
        from_grid_wh=50,
        import_wh=450,
        trade_paid=4_800_000,
        grid_paid=1_500_000,
        tariff_paid=13_500_000,
    )
    assert sums[seller] == Sums(
        sold_wh=400,
        to_grid_wh=280,
        export_wh=680,
        trade_received=4_800_000,
        grid_received=2_240_000,
        tariff_received=5_440_000,
    )
    assert sums[buyer].saved == 13_500_000 - 6_300_000
    assert sums[seller].saved == 7_040_000 - 5_440_000


def test_money_is_rounded_down():
    assert money(999, 1) == 0
    assert money(1, 1999) == 1


def test_sums_add_up_field_by_field():
    first, second = Sums(bought_wh=1, grid_paid=2), Sums(bought_wh=10, trade_received=5)
    first.add(second)
    assert first == Sums(bought_wh=11, grid_paid=2, trade_received=5)
    assert (first.paid, first.received, first.saved) == (2, 5, 3)
