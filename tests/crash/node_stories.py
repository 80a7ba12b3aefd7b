"""What happens to a victim: phases of work, faults in them, and restarts. A story is drawn from one seed."""

import asyncio
import errno
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from consensus.ledger_limits import MIN_SNAPSHOT_INTERVAL
from node.config import CONFIG_NAME
from node.rpc.errors import RpcError
from node.testnet import LOG_NAME, TEST_BFT, TEST_LEDGER, TEST_POW, ChainPlan, Founder, Testnet
from tests.crash.node_faults import AT_START, Plan
from tests.crash.node_world import EX_IOERR, LIFE_S, Process, Tally, World, allocations

POW_FOUNDERS = (Founder("grid", "grid-operator"), Founder("provider-1", "service-provider"))
BFT_FOUNDERS = (
    *POW_FOUNDERS,
    Founder("provider-2", "service-provider"),
    Founder("provider-3", "service-provider"),
)
ROUNDS_PER_NET = 15
"""Then a new chain begins: each death is judged by a replay from genesis."""

KEEP_BLOCKS = 12
"""Blocks that pruning leaves, and more than any reorganisation here takes off."""

ROUND_S = 4
"""An epoch: several end in each story, so that deaths meet the ends of rounds, too."""

DEPTH_MAX = 6

LEVELDB_BLOCK_BYTES = 32 << 10
"""LevelDB skips what does not begin like a record to the end of such a block of its log."""

LIMITS = {
    "SEGMENT_BYTES": (8 << 10, 16 << 10, 64 << 10),
    "FLUSH_BLOCKS_MAX": (2, 4, 10, 500),
    "SYNC_EVERY_BATCHES": (3, 20, 100),
    "MARKS_MAX": (20, 200, 4096),
    "UNINDEXED_RECORDS_MAX": (4, 1024),
    "SIDE_SLICE_ITEMS": (3, 1000),
    "WAL_BYTES_MAX": (8 << 10, 4 << 20),
    "KEEP_BLOCKS_MIN": (KEEP_BLOCKS,),
}
"""Small ones, so that rare kinds of writes come often, beside those of the product."""


Doing = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Phase:
    """``prepare`` is done while the victim is down, ``work`` while it runs.

    ``armed``: ``work`` says from when on its writes count. ``command`` is what runs in place of the node.
    ``ends``: it may come to a good end by itself. ``full``: no file grows long. ``after`` is done to what
    the dead victim left.
    """

    name: str
    prepare: Doing
    work: Doing
    armed: bool = True
    command: tuple[str, ...] = ()
    ends: bool = False
    full: bool = False
    after: Doing | None = None


