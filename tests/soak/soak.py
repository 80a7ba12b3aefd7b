"""Four real nodes under payments while they are killed, stopped and restarted, from one seed.

At the end every node must have the same tip and state, every payment that a node took must be in
exactly one block, money must be conserved, and no node may have used more memory than its budget.
A payment waits in the memory of nodes: one that was taken by a process killed before it could pass it
on is the client's to send again, and only such a payment.
"""

import asyncio
import signal
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic

from consensus.genesis import genesis_block
from consensus.transaction import Transaction, outpoint
from contracts.api import EnergyContracts
from node.bench.load import make_source, payments
from node.rpc.client import RpcUnavailable
from node.rpc.errors import RpcError
from node.testnet import LOG_NAME, ChainPlan, Founder, Testnet, tail_of_log

FOUNDERS = (
    Founder("grid", "grid-operator"),
    *(Founder(f"provider-{n}", "service-provider") for n in (1, 2, 3)),
)
COINS = 300
"""Chains of payments; more than are sent in a few seconds, so that chains stay short in the mempool."""

RATE_PER_S = 60
BATCH = 12
BACKLOG_MAX = 600
"""No new payments are made while so many wait to be sent again."""

MEMORY_BUDGET_MIB = 160.0
"""Resident memory of one node under this load; one takes about 70."""

ANSWER_TIMEOUT_S = 4.0
RENEW_S = 1.0
SETTLE_TIMEOUT_S = 90.0
POLL_S = 0.1
TAKEN_ALREADY = "already in utxo set"
"""In the reason of a refusal: it is final, and another node was told of it first."""

WAITS = ("missingorspent", "too-long-mempool-chain", "admission-queue-full", "mempool full", "node-stopping")
"""In the reason of a refusal that may end: the parent is not here yet, or the node is not."""


@dataclass
class Report:
    """What a soak saw. Empty ``problems`` mean that all went well."""

    seed: int
    sent: int = 0
    resent: int = 0
    height: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    peak_mib: list[float] = field(default_factory=lambda: [0.0] * len(FOUNDERS))
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        memory = ", ".join(f"{mib:.0f}" for mib in self.peak_mib)
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        lines = [
            f"seed {self.seed}: {self.sent} payments, {self.resent} sent again, {self.height} blocks",
            f"faults: {faults or 'none'}",
            f"memory: at most {memory} MiB of {MEMORY_BUDGET_MIB:.0f}",
            *(f"PROBLEM: {problem}" for problem in self.problems),
        ]
        return "\n".join(lines)


@dataclass
class Payment:
    """One payment; ``taken`` is (node, life) of the process that took it."""

    txid: str
    raw: str
    taken: tuple[int, int] | None = None


