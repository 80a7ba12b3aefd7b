"""Ports: what the rules need from higher ranks, declared here and wired in ``node/app.py``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from consensus.dpos import Candidate
from consensus.transaction import Transaction, TxOut

OVER_BUDGET = "op-budget-exceeded"
"""Code of the RuleError, not permanent, by which a session refuses what the block has no budget for."""


class CoinView(Protocol):
    """Read access to unspent outputs.

    Key: the 36 prevout bytes of the wire. Value: u32 LE (height << 1 | coinbase), i64 LE amount,
    script; one bytes object, as in ``consensus.coins``.
    """

    def get(self, prevout: bytes, /) -> bytes | None:
        """Return the coin value, None if there is no such unspent output."""
        ...


class BlockTimes(Protocol):
    """Header times by height, of committed blocks."""

    def time_at(self, height: int, /) -> int | None:
        """Return the header time of the block at ``height``, seconds; None where it is not known."""
        ...


class StateRoots(Protocol):
    """State roots by height, of committed blocks."""

    def root_at(self, height: int, /) -> bytes | None:
        """Return the state root (``consensus.state_root``) after the block at ``height``.

        None only where blocks are certified by a quorum and the root is not at hand: then it is not checked.
        """
        ...


class StateView(Protocol):
    """Read access to the contract state, a byte-ordered key-value map."""

    def get(self, key: bytes, /) -> bytes | None:
        """Return the value, None if the key does not exist."""
        ...

    def scan(self, prefix: bytes, /) -> Iterator[tuple[bytes, bytes]]:
        """Yield the (key, value) pairs whose key starts with ``prefix``, in ascending key order."""
        ...


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What a contract may know of the block that it runs in. ``time_s`` is contract time."""

    chain_id: bytes
    height: int
    time_s: int


@dataclass(frozen=True, slots=True)
class SignatureCheck:
    """One signature inside a payload: ``scheme`` is "ed25519"; stateless, so it can be cached."""

    scheme: str
    public_key: bytes
    message: bytes
    signature: bytes


class ContractSession(Protocol):
    """The contract side of one block, in the order timers, transactions, payouts."""

    def due_payouts(self) -> tuple[TxOut, ...]:
        """Return what this block's coinbase must pay: the first 64 of the queue at its parent."""
        ...

    def run_timers(self) -> None:
        """Run due timers within ``timer_budget`` units."""
        ...

    def execute(self, tx: Transaction, spent: Sequence[bytes]) -> None:
        """Run the operation that ``tx`` carries, if any; ``spent`` is one coin value per input.

        Raises RuleError and leaves the session as it was; OVER_BUDGET where the operation costs more
        than what is left of the block's ``op_budget``.
        """
        ...

    def finish(self) -> dict[bytes, bytes | None]:
        """Remove the paid payouts and return the final value per key written, None if deleted."""
        ...


class Contracts(Protocol):
    """All contracts of a chain behind one door."""

    def genesis_state(self) -> dict[bytes, bytes]:
        """Return the contract state that the genesis block writes."""
        ...

    def open(self, state: StateView, context: BlockContext) -> ContractSession:
        """Return the session of one block over the contract state at its parent."""
        ...

    def check_payload(self, tx: Transaction) -> None:
        """Stateless form of the payload. Raises RuleError."""
        ...

    def signatures(self, tx: Transaction) -> tuple[SignatureCheck, ...]:
        """Return the device signatures that the payload of a well-formed ``tx`` carries."""
        ...

    def candidates(self, state: StateView, time_s: int) -> list[Candidate]:
        """Return who can be elected in order of account, with ballots weighed at block time ``time_s``."""
        ...

    def dismiss(self, state: StateView, accounts: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """Return the writes that take vote and role from these organisations."""
        ...

    def accounting(self, state: StateView) -> Mapping[str, int]:
        """Return {"accounts": sum of balances, "payouts": sum of the queue}, base units."""
        ...


class SignatureChecker(Protocol):
    """Decides that the signatures of transactions hold: by checking, or from a cache."""

    def check(self, items: Sequence[tuple[Transaction, Sequence[bytes]]]) -> None:
        """Check scripts and device signatures of (tx, coin values of its inputs). Raises RuleError."""
        ...
