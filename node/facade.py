"""What the RPC interface sees of the daemon (``node.rpc.backend.Backend``)."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256

from consensus.assemble import MAX_EXTRA_NONCE
from consensus.block import Block, BlockHeader
from consensus.chain import ChainTip
from consensus.coins import coin_amount
from consensus.errors import PeerFault, RuleError
from consensus.params import ChainParams
from consensus.ports import Contracts, StateView
from consensus.pow.rules import check_clock, pow_of
from consensus.pow.target import work_of
from consensus.rounds import set_record
from consensus.transaction import Transaction
from consensus.tx_rules import check_transaction
from consensus.undo import decode_undo
from contracts.governance import committee
from node.admission import Admission
from node.chainstate import ChainState
from node.clock import Clock
from node.driver import BftDriver
from node.engines import Engine
from node.limits import STALE_READY_INTERVALS
from node.mempool import ALREADY_PENDING, Mempool, Staging, try_operation
from node.mempool_store import MempoolKeeper
from node.miner import Miner
from node.mining_port import PowControl, Template
from node.pow_driver import PowDriver
from node.pruner import Pruner
from node.reveals import next_generation
from node.rpc.backend import (
    AcceptResult,
    BftStatus,
    CoinStats,
    Convicted,
    IndexView,
    KnownHeader,
    NetworkInfo,
    Pruning,
)
from node.sigcheck import SignatureVerifier
from p2p.api import PeerInfo
from p2p.messages import PROTOCOL_VERSION
from p2p.shell import Network


class NodeFacade:
    """Answers from the committed tip; everything here is read-only but ``submit`` and the stops."""

    def __init__(
        self,
        *,
        chain: ChainState,
        indexes: IndexView,
        contracts: Contracts,
        mempool: Mempool,
        admission: Admission,
        keeper: MempoolKeeper,
        verifier: SignatureVerifier,
        engine: Engine,
        pruner: Pruner,
        miner: Miner | None = None,
        network: Network,
        clock: Clock,
        user_agent: str,
        services: Callable[[], int],
        rebroadcast: Callable[[Transaction], None],
        stop: Callable[[BaseException | None], None],
    ) -> None:
        self._chain = chain
        self.indexes = indexes
        self._contracts = contracts
        self._mempool = mempool
        self._admission = admission
        self._keeper = keeper
        self._verifier = verifier
        self._engine = engine
        self._pruner = pruner
        self._miner = miner
        self._network = network
        self._clock = clock
        self._user_agent = user_agent
        self._services = services
        self._rebroadcast = rebroadcast
        self._stop = stop
        self._started_ms = clock.monotonic_ms()

    # ---- chain ---------------------------------------------------------------------------------

    @property
    def params(self) -> ChainParams:
        """Return the chain file."""
        return self._chain.params

    @property
    def chain_id(self) -> bytes:
        """Return the genesis block hash."""
        return self._chain.chain_id

    @property
    def mempool(self) -> Mempool:
        """Return the mempool."""
        return self._mempool

    def mempool_loaded(self) -> bool:
        """Return whether the mempool of the last run was read again."""
        return self._keeper.loaded

    async def save_mempool(self) -> str:
        """Write the mempool to its file; return the path. Raises StorageError."""
        return await self._keeper.save()

    def estimate_fee(self, target: int, /, *, conservative: bool) -> tuple[int | None, int]:
        """Return (base units per kvB, at least what the pool takes now; target that it is for)."""
        pool = self._mempool
        found = pool.estimator.estimate(target, pool.waiting(), conservative=conservative)
        rate = None if found.rate is None else max(found.rate, pool.min_fee(self._clock.now_s()))
        return rate, found.blocks

    def tip(self) -> ChainTip:
        """Return the committed tip."""
        return self._chain.tip

    def header(self, height: int, /) -> BlockHeader | None:
        """Return the header at ``height``."""
        raw = self._chain.store.header(height)
        return None if raw is None else BlockHeader.parse(raw)

    def block_hash(self, height: int, /) -> bytes | None:
        """Return the hash of the block at ``height``."""
        return self._chain.store.block_hash(height)

    def block(self, height: int, /) -> Block | None:
        """Read the block at ``height``."""
        block_hash = self._chain.store.block_hash(height)
        return None if block_hash is None else self._chain.block(block_hash)

    def height_of(self, block_hash: bytes, /) -> int | None:
        """Return the height of a committed block."""
        return self._chain.store.height_of(block_hash)

    def known_header(self, block_hash: bytes, /) -> KnownHeader | None:
        """Return a header, on the active chain or not."""
        if self._engine.pow is not None:
            record = self._chain.store.headers.get(block_hash)
            return record and KnownHeader(BlockHeader.parse(record.header), record.height, record.work)
        height = self.height_of(block_hash)
        header = None if height is None else self.header(height)
        if height is None or header is None:
            return None
        # Every block of a bft chain has the same target, so the work up to it is a product.
        return KnownHeader(header, height, work_of(header.bits) * (height + 1))

    def stored_block(self, block_hash: bytes, /) -> Block | None:
        """Read a block, on the active chain or not; None if its body is not here."""
        return self._chain.block(block_hash)

    def find_transaction(self, txid: bytes, /) -> tuple[int, int] | None:
        """Return (height, index in the block) of a confirmed transaction, if it is indexed."""
        return self._chain.store.find_tx(txid)

    def coin(self, prevout: bytes, /) -> bytes | None:
        """Return the coin value of a confirmed unspent output."""
        return self._chain.coins.get(prevout)

    def undo_coins(self, height: int, /) -> Mapping[bytes, bytes | None]:
        """Return the value before, per prevout that block ``height`` changed."""
        block_hash = self._chain.store.block_hash(height)
        undo = None if block_hash is None else self._chain.store.undo(block_hash)
        return {} if undo is None else decode_undo(undo)[0]

    def state(self) -> StateView:
        """Return the contract state at the tip."""
        return self._chain.state

    async def coin_stats(self) -> CoinStats:
        """Walk the UTXO set as of now on a worker thread."""
        tip, coins = self._chain.tip, self._chain.store.iterate_coins()
        accounting = self._contracts.accounting(self._chain.state)
        txouts, total, digest = await asyncio.to_thread(_walk, coins)
        return CoinStats(
            height=tip.height,
            block_hash=tip.block_hash,
            txouts=txouts,
            total_amount=total,
            hash_serialized=digest,
            contract_accounts=accounting["accounts"],
            payout_queue=accounting["payouts"],
            issued=tip.issued,
        )

    def pruning(self) -> Pruning:
        """Return what pruning has taken and whether it goes on."""
        store, pruner = self._chain.store, self._pruner
        return Pruning(store.pruned_below, pruner.is_on, pruner.target_bytes)

    def size_on_disk(self) -> int:
        """Return the bytes that blocks, undo data and the database take."""
        sizes = self._chain.store.sizes()
        return sizes.segments + sizes.index

    def certificate(self, height: int, /) -> bytes | None:
        """Return the encoded commit certificate that covers block ``height``."""
        return self._chain.store.certificate(height)

    def round_end(self, height: int, /) -> bytes | None:
        """Return what proves the block that ended a round at ``height``, None for others."""
        return self._chain.store.round_end(height)

    # ---- network and engine --------------------------------------------------------------------

    def peers(self) -> Sequence[PeerInfo]:
        """Return the connected peers; their times are of ``Clock.monotonic_ms``."""
        return self._network.peers()

    def network_info(self) -> NetworkInfo:
        """Return how we appear on the wire."""
        return NetworkInfo(
            user_agent=self._user_agent,
            protocol_version=PROTOCOL_VERSION,
            services=self._services(),
            identity=self._network.identity,
            listen=self._network.listen_address,
        )

    @property
    def pow(self) -> PowControl | None:
        """Return what a proof-of-work chain lets its operators and miners do; None on a bft chain."""
        return self._engine.pow

    @property
    def miner(self) -> Miner | None:
        """Return the miner inside the daemon; None on a bft chain."""
        return self._miner

    def template_of(self, transactions: Sequence[Transaction], script: bytes, /) -> Template:
        """Assemble a block on the tip of a proof-of-work chain of these transactions, parents first.

        Raises RuleError if one is refused or does not fit.
        """
        for tx in transactions:
            check_transaction(tx, self._chain.params.ledger.max_money)
            self._contracts.check_payload(tx)
        now_s = self._clock.now_s()
        made = self._chain.template(transactions, now_s, script, bytes(MAX_EXTRA_NONCE))
        for _, fault in made.refused:
            raise fault
        if len(made.block.txs) != 1 + len(transactions):
            raise RuleError("bad-blk-length", "they do not fit one block", permanent=False)
        check_clock(made.block.header, now_s, self._chain.params)
        return Template(self._chain.tip.height + 1, made)

    async def check_proposal(self, block: Block, /) -> None:
        """Judge a block on the tip of a proof-of-work chain that lacks its proof. Raises RuleError."""
        if self._chain.wants_prewarm(block):
            await self._chain.prewarm(block, self._chain.tip.block_hash)
        self._chain.check_proposal(block)
        check_clock(block.header, self._clock.now_s(), self._chain.params)

    def bft_status(self) -> BftStatus:
        """Return where the engine stands. Raises RuleError "wrong-engine" on a proof-of-work chain."""
        driver = self._bft()
        now = driver.status()
        voters = self._chain.round.validator_set
        return BftStatus(
            role=self._role(now["role"]),
            round=voters.round,
            term=now["term"],
            leader=now["leader"],
            index=now["index"],
            committed_height=now["committed_height"],
            prepared_height=now["lock"]["height"],
            names=tuple(validator.name for validator in voters.validators),
            faults_tolerated=voters.f,
            quorum=voters.q,
            details=now,
        )

    def bft_evidence(self) -> Sequence[Convicted]:
        """Return the contradictions of validators that this node keeps, oldest first."""
        chain, state = self._chain, self._chain.state
        found = []
        for kept in self._bft().evidence:
            signers = set_record(state, chain.params, chain.chain_id, kept.round)
            if signers is None:
                continue  # of a round that the chain here has yet to come to: it was put back
            offender = kept.evidence.offender
            entry = committee.entry(state, chain.params, signers.accounts[offender])
            name = "" if entry is None else entry.name
            found.append(Convicted(kept, signers.keys[offender], signers.accounts[offender], name))
        return found

    def reveal_chain(self, length: int, generation: int | None, /) -> tuple[int, bytes]:
        """Return (generation, top) of a reveal chain of this node's vote key, to be registered."""
        reveals = self._bft().reveals
        if generation is None:
            generation = next_generation(self._chain.state, self._chain.params, reveals.vote_key)
        return generation, reveals.chain(generation, length).top

    def _bft(self) -> BftDriver:
        if self._engine.bft is None:
            raise RuleError("wrong-engine", "nobody votes on a proof-of-work chain", permanent=False)
        return self._engine.bft

    def _role(self, role: str) -> str:
        return "learner" if role == "observer" and self._engine.is_validator else role

    def is_ready(self) -> tuple[bool, str]:
        """Return whether blocks advance, and else why not."""
        if self._engine.pow is not None:
            return self._is_pow_ready(self._engine.pow)
        driver = self._bft()
        last_ms = driver.last_commit_ms
        age_ms = 0 if last_ms is None else self._clock.monotonic_ms() - last_ms
        if last_ms is not None and age_ms <= driver.stall_limit_ms:
            return True, ""
        when = "since the start" if last_ms is None else f"for {age_ms // 1000} s"
        return False, f"no block was committed {when}: {driver.status()['waiting']}"

    def _is_pow_ready(self, driver: PowDriver) -> tuple[bool, str]:
        """A proof-of-work node is ready with the best header connected and a tip that is not stale."""
        tip = self._chain.tip
        if not driver.is_synced:
            return False, f"connecting blocks, {tip.height} of {driver.headers_height}"
        rules = pow_of(self._chain.params)
        age_s = self._clock.now_s() - tip.time_s
        if age_s > STALE_READY_INTERVALS * rules.spacing_s:
            return False, f"the tip is {age_s} s old, blocks are due every {rules.spacing_s} s"
        return True, ""

    # ---- transactions --------------------------------------------------------------------------

    async def submit(self, raw: bytes, /) -> bytes:
        """Admit a transaction, relay it and return its txid. Raises DecodeError or RuleError."""
        tx = Transaction.parse(raw)
        [fault] = await self.submit_many([tx], [0])
        if fault is not None:
            raise fault
        return tx.txid

    async def submit_many(
        self, txs: Sequence[Transaction], max_fee_rates: Sequence[int], /
    ) -> list[PeerFault | None]:
        """Admit transactions in this order and relay them; return why each was refused, None where not."""
        faults: list[PeerFault | None] = [None] * len(txs)
        wanted: list[int] = []
        for at, tx in enumerate(txs):
            if self._mempool.get(tx.txid) is not None:
                self._rebroadcast(tx)
            elif self._chain.store.find_tx(tx.txid) is not None:
                faults[at] = RuleError("txn-already-confirmed", "it is in the chain", permanent=False)
            else:
                wanted.append(at)
        verdicts = await self._admission.submit_many(
            [txs[at] for at in wanted], [max_fee_rates[at] for at in wanted]
        )
        for at, fault in zip(wanted, verdicts, strict=True):
            # A peer relayed it, or another client sent it, while it waited: then it is where it should be.
            if fault is not None and fault.code != ALREADY_PENDING:
                faults[at] = fault
        return faults

    async def test_accept(self, raws: Sequence[bytes], /) -> Sequence[AcceptResult]:
        """Judge transactions, each on the tip plus those before it, without admitting any.

        Signatures are checked on a worker first; then all are judged at one instant, since the tip
        may have moved meanwhile.
        """
        txs = [Transaction.parse(raw) for raw in raws]
        faults = await self._signature_faults(txs)
        staging, now_s = Staging(), self._clock.now_s()
        session = self._mempool.trial(now_s)
        results: list[AcceptResult] = []
        for tx in txs:
            fee: int | None = None
            try:
                entry = self._mempool.check(tx, staging, now_s)
                fee = entry.fee
                fault = faults[tx.wtxid]
                if fault is not None:
                    raise fault
                if entry.account is not None:
                    try_operation(session, entry)
            except RuleError as refusal:
                results.append(AcceptResult(tx, fee, refusal))
                continue
            staging.add(entry)
            results.append(AcceptResult(tx, fee, None))
        return results

    async def _signature_faults(self, txs: Sequence[Transaction]) -> dict[bytes, RuleError | None]:
        """Return per wtxid what keeps it from being valid (inputs, form, signatures), None if nothing."""
        staging, now_s = Staging(), self._clock.now_s()
        faults: dict[bytes, RuleError | None] = {}
        entries = []
        for tx in txs:
            try:
                entry = self._mempool.check(tx, staging, now_s)
            except RuleError as refusal:
                faults.setdefault(tx.wtxid, refusal)
                continue
            staging.entries[tx.txid] = entry  # only as a parent: rivals are for the judgement below
            entries.append(entry)
            faults[tx.wtxid] = None
        checked = await self._verifier.check_many([(entry.tx, entry.spent) for entry in entries])
        return faults | checked

    # ---- process -------------------------------------------------------------------------------

    def now_s(self) -> int:
        """Return chain time."""
        return self._clock.now_s()

    def uptime_s(self) -> int:
        """Return real seconds since the start."""
        return (self._clock.monotonic_ms() - self._started_ms) // 1000

    def request_stop(self) -> None:
        """Begin a graceful stop and return at once."""
        self._stop(None)

    def fatal(self, error: BaseException, /) -> None:
        """Stop the daemon with a non-zero exit."""
        self._stop(error)


def _walk(coins: Iterator[tuple[bytes, bytes]]) -> tuple[int, int, bytes]:
    """Return (number of coins, their sum, SHA256d over all key-value pairs in key order)."""
    count = total = 0
    inner = sha256()
    for prevout, coin in coins:
        count += 1
        total += coin_amount(coin)
        inner.update(prevout + len(coin).to_bytes(4, "little") + coin)
    return count, total, sha256(inner.digest()).digest()
