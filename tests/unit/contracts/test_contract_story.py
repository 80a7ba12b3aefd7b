"""A day in the life of a market: deposit, register, orders, gate, readings, settlement, bill, withdraw."""

import hashlib

import pytest

from consensus.errors import RuleError
from contracts import queries
from contracts.operations import Deposit, Withdraw, reading_hash
from contracts.records import Bill, Totals, pack


def cost(wh, price):
    return wh * price // 1000


class Day:
    """One slot of three households, driven step by step."""

    def __init__(self, kit, world):
        self.kit, self.world = kit, world
        self.anna, self.bodo, self.cora = (world.household(n, 50_000) for n in (1, 2, 3))
        world.do(kit.OPERATOR, Deposit(), 1_000_000)
        self.slot = kit.START_S // 900 + 8
        self.day = self.slot * 900 // 86_400
        self.orders = [
            world.order(self.anna, self.slot, "buy", 1000, 25_000),
            world.order(self.bodo, self.slot, "buy", 1001, 20_000),
            world.order(self.cora, self.slot, "sell", 1500, 10_000),
        ]

    def market(self):
        return queries.market(self.world.state, self.world.params, self.kit.COMMUNITY, self.slot)

    def read(self):
        self.world.submit(
            self.world.reading(1, self.slot, import_wh=1200),  # 200 Wh more than bought: from the grid
            self.world.reading(2, self.slot, import_wh=400, export_wh=100),  # 200 Wh less: to the grid
            self.world.reading(3, self.slot, export_wh=1400),  # 100 Wh less than sold: from the grid
            at=self.world.end(self.slot),
        )

    def settle(self):
        self.read()
        self.world.block(at=self.world.settle_at(self.slot))

    def bill(self):
        self.settle()
        self.world.block(at=(self.day + 1) * 86_400 + 3600)


@pytest.fixture
def day(kit, world):
    return Day(kit, world)


def test_orders_lock_their_collateral(world, day):
    assert world.account(day.anna)["locked"] == 25_000
    assert world.account(day.bodo)["locked"] == 20_020
    assert world.account(day.cora)["locked"] == 45_000  # what the grid charges for 1.5 kWh
    assert day.market()["orders"] == 3


def test_the_slot_is_cleared_at_the_gate(kit, world, day):
    world.block(at=world.gate(day.slot) - 1)
    assert day.market()["status"] == "open"
    world.block(at=world.gate(day.slot))
    market = day.market()
    # Bodo's bid is the marginal level and filled in part, so its limit is the only clearing price
    assert (market["status"], market["price_per_kwh"], market["volume_wh"]) == ("cleared", 20_000, 1500)
    first, second, third = (order_id.hex() for order_id in day.orders)
    trades = queries.trades(world.state, kit.COMMUNITY, day.slot)
    assert [(t["buy_id"], t["sell_id"], t["energy_wh"], t["amount"]) for t in trades] == [
        (first, third, 1000, 20_000),
        (second, third, 500, 10_000),
    ]
    # what was filled keeps its collateral, the rest is released
    assert world.account(day.anna)["locked"] == 25_000
    assert world.account(day.bodo)["locked"] == cost(500, 20_000)
    assert world.account(day.bodo)["available"] == 50_000 + 20_020 - 10_000
    assert world.account(day.cora)["locked"] == 45_000
    fills = [queries.order(world.state, order_id) for order_id in day.orders]
    assert [(f["filled_wh"], f["amount"]) for f in fills] == [(1000, 20_000), (500, 10_000), (1500, 30_000)]


def test_settlement_moves_the_money(kit, world, day):
    day.read()
    world.check_books()
    world.block(at=world.settle_at(day.slot) - 1)
    assert day.market()["status"] == "cleared"
    world.block(at=world.settle_at(day.slot))
    market = day.market()
    assert market["status"] == "settled"
    assert (market["participants"], market["missing"]) == (3, 0)
    assert (market["import_wh"], market["export_wh"]) == (1500, 1400)
    assert (market["from_grid_wh"], market["to_grid_wh"]) == (300, 200)
    expected = {
        day.anna: (50_000 + 25_000) - 20_000 - cost(200, 30_000),
        day.bodo: (50_000 + 20_020) - 10_000 + cost(200, 8_000),
        day.cora: (50_000 + 45_000) + 30_000 - cost(100, 30_000),
        kit.OPERATOR: 1_000_000 + cost(300, 30_000) - cost(200, 8_000),
    }
    for script, available in expected.items():
        account = world.account(script)
        assert (account["available"], account["locked"], account["owed"]) == (available, 0, 0)
    world.check_books()


