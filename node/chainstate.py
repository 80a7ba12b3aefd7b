"""The chain as this node holds it: the committed tip on disk and a short uncommitted suffix.

Blocks are executed once, on the overlay of their parent; committing one hands the diffs that were
computed then to the store. How many blocks are held is the engine's business: see ``trim``.
"""

from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from consensus.assemble import Assembled, assemble, assemble_template
from consensus.bft.shown import Evidence
from consensus.bft.types import QC
from consensus.block import Block, BlockHeader
from consensus.block_rules import check_block
from consensus.chain import ChainTip, Connected
from consensus.connect import RuleEnv, connect_block, contract_time, spend_context
from consensus.errors import DecodeError, PeerFault, RuleError, StorageError
from consensus.genesis import genesis_connected
from consensus.limits import LOCKTIME_THRESHOLD
from consensus.offences import acceptable_evidence, is_pending
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
from consensus.pow.rules import median
from consensus.pow.target import work_of
from consensus.restart import Restart
from consensus.round_rules import due_reveal
from consensus.rounds import BASE, RevealChain, Round, set_records
from consensus.script.templates import push_number
from consensus.transaction import Transaction
from consensus.undo import decode_parent, decode_undo, encode_undo
from node.limits import SIGNATURE_INLINE_BYTES
from node.mempool import Ground
from node.proofs import round_end_of
from node.sigcheck import SignatureVerifier
from node.stateroots import KnownStateRoots, StateRoots
from storage.headers import HeaderRecord
from storage.store import ChainStore, ConnectBatch

OpenTrial = Callable[[StateView, BlockContext], ContractSession]
"""Opens a contract session without the budgets of a block."""


class Trusting:
    """A SignatureChecker for blocks that a quorum certified: q validators checked them."""

    def check(self, items: Sequence[tuple[Transaction, Sequence[bytes]]]) -> None:
        """Accept."""


