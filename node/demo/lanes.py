"""One lane per node: a node that answers slowly, or not at all, delays nobody but itself."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Lanes:
    """Runs at most one piece of work per node at a time."""

    def __init__(self) -> None:
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def is_free(self, index: int) -> bool:
        """Tell whether nothing runs for this node."""
        return index not in self._tasks

    def start(self, index: int, work: Coroutine[Any, Any, None]) -> None:
        """Begin ``work`` for a node whose lane is free."""
        self._tasks[index] = asyncio.create_task(work)

    async def wait(self, seconds: float) -> None:
        """Wait for all work, at most so long; what is not done goes on. Raises what a piece raised."""
        if not self._tasks:
            return
        await asyncio.wait(self._tasks.values(), timeout=seconds)
        for index, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[index]
                task.result()
