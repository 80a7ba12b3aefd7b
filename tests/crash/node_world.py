"""A testnet with one victim, a node that dies again and again, and everything that a story does to it.

The other nodes never die, so they are the witnesses: the victim must end on their chain with their state.
"""

import asyncio
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, cast

from consensus.errors import LocalFault
from consensus.genesis import genesis_block
from consensus.params import Allocation
from consensus.transaction import Transaction, TxIn, TxOut, outpoint
from contracts.api import EnergyContracts
from contracts.operations import Deposit, Operation, Withdraw, encode, payload_script
from node.bench.load import COIN_VALUE, FEE, SENT, SEQUENCE, Source, make_source
from node.rpc.client import RpcUnavailable
from node.rpc.errors import RpcError
from node.testnet import LOG_NAME, Testnet
from tests.crash.node_child import Life
from tests.crash.node_faults import AT_START, Plan
from tests.crash.node_judge import Found, Judge

COINS = 40
BATCH = 6
POLL_S = 0.05
TIMEOUT_S = 90.0
LIFE_S = 60.0
"""How long a life may take before it ends by an ordinary SIGKILL."""

STOP_S = 20.0
"""How long a node may take to end after its disk failed."""

EX_IOERR = 74
GONE = (RpcUnavailable, OSError, LocalFault)
"""What a call to a node that is dying or starting raises."""

Work = Callable[[], Awaitable[None]]
Process = subprocess.Popen[bytes] | Life


@dataclass
class Tally:
    """What a campaign did: ends of lives by phase, spots by how often a life ended there."""

    seed: int
    lives: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    spots: dict[str, set[str]] = field(default_factory=dict)
    tried: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """How often a plan aimed at a spot, by phase and mode."""
    learners: int = 0

    @property
    def deaths(self) -> int:
        return self.lives.total()

    def __str__(self) -> str:
        lives = ", ".join(f"{count} {name}" for name, count in sorted(self.lives.items()))
        ends = "\n".join(f"{count:5}  {name}" for name, count in sorted(self.ends.items()))
        known = {spot.removeprefix(AT_START) for spots in self.spots.values() for spot in spots}
        left = sorted(known - {name.split(": ", 1)[-1] for name in self.ends})
        missed = f"\nspots where nothing happened: {'; '.join(left)}" if left else ""
        learners = f", {self.learners} times a validator stopped voting" if self.learners else ""
        return f"seed {self.seed}: {self.deaths} lives ended ({lives}){learners}\n{ends}{missed}"


def allocations() -> tuple[Allocation, ...]:
    """Genesis coins for the payments of a story."""
    return tuple(Allocation(make_source(COINS).account.script, COIN_VALUE) for _ in range(COINS))


def transactions(source: Source, prevouts: list[bytes]) -> Iterator[Transaction]:
    """Yield payments, deposits into a contract account and withdrawals, over all coins in turn.

    A withdrawal is paid out by a later coinbase, so coins come and go in every way there is.
    """
    heads = [(prevout, COIN_VALUE) for prevout in prevouts]
    script = source.account.script
    number = 0
    while True:
        at = number % len(heads)
        prevout, value = heads[at]
        extra, spent = _second_output(number, script)
        outputs = [TxOut(value - FEE - spent, script), extra]
        tx = source.account.sign(Transaction.build(2, [TxIn(prevout, b"", SEQUENCE)], outputs))
        heads[at] = outpoint(tx.txid, 0), outputs[0].value
        number += 1
        yield tx


def _second_output(number: int, script: bytes) -> tuple[TxOut, int]:
    operation: Operation
    if number % 3 == 0:
        return TxOut(SENT, script), SENT
    value, operation = (20_000, Deposit()) if number % 3 == 1 else (0, Withdraw(1_500))
    return TxOut(value, payload_script(encode(operation))), value


