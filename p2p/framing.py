"""From socket bytes to messages and back, without I/O.

On the wire a connection is a sequence of records: u16 LE length, then that many bytes of a Noise
message. The plaintexts of the transport records, one after the other, are a stream of frames: u32 LE
length, then a message. Frame and record borders need not coincide: a long message spans records,
and small ones share a record.
"""

from collections import deque
from collections.abc import Callable
from struct import Struct

from consensus.errors import PeerFault
from p2p import limits

_U16 = Struct("<H")
_U32 = Struct("<I")
_U16_BYTES, _U32_BYTES = 2, 4
_FRAME_HEAD_BYTES = 6  # length, array header, type

SizeLimit = Callable[[int, int], int]
"""(array header, type) -> longest message; may raise PeerFault."""


def record(noise_message: bytes) -> bytes:
    """Return a Noise message with its length before it."""
    return _U16.pack(len(noise_message)) + noise_message


def frame(message: bytes) -> bytes:
    """Return an encoded message with its length before it."""
    return _U32.pack(len(message)) + message


class _Stream:
    """Bytes that arrive in pieces and leave in whole parts.

    A piece that comes when nothing waits is kept as it is: mostly it holds exactly one part, which then
    costs one copy.
    """

    __slots__ = ("_at", "_buffer")

    def __init__(self) -> None:
        self._buffer: bytes | bytearray = b""
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        if self._at == len(self._buffer):
            self._buffer = data
        elif isinstance(self._buffer, bytes):
            self._buffer = bytearray(self._buffer[self._at :])
            self._buffer += data
        else:
            del self._buffer[: self._at]
            self._buffer += data
        self._at = 0

    def _cut(self, start: int, end: int) -> bytes:
        """Return what lies between two places; what is before the second has left."""
        self._at = end
        if isinstance(self._buffer, bytes):
            return self._buffer[start:end]
        with memoryview(self._buffer) as view:
            return bytes(view[start:end])


class RecordDecoder(_Stream):
    """Cuts the socket's bytes into Noise messages. Holds at most one record and the last read."""

    __slots__ = ()

    def next_length(self) -> int | None:
        """Return the length of the next record once it is known."""
        if len(self._buffer) - self._at < _U16_BYTES:
            return None
        length: int = _U16.unpack_from(self._buffer, self._at)[0]
        return length

    def next(self) -> bytes | None:
        """Return the next whole record's content, or None."""
        start = self._at + _U16_BYTES
        held = len(self._buffer) - start
        if held < 0:
            return None
        length: int = _U16.unpack_from(self._buffer, self._at)[0]
        return self._cut(start, start + length) if length <= held else None


class FrameDecoder(_Stream):
    """Cuts the plaintext stream into encoded messages.

    The length is judged as soon as the message's type is known, so that no more than the type's
    limit is ever held. One message per call of ``next``: what a message changes (the state of the
    connection) already applies to the limit of the next.
    """

    __slots__ = ("_judged", "_size_limit")

    def __init__(self, size_limit: SizeLimit) -> None:
        super().__init__()
        self._judged = False
        self._size_limit = size_limit

    @property
    def held_bytes(self) -> int:
        """Bytes of messages that are not complete yet."""
        return len(self._buffer) - self._at

    def next(self) -> bytes | None:
        """Return the next whole message or None.

        Raises PeerFault: "frame-malformed", "frame-too-large", or what the size limit raises.
        """
        held = len(self._buffer) - self._at
        if held < _FRAME_HEAD_BYTES:
            return None
        start = self._at + _U32_BYTES
        length: int = _U32.unpack_from(self._buffer, self._at)[0]
        if not self._judged:
            self._judge(length, start)
        if held - _U32_BYTES < length:
            return None
        self._judged = False
        return self._cut(start, start + length)

    def _judge(self, length: int, start: int) -> None:
        if length < limits.MIN_FRAME_BYTES:
            raise PeerFault("frame-malformed", f"a message of {length} bytes")
        limit = self._size_limit(self._buffer[start], self._buffer[start + 1])
        if length > limit:
            raise PeerFault(
                "frame-too-large", f"{length} bytes, type {self._buffer[start + 1]} may have {limit}"
            )
        self._judged = True


class SendQueue:
    """Frames on their way out: urgent ones overtake others between messages, never inside one."""

    __slots__ = ("_bulk", "_rest", "_urgent", "bulk_bytes", "urgent_bytes")

    def __init__(self) -> None:
        self._urgent: deque[bytes] = deque()
        self._bulk: deque[bytes] = deque()
        self._rest: memoryview | None = None
        self.urgent_bytes = 0
        self.bulk_bytes = 0

    @property
    def at_frame_border(self) -> bool:
        """No message is half sent."""
        return self._rest is None

    @property
    def total_bytes(self) -> int:
        """Bytes that wait, what is left of a half-sent message included."""
        return self.urgent_bytes + self.bulk_bytes + (len(self._rest) if self._rest is not None else 0)

    def push(self, framed: bytes, *, urgent: bool) -> None:
        """Add one frame. The owner judges the budget."""
        if urgent:
            self._urgent.append(framed)
            self.urgent_bytes += len(framed)
        else:
            self._bulk.append(framed)
            self.bulk_bytes += len(framed)

    def clear(self) -> None:
        """Forget everything that waits."""
        self._urgent.clear()
        self._bulk.clear()
        self._rest = None
        self.urgent_bytes = self.bulk_bytes = 0

    def next_chunk(self) -> bytes:
        """Return the plaintext of the next Noise message: full, unless the queue runs out."""
        alone = len(self._urgent) == 1 and not self._bulk and self._rest is None
        if alone and self.urgent_bytes <= limits.MAX_NOISE_PLAIN_BYTES:
            self.urgent_bytes = 0
            return self._urgent.popleft()  # as it is: most votes travel alone
        parts: list[bytes | memoryview] = []
        room = limits.MAX_NOISE_PLAIN_BYTES
        while room:
            part = self._next_part()
            if part is None:
                break
            if len(part) > room:
                view = memoryview(part)
                part, self._rest = view[:room], view[room:]
            parts.append(part)
            room -= len(part)
        return b"".join(parts)

    def _next_part(self) -> bytes | memoryview | None:
        if self._rest is not None:
            rest, self._rest = self._rest, None
            return rest
        if self._urgent:
            framed = self._urgent.popleft()
            self.urgent_bytes -= len(framed)
            return framed
        if self._bulk:
            framed = self._bulk.popleft()
            self.bulk_bytes -= len(framed)
            return framed
        return None