class Story:
    """Rounds on one network."""

    def __init__(self, world: World) -> None:
        self.world, self.rng, self.tally = world, world.rng, world.tally
        self.limits = {name: self.rng.choice(values) for name, values in LIMITS.items()}
        self.pruned = False
        self.learner = False
        self.lost_power = False
        self.aside: asyncio.Task[None] | None = None
        """What a witness does whether the victim lives or not."""

    def phases(self) -> list[Phase]:
        """What the story is drawn from, named twice what shall come often."""
        raise NotImplementedError

    async def settle(self) -> None:
        """Bring the running victim and the witnesses to one chain."""
        raise NotImplementedError

    # ---- rounds

    async def play(self, rounds: int) -> None:
        """End ``rounds`` lives of the victim, and then let it live."""
        await self.world.same_tip()
        await self.world.stop()
        deck: list[Phase] = []
        for number in range(rounds):
            deck = deck or self.deal()
            phase = deck.pop(0)
            print(f"  round {number}: {phase.name}", flush=True)
            await self.round(phase)
            if self.rng.random() < 0.4 and not self.world.has_images:
                await self.peace(as_operator=self.rng.random() < 0.2)
        await self.peace(as_operator=True)
        await self.check_with_the_tool()

    def deal(self) -> list[Phase]:
        """Return all phases in an order of chance: each kind once before one comes again.

        Pruning comes at the end, since a database that is lost after it cannot be made anew.
        """
        phases = self.phases()
        self.rng.shuffle(phases)
        names = [phase.name for phase in phases]
        again = [phase.name in names[:at] for at, phase in enumerate(phases)]
        order = sorted(range(len(phases)), key=lambda at: ("pruning" in phases[at].name, again[at]))
        return [phases[at] for at in order]

    async def round(self, phase: Phase) -> None:
        """One life: prepare, work, die, be judged."""
        world = self.world
        await phase.prepare()
        (world.home / "spots").unlink(missing_ok=True)
        plan = self.draw(phase)
        if phase.command:
            (world.home / "report").unlink(missing_ok=True)
            process: Process = world.spawn(plan, *phase.command, "--datadir", str(world.datadir))
        else:
            world.start(plan)
            process = world.process
        kill_after_s = self.rng.uniform(0.5, 4.0) if self.rng.random() < 0.08 else LIFE_S
        status = await world.live(process, phase.work, kill_after_s)
        if self.aside is not None:
            await self.aside
            self.aside = None
        await self.book(phase, plan, status)
        world.check_log()
        if phase.after is not None:
            await phase.after()
        await world.inspect()

    def draw(self, phase: Phase) -> Plan:
        """Choose a fault: at the spot that was aimed at least, or wherever the count ends."""
        rng, world = self.rng, self.world
        if phase.full:
            size = rng.choice((24 << 10, 48 << 10, 96 << 10))
            limits = {**self.limits, "SEGMENT_BYTES": rng.choice((16 << 10, 1 << 20))}
            return Plan(
                str(world.home), 0, mode="fail", count=0, errno=errno.EFBIG, limits=limits, file_bytes=size
            )
        weights = (2, 16, 2) if world.has_images else (10, 6, 4)
        mode = rng.choices(("kill", "power", "fail"), weights)[0]
        spots = sorted(self.tally.spots.get(phase.name, ()))
        if mode == "fail":
            spots = [spot for spot in spots if "batch " not in spot and "Mempool" not in spot]
        spot, count = "", rng.randrange(1, 40)
        armed = phase.armed
        if phase.armed and rng.random() < 0.7:
            spots = [spot for spot in spots if not spot.startswith(AT_START)]
        if spots and rng.random() < 0.75:
            rng.shuffle(spots)
            spot = min(spots, key=lambda name: self.tally.tried[phase.name, mode, name])
            self.tally.tried[phase.name, mode, spot] += 1
            armed = armed and not spot.startswith(AT_START)
            spot = spot.removeprefix(AT_START)
            count = rng.choice((1, 1, 1, 2, 4))
        error = errno.ENOSPC if spot.startswith("write") and rng.random() < 0.5 else errno.EIO
        return Plan(
            home=str(world.home),
            seed=rng.getrandbits(60),
            mode=mode,
            spot=spot,
            count=count,
            when=rng.choice(("before", "torn", "after")),
            errno=error,
            armed=str(world.armed) if armed else None,
            limits=self.limits,
        )

    async def book(self, phase: Phase, plan: Plan, status: int) -> None:
        """Note how a life ended, and see that it may end so."""
        world, report = self.world, self.world.report()
        seen = world.home / "spots"
        known = self.tally.spots.setdefault(phase.name, set())
        known.update(seen.read_text().splitlines() if seen.exists() else ())
        if status == 0 and phase.ends:
            return
        if status == EX_IOERR and phase.full:
            report = "full disk"
        if report.startswith("f"):
            assert status == EX_IOERR, f"after '{report}' it ended with {status}\n{world.log_tail()}"
            code = "disk-failed" if plan.errno == errno.EIO else "disk-full"
            await world.until(
                lambda: world.says(f"error: {code}: "), f"after '{report}' it does not say {code}"
            )
        else:
            assert status == -signal.SIGKILL, f"it ended with {status}, '{report}'\n{world.log_tail()}"
        mode, _, spot = (report or "kill random somewhere").partition(" ")
        self.tally.lives[f"{mode} in {phase.name}"] += 1
        self.tally.ends[f"{mode}: {spot.split(' ', 1)[-1]}"] += 1
        if not phase.command:
            self.watch_votes()
            self.lost_power = False
        self.lost_power = self.lost_power or mode == "power"

    def watch_votes(self) -> None:
        """A validator may stop voting if a loss of power left a later vote record without an earlier one."""
        log = (self.world.datadir / LOG_NAME).read_text(errors="replace")
        if "does not vote" in log and not self.learner:
            assert self.lost_power, log
            assert "its vote log is damaged" in log, log
            self.learner = True
            self.tally.learners += 1

    async def peace(self, *, as_operator: bool) -> None:
        """Start without faults, agree with the witnesses, stop, be judged again."""
        world = self.world
        world.start(None if as_operator else self.no_fault())
        await world.ready()
        await self.settle()
        await world.until(self.same_coins, "the same tip and other coins")
        await world.stop()
        self.watch_votes()
        self.lost_power = False
        world.check_log()
        await world.inspect()
        if not self.pruned and self.rng.random() < 0.4:
            shutil.rmtree(world.home / "old-index", ignore_errors=True)
            shutil.copytree(world.datadir / "index", world.home / "old-index")

    def no_fault(self) -> Plan:
        """A life in which nothing happens."""
        return Plan(str(self.world.home), 0, count=0, limits=self.limits)

    async def same_coins(self) -> bool:
        """Compare with a witness, which never died; False while one of them moves."""
        world = self.world
        mine, theirs = [
            await world.call(index, "gettxoutsetinfo") for index in (world.victim, world.witnesses[0])
        ]
        assert mine["conserved"]
        if mine["bestblock"] != theirs["bestblock"]:
            return False
        assert mine["hash_serialized"] == theirs["hash_serialized"], "one tip, other coins"
        return True

    async def check_with_the_tool(self) -> None:
        """``wattd store check`` finds nothing either."""
        process = self.world.spawn(
            self.no_fault(),
            *("store", "check", "--level", "4", "--datadir", str(self.world.datadir)),
        )
        assert await asyncio.to_thread(process.wait) == 0, self.world.log_tail()

    # ---- phases of both engines

    async def nothing(self) -> None:
        pass

    async def catch_up(self) -> None:
        """Follow the witnesses."""
        world = self.world
        await world.ready()
        world.arm()

        async def done() -> bool:
            await world.notice()
            return await world.together()

        await world.until(done, "the victim does not catch up")

    async def lose_index(self) -> None:
        """Take the database away, or bring an old one back: the segment files know the rest."""
        if self.pruned:
            return
        self.world.marked.clear()  # the segment files know nothing of them
        index, old = self.world.datadir / "index", self.world.home / "old-index"
        shutil.rmtree(index)
        if old.exists() and self.rng.random() < 0.7:
            shutil.copytree(old, index)

    async def ask_to_prune(self) -> None:
        """From now on blocks are missing, so the database cannot be made anew."""
        self.pruned = True
        shutil.rmtree(self.world.home / "old-index", ignore_errors=True)

    def common_phases(self, work: Doing, ahead: Doing) -> list[Phase]:
        """Phases of both engines; ``work`` makes the victim write for a while, ``ahead`` the witnesses."""
        config = self.world.datadir / CONFIG_NAME
        usual = config.read_text()

        async def prune_meanwhile() -> None:
            await self.ask_to_prune()
            config.write_text(f"{usual}prune_keep_blocks = {KEEP_BLOCKS}\n")

        async def as_usual() -> None:
            config.write_text(usual)

        async def work_and_stop() -> None:
            await work()
            self.world.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(LIFE_S)

        async def work_on() -> None:
            for _ in range(10):
                await work()

        async def wait_for_the_end() -> None:
            await asyncio.sleep(LIFE_S)

        command = ("store", "prune", "--keep-blocks", str(KEEP_BLOCKS))
        return [
            Phase("lost index", self.lose_index, self.catch_up, armed=False),
            Phase("stop", self.nothing, work_and_stop, ends=True),
            self.rng.choice(
                (
                    Phase("full disk", self.nothing, work_on, full=True),
                    Phase("full disk", ahead, self.catch_up, full=True),
                )
            ),
            Phase("hole", self.nothing, work_on, after=self.punch),
            Phase("automatic pruning", prune_meanwhile, work, after=as_usual),
            Phase("pruning", self.ask_to_prune, wait_for_the_end, armed=False, command=command, ends=True),
        ]

    async def punch(self) -> None:
        """Zeros in the middle of LevelDB's log, which LevelDB passes over: the node must not."""
        world = self.world
        logs = sorted((world.datadir / "index").glob("*.log"))
        if self.pruned or not logs or logs[-1].stat().st_size <= 2 * LEVELDB_BLOCK_BYTES:
            return
        with logs[-1].open("r+b") as file:
            file.write(bytes(LEVELDB_BLOCK_BYTES))
        world.start(self.no_fault())
        assert await asyncio.to_thread(world.process.wait) == EX_IOERR, world.log_tail()
        assert "leveldb-corrupt" in world.log_tail()
        repair = world.spawn(self.no_fault(), "store", "repair", "--datadir", str(world.datadir))
        assert await asyncio.to_thread(repair.wait) == 0, world.log_tail()
        shutil.rmtree(world.home / "old-index", ignore_errors=True)
        world.shunned.clear()
        world.marked.clear()
        self.tally.lives["repaired"] += 1


