"""Where the optional indexes meet the database: their progress, their entries, and what the store must know.

Entries and progress of an index change in one batch, under the lock of all writes. What keeps the
entries in step with the chain is ``storage.follower``.
"""

from collections.abc import Callable, Mapping
from threading import RLock

from storage import schema
from storage.index import Index, Snapshot
from storage.schema import Mode, Progress

TX_INDEX = b"tx"
ADDRESS_INDEX = b"address"
NAMES = (TX_INDEX, ADDRESS_INDEX)

Changes = Mapping[bytes, bytes | None]
"""Whole key to new value, None where the key goes away."""


class SideIndexes:
    """Reads and writes of the optional indexes. ``lock`` is that of all writes to ``index``."""

    def __init__(self, index: Index, lock: "RLock") -> None:
        self._index = index
        self._lock = lock
        self.tip_moved: Callable[[], None] = lambda: None
        """Called after each block that was connected or disconnected, on the thread that did it."""
        self._tx_mode = self._mode(TX_INDEX, Mode.KEPT)

    @property
    def enters_txids(self) -> bool:
        """Whether the batch that connects a block enters its transaction ids."""
        return self._tx_mode is Mode.KEPT

    @property
    def finds_txids(self) -> bool:
        """Whether a transaction may be looked up by its id; while the index is built, some are missing."""
        return self._tx_mode in (Mode.KEPT, Mode.FOLLOW)

    @property
    def places(self) -> list[tuple[int, bytes]]:
        """(height, hash) of the block at which each index stands that follows; it may be off the chain."""
        stored = [self.progress(name) for name in NAMES]
        return [(each.height, each.block_hash) for each in stored if each and each.mode is Mode.FOLLOW]

    def progress(self, name: bytes) -> Progress | None:
        """Return how far an index is, None where nothing is stored."""
        value = self._index.get(schema.PROGRESS + name)
        return None if value is None else schema.decode_progress(value)

    def write(
        self,
        name: bytes,
        progress: Progress | None,
        changes: Changes,
        still: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Change entries and progress in one batch, unless ``still()`` is false under the lock."""
        with self._lock:
            if not still():
                return False
            batch = self._index.batch()
            for key, value in changes.items():
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)
            if progress is None:
                batch.delete(schema.PROGRESS + name)
            else:
                batch.put(schema.PROGRESS + name, schema.encode_progress(progress))
            self._index.write(batch)
            if name == TX_INDEX:
                self._tx_mode = Mode.KEPT if progress is None else progress.mode
            return True

    def keys(self, start: bytes, stop: bytes, count: int) -> list[bytes]:
        """Return the first ``count`` keys in ``start <= key < stop``."""
        rows = self._index.scan_from(start, stop)
        return [key for key, _ in zip((row[0] for row in rows), range(count), strict=False)]

    def snapshot(self) -> Snapshot:
        """Return the database as it is now; close it before the store."""
        return self._index.snapshot()

    def _mode(self, name: bytes, absent: Mode) -> Mode:
        stored = self.progress(name)
        return absent if stored is None else stored.mode
