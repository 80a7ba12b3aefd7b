"""The node's dice: the only place in the daemon that asks the system for randomness."""

import os


def random_bytes(count: int) -> bytes:
    """Return ``count`` unpredictable bytes, fit for keys."""
    return os.urandom(count)


def fraction() -> float:
    """Return a number in [0, 1), for jitter; never used in a rule."""
    return int.from_bytes(os.urandom(6), "little") / (1 << 48)


def new_session() -> int:
    """Return a number that no other start of this validator used, but for one chance in 2^32."""
    return int.from_bytes(random_bytes(4))
