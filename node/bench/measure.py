"""Timing of two ways to do the same, taken in turns so that what else the machine does meets both alike."""

import gc
from collections.abc import Callable
from statistics import median
from time import perf_counter

ROUNDS = 21
"""Odd, so that the median is a measurement."""

ROUND_S = 0.01
"""How long one side of a round lasts: long beside the resolution of the clock."""


def _repetitions(work: Callable[[], object]) -> int:
    """Return how often ``work`` fits into a round, at least once; runs it warm on the way."""
    repetitions = 1
    while True:
        elapsed = _timed(work, repetitions)
        if elapsed >= ROUND_S / 2:
            return max(1, round(repetitions * ROUND_S / elapsed))
        repetitions *= 2


def _timed(work: Callable[[], object], repetitions: int) -> float:
    start = perf_counter()
    for _ in range(repetitions):
        work()
    return perf_counter() - start


def interleaved(
    ours: Callable[[], object], reference: Callable[[], object], rounds: int = ROUNDS
) -> tuple[float, float]:
    """Return the median seconds that one call of each takes, over ``rounds`` rounds that run both."""
    works = (ours, reference)
    repetitions = [_repetitions(work) for work in works]
    seconds: tuple[list[float], list[float]] = ([], [])
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for work, count, taken in zip(works, repetitions, seconds, strict=True):
                taken.append(_timed(work, count) / count)
    finally:
        if collecting:
            gc.enable()
    return median(seconds[0]), median(seconds[1])
