"""How often a hash meets a target: PriWatt's equation (2), P(H <= T) = T / 2^256, on real headers.

Every test states the probability with which a perfect hash function would fail it. The headers are
fixed, so a test that passes once passes always: the bounds judge the code, not the day's luck.
"""

import math
import random

import pytest

from cext import pow_search
from consensus.block import BlockHeader
from consensus.errors import RuleError
from consensus.pow.mining import NONCES
from consensus.pow.target import check_proof, encode_compact, target_of, work_of
from tests.unit.consensus_pow.powbounds import binomial_bounds, chi_square_bound

SPACE = 1 << 256
SEED = 2
HEADERS = 40_000


def header_of(dice, bits):
    return BlockHeader.build(
        version=0x20000000,
        prev_hash=dice.randbytes(32),
        merkle_root=dice.randbytes(32),
        time_s=1_750_000_000 + dice.randrange(10**6),
        bits=bits,
        nonce=dice.randrange(NONCES),
    )


@pytest.fixture(scope="module")
def hashes():
    """Hashes of 40,000 headers that differ in parent, transactions, time and nonce, as numbers."""
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    return [int.from_bytes(header_of(dice, 0x207FFFFF).hash, "little") for _ in range(HEADERS)]


def test_the_bounds_are_what_they_say():
    """The binomial by hand, chi-square against its upper quantiles of 1e-6 from tables."""
    assert binomial_bounds(10, 0.5, 0.02) == (1, 9)  # P(0) = P(10) = 1/1024 < 0.01, P(<= 1) = 11/1024 > 0.01
    for freedom, exact in ((20, 65.42), (99, 180.79), (255, 377.08)):
        assert chi_square_bound(freedom) == pytest.approx(exact, rel=0.012)


@pytest.mark.parametrize(
    "bits", [0x207FFFFF, 0x2055AA11, 0x20333333, 0x200FFFFF, 0x2001FFFF, 0x1F7FFFFF, 0x1F0FFFFF]
)
def test_a_hash_meets_a_target_as_often_as_equation_2_says(hashes, bits):
    """From every second hash to one in 4,096; a perfect hash fails with probability 1e-6."""
    target = target_of(bits)
    met = sum(value <= target for value in hashes)
    low, high = binomial_bounds(HEADERS, target / SPACE)
    print(f"{met} of {HEADERS}, expected {HEADERS * target / SPACE:.1f}, bounds {low} to {high}")
    assert low <= met <= high


def test_hashes_are_even_over_the_whole_space(hashes):
    """Equation (2) for 255 targets at once: chi-square over 256 cells, false alarm 1e-6."""
    cells = [0] * 256
    for value in hashes:
        cells[value >> 248] += 1
    expected = HEADERS / 256
    chi = sum((count - expected) ** 2 / expected for count in cells)
    print(f"chi-square {chi:.1f} of 255 degrees, bound {chi_square_bound(255):.1f}")
    assert chi < chi_square_bound(255)


def test_the_rule_of_the_chain_is_the_equation(hashes):
    """check_proof accepts exactly the headers that are counted above."""
    dice = random.Random(SEED)
    for value in hashes[:2_000]:
        header = header_of(dice, 0x207FFFFF)
        assert int.from_bytes(header.hash, "little") == value
        assert accepts(header) == (value <= target_of(0x207FFFFF))


def accepts(header):
    """Tell whether the rule accepts a header; it has one reason only not to."""
    try:
        check_proof(header, target_of(0x207FFFFF))
    except RuleError as error:
        return error.code != "high-hash"
    return True


# ---- what follows: hashes per block


def tries_per_block(bits, blocks, seed):
    dice = random.Random(seed)
    target = target_of(bits)
    return [pow_search(header_of(dice, bits).raw, 0, NONCES, target) + 1 for _ in range(blocks)]


@pytest.mark.parametrize(("bits", "blocks"), [(0x207FFFFF, 5_000), (0x200FFFFF, 3_000), (0x2000FFFF, 400)])
def test_a_block_takes_two_to_the_256_over_the_target_hashes(bits, blocks):
    """The mean over many blocks, which is what ``work_of`` counts and difficulty is made of.

    The sum of tries of n blocks exceeds m exactly if m hashes hold fewer than n that meet the target, so
    the binomial bounds hold for it as well: false alarm 1e-6.
    """
    total = sum(tries_per_block(bits, blocks, SEED + 1))
    p = (target_of(bits) + 1) / SPACE
    low, high = binomial_bounds(total, p)
    print(f"{total} hashes for {blocks} blocks, expected {blocks / p:.0f}")
    assert low <= blocks <= high
    assert work_of(bits) == SPACE // (target_of(bits) + 1) == math.floor(1 / p)


def test_the_search_has_no_memory():
    """Tries per block are geometric: having searched long brings a block no nearer. Chi-square, 1e-6."""
    bits, blocks = 0x200FFFFF, 3_000
    p = (target_of(bits) + 1) / SPACE
    tries = tries_per_block(bits, blocks, SEED + 2)
    cells, expected = [], []
    least = 1
    while blocks * (1 - p) ** (least - 1) > 20:
        below = least + 2
        cells.append(sum(least <= count < below for count in tries))
        expected.append(blocks * ((1 - p) ** (least - 1) - (1 - p) ** (below - 1)))
        least = below
    cells.append(sum(count >= least for count in tries))
    expected.append(blocks * (1 - p) ** (least - 1))
    chi = sum((got - due) ** 2 / due for got, due in zip(cells, expected, strict=True))
    print(f"chi-square {chi:.1f} of {len(cells) - 1} degrees")
    assert len(cells) > 20
    assert chi < chi_square_bound(len(cells) - 1)


def test_a_harder_target_has_more_work_in_the_same_proportion():
    for bits in (0x207FFFFF, 0x1F00FFFF, 0x1D00FFFF):
        target = target_of(bits)
        half = encode_compact(target // 2)
        assert abs(work_of(half) - 2 * work_of(bits)) <= 2 * work_of(bits) // 1_000 + 2
