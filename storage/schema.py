"""What lies under which LevelDB key, and how values are packed.

Integers in keys are big-endian, so that LevelDB's byte order is numeric order; integers in values
are little-endian. Hashes are in internal (wire) byte order.

====== ======================= =====================================================================
prefix key after the prefix    value
====== ======================= =====================================================================
``V``                          schema version, u32
``I``                          chain id, 32 bytes (hash of the genesis block)
``Q``                          number of the last batch, u64
``F``                          marks up to this batch were removed, u64
``m``  batch number u64        empty: the mark that this batch arrived (see ``storage.index``)
``T``                          tip: u32 height, 32 bytes block hash, encoded ChainTip (opaque here)
``C``                          coins tip: u32 height, 32 bytes block hash of the block at which ``c`` stands
``M``                          where a migration under way goes on (see ``storage.migrations``)
``P``                          pruned: u32 height below which bodies are absent, u32 first segment kept
``W``                          watermark: u32 segment, u32 offset; all records before it are in ``b``
``h``  height u32              active chain: 32 bytes block hash, 80 bytes header
``b``  block hash              u32 height, then for body, undo, certificate: u32 segment, offset, length
``p``  height u32, block hash  empty: a body that is not on the active chain
``c``  prevout, 36 bytes       coin (see ``consensus.coins``)
``s``  key of contract state   value of contract state
``t``  txid                    u32 height, u32 index in the block, first 8 bytes of the block hash
``n``  block hash              u32 height: a header of any branch (pow)
``w``  height u32, block hash  80 bytes header, work of the chain up to it, 32 bytes big-endian (pow)
``x``  block hash              code of the rule by which the block is invalid (pow)
``r``  height u32              32 bytes block hash, state root after that block
``e``  height u32              what proves the block that ended a round there (bft): it outlives the body
``i``  name of an index        how far an optional index is (``Progress``); absent: see ``storage.indexes``
``a``  script hash, height     one entry of an address: key and value in ``storage.indexes``
``u``  script hash, height     one unspent output of an address: key and value in ``storage.indexes``
====== ======================= =====================================================================
"""

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

SCHEMA_VERSION = 2

VERSION = b"V"
CHAIN_ID = b"I"
SEQUENCE = b"Q"
MARK_FLOOR = b"F"
MARK = b"m"
TIP = b"T"
COINS_TIP = b"C"
MIGRATION = b"M"
PRUNED = b"P"
WATERMARK = b"W"
HEADER = b"h"
BLOCK = b"b"
PENDING = b"p"
COIN = b"c"
STATE = b"s"
TX = b"t"
HEADER_HEIGHT = b"n"
BRANCH = b"w"
INVALID = b"x"
STATE_ROOT = b"r"
ROUND_END = b"e"
PROGRESS = b"i"
HISTORY = b"a"
UNSPENT = b"u"

U32 = Struct("<I")
U64 = Struct("<Q")
_U32_KEY = Struct(">I")
_U64_KEY = Struct(">Q")
_TIP = Struct("<I32s")
_WATERMARK = Struct("<II")
_BLOCK = Struct("<10I")
_TX = Struct("<II8s")
_PROGRESS = Struct("<BBiI32s")
_ABSENT = 0xFFFFFFFF
_WORK_BYTES = 32


class Position(NamedTuple):
    """Where a record lies: segment number, offset of the record, length of its payload, bytes."""

    segment: int
    offset: int
    length: int


class BlockRecords(NamedTuple):
    """The height of a block and where its segment records lie, as far as they exist."""

    height: int
    body: Position | None = None
    undo: Position | None = None
    certificate: Position | None = None


class Mode(IntEnum):
    """What is done with an optional index."""

    KEPT = 0
    """The batch that connects a block also enters it."""
    FOLLOW = 1
    """It follows the active chain in the background."""
    DROP = 2
    """It is being removed."""
    OFF = 3


class Phase(IntEnum):
    """What is under way with the block that a ``Progress`` names."""

    WHOLE = 0
    CONNECTING = 1
    DISCONNECTING = 2


class Progress(NamedTuple):
    """How far an index is: ``done`` entries of the block are written (or taken back), all if it is WHOLE.

    Height -1 stands for the place before genesis.
    """

    mode: Mode
    phase: Phase = Phase.WHOLE
    height: int = -1
    done: int = 0
    block_hash: bytes = bytes(32)


