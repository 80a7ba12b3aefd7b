"""A stream of payments for load tests: signed ahead, so that making them costs nothing while it runs.

Each source coin starts a chain of payments to itself, and the stream goes round over the chains, so a
payment's parent was sent long before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from coincurve import PrivateKey

from consensus.hashes import sha256d
from consensus.params import Allocation
from consensus.script.templates import push_data
from consensus.transaction import Transaction, outpoint
from node.keyfile import Secret
from node.wallet import SIGHASH_ALL, Account

COIN_VALUE = 100_000_000
FEE = 400
SENT = 1_000
SEQUENCE = 0xFFFFFFFF
_SECRET = bytes(31) + b"\x07"
_HEAD = (2).to_bytes(4, "little") + b"\x01"
_LOCK_TIME = bytes(4)
_SEQUENCE = SEQUENCE.to_bytes(4, "little")
_HASH_TYPE = bytes((SIGHASH_ALL,))


@dataclass(frozen=True, slots=True)
class Source:
    """One account with ``coins`` genesis outputs. ``key`` is its key, made ready for many signatures."""

    account: Account
    coins: int
    key: Any = field(repr=False)

    def allocations(self) -> list[Allocation]:
        """Return the genesis outputs."""
        return [Allocation(self.account.script, COIN_VALUE)] * self.coins


def make_source(coins: int) -> Source:
    """Return a source with a key of its own; benchmarks need no secret ones."""
    return Source(Account(Secret(_SECRET)), coins, PrivateKey(_SECRET))


def payments(source: Source, prevouts: list[bytes], count: int) -> Iterator[Transaction]:
    """Yield ``count`` signed payments of one input and two outputs (226 bytes), over all chains in turn.

    They are put together by hand, a third of the time that ``Account.sign`` takes: a run of a minute needs
    some hundred thousand.
    """
    heads = [(prevout, COIN_VALUE) for prevout in prevouts]
    script, pubkey = source.account.script, push_data(source.account.pubkey)
    burn = Account(Secret(bytes(31) + b"\x09")).script
    sent = SENT.to_bytes(8, "little") + _string(burn)
    for number in range(count):
        at = number % len(heads)
        prevout, value = heads[at]
        value -= FEE + SENT
        tail = _SEQUENCE + b"\x02" + value.to_bytes(8, "little") + _string(script) + sent + _LOCK_TIME
        digest = sha256d(_HEAD + prevout + _string(script) + tail + SIGHASH_ALL.to_bytes(4, "little"))
        unlock = push_data(source.key.sign(digest, hasher=None) + _HASH_TYPE) + pubkey
        tx = Transaction.parse(_HEAD + prevout + _string(unlock) + tail)
        heads[at] = (outpoint(tx.txid, 0), value)
        yield tx


def _string(data: bytes) -> bytes:
    """Return a short string with its length before it."""
    return bytes((len(data),)) + data
