"""State roots that were computed: by height, each with the block after which the state had it."""

from collections.abc import Callable
from threading import RLock

from storage import limits, schema
from storage.index import Index

_HASH_BYTES = 32


class StateRootRecords:
    """The state roots of the last heights that have one. ``lock`` is that of all writes to ``index``.

    A power cut may take the last of them, like any batch: they are computed again.
    """

    def __init__(self, index: Index, lock: "RLock") -> None:
        self._index = index
        self._lock = lock
        self.undo_floor: Callable[[], int | None] = lambda: None
        """From which height on undo data is needed for a root that is not known yet; called on any thread."""

    def put(self, height: int, block_hash: bytes, root: bytes) -> None:
        """Keep the root of the state after a block; all but the last ``limits.STATE_ROOTS_KEPT`` go."""
        with self._lock:
            batch = self._index.batch()
            heights = [int.from_bytes(key, "big") for key, _ in self._index.scan(schema.STATE_ROOT)]
            for gone in sorted({*heights, height})[: -limits.STATE_ROOTS_KEPT]:
                batch.delete(schema.state_root_key(gone))
            batch.put(schema.state_root_key(height), block_hash + root)
            self._index.write(batch)

    def get(self, height: int, block_hash: bytes) -> bytes | None:
        """Return the root after the block ``block_hash`` at ``height``."""
        value = self._index.get(schema.state_root_key(height))
        return value[_HASH_BYTES:] if value is not None and value[:_HASH_BYTES] == block_hash else None
