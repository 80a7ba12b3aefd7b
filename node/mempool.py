"""The pool of transactions that wait for a block.

It holds what executes on the tip plus an overlay of what is already pending, within a byte budget;
the lowest fee rate leaves first. Signatures are checked before a transaction gets here
(``node/admission.py``).
"""

import logging
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from consensus.block_rules import payload_of
from consensus.coin_rules import SpendContext, check_spend
from consensus.coins import encode_coin, is_unspendable
from consensus.connect import may_carry_payload
from consensus.errors import LocalFault, RuleError
from consensus.params import LedgerParams
from consensus.ports import CoinView, Contracts, ContractSession
from consensus.transaction import Transaction
from consensus.tx_rules import check_transaction
from node.limits import (
    ENTRY_OVERHEAD_BYTES,
    INPUT_OVERHEAD_BYTES,
    KNOWN_OUTPUTS_PROBED,
    MAX_CHAIN_DEPTH,
    MAX_PENDING_OPERATIONS,
    MAX_PENDING_PER_ACCOUNT,
    OUTPUT_OVERHEAD_BYTES,
)

log = logging.getLogger("wattd.mempool")

MEMPOOL_HEIGHT = 0x7FFFFFFF
"""Height in the coin value of an output that no block has confirmed, as in Bitcoin Core."""


ALREADY_PENDING = "txn-already-in-mempool"


@dataclass(slots=True, eq=False)
class MempoolEntry:
    """A pending transaction with what the pool knows of it.

    ``fee`` in base units, ``rate`` in base units per 1000 virtual bytes, ``spent`` one coin value
    per input, ``parents`` the ids of its unconfirmed parents, ``depth`` the longest chain of
    unconfirmed ancestors, itself included. ``account`` is the actor of its operation, if any.
    """

    tx: Transaction
    fee: int
    rate: int
    added_s: int
    spent: list[bytes]
    parents: tuple[bytes, ...]
    depth: int
    account: bytes | None

    @property
    def cost_bytes(self) -> int:
        """Return what the entry counts against the byte budget: what it takes in memory."""
        tx = self.tx
        parts = tx.input_count * INPUT_OVERHEAD_BYTES + tx.output_count * OUTPUT_OVERHEAD_BYTES
        return len(tx.raw) + sum(map(len, self.spent)) + parts + ENTRY_OVERHEAD_BYTES


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
        return tx.txid in self.entries or any(prevout in self.spenders for prevout in tx.prevouts)


@dataclass(frozen=True, slots=True)
class Ground:
    """What the pool stands on: the rules of the next block, the tip's coins, a way to try operations."""

    context: SpendContext
    coins: CoinView
    open_session: Callable[[int], ContractSession]


