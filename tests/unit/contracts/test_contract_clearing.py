"""The auction against oracles that share no code with it."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.energy.clearing import Quote, clear


def quotes(prefix):
    return st.lists(
        st.tuples(st.integers(1, 30), st.integers(0, 12)),
        max_size=9,
    ).map(lambda rows: [Quote(prefix + bytes([at]), wh, price) for at, (wh, price) in enumerate(rows)])


BOOKS = st.tuples(quotes(b"b"), quotes(b"s"))


def best_volume(bids, asks):
    """Try every price at which demand or supply changes: the most that any one price can trade."""
    prices = {quote.limit_price_per_kwh for quote in bids + asks}
    return max(
        (
            min(
                sum(q.energy_wh for q in bids if q.limit_price_per_kwh >= price),
                sum(q.energy_wh for q in asks if q.limit_price_per_kwh <= price),
            )
            for price in prices
        ),
        default=0,
    )


@given(BOOKS)
@settings(max_examples=400)
def test_volume_is_the_largest_that_any_price_trades(book):
    assert clear(*book).volume_wh == best_volume(*book)


@given(BOOKS)
@settings(max_examples=300)
def test_nobody_is_filled_against_its_limit_or_left_out_with_a_better_one(book):
    bids, asks = book
    result = clear(bids, asks)
    price = result.price_per_kwh
    if price is None:
        assert result.fills == {}
        assert result.trades == []
        assert all(b.limit_price_per_kwh < a.limit_price_per_kwh for b in bids for a in asks)
        return
    for quote in bids:
        filled = result.fills.get(quote.order_id, 0)
        assert 0 <= filled <= quote.energy_wh
        if filled:
            assert quote.limit_price_per_kwh >= price
        if quote.limit_price_per_kwh > price:
            assert filled == quote.energy_wh
    for quote in asks:
        filled = result.fills.get(quote.order_id, 0)
        assert 0 <= filled <= quote.energy_wh
        if filled:
            assert quote.limit_price_per_kwh <= price
        if quote.limit_price_per_kwh < price:
            assert filled == quote.energy_wh


@given(BOOKS)
@settings(max_examples=300)
def test_energy_sold_is_energy_bought_in_trades_and_in_fills(book):
    bids, asks = book
    result = clear(bids, asks)
    bought, sold = {}, {}
    for buy_id, sell_id, energy_wh in result.trades:
        assert energy_wh > 0
        bought[buy_id] = bought.get(buy_id, 0) + energy_wh
        sold[sell_id] = sold.get(sell_id, 0) + energy_wh
    assert bought | sold == result.fills
    assert set(bought) <= {quote.order_id for quote in bids}
    assert set(sold) <= {quote.order_id for quote in asks}
    assert sum(bought.values()) == sum(sold.values()) == result.volume_wh
    assert len(result.trades) < len(bids) + len(asks) or not result.trades


@given(BOOKS, st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_the_result_does_not_depend_on_the_order_of_arrival(book, dice):
    bids, asks = book
    shuffled_bids, shuffled_asks = bids[:], asks[:]
    dice.shuffle(shuffled_bids)
    dice.shuffle(shuffled_asks)
    assert clear(shuffled_bids, shuffled_asks) == clear(bids, asks)


@given(BOOKS)
@settings(max_examples=300)
def test_the_level_at_the_margin_is_shared_pro_rata_and_leftovers_go_by_id(book):
    result = clear(*book)
    for side in book:
        for price in sorted({quote.limit_price_per_kwh for quote in side}):
            level = sorted(quote for quote in side if quote.limit_price_per_kwh == price)
            total = sum(quote.energy_wh for quote in level)
            fills = [result.fills.get(quote.order_id, 0) for quote in level]
            if sum(fills) in (0, total):
                continue
            floors = [quote.energy_wh * sum(fills) // total for quote in level]
            extra = [fill - floor for fill, floor in zip(fills, floors, strict=True)]
            left = sum(fills) - sum(floors)
            assert extra == [1] * left + [0] * (len(level) - left)


@given(BOOKS)
@settings(max_examples=200)
def test_at_most_one_level_in_the_book_is_filled_in_part(book):
    result = clear(*book)
    partial = {
        (side, quote.limit_price_per_kwh)
        for side, quotes_ in enumerate(book)
        for quote in quotes_
        if result.volume_wh and 0 < result.fills.get(quote.order_id, 0) < quote.energy_wh
    }
    assert len(partial) <= 1


def price_interval(bids, asks, volume):
    """All integer and half-integer prices at which exactly the optimal volume is wanted on both sides."""
    grid = [Fraction(half, 2) for half in range(-2, 30)]
    good = []
    for price in grid:
        must_buy = sum(q.energy_wh for q in bids if q.limit_price_per_kwh > price)
        may_buy = sum(q.energy_wh for q in bids if q.limit_price_per_kwh >= price)
        must_sell = sum(q.energy_wh for q in asks if q.limit_price_per_kwh < price)
        may_sell = sum(q.energy_wh for q in asks if q.limit_price_per_kwh <= price)
        if must_buy <= volume <= may_buy and must_sell <= volume <= may_sell:
            good.append(price)
    return good


@given(BOOKS)
@settings(max_examples=300)
def test_the_price_is_the_midpoint_of_all_prices_that_clear_the_market(book):
    result = clear(*book)
    if result.price_per_kwh is None:
        return
    good = price_interval(*book, result.volume_wh)
    assert result.price_per_kwh == (min(good) + max(good)) // 2


def test_worked_examples():
    bids = [Quote(b"b1", 100, 30), Quote(b"b2", 100, 20), Quote(b"b3", 100, 10)]
    asks = [Quote(b"s1", 100, 5), Quote(b"s2", 100, 15), Quote(b"s3", 100, 25)]
    result = clear(bids, asks)
    assert (result.price_per_kwh, result.volume_wh) == (17, 200)  # between 15 and 20, rounded down
    assert result.trades == [(b"b1", b"s1", 100), (b"b2", b"s2", 100)]
    # supply is short at the margin: the price is the marginal bid, shared 10:20:30 with one left over
    bids = [Quote(b"b1", 10, 20), Quote(b"b2", 20, 20), Quote(b"b3", 30, 20)]
    result = clear(bids, [Quote(b"s1", 31, 5)])
    assert result.price_per_kwh == 20
    assert result.fills == {b"b1": 6, b"b2": 10, b"b3": 15, b"s1": 31}
    # both margins exhausted with nothing behind: the midpoint of the two
    assert clear([Quote(b"b", 7, 9)], [Quote(b"s", 7, 4)]).price_per_kwh == 6
    # an unfilled bid pulls the lower end up
    assert clear([Quote(b"b", 7, 9), Quote(b"c", 7, 8)], [Quote(b"s", 7, 4)]).price_per_kwh == 8
    assert clear([], []).price_per_kwh is None
    assert clear([Quote(b"b", 7, 3)], [Quote(b"s", 7, 4)]).volume_wh == 0
    assert clear([Quote(b"b", 7, 0)], [Quote(b"s", 5, 0)]).price_per_kwh == 0


def test_a_full_book_of_4000_orders_clears():
    bids = [Quote(b"b%06d" % n, 100 + n * 7919 % 5000, n * 104_729 % 30_000) for n in range(2000)]
    asks = [Quote(b"s%06d" % n, 100 + n * 6101 % 5000, n * 99_991 % 30_000) for n in range(2000)]
    result = clear(bids, asks)
    price = result.price_per_kwh
    demand = sum(q.energy_wh for q in bids if q.limit_price_per_kwh > price)
    supply = sum(q.energy_wh for q in asks if q.limit_price_per_kwh < price)
    assert demand <= result.volume_wh >= supply
    assert sum(result.fills[q.order_id] for q in bids if q.order_id in result.fills) == result.volume_wh
    assert len(result.trades) < 4000
