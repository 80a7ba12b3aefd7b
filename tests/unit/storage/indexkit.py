"""A random chain of real blocks with reorganisations, and the address index computed naively from it."""

from collections import defaultdict
from itertools import chain as chained
from random import Random

import msgpack

from consensus.block import Block, BlockHeader
from consensus.coins import coin_amount, coin_height, coin_is_coinbase, coin_script, encode_coin
from consensus.hashes import sha256d
from consensus.merkle import txid_root
from consensus.transaction import Transaction, TxIn, TxOut
from storage.address_view import address_view
from storage.follower import Follower
from storage.indexes import script_hash
from storage.store import ChainStore, ConnectBatch

CHAIN_ID = sha256d(b"index kit")
SCRIPTS = (b"", b"\x51", b"\x52\x52", b"\x00\x14" + bytes(20), b"\x76\xa9\x14" + b"\x07" * 20 + b"\x88\xac")
HIDDEN = (b"\x6a\x02hi", bytes(10_001))
"""Nobody can spend these."""
ALL_SCRIPTS = SCRIPTS + HIDDEN


def transaction(rng, prevouts, outputs):
    ins = [TxIn(prevout, bytes([1]) + rng.randbytes(1)) for prevout in prevouts]
    return Transaction.build(2, ins, [TxOut(amount, script) for amount, script in outputs])


