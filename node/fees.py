"""Fee estimation: which fee rate confirmed within how many blocks, lately.

The method is Bitcoin Core's (policy/fees): fee rates fall into exponential buckets; per bucket, three
horizons with different memory count how many transactions confirmed within so many periods, how many
left unconfirmed, and what rates they paid. Counts fade with every block. An answer for a target is the
median rate of the lowest range of buckets in which enough transactions confirmed in time.

Only transactions without unconfirmed parents count, since others may be paid for by a child. Fading is
lazy: new counts weigh more instead of old ones less, so a block costs what it confirms.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from struct import Struct, error

from consensus.errors import DecodeError

MAX_TARGET = 1008
"""Longest target in blocks, that of the longest horizon."""

SPACING = 1.05
MIN_RATE = 100.0
MAX_RATE = 1e9
"""Buckets by base units per 1000 virtual bytes: five per cent wide, from a tenth of Bitcoin Core's least
relay fee to what only a mistake pays."""

HALF_SUCCESS, SUCCESS, DOUBLE_SUCCESS = 0.6, 0.85, 0.95
"""Share that must confirm within half the target, the target, and twice the target."""

SUFFICIENT_TXS, SUFFICIENT_TXS_SHORT = 0.1, 0.5
"""Transactions per block that a range of buckets needs to say anything."""

OLDEST_HISTORY = 6 * MAX_TARGET
"""Blocks after which what a file says about the past does not widen targets any more."""

_RENORMALISE = 1e100

_MOST = 1e15
"""No count and no rate in a file is higher; it keeps sums and quotients of them finite."""


def _bounds() -> list[float]:
    bounds = [MIN_RATE]
    while bounds[-1] < MAX_RATE:
        bounds.append(bounds[-1] * SPACING)
    return bounds


BOUNDS = _bounds()
"""Lower bound of each bucket but the first, which takes everything below."""


def bucket_of(rate: int) -> int:
    """Return the bucket of a fee rate."""
    return bisect_right(BOUNDS, rate)


@dataclass(slots=True)
class _Bucket:
    """Weighted counts. ``confirmed[p]``: in period p (the last: later); ``failed[p]``: not by its end."""

    confirmed: list[float]
    failed: list[float]
    count: float = 0.0
    rates: float = 0.0


Waiting = Mapping[int, Mapping[int, int]]
"""Per bucket, how many transactions have waited how many blocks."""


@dataclass(slots=True)
class Horizon:
    """One memory: ``periods`` of ``scale`` blocks, fading by ``decay`` each block."""

    scale: int
    periods: int
    decay: float
    sufficient: float
    buckets: dict[int, _Bucket] = field(default_factory=dict)
    weight: float = 1.0

    @property
    def max_blocks(self) -> int:
        """Return the longest target that this horizon knows of."""
        return self.scale * self.periods

    def fade(self) -> None:
        """Let one block pass."""
        self.weight /= self.decay
        if self.weight > _RENORMALISE:
            self.normalise()

    def normalise(self) -> None:
        """Let new counts weigh 1 again, and forget buckets that have faded to nothing."""
        for bucket in self.buckets.values():
            bucket.confirmed = [value / self.weight for value in bucket.confirmed]
            bucket.failed = [value / self.weight for value in bucket.failed]
            bucket.count /= self.weight
            bucket.rates /= self.weight
        self.weight = 1.0
        self.buckets = {
            index: each for index, each in self.buckets.items() if each.count + max(each.failed) > 1e-9
        }

    def confirmed(self, index: int, rate: int, waited: int, number: int) -> None:
        """Count ``number`` transactions that confirmed after ``waited`` blocks."""
        bucket = self._bucket(index)
        weight = self.weight * number
        bucket.confirmed[min((waited - 1) // self.scale, self.periods)] += weight
        bucket.count += weight
        bucket.rates += weight * rate

    def failed(self, index: int, waited: int) -> None:
        """Count a transaction that left unconfirmed after ``waited`` blocks."""
        bucket = self._bucket(index)
        for period in range(min(waited // self.scale, self.periods)):
            bucket.failed[period] += self.weight

    def median(self, target: int, share: float, waiting: Waiting, *, sufficient: float) -> float | None:
        """Return the lowest rate at which ``share`` confirmed within ``target`` blocks, None if unknown."""
        found: list[int] | None = None
        span: list[int] = []
        partial = total = good = bad = 0.0
        enough = sufficient / (1.0 - self.decay)
        period = (target + self.scale - 1) // self.scale - 1
        for index in sorted({*self.buckets, *waiting}, reverse=True):
            span.append(index)
            bucket = self.buckets.get(index)
            if bucket is not None:
                good += sum(bucket.confirmed[: period + 1]) / self.weight
                bad += bucket.failed[period] / self.weight
                total += bucket.count / self.weight
                partial += bucket.count / self.weight
            bad += sum(n for waited, n in waiting.get(index, {}).items() if waited >= target)
            if partial < enough:
                continue
            partial = 0.0
            if good / (total + bad) >= share:
                found, span = span, []
                good = bad = total = 0.0
        return None if found is None else self._middle(found)

    def _middle(self, span: Iterable[int]) -> float | None:
        held = [self.buckets[index] for index in sorted(span) if index in self.buckets]
        half = sum(bucket.count for bucket in held) / 2
        for bucket in held:
            if bucket.count and bucket.count >= half:
                return bucket.rates / bucket.count
            half -= bucket.count
        return None

    def _bucket(self, index: int) -> _Bucket:
        bucket = self.buckets.get(index)
        if bucket is None:
            bucket = self.buckets[index] = _Bucket([0.0] * (self.periods + 1), [0.0] * self.periods)
        return bucket


@dataclass(frozen=True, slots=True)
class Estimate:
    """``rate`` in base units per 1000 virtual bytes, None if not known; ``blocks``: the target it is for."""

    rate: int | None
    blocks: int


class FeeEstimator:
    """The three horizons, fed by the mempool; ``height`` is that of the tip."""

    def __init__(self, height: int) -> None:
        self._height = height
        self._first: int | None = None
        self._history = (0, 0)
        self._short, self._medium, self._long = _horizons()

    # ---- feeding -------------------------------------------------------------------------------

    def block(self, height: int, confirmed: Iterable[tuple[int, int]]) -> None:
        """Count a block and what it confirmed: (height at admission, fee rate) each."""
        if height <= self._height:
            return
        self._height = height
        for horizon in (self._short, self._medium, self._long):
            horizon.fade()
        for (entered, rate), number in Counter(confirmed).items():
            waited = height - entered
            if waited < 1:
                continue
            if self._first is None:
                self._first = height
            index = bucket_of(rate)
            for horizon in (self._short, self._medium, self._long):
                horizon.confirmed(index, rate, waited, number)

    def left(self, entered: int, rate: int) -> None:
        """Count a transaction that left the pool unconfirmed."""
        waited = self._height - entered
        if waited < 1:
            return
        index = bucket_of(rate)
        for horizon in (self._short, self._medium, self._long):
            if waited >= horizon.scale:
                horizon.failed(index, waited)

    # ---- asking --------------------------------------------------------------------------------

    def estimate(self, target: int, waiting: Iterable[tuple[int, int]], *, conservative: bool) -> Estimate:
        """Return the rate at which a transaction should confirm within ``target`` blocks, 1 to MAX_TARGET.

        ``waiting`` are the transactions in the pool: (height at admission, fee rate) each. The answer
        may be for another target: nothing is promised for the next block, nor beyond half of what was
        seen. ``conservative`` asks the longer horizons too, so it follows a drop of fees more slowly.
        """
        target = min(max(target, 2), self._max_usable())
        if target <= 1:
            return Estimate(None, target)
        crowd = self._crowd(waiting)
        found = [
            self._combined(target // 2, HALF_SUCCESS, crowd, shorter=True),
            self._combined(target, SUCCESS, crowd, shorter=True),
            self._combined(2 * target, DOUBLE_SUCCESS, crowd, shorter=not conservative),
        ]
        known = [rate for rate in found if rate is not None]
        if conservative or not known:
            known += self._longer(2 * target, crowd)
        return Estimate(round(max(known)) if known else None, target)

    def _max_usable(self) -> int:
        seen = 0 if self._first is None else self._height - self._first
        first, best = self._history
        if self._height - best <= OLDEST_HISTORY:
            seen = max(seen, best - first)
        return min(MAX_TARGET, seen // 2)

    def _crowd(self, waiting: Iterable[tuple[int, int]]) -> dict[int, dict[int, int]]:
        crowd: dict[int, dict[int, int]] = {}
        for entered, rate in waiting:
            waited = self._height - entered
            if waited >= 1:
                waits = crowd.setdefault(bucket_of(rate), {})
                waits[waited] = waits.get(waited, 0) + 1
        return crowd

    def _combined(self, target: int, share: float, crowd: Waiting, *, shorter: bool) -> float | None:
        """Ask the shortest horizon that reaches so far; with ``shorter``, those below for their longest."""
        if not 1 <= target <= self._long.max_blocks:
            return None
        rate: float | None = None
        for horizon in (self._short, self._medium, self._long):
            if target <= horizon.max_blocks:
                own = horizon.median(target, share, crowd, sufficient=horizon.sufficient)
                return own if rate is None or (own is not None and own < rate) else rate
            if shorter:
                longest = horizon.median(horizon.max_blocks, share, crowd, sufficient=horizon.sufficient)
                if longest is not None and (rate is None or longest < rate):
                    rate = longest
        return rate

    def _longer(self, target: int, crowd: Waiting) -> list[float]:
        found = []
        for below, horizon in ((self._short, self._medium), (self._medium, self._long)):
            if target <= below.max_blocks:
                rate = horizon.median(target, DOUBLE_SUCCESS, crowd, sufficient=SUFFICIENT_TXS)
                if rate is not None:
                    found.append(rate)
        return found

    # ---- saving --------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """Return what was learnt; ``restore`` reads it."""
        first, best = self._history
        if self._first is not None and self._height - self._first >= best - first:
            first, best = self._first, self._height
        parts = [_HEAD.pack(first, best)]
        for horizon in (self._short, self._medium, self._long):
            horizon.normalise()
            parts.append(_COUNT.pack(len(horizon.buckets)))
            row = _row(horizon)
            for index, each in sorted(horizon.buckets.items()):
                parts.append(_COUNT.pack(index))
                parts.append(row.pack(each.count, each.rates, *each.confirmed, *each.failed))
        return b"".join(parts)

    def restore(self, data: bytes) -> None:
        """Take what ``dump`` returned. Raises DecodeError "bad-fee-estimates" and changes nothing."""
        try:
            history, horizons = _parse(data)
        except (error, ValueError) as fault:
            raise DecodeError("bad-fee-estimates", str(fault)) from None
        self._history = history
        self._short, self._medium, self._long = horizons


def _horizons() -> tuple[Horizon, Horizon, Horizon]:
    """Return empty horizons with Bitcoin Core's numbers."""
    return (
        Horizon(1, 12, 0.962, SUFFICIENT_TXS_SHORT),
        Horizon(2, 24, 0.9952, SUFFICIENT_TXS),
        Horizon(24, 42, 0.99931, SUFFICIENT_TXS),
    )


