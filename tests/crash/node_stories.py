"""What happens to a victim: phases of work, faults in them, and restarts. A story is drawn from one seed."""

import asyncio
import errno
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from node.rpc.errors import RpcError
from node.testnet import TEST_BFT, TEST_POW, ChainPlan, Founder, Testnet
from tests.crash.node_faults import Plan
from tests.crash.node_world import EX_IOERR, GONE, LIFE_S, Tally, World, allocations

POW_FOUNDERS = (Founder("grid", "grid-operator"), Founder("provider-1", "service-provider"))
BFT_FOUNDERS = (
    *POW_FOUNDERS,
    Founder("provider-2", "service-provider"),
    Founder("provider-3", "service-provider"),
)
ROUNDS_PER_NET = 20
"""Then a new chain begins: each death is judged by a replay from genesis."""

KEEP_BLOCKS = 12
"""Blocks that pruning leaves, and more than any reorganisation here takes off."""

DEPTH_MAX = 6

LIMITS = {
    "SEGMENT_BYTES": (16 << 10, 64 << 10, 1 << 20),
    "FLUSH_BLOCKS_MAX": (2, 10, 500),
    "SYNC_EVERY_BATCHES": (3, 20, 100),
    "MARKS_MAX": (20, 200, 4096),
    "UNINDEXED_RECORDS_MAX": (4, 1024),
    "SIDE_SLICE_ITEMS": (3, 1000),
    "WAL_BYTES_MAX": (8 << 10, 4 << 20),
    "KEEP_BLOCKS_MIN": (KEEP_BLOCKS,),
}
"""Small ones, so that rare kinds of writes come often, beside those of the product."""


@dataclass(frozen=True)
class Phase:
    """``prepare`` is done while the victim is down, ``work`` while it runs.

    ``armed``: ``work`` says from when on its writes count. ``command`` is what runs in place of the node.
    """

    name: str
    prepare: Callable[[], Awaitable[None]]
    work: Callable[[], Awaitable[None]]
    armed: bool = True
    command: tuple[str, ...] = ()


class Story:
    """Rounds on one network."""

    def __init__(self, world: World) -> None:
        self.world, self.rng, self.tally = world, world.rng, world.tally
        self.limits = {name: self.rng.choice(values) for name, values in LIMITS.items()}
        self.pruned = False
        self.learner = False
        self.aside: asyncio.Task[None] | None = None
        """What a witness does whether the victim lives or not."""

    @property
    def phases(self) -> list[Phase]:
        raise NotImplementedError

    async def settle(self) -> None:
        """Bring the running victim and the witnesses to one chain."""
        raise NotImplementedError

    # ---- rounds

    async def play(self, rounds: int) -> None:
        """End ``rounds`` lives of the victim, and then let it live."""
        await self.world.same_tip()
        await self.world.stop()
        for number in range(rounds):
            phase = self.rng.choice(self.phases)
            print(f"  round {number}: {phase.name}", flush=True)
            await self.round(phase)
            if self.rng.random() < 0.5:
                await self.peace()
        await self.peace()
        await self.check_with_the_tool()

    async def round(self, phase: Phase) -> None:
        """One life: prepare, work, die, be judged."""
        world = self.world
        await phase.prepare()
        (world.home / "spots").unlink(missing_ok=True)
        plan = self.draw(phase)
        if phase.command:
            (world.home / "report").unlink(missing_ok=True)
            process = world.spawn(plan, *phase.command, "--datadir", str(world.datadir))
        else:
            world.start(plan)
            started = world.net.nodes[world.victim].process
            assert started is not None
            process = started
        kill_after_s = self.rng.uniform(0.5, 4.0) if self.rng.random() < 0.15 else LIFE_S
        status = await world.live(process, phase.work, kill_after_s)
        if self.aside is not None:
            await self.aside
            self.aside = None
        self.book(phase, plan, status)
        world.check_log()
        await world.inspect()

    def draw(self, phase: Phase) -> Plan:
        """Choose a fault: at the spot where least has happened yet, or wherever the count ends."""
        rng, world = self.rng, self.world
        mode = rng.choices(("kill", "power", "fail"), (11, 6, 3))[0]
        spots = sorted(self.tally.spots.get(phase.name, ()))
        if mode == "fail":
            spots = [spot for spot in spots if not spot.startswith("batch") and "Mempool" not in spot]
        spot, count = "", rng.randrange(1, 60)
        if spots and rng.random() < 0.7:
            rng.shuffle(spots)
            spot = min(spots, key=lambda name: self.tally.ends[f"{mode}: {name}"])
            count = rng.choice((1, 1, 2, 3, 5))
        error = errno.ENOSPC if spot.startswith("write") and rng.random() < 0.5 else errno.EIO
        return Plan(
            home=str(world.home),
            seed=rng.getrandbits(60),
            mode=mode,
            spot=spot,
            count=count,
            when=rng.choice(("before", "torn", "after")),
            errno=error,
            armed=str(world.armed) if phase.armed else None,
            limits=self.limits,
        )

    def book(self, phase: Phase, plan: Plan, status: int) -> None:
        """Note how a life ended, and see that it may end so."""
        world, report = self.world, self.world.report()
        seen = world.home / "spots"
        known = self.tally.spots.setdefault(phase.name, set())
        known.update(seen.read_text().splitlines() if seen.exists() else ())
        if status == 0 and phase.command:
            return
        if report.startswith("fail"):
            assert status == EX_IOERR, f"after '{report}' it ended with {status}\n{world.log_tail()}"
            last = world.log_tail().splitlines()[-1]
            code = "disk-full" if plan.errno == errno.ENOSPC else "disk-failed"
            assert f"error: {code}: " in last, f"after '{report}' it says: {last}"
        else:
            assert status == -9, f"it ended with {status}, report '{report}'\n{world.log_tail()}"
        mode, _, spot = (report or "kill random somewhere").split(" ", 2)
        self.tally.lives[f"{mode} in {phase.name}"] += 1
        self.tally.ends[f"{mode}: {spot}"] += 1
        if "does not vote" in world.log_tail() and not self.learner:
            self.learner = True
            self.tally.learners += 1

    async def peace(self) -> None:
        """Start without faults, agree with the witnesses, stop, be judged again."""
        world = self.world
        world.start(None)
        await world.ready()
        await self.settle()
        await world.until(self.same_coins, "the same tip and other coins")
        await world.stop()
        world.check_log()
        await world.inspect()
        if not self.pruned and self.rng.random() < 0.4:
            shutil.rmtree(world.home / "old-index", ignore_errors=True)
            shutil.copytree(world.datadir / "index", world.home / "old-index")

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
            Plan(str(self.world.home), 0, count=0, limits=self.limits),
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
        index, old = self.world.datadir / "index", self.world.home / "old-index"
        shutil.rmtree(index)
        if old.exists() and self.rng.random() < 0.7:
            shutil.copytree(old, index)

    async def ask_to_prune(self) -> None:
        """From now on blocks are missing, so the database cannot be made anew."""
        self.pruned = True
        shutil.rmtree(self.world.home / "old-index", ignore_errors=True)

    def prune_phase(self) -> Phase:
        command = ("store", "prune", "--keep-blocks", str(KEEP_BLOCKS))
        return Phase("pruning", self.ask_to_prune, self.wait_for_the_end, armed=False, command=command)

    async def wait_for_the_end(self) -> None:
        """A tool ends by itself."""
        await asyncio.sleep(LIFE_S)