class Mempool:
    """Pending transactions by id, by witness id and by fee rate."""

    def __init__(self, ground: Ground, contracts: Contracts, params: LedgerParams, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.min_fee_per_kvb = params.min_fee_per_kvb
        self.bytes_used = 0
        self.fee_total = 0
        self.vsize_total = 0
        self._max_money = params.max_money
        self._contracts = contracts
        self._ground = ground
        self._session: ContractSession | None = None
        self._entries: dict[bytes, MempoolEntry] = {}
        self._by_wtxid: dict[bytes, MempoolEntry] = {}
        self._spenders: dict[bytes, bytes] = {}
        self._operations: dict[bytes, None] = {}
        self._pending_of: dict[bytes, int] = {}
        self._rates: dict[int, dict[bytes, MempoolEntry]] = {}
        self._rate_keys: list[int] = []

    # ---- reading -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def count(self) -> int:
        """Return the number of pending transactions."""
        return len(self._entries)

    def get(self, txid: bytes) -> MempoolEntry | None:
        """Return the entry of ``txid``, if pending."""
        return self._entries.get(txid)

    def by_wtxid(self, wtxid: bytes) -> Transaction | None:
        """Return the pending transaction with this witness id."""
        entry = self._by_wtxid.get(wtxid)
        return None if entry is None else entry.tx

    def wtxids(self) -> list[bytes]:
        """Return the witness ids of all pending transactions, in order of arrival."""
        return list(self._by_wtxid)

    def entries(self) -> Iterable[MempoolEntry]:
        """Return all entries, in order of arrival."""
        return self._entries.values()

    def spender(self, prevout: bytes) -> bytes | None:
        """Return the id of the pending transaction that spends ``prevout``."""
        return self._spenders.get(prevout)

    def coin(self, prevout: bytes) -> bytes | None:
        """Return the coin at ``prevout``, confirmed or pending, spent in the pool or not."""
        return self._pending_coin(prevout, self._entries) or self._ground.coins.get(prevout)

    # ---- admission -----------------------------------------------------------------------------

    def check(self, tx: Transaction, staging: Staging, now_s: int) -> MempoolEntry:
        """Apply every rule but signatures and contract execution. Raises RuleError.

        ``staging`` holds earlier transactions of the same batch, whose outputs may be spent.
        """
        txid = tx.txid
        if txid in self._entries or txid in staging.entries:
            raise RuleError(ALREADY_PENDING, permanent=False)
        check_transaction(tx, self._max_money)
        if tx.is_coinbase:
            raise RuleError("coinbase", "a coinbase is only valid inside a block")
        self._contracts.check_payload(tx)
        spent, parents, depth = self._inputs(tx, staging)
        fee = check_spend(tx, spent, self._ground.context)
        rate = fee * 1000 // tx.vsize
        account = self._actor(tx, spent)
        return MempoolEntry(tx, fee, rate, now_s, spent, parents, depth, account)

    def add(self, entry: MempoolEntry) -> list[Transaction]:
        """Insert an entry whose signatures hold; return what was evicted to make room.

        The tip may have moved since ``check``, so inputs are looked at again. Raises RuleError.
        """
        tx = entry.tx
        if tx.txid in self._entries:
            raise RuleError(ALREADY_PENDING, permanent=False)
        for prevout in tx.prevouts:
            if prevout in self._spenders:
                raise RuleError("txn-mempool-conflict", permanent=False)
            if self.coin(prevout) is None:
                raise missing_inputs()
        if entry.account is not None:
            self._check_pending(entry.account)
            self._try_operation(entry)
        self._insert(entry)
        return self._trim(tx.txid)

    def trial(self, now_s: int) -> ContractSession:
        """Return a fresh session with the pending operations run, to try further ones on.

        One that time has overtaken stays for the next block to judge, and is left out here.
        """
        session = self._ground.open_session(now_s)
        for txid in self._operations:
            entry = self._entries[txid]
            with suppress(RuleError):
                try_operation(session, entry)
        return session

    def _inputs(self, tx: Transaction, staging: Staging) -> tuple[list[bytes], tuple[bytes, ...], int]:
        spent: list[bytes] = []
        parents: dict[bytes, int] = {}
        for prevout in tx.prevouts:
            if prevout in self._spenders or prevout in staging.spenders:
                raise RuleError(
                    "txn-mempool-conflict", "an input is spent by a pending transaction", permanent=False
                )
            for pool in (staging.entries, self._entries):
                coin = self._pending_coin(prevout, pool)
                if coin is not None:
                    parents[prevout[:32]] = pool[prevout[:32]].depth
                    break
            else:
                coin = self._ground.coins.get(prevout)
            if coin is None:
                raise self._explain_missing(tx)
            spent.append(coin)
        depth = 1 + max(parents.values(), default=0)
        if depth > MAX_CHAIN_DEPTH:
            raise RuleError(
                "too-long-mempool-chain", f"more than {MAX_CHAIN_DEPTH} unconfirmed in a row", permanent=False
            )
        return spent, tuple(parents), depth

    def _explain_missing(self, tx: Transaction) -> RuleError:
        probed = range(min(tx.output_count, KNOWN_OUTPUTS_PROBED))
        known = (self._ground.coins.get(tx.txid + index.to_bytes(4, "little")) for index in probed)
        if any(coin is not None for coin in known):
            return RuleError("txn-already-known", "its outputs are in the chain", permanent=False)
        return missing_inputs()

    @staticmethod
    def _pending_coin(prevout: bytes, pool: dict[bytes, MempoolEntry]) -> bytes | None:
        parent = pool.get(prevout[:32])
        if parent is None:
            return None
        index = int.from_bytes(prevout[32:], "little")
        outputs = parent.tx.vout
        if index >= len(outputs) or is_unspendable(outputs[index].script_pubkey):
            return None
        return encode_coin(MEMPOOL_HEIGHT, False, outputs[index].value, outputs[index].script_pubkey)

    def _actor(self, tx: Transaction, spent: list[bytes]) -> bytes | None:
        if not may_carry_payload(tx) or all(payload_of(output.script_pubkey) is None for output in tx.vout):
            return None
        account = spent[0][12:]
        self._check_pending(account)
        return account

    def _check_pending(self, account: bytes) -> None:
        if self._pending_of.get(account, 0) >= MAX_PENDING_PER_ACCOUNT:
            reason = f"an account may have {MAX_PENDING_PER_ACCOUNT} operations pending"
        elif len(self._operations) >= MAX_PENDING_OPERATIONS:
            reason = f"{MAX_PENDING_OPERATIONS} operations are pending"
        else:
            return
        raise RuleError("too-many-pending-operations", reason, permanent=False)

    def _try_operation(self, entry: MempoolEntry) -> None:
        # What an operation did that has left since stays in the session until the next block.
        if self._session is None:
            self._session = self._ground.open_session(entry.added_s)
        try_operation(self._session, entry)

    def _insert(self, entry: MempoolEntry) -> None:
        txid = entry.tx.txid
        self._entries[txid] = entry
        self._by_wtxid[entry.tx.wtxid] = entry
        for prevout in entry.tx.prevouts:
            self._spenders[prevout] = txid
        if entry.account is not None:
            self._operations[txid] = None
            self._pending_of[entry.account] = self._pending_of.get(entry.account, 0) + 1
        bucket = self._rates.get(entry.rate)
        if bucket is None:
            bucket = self._rates[entry.rate] = {}
            insort(self._rate_keys, entry.rate)
        bucket[txid] = entry
        self._count(entry, 1)

    # ---- leaving -------------------------------------------------------------------------------

    def remove_with_descendants(self, txid: bytes) -> list[Transaction]:
        """Remove ``txid`` and all that spends its outputs; return what left, in no certain order."""
        removed: list[Transaction] = []
        queue = [txid]
        while queue:
            entry = self._entries.get(queue.pop())
            if entry is None:
                continue
            self._remove(entry)
            removed.append(entry.tx)
            for index in range(len(entry.tx.vout)):
                child = self._spenders.get(entry.tx.txid + index.to_bytes(4, "little"))
                if child is not None:
                    queue.append(child)
        return removed

    def connect(self, transactions: Iterable[Transaction], ground: Ground, now_s: int) -> list[Transaction]:
        """Follow a new tip: drop what it confirmed; return what it made invalid.

        Pending operations run again on the new tip, in order of arrival.
        """
        evicted: list[Transaction] = []
        self._ground = ground
        for tx in transactions:
            entry = self._entries.get(tx.txid)
            if entry is not None:
                self._remove(entry)
                continue
            for prevout in tx.prevouts:
                rival = self._spenders.get(prevout)
                if rival is not None:
                    evicted += self.remove_with_descendants(rival)
        return evicted + self._retry_operations(now_s)

    def _retry_operations(self, now_s: int) -> list[Transaction]:
        evicted: list[Transaction] = []
        self._session = self._ground.open_session(now_s) if self._operations else None
        for txid in list(self._operations):
            entry = self._entries.get(txid)
            if entry is None or self._session is None:
                continue
            try:
                try_operation(self._session, entry)
            except RuleError:
                evicted += self.remove_with_descendants(txid)
        return evicted

    def _trim(self, newcomer: bytes) -> list[Transaction]:
        evicted: list[Transaction] = []
        while self.bytes_used > self.max_bytes:
            lowest = self._rates[self._rate_keys[0]]
            evicted += self.remove_with_descendants(next(reversed(lowest)))
        if newcomer not in self._entries:
            raise RuleError("mempool full", "its fee rate is below everything that waits", permanent=False)
        return evicted

    def _remove(self, entry: MempoolEntry) -> None:
        txid = entry.tx.txid
        del self._entries[txid]
        del self._by_wtxid[entry.tx.wtxid]
        for prevout in entry.tx.prevouts:
            del self._spenders[prevout]
        if entry.account is not None:
            del self._operations[txid]
            left = self._pending_of[entry.account] - 1
            if left:
                self._pending_of[entry.account] = left
            else:
                del self._pending_of[entry.account]
        bucket = self._rates[entry.rate]
        del bucket[txid]
        if not bucket:
            del self._rates[entry.rate]
            del self._rate_keys[bisect_left(self._rate_keys, entry.rate)]
        self._count(entry, -1)

    def _count(self, entry: MempoolEntry, sign: int) -> None:
        self.bytes_used += sign * entry.cost_bytes
        self.fee_total += sign * entry.fee
        self.vsize_total += sign * entry.tx.vsize

    # ---- templates -----------------------------------------------------------------------------

    def candidates(self, exclude: set[bytes]) -> Iterator[Transaction]:
        """Yield pending transactions by fee rate, highest first, parents before children.

        ``exclude``: ids that a block under way already holds.
        """
        emitted: set[bytes] = set()
        for rate in reversed(self._rate_keys):
            for txid, entry in self._rates[rate].items():
                if txid in exclude or txid in emitted:
                    continue
                if entry.parents:
                    yield from self._with_parents(entry, exclude, emitted)
                else:
                    emitted.add(txid)
                    yield entry.tx

    def _with_parents(
        self, entry: MempoolEntry, exclude: set[bytes], emitted: set[bytes]
    ) -> Iterator[Transaction]:
        stack = [entry]
        while stack:
            top = stack[-1]
            waiting = [
                self._entries[txid]
                for txid in top.parents
                if txid in self._entries and txid not in exclude and txid not in emitted
            ]
            if waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            if top.tx.txid not in emitted:
                emitted.add(top.tx.txid)
                yield top.tx


def missing_inputs() -> RuleError:
    """Return the rejection of a transaction whose inputs no one knows, or that are spent."""
    return RuleError("bad-txns-inputs-missingorspent", permanent=False)


def try_operation(session: ContractSession, entry: MempoolEntry) -> None:
    """Run the operation of an unconfirmed transaction. Raises RuleError.

    A contract that crashes on it is a bug, but nobody has agreed on the transaction yet: it is
    refused, "contract-crash", and the node lives on. Sessions leave no trace of what raises.
    """
    try:
        session.execute(entry.tx, entry.spent)
    except (RuleError, LocalFault):
        raise
    except Exception as bug:
        log.error("contract crashed", extra={"txid": entry.tx.txid[::-1].hex()}, exc_info=bug)
        raise RuleError("contract-crash", repr(bug)) from bug
