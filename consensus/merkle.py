"""Bitcoin's Merkle tree: roots over transactions, and branches that prove a leaf."""

from collections.abc import Sequence

from cext import merkle_root, sha256d
from consensus.transaction import NULL_HASH, Transaction


def txid_root(txs: Sequence[Transaction]) -> tuple[bytes, bool]:
    """Return (root over the txids, mutated) of at least one transaction.

    ``mutated`` tells that another list of transactions has the same root (CVE-2012-2459).
    """
    return merkle_root(b"".join([tx.txid for tx in txs]))


def witness_root(txs: Sequence[Transaction]) -> bytes:
    """Return the root over the wtxids, that of the coinbase counted as zero (BIP141)."""
    return merkle_root(NULL_HASH + b"".join([tx.wtxid for tx in txs[1:]]))[0]


def branch(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the hashes that lead from ``leaves[index]`` (32 bytes each) to the root, lowest first.

    Raises IndexError when there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    level = list(leaves)
    path = []
    while len(level) > 1:
        if len(level) % 2:
            level.append(level[-1])
        path.append(level[index ^ 1])
        level = [sha256d(level[at] + level[at + 1]) for at in range(0, len(level), 2)]
        index >>= 1
    return tuple(path)


def fold_branch(leaf: bytes, path: Sequence[bytes], index: int) -> bytes:
    """Return the root that ``leaf`` at ``index`` and its branch lead to."""
    node = leaf
    for sibling in path:
        node = sha256d(sibling + node) if index & 1 else sha256d(node + sibling)
        index >>= 1
    return node
