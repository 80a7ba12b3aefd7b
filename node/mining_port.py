"""What miners, operators and the RPC interface may ask of the node of a proof-of-work chain."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from consensus.assemble import Assembled
from consensus.block import Block, BlockHeader
from consensus.pow.tree import ChainTipView


@dataclass(frozen=True, slots=True)
class Template:
    """A block on the tip that lacks its proof of work, and how it came about."""

    height: int
    assembled: Assembled

    @property
    def block(self) -> Block:
        """Return the block; only its coinbase and header may change while a proof is searched."""
        return self.assembled.block


class PowControl(Protocol):
    """Implemented by ``node.pow_driver.PowDriver``. Hashes are 32 bytes in internal order."""

    @property
    def headers_height(self) -> int:
        """Return the height of the header with most work, valid or not looked at yet."""
        ...

    def chain_tips(self) -> list[ChainTipView]:
        """Return all ends of branches, most work first."""
        ...

    def next_bits(self) -> int:
        """Return nBits of the block after the tip."""
        ...

    def template(self, payout_script: bytes, extra_nonce: bytes = b"") -> Template:
        """Assemble a block on the tip from the mempool. Raises RuleError "time-too-new" if no time fits."""
        ...

    def watch(self) -> "asyncio.Future[None]":
        """Return a future that is done when the tip moves next."""
        ...

    async def submit_block(self, block: Block) -> str | None:
        """Take a block; return as BIP22: None if it is on the chain now, else why it is not.

        "duplicate", "duplicate-invalid", "inconclusive" (not on the chain of most work), or the code of
        the rule that it breaks.
        """
        ...

    async def submit_header(self, header: BlockHeader) -> None:
        """Take a header. Raises RuleError."""
        ...

    async def invalidate(self, block_hash: bytes) -> None:
        """Mark a block invalid and leave it. Raises RuleError "unknown-block" or "bad-genesis-mark"."""
        ...

    async def reconsider(self, block_hash: bytes) -> None:
        """Take the marks off a block, its ancestors and descendants. Raises RuleError "unknown-block"."""
        ...

    async def precious(self, block_hash: bytes) -> None:
        """Prefer a block over others of the same work. Raises RuleError "unknown-block"."""
        ...
