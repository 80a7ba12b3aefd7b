"""The bare rate, the reference of the ledger's figures: signature checks, one per call, on one core."""

from collections.abc import Callable, Sequence

from coincurve import PublicKey

from consensus.coins import encode_coin
from consensus.fastpath import signature_items
from consensus.transaction import Transaction, outpoint
from node.bench.load import COIN_VALUE, Source, make_source, payments

BARE = "coincurve, one check per call, one core"

BARE_CHECKS = 100
"""Signature checks per round of the reference."""

Payments = list[tuple[Transaction, Sequence[bytes]]]
"""Each with the values of the coins that it spends."""


def chain_of_payments(count: int, coins: int) -> tuple[Source, Payments]:
    """Return signed P2PKH payments over ``coins`` made-up coins, each with the coin that it spends."""
    source = make_source(coins)
    prevouts = [outpoint(bytes([7]) * 32, index) for index in range(coins)]
    found: dict[bytes, bytes] = {
        prevout: encode_coin(1, False, COIN_VALUE, source.account.script) for prevout in prevouts
    }
    items: Payments = []
    for tx in payments(source, prevouts, count):
        items.append((tx, [found[tx.prevouts[0]]]))
        change = tx.vout[0]
        found[outpoint(tx.txid, 0)] = encode_coin(1, False, change.value, change.script_pubkey)
    return source, items


def bare_check(items: Payments) -> Callable[[], None]:
    """Return the reference: verify the signatures of ``items``, which must hold, one by one."""
    checks = [check for tx, spent in items for check in signature_items(tx, spent) or ()]

    def run() -> None:
        for message, key, signature in checks:
            if not PublicKey(key).verify(signature, message, hasher=None):
                raise RuntimeError("a signature of the benchmark does not hold")

    return run
