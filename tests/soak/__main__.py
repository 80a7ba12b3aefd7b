"""``python -m tests.soak --minutes N [--engine pow]``: see ``tests.soak.soak`` and ``tests.soak.mined``."""

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from tests.soak import mined, soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Payments, kills and pauses.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, help="default: a fresh one, which is printed")
    parser.add_argument("--engine", choices=("bft", "pow"), default="bft", help="which kind of chain")
    options = parser.parse_args()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="wattd-soak-"))
    play = mined.run if options.engine == "pow" else soak.run
    report = asyncio.run(play(root, 60 * options.minutes, seed))
    print(report)
    if report.problems:
        print(f"the nodes' directories are left in {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
