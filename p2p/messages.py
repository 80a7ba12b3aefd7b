"""The messages between peers: one table of types, fields, sizes and classes.

A message is a MessagePack array ``[type, fields...]`` with a fixarray header and a type below 128,
so its first two bytes already tell which size limit applies. Decoding reads field by field with
nesting switched off, so hostile bytes cannot make it allocate more than their own size. Fields
after the known ones are skipped: a later version may append some.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from operator import call
from typing import Any, NamedTuple

import msgpack

from consensus.canonical import pack_plain
from consensus.errors import PeerFault
from p2p import limits

PROTOCOL_VERSION = 1
MIN_PROTOCOL_VERSION = 1

KIND_TX = 0
KIND_BLOCK = 1

SERVICE_BLOCKS = 1
"""Serves every block and certificate from genesis."""
SERVICE_VALIDATOR = 2
"""Takes part in consensus (a claim; certificates decide)."""
SERVICE_LIMITED = 4
"""Serves only its last ``limits.SYNC_LIMITED_BLOCKS`` blocks: the older were pruned."""


class Hello(NamedTuple):
    """First message of both sides. ``chain_id``, ``tip_hash``: 32 bytes; ``identity``: Ed25519 key."""

    version: int
    chain_id: bytes
    identity: bytes
    height: int
    tip_hash: bytes
    services: int
    user_agent: str
    time_s: int
    listen_port: int


class Ping(NamedTuple):
    """Asks for a Pong with the same nonce."""

    nonce: int


class Pong(NamedTuple):
    """Answers a Ping."""

    nonce: int


class Inv(NamedTuple):
    """Announces objects: ``kind`` KIND_TX (wtxids) or KIND_BLOCK (block hashes)."""

    kind: int
    hashes: list[bytes]


class GetData(NamedTuple):
    """Asks for objects: transactions come in Tx, blocks one by one in Body, the rest in NotFound."""

    kind: int
    hashes: list[bytes]


class Tx(NamedTuple):
    """Raw transactions for the mempool: asked for, or pushed."""

    txs: list[bytes]


class NotFound(NamedTuple):
    """Objects of a GetData that the sender does not have."""

    kind: int
    hashes: list[bytes]


class Status(NamedTuple):
    """The sender's new tip."""

    height: int
    tip_hash: bytes


class GetBlocks(NamedTuple):
    """Asks for up to ``max_blocks`` blocks from height ``from_height`` on."""

    from_height: int
    max_blocks: int


class Blocks(NamedTuple):
    """Raw blocks in height order and the commit certificate of the last; empty if none is at hand."""

    from_height: int
    blocks: list[bytes]
    certificate: bytes


class GetBody(NamedTuple):
    """Asks for one block by hash, committed or proposed."""

    block_hash: bytes


class Body(NamedTuple):
    """The raw block, or None."""

    block_hash: bytes
    raw: bytes | None


class GetTxs(NamedTuple):
    """Asks for transactions of a proposed block by wtxid."""

    block_hash: bytes
    wtxids: list[bytes]


class Txs(NamedTuple):
    """Answers a GetTxs, in one or several messages; what the sender lacks is left out."""

    block_hash: bytes
    txs: list[bytes]


class Bft(NamedTuple):
    """A consensus message, opaque to this package."""

    payload: bytes


class Bye(NamedTuple):
    """Why the sender closes the connection; the last message on it."""

    code: str


class GetHeaders(NamedTuple):
    """Asks for headers behind the first of ``locator`` that is on the receiver's chain (pow)."""

    locator: list[bytes]


class Headers(NamedTuple):
    """Raw headers of 80 bytes in chain order: an answer, or the announcement of a new tip (pow)."""

    headers: list[bytes]


class Unknown(NamedTuple):
    """A message of a type that this version does not know."""

    type_code: int


