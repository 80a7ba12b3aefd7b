"""Compact targets as in Bitcoin Core's arith_uint256 tests, work, proof, and the ASERT runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.block import BlockHeader
from consensus.errors import RuleError
from consensus.pow.asert import next_target
from consensus.pow.target import check_proof, decode_compact, encode_compact, target_of, work_of

# bits, target, negative, overflow, compact form of the target: arith_uint256_tests.cpp, bignum_SetCompact
CORE = [
    (0, 0, False, False, 0),
    (0x00123456, 0, False, False, 0),
    (0x01003456, 0, False, False, 0),
    (0x02000056, 0, False, False, 0),
    (0x03000000, 0, False, False, 0),
    (0x04000000, 0, False, False, 0),
    (0x00923456, 0, False, False, 0),
    (0x01803456, 0, False, False, 0),
    (0x02800056, 0, False, False, 0),
    (0x03800000, 0, False, False, 0),
    (0x04800000, 0, False, False, 0),
    (0x01123456, 0x12, False, False, 0x01120000),
    (0x02123456, 0x1234, False, False, 0x02123400),
    (0x03123456, 0x123456, False, False, 0x03123456),
    (0x04123456, 0x12345600, False, False, 0x04123456),
    (0x04923456, 0x12345600, True, False, 0x04123456),
    (0x05009234, 0x92340000, False, False, 0x05009234),
    (0x20123456, 0x123456 << 232, False, False, 0x20123456),
    (0xFF123456, None, False, True, None),
]


@pytest.mark.parametrize(("bits", "target", "negative", "overflow", "again"), CORE)
def test_compact_form_is_cores(bits, target, negative, overflow, again):
    value, is_negative, is_overflow = decode_compact(bits)
    assert (is_negative, is_overflow) == (negative, overflow)
    if target is not None:
        assert value == target
        assert encode_compact(value) == again
    assert (target_of(bits) is None) == (negative or overflow or not target)


def test_0x80_needs_a_byte_for_the_sign():
    assert encode_compact(0x80) == 0x02008000


@pytest.mark.parametrize(
    ("bits", "overflow"),
    [
        (0x2100FFFF, False),
        (0x21010000, True),
        (0x220000FF, False),
        (0x22000100, True),
        (0x23000001, True),
        (0x23000000, False),
    ],
)
def test_overflow_begins_at_256_bits(bits, overflow):
    assert decode_compact(bits)[2] is overflow


@given(st.integers(0, 2**256 - 1))
def test_encoding_keeps_the_leading_bits(target):
    bits = encode_compact(target)
    value, negative, overflow = decode_compact(bits)
    assert not negative
    assert not overflow
    assert value <= target
    assert target - value <= target >> 15
    assert encode_compact(value) == bits


@pytest.mark.parametrize("target", [-1, 2**256])
def test_only_256_bits_have_a_compact_form(target):
    with pytest.raises(ValueError):
        encode_compact(target)


def test_work_of_bitcoins_first_block_and_of_none():
    assert work_of(0x1D00FFFF) == 0x100010001
    assert work_of(0x207FFFFF) == 2
    assert work_of(0) == work_of(0x04923456) == work_of(0xFF123456) == 0


GENESIS = BlockHeader.parse(
    bytes.fromhex(
        "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e"
        "67768f617fc81bc3888a51323a9fb8aa4b1e5e4a29ab5f49ffff001d1dac2b7c"
    )
)
LIMIT = 0xFFFF << 208


def refusal(header, limit=LIMIT):
    with pytest.raises(RuleError) as caught:
        check_proof(header, limit)
    return caught.value.code


def with_bits(bits):
    return BlockHeader.parse(GENESIS.raw[:72] + bits.to_bytes(4, "little") + GENESIS.raw[76:])


def test_proof_of_bitcoins_first_block():
    check_proof(GENESIS, LIMIT)


def test_high_hash():
    assert refusal(BlockHeader.parse(GENESIS.raw[:-1] + b"\0")) == "high-hash"


@pytest.mark.parametrize("bits", [0, 0x1D80FFFF, 0xFF123456, 0x1D010000, 0x207FFFFF])
def test_bits_that_are_no_target_of_the_chain(bits):
    assert refusal(with_bits(bits)) == "bad-diffbits"


# ---- ASERT

BITCOIN_CASH = {"spacing_s": 600, "half_life_s": 172_800, "max_target": 0xFFFF << 208}


def runs(folder):
    for path in sorted(folder.glob("run*")):
        lines = path.read_text().splitlines()
        head = dict(line[2:].strip().split(": ", 1) for line in lines if line.startswith("## "))
        rows = [line.split() for line in lines if line and not line.startswith("#")]
        yield path.name, head, [(int(row[1]), int(row[2]), int(row[3], 16)) for row in rows]


def test_all_published_asert_runs(shared_vectors):
    cases = 0
    for name, head, rows in runs(shared_vectors / "asert"):
        anchor = target_of(int(head["anchor nBits"], 16))
        height, time = int(head["anchor height"]), int(head["anchor ancestor time"])
        assert len(rows) == int(head["iterations"])
        for at, when, bits in rows:
            target = next_target(anchor, when - time, at - height, **BITCOIN_CASH)
            assert encode_compact(target) == bits, (name, at)
            cases += 1
    assert cases == 3000


ANCHOR = 1 << 200
OURS = {"spacing_s": 15, "half_life_s": 1440, "max_target": (1 << 255) - 1}


def test_on_schedule_nothing_changes():
    for height in (0, 1, 7, 100_000):
        assert next_target(ANCHOR, 15 * (height + 1), height, **OURS) == ANCHOR


def test_one_half_life_doubles_or_halves():
    assert next_target(ANCHOR, 15 + 1440, 0, **OURS) == ANCHOR * 2
    assert next_target(ANCHOR, 15 - 1440, 0, **OURS) == ANCHOR // 2  # a negative time difference


def test_negative_differences_are_cut_towards_zero():
    # -1 s of 1440: -65536 / 1440 = -45.51; cut to -45, rounded down it would be -46.
    target = next_target(1 << 216, 14, 0, **OURS)
    part = (1 << 16) - 45
    factor = (1 << 16) + (
        (195_766_423_245_049 * part + 971_821_376 * part**2 + 5_127 * part**3 + (1 << 47)) >> 48
    )
    assert target == ((1 << 216) * factor >> 1) >> 16


def test_time_that_runs_backwards_makes_it_harder_at_every_block():
    targets = [next_target(ANCHOR, -height, height, **OURS) for height in range(2_000)]
    assert targets == sorted(targets, reverse=True)
    assert targets[0] > targets[-1] >= 1


@given(st.integers(-(2**33), 2**33), st.integers(0, 2**31), st.integers(1, 2**20), st.integers(1, 2**24))
def test_target_stays_in_bounds_whatever_the_clock_says(delta, height, spacing, half_life):
    limit = 1 << 224
    target = next_target(1 << 220, delta, height, spacing_s=spacing, half_life_s=half_life, max_target=limit)
    assert 1 <= target <= limit


@given(st.integers(-(10**6), 10**6))
def test_later_is_never_harder(delta):
    assert next_target(ANCHOR, delta, 3, **OURS) <= next_target(ANCHOR, delta + 1, 3, **OURS)


def test_ten_intervals_ahead_cost_seven_and_a_half_percent():
    """The future limit against the half-life (CONSENSUS.md, section 6.2): 2^(10/96) = 1.0749."""
    target = next_target(ANCHOR, 15 + 150, 0, **OURS)
    assert 1_074 <= target * 1000 // ANCHOR <= 1_075
