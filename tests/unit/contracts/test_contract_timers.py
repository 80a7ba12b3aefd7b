"""Timers: order, budget, gaps, and what a pending timer keeps shut."""

import pytest

from consensus.errors import ConfigError
from contracts import keys, queries
from contracts.operations import CancelOrder, PlaceOrder
from contracts.records import unpack


def pending(world):
    return [(keys.timer_due(key), *unpack(value)) for key, value in world.state.scan(keys.TIMER)]


def test_a_slot_sets_its_timers_once_and_in_order(kit, world):
    anna = world.household(1, 10**6)
    slot = world.slot_now + 4
    world.order(anna, slot, "buy", 1, 1)
    timers = pending(world)
    day = slot * 900 // kit.DAY_S
    assert timers == [
        (world.gate(slot), "1-gate", kit.COMMUNITY, slot),
        (world.settle_at(slot), "2-settle", kit.COMMUNITY, slot),
        ((day + 1) * kit.DAY_S + 3600, "3-bill", kit.COMMUNITY, day),
    ]
    world.order(anna, slot, "buy", 1, 1)
    assert pending(world) == timers
    # a reading in a slot without orders needs no gate
    now = world.slot_now
    world.submit(world.reading(1, now, 5), at=world.end(now))
    assert (world.settle_at(now), "2-settle", kit.COMMUNITY, now) in pending(world)
    assert [kind for _, kind, _, _ in pending(world)].count("1-gate") == 1


def test_the_last_slot_is_settled_before_its_day_is_billed(kit, world):
    world.household(1, 10**6)
    last = (kit.START_S + kit.DAY_S) // 900 - 1
    world.submit(world.reading(1, last, 40), at=world.end(last))
    due = [timer for timer in pending(world) if timer[0] == world.settle_at(last)]
    assert [kind for _, kind, _, _ in due] == ["2-settle", "3-bill"]
    world.block(at=world.settle_at(last))
    (bill,) = queries.bills(world.state, kit.COMMUNITY, kit.START_S // kit.DAY_S)["bills"]
    assert bill["import_wh"] == 40
    assert pending(world) == []


def prepared(kit, **energy):
    """Two slots with orders and readings, driven up to just before the first gate."""
    world = kit.World(kit.make_params(ledger={"timer_budget": 4}, max_orders_per_slot=4, max_participants=4))
    for number in range(1, 5):
        world.household(number, 10**6)
    slot = world.slot_now + 4
    for at in (slot, slot + 1):
        for number in (1, 2, 3):
            side = "sell" if number == 3 else "buy"
            world.order(kit.p2pkh(1000 + number), at, side, 100 * number, 20_000)
    return world, slot


def statuses(world, kit, slot):
    return [queries.market(world.state, world.params, kit.COMMUNITY, at)["status"] for at in (slot, slot + 1)]


def test_what_does_not_fit_the_budget_waits_for_the_next_block(kit):
    world, slot = prepared(kit)
    # both gates and both settlements are due: 3 units each, 4 to a block
    world.block(at=world.settle_at(slot + 1))
    assert statuses(world, kit, slot) == ["cleared", "open"]
    waiting = PlaceOrder(kit.COMMUNITY, slot + 1, "buy", 1, 1)
    anna = kit.p2pkh(1001)
    (order_id, *_) = [o["order_id"] for o in queries.orders(world.state, kit.COMMUNITY, slot + 1)]
    owner = bytes.fromhex(queries.order(world.state, bytes.fromhex(order_id))["account"])
    world.block(world.tx(anna, waiting), world.tx(owner, CancelOrder(bytes.fromhex(order_id))))
    assert [error.code for error in world.errors] == ["gate-closed", "gate-closed"]
    assert statuses(world, kit, slot) == ["cleared", "cleared"]
    world.block()
    assert statuses(world, kit, slot) == ["settled", "cleared"]
    world.block()
    assert statuses(world, kit, slot) == ["settled", "settled"]
    world.check_books()


def test_a_late_chain_gives_the_same_result_as_a_punctual_one(kit):
    """However blocks lie, timers run in the same order over the same orders and readings."""

    def run(times):
        world, slot = prepared(kit)
        world.submit(world.reading(1, slot, 90), world.reading(4, slot, 10), at=world.end(slot))
        for at in times(world, slot):
            world.block(at=at)
        day_end = kit.START_S + kit.DAY_S + 3600
        for _ in range(8):
            world.block(at=day_end)
        assert pending(world) == []
        ignored = (b"account/", b"bills/")
        return {key: value for key, value in world.state.values.items() if not key.startswith(ignored)}, [
            world.account(kit.p2pkh(1000 + number)) for number in range(1, 5)
        ]

    punctual = run(
        lambda world, slot: [world.settle_at(slot), world.settle_at(slot), world.settle_at(slot + 1)]
    )
    assert run(lambda world, slot: []) == punctual
    assert run(lambda world, slot: [world.settle_at(slot + 1)]) == punctual


def test_slots_skipped_by_a_gap_are_processed_in_order(kit, world):
    anna = world.household(1, 10**7)
    slots = [world.slot_now + at for at in (4, 5, 6, 7)]
    for slot in reversed(slots):
        world.order(anna, slot, "buy", 100, 20_000)
    due = [timer[0] for timer in pending(world)]
    assert due == sorted(due)
    session = world.contracts.open(
        world.state, type(world.open()._scope.context)(bytes(32), 99, world.settle_at(slots[-1]))
    )
    session.run_timers()
    writes = list(session._scope.state._writes)
    cleared = [key for key in writes if key.startswith(b"market/")]
    numbers = [int.from_bytes(key[-8:], "big") for key in cleared]
    assert numbers == slots
    world.block(at=world.settle_at(slots[-1]))
    assert world.account(anna)["locked"] == 0


def test_nothing_runs_before_its_time(kit, world):
    anna = world.household(1, 10**6)
    slot = world.slot_now + 4
    world.order(anna, slot, "buy", 100, 20_000)
    session = world.open(world.gate(slot) - 1)
    session.run_timers()
    assert session.finish() == {}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"max_orders_per_slot": 201}, "timer_budget"),
        ({"max_participants": 201}, "timer_budget"),
        ({"max_participants": 0, "max_orders_per_slot": 0}, "timer_budget"),
        ({"slot_s": 0}, "slot_s"),
        ({"reading_window_s": 0}, "slot_s"),
    ],
)
def test_parameters_under_which_a_timer_could_never_run_are_refused(kit, change, problem):
    with pytest.raises(ConfigError) as caught:
        kit.World(**change)
    assert caught.value.code == "bad-energy-params"
    assert problem in caught.value.problems[0]


def test_other_parameters_that_cannot_work(kit, world):
    from dataclasses import replace

    from consensus.params import Community
    from contracts.api import EnergyContracts

    params = world.params
    communities = (Community("a/b", kit.OPERATOR), Community("ok", b""))
    validators = params.bft.validators
    shared = (*validators, replace(validators[1], role="grid-operator"))
    broken = replace(
        params,
        ledger=replace(params.ledger, op_budget=0),
        energy=replace(params.energy, communities=communities),
        bft=replace(params.bft, validators=shared),
    )
    with pytest.raises(ConfigError) as caught:
        EnergyContracts(broken)
    assert len(caught.value.problems) == 4
