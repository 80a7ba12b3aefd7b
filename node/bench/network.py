"""Figures of whole nodes: real processes, real sockets, real disks."""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from itertools import islice
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
from node.bench.traffic import POLL_S, Load, Payload, Watcher, drive
from node.rpc.client import RpcUnavailable
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

BATCH_TXS = 500
TRIAL_TXS = 16_000
"""They tell how many payments keep the network busy for LOAD_S, and warm it up."""

LOAD_S = 60.0
MOST_TXS = 10_000_000
PACED_S = 20.0
PACED_BATCH_TXS = 50
PACED_FRACTION = 0.5
"""Latency is taken at half the throughput that was found."""

SERVER_CACHE_BYTES = 256 << 20
"""Cache of each node under full load: that of a server, as in the published figures beside ours."""

STARTS = 5
LONG_CHAIN_BLOCKS = 100_000

BIGCHAINDB = "BigchainDB, 4 machines (published)"
BITCOIN_CORE = "Bitcoin Core, empty node (measured on a like machine)"
P99_LIMIT_S = 1.0
"""The latency that 99 of 100 payments keep at half the throughput."""


async def _under_load(progress: Progress) -> list[Result]:
    """Return throughput at full load, and latency at half of it, of four nodes on this machine."""
    source = make_source(COINS)
    with tempfile.TemporaryDirectory(prefix="wattd-bench-") as root:
        net = Testnet.create(Path(root), FOUNDERS, plan_for(source))
        net.set_cache(SERVER_CACHE_BYTES)
        async with net:
            stream = payments(source, genesis_prevouts(net), MOST_TXS)
            net.start_all()
            await net.wait_ready()
            watcher = Watcher(net, 0)

            async def run(count: int, size: int, rate: float | None) -> Load:
                progress(f"signing {count} payments")
                load = Payload.of(islice(stream, count), size)
                progress(f"sending {count} payments to four nodes")
                return await drive(net, watcher, load, rate)

            trial = await run(TRIAL_TXS, BATCH_TXS, None)
            count = int(trial.count / trial.elapsed_s * LOAD_S) // BATCH_TXS * BATCH_TXS
            full = await run(max(count, TRIAL_TXS), BATCH_TXS, None)
            rate = full.count / full.elapsed_s
            progress(f"{full.count} final after {full.elapsed_s:.1f} s, {rate:.0f} tx/s; now half of that")
            pace = rate * PACED_FRACTION
            paced = await run(int(pace * PACED_S), PACED_BATCH_TXS, pace)
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
