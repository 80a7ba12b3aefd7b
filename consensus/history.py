"""The history tree: one root over all previous header hashes, cheap to extend and to prove from.

It is the Merkle tree of RFC 6962, section 2.1 (leaf ``SHA256(0x00 || header hash)``, node
``SHA256(0x01 || left || right)``, empty tree 32 zero bytes), kept as a Merkle mountain range: the
peaks are the roots of the perfect subtrees of sizes given by the bits of the leaf count, largest
first, and the root bags them from the right: ``node(peak_0, node(peak_1, ... peak_last))``. So a
proof is the audit path of RFC 9162, section 2.1.3, and any verifier of those can check it.
"""

from collections.abc import Sequence
from hashlib import sha256

EMPTY_ROOT = bytes(32)
"""Root of the tree without leaves."""

_NODE = b"\x01"


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of the leaf that carries ``data``."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return sha256(_NODE + left + right).digest()


def append(peaks: tuple[bytes, ...], count: int, leaf: bytes) -> tuple[bytes, ...]:
    """Return the peaks after header hash ``leaf`` joined the ``count`` leaves under ``peaks``.

    Costs one hash per trailing one bit of ``count``. Raises ValueError if the number of peaks is
    not the number of one bits of ``count``.
    """
    return append_node(peaks, count, leaf_hash(leaf))


def append_node(peaks: tuple[bytes, ...], count: int, node: bytes) -> tuple[bytes, ...]:
    """Return the peaks after ``node`` joined the ``count`` nodes of its kind under ``peaks``.

    As ``append``, for leaf hashes, or for roots of perfect subtrees that all have one size.
    """
    if len(peaks) != count.bit_count():
        raise ValueError("peaks do not belong to this count")
    stack = list(peaks)
    while count & 1:
        node = node_hash(stack.pop(), node)
        count >>= 1
    stack.append(node)
    return tuple(stack)


def root(peaks: Sequence[bytes]) -> bytes:
    """Return the root over all leaves under ``peaks``; 32 zero bytes when there are none."""
    if not peaks:
        return EMPTY_ROOT
    bagged = peaks[-1]
    for peak in reversed(peaks[:-1]):
        bagged = node_hash(peak, bagged)
    return bagged


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """Return the RFC 6962 root over leaf *hashes*; 32 zero bytes when there are none."""
    if not leaves:
        return EMPTY_ROOT
    level = leaves
    while len(level) > 1:
        pairs = [
            sha256(_NODE + left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=False)
        ]
        if len(level) & 1:  # an odd last node goes up as it is: the same shape as RFC 6962's split
            pairs.append(level[-1])
        level = pairs
    return level[0]


def prove(header_hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the audit path of leaf ``index`` in the tree over ``header_hashes``, lowest first.

    Hashes every leaf once. Raises IndexError if ``index`` is outside.
    """
    if not 0 <= index < len(header_hashes):
        raise IndexError("no such leaf")
    path: list[bytes] = []
    level = [leaf_hash(item) for item in header_hashes]
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        pairs = [node_hash(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        if len(level) & 1:
            pairs.append(level[-1])
        level = pairs
        index >>= 1
    return tuple(path)


def verify(header_hash: bytes, index: int, count: int, path: Sequence[bytes], expected_root: bytes) -> bool:
    """Tell whether ``header_hash`` is leaf ``index`` of the tree of ``count`` leaves under the root.

    RFC 9162, section 2.1.3.2.
    """
    return fold_path(leaf_hash(header_hash), index, count, path) == expected_root


def fold_path(node: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that leaf hash ``node`` and its audit path lead to; None for a path of another length.

    RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < count:
        return None
    position, last = index, count - 1
    for sibling in path:
        if last == 0:
            return None
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        position >>= 1
        last >>= 1
    return node if last == 0 else None


class AuditPath:
    """The audit path of one leaf, made from header hashes in their order with the memory of a few dozen.

    ``add`` takes leaf after leaf; ``path`` is what ``prove`` returns, once there were ``count`` of them.
    """

    def __init__(self, index: int, count: int) -> None:
        if not 0 <= index < count:
            raise IndexError("no such leaf")
        self.count = count
        self.added = 0
        self._index = index
        self._starts = _sibling_starts(index, count)
        self._roots: dict[int, bytes] = {}
        self._peaks: tuple[bytes, ...] = ()
        self._from = 0

    def add(self, header_hash: bytes) -> None:
        """Take the next header hash."""
        at = self.added
        if at in self._starts or at == self._index:
            self._close()
            self._from = at
        self._peaks = append(self._peaks, at - self._from, header_hash)
        self.added = at + 1

    def path(self) -> tuple[bytes, ...]:
        """Return the path, lowest first. Raises ValueError if leaves are missing."""
        if self.added != self.count:
            raise ValueError(f"{self.added} of {self.count} leaves")
        self._close()
        return tuple([self._roots[start] for start in self._starts])

    def _close(self) -> None:
        if self._peaks:
            self._roots[self._from] = root(self._peaks)
            self._peaks = ()


def _sibling_starts(index: int, count: int) -> list[int]:
    """Return where the subtrees begin whose roots are the audit path, lowest first."""
    found, first, end = [], 0, count
    while end - first > 1:
        middle = first + (1 << (end - first - 1).bit_length() - 1)
        if index < middle:
            found.append(middle)
            end = middle
        else:
            found.append(first)
            first = middle
    return found[::-1]
