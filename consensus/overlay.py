"""Views with changes on top: uncommitted blocks over the committed ones, the mempool over the tip.

Overlays stack: the base of one may be another.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence

from consensus.ports import CoinView, StateView

_ABSENT = object()


def read_many(state: StateView, keys: Sequence[bytes]) -> list[bytes | None]:
    """Return the values of ``keys`` in their order, None where there is none.

    A view that can, answers all of them at once (``get_many``): a call through each layer of views per
    block and not per key.
    """
    at_once: Callable[[Sequence[bytes]], list[bytes | None]] | None = getattr(state, "get_many", None)
    return [state.get(key) for key in keys] if at_once is None else at_once(keys)


def read_over(
    changes: Mapping[bytes, bytes | None], base: StateView, keys: Sequence[bytes]
) -> list[bytes | None]:
    """Return the values of ``keys`` in their order: ``changes`` over ``base``, None where there is none."""
    below = [key for key in keys if key not in changes]
    values = read_many(base, below) if below else []
    if len(below) == len(keys):
        return values
    found = dict(zip(below, values, strict=True))
    return [changes[key] if key in changes else found[key] for key in keys]


class Nothing:
    """The empty view, of coins and of contract state: what lies under genesis."""

    def get(self, key: bytes, /) -> bytes | None:
        """Return None."""
        return None

    def scan(self, prefix: bytes, /) -> Iterator[tuple[bytes, bytes]]:
        """Yield nothing."""
        return iter(())


class CoinOverlay:
    """Unspent outputs of ``base`` after ``diff`` (prevout to coin value, None if spent)."""

    __slots__ = ("base", "diff")

    def __init__(self, base: CoinView, diff: dict[bytes, bytes | None]) -> None:
        self.base = base
        self.diff = diff

    def get(self, prevout: bytes, /) -> bytes | None:
        """Return the coin value, None if there is no such unspent output."""
        value = self.diff.get(prevout, _ABSENT)
        if value is _ABSENT:
            return self.base.get(prevout)
        return value  # type: ignore[return-value]

    def prefetch(self, prevouts: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the coins among ``prevouts`` that base, where it can read ahead, and overlay know."""
        diff = self.diff
        found = {prevout: coin for prevout in prevouts if (coin := diff.get(prevout)) is not None}
        below: Callable[[list[bytes]], dict[bytes, bytes]] | None = getattr(self.base, "prefetch", None)
        if below is not None:
            found.update(below([prevout for prevout in prevouts if prevout not in diff]))
        return found


class ReadOnce:
    """Contract state of ``base`` that asks for each key once: what a block wrote over is asked for again."""

    __slots__ = ("_known", "base", "scan")

    def __init__(self, base: StateView) -> None:
        self.base = base
        self.scan = base.scan
        self._known: dict[bytes, bytes | None] = {}

    def get(self, key: bytes, /) -> bytes | None:
        """Return the value, None if the key does not exist."""
        known = self._known
        if key in known:
            return known[key]
        value = known[key] = self.base.get(key)
        return value

    def get_many(self, keys: Sequence[bytes], /) -> list[bytes | None]:
        """Return the values of ``keys``, as ``read_many`` does."""
        known = self._known
        unknown = [key for key in keys if key not in known]
        if unknown:
            values = read_many(self.base, unknown)
            known.update(zip(unknown, values, strict=True))
            if len(unknown) == len(keys):
                return values
        return [known[key] for key in keys]


class StateOverlay:
    """Contract state of ``base`` after ``diff`` (key to value, None if deleted).

    The overlay keeps ``diff`` itself, no copy, and an index of its keys: whoever goes on writing
    writes through ``put``.
    """

    __slots__ = ("_keys", "base", "diff")

    def __init__(self, base: StateView, diff: dict[bytes, bytes | None]) -> None:
        self.base = base
        self.diff = diff
        self._keys = sorted(diff)

    def get(self, key: bytes, /) -> bytes | None:
        """Return the value, None if the key does not exist."""
        value = self.diff.get(key, _ABSENT)
        if value is _ABSENT:
            return self.base.get(key)
        return value  # type: ignore[return-value]

    def get_many(self, keys: Sequence[bytes], /) -> list[bytes | None]:
        """Return the values of ``keys``, as ``read_many`` does."""
        return read_over(self.diff, self.base, keys)

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set ``key`` to ``value``, or delete it with None, in this overlay alone."""
        if key not in self.diff:
            insort(self._keys, key)
        self.diff[key] = value

    def scan(self, prefix: bytes, /) -> Iterator[tuple[bytes, bytes]]:
        """Yield the (key, value) pairs that start with ``prefix``, in ascending key order.

        A scan may run while keys are put: it stays in order, and whether it meets them is not promised.
        """
        above = self._above(prefix)
        mine = next(above, None)
        for key, value in self.base.scan(prefix):
            while mine is not None and mine[0] < key:
                if mine[1] is not None:
                    yield mine[0], mine[1]
                mine = next(above, None)
            if mine is None or mine[0] != key:
                yield key, value
        while mine is not None:
            if mine[1] is not None:
                yield mine[0], mine[1]
            mine = next(above, None)

    def _above(self, prefix: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        at = bisect_left(self._keys, prefix)
        while at < len(self._keys):
            key = self._keys[at]
            if not key.startswith(prefix):
                return
            yield key, self.diff[key]
            at = bisect_right(self._keys, key)  # not at + 1: a key may have come in between
