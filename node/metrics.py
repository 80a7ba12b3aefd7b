"""Prometheus metrics of one node. Values that the node knows anyway are read when they are asked for.

Counting is a few lines of our own; the Prometheus client, which brings a web server and takes long to
load, is imported when somebody asks for the first time.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from node.clock import Clock
from node.limits import LOOP_LAG_INTERVAL_S
from node.rpc.backend import Backend

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

RPC_BUCKETS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5)


class Count:
    """What only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Count ``amount`` more."""
        self.value += amount


class Durations:
    """How many durations fell into each bucket of RPC_BUCKETS_S, the last for all longer ones."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(RPC_BUCKETS_S) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(RPC_BUCKETS_S, seconds)] += 1
        self.total_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, how many were at most that long), as Prometheus wants them."""
        found, below = [], 0
        for bound, count in zip((*map(str, RPC_BUCKETS_S), "+Inf"), self.counts, strict=True):
            below += count
            found.append((bound, float(below)))
        return found


Value = TypeVar("Value", Count, Durations)


class Labelled(Generic[Value]):
    """One ``Value`` per value of a label."""

    def __init__(self, kind: Callable[[], Value]) -> None:
        self._kind: Callable[[], Value] = kind
        self._values: dict[str, Value] = {}

    def labels(self, label: object) -> Value:
        """Return the one of ``label``."""
        key = str(label)
        value = self._values.get(key)
        if value is None:
            value = self._values[key] = self._kind()
        return value

    def items(self) -> Iterable[tuple[str, Value]]:
        """Return (label, value) pairs."""
        return self._values.items()


class Metrics:
    """What the node counts: driver, admission and RPC feed it; gauges are read at each scrape."""

    def __init__(self) -> None:
        self.blocks = Count()
        self.transactions = Count()
        self.transactions_accepted = Count()
        self.transactions_refused = Count()
        self.double_spends = Count()
        self.blocks_disconnected = Count()
        self.alarms = Labelled(Count)
        self.rpc_seconds = Labelled(Durations)
        self.rpc_errors = Labelled(Count)
        self.rpc_refused = Labelled(Count)
        self.loop_lag_s = 0.0
        self._node: Backend | None = None
        self._registry: CollectorRegistry | None = None

    def render(self, node: Backend) -> bytes:
        """Return all metrics in the Prometheus text format."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        self._node = node
        if self._registry is None:
            self._registry = CollectorRegistry()
            ProcessCollector(registry=self._registry)
            self._registry.register(self)
        return generate_latest(self._registry)

    def collect(self) -> Iterator["Metric"]:
        """Yield all families (``prometheus_client.registry.Collector``)."""
        yield from self._counters()
        if self._node is not None:
            yield from self._gauges(self._node)

    def describe(self) -> Sequence["Metric"]:
        """Return nothing: the names are this module's alone."""
        return ()

    def _counters(self) -> Iterator["Metric"]:
        from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily

        for name, text, count in (
            ("wattd_blocks_connected", "Blocks connected since the start", self.blocks),
            (
                "wattd_transactions_connected",
                "Transactions in connected blocks since the start",
                self.transactions,
            ),
            (
                "wattd_transactions_accepted",
                "Transactions admitted to the mempool",
                self.transactions_accepted,
            ),
            (
                "wattd_transactions_refused",
                "Transactions refused by the mempool",
                self.transactions_refused,
            ),
            (
                "wattd_double_spends",
                "Pending transactions whose output another signed transaction spends too",
                self.double_spends,
            ),
            (
                "wattd_blocks_disconnected",
                "Blocks that reorganisations took off since the start",
                self.blocks_disconnected,
            ),
        ):
            yield CounterMetricFamily(name, text, value=count.value)
        for name, text, label, counts in (
            ("wattd_rpc_errors", "RPC calls answered with an error", "code", self.rpc_errors),
            ("wattd_rpc_refused", "HTTP requests refused before a method ran", "status", self.rpc_refused),
            ("wattd_alarms", "Events that an operator must look at", "event", self.alarms),
        ):
            family = CounterMetricFamily(name, text, labels=[label])
            for key, count in counts.items():
                family.add_metric([key], count.value)
            yield family
        times = HistogramMetricFamily("wattd_rpc_seconds", "Time per RPC call", labels=["method"])
        for method, durations in self.rpc_seconds.items():
            times.add_metric([method], durations.buckets(), durations.total_s)
        yield times

    def _gauges(self, node: Backend) -> Iterator["Metric"]:
        from prometheus_client.metrics_core import GaugeMetricFamily

        tip, peers = node.tip(), node.peers()
        inbound = sum(peer.inbound for peer in peers)
        for name, text, value in (
            ("wattd_loop_lag_seconds", "Last measured delay of the event loop", self.loop_lag_s),
            ("wattd_height", "Height of the committed tip", tip.height),
            ("wattd_tip_time_seconds", "Block time of the committed tip", tip.time_s),
            *_engine_gauges(node),
            ("wattd_ready", "1 while blocks advance", node.is_ready()[0]),
            ("wattd_mempool_transactions", "Transactions that wait", node.mempool.count),
            ("wattd_mempool_bytes", "Bytes of the mempool's budget in use", node.mempool.bytes_used),
            ("wattd_uptime_seconds", "Seconds since the start", node.uptime_s()),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))
        family = GaugeMetricFamily("wattd_peers", "Connected peers", labels=["direction"])
        family.add_metric(["inbound"], inbound)
        family.add_metric(["outbound"], len(peers) - inbound)
        yield family
        family = GaugeMetricFamily("wattd_index_height", "Last block of an optional index", labels=["index"])
        for name, index in node.indexes.info().items():
            family.add_metric([name], index.best_height)
        yield family

    async def watch_loop(self) -> None:
        """Measure the event loop's lag until cancelled."""
        while True:
            due_s = Clock.monotonic_s() + LOOP_LAG_INTERVAL_S
            await asyncio.sleep(LOOP_LAG_INTERVAL_S)
            self.loop_lag_s = max(0.0, Clock.monotonic_s() - due_s)


def _engine_gauges(node: Backend) -> list[tuple[str, str, float]]:
    if node.pow is not None:
        gauges: list[tuple[str, str, float]] = [
            ("wattd_headers", "Height of the header with most work", node.pow.headers_height)
        ]
        if node.miner is not None:
            now = node.miner.status()
            gauges += [
                ("wattd_miner_hashes_per_second", "Measured over the last half minute", now.hashes_per_s),
                ("wattd_miner_blocks_found", "Blocks found here since the start", now.blocks_found),
            ]
        return gauges
    status = node.bft_status()
    return [
        ("wattd_term", "Current term of the engine", status.term),
        ("wattd_is_leader", "1 while this node leads", status.role == "leader"),
        ("wattd_round", "Number of the round", status.round),
        ("wattd_validators", "Validators of the round", len(status.names)),
        ("wattd_has_vote", "1 while this node may sign in the round", status.index is not None),
        ("wattd_evidence", "Contradictions of validators that are kept", status.details.get("evidence", 0)),
        ("wattd_validators_missing", "Validators not heard of", len(status.details.get("missing", ()))),
    ]
