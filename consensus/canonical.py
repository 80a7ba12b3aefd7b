"""Canonical MessagePack: one value, one encoding.

Shortest forms, no floats, no extension types, map keys sorted by their encoding and unique, valid
UTF-8, nothing behind the value. The decoder is our own: it checks while it reads, and allocates no
more than the bytes at hand can fill, whatever a length announces.

Most values are short lists of numbers and byte strings: votes, certificates. Those go through the codec
of msgpack, many times faster; what it cannot vouch for is left to our own, which also names the error.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from consensus.errors import DecodeError
from consensus.limits import MAX_MSGPACK_DEPTH

CODE = "non-canonical-msgpack"

_SCALARS = frozenset({type(None), bool, int, bytes, str})
_PLAIN = _SCALARS | {list}
_FAST_ITEMS = 64
"""Longest array for which msgpack may make room: it does so when the length is announced."""

# One packer for all: making one costs more than packing a vote with it. That of msgpack's C module packs in
# one step, so threads may share it; where that module is missing every call makes a packer of its own.
_IS_C = msgpack.Packer.__module__ == "msgpack._cmsgpack"
pack_plain: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True).pack if _IS_C else msgpack.packb
"""Encode without a look at it: canonical for numbers in range, text, bytes, None, bool and lists of these."""


def _is_plain(items: list[Any], depth: int) -> bool:
    """Return whether a list holds scalars and such lists alone, ``depth`` levels at most."""
    kinds = set(map(type, items))
    if depth == 0 or not kinds <= _PLAIN:
        return False
    if list in kinds:
        for item in items:
            if type(item) is list and not _is_plain(item, depth - 1):
                return False
    return True


def encode(value: Any, *, max_depth: int = MAX_MSGPACK_DEPTH) -> bytes:
    """Encode None, bool, int (-2^63 to 2^64-1), bytes, str, and lists, tuples and dicts of such.

    Keys of a dict are int, bytes or str. Raises ValueError for anything else: what we encode is our own.
    """
    if type(value) is list and _is_plain(value, max_depth):
        try:
            fast = pack_plain(value)
        except (ValueError, OverflowError):
            pass  # a number out of range or a lone surrogate: said below
        else:
            return fast
    return pack_plain(_ordered(value, max_depth))


def _ordered(value: Any, depth: int) -> Any:
    """Return ``value`` with the maps sorted, after checking every type and range."""
    kind = type(value)
    if kind is bytes or value is None or kind is bool:
        return value
    if kind is int:
        if not -(1 << 63) <= value < 1 << 64:
            raise ValueError(f"{value} is out of range")
        return value
    if kind is str:
        return _checked_text(value)
    if depth == 0:
        raise ValueError("nested too deeply")
    if kind is list or isinstance(value, tuple):
        return [_ordered(item, depth - 1) for item in value]
    if isinstance(value, Mapping):
        return _ordered_map(value, depth)
    if isinstance(value, int):  # IntEnum and the like
        return _ordered(int(value), depth)
    raise ValueError(f"{kind.__name__} has no encoding")


def _checked_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("text with a lone surrogate") from None
    return value


def _ordered_map(value: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
    for key in value:
        if type(key) not in (int, bytes, str):
            raise ValueError(f"{type(key).__name__} as a map key")
    keys = sorted(value, key=lambda key: encode(key, max_depth=0))
    return {key: _ordered(value[key], depth - 1) for key in keys}


def decode(data: bytes, *, max_depth: int = MAX_MSGPACK_DEPTH) -> Any:
    """Decode exactly one canonical value; arrays come back as lists.

    Raises DecodeError ``non-canonical-msgpack`` unless ``encode`` of the result gives ``data`` again.
    """
    try:
        fast = msgpack.unpackb(data, max_array_len=_FAST_ITEMS, max_map_len=0, max_ext_len=0)
    except ValueError:  # all that msgpack raises, and UnicodeDecodeError
        return _decode(data, max_depth)
    plain = _is_plain(fast, max_depth) if type(fast) is list else type(fast) in _SCALARS
    # msgpack reads long forms, too: only what it would write itself is canonical.
    if plain and pack_plain(fast) == data:
        return fast
    return _decode(data, max_depth)


def _decode(data: bytes, max_depth: int) -> Any:
    """Decode one value byte by byte; as ``decode``."""
    try:
        value, end = _read(data, 0, max_depth)
    except IndexError:
        raise DecodeError(CODE, "truncated") from None
    if end != len(data):
        raise DecodeError(CODE, f"{len(data) - end} bytes after the value")
    return value


_Read = tuple[Any, int]


def _read(data: bytes, at: int, depth: int) -> _Read:
    """Read the value at ``at``; return it and the offset behind. IndexError past the end."""
    first = data[at]
    at += 1
    if first < 0x80:
        return first, at
    if first >= 0xE0:
        return first - 0x100, at
    if first < 0x90:
        return _read_map(data, at, first & 0x0F, depth)
    if first < 0xA0:
        return _read_array(data, at, first & 0x0F, depth)
    if first < 0xC0:
        return _read_text(data, at, first & 0x1F)
    reader = _READERS.get(first)
    if reader is None:
        raise DecodeError(CODE, f"type byte {first:#x}")
    return reader(data, at, depth)


def _length(data: bytes, at: int, width: int, least: int) -> tuple[int, int]:
    """Read a big-endian number of ``width`` bytes that a shorter form could not hold."""
    end = at + width
    if end > len(data):
        raise DecodeError(CODE, "truncated")
    value = int.from_bytes(data[at:end], "big")
    if value < least:
        raise DecodeError(CODE, f"{value} is not in its shortest form")
    return value, end


def _take(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    end = at + size
    if end > len(data):
        raise DecodeError(CODE, "truncated")
    return data[at:end], end


def _read_text(data: bytes, at: int, size: int) -> _Read:
    raw, end = _take(data, at, size)
    try:
        return raw.decode(), end
    except UnicodeDecodeError:
        raise DecodeError(CODE, "text is not UTF-8") from None


def _read_array(data: bytes, at: int, count: int, depth: int) -> _Read:
    if depth == 0:
        raise DecodeError(CODE, "nested too deeply")
    items = []
    for _ in range(count):
        item, at = _read(data, at, depth - 1)
        items.append(item)
    return items, at


def _read_map(data: bytes, at: int, count: int, depth: int) -> _Read:
    if depth == 0:
        raise DecodeError(CODE, "nested too deeply")
    entries: dict[Any, Any] = {}
    previous = b""
    for _ in range(count):
        key, end = _read(data, at, 0)
        if type(key) not in (int, bytes, str):
            raise DecodeError(CODE, f"{type(key).__name__} as a map key")
        raw_key = data[at:end]
        if raw_key <= previous:
            raise DecodeError(CODE, "map keys are not sorted and unique")
        previous = raw_key
        entries[key], at = _read(data, end, depth - 1)
    return entries, at


def _constant(value: bool | None) -> Callable[[bytes, int, int], _Read]:
    return lambda data, at, depth: (value, at)


def _unsigned(width: int, least: int) -> Callable[[bytes, int, int], _Read]:
    return lambda data, at, depth: _length(data, at, width, least)


def _negative(width: int, below: int) -> Callable[[bytes, int, int], _Read]:
    """Read a signed number that must lie below what a shorter form reaches."""

    def read(data: bytes, at: int, depth: int) -> _Read:
        raw, end = _take(data, at, width)
        value = int.from_bytes(raw, "big", signed=True)
        if value >= below:
            raise DecodeError(CODE, f"{value} is not in its shortest form")
        return value, end

    return read


def _binary(width: int, least: int) -> Callable[[bytes, int, int], _Read]:
    def read(data: bytes, at: int, depth: int) -> _Read:
        size, at = _length(data, at, width, least)
        return _take(data, at, size)

    return read


def _sized(
    body: Callable[..., _Read], width: int, least: int, nested: bool
) -> Callable[[bytes, int, int], _Read]:
    def read(data: bytes, at: int, depth: int) -> _Read:
        size, at = _length(data, at, width, least)
        return body(data, at, size, depth) if nested else body(data, at, size)

    return read


_READERS: dict[int, Callable[[bytes, int, int], _Read]] = {
    0xC0: _constant(None),
    0xC2: _constant(False),
    0xC3: _constant(True),
    0xC4: _binary(1, 0),
    0xC5: _binary(2, 1 << 8),
    0xC6: _binary(4, 1 << 16),
    0xCC: _unsigned(1, 1 << 7),
    0xCD: _unsigned(2, 1 << 8),
    0xCE: _unsigned(4, 1 << 16),
    0xCF: _unsigned(8, 1 << 32),
    0xD0: _negative(1, -(1 << 5)),
    0xD1: _negative(2, -(1 << 7)),
    0xD2: _negative(4, -(1 << 15)),
    0xD3: _negative(8, -(1 << 31)),
    0xD9: _sized(_read_text, 1, 1 << 5, False),
    0xDA: _sized(_read_text, 2, 1 << 8, False),
    0xDB: _sized(_read_text, 4, 1 << 16, False),
    0xDC: _sized(_read_array, 2, 1 << 4, True),
    0xDD: _sized(_read_array, 4, 1 << 16, True),
    0xDE: _sized(_read_map, 2, 1 << 4, True),
    0xDF: _sized(_read_map, 4, 1 << 16, True),
}
"""Type bytes above the fixed forms; what is missing (floats, extensions, 0xc1) is refused."""
