"""Batches of readings: signatures are stateless, outcomes are per item and final once accepted."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consensus.errors import RuleError
from consensus.keys import ed25519_public, ed25519_verify
from contracts import devices, keys, queries
from contracts.operations import (
    Deposit,
    RegisterDevice,
    RevokeDevice,
    SubmitReadings,
    encode,
    payload_script,
    reading_hash,
)
from contracts.records import Outcome, unpack


def code(world, item):
    return queries.outcome(world.state, reading_hash(item))["code"]


def test_readings_are_taken_from_the_end_of_the_slot_until_settlement(kit, world):
    world.household(1)
    slot = world.slot_now
    item = world.reading(1, slot, import_wh=250)
    world.submit(item, at=world.end(slot) - 1)
    assert code(world, item) == "too-early"
    assert queries.readings(world.state, kit.COMMUNITY, slot) == []
    # an item that failed may be tried again
    world.submit(item, at=world.end(slot))
    assert code(world, item) == "accepted"
    assert queries.reading(world.state, kit.COMMUNITY, slot, item.device_key) == {
        "device_key": item.device_key.hex(),
        "slot": slot,
        "owner": kit.p2pkh(1001).hex(),
        "import_wh": 250,
        "export_wh": 0,
        "item_hash": reading_hash(item).hex(),
        "height": world.height,
    }
    late = world.reading(1, slot + 1, import_wh=1)
    world.submit(late, at=world.settle_at(slot + 1) - 1)
    assert code(world, late) == "accepted"
    later = world.reading(1, slot + 2, import_wh=1)
    world.submit(later, at=world.settle_at(slot + 2))
    assert code(world, later) == "too-late"
    assert queries.reading(world.state, kit.COMMUNITY, slot + 2, later.device_key) is None


def test_each_item_of_a_batch_has_its_own_outcome(kit, world):
    world.household(1)
    world.household(2, provider=kit.PROVIDER_2)
    world.household(3)
    slot = world.slot_now
    world.do(kit.OPERATOR, RevokeDevice(ed25519_public(world.seed(3))))
    items = [
        world.reading(1, slot, import_wh=1),
        world.reading(1, slot, import_wh=2),
        world.reading(2, slot, import_wh=3),
        world.reading(3, slot, import_wh=4),
        world.reading(99, slot, import_wh=5),
        world.reading(1, slot + 9, import_wh=6),
    ]
    world.submit(*items, at=world.end(slot))
    codes = [code(world, item) for item in items]
    assert codes == ["accepted", "conflict", "wrong-provider", "revoked", "unknown-device", "too-early"]
    assert [r["import_wh"] for r in queries.readings(world.state, kit.COMMUNITY, slot)] == [1]
    # the provider whose reading a rival sent first is not blocked by that
    world.submit(items[2], provider=kit.PROVIDER_2)
    assert code(world, items[2]) == "accepted"


def test_an_accepted_reading_never_changes(kit, world):
    world.household(1)
    slot = world.slot_now
    item = world.reading(1, slot, import_wh=250)
    world.submit(item, item, at=world.end(slot))
    first = queries.outcome(world.state, reading_hash(item))
    reading = queries.reading(world.state, kit.COMMUNITY, slot, item.device_key)
    session = world.open()
    session.execute(*world.tx(kit.PROVIDER, SubmitReadings((item, item))))
    session.execute(*world.tx(kit.PROVIDER_2, SubmitReadings((item,))))
    assert session.finish() == {}
    world.submit(item, provider=kit.PROVIDER_2, at=world.settle_at(slot) + 5)
    world.submit(world.reading(1, slot, import_wh=251))
    assert queries.outcome(world.state, reading_hash(item)) == first
    assert queries.reading(world.state, kit.COMMUNITY, slot, item.device_key) == reading


def test_the_same_values_signed_twice_conflict(kit, world):
    """Another signature over the same reading is another item; the device's first one stands."""
    world.household(1)
    slot = world.slot_now
    item = world.reading(1, slot, import_wh=250)
    world.submit(item, at=world.end(slot))
    other = item._replace(signature=bytes(64))
    world.submit(other)
    assert code(world, other) == "conflict"


