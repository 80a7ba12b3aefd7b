"""Members, devices and the order book: what is allowed, and the code of what is not."""

from consensus.keys import ed25519_public
from contracts import devices, limits, queries
from contracts.operations import (
    CancelOrder,
    Deposit,
    PlaceOrder,
    RegisterDevice,
    RegisterMember,
    RevokeDevice,
)


def test_only_the_grid_operator_admits_members(kit, world):
    member = kit.p2pkh(1001)
    operation = RegisterMember(kit.COMMUNITY, member, kit.PROVIDER)
    for stranger in (member, kit.PROVIDER, kit.OTHER_OPERATOR):
        assert world.refused(stranger, operation) == "not-grid-operator"
    nowhere = RegisterMember("nowhere", member, kit.PROVIDER)
    assert world.refused(kit.OPERATOR, nowhere) == "unknown-community"
    for no_provider in (member, kit.OPERATOR):
        wrong = RegisterMember(kit.COMMUNITY, member, no_provider)
        assert world.refused(kit.OPERATOR, wrong) == "unknown-provider"
    world.do(kit.OPERATOR, operation)
    again = RegisterMember(kit.COMMUNITY, member, kit.PROVIDER_2)
    assert world.refused(kit.OPERATOR, again) == "already-registered"
    assert queries.members(world.state, kit.COMMUNITY) == [
        {
            "account": member.hex(),
            "community": kit.COMMUNITY,
            "provider": kit.PROVIDER.hex(),
            "height": world.height - 2,
            "devices": [],
        }
    ]
    assert queries.member(world.state, kit.OTHER, member) is None
    # the same account may join another community, by that community's operator
    world.do(kit.OTHER_OPERATOR, RegisterMember(kit.OTHER, member, kit.PROVIDER))
    assert queries.member(world.state, kit.OTHER, member)["community"] == kit.OTHER


def test_a_community_has_room_for_as_many_as_one_settlement_can_serve(kit):
    world = kit.World(max_participants=2)
    world.household(1, meters=0)
    world.household(2, meters=0)
    third = RegisterMember(kit.COMMUNITY, kit.p2pkh(1003), kit.PROVIDER)
    assert world.refused(kit.OPERATOR, third) == "community-full"
    assert queries.community_view(world.state, world.params, kit.COMMUNITY)["members"] == 2


def test_devices_are_registered_once_for_a_member_by_the_operator(kit, world):
    anna = world.household(1, meters=0)
    seed = bytes(32)
    key = ed25519_public(seed)
    proof = devices.prove_device(world.tag, seed, anna, kit.COMMUNITY)
    operation = RegisterDevice(key, anna, kit.PROVIDER, kit.COMMUNITY, proof)
    assert world.refused(anna, operation) == "not-grid-operator"
    assert world.refused(kit.OTHER_OPERATOR, operation) == "not-grid-operator"
    stranger = RegisterDevice(key, kit.p2pkh(5), kit.PROVIDER, kit.COMMUNITY, proof)
    assert world.refused(kit.OPERATOR, stranger) == "not-a-member"
    no_provider = RegisterDevice(key, anna, kit.OPERATOR, kit.COMMUNITY, proof)
    assert world.refused(kit.OPERATOR, no_provider) == "unknown-provider"
    nowhere = RegisterDevice(key, anna, kit.PROVIDER, "nowhere", proof)
    assert world.refused(kit.OPERATOR, nowhere) == "unknown-community"
    world.do(kit.OPERATOR, operation)
    assert world.refused(kit.OPERATOR, operation) == "device-known"
    assert queries.device(world.state, key) == {
        "device_key": key.hex(),
        "owner": anna.hex(),
        "provider": kit.PROVIDER.hex(),
        "community": kit.COMMUNITY,
        "height": world.height - 2,
        "revoked": False,
        "revoked_at": None,
    }
    assert queries.member(world.state, kit.COMMUNITY, anna)["devices"] == [key.hex()]
    assert queries.devices(world.state, kit.COMMUNITY) == queries.devices(world.state)
    assert queries.devices(world.state, kit.OTHER) == []
    assert queries.device(world.state, bytes(32)) is None


