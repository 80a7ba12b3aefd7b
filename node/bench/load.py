"""A stream of payments for load tests: signed ahead, so that making them costs nothing while it runs.

Each source coin starts a chain of payments to itself, and the stream goes round over the chains, so a
payment's parent was sent long before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from consensus.params import Allocation
from consensus.transaction import Transaction, TxIn, TxOut, outpoint
from node.keyfile import Secret
from node.wallet import Account

COIN_VALUE = 100_000_000
FEE = 400
SENT = 1_000
SEQUENCE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Source:
    """One account with ``coins`` genesis outputs."""

    account: Account
    coins: int

    def allocations(self) -> list[Allocation]:
        """Return the genesis outputs."""
        return [Allocation(self.account.script, COIN_VALUE)] * self.coins


def make_source(coins: int) -> Source:
    """Return a source with a key of its own; benchmarks need no secret ones."""
    return Source(Account(Secret(bytes(31) + b"\x07")), coins)


def payments(source: Source, prevouts: list[bytes], count: int) -> Iterator[Transaction]:
    """Yield ``count`` signed payments of one input and two outputs (226 bytes), over all chains in turn."""
    heads = [(prevout, COIN_VALUE) for prevout in prevouts]
    burn = Account(Secret(bytes(31) + b"\x09")).script
    script = source.account.script
    for number in range(count):
        at = number % len(heads)
        prevout, value = heads[at]
        outputs = [TxOut(value - FEE - SENT, script), TxOut(SENT, burn)]
        unsigned = Transaction.build(2, [TxIn(prevout, b"", SEQUENCE)], outputs)
        tx = source.account.sign(unsigned)
        heads[at] = (outpoint(tx.txid, 0), outputs[0].value)
        yield tx
