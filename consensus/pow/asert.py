"""Difficulty by ASERT (aserti3-2d): the target halves for each half-life that the chain is ahead.

Exact integers, as in Bitcoin Cash Node; the published runs judge it. The target depends on the
anchor and on the last block alone, so there is no window that a miner could steer.
"""

_RADIX_BITS = 16
_RADIX = 1 << _RADIX_BITS
_WIDEST = 300
"""Shifts beyond it leave nothing of a 256-bit target, or nothing but the bound: numbers stay small."""


def next_target(
    anchor_target: int,
    time_delta_s: int,
    height_delta: int,
    *,
    spacing_s: int,
    half_life_s: int,
    max_target: int,
) -> int:
    """Return the target of the block after one that is ``height_delta`` blocks above the anchor.

    ``time_delta_s`` is that block's time less the time of the anchor's parent; it may be negative.
    The result is between 1 and ``max_target``.
    """
    ahead = time_delta_s - spacing_s * (height_delta + 1)
    exponent = _divide(ahead * _RADIX, half_life_s)
    shifts = exponent >> _RADIX_BITS
    if shifts > _WIDEST:
        return max_target
    if shifts < -_WIDEST:
        return 1
    part = exponent - (shifts << _RADIX_BITS)
    # 2^x for 0 <= x < 1 by a cubic, error below 0.013 %.
    factor = _RADIX + (
        (195_766_423_245_049 * part + 971_821_376 * part**2 + 5_127 * part**3 + (1 << 47)) >> 48
    )
    target = anchor_target * factor
    target = target << shifts if shifts >= 0 else target >> -shifts
    return max(1, min(target >> _RADIX_BITS, max_target))


def _divide(dividend: int, divisor: int) -> int:
    """Divide towards zero, as C does; ``//`` would round down and fail the published runs."""
    quotient = abs(dividend) // divisor
    return quotient if dividend >= 0 else -quotient