@given(
    st.lists(
        st.tuples(st.sampled_from((1, 2, 3, 4, 99)), st.integers(-5, 1), st.integers(1, 2)),
        min_size=1,
        max_size=30,
    ),
    st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batches_do_what_their_readings_do_one_by_one(kit, drawn, counting):
    world = kit.World()
    for number in (1, 2, 3, 4):
        world.household(number, provider=kit.PROVIDER_2 if number == 3 else kit.PROVIDER)
    world.do(kit.OPERATOR, RevokeDevice(ed25519_public(world.seed(4))))
    world.submit(world.reading(1, world.slot_now, import_wh=1), at=world.end(world.slot_now))
    if counting:
        world.state.apply({keys.GOVERNANCE: keys.number(1)})
    now = world.slot_now
    items = [world.reading(number, now + back, import_wh=wh) for number, back, wh in drawn]
    whole, single = world.open(), world.open()
    for batch in (items[: len(items) // 2], items[len(items) // 2 :]):
        if batch:
            whole.execute(*world.tx(kit.PROVIDER, SubmitReadings(tuple(batch))))
    for item in items:
        single.execute(*world.tx(kit.PROVIDER, SubmitReadings((item,))))
    ours, theirs = whole.finish(), single.finish()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if key.startswith(keys.OUTCOME):  # they name the transaction that brought them
            value, theirs[key] = (Outcome(*unpack(each)).code for each in (value, theirs[key]))
        assert value == theirs[key]


def test_only_service_providers_send_batches(kit, world):
    anna = world.household(1)
    slot = world.slot_now
    batch = SubmitReadings((world.reading(1, slot),))
    for stranger in (anna, kit.OPERATOR):
        assert world.refused(stranger, batch, at=world.end(slot)) == "not-service-provider"


def test_batches_cost_a_unit_per_item(kit):
    world = kit.World(kit.make_params(ledger={"op_budget": 5}))
    world.household(1)
    slot = world.slot_now
    items = tuple(world.reading(1, slot, import_wh=at) for at in range(4))
    who = kit.p2pkh(70)
    errors = world.block(
        world.tx(kit.PROVIDER, SubmitReadings(items)),
        world.tx(kit.PROVIDER, SubmitReadings(items[:2])),
        world.tx(who, Deposit(), 1),
        world.tx(who, Deposit(), 1),
        at=world.end(slot),
    )
    assert [error and error.code for error in errors] == [
        None,
        "op-budget-exceeded",
        None,
        "op-budget-exceeded",
    ]
    assert not errors[1].permanent
    assert world.block(world.tx(who, Deposit(), 1)) == [None]
    # a mempool holds more than one block
    session = world.contracts.open(world.state, world.open()._scope.context, metered=False)
    for _ in range(9):
        session.execute(*world.tx(who, Deposit(), 1))


def tx_of(world, kit, operation):
    from consensus.transaction import TxOut

    return world.raw_tx(kit.PROVIDER, [TxOut(0, payload_script(encode(operation)))])[0]


def test_signatures_of_readings_and_device_proofs(kit, world):
    item, other = world.reading(1, 5, 10, 20), world.reading(2, 6, 30, 40)
    checks = world.contracts.signatures(tx_of(world, kit, SubmitReadings((item, other))))
    assert [check.public_key for check in checks] == [item.device_key, other.device_key]
    owner = kit.p2pkh(9)
    proof = devices.prove_device(world.tag, world.seed(1), owner, kit.COMMUNITY)
    operation = RegisterDevice(item.device_key, owner, kit.PROVIDER, kit.COMMUNITY, proof)
    checks += world.contracts.signatures(tx_of(world, kit, operation))
    for check in checks:
        assert check.scheme == "ed25519"
        assert ed25519_verify(check.public_key, check.message, check.signature)
    assert world.contracts.signatures(tx_of(world, kit, RevokeDevice(item.device_key))) == ()


@pytest.mark.parametrize(
    "change",
    [{"slot": 6}, {"import_wh": 11}, {"export_wh": 21}, {"device_key": bytes(32)}, {"signature": bytes(64)}],
)
def test_a_reading_with_anything_changed_fails_its_check(kit, world, change):
    item = world.reading(1, 5, 10, 20)._replace(**change)
    (check,) = world.contracts.signatures(tx_of(world, kit, SubmitReadings((item,))))
    assert not ed25519_verify(check.public_key, check.message, check.signature)


def test_statements_are_bound_to_chain_owner_community_and_kind(kit, world):
    from dataclasses import replace

    tag, seed, owner = world.tag, world.seed(1), kit.p2pkh(9)
    key = ed25519_public(seed)
    base = devices.registration_message(tag, key, owner, kit.COMMUNITY)
    others = [
        devices.registration_message(bytes(32), key, owner, kit.COMMUNITY),
        devices.registration_message(tag, bytes(32), owner, kit.COMMUNITY),
        devices.registration_message(tag, key, kit.p2pkh(8), kit.COMMUNITY),
        devices.registration_message(tag, key, owner, kit.OTHER),
        devices.reading_message(tag, key, 1, 2, 3),
    ]
    assert len({base, *others}) == 6
    params = world.params
    validators = params.bft.validators
    tags = [
        devices.chain_tag(changed)
        for changed in (
            params,
            replace(params, name="other"),
            replace(params, genesis_time_s=params.genesis_time_s + 1),
            replace(params, bft=replace(params.bft, validators=validators[::-1])),
        )
    ]
    assert len(set(tags)) == 4
    assert tags[0] == tag
    assert len(tag) == 32


def test_a_malformed_item_makes_the_whole_transaction_invalid(kit, world):
    good = world.reading(1, 5, 1, 1)
    tx = tx_of(world, kit, SubmitReadings((good, good._replace(import_wh=-1))))
    with pytest.raises(RuleError) as caught:
        world.contracts.check_payload(tx)
    assert caught.value.code == "bad-op-field"
    assert caught.value.reason.startswith("items[1].import_wh")
