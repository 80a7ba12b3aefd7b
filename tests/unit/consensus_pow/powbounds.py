"""Bounds of counts for statistical tests: how far chance alone leads, with a stated probability."""

import math

FALSE_ALARM = 1e-6
"""Probability with which each bound would refuse what is right."""

_ONE_IN_A_MILLION = 4.7534243
"""The normal quantile of FALSE_ALARM, one-sided."""


def binomial_bounds(n: int, p: float, false_alarm: float = FALSE_ALARM) -> tuple[int, int]:
    """Return (low, high): a binomial count is outside with at most the given probability. Exact sums."""
    log_p, log_q = math.log(p), math.log1p(-p)

    def mass(k: int) -> float:
        choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        return math.exp(choose + k * log_p + (n - k) * log_q)

    low, tail = 0, 0.0
    while tail + mass(low) < false_alarm / 2:
        tail += mass(low)
        low += 1
    high, tail = n, 0.0
    while tail + mass(high) < false_alarm / 2:
        tail += mass(high)
        high -= 1
    return low, high


def chi_square_bound(freedom: int) -> float:
    """Return what chi-square exceeds with probability FALSE_ALARM (Wilson and Hilferty).

    The approximation is good to about one per cent for 20 degrees of freedom and more.
    """
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + _ONE_IN_A_MILLION * math.sqrt(spread)) ** 3)
