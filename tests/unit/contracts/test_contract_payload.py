"""Payloads: their one form on the wire, and every way to get it wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import canonical
from consensus.errors import RuleError
from consensus.transaction import Transaction, TxIn, TxOut
from contracts import limits, payload
from contracts.operations import (
    CancelOrder,
    Deposit,
    PlaceOrder,
    ReadingItem,
    RegisterDevice,
    RegisterMember,
    RevokeDevice,
    SubmitReadings,
    Withdraw,
    encode,
    object_id,
    order_id,
    payload_script,
)

SCRIPT = b"\x76\xa9\x14" + bytes(20) + b"\x88\xac"
P2TR = b"\x51\x20" + bytes(32)
HEAD = b"WT\x01"


def carrier(array, head=HEAD):
    return payload_script(head + canonical.encode(array))


def tx_of(*scripts, value=0):
    return Transaction.build(2, [TxIn(bytes(36), b"")], [TxOut(value, script) for script in scripts])


def code_of(world, *scripts, value=0):
    with pytest.raises(RuleError) as caught:
        world.contracts.check_payload(tx_of(*scripts, value=value))
    assert caught.value.permanent
    return caught.value.code


def field_of(world, array):
    with pytest.raises(RuleError) as caught:
        world.contracts.check_payload(tx_of(carrier(array)))
    assert caught.value.code == "bad-op-field"
    return caught.value.reason.split(":")[0]


ITEMS = st.builds(
    ReadingItem,
    st.binary(min_size=32, max_size=32),
    st.integers(0, limits.MAX_SLOT),
    st.integers(0, limits.MAX_ENERGY_WH),
    st.integers(0, limits.MAX_ENERGY_WH),
    st.binary(min_size=64, max_size=64),
)
KEYS = st.binary(min_size=32, max_size=32)
OPERATIONS = st.one_of(
    st.just(Deposit()),
    st.builds(Withdraw, st.integers(1, limits.MAX_AMOUNT)),
    st.builds(RegisterMember, st.just("bremen"), st.sampled_from([SCRIPT, P2TR]), st.just(SCRIPT)),
    st.builds(
        RegisterDevice,
        KEYS,
        st.just(P2TR),
        st.just(SCRIPT),
        st.just("b"),
        st.binary(min_size=64, max_size=64),
    ),
    st.builds(RevokeDevice, KEYS),
    st.builds(
        PlaceOrder,
        st.just("bremen"),
        st.integers(0, limits.MAX_SLOT),
        st.sampled_from(["buy", "sell"]),
        st.integers(1, limits.MAX_ENERGY_WH),
        st.integers(0, limits.MAX_AMOUNT),
    ),
    st.builds(CancelOrder, KEYS),
    st.builds(SubmitReadings, st.lists(ITEMS, min_size=1, max_size=4).map(tuple)),
)


@given(OPERATIONS)
def test_operations_survive_the_wire(operation):
    data = encode(operation)
    assert data[:3] == HEAD
    assert payload.decode(data) == operation
    found = payload.parse(tx_of(payload_script(data)))
    assert found == (data, 0, operation)


def test_a_batch_of_the_largest_size_fits_a_payload():
    item = ReadingItem(
        b"\xff" * 32, limits.MAX_SLOT, limits.MAX_ENERGY_WH, limits.MAX_ENERGY_WH, b"\xff" * 64
    )
    data = encode(SubmitReadings((item,) * limits.MAX_READINGS_PER_BATCH))
    assert len(data) <= limits.MAX_PAYLOAD_BYTES
    assert payload.decode(data).items[-1] == item
    with pytest.raises(ValueError, match="65535"):
        encode(SubmitReadings((item,) * 700))


@pytest.mark.parametrize("size", [3, 75, 76, 255, 256, 65_535])
def test_payload_scripts_use_the_shortest_push(size):
    data = HEAD + bytes(size - 3)
    script = payload_script(data)
    assert script.endswith(data)
    assert len(script) == size + (2 if size < 76 else 3 if size < 256 else 4)
    assert payload.is_payload_script(script)


def test_payload_scripts_stop_at_65535_bytes():
    with pytest.raises(ValueError, match="65535"):
        payload_script(bytes(65_536))


def test_transactions_without_payload_are_left_alone(world):
    data_carrier = b"\x6a\x04text"
    commitment = b"\x6a\x04WC\x00\x00"
    bare = [b"\x6a", b"\x6a\x02W", b"\x6aWT", b"\x6a\x51", SCRIPT, b"WT", b"\x6a\x03aWT"]
    tx = tx_of(data_carrier, commitment, *bare)
    assert not world.contracts.has_payload(tx)
    world.contracts.check_payload(tx)
    assert world.contracts.operation(tx) is None
    assert world.contracts.signatures(tx) == ()


def test_at_most_one_payload(world):
    script = carrier(["energy.deposit"])
    assert code_of(world, script, script, value=1) == "bad-op-multiple"
    assert code_of(world, script, b"\x6a\x03WT\x01", value=1) == "bad-op-multiple"


@pytest.mark.parametrize(
    "script",
    [
        b"\x6a\x4c\x03WT\x01",  # PUSHDATA1 for what a direct push carries
        b"\x6a\x4d\x03\x00WT\x01",
        b"\x6a\x4e\x03\x00\x00\x00WT\x01",
        b"\x6a\x4e\x00\x00\x01\x00WT" + bytes(65_534),
        b"\x6a\x09WT\x01",  # announces more than there is
        b"\x6a\x03WT\x01\x00",  # something behind the push
        carrier(["energy.deposit"]) + b"\x51",
    ],
)
def test_the_push_is_minimal_and_alone(world, script):
    assert world.contracts.has_payload(tx_of(script))
    assert code_of(world, script) == "bad-op-push"


@pytest.mark.parametrize("data", [b"WT", b"WT\x00\x91", b"WT\x02\x91\xaeenergy.deposit"])
def test_only_version_1(world, data):
    assert code_of(world, payload_script(data)) == "bad-op-version"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x91\xd9\x0eenergy.deposit",  # str8 where fixstr does
        canonical.encode(["energy.deposit"]) + b"\x00",
        b"\x92\xafenergy.withdraw\xcd\x00\x05",
        b"\x92\xafenergy.withdraw\xca\x00\x00\x00\x00",
        canonical.encode("energy.deposit"),
        canonical.encode([]),
        canonical.encode([b"energy.deposit"]),
        canonical.encode({"a": 1}),
        canonical.encode(["energy.readings", [[[[1]]]]]),
    ],
)
def test_only_canonical_arrays(world, body):
    assert code_of(world, payload_script(HEAD + body)) == "bad-op-encoding"


def test_unknown_operations(world):
    assert code_of(world, carrier(["energy.steal", 1])) == "bad-op-unknown"
    assert code_of(world, carrier([""])) == "bad-op-unknown"


def test_a_coinbase_carries_no_operation(world):
    coinbase = Transaction.build(
        2, [TxIn(bytes(32) + b"\xff" * 4, b"\x01\x01")], [TxOut(5, carrier(["energy.deposit"]))]
    )
    with pytest.raises(RuleError) as caught:
        world.contracts.check_payload(coinbase)
    assert caught.value.code == "bad-op-coinbase"


KEY = bytes(32)
GOOD_ITEM = [KEY, 1, 2, 3, bytes(64)]


@pytest.mark.parametrize(
    ("field", "array"),
    [
        ("fields", ["energy.deposit", 1]),
        ("fields", ["energy.withdraw"]),
        ("amount", ["energy.withdraw", 0]),
        ("amount", ["energy.withdraw", -1]),
        ("amount", ["energy.withdraw", True]),
        ("amount", ["energy.withdraw", "1"]),
        ("amount", ["energy.withdraw", 2**63]),
        ("community", ["energy.register", b"bremen", SCRIPT, SCRIPT]),
        ("community", ["energy.register", "", SCRIPT, SCRIPT]),
        ("community", ["energy.register", "a/b", SCRIPT, SCRIPT]),
        ("community", ["energy.register", "a" * 65, SCRIPT, SCRIPT]),
        ("community", ["energy.register", "köln", SCRIPT, SCRIPT]),
        ("member", ["energy.register", "bremen", SCRIPT[:-1], SCRIPT]),
        ("member", ["energy.register", "bremen", b"\x51" * 34, SCRIPT]),
        ("member", ["energy.register", "bremen", "x", SCRIPT]),
        ("provider", ["energy.register", "bremen", SCRIPT, b""]),
        ("provider", ["energy.register", "bremen", SCRIPT, None]),
        ("device_key", ["device.register", bytes(31), SCRIPT, SCRIPT, "bremen", bytes(64)]),
        ("owner", ["device.register", KEY, bytes(25), SCRIPT, "bremen", bytes(64)]),
        ("provider", ["device.register", KEY, SCRIPT, bytes(256), "bremen", bytes(64)]),
        ("community", ["device.register", KEY, SCRIPT, SCRIPT, 7, bytes(64)]),
        ("proof", ["device.register", KEY, SCRIPT, SCRIPT, "bremen", bytes(63)]),
        ("device_key", ["device.revoke", bytes(33)]),
        ("community", ["energy.order", " ", 1, "buy", 1, 1]),
        ("slot", ["energy.order", "bremen", -1, "buy", 1, 1]),
        ("slot", ["energy.order", "bremen", 2**40 + 1, "buy", 1, 1]),
        ("side", ["energy.order", "bremen", 1, "hold", 1, 1]),
        ("side", ["energy.order", "bremen", 1, b"buy", 1, 1]),
        ("energy_wh", ["energy.order", "bremen", 1, "buy", 0, 1]),
        ("energy_wh", ["energy.order", "bremen", 1, "buy", 100_000_001, 1]),
        ("limit_price_per_kwh", ["energy.order", "bremen", 1, "buy", 1, -1]),
        ("limit_price_per_kwh", ["energy.order", "bremen", 1, "buy", 1, 100_001]),
        ("order_id", ["energy.cancel", b"x"]),
        ("items", ["energy.readings"]),
        ("items", ["energy.readings", *[GOOD_ITEM] * 501]),
        ("items[1]", ["energy.readings", GOOD_ITEM, GOOD_ITEM[:4]]),
        ("items[0]", ["energy.readings", KEY]),
        ("items[0].device_key", ["energy.readings", ["k", 1, 2, 3, bytes(64)]]),
        ("items[0].slot", ["energy.readings", [KEY, None, 2, 3, bytes(64)]]),
        ("items[0].import_wh", ["energy.readings", [KEY, 1, -2, 3, bytes(64)]]),
        ("items[0].export_wh", ["energy.readings", [KEY, 1, 2, 100_000_001, bytes(64)]]),
        ("items[0].signature", ["energy.readings", [KEY, 1, 2, 3, bytes(65)]]),
    ],
)
def test_a_wrong_field_is_named(world, field, array):
    assert field_of(world, array) == field


def test_money_only_where_it_is_credited(world):
    assert code_of(world, carrier(["energy.deposit"]), value=0) == "bad-op-value"
    world.contracts.check_payload(tx_of(carrier(["energy.deposit"]), value=1))
    world.contracts.check_payload(tx_of(carrier(["energy.order", "bremen", 1, "buy", 1, 1]), value=1))
    world.contracts.check_payload(tx_of(carrier(["energy.order", "bremen", 1, "buy", 1, 1]), value=0))
    assert code_of(world, carrier(["energy.order", "bremen", 1, "buy", 1, 1]), value=-1) == "bad-op-value"
    for array in (
        ["energy.withdraw", 5000],
        ["energy.register", "bremen", SCRIPT, SCRIPT],
        ["device.register", KEY, SCRIPT, SCRIPT, "bremen", bytes(64)],
        ["device.revoke", KEY],
        ["energy.cancel", KEY],
        ["energy.readings", GOOD_ITEM],
    ):
        world.contracts.check_payload(tx_of(carrier(array)))
        assert code_of(world, carrier(array), value=1) == "bad-op-value"


def test_payouts_below_the_minimum_and_batches_above_the_budget(kit, world):
    assert code_of(world, carrier(["energy.withdraw", 4999])) == "payout-too-small"
    small = kit.World(kit.make_params(ledger={"op_budget": 3}))
    assert code_of(small, carrier(["energy.readings", *[GOOD_ITEM] * 4])) == "bad-op-too-large"
    small.contracts.check_payload(tx_of(carrier(["energy.readings", *[GOOD_ITEM] * 3])))


def test_object_ids_bind_outpoint_and_payload():
    import hashlib

    assert object_id(b"o" * 36, b"p") == hashlib.sha256(b"o" * 36 + b"p").digest()
    assert order_id is object_id


def test_payloads_are_decoded_once_and_the_cache_is_bounded(world, monkeypatch):
    decoded = []
    parse = payload.parse
    monkeypatch.setattr(payload, "parse", lambda tx: decoded.append(tx.txid) or parse(tx))
    big = [
        tx_of(carrier(["energy.readings", *[[bytes([at]) * 32, *GOOD_ITEM[1:]]] * 500])) for at in range(64)
    ]
    for _ in range(3):
        world.contracts.check_payload(big[0])
        world.contracts.signatures(big[0])
    assert len(decoded) == 1
    for tx in big:
        world.contracts.check_payload(tx)
    kept = [*world.contracts._young.values(), *world.contracts._old.values()]
    assert sum(len(entry.data) for entry in kept) <= limits.PARSE_CACHE_BYTES
    assert 0 < len(kept) < 64
