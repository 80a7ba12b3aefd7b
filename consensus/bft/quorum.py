"""How many validators make a decision: the one place that counts."""


def faults(n: int) -> int:
    """Return f, the number of Byzantine validators that a set of ``n`` tolerates."""
    if n < 1:
        raise ValueError("a validator set has at least one member")
    return (n - 1) // 3


def quorum(n: int) -> int:
    """Return q, the votes that decide in a set of ``n``.

    q = floor((n + f) / 2) + 1 makes any two quorums share an honest validator (2q - n >= f + 1)
    and is reachable by the honest alone (n - f >= q). ``2f + 1`` is that number only for
    n = 3f + 1. Below four validators nothing is tolerated, so all must agree.
    """
    if n < 4:
        faults(n)
        return n
    return (n + faults(n)) // 2 + 1
