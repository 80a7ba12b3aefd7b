"""What the pool demands beyond the rules of the chain: when a transaction may replace others, and the
fee rate below which a pool that was full takes nothing.

Both follow Bitcoin Core: BIP125 with the codes of its validation.cpp, and CTxMemPool::GetMinFee.
"""

from collections.abc import Iterable

from consensus.errors import RuleError
from node.limits import FEE_DECAY_STEP_S, FEE_HALF_LIFE_S, INCREMENTAL_FEE_PER_KVB, MAX_REPLACED
from node.mempool_entry import MempoolEntry
from node.mempool_graph import Graph, own_score


def incremental_rate(min_fee_per_kvb: int) -> int:
    """Return by how much a fee rate must rise to count as higher, base units per 1000 virtual bytes.

    It is what relaying costs: the chain's minimum, or Bitcoin Core's value where that is 0.
    """
    return min_fee_per_kvb or INCREMENTAL_FEE_PER_KVB


class RollingFee:
    """The dynamic minimum: rises to what was evicted, halves again as blocks make room."""

    def __init__(self, incremental: int, max_bytes: int) -> None:
        self._incremental = incremental
        self._max_bytes = max_bytes
        self._rate = 0.0
        self._decays = False
        self._since_s = 0

    def evicted(self, rate: int) -> None:
        """A package of this rate had to leave: what replaces it must pay more than it did."""
        if rate + self._incremental > self._rate:
            self._rate = float(rate + self._incremental)
            self._decays = False

    def block(self, now_s: int) -> None:
        """A block made room: from now on the minimum may fall."""
        self._since_s = now_s
        self._decays = True

    def rate(self, now_s: int, bytes_used: int) -> int:
        """Return the minimum rate now, 0 if the pool takes what the chain's rules allow."""
        if not self._rate:
            return 0
        elapsed_s = now_s - self._since_s
        if self._decays and elapsed_s > FEE_DECAY_STEP_S:
            half_life_s = FEE_HALF_LIFE_S
            if bytes_used < self._max_bytes // 4:
                half_life_s //= 4
            elif bytes_used < self._max_bytes // 2:
                half_life_s //= 2
            self._rate /= 2.0 ** (elapsed_s / half_life_s)
            self._since_s = now_s
            if self._rate < self._incremental / 2:
                self._rate = 0.0
                return 0
        return max(int(self._rate), self._incremental) if self._decays else int(self._rate)


def check_replacement(
    entry: MempoolEntry, rivals: Iterable[bytes], graph: Graph, incremental: int
) -> dict[bytes, MempoolEntry]:
    """Return what ``entry`` replaces: the ``rivals`` it conflicts with, and their descendants.

    Raises RuleError "bad-txns-spends-conflicting-tx", "insufficient fee", "too many potential
    replacements" or "replacement-adds-unconfirmed". Signalling is not looked at.
    """
    direct = {txid: graph.entries[txid] for txid in rivals}
    rate = own_score(entry)
    for rival in direct.values():
        if rate <= own_score(rival):
            raise _refused("insufficient fee", f"new feerate {rate} <= old feerate {own_score(rival)}")
    # What a rival takes with it may be counted twice here, as in Bitcoin Core: a bound, cheap to find.
    if sum(rival.descendant_count for rival in direct.values()) > MAX_REPLACED:
        raise _refused("too many potential replacements", f"more than {MAX_REPLACED}")
    for txid in graph.ancestors(entry.parents):
        if txid in direct:
            name = txid[::-1].hex()
            raise RuleError("bad-txns-spends-conflicting-tx", f"spends conflicting transaction {name}")
    had = {parent for rival in direct.values() for parent in rival.parents}
    for parent in entry.parents:
        if parent in graph.entries and parent not in had:
            raise _refused(
                "replacement-adds-unconfirmed", f"spends the unconfirmed {parent[::-1].hex()} anew"
            )
    leaving = graph.descendants(direct)
    old_fees = sum(left.modified_fee for left in leaving.values())
    extra = entry.modified_fee - old_fees
    if extra < 0:
        raise _refused(
            "insufficient fee", f"less fees than conflicting txs: {entry.modified_fee} < {old_fees}"
        )
    if extra * 1000 < incremental * entry.vsize:
        raise _refused(
            "insufficient fee", f"not enough additional fees to relay: {extra} for {entry.vsize} vbytes"
        )
    return leaving


def _refused(code: str, reason: str) -> RuleError:
    return RuleError(code, reason, permanent=False)
