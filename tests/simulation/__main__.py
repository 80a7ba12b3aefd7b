"""``python -m tests.simulation --seeds N``: many seeded histories of whole clusters, from one first seed.

Each seed is one history of each kind, bft and pow; which, and of how many nodes, follows from the seed. A
failure prints the call that repeats it.
"""

import argparse
import secrets
import sys
import traceback
from collections.abc import Callable
from time import monotonic
from typing import TypeAlias

from tests.simulation.histories import chaos, phase_cuts
from tests.simulation.pool import Pool
from tests.simulation.pow_histories import forgery, healing, lying, rewriting, selfishness, storm, takeover

POOL_STEPS = 120
REPORT_EVERY_S = 10.0


def pool(n: int, seed: int) -> None:
    """One schedule of the adversarial pool."""
    Pool(n, seed).run(POOL_STEPS)


History: TypeAlias = tuple[Callable[[int, int], object], int]

BFT: tuple[History, ...] = (
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

POW: tuple[History, ...] = (
    (storm, 3),
    (rewriting, 2),
    (storm, 6),
    (selfishness, 3),
    (takeover, 4),
    (storm, 2),
    (rewriting, 2),
    (healing, 6),
    (storm, 8),
    (forgery, 4),
    (selfishness, 1),
    (lying, 2),
)
"""(history, nodes) of proof-of-work networks, in the same way; some fix the number of nodes themselves."""

KINDS = {"bft": (BFT,), "pow": (POW,), "all": (BFT, POW)}


def play(histories: tuple[History, ...], seed: int) -> str | None:
    """Run the history of a seed; return the report of a failure."""
    history, n = histories[seed % len(histories)]
    try:
        history(n, seed)
    except Exception:
        return f"{history.__name__}({n}, {seed})\n{traceback.format_exc()}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds")
    parser.add_argument("--kind", choices=KINDS, default="all", help="the engine; default: a history of each")
    parser.add_argument("--first", type=int, help="the first seed; default: a fresh one, which is printed")
    options = parser.parse_args()
    first = secrets.randbelow(2**31) if options.first is None else options.first
    print(f"seeds {first} to {first + options.seeds - 1}", flush=True)
    failed: list[int] = []
    told_at = monotonic()
    for number in range(options.seeds):
        reports = [play(histories, first + number) for histories in KINDS[options.kind]]
        for report in reports:
            if report is not None:
                again = f"python -m tests.simulation --kind {options.kind} --first {first + number} --seeds 1"
                print(f"FAILED: {again}\n{report}", flush=True)
        if any(reports):
            failed.append(first + number)
        if monotonic() - told_at > REPORT_EVERY_S:
            told_at = monotonic()
            print(f"{number + 1} seeds, {len(failed)} failed", flush=True)
    print(f"{options.seeds} seeds, {len(failed)} failed" + (f": seeds {failed}" if failed else ""))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
