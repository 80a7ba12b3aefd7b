"""Bodies of proposed blocks: found by id in what gossip has spread, fetched where something is missing.

A proposal carries ids only. It is parked here until every transaction is at hand; whoever owes one
too long is passed over for the next peer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from consensus.bft.types import Check, Proposal
from consensus.block import Block, BlockHeader
from consensus.errors import DecodeError, RuleError
from consensus.transaction import Transaction
from node.limits import BODY_RETRY_MS, MAX_PARKED_PROPOSALS
from p2p.limits import MAX_GETTXS_HASHES

Find = Callable[[bytes], Transaction | None]


class TxSource(Protocol):
    """Who may be asked for transactions of a proposal."""

    def ask_txs(self, validator: int, block_hash: bytes, wtxids: list[bytes]) -> bool:
        """Send the request; False if there is no connection."""
        ...

    def connected(self) -> list[int]:
        """Return the indices of the validators that we are connected to."""
        ...


@dataclass(slots=True, eq=False)
class Parked:
    """A proposal that waits for bodies. ``arrived_s`` is chain time at its arrival."""

    check: Check
    arrived_s: int
    txs: list[Transaction | None]
    missing: dict[bytes, int]
    asked_at_ms: int = 0
    turn: int = 0
    asked: list[int] = field(default_factory=list)

    @property
    def block_hash(self) -> bytes:
        """Return the hash of the proposed block."""
        return self.check.proposal.block_hash


class ProposalBodies:
    """Completes proposals. ``find`` looks a wtxid up locally; ``ready`` takes what is complete."""

    def __init__(self, source: TxSource, find: Find, ready: Callable[[Parked], None]) -> None:
        self._source = source
        self._find = find
        self._ready = ready
        self._parked: dict[bytes, Parked] = {}

    def __len__(self) -> int:
        return len(self._parked)

    def add(self, check: Check, arrived_s: int, now_ms: int) -> None:
        """Complete ``check`` now if everything is here, else ask its sender for the rest.

        A proposal that waits already is judged by the latest question about it. The hash covers the
        header only: another list of ids under it is another proposal, and takes its place.
        """
        waiting = self._parked.get(check.proposal.block_hash)
        if waiting is not None and waiting.check.proposal == check.proposal:
            waiting.check = check
            return
        txs = [self._find(wtxid) for wtxid in check.proposal.wtxids]
        missing = {wtxid: at for at, wtxid in enumerate(check.proposal.wtxids) if txs[at] is None}
        parked = Parked(check, arrived_s, txs, missing)
        self._parked.pop(parked.block_hash, None)
        if not missing or len(set(check.proposal.wtxids)) != len(txs):
            self._ready(parked)
            return
        self._parked[parked.block_hash] = parked
        while len(self._parked) > MAX_PARKED_PROPOSALS:
            del self._parked[next(iter(self._parked))]
        self._ask(parked, now_ms)

    def supply(self, txs: list[Transaction]) -> None:
        """Fill in transactions that arrived, from whatever source."""
        for parked in list(self._parked.values()):
            for tx in txs:
                at = parked.missing.pop(tx.wtxid, None)
                if at is not None:
                    parked.txs[at] = tx
            if not parked.missing and self._parked.pop(parked.block_hash, None) is not None:
                self._ready(parked)

    def take(self, block_hash: bytes) -> Parked | None:
        """Remove and return the proposal of a block that came whole."""
        return self._parked.pop(block_hash, None)

    def retry(self, now_ms: int) -> None:
        """Ask the next validator for what has been owed for too long."""
        for parked in self._parked.values():
            if now_ms - parked.asked_at_ms >= BODY_RETRY_MS:
                self._ask(parked, now_ms)

    def forget(self, keep: Callable[[Check], bool]) -> None:
        """Drop parked proposals that no longer matter."""
        self._parked = {key: parked for key, parked in self._parked.items() if keep(parked.check)}

    def _ask(self, parked: Parked, now_ms: int) -> None:
        others = [index for index in self._source.connected() if index != parked.check.from_validator]
        order = [parked.check.from_validator, *others]
        wanted = list(parked.missing)[:MAX_GETTXS_HASHES]
        for _ in order:
            target = order[parked.turn % len(order)]
            parked.turn += 1
            if self._source.ask_txs(target, parked.block_hash, wanted):
                break
        parked.asked_at_ms = now_ms


def complete_block(parked: Parked) -> Block:
    """Return the block of a proposal whose transactions are all here.

    Raises RuleError "bad-txns-duplicate" if it names one twice, DecodeError "block-incomplete" or what
    its coinbase does not parse as.
    """
    proposal = parked.check.proposal
    if len(set(proposal.wtxids)) != len(proposal.wtxids):
        raise RuleError("bad-txns-duplicate", "a transaction is named twice")
    txs = [tx for tx in parked.txs if tx is not None]
    if len(txs) != len(proposal.wtxids):
        raise DecodeError("block-incomplete", "transactions are missing")
    coinbase = Transaction.parse(proposal.coinbase)
    return Block.build(BlockHeader.parse(proposal.header), (coinbase, *txs))


def proposal_of(block: Block) -> Proposal:
    """Return a block as a proposal: header, raw coinbase and the ids of the rest."""
    return Proposal(block.header.raw, block.txs[0].raw, tuple(tx.wtxid for tx in block.txs[1:]))
