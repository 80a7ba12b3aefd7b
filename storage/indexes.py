"""The two optional indexes: what a block enters, as keys and values.

Transactions by id (``t``, see ``storage.schema``), and by script:

- ``a`` + SHA-256 of the script + u32 height + u32 place of the transaction in its block + u8 side (0 an
  output that pays to the script, 1 an input that spends from it) + u32 number of the output or input
  -> i64 amount in base units, negative for a spent one, 32 bytes txid;
- ``u`` + SHA-256 of the script + u32 height + 36 bytes prevout -> i64 amount, u8 1 for a coinbase's.

The hash stays whole: for its first 16 bytes two scripts of one key cost 2^64 hashes, which miners do in
seconds, and the money of one would show under the other's address. It is also what Electrum's protocol
calls a script hash. LevelDB stores a prefix that neighbours share once per 16 keys.

Unspent outputs have keys of their own, so that they and balances stay right when pruning takes the
history of old blocks. Outputs that nobody can spend are in neither.

``progress`` is stored under ``i`` + name. Absent means that nothing is indexed, or for transactions that
``ChainStore.connect`` enters them all, which is the default and then costs nothing.
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from struct import Struct
from typing import NamedTuple, Protocol

from consensus.block import Block
from consensus.coins import (
    coin_amount,
    coin_height,
    coin_is_coinbase,
    coin_script,
    is_unspendable,
)
from consensus.transaction import Transaction
from storage import schema
from storage.schema import Mode
from storage.side import ADDRESS_INDEX, TX_INDEX

SCRIPT_HASH_BYTES = 32
_HISTORY_KEY = Struct(">IIBI")
_HISTORY_VALUE = Struct("<q32s")
_HEIGHT = Struct(">I")
_UNSPENT_VALUE = Struct("<qB")
_HEAD = 1 + SCRIPT_HASH_BYTES

RECEIVED = 0
SPENT = 1

Coins = Mapping[bytes, bytes | None]
"""Prevout to the coin value before the block, as undo data has it (None: the block created it)."""


class Change(NamedTuple):
    """One key with its values before and after a block (None: absent). No key comes twice in a block."""

    key: bytes
    before: bytes | None
    after: bytes | None


class BlockIndex(Protocol):
    """An index that can follow the chain block by block."""

    @property
    def name(self) -> bytes:
        """Under which its progress is stored."""
        ...

    @property
    def absent(self) -> Mode:
        """What it means that no progress is stored."""
        ...

    @property
    def spaces(self) -> tuple[bytes, ...]:
        """The prefixes of its keys."""
        ...

    @property
    def needs_all_blocks(self) -> bool:
        """Whether it needs undo data, and every block from genesis on."""
        ...

    def changes(self, block: Block, coins: Coins, height: int) -> Iterator[Change]:
        """Yield what connecting ``block`` changes, always in the same order; the reverse takes it off."""
        ...


class TxIndex:
    """Transactions by id."""

    name = TX_INDEX
    absent = Mode.KEPT
    spaces = (schema.TX,)
    needs_all_blocks = False

    def changes(self, block: Block, coins: Coins, height: int) -> Iterator[Change]:
        """Yield an entry per transaction."""
        block_hash = block.hash
        for place, tx in enumerate(block.txs):
            yield Change(schema.TX + tx.txid, None, schema.encode_tx(height, place, block_hash))


class AddressIndex:
    """History and unspent outputs by script."""

    name = ADDRESS_INDEX
    absent = Mode.OFF
    spaces = (schema.HISTORY, schema.UNSPENT)
    needs_all_blocks = True

    def changes(self, block: Block, coins: Coins, height: int) -> Iterator[Change]:
        """Yield the history entries of a block and what it does to the unspent outputs.

        A coin that is created and spent in this block is in ``coins`` as little as in the UTXO set.
        Raises KeyError if a spent coin is in neither ``coins`` nor ``block``.
        """
        by_txid = {tx.txid: tx for tx in block.txs}
        spent_here = {prevout for tx in block.txs for prevout in tx.prevouts}
        for place, tx in enumerate(block.txs):
            if not tx.is_coinbase:
                yield from _spends(tx, place, coins, by_txid, height)
            yield from _payments(tx, place, spent_here, height)


def _spends(
    tx: Transaction, place: int, coins: Coins, by_txid: Mapping[bytes, Transaction], height: int
) -> Iterator[Change]:
    for number, prevout in enumerate(tx.prevouts):
        coin = coins.get(prevout)
        if coin is None:
            output = by_txid[prevout[:32]].vout[int.from_bytes(prevout[32:], "little")]
            amount, hashed = output.value, script_hash(output.script_pubkey)
        else:
            amount, hashed = coin_amount(coin), script_hash(coin_script(coin))
            yield Change(unspent_key(hashed, coin_height(coin), prevout), unspent_value(coin), None)
        key = history_key(hashed, height, place, SPENT, number)
        yield Change(key, None, _HISTORY_VALUE.pack(-amount, tx.txid))


def _payments(tx: Transaction, place: int, spent_here: set[bytes], height: int) -> Iterator[Change]:
    txid = tx.txid
    for number, (amount, script) in enumerate(tx.vout):
        if is_unspendable(script):
            continue
        hashed = script_hash(script)
        key = history_key(hashed, height, place, RECEIVED, number)
        yield Change(key, None, _HISTORY_VALUE.pack(amount, txid))
        prevout = txid + number.to_bytes(4, "little")
        if prevout not in spent_here:
            value = _UNSPENT_VALUE.pack(amount, tx.is_coinbase)
            yield Change(unspent_key(hashed, height, prevout), None, value)


def script_hash(script: bytes) -> bytes:
    """Return what stands for a script in the keys."""
    return sha256(script).digest()


def history_key(hashed: bytes, height: int, place: int, side: int, number: int) -> bytes:
    """Key of an entry of the history."""
    return schema.HISTORY + hashed + _HISTORY_KEY.pack(height, place, side, number)


def unspent_key(hashed: bytes, height: int, prevout: bytes) -> bytes:
    """Key of an unspent output."""
    return schema.UNSPENT + hashed + _HEIGHT.pack(height) + prevout


def unspent_value(coin: bytes) -> bytes:
    """Value of an unspent output."""
    return _UNSPENT_VALUE.pack(coin_amount(coin), coin_is_coinbase(coin))


class Entry(NamedTuple):
    """One output or input in the history of a script. ``order`` sorts entries as the chain does.

    ``amount`` is negative for an input, ``place`` that of the transaction in its block.
    """

    order: bytes
    height: int
    place: int
    side: int
    number: int
    amount: int
    txid: bytes


class Unspent(NamedTuple):
    """One unspent output of a script; ``order`` sorts by height, then prevout."""

    order: bytes
    height: int
    prevout: bytes
    amount: int
    is_coinbase: bool


def read_entry(key: bytes, value: bytes) -> Entry:
    """Decode an ``a`` row."""
    return Entry(key[_HEAD:], *_HISTORY_KEY.unpack_from(key, _HEAD), *_HISTORY_VALUE.unpack(value))


def read_unspent(key: bytes, value: bytes) -> Unspent:
    """Decode a ``u`` row."""
    (height,) = _HEIGHT.unpack_from(key, _HEAD)
    amount, coinbase = _UNSPENT_VALUE.unpack(value)
    return Unspent(key[_HEAD:], height, key[_HEAD + _HEIGHT.size :], amount, bool(coinbase))


def height_order(height: int) -> bytes:
    """Return where the entries of ``height`` start, in the order of either row."""
    return _HEIGHT.pack(height)


def history_keys(block: Block, coins: Coins, height: int) -> Iterator[bytes]:
    """Yield the keys of the history entries of a block."""
    for change in AddressIndex().changes(block, coins, height):
        if change.key[:1] == schema.HISTORY:
            yield change.key
