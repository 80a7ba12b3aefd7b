"""Three real nodes that all mine, under payments and kills, from one seed: forks come by themselves.

At the end, with the miners stopped, every node must have the same tip and coins, money must be conserved,
and every payment that a process still alive had taken must be in exactly one block of the chain or pending.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

from consensus.genesis import genesis_block
from consensus.params import PowParams
from consensus.transaction import TxOut, outpoint
from contracts.api import EnergyContracts
from node.bench.load import COIN_VALUE, make_source
from node.config import CONFIG_NAME, MiningConfig, render_config
from node.rpc.client import RpcUnavailable
from node.rpc.errors import RpcError
from node.testnet import LOG_NAME, ChainPlan, Founder, Testnet
from node.wallet import Coin, build_payment
from tests.soak.soak import MEMORY_BUDGET_MIB, peak_mib

FOUNDERS = (Founder("grid", "grid-operator"), *(Founder(f"provider-{n}", "service-provider") for n in (1, 2)))
COINS = 5_000
RATE_PER_S = 4
KILL_EVERY_S = 8.0
SETTLE_TIMEOUT_S = 90.0
POLL_S = 0.2
RULES = PowParams(
    bits=0x1E0D0000,
    max_target=0x207FFFFF,
    spacing_s=1,
    half_life_s=96,
    future_limit_s=10,
    subsidy=50 * COIN_VALUE,
    subsidy_halving_blocks=210_000,
    reorg_warn_depth=6,
)
"""A block a second: with three miners one in ten is not alone at its height."""


@dataclass
class Report:
    """What a run saw. Empty ``problems`` mean that all went well."""

    seed: int
    sent: int = 0
    kills: int = 0
    height: int = 0
    branches: int = 0
    disconnected: int = 0
    peak_mib: float = 0.0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {self.sent} payments, {self.height} blocks, {self.branches} branches, "
            f"{self.disconnected} blocks taken off, {self.kills} kills",
            f"memory: at most {self.peak_mib:.0f} MiB of {MEMORY_BUDGET_MIB:.0f}",
            *(f"PROBLEM: {problem}" for problem in self.problems),
        ]
        return "\n".join(lines)


class Mined:
    """One run over a network that is up."""

    def __init__(self, net: Testnet, seed: int, report: Report) -> None:
        self.net = net
        self.rng = Random(seed)
        self.report = report
        self.lives = [0] * len(net.nodes)
        self.taken: dict[str, tuple[int, int]] = {}
        self.source = make_source(COINS)
        genesis = genesis_block(net.params, EnergyContracts(net.params))
        self.first = genesis.txs[0].txid

    async def send(self, node: int) -> None:
        """Pay with the next coin, at one node."""
        prevout = outpoint(self.first, len(FOUNDERS) + self.report.sent)
        output = TxOut(50_000, self.source.account.script)
        tx = build_payment(self.source.account, [Coin(prevout, COIN_VALUE)], [output], 1_000).tx
        self.report.sent += 1
        try:
            await self.net.call(node, "sendrawtransaction", tx.raw.hex())
            self.taken[tx.txid[::-1].hex()] = (node, self.lives[node])
        except (RpcUnavailable, OSError):
            pass
        except RpcError as error:
            self.report.problems.append(f"node {node} refused a payment: {error}")

    async def disturb(self, until: float) -> None:
        """Kill one node after the other, and start it again a moment later."""
        while monotonic() < until:
            await asyncio.sleep(self.rng.uniform(0.2, 2.0) * KILL_EVERY_S)
            victim = self.rng.randrange(len(self.net.nodes))
            self.lives[victim] += 1
            self.report.kills += 1
            await self.net.kill(victim)
            await asyncio.sleep(self.rng.uniform(0.1, 3.0))
            self.net.start(victim)
            await self.net.wait_ready([victim], health="/live")

    async def stream(self, until: float) -> None:
        """Send payments at the rate, each to any node."""
        while monotonic() < until and self.report.sent < COINS:
            await asyncio.sleep(1 / RATE_PER_S)
            await self.send(self.rng.randrange(len(self.net.nodes)))
            for node in self.net.nodes:
                if node.process is not None:
                    self.report.peak_mib = max(self.report.peak_mib, peak_mib(node.process.pid))

    async def check(self) -> None:
        """Stop the miners, wait for one tip, and compare."""
        everybody = range(len(self.net.nodes))
        for node in everybody:
            await self.net.call(node, "miner.stop")
        deadline = monotonic() + SETTLE_TIMEOUT_S
        await self._decide(deadline)
        stats: list[dict[str, Any]] = []
        while len({each["bestblock"] for each in stats}) != 1:
            if monotonic() > deadline:
                self.report.problems.append(f"no common tip: {[each['bestblock'] for each in stats]}")
                return
            await asyncio.sleep(POLL_S)
            stats = [await self.net.call(node, "gettxoutsetinfo") for node in everybody]
        if len({each["hash_serialized"] for each in stats}) != 1 or not all(
            each["conserved"] for each in stats
        ):
            self.report.problems.append(f"one tip and different coins, or money is not conserved: {stats}")
        self.report.height = stats[0]["height"]
        self.report.branches = len(await self.net.call(0, "getchaintips")) - 1
        await self._check_payments()
        for node in self.net.nodes:
            log = (node.config.datadir / LOG_NAME).read_text(errors="replace")
            self.report.disconnected += log.count("block disconnected")
            if "Traceback" in log:
                self.report.problems.append(f"{node.founder.name}: {log[log.index('Traceback') :][:2000]}")
        if self.report.peak_mib > MEMORY_BUDGET_MIB:
            self.report.problems.append(f"{self.report.peak_mib:.0f} MiB resident")

    async def _decide(self, deadline: float) -> None:
        """Mine one more block: two branches may end at the same height for good.

        Fast miners may have pushed the median time past to the future limit. Then the clock has to follow.
        """
        address = self.net.address_of(self.net.nodes[0].account_script)
        while True:
            try:
                await self.net.call(0, "generatetoaddress", 1, address)
                return
            except RpcError as error:
                if "time-too-new" not in str(error) or monotonic() > deadline:
                    raise
            await asyncio.sleep(POLL_S)

    async def _check_payments(self) -> None:
        found: Counter[str] = Counter()
        for height in range(1, self.report.height + 1):
            block = await self.net.call(0, "getblock", await self.net.call(0, "getblockhash", height), 1)
            found.update(block["tx"][1:])
        if any(count > 1 for count in found.values()):
            self.report.problems.append("a payment is in two blocks of one chain")
        pending: set[str] = set()
        for node in range(len(self.net.nodes)):
            pending.update(await self.net.call(node, "getrawmempool"))
        for txid, (node, life) in self.taken.items():
            if self.lives[node] == life and not found[txid] and txid not in pending:
                self.report.problems.append(f"{txid}, taken by node {node}, is nowhere")


async def run(root: Path, seconds: float, seed: int) -> Report:
    """Run under ``root`` for so long, and then as long as the end takes."""
    report = Report(seed)
    plan = ChainPlan(
        name="mined",
        genesis_time_s=int(time.time()),
        pow=RULES,
        allocations=tuple(make_source(COINS).allocations()),
    )
    async with Testnet.create(root, FOUNDERS, plan) as net:
        for node in net.nodes:
            node.config = replace(node.config, mining=MiningConfig(enabled=True))
            (node.config.datadir / CONFIG_NAME).write_text(render_config(node.config))
        net.start_all()
        await net.wait_ready(health="/live")
        mined = Mined(net, seed, report)
        until = monotonic() + seconds
        await asyncio.gather(mined.stream(until), mined.disturb(until))
        await mined.check()
    return report