class RandomChain:
    """The active chain: blocks, and what each changed in the coins."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.coins: dict[bytes, bytes] = {}
        self.blocks: list[Block] = []
        self.undos: list[dict[bytes, bytes | None]] = []
        self.diffs: list[dict[bytes, bytes | None]] = []
        self.freed: list[Transaction] = []

    @classmethod
    def of(cls, store: ChainStore, rng: Random) -> "RandomChain":
        """Return the active chain of a store, computed from its bodies."""
        chain = cls(rng)
        for height in range(store.height + 1):
            block_hash = store.block_hash(height)
            assert block_hash is not None
            raw = store.body(block_hash)
            assert raw is not None
            chain.connect(Block.parse(raw))
        return chain

    @property
    def tip_hash(self) -> bytes:
        return self.blocks[-1].hash if self.blocks else bytes(32)

    def outputs(self, count: int) -> list[tuple[int, bytes]]:
        rng = self.rng
        return [(rng.randrange(10**8), rng.choice(ALL_SCRIPTS)) for _ in range(count)]

    def make_block(self, width: int = 6) -> Block:
        """Spend older coins and coins of the same block, create some, take up what a reorganisation freed."""
        rng, height = self.rng, len(self.blocks)
        salt = height.to_bytes(4, "little") + rng.randbytes(8)
        coinbase = Transaction.build(
            2, [TxIn(bytes(32) + b"\xff" * 4, salt)], [TxOut(*o) for o in self.outputs(1 + rng.randrange(3))]
        )
        txs, spendable = [coinbase], sorted(self.coins)

        def add(tx: Transaction) -> None:
            txs.append(tx)
            spendable.extend(
                tx.txid + number.to_bytes(4, "little")
                for number, out in enumerate(tx.vout)
                if out.script_pubkey not in HIDDEN
            )

        for tx in self.freed:
            if all(prevout in spendable for prevout in tx.prevouts):
                for prevout in tx.prevouts:
                    spendable.remove(prevout)
                add(tx)
        self.freed = []
        for _ in range(rng.randrange(width)):
            count = min(len(spendable), 1 + rng.randrange(3))
            if not count:
                break
            prevouts = [spendable.pop(rng.randrange(len(spendable))) for _ in range(count)]
            add(transaction(rng, prevouts, self.outputs(1 + rng.randrange(4))))
        header = BlockHeader.build(
            version=1,
            prev_hash=self.tip_hash,
            merkle_root=txid_root(txs)[0],
            time_s=height,
            bits=0,
            nonce=rng.getrandbits(32),
        )
        return Block.build(header, txs)

    def connect(self, block: Block) -> ConnectBatch:
        height = len(self.blocks)
        before: dict[bytes, bytes | None] = {}
        after: dict[bytes, bytes | None] = {}
        for tx in block.txs:
            for prevout in () if tx.is_coinbase else tx.prevouts:
                if prevout in after:  # created in this block: as if it had never been
                    del after[prevout], before[prevout]
                else:
                    before[prevout], after[prevout] = self.coins[prevout], None
            for number, out in enumerate(tx.vout):
                if out.script_pubkey not in HIDDEN:
                    prevout = tx.txid + number.to_bytes(4, "little")
                    before[prevout] = None
                    after[prevout] = encode_coin(height, tx.is_coinbase, out.value, out.script_pubkey)
        self.blocks.append(block)
        self.undos.append(before)
        self.diffs.append(after)
        self._apply(after)
        undo = msgpack.packb([1, list(chained.from_iterable(before.items())), []])
        return ConnectBatch(
            height,
            block.hash,
            block.header.raw,
            block.raw,
            tuple(tx.txid for tx in block.txs),
            b"tip %d" % height,
            after,
            {},
            undo,
        )

    def disconnect(self) -> tuple[int, dict, dict, bytes]:
        height = len(self.blocks) - 1
        self.freed = [*self.blocks.pop().txs[1:], *self.freed]
        self.diffs.pop()
        before = self.undos.pop()
        self._apply(before)
        return height, before, {}, b"tip %d" % (height - 1)

    def _apply(self, diff: dict[bytes, bytes | None]) -> None:
        for key, value in diff.items():
            if value is None:
                del self.coins[key]
            else:
                self.coins[key] = value

    # -- what the index must say

    def history(self) -> dict[bytes, list[tuple[int, int, int, int, int, bytes]]]:
        """Return per script (height, place, side, number, amount, txid), computed from the blocks alone."""
        found: dict[bytes, list] = defaultdict(list)
        made: dict[bytes, TxOut] = {}
        for height, block in enumerate(self.blocks):
            for place, tx in enumerate(block.txs):
                for number, out in enumerate(tx.vout):
                    made[tx.txid + number.to_bytes(4, "little")] = out
                    if out.script_pubkey not in HIDDEN:
                        found[out.script_pubkey].append((height, place, 0, number, out.value, tx.txid))
                for number, prevout in enumerate(() if tx.is_coinbase else tx.prevouts):
                    out = made[prevout]
                    found[out.script_pubkey].append((height, place, 1, number, -out.value, tx.txid))
        return {script: sorted(rows) for script, rows in found.items()}


def unspent_of(coins) -> dict[bytes, list[tuple[int, bytes, int, bool]]]:
    """Group coins (prevout, value) by script: (height, prevout, amount, is_coinbase)."""
    found: dict[bytes, list] = defaultdict(list)
    for prevout, coin in coins:
        row = (coin_height(coin), prevout, coin_amount(coin), coin_is_coinbase(coin))
        found[coin_script(coin)].append(row)
    return {script: sorted(rows) for script, rows in found.items()}


def indexed_history(store: ChainStore) -> dict[bytes, list]:
    """Read the history of all scripts from the index, one by one."""
    found = {}
    with address_view(store) as view:
        assert view is not None
        assert view.place.block_hash == store.tip_hash
        for script in ALL_SCRIPTS:
            with view.history([script_hash(script)]) as rows:
                listed = [(r.height, r.place, r.side, r.number, r.amount, r.txid) for _, r in rows]
            if listed:
                found[script] = listed
    return found


def indexed_unspent(store: ChainStore) -> dict[bytes, list]:
    """Read the unspent outputs of all scripts from the index, one by one."""
    found = {}
    with address_view(store) as view:
        assert view is not None
        for script in ALL_SCRIPTS:
            with view.unspent([script_hash(script)]) as rows:
                listed = [(r.height, r.prevout, r.amount, r.is_coinbase) for _, r in rows]
            if listed:
                found[script] = listed
    return found


def run_out(*followers: Follower) -> int:
    """Do slices until there is no work; return how many that took."""
    count = 0
    for follower in followers:
        while follower.has_work:
            follower.step()
            count += 1
    return count


def assert_indexed(store: ChainStore, chain: RandomChain) -> None:
    """The address index is what the blocks and the UTXO set of the store say, and nothing else is there."""
    assert indexed_history(store) == chain.history()
    assert indexed_unspent(store) == unspent_of(store.iterate_coins())


def assert_txs_found(store: ChainStore, chain: RandomChain) -> None:
    for height, block in enumerate(chain.blocks):
        for place, tx in enumerate(block.txs):
            assert store.find_tx(tx.txid) == (height, place)
