"""The checks pass on honest nodes, and each of them fails on what it is there to find."""

from decimal import Decimal

import pytest

from node.demo.checks import recovery, run_checks
from node.demo.play import Outage
from node.demo.scenario import Kill
from tests.unit.node_demo.demokit import FIRST_SLOT, OPERATOR, World

CHECKS = ["same_tip", "conservation", "energy", "readings", "orders", "clearing", "payouts", "bills"]


@pytest.fixture
def world():
    return World()


def failed(world):
    checks = run_checks(world.book, world.evidences)
    assert list(checks) == CHECKS
    return {name: check.detail for name, check in checks.items() if not check.ok}


def first_household(world):
    return world.scenario.households[0].script


def test_honest_nodes_pass(world):
    assert failed(world) == {}
    checks = run_checks(world.book, world.evidences)
    assert "0.700 kWh sold and bought in 2 slots" in checks["energy"].detail
    assert "6 readings" in checks["readings"].detail
    assert "5 orders" in checks["orders"].detail


def test_the_failing_node_is_named(world):
    world.bad.markets[FIRST_SLOT]["price_per_kwh"] += 1
    assert failed(world)["clearing"].startswith("node-1: ")


@pytest.mark.parametrize("field", ["block_hash", "effects_digest"])
def test_nodes_that_differ(world, field):
    setattr(world.bad, field, "00" * 32)
    assert list(failed(world)) == ["same_tip"]


def test_tokens_from_nowhere(world):
    world.bad.coin_set["total_amount"] += Decimal("0.00000001")
    assert list(failed(world)) == ["conservation"]


def test_a_node_that_admits_a_loss(world):
    world.bad.coin_set["conserved"] = False
    assert list(failed(world)) == ["conservation"]


@pytest.mark.parametrize("field", ["bought_wh", "sold_wh", "from_grid_wh", "import_wh"])
def test_energy_that_does_not_add_up(world, field):
    world.bad.results[FIRST_SLOT][0][field] += 1
    assert list(failed(world)) == ["energy"]


def test_a_volume_that_nobody_traded(world):
    world.bad.markets[FIRST_SLOT]["volume_wh"] += 1
    assert list(failed(world)) == ["energy", "clearing"]


@pytest.mark.parametrize("count", [0, 2])
def test_a_reading_that_is_not_on_the_chain_once(world, count):
    item = next(iter(world.journal.readings))
    world.bad.facts.readings[item] = count
    assert f"on the chain {count} times" in failed(world)["readings"]


def test_a_reading_that_was_refused(world):
    item = next(iter(world.journal.readings))
    world.bad.outcomes[item] = {"code": "too-late"}
    assert failed(world)["readings"].endswith("was too-late")
    world.bad.outcomes[item] = None
    assert failed(world)["readings"].endswith("was not judged")


def test_a_reading_that_nobody_submitted(world):
    world.bad.facts.readings[bytes(32)] = 1
    assert "1 readings that nobody submitted" in failed(world)["readings"]


@pytest.mark.parametrize("count", [0, 2])
def test_an_order_that_is_not_on_the_chain_once(world, count):
    world.bad.facts.orders[next(iter(world.journal.orders))] = count
    assert list(failed(world)) == ["orders"]


@pytest.mark.parametrize("field", ["account", "side", "energy_wh", "limit_price_per_kwh", "slot"])
def test_an_order_that_was_changed(world, field):
    world.bad.orders[FIRST_SLOT][0][field] = "other"
    assert "as it was placed" in failed(world)["orders"]


def test_an_order_that_nobody_placed(world):
    world.bad.orders[FIRST_SLOT].append({**world.bad.orders[FIRST_SLOT][0], "order_id": "00", "filled_wh": 0})
    assert failed(world) == {"orders": "node-1: 1 orders that nobody placed"}


def test_an_auction_with_another_price(world):
    world.bad.markets[FIRST_SLOT]["price_per_kwh"] += 1
    assert list(failed(world)) == ["clearing"]


def test_an_order_that_traded_more_than_its_share(world):
    world.bad.orders[FIRST_SLOT][0]["filled_wh"] += 1
    assert list(failed(world)) == ["clearing"]


def test_a_slot_that_was_never_settled(world):
    world.bad.markets[FIRST_SLOT]["status"] = "cleared"
    assert list(failed(world)) == ["clearing"]


def test_a_payout_that_is_short(world):
    account = first_household(world)
    world.bad.facts.payouts[account] -= 1
    world.bad.facts.coins[account] -= 1
    assert "withdrew" in failed(world)["payouts"]


def test_coins_that_a_household_lacks(world):
    world.bad.facts.coins[first_household(world)] -= 1
    assert "has coins of" in failed(world)["payouts"]


def test_money_that_the_contracts_keep(world):
    world.bad.accounts[first_household(world)]["available"] = 1
    assert "are due" in failed(world)["payouts"]


def test_an_operator_that_got_too_much(world):
    world.bad.accounts[OPERATOR]["available"] += 1
    assert "the operator has" in failed(world)["payouts"]


def test_a_payout_that_still_waits(world):
    world.bad.queued.append({})
    assert list(failed(world)) == ["payouts"]


def test_a_day_without_bills(world):
    (day,) = world.bad.bills
    world.bad.bills[day] = None
    assert failed(world) == {"bills": f"node-1: day {day} has no bills"}


def test_a_household_without_a_bill_and_a_stranger_with_one(world):
    ((_, bills),) = world.bad.bills.items()
    bills["bills"][0]["account"] = "stranger"
    detail = failed(world)["bills"]
    assert "has no bill" in detail
    assert "1 bills of day" in detail


@pytest.mark.parametrize(
    "field", ["bought_wh", "trade_paid", "grid_received", "from_grid_wh", "tariff_paid", "export_wh"]
)
def test_a_bill_with_a_wrong_figure(world, field):
    ((_, bills),) = world.bad.bills.items()
    bills["bills"][0][field] += 1
    assert f"has {field}" in failed(world)["bills"]


def test_a_trade_with_another_energy_changes_what_is_due(world):
    world.bad.trades[FIRST_SLOT][0]["energy_wh"] -= 100
    assert set(failed(world)) == {"payouts", "bills"}


def test_only_the_first_faults_are_told(world):
    world.bad.facts.readings.clear()
    assert failed(world)["readings"].count("on the chain 0 times") == 3


# ---- faults ---------------------------------------------------------------------------------------

KILLS = [Kill(40, 50, leader=False), Kill(60, 70, leader=True)]


def outages():
    follower = Outage(3, "aurora", False, 50, 0.0, 10, 1, restarted_at=1.0, caught_up=True)
    leader = Outage(0, "gridco", True, 70, 0.0, 20, 1, restarted_at=1.0, replaced=True, caught_up=True)
    return [follower, leader]


def test_nodes_that_came_back():
    check = recovery(KILLS, outages())
    assert (check.ok, check.detail) == (True, "aurora and gridco were killed and have caught up")


@pytest.mark.parametrize(
    ("at", "field", "reason"),
    [
        (0, "caught_up", "aurora did not catch up"),
        (1, "caught_up", "gridco did not catch up"),
        (1, "replaced", "nobody took over from gridco"),
    ],
)
def test_a_node_that_did_not_come_back_or_was_not_replaced(at, field, reason):
    found = outages()
    setattr(found[at], field, False)
    assert recovery(KILLS, found).detail == reason
    assert not recovery(KILLS, found).ok


def test_a_fault_that_did_not_happen():
    assert "1 of 2 nodes" in recovery(KILLS, outages()[:1]).detail