def test_revocation_is_the_operators_and_for_ever(kit, world):
    anna = world.household(1, meters=2)
    key = ed25519_public(world.seed(1))
    assert world.refused(kit.OPERATOR, RevokeDevice(bytes(32))) == "unknown-device"
    for stranger in (anna, kit.PROVIDER, kit.OTHER_OPERATOR):
        assert world.refused(stranger, RevokeDevice(key)) == "not-grid-operator"
    world.do(kit.OPERATOR, RevokeDevice(key))
    assert world.refused(kit.OPERATOR, RevokeDevice(key)) == "device-revoked"
    assert queries.device(world.state, key)["revoked_at"] == world.height - 2
    left = ed25519_public(world.seed(1, 1))
    assert queries.member(world.state, kit.COMMUNITY, anna)["devices"] == [left.hex()]
    proof = devices.prove_device(world.tag, world.seed(1), anna, kit.COMMUNITY)
    again = RegisterDevice(key, anna, kit.PROVIDER, kit.COMMUNITY, proof)
    assert world.refused(kit.OPERATOR, again) == "device-known"


def test_a_member_has_16_meters_at_most(kit, world):
    anna = world.household(1, meters=limits.MAX_DEVICES_PER_MEMBER)
    seed = world.seed(1, 99)
    proof = devices.prove_device(world.tag, seed, anna, kit.COMMUNITY)
    operation = RegisterDevice(ed25519_public(seed), anna, kit.PROVIDER, kit.COMMUNITY, proof)
    assert world.refused(kit.OPERATOR, operation) == "too-many-devices"
    world.do(kit.OPERATOR, RevokeDevice(ed25519_public(world.seed(1, 3))))
    world.do(kit.OPERATOR, operation)


def test_orders_are_members_business(kit, world):
    slot = world.slot_now + 4
    order = PlaceOrder(kit.COMMUNITY, slot, "buy", 100, 10_000)
    assert world.refused(kit.p2pkh(50), order, 1_000) == "not-a-member"
    anna = world.household(1)
    assert world.refused(anna, PlaceOrder(kit.OTHER, slot, "buy", 100, 10_000), 1_000) == "not-a-member"
    assert world.refused(anna, PlaceOrder("nowhere", slot, "buy", 1, 1), 1) == "unknown-community"
    world.do(anna, order, 1_000)


def test_the_gate(kit, world):
    anna = world.household(1, 10**6)
    slot = world.slot_now + 4
    order = PlaceOrder(kit.COMMUNITY, slot, "sell", 100, 10_000)
    world.block(at=world.gate(slot) - 1)
    world.do(anna, order)
    placed = world.order(anna, slot, "buy", 10, 10_000)
    assert world.refused(anna, order, at=world.gate(slot)) == "gate-closed"
    assert world.refused(anna, CancelOrder(placed)) == "gate-closed"
    assert world.errors[0].permanent


def test_a_pending_order_becomes_invalid_when_its_gate_closes(kit, world):
    """A mempool tries its operations again on every tip: what was good is refused from the gate on."""
    anna = world.household(1, 10**6)
    slot = world.slot_now + 4
    pending = world.tx(anna, PlaceOrder(kit.COMMUNITY, slot, "buy", 100, 10_000))
    world.open(world.gate(slot) - 1).execute(*pending)
    assert world.block(pending, at=world.gate(slot))[0].code == "gate-closed"


def test_orders_reach_two_days_ahead(kit, world):
    anna = world.household(1, 10**6)
    last = (world.time_s + 2 * kit.DAY_S) // kit.SLOT_S
    world.order(anna, last, "buy", 1, 1_000, value=0)
    assert world.refused(anna, PlaceOrder(kit.COMMUNITY, last + 1, "buy", 1, 1_000)) == "slot-too-far"
    assert not world.errors[0].permanent
    world.order(anna, last + 1, "buy", 1, 1_000, value=0, dt=kit.SLOT_S)


def test_collateral(kit, world):
    anna = world.household(1)
    slot = world.slot_now + 4
    buy = PlaceOrder(kit.COMMUNITY, slot, "buy", 1_999, 10_001)
    assert world.refused(anna, buy, 19_990) == "insufficient-balance"
    world.do(anna, buy, 19_991)  # floor(1999 * 10001 / 1000)
    assert world.account(anna) == {
        "account": anna.hex(),
        "available": 0,
        "locked": 19_991,
        "owed": 0,
        "debts": [],
    }
    sell = PlaceOrder(kit.COMMUNITY, slot, "sell", 1_000, 1)
    assert world.refused(anna, sell, 29_999) == "insufficient-balance"
    world.do(anna, sell, 30_005)  # the grid's price covers what is not delivered
    assert (world.account(anna)["available"], world.account(anna)["locked"]) == (5, 49_991)
    world.check_books()


