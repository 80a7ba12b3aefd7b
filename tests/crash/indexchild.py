"""A process that moves a chain and its indexes until it is killed: ``python -m tests.crash.indexchild D N``.

Blocks come and go on one thread while the followers work on another, in tiny slices, as in a node.
"""

import sys
import threading
from pathlib import Path
from random import Random

from storage import limits
from storage.follower import Follower
from storage.indexes import AddressIndex, TxIndex
from storage.store import ChainStore
from tests.unit.storage.indexkit import CHAIN_ID, RandomChain


def follow(followers: list[Follower]) -> None:
    while True:
        for follower in followers:
            follower.step()


def main(directory: Path, seed: int) -> None:
    rng = Random(seed)
    limits.SIDE_SLICE_ITEMS = rng.choice([1, 7, 1000])
    store = ChainStore.open(directory, chain_id=CHAIN_ID, cache_bytes=1 << 16)
    # The transaction index is taken away and built again, over and over.
    followers = [
        Follower.open(store, TxIndex(), wanted=seed % 3 != 0),
        Follower.open(store, AddressIndex(), wanted=True),
    ]
    chain = RandomChain.of(store, rng)
    print(store.height, flush=True)
    threading.Thread(target=follow, args=(followers,), daemon=True).start()
    while True:
        store.connect(chain.connect(chain.make_block()))
        if rng.random() < 0.2:
            for _ in range(min(rng.randrange(1, 4), len(chain.blocks) - 1)):
                store.disconnect(*chain.disconnect())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
