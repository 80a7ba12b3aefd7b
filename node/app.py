"""The composition root: wires rules, contracts, storage, network and interfaces into one daemon."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import uvloop

from cext import IMPLEMENTATION, sha_kernel
from consensus.bft.codec import decode_qc
from consensus.bft.config import Config, Timing, VoterSet, VoteSecret
from consensus.bft.state import CommittedTip, State, checkpoint, restore
from consensus.bft.wal import decode_record, encode_record
from consensus.block import Block
from consensus.chain import Connected
from consensus.chainfile import parse_chain_file
from consensus.errors import ConfigError, LocalFault, PeerFault
from consensus.genesis import genesis_block
from consensus.params import BftParams, ChainParams
from consensus.transaction import Transaction
from consensus.validators import initial_set
from contracts.api import EnergyContracts
from node.admission import Admission, Job
from node.bft_wire import BftPeering
from node.chainstate import ChainState
from node.clock import NANOSECONDS, Clock
from node.config import NodeConfig, read_text
from node.dice import fraction
from node.driver import BftDriver, proposal_of
from node.events import Events
from node.facade import NodeFacade
from node.keyfile import NodeKeys, read_keys
from node.limits import GC_GENERATIONS, GC_YOUNG_OBJECTS, STOP_BUDGET_S, THREAD_SWITCH_S
from node.logs import setup_logging
from node.mempool import DoubleSpend, Mempool
from node.mempool_store import MEMPOOL_NAME, MempoolKeeper
from node.metrics import Metrics
from node.rpc.auth import Cookie
from node.rpc.server import RpcServer
from node.sigcheck import SignatureVerifier
from node.version import VERSION
from p2p.limits import SYNC_LIMITED_BLOCKS
from p2p.messages import PROTOCOL_VERSION, SERVICE_BLOCKS, SERVICE_LIMITED, SERVICE_VALIDATOR, Hello
from p2p.shell import Network
from storage.store import ChainStore
from storage.wal import LogState, VoteLog

log = logging.getLogger("wattd")

VOTE_LOG_NAME = "votes.wal"
EXIT_OK = 0
EXIT_BUG = 70


def run_node(config: NodeConfig) -> int:
    """Run the daemon until it is told to stop; return its exit status.

    Raises LocalFault for what the operator can mend: configuration, keys, disk, ports.
    """
    setup_logging(config.log)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(config))


async def _run(config: NodeConfig) -> int:
    daemon = Daemon(config)
    try:
        await daemon.start()
        settle()
        error = await daemon.wait()
    finally:
        in_time = await daemon.close_within(STOP_BUDGET_S)
    if error is None and in_time:
        return EXIT_OK
    if isinstance(error, LocalFault):
        raise error
    if error is not None:
        log.critical("stopped by a bug", exc_info=error)
    return EXIT_BUG


class Daemon:
    """One running node: everything it is made of, its start and its stop."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        clock = config.clock
        self.clock = Clock(clock.speed, clock.real_origin_s * NANOSECONDS, clock.chain_origin_s)
        self.params = load_params(config)
        self.keys = read_keys(config.keys_file)
        self.metrics = Metrics()
        self.events = Events()
        self._resources = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    # ---- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the data directory, join the network, serve clients."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, None)
        self._open_chain()
        self._wire()
        await self.network.start(self.config.listen.host, self.config.listen.port)
        self._resources.push_async_callback(self.network.stop)
        for peer in self.config.peers:
            self.network.add_peer(peer.address.host, peer.address.port, peer.identity)
        cookie = Cookie(self.config.cookie_file)
        self._resources.callback(cookie.remove)
        rpc = RpcServer(self.facade, self.config.rpc, cookie, self.metrics)
        await rpc.start()
        self._resources.push_async_callback(rpc.stop)
        self._resources.push_async_callback(self.keeper.close)
        self._begin(self.admission.run(), "admission")
        self._begin(self.keeper.run(), "mempool keeper")
        self._begin(self.peering.run(), "peering")
        self._begin(self.metrics.watch_loop(), "metrics")
        if self.network.failed is not None:
            self.network.failed.add_done_callback(self._network_failed)
        self.driver.start()
        self._log_start()

    async def wait(self) -> BaseException | None:
        """Return when the daemon must stop: None for a request, else the reason."""
        return await self._stopped

    def stop(self, error: BaseException | None) -> None:
        """Begin to stop; the first reason counts."""
        if not self._stopped.done():
            self._stopped.set_result(error)

    async def close(self) -> None:
        """Stop tasks, then close what was opened, last first."""
        if hasattr(self, "driver"):
            self.driver.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._resources.aclose()
        log.info("stopped")

    async def close_within(self, budget_s: float) -> bool:
        """Close, and return whether that took no longer; what does not end by then is left."""
        try:
            async with asyncio.timeout(budget_s):
                await self.close()
        except TimeoutError:
            log.error("the stop took too long", extra={"budget_s": budget_s})
            return False
        return True

    # ---- wiring --------------------------------------------------------------------------------

    def _open_chain(self) -> None:
        contracts = EnergyContracts(self.params)
        genesis = genesis_block(self.params, contracts)
        store = ChainStore.open(
            self.config.datadir, chain_id=genesis.hash, cache_bytes=self.config.cache_max_bytes
        )
        self._resources.callback(store.close)
        verifier = SignatureVerifier(contracts)
        self._resources.callback(verifier.close)
        self.contracts, self.verifier = contracts, verifier
        trial = partial(contracts.open, metered=False)
        self.chain = ChainState(store, genesis, self.params, contracts, trial, verifier)
        self.mempool = Mempool(
            self.chain.ground(),
            contracts,
            self.params.ledger,
            max_bytes=self.config.mempool_max_bytes,
            expiry_s=self.config.mempool_expiry_s,
            full_rbf=self.config.mempool_full_rbf,
            on_double_spend=self._on_double_spend,
        )

    def _wire(self) -> None:
        validators = self.params.bft.validators
        identities = [validator.identity_key for validator in validators]
        self.peering = BftPeering(self.chain, self.mempool, self.clock, identities)
        own = own_index(self.params, self.keys)
        vote_log, state = self._open_engine(own)
        me = state.config.me
        self.admission = Admission(
            self.mempool,
            self.verifier,
            self.clock,
            on_accepted=self._on_accepted,
            on_refused=self._on_refused,
            on_orphan=self.peering.on_orphan,
        )
        self.keeper = MempoolKeeper(
            self.config.datadir / MEMPOOL_NAME,
            self.mempool,
            self.admission,
            self.clock,
            self.chain.chain_id,
            expiry_s=self.config.mempool_expiry_s,
            persist=self.config.mempool_persist,
        )
        self.driver = BftDriver(
            state,
            me=me,
            chain=self.chain,
            mempool=self.mempool,
            find_tx=self._find_tx,
            clock=self.clock,
            vote_log=vote_log,
            links=self.peering,
            listener=self,
        )
        services, user_agent = services_of(self.chain, me), f"wattd/{VERSION}"
        self.network = Network(
            self.keys.identity.reveal(),
            lambda: self._hello(services, user_agent),
            self.peering,
            self.clock.monotonic_ms,
            fraction,
        )
        self.peering.attach(self.network, self.driver, self.admission)
        self.facade = NodeFacade(
            chain=self.chain,
            contracts=self.contracts,
            mempool=self.mempool,
            admission=self.admission,
            keeper=self.keeper,
            verifier=self.verifier,
            driver=self.driver,
            network=self.network,
            clock=self.clock,
            user_agent=user_agent,
            services=services,
            is_validator=own is not None,
            rebroadcast=self.peering.rebroadcast,
            stop=self.stop,
        )

    def _open_engine(self, own: int | None) -> tuple[VoteLog, State]:
        """Restore the engine. A validator that may have forgotten what it signed becomes a learner."""
        vote_log, records = VoteLog.open(self.config.datadir / VOTE_LOG_NAME)
        self._resources.callback(vote_log.close)
        tip = self.chain.tip
        doubt = "" if own is None else reason_not_to_vote(vote_log.state, tip.height)
        if doubt:
            log.error("this validator does not vote: %s", doubt, extra={"file": str(vote_log.path)})
        me = None if doubt else own
        config = Config(
            chain_id=self.chain.chain_id,
            validator_set=VoterSet.of(initial_set(self.params)),
            me=me,
            secret=None if me is None else VoteSecret(self.keys.vote.reveal()),
            seed=self.chain.chain_id,
            timing=timing_of(self.params.bft),
        )
        certificate = self.chain.store.certificate(tip.height)
        qc = config.electorate.base if certificate is None else decode_qc(certificate)
        bodies = [
            (height, proposal_of(Block.parse(raw)))
            for height, raw in self.chain.store.uncommitted_bodies().values()
        ]
        committed = CommittedTip(tip.height, tip.block_hash, qc)
        try:
            promises = [decode_record(*record) for record in records] if me is not None else []
            state = restore(config, promises, committed, bodies)
        except PeerFault as fault:
            log.error("this validator does not vote: its vote log makes no sense (%s)", fault)
            return vote_log, restore(replace(config, me=None, secret=None), (), committed, bodies)
        if me is not None and vote_log.state is LogState.EMPTY:
            vote_log.rewrite(encode_record(record) for record in checkpoint(state))
        return vote_log, state

    def _begin(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    # ---- events --------------------------------------------------------------------------------

    def on_commit(self, block: Block, connected: Connected, evicted: list[Transaction]) -> None:
        """Follow a new tip (``node.driver.Listener``)."""
        self.metrics.blocks.inc()
        self.metrics.transactions.inc(len(block.txs))
        self.peering.announce_tip()
        self.admission.retry_orphans(set(connected.txids))
        log.info(
            "block connected",
            extra={
                "height": connected.tip.height,
                "hash": block.hash[::-1].hex(),
                "txs": len(block.txs),
                "term": block.header.nonce,
                "evicted": len(evicted),
            },
        )

    def on_fatal(self, error: BaseException) -> None:
        """Stop with this reason (``node.driver.Listener``)."""
        self.stop(error)

    def _on_accepted(self, jobs: list[Job]) -> None:
        self.metrics.transactions_accepted.inc(len(jobs))
        self.peering.on_accepted(jobs)
        self.driver.supply([job.tx for job in jobs])
        self.driver.report_work()

    def _on_refused(self, job: Job, fault: PeerFault, blame: bool) -> None:
        self.metrics.transactions_refused.inc()
        self.peering.on_refused(job, fault, blame)

    def _on_double_spend(self, event: DoubleSpend) -> None:
        fields = {
            "txid": event.first[::-1].hex(),
            "rival": event.second[::-1].hex(),
            "spends": f"{event.prevout[:32][::-1].hex()}:{int.from_bytes(event.prevout[32:], 'little')}",
            "confirmed": event.confirmed,
        }
        self.metrics.double_spends.inc()
        log.warning("double spend", extra=fields)
        self.events.publish("double-spend", fields)

    def _find_tx(self, wtxid: bytes) -> Transaction | None:
        return self.mempool.by_wtxid(wtxid) or self.admission.find(wtxid)

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self.stop(task.exception())

    def _network_failed(self, failed: "asyncio.Future[None]") -> None:
        if not failed.cancelled() and failed.exception() is not None:
            self.stop(failed.exception())

    def _hello(self, services: int, user_agent: str) -> Hello:
        tip = self.chain.tip
        return Hello(
            version=PROTOCOL_VERSION,
            chain_id=self.chain.chain_id,
            identity=self.keys.identity_key,
            height=tip.height,
            tip_hash=tip.block_hash,
            services=services,
            user_agent=user_agent,
            time_s=self.clock.now_s(),
            listen_port=0,
        )

    def _log_start(self) -> None:
        log.info(
            "started",
            extra={
                "version": VERSION,
                "kernels": f"{IMPLEMENTATION}/{sha_kernel()}",
                "chain": self.params.name,
                "chain_id": self.chain.chain_id[::-1].hex(),
                "height": self.chain.tip.height,
                "p2p": "{}:{}".format(*self.network.listen_address),
            },
        )


# ---- pieces that need no daemon ----------------------------------------------------------------


def load_params(config: NodeConfig) -> ChainParams:
    """Read the chain file. Raises ConfigError with every problem, and for an engine that this node lacks."""
    params = parse_chain_file(read_text(config.chain_file))
    if params.engine != "bft":
        problem = f"chain.engine: this node runs bft chains, not {params.engine}"
        raise ConfigError("bad-chain-file", (problem,))
    return params


def settle() -> None:
    """Tune the interpreter: what the start has loaded is no garbage, and threads are let in soon.

    Transactions in a pool or block form no cycles, so walking through them every few hundred
    allocations finds nothing.
    """
    gc.freeze()
    gc.set_threshold(GC_YOUNG_OBJECTS, GC_GENERATIONS, GC_GENERATIONS)
    sys.setswitchinterval(THREAD_SWITCH_S)


def own_index(params: ChainParams, keys: NodeKeys) -> int | None:
    """Return our place in the validator set, None for a follower.

    Raises ConfigError if only one of the two keys is that of a validator.
    """
    for index, validator in enumerate(params.bft.validators):
        same_vote = validator.vote_key == keys.vote_key
        if same_vote != (validator.identity_key == keys.identity_key):
            raise ConfigError(
                "wrong-keys",
                (f"keys.toml: one of vote and identity key is that of {validator.name}, the other is not",),
            )
        if same_vote:
            return index
    return None


def services_of(chain: ChainState, me: int | None) -> int:
    """Return our service bits. A pruned chain serves its last blocks, once it has enough of them."""
    services = 0 if me is None else SERVICE_VALIDATOR
    if not chain.store.pruned_below:
        return services | SERVICE_BLOCKS
    held = chain.tip.height + 1 - chain.store.pruned_below
    return services | (SERVICE_LIMITED if held >= SYNC_LIMITED_BLOCKS else 0)


def timing_of(params: BftParams) -> Timing:
    """Return the engine's timing as the chain file sets it."""
    return Timing(
        progress_timeout_ms=params.progress_timeout_ms,
        slot_step_ms=params.slot_step_ms,
        idle_interval_ms=params.idle_interval_ms,
        block_interval_ms=params.block_interval_ms,
        min_batch_txs=params.min_batch_txs,
        tenure_blocks=params.tenure_blocks,
    )


def reason_not_to_vote(found: LogState, height: int) -> str:
    """Return why a validator must not sign with this vote log; "" if it may.

    Its first start leaves a record, so an empty log on a chain that has grown was lost
    (CONSENSUS.md, section 2.7: learner mode).
    """
    if found is LogState.CORRUPT:
        return "its vote log is damaged, so it may have forgotten what it signed"
    if found is LogState.EMPTY and height > 0:
        return "its vote log is missing, so it may have forgotten what it signed"
    return ""
