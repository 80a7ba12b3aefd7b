"""Mutators: from valid samples to inputs that are almost valid. All draw from the Random given to them."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgpack

Mutate = Callable[[Random, Sequence[bytes]], bytes]
"""(dice, pool of inputs) -> a new input."""

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFC, 0xFD, 0xFE, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x1_0000, 0x0200_0000)
EDGES += (0x0200_0001, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
COMPACT_SIZES = (b"\xfd\x00\x00", b"\xfd\xfc\x00", b"\xfd\xfd\x00", b"\xfd\xff\xff", b"\xfe\xff\xff\x00\x00")
COMPACT_SIZES += (b"\xfe\xff\xff\xff\xff", b"\xff" + bytes(8), b"\xff" * 9, b"\xfe\x00\x00\x00\x02")
MAX_ROUNDS = 5


def edge_bytes(rng: Random) -> bytes:
    """An integer at a border, in some width and byte order."""
    if rng.random() < 0.2:
        return rng.choice(COMPACT_SIZES)
    width = rng.choice((1, 2, 4, 8))
    value = (rng.choice(EDGES) + rng.choice((-1, 0, 0, 1))) % (1 << 8 * width)
    return value.to_bytes(width, rng.choice(("little", "big")))


def _span(rng: Random, size: int) -> tuple[int, int]:
    start = rng.randint(0, size)
    length = rng.choice((1, 2, 4, 8, 32, rng.randint(0, max(1, size))))
    return start, min(size, start + length)


def _flip(rng: Random, data: bytearray, pool: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: Random, data: bytearray, pool: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFD, 0xFE, 0xFF, rng.randrange(256)))


def _step(rng: Random, data: bytearray, pool: Sequence[bytes]) -> None:
    """Change a byte by a little: the length edit, as most lengths are one byte."""
    if data:
        at = rng.randrange(len(data))
        data[at] = (data[at] + rng.choice((-2, -1, 1, 2))) % 256


def _insert(rng: Random, data: bytearray, pool: Sequence[bytes]) -> None:
    at = rng.randint(0, len(data))
    data[at:at] = edge_bytes(rng) if rng.random() < 0.6 else rng.randbytes(rng.randint(1, 40))


def _overwrite(rng: Random, data: bytearray, pool: Sequence[bytes]) -> None:
    at = rng.randint(0, len(data))
    new = edge_bytes(rng)
    data[at : at + len(new)] = new


def _delete(rng: Random, data: bytearray, pool: Sequence[bytes]) -> None:
    start, end = _span(rng, len(data))
    del data[start:end]


def _duplicate(rng: Random, data: bytearray, pool: Sequence[bytes]) -> None:
    start, end = _span(rng, len(data))
    at = rng.randint(0, len(data))
    data[at:at] = data[start:end] * rng.choice((1, 1, 2, 8))


def _truncate(rng: Random, data: bytearray, pool: Sequence[bytes]) -> None:
    del data[rng.randint(0, len(data)) :]


def _splice(rng: Random, data: bytearray, pool: Sequence[bytes]) -> None:
    """Part of another input over or into this one."""
    other = rng.choice(pool)
    start, end = _span(rng, len(other))
    at, behind = _span(rng, len(data))
    data[at : behind if rng.random() < 0.5 else at] = other[start:end]


def _swap(rng: Random, data: bytearray, pool: Sequence[bytes]) -> None:
    (a, b), (c, d) = sorted((_span(rng, len(data)), _span(rng, len(data))))
    if b <= c:
        data[a:d] = data[c:d] + data[b:c] + data[a:b]


_BYTE_MUTATORS = (
    _flip,
    _flip,
    _set,
    _step,
    _step,
    _insert,
    _overwrite,
    _delete,
    _duplicate,
    _truncate,
    _splice,
    _swap,
)


def mutate_bytes(rng: Random, pool: Sequence[bytes]) -> bytes:
    """Some blind changes to one input of the pool."""
    data = bytearray(rng.choice(pool))
    for _ in range(rng.randint(1, MAX_ROUNDS)):
        rng.choice(_BYTE_MUTATORS)(rng, data, pool)
    return bytes(data)


# --- trees: MessagePack and JSON --------------------------------------------------------------------


def edge_value(rng: Random, *, text: bool = False) -> Any:
    """A leaf that decoders stumble over; only what JSON knows if ``text``."""
    kind = rng.randrange(9)
    if kind < 3:
        value = rng.choice(EDGES) + rng.choice((-1, 0, 0, 1))
        return min(value, 2**64 - 1) if rng.random() < 0.7 else -min(value, 2**63)
    if kind == 3:
        return rng.choice((None, True, False))
    if kind == 4:
        return rng.choice(([], {}, [[]], [None], {"args": []}, [[[[[[[[[[[]]]]]]]]]]]))
    if kind == 5:
        return rng.choice((0.5, -0.0, 1e308, 1e-320, 10**18 + 0.1))
    if kind == 6 or text:
        return rng.choice(
            ("", "0", "00" * 32, "ff" * 33, "é€\U0001f600", "\ud800", "a" * 300, "-1", "\0", "1e99999")
        )
    return rng.choice((b"", bytes(20), bytes(32), b"\xff" * 33, bytes(64), rng.randbytes(rng.randint(0, 80))))


def _mutate_leaf(rng: Random, value: Any, text: bool) -> Any:
    if rng.random() < 0.35:
        return edge_value(rng, text=text)
    if isinstance(value, bool) or value is None:
        return edge_value(rng, text=text)
    if isinstance(value, int):
        changed = value + rng.choice((-2, -1, 1, 2, 256, -256))
        return changed if -(2**63) <= changed < 2**64 else 0
    if isinstance(value, bytes) and value:
        data = bytearray(value)
        rng.choice(_BYTE_MUTATORS)(rng, data, [value])
        return bytes(data)
    if isinstance(value, str) and value:
        at = rng.randrange(len(value))
        return rng.choice(
            (
                value[:at],
                value[:at] + value[at + 1 :],
                value[:at] + rng.choice("0fzZ -{\xe9") + value[at + 1 :],
                value * 2,
            )
        )
    return edge_value(rng, text=text)


def _mutate_list(rng: Random, items: list[Any], text: bool) -> list[Any]:
    items = list(items)
    kind = rng.randrange(5)
    at = rng.randrange(len(items)) if items else 0
    if kind == 0 and items:
        del items[at]
    elif kind == 1 and items:
        items.insert(rng.randint(0, len(items)), items[at])
    elif kind == 2 and len(items) > 1:
        other = rng.randrange(len(items))
        items[at], items[other] = items[other], items[at]
    elif kind == 3 and items:
        items = items * rng.choice((2, 20))
    else:
        items.insert(rng.randint(0, len(items)), edge_value(rng, text=text))
    return items


def mutate_tree(rng: Random, value: Any, *, text: bool = False) -> Any:
    """``value`` with one change somewhere."""
    if isinstance(value, list) and value and rng.random() < 0.8:
        items = list(value)
        at = rng.randrange(len(items))
        items[at] = mutate_tree(rng, items[at], text=text)
        return items
    if isinstance(value, dict) and value and rng.random() < 0.9:
        entries = dict(value)
        key = rng.choice(list(entries))
        if rng.random() < 0.15:
            del entries[key]
        else:
            entries[key] = mutate_tree(rng, entries[key], text=text)
        return entries
    if isinstance(value, list):
        return _mutate_list(rng, value, text)
    return _mutate_leaf(rng, value, text)


def mutate_msgpack(head: int = 0, blind: float = 0.2) -> Mutate:
    """Change a value of a MessagePack input behind ``head`` bytes; sometimes change bytes blindly."""

    def mutate(rng: Random, pool: Sequence[bytes]) -> bytes:
        data = rng.choice(pool)
        if rng.random() < blind:
            return mutate_bytes(rng, pool)
        front = data[:head]
        if rng.random() < 0.1:
            front = mutate_bytes(rng, [front])
        try:
            value = msgpack.unpackb(data[head:], strict_map_key=False)
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                value = mutate_tree(rng, value)
            return front + msgpack.packb(value)
        except (ValueError, TypeError, OverflowError, RecursionError):
            return mutate_bytes(rng, pool)

    return mutate


# --- text ------------------------------------------------------------------------------------------

_TOKENS = (
    "[",
    "]",
    "{",
    "}",
    '"',
    "'",
    '"""',
    "=",
    ".",
    "#",
    "\n",
    "\\",
    "\\u0000",
    "inf",
    "nan",
    "0x",
    "1e400",
)
_TOKENS += (
    "1979-05-27T07:32:00Z",
    "1979-13-40",
    "07:32:00",
    "[[",
    "]]",
    "\r",
    "\0",
    "é",
    "\U0001f600",
    "true",
)
_TOKENS += ("9" * 30, "-9223372036854775809", "[[a]]\n", "1_0", " = 1", "[" * 9, "a." * 9)
_LARGE_TOKENS = ("9" * 5_000, "0x" + "f" * 5_000, "[" * 1_200, "[" * 150, "{a=" * 400, "{a=" * 90, "a." * 200)