def test_results_say_what_each_participant_traded_and_saved(kit, world, day):
    day.settle()
    results = {view["account"]: view for view in queries.results(world.state, kit.COMMUNITY, day.slot)}
    anna, cora = results[day.anna.hex()], results[day.cora.hex()]
    assert (anna["bought_wh"], anna["from_grid_wh"], anna["grid_paid"]) == (1000, 200, 6000)
    assert anna["tariff_paid"] == cost(1200, 30_000)
    assert anna["saved"] == 36_000 - 26_000
    assert cora["tariff_received"] == cost(1400, 8_000)
    assert queries.bills(world.state, kit.COMMUNITY, day.day) is None
    assert [view["slots"] for view in queries.day_totals(world.state, kit.COMMUNITY, day.day)] == [1, 1, 1]


def test_bills_are_written_when_the_last_slot_of_the_day_is_settled(kit, world, day):
    day.settle()
    so_far = queries.day_totals(world.state, kit.COMMUNITY, day.day)
    world.block(at=(day.day + 1) * 86_400 + 3600 - 1)
    assert queries.bill(world.state, kit.COMMUNITY, day.day, day.anna) is None
    world.block(at=(day.day + 1) * 86_400 + 3600)
    totals = Totals(1000, 0, 200, 0, 20_000, 0, 6000, 0, 1200, 0, 36_000, 0, 1, 0)
    record = Bill(kit.COMMUNITY, day.day, day.anna, totals)
    assert queries.bill(world.state, kit.COMMUNITY, day.day, day.anna) == {
        "community": kit.COMMUNITY,
        "day": day.day,
        "account": day.anna.hex(),
        "bill_hash": hashlib.sha256(pack(record)).hexdigest(),
        **totals._asdict(),
        "paid": 26_000,
        "received": 0,
        "saved": 10_000,
    }
    bills = queries.bills(world.state, kit.COMMUNITY, day.day)
    hashes = b"".join(bytes.fromhex(view["bill_hash"]) for view in bills["bills"])
    assert (bills["count"], bills["hash"]) == (3, hashlib.sha256(hashes).hexdigest())
    assert queries.day_totals(world.state, kit.COMMUNITY, day.day) == so_far
    assert not [key for key in world.state.values if key.startswith((b"day/", b"timer/", b"orders-of/"))]


def test_what_was_earned_can_be_withdrawn(kit, world, day):
    day.bill()
    before = world.account(day.anna)["available"]
    world.do(day.anna, Withdraw(40_000))
    assert world.account(day.anna)["available"] == before - 40_000
    payouts = queries.payouts(world.state)
    assert [(p["number"], p["account"], p["amount"]) for p in payouts] == [(0, day.anna.hex(), 40_000)]
    assert [tuple(output) for output in world.open().due_payouts()] == [(40_000, day.anna)]
    world.block()
    assert queries.payouts(world.state) == []
    assert world.paid == 40_000
    world.check_books()


def test_genesis_writes_organisations_communities_and_parameters(kit, world):
    state = world.contracts.genesis_state()
    assert list(state) == sorted(state)
    fresh = kit.DictState(state)
    assert [(o["name"], o["role"]) for o in queries.organisations(fresh)] == [
        ("dso", "grid-operator"),
        ("esp-1", "service-provider"),
        ("esp-2", "service-provider"),
        ("dso-2", "grid-operator"),
    ]
    view = queries.community_view(fresh, world.params, kit.COMMUNITY)
    assert view == {"id": kit.COMMUNITY, "grid_operator": kit.OPERATOR.hex(), "members": 0}
    assert queries.community_view(fresh, world.params, "nowhere") is None
    assert b"energy-params" in state
    other = kit.World(kit.make_params(grid_price_per_kwh=29_999)).contracts.genesis_state()
    assert other[b"energy-params"] != state[b"energy-params"]
    assert queries.params_view(world.params)["chain_tag"] == world.tag.hex()


