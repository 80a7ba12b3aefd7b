"""Canonical MessagePack: one value, one encoding, and nothing else is read."""

import tracemalloc
from collections.abc import Callable
from datetime import UTC
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import canonical
from consensus.canonical import decode, encode
from consensus.errors import DecodeError

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=300)
    | st.text(max_size=80)
)
keys = st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=40)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(keys, inner, max_size=20),
    max_leaves=30,
).filter(lambda value: depth(value) <= 8)


def depth(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 0


def decoded_again(raw: bytes) -> bytes | str:
    """Return what the decoded value encodes to, or the code of the refusal."""
    try:
        value = decode(raw)
    except DecodeError as error:
        return error.code
    return encode(value)


@given(values)
def test_what_is_encoded_is_decoded(value: Any) -> None:
    raw = encode(value)
    assert decode(raw) == value
    assert msgpack.unpackb(raw, strict_map_key=False) == value
    assert encode(decode(raw)) == raw


@settings(max_examples=400)
@given(st.binary(max_size=40))
def test_arbitrary_bytes_are_refused_or_canonical(raw: bytes) -> None:
    assert decoded_again(raw) in (raw, "non-canonical-msgpack")


@given(values, st.data())
def test_a_damaged_encoding_is_refused_or_another_value(value: Any, data: st.DataObject) -> None:
    raw = bytearray(encode(value))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    assert decoded_again(bytes(raw)) in (raw, "non-canonical-msgpack")


def outcome(read: Callable[[bytes, int], Any], raw: bytes, levels: int) -> tuple[str, str]:
    """Return the value with its types, or the whole text of the refusal."""
    try:
        return "value", repr(read(raw, levels))
    except DecodeError as error:
        return error.code, str(error)


def assert_both_readers_agree(raw: bytes) -> None:
    for levels in (0, 1, 2, 6, 8):
        fast = outcome(lambda data, most: decode(data, max_depth=most), raw, levels)
        assert fast == outcome(canonical._decode, raw, levels), (raw.hex(), levels)


vote_like = st.recursive(scalars, lambda inner: st.lists(inner, max_size=70), max_leaves=90)
loose = {"use_bin_type": True}


@given(vote_like)
def test_both_readers_agree_on_arrays(value: Any) -> None:
    assert_both_readers_agree(msgpack.packb(value, **loose))


@given(vote_like, st.data())
def test_both_readers_agree_on_damaged_arrays(value: Any, data: st.DataObject) -> None:
    raw = bytearray(msgpack.packb(value, **loose))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.integers(0, 2)):
            case 0:
                raw[at] = data.draw(st.integers(0, 255))
            case 1:
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=6))
            case _:
                del raw[at + 1 :]
    assert_both_readers_agree(bytes(raw))


heads = [*range(0x80, 0xA3), *range(0xC0, 0x100), 0, 1, 0x7F]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(heads), max_size=12), st.binary(max_size=12))
def test_both_readers_agree_on_any_heads(first: list[int], rest: bytes) -> None:
    assert_both_readers_agree(bytes(first) + rest)


@given(st.lists(st.floats() | st.datetimes(timezones=st.just(UTC)) | scalars, max_size=4))
def test_both_readers_agree_on_what_has_no_encoding(items: list[Any]) -> None:
    assert_both_readers_agree(msgpack.packb(items, datetime=True, **loose))


@pytest.mark.parametrize("levels", [1, 5, 8, 9, 400, 600, 5_000])
@pytest.mark.parametrize("head", ["91", "92c0", "dc0001", "dc0010", "dc0040", "dd00000001", "8101", "9f"])
def test_both_readers_agree_on_nests(levels: int, head: str) -> None:
    assert_both_readers_agree(bytes.fromhex(head * levels + "c0"))


@given(vote_like)
def test_both_writers_agree(value: Any) -> None:
    assert encode(value, max_depth=60) == msgpack.packb(canonical._ordered(value, 60), **loose)


@pytest.mark.parametrize("wrong", [2**64, -(2**63) - 1, "\ud800"])
def test_what_has_no_encoding_spoils_no_later_one(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"out of range|surrogate"):
        encode([1, b"before", [wrong]])
    assert encode([1]) == b"\x91\x01"


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "c1",
        "c0c0",  # trailing
        "cb3ff0000000000000",  # float 64
        "ca3f800000",  # float 32
        "d40000",  # extension
        "d6ff00000000",  # timestamp
        "cc7f",  # 127 in two bytes
        "cd00ff",
        "ce0000ffff",
        "cf00000000ffffffff",
        "d0e0",  # -32 in two bytes
        "d001",  # a positive number in a signed form
        "d1ff80",
        "d2ffff8000",
        "d3ffffffff80000000",
        "d90161",  # one character with a length byte
        "da000161",
        "db0000000161",
        "c5000161",  # short binary in a wide form
        "c60000000161",
        "dc0001c0",
        "dd00000001c0",
        "de000101c0",
        "df0000000101c0",
        "a1ff",  # not UTF-8
        "a3eda080",  # a surrogate
        "8202c001c0",  # keys not sorted
        "8201c001c0",  # key twice
        "81c0c0",  # nil as a key
        "81c3c0",  # bool as a key
        "819001",  # array as a key
        "92c0",  # truncated array
        "81a161",  # truncated map
        "c402ff",  # truncated binary
        "a261",
        "cd01",
        "d3ff",
        "ddffffffff",  # four thousand million elements announced
        "dfffffffff",
        "c6ffffffff",
        "91" * 9 + "c0",  # nine levels
    ],
)
def test_refuses(raw: str) -> None:
    assert_both_readers_agree(bytes.fromhex(raw))
    with pytest.raises(DecodeError) as caught:
        decode(bytes.fromhex(raw))
    assert caught.value.code == "non-canonical-msgpack"


def test_depth_is_what_the_caller_allows() -> None:
    nested = bytes.fromhex("9191c0")
    assert decode(nested, max_depth=2) == [[None]]
    with pytest.raises(DecodeError):
        decode(nested, max_depth=1)
    with pytest.raises(ValueError, match="deeply"):
        encode([[None]], max_depth=1)


def test_maps_are_sorted_by_the_encoding_of_their_keys() -> None:
    assert encode({"b": 1, b"a": 2, 300: 3, -1: 4, 5: 5}).hex() == (
        "85" + "0505" + "a16201" + "c4016102" + "cd012c03" + "ff04"
    )


@pytest.mark.parametrize(
    "value",
    [1.5, 2**64, -(2**63) - 1, object(), {1.5: 1}, {None: 1}, {True: 1}, {"a", "b"}, "\ud800", bytearray()],
)
def test_what_has_no_encoding_is_our_own_mistake(value: Any) -> None:
    with pytest.raises(ValueError):
        encode(value)


@pytest.mark.parametrize(
    "raw",
    [
        bytes.fromhex("dd00ffffff") * 8 + bytes(1000),  # sixteen million elements at each of eight levels
        bytes.fromhex("dc0040") * 100_000,
        bytes.fromhex("9f") * 1_000_000,
        bytes.fromhex("92c6ffffffff"),
    ],
)
def test_an_announced_length_costs_no_memory(raw: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode(raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
