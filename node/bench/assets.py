"""Transactions that carry an asset's data, 765 bytes each as in BigchainDB's benchmark, through four nodes.

However many there are, memory is bounded: they are signed into a file, so many are on their way at a time,
and of those that are final only their latencies are kept, in bins.
"""

import asyncio
import os
import tempfile
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from consensus.errors import LocalFault
from consensus.transaction import Transaction, TxIn, TxOut, hash_hex, outpoint
from contracts.operations import payload_script
from node.bench.load import COIN_VALUE, SEQUENCE, Source, make_source
from node.bench.network import (
    BIGCHAINDB,
    COINS,
    FOUNDERS,
    genesis_prevouts,
    plan_for,
)
from node.bench.registry import Benchmark, Progress, Result, less_is_better, more_is_better
from node.bench.traffic import DRAIN_TIMEOUT_S, POLL_S
from node.rpc.errors import RpcError
from node.testnet import LocalNode, Testnet

TX_BYTES = 765
FEE = 800
BURST_TXS = 16_000
"""As many as BigchainDB's burst."""

BATCH_TXS = 250
IN_FLIGHT_TXS = 6_000
"""Sent and not final: no mempool is full, and no chain of payments meets the limit of ancestors."""

Batch = list[tuple[str, str]]
"""(txid, raw), both hex."""

REPORTS = 50
MEBIBYTE = 1 << 20

BINS_PER_S = 100
MAX_LATENCY_S = 600

MEAN_TX_S, MEDIAN_TX_S, BURST_TX_S = 298.0, 320.0, 889.0
LATENCIES = ((0.68, 2.85), (0.95, 5.14), (0.997, 9.39))
"""BigchainDB's: the share that is final, and after how many seconds."""


# ---- transactions ------------------------------------------------------------------------------


def asset_transactions(source: Source, prevouts: Sequence[bytes], count: int) -> Iterator[Transaction]:
    """Yield ``count`` signed transactions of TX_BYTES that carry data, over the coins in turn."""
    heads = [(prevout, COIN_VALUE) for prevout in prevouts]
    guess = TX_BYTES // 2
    for number in range(count):
        at = number % len(heads)
        prevout, value = heads[at]
        tx, guess = _sized(source, prevout, value - FEE, number, guess)
        heads[at] = (outpoint(tx.txid, 0), value - FEE)
        yield tx


