"""A process killed while its indexes follow a growing and reorganising chain, again and again on one store.

WATTD_CRASH_ROUNDS is how often, WATTD_CRASH_SEED what the blocks and the moments come from.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

from storage.follower import Follower
from storage.indexes import AddressIndex, TxIndex
from storage.schema import Mode
from storage.side import TX_INDEX
from storage.store import ChainStore
from tests.unit.storage.indexkit import CHAIN_ID, RandomChain, assert_indexed, assert_txs_found, run_out

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("WATTD_CRASH_ROUNDS") or 6)
SEED = int(os.environ.get("WATTD_CRASH_SEED") or 0)


def work_and_kill(directory: Path, seed: int, segment_bytes: int) -> None:
    """Let a child work until its segment file has grown by ``segment_bytes``, then kill it wherever it is."""
    command = [sys.executable, "-m", "tests.crash.indexchild", str(directory), str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() != b"", "the child could not open the store"
        path = directory / "blocks" / "seg-00000.dat"
        target = path.stat().st_size + segment_bytes
        while path.stat().st_size < target and child.poll() is None:
            os.sched_yield()
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


def test_after_every_kill_the_indexes_become_what_the_chain_says(tmp_path: Path) -> None:
    print(f"WATTD_CRASH_SEED={SEED} WATTD_CRASH_ROUNDS={ROUNDS}")
    rng, data = Random(SEED), tmp_path / "data"
    for life in range(SEED, SEED + ROUNDS):
        work_and_kill(data, life, rng.randrange(500, 60_000))
        if life % 2:
            continue  # the next life starts from wherever this one was cut
        with ChainStore.open(data, chain_id=CHAIN_ID, cache_bytes=1 << 16) as store:
            chain = RandomChain.of(store, rng)
            address = Follower.open(store, AddressIndex(), wanted=True)
            run_out(address)
            assert_indexed(store, chain)
            run_out(Follower.open(store, TxIndex(), wanted=False))
            assert store.side.progress(TX_INDEX).mode is Mode.OFF
            run_out(Follower.open(store, TxIndex(), wanted=True))
            assert_txs_found(store, chain)
