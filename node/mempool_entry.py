"""What the pool knows of one pending transaction, and of a batch on its way in."""

from collections.abc import Callable
from dataclasses import dataclass, field

from cext import output_coin
from consensus.coin_rules import SpendContext
from consensus.coins import COIN_HEADER, is_unspendable
from consensus.errors import RuleError
from consensus.ports import CoinView, ContractSession
from consensus.transaction import Transaction
from node.limits import ENTRY_OVERHEAD_BYTES, INPUT_OVERHEAD_BYTES, OUTPUT_OVERHEAD_BYTES

MEMPOOL_HEIGHT = 0x7FFFFFFF
"""Height in the coin value of an output that no block has confirmed, as in Bitcoin Core."""

_PENDING_CODE = MEMPOOL_HEIGHT << 1

UNTRACKED = -1
"""``MempoolEntry.height`` of what says nothing about how long a fee rate waits."""

MAX_REPLACEABLE_SEQUENCE = 0xFFFFFFFD
"""An input with at most this sequence number signals that the transaction may be replaced (BIP125)."""


class MempoolEntry:
    """A pending transaction with what the pool knows of it.

    ``fee`` in base units, ``rate`` in base units per 1000 virtual bytes, ``added_s`` chain time of
    admission, ``spent`` one coin value per input, ``parents`` the ids of its unconfirmed parents.
    ``account`` is the actor of its operation, if any. ``height`` is the tip's at admission, or
    UNTRACKED. ``delta`` is what an operator adds to its fee in his own eyes (prioritisetransaction).
    ``seen`` is ``Mempool.removals`` as of the look at its inputs.

    Totals include the entry itself; their fees are modified by ``delta``.
    """

    __slots__ = (
        "account",
        "added_s",
        "ancestor_count",
        "ancestor_fees",
        "ancestor_vsize",
        "cost_bytes",
        "delta",
        "descendant_count",
        "descendant_fees",
        "descendant_vsize",
        "fee",
        "height",
        "parents",
        "rate",
        "seen",
        "spent",
        "tx",
        "vsize",
    )

    def __init__(
        self,
        tx: Transaction,
        fee: int,
        added_s: int,
        spent: list[bytes],
        parents: tuple[bytes, ...],
        account: bytes | None,
        height: int = UNTRACKED,
        seen: int = -1,
    ) -> None:
        self.tx = tx
        self.fee = self.ancestor_fees = self.descendant_fees = fee
        self.vsize = self.ancestor_vsize = self.descendant_vsize = vsize = tx.vsize
        self.ancestor_count = self.descendant_count = 1
        self.rate = fee * 1000 // vsize
        self.added_s = added_s
        self.spent = spent
        self.parents = parents
        self.account = account
        self.height = height
        self.delta = 0
        self.seen = seen
        parts = tx.input_count * INPUT_OVERHEAD_BYTES + tx.output_count * OUTPUT_OVERHEAD_BYTES
        self.cost_bytes = len(tx.raw) + sum(map(len, spent)) + parts + ENTRY_OVERHEAD_BYTES

    @property
    def modified_fee(self) -> int:
        """Return the fee by which it is ordered, in base units."""
        return self.fee + self.delta

    @property
    def signals(self) -> bool:
        """Return whether the transaction itself says that it may be replaced (BIP125)."""
        return signals_replacement(self.tx)


def signals_replacement(tx: Transaction) -> bool:
    """Return whether an input of ``tx`` opts in to replacement (BIP125)."""
    return any(txin.sequence <= MAX_REPLACEABLE_SEQUENCE for txin in tx.vin)


@dataclass(slots=True)
class Staging:
    """Transactions of one admission batch that passed ``Mempool.check`` and await their signatures."""

    entries: dict[bytes, MempoolEntry] = field(default_factory=dict)
    spenders: dict[bytes, bytes] = field(default_factory=dict)

    def add(self, entry: MempoolEntry) -> None:
        """Let later transactions of the batch see ``entry``."""
        txid = entry.tx.txid
        self.entries[txid] = entry
        for prevout in entry.tx.prevouts:
            self.spenders[prevout] = txid

    def rivals(self, tx: Transaction) -> bool:
        """Return whether ``tx`` contends with one whose signatures nobody has looked at yet."""
        return tx.txid in self.entries or not self.spenders.keys().isdisjoint(tx.prevouts)


@dataclass(frozen=True, slots=True)
class Ground:
    """What the pool stands on: the rules of the next block, the tip's coins, a way to try operations."""

    context: SpendContext
    coins: CoinView
    open_session: Callable[[int], ContractSession]


@dataclass(frozen=True, slots=True)
class DoubleSpend:
    """Two transactions, both validly signed, that spend ``prevout``.

    ``first`` is the id of the one that was pending, ``second`` of the one that came later;
    ``confirmed`` says that the second is in a block, so the first is lost.
    """

    prevout: bytes
    first: bytes
    second: bytes
    confirmed: bool


class Conflict(RuleError):
    """ "txn-mempool-conflict": a pending transaction, which does not yield, spends the same output.

    ``entry`` is the newcomer, complete but for its signatures; ``prevout`` what both spend.
    """

    def __init__(self, entry: MempoolEntry, prevout: bytes, pending: bytes) -> None:
        super().__init__(
            "txn-mempool-conflict", "an input is spent by a pending transaction", permanent=False
        )
        self.entry = entry
        self.event = DoubleSpend(prevout, pending, entry.tx.txid, confirmed=False)


def pending_coin(prevout: bytes, pool: dict[bytes, MempoolEntry]) -> bytes | None:
    """Return the coin value of an output of a transaction in ``pool``; None if there is none."""
    parent = pool.get(prevout[:32])
    if parent is None:
        return None
    coin = output_coin(parent.tx, int.from_bytes(prevout[32:], "little"), _PENDING_CODE)
    return None if coin is None or is_unspendable(coin[COIN_HEADER:]) else coin
