"""What the BFT driver needs of the rest of the node."""

from collections.abc import Sequence
from typing import Any, Protocol

from consensus.block import Block
from consensus.chain import Connected
from consensus.errors import LocalFault
from consensus.transaction import Transaction


class ConsensusHalt(LocalFault):
    """The engine or a certified block contradicts what this node knows; it must not go on."""

    exit_status = 70


LATER_ROUND = "sync-later-round"
"""Code of blocks with a certificate of a round that this chain does not lead to."""


class Links(Protocol):
    """The engine's way to other validators, by index in the set of the round. Never blocks, may drop."""

    def set_validators(self, identities: Sequence[bytes]) -> None:
        """Take the identity keys of a new round in voting order; from here on indices mean these."""
        ...

    def send(self, validator: int, payload: bytes) -> bool:
        """Send one consensus message."""
        ...

    def broadcast(self, payload: bytes) -> None:
        """Send to all other validators."""
        ...

    def connected(self) -> list[int]:
        """Return the indices of connected validators."""
        ...

    def ask_txs(self, validator: int, block_hash: bytes, wtxids: list[bytes]) -> bool:
        """Ask for transactions of a proposed block."""
        ...

    def ask_body(self, validator: int, block_hash: bytes) -> bool:
        """Ask for a whole block."""
        ...

    def punish(self, validator: int | None, code: str) -> None:
        """Count a fault against the peer behind this link."""
        ...


class Listener(Protocol):
    """What the rest of the node wants to hear."""

    def on_commit(self, block: Block, connected: Connected, evicted: list[Transaction]) -> None:
        """The tip moved."""
        ...

    def on_event(self, name: str, fields: dict[str, Any]) -> None:
        """Something that others may want to hear of."""
        ...

    def on_alarm(self, name: str, fields: dict[str, Any]) -> None:
        """Something that an operator must look at."""
        ...

    def on_fatal(self, error: BaseException) -> None:
        """The daemon must stop."""
        ...
