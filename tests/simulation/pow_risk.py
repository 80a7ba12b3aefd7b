"""Risk of a double spend, exactly, and the table of ``docs/pow.md``: ``python -m tests.simulation.pow_risk``.

The race after z confirmations is Nakamoto's; the number of blocks that the attacker finds meanwhile is
negative binomial and not Poisson, as Rosenfeld showed ("Analysis of hashrate-based double-spending",
2014). Grunspan and Perez-Marco ("Double spend races", 2018) give the same probability as a regularised
incomplete beta function. Everything here is in whole fractions.
"""

from fractions import Fraction
from functools import cache
from math import comb

SHARES = (1, 5, 10, 15, 20, 25, 30, 35, 40, 45)
DEPTHS = (1, 2, 3, 4, 6, 10, 20, 60, 120)
TOLERATED = Fraction(1, 1000)
HEAD = "| attacker's share | " + " | ".join(str(depth) for depth in DEPTHS) + " | wait for 0.1 % |"


def double_spend(q: Fraction, z: int, lead: int = 1) -> Fraction:
    """Return the probability that an attacker with the share ``q`` reverts a payment of ``z`` confirmations.

    ``lead`` blocks are found before the payment is made, and the attacker must get ahead of the public
    branch by one. That is Rosenfeld's formula for ``lead`` 1, and as well the probability to draw level
    without any lead, for an attacker who wins ties.
    """
    a, n = q.as_integer_ratio()
    b = n - a
    if a >= b:
        return Fraction(1)
    most = z - lead  # with more blocks than that, found while the public finds z, it is ahead already
    total = 0
    for m in range(most + 1):
        # C(m+z-1, m) p^z q^m (1 - (q/p)^(z+1-lead-m)), all over n^(z+most) b
        ways = comb(m + z - 1, m) if z else 1
        total += ways * (b ** (z + 1) * a**m - b ** (m + lead) * a ** (most + 1)) * n ** (most - m)
    return 1 - Fraction(total, n ** (z + max(most, 0)) * b)


@cache
def confirmations(q: Fraction, tolerated: Fraction = TOLERATED) -> int:
    """Return the least number of confirmations with less than the tolerated risk."""
    low, high = 0, 1
    while double_spend(q, high) >= tolerated:
        low, high = high, 2 * high
    while high - low > 1:  # the risk falls with every block
        middle = (low + high) // 2
        low, high = (middle, high) if double_spend(q, middle) >= tolerated else (low, middle)
    return high


def selfish_revenue(alpha: Fraction, gamma: Fraction) -> Fraction:
    """Return a selfish miner's part of the blocks (Eyal and Sirer, 2014, equation 8).

    ``gamma`` is the part of the honest hash rate that mines on its block in a tie. Up to one half.
    """
    numerator = alpha * (1 - alpha) ** 2 * (4 * alpha + gamma * (1 - 2 * alpha)) - alpha**3
    return numerator / (1 - alpha * (1 + (2 - alpha) * alpha))


def selfish_threshold(gamma: Fraction) -> Fraction:
    """Return the share from which selfish mining pays."""
    return (1 - gamma) / (3 - 2 * gamma)


def percent(risk: Fraction) -> str:
    """Return a risk as it stands in the table: per cent with two digits that count, or three from 10 on."""
    value = 100 * risk
    if value >= 10:
        return f"{float(value):.1f}"
    if value < Fraction(1, 1_000_000):
        return "< 0.000001"
    places = 1
    while value * 10**places < 10:
        places += 1
    return f"{float(value):.{places}f}"


def table() -> str:
    """Return the table in Markdown."""
    lines = [HEAD, "|---" * (len(DEPTHS) + 2) + "|"]
    for share in SHARES:
        q = Fraction(share, 100)
        cells = [percent(double_spend(q, depth)) for depth in DEPTHS]
        lines.append(f"| {share} % | " + " | ".join(cells) + f" | {confirmations(q)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