class Soak:
    """One run over a network that is up."""

    def __init__(self, net: Testnet, seed: int, report: Report) -> None:
        self.net = net
        self.rng = Random(seed)
        self.report = report
        self.lives = [0] * len(net.nodes)
        self.up = [True] * len(net.nodes)
        self.payments: dict[str, Payment] = {}
        self.waiting: deque[Payment] = deque()
        self.confirmed: Counter[str] = Counter()
        self.seen_height = 0
        self.rate_per_s = RATE_PER_S
        self._stream = self._make_payments()
        self._faults_done = False

    def problem(self, text: str) -> None:
        self.report.problems.append(text)

    # --- payments -------------------------------------------------------------------------------

    def _make_payments(self) -> Iterator[Transaction]:
        genesis = genesis_block(self.net.params, EnergyContracts(self.net.params))
        first = len(self.net.nodes)
        prevouts = [outpoint(genesis.txs[0].txid, first + at) for at in range(COINS)]
        return payments(make_source(COINS), prevouts, 10**9)

    def _next_batch(self) -> list[Payment]:
        """Those that wait, oldest first, then new ones."""
        batch = [self.waiting.popleft() for _ in range(min(len(self.waiting), BATCH))]
        while len(batch) < BATCH and len(self.waiting) < BACKLOG_MAX:
            tx = next(self._stream)
            payment = Payment(tx.txid[::-1].hex(), tx.raw.hex())
            self.payments[payment.txid] = payment
            batch.append(payment)
        return batch

    async def send(self, node: int, batch: list[Payment]) -> None:
        """Give a batch to a node; what it did not take waits for another."""
        life = self.lives[node]
        calls = [("sendrawtransaction", (payment.raw,)) for payment in batch]
        try:
            client = await self.net.client(node)
            replies = await asyncio.wait_for(client.batch(calls), ANSWER_TIMEOUT_S)
        except (RpcUnavailable, TimeoutError, OSError):
            self.waiting.extend(batch)
            return
        for payment, reply in zip(batch, replies, strict=True):
            if not isinstance(reply, RpcError) or TAKEN_ALREADY in str(reply):
                payment.taken = payment.taken or (node, life)
            else:
                self.waiting.append(payment)
                if not any(each in str(reply) for each in WAITS):
                    self.problem(f"{self.net.nodes[node].founder.name} refused {payment.txid}: {reply}")

    async def stream(self, until: float) -> None:
        """Send at the rate, each batch to a node that is up as far as we know."""
        started, number = monotonic(), 0
        sending: set[asyncio.Task[None]] = set()
        while monotonic() < until and len(self.report.problems) < 20:
            await asyncio.sleep(max(0.0, started + number * BATCH / self.rate_per_s - monotonic()))
            number += 1
            nodes = [node for node, up in enumerate(self.up) if up]
            if nodes:
                task = asyncio.create_task(self.send(self.rng.choice(nodes), self._next_batch()))
                sending.add(task)
                task.add_done_callback(sending.discard)
        await asyncio.gather(*sending)

    async def renew(self) -> None:
        """Send again what a process had taken that is dead now, parents first, unless it is final."""
        while True:
            await asyncio.sleep(RENEW_S)
            node = self.rng.randrange(len(self.net.nodes))
            if not self.up[node]:
                continue
            try:
                await asyncio.wait_for(self.follow(node), ANSWER_TIMEOUT_S)
            except (RpcUnavailable, RpcError, TimeoutError, OSError):
                continue
            lost = [each for each in self.payments.values() if self._is_lost(each)]
            for payment in lost:
                payment.taken = None
            self.waiting.extendleft(reversed(lost))
            self.report.resent += len(lost)

    def _is_lost(self, payment: Payment) -> bool:
        """Taken by a process that has ended, and not in a block."""
        if payment.taken is None or self.confirmed[payment.txid]:
            return False
        node, life = payment.taken
        return self.lives[node] != life

    # --- faults ---------------------------------------------------------------------------------

    async def disturb(self, until: float) -> None:
        """One fault after the other until then; each ends before the next begins."""
        rng = self.rng
        while monotonic() < until:
            await asyncio.sleep(rng.uniform(0.5, 3.0))
            count = rng.choice((1, 1, 1, 1, 2, len(self.net.nodes)))
            victims = rng.sample(range(len(self.net.nodes)), count)
            kind, pause_s = rng.choice(("kill", "kill", "stop", "terminate")), rng.uniform(0.2, 4.0)
            self.report.faults[f"{kind} of {count}"] += 1
            await getattr(self, f"_{kind}")(victims, pause_s)

    async def _kill(self, victims: list[int], pause_s: float) -> None:
        for node in victims:
            self.up[node] = False
            self.lives[node] += 1
        await asyncio.gather(*(self.net.kill(node) for node in victims))
        await self._restart(victims, pause_s)

    async def _terminate(self, victims: list[int], pause_s: float) -> None:
        for node in victims:
            self.up[node] = False
            self.lives[node] += 1
            process = self.net.nodes[node].process
            if process is not None:
                process.send_signal(signal.SIGTERM)
                status = await asyncio.to_thread(process.wait)
                if status != 0:
                    self.problem(f"SIGTERM ended {self.net.nodes[node].founder.name} with status {status}")
        await self._restart(victims, pause_s)

    async def _restart(self, victims: list[int], pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        for node in victims:
            self.net.start(node)
        for node in victims:
            await self._answers(node)
            self.up[node] = True

    async def _stop(self, victims: list[int], pause_s: float) -> None:
        """SIGSTOP: the process stands still, and its connections with it. Payments go on being sent there."""
        processes = [process for node in victims if (process := self.net.nodes[node].process) is not None]
        try:
            for process in processes:
                process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(pause_s)
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    async def _answers(self, node: int) -> None:
        """Wait until a started node answers calls, or is dead, which ``watch`` tells."""
        while self.net.nodes[node].is_running:
            try:
                await self.net.call(node, "getblockcount")
                return
            except (RpcUnavailable, RpcError, OSError):
                await asyncio.sleep(POLL_S)

    # --- watching -------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Note memory, and processes that ended although nobody ended them."""
        while True:
            for number, node in enumerate(self.net.nodes):
                if self.up[number] and not node.is_running:
                    self.problem(f"{node.founder.name} ended by itself: {tail_of_log(node)}")
                    self.up[number] = False
                if node.process is not None and node.is_running:
                    peak = self.report.peak_mib
                    peak[number] = max(peak[number], peak_mib(node.process.pid))
            await asyncio.sleep(0.5)

    async def follow(self, node: int) -> int:
        """Take in the blocks of a node that are new; return its height."""
        height = int(await self.net.call(node, "getblockcount"))
        for at in range(self.seen_height + 1, height + 1):
            block = await self.net.call(node, "getblock", await self.net.call(node, "getblockhash", at), 1)
            self.confirmed.update(block["tx"][1:])
            self.seen_height = at
        return height

    # --- the end --------------------------------------------------------------------------------

    async def settle(self) -> None:
        """With every node up: what was promised must become final, the rest is sent again."""
        await self.net.wait_ready()
        promised = {
            txid
            for txid, payment in self.payments.items()
            if payment.taken is not None and not self._is_lost(payment)
        }
        if not await self._all_final(promised, resend=False):
            return
        self.report.resent += sum(1 for each in self.payments.values() if self._is_lost(each))
        await self._all_final(set(self.payments), resend=True)

    async def _all_final(self, wanted: set[str], *, resend: bool) -> bool:
        deadline = monotonic() + SETTLE_TIMEOUT_S
        while True:
            await self.follow(0)
            missing = [txid for txid in self.payments if txid in wanted and not self.confirmed[txid]]
            if not missing:
                return True
            if monotonic() > deadline:
                state = "and sent again" if resend else "by a process that still runs"
                self.problem(f"{len(missing)} payments taken {state} are not final, such as {missing[0]}")
                return False
            if resend:
                self.waiting.clear()
                for at in range(0, min(len(missing), 500), 100):
                    await self.send(0, [self.payments[txid] for txid in missing[at : at + 100]])
            await asyncio.sleep(5 * POLL_S)

    async def check(self) -> None:
        """Compare the nodes with each other and with what was sent."""
        twice = [txid for txid, count in self.confirmed.items() if count != 1]
        foreign = [txid for txid in self.confirmed if txid not in self.payments]
        if twice or foreign:
            self.problem(f"{len(twice)} payments are in two blocks, {len(foreign)} nobody sent")
        stats = await self._same_tip()
        if stats is None:
            return
        self.report.height = stats[0]["height"]
        for number, each in enumerate(stats):
            if not each["conserved"]:
                self.problem(f"node {number}: money is not conserved: {each}")
        if len({(each["hash_serialized"], each["issued"]) for each in stats}) != 1:
            self.problem(f"the nodes have the same tip and different coins: {stats}")
        for number, mib in enumerate(self.report.peak_mib):
            if mib > MEMORY_BUDGET_MIB:
                self.problem(f"node {number} used {mib:.0f} MiB, its budget is {MEMORY_BUDGET_MIB:.0f}")
        for node in self.net.nodes:
            log = (node.config.datadir / LOG_NAME).read_text(errors="replace")
            if "Traceback" in log:
                self.problem(
                    f"{node.founder.name} logged a traceback: {log[log.index('Traceback') :][:2000]}"
                )

    async def _same_tip(self) -> list[dict[str, object]] | None:
        """Return the totals of all nodes at one tip."""
        deadline = monotonic() + SETTLE_TIMEOUT_S
        while monotonic() < deadline:
            stats = await asyncio.gather(
                *(self.net.call(node, "gettxoutsetinfo") for node in range(len(self.net.nodes)))
            )
            if len({each["bestblock"] for each in stats}) == 1:
                return list(stats)
            await asyncio.sleep(POLL_S)
        self.problem(
            f"the nodes do not come to one tip: {[(each['height'], each['bestblock']) for each in stats]}"
        )
        return None


def peak_mib(pid: int) -> float:
    """Resident memory of a process, MiB; 0 where the system does not tell or it just ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


async def run(root: Path, seconds: float, seed: int) -> Report:
    """Run a soak under ``root`` for so long, and then as long as the end takes."""
    report = Report(seed)
    plan = ChainPlan(name="soak", allocations=tuple(make_source(COINS).allocations()))
    async with Testnet.create(root, FOUNDERS, plan) as net:
        net.start_all()
        await net.wait_ready()
        soak = Soak(net, seed, report)
        helpers = [asyncio.create_task(soak.watch()), asyncio.create_task(soak.renew())]
        until = monotonic() + seconds
        try:
            await asyncio.gather(soak.stream(until), soak.disturb(until - 1.0))
            helpers[1].cancel()
            if not report.problems:
                await soak.settle()
                await soak.check()
        finally:
            for helper in helpers:
                helper.cancel()
            report.sent = len(soak.payments)
    return report
