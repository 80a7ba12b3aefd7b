"""Runs the optional indexes beside the node: slices on a thread, with pauses while far from the tip."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from consensus.errors import PeerFault
from node.clock import Clock
from node.limits import INDEX_NEAR_BLOCKS, INDEX_PAUSE, INDEX_WAIT_BLOCKS, INDEX_WAIT_S
from node.rpc.backend import IndexInfo
from storage.address_view import AddressView, address_view
from storage.follower import Follower
from storage.indexes import AddressIndex, TxIndex
from storage.store import ChainStore

log = logging.getLogger("wattd.indexer")

T = TypeVar("T")

TX_INDEX = "txindex"
ADDRESS_INDEX = "addressindex"
"""Names as ``getindexinfo`` shows them, the first one Bitcoin Core's."""


def _nobody() -> None:
    """Hear of a new tip while nothing runs."""


class Indexer:
    """The followers of one store. Make it after the store was opened and before genesis is connected.

    ``run`` is a task of the daemon; ``close`` must come before the store is closed.
    """

    def __init__(self, store: ChainStore, *, tx_index: bool, address_index: bool) -> None:
        self._store = store
        self._followers = {
            TX_INDEX: Follower.open(store, TxIndex(), wanted=tx_index),
            ADDRESS_INDEX: Follower.open(store, AddressIndex(), wanted=address_index),
        }
        self._worker = ThreadPoolExecutor(1, "indexer")
        self._reader = ThreadPoolExecutor(1, "address-reader")
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._ready: dict[str, bool] = {}

    # ---- work ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the indexes up to date; cancelled at stop. Raises StorageError."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._wake.set)

        self._store.side.tip_moved = wake
        try:
            while True:
                self._wake.clear()
                for name, follower in self._followers.items():
                    if follower.has_work:
                        await self._slice(follower)
                    self._note(name, follower)
                if not any(follower.has_work for follower in self._followers.values()):
                    await self._wake.wait()
        finally:
            self._store.side.tip_moved = _nobody

    async def _slice(self, follower: Follower) -> None:
        """Do one slice on the thread. Far from the tip a pause follows: the node's own work comes first."""
        far = self._store.height - follower.height > INDEX_NEAR_BLOCKS
        start_s = Clock.monotonic_s()
        await asyncio.get_running_loop().run_in_executor(self._worker, follower.step)
        self._moved.set()
        self._moved = asyncio.Event()
        if far:
            await asyncio.sleep((Clock.monotonic_s() - start_s) * INDEX_PAUSE)

    def _note(self, name: str, follower: Follower) -> None:
        """Say when an index begins to be built or removed, and when that is done."""
        far = self._store.height - follower.height > INDEX_NEAR_BLOCKS
        ready = not follower.has_work if not follower.is_wanted else not far
        if self._ready.get(name, True) == ready:
            return
        self._ready[name] = ready
        if follower.is_wanted:
            text = "an index is complete" if ready else "an index is being built"
        else:
            text = "an index was removed" if ready else "an index is being removed"
        log.info(text, extra={"index": name, "height": follower.height, "tip": self._store.height})

    def close(self) -> None:
        """Return when no thread uses the store any more: after at most one slice and one query."""
        self._worker.shutdown(cancel_futures=True)
        self._reader.shutdown(cancel_futures=True)

    # ---- what clients see (node.rpc.backend.IndexView) -------------------------------------------

    def info(self) -> Mapping[str, IndexInfo]:
        """Return the indexes that are turned on."""
        return {
            name: IndexInfo(follower.is_synced, follower.height)
            for name, follower in self._followers.items()
            if follower.is_wanted
        }

    async def read_addresses(self, read: Callable[[AddressView], T], /) -> T:
        """Run ``read`` on a thread, over the address index as it is at the tip or a moment behind.

        Raises PeerFault "address-index-off" or "address-index-building".
        """
        follower = self._followers[ADDRESS_INDEX]
        if not follower.is_wanted:
            raise PeerFault(
                "address-index-off",
                "set [storage] address_index = true and start again; it is then built in the background",
            )
        target = self._store.height
        give_up_s = Clock.monotonic_s() + INDEX_WAIT_S
        if target - follower.height > INDEX_WAIT_BLOCKS:
            raise self._building(follower)
        while True:
            moved = self._moved
            if follower.height >= min(target, self._store.height):
                found = await asyncio.get_running_loop().run_in_executor(self._reader, self._read, read)
                if found is not None:
                    return found[0]
            try:
                async with asyncio.timeout(max(0.0, give_up_s - Clock.monotonic_s())):
                    await moved.wait()
            except TimeoutError:
                raise self._building(follower) from None

    def _read(self, read: Callable[[AddressView], T]) -> tuple[T] | None:
        """Return what ``read`` made of the index, None if it is within a block or off the active chain."""
        with address_view(self._store) as view:
            if view is None or self._store.block_hash(view.place.height) != view.place.block_hash:
                return None
            return (read(view),)

    def _building(self, follower: Follower) -> PeerFault:
        return PeerFault(
            "address-index-building",
            f"it is at height {follower.height} of {self._store.height}: wait until getindexinfo says synced",
        )
