"""The state at the tip as the rules ask for it (``consensus.ports``)."""

from collections.abc import Callable, Iterator

from storage import schema
from storage.index import Index

Get = Callable[[bytes], bytes | None]


class StoredCoins:
    """The unspent outputs at the tip, as ``consensus.ports.CoinView``."""

    def __init__(self, get: Get) -> None:
        self.get = get


class StoredState:
    """The contract state at the tip, as ``consensus.ports.StateView``."""

    def __init__(self, get: Get, index: Index) -> None:
        self.get = get
        self._index = index

    def scan(self, prefix: bytes, /) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) with ``prefix`` in ascending order, as the state is at this call."""
        return self._index.scan(schema.STATE, prefix)
