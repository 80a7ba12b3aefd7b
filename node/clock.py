"""The node's clock: the only place in the daemon that reads the time.

Engine timers run on real monotonic milliseconds. Chain time, which block headers and contracts
see, may run faster: a time-lapse replays a day in minutes.
"""

import time
from dataclasses import dataclass

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Clock:
    """Maps real time to chain time: ``chain = chain_origin_s + (real - real_origin_ns) * speed``.

    With ``speed`` 1 and both origins 0, chain time is the system's UTC time.
    """

    speed: int = 1
    real_origin_ns: int = 0
    chain_origin_s: int = 0

    def now_s(self) -> int:
        """Return chain time, whole seconds since 1970 UTC."""
        return self.chain_origin_s + (time.time_ns() - self.real_origin_ns) * self.speed // NANOSECONDS

    def real_delay_s(self, chain_time_s: int) -> float:
        """Return the real seconds until chain time reaches ``chain_time_s``; negative if past."""
        due_ns = self.real_origin_ns + (chain_time_s - self.chain_origin_s) * NANOSECONDS // self.speed
        return (due_ns - time.time_ns()) / NANOSECONDS

    @staticmethod
    def monotonic_ms() -> int:
        """Return real milliseconds that never run backwards, from an arbitrary origin."""
        return time.monotonic_ns() // 1_000_000

    @staticmethod
    def monotonic_s() -> float:
        """Return real seconds that never run backwards, from an arbitrary origin."""
        return time.monotonic()

    @staticmethod
    def unix_ns() -> int:
        """Return real nanoseconds since 1970 UTC."""
        return time.time_ns()
