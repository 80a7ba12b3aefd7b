"""The wire primitives: every form both ways, and every malformed form refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.codec import Reader, compact_size, compact_size_width, var_bytes
from consensus.errors import DecodeError
from consensus.limits import MAX_COMPACT_SIZE


@given(st.integers(0, 2**64 - 1))
def test_compact_size_is_as_wide_as_announced(value: int) -> None:
    encoded = compact_size(value)
    assert len(encoded) == compact_size_width(value)
    if value <= MAX_COMPACT_SIZE:
        reader = Reader(encoded)
        assert reader.compact_size() == value
        reader.finish()


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("fd0000", "non-canonical-compactsize"),
        ("fdfc00", "non-canonical-compactsize"),
        ("feffff0000", "non-canonical-compactsize"),
        ("ffffffffff00000000", "non-canonical-compactsize"),
        ("fe01000002", "oversized-compactsize"),
        ("ffffffffffffffffff", "oversized-compactsize"),
        ("", "truncated"),
        ("fd00", "truncated"),
        ("fe000000", "truncated"),
        ("ff00000000000000", "truncated"),
    ],
)
def test_compact_size_refuses(raw: str, code: str) -> None:
    with pytest.raises(DecodeError) as caught:
        Reader(bytes.fromhex(raw)).compact_size()
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("raw", "value"), [("fc", 0xFC), ("fdfd00", 0xFD), ("fe00000100", 0x10000), ("fe00000002", 0x02000000)]
)
def test_compact_size_edges(raw: str, value: int) -> None:
    assert Reader(bytes.fromhex(raw)).compact_size() == value
    assert compact_size(value).hex() == raw


def test_integers_are_little_endian_and_signed_where_named() -> None:
    reader = Reader(bytes.fromhex("01 0203 04050607 08090a0b0c0d0e0f ffffffff feffffffffffffff"))
    assert (reader.u8(), reader.u16(), reader.u32()) == (1, 0x0302, 0x07060504)
    assert reader.u64() == 0x0F0E0D0C0B0A0908
    assert (reader.i32(), reader.i64()) == (-1, -2)
    assert reader.remaining == 0
    reader.finish()


def test_strings_keep_to_their_limit() -> None:
    assert Reader(var_bytes(b"abc")).var_bytes(3) == b"abc"
    with pytest.raises(DecodeError, match="oversized-field"):
        Reader(var_bytes(b"abcd")).var_bytes(3)
    with pytest.raises(DecodeError, match="truncated"):
        Reader(b"\x05abcd").var_bytes()


def test_finish_refuses_a_tail() -> None:
    reader = Reader(b"ab", 1)
    with pytest.raises(DecodeError, match="trailing-bytes"):
        reader.finish()


def test_take_refuses_a_negative_count() -> None:
    with pytest.raises(DecodeError, match="truncated"):
        Reader(b"abc", 2).take(-1)