class PowStory(Story):
    """Two nodes of a proof-of-work chain."""

    def phases(self) -> list[Phase]:
        return [
            Phase("mining", self.nothing, self.mining),
            Phase("mining", self.nothing, self.mining),
            Phase("sync", self.mine_ahead, self.catch_up, armed=False),
            Phase("reorganisation", self.nothing, self.follow_a_branch),
            Phase("reorganisation", self.nothing, self.follow_a_branch),
            Phase("own reorganisation", self.nothing, self.leave_own_branch),
            Phase("own reorganisation", self.nothing, self.leave_own_branch),
            *self.common_phases(self.mining, self.mine_ahead),
        ]

    async def settle(self) -> None:
        world, witness = self.world, self.world.witnesses[0]
        await self.forgive()
        for _ in range(30):
            await world.mine(witness, 1)
            with suppress(TimeoutError):
                async with asyncio.timeout(3.0):
                    while not await world.together():
                        await asyncio.sleep(0.1)
                    return
        raise AssertionError(f"victim and witness do not come together\n{world.log_tail()}")

    async def forgive(self) -> None:
        """Let the victim take up again what it was told to leave."""
        world = self.world
        world.marked.clear()
        for block_hash in world.shunned:
            with suppress(RpcError):  # its header was lost
                await world.call(world.victim, "reconsiderblock", block_hash[::-1].hex())
        world.shunned.clear()

    async def catch_up(self) -> None:
        await self.world.ready()
        await self.forgive()
        await super().catch_up()

    async def begin(self) -> None:
        """Be on the witness's chain; from then on writes count."""
        await self.world.ready()
        await self.settle()
        self.world.arm()

    async def mining(self) -> None:
        await self.begin()
        for _ in range(10):
            await self.world.mine(self.world.victim, 1)
            if self.rng.random() < 0.3:
                await self.world.mine(self.world.witnesses[0], 1)

    async def mine_ahead(self) -> None:
        """The witness mines while the victim is away, which may have lost everything."""
        world = self.world
        await world.mine(world.witnesses[0], self.rng.randrange(10, 40))
        if self.rng.random() < 0.3:
            for name in ("blocks", "index"):
                shutil.rmtree(world.datadir / name)
            shutil.rmtree(world.home / "old-index", ignore_errors=True)
            world.seen.clear()
            world.shunned.clear()
            world.marked.clear()
            self.pruned = False

    async def follow_a_branch(self) -> None:
        """The witness goes over to a branch of more work, and the victim after it."""
        await self.begin()
        depth = self.rng.randrange(1, DEPTH_MAX + 1)
        self.aside = asyncio.create_task(self._branch_off(depth))
        await asyncio.shield(self.aside)
        await self.catch_up()

    async def _branch_off(self, depth: int) -> None:
        world, witness = self.world, self.world.witnesses[0]
        tip = await world.height(witness)
        left = await world.call(witness, "getblockhash", max(1, tip - depth + 1))
        await world.call(witness, "invalidateblock", left)
        await world.mine(witness, depth + 2)
        await world.call(witness, "reconsiderblock", left)

    async def leave_own_branch(self) -> None:
        """The victim is told to leave its chain, mines another, and hears that the first was good."""
        await self.begin()
        world, victim = self.world, self.world.victim
        depth = self.rng.randrange(1, DEPTH_MAX + 1)
        tip = await world.height(victim)
        left = await world.call(victim, "getblockhash", max(1, tip - depth + 1))
        world.shunned.add(bytes.fromhex(left)[::-1])
        await world.call(victim, "invalidateblock", left)
        world.marked.update(world.shunned)
        await world.mine(victim, depth + self.rng.randrange(3))
        await self.forgive()
        await world.notice()


