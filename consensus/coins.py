"""Unspent outputs as they are cached, stored and undone: one bytes object each.

u32 LE (height << 1 | coinbase), i64 LE amount in base units, script.
"""

from consensus.limits import MAX_SCRIPT_SIZE

OP_RETURN = 0x6A
COIN_HEADER = 12
"""Bytes before the script."""


def encode_coin(height: int, is_coinbase: bool, amount: int, script: bytes) -> bytes:
    """Return the coin value of an output created at ``height``."""
    code = height << 1 | is_coinbase
    return code.to_bytes(4, "little") + amount.to_bytes(8, "little", signed=True) + script


def coin_height(coin: bytes) -> int:
    """Height of the block that created the coin."""
    return int.from_bytes(coin[:4], "little") >> 1


def coin_is_coinbase(coin: bytes) -> bool:
    """Whether a coinbase created the coin."""
    return bool(coin[0] & 1)


def coin_amount(coin: bytes) -> int:
    """Amount in base units."""
    return int.from_bytes(coin[4:12], "little", signed=True)


def coin_script(coin: bytes) -> bytes:
    """The scriptPubKey."""
    return coin[COIN_HEADER:]


def is_unspendable(script: bytes) -> bool:
    """Whether no input can ever spend an output with this script, so that it never becomes a coin."""
    return len(script) > MAX_SCRIPT_SIZE or (len(script) > 0 and script[0] == OP_RETURN)