class PowStory(Story):
    """Two nodes of a proof-of-work chain."""

    @property
    def phases(self) -> list[Phase]:
        return [
            Phase("mining", self.nothing, self.mining),
            Phase("mining", self.nothing, self.mining),
            Phase("sync", self.mine_ahead, self.catch_up, armed=False),
            Phase("reorganisation", self.nothing, self.follow_a_branch),
            Phase("own reorganisation", self.nothing, self.leave_own_branch),
            Phase("lost index", self.lose_index, self.catch_up, armed=False),
            self.prune_phase(),
        ]

    async def settle(self) -> None:
        world, witness = self.world, self.world.witnesses[0]
        for block_hash in world.shunned:
            with suppress(RpcError):  # its mark was not yet written, or its header was lost
                await world.call(world.victim, "reconsiderblock", block_hash[::-1].hex())
        world.shunned.clear()
        for _ in range(30):
            await world.mine(witness, 1)
            with suppress(TimeoutError):
                async with asyncio.timeout(3.0):
                    while not await world.together():
                        await asyncio.sleep(0.1)
                    return
        raise AssertionError(f"victim and witness do not come together\n{world.log_tail()}")

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
        await world.mine(victim, depth + self.rng.randrange(3))
        await world.call(victim, "reconsiderblock", left)
        world.shunned.clear()
        await world.notice()


class BftStory(Story):
    """Four validators, of which one dies."""

    @property
    def phases(self) -> list[Phase]:
        return [
            Phase("voting", self.nothing, self.voting),
            Phase("voting", self.nothing, self.voting),
            Phase("sync", self.run_ahead, self.catch_up, armed=False),
            Phase("lost index", self.lose_index, self.catch_up, armed=False),
            self.prune_phase(),
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
    plan = ChainPlan(name="crash", allocations=allocations(), bft=timing, pow=rules)
    net = Testnet.create(root, POW_FOUNDERS if engine == "pow" else BFT_FOUNDERS, plan)
    victim = net.nodes[-1]
    victim.config = replace(victim.config, address_index=True)
    path = victim.config.datadir / "wattd.toml"
    path.write_text(path.read_text() + "\n[storage]\naddress_index = true\n")
    return net


__all__ = ["GONE", "BftStory", "PowStory", "Tally", "play"]
