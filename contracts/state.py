"""The contract state during one block: writes over a view, with savepoints."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from consensus.overlay import read_over
from consensus.ports import StateView
from contracts.limits import KEYS_WORTH_A_LOOK


class _Absent:
    """What the journal notes for a key that had not been written."""


_ABSENT: Final = _Absent()


class SessionState:
    """Writes over ``base``, None for a deleted key; ``rollback`` takes back what follows a savepoint.

    The base does not change while the session lives.
    """

    __slots__ = ("_base", "_empty", "_journal", "_sorted", "_writes")

    def __init__(self, base: StateView) -> None:
        self._base = base
        self._writes: dict[bytes, bytes | None] = {}
        self._journal: list[tuple[bytes, bytes | _Absent | None]] = []
        self._sorted: list[bytes] | None = []
        self._empty: dict[bytes, bool] = {}
        """Whether the base has nothing under a prefix."""

    def get(self, key: bytes, /) -> bytes | None:
        """Return the value of ``key``, None if there is none."""
        if key in self._writes:
            return self._writes[key]
        return self._base.get(key)

    def get_many(self, keys: Sequence[bytes], /) -> list[bytes | None]:
        """Return the values of ``keys`` in their order, None where there is none."""
        return read_over(self._writes, self._base, keys)

    def get_many_under(self, prefix: bytes, keys: Sequence[bytes], /) -> list[bytes | None]:
        """Return the values of ``keys``, all of which begin with ``prefix``.

        Where the base has nothing under the prefix, one look there spares as many as there are keys.
        """
        if prefix not in self._empty:
            if len(keys) < KEYS_WORTH_A_LOOK:
                return self.get_many(keys)
            self._empty[prefix] = next(self._base.scan(prefix), None) is None
        return [self._writes.get(key) for key in keys] if self._empty[prefix] else self.get_many(keys)

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set ``key``; None removes it."""
        writes = self._writes
        if key in writes:
            self._journal.append((key, writes[key]))
        else:
            self._journal.append((key, _ABSENT))
            if self._sorted is not None:
                self._sorted.append(key)
        writes[key] = value

    def put_many(self, pairs: Mapping[bytes, bytes]) -> None:
        """Set every key to its value, as ``put`` does."""
        writes = self._writes
        self._journal += [(key, writes.get(key, _ABSENT)) for key in pairs]
        if self._sorted is not None:
            self._sorted += [key for key in pairs if key not in writes]
        writes.update(pairs)

    def delete(self, key: bytes) -> None:
        """Remove ``key``."""
        self.put(key, None)

    def scan(self, prefix: bytes, /) -> Iterator[tuple[bytes, bytes]]:
        """Yield the (key, value) pairs under ``prefix`` in ascending key order, as they are now.

        Writes made while the iteration runs are not seen by it.
        """
        own = self._own(prefix)
        if not own:
            return self._base.scan(prefix)
        return _merge(self._base.scan(prefix), own)

    def _own(self, prefix: bytes) -> list[tuple[bytes, bytes | None]]:
        keys = self._sorted
        if keys is None:
            keys = self._sorted = list(self._writes)
        keys.sort()  # nearly sorted but for what was appended, which this sort exploits
        found: list[tuple[bytes, bytes | None]] = []
        for at in range(bisect_left(keys, prefix), len(keys)):
            key = keys[at]
            if not key.startswith(prefix):
                break
            found.append((key, self._writes[key]))
        return found

    def savepoint(self) -> int:
        """Return a mark for ``rollback``. Savepoints nest."""
        return len(self._journal)

    def rollback(self, mark: int) -> None:
        """Undo every write since ``mark``."""
        while len(self._journal) > mark:
            key, previous = self._journal.pop()
            if isinstance(previous, _Absent):
                del self._writes[key]
                self._sorted = None
            else:
                self._writes[key] = previous

    def keep(self) -> None:
        """Forget the savepoints: what was written stays."""
        self._journal.clear()

    def writes(self) -> dict[bytes, bytes | None]:
        """Return the final value per key written, in key order."""
        writes = self._writes
        return {key: writes[key] for key in sorted(writes)}


def _merge(
    base: Iterator[tuple[bytes, bytes]], own: list[tuple[bytes, bytes | None]]
) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    for key, value in base:
        while at < len(own) and own[at][0] < key:
            mine, written = own[at]
            if written is not None:
                yield mine, written
            at += 1
        if at < len(own) and own[at][0] == key:
            continue  # its own value follows in the next round
        yield key, value
    for mine, written in own[at:]:
        if written is not None:
            yield mine, written
