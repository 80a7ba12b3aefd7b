"""The chain as this node holds it: the committed tip on disk and a short uncommitted suffix.

Blocks are executed once, on the overlay of their parent; committing one hands the diffs that were
computed then to the store. The suffix is at most MAX_UNCOMMITTED_BLOCKS deep per branch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from consensus.assemble import Assembled, assemble
from consensus.block import Block
from consensus.block_rules import check_block
from consensus.chain import ChainTip
from consensus.connect import Connected, RuleEnv, connect_block, encode_undo
from consensus.errors import RuleError, StorageError
from consensus.genesis import genesis_block, genesis_connected
from consensus.overlay import CoinOverlay, StateOverlay
from consensus.params import ChainParams
from consensus.ports import (
    BlockContext,
    CoinView,
    Contracts,
    ContractSession,
    SignatureChecker,
    StateView,
)
from consensus.transaction import Transaction
from consensus.validators import ValidatorSet
from node.limits import MAX_CANDIDATE_BLOCKS
from storage.store import ChainStore, ConnectBatch


class Trusting:
    """A SignatureChecker for blocks that a quorum certified: q validators checked them."""

    def check(self, items: Sequence[tuple[Transaction, Sequence[bytes]]]) -> None:
        """Accept."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An executed block that is not committed: its body and what connecting it changes."""

    block: Block
    connected: Connected
    parent_hash: bytes


@dataclass(frozen=True, slots=True)
class Views:
    """The state on which a block stands."""

    tip: ChainTip
    coins: CoinView
    state: StateView


