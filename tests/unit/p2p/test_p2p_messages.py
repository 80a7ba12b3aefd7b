import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import PeerFault
from p2p import limits, messages
from p2p.messages import (
    BY_CODE,
    BY_TYPE,
    KIND_BLOCK,
    KIND_TX,
    TABLE,
    Bft,
    Blocks,
    Body,
    Bye,
    GetBlocks,
    GetBody,
    GetData,
    GetHeaders,
    GetTxs,
    Headers,
    Hello,
    Inv,
    NotFound,
    Ping,
    Pong,
    Status,
    Tx,
    Txs,
    Unknown,
    decode,
    encode,
)

HASH = st.binary(min_size=32, max_size=32)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
RAWS = st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=20)
KIND = st.sampled_from((KIND_TX, KIND_BLOCK))
HASHES = st.lists(HASH, min_size=1, max_size=limits.MAX_BLOCK_HASHES)
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=48)

ANY_MESSAGE = st.one_of(
    st.builds(
        Hello,
        st.integers(0, 65_535),
        HASH,
        HASH,
        U32,
        HASH,
        U64,
        ASCII,
        st.integers(0, 2**48 - 1),
        st.integers(0, 65_535),
    ),
    st.builds(Ping, U64),
    st.builds(Pong, U64),
    st.builds(Inv, KIND, HASHES),
    st.builds(GetData, KIND, HASHES),
    st.builds(Tx, RAWS),
    st.builds(NotFound, KIND, HASHES),
    st.builds(Status, U32, HASH),
    st.builds(GetBlocks, U32, st.integers(0, 65_535)),
    st.builds(Blocks, U32, RAWS | st.just([]), st.binary(max_size=200)),
    st.builds(GetBody, HASH),
    st.builds(Body, HASH, st.none() | st.binary(min_size=1, max_size=500)),
    st.builds(GetTxs, HASH, HASHES),
    st.builds(Txs, HASH, RAWS | st.just([])),
    st.builds(Bft, st.binary(min_size=1, max_size=500)),
    st.builds(Bye, ASCII),
    st.builds(GetHeaders, st.lists(HASH, min_size=1, max_size=5)),
    st.builds(Headers, st.lists(st.binary(min_size=80, max_size=80), max_size=5)),
)


def fault_code(data):
    try:
        decode(data)
    except PeerFault as fault:
        return fault.code
    return None


@given(ANY_MESSAGE)
def test_round_trip(message):
    back = decode(encode(message))
    assert back == message
    assert type(back) is type(message)


@given(st.binary(max_size=300))
def test_decode_of_anything_raises_only_peer_faults(data):
    assert fault_code(data) in (None, "bad-message", "frame-malformed")


@settings(max_examples=300)
@given(ANY_MESSAGE, st.data())
def test_decode_of_damaged_messages_raises_only_peer_faults(message, data):
    raw = bytearray(encode(message))
    at = data.draw(st.integers(2, len(raw)))
    raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=6))
    assert fault_code(bytes(raw)) in (None, "bad-message")


def outcome(read, data):
    try:
        return repr(read(data))
    except PeerFault as fault:
        return str(fault)


def by_field(data):
    return messages._decode_by_field(BY_CODE[data[1]], data)


FLAT = [spec for spec in TABLE if spec.code in messages._FLAT]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | ASCII
    | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(0, 3), inner, max_size=2),
    max_leaves=6,
)


SOUND = {
    Hello: Hello(1, bytes(32), bytes(32), 7, bytes(32), 1, "agent", 1, 1),
    Ping: Ping(1),
    Pong: Pong(1),
    Status: Status(7, bytes(32)),
    GetBlocks: GetBlocks(1, 2),
    GetBody: GetBody(bytes(32)),
    Body: Body(bytes(32), None),
    Bft: Bft(b"vote"),
    Bye: Bye("shutdown"),
}


def test_messages_without_arrays_are_read_at_once():
    assert {spec.message for spec in FLAT} == set(SOUND)


@settings(max_examples=300)
@given(ANY_MESSAGE, st.data())
def test_reading_at_once_and_by_field_agree(message, data):
    raw = bytearray(encode(message))
    assert outcome(decode, bytes(raw)) == outcome(by_field, bytes(raw))
    at = data.draw(st.integers(2, len(raw)))
    raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=6))
    if len(raw) <= BY_CODE[raw[1]].max_bytes:
        assert outcome(decode, bytes(raw)) == outcome(by_field, bytes(raw))


@settings(max_examples=300)
@given(st.sampled_from(FLAT), st.lists(VALUES, max_size=11), st.data())
def test_reading_at_once_and_by_field_agree_on_any_fields(spec, values, data):
    sound = SOUND[spec.message]
    fields = [*sound[: data.draw(st.integers(0, len(sound)))], *values]
    raw = msgpack.packb([spec.code, *fields][:15])
    if limits.MIN_FRAME_BYTES <= len(raw) <= spec.max_bytes:
        assert outcome(decode, raw) == outcome(by_field, raw)


