"""How far a tool is: a bar with an estimate on a terminal, silence elsewhere.

Ctrl-C is noted and obeyed at the next ``advance``, which every tool calls where it may stop; a
second one interrupts at once.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from node.store.progress import Progress

_GRAINS = 500
"""Pieces in which a bar moves."""


class BarProgress(Progress):
    """Shows bars."""

    def __init__(self, bars: Bars) -> None:
        super().__init__()
        self._bars = bars
        self._task: TaskID | None = None
        self._total = 1
        self._grain = 1
        self._pending = 0

    def begin(self, what: str, total: int) -> None:
        """Start the next bar; the one before is full."""
        super().begin(what, total)
        if self._task is not None:
            self._bars.update(self._task, completed=self._total)
        self._total = max(total, 1)
        self._task = self._bars.add_task(what, total=self._total)
        self._grain, self._pending = max(1, total // _GRAINS), 0

    def advance(self, amount: int = 1) -> None:
        """Move the bar, by a visible piece at a time: drawing costs more than the work that it shows."""
        super().advance(amount)
        self._pending += amount
        if self._task is not None and self._pending >= self._grain:
            self._bars.advance(self._task, self._pending)
            self._pending = 0


@contextmanager
def shown() -> Iterator[Progress]:
    """Yield a progress on standard error while SIGINT waits for safe moments."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars:
            yield from _watched(BarProgress(bars))
    else:
        yield from _watched(Progress())


def _watched(progress: Progress) -> Iterator[Progress]:
    def on_interrupt(number: int, frame: FrameType | None) -> None:
        progress.interrupted = True
        signal.signal(signal.SIGINT, former)

    former = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield progress
    finally:
        signal.signal(signal.SIGINT, former)
