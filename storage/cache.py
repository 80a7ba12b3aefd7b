"""A read cache of key-value pairs with a byte budget."""

from collections.abc import Sequence

from storage.limits import CACHE_ENTRY_BYTES


class ByteCache:
    """Keeps the pairs used last, in two generations: when the young one fills half the budget, the old goes.

    Reading promotes, so a pair in use survives; every operation is O(1) and nothing is ever
    sorted. A pair may be in both generations: the young value is the valid one.
    """

    __slots__ = ("_half", "_old", "_old_bytes", "_young", "_young_bytes")

    def __init__(self, budget_bytes: int) -> None:
        self._half = budget_bytes // 2
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._young_bytes = 0
        self._old_bytes = 0

    @property
    def used_bytes(self) -> int:
        """Upper bound of what the pairs occupy."""
        return self._young_bytes + self._old_bytes

    def get(self, key: bytes) -> bytes | None:
        """Return the cached value, or None if it is not cached."""
        value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the cached values of ``keys`` in their order, None where one is not cached."""
        found = [self._young.get(key) for key in keys]
        if self._old:
            for at, value in enumerate(found):
                if value is None:
                    found[at] = self.get(keys[at])
        return found

    def put(self, key: bytes, value: bytes) -> None:
        """Cache a pair, replacing an older value."""
        cost = len(key) + len(value) + CACHE_ENTRY_BYTES
        if self._make_room(cost):
            self._young[key] = value
            self._young_bytes += cost
        else:
            self.drop(key)

    def drop(self, key: bytes) -> None:
        """Forget a key. Its cost is given back when its generation goes."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def apply(self, diff: dict[bytes, bytes | None]) -> None:
        """Follow a diff that was written: changed pairs are cached, deleted ones forgotten."""
        changed = {key: value for key, value in diff.items() if value is not None}
        cost = sum(map(len, changed)) + sum(map(len, changed.values())) + CACHE_ENTRY_BYTES * len(changed)
        if len(changed) < len(diff):
            forget = self._young.pop
            for key, value in diff.items():
                if value is None:
                    forget(key, None)
        if self._old:
            forget = self._old.pop
            for key in diff:
                forget(key, None)
        if self._make_room(cost):
            self._young.update(changed)
            self._young_bytes += cost
        else:
            for key in changed:
                self._young.pop(key, None)

    def _make_room(self, cost: int) -> bool:
        """Start a new generation if the young one cannot take ``cost``; False if none ever could."""
        if cost > self._half:
            return False
        if self._young_bytes + cost > self._half:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
        return True