def test_payouts_leave_first_in_first_out_64_to_a_block(kit, world):
    who = kit.p2pkh(77)
    world.do(who, Deposit(), 5_000 * 100 + 7)
    errors = world.block(*[world.tx(who, Withdraw(5_000 + at % 2)) for at in range(70)])
    assert errors == [None] * 70
    assert [p["number"] for p in queries.payouts(world.state, limit=3)] == [0, 1, 2]
    # a withdrawal in the same block waits behind those that were queued before it
    session = world.open()
    assert len(session.due_payouts()) == 64
    assert world.block(world.tx(who, Withdraw(6_000))) == [None]
    left = queries.payouts(world.state)
    assert [p["number"] for p in left] == [64, 65, 66, 67, 68, 69, 70]
    assert left[-1]["amount"] == 6_000
    world.check_books()
    world.block()
    assert queries.payouts(world.state) == []
    assert world.account(who)["available"] == 5_000 * 100 + 7 - 70 * 5_000 - 35 - 6_000
    world.check_books()


def test_an_account_cannot_withdraw_what_it_does_not_have(kit, world):
    who = kit.p2pkh(77)
    assert world.refused(who, Withdraw(5_000)) == "insufficient-balance"
    world.do(who, Deposit(), 5_999)
    assert world.refused(who, Withdraw(6_000)) == "insufficient-balance"
    world.do(who, Withdraw(5_999))
    assert world.account(who)["available"] == 0
    assert b"account/" + who not in world.state.values


def test_locked_money_cannot_be_withdrawn(kit, world):
    anna = world.household(1)
    slot = world.slot_now + 4
    world.order(anna, slot, "buy", 1000, 20_000, value=22_000)
    assert world.refused(anna, Withdraw(5_000)) == "insufficient-balance"
    world.do(anna, Deposit(), 3_000)
    world.do(anna, Withdraw(5_000))
    assert world.account(anna)["available"] == 0
    assert world.account(anna)["locked"] == 20_000


def test_a_refused_operation_leaves_nothing(kit, world):
    anna = world.household(1)
    slot = world.slot_now + 4
    session = world.open()
    before = dict(world.state.values)
    # the value is credited before the collateral turns out too high: both are undone
    from contracts.operations import PlaceOrder

    tx, spent = world.tx(anna, PlaceOrder(kit.COMMUNITY, slot, "buy", 1000, 20_000), 19_999)
    with pytest.raises(RuleError) as caught:
        session.execute(tx, spent)
    assert caught.value.code == "insufficient-balance"
    assert not caught.value.permanent
    assert session.finish() == {}
    assert world.state.values == before


def test_an_unexpected_exception_leaves_nothing_either(kit, world, monkeypatch):
    anna = world.household(1)
    session = world.open()
    ok = world.tx(anna, Deposit(), 10)
    session.execute(*ok)

    def broken(self, account, amount, height):
        self.deposit(account, 1)
        raise ZeroDivisionError

    monkeypatch.setattr("contracts.bank.Bank.withdraw", broken)
    with pytest.raises(ZeroDivisionError):
        session.execute(*world.tx(anna, Withdraw(5_000)))
    writes = session.finish()
    assert list(writes) == [b"account/" + anna]


def test_transactions_without_payload_do_nothing(kit, world):
    from consensus.transaction import TxOut

    session = world.open()
    session.execute(*world.raw_tx(kit.OPERATOR, [TxOut(5, kit.OPERATOR)], script_sig=b""))
    assert session.finish() == {}


def test_a_payload_that_input_0_does_not_cover_is_refused(kit, world):
    from consensus.transaction import TxOut
    from contracts.operations import encode, payload_script

    outputs = [TxOut(10, payload_script(encode(Deposit())))]
    sig = b"\x47" + bytes(70) + b"\x83" + b"\x21" + bytes(33)
    (error,) = world.block(world.raw_tx(kit.OPERATOR, outputs, script_sig=sig))
    assert error.code == "bad-op-auth"


def test_outcomes_name_the_transaction_as_people_see_it(kit, world):
    world.household(1)
    slot = world.slot_now
    item = world.reading(1, slot, import_wh=5)
    tx = world.submit(item, at=world.end(slot))
    view = queries.outcome(world.state, reading_hash(item))
    assert view == {
        "item_hash": reading_hash(item).hex(),
        "code": "accepted",
        "height": world.height,
        "txid": tx.txid[::-1].hex(),
    }
    assert queries.outcome(world.state, bytes(32)) is None
