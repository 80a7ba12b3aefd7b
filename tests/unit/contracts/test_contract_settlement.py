"""Settlement, imbalance, debts and bills beyond the plain day."""

from contracts import queries
from contracts.limits import MAX_AMOUNT, MAX_ENERGY_WH
from contracts.operations import Deposit, RevokeDevice


def result(world, kit, slot, script):
    (view,) = [v for v in queries.results(world.state, kit.COMMUNITY, slot) if v["account"] == script.hex()]
    return view


def test_a_member_without_order_buys_and_sells_at_the_grids_prices(kit, world):
    anna, bodo = world.household(1, 100_000), world.household(2)
    slot = world.slot_now
    world.submit(
        world.reading(1, slot, import_wh=1999, export_wh=0),
        world.reading(2, slot, import_wh=1, export_wh=1500),
        at=world.end(slot),
    )
    world.block(at=world.settle_at(slot))
    assert world.account(anna)["available"] == 100_000 - 59_970
    assert world.account(bodo)["available"] == 11_992  # floor(1499 * 8): paid from what Anna paid
    assert world.account(kit.OPERATOR)["available"] == 59_970 - 11_992
    market = queries.market(world.state, world.params, kit.COMMUNITY, slot)
    assert (market["status"], market["price_per_kwh"], market["orders"]) == ("settled", None, 0)
    world.check_books()


def test_meters_of_one_member_add_up(kit, world):
    anna = world.household(1, 100_000, meters=3)
    slot = world.slot_now
    world.submit(
        world.reading(1, slot, import_wh=700, meter=0),
        world.reading(1, slot, import_wh=100, export_wh=500, meter=2),
        at=world.end(slot),
    )
    world.block(at=world.settle_at(slot))
    view = result(world, kit, slot, anna)
    assert (view["import_wh"], view["export_wh"], view["from_grid_wh"]) == (300, 0, 300)
    assert view["missing"] == 1  # the meter between them gave no reading


def test_a_missing_reading_counts_as_zero_and_is_flagged(kit, world):
    anna, bodo = world.household(1, 100_000), world.household(2, 100_000)
    cora = world.household(3, 100_000, meters=0)
    slot = world.slot_now + 4
    world.order(anna, slot, "buy", 1000, 20_000)
    world.order(bodo, slot, "sell", 1000, 20_000)
    world.order(cora, slot, "buy", 1000, 10_000)
    world.block(at=world.settle_at(slot))
    bought, sold = result(world, kit, slot, anna), result(world, kit, slot, bodo)
    # Anna bought and used nothing: she sells it on to the grid; Bodo delivered nothing
    assert (bought["bought_wh"], bought["to_grid_wh"], bought["missing"]) == (1000, 1000, 1)
    assert (sold["sold_wh"], sold["from_grid_wh"], sold["missing"]) == (1000, 1000, 1)
    assert result(world, kit, slot, cora)["missing"] == 1
    assert result(world, kit, slot, cora)["bought_wh"] == 0
    assert queries.market(world.state, world.params, kit.COMMUNITY, slot)["missing"] == 3
    assert world.account(bodo)["available"] == 100_000 + 30_000 + 20_000 - 30_000
    world.check_books()


def test_a_revoked_meter_is_not_missed_but_its_reading_counts(kit, world):
    from consensus.keys import ed25519_public

    anna = world.household(1, 100_000, meters=2)
    slot = world.slot_now
    world.submit(world.reading(1, slot, import_wh=100), at=world.end(slot))
    world.do(kit.OPERATOR, RevokeDevice(ed25519_public(world.seed(1, 0))))
    world.do(kit.OPERATOR, RevokeDevice(ed25519_public(world.seed(1, 1))))
    world.block(at=world.settle_at(slot))
    view = result(world, kit, slot, anna)
    assert (view["from_grid_wh"], view["missing"]) == (100, 0)


def test_imbalance_is_taken_from_the_collateral_first(kit, world):
    """A seller that does not deliver is covered by what it locked, even with nothing else in its account."""
    anna, bodo = world.household(1), world.household(2)
    slot = world.slot_now + 4
    world.order(anna, slot, "buy", 1000, 20_000)
    world.order(bodo, slot, "sell", 1000, 20_000)
    world.submit(world.reading(1, slot, import_wh=1000), at=world.end(slot))
    world.block(at=world.settle_at(slot))
    assert world.account(anna) == queries.account(world.state, anna)
    assert world.account(anna)["available"] == 0
    assert world.account(bodo)["available"] == 20_000
    assert world.account(bodo)["owed"] == 0
    assert world.account(kit.OPERATOR)["available"] == 30_000
    world.check_books()


def test_who_cannot_pay_owes_and_pays_from_the_next_credit(kit, world):
    anna = world.household(1, 10_000)
    slot = world.slot_now
    world.submit(world.reading(1, slot, import_wh=1000), at=world.end(slot))
    world.block(at=world.settle_at(slot))
    assert world.account(anna)["debts"] == [{"creditor": kit.OPERATOR.hex(), "amount": 20_000}]
    assert (world.account(anna)["available"], world.account(kit.OPERATOR)["available"]) == (0, 10_000)
    # what is billed is what was consumed, paid or owed
    assert result(world, kit, slot, anna)["grid_paid"] == 30_000
    world.do(anna, Deposit(), 15_000)
    assert world.account(anna)["owed"] == 5_000
    assert world.account(kit.OPERATOR)["available"] == 25_000
    world.do(anna, Deposit(), 15_000)
    assert (world.account(anna)["owed"], world.account(anna)["available"]) == (0, 10_000)
    assert world.account(kit.OPERATOR)["available"] == 30_000
    assert not [key for key in world.state.values if key.startswith(b"debt")]
    world.check_books()


