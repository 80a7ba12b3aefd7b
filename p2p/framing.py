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
_FRAME_HEAD_BYTES = 6  # length, array header, type

SizeLimit = Callable[[int, int], int]
"""(array header, type) -> longest message; may raise PeerFault."""


def record(noise_message: bytes) -> bytes:
    """Return a Noise message with its length before it."""
    return _U16.pack(len(noise_message)) + noise_message


def frame(message: bytes) -> bytes:
    """Return an encoded message with its length before it."""
    return _U32.pack(len(message)) + message


class RecordDecoder:
    """Cuts the socket's bytes into Noise messages. Holds at most one record and the last read."""

    __slots__ = ("_at", "_buffer")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Add bytes from the socket."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next_length(self) -> int | None:
        """Return the length of the next record once it is known."""
        if len(self._buffer) - self._at < _U16.size:
            return None
        length: int = _U16.unpack_from(self._buffer, self._at)[0]
        return length

    def next(self) -> bytes | None:
        """Return the next whole record's content, or None."""
        length = self.next_length()
        if length is None:
            return None
        start = self._at + _U16.size
        if len(self._buffer) - start < length:
            return None
        self._at = start + length
        with memoryview(self._buffer) as view:
            return bytes(view[start : self._at])


class FrameDecoder:
    """Cuts the plaintext stream into encoded messages.

    The length is judged as soon as the message's type is known, so that no more than the type's
    limit is ever held. One message per call of ``next``: what a message changes (the state of the
    connection) already applies to the limit of the next.
    """

    __slots__ = ("_at", "_buffer", "_judged", "_size_limit")

    def __init__(self, size_limit: SizeLimit) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._judged = False
        self._size_limit = size_limit

    @property
    def held_bytes(self) -> int:
        """Bytes of messages that are not complete yet."""
        return len(self._buffer) - self._at

    def feed(self, plain: bytes) -> None:
        """Add decrypted bytes."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += plain

    def next(self) -> bytes | None:
        """Return the next whole message or None.

        Raises PeerFault: "frame-malformed", "frame-too-large", or what the size limit raises.
        """
        held = self.held_bytes
        if held < _FRAME_HEAD_BYTES:
            return None
        start = self._at + _U32.size
        length: int = _U32.unpack_from(self._buffer, self._at)[0]
        if not self._judged:
            self._judge(length, start)
        if held - _U32.size < length:
            return None
        self._judged = False
        self._at = start + length
        with memoryview(self._buffer) as view:
            return bytes(view[start : self._at])

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
