"""The composition root: wires rules, contracts, storage, network and interfaces into one daemon."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import uvloop

from cext import IMPLEMENTATION, sha_kernel
from consensus.block import Block
from consensus.chain import Connected
from consensus.chainfile import parse_chain_file
from consensus.errors import LocalFault, PeerFault
from consensus.genesis import genesis_block
from consensus.hashes import hash160
from consensus.params import ChainParams
from consensus.script.templates import p2pkh
from consensus.transaction import Transaction
from contracts.api import EnergyContracts
from node.admission import RESTORED, Admission, Job
from node.chainstate import ChainState
from node.clock import NANOSECONDS, Clock
from node.config import NodeConfig, mining_script, read_text
from node.dice import fraction
from node.engines import Parts, services_of, wire_engine
from node.events import Events
from node.facade import NodeFacade
from node.indexer import Indexer
from node.keyfile import read_keys
from node.limits import GC_GENERATIONS, GC_YOUNG_OBJECTS, STOP_BUDGET_S, THREAD_SWITCH_S
from node.logs import setup_logging
from node.mempool import DoubleSpend, Mempool
from node.mempool_store import MEMPOOL_NAME, MempoolKeeper
from node.metrics import Metrics
from node.miner import Miner
from node.pruner import MEBIBYTE, Pruner
from node.restarts import load_restarts
from node.rpc.auth import Cookie
from node.rpc.server import RpcServer
from node.sigcheck import SignatureVerifier
from node.store.migrate import log_migration
from node.version import VERSION
from p2p.messages import PROTOCOL_VERSION, Hello
from p2p.shell import Network
from storage.store import ChainStore

log = logging.getLogger("wattd")

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
        own_script = p2pkh(hash160(self.keys.payout_pubkey))
        self._mining_script = mining_script(config.mining, self.params, own_script)
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
        self._begin(self.indexer.run(), "indexer")
        self._begin(self.pruner.run(), "pruner")
        if self.miner is not None:
            self._begin(self.miner.run(), "miner")
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
            self.config.datadir,
            chain_id=genesis.hash,
            cache_bytes=self.config.cache_max_bytes,
            migrating=log_migration,
        )
        self._resources.callback(store.close)
        keep_bytes = self.config.prune_keep_mb * MEBIBYTE
        self.pruner = Pruner(store, keep_blocks=self.config.prune_keep_blocks, keep_bytes=keep_bytes)
        self.indexer = Indexer(store, tx_index=self.config.tx_index, address_index=self.config.address_index)
        self._resources.callback(self.indexer.close)
        verifier = SignatureVerifier(contracts)
        self._resources.callback(verifier.close)
        self.contracts, self.verifier = contracts, verifier
        trial = partial(contracts.open, metered=False)
        self.chain = ChainState(
            store,
            genesis,
            self.params,
            contracts,
            trial,
            verifier,
            verify_certified=self.config.verify_certified,
            restarts=load_restarts(self.config.datadir, genesis.hash),
        )
        self._resources.callback(self.chain.state_roots.close)
        self.chain.state_roots.run_in_background()
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
        self.engine = wire_engine(
            Parts(
                datadir=self.config.datadir,
                keys=self.keys,
                clock=self.clock,
                chain=self.chain,
                mempool=self.mempool,
                resources=self._resources,
                find_tx=self._find_tx,
                listener=self,
            )
        )
        self.peering, self.driver = self.engine.peering, self.engine.driver
        self.miner = self._make_miner()
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
        user_agent = f"wattd/{VERSION}"
        self.network = Network(
            self.keys.identity.reveal(),
            lambda: self._hello(self._services(), user_agent),
            self.peering,
            self.clock.monotonic_ms,
            fraction,
        )
        self.engine.attach(self.network, self.admission)
        self.facade = NodeFacade(
            chain=self.chain,
            indexes=self.indexer,
            contracts=self.contracts,
            mempool=self.mempool,
            admission=self.admission,
            keeper=self.keeper,
            verifier=self.verifier,
            engine=self.engine,
            pruner=self.pruner,
            miner=self.miner,
            network=self.network,
            clock=self.clock,
            user_agent=user_agent,
            services=self._services,
            rebroadcast=self.peering.rebroadcast,
            stop=self.stop,
        )

    def _services(self) -> int:
        """Return our service bits now: pruning and elections change them."""
        return services_of(self.chain, self.engine.me)

    def _make_miner(self) -> Miner | None:
        if self.engine.pow is None:
            return None
        miner = Miner(
            self.engine.pow,
            self.clock,
            script=self._mining_script,
            threads=self.config.mining.threads,
            enabled=self.config.mining.enabled,
            revision=lambda: self.mempool.revision,
        )
        self._resources.callback(miner.close)
        return miner

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
        self.pruner.on_commit()
        self.admission.retry_orphans(set(connected.txids))
        fields = {
            "height": connected.tip.height,
            "hash": block.hash[::-1].hex(),
            "txs": len(block.txs),
            "evicted": len(evicted),
        }
        if self.engine.bft is not None:
            fields["term"] = block.header.nonce
        log.info("block connected", extra=fields)

    def on_disconnect(self, block: Block) -> None:
        """Hear of a block that a reorganisation took off (``node.engines.EngineListener``)."""
        self.metrics.blocks_disconnected.inc()

    def on_returned(self, transactions: list[Transaction]) -> None:
        """Offer what a reorganisation left unconfirmed to the mempool again."""
        left = self.admission.offer(transactions, RESTORED)
        log.info(
            "reorganised",
            extra={"height": self.chain.tip.height, "returned": len(transactions), "dropped": len(left)},
        )

    def on_event(self, name: str, fields: dict[str, Any]) -> None:
        """Tell of what is worth knowing and needs no operator."""
        log.info("%s", name, extra=fields)
        self.events.publish(name, fields)

    def on_alarm(self, name: str, fields: dict[str, Any]) -> None:
        """Tell of what an operator must look at."""
        self.metrics.alarms.labels(name).inc()
        log.error("%s", name, extra=fields)
        self.events.publish(name, fields)

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
    """Read the chain file. Raises ConfigError with every problem."""
    return parse_chain_file(read_text(config.chain_file))


def settle() -> None:
    """Tune the interpreter: what the start has loaded is no garbage, and threads are let in soon.

    Transactions in a pool or block form no cycles, so walking through them every few hundred
    allocations finds nothing.
    """
    gc.freeze()
    gc.set_threshold(GC_YOUNG_OBJECTS, GC_GENERATIONS, GC_GENERATIONS)
    sys.setswitchinterval(THREAD_SWITCH_S)