def mutate_text(rng: Random, pool: Sequence[bytes]) -> bytes:
    """Change lines, tokens and characters of a UTF-8 text."""
    lines = rng.choice(pool).decode("utf-8", "replace").splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        at = rng.randrange(len(lines)) if lines else 0
        kind = rng.choice((0, 1, 2, 3, 3, 3, 4, 4))
        if kind == 0 and lines:
            del lines[at]
        elif kind == 1 and lines:
            lines.insert(rng.randint(0, len(lines)), lines[at])
        elif kind == 2:
            other = rng.choice(pool).decode("utf-8", "replace").splitlines(keepends=True) or [""]
            lines.insert(at, rng.choice(other))
        elif kind == 3 and lines:
            key, separator, _ = lines[at].partition("=")
            lines[at] = f"{key}{separator} {toml_value(rng)}\n"
        elif lines:
            line = lines[at]
            here = rng.randint(0, len(line))
            token = rng.choice(_TOKENS if rng.random() < 0.95 else _LARGE_TOKENS)
            lines[at] = line[:here] + token + line[here + rng.choice((0, 0, 1, 3)) :]
    return "".join(lines).encode()


def toml_value(rng: Random) -> str:
    """A value in TOML that is seldom the right one."""
    if rng.random() < 0.05:
        return rng.choice(_LARGE_TOKENS)
    value = edge_value(rng, text=True)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value.replace("\ud800", "\ufffd"))
    if isinstance(value, dict) or value is None:
        return rng.choice(("{}", "{ a = 1 }", "[{}]", "[1, 'a']"))
    return str(value)


def mutate_json(rng: Random, pool: Sequence[bytes]) -> bytes:
    """Change a value of a JSON input; sometimes change the text blindly."""
    if rng.random() < 0.15:
        return mutate_text(rng, pool) if rng.random() < 0.5 else mutate_bytes(rng, pool)
    try:
        value = json.loads(rng.choice(pool))
        for _ in range(rng.choice((1, 1, 2, 3))):
            if isinstance(value, dict) and value.get("params") and rng.random() < 0.85:
                value["params"] = mutate_tree(rng, value["params"], text=True)
            else:
                value = mutate_tree(rng, value, text=True)
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        return mutate_bytes(rng, pool)
