"""A short run of three miners from a fresh seed; ``make soak ARGS="--engine pow"`` runs a long one."""

import asyncio
import os
import secrets

import pytest

from tests.soak.mined import run

pytestmark = pytest.mark.functional

SECONDS = 12.0
SEED = int(os.environ.get("WATTD_SOAK_SEED") or secrets.randbelow(2**32))


def test_miners_agree_and_payments_survive(tmp_path):
    report = asyncio.run(run(tmp_path, SECONDS, SEED))
    assert report.problems == [], str(report)
    assert report.sent > 10
    assert report.height > 5
