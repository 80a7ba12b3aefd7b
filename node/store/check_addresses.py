"""``wattd store check``: does the address index say what the blocks and the UTXO set say?"""

from collections.abc import Iterator

from consensus.block import Block
from consensus.coins import coin_height, coin_script
from consensus.errors import PeerFault, StorageError
from consensus.undo import decode_undo
from storage import schema
from storage.index import Snapshot
from storage.indexes import AddressIndex, read_entry, script_hash, unspent_key, unspent_value
from storage.schema import Mode, Phase
from storage.side import ADDRESS_INDEX
from storage.store import ChainStore

_AGAIN = "turn address_index off and on again to have it built anew"


def check_addresses(store: ChainStore) -> Iterator[str | None]:
    """Yield None or a fault per block that the index holds, and per part of the UTXO set.

    An index that is off, or that a stop left within a block, has nothing to be compared with.
    """
    now = store.side.progress(ADDRESS_INDEX)
    if now is None or now.mode is not Mode.FOLLOW or now.phase is not Phase.WHOLE or now.height < 0:
        return
    if store.block_hash(now.height) != now.block_hash:
        return
    with store.side.snapshot() as snapshot:
        rows = 0
        for height in range(store.pruned_below, now.height + 1):
            try:
                count, fault = _history(store, snapshot, height)
            except (StorageError, PeerFault, KeyError) as error:
                yield f"the address index at height {height}: {error}"
                return
            rows += count
            yield fault
        yield _no_more(snapshot, rows, store.pruned_below)
        if now.block_hash == store.tip_hash:
            yield _unspent(store, snapshot)


def _history(store: ChainStore, snapshot: Snapshot, height: int) -> tuple[int, str | None]:
    """Return how many entries a block has, and what is wrong with them."""
    block_hash = store.block_hash(height)
    raw = None if block_hash is None else store.body(block_hash)
    undo = None if block_hash is None else store.undo(block_hash)
    if raw is None or undo is None:
        return 0, f"the address index holds height {height}, whose block or undo data is absent"
    changes = AddressIndex().changes(Block.parse(raw), decode_undo(undo)[0], height)
    wanted = {change.key: change.after for change in changes if change.key.startswith(schema.HISTORY)}
    wrong = sum(snapshot.get(key) != value for key, value in wanted.items())
    if wrong:
        return len(wanted), f"{wrong} entries of height {height} are not in the address index: {_AGAIN}"
    return len(wanted), None


def _no_more(snapshot: Snapshot, expected: int, below: int) -> str | None:
    stop = bytes([schema.HISTORY[0] + 1])
    found = sum(read_entry(*row).height >= below for row in snapshot.scan_from(schema.HISTORY, stop))
    if found == expected:
        return None
    return f"the address index has {found} entries, the blocks have {expected}: {_AGAIN}"


def _unspent(store: ChainStore, snapshot: Snapshot) -> str | None:
    count = 0
    for prevout, coin in store.iterate_coins():
        count += 1
        key = unspent_key(script_hash(coin_script(coin)), coin_height(coin), prevout)
        if snapshot.get(key) != unspent_value(coin):
            return f"an unspent output is not in the address index: {_AGAIN}"
    stop = bytes([schema.UNSPENT[0] + 1])
    found = sum(1 for _ in snapshot.scan_from(schema.UNSPENT, stop))
    return None if found == count else f"the address index has {found} unspent outputs of {count}: {_AGAIN}"
