"""Undo records: what takes one block off the coins and the contract state again.

A record is the MessagePack array ``[1, coins, state]``; each of the two is a flat array of
alternating key and former value (nil where the key did not exist). It is local data: no hash
covers it, so it is packed by the C library in one call.
"""

from itertools import chain

import msgpack

from consensus.chain import Connected
from consensus.errors import DecodeError

_VERSION = 1

Values = dict[bytes, bytes | None]
"""Key to value, None where there is none."""


def encode_undo(connected: Connected) -> bytes:
    """Return the undo record of a connected block."""
    coins = list(chain.from_iterable(connected.coins_undo.items()))
    state = list(chain.from_iterable(connected.state_undo.items()))
    packed: bytes = msgpack.packb([_VERSION, coins, state])
    return packed


def decode_undo(data: bytes) -> tuple[Values, Values]:
    """Return (coins_undo, state_undo). Raises DecodeError "bad-undo"."""
    try:
        fields = msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError("bad-undo", "not MessagePack") from error
    match fields:
        case [int(version), list(coins), list(state)] if version == _VERSION:
            return _values(coins), _values(state)
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