def test_an_operator_without_money_owes_and_nets_what_it_is_owed(kit, world):
    anna, bodo = world.household(1), world.household(2)
    slot = world.slot_now
    world.submit(
        world.reading(1, slot, export_wh=1000), world.reading(2, slot, export_wh=500), at=world.end(slot)
    )
    world.submit(world.reading(1, slot + 1, import_wh=1000), at=world.end(slot + 1))
    world.block(at=world.settle_at(slot))
    debts = world.account(kit.OPERATOR)["debts"]
    assert debts == [
        {"creditor": anna.hex(), "amount": 8_000},
        {"creditor": bodo.hex(), "amount": 4_000},
    ]
    # Anna now buys for 30,000: the 8,000 are set off, the rest is her debt
    world.block(at=world.settle_at(slot + 1))
    assert world.account(kit.OPERATOR)["debts"] == [{"creditor": bodo.hex(), "amount": 4_000}]
    assert world.account(anna)["debts"] == [{"creditor": kit.OPERATOR.hex(), "amount": 22_000}]
    # her deposit goes to the operator and on to Bodo
    world.do(anna, Deposit(), 3_000)
    assert world.account(bodo)["available"] == 3_000
    world.do(anna, Deposit(), 20_000)
    assert (world.account(bodo)["available"], world.account(anna)["available"]) == (4_000, 1_000)
    assert world.account(kit.OPERATOR)["available"] == 18_000
    world.check_books()


def test_absurd_readings_settle_too(kit):
    """A timer that fails would halt every node: charges stop at what a record can hold."""
    world = kit.World(grid_price_per_kwh=2**60, feed_in_price_per_kwh=2**60, max_price_per_kwh=2**62)
    anna, bodo = world.household(1, meters=16), world.household(2)
    slot = world.slot_now
    for at in (slot, slot + 1):
        world.submit(
            *[world.reading(1, at, import_wh=MAX_ENERGY_WH, meter=meter) for meter in range(16)],
            world.reading(2, at, export_wh=MAX_ENERGY_WH),
            at=world.end(at),
        )
    world.block(at=world.settle_at(slot + 1) + kit.DAY_S)
    assert world.account(anna)["owed"] == MAX_AMOUNT
    assert world.account(kit.OPERATOR)["debts"] == [{"creditor": bodo.hex(), "amount": MAX_AMOUNT}]
    bill = queries.bill(world.state, kit.COMMUNITY, slot * 900 // kit.DAY_S, anna)
    assert bill["grid_paid"] == MAX_AMOUNT
    world.check_books()


def test_days_are_local(kit):
    """With an offset of two hours the day changes at 22:00 UTC."""
    world = kit.World(day_offset_s=7_200)
    world.household(1, 10**6)
    slot = (kit.START_S + kit.DAY_S - 7_200) // 900  # the first one after 22:00 UTC
    day = kit.START_S // kit.DAY_S
    world.submit(world.reading(1, slot - 1, import_wh=10), at=world.end(slot - 1))
    world.submit(world.reading(1, slot, import_wh=20), at=world.end(slot))
    world.block(at=world.settle_at(slot - 1))
    assert [b["import_wh"] for b in queries.bills(world.state, kit.COMMUNITY, day)["bills"]] == [10]
    assert queries.bills(world.state, kit.COMMUNITY, day + 1) is None
    world.block(at=world.settle_at(slot))
    assert [t["import_wh"] for t in queries.day_totals(world.state, kit.COMMUNITY, day + 1)] == [20]
    times = queries.slot_times(world.params, slot)
    assert (times["day"], times["starts_s"]) == (day + 1, slot * 900)
    assert times["billed_s"] == kit.START_S + 2 * kit.DAY_S - 7_200 + 3600
    world.block(at=times["billed_s"])
    assert queries.bills(world.state, kit.COMMUNITY, day + 1)["time_s"] == times["billed_s"]


def test_the_operator_may_be_a_member_itself(kit, world):
    from consensus.keys import ed25519_public
    from contracts import devices
    from contracts.operations import RegisterDevice, RegisterMember

    world.do(kit.OPERATOR, RegisterMember(kit.COMMUNITY, kit.OPERATOR, kit.PROVIDER))
    seed = world.seed(50)
    proof = devices.prove_device(world.tag, seed, kit.OPERATOR, kit.COMMUNITY)
    key = ed25519_public(seed)
    world.do(kit.OPERATOR, RegisterDevice(key, kit.OPERATOR, kit.PROVIDER, kit.COMMUNITY, proof))
    slot = world.slot_now + 4
    world.order(kit.OPERATOR, slot, "buy", 100, 20_000)
    world.order(kit.OPERATOR, slot, "sell", 100, 10_000)
    world.submit(world.reading(50, slot, import_wh=700), at=world.end(slot))
    world.block(at=world.settle_at(slot))
    account = world.account(kit.OPERATOR)
    assert (account["available"], account["locked"], account["owed"]) == (2_000 + 3_000, 0, 0)
    assert result(world, kit, slot, kit.OPERATOR)["grid_paid"] == 21_000
    world.check_books()
