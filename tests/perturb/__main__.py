"""``python -m tests.perturb --nodes 7 --minutes 5``: see ``tests.perturb.campaign``."""

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.perturb.campaign import Order, run
from tests.perturb.kinds import KINDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.perturb", description="Perturb real nodes.")
    parser.add_argument("--nodes", type=int, default=4, help="4 to 50")
    parser.add_argument("--minutes", type=float, default=5.0, help="0: each kind once, however long it takes")
    parser.add_argument("--seed", type=int, help="default: a fresh one, which is printed")
    parser.add_argument(
        "--kinds", nargs="+", default=(), choices=KINDS, metavar="KIND", help=", ".join(KINDS)
    )
    parser.add_argument(
        "--namespaces", action="store_true", help="cut links in the kernel, not in a proxy (root)"
    )
    parser.add_argument("--round-s", type=int, default=60, help="seconds of an epoch; 0: no epoch ends")
    options = parser.parse_args()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # so that the nodes end too
    root = Path(tempfile.mkdtemp(prefix="wattd-perturb-"))
    order = Order(
        nodes=options.nodes,
        seconds=60 * options.minutes,
        seed=seed,
        kinds=options.kinds,
        namespaces=options.namespaces,
        round_s=options.round_s,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(run(root, order))
    print(report)
    if report.problems:
        print(f"the nodes' directories are left in {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