class BftStory(Story):
    """Four validators, of which one dies."""

    def phases(self) -> list[Phase]:
        return [
            Phase("voting", self.nothing, self.voting),
            Phase("voting", self.nothing, self.voting),
            Phase("sync", self.run_ahead, self.catch_up, armed=False),
            *self.common_phases(self.voting, self.run_ahead),
        ]

    async def settle(self) -> None:
        """Reach a height that the witnesses have now; they go on meanwhile."""
        world = self.world
        goal = await world.height(world.witnesses[0])

        async def reached() -> bool:
            return await world.height(world.victim) >= goal

        await world.until(reached, "the victim does not catch up")

    async def catch_up(self) -> None:
        await self.world.ready()
        self.world.arm()
        await self.settle()
        await self.world.notice()

    async def voting(self) -> None:
        await self.catch_up()
        world = self.world
        start = await world.height(world.victim)
        for step in range(1, 9):
            await world.pay(*world.witnesses[:2])

            async def grown(goal: int = start + step) -> bool:
                await world.notice()
                return await world.height(world.victim) >= goal

            await world.until(grown, "the chain does not grow")

    async def run_ahead(self) -> None:
        world, witness = self.world, self.world.witnesses[0]
        goal = await world.height(witness) + self.rng.randrange(4, 12)

        async def grown() -> bool:
            await world.pay(witness)
            return await world.height(witness) >= goal

        await world.until(grown, "three of four do not go on")


