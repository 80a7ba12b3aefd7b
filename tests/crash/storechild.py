"""A process that grows a chain until it is killed: ``python -m tests.crash.storechild DIR SEED ENGINE``.

It opens the store as a node does, executes what the segments still hold, and then prepares and
connects blocks without a pause; with ENGINE "pow" it takes some off again, with "bft" each has a
certificate and is final.
"""

import sys
from pathlib import Path
from random import Random

from tests.unit.storage.chainkit import catch_up, hash_of, open_toy, random_body, replay_of


def main(directory: Path, seed: int, engine: str) -> None:
    rng = Random(seed)
    store = open_toy(directory, cache_bytes=1 << 16)
    model = replay_of(store)
    catch_up(store, model)
    print(store.height, flush=True)
    while True:
        body = random_body(rng, model, count=40)
        for proposal in (random_body(rng, model), body)[rng.randrange(2) :]:
            store.put_body(hash_of(proposal), model.height + 1, proposal)
        store.sync()
        store.connect(model.connect(body, b"certificate" if engine == "bft" else None))
        while engine == "pow" and model.height > 0 and rng.random() < 0.3:
            store.disconnect(*model.disconnect())
        if rng.random() < 0.1:
            store.flush()
        if rng.random() < 0.01:
            store.close()
            store = open_toy(directory, cache_bytes=1 << 16)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
