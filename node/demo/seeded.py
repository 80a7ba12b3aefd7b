"""Numbers that look random and follow from a seed: the same demo again, on every machine.

Values come from SHA-256 over the seed and a label, so each one stands alone and none depends on how
many were drawn before it.
"""

from hashlib import sha256

_HALF = 1 << 64


class Seeded:
    """A source of numbers; ``label`` names what a value is for."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def secret(self, *label: str | int) -> bytes:
        """Return 32 bytes, for keys that only this demo uses."""
        return sha256("/".join(["wattd-demo", str(self.seed), *map(str, label)]).encode()).digest()

    def fraction(self, *label: str | int) -> float:
        """Return a number in [0, 1)."""
        return int.from_bytes(self.secret(*label)[:8], "big") / _HALF

    def between(self, low: int, high: int, *label: str | int) -> int:
        """Return a whole number from ``low`` to ``high``, both included."""
        return low + int.from_bytes(self.secret(*label)[8:24], "big") % (high - low + 1)

    def error(self, spread: float, *label: str | int) -> float:
        """Return a bell-shaped number around 0 with this standard deviation, at most 3.5 of them away.

        The sum of twelve uniform numbers has a variance of one.
        """
        digest = self.secret(*label) + self.secret(*label, "more")
        total = sum(int.from_bytes(digest[at : at + 5], "big") for at in range(0, 60, 5)) / (1 << 40)
        return max(-3.5, min(3.5, total - 6.0)) * spread

    def stream(self, label: str) -> "SeededStream":
        """Return an endless run of bytes, in the shape of ``node.dice.random_bytes``."""
        return SeededStream(self, label)


class SeededStream:
    """Bytes on request, always the same ones in the same order."""

    def __init__(self, source: Seeded, label: str) -> None:
        self._source = source
        self._label = label
        self._count = 0

    def __call__(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        found = b""
        while len(found) < count:
            found += self._source.secret(self._label, self._count)
            self._count += 1
        return found[:count]
