"""The state at the tip as the rules ask for it (``consensus.ports``), and what the store occupies."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from storage import schema
from storage.index import Index

Get = Callable[[bytes], bytes | None]
GetMany = Callable[[Sequence[bytes]], list[bytes | None]]


@dataclass(frozen=True, slots=True)
class StoreSizes:
    """Bytes that the store occupies: on the disk in segment files and LevelDB, and in its caches."""

    segments: int
    index: int
    cache: int


class StoredCoins:
    """The unspent outputs at the tip, as ``consensus.ports.CoinView``."""

    def __init__(self, get: Get) -> None:
        self.get = get


class StoredState:
    """The contract state at the tip, as ``consensus.ports.StateView``."""

    def __init__(self, get: Get, get_many: GetMany, index: Index) -> None:
        self.get = get
        self.get_many = get_many  # what ``consensus.overlay.read_many`` looks for
        self._index = index

    def scan(self, prefix: bytes, /) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) with ``prefix`` in ascending order, as the state is at this call."""
        return self._index.scan(schema.STATE, prefix)
