"""One connection to a peer, without I/O: bytes and the time in, events and bytes out.

Theory of operation
-------------------

::

    HANDSHAKING --secured--> HELLO --greeted--> READY
         |                     |                  |
         +------- closed ------+----- closed -----+--> CLOSED

A connection starts with the Noise handshake; when it ends both sides know each other's static key
and send Hello, and nothing else (but Bye) is accepted before the peer's. A Hello whose identity is
not the owner of the static key, or not the one we dialled, or of another chain, closes the
connection. From READY on messages flow, each charged to a token bucket of its class.

The owner feeds ``receive`` and ``tick``, carries out the events in order, and writes what ``wire``
returns, also after a Closed event (the last bytes say goodbye). The connection never raises for
what the peer did: a fault becomes a Fault or Closed event.
"""

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, NamedTuple

from consensus.errors import PeerFault
from p2p import limits
from p2p.framing import FrameDecoder, RecordDecoder, SendQueue, frame, record
from p2p.limits import DEFAULT_LIMITS, NetworkLimits, Rate
from p2p.messages import (
    BY_TYPE,
    KIND_BLOCK,
    MIN_PROTOCOL_VERSION,
    Bye,
    GetBlocks,
    GetBody,
    GetData,
    GetTxs,
    Hello,
    Message,
    Ping,
    Pong,
    Unknown,
    decode,
    encode,
    find_spec,
)
from p2p.noise import NodeKeys, NoiseSession, static_of
from p2p.rate import TokenBucket

_HELLO_CODE = BY_TYPE[Hello].code
_MAX_CREDIT = 1_000_000  # answers owed to us; only keeps the counter small


class State(Enum):
    """Where a connection stands."""

    HANDSHAKING = "handshaking"
    HELLO = "hello"
    READY = "ready"
    CLOSED = "closed"


_HANDSHAKING, _HELLO, _READY, _CLOSED = State
"""Names of their own, for what every message passes: Python 3.11 finds a member of a class by a call."""


class Step(Enum):
    """What moves it on."""

    SECURED = "secured"
    GREETED = "greeted"
    CLOSED = "closed"


TRANSITIONS: dict[State, dict[Step, State]] = {
    State.HANDSHAKING: {Step.SECURED: State.HELLO, Step.CLOSED: State.CLOSED},
    State.HELLO: {Step.GREETED: State.READY, Step.CLOSED: State.CLOSED},
    State.READY: {Step.CLOSED: State.CLOSED},
    State.CLOSED: {},
}


class Secured(NamedTuple):
    """The peer's static key is known; nothing that proves ours to it has been written yet if we dialled."""

    static_key: bytes


class Greeted(NamedTuple):
    """The peer's Hello was accepted: the connection is ready."""

    hello: Hello


class Received(NamedTuple):
    """A message for the node."""

    message: Message


class Fault(NamedTuple):
    """The peer did wrong, or broke a rule that does not end the connection."""

    code: str
    reason: str


class Throttle(NamedTuple):
    """Do not read from the socket for so long."""

    delay_ms: int


class Closed(NamedTuple):
    """The connection ended. ``by_peer`` tells that the peer's Bye or its end of file did it."""

    code: str
    reason: str
    by_peer: bool


Event = Secured | Greeted | Received | Fault | Throttle | Closed


_QUESTIONS = (GetBlocks, GetBody, GetData, GetTxs)


def _answers_allowed(message: Message) -> tuple[type[Any], int]:
    """Return (question, number): how many answers to what kind of question the message allows."""
    if isinstance(message, GetTxs):
        return GetTxs, len(message.wtxids)  # in as many parts as it has ids
    if isinstance(message, GetData):
        return GetBody, len(message.hashes) if message.kind == KIND_BLOCK else 0
    return type(message), 1


