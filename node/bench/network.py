"""Figures of whole nodes: real processes, real sockets, real disks."""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from consensus.errors import LocalFault
from consensus.genesis import genesis_block
from consensus.transaction import outpoint
from contracts.api import EnergyContracts
from node.bench.grown import grow
from node.bench.load import Source, make_source, payments
from node.bench.registry import Benchmark, Progress, Result, less_is_better, more_is_better
from node.rpc.client import RpcUnavailable
from node.rpc.errors import RpcError
from node.testnet import ChainPlan, Founder, Testnet, tail_of_log

FOUNDERS = (
    Founder("grid", "grid-operator"),
    Founder("provider-1", "service-provider"),
    Founder("provider-2", "service-provider"),
    Founder("provider-3", "service-provider"),
)
COINS = 8_000
"""Chains of payments. They divide into whole rounds of batches, so each chain stays with one node and a
payment's parent was sent to the same node long before it."""

LOAD_TXS = 48_000
BATCH_TXS = 500
PACED_TXS = 16_000
PACED_BATCH_TXS = 50
PACED_FRACTION = 0.5
"""Latency is taken at half the throughput that was found."""

DRAIN_TIMEOUT_S = 60.0
POLL_S = 0.02
STARTS = 5
LONG_CHAIN_BLOCKS = 100_000

BIGCHAINDB = "BigchainDB, 4 machines (published)"
BITCOIN_CORE = "Bitcoin Core, empty node (measured on a like machine)"
P99_LIMIT_S = 1.0
"""The latency that 99 of 100 payments keep at half the throughput."""


@dataclass(slots=True)
class Load:
    """What one run under load gave. ``latencies_s`` is sorted."""

    count: int
    elapsed_s: float
    latencies_s: list[float]

    def percentile(self, fraction: float) -> float:
        """Return the latency below which ``fraction`` of the payments became final."""
        return self.latencies_s[min(len(self.latencies_s) - 1, int(fraction * len(self.latencies_s)))]


class Watcher:
    """Follows the chain of one node and notes when each transaction became final."""

    def __init__(self, net: Testnet, index: int) -> None:
        self._net = net
        self._index = index
        self._height = 0
        self.final_at: dict[str, float] = {}

    async def follow(self, wanted: int) -> None:
        """Return once ``wanted`` transactions are final. Raises LocalFault if the chain stops before."""
        moved_at = perf_counter()
        while len(self.final_at) < wanted:
            height = await self._net.call(self._index, "getblockcount")
            if height == self._height:
                if perf_counter() - moved_at > DRAIN_TIMEOUT_S:
                    raise LocalFault(
                        "bench-lost", f"{wanted - len(self.final_at)} payments never became final"
                    )
                await asyncio.sleep(POLL_S)
                continue
            moved_at = perf_counter()
            for number in range(self._height + 1, height + 1):
                block_hash = await self._net.call(self._index, "getblockhash", number)
                block = await self._net.call(self._index, "getblock", block_hash, 1)
                for txid in block["tx"][1:]:
                    self.final_at[txid] = moved_at
            self._height = height


@dataclass(slots=True)
class Payload:
    """Signed payments as (txid, raw), both hex, in the order in which they are to be sent."""

    items: list[tuple[str, str]]

    def batches(self, size: int) -> list[list[tuple[str, str]]]:
        """Cut into batches."""
        return [self.items[at : at + size] for at in range(0, len(self.items), size)]


async def drive(net: Testnet, watcher: Watcher, load: Payload, size: int, rate: float | None) -> Load:
    """Send all payments, at ``rate`` per second or as fast as they are taken, and wait for the end."""
    before = len(watcher.final_at)
    sent_at: dict[str, float] = {}
    batches = load.batches(size)
    started = perf_counter()
    following = asyncio.create_task(watcher.follow(before + len(load.items)))

    async def sender(node: int) -> None:
        client = await net.client(node)
        for number in range(node, len(batches), len(net.nodes)):
            if rate is not None:
                await asyncio.sleep(max(0.0, started + number * size / rate - perf_counter()))
            now = perf_counter()
            sent_at.update((txid, now) for txid, _ in batches[number])
            for reply in await client.batch([("sendrawtransaction", (raw,)) for _, raw in batches[number]]):
                if isinstance(reply, RpcError):
                    raise LocalFault("bench-refused", str(reply))

    try:
        await asyncio.gather(*(sender(node) for node in range(len(net.nodes))))
        await following
    finally:
        following.cancel()
    latencies = sorted(watcher.final_at[txid] - sent for txid, sent in sent_at.items())
    elapsed_s = max(watcher.final_at[txid] for txid in sent_at) - started
    return Load(len(load.items), elapsed_s, latencies)


