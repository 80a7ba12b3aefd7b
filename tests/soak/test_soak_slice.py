"""A short soak from a fresh seed; ``make soak MINUTES=n`` runs a long one."""

import asyncio
import os
import secrets

import pytest

from tests.soak.soak import run

pytestmark = pytest.mark.functional

SECONDS = 15.0
SEED = int(os.environ.get("WATTD_SOAK_SEED") or secrets.randbelow(2**32))


def test_payments_survive_kills_and_pauses(tmp_path):
    report = asyncio.run(run(tmp_path, SECONDS, SEED))
    assert report.problems == [], str(report)
    assert report.sent > 100
    assert report.faults.total() > 0