def header_key(height: int) -> bytes:
    """Key of the active block at ``height``."""
    return HEADER + _U32_KEY.pack(height)


def mark_key(sequence: int) -> bytes:
    """Key of the mark of one batch."""
    return MARK + _U64_KEY.pack(sequence)


def pending_key(height: int, block_hash: bytes) -> bytes:
    """Key that lists a body off the active chain."""
    return pending_prefix(height) + block_hash


def pending_prefix(height: int) -> bytes:
    """Where the pending bodies of ``height`` start."""
    return PENDING + _U32_KEY.pack(height)


def parse_pending_key(key: bytes) -> tuple[int, bytes]:
    """Return (height, block hash)."""
    return int.from_bytes(key[1:5], "big"), key[5:]


def state_root_key(height: int) -> bytes:
    """Key of the state root after the block at ``height``."""
    return STATE_ROOT + _U32_KEY.pack(height)


def round_end_key(height: int) -> bytes:
    """Key of what proves the block at ``height`` that ended a round."""
    return ROUND_END + _U32_KEY.pack(height)


def branch_key(height: int, block_hash: bytes) -> bytes:
    """Key of a header of any branch."""
    return branch_prefix(height) + block_hash


def branch_prefix(height: int) -> bytes:
    """Where the headers of ``height`` start."""
    return BRANCH + _U32_KEY.pack(height)


def parse_branch_key(key: bytes) -> tuple[int, bytes]:
    """Return (height, block hash)."""
    return int.from_bytes(key[1:5], "big"), key[5:]


def encode_branch(header: bytes, work: int) -> bytes:
    """Value of ``w``: the 80-byte header and the work of the chain up to it."""
    return header + work.to_bytes(_WORK_BYTES, "big")


def decode_branch(value: bytes) -> tuple[bytes, int]:
    """Return (header, work)."""
    return value[:-_WORK_BYTES], int.from_bytes(value[-_WORK_BYTES:], "big")


def encode_tip(height: int, block_hash: bytes, tip: bytes) -> bytes:
    """Value of ``T``, and of ``C`` with an empty ``tip``."""
    return _TIP.pack(height, block_hash) + tip


def decode_tip(value: bytes) -> tuple[int, bytes, bytes]:
    """Return (height, block hash, encoded ChainTip)."""
    height, block_hash = _TIP.unpack_from(value)
    return height, block_hash, value[_TIP.size :]


def encode_watermark(segment: int, offset: int) -> bytes:
    """Value of ``W``."""
    return _WATERMARK.pack(segment, offset)


def decode_watermark(value: bytes) -> tuple[int, int]:
    """Return (segment, offset)."""
    segment, offset = _WATERMARK.unpack(value)
    return segment, offset


def encode_pruned(below: int, first_segment: int) -> bytes:
    """Value of ``P``."""
    return _WATERMARK.pack(below, first_segment)


def decode_pruned(value: bytes | None) -> tuple[int, int]:
    """Return (height below which bodies are absent, first segment kept); (0, 0) if nothing was pruned."""
    return (0, 0) if value is None else _WATERMARK.unpack(value)


def encode_block(records: BlockRecords) -> bytes:
    """Value of ``b``."""
    numbers = [records.height]
    for position in records[1:]:
        numbers.extend(position if isinstance(position, Position) else (_ABSENT, 0, 0))
    return _BLOCK.pack(*numbers)


def decode_block(value: bytes) -> BlockRecords:
    """Inverse of ``encode_block``."""
    height, *numbers = _BLOCK.unpack(value)
    positions = (Position(*numbers[at : at + 3]) for at in (0, 3, 6))
    return BlockRecords(height, *(None if p.segment == _ABSENT else p for p in positions))


def encode_tx(height: int, index: int, block_hash: bytes) -> bytes:
    """Value of ``t``. The piece of the block hash tells entries of disconnected blocks from live ones."""
    return _TX.pack(height, index, block_hash[:8])


def decode_tx(value: bytes) -> tuple[int, int, bytes]:
    """Return (height, index, first 8 bytes of the block hash)."""
    height, index, tag = _TX.unpack(value)
    return height, index, tag


def encode_progress(progress: Progress) -> bytes:
    """Value of ``i``."""
    return _PROGRESS.pack(*progress)


def decode_progress(value: bytes) -> Progress:
    """Inverse of ``encode_progress``."""
    mode, phase, *rest = _PROGRESS.unpack(value)
    return Progress(Mode(mode), Phase(phase), *rest)