class World:
    """One network, of which node ``victim`` dies. ``rng`` decides everything that is decided here."""

    def __init__(self, net: Testnet, victim: int, rng: Random, tally: Tally) -> None:
        self.net, self.victim, self.rng, self.tally = net, victim, rng, tally
        self.witnesses = [index for index in range(len(net.nodes)) if index != victim]
        self.judge = Judge(net.params)
        self.datadir = net.nodes[victim].config.datadir
        self.home = net.root / "crash"
        self.home.mkdir()
        self.armed = self.home / "armed"
        self.seen: dict[bytes, int] = {}
        """Blocks that the victim said were its tip, and their heights: promises."""
        self.shunned: set[bytes] = set()
        """Blocks that the victim was told to hold for invalid, and so their descendants."""
        self.marked: set[bytes] = set()
        """Those of them for which it said that it had done so."""
        genesis = genesis_block(net.params, EnergyContracts(net.params))
        first = len(net.nodes)
        prevouts = [outpoint(genesis.txs[0].txid, first + at) for at in range(COINS)]
        self._stream = transactions(make_source(COINS), prevouts)

    # ---- the network -------------------------------------------------------------------------------

    async def call(self, index: int, method: str, *params: Any) -> Any:
        return await self.net.call(index, method, *params)

    async def height(self, index: int) -> int:
        return int(await self.call(index, "getblockcount"))

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str) -> Any:
        """Wait for a condition over RPC; a node that is starting is waited for."""
        deadline = monotonic() + TIMEOUT_S
        while True:
            with suppress(*GONE, RpcError):
                value = await condition()
                if value:
                    return value
            assert monotonic() < deadline, f"{what}\n{self.log_tail()}"
            await asyncio.sleep(POLL_S)

    async def pay(self, *nodes: int) -> None:
        """Send a batch of transactions to nodes; what they refuse is lost, the next ones still count."""
        batch = [("sendrawtransaction", (next(self._stream).raw.hex(),)) for _ in range(BATCH)]
        for node in nodes:
            await (await self.net.client(node)).batch(batch)

    async def mine(self, index: int, count: int, *, paying: bool = True) -> None:
        """Let a node of a proof-of-work chain mine blocks, most of them with transactions."""
        address = self.net.address_of(self.net.nodes[index].account_script)
        for _ in range(count):
            if paying:
                await self.pay(index)
            hashes = await self.call(index, "generatetoaddress", 1, address)
            if index == self.victim:
                await self.notice()
            assert hashes

    async def notice(self) -> None:
        """Note what the victim says its tip is: from now on it is promised."""
        block_hash = bytes.fromhex(await self.call(self.victim, "getbestblockhash"))[::-1]
        header = await self.call(self.victim, "getblockheader", block_hash[::-1].hex())
        if header["confirmations"] > 0:
            self.seen[block_hash] = int(header["height"])

    async def together(self) -> bool:
        """Tell whether victim and witnesses have one tip."""
        tips = {await self.call(index, "getbestblockhash") for index in range(len(self.net.nodes))}
        return len(tips) == 1

    # ---- lives of the victim -----------------------------------------------------------------------

    def start(self, plan: Plan | None) -> None:
        """Start the victim, under a plan if one is given."""
        node = self.net.nodes[self.victim]
        assert not node.is_running
        self.armed.unlink(missing_ok=True)
        (self.home / "report").unlink(missing_ok=True)
        log = self.datadir / LOG_NAME
        if log.exists():
            log.rename(self.home / "last.log")
        if plan is None:
            self.forget_images()
            self.net.start(self.victim)
            return
        node.process = cast(
            "subprocess.Popen[bytes]", self.spawn(plan, "run", "--datadir", str(self.datadir))
        )

    def spawn(self, plan: Plan, *arguments: str) -> Life:
        """Start ``wattd`` with these arguments under a plan."""
        if plan.mode != "power":
            self.forget_images()
        return Life(plan, arguments, self.datadir / LOG_NAME)

    @property
    def process(self) -> Process:
        """The victim's process."""
        process = self.net.nodes[self.victim].process
        assert process is not None
        return process

    @property
    def has_images(self) -> bool:
        """Whether an fsync has failed, so that files hold more than the disk: a loss of power will tell."""
        return any((self.home / "images").glob("*"))

    def forget_images(self) -> None:
        """Take what files hold for what the disk has: nothing but a loss of power tells them apart."""
        shutil.rmtree(self.home / "images", ignore_errors=True)

    def arm(self) -> None:
        """From now on visits of spots count."""
        self.armed.touch()

    async def live(self, process: Process, work: Work, kill_after_s: float) -> int:
        """Let the victim work until it dies; return its exit status.

        It is killed here if the work is done, ``kill_after_s`` after it began, and last after LIFE_S.
        """
        dead = asyncio.create_task(asyncio.to_thread(process.wait))
        working = asyncio.create_task(self._work(process, work))
        tasks: set[asyncio.Future[Any]] = {dead, working}
        await asyncio.wait(tasks, timeout=min(kill_after_s, LIFE_S), return_when=asyncio.FIRST_COMPLETED)
        if not dead.done():
            if self.report().startswith("fail"):  # it must end by itself, and soon
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(asyncio.shield(dead), STOP_S)
                assert dead.done(), f"after '{self.report()}' the victim goes on\n{self.log_tail()}"
            process.kill()
        status = await dead
        working.cancel()
        failed = (await asyncio.gather(working, return_exceptions=True))[0]
        if isinstance(failed, Exception):
            raise failed
        return status

    def report(self) -> str:
        """What the last plan has done, "" if its moment has not come."""
        path = self.home / "report"
        return path.read_text() if path.exists() else ""

    async def _work(self, process: Process, work: Work) -> None:
        try:
            await work()
        except (*GONE, RpcError) as error:
            # The process may be dying of what was planned, or not answering for a moment.
            for _ in range(100):
                if process.poll() is not None:
                    return
                await asyncio.sleep(POLL_S)
            raise AssertionError(f"the victim lives and yet: {error!r}\n{self.log_tail()}") from error

    async def ready(self) -> None:
        """Wait until the victim answers."""

        async def answers() -> bool:
            process = self.net.nodes[self.victim].process
            if process is not None and process.poll() is not None:
                raise ProcessLookupError(process.returncode)
            return bool(await self.height(self.victim) >= 0)

        deadline = monotonic() + TIMEOUT_S
        while True:
            try:
                if await answers():
                    return
            except ProcessLookupError:
                raise
            except (*GONE, RpcError):
                pass
            assert monotonic() < deadline, f"the victim does not answer\n{self.log_tail()}"
            await asyncio.sleep(POLL_S)

    async def same_tip(self) -> None:
        """Wait until the victim answers and follows the witnesses."""
        await self.ready()
        await self.until(self.together, "the victim does not come to the witnesses' chain")

    async def stop(self) -> None:
        """Stop the victim as an operator does."""
        process = self.net.nodes[self.victim].process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(process.wait)
        assert status == 0, f"SIGTERM ended the victim with {status}\n{self.log_tail()}"

    # ---- judging -----------------------------------------------------------------------------------

    async def learn_blocks(self) -> None:
        """Read the witnesses' chain, for heights that the victim pruned."""
        index = self.witnesses[0]
        height = await self.height(index)
        for at in range(height, -1, -1):
            block_hash = await self.call(index, "getblockhash", at)
            key = bytes.fromhex(block_hash)[::-1]
            if key in self.judge.blocks:
                break
            self.judge.blocks[key] = bytes.fromhex(await self.call(index, "getblock", block_hash, 0))

    async def inspect(self) -> Found:
        """Judge what the dead victim left, and hold it against what it had promised."""
        await self.learn_blocks()
        copy = self.home / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(
            self.datadir,
            copy,
            ignore=lambda folder, names: (
                [name for name in names if name.endswith(".log")] if Path(folder) == self.datadir else []
            ),
        )
        try:
            found = await asyncio.to_thread(self.judge.judge, copy, address_index=True)
            self._check_promises(found)
        except (AssertionError, LocalFault, KeyError) as fault:
            kept = self.net.root / "failed"
            shutil.copytree(self.datadir, kept, dirs_exist_ok=True)
            raise AssertionError(f"{fault!r}, the data directory is in {kept}\n{self.log_tail()}") from fault
        return found

    def _check_promises(self, found: Found) -> None:
        for block_hash, height in self.seen.items():
            name = f"block {height} {block_hash[::-1].hex()}"
            if height < found.pruned_below:
                continue
            assert block_hash in found.bodies, f"{name} was the tip, and its body is gone"
            if self.net.params.pow is None:
                assert found.blocks[height : height + 1] == [block_hash], f"{name} was final, and is not"
            elif (
                not self.shunned and not found.pruned_below
            ):  # of a branch that was left, a part may be pruned
                assert block_hash in found.branches, f"{name} was the tip, and the engine forgot it"

        for block_hash in self.marked:
            name = block_hash[::-1].hex()
            assert block_hash in found.marks, f"the mark of {name} was promised, and is gone"

    def check_log(self) -> None:
        """Nobody may have logged a bug, and no witness may have seen a validator contradict itself."""
        for node in self.net.nodes:
            log = (node.config.datadir / LOG_NAME).read_text(errors="replace")
            assert "Traceback" not in log, (
                f"{node.founder.name}: {log[log.index('Traceback') - 500 :][:4000]}"
            )
            assert "contradicted" not in log, f"{node.founder.name} saw a validator contradict itself"

    async def says(self, text: str) -> bool:
        """Tell whether the victim's last lines have this."""
        return text in self.log_tail()

    def log_tail(self) -> str:
        """The end of the victim's log, of this life and the last."""
        parts = []
        for path in (self.home / "last.log", self.datadir / LOG_NAME):
            if path.exists():
                parts.append("\n".join(path.read_text(errors="replace").splitlines()[-15:]))
        return "\n--- next life\n".join(parts)
