"""Token buckets on a clock that the caller brings (integer milliseconds)."""

from p2p.limits import Rate


class TokenBucket:
    """Starts full. Counts thousandths of a token, so that slow rates lose nothing to rounding."""

    __slots__ = ("_at_ms", "_burst", "_level", "_per_s")

    def __init__(self, rate: Rate, now_ms: int) -> None:
        self._per_s = rate.per_s
        self._burst = rate.burst * 1_000
        self._level = self._burst
        self._at_ms = now_ms

    def _refill(self, now_ms: int) -> None:
        if now_ms > self._at_ms:
            self._level = min(self._burst, self._level + (now_ms - self._at_ms) * self._per_s)
            self._at_ms = now_ms

    def take(self, now_ms: int, amount: int = 1) -> bool:
        """Take ``amount`` tokens, or none and False if there are fewer."""
        self._refill(now_ms)
        if self._level < amount * 1_000:
            return False
        self._level -= amount * 1_000
        return True

    def take_up_to(self, now_ms: int, amount: int) -> int:
        """Take as many of ``amount`` tokens as there are; return how many."""
        self._refill(now_ms)
        taken = min(amount, max(0, self._level) // 1_000)
        self._level -= taken * 1_000
        return taken

    def give_back(self, amount: int) -> None:
        """Return tokens that were taken and not used."""
        self._level = min(self._burst, self._level + amount * 1_000)

    def owe(self, now_ms: int, amount: int) -> int:
        """Take ``amount`` tokens, into debt if need be; return the ms until the debt is paid."""
        self._refill(now_ms)
        self._level -= amount * 1_000
        return 0 if self._level >= 0 else -self._level // self._per_s + 1
