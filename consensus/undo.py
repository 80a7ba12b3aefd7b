"""Undo records: what takes one block off the coins and the contract state again.

A record is the MessagePack array ``[1, coins, state]``, or ``[2, coins, state, tip]`` where blocks may be
taken off: ``tip`` is the encoded ChainTip of the parent. Coins and state are flat arrays of alternating
key and former value (nil where the key did not exist). It is local data: no hash covers it, so it is
packed by the C library in one call.
"""

from itertools import chain

import msgpack

from consensus.chain import ChainTip, Connected
from consensus.errors import DecodeError

_FINAL = 1
_REVERSIBLE = 2

Values = dict[bytes, bytes | None]
"""Key to value, None where there is none."""


def encode_undo(connected: Connected, parent: ChainTip | None = None) -> bytes:
    """Return the undo record of a connected block; with ``parent``, the tip before it, it can be undone."""
    coins = list(chain.from_iterable(connected.coins_undo.items()))
    state = list(chain.from_iterable(connected.state_undo.items()))
    fields = [_FINAL, coins, state] if parent is None else [_REVERSIBLE, coins, state, parent.encode()]
    packed: bytes = msgpack.packb(fields)
    return packed


def decode_undo(data: bytes) -> tuple[Values, Values]:
    """Return (coins_undo, state_undo). Raises DecodeError "bad-undo"."""
    coins, state, _ = _fields(data)
    return _values(coins), _values(state)


def decode_parent(data: bytes) -> ChainTip:
    """Return the tip before the block. Raises DecodeError "bad-undo", also for a block that is final."""
    _, _, parent = _fields(data)
    if parent is None:
        raise DecodeError("bad-undo", "the record of a block that is final")
    return ChainTip.decode(parent)


def _fields(data: bytes) -> tuple[list[object], list[object], bytes | None]:
    try:
        fields = msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError("bad-undo", "not MessagePack") from error
    match fields:
        case [int(version), list(coins), list(state)] if version == _FINAL:
            return coins, state, None
        case [int(version), list(coins), list(state), bytes(parent)] if version == _REVERSIBLE:
            return coins, state, parent
    raise DecodeError("bad-undo", "not an undo record of this version")


def _values(flat: list[object]) -> Values:
    values: Values = {}
    for key, value in zip(flat[::2], flat[1::2], strict=False):
        if not isinstance(key, bytes) or not (value is None or isinstance(value, bytes)):
            raise DecodeError("bad-undo", "a key or value is not bytes")
        values[key] = value
    if len(values) * 2 != len(flat):
        raise DecodeError("bad-undo", "a key without value, or twice")
    return values