def _sized(
    source: Source, prevout: bytes, value: int, number: int, data_bytes: int
) -> tuple[Transaction, int]:
    """Return a transaction of exactly TX_BYTES and how much data it carries: signatures vary in length."""
    for attempt in range(100):
        head = b"asset %016x %04x " % (number, attempt)
        data = (head + b"%064x" % number * (1 + data_bytes // 64))[:data_bytes]
        outputs = [TxOut(value, source.account.script), TxOut(0, payload_script(data))]
        tx = source.account.sign(Transaction.build(2, [TxIn(prevout, b"", SEQUENCE)], outputs))
        if len(tx.raw) == TX_BYTES:
            return tx, data_bytes
        if abs(TX_BYTES - len(tx.raw)) > 1:  # else the next signature may have the other length
            data_bytes += TX_BYTES - len(tx.raw)
    raise LocalFault("bench-refused", f"no transaction of {TX_BYTES} bytes")


class Stock:
    """Signed transactions in a file, and the last of each coin."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.count = 0
        self.last: list[str] = []
        """Ids, hex: who holds these unspent holds all."""

    def fill(self, txs: Iterable[Transaction], coins: int) -> Iterator[int]:
        """Write ``txs``; yields how many there are after each."""
        last: deque[str] = deque(maxlen=coins)
        with self._path.open("wb") as file:
            for tx in txs:
                file.write(tx.txid + tx.raw)
                last.append(hash_hex(tx.txid))
                self.count += 1
                yield self.count
        self.last = list(last)

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield (txid, raw), both hex, ``size`` at a time."""
        item = 32 + TX_BYTES
        with self._path.open("rb") as file:
            while data := file.read(item * size):
                items = [data[at : at + item] for at in range(0, len(data), item)]
                yield [(hash_hex(each[:32]), each[32:].hex()) for each in items]


# ---- the run -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Latencies:
    """A histogram of seconds: hundredths up to MAX_LATENCY_S."""

    bins: list[int] = field(default_factory=lambda: [0] * (BINS_PER_S * MAX_LATENCY_S))
    count: int = 0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.bins[min(len(self.bins) - 1, int(seconds * BINS_PER_S))] += 1
        self.count += 1

    def percentile(self, fraction: float) -> float:
        """Return the upper end of the bin below which ``fraction`` of all lie."""
        wanted, seen = fraction * self.count, 0
        for number, found in enumerate(self.bins):
            seen += found
            if seen and seen >= wanted:
                return (number + 1) / BINS_PER_S
        return float(MAX_LATENCY_S)


@dataclass(slots=True)
class Outcome:
    """What a run gave: ``rates`` of its seconds, tx/s, and the most memory that any node had at a report."""

    count: int
    elapsed_s: float
    latencies: Latencies
    rates: list[float]
    resident_mib: float

    @property
    def rate(self) -> float:
        """Return final transactions per second."""
        return self.count / self.elapsed_s


class Run:
    """Sends a stock to all nodes of ``net``, a bounded number at a time, and sees each become final."""

    def __init__(self, net: Testnet, stock: Stock, progress: Progress) -> None:
        self._net = net
        self._stock = stock
        self._progress = progress
        self._sent_at: dict[str, float] = {}
        self._room = asyncio.Condition()
        self._started = self._final_at = 0.0
        self._counted = (0, 0.0)
        self._told = 0
        self._latencies = Latencies()
        self._rates: list[float] = []
        self._resident_mib = 0.0

    async def play(self) -> Outcome:
        """Return when all are final and every node holds them. Raises LocalFault if one is lost."""
        self._started = perf_counter()
        self._counted = 0, self._started
        await _together(self._send(), self._follow())
        await self._check_nothing_lost()
        elapsed_s = self._final_at - self._started
        return Outcome(self._latencies.count, elapsed_s, self._latencies, self._rates, self._resident_mib)

    async def _send(self) -> None:
        """Give the batches to the nodes in turn, one at a time to each."""
        queues: list[asyncio.Queue[list[tuple[str, str]] | None]] = [
            asyncio.Queue(1) for _ in self._net.nodes
        ]
        async with asyncio.TaskGroup() as group:
            for node, queue in enumerate(queues):
                group.create_task(self._send_to(node, queue))
            for number, batch in enumerate(self._stock.batches(BATCH_TXS)):
                async with self._room:
                    await self._room.wait_for(lambda: len(self._sent_at) + BATCH_TXS <= IN_FLIGHT_TXS)
                    now = perf_counter()
                    self._sent_at.update((txid, now) for txid, _ in batch)
                await queues[number % len(queues)].put(batch)
            for queue in queues:
                await queue.put(None)

    async def _send_to(self, node: int, queue: "asyncio.Queue[list[tuple[str, str]] | None]") -> None:
        client = await self._net.client(node)
        while (batch := await queue.get()) is not None:
            for reply in await client.batch([("sendrawtransaction", (raw,)) for _, raw in batch]):
                if isinstance(reply, RpcError):
                    raise LocalFault("bench-refused", str(reply))

    async def _follow(self) -> None:
        """Read the chain of node 0 until all are in it."""
        height, moved_at = 0, perf_counter()
        while self._latencies.count < self._stock.count:
            tip = await self._net.call(0, "getblockcount")
            if tip == height:
                if perf_counter() - moved_at > DRAIN_TIMEOUT_S:
                    raise LocalFault("bench-lost", f"{len(self._sent_at)} transactions never became final")
                await asyncio.sleep(POLL_S)
                continue
            moved_at = perf_counter()
            for number in range(height + 1, tip + 1):
                block_hash = await self._net.call(0, "getblockhash", number)
                block = await self._net.call(0, "getblock", block_hash, 1)
                await self._take(block["tx"][1:], moved_at)
            height = tip
            self._report()

    async def _take(self, txids: list[str], now: float) -> None:
        for txid in txids:
            sent_at = self._sent_at.pop(txid, None)
            if sent_at is None:
                raise LocalFault("bench-refused", f"{txid} is in a block twice, or was never sent")
            self._latencies.add(now - sent_at)
            self._final_at = now
        async with self._room:
            self._room.notify_all()

    def _report(self) -> None:
        """Note the rate of each second or more, and tell of each fiftieth of all."""
        count, now = self._latencies.count, perf_counter()
        ended = count == self._stock.count
        before, at = self._counted
        if now - at >= 1 or (ended and not self._rates):
            self._rates.append((count - before) / (now - at))
            self._counted = count, now
        if count - self._told < self._stock.count / REPORTS and not ended:
            return
        self._told = count
        resident = max(resident_mib(node) for node in self._net.nodes)
        self._resident_mib = max(self._resident_mib, resident)
        rate = count / (now - self._started)
        self._progress(
            f"{count} of {self._stock.count} final, {rate:.0f} tx/s, the largest node has {resident:.0f} MiB"
        )

    async def _check_nothing_lost(self) -> None:
        """See that every node holds the end of every chain of payments, which none has without all before."""
        height = await self._net.call(0, "getblockcount")
        for node in range(len(self._net.nodes)):
            while await self._net.call(node, "getblockcount") < height:
                await asyncio.sleep(POLL_S)
            client = await self._net.client(node)
            for at in range(0, len(self._stock.last), BATCH_TXS):
                last = self._stock.last[at : at + BATCH_TXS]
                for txid, coin in zip(
                    last, await client.batch([("gettxout", (txid, 0, False)) for txid in last]), strict=True
                ):
                    if not isinstance(coin, dict):
                        raise LocalFault("bench-lost", f"node {node} does not hold {txid}")


async def _together(*works: Coroutine[Any, Any, None]) -> None:
    """Do all of it at once; what fails ends the rest."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def resident_mib(node: LocalNode) -> float:
    """Return the resident memory of a running node, 0 where the system does not tell."""
    if node.process is None:
        return 0.0
    try:
        pages = int(Path(f"/proc/{node.process.pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE


async def run_assets(count: int, progress: Progress) -> Outcome:
    """Send ``count`` asset transactions through four nodes on this machine."""
    source = make_source(COINS)
    with tempfile.TemporaryDirectory(prefix="wattd-bench-") as root:
        net = Testnet.create(Path(root), FOUNDERS, plan_for(source))
        async with net:
            stock = Stock(Path(root) / "transactions")
            for done in stock.fill(asset_transactions(source, genesis_prevouts(net), count), COINS):
                if done % -(-count // 5) == 0:
                    progress(f"{done} of {count} transactions signed")
            net.start_all()
            await net.wait_ready()
            return await Run(net, stock, progress).play()


def results(outcome: Outcome) -> list[Result]:
    """Return the figures of a run beside BigchainDB's."""
    name = "asset_throughput"
    return [
        more_is_better(name, outcome.rate, "tx/s", f"{BIGCHAINDB}, mean", MEAN_TX_S),
        more_is_better(
            f"{name}[median]", median(outcome.rates), "tx/s", f"{BIGCHAINDB}, median", MEDIAN_TX_S
        ),
        more_is_better(f"{name}[burst]", outcome.rate, "tx/s", f"{BIGCHAINDB}, 16,000 at once", BURST_TX_S),
        *(
            less_is_better(
                f"{name}[latency, {share:.1%}]",
                outcome.latencies.percentile(share),
                "s",
                f"{BIGCHAINDB}, {share:.1%}",
                theirs_s,
            )
            for share, theirs_s in LATENCIES
        ),
        Result(f"{name}[largest node]", outcome.resident_mib, "MiB"),
    ]


BENCHMARKS = (
    Benchmark(
        ("asset_throughput",),
        f"{BURST_TXS} transactions of {TX_BYTES} bytes through four nodes on this machine",
        lambda progress: results(asyncio.run(run_assets(BURST_TXS, progress))),
    ),
)
