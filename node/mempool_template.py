"""The order in which a block takes pending transactions: packages by fee rate, as Bitcoin Core's
addPackageTxs.

A transaction comes with the ancestors it needs, at the rate that all of them pay together, so a child
can pay for its parent. When a package was given out, its descendants need less and are valued anew.
Transactions without relatives, the bulk of any pool, pass through without any of this.
"""

from collections.abc import Iterator
from heapq import heappop, heappush

from consensus.transaction import Transaction
from node.mempool_entry import MempoolEntry
from node.mempool_graph import Graph, own_score


class Template:
    """One walk through the pool; the pool must not change meanwhile."""

    def __init__(self, graph: Graph, exclude: set[bytes]) -> None:
        self._graph = graph
        self._taken = set(exclude)
        self._arrival = 0
        # Of entries that need less than all their ancestors: (fees, virtual bytes) of what they need
        # with themselves, and the rate of that.
        self._needs: dict[bytes, tuple[int, int]] = {}
        self._rates: dict[bytes, int] = {}
        self._heap: list[tuple[int, int, MempoolEntry]] = []  # (-rate, arrival, entry), may be outdated
        given = [entry for entry in map(graph.entries.get, exclude) if entry is not None]
        self._revalue([entry for entry in given if entry.descendant_count > 1])

    def __iter__(self) -> Iterator[Transaction]:
        """Yield transactions, parents before children, the best package first."""
        taken, rates, heap = self._taken, self._rates, self._heap
        index = self._graph.by_mining
        for rate in reversed(index.rates):
            for entry in index.at(rate):
                txid = entry.tx.txid
                if heap and -heap[0][0] >= rate:
                    yield from self._drain(rate)
                if txid in taken or txid in rates:
                    continue
                if entry.ancestor_count == 1 and entry.descendant_count == 1:
                    yield entry.tx
                else:
                    yield from self._package(entry)
        yield from self._drain(None)

    def _drain(self, floor: int | None) -> Iterator[Transaction]:
        """Yield the packages that were valued anew and are worth at least ``floor``."""
        heap = self._heap
        while heap and (floor is None or -heap[0][0] >= floor):
            rate, _, entry = heappop(heap)
            txid = entry.tx.txid
            if txid not in self._taken and self._rates.get(txid) == -rate:
                yield from self._package(entry)

    def _package(self, entry: MempoolEntry) -> Iterator[Transaction]:
        needed = self._graph.ancestors(entry.parents)
        members = [each for txid, each in needed.items() if txid not in self._taken]
        # Whoever spends another has more ancestors than it, so this order puts parents first.
        members.sort(key=_ancestor_count)
        members.append(entry)
        for member in members:
            self._taken.add(member.tx.txid)
            yield member.tx
        self._revalue(members)

    def _revalue(self, given: list[MempoolEntry]) -> None:
        """Value the descendants of what was just given out by what they still need."""
        touched: dict[bytes, MempoolEntry] = {}
        for member in given:
            for txid, heir in self._graph.descendants(self._graph.children(member.tx.txid)).items():
                if txid in self._taken:
                    continue
                fees, vsize = self._needs.get(txid) or (heir.ancestor_fees, heir.ancestor_vsize)
                self._needs[txid] = fees - member.modified_fee, vsize - member.vsize
                touched[txid] = heir
        for txid, heir in touched.items():
            fees, vsize = self._needs[txid]
            rate = min(own_score(heir), fees * 1000 // vsize)
            self._rates[txid] = rate
            self._arrival += 1
            heappush(self._heap, (-rate, self._arrival, heir))


def _ancestor_count(entry: MempoolEntry) -> int:
    return entry.ancestor_count
