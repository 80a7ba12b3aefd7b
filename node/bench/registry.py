"""The benchmarks by name. A module lists its own in ``BENCHMARKS``, and is itself listed in ``MODULES``."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MODULES = (
    "node.bench.kernels",
    "node.bench.ledger",
    "node.bench.sync",
    "node.bench.network",
    "node.bench.storage",
    "node.bench.consensus",
    "node.bench.meters",
    "node.bench.idle",
    "node.bench.assets",
)
"""Where benchmarks live, in the order in which they run; imported only when benchmarks are asked for."""

Progress = Callable[[str], None]
"""Told one line of what happens, for whoever waits."""


@dataclass(frozen=True, slots=True)
class Result:
    """One figure. ``ratio`` is how many times better than the reference it is, whatever the unit.

    A cell of a table is named after it: ``table[row, column]``.

    ``reference`` says what ``reference_value`` (same unit) is; all three are None where there is none.
    """

    name: str
    value: float
    unit: str
    reference: str | None = None
    reference_value: float | None = None
    ratio: float | None = None

    def as_json(self) -> dict[str, str | float | None]:
        """Return the object of the JSON document."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "reference": self.reference,
            "reference_value": self.reference_value,
            "ratio": self.ratio,
        }


def less_is_better(name: str, value: float, unit: str, reference: str, reference_value: float) -> Result:
    """Return the Result of a figure such as a time or a size."""
    return Result(name, value, unit, reference, reference_value, reference_value / value)


def more_is_better(name: str, value: float, unit: str, reference: str, reference_value: float) -> Result:
    """Return the Result of a figure such as a rate."""
    return Result(name, value, unit, reference, reference_value, value / reference_value)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One measurement, which may give several figures: ``run`` returns a Result for each of ``names``.

    The cells of a table come with the figure that the table is named after.
    """

    names: tuple[str, ...]
    summary: str
    run: Callable[[Progress], list[Result]]


def benchmarks() -> tuple[Benchmark, ...]:
    """Return every benchmark, in the order in which they run."""
    return tuple(found for module in MODULES for found in importlib.import_module(module).BENCHMARKS)


def run(names: Sequence[str], progress: Progress) -> list[Result]:
    """Measure what ``names`` asks for, or everything; a measurement runs once for all its figures.

    Raises LookupError with the first name that does not exist.
    """
    known = benchmarks()
    available = {name for benchmark in known for name in benchmark.names}
    for name in names:
        if name not in available:
            raise LookupError(name)
    results: list[Result] = []
    for benchmark in known:
        wanted = [name for name in benchmark.names if not names or name in names]
        if wanted:
            progress(benchmark.summary)
            results += [result for result in benchmark.run(progress) if result.name.split("[")[0] in wanted]
    return results
