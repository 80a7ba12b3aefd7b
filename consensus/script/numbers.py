"""Numbers and truth on the stack: little-endian magnitude, sign in the top bit of the last byte."""

from consensus.limits import MAX_SCRIPT_NUMBER


class BadNumber(ValueError):
    """A stack element that is too long for a number, or not in its shortest form."""


def encode_number(value: int) -> bytes:
    """Return the shortest encoding; zero is the empty string."""
    if value == 0:
        return b""
    magnitude = abs(value)
    raw = bytearray(magnitude.to_bytes((magnitude.bit_length() + 7) // 8, "little"))
    if raw[-1] & 0x80:
        raw.append(0)
    if value < 0:
        raw[-1] |= 0x80
    return bytes(raw)


def decode_number(raw: bytes, *, minimal: bool, max_size: int = MAX_SCRIPT_NUMBER) -> int:
    """Return the number in ``raw``. Raises BadNumber above ``max_size`` bytes, or unless minimal if asked."""
    if len(raw) > max_size:
        raise BadNumber("too long")
    if not raw:
        return 0
    if minimal and not raw[-1] & 0x7F and (len(raw) == 1 or not raw[-2] & 0x80):
        raise BadNumber("not minimal")
    value = int.from_bytes(raw, "little")
    if raw[-1] & 0x80:
        return -(value ^ (0x80 << 8 * (len(raw) - 1)))
    return value


def is_true(raw: bytes) -> bool:
    """Whether a stack element counts as true: any bit set, negative zero excepted."""
    return len(raw) > 0 and (raw[-1] & 0x7F != 0 or any(raw[:-1]))