def test_a_long_message_is_never_unfolded_as_a_whole(monkeypatch):
    """What a later version appended is skipped: as objects such a tree takes seventy times its bytes."""
    raw = msgpack.packb([BY_TYPE[Bft].code, b"vote", [[{}] * 15] * 1_000])
    assert len(raw) > limits.FLAT_MESSAGE_BYTES
    monkeypatch.setattr(messages.msgpack, "unpackb", None)
    assert decode(raw) == Bft(b"vote")


def test_codes_are_small_and_unique():
    assert sorted(BY_CODE) == list(range(1, len(TABLE) + 1))
    assert all(spec.message._fields == tuple(name for name, _ in spec.fields) for spec in TABLE)
    assert all(spec.rate == "reply" or spec.rate in limits.RATES for spec in TABLE)
    assert all((spec.rate == "reply") == (spec.answers is not None) for spec in TABLE)


def test_largest_legal_messages_fit_their_limits():
    full = [b"\xff" * 32] * limits.MAX_INV_HASHES
    encode(Inv(KIND_TX, full))
    encode(GetTxs(bytes(32), [b"\xff" * 32] * limits.MAX_GETTXS_HASHES))
    encode(Body(bytes(32), bytes(limits.MAX_BLOCK_BYTES)))
    encode(Bft(bytes(limits.MAX_BFT_BYTES)))
    encode(GetHeaders(full[: limits.MAX_LOCATOR_HASHES]))
    encode(Headers([b"\xff" * 80] * limits.MAX_HEADERS))
    encode(Tx([bytes(limits.MAX_RELAY_TX_BYTES)]))
    encode(Tx([bytes(32)] * limits.MAX_TXS_PER_MESSAGE))
    small = [bytes(5_242)] * 199
    last_block = bytes(limits.MAX_BLOCK_BYTES)
    encode(Blocks(2**32 - 1, [*small, last_block], bytes(limits.MAX_CERTIFICATE_BYTES)))


def test_encode_refuses_what_no_peer_would_take():
    with pytest.raises(ValueError, match="exceeds"):
        encode(Bft(bytes(limits.MAX_BFT_BYTES + 65)))


@pytest.mark.parametrize(
    ("array", "field"),
    [
        ([2], "ping.nonce"),
        ([2, -1], "ping.nonce"),
        ([2, True], "ping.nonce"),
        ([2, 1.0], "ping.nonce"),
        ([2, 2**64 - 1, [1]], "ping.(unknown)"),
        ([2, [[[]]]], "ping.nonce"),
        ([4, 2, [bytes(32)]], "inv.kind"),
        ([4, 0, []], "inv.hashes"),
        ([4, 0, [bytes(31)]], "inv.hashes"),
        ([4, 0, ["x" * 32]], "inv.hashes"),
        ([4, 0, [bytes(32), 7]], "inv.hashes"),
        ([4, 0, [[bytes(32)]]], "inv.hashes"),
        ([4, 0, {}], "inv.hashes"),
        ([4, 0, bytes(32)], "inv.hashes"),
        ([5, 1, [bytes(32)] * 17], "getdata.hashes"),
        ([6, [b""]], "tx.txs"),
        ([8, 1], "status.tip_hash"),
        ([8, 2**32, bytes(32)], "status.height"),
        ([9, 0, 70_000], "getblocks.max_blocks"),
        ([10, 0, [b"x"] * 201, b""], "blocks.blocks"),
        ([12, bytes(32), 0], "body.raw"),
        ([16, "ünot"], "bye.code"),
        ([16, "new\nline"], "bye.code"),
        ([16, b"bytes"], "bye.code"),
    ],
)
def test_a_wrong_field_is_named(array, field):
    raw = msgpack.packb(array)
    if field == "ping.(unknown)":
        raw = raw[:-1]  # the extra field is cut off
    with pytest.raises(PeerFault) as caught:
        decode(raw)
    assert caught.value.code == "bad-message"
    assert caught.value.reason.startswith(field)


def test_bytes_after_the_last_field_are_refused():
    with pytest.raises(PeerFault, match=r"ping\.\(end\)"):
        decode(encode(Ping(1)) + b"\x00")


def test_later_versions_may_append_fields():
    assert decode(msgpack.packb([2, 7, [1, "x"]])) == Ping(7)


def test_unknown_types_are_told_apart():
    assert decode(msgpack.packb([99, "whatever", [1]])) == Unknown(99)


def test_a_count_that_the_bytes_do_not_hold_allocates_nothing():
    claimed = b"\x93\x04\x00\xdd\xff\xff\xff\xff"
    with pytest.raises(PeerFault, match=r"inv\.hashes"):
        decode(claimed)
    nested = b"\x92\x02" + b"\xdc\x20\x00" * 4
    with pytest.raises(PeerFault, match=r"ping\.nonce"):
        decode(nested)


@pytest.mark.parametrize("head", [b"\x90\x01", b"\x80\x01", b"\x92\x80", b"\x92\xcc", b"\xdc\x00"])
def test_what_cannot_start_a_message(head):
    with pytest.raises(PeerFault) as caught:
        messages.size_limit(head[0], head[1])
    assert caught.value.code == "frame-malformed"
