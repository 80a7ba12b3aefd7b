"""Reading and writing Bitcoin's wire primitives: little-endian integers, CompactSize, byte strings."""

from consensus.errors import DecodeError
from consensus.limits import MAX_COMPACT_SIZE


class Reader:
    """A cursor over bytes. Every method raises DecodeError ``truncated`` at the end of the data."""

    __slots__ = ("data", "offset")

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.data = data
        self.offset = offset

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.offset

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        start = self.offset
        end = start + count
        if count < 0 or end > len(self.data):
            raise DecodeError("truncated", f"{count} bytes wanted, {len(self.data) - start} left")
        self.offset = end
        return self.data[start:end]

    def u8(self) -> int:
        """Return one byte."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Return an unsigned 16-bit integer."""
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        """Return an unsigned 32-bit integer."""
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        """Return an unsigned 64-bit integer."""
        return int.from_bytes(self.take(8), "little")

    def i32(self) -> int:
        """Return a signed 32-bit integer."""
        return int.from_bytes(self.take(4), "little", signed=True)

    def i64(self) -> int:
        """Return a signed 64-bit integer."""
        return int.from_bytes(self.take(8), "little", signed=True)

    def compact_size(self) -> int:
        """Return a CompactSize in its shortest form.

        Raises DecodeError ``non-canonical-compactsize`` or ``oversized-compactsize``.
        """
        first = self.u8()
        if first < 0xFD:
            return first
        if first == 0xFD:
            value, least = self.u16(), 0xFD
        elif first == 0xFE:
            value, least = self.u32(), 0x1_0000
        else:
            value, least = self.u64(), 0x1_0000_0000
        if value < least:
            raise DecodeError("non-canonical-compactsize", f"{value} in {first:#x} form")
        if value > MAX_COMPACT_SIZE:
            raise DecodeError("oversized-compactsize", str(value))
        return value

    def var_bytes(self, limit: int = MAX_COMPACT_SIZE) -> bytes:
        """Return a byte string after its CompactSize length; longer than ``limit`` is ``oversized-field``."""
        length = self.compact_size()
        if length > limit:
            raise DecodeError("oversized-field", f"{length} bytes where at most {limit} may stand")
        return self.take(length)

    def finish(self) -> None:
        """Check that everything was read. Raises DecodeError ``trailing-bytes``."""
        if self.offset != len(self.data):
            raise DecodeError("trailing-bytes", f"{self.remaining} bytes after the end")


def compact_size(value: int) -> bytes:
    """Encode ``value`` (0 to 2^64-1) as CompactSize."""
    if value < 0xFD:
        return value.to_bytes(1, "little")
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "little")
    if value <= 0xFFFF_FFFF:
        return b"\xfe" + value.to_bytes(4, "little")
    return b"\xff" + value.to_bytes(8, "little")


def compact_size_width(value: int) -> int:
    """Return how many bytes the CompactSize of ``value`` takes."""
    return 1 if value < 0xFD else 3 if value <= 0xFFFF else 5 if value <= 0xFFFF_FFFF else 9


def var_bytes(data: bytes) -> bytes:
    """Encode a byte string with its CompactSize length before it."""
    return compact_size(len(data)) + data
