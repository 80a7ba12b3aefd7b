"""Compact targets (nBits), the work of a block, and whether a header meets its target.

The compact form is Bitcoin Core's ``arith_uint256::SetCompact`` and ``GetCompact``, sign bit and
overflow included.
"""

from consensus.block import BlockHeader
from consensus.errors import RuleError
from consensus.transaction import hash_hex

_SIGN = 0x00800000
_SPACE = 1 << 256


def decode_compact(bits: int) -> tuple[int, bool, bool]:
    """Return (magnitude, negative, overflow) of a u32 compact number, as SetCompact does.

    The magnitude is cut to 256 bits; where ``overflow`` is set it means nothing.
    """
    size = bits >> 24
    word = bits & 0x007FFFFF
    if size <= 3:
        word >>= 8 * (3 - size)
        value = word
    else:
        value = word << 8 * (size - 3)
    negative = word != 0 and bits & _SIGN != 0
    overflow = word != 0 and (size > 34 or (word > 0xFF and size > 33) or (word > 0xFFFF and size > 32))
    return value % _SPACE, negative, overflow


def encode_compact(target: int) -> int:
    """Return the compact form of ``0 <= target < 2**256``, rounded down to its 15 to 23 leading bits."""
    if not 0 <= target < _SPACE:
        raise ValueError("a target has 256 bits")
    size = (target.bit_length() + 7) // 8
    word = target << 8 * (3 - size) if size <= 3 else target >> 8 * (size - 3)
    if word & _SIGN:  # the bit of the sign: one byte more
        word >>= 8
        size += 1
    return word | size << 24


def target_of(bits: int) -> int | None:
    """Return the target that ``bits`` stands for; None if negative, zero or beyond 256 bits."""
    target, negative, overflow = decode_compact(bits)
    return None if negative or overflow or target == 0 else target


def work_of(bits: int) -> int:
    """Return the work of a block, floor(2^256 / (target + 1)): hashes tried on average. 0 for no target."""
    target = target_of(bits)
    return 0 if target is None else _SPACE // (target + 1)


def check_proof(header: BlockHeader, max_target: int) -> None:
    """Check that a header's hash, as a little-endian number, is at most its own target.

    Raises RuleError "bad-diffbits" where nBits is no target up to ``max_target``, and "high-hash".
    Whether nBits is the difficulty that the chain asks for is ``rules.check_bits``.
    """
    target = target_of(header.bits)
    if target is None or target > max_target:
        raise RuleError("bad-diffbits", f"bits {header.bits:#010x} are no target of this chain")
    if int.from_bytes(header.hash, "little") > target:
        raise RuleError("high-hash", f"{hash_hex(header.hash)} is above the target {target:064x}")
