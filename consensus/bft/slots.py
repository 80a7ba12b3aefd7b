"""Who may stand when: a public seeded permutation, rotated by one place per term.

The place of Raft's random time-outs (CONSENSUS.md, section 2.5): random per cycle of n terms, but
equal for everybody, so there is no split vote and nobody wins by being fast.
"""

from collections.abc import Iterator

from consensus.hashes import sha256


def _words(key: bytes) -> Iterator[int]:
    """Yield the 32-bit words of the SHA-256 counter stream of ``key``."""
    counter = 0
    while True:
        block = sha256(key + counter.to_bytes(8, "little"))
        for at in range(0, 32, 4):
            yield int.from_bytes(block[at : at + 4], "little")
        counter += 1


def _below(words: Iterator[int], bound: int) -> int:
    """Return a uniform number below ``bound``; words that would bias it are rejected."""
    limit = (1 << 32) // bound * bound
    while True:
        word = next(words)
        if word < limit:
            return word % bound


def permutation(seed: bytes, cycle: int, n: int) -> tuple[int, ...]:
    """Return P_c, the order of one cycle: Fisher-Yates from the top, driven by seed and cycle."""
    words = _words(sha256(b"slots" + seed + cycle.to_bytes(8, "little")))
    order = list(range(n))
    for last in range(n - 1, 0, -1):
        chosen = _below(words, last + 1)
        order[last], order[chosen] = order[chosen], order[last]
    return tuple(order)


def order(seed: bytes, term: int, n: int) -> tuple[int, ...]:
    """Return pi(term): validator by slot. Everybody is slot 0 exactly once in a cycle of n terms."""
    cycle, turn = divmod(term, n)
    names = permutation(seed, cycle, n)
    return names[turn:] + names[:turn]