async def _under_load(progress: Progress) -> list[Result]:
    """Return throughput at full load, and latency at half of it, of four nodes on this machine."""
    source = make_source(COINS)
    with tempfile.TemporaryDirectory(prefix="wattd-bench-") as root:
        net = Testnet.create(Path(root), FOUNDERS, plan_for(source))
        async with net:
            progress(f"signing {LOAD_TXS + PACED_TXS} payments")
            stream = payments(source, genesis_prevouts(net), LOAD_TXS + PACED_TXS)
            signed = [(tx.txid[::-1].hex(), tx.raw.hex()) for tx in stream]
            net.start_all()
            await net.wait_ready()
            watcher = Watcher(net, 0)
            progress(f"sending {LOAD_TXS} payments to four nodes")
            full = await drive(net, watcher, Payload(signed[:LOAD_TXS]), BATCH_TXS, None)
            rate = full.count / full.elapsed_s
            progress(f"{rate:.0f} tx/s final; now {PACED_TXS} at half of that")
            paced = await drive(
                net, watcher, Payload(signed[LOAD_TXS:]), PACED_BATCH_TXS, rate * PACED_FRACTION
            )
    return [
        more_is_better("bft_throughput", rate, "tx/s", BIGCHAINDB, 298.0),
        less_is_better("bft_latency_p50_s", paced.percentile(0.5), "s", BIGCHAINDB + ", 68 %", 2.85),
        less_is_better("bft_latency_p99_s", paced.percentile(0.99), "s", BIGCHAINDB + ", 99.7 %", 9.39),
        less_is_better("bft_latency_p99_s[limit]", paced.percentile(0.99), "s", "its limit", P99_LIMIT_S),
    ]


def plan_for(source: Source) -> ChainPlan:
    """Return a chain whose genesis funds the source."""
    return ChainPlan(name="bench", allocations=tuple(source.allocations()))


def genesis_prevouts(net: Testnet) -> list[bytes]:
    """Return the source's coins: the genesis outputs after those of the founders."""
    genesis = genesis_block(net.params, EnergyContracts(net.params))
    return [outpoint(genesis.txs[0].txid, len(net.nodes) + at) for at in range(COINS)]


async def _one_node(progress: Progress) -> list[Result]:
    """Return start-up time and resident memory of a node on an empty chain of its own."""
    starts, sizes = [], []
    with tempfile.TemporaryDirectory(prefix="wattd-bench-") as root:
        net = Testnet.create(Path(root), FOUNDERS[:1], ChainPlan(name="bench"))
        async with net:
            for _ in range(STARTS):
                begun = perf_counter()
                net.start(0)
                await until_live(net)
                starts.append(perf_counter() - begun)
                await net.wait_ready()
                sizes.append(resident_mib(net))
                await net.stop()
    progress(f"{STARTS} starts")
    return [
        less_is_better("node_resident_mib", median(sizes), "MiB", BITCOIN_CORE, 50e6 / 2**20),
        less_is_better("node_start_s", median(starts), "s", BITCOIN_CORE, 0.15),
    ]


async def _long_chain(progress: Progress) -> list[Result]:
    """Return how long a node on a long chain takes to start, beside one on an empty chain, in turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory(prefix="wattd-bench-") as root:
        net = Testnet.create(Path(root), FOUNDERS[:1], ChainPlan(name="bench"))
        nodes = net.add_follower("long", []), net.add_follower("empty", [])
        progress(f"building a chain of {LONG_CHAIN_BLOCKS} blocks, some minutes")
        grow(net, net.nodes[nodes[0]].config.datadir, ([] for _ in range(LONG_CHAIN_BLOCKS)))
        async with net:
            for _ in range(STARTS):
                for index, height, taken in zip(nodes, (LONG_CHAIN_BLOCKS, 0), seconds, strict=True):
                    begun = perf_counter()
                    net.start(index)
                    if await until_live(net, index) != height:
                        raise LocalFault("bench-lost", f"the node did not start at height {height}")
                    taken.append(perf_counter() - begun)
                    await net.end(index)
    long, empty = map(median, seconds)
    return [less_is_better("start_long_chain", long, "s", "an empty chain, in turns", empty)]


async def until_live(net: Testnet, index: int = 0) -> int:
    """Return the height that a node tells when it first answers. Raises LocalFault if its process ends."""
    while True:
        try:
            height: int = await net.call(index, "getblockcount")
        except RpcUnavailable:
            if not net.nodes[index].is_running:
                raise LocalFault("testnet-node-exited", tail_of_log(net.nodes[index])) from None
            await asyncio.sleep(POLL_S / 4)
        else:
            return height


def resident_mib(net: Testnet) -> float:
    """Return the resident memory of the only node's process."""
    process = net.nodes[0].process
    if process is None:
        raise LocalFault("bench-no-process", "the node is not running")
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LocalFault("bench-no-memory", "this system does not tell the resident memory of a process")


def _runner(
    measure: Callable[[Progress], Coroutine[Any, Any, list[Result]]],
) -> Callable[[Progress], list[Result]]:
    return lambda progress: asyncio.run(measure(progress))


BENCHMARKS = (
    Benchmark(
        ("bft_throughput", "bft_latency_p50_s", "bft_latency_p99_s"),
        "P2PKH payments through four nodes on this machine",
        _runner(_under_load),
    ),
    Benchmark(("node_resident_mib", "node_start_s"), "a node on an empty chain", _runner(_one_node)),
    Benchmark(
        ("start_long_chain",),
        f"start of a node on a chain of {LONG_CHAIN_BLOCKS} blocks",
        _runner(_long_chain),
    ),
)
