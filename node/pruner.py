"""Automatic pruning: old segment files go while the node runs, in slices on a worker thread.

What may go is decided by whole files, so it is looked at when the tip passes the height at which the
oldest file becomes too old, or when the files outgrow their bytes; else a block costs one comparison.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from storage.pruning import SegmentFile, Slice
from storage.store import ChainStore

log = logging.getLogger("wattd.store")

MEBIBYTE = 1 << 20

T = TypeVar("T")

InThread = Callable[..., Coroutine[Any, Any, Any]]
"""Runs a function on a worker thread, as ``asyncio.to_thread``."""


class Pruner:
    """Keeps the blocks of ``store`` within ``keep_blocks`` and its segment files within ``keep_bytes``.

    0 switches a limit off. Whole files go, so somewhat more may stay; the last
    ``storage.limits.KEEP_BLOCKS_MIN`` blocks and the file that is written to always do.
    """

    def __init__(
        self,
        store: ChainStore,
        *,
        keep_blocks: int,
        keep_bytes: int,
        in_thread: InThread = asyncio.to_thread,
    ) -> None:
        self._store = store
        self._keep_blocks = keep_blocks
        self._keep_bytes = keep_bytes
        self._in_thread = in_thread
        self._closed_files: list[SegmentFile] | None = None
        self._last_file = -1
        self._wake = asyncio.Event()
        self._wake.set()

    @property
    def is_on(self) -> bool:
        """Whether anything is ever pruned."""
        return self._keep_blocks > 0 or self._keep_bytes > 0

    @property
    def target_bytes(self) -> int:
        """What the segment files are kept within, bytes; 0 without such a limit."""
        return self._keep_bytes

    def on_commit(self) -> None:
        """Hear of a new tip; costs a comparison as long as no file may go."""
        if self.is_on and (self._last_file != self._store.last_segment or self._wants_to_go()):
            self._wake.set()

    async def run(self) -> None:
        """Prune whenever it is due; cancelling waits for a slice under way. Raises StorageError."""
        unfinished = True  # a kill may have left files that were declared as gone
        while self.is_on:
            await self._wake.wait()
            self._wake.clear()
            await self._look()
            while (below := self._wants_to_go()) or unfinished:
                await self._prune(below)  # blocks that came meanwhile are looked at again
                unfinished = False

    async def _look(self) -> None:
        """Learn which files there are; those that are not written to any more never change."""
        last = self._store.last_segment
        if self._closed_files is None or last != self._last_file:
            files = await self._run(self._store.segment_files)
            self._closed_files, self._last_file = files[:-1], files[-1].number

    async def _prune(self, below: int) -> None:
        slices = self._store.prune_slices(below)
        at: Slice | None = None
        while (following := await self._run(_next_of, slices)) is not None:
            at = following
        self._closed_files = None
        await self._look()
        if at is not None and at.freed:
            log.info(
                "pruned",
                extra={"below": self._store.pruned_below, "files": at.total, "freed_bytes": at.freed},
            )

    def _wants_to_go(self) -> int:
        """Return the height below which blocks are to go, 0 if no file may."""
        files, height = self._closed_files, self._store.height
        if not files:
            return 0
        below = height + 1 - self._keep_blocks if self._keep_blocks else 0
        if self._keep_bytes:
            total = sum(file.size for file in files) + self._store.last_segment_bytes
            for file in files:
                if total <= self._keep_bytes:
                    break
                total -= file.size
                below = max(below, file.highest + 1)
        if files[0].highest >= below:
            return 0
        below = self._store.prunable(below)
        return below if files[0].highest < below else 0

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        """Run ``call`` on a thread; if this task is cancelled, wait for it all the same.

        The store is closed once this task has ended, and a thread must not be inside it then.
        """
        working = asyncio.ensure_future(self._in_thread(call, *arguments))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.wait([working])
            raise


def _next_of(slices: Iterator[Slice]) -> Slice | None:
    return next(slices, None)
