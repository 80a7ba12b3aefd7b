"""Block sync between two node processes: real sockets, the encrypted wire, disks."""

import asyncio
import json
import tempfile
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from time import perf_counter

from consensus.errors import LocalFault
from consensus.genesis import genesis_block
from consensus.transaction import outpoint
from contracts.api import EnergyContracts
from node.bench.bare import BARE, BARE_CHECKS, bare_check, chain_of_payments
from node.bench.grown import grow
from node.bench.load import Source, make_source, payments
from node.bench.network import FOUNDERS, plan_for
from node.bench.registry import Benchmark, Progress, Result, more_is_better
from node.bench.traffic import POLL_S
from node.config import CONFIG_NAME, render_config
from node.testnet import LOG_NAME, Testnet

SYNCED_TXS = 20_000
BLOCK_TXS = 2_000
ROUNDS = 3
"""Nodes that sync from nothing, one after the other; the median counts."""

BARE_ROUNDS = 10
SYNC_TIMEOUT_S = 120.0


@dataclass(slots=True)
class _Rates:
    """What the rounds gave, per second."""

    synced: list[float] = field(default_factory=list)
    checked: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)


async def _sync(progress: Progress) -> list[Result]:
    """Sync empty nodes from one that holds the chain, the reference between them."""
    source, rates = make_source(BLOCK_TXS), _Rates()
    with tempfile.TemporaryDirectory(prefix="wattd-bench-") as root:
        net = Testnet.create(Path(root), FOUNDERS[:1], plan_for(source))
        holder = net.add_follower("holder", [])
        progress(f"building a chain of {SYNCED_TXS} payments")
        _fill(net, holder, source)
        _, items = chain_of_payments(BARE_CHECKS, BARE_CHECKS)
        bare = bare_check(items)
        async with net:
            net.start(holder)
            await net.wait_ready([holder], "/live")
            for _ in range(ROUNDS):
                for taken, verify_certified in ((rates.synced, False), (rates.checked, True)):
                    started = perf_counter()
                    for _ in range(BARE_ROUNDS):
                        bare()
                    rates.bare.append(BARE_CHECKS * BARE_ROUNDS / (perf_counter() - started))
                    taken.append(SYNCED_TXS / await _follow(net, holder, verify_certified))
    reference = median(rates.bare)
    return [
        more_is_better("sync", median(rates.synced), "tx/s", BARE, reference),
        more_is_better("sync_checked", median(rates.checked), "tx/s", BARE, reference),
    ]


def _fill(net: Testnet, holder: int, source: Source) -> None:
    """Give a node that has not started the chain to be synced."""
    coinbase = genesis_block(net.params, EnergyContracts(net.params)).txs[0].txid
    prevouts = [outpoint(coinbase, 1 + at) for at in range(source.coins)]
    txs = list(payments(source, prevouts, SYNCED_TXS))
    blocks = [txs[at : at + BLOCK_TXS] for at in range(0, SYNCED_TXS, BLOCK_TXS)]
    grow(net, net.nodes[holder].config.datadir, blocks)


async def _follow(net: Testnet, holder: int, verify_certified: bool) -> float:
    """Start an empty node that knows ``holder``; return the seconds in which it synced."""
    index = net.add_follower("empty", [holder])
    node = net.nodes[index]
    node.config = replace(node.config, verify_certified=verify_certified)
    (node.config.datadir / CONFIG_NAME).write_text(render_config(node.config))
    net.start(index)
    seconds = await _seconds_to(net, index, SYNCED_TXS // BLOCK_TXS)
    await net.end(index)
    return seconds


async def _seconds_to(net: Testnet, index: int, height: int) -> float:
    """Wait until a node is at ``height``; return how long after it met its peer it got there.

    Its own log tells, so that nothing has to ask it while it works. Raises LocalFault.
    """
    log = net.nodes[index].config.datadir / LOG_NAME
    deadline = perf_counter() + SYNC_TIMEOUT_S
    while perf_counter() < deadline:
        await asyncio.sleep(POLL_S)
        events = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
        met = [event["time"] for event in events if event["message"] == "peer ready"]
        there = [
            event["time"]
            for event in events
            if event["message"] == "block connected" and event["height"] == height
        ]
        if met and there:
            return (datetime.fromisoformat(there[0]) - datetime.fromisoformat(met[0])).total_seconds()
    raise LocalFault("bench-lost", f"the node did not sync: {log.read_text()[-500:]}")


BENCHMARKS = (
    Benchmark(
        ("sync", "sync_checked"),
        f"sync of {SYNCED_TXS} P2PKH payments between two nodes; certified blocks, whose signatures only "
        "sync_checked checks again",
        lambda progress: asyncio.run(_sync(progress)),
    ),
)
