"""A real process killed with SIGKILL while it writes, again and again on one directory.

WATTD_CRASH_ROUNDS is how often, WATTD_CRASH_SEED what the blocks and the moments come from.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.unit.storage.chainkit import assert_same, catch_up, open_toy, replay_of

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("WATTD_CRASH_ROUNDS") or 7)
SEED = int(os.environ.get("WATTD_CRASH_SEED") or 0)


def grow_and_kill(directory: Path, seed: int, engine: str, segment_bytes: int) -> None:
    """Let a child work until its segment file has grown by ``segment_bytes``, then kill it wherever it is."""
    command = [sys.executable, "-m", "tests.crash.storechild", str(directory), str(seed), engine]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() != b"", "the child could not open the store"
        path = directory / "blocks" / "seg-00000.dat"
        target = path.stat().st_size + segment_bytes
        while path.stat().st_size < target and child.poll() is None:
            os.sched_yield()
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


@pytest.mark.parametrize("engine", ["bft", "pow"])
def test_the_state_is_that_of_the_stored_height_after_every_kill(tmp_path: Path, engine: str) -> None:
    print(f"WATTD_CRASH_SEED={SEED} WATTD_CRASH_ROUNDS={ROUNDS}")
    rng, data = Random(f"{SEED}/{engine}"), tmp_path / "data"
    height = -1
    for life in range(SEED, SEED + ROUNDS):
        grow_and_kill(data, life, engine, rng.randrange(1_000, 400_000))
        with open_toy(data) as store:
            found = replay_of(store)
            assert_same(store, found)
            assert catch_up(store, found) <= (engine == "bft")
            assert_same(store, found)
            assert store.height > (height if engine == "bft" else -1)
            height = store.height


def test_replay_closes_the_gap_when_leveldb_lost_what_it_had_not_synced(tmp_path: Path) -> None:
    data, old = tmp_path / "data", tmp_path / "old"
    grow_and_kill(data, 7, "bft", 20_000)
    shutil.copytree(data / "index", old)
    grow_and_kill(data, 8, "bft", 200_000)
    with open_toy(data) as store:
        expected = replay_of(store)
        catch_up(store, expected)
    shutil.rmtree(data / "index")
    old.rename(data / "index")
    with open_toy(data) as store:
        found = replay_of(store)
        assert_same(store, found)
        assert catch_up(store, found) > 10
        assert_same(store, expected)
