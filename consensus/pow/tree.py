"""The header tree: what is known of every branch, and which of them may be followed.

A fork of a tree shares everything with it and copies a collection when it first changes it, so an
old tree stays what it was. Every header in the tree descends from ``root``, which is active.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from consensus.block import BlockHeader
from consensus.pow.limits import MEDIAN_SPAN, SWEPT_AT_ONCE
from consensus.pow.target import work_of


class Entry(NamedTuple):
    """One header. ``work`` is cumulative from genesis."""

    block_hash: bytes
    prev: bytes
    height: int
    time_s: int
    bits: int
    work: int


class ChainTipView(NamedTuple):
    """One row of ``getchaintips``."""

    block_hash: bytes
    height: int
    branch_length: int
    status: str


def entry_of(header: BlockHeader, height: int, work: int) -> Entry:
    """Return the entry of a header whose cumulative work is ``work``."""
    return Entry(header.hash, header.prev_hash, height, header.time_s, header.bits, work)


class Tree:
    """Headers, bodies at hand, marks of invalidity, the active chain and the candidates beside it.

    ``order`` has the blocks that could be connected with all their ancestors, with the number by which
    they became so: the lower wins a tie. ``candidates`` are those of them, not invalid, that have at
    least the tip's work, and a few that had it lately. ``invalid`` maps a block to the one because of which
    it is invalid, ``faults`` that one to its code. Long branches are walked once: ``_goal`` is the best
    candidate as long as it is known, ``_ahead`` the path from above the tip to the one before.
    """

    __slots__ = (
        "_ahead",
        "_goal",
        "_owned",
        "active",
        "best_header",
        "bodies",
        "candidates",
        "children",
        "entries",
        "faults",
        "first_order",
        "invalid",
        "last_order",
        "order",
        "root_height",
        "validated",
    )

    def __init__(self, root: Entry) -> None:
        self.entries: dict[bytes, Entry] = {root.block_hash: root}
        self.children: dict[bytes, tuple[bytes, ...]] = {}
        self.bodies: set[bytes] = {root.block_hash}
        self.validated: set[bytes] = {root.block_hash}
        self.order: dict[bytes, int] = {root.block_hash: 0}
        self.candidates: dict[bytes, None] = {root.block_hash: None}
        self.invalid: dict[bytes, bytes] = {}
        self.faults: dict[bytes, str] = {}
        self.active: list[bytes] = [root.block_hash]
        self.root_height = root.height
        self.best_header = root.block_hash
        self.first_order = self.last_order = 0
        self._goal: bytes | None = None
        self._ahead: dict[bytes, None] = {}
        self._owned: set[str] = set()

    def fork(self) -> "Tree":
        """Return a tree that may be changed without changing this one."""
        other = Tree.__new__(Tree)
        for name in Tree.__slots__:
            setattr(other, name, getattr(self, name))
        other._owned = set()
        return other

    def own(self, *names: str) -> None:
        """Copy collections that are still shared; to be called before changing them."""
        for name in names:
            if name not in self._owned:
                setattr(self, name, getattr(self, name).copy())
                self._owned.add(name)

    # ---- looking

    @property
    def tip(self) -> Entry:
        """Return the last connected block."""
        return self.entries[self.active[-1]]

    @property
    def best(self) -> Entry:
        """Return the header of most work, not known to be invalid; of equals the first that came."""
        return self.entries[self.best_header]

    def is_active(self, entry: Entry) -> bool:
        """Tell whether a block is on the active chain."""
        at = entry.height - self.root_height
        return 0 <= at < len(self.active) and self.active[at] == entry.block_hash

    def branch(self, entry: Entry) -> tuple[Entry, list[Entry]]:
        """Return where a block's branch leaves the active chain, and the branch, lowest first."""
        above = []
        while not self.is_active(entry):
            above.append(entry)
            entry = self.entries[entry.prev]
        above.reverse()
        return entry, above

    def median_time(self, entry: Entry) -> int:
        """Return the median of the last 11 header times up to ``entry``; fewer near the root."""
        times: list[int] = []
        at: Entry | None = entry
        while at is not None and len(times) < MEDIAN_SPAN:
            times.append(at.time_s)
            at = self.entries.get(at.prev)
        return sorted(times)[len(times) // 2]

    def descendants(self, block_hash: bytes) -> Iterator[bytes]:
        """Yield a block and all that build on it, parents first."""
        level = [block_hash]
        while level:
            yield from level
            level = [child for parent in level for child in self.children.get(parent, ())]

    def rank(self, block_hash: bytes) -> tuple[int, int]:
        """Return what the best candidate has the most of: work, then having been first."""
        return self.entries[block_hash].work, -self.order[block_hash]

    def best_candidate(self) -> Entry:
        """Return the block that the active chain should end in."""
        if self._goal is None:
            self._goal = max(self.candidates, key=self.rank)
        return self.entries[self._goal]

    def next_above_tip(self, goal: Entry) -> Entry | None:
        """Return the tip's child on the way to ``goal``; None if that is the tip, or on another branch."""
        above = []
        at = goal.block_hash
        while at not in self._ahead and not self.is_active(self.entries[at]):
            above.append(at)
            at = self.entries[at].prev
        if at in self._ahead:
            ahead = self._ahead
            if at != next(reversed(ahead)):
                ahead = dict.fromkeys(islice(ahead, list(ahead).index(at) + 1))
        elif at == self.active[-1]:
            ahead = {}
        else:
            return None
        self._ahead = {**ahead, **dict.fromkeys(reversed(above))} if above else ahead
        return self.entries[next(iter(self._ahead))] if self._ahead else None

    def tips(self) -> list[ChainTipView]:
        """Return all ends of branches, most work first, as Bitcoin Core's ``getchaintips`` names them."""
        ends = [e for h, e in self.entries.items() if h not in self.children or h == self.active[-1]]
        rows = []
        for entry in sorted(ends, key=lambda e: -e.work):
            branch = self.branch(entry)[1]
            rows.append(
                ChainTipView(entry.block_hash, entry.height, len(branch), self._status(entry, branch))
            )
        return rows

    def _status(self, entry: Entry, branch: list[Entry]) -> str:
        if not branch:
            return "active"
        if entry.block_hash in self.invalid:
            return "invalid"
        if entry.block_hash not in self.order:
            return "headers-only"
        return "valid-fork" if entry.block_hash in self.validated else "valid-headers"

    # ---- growing

    def insert(self, entry: Entry) -> None:
        """Add a header whose parent is in the tree and valid."""
        self.own("entries", "children")
        self.entries[entry.block_hash] = entry
        self.children[entry.prev] = (*self.children.get(entry.prev, ()), entry.block_hash)
        if entry.work > self.best.work:
            self.best_header = entry.block_hash

    def prepend(self, headers: Iterable[BlockHeader]) -> int:
        """Add headers of the active chain below the root, given from the root downwards.

        Stops at one that does not fit; returns how many fitted.
        """
        self.own("entries", "children", "bodies", "validated", "order")
        below = []
        root = self.entries[self.active[0]]
        for header in headers:
            if header.hash != root.prev:
                break
            self.children[header.hash] = (root.block_hash,)
            root = entry_of(header, root.height - 1, root.work - work_of(root.bits))
            self.entries[root.block_hash] = root
            self.bodies.add(root.block_hash)
            self.validated.add(root.block_hash)
            self.order[root.block_hash] = 0
            below.append(root.block_hash)
        self.active = [*reversed(below), *self.active]
        self.root_height = root.height
        return len(below)

    def add_body(self, block_hash: bytes) -> None:
        """Note that a body is at hand, and what can be connected thereby."""
        self.own("bodies")
        self.bodies.add(block_hash)
        if self.entries[block_hash].prev not in self.order:
            return
        self.own("order", "candidates")
        level = [block_hash]
        while level:
            for ready in level:
                self.last_order += 1
                self.order[ready] = self.last_order
                self._consider(ready)
            level = [
                child
                for parent in level
                for child in self.children.get(parent, ())
                if child in self.bodies and child not in self.order
            ]

    def drop_body(self, block_hash: bytes) -> None:
        """Forget a body that turned out not to be the header's; it is not connected."""
        self.own("bodies", "order")
        self.bodies.discard(block_hash)
        for lost in self.descendants(block_hash):
            self.order.pop(lost, None)
        self.reassess()

    def _consider(self, block_hash: bytes) -> None:
        entry = self.entries[block_hash]
        if block_hash not in self.invalid and entry.work >= self.tip.work:
            self.candidates[block_hash] = None
            if self._goal is not None and self.rank(block_hash) > self.rank(self._goal):
                self._goal = block_hash

    # ---- the active chain

    def push(self, block_hash: bytes) -> None:
        """The tip's child has been connected."""
        self.own("active", "validated", "candidates")
        on_path = next(iter(self._ahead), None) == block_hash
        self._ahead = dict.fromkeys(islice(self._ahead, 1, None)) if on_path else {}
        self.candidates.pop(self.active[-1], None)
        self.active.append(block_hash)
        self.validated.add(block_hash)
        least = self.tip
        if len(self.candidates) <= SWEPT_AT_ONCE or least.height % SWEPT_AT_ONCE == 0:
            self.candidates = {h: None for h in self.candidates if self.entries[h].work >= least.work}

    def pop(self) -> bytes:
        """Take the tip off and return it."""
        self.own("active")
        self._ahead = {}
        return self.active.pop()

    # ---- judging

    def mark_invalid(self, block_hash: bytes, code: str) -> None:
        """Mark a block and all that builds on it."""
        self.own("invalid", "faults")
        self.faults[block_hash] = code
        for lost in self.descendants(block_hash):
            self.invalid.setdefault(lost, block_hash)
        self.reassess()

    def clear_invalid(self, block_hash: bytes) -> list[bytes]:
        """Take marks off a block, its ancestors and descendants; return the roots that are cleared.

        Other branches that were invalid only because of a cleared ancestor are valid again.
        """
        self.own("invalid", "faults")
        top = entry = self.entries[block_hash]
        cleared = list(self.descendants(block_hash))
        while entry.block_hash in self.invalid:
            cleared.append(entry.block_hash)
            top = entry
            entry = self.entries[entry.prev]
        roots = [h for h in dict.fromkeys(cleared) if h in self.faults]
        for root in roots:
            del self.faults[root]
        for h in self.descendants(top.block_hash):
            above = self.invalid.get(self.entries[h].prev)
            reason = h if h in self.faults else above
            if reason is None:
                self.invalid.pop(h, None)
            else:
                self.invalid[h] = reason
        self.reassess()
        return roots

    def prefer(self, block_hash: bytes) -> None:
        """Let a block win its ties, if it could be connected."""
        if block_hash in self.order:
            self.own("order", "candidates")
            self.first_order -= 1
            self.order[block_hash] = self.first_order
            self._goal = None
            self._consider(block_hash)

    def reassess(self) -> None:
        """Find best header and candidates afresh, after marks have changed."""
        self._goal = None
        self._ahead = {}
        valid = [entry for h, entry in self.entries.items() if h not in self.invalid]
        self.best_header = max(valid, key=lambda entry: entry.work).block_hash
        stay = self.tip
        while stay.block_hash in self.invalid:
            stay = self.entries[stay.prev]
        self.candidates = {
            entry.block_hash: None
            for entry in valid
            if entry.work >= stay.work and entry.block_hash in self.order
        }
        self._owned.add("candidates")

    # ---- cutting

    def prune(self, height: int) -> None:
        """Make the active block at ``height`` the root; what does not descend from it goes."""
        self._keep(self.descendants(self.active[height - self.root_height]))
        self.active = self.active[height - self.root_height :]
        self.root_height = height

    def thin(self, room: int) -> None:
        """Drop whole branches, least work first, until at most ``room`` headers are left if possible.

        The active chain, the candidates and the best header's chain stay.
        """
        keep = set(self.active)
        ends = [h for h in self.entries if h not in self.children]
        ends.sort(key=lambda h: self.entries[h].work, reverse=True)
        must = [self.best_header, *self.candidates]
        for number, h in enumerate([*must, *ends]):
            if number >= len(must) and len(keep) >= room:
                break
            while h not in keep:
                keep.add(h)
                h = self.entries[h].prev
        self._keep(h for h in self.entries if h in keep)

    def _keep(self, hashes: Iterable[bytes]) -> None:
        """Keep only these, in the order in which they came."""
        kept = set(hashes)
        self._goal = None
        self._ahead = {}
        self.entries = {h: e for h, e in self.entries.items() if h in kept}
        self.children = {
            h: inside
            for h, c in self.children.items()
            if h in kept and (inside := tuple(x for x in c if x in kept))
        }
        self.bodies = self.bodies & kept
        self.validated = self.validated & kept
        self.order = {h: n for h, n in self.order.items() if h in kept}
        self.candidates = {h: None for h in self.candidates if h in kept}
        self.invalid = {h: r for h, r in self.invalid.items() if h in kept}
        self.faults = {h: code for h, code in self.faults.items() if h in kept}
        self._owned |= {
            "entries",
            "children",
            "bodies",
            "validated",
            "order",
            "candidates",
            "invalid",
            "faults",
        }
