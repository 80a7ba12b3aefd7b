"""RIPEMD-160 in Python, for machines whose OpenSSL lacks it (Dobbertin, Bosselaers, Preneel 1996)."""

_MASK = 0xFFFF_FFFF
_INITIAL = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
_ADDEND_LEFT = (0, 0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xA953FD4E)
_ADDEND_RIGHT = (0x50A28BE6, 0x5C4DD124, 0x6D703EF3, 0x7A6D76E9, 0)

# One hex digit per step and 16 steps per round: the message word that enters, and how far to rotate.
_WORD_LEFT = "0123456789abcdef74d1a6f3c0952eb83ae49f812706db5c19ba08c4d37fe56240597c2ae138b6fd"
_WORD_RIGHT = "5e7092b4d6f81a3c6b370d5aef8c4912f5137e69b8c2a04d86413bf05c2d97aecfa4158762de039b"
_SHIFT_LEFT = "befc5879bdef6798768db97f7cf9b7dcbd67e9dfe8d65c75bcefef989e56865c9f5b68dc5cdeb856"
_SHIFT_RIGHT = "899bdff5778beec69df7c89b77c76fdb97fb866ecd5edd75f58bee6e69c9c5f885c9c5e68d65fdbb"

_State = tuple[int, int, int, int, int]


def _steps(words: str, shifts: str) -> tuple[tuple[int, int], ...]:
    return tuple((int(word, 16), int(shift, 16)) for word, shift in zip(words, shifts, strict=True))


_STEPS_LEFT = _steps(_WORD_LEFT, _SHIFT_LEFT)
_STEPS_RIGHT = _steps(_WORD_RIGHT, _SHIFT_RIGHT)


def _mix(round_: int, x: int, y: int, z: int) -> int:
    if round_ == 0:
        return x ^ y ^ z
    if round_ == 1:
        return (x & y) | (~x & z)
    if round_ == 2:
        return (x | ~y) ^ z
    if round_ == 3:
        return (x & z) | (y & ~z)
    return x ^ (y | ~z)


def _rotate(x: int, bits: int) -> int:
    x &= _MASK
    return ((x << bits) | (x >> (32 - bits))) & _MASK


def _line(
    state: _State,
    block: list[int],
    steps: tuple[tuple[int, int], ...],
    addends: tuple[int, ...],
    mirrored: bool,
) -> _State:
    """Run one of the two parallel lines of 80 steps over a block of 16 words."""
    a, b, c, d, e = state
    for step, (word, shift) in enumerate(steps):
        round_ = step // 16
        mixed = _mix(4 - round_ if mirrored else round_, b, c, d)
        a = _rotate(a + mixed + block[word] + addends[round_], shift) + e
        a, b, c, d, e = e, a & _MASK, b, _rotate(c, 10), d
    return a, b, c, d, e


def _compress(state: _State, chunk: bytes) -> _State:
    block = [int.from_bytes(chunk[at : at + 4], "little") for at in range(0, 64, 4)]
    left = _line(state, block, _STEPS_LEFT, _ADDEND_LEFT, False)
    right = _line(state, block, _STEPS_RIGHT, _ADDEND_RIGHT, True)
    return (
        (state[1] + left[2] + right[3]) & _MASK,
        (state[2] + left[3] + right[4]) & _MASK,
        (state[3] + left[4] + right[0]) & _MASK,
        (state[4] + left[0] + right[1]) & _MASK,
        (state[0] + left[1] + right[2]) & _MASK,
    )


def digest(data: bytes) -> bytes:
    """Return RIPEMD-160 of ``data``, 20 bytes."""
    padded = data + b"\x80" + bytes((55 - len(data)) % 64) + (8 * len(data)).to_bytes(8, "little")
    state: _State = _INITIAL
    for at in range(0, len(padded), 64):
        state = _compress(state, padded[at : at + 64])
    return b"".join(word.to_bytes(4, "little") for word in state)