class Connection:
    """The state machine. ``pinned`` is the Ed25519 key that the dialled peer must have."""

    def __init__(
        self,
        keys: NodeKeys,
        hello_source: Callable[[], Hello],
        now_ms: int,
        *,
        initiator: bool,
        pinned: bytes | None = None,
        network_limits: NetworkLimits = DEFAULT_LIMITS,
        ephemeral: bytes | None = None,
    ) -> None:
        self.state = State.HANDSHAKING
        self.initiator = initiator
        self.remote_static: bytes | None = None
        self.remote_hello: Hello | None = None
        self.bytes_sent = 0
        self.bytes_received = 0
        self.messages_sent = 0
        self.messages_received = 0
        self.messages_dropped = 0
        self.unknown_messages = 0
        self.ping_ms: int | None = None
        self._keys = keys
        self._hello_source = hello_source
        self._our_hello: Hello | None = None
        self._pinned = pinned
        self._limits = network_limits
        self._noise = NoiseSession(keys, initiator=initiator, ephemeral=ephemeral)
        self._records = RecordDecoder()
        self._frames = FrameDecoder(self._size_limit)
        self._queue = SendQueue()
        self._wire: list[bytes] = []
        self._credits: dict[type[Any], int] = {}
        self._buckets = {name: TokenBucket(rate, now_ms) for name, rate in limits.RATES.items()}
        self._bytes_bucket = TokenBucket(limits.BYTES_RATE, now_ms)
        self._unknown_bucket = TokenBucket(Rate(1, limits.UNKNOWN_PER_MINUTE), now_ms)
        self._deadline_ms = now_ms + network_limits.handshake_timeout_ms
        self._frame_since_ms: int | None = None
        self._next_ping_ms = 0
        self._ping: tuple[int, int] | None = None  # nonce, sent at
        self._ping_nonce = 0
        if initiator:
            self._wire.append(record(self._noise.write_handshake()))

    @property
    def closed(self) -> bool:
        """Nothing more will be taken or queued."""
        return self.state is _CLOSED

    # --- bytes and time in ---------------------------------------------------------------------------------

    def receive(self, data: bytes, now_ms: int) -> Iterator[Event]:
        """Take bytes from the socket and yield what follows from them, as it follows.

        A generator: the owner may call ``send`` and ``close`` between two events, and what it
        did counts for the next.
        """
        if self.state is _CLOSED:
            return
        self.bytes_received += len(data)
        records, frames = self._records, self._frames
        records.feed(data)
        try:
            while self.state is not _CLOSED:
                if self.state is _HANDSHAKING:
                    self._check_length()
                noise_message = records.next()
                if noise_message is None:
                    break
                if self.state is _HANDSHAKING:
                    yield from self._shake(noise_message)
                    continue
                plain = self._noise.decrypt(noise_message)
                if not plain:
                    raise PeerFault("frame-malformed", "empty Noise message")
                frames.feed(plain)
                while self.state is not _CLOSED and (message := frames.next()) is not None:
                    if (event := self._take(message, now_ms)) is not None:
                        yield event
                self._watch_frame(now_ms)
        except PeerFault as fault:
            yield from self._fail(fault.code, fault.reason)
        if self.state is _CLOSED:
            return
        delay_ms = self._bytes_bucket.owe(now_ms, len(data))
        if delay_ms:
            yield Throttle(delay_ms)

    def tick(self, now_ms: int) -> list[Event]:
        """Look at the deadlines; call a few times per second."""
        if self.state is _CLOSED:
            return []
        if self.state is not _READY:
            if now_ms >= self._deadline_ms:
                return self._fail("handshake-timeout", f"in state {self.state.value}")
            return []
        if self._frame_since_ms is not None:
            # A pong cannot overtake the message that is arriving, so this deadline replaces the other.
            if now_ms - self._frame_since_ms >= self._limits.frame_timeout_ms:
                return self._fail("frame-timeout", "a message did not end in time")
            return []
        if self._ping is not None:
            if now_ms - self._ping[1] >= self._limits.pong_timeout_ms:
                return self._fail("ping-timeout", "")
        elif now_ms >= self._next_ping_ms:
            self.probe(now_ms)
        return []

    def probe(self, now_ms: int) -> None:
        """Ask now whether the peer is still there."""
        if self.state is _READY and self._ping is None:
            self._ping_nonce += 1
            self._ping = (self._ping_nonce, now_ms)
            self.send(Ping(self._ping_nonce))

    def end_of_file(self) -> list[Event]:
        """The socket ended."""
        if self.state is _CLOSED:
            return []
        self._queue.clear()
        self._move(Step.CLOSED)
        return [Closed("connection-lost", "", by_peer=True)]

    # --- messages and bytes out ----------------------------------------------------------------------------

    def send(self, message: Message) -> bool:
        """Queue a message. False if it was dropped: not ready, or its budget is used up.

        Raises OverflowError if a consensus message does not fit: the connection is then useless.
        """
        return self.send_framed(message, frame(encode(message)))

    def send_framed(self, message: Message, framed: bytes) -> bool:
        """Queue a message that was framed once for many peers; as ``send``."""
        if self.state is not _READY:
            return False
        spec = BY_TYPE[type(message)]
        if spec.urgent:
            held, budget = self._queue.urgent_bytes, self._limits.send_urgent_bytes
        else:
            held, budget = self._queue.bulk_bytes, self._limits.send_bulk_bytes
        if held and held + len(framed) > budget:
            if spec.rate == "bft":
                raise OverflowError("send-queue-full")
            self.messages_dropped += 1
            return False
        self._queue.push(framed, urgent=spec.urgent)
        self.messages_sent += 1
        if isinstance(message, _QUESTIONS):
            question, answers = _answers_allowed(message)
            self._credits[question] = min(_MAX_CREDIT, self._credits.get(question, 0) + answers)
        return True

    @property
    def queued_bytes(self) -> int:
        """Plaintext bytes that wait to be written."""
        return self._queue.total_bytes

    @property
    def bulk_room(self) -> int:
        """Bytes of bulk that can still be queued."""
        if self.state is not _READY:
            return 0
        return max(0, self._limits.send_bulk_bytes - self._queue.bulk_bytes)

    def wire(self) -> bytes:
        """Return the next bytes for the socket, about 64 KiB; b"" if there is nothing to write."""
        if self._wire:
            data = b"".join(self._wire)
            self._wire.clear()
        else:
            chunk = self._queue.next_chunk()
            if not chunk:
                return b""
            data = record(self._noise.encrypt(chunk))
        self.bytes_sent += len(data)
        return data

    def close(self, code: str, reason: str = "") -> list[Event]:
        """End the connection from our side; tells the peer the code if it can still be said."""
        if self.state is _CLOSED:
            return []
        if self.state is _HANDSHAKING:
            self._wire.clear()  # above all the message that would tell a stranger who we are
        elif self._queue.at_frame_border:
            self._wire.append(record(self._noise.encrypt(frame(encode(Bye(code))))))
        self._queue.clear()
        self._move(Step.CLOSED)
        return [Closed(code, reason, by_peer=False)]

    # --- the handshake -------------------------------------------------------------------------------------

    def _check_length(self) -> None:
        length = self._records.next_length()
        if length is not None and length != self._noise.read_size:
            raise PeerFault("handshake-malformed", "wrong length")

    def _shake(self, noise_message: bytes) -> Iterator[Event]:
        noise = self._noise
        noise.read_handshake(noise_message)
        if noise.remote_static is not None and self.remote_static is None:
            self.remote_static = noise.remote_static
            self._check_static(noise.remote_static)
            yield Secured(noise.remote_static)
            if self.closed:
                return
        if noise.writes_next:
            self._wire.append(record(noise.write_handshake()))
        if noise.finished:
            self._move(Step.SECURED)
            self._our_hello = self._hello_source()
            self._wire.append(record(noise.encrypt(frame(encode(self._our_hello)))))
            self.messages_sent += 1

    def _check_static(self, static_key: bytes) -> None:
        if static_key == self._keys.static_public:
            raise PeerFault("self-connect", "the peer is this node")
        if self._pinned is not None and static_key != static_of(self._pinned):
            raise PeerFault("identity-mismatch", f"the peer is not {self._pinned.hex()}")

    def _greet(self, hello: Hello, now_ms: int) -> Greeted:
        ours = self._our_hello
        if ours is None or self.remote_static is None:
            raise RuntimeError("hello before the handshake ended")
        if static_of(hello.identity) != self.remote_static or self._pinned not in (None, hello.identity):
            raise PeerFault("identity-mismatch", "the identity in hello does not own the static key")
        if hello.version < MIN_PROTOCOL_VERSION:
            raise PeerFault("obsolete-version", f"{hello.version}, at least {MIN_PROTOCOL_VERSION} is needed")
        if hello.chain_id != ours.chain_id:
            raise PeerFault(
                "wrong-chain", f"{hello.chain_id[::-1].hex()}, ours is {ours.chain_id[::-1].hex()}"
            )
        self.remote_hello = hello
        self._next_ping_ms = now_ms
        self._move(Step.GREETED)
        return Greeted(hello)

    # --- messages in ---------------------------------------------------------------------------------------

    def _size_limit(self, first: int, type_code: int) -> int:
        """Judge the head of a message before its body is buffered."""
        spec = find_spec(first, type_code)
        if self.state is _HELLO or type_code == _HELLO_CODE:
            kind = Unknown if spec is None else spec.message
            if self.state is not _HELLO or kind not in (Hello, Bye):
                raise PeerFault("unexpected-message", f"type {type_code} in state {self.state.value}")
        if spec is None:
            return limits.UNKNOWN_MESSAGE_BYTES
        if spec.answers is not None and not self._credits.get(spec.answers):
            raise PeerFault("unrequested-message", spec.message.__name__.lower())
        return spec.max_bytes

    def _watch_frame(self, now_ms: int) -> None:
        """Note since when a message is under way."""
        if self._frames.held_bytes == 0:
            self._frame_since_ms = None
        elif self._frame_since_ms is None:
            self._frame_since_ms = now_ms

    def _take(self, data: bytes, now_ms: int) -> Event | None:
        """Take one message; its fault ends the connection only before Hello."""
        self._frame_since_ms = None
        self.messages_received += 1
        try:
            return self._judge(decode(data), 1 + len(data) // limits.MESSAGE_TOKEN_BYTES, now_ms)
        except PeerFault as fault:
            if self.state is not _READY:
                raise
            return Fault(fault.code, fault.reason)

    def _judge(self, message: Message | Unknown, tokens: int, now_ms: int) -> Event | None:
        """Return what a message means for the owner, if anything."""
        if isinstance(message, Unknown):
            self.unknown_messages += 1
            allowed = self._unknown_bucket.take(now_ms)
            return None if allowed else Fault("unknown-flood", f"type {message.type_code}")
        if isinstance(message, Hello):
            return self._greet(message, now_ms)
        if isinstance(message, Bye):
            self._move(Step.CLOSED)
            return Closed("remote-closed", message.code, by_peer=True)
        spec = BY_TYPE[type(message)]
        if spec.answers is not None:
            self._credits[spec.answers] -= 1
        elif not self._buckets[spec.rate].take(now_ms, tokens):
            self.messages_dropped += 1
            # A node that syncs announces many tips; only the last matters.
            return None if spec.rate == "status" else Fault("rate-exceeded", spec.message.__name__.lower())
        if isinstance(message, Ping):
            self.send(Pong(message.nonce))
            return None
        if isinstance(message, Pong):
            self._take_pong(message, now_ms)
            return None
        return Received(message)

    def _take_pong(self, pong: Pong, now_ms: int) -> None:
        if self._ping is None or self._ping[0] != pong.nonce:
            raise PeerFault("unrequested-message", "pong")
        self.ping_ms = now_ms - self._ping[1]
        self._ping = None
        self._next_ping_ms = now_ms + self._limits.ping_interval_ms

    # --- ends ----------------------------------------------------------------------------------------------

    def _fail(self, code: str, reason: str) -> list[Event]:
        return [Fault(code, reason), *self.close(code, reason)]

    def _move(self, step: Step) -> None:
        self.state = TRANSITIONS[self.state][step]