class ChainState:
    """Executes, builds and commits blocks over a store."""

    def __init__(
        self,
        store: ChainStore,
        params: ChainParams,
        contracts: Contracts,
        signatures: SignatureChecker,
        validator_set: ValidatorSet,
    ) -> None:
        self.params = params
        self.store = store
        self.validator_set = validator_set
        self._contracts = contracts
        self.genesis = genesis_block(params, contracts)
        self.chain_id = self.genesis.hash
        self._env = RuleEnv(params, self.chain_id, contracts, signatures, validator_set)
        self._trusting_env = RuleEnv(params, self.chain_id, contracts, Trusting(), validator_set)
        self._candidates: dict[bytes, Candidate] = {}
        if store.tip is None:
            self._write(Candidate(self.genesis, genesis_connected(params, contracts), bytes(32)), None)
        self.tip = self._stored_tip()

    def _stored_tip(self) -> ChainTip:
        if self.store.tip is None:
            raise StorageError("store-empty", "the store lost its tip", fix="restore or remove the data directory")
        return ChainTip.decode(self.store.tip)

    # ---- reading -------------------------------------------------------------------------------

    @property
    def coins(self) -> CoinView:
        """Return the unspent outputs at the committed tip."""
        return self.store.coins_view

    @property
    def state(self) -> StateView:
        """Return the contract state at the committed tip."""
        return self.store.state_view

    def candidate(self, block_hash: bytes) -> Candidate | None:
        """Return an executed, uncommitted block."""
        return self._candidates.get(block_hash)

    def block(self, block_hash: bytes) -> Block | None:
        """Return a block body by hash, committed or not."""
        candidate = self._candidates.get(block_hash)
        if candidate is not None:
            return candidate.block
        raw = self.store.body(block_hash)
        return None if raw is None else Block.parse(raw)

    def pending_txids(self, block_hash: bytes) -> set[bytes]:
        """Return the ids that the uncommitted branch ending in ``block_hash`` already holds."""
        return {tx.txid for branch in self._branch(block_hash) for tx in branch.block.txs}

    def views(self, parent_hash: bytes) -> Views:
        """Return the views on which a child of ``parent_hash`` stands.

        Raises RuleError "prev-blk-not-found" if the parent is neither the tip nor a candidate.
        """
        coins, state, tip = self.coins, self.state, self.tip
        for branch in self._branch(parent_hash):
            coins = CoinOverlay(coins, branch.connected.coins)
            state = StateOverlay(state, branch.connected.state)
            tip = branch.connected.tip
        return Views(tip, coins, state)

    def _branch(self, block_hash: bytes) -> list[Candidate]:
        branch: list[Candidate] = []
        while block_hash != self.tip.block_hash:
            candidate = self._candidates.get(block_hash)
            if candidate is None:
                raise RuleError("prev-blk-not-found", f"{block_hash[::-1].hex()} is unknown", permanent=False)
            branch.append(candidate)
            block_hash = candidate.parent_hash
        branch.reverse()
        return branch

    def open_session(self, now_s: int, contracts: Contracts) -> ContractSession:
        """Return a contract session for the block after the committed tip, as the mempool tries it."""
        context = BlockContext(self.chain_id, self.tip.height + 1, max(now_s, self.tip.time_s))
        return contracts.open(self.state, context)

    # ---- executing -----------------------------------------------------------------------------

    def build(
        self,
        parent_hash: bytes,
        transactions: Callable[[set[bytes]], Iterable[Transaction]],
        *,
        time_s: int,
        term: int,
        proposer: int,
        last_bitmap: bytes,
    ) -> Assembled:
        """Assemble and execute a block on ``parent_hash`` and keep it as a candidate."""
        views = self.views(parent_hash)
        assembled = assemble(
            views.tip,
            transactions(self.pending_txids(parent_hash)),
            views.coins,
            views.state,
            self._env,
            time_s=max(time_s, views.tip.time_s),
            term=term,
            proposer=proposer,
            last_bitmap=last_bitmap,
        )
        self._keep(Candidate(assembled.block, assembled.connected, parent_hash))
        return assembled

    def execute(self, block: Block, parent_hash: bytes, *, certified: bool = False) -> Connected:
        """Check and execute ``block`` on ``parent_hash`` and keep it as a candidate. Raises RuleError.

        ``certified``: a quorum's certificate covers it, so signatures were checked by its voters.
        """
        known = self._candidates.get(block.hash)
        if known is not None:
            return known.connected
        views = self.views(parent_hash)
        env = self._trusting_env if certified else self._env
        check_block(block, self.params)
        connected = connect_block(block, views.tip, views.coins, views.state, env)
        self._keep(Candidate(block, connected, parent_hash))
        return connected

    def _keep(self, candidate: Candidate) -> None:
        self._candidates[candidate.block.hash] = candidate
        while len(self._candidates) > MAX_CANDIDATE_BLOCKS:
            del self._candidates[next(iter(self._candidates))]

    # ---- committing ----------------------------------------------------------------------------

    def commit(self, block_hash: bytes, certificate: bytes | None) -> Candidate:
        """Write the candidate ``block_hash``, a child of the tip, to disk and move the tip."""
        candidate = self._candidates[block_hash]
        if candidate.parent_hash != self.tip.block_hash:
            raise StorageError("commit-out-of-order", "a commit must extend the tip", fix="report this")
        self._write(candidate, certificate)
        self.tip = candidate.connected.tip
        self._forget_rivals(block_hash)
        return candidate

    def _write(self, candidate: Candidate, certificate: bytes | None) -> None:
        connected, block = candidate.connected, candidate.block
        self.store.connect(
            ConnectBatch(
                height=connected.tip.height,
                block_hash=block.hash,
                header=block.header.raw,
                body=block.raw,
                txids=connected.txids,
                tip=connected.tip.encode(),
                coins=connected.coins,
                state=connected.state,
                undo=encode_undo(connected),
                certificate=certificate,
            )
        )

    def _forget_rivals(self, committed: bytes) -> None:
        """Keep only candidates that descend from the block that was just committed."""
        keep: dict[bytes, Candidate] = {}
        for block_hash, candidate in self._candidates.items():
            if candidate.parent_hash == committed or candidate.parent_hash in keep:
                keep[block_hash] = candidate
        self._candidates = keep
