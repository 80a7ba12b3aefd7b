"""Whether a leader passes over a transaction that others would have put into their blocks (T_tx).

Counted are blocks that had room and took something cheaper, or nothing: full blocks and floods of better
paying transactions depose nobody (CONSENSUS.md, section 2.5).
"""

from collections.abc import Callable, Iterable
from itertools import islice

from consensus.block import Block
from consensus.errors import PeerFault, RuleError
from consensus.params import LedgerParams
from consensus.ports import ContractSession
from contracts import payload
from contracts.api import units_of
from node.limits import (
    MAX_COUNTED_OPERATIONS,
    MAX_JUDGED_TXS,
    MAX_WATCHED_TXS,
    PASSED_OVER_BLOCKS,
    ROOMY_SHARE,
)
from node.mempool import Mempool, try_operation
from node.mempool_entry import MempoolEntry

EMPTY = -1
"""The lowest fee rate of a block without transactions: below every other."""


class PassedOver:
    """How many blocks of the current term passed each watched transaction over."""

    def __init__(self, limit: int = PASSED_OVER_BLOCKS) -> None:
        self._limit = limit
        self._term = 0
        self._counts: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, txid: bytes) -> bool:
        return txid in self._counts

    def counted(self) -> list[bytes]:
        """Return what was passed over at least once."""
        return [txid for txid, count in self._counts.items() if count]

    def on_block(self, term: int, passed: Iterable[bytes], watched: Iterable[bytes]) -> list[bytes]:
        """Count a block of ``term`` against those of ``passed`` that were watched before it.

        ``watched`` are those to go on with. Returns what is over the limit. Another term begins anew: each
        leader answers for its own blocks, the first of which may still be its predecessor's.
        """
        before = self._counts
        self._counts = {txid: before.get(txid, 0) for txid in watched}
        if term != self._term:
            self._term = term
            self._counts = dict.fromkeys(self._counts, 0)
            return []
        over = []
        for txid in passed:
            if txid in before and txid in self._counts:
                self._counts[txid] += 1
                if self._counts[txid] > self._limit:
                    over.append(txid)
        return over


class CensorWatch:
    """Feeds the counts from mempool and blocks."""

    def __init__(self, mempool: Mempool, ledger: LedgerParams) -> None:
        self._mempool = mempool
        self._ledger = ledger
        self._counts = PassedOver()

    def cheapest(self, block: Block) -> int | None:
        """Return the lowest known fee rate in a block, EMPTY if it has none; None if it says nothing.

        To be asked before the pool forgets the block's transactions.
        """
        used, of = ROOMY_SHARE
        if not len(self._counts) or block.weight * of >= self._ledger.max_block_weight * used:
            return None
        known = (self._mempool.get(tx.txid) for tx in block.txs[1:])
        return min((entry.rate for entry in known if entry is not None), default=EMPTY)

    def on_block(
        self, block: Block, cheapest: int | None, open_session: Callable[[], ContractSession]
    ) -> bytes | None:
        """Count a committed block; return a transaction that was passed over for too long, if there is one.

        The pool has followed the block already. ``open_session`` tries operations on the new tip.
        """
        watched = self._select()
        passed = []
        if cheapest is not None:
            roomy = self._has_room_for_operations(block, watched)
            passed = [
                entry.tx.txid
                for entry in watched
                if entry.rate > cheapest and not entry.parents and (roomy or entry.account is None)
            ]
        over = self._counts.on_block(block.header.nonce, passed, [entry.tx.txid for entry in watched])
        for txid in over[:MAX_JUDGED_TXS]:
            entry = self._mempool.get(txid)
            if entry is not None and _executes(entry, open_session):
                return txid
        return None

    def _select(self) -> list[MempoolEntry]:
        """Return what to watch: what was passed over before, then the best paying, then the oldest."""
        pool, chosen = self._mempool, dict.fromkeys(self._counts.counted())
        half = (MAX_WATCHED_TXS - len(chosen)) // 2
        chosen |= dict.fromkeys(tx.txid for tx in islice(pool.candidates(set()), half))
        chosen |= dict.fromkeys(entry.tx.txid for entry in islice(pool.entries(), half))
        return [entry for entry in map(pool.get, chosen) if entry is not None]

    def _has_room_for_operations(self, block: Block, watched: list[MempoolEntry]) -> bool:
        """Return whether the block left a share of the operation budget; decodes only if it matters."""
        if not any(entry.account is not None and entry.tx.txid in self._counts for entry in watched):
            return False
        used, of = ROOMY_SHARE
        room = self._ledger.op_budget * used // of
        for count, tx in enumerate(block.txs[1:]):
            try:
                found = payload.parse(tx)
            except PeerFault:
                return False
            if found is not None:
                room -= units_of(found.operation)
            if room <= 0 or count >= MAX_COUNTED_OPERATIONS:
                return False
        return True


def _executes(entry: MempoolEntry, open_session: Callable[[], ContractSession]) -> bool:
    """Return whether a transaction whose inputs are all confirmed could be in the next block."""
    if entry.account is None:
        return True
    try:
        try_operation(open_session(), entry)
    except RuleError:
        return False
    return True