_HEAD = Struct("<II")
_COUNT = Struct("<I")


def _row(horizon: Horizon) -> Struct:
    return Struct(f"<{3 + 2 * horizon.periods}d")


def _parse(data: bytes) -> tuple[tuple[int, int], tuple[Horizon, Horizon, Horizon]]:
    first, best = _HEAD.unpack_from(data)
    if first > best:
        raise ValueError("the past ends before it begins")
    at = _HEAD.size
    horizons = _horizons()
    for horizon in horizons:
        (count,) = _COUNT.unpack_from(data, at)
        at += _COUNT.size
        if count > len(BOUNDS) + 1:
            raise ValueError("too many buckets")
        row = _row(horizon)
        for _ in range(count):
            (index,) = _COUNT.unpack_from(data, at)
            values = row.unpack_from(data, at + _COUNT.size)
            at += _COUNT.size + row.size
            if index > len(BOUNDS) or index in horizon.buckets:
                raise ValueError("no such bucket, or one given twice")
            if not all(0.0 <= value <= _MOST for value in values) or values[1] > values[0] * _MOST:
                raise ValueError("no count or rate of this world")
            middle = 3 + horizon.periods
            horizon.buckets[index] = _Bucket(
                list(values[2:middle]), list(values[middle:]), values[0], values[1]
            )
    if at != len(data):
        raise ValueError("bytes left over")
    return (first, best), horizons