def test_cancelling_gives_everything_back(kit, world):
    anna, bodo = world.household(1), world.household(2)
    slot = world.slot_now + 4
    order_id = world.order(anna, slot, "buy", 1_000, 10_000)
    view = queries.order(world.state, order_id)
    assert view == {
        "order_id": order_id.hex(),
        "community": kit.COMMUNITY,
        "slot": slot,
        "account": anna.hex(),
        "side": "buy",
        "energy_wh": 1_000,
        "limit_price_per_kwh": 10_000,
        "collateral": 10_000,
        "filled_wh": 0,
        "amount": 0,
        "height": world.height,
    }
    assert queries.orders(world.state, kit.COMMUNITY, slot) == [view]
    assert world.refused(bodo, CancelOrder(order_id)) == "not-order-owner"
    assert world.refused(anna, CancelOrder(bytes(32))) == "unknown-order"
    world.do(anna, CancelOrder(order_id))
    assert world.refused(anna, CancelOrder(order_id)) == "unknown-order"
    assert (world.account(anna)["available"], world.account(anna)["locked"]) == (10_000, 0)
    assert queries.order(world.state, order_id) is None
    assert queries.market(world.state, world.params, kit.COMMUNITY, slot)["orders"] == 0
    assert not [key for key in world.state.values if key.startswith((b"order/", b"order-at/", b"orders-of/"))]
    world.block(at=world.gate(slot))
    market = queries.market(world.state, world.params, kit.COMMUNITY, slot)
    assert (market["status"], market["price_per_kwh"]) == ("cleared", None)
    world.check_books()


def test_a_slot_takes_a_limited_number_of_orders(kit):
    world = kit.World(max_orders_per_slot=3)
    anna = world.household(1, 10**6)
    slot = world.slot_now + 4
    ids = [world.order(anna, slot, "buy", 100, 10_000 + at) for at in range(3)]
    order = PlaceOrder(kit.COMMUNITY, slot, "buy", 100, 10_000)
    assert world.refused(anna, order) == "slot-full"
    assert not world.errors[0].permanent
    world.order(anna, slot + 1, "buy", 100, 10_000)
    world.do(anna, CancelOrder(ids[1]))
    world.do(anna, order)


def test_a_member_cannot_fill_a_slot_alone(kit, world):
    anna = world.household(1, 10**6)
    slot = world.slot_now + 4
    ids = [world.order(anna, slot, "buy", 10, at) for at in range(limits.MAX_ORDERS_PER_MEMBER)]
    order = PlaceOrder(kit.COMMUNITY, slot, "sell", 1, 1)
    assert world.refused(anna, order) == "too-many-orders"
    world.do(anna, CancelOrder(ids[0]))
    world.do(anna, order)


def test_orders_of_one_block_all_take_part(kit, world):
    anna, bodo = world.household(1, 10**6), world.household(2, 10**6)
    slot = world.slot_now + 4
    errors = world.block(
        world.tx(anna, PlaceOrder(kit.COMMUNITY, slot, "buy", 500, 20_000)),
        world.tx(bodo, PlaceOrder(kit.COMMUNITY, slot, "sell", 700, 10_000)),
        world.tx(kit.p2pkh(9), PlaceOrder(kit.COMMUNITY, slot, "sell", 700, 10_000)),
        world.tx(anna, PlaceOrder(kit.COMMUNITY, slot, "buy", 100, 20_000)),
    )
    assert [error and error.code for error in errors] == [None, None, "not-a-member", None]
    world.block(at=world.gate(slot))
    orders = queries.orders(world.state, kit.COMMUNITY, slot)
    assert sorted(order["filled_wh"] for order in orders) == [100, 500, 600]
    assert [order["order_id"] for order in orders] == sorted(order["order_id"] for order in orders)
    assert queries.market(world.state, world.params, kit.COMMUNITY, slot)["price_per_kwh"] == 10_000


def test_communities_have_markets_of_their_own(kit, world):
    anna = world.household(1, 10**6)
    bodo = kit.p2pkh(2001)
    world.do(kit.OTHER_OPERATOR, RegisterMember(kit.OTHER, bodo, kit.PROVIDER))
    world.do(bodo, Deposit(), 10**6)
    slot = world.slot_now + 4
    world.order(anna, slot, "buy", 500, 20_000)
    world.do(bodo, PlaceOrder(kit.OTHER, slot, "sell", 500, 10_000))
    world.block(at=world.gate(slot))
    for community in (kit.COMMUNITY, kit.OTHER):
        market = queries.market(world.state, world.params, community, slot)
        assert (market["status"], market["orders"], market["volume_wh"]) == ("cleared", 1, 0)
    assert world.account(anna)["locked"] == world.account(bodo)["locked"] == 0
