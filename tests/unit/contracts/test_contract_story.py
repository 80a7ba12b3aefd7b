"""A day in the life of a market: deposit, register, orders, gate, readings, settlement, bill, withdraw."""

import hashlib

import pytest

from consensus.errors import RuleError
from contracts import queries
from contracts.operations import Deposit, Withdraw, reading_hash
from contracts.records import Bill, Totals, pack


def cost(wh, price):
    return wh * price // 1000


def test_a_slot_from_order_to_bill(kit, world):
    anna, bodo, cora = world.household(1, 50_000), world.household(2, 50_000), world.household(3, 50_000)
    world.do(kit.OPERATOR, Deposit(), 1_000_000)
    slot = kit.START_S // 900 + 8
    first = world.order(anna, slot, "buy", 1000, 25_000)
    second = world.order(bodo, slot, "buy", 1001, 20_000)
    third = world.order(cora, slot, "sell", 1500, 10_000)

    assert world.account(anna)["locked"] == 25_000
    assert world.account(bodo)["locked"] == 20_020
    assert world.account(cora)["locked"] == 45_000  # what the grid charges for 1.5 kWh
    assert queries.market(world.state, world.params, kit.COMMUNITY, slot)["orders"] == 3

    # one second before the gate nothing is cleared, at the gate it is
    world.block(at=world.gate(slot) - 1)
    assert queries.market(world.state, world.params, kit.COMMUNITY, slot)["status"] == "open"
    world.block(at=world.gate(slot))
    market = queries.market(world.state, world.params, kit.COMMUNITY, slot)
    # Bodo's bid is the marginal level and filled in part, so its limit is the only clearing price
    assert (market["status"], market["price_per_kwh"], market["volume_wh"]) == ("cleared", 20_000, 1500)
    trades = queries.trades(world.state, kit.COMMUNITY, slot)
    assert [(t["buy_id"], t["sell_id"], t["energy_wh"], t["amount"]) for t in trades] == [
        (first.hex(), third.hex(), 1000, 20_000),
        (second.hex(), third.hex(), 500, 10_000),
    ]
    # what was filled keeps its collateral, the rest is released
    assert world.account(anna)["locked"] == 25_000
    assert world.account(bodo)["locked"] == cost(500, 20_000)
    assert world.account(bodo)["available"] == 50_000 + 20_020 - 10_000
    assert world.account(cora)["locked"] == 45_000

    world.submit(
        world.reading(1, slot, import_wh=1200),  # 200 Wh short: from the grid
        world.reading(2, slot, import_wh=400, export_wh=100),  # 200 Wh over: to the grid
        world.reading(3, slot, export_wh=1400),  # 100 Wh short of what it sold: from the grid
        at=world.end(slot),
    )
    world.check_books()
    world.block(at=world.settle_at(slot) - 1)
    assert queries.market(world.state, world.params, kit.COMMUNITY, slot)["status"] == "cleared"
    world.block(at=world.settle_at(slot))
    market = queries.market(world.state, world.params, kit.COMMUNITY, slot)
    assert market["status"] == "settled"
    assert (market["participants"], market["missing"]) == (3, 0)
    assert (market["import_wh"], market["export_wh"]) == (1500, 1400)
    assert (market["from_grid_wh"], market["to_grid_wh"]) == (300, 200)

    expected = {
        anna: (50_000 + 25_000) - 20_000 - cost(200, 30_000),
        bodo: (50_000 + 20_020) - 10_000 + cost(200, 8_000),
        cora: (50_000 + 45_000) + 30_000 - cost(100, 30_000),
        kit.OPERATOR: 1_000_000 + cost(300, 30_000) - cost(200, 8_000),
    }
    for script, available in expected.items():
        account = world.account(script)
        assert (account["available"], account["locked"], account["owed"]) == (available, 0, 0)
    world.check_books()

    results = {view["account"]: view for view in queries.results(world.state, kit.COMMUNITY, slot)}
    assert results[anna.hex()]["bought_wh"] == 1000
    assert results[anna.hex()]["from_grid_wh"] == 200
    assert results[anna.hex()]["grid_paid"] == 6000
    assert results[anna.hex()]["tariff_paid"] == cost(1200, 30_000)
    assert results[anna.hex()]["saved"] == 36_000 - 26_000
    assert results[cora.hex()]["tariff_received"] == cost(1400, 8_000)

    day = slot * 900 // 86_400
    assert queries.bills(world.state, kit.COMMUNITY, day) is None
    so_far = queries.day_totals(world.state, kit.COMMUNITY, day)
    assert [view["slots"] for view in so_far] == [1, 1, 1]
    world.block(at=(day + 1) * 86_400 + 3600 - 1)
    assert queries.bill(world.state, kit.COMMUNITY, day, anna) is None
    world.block(at=(day + 1) * 86_400 + 3600)
    bill = queries.bill(world.state, kit.COMMUNITY, day, anna)
    assert bill == {
        "community": kit.COMMUNITY,
        "day": day,
        "account": anna.hex(),
        "bill_hash": bill["bill_hash"],
        "bought_wh": 1000,
        "sold_wh": 0,
        "from_grid_wh": 200,
        "to_grid_wh": 0,
        "trade_paid": 20_000,
        "trade_received": 0,
        "grid_paid": 6000,
        "grid_received": 0,
        "import_wh": 1200,
        "export_wh": 0,
        "tariff_paid": 36_000,
        "tariff_received": 0,
        "slots": 1,
        "missing": 0,
        "paid": 26_000,
        "received": 0,
        "saved": 10_000,
    }
    record = Bill(
        kit.COMMUNITY, day, anna, Totals(1000, 0, 200, 0, 20_000, 0, 6000, 0, 1200, 0, 36_000, 0, 1, 0)
    )
    assert bill["bill_hash"] == hashlib.sha256(pack(record)).hexdigest()
    bills = queries.bills(world.state, kit.COMMUNITY, day)
    hashes = b"".join(bytes.fromhex(view["bill_hash"]) for view in bills["bills"])
    assert (bills["count"], bills["hash"]) == (3, hashlib.sha256(hashes).hexdigest())
    assert queries.day_totals(world.state, kit.COMMUNITY, day) == so_far
    assert not [key for key in world.state.values if key.startswith((b"day/", b"timer/", b"orders-of/"))]

    world.do(anna, Withdraw(40_000))
    assert world.account(anna)["available"] == expected[anna] - 40_000
    payouts = queries.payouts(world.state)
    assert [(p["number"], p["account"], p["amount"]) for p in payouts] == [(0, anna.hex(), 40_000)]
    session = world.open()
    assert [tuple(output) for output in session.due_payouts()] == [(40_000, anna)]
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
