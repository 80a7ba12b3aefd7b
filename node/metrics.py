"""Prometheus metrics of one node. Values that the node knows anyway are read when they are asked for."""

import asyncio

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from node.clock import Clock
from node.limits import LOOP_LAG_INTERVAL_S
from node.rpc.backend import Backend

RPC_BUCKETS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5)


class Metrics:
    """The node's registry. The driver feeds the counters; gauges are set at each scrape."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series that nobody reads
        self.registry = CollectorRegistry()
        reg = self.registry
        self.blocks = Counter("wattd_blocks_connected", "Blocks connected since the start", registry=reg)
        self.transactions = Counter(
            "wattd_transactions_connected", "Transactions in connected blocks since the start", registry=reg
        )
        self.transactions_accepted = Counter(
            "wattd_transactions_accepted", "Transactions admitted to the mempool", registry=reg
        )
        self.transactions_refused = Counter(
            "wattd_transactions_refused", "Transactions refused by the mempool", registry=reg
        )
        self.rpc_seconds = Histogram(
            "wattd_rpc_seconds", "Time per RPC call", ["method"], registry=reg, buckets=RPC_BUCKETS_S
        )
        self.rpc_errors = Counter(
            "wattd_rpc_errors", "RPC calls answered with an error", ["code"], registry=reg
        )
        self.rpc_refused = Counter(
            "wattd_rpc_refused", "HTTP requests refused before a method ran", ["status"], registry=reg
        )
        self.loop_lag = Gauge("wattd_loop_lag_seconds", "Last measured delay of the event loop", registry=reg)
        self._height = Gauge("wattd_height", "Height of the committed tip", registry=reg)
        self._tip_time = Gauge("wattd_tip_time_seconds", "Block time of the committed tip", registry=reg)
        self._term = Gauge("wattd_term", "Current term of the engine", registry=reg)
        self._leader = Gauge("wattd_is_leader", "1 while this node leads", registry=reg)
        self._ready = Gauge("wattd_ready", "1 while blocks advance", registry=reg)
        self._peers = Gauge("wattd_peers", "Connected peers", ["direction"], registry=reg)
        self._mempool_count = Gauge("wattd_mempool_transactions", "Transactions that wait", registry=reg)
        self._mempool_bytes = Gauge(
            "wattd_mempool_bytes", "Bytes of the mempool's budget in use", registry=reg
        )
        self._uptime = Gauge("wattd_uptime_seconds", "Seconds since the start", registry=reg)
        ProcessCollector(registry=reg)

    def render(self, node: Backend) -> bytes:
        """Return all metrics in the Prometheus text format."""
        tip, status, peers = node.tip(), node.bft_status(), node.peers()
        inbound = sum(peer.inbound for peer in peers)
        self._height.set(tip.height)
        self._tip_time.set(tip.time_s)
        self._term.set(status.term)
        self._leader.set(status.role == "leader")
        self._ready.set(node.is_ready()[0])
        self._peers.labels("inbound").set(inbound)
        self._peers.labels("outbound").set(len(peers) - inbound)
        self._mempool_count.set(node.mempool.count)
        self._mempool_bytes.set(node.mempool.bytes_used)
        self._uptime.set(node.uptime_s())
        return generate_latest(self.registry)

    async def watch_loop(self) -> None:
        """Measure the event loop's lag until cancelled."""
        while True:
            due_s = Clock.monotonic_s() + LOOP_LAG_INTERVAL_S
            await asyncio.sleep(LOOP_LAG_INTERVAL_S)
            self.loop_lag.set(max(0.0, Clock.monotonic_s() - due_s))
