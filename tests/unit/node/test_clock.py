"""Real time and chain time."""

import pytest

from node import clock as module
from node.clock import NANOSECONDS, Clock
from node.dice import fraction, random_bytes


@pytest.fixture
def at(monkeypatch):
    """Set the system's clock, in nanoseconds."""

    def set_to(nanoseconds):
        monkeypatch.setattr(module.time, "time_ns", lambda: nanoseconds)

    return set_to


def test_by_default_chain_time_is_utc(at):
    at(1_700_000_000 * NANOSECONDS + 999_999_999)
    assert Clock().now_s() == 1_700_000_000
    assert Clock().real_delay_s(1_700_000_010) == pytest.approx(9.0, abs=1e-6)
    assert Clock().real_delay_s(1_699_999_990) < 0


def test_a_time_lapse_runs_from_its_origins(at):
    clock = Clock(speed=960, real_origin_ns=1_700_000_000 * NANOSECONDS, chain_origin_s=1_750_000_000)
    at(1_700_000_000 * NANOSECONDS)
    assert clock.now_s() == 1_750_000_000
    at(1_700_000_090 * NANOSECONDS)
    assert clock.now_s() == 1_750_000_000 + 86_400
    assert clock.real_delay_s(1_750_000_000 + 2 * 86_400) == pytest.approx(90.0)
    at(1_699_999_999 * NANOSECONDS)  # before the origin: it runs, and does not fail
    assert clock.now_s() == 1_750_000_000 - 960


def test_monotonic_times_agree():
    before = Clock.monotonic_ms()
    assert before <= Clock.monotonic_s() * 1000 <= Clock.monotonic_ms() + 1
    assert Clock.unix_ns() > 1_600_000_000 * NANOSECONDS


def test_dice():
    assert len(random_bytes(33)) == 33
    assert random_bytes(16) != random_bytes(16)
    rolls = [fraction() for _ in range(200)]
    assert all(0 <= roll < 1 for roll in rolls)
    assert max(rolls) - min(rolls) > 0.5