Message = (
    Hello
    | Ping
    | Pong
    | Inv
    | GetData
    | Tx
    | NotFound
    | Status
    | GetBlocks
    | Blocks
    | GetBody
    | Body
    | GetTxs
    | Txs
    | Bft
    | Bye
    | GetHeaders
    | Headers
)

Check = Callable[[Any], object]
"""Takes the value of a field, returns it or raises ValueError with the reason."""


def _uint(bits: int) -> Check:
    top = (1 << bits) - 1

    def check(value: Any) -> int:
        if type(value) is not int or not 0 <= value <= top:
            raise ValueError(f"must be an integer of at most {bits} bits")
        return value

    return check


def _one_of(*allowed: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or value not in allowed:
            raise ValueError(f"must be one of {allowed}")
        return value

    return check


def _binary(smallest: int, largest: int, *, or_none: bool = False) -> Check:
    def check(value: Any) -> bytes | None:
        if value is None and or_none:
            return None
        if type(value) is not bytes or not smallest <= len(value) <= largest:
            raise ValueError(f"must be {smallest} to {largest} bytes")
        return value

    return check


def _text(max_chars: int) -> Check:
    def check(value: Any) -> str:
        if type(value) is not str or not (
            len(value) <= max_chars and value.isascii() and value.isprintable()
        ):
            raise ValueError(f"must be at most {max_chars} printable ASCII characters")
        return value

    return check


@dataclass(frozen=True, slots=True)
class Binaries:
    """A field that is an array of byte strings: its length is judged before its items are read."""

    max_items: int
    smallest: int
    largest: int
    min_items: int = 0

    def read(self, unpacker: Any) -> list[bytes]:
        """Read the array from a msgpack.Unpacker. Raises ValueError with the reason."""
        count = unpacker.read_array_header()
        if not self.min_items <= count <= self.max_items:
            raise ValueError(f"must have {self.min_items} to {self.max_items} items")
        items = list(islice(unpacker, count))
        if len(items) != count:
            raise ValueError("is cut off")
        if items and (
            set(map(type, items)) != {bytes}
            or min(map(len, items)) < self.smallest
            or max(map(len, items)) > self.largest
        ):
            raise ValueError(f"must hold items of {self.smallest} to {self.largest} bytes")
        return items


Field = Check | Binaries

_HASH = _binary(32, 32)
_HEIGHT = _uint(32)
_KIND = _one_of(KIND_TX, KIND_BLOCK)


def _hashes(max_items: int) -> Binaries:
    return Binaries(max_items, 32, 32, min_items=1)


@dataclass(frozen=True, slots=True)
class Spec:
    """One line of the table.

    ``rate`` names the class in ``limits.RATES``; ``urgent`` messages overtake others in the send
    queue; a message with ``answers`` is accepted only while a message of that type is unanswered.
    """

    code: int
    message: type[Any]
    fields: tuple[tuple[str, Field], ...]
    max_bytes: int
    rate: str
    urgent: bool = False
    answers: type[Any] | None = None


_HASHES_BYTES = 34 * limits.MAX_INV_HASHES + 16
_BLOCKS_BYTES = limits.BLOCKS_REPLY_BYTES + limits.MAX_BLOCK_BYTES + limits.MAX_CERTIFICATE_BYTES + 2_048
_ONE_BLOCK_BYTES = limits.MAX_BLOCK_BYTES + 64
_INVENTORY = (("kind", _KIND), ("hashes", _hashes(limits.MAX_INV_HASHES)))

TABLE: tuple[Spec, ...] = (
    Spec(
        1,
        Hello,
        (
            ("version", _uint(16)),
            ("chain_id", _HASH),
            ("identity", _HASH),
            ("height", _HEIGHT),
            ("tip_hash", _HASH),
            ("services", _uint(64)),
            ("user_agent", _text(limits.MAX_USER_AGENT_CHARS)),
            ("time_s", _uint(48)),
            ("listen_port", _uint(16)),
        ),
        512,
        "control",
        urgent=True,
    ),
    Spec(2, Ping, (("nonce", _uint(64)),), 16, "control", urgent=True),
    Spec(3, Pong, (("nonce", _uint(64)),), 16, "control", urgent=True),
    Spec(4, Inv, _INVENTORY, _HASHES_BYTES, "gossip"),
    Spec(5, GetData, _INVENTORY, _HASHES_BYTES, "gossip"),
    Spec(
        6,
        Tx,
        (("txs", Binaries(limits.MAX_TXS_PER_MESSAGE, 1, limits.MAX_RELAY_TX_BYTES, min_items=1)),),
        limits.MAX_TX_MESSAGE_BYTES,
        "gossip",
    ),
    Spec(7, NotFound, _INVENTORY, _HASHES_BYTES, "gossip"),
    Spec(8, Status, (("height", _HEIGHT), ("tip_hash", _HASH)), 64, "status", urgent=True),
    Spec(9, GetBlocks, (("from_height", _HEIGHT), ("max_blocks", _uint(16))), 64, "fetch"),
    Spec(
        10,
        Blocks,
        (
            ("from_height", _HEIGHT),
            ("blocks", Binaries(limits.MAX_BLOCKS_PER_REPLY, 1, limits.MAX_BLOCK_BYTES)),
            ("certificate", _binary(0, limits.MAX_CERTIFICATE_BYTES)),
        ),
        _BLOCKS_BYTES,
        "reply",
        answers=GetBlocks,
    ),
    Spec(11, GetBody, (("block_hash", _HASH),), 64, "fetch"),
    Spec(
        12,
        Body,
        (("block_hash", _HASH), ("raw", _binary(1, limits.MAX_BLOCK_BYTES, or_none=True))),
        _ONE_BLOCK_BYTES,
        "reply",
        answers=GetBody,
    ),
    Spec(
        13,
        GetTxs,
        (("block_hash", _HASH), ("wtxids", _hashes(limits.MAX_GETTXS_HASHES))),
        34 * limits.MAX_GETTXS_HASHES + 64,
        "request",
        urgent=True,
    ),
    Spec(
        14,
        Txs,
        (("block_hash", _HASH), ("txs", Binaries(limits.MAX_GETTXS_HASHES, 1, limits.MAX_BLOCK_BYTES))),
        limits.MAX_BLOCK_BYTES + 1_024,
        "reply",
        urgent=True,
        answers=GetTxs,
    ),
    Spec(
        15,
        Bft,
        (("payload", _binary(1, limits.MAX_BFT_BYTES)),),
        limits.MAX_BFT_BYTES + 64,
        "bft",
        urgent=True,
    ),
    Spec(16, Bye, (("code", _text(limits.MAX_CODE_CHARS)),), 64, "control", urgent=True),
    Spec(
        17,
        GetHeaders,
        (("locator", _hashes(limits.MAX_LOCATOR_HASHES)),),
        34 * limits.MAX_LOCATOR_HASHES + 16,
        "fetch",
    ),
    Spec(
        18,
        Headers,
        (("headers", Binaries(limits.MAX_HEADERS, limits.HEADER_BYTES, limits.HEADER_BYTES)),),
        82 * limits.MAX_HEADERS + 16,
        "headers",
        urgent=True,
    ),
)

BY_CODE: dict[int, Spec] = {spec.code: spec for spec in TABLE}
BY_TYPE: dict[type[Any], Spec] = {spec.message: spec for spec in TABLE}


def _checks(spec: Spec) -> tuple[Check, ...]:
    """Return how to check each field but the arrays."""
    return tuple(field for _, field in spec.fields if not isinstance(field, Binaries))


_FLAT: dict[int, tuple[Check, ...]] = {
    spec.code: _checks(spec) for spec in TABLE if len(_checks(spec)) == len(spec.fields)
}
"""The checks of the messages without arrays, which can be read at once."""

_MAX_FIELDS = 15
"""A fixarray holds no more, the type included."""


def encode(message: Message) -> bytes:
    """Return the message as MessagePack. Raises ValueError if it exceeds its type's size limit."""
    spec = BY_TYPE[type(message)]
    data = pack_plain([spec.code, *message])
    if len(data) > spec.max_bytes:
        raise ValueError(f"{spec.message.__name__} of {len(data)} bytes exceeds {spec.max_bytes}")
    return data


def find_spec(first: int, second: int) -> Spec | None:
    """Return the line of the table for a message that starts with these two bytes; None if there is none.

    Raises PeerFault "frame-malformed" if no message can start so.
    """
    if not 0x91 <= first <= 0x9F or second > 0x7F:
        raise PeerFault("frame-malformed", "a message is a short array that starts with its type")
    return BY_CODE.get(second)


def size_limit(first: int, second: int) -> int:
    """Return how long a message may be that starts with these two bytes. Raises as ``find_spec``."""
    spec = find_spec(first, second)
    return limits.UNKNOWN_MESSAGE_BYTES if spec is None else spec.max_bytes


def decode(data: bytes) -> Message | Unknown:
    """Parse one message. Raises PeerFault "bad-message" that names the type and the field."""
    size = len(data)
    if size >= limits.MIN_FRAME_BYTES:
        spec = find_spec(data[0], data[1])
        if spec is None and size <= limits.UNKNOWN_MESSAGE_BYTES:
            return Unknown(data[1])
        if spec is not None and size <= spec.max_bytes:
            return _decode_flat(spec, data) or _decode_by_field(spec, data)
    raise PeerFault("bad-message", "length does not fit the type")


def _decode_flat(spec: Spec, data: bytes) -> Message | None:
    """Read a short message without arrays at once; None for others, and if anything is wrong or unknown.

    A long one might turn out to be a tree of empty arrays, many times its size in memory.
    """
    checks = _FLAT.get(data[1])
    if checks is None or len(data) > limits.FLAT_MESSAGE_BYTES:
        return None
    try:
        _, *values = msgpack.unpackb(data, max_array_len=_MAX_FIELDS, max_map_len=0, max_ext_len=0)
        if len(values) != len(checks):
            return None
        message: Message = spec.message(*map(call, checks, values))
    except ValueError:  # all that msgpack raises, too
        return None
    return message


def _decode_by_field(spec: Spec, data: bytes) -> Message:
    """Read field by field, so that what is wrong can be named; skip what a later version appended."""
    unpacker = msgpack.Unpacker(
        None, max_buffer_size=len(data), max_array_len=0, max_map_len=0, max_ext_len=0, read_size=1
    )
    unpacker.feed(data)
    present = unpacker.read_array_header() - 1
    unpacker.skip()
    if present < len(spec.fields):
        raise _bad(spec, spec.fields[present][0], "is missing")
    values: list[object] = []
    try:
        for _, field in spec.fields:
            values.append(field.read(unpacker) if isinstance(field, Binaries) else field(unpacker.unpack()))
        for _ in range(present - len(spec.fields)):
            unpacker.skip()
    except (ValueError, msgpack.UnpackException) as error:
        name = spec.fields[len(values)][0] if len(values) < len(spec.fields) else "(unknown)"
        raise _bad(spec, name, str(error) or "is cut off or not MessagePack") from None
    if unpacker.tell() != len(data):
        raise _bad(spec, "(end)", "bytes follow the last field")
    message: Message = spec.message(*values)
    if (
        isinstance(message, Inv | GetData | NotFound)
        and message.kind == KIND_BLOCK
        and len(message.hashes) > limits.MAX_BLOCK_HASHES
    ):
        raise _bad(
            spec, "hashes", f"must have at most {limits.MAX_BLOCK_HASHES} items where blocks are meant"
        )
    return message


def _bad(spec: Spec, field: str, reason: str) -> PeerFault:
    return PeerFault("bad-message", f"{spec.message.__name__.lower()}.{field} {reason}")
