"""The perturbations: each begins, lasts a while, and is taken back.

CONSENSUS.md's list of scenarios (Jepsen, CometBFT, TigerBeetle, FoundationDB) names most of them.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from random import Random

from tests.perturb.links import Pair, Rule, both_ways
from tests.perturb.slowdisk import STUCK_MS
from tests.perturb.stage import Stage

Undo = Callable[[], Awaitable[None]]
Begin = Callable[[Stage, Random], Awaitable[Undo]]

PROCESS, NETWORK, DISK = "process", "network", "disk"
FAMILIES = (PROCESS, NETWORK, DISK)


@dataclass(frozen=True, slots=True)
class Kind:
    """One perturbation. ``lasts`` is the range of its length in seconds.

    ``quorum``: True when enough nodes stay whole and joined that the chain must go on, False when nothing
    may become final, None when it depends. ``shapes``: needs links that can be slowed or reset.
    """

    name: str
    family: str
    lasts: tuple[float, float]
    quorum: bool | None
    begin: Begin
    shapes: bool = False


# --- processes ------------------------------------------------------------------------------------

Choice = Callable[[Stage, Random], Awaitable[list[int]]]


async def _one(stage: Stage, rng: Random) -> list[int]:
    return stage.some(rng)


async def _leader(stage: Stage, rng: Random) -> list[int]:
    return [await stage.leader(rng)]


async def _f(stage: Stage, rng: Random) -> list[int]:
    return stage.some(rng, max(1, stage.f))


async def _leader_and_f(stage: Stage, rng: Random) -> list[int]:
    """f nodes, the leader among them."""
    leader = await stage.leader(rng)
    others = [node for node in stage.some(rng, stage.n) if node != leader]
    return [leader, *others[: stage.f - 1]]


async def _more_than_f(stage: Stage, rng: Random) -> list[int]:
    return stage.some(rng, stage.n - stage.q + 1)


async def _all(stage: Stage, rng: Random) -> list[int]:
    return list(range(stage.n))


def _killed(choose: Choice) -> Begin:
    async def begin(stage: Stage, rng: Random) -> Undo:
        victims = await choose(stage, rng)
        await stage.kill(victims)
        return lambda: stage.start(victims)

    return begin


def _ended(choose: Choice) -> Begin:
    async def begin(stage: Stage, rng: Random) -> Undo:
        victims = await choose(stage, rng)
        await stage.end(victims)
        return lambda: stage.start(victims)

    return begin


def _paused(choose: Choice) -> Begin:
    async def begin(stage: Stage, rng: Random) -> Undo:
        victims = await choose(stage, rng)
        await stage.signal(victims, signal.SIGSTOP)
        return lambda: stage.signal(victims, signal.SIGCONT)

    return begin


async def _rolling(stage: Stage, rng: Random) -> Undo:
    """A quorum of nodes one after the other, each killed while the one before is still coming up."""
    order = stage.some(rng, stage.q)
    for node in order[:-1]:
        await stage.kill([node])
        await stage.start([node])
        await asyncio.sleep(rng.uniform(0.3, 1.0))
    await stage.kill(order[-1:])
    return lambda: stage.start(order[-1:])


# --- links ----------------------------------------------------------------------------------------


def _across(ones: Iterable[int], others: Iterable[int]) -> list[Pair]:
    others = list(others)
    return [(one, other) for one in ones for other in others if one != other]


def _cut(choose: Choice) -> Begin:
    """The chosen nodes on one side, everybody else on the other."""

    async def begin(stage: Stage, rng: Random) -> Undo:
        away = await choose(stage, rng)
        rest = [node for node in range(stage.n) if node not in away]
        return await stage.rule(both_ways(_across(away, rest)))

    return begin


def _one_way(choose: Choice, *, hears: bool) -> Begin:
    """The chosen nodes send and get nothing, or get and send nothing."""

    async def begin(stage: Stage, rng: Random) -> Undo:
        away = await choose(stage, rng)
        pairs = _across(away, range(stage.n))
        cut = pairs if hears else [pair[::-1] for pair in pairs]
        return await stage.rule({pair: Rule(held=True) for pair in cut})

    return begin


async def _halves(stage: Stage, rng: Random) -> Undo:
    order = stage.some(rng, stage.n)
    return await stage.rule(both_ways(_across(order[: stage.n // 2], order[stage.n // 2 :])))


async def _ring(stage: Stage, rng: Random) -> Undo:
    """Each node sees a quorum, no two nodes the same one."""
    order, reach = stage.some(rng, stage.n), (stage.q - 1 + 1) // 2
    far = [
        (order[one], order[other])
        for one in range(stage.n)
        for other in range(one)
        if min(one - other, stage.n - one + other) > reach
    ]
    return await stage.rule(both_ways(far))


async def _swizzle(stage: Stage, rng: Random) -> Undo:
    """Nodes are cut off one by one, and come back one by one in another order."""
    order = stage.some(rng, rng.randint(2, stage.n))
    step_s = 3.0 / len(order)
    undos = []
    for node in order:
        undos.append(await stage.rule(both_ways(_across([node], range(stage.n)))))
        await asyncio.sleep(rng.uniform(0.0, 2 * step_s))
    rng.shuffle(undos)
    pauses = [rng.uniform(0.0, 2 * step_s) for _ in undos]

    async def heal() -> None:
        for undo, pause_s in zip(undos, pauses, strict=True):
            await asyncio.sleep(pause_s)
            await undo()

    return heal


async def _resets(stage: Stage, rng: Random) -> Undo:
    """Half of all connections end, a few times in a row."""
    pairs = [(one, other) for one in range(stage.n) for other in range(one)]
    picks = [rng.sample(pairs, (len(pairs) + 1) // 2) for _ in range(8)]

    async def play() -> None:
        for picked in picks:
            await stage.net.links.fabric.reset(picked)
            await asyncio.sleep(0.4)

    task = asyncio.create_task(play())

    async def heal() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    return heal


def _shaped(choose: Choice, rule: Callable[[Random], Rule]) -> Begin:
    async def begin(stage: Stage, rng: Random) -> Undo:
        chosen = await choose(stage, rng)
        return await stage.rule(both_ways(_across(chosen, range(stage.n)), rule(rng)))

    return begin


def _late(low_s: float, high_s: float) -> Callable[[Random], Rule]:
    return lambda rng: Rule(delay_s=rng.uniform(low_s, high_s))


# --- disks ----------------------------------------------------------------------------------------


def _slow(choose: Choice, low_ms: int, high_ms: int) -> Begin:
    async def begin(stage: Stage, rng: Random) -> Undo:
        chosen, delay_ms = await choose(stage, rng), rng.randint(low_ms, high_ms)
        stage.slow(chosen, delay_ms)

        async def heal() -> None:
            stage.slow(chosen, 0)

        return heal

    return begin


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("kill-one", PROCESS, (0.0, 4.0), True, _killed(_one)),
        Kind("kill-leader", PROCESS, (0.0, 4.0), True, _killed(_leader)),
        Kind("kill-f", PROCESS, (0.0, 4.0), True, _killed(_leader_and_f)),
        Kind("kill-more-than-f", PROCESS, (2.0, 6.0), False, _killed(_more_than_f)),
        Kind("kill-all", PROCESS, (0.0, 2.0), False, _killed(_all)),
        Kind("kill-rolling", PROCESS, (0.0, 1.0), None, _rolling),
        Kind("pause-one", PROCESS, (0.5, 10.0), True, _paused(_one)),
        Kind("pause-leader", PROCESS, (0.5, 10.0), True, _paused(_leader)),
        Kind("pause-f", PROCESS, (0.5, 10.0), True, _paused(_f)),
        Kind("pause-more-than-f", PROCESS, (0.5, 10.0), False, _paused(_more_than_f)),
        Kind("restart-one", PROCESS, (0.0, 2.0), True, _ended(_one)),
        Kind("restart-leader", PROCESS, (0.0, 2.0), True, _ended(_leader)),
        Kind("restart-all", PROCESS, (0.0, 2.0), False, _ended(_all)),
        Kind("isolate-one", NETWORK, (2.0, 10.0), True, _cut(_one)),
        Kind("isolate-leader", NETWORK, (2.0, 10.0), True, _cut(_leader)),
        Kind("isolate-f", NETWORK, (2.0, 10.0), True, _cut(_leader_and_f)),
        Kind("isolate-long", NETWORK, (32.0, 36.0), True, _cut(_one)),
        Kind("leader-deaf", NETWORK, (2.0, 10.0), True, _one_way(_leader, hears=False)),
        Kind("leader-mute", NETWORK, (2.0, 10.0), True, _one_way(_leader, hears=True)),
        Kind("halves", NETWORK, (2.0, 10.0), False, _halves),
        Kind("ring", NETWORK, (2.0, 10.0), None, _ring),
        Kind("swizzle", NETWORK, (0.5, 3.0), None, _swizzle),
        Kind("resets", NETWORK, (2.0, 4.0), None, _resets, shapes=True),
        Kind("slow-links", NETWORK, (3.0, 8.0), None, _shaped(_all, _late(0.02, 0.1)), shapes=True),
        Kind("slow-leader", NETWORK, (3.0, 8.0), True, _shaped(_leader, _late(0.1, 0.5)), shapes=True),
        Kind(
            "narrow-one",
            NETWORK,
            (3.0, 8.0),
            True,
            _shaped(_one, lambda rng: Rule(bytes_per_s=rng.choice((5_000, 20_000, 80_000)))),
            shapes=True,
        ),
        Kind("slow-disk-one", DISK, (3.0, 8.0), True, _slow(_one, 100, 800)),
        Kind("slow-disk-leader", DISK, (3.0, 8.0), True, _slow(_leader, 100, 800)),
        Kind("slow-disk-all", DISK, (3.0, 8.0), None, _slow(_all, 20, 150)),
        Kind("stuck-disk-leader", DISK, (2.0, 8.0), True, _slow(_leader, STUCK_MS, STUCK_MS)),
        Kind("stuck-disk-f", DISK, (2.0, 8.0), True, _slow(_leader_and_f, STUCK_MS, STUCK_MS)),
    )
}