async def play(root: Path, engine: str, seed: int, rounds: int) -> Tally:
    """Play a story of so many rounds; networks of their own for each ROUNDS_PER_NET."""
    tally = Tally(seed)
    for first in range(0, rounds, ROUNDS_PER_NET):
        rng = Random(f"{engine} {seed} {first}")
        folder = root / f"{engine}-{first}"
        async with await make_net(folder, engine) as net:
            net.start_all()
            # A proof-of-work chain is not ready before somebody mines.
            await net.wait_ready(health="/live")
            world = World(net, len(net.nodes) - 1, rng, tally)
            story = PowStory(world) if engine == "pow" else BftStory(world)
            await story.play(min(ROUNDS_PER_NET, rounds - first))
        shutil.rmtree(folder)
    return tally


async def make_net(root: Path, engine: str) -> Testnet:
    """Write a network; the victim is its last node, with an index of addresses."""
    timing = replace(TEST_BFT, idle_interval_ms=500, block_interval_ms=100)
    rules = TEST_POW if engine == "pow" else None
    ledger = replace(TEST_LEDGER, snapshot_interval_blocks=MIN_SNAPSHOT_INTERVAL)
    plan = ChainPlan(name="crash", allocations=allocations(), ledger=ledger, bft=timing, pow=rules)
    if engine == "bft":
        plan = replace(plan, genesis_time_s=int(time.time()), bft=replace(timing, round_s=ROUND_S))
    net = Testnet.create(root, POW_FOUNDERS if engine == "pow" else BFT_FOUNDERS, plan)
    victim = net.nodes[-1]
    victim.config = replace(victim.config, address_index=True)
    path = victim.config.datadir / CONFIG_NAME
    path.write_text(path.read_text() + "\n[storage]\naddress_index = true\n")
    return net
