"""``python -m tests.simulation --seeds N``: many seeded histories of whole clusters, from one first seed.

Each seed is one history; which kind and how many validators follows from the seed. A failure prints
the call that repeats it.
"""

import argparse
import secrets
import sys
import traceback
from collections.abc import Callable
from time import monotonic

from tests.simulation.histories import chaos, phase_cuts
from tests.simulation.pool import Pool

POOL_STEPS = 120
REPORT_EVERY_S = 10.0


def pool(n: int, seed: int) -> None:
    """One schedule of the adversarial pool."""
    Pool(n, seed).run(POOL_STEPS)


HISTORIES: tuple[tuple[Callable[[int, int], object], int], ...] = (
    (chaos, 4),
    (phase_cuts, 4),
    (pool, 4),
    (chaos, 7),
    (pool, 7),
    (chaos, 4),
    (phase_cuts, 7),
    (pool, 5),
    (chaos, 1),
    (chaos, 10),
    (pool, 4),
    (chaos, 5),
)
"""(history, validators), by the seed modulo their number."""


def play(seed: int) -> str | None:
    """Run the history of a seed; return the report of a failure."""
    history, n = HISTORIES[seed % len(HISTORIES)]
    try:
        history(n, seed)
    except Exception:
        return f"{history.__name__}({n}, {seed})\n{traceback.format_exc()}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=500, help="how many histories")
    parser.add_argument("--first", type=int, help="the first seed; default: a fresh one, which is printed")
    options = parser.parse_args()
    first = secrets.randbelow(2**31) if options.first is None else options.first
    print(f"seeds {first} to {first + options.seeds - 1}", flush=True)
    failed: list[int] = []
    told_at = monotonic()
    for number in range(options.seeds):
        report = play(first + number)
        if report is not None:
            failed.append(first + number)
            again = f"python -m tests.simulation --first {first + number} --seeds 1"
            print(f"FAILED: {again}\n{report}", flush=True)
        if monotonic() - told_at > REPORT_EVERY_S:
            told_at = monotonic()
            print(f"{number + 1} histories, {len(failed)} failed", flush=True)
    print(f"{options.seeds} histories, {len(failed)} failed" + (f": seeds {failed}" if failed else ""))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
