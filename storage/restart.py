"""Coins computed again from stored bodies, for the blocks whose coins LevelDB does not hold yet."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from consensus.block import Block
from consensus.coin_rules import CoinChanges
from consensus.errors import PeerFault, StorageError
from consensus.overlay import Nothing
from storage import schema
from storage.coincache import Diff
from storage.index import Index

CoinsOf = Callable[[int, bytes], Diff]
"""What a connected block (height, raw block) changes in the coins."""


def block_coins(height: int, raw: bytes) -> Diff:
    """Return what the block at ``height`` changes in the coins: None for spent, values for created ones.

    The body says it all: which coins contracts pay out stands in the coinbase. The rules that
    connecting applies do the work, so both agree on what is unspendable and how a coin is encoded; the
    values of spent coins are not known here and not asked for.
    Raises PeerFault for bytes that are no block; nothing else is checked, as the block was connected once.
    """
    txs = Block.parse(raw).txs
    changes = CoinChanges(Nothing(), height)
    for tx in txs[1:]:
        changes.apply(tx, tx.prevouts)
    changes.create(txs[0].txid, txs[0].vout, coinbase=True)
    return changes.coins


def coins_of_stored(coins_of: CoinsOf, path: Path, height: int, raw: bytes | None) -> Diff:
    """Return the coin changes of a block that was connected before; its body must be there.

    Raises StorageError "leveldb-corrupt": a body that is missing cannot be worked on.
    """
    try:
        if raw is not None:
            return coins_of(height, raw)
        what = "is absent"
    except PeerFault as fault:
        what = f"is no block ({fault})"
    raise StorageError(
        "leveldb-corrupt",
        f"{path}: the unspent outputs end below height {height}, and the body there {what}",
        fix=f"wattd store repair --datadir {path}, then start again",
    )


def coins_tip_is_active(index: Index) -> bool:
    """Return whether the coins stand at the tip, or at a block below it on the active chain."""
    coins, tip = index.get(schema.COINS_TIP), index.get(schema.TIP)
    if coins is None or tip is None:
        return coins is None
    height, block_hash, _ = schema.decode_tip(coins)
    active = index.get(schema.header_key(height)) or b""
    return height <= schema.decode_tip(tip)[0] and active[:32] == block_hash


def off_chain(path: Path, height: int) -> NoReturn:
    """Refuse coins that do not stand at a block of the active chain: no order of writing leads there."""
    raise StorageError(
        "leveldb-corrupt",
        f"{path}: the unspent outputs stand at height {height}, off the active chain",
        fix=f"wattd store repair --datadir {path}, then start again",
    )
