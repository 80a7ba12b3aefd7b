"""Misbehaviour scores and timed bans, kept across connections in bounded tables."""

import ipaddress

from p2p import limits

BY_HAND = "banned"
"""Code of a ban that an operator spoke."""

DEFAULT_POINTS = 20
"""For a code that the table does not name: five times and out."""

POINTS: dict[str, int] = {
    # cannot happen by accident: one is enough
    "decrypt-failed": 100,
    "frame-malformed": 100,
    "frame-too-large": 100,
    "bad-identity": 100,
    "unexpected-message": 100,
    # could be a bug, another program or a broken network
    "bad-message": 20,
    "unrequested-message": 20,
    "handshake-malformed": 25,
    "handshake-timeout": 10,
    "frame-timeout": 20,
    "rate-exceeded": 1,
    "unknown-flood": 1,
    "sync-stalled": 5,
    "sync-bad-range": 20,
    "sync-lying-height": 10,
    # nobody's fault, answered by closing already, or our own operator's judgement (and paid for with work)
    "wrong-chain": 0,
    "duplicate-invalid": 0,
    "bad-prevblk": 0,
    "obsolete-version": 0,
    "identity-mismatch": 0,
    "self-connect": 0,
    "duplicate": 0,
    "ping-timeout": 0,
    "too-many-peers": 0,
    "send-queue-full": 0,
    "banned": 0,
    "shutdown": 0,
    "disconnected": 0,
    "remote-closed": 0,
    "connection-lost": 0,
}
"""Points per fault code; ``limits.BAN_SCORE`` of them end in a ban."""


def points_of(code: str) -> int:
    """Return what a fault costs."""
    return POINTS.get(code, DEFAULT_POINTS)


def is_loopback(host: str) -> bool:
    """Tell whether an address is this machine's own; such addresses are never banned."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


class Scores:
    """Misbehaviour per name (an identity or an address); one point fades every SCORE_DECAY_MS."""

    __slots__ = ("_entries", "_max_entries")

    def __init__(self, max_entries: int = limits.MAX_SCORES) -> None:
        self._entries: dict[bytes, tuple[int, int]] = {}
        self._max_entries = max_entries

    def add(self, name: bytes, points: int, now_ms: int) -> int:
        """Add points and return the score. The name that misbehaved longest ago makes room."""
        score, since = self._faded(name, now_ms)
        score += points
        self._entries.pop(name, None)
        if score:
            self._entries[name] = (score, since)
            if len(self._entries) > self._max_entries:
                del self._entries[next(iter(self._entries))]
        return score

    def get(self, name: bytes, now_ms: int) -> int:
        """Return the score of a name."""
        return self._faded(name, now_ms)[0]

    def forget(self, name: bytes) -> None:
        """Start again from zero, as after a ban."""
        self._entries.pop(name, None)

    def _faded(self, name: bytes, now_ms: int) -> tuple[int, int]:
        score, since = self._entries.get(name, (0, now_ms))
        steps = max(0, now_ms - since) // limits.SCORE_DECAY_MS
        if steps >= score:
            return 0, now_ms
        return score - steps, since + steps * limits.SCORE_DECAY_MS


class BanTable:
    """Names that are shut out until a time, with the code that did it."""

    __slots__ = ("_entries", "_max_entries")

    def __init__(self, max_entries: int = limits.MAX_BANS) -> None:
        self._entries: dict[bytes, tuple[int, str]] = {}
        self._max_entries = max_entries

    def ban(self, name: bytes, until_ms: int, code: str) -> None:
        """Shut out; a longer ban that exists already stays. The ban that ends first makes room."""
        if self._entries.get(name, (0, ""))[0] >= until_ms:
            return
        if name not in self._entries and len(self._entries) >= self._max_entries:
            del self._entries[min(self._entries, key=lambda other: self._entries[other][0])]
        self._entries[name] = (until_ms, code)

    def shorten(self, name: bytes, until_ms: int) -> None:
        """Let a ban for faults end at ``until_ms`` if it lasts longer; one by hand ("banned") stays."""
        until, code = self._entries.get(name, (0, ""))
        if until > until_ms and code != BY_HAND:
            self._entries[name] = (until_ms, code)

    def lift(self, name: bytes) -> bool:
        """End a ban; False if there was none."""
        return self._entries.pop(name, None) is not None

    def remaining_ms(self, name: bytes, now_ms: int) -> int:
        """Return how long the name is still shut out; 0 if it is not."""
        entry = self._entries.get(name)
        if entry is None:
            return 0
        if entry[0] <= now_ms:
            del self._entries[name]
            return 0
        return entry[0] - now_ms

    def entries(self, now_ms: int) -> list[tuple[bytes, int, str]]:
        """Return (name, ms left, code) of every ban in force."""
        return [
            (name, until - now_ms, code) for name, (until, code) in self._entries.items() if until > now_ms
        ]


class Reputation:
    """Scores and bans together. A name is an identity (32 bytes) or an address (text as bytes)."""

    __slots__ = ("bans", "scores")

    def __init__(self) -> None:
        self.scores = Scores()
        self.bans = BanTable()

    def charge(self, name: bytes, code: str, points: int, now_ms: int, ban_ms: int) -> bool:
        """Add points; True if they end in a ban."""
        if not points or self.scores.add(name, points, now_ms) < limits.BAN_SCORE:
            return False
        self.scores.forget(name)
        self.bans.ban(name, now_ms + ban_ms, code)
        return True
