"""Payments sent to a network of nodes, and the times at which they became final."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

from consensus.errors import LocalFault
from consensus.transaction import Transaction, hash_hex
from node.rpc.client import Prepared, prepare
from node.rpc.errors import RpcError
from node.testnet import Testnet

DRAIN_TIMEOUT_S = 60.0
POLL_S = 0.02
WINDOW_TXS = 4_000
"""A client waits while more payments than this wait at its node: what a minute sends beyond what becomes
final would fill the mempool, and refusals are not what is measured."""


class Batch(NamedTuple):
    """Payments that are sent in one request, which is encoded ahead; ids as they are displayed."""

    txids: list[str]
    request: Prepared


@dataclass(slots=True)
class Payload:
    """Signed payments in the order in which they are to be sent, ``size`` to a request."""

    batches: list[Batch]
    size: int

    @classmethod
    def of(cls, txs: Iterable[Transaction], size: int) -> "Payload":
        """Cut ``txs`` into requests."""
        batches: list[Batch] = []
        txids: list[str] = []
        raws: list[str] = []
        for tx in txs:
            txids.append(hash_hex(tx.txid))
            raws.append(tx.raw.hex())
            if len(raws) == size:
                batches.append(_batch(txids, raws))
                txids, raws = [], []
        if raws:
            batches.append(_batch(txids, raws))
        return cls(batches, size)

    @property
    def count(self) -> int:
        """Return the number of payments."""
        return sum(len(batch.txids) for batch in self.batches)


def _batch(txids: list[str], raws: list[str]) -> Batch:
    return Batch(txids, prepare([("sendrawtransaction", (raw,)) for raw in raws]))


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
    """Notes when each block of one node became final; what is in them it asks when the load is over.

    Reading blocks costs the node as much as a tenth of the payments in them, and answers are no part
    of what is measured.
    """

    def __init__(self, net: Testnet, index: int) -> None:
        self._net = net
        self._index = index
        self._seen: list[tuple[int, float]] = [(0, 0.0)]
        self._read = 0

    async def watch(self) -> None:
        """Note new heights for ever."""
        while True:
            height = await self._net.call(self._index, "getblockcount")
            if height > self._seen[-1][0]:
                self._seen.append((height, perf_counter()))
            await asyncio.sleep(POLL_S)

    async def final_times(self, txids: Iterable[str]) -> dict[str, float]:
        """Return when each of ``txids`` became final. Raises LocalFault if the chain stops before."""
        missing = set(txids)
        found: dict[str, float] = {}
        moved_at, size = perf_counter(), -1
        while missing:
            await asyncio.sleep(POLL_S)
            before = size, len(missing)
            size = (await self._net.call(self._index, "getmempoolinfo"))["size"]
            if size == 0:
                await self._read_blocks(missing, found)
            if (size, len(missing)) != before:
                moved_at = perf_counter()
            elif perf_counter() - moved_at > DRAIN_TIMEOUT_S:
                raise LocalFault("bench-lost", f"{len(missing)} payments never became final")
        return found

    async def _read_blocks(self, missing: set[str], found: dict[str, float]) -> None:
        for before, (height, seen_at) in zip(self._seen, self._seen[1:], strict=False):
            for number in range(max(before[0], self._read) + 1, height + 1):
                block_hash = await self._net.call(self._index, "getblockhash", number)
                block = await self._net.call(self._index, "getblock", block_hash, 1)
                final = missing.intersection(block["tx"])
                found.update(dict.fromkeys(final, seen_at))
                missing -= final
                self._read = number


async def drive(net: Testnet, watcher: Watcher, load: Payload, rate: float | None) -> Load:
    """Send all payments, at ``rate`` per second or as fast as they are taken, and wait until they are final.

    Each node has one client, which sends its next request when the last was answered. Raises LocalFault
    "bench-refused", or "bench-lost" if a payment never becomes final.
    """
    sent_at: dict[str, float] = {}
    started = perf_counter()

    async def sender(node: int) -> None:
        client = await net.client(node)
        for number in range(node, len(load.batches), len(net.nodes)):
            if rate is not None:
                await asyncio.sleep(max(0.0, started + number * load.size / rate - perf_counter()))
            while rate is None and (await client.call("getmempoolinfo"))["size"] > WINDOW_TXS:
                await asyncio.sleep(POLL_S)
            batch = load.batches[number]
            sent_at.update(dict.fromkeys(batch.txids, perf_counter()))
            for reply in await client.send(batch.request):
                if isinstance(reply, RpcError):
                    raise LocalFault("bench-refused", str(reply))

    watching = asyncio.create_task(watcher.watch())
    try:
        await asyncio.gather(*(sender(node) for node in range(len(net.nodes))))
        final_at = await watcher.final_times(sent_at)
    finally:
        watching.cancel()
    latencies = sorted(final_at[txid] - sent for txid, sent in sent_at.items())
    return Load(load.count, max(final_at.values()) - started, latencies)
