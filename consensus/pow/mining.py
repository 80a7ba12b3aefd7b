"""What a miner does between a template and a block: extra nonces, header times and the search.

A template is a block whose header lacks its proof. Only the coinbase and the header change while one
is searched, so the Merkle branch of the coinbase is all that has to be kept beside it.
"""

from cext import pow_search
from consensus.assemble import MAX_EXTRA_NONCE
from consensus.block import Block, BlockHeader
from consensus.hashes import sha256d
from consensus.pow.target import target_of
from consensus.script.templates import push_data, push_number
from consensus.transaction import Transaction

NONCES = 1 << 32
"""How many nonces a header has; then the next extra nonce is due."""


class Work:
    """One template under search. ``height`` is its height; all methods are pure."""

    __slots__ = ("_branch", "_coinbase", "_height", "_template", "target")

    def __init__(self, template: Block, height: int) -> None:
        """Raises ValueError if the template's bits are no target."""
        target = target_of(template.header.bits)
        if target is None:
            raise ValueError("no target")
        self._template = template
        self._height = height
        self._coinbase = template.txs[0]
        self._branch = coinbase_branch([tx.txid for tx in template.txs])
        self.target = target

    def coinbase(self, extra_nonce: bytes) -> Transaction:
        """Return the coinbase with this extra nonce of at most MAX_EXTRA_NONCE bytes."""
        if len(extra_nonce) > MAX_EXTRA_NONCE:
            raise ValueError("extra nonce too long")
        old = self._coinbase
        script_sig = push_number(self._height) + push_data(extra_nonce)
        first = old.vin[0]._replace(script_sig=script_sig)
        return Transaction.build(old.version, (first,), old.vout, old.lock_time)

    def header(self, extra_nonce: bytes, time_s: int | None = None) -> BlockHeader:
        """Return the header to search: nonce 0, by default the template's time.

        The target depends on the parent alone, so a later time is allowed; contract time does too.
        """
        root = self.coinbase(extra_nonce).txid
        for sibling in self._branch:
            root = sha256d(root + sibling)
        old = self._template.header
        return BlockHeader.build(
            version=old.version,
            prev_hash=old.prev_hash,
            merkle_root=root,
            time_s=old.time_s if time_s is None else time_s,
            bits=old.bits,
            nonce=0,
        )

    def search(self, header: BlockHeader, start: int, count: int) -> int | None:
        """Return the first nonce of ``count`` from ``start`` on that meets the target, None if there is none.

        Releases the interpreter lock; the native module does some 20 million per second and core.
        """
        return pow_search(header.raw, start, count, self.target)

    def solved(self, extra_nonce: bytes, header: BlockHeader, nonce: int) -> Block:
        """Return the block with the nonce found for ``header``, as made by ``header(extra_nonce, ...)``."""
        raw = header.raw[:76] + nonce.to_bytes(4, "little")
        return Block.build(BlockHeader.parse(raw), (self.coinbase(extra_nonce), *self._template.txs[1:]))


def coinbase_branch(txids: list[bytes]) -> list[bytes]:
    """Return the hashes that fold the coinbase's txid to the Merkle root, lowest level first.

    It is what ``getblocktemplate`` clients and Stratum call the Merkle steps.
    """
    branch = []
    level = txids
    while len(level) > 1:
        branch.append(level[1])
        if len(level) % 2:
            level = [*level, level[-1]]
        level = [sha256d(level[at] + level[at + 1]) for at in range(0, len(level), 2)]
    return branch
