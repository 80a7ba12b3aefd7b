"""Reading the address index at one block, whatever is connected meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from heapq import merge
from operator import itemgetter
from typing import NamedTuple, TypeVar

from storage import schema
from storage.index import Snapshot
from storage.indexes import Entry, Unspent, height_order, read_entry, read_unspent
from storage.schema import Mode, Phase
from storage.side import ADDRESS_INDEX
from storage.store import ChainStore

Row = TypeVar("Row", Entry, Unspent)

END = b"\xff" * 4
"""Behind the order of every row: heights have 31 bits."""


class Place(NamedTuple):
    """The block that the index stands at, and the height from which on there is history."""

    height: int
    block_hash: bytes
    history_from: int


class AddressView:
    """The rows of scripts, given by their hashes, as the index is at ``place``."""

    def __init__(self, snapshot: Snapshot, place: Place) -> None:
        self._snapshot = snapshot
        self.place = place

    @contextmanager
    def history(
        self, hashes: Sequence[bytes], start: bytes = b"", stop: bytes = END
    ) -> Iterator[Iterator[tuple[int, Entry]]]:
        """Open the entries with ``start <= order < stop`` in chain order, with the numbers of scripts."""
        floor = height_order(self.place.history_from)
        with self._rows(schema.HISTORY, hashes, max(start, floor), stop, read_entry) as rows:
            yield rows

    @contextmanager
    def unspent(
        self, hashes: Sequence[bytes], start: bytes = b"", stop: bytes = END
    ) -> Iterator[Iterator[tuple[int, Unspent]]]:
        """Open the unspent outputs by height and prevout, each with the number of its script."""
        with self._rows(schema.UNSPENT, hashes, start, stop, read_unspent) as rows:
            yield rows

    @contextmanager
    def _rows(
        self,
        space: bytes,
        hashes: Sequence[bytes],
        start: bytes,
        stop: bytes,
        read: Callable[[bytes, bytes], Row],
    ) -> Iterator[Iterator[tuple[int, Row]]]:
        with ExitStack() as opened:
            sources = []
            for number, hashed in enumerate(hashes):
                rows = self._snapshot.scan_from(space + hashed + start, space + hashed + stop)
                opened.enter_context(closing(rows))
                sources.append(_numbered(number, rows, read))
            yield map(itemgetter(1, 2), merge(*sources, key=itemgetter(0)))


def _numbered(
    number: int, rows: Iterator[tuple[bytes, bytes]], read: Callable[[bytes, bytes], Row]
) -> Iterator[tuple[bytes, int, Row]]:
    for key, value in rows:
        row = read(key, value)
        yield row.order, number, row


@contextmanager
def address_view(store: ChainStore) -> Iterator[AddressView | None]:
    """Open the address index as it is now; None while it is off, being removed, or within a block."""
    with store.side.snapshot() as snapshot:
        value = snapshot.get(schema.PROGRESS + ADDRESS_INDEX)
        below, _ = schema.decode_pruned(snapshot.get(schema.PRUNED))
        if value is None:
            yield None
            return
        now = schema.decode_progress(value)
        if now.mode is not Mode.FOLLOW or now.phase is not Phase.WHOLE or now.height < 0:
            yield None
            return
        yield AddressView(snapshot, Place(now.height, now.block_hash, below))
