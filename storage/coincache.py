"""The write-back cache of coins: what the blocks above the coins tip changed, and what was used last.

Three maps, and no key is in two of them:

- ``_created``: new coins that LevelDB has never seen. One that is spent before the next flush goes
  without a trace, so it never touches LevelDB.
- ``_changed``: prevouts for which LevelDB may hold something else: spent coins (None), and coins
  that a disconnected block had spent.
- ``_clean``: as in LevelDB; the entries used last are at the end, the first ones make room.

The invariant: LevelDB's coins with ``_created`` and ``_changed`` laid over them are the coins at the
tip. It rests on a coin having one life: a block creates only prevouts that are not there (BIP34 makes
transaction ids unique) and never changes a value.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from storage import limits, schema

Diff = dict[bytes, bytes | None]
"""Key to new value, None where the key goes away."""

SPENT: Final = b""
"""What ``CoinCache.get`` says of a coin that is known to be gone; no coin value is empty."""

_EVICTED_AT_ONCE = 8
"""Share of the budget (1/8) that is set free at a time, so that the walk over the oldest is worth it."""


class CoinCache:
    """Coins by prevout (36 bytes), within ``budget_bytes`` once ``is_full`` was answered by a flush."""

    __slots__ = ("_budget", "_changed", "_clean", "_clean_bytes", "_created", "_dirty_bytes")

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._created: dict[bytes, bytes] = {}
        self._changed: Diff = {}
        self._clean: dict[bytes, bytes] = {}
        self._dirty_bytes = 0
        self._clean_bytes = 0

    @property
    def used_bytes(self) -> int:
        """Upper bound of what the entries occupy in memory."""
        return self._dirty_bytes + self._clean_bytes

    @property
    def is_full(self) -> bool:
        """True when what waits takes half of the budget.

        A flush stalls its caller: 2 to 3 us per coin. What is read again and again keeps the other half.
        """
        return self._dirty_bytes > self._budget // 2

    @property
    def is_dirty(self) -> bool:
        """True while LevelDB lacks something."""
        return bool(self._created or self._changed)

    def get(self, prevout: bytes) -> bytes | None:
        """Return the coin, ``SPENT`` if it is known to be gone, None if only LevelDB can tell."""
        value = self._created.get(prevout)
        if value is not None:
            return value
        if prevout in self._changed:
            return self._changed[prevout] or SPENT
        value = self._clean.pop(prevout, None)
        if value is not None:
            self._clean[prevout] = value
        return value

    def take_known(self, prevouts: Iterable[bytes], found: dict[bytes, bytes]) -> list[bytes]:
        """Put the coins that are known here into ``found``; return of what only LevelDB can tell."""
        created, changed, clean = self._created, self._changed, self._clean
        missing: list[bytes] = []
        for prevout in prevouts:
            value = created.get(prevout)
            if value is None:
                if prevout in changed:
                    value = changed[prevout]
                    if value is None:
                        continue
                else:
                    value = clean.pop(prevout, None)
                    if value is None:
                        missing.append(prevout)
                        continue
                    clean[prevout] = value
            found[prevout] = value
        return missing

    def note(self, prevout: bytes, value: bytes) -> None:
        """Keep a coin that was read from LevelDB."""
        self._clean[prevout] = value
        self._clean_bytes += len(prevout) + len(value) + limits.COIN_ENTRY_BYTES
        self._evict()

    def connect(self, diff: Diff) -> None:
        """Follow a block that was connected: None for coins that it spends, values for those it creates."""
        created = {prevout: value for prevout, value in diff.items() if value is not None}
        grown = 0
        if len(created) < len(diff):
            grown = self._spend_all([prevout for prevout, value in diff.items() if value is None])
        if not self._changed.keys().isdisjoint(created):
            for prevout in self._changed.keys() & created.keys():
                value = created.pop(prevout)
                self._changed[prevout] = value
                grown += len(value) + limits.COIN_ENTRY_BYTES - limits.SPENT_ENTRY_BYTES
        self._created.update(created)
        grown += (
            sum(map(len, created)) + sum(map(len, created.values())) + limits.COIN_ENTRY_BYTES * len(created)
        )
        self._dirty_bytes += grown
        self._evict()

    def disconnect(self, diff: Diff) -> None:
        """Follow a block that was taken off: None for what it had created, values for what it had spent.

        What it had spent may be in LevelDB, so the coin must not count as new.
        """
        changed = self._changed
        for prevout, value in diff.items():
            self._dirty_bytes += self._spend(prevout)
            if value is not None:
                if prevout not in changed:
                    self._dirty_bytes += len(prevout) + limits.SPENT_ENTRY_BYTES
                changed[prevout] = value
                self._dirty_bytes += len(value) + limits.COIN_ENTRY_BYTES - limits.SPENT_ENTRY_BYTES
        self._evict()

    def changes(self) -> Diff:
        """Return what LevelDB lacks, as a dict of its own."""
        return {**self._created, **self._changed}

    def write(self, batch: Any) -> None:
        """Put everything that LevelDB lacks into ``batch``; once that is written call ``flushed``."""
        put_all(batch, schema.COIN, self._created)
        put_all(batch, schema.COIN, self._changed)

    def flushed(self) -> None:
        """LevelDB has it all: what waited is clean now."""
        for prevout, value in self._changed.items():
            if value is not None:
                self._created[prevout] = value
        if self._clean:
            self._clean.update(self._created)
        else:
            self._clean = self._created
        self._clean_bytes += sum(map(len, self._created)) + sum(map(len, self._created.values()))
        self._clean_bytes += limits.COIN_ENTRY_BYTES * len(self._created)
        self._created, self._changed, self._dirty_bytes = {}, {}, 0
        self._evict()

    def _spend_all(self, prevouts: list[bytes]) -> int:
        """Take coins away; return by how many bytes what waits has grown."""
        take = self._created.pop
        others: list[bytes] = []
        grown = 0
        for prevout in prevouts:
            value = take(prevout, None)
            if value is None:
                others.append(prevout)
            else:  # most were created not long ago
                grown -= len(prevout) + len(value)
        grown -= limits.COIN_ENTRY_BYTES * (len(prevouts) - len(others))
        return grown + sum(map(self._spend, others))

    def _spend(self, prevout: bytes) -> int:
        """Take a coin away; return by how many bytes what waits has grown."""
        value = self._created.pop(prevout, None)
        if value is not None:
            return -(len(prevout) + len(value) + limits.COIN_ENTRY_BYTES)
        if prevout in self._changed:
            changed, self._changed[prevout] = self._changed[prevout], None
            if changed is None:
                return 0
            return limits.SPENT_ENTRY_BYTES - limits.COIN_ENTRY_BYTES - len(changed)
        value = self._clean.pop(prevout, None)
        if value is not None:
            self._clean_bytes -= len(prevout) + len(value) + limits.COIN_ENTRY_BYTES
        self._changed[prevout] = None
        return len(prevout) + limits.SPENT_ENTRY_BYTES

    def _evict(self) -> None:
        """Let the clean entries that were not used for longest go, if all do not fit."""
        over = self.used_bytes - self._budget
        if over <= 0 or not self._clean:
            return
        over += self._budget // _EVICTED_AT_ONCE
        clean = self._clean
        gone = []
        for prevout, value in clean.items():
            if over <= 0:
                break
            gone.append(prevout)
            over -= len(prevout) + len(value) + limits.COIN_ENTRY_BYTES
        if len(gone) == len(clean):
            self._clean, self._clean_bytes = {}, 0
            return
        for prevout in gone:
            self._clean_bytes -= len(prevout) + len(clean.pop(prevout)) + limits.COIN_ENTRY_BYTES


def overlaid(stored: Iterator[tuple[bytes, bytes]], changes: Diff) -> Iterator[tuple[bytes, bytes]]:
    """Yield ``stored`` pairs (ascending keys) with ``changes`` laid over them, in key order."""
    keys = sorted(changes)
    at, end = 0, len(keys)
    for key, value in stored:
        while at < end and keys[at] < key:
            changed = changes[keys[at]]
            if changed is not None:
                yield keys[at], changed
            at += 1
        if at < end and keys[at] == key:
            changed = changes[key]
            if changed is not None:
                yield key, changed
            at += 1
        else:
            yield key, value
    for key in islice(keys, at, None):
        changed = changes[key]
        if changed is not None:
            yield key, changed


def put_all(batch: Any, space: bytes, diff: Mapping[bytes, bytes | None]) -> None:
    """Put the changes of ``diff`` under ``space`` into a batch; None removes a key."""
    put, delete = batch.put, batch.delete
    for key, value in diff.items():
        if value is None:
            delete(space + key)
        else:
            put(space + key, value)
