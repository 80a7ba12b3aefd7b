"""The state root: one hash over all unspent outputs and the whole contract state, to prove values by.

Two Merkle trees of RFC 6962 (``consensus.history``), one over the coins by ascending prevout, one over the
contract state by ascending key::

    leaf       = SHA256(0x00 || u32le(len(key)) || key || value)
    node       = SHA256(0x01 || left || right)
    state_root = SHA256(0x02 || u64le(coins) || coins root || u64le(keys) || contract state root)

The root of a tree without leaves is 32 zero bytes. A coin's key is its 36-byte prevout, its value that of
``consensus.coins``. Leaf, node and root differ in their first byte, so none can pass for another; the
numbers of leaves are in the root, so that a proof also fixes the place of its leaf.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import sha256
from struct import Struct

from consensus import canonical
from consensus.errors import DecodeError
from consensus.history import append_node, fold_path, node_hash, root, tree_root
from consensus.params import ChainParams

SLICE_LEAVES = 1024
"""Leaves hashed as one perfect subtree: the memory of a tree is one such row and a peak per doubling."""

Pairs = Iterable[tuple[bytes, bytes]]

_U32 = Struct("<I")
_ROOT = Struct("<BQ32sQ32s")
_TAG = 2
_HASH = 32
_COUNT_MAX = 1 << 64
_PATH_MAX = 64
"""Nodes on the longest path: a tree has fewer than 2^64 leaves."""


class Space(IntEnum):
    """Which of the two trees a key belongs to."""

    COIN = 0
    STATE = 1


def covered_height(height: int, params: ChainParams) -> int | None:
    """Return the height whose state the block at ``height`` commits to; None if it commits to none.

    With the chain file's interval I, the block at k * I, k >= 2, commits to the state after (k - 1) * I.
    """
    interval = params.ledger.snapshot_interval_blocks
    if not interval or height % interval or height < 2 * interval:
        return None
    return height - interval


def state_leaf(key: bytes, value: bytes) -> bytes:
    """Return the hash of the leaf of one coin or one key of the contract state."""
    return sha256(b"\x00" + _U32.pack(len(key)) + key + value).digest()


class TreeHasher:
    """The root over pairs that come in ascending order of their keys, in constant memory."""

    def __init__(self) -> None:
        self.count = 0
        self._row: list[bytes] = []
        self._peaks: tuple[bytes, ...] = ()

    def add(self, pairs: Pairs) -> None:
        """Take pairs, each key above the last."""
        pack, row = _U32.pack, self._row
        for key, value in pairs:
            row.append(sha256(b"\x00" + pack(len(key)) + key + value).digest())
            if len(row) == SLICE_LEAVES:
                self._peaks = append_node(self._peaks, self.count // SLICE_LEAVES, tree_root(row))
                self.count += SLICE_LEAVES
                row.clear()

    def finish(self) -> bytes:
        """Return the root over all pairs; ``count`` is their number. To be called once, at the end."""
        self.count += len(self._row)
        if not self._row:
            return root(self._peaks)
        return root((*self._peaks, tree_root(self._row)))


def combine(coins: tuple[int, bytes], state: tuple[int, bytes]) -> bytes:
    """Return the state root from (number of leaves, root) of the two trees."""
    return sha256(_ROOT.pack(_TAG, *coins, *state)).digest()


def state_root(coins: Pairs, state: Pairs) -> bytes:
    """Return the root over all coins and the contract state, each in ascending order of its keys."""
    parts = []
    for pairs in (coins, state):
        tree = TreeHasher()
        tree.add(pairs)
        digest = tree.finish()
        parts.append((tree.count, digest))
    return combine(parts[0], parts[1])


# ---- proofs of single values -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StateProof:
    """Proves that a state root covers one coin or one key of the contract state with its value.

    ``index`` is the place of the leaf among ``count`` in its tree, ``path`` the audit path of RFC 9162,
    section 2.1.3, lowest first; the other tree is given by its number of leaves and its root.
    """

    space: Space
    key: bytes
    value: bytes
    index: int
    count: int
    path: tuple[bytes, ...]
    other_count: int
    other_root: bytes

    @property
    def is_whole(self) -> bool:
        """Tell whether the fields are in their bounds."""
        counts = 0 <= self.index < self.count < _COUNT_MAX and 0 <= self.other_count < _COUNT_MAX
        return counts and len(self.path) <= _PATH_MAX and len(self.other_root) == _HASH

    def encode(self) -> bytes:
        """Return the canonical MessagePack array of the fields."""
        return canonical.encode(
            [
                int(self.space),
                self.key,
                self.value,
                self.index,
                self.count,
                list(self.path),
                self.other_count,
                self.other_root,
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> "StateProof":
        """Return what ``encode`` wrote. Raises DecodeError "bad-state-proof"."""
        match canonical.decode(data):
            case [
                int(space),
                bytes(key),
                bytes(value),
                int(index),
                int(count),
                [*nodes],
                int(other_count),
                bytes(other),
            ] if bool not in map(type, (space, index, count, other_count)):
                path = tuple(node for node in nodes if isinstance(node, bytes) and len(node) == _HASH)
                if space in (0, 1) and len(path) == len(nodes):
                    proof = cls(Space(space), key, value, index, count, path, other_count, other)
                    if proof.is_whole:
                        return proof
        raise DecodeError("bad-state-proof", "not a proof of a value")


def prove(coins: Pairs, state: Pairs, space: Space, key: bytes) -> StateProof | None:
    """Return the proof of one key from all coins and the whole contract state; None if it has no value.

    Reads everything once, in constant memory.
    """
    tree = _ProvingTree(key)
    tree.add(coins if space is Space.COIN else state)
    tree.finish()
    other = TreeHasher()
    other.add(state if space is Space.COIN else coins)
    other_root = other.finish()
    if tree.found is None:
        return None
    return replace(tree.found, space=space, other_count=other.count, other_root=other_root)


def verify(proof: StateProof, expected_root: bytes) -> bool:
    """Tell whether ``proof`` leads to the state root ``expected_root``."""
    if not proof.is_whole:
        return False
    tree = fold_path(state_leaf(proof.key, proof.value), proof.index, proof.count, proof.path)
    if tree is None:
        return False
    mine, other = (proof.count, tree), (proof.other_count, proof.other_root)
    coins, state = (mine, other) if proof.space is Space.COIN else (other, mine)
    return combine(coins, state) == expected_root


class _ProvingTree:
    """A tree that remembers the audit path of one key while it grows."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._index = -1
        self._value = b""
        self._path: list[bytes] = []
        self._stack: list[tuple[bytes, bool]] = []
        """Peaks, the largest first, each with whether our leaf is under it."""
        self._count = 0
        self.found: StateProof | None = None

    def add(self, pairs: Pairs) -> None:
        """Take pairs, each key above the last."""
        for key, value in pairs:
            ours = key == self._key
            if ours:
                self._index, self._value = self._count, value
            node = (state_leaf(key, value), ours)
            below = self._count
            while below & 1:
                node = self._join(self._stack.pop(), node)
                below >>= 1
            self._stack.append(node)
            self._count += 1

    def finish(self) -> None:
        """Bag the peaks; ``found`` is the proof, without the other tree, if the key was there."""
        while len(self._stack) > 1:
            right = self._stack.pop()
            self._stack.append(self._join(self._stack.pop(), right))
        if self._index >= 0:
            path = tuple(self._path)
            self.found = StateProof(
                Space.COIN, self._key, self._value, self._index, self._count, path, 0, b""
            )

    def _join(self, left: tuple[bytes, bool], right: tuple[bytes, bool]) -> tuple[bytes, bool]:
        if left[1]:
            self._path.append(right[0])
        elif right[1]:
            self._path.append(left[0])
        return node_hash(left[0], right[0]), left[1] or right[1]
