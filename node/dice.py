"""The node's dice: the only place in the daemon that asks the system for randomness."""

import os


def random_bytes(count: int) -> bytes:
    """Return ``count`` unpredictable bytes, fit for keys."""
    return os.urandom(count)


def fraction() -> float:
    """Return a number in [0, 1), for jitter; never used in a rule."""
    return int.from_bytes(os.urandom(6), "little") / (1 << 48)
