"""The pool of transactions that wait for a block.

It holds what executes on the tip plus an overlay of what is already pending, within a byte budget.
Relations between its transactions are in ``node/mempool_graph.py``, replacement and the dynamic minimum
fee in ``node/mempool_policy.py``, the order for blocks in ``node/mempool_template.py``. Signatures are
checked before a transaction gets here (``node/admission.py``).
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from consensus.block_rules import payload_of
from consensus.coin_rules import check_spend, usual_payment_fee
from consensus.connect import may_carry_payload
from consensus.errors import LocalFault, RuleError
from consensus.params import LedgerParams
from consensus.ports import Contracts, ContractSession
from consensus.transaction import Transaction
from consensus.tx_rules import check_transaction
from node.fees import FeeEstimator
from node.limits import (
    KNOWN_OUTPUTS_PROBED,
    MAX_ANCESTORS,
    MAX_PENDING_OPERATIONS,
    MAX_PENDING_PER_ACCOUNT,
    MAX_PRIORITISED,
    MAX_REPORTED_CONFLICTS,
    MEMPOOL_EXPIRY_S,
)
from node.mempool_entry import (
    UNTRACKED,
    Conflict,
    DoubleSpend,
    Ground,
    MempoolEntry,
    Staging,
    pending_coin,
)
from node.mempool_graph import Graph, too_many_ancestors
from node.mempool_policy import RollingFee, check_replacement, incremental_rate
from node.mempool_template import Template

__all__ = [
    "ALREADY_PENDING",
    "Conflict",
    "DoubleSpend",
    "Ground",
    "Mempool",
    "MempoolEntry",
    "Staging",
    "missing_inputs",
    "try_operation",
]

log = logging.getLogger("wattd.mempool")

ALREADY_PENDING = "txn-already-in-mempool"


class Mempool:
    """Pending transactions by id, by witness id and by fee rate.

    ``expiry_s`` is the chain time after which one leaves; with ``full_rbf`` any may be replaced, not
    only those that signal it. ``on_double_spend`` hears of two signed transactions that spend the same.
    """

    def __init__(
        self,
        ground: Ground,
        contracts: Contracts,
        params: LedgerParams,
        *,
        max_bytes: int,
        expiry_s: int = MEMPOOL_EXPIRY_S,
        full_rbf: bool = False,
        on_double_spend: Callable[[DoubleSpend], None] | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.full_rbf = full_rbf
        self.min_fee_per_kvb = params.min_fee_per_kvb
        self.incremental_per_kvb = incremental_rate(params.min_fee_per_kvb)
        self.bytes_used = 0
        self.fee_total = 0
        self.vsize_total = 0
        self.revision = 0
        """Grows with every change of what a block would take: whoever kept a template sees that it is old."""
        self.removals = 0
        """Grows whenever an output may have gone that was there to be spent."""
        self.estimator = FeeEstimator(ground.context.height - 1)
        self._max_money = params.max_money
        self._expiry_s = expiry_s
        self._oldest_s: int | None = None
        self._contracts = contracts
        self._ground = ground
        self._on_double_spend = on_double_spend
        self._reported: dict[bytes, None] = {}
        self._session: ContractSession | None = None
        self._graph = Graph()
        self._entries = self._graph.entries
        self._by_wtxid: dict[bytes, MempoolEntry] = {}
        self._spenders: dict[bytes, bytes] = {}
        self._operations: dict[bytes, None] = {}
        self._pending_of: dict[bytes, int] = {}
        self._deltas: dict[bytes, int] = {}
        self._rolling = RollingFee(self.incremental_per_kvb, max_bytes)

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
        return pending_coin(prevout, self._entries) or self._ground.coins.get(prevout)

    def children(self, txid: bytes) -> Iterable[bytes]:
        """Return the ids of the pending transactions that spend outputs of ``txid``."""
        return self._graph.children(txid)

    def ancestors(self, txid: bytes) -> list[MempoolEntry]:
        """Return the unconfirmed ancestors of a pending transaction, without itself."""
        return list(self._graph.ancestors(self._entries[txid].parents).values())

    def descendants(self, txid: bytes) -> list[MempoolEntry]:
        """Return all that spends outputs of ``txid``, directly or not, without itself."""
        return list(self._graph.descendants(self._graph.children(txid)).values())

    def replaceable(self, txid: bytes) -> bool:
        """Return whether a pending transaction or an unconfirmed ancestor of it signals (BIP125)."""
        return self._entries[txid].signals or any(each.signals for each in self.ancestors(txid))

    def min_fee(self, now_s: int) -> int:
        """Return the rate below which nothing is taken now, base units per 1000 virtual bytes."""
        return max(self.min_fee_per_kvb, self._rolling.rate(now_s, self.bytes_used))

    def waiting(self) -> Iterator[tuple[int, int]]:
        """Yield (height at admission, fee rate) of what the fee estimator counts as waiting."""
        for entry in self._entries.values():
            if entry.height != UNTRACKED:
                yield entry.height, entry.rate

    # ---- admission -----------------------------------------------------------------------------

    def check(self, tx: Transaction, staging: Staging, now_s: int) -> MempoolEntry:
        """Apply every rule but signatures and contract execution. Raises RuleError.

        ``staging`` holds earlier transactions of the same batch, whose outputs may be spent. What
        contends with a pending transaction that does not yield is a Conflict.
        """
        txid = tx.txid
        if txid in self._entries or txid in staging.entries:
            raise RuleError(ALREADY_PENDING, permanent=False)
        try:
            spent, parents = self._inputs(tx, staging)
        except RuleError:
            self._check_form(tx)  # what is wrong with it on its own comes first
            raise
        ground = self._ground
        account = None
        fee = usual_payment_fee(tx, spent, ground.context.ledger)
        if fee < 0:
            self._check_form(tx)
            fee = check_spend(tx, spent, ground.context)
            account = self._actor(tx, spent)
        height = UNTRACKED if parents else ground.context.height - 1
        entry = MempoolEntry(tx, fee, now_s, spent, parents, account, height, self.removals)
        if self._deltas:
            self._apply_delta(entry)
        floor = self._rolling.rate(now_s, self.bytes_used)
        if floor and entry.modified_fee * 1000 < floor * entry.vsize:
            raise RuleError(
                "mempool min fee not met", f"{entry.modified_fee} < {floor} per 1000 vbytes", permanent=False
            )
        leaving = self._replaced(entry)
        if parents:
            self._graph.check_limits(entry, staging.entries, leaving)
        return entry

    def add(self, entry: MempoolEntry) -> list[Transaction]:
        """Insert an entry whose signatures hold; return what left: replaced, or evicted to make room.

        The tip may have moved since ``check``, so inputs and relations are looked at again. Raises
        RuleError.
        """
        tx = entry.tx
        txid = tx.txid
        entries = self._entries
        if txid in entries:
            raise RuleError(ALREADY_PENDING, permanent=False)
        # Unless something has left since, what was there is there; a parent of its batch may not have come.
        if entry.seen != self.removals or any(parent not in entries for parent in entry.parents):
            for prevout in tx.prevouts:
                if self.coin(prevout) is None:
                    raise missing_inputs()
        leaving = self._replaced(entry)
        if entry.parents:
            self._graph.check_limits(entry, {}, leaving)
        if entry.account is not None:
            self._check_pending(entry.account)
            self._try_operation(entry)
        replaced = self._replace(entry, leaving) if leaving else []
        self._insert(entry)
        return replaced + self._trim(txid) if self.bytes_used > self.max_bytes else replaced

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

    def backdate(self, txid: bytes, added_s: int) -> None:
        """Let a pending transaction be as old as it was before a restart; its wait says nothing."""
        entry = self._entries.get(txid)
        if entry is not None:
            entry.added_s = added_s
            entry.height = UNTRACKED
            self._oldest_s = added_s if self._oldest_s is None else min(self._oldest_s, added_s)

    def prioritise(self, txid: bytes, delta: int) -> None:
        """Add ``delta`` base units to the fee by which ``txid``, pending or not yet, is ordered.

        Raises RuleError "too-many-prioritised".
        """
        if txid not in self._deltas and len(self._deltas) >= MAX_PRIORITISED:
            reason = f"{MAX_PRIORITISED} transactions have a fee delta"
            raise RuleError("too-many-prioritised", reason, permanent=False)
        total = self._deltas.get(txid, 0) + delta
        self._deltas[txid] = total
        if not total:
            del self._deltas[txid]
        entry = self._entries.get(txid)
        if entry is not None:
            self._graph.prioritise(entry, delta)
            self.revision += 1

    def deltas(self) -> dict[bytes, int]:
        """Return the fee deltas that operators gave, by transaction id."""
        return dict(self._deltas)

    def report(self, event: DoubleSpend) -> None:
        """Tell of two signed transactions that spend the same; of each pending one, once."""
        if event.first in self._reported and not event.confirmed:
            return
        while len(self._reported) >= MAX_REPORTED_CONFLICTS:
            del self._reported[next(iter(self._reported))]
        self._reported[event.first] = None
        if self._on_double_spend is not None:
            self._on_double_spend(event)

    def is_reported(self, event: DoubleSpend) -> bool:
        """Return whether a double spend of what was pending first is known already."""
        return event.first in self._reported

    def _check_form(self, tx: Transaction) -> None:
        """Check what can be said of a transaction alone. Raises RuleError."""
        check_transaction(tx, self._max_money)
        if tx.is_coinbase:
            raise RuleError("coinbase", "a coinbase is only valid inside a block")
        self._contracts.check_payload(tx)

    def _inputs(self, tx: Transaction, staging: Staging) -> tuple[list[bytes], tuple[bytes, ...]]:
        spent: list[bytes] = []
        parents: dict[bytes, None] = {}
        entries, staged, confirmed = self._entries, staging.entries, self._ground.coins.get
        for prevout in tx.prevouts:
            coin: bytes | None = None
            if prevout in staging.spenders:
                raise RuleError(
                    "txn-mempool-conflict", "an input is spent in the same batch", permanent=False
                )
            parent = prevout[:32]
            if parent in entries or parent in staged:
                coin = pending_coin(prevout, staged) or pending_coin(prevout, entries)
                if coin is not None:
                    parents[parent] = None
                    if len(parents) >= MAX_ANCESTORS:  # before anybody walks through all of theirs
                        raise too_many_ancestors()
            coin = coin or confirmed(prevout)
            if coin is None:
                raise self._explain_missing(tx)
            spent.append(coin)
        return spent, tuple(parents)

    def _replaced(self, entry: MempoolEntry) -> dict[bytes, MempoolEntry]:
        """Return what ``entry`` replaces, if it may. Raises RuleError, Conflict among them."""
        prevouts = entry.tx.prevouts
        if self._spenders.keys().isdisjoint(prevouts):
            return {}
        rivals: dict[bytes, bytes] = {}
        for prevout in prevouts:
            rival = self._spenders.get(prevout)
            if rival is not None:
                rivals.setdefault(rival, prevout)
        for txid, prevout in rivals.items():
            if not self.full_rbf and not self._entries[txid].signals:
                raise Conflict(entry, prevout, txid)
        return check_replacement(entry, rivals, self._graph, self.incremental_per_kvb)

    def _replace(self, entry: MempoolEntry, leaving: dict[bytes, MempoolEntry]) -> list[Transaction]:
        replaced: list[Transaction] = []
        for txid in leaving:
            replaced += self.remove_with_descendants(txid)
        log.info(
            "replaced",
            extra={"txid": entry.tx.txid[::-1].hex(), "replaced": [t.txid[::-1].hex() for t in replaced]},
        )
        return replaced

    def _explain_missing(self, tx: Transaction) -> RuleError:
        probed = range(min(tx.output_count, KNOWN_OUTPUTS_PROBED))
        known = (self._ground.coins.get(tx.txid + index.to_bytes(4, "little")) for index in probed)
        if any(coin is not None for coin in known):
            return RuleError("txn-already-known", "its outputs are in the chain", permanent=False)
        return missing_inputs()

    def _apply_delta(self, entry: MempoolEntry) -> None:
        delta = self._deltas.get(entry.tx.txid, 0)
        entry.delta = delta
        entry.ancestor_fees += delta
        entry.descendant_fees += delta

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
        tx = entry.tx
        txid = tx.txid
        self._graph.insert(entry)
        self._by_wtxid[tx.wtxid] = entry
        for prevout in tx.prevouts:
            self._spenders[prevout] = txid
        if entry.account is not None:
            self._operations[txid] = None
            self._pending_of[entry.account] = self._pending_of.get(entry.account, 0) + 1
        if self._oldest_s is None or entry.added_s < self._oldest_s:
            self._oldest_s = entry.added_s
        self.bytes_used += entry.cost_bytes
        self.fee_total += entry.fee
        self.vsize_total += entry.vsize
        self.revision += 1

    # ---- leaving -------------------------------------------------------------------------------

    def remove_with_descendants(self, txid: bytes) -> list[Transaction]:
        """Remove ``txid`` and all that spends its outputs; return what left, in no certain order."""
        leaving = list(self._graph.descendants((txid,)).values())
        # Those with most ancestors first, so that none leaves before what spends it.
        leaving.sort(key=lambda entry: -entry.ancestor_count)
        for entry in leaving:
            self._graph.remove(entry)
            if entry.height != UNTRACKED:
                self.estimator.left(entry.height, entry.rate)
        self._remove(leaving)
        return [entry.tx for entry in leaving]

    def connect(self, transactions: Iterable[Transaction], ground: Ground, now_s: int) -> list[Transaction]:
        """Follow a new tip: drop what it confirmed and what is too old; return what left unconfirmed.

        Pending operations run again on the new tip, in order of arrival.
        """
        evicted: list[Transaction] = []
        confirmed: list[tuple[int, int]] = []
        self._ground = ground
        self.removals += 1
        if self._entries or self._deltas:
            evicted += self._leave_to_block(transactions, confirmed)
        self.estimator.block(ground.context.height - 1, confirmed)
        self._rolling.block(now_s)
        return evicted + self.expire(now_s) + self._retry_operations(now_s)

    def reorganise(self, ground: Ground, now_s: int) -> list[Transaction]:
        """Follow a tip from which blocks were taken off; return what does not hold there, parents first.

        Inputs, locks and maturity depend on the chain below, so everything is looked at again.
        """
        self._ground = ground
        self.removals += 1
        evicted: list[Transaction] = []
        for entry in list(self._entries.values()):
            if entry.tx.txid not in self._entries:
                continue
            spent = [self.coin(prevout) for prevout in entry.tx.prevouts]
            try:
                if None in spent:
                    raise missing_inputs()
                entry.spent = [coin for coin in spent if coin is not None]
                check_spend(entry.tx, entry.spent, ground.context)
            except RuleError:
                evicted += reversed(self.remove_with_descendants(entry.tx.txid))
        return evicted + self._retry_operations(now_s)

    def _leave_to_block(
        self, transactions: Iterable[Transaction], confirmed: list[tuple[int, int]]
    ) -> list[Transaction]:
        """Drop what a block confirmed, noting it in ``confirmed``; return what it made invalid."""
        entries, deltas = self._entries, self._deltas
        leaving: list[MempoolEntry] = []
        strangers: list[Transaction] = []
        for tx in transactions:
            entry = entries.get(tx.txid)
            if entry is None:
                strangers.append(tx)
            else:
                leaving.append(entry)
                if entry.height != UNTRACKED:
                    confirmed.append((entry.height, entry.rate))
            if deltas:
                deltas.pop(tx.txid, None)
        self._graph.remove_confirmed(leaving)
        self._remove(leaving)
        evicted: list[Transaction] = []
        for tx in strangers:
            for prevout in tx.prevouts:
                rival = self._spenders.get(prevout)
                if rival is not None:
                    evicted += self.remove_with_descendants(rival)
                    self.report(DoubleSpend(prevout, rival, tx.txid, confirmed=True))
        return evicted

    def expire(self, now_s: int) -> list[Transaction]:
        """Remove what waited longer than ``expiry_s``, with what spends it; return it."""
        limit_s = now_s - self._expiry_s
        if self._oldest_s is None or self._oldest_s >= limit_s:
            return []
        expired: list[Transaction] = []
        for txid in [entry.tx.txid for entry in self._entries.values() if entry.added_s < limit_s]:
            expired += self.remove_with_descendants(txid)
        self._oldest_s = min((entry.added_s for entry in self._entries.values()), default=None)
        if expired:
            log.info("transactions expired", extra={"count": len(expired)})
        return expired

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
            worst = self._graph.by_eviction.lowest()
            self._rolling.evicted(worst.descendant_fees * 1000 // worst.descendant_vsize)
            evicted += self.remove_with_descendants(worst.tx.txid)
        if newcomer not in self._entries:
            raise RuleError("mempool full", "its fee rate is below everything that waits", permanent=False)
        return evicted

    def _remove(self, entries: list[MempoolEntry]) -> None:
        """Take out entries that the graph does not hold any more."""
        if not entries:
            return
        by_wtxid, spenders = self._by_wtxid, self._spenders
        for entry in entries:
            tx = entry.tx
            del by_wtxid[tx.wtxid]
            for prevout in tx.prevouts:
                del spenders[prevout]
            if entry.account is not None:
                self._forget_operation(tx.txid, entry.account)
            self.bytes_used -= entry.cost_bytes
            self.fee_total -= entry.fee
            self.vsize_total -= entry.vsize
        self.revision += 1
        self.removals += 1

    def _forget_operation(self, txid: bytes, account: bytes) -> None:
        del self._operations[txid]
        left = self._pending_of[account] - 1
        if left:
            self._pending_of[account] = left
        else:
            del self._pending_of[account]

    # ---- templates -----------------------------------------------------------------------------

    def candidates(self, exclude: set[bytes]) -> Iterator[Transaction]:
        """Yield pending transactions, the package with the highest fee rate first, parents before
        children.

        ``exclude``: ids that a block under way already holds. The pool must not change meanwhile.
        """
        return iter(Template(self._graph, exclude))


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
