"""``python -m tests.fuzz``: run the fuzzer from the root of the repository."""

import argparse
import secrets
import sys
from time import monotonic

from tests.fuzz.runner import CORPUS, Run, judge
from tests.fuzz.targets import TARGETS, make


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Fuzz what meets foreign bytes."
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="time for all targets together")
    parser.add_argument("--cases", type=int, help="inputs per target, instead of a time")
    parser.add_argument("--seed", type=int, help="default: a fresh one, which is printed")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="default: all")
    parser.add_argument("--outcomes", action="store_true", help="list how often each outcome was seen")
    parser.add_argument("--replay", metavar="FILE", help="run one input, whose name starts with its target")
    return parser.parse_args()


def replay(path: str) -> int:
    name = path.rpartition("/")[2].rpartition("-")[0]
    with open(path, "rb") as file:
        report = judge(make(name), file.read())
    print(report or f"{name}: as it should be")
    return int(report is not None)


def main() -> int:
    options = arguments()
    if options.replay:
        return replay(options.replay)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    names = options.target or list(TARGETS)
    print(f"seed {seed}", flush=True)
    found = 0
    for name in names:
        run = Run(make(name), seed)
        run.check_samples()
        end = monotonic() + options.seconds / len(names)
        while run.tally.cases < options.cases if options.cases else monotonic() < end:
            run.step()
        tally = run.tally
        print(
            f"{name:14} {tally.cases:8} inputs {len(tally.outcomes):4} outcomes "
            f"{1000 * tally.slowest_s:8.1f} ms at most {len(tally.finds):3} finds",
            flush=True,
        )
        if options.outcomes:
            for outcome, count in sorted(tally.outcomes.items(), key=lambda item: -item[1]):
                print(f"    {count:8} {outcome}")
        for find in tally.finds:
            print(f"  {find.write(seed)} (seed {seed})\n    " + find.report.strip().replace("\n", "\n    "))
        found += len(tally.finds)
    if found:
        print(f"{found} finds: fix the decoder, and keep the input in {CORPUS}", file=sys.stderr)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
