"""Who spends whom in the pool: totals over ancestors and descendants, and two orders by fee rate.

A transaction counts among its own ancestors and descendants. As in Bitcoin Core, what leaves a full
pool first is lowest by ``descendant_score`` (a child that pays keeps its parent), and what a block
takes first is highest by ``ancestor_score`` (a parent is paid for by its child).
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable

from consensus.errors import RuleError
from consensus.transaction import hash_hex
from node.limits import MAX_ANCESTOR_VSIZE, MAX_ANCESTORS, MAX_DESCENDANT_VSIZE, MAX_DESCENDANTS
from node.mempool_entry import MempoolEntry

TOO_LONG_CHAIN = "too-long-mempool-chain"


def own_score(entry: MempoolEntry) -> int:
    """Return the modified fee rate, base units per 1000 virtual bytes."""
    return (entry.fee + entry.delta) * 1000 // entry.vsize


def descendant_score(entry: MempoolEntry) -> int:
    """Return the rate by which an entry is kept: its own, or with all that spends it if that is higher."""
    own = own_score(entry)
    if entry.descendant_count == 1:
        return own
    return max(own, entry.descendant_fees * 1000 // entry.descendant_vsize)


def ancestor_score(entry: MempoolEntry) -> int:
    """Return the rate by which an entry is taken: its own, or with all it needs if that is lower."""
    own = own_score(entry)
    if entry.ancestor_count == 1:
        return own
    return min(own, entry.ancestor_fees * 1000 // entry.ancestor_vsize)


class RateIndex:
    """Entries by a score, those of equal score in order of arrival.

    They are sorted in when somebody asks: most of them leave with a block before a full pool or a block of
    this node's own wants to know. An entry that is alone with its score stands for its bucket: a dict for
    each would take more memory than everything else that the index holds.
    """

    def __init__(self, score: Callable[[MempoolEntry], int]) -> None:
        self._score = score
        self._new: dict[bytes, MempoolEntry] = {}
        self._rates: list[int] = []
        self._buckets: dict[int, MempoolEntry | dict[bytes, MempoolEntry]] = {}

    @property
    def rates(self) -> list[int]:
        """Return every score that an entry has, ascending."""
        if self._new:
            for entry in self._new.values():
                self._put(self._score(entry), entry)
            self._new = {}
        return self._rates

    def at(self, rate: int) -> Iterable[MempoolEntry]:
        """Return the entries of one of ``rates``, the oldest first."""
        bucket = self._buckets[rate]
        return (bucket,) if isinstance(bucket, MempoolEntry) else bucket.values()

    def add(self, entry: MempoolEntry) -> None:
        """Insert ``entry``."""
        self._new[entry.tx.txid] = entry

    def remove(self, entry: MempoolEntry) -> None:
        """Remove ``entry``, whose score is what it was when it last was added or moved."""
        if self._new.pop(entry.tx.txid, None) is None:
            self._take(self._score(entry), entry)

    def place(self, entry: MempoolEntry) -> int | None:
        """Return the score by which ``entry`` is sorted in, for ``move``; None if it is not yet."""
        return None if entry.tx.txid in self._new else self._score(entry)

    def move(self, place: int | None, entry: MempoolEntry) -> None:
        """Follow a change of the score of ``entry``; ``place`` was its place before."""
        if place is not None:
            after = self._score(entry)
            if after != place:
                self._take(place, entry)
                self._put(after, entry)

    def lowest(self) -> MempoolEntry:
        """Return the newest entry of the lowest score."""
        bucket = self._buckets[self.rates[0]]
        return bucket if isinstance(bucket, MempoolEntry) else next(reversed(bucket.values()))

    def _put(self, rate: int, entry: MempoolEntry) -> None:
        bucket = self._buckets.get(rate)
        if bucket is None:
            self._buckets[rate] = entry
            insort(self._rates, rate)
        elif isinstance(bucket, MempoolEntry):
            self._buckets[rate] = {bucket.tx.txid: bucket, entry.tx.txid: entry}
        else:
            bucket[entry.tx.txid] = entry

    def _take(self, rate: int, entry: MempoolEntry) -> None:
        bucket = self._buckets[rate]
        if not isinstance(bucket, MempoolEntry):
            del bucket[entry.tx.txid]
            if bucket:
                return
        del self._buckets[rate]
        del self._rates[bisect_left(self._rates, rate)]


class Graph:
    """All entries by id, with their relations."""

    def __init__(self) -> None:
        self.entries: dict[bytes, MempoolEntry] = {}
        self.by_eviction = RateIndex(descendant_score)
        self.by_mining = RateIndex(ancestor_score)
        self._children: dict[bytes, dict[bytes, None]] = {}

    # ---- relations -----------------------------------------------------------------------------

    def children(self, txid: bytes) -> Iterable[bytes]:
        """Return the ids of the pending transactions that spend outputs of ``txid``."""
        return self._children.get(txid, ())

    def ancestors(self, parents: Iterable[bytes]) -> dict[bytes, MempoolEntry]:
        """Return the pending ones among ``parents`` and all their ancestors, by id."""
        found: dict[bytes, MempoolEntry] = {}
        queue = list(parents)
        while queue:
            txid = queue.pop()
            entry = self.entries.get(txid)
            if entry is not None and txid not in found:
                found[txid] = entry
                queue.extend(entry.parents)
        return found

    def descendants(self, txids: Iterable[bytes]) -> dict[bytes, MempoolEntry]:
        """Return the pending ones among ``txids`` and all their descendants, by id."""
        found: dict[bytes, MempoolEntry] = {}
        queue = list(txids)
        while queue:
            txid = queue.pop()
            entry = self.entries.get(txid)
            if entry is not None and txid not in found:
                found[txid] = entry
                queue.extend(self._children.get(txid, ()))
        return found

    def check_limits(
        self, entry: MempoolEntry, staged: dict[bytes, MempoolEntry], leaving: dict[bytes, MempoolEntry]
    ) -> None:
        """Refuse what would make a chain of unconfirmed transactions too long or too large.

        ``staged`` are entries of the same batch, on top of the pool; ``leaving`` will be replaced, so
        it does not count. Raises RuleError "too-long-mempool-chain".
        """
        if not entry.parents or (not leaving and self._is_short(entry, staged)):
            return
        ancestors: dict[bytes, MempoolEntry] = {}
        queue = list(entry.parents)
        count, vsize = 1, entry.vsize
        while queue:
            txid = queue.pop()
            found = staged.get(txid) or self.entries.get(txid)
            if found is None or txid in ancestors:
                continue
            ancestors[txid] = found
            queue.extend(found.parents)
            count, vsize = count + 1, vsize + found.vsize
            if count > MAX_ANCESTORS:
                raise too_many_ancestors()
            if vsize > MAX_ANCESTOR_VSIZE:
                raise _too_long(f"exceeds ancestor size limit [limit: {MAX_ANCESTOR_VSIZE}]")
        freed: dict[bytes, tuple[int, int]] = {}
        for left in leaving.values():
            for txid in self.ancestors(left.parents):
                number, size = freed.get(txid, (0, 0))
                freed[txid] = (number + 1, size + left.vsize)
        for txid, ancestor in ancestors.items():
            number, size = freed.get(txid, (0, 0)) if freed else (0, 0)
            if ancestor.descendant_count - number + 1 > MAX_DESCENDANTS:
                raise _too_long(f"too many descendants for tx {hash_hex(txid)} [limit: {MAX_DESCENDANTS}]")
            if ancestor.descendant_vsize - size + entry.vsize > MAX_DESCENDANT_VSIZE:
                raise _too_long(
                    f"exceeds descendant size limit for tx {hash_hex(txid)} [limit: {MAX_DESCENDANT_VSIZE}]"
                )

    def _is_short(self, entry: MempoolEntry, staged: dict[bytes, MempoolEntry]) -> bool:
        """Tell quickly that all limits are kept: a single parent without parents of its own, few siblings."""
        [parent_id, *more] = entry.parents
        parent = staged.get(parent_id) or self.entries.get(parent_id)
        return not more and (
            parent is None
            or (
                not parent.parents
                and parent.descendant_count < min(MAX_DESCENDANTS, MAX_ANCESTORS)
                and parent.descendant_vsize + entry.vsize <= min(MAX_DESCENDANT_VSIZE, MAX_ANCESTOR_VSIZE)
            )
        )

    # ---- changes -------------------------------------------------------------------------------

    def insert(self, entry: MempoolEntry) -> None:
        """Add ``entry``, none of whose children is pending."""
        txid = entry.tx.txid
        self.entries[txid] = entry
        self.by_eviction.add(entry)
        self.by_mining.add(entry)
        if not entry.parents:
            return
        for parent in entry.parents:
            if parent in self.entries:
                self._children.setdefault(parent, {})[txid] = None
        for ancestor in self.ancestors(entry.parents).values():
            entry.ancestor_count += 1
            entry.ancestor_vsize += ancestor.vsize
            entry.ancestor_fees += ancestor.modified_fee
            self._change_descendants(ancestor, 1, entry.vsize, entry.modified_fee)

    def remove(self, entry: MempoolEntry) -> None:
        """Remove ``entry``; what spends it has one ancestor fewer, what it spends one descendant."""
        txid = entry.tx.txid
        del self.entries[txid]
        self.by_eviction.remove(entry)
        self.by_mining.remove(entry)
        if entry.descendant_count > 1:
            for heir in self.descendants(self.children(txid)).values():
                self._change_ancestors(heir, -1, -entry.vsize, -entry.modified_fee)
        if entry.ancestor_count > 1:
            self._leave_parents(entry)
        self._children.pop(txid, None)

    def remove_confirmed(self, leaving: list[MempoolEntry]) -> None:
        """Remove what a block confirmed, all at once: of what leaves together nothing is counted down."""
        entries = self.entries
        for entry in leaving:
            del entries[entry.tx.txid]
            self.by_eviction.remove(entry)
            self.by_mining.remove(entry)
        gone = {entry.tx.txid: entry for entry in leaving if entry.descendant_count > 1}
        for txid, entry in gone.items():
            for heir in self._heirs(txid, gone):
                self._change_ancestors(heir, -1, -entry.vsize, -entry.modified_fee)
        for entry in leaving:
            # No valid block leaves an ancestor behind.
            if entry.ancestor_count > 1 and any(parent in entries for parent in entry.parents):
                self._leave_parents(entry)
        for txid in gone:
            self._children.pop(txid, None)

    def _heirs(self, txid: bytes, gone: dict[bytes, MempoolEntry]) -> Iterable[MempoolEntry]:
        """Return the pending descendants of ``txid``, also those behind others that are ``gone``."""
        found: dict[bytes, MempoolEntry | None] = {}
        queue = list(self._children.get(txid, ()))
        while queue:
            child = queue.pop()
            if child not in found:
                found[child] = self.entries.get(child)
                if found[child] is not None or child in gone:
                    queue.extend(self._children.get(child, ()))
        return [heir for heir in found.values() if heir is not None]

    def _leave_parents(self, entry: MempoolEntry) -> None:
        """Take ``entry`` out of the totals of its ancestors."""
        txid = entry.tx.txid
        for ancestor in self.ancestors(entry.parents).values():
            self._change_descendants(ancestor, -1, -entry.vsize, -entry.modified_fee)
        for parent in entry.parents:
            siblings = self._children.get(parent)
            if siblings is not None:
                siblings.pop(txid, None)
                if not siblings:
                    del self._children[parent]

    def prioritise(self, entry: MempoolEntry, delta: int) -> None:
        """Add ``delta`` base units to the fee by which ``entry`` is ordered."""
        for ancestor in self.ancestors(entry.parents).values():
            self._change_descendants(ancestor, 0, 0, delta)
        for heir in self.descendants(self.children(entry.tx.txid)).values():
            self._change_ancestors(heir, 0, 0, delta)
        kept, taken = self.by_eviction.place(entry), self.by_mining.place(entry)
        entry.delta += delta
        entry.ancestor_fees += delta
        entry.descendant_fees += delta
        self.by_eviction.move(kept, entry)
        self.by_mining.move(taken, entry)

    def _change_descendants(self, entry: MempoolEntry, count: int, vsize: int, fees: int) -> None:
        place = self.by_eviction.place(entry)
        entry.descendant_count += count
        entry.descendant_vsize += vsize
        entry.descendant_fees += fees
        self.by_eviction.move(place, entry)

    def _change_ancestors(self, entry: MempoolEntry, count: int, vsize: int, fees: int) -> None:
        place = self.by_mining.place(entry)
        entry.ancestor_count += count
        entry.ancestor_vsize += vsize
        entry.ancestor_fees += fees
        self.by_mining.move(place, entry)


def too_many_ancestors() -> RuleError:
    """Return the rejection of what hangs on more unconfirmed transactions than the pool takes."""
    return _too_long(f"too many unconfirmed ancestors [limit: {MAX_ANCESTORS}]")


def _too_long(reason: str) -> RuleError:
    return RuleError(TOO_LONG_CHAIN, reason, permanent=False)
