"""The formulas behind the table of risk, against other derivations, and the table against the formulas."""

import math
import re
from fractions import Fraction
from pathlib import Path

import pytest

from tests.simulation.pow_risk import (
    DEPTHS,
    HEAD,
    SHARES,
    confirmations,
    double_spend,
    percent,
    selfish_revenue,
    selfish_threshold,
    table,
)

PAGE = (Path(__file__).parents[2] / "docs" / "pow.md").read_text()


def incomplete_beta(x, a, b=0.5, steps=20_000):
    """Return the regularised incomplete beta function I_x(a, 1/2), by Simpson's rule after t = 1 - u^2."""
    assert b == 0.5
    low = math.sqrt(1 - x)
    width = (1 - low) / steps
    total = 0.0
    for at in range(steps + 1):
        u = low + at * width
        weight = 1 if at in (0, steps) else 4 if at % 2 else 2
        total += weight * (1 - u * u) ** (a - 1) * 2
    beta = math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
    return total * width / 3 / beta


@pytest.mark.parametrize("share", [1, 5, 10, 25, 30, 40, 45])
@pytest.mark.parametrize("depth", [1, 2, 3, 6, 10, 60])
def test_the_sum_is_grunspan_and_perez_marcos_beta_function(share, depth):
    """P(z) = I_{4pq}(z, 1/2): another derivation, another kind of number."""
    q = Fraction(share, 100)
    exact = float(double_spend(q, depth))
    assert incomplete_beta(float(4 * q * (1 - q)), depth) == pytest.approx(exact, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize(
    ("share", "published"),
    [
        (10, [20, 5.6, 1.712, 0.546, 0.178, 0.059]),
        (30, [60, 43.2, 32.616, 25.207, 19.762, 15.645]),
    ],
)
def test_rosenfelds_published_rows(share, published):
    """Per cent for one to six confirmations, his table 1."""
    found = [float(100 * double_spend(Fraction(share, 100), depth)) for depth in range(1, 7)]
    assert found == pytest.approx(published, abs=6e-4)


def test_one_confirmation_is_worth_twice_the_attackers_share():
    for share in range(1, 50):
        assert double_spend(Fraction(share, 100), 1) == Fraction(2 * share, 100)


def test_ends_of_the_scale():
    third = Fraction(1, 3)
    assert double_spend(third, 0) == 1
    assert double_spend(third, 0, lead=0) == Fraction(1, 2)  # gets ahead by one, some time: q / p
    for share in (50, 51, 99):
        assert double_spend(Fraction(share, 100), 1_000) == 1
    assert double_spend(Fraction(0), 1) == 0
    assert double_spend(third, 6, lead=2) > double_spend(third, 6, lead=1) > double_spend(third, 6, lead=0)


@pytest.mark.parametrize("share", SHARES)
def test_recommended_confirmations_are_the_fewest_that_do(share):
    q = Fraction(share, 100)
    wait = confirmations(q)
    assert double_spend(q, wait) < Fraction(1, 1000) <= double_spend(q, wait - 1)


def test_selfish_mining_pays_exactly_from_the_threshold_on():
    for gamma in (Fraction(0), Fraction(1, 2), Fraction(9, 10)):
        edge = selfish_threshold(gamma)
        assert selfish_revenue(edge, gamma) == edge
        step = Fraction(1, 100)
        assert selfish_revenue(edge + step, gamma) > edge + step
        assert selfish_revenue(edge - step, gamma) < edge - step
    assert [selfish_threshold(Fraction(n, 2)) for n in range(3)] == [Fraction(1, 3), Fraction(1, 4), 0]


# ---- the page


def test_the_table_of_the_page_is_what_the_formula_gives():
    at = PAGE.index(HEAD)
    shown = PAGE[at:].split("\n\n")[0].strip()
    assert shown == table()


def test_the_table_is_read_as_it_is_meant():
    """Every cell, parsed and recomputed: within the last digit that is shown."""
    rows = re.findall(r"^\| (\d+) % \| (.+) \| (\d+) \|$", PAGE, re.MULTILINE)
    assert [int(share) for share, _, _ in rows] == list(SHARES)
    for share, cells, wait in rows:
        q = Fraction(int(share), 100)
        assert int(wait) == confirmations(q)
        for depth, cell in zip(DEPTHS, cells.split(" | "), strict=True):
            exact = 100 * double_spend(q, depth)
            if cell.startswith("<"):
                assert exact < Fraction(cell[2:])
            else:
                digit = Fraction(1, 10 ** len(cell.partition(".")[2]))
                assert abs(Fraction(cell) - exact) <= digit / 2


def test_the_table_of_selfish_mining_is_the_closed_form():
    rows = re.findall(r"^\| (\d+) % \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) % \|$", PAGE, re.MULTILINE)
    assert len(rows) == 7
    assert "| share | γ = 0 | γ = 1/2 | γ = 3/4 |" in PAGE
    for share, *cells in rows:
        for gamma, cell in zip((Fraction(0), Fraction(1, 2), Fraction(3, 4)), cells, strict=True):
            exact = 100 * selfish_revenue(Fraction(int(share), 100), gamma)
            assert abs(Fraction(cell) - exact) <= Fraction(1, 20), (share, gamma)


def test_other_figures_of_the_page():
    text = " ".join(PAGE.split())
    assert "The threshold is 1/3 at γ = 0, 1/4 at 1/2, and 1/6 at 3/4" in text
    thresholds = [selfish_threshold(Fraction(n, 4)) for n in (0, 2, 3)]
    assert thresholds == [Fraction(1, 3), Fraction(1, 4), Fraction(1, 6)]
    assert "340 instead of 539" in text
    assert confirmations(Fraction(45, 100)) == 539
    assert nakamoto(0.45, 340) < 0.001 <= nakamoto(0.45, 339)


def nakamoto(q, z):
    """Return his Poisson approximation, section 11 of the paper."""
    rate = z * q / (1 - q)
    mass, risk = math.exp(-rate), 1.0
    for m in range(z + 1):
        risk -= mass * (1 - (q / (1 - q)) ** (z - m))
        mass *= rate / (m + 1)
    return risk


def test_percent_shows_what_counts():
    shown = [Fraction(n) for n in ("0.5", "0.1", "0.0123", "0.00123", "0.00000001", "0.000000009")]
    assert [percent(risk) for risk in shown] == ["50.0", "10.0", "1.2", "0.12", "0.0000010", "< 0.000001"]
