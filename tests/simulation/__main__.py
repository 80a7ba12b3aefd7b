"""``python -m tests.simulation --seeds N``: many seeded histories of whole clusters, from one first seed.

Each seed is one history of each kind, bft and pow; which, and of how many nodes, follows from the seed. A
failure prints the end of its story and the call that repeats it, and is kept in
``tests/simulation/scenarios``. ``--mutants`` prints the mutation score instead: which layer catches which
removed rule.
"""

import argparse
import os
import secrets
import sys
from collections.abc import Iterator
from time import monotonic

from tests.simulation.campaign import Job, keep, play_all
from tests.simulation.model import Model
from tests.simulation.score import Hunt, table

REPORT_EVERY_S = 10.0
LONG_SEEDS = 5_000
SCORE_SEEDS = 500

BFT: tuple[tuple[str, int], ...] = (
    ("chaos", 4),
    ("phase_cuts", 4),
    ("pool", 4),
    ("chaos", 7),
    ("model", 4),
    ("twins", 4),
    ("pool", 7),
    ("coups", 4),
    ("chaos", 4),
    ("phase_cuts", 7),
    ("pool", 5),
    ("model", 5),
    ("chaos", 1),
    ("twins", 7),
    ("chaos", 10),
    ("pool", 4),
    ("coups", 7),
    ("chaos", 5),
    ("model", 7),
    ("twin_schedules", 4),
    ("chaos_rounds", 4),
    ("cut_rounds", 4),
    ("lone_rounds", 4),
    ("pool_rounds", 4),
    ("chaos_rounds", 7),
    ("cut_rounds", 5),
    ("lone_rounds", 7),
    ("chaos_rounds", 5),
    ("twin_rounds", 4),
    ("elections", 4),
    ("elections", 5),
)
"""(history, validators), by the seed modulo their number."""

POW: tuple[tuple[str, int], ...] = (
    ("storm", 3),
    ("rewriting", 2),
    ("storm", 6),
    ("selfishness", 3),
    ("takeover", 4),
    ("storm", 2),
    ("rewriting", 2),
    ("healing", 6),
    ("storm", 8),
    ("forgery", 4),
    ("selfishness", 1),
    ("lying", 2),
)
"""(history, nodes) of proof-of-work networks, in the same way; some fix the number of nodes themselves."""

KINDS = {"bft": (BFT,), "pow": (POW,), "all": (BFT, POW)}


def jobs(kind: str, seeds: range) -> Iterator[Job]:
    """Yield the histories of each seed."""
    for seed in seeds:
        for histories in KINDS[kind]:
            yield Job(*histories[seed % len(histories)], seed)


def campaign(kind: str, seeds: range, processes: int) -> int:
    """Play the histories of all seeds; return the exit code."""
    print(f"seeds {seeds.start} to {seeds.stop - 1}", flush=True)
    failed: list[int] = []
    began_at = told_at = monotonic()
    number = 0
    for number, failure in enumerate(play_all(jobs(kind, seeds), processes), 1):
        if failure is not None:
            failed.append(failure.job.seed)
            print(f"FAILED: {failure.report()}", flush=True)
            print(f"again: python -m tests.simulation --kind {kind} --first {failure.job.seed} --seeds 1")
            print(f"kept: {keep(failure)}", flush=True)
        if monotonic() - told_at > REPORT_EVERY_S:
            told_at = monotonic()
            print(f"{number} histories, {len(failed)} failed", flush=True)
    closing = f"{len(seeds)} seeds, {number} histories, {len(failed)} failed, {monotonic() - began_at:.0f} s"
    print(closing + (f": seeds {sorted(failed)}" if failed else ""))
    return int(bool(failed))


def score(first: int, seeds: int) -> int:
    """Print the mutation score; return the exit code."""
    print(f"mutants from seed {first}; at most {seeds} histories in each layer, forty times the walks")
    return int(not table(Hunt(40 * seeds, seeds, seeds, first), lambda line: print(line, flush=True)))


def explored() -> int:
    """Visit every state of the model for two terms and two heights, one block per parent and term."""
    judged = Model(terms=2, heights=2, children=1).explore()
    print(f"model: {judged.states} states, {judged.steps} steps, {judged.wrong or 'no fork'}", flush=True)
    return int(judged.wrong is not None)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds")
    parser.add_argument("--kind", choices=KINDS, default="all", help="the engine; default: a history of each")
    parser.add_argument("--first", type=int, help="the first seed; default: a fresh one, which is printed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; default: all cores")
    parser.add_argument("--mutants", action="store_true", help="print the mutation score alone")
    options = parser.parse_args()
    first = secrets.randbelow(2**31) if options.first is None else options.first
    if options.mutants:
        return score(first, options.seeds)
    status = campaign(options.kind, range(first, first + options.seeds), max(1, options.jobs))
    if options.seeds >= LONG_SEEDS and options.kind != "pow":
        status |= explored() | score(first, SCORE_SEEDS)
    return status


if __name__ == "__main__":
    sys.exit(main())
