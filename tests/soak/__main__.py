"""``python -m tests.soak --minutes N``: see ``tests.soak.soak``."""

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Payments, kills and pauses.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, help="default: a fresh one, which is printed")
    options = parser.parse_args()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="wattd-soak-"))
    report = asyncio.run(run(root, 60 * options.minutes, seed))
    print(report)
    if report.problems:
        print(f"the nodes' directories are left in {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
