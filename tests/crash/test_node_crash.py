"""Whole nodes that die at every kind of write; see ``node_stories``.

WATTD_CRASH_ROUNDS is how many lives end, WATTD_CRASH_SEED what is drawn from.
"""

import asyncio
import os
from pathlib import Path

import pytest

from tests.crash.node_stories import play

pytestmark = pytest.mark.functional

ROUNDS = int(os.environ.get("WATTD_CRASH_ROUNDS") or 3)
SEED = int(os.environ.get("WATTD_CRASH_SEED") or 0)


@pytest.mark.parametrize("engine", ["pow", "bft"])
def test_after_every_death_the_state_is_that_of_a_replay(tmp_path: Path, engine: str) -> None:
    print(f"WATTD_CRASH_SEED={SEED} WATTD_CRASH_ROUNDS={ROUNDS}")
    tally = asyncio.run(play(tmp_path, engine, SEED, ROUNDS))
    print(tally)
    assert tally.deaths > 0