class CommittedCoins:
    """The unspent outputs at the committed tip, as ``consensus.ports.CoinView``."""

    def __init__(self, store: ChainStore) -> None:
        self.get = store.coin
        self._load = store.coins

    def prefetch(self, prevouts: Sequence[bytes]) -> dict[bytes, bytes]:
        """Read the coins of a block in key order, which LevelDB answers faster than one by one."""
        return self._load(prevouts)


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
    """Executes, builds and commits blocks over a store.

    ``genesis`` is the block of height 0, whose hash is the chain id; ``open_trial`` opens the
    sessions on which the mempool tries pending operations, more of them than fit one block.
    ``verify_certified``: check signatures even in blocks that a quorum certified. ``restarts``: as in
    ``RuleEnv``.
    """

    def __init__(
        self,
        store: ChainStore,
        genesis: Block,
        params: ChainParams,
        contracts: Contracts,
        open_trial: OpenTrial,
        signatures: SignatureChecker,
        *,
        verify_certified: bool = False,
        restarts: Mapping[bytes, Restart] | None = None,
    ) -> None:
        self.params = params
        self.store = store
        self.chain_id = genesis.hash
        self._open_trial = open_trial
        self._verifier = signatures if isinstance(signatures, SignatureVerifier) else None
        self.state_roots = StateRoots(store, params)
        known = KnownStateRoots(self.state_roots)
        self._env = RuleEnv(
            params, self.chain_id, contracts, signatures, self, self.state_roots, restarts or {}
        )
        trusting = replace(self._env, signatures=Trusting(), state_roots=known)
        self._certified_env = self._env if verify_certified else trusting
        self._coins = CommittedCoins(store)
        self._candidates: dict[bytes, Candidate] = {}
        if store.tip is None:
            if params.pow is not None:
                header = genesis.header
                store.headers.put([HeaderRecord(header.hash, 0, header.raw, work_of(header.bits))])
            self._write(Candidate(genesis, genesis_connected(params, contracts), bytes(32)), None)
        self.tip = self._stored_tip()
        self._boundaries = [record.first_height - 1 for _, record in set_records(self.state)]
        if self.tip.height not in self._boundaries:
            self._note_boundary()
        self._replay()

    def _replay(self) -> None:
        """Execute again what is durable in the segments but was lost by LevelDB in a power cut."""
        for _, raw, certificate in self.store.replayable():
            try:
                block = Block.parse(raw)
                check_block(block, self.params)
                self.execute(block, self.tip.block_hash, certified=True)
            except PeerFault as fault:
                raise StorageError(
                    "replay-failed",
                    f"block {self.tip.height + 1} in the segment files breaks a rule ({fault})",
                    fix="restore the data directory, or remove it and sync from the peers",
                ) from fault
            self.commit(block.hash, certificate)

    def _stored_tip(self) -> ChainTip:
        if self.store.tip is None:
            raise StorageError(
                "store-empty", "the store lost its tip", fix="restore or remove the data directory"
            )
        return ChainTip.decode(self.store.tip)

    # ---- reading -------------------------------------------------------------------------------

    @property
    def coins(self) -> CoinView:
        """Return the unspent outputs at the committed tip."""
        return self._coins

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

    def raw_block(self, block_hash: bytes) -> bytes | None:
        """Return a raw block by hash, committed or not."""
        candidate = self._candidates.get(block_hash)
        return self.store.body(block_hash) if candidate is None else candidate.block.raw

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

    def branch_or_empty(self, block_hash: bytes) -> list[Candidate]:
        """Return the uncommitted blocks up to ``block_hash``, oldest first; empty if it is unknown."""
        try:
            return self._branch(block_hash)
        except RuleError:
            return []

    def open_session(self, now_s: int) -> ContractSession:
        """Return a contract session for the block after the committed tip, as the mempool tries it."""
        time_s = contract_time(max(now_s, self.tip.time_s), self.tip, self.params)
        return self._open_trial(self.state, BlockContext(self.chain_id, self.tip.height + 1, time_s))

    def ground(self) -> Ground:
        """Return what the mempool stands on now."""
        return Ground(spend_context(self.tip.time_s, self.tip, self._env), self.coins, self.open_session)

    def time_at(self, height: int, /) -> int:
        """Return the header time of the committed block at ``height`` (``consensus.ports.BlockTimes``).

        The times of an uncommitted branch come from its own tip (``ChainTip.times``), not from here.
        """
        header = self.store.header(height)
        if header is None:
            raise StorageError("header-missing", f"no header at height {height}", fix="remove and sync again")
        return BlockHeader.parse(header).time_s

    # ---- rounds --------------------------------------------------------------------------------

    @property
    def round(self) -> Round:
        """Return the round that signs the child of the committed tip; round 0 of nobody on a pow chain."""
        try:
            return self._env.rounds.round_after(self.tip, self.state)
        except RuleError as error:
            raise StorageError(
                "restart-refused",
                f"the restart that was applied here does not hold at block {self.tip.height} ({error})",
                fix="remove it from restarts/ and apply the right one",
            ) from error

    @property
    def restarts(self) -> Mapping[bytes, Restart]:
        """Return what operators decided, by the hash of the block before."""
        return self._env.restarts

    def round_base(self) -> QC:
        """Return the base of the current round's engine."""
        found = self.round
        if found.first_height == self.tip.height + 1:
            return found.base(self.tip.block_hash)
        return found.base(self.state.get(BASE) or self.chain_id)

    def next_boundary(self, height: int) -> int | None:
        """Return the first height from ``height`` on whose block ended a round, None if there is none yet."""
        at = bisect_left(self._boundaries, height)
        return self._boundaries[at] if at < len(self._boundaries) else None

    def _note_boundary(self) -> None:
        """Remember the tip if it ended a round."""
        if self.params.pow is None and self.round.number and self.round.first_height == self.tip.height + 1:
            self._boundaries.append(self.tip.height)

    def reveal_due(self, parent_hash: bytes, *, term: int, proposer: int) -> RevealChain | None:
        """Return the chain from which this block has to reveal, None if from none."""
        views = self.views(parent_hash)
        found = self._env.rounds.round_after(views.tip, views.state)
        return due_reveal(views.state, found, views.tip.height + 1, term, proposer)

    def pending_evidence(
        self, parent_hash: bytes, known: Iterable[tuple[int, Evidence]]
    ) -> tuple[bytes, ...]:
        """Return what of the ``known`` (round, evidence) a block on ``parent_hash`` can carry."""
        views = self.views(parent_hash)
        found = self._env.rounds.round_after(views.tip, views.state)
        return acceptable_evidence(known, views.state, found, self.params, self.chain_id)

    def misses_evidence(self, number: int, evidence: Evidence) -> bool:
        """Return whether evidence of a round holds, counts still and is not on the chain: ``is_pending``."""
        return is_pending(number, evidence, self.state, self.round, self.params, self.chain_id)

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
        reveal: bytes | None = None,
        evidence: Sequence[bytes] = (),
    ) -> Assembled:
        """Assemble and execute a block on ``parent_hash`` and keep it as a candidate.

        Raises RuleError as ``round_rules.judge`` if what is given does not fit the round.
        """
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
            reveal=reveal,
            evidence=evidence,
        )
        self._candidates[assembled.block.hash] = Candidate(assembled.block, assembled.connected, parent_hash)
        return assembled

    def template(
        self, transactions: Iterable[Transaction], now_s: int, payout_script: bytes, extra_nonce: bytes
    ) -> Assembled:
        """Assemble a block on the tip of a pow chain that lacks its proof of work.

        Its time is ``now_s``, or the first that its parent allows. Raises ValueError for an extra nonce
        that is too long.
        """
        tip = self.tip
        return assemble_template(
            tip,
            transactions,
            self.coins,
            self.state,
            self._env,
            time_s=max(now_s, median(tip.times) + 1),
            payout_script=payout_script,
            extra_nonce=extra_nonce,
        )

    def wants_prewarm(self, block: Block) -> bool:
        """Tell whether ``execute`` would hold the event loop up with signatures that were never checked."""
        verifier = self._verifier
        return verifier is not None and verifier.unseen_bytes(block.txs[1:]) > SIGNATURE_INLINE_BYTES

    async def prewarm(self, block: Block, parent_hash: bytes) -> None:
        """Check the form of ``block``, then on worker threads the signatures that were never checked.

        ``execute(block, parent_hash, formed=True)`` then only asks the verifier's cache. Other work goes
        on meanwhile, so whoever awaits this must look again at whether the block is still wanted.
        Raises RuleError for what ``execute`` would refuse as well; "prev-blk-not-found" and
        "node-stopping" (not permanent) say nothing of the block.
        """
        check_block(block, self.params)
        if self._verifier is not None:
            await self._verifier.prewarm(block.txs[1:], self.views(parent_hash).coins)

    @property
    def verifies_certified(self) -> bool:
        """Whether signatures in certified blocks are checked, too."""
        return self._certified_env is self._env and self._verifier is not None

    async def prewarm_certified(self, blocks: Sequence[Block]) -> None:
        """Check signatures of certified ``blocks``, which follow the tip, if they are to be checked at all.

        What does not hold is found again by ``execute``, which comes when the certificate is known to hold.
        """
        if self.verifies_certified and self._verifier is not None:
            txs = [tx for block in blocks for tx in block.txs]
            with suppress(RuleError):
                await self._verifier.prewarm(txs, self.coins)

    def execute(
        self, block: Block, parent_hash: bytes, *, certified: bool = False, formed: bool = False
    ) -> Connected:
        """Check and execute ``block`` on ``parent_hash`` and keep it as a candidate. Raises RuleError.

        ``certified``: a quorum's certificate covers it, so signatures were checked by its voters (and
        are again if this chain state verifies certified blocks);
        its form (``check_block``) must have been looked at here, for no hash covers a wrong body.
        ``formed``: ``check_block`` has accepted this very body.
        """
        known = self._candidates.get(block.hash)
        if known is not None:
            return known.connected
        views = self.views(parent_hash)
        env = self._certified_env if certified else self._env
        if not (certified or formed):
            check_block(block, self.params)
        connected = connect_block(block, views.tip, views.coins, views.state, env)
        self._candidates[block.hash] = Candidate(block, connected, parent_hash)
        return connected

    def check_proposal(self, block: Block) -> None:
        """Execute a block on the tip that lacks its proof of work, and keep nothing. Raises RuleError."""
        check_block(block, self.params)
        connect_block(block, self.tip, self.coins, self.state, self._env, needs_proof=False)

    def trim(self, needed: Container[bytes]) -> None:
        """Forget the candidates that are not ``needed``, by hash.

        Only the engine knows which ones votes and certificates may still refer to, and it bounds them.
        """
        for block_hash in [key for key in self._candidates if key not in needed]:
            del self._candidates[block_hash]

    # ---- committing ----------------------------------------------------------------------------

    def commit(self, block_hash: bytes, certificate: bytes | None) -> Candidate:
        """Write the candidate ``block_hash``, a child of the tip, to disk and move the tip.

        The store moves first and whole: a crash leaves the parent as the tip or this block, and memory
        never says anything that the disk does not.
        """
        candidate = self._candidates[block_hash]
        if candidate.parent_hash != self.tip.block_hash:
            raise StorageError("commit-out-of-order", "a commit must extend the tip", fix="report this")
        self._write(candidate, certificate)
        self.tip = candidate.connected.tip
        self._note_boundary()
        self.state_roots.connected(self.tip.height)
        self._forget_rivals(block_hash)
        return candidate

    def disconnect(self) -> Block:
        """Take the tip off, its coins and contract state with it, and return its block.

        The store moves first and whole, as in ``commit``. The body stays on disk. Raises StorageError if
        body or undo record are not there or damaged.
        """
        tip = self.tip
        block, undo = self.block(tip.block_hash), self.store.undo(tip.block_hash)
        if block is None or undo is None:
            raise StorageError(
                "undo-missing",
                f"block {tip.height} cannot be taken off: its body or undo record was pruned or lost",
                fix="remove the data directory and sync again, with more blocks kept if it was pruned",
            )
        try:
            coins, state = decode_undo(undo)
            parent = decode_parent(undo)
        except DecodeError as fault:
            raise StorageError(
                "undo-corrupt", f"the undo record of block {tip.height}: {fault}", fix="wattd store repair"
            ) from fault
        self.store.disconnect(tip.height, coins, state, parent.encode())
        self.tip = parent
        return block

    def save_body(self, block: Block) -> None:
        """Append a body to the segment files; durable after ``store.sync``."""
        self.store.put_body(block.hash, block_height(block), block.raw)

    def _write(self, candidate: Candidate, certificate: bytes | None) -> None:
        connected, block = candidate.connected, candidate.block
        # Only a pow chain takes blocks off again; there the candidate always stands on the tip.
        parent = self.tip if self.params.pow is not None and connected.tip.height > 0 else None
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
                undo=encode_undo(connected, parent),
                certificate=certificate,
                round_end=round_end_of(block, certificate, connected.state),
            )
        )

    def _forget_rivals(self, committed: bytes) -> None:
        """Keep only candidates that descend from the block that was just committed."""
        del self._candidates[committed]
        self._candidates = {
            block_hash: candidate
            for block_hash, candidate in self._candidates.items()
            if self._descends(candidate.parent_hash, committed)
        }

    def _descends(self, block_hash: bytes, ancestor: bytes) -> bool:
        while block_hash != ancestor:
            candidate = self._candidates.get(block_hash)
            if candidate is None:
                return False
            block_hash = candidate.parent_hash
        return True


def block_height(block: Block) -> int:
    """Return the height that the coinbase of a well-formed block names (BIP34).

    Whether it is the right one only connecting can tell. Raises RuleError "bad-cb-height".
    """
    script = block.txs[0].vin[0].script_sig
    head = script[0]
    height = head - 0x50 if 0x51 <= head <= 0x60 else int.from_bytes(script[1 : 1 + min(head, 5)], "little")
    if height >= LOCKTIME_THRESHOLD or not script.startswith(push_number(height)):
        raise RuleError("bad-cb-height", "the coinbase does not start with a height")
    return height
