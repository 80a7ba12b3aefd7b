"""Real nodes under payments while one perturbation after the other is played, from one seed.

Each perturbation lasts, is taken back, and then the network's recovery is measured: the time until a block
above everything final before is final on a quorum of nodes, and until every node has it. The next one begins
after that. At the end ``judge`` compares the nodes with each other.
"""

import asyncio
import contextlib
import math
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic
from typing import Any

from node.bench.load import make_source
from node.rpc.client import RpcUnavailable
from node.rpc.errors import RpcError
from node.testnet import TEST_BFT, ChainPlan
from tests.perturb.judge import judge
from tests.perturb.kinds import DISK, FAMILIES, KINDS, Kind
from tests.perturb.namespaces import why_not
from tests.perturb.nodes import PerturbNet
from tests.perturb.slowdisk import compiler
from tests.perturb.stage import Stage
from tests.soak.soak import COINS, Report, Soak

RECOVERY_LIMIT_S = 120.0
"""Beyond this a network counts as one that does not recover. Patience grows by half with each term without
a block, so it takes at most about half as long as the chain stood still, and then some time-outs."""

IN_FLIGHT_BLOCKS = 3
"""What may still become final when no quorum is left: votes that are in sockets and queues already."""

COMBINED = 0.2
"""How often two perturbations of different families are played together."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What suits a number of nodes on a machine with few cores: the timing of the chain file, how often
    nodes are asked for their height, and how many payments are sent."""

    progress_timeout_ms: int
    slot_step_ms: int
    idle_interval_ms: int
    block_interval_ms: int
    poll_s: float
    payments_per_s: int


PACES = (
    (4, Pace(600, 60, 1_000, 200, 0.05, 60)),
    (7, Pace(1_000, 100, 1_000, 300, 0.1, 40)),
    (50, Pace(6_000, 600, 3_000, 1_000, 0.4, 15)),
)
"""By the largest number of nodes. An operator whose machines are slow or shared chooses alike."""


def pace_of(nodes: int) -> Pace:
    """Return the pace for so many nodes."""
    return next(pace for most, pace in PACES if nodes <= most)


@dataclass(frozen=True, slots=True)
class Order:
    """What shall be run. ``seconds`` 0: each kind once, however long that takes; ``kinds`` empty: all;
    ``longest_s`` cuts the range of lengths that a kind has; ``namespaces``: cut links in the kernel;
    ``round_s``: how long an epoch is, 0: longer than any campaign."""

    nodes: int
    seconds: float
    seed: int
    kinds: Sequence[str] = ()
    longest_s: float = math.inf
    namespaces: bool = False
    round_s: int = 0


@dataclass(frozen=True, slots=True)
class Played:
    """One perturbation as it was: names joined by "+", and figures in seconds.

    Since it was taken back: ``started_s`` until the processes that it had ended answer again, ``quorum_s``
    until a new block is final on a quorum, ``all_s`` until every node has it. ``stall_s`` is the longest time
    without a new final block from its beginning to the recovery.
    """

    name: str
    lasted_s: float
    blocks: int
    started_s: float
    quorum_s: float
    all_s: float
    stall_s: float


@dataclass
class PerturbReport(Report):
    """What a campaign saw. Empty ``problems`` mean that all went well."""

    nodes: int = 0
    network: str = "proxy"
    skipped: list[str] = field(default_factory=list)
    played: list[Played] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {self.nodes} nodes ({self.network}), {self.sent} payments, {self.resent} "
            f"sent again, {self.height} blocks, {len(self.played)} perturbations",
            *self.skipped,
            *_table(self.played),
            f"memory: at most {max(self.peak_mib, default=0.0):.0f} MiB in a node",
            "checked: " + ", ".join(f"{count} {what}" for what, count in self.checked.items()),
            *(f"PROBLEM: {problem}" for problem in self.problems),
        ]
        return "\n".join(lines)


def _table(played: Sequence[Played]) -> list[str]:
    """Return one line per kind, those played together in one line of their own, and a total."""
    groups: dict[str, list[Played]] = {}
    for each in played:
        groups.setdefault("two together" if "+" in each.name else each.name, []).append(each)
    head = f"{'':18}{'':>6}"
    for title, width in (("processes up", 16), ("a quorum has a block", 24), ("all nodes have it", 24)):
        head += f"  {title:>{width}}"
    pair, triple = f"{'median':>8}{'max':>8}", f"{'median':>8}{'p90':>8}{'max':>8}"
    lines = [
        f"{head}  {'longest stall':>16}",
        f"{'seconds':18}{'count':>6}  {pair}  {triple}  {triple}  {pair}",
    ]
    for name, group in [*sorted(groups.items()), ("all", list(played))]:
        if group:
            columns = zip(*((p.started_s, p.quorum_s, p.all_s, p.stall_s) for p in group), strict=True)
            started, quorum, everybody, stall = (list(column) for column in columns)
            cells = [
                _figures(started),
                _figures(quorum, p90=True),
                _figures(everybody, p90=True),
                _figures(stall),
            ]
            lines.append(f"{name:18}{len(group):>6}  {'  '.join(cells)}")
    return lines


def _figures(figures: Sequence[float], *, p90: bool = False) -> str:
    """Return median and maximum, between them the smallest figure that nine of ten do not exceed."""
    shown = [median(figures), max(figures)]
    if p90:
        shown.insert(1, sorted(figures)[-(-9 * len(figures) // 10) - 1])
    return "".join(f"{figure:>8.2f}" for figure in shown)


class Campaign(Soak):
    """One campaign over a network that is up."""

    def __init__(self, net: PerturbNet, order: Order, report: PerturbReport, kinds: Sequence[Kind]) -> None:
        super().__init__(net, order.seed, report)
        self.order = order
        self.pace = pace_of(len(net.nodes))
        self.rate_per_s = self.pace.payments_per_s
        self.kinds = kinds
        self.perturb_report = report
        self.stage = Stage(net, self.up, self.lives, self.problem, self._started)
        self.heights = [0] * len(net.nodes)
        self.top = 0  # the highest that any node ever had
        self.final_at = [monotonic()]  # when a quorum had block 0, 1, ...
        self._answered_at = 0.0  # when the last of the processes that were started again answered
        self._tasks: set[asyncio.Task[None]] = set()

    # --- heights ----------------------------------------------------------------------------------

    async def observe(self, node: int) -> None:
        """Ask a node for its height again and again."""
        while True:
            try:
                async with asyncio.timeout(2.0):
                    self._note(node, int(await self.net.call(node, "getblockcount")))
            except (RpcUnavailable, RpcError, OSError, TimeoutError):
                pass
            await asyncio.sleep(self.pace.poll_s)

    def _note(self, node: int, height: int) -> None:
        self.heights[node] = height
        self.top = max(self.top, height)
        now, ranked = monotonic(), sorted(self.heights, reverse=True)
        while len(self.final_at) <= ranked[self.stage.q - 1]:
            self.final_at.append(now)

    def _started(self, node: int) -> None:
        """A process was started again: payments go there as soon as it answers."""

        async def wait() -> None:
            process = self.net.nodes[node].process
            await self._answers(node)
            if self.net.nodes[node].process is process:
                self.up[node] = True
                self._answered_at = monotonic()

        self.heights[node] = 0
        task = asyncio.create_task(wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- perturbations ----------------------------------------------------------------------------

    async def disturb(self, until: float) -> None:
        """Play perturbations until then (infinite: each kind once), each after the recovery from the last."""
        for number in range(len(self.kinds)) if until == math.inf else count():
            if monotonic() > until or self.report.problems:
                break
            rng = Random(f"{self.report.seed}/{number}")
            await asyncio.sleep(rng.uniform(0.3, 1.5))
            await self.play(self._draw(number, rng), rng)

    def _draw(self, number: int, rng: Random) -> list[Kind]:
        """Return what comes next: every kind once in an order of the seed, then all again."""
        lap, place = divmod(number, len(self.kinds))
        deck = list(self.kinds)
        Random(f"{self.report.seed}/lap {lap}").shuffle(deck)
        drawn = [deck[place]]
        if lap and rng.random() < COMBINED:
            others = [kind for kind in self.kinds if kind.family != drawn[0].family]
            drawn += rng.sample(others, min(1, len(others)))
        return sorted(drawn, key=lambda kind: FAMILIES.index(kind.family))

    async def play(self, kinds: Sequence[Kind], rng: Random) -> None:
        """Play these together, take them back, and wait for the recovery."""
        name = "+".join(kind.name for kind in kinds)
        low_s, high_s = (max(kind.lasts[end] for kind in kinds) for end in (0, 1))
        lasts_s = rng.uniform(min(low_s, self.order.longest_s), min(high_s, self.order.longest_s))
        await self.stage.count_votes()
        started, before = monotonic(), self.top
        undos: list[Callable[[], Awaitable[None]]] = []
        try:
            for kind in kinds:
                undos.append(await kind.begin(self.stage, rng))
            begun = self.top
            await asyncio.sleep(lasts_s)
        finally:
            reached, ended = self.top, monotonic()
            for undo in undos:
                await undo()
        print(
            f"{ended - started:6.1f} s of {name}, from block {before} to {reached}",
            file=sys.stderr,
            flush=True,
        )
        if any(kind.quorum is False for kind in kinds) and reached > begun + IN_FLIGHT_BLOCKS:
            self.problem(f"{name}: {reached - begun} blocks became final although no quorum was joined")
        await self._recovery(name, started, reached - before)

    async def _recovery(self, name: str, started: float, blocks: int) -> None:
        healed, wanted = monotonic(), self.top + 1
        everybody = 0.0
        while len(self.final_at) <= wanted or not everybody:
            if min(self.heights) >= wanted and not everybody:
                everybody = monotonic()
            if monotonic() > healed + RECOVERY_LIMIT_S:
                self.problem(
                    f"{name}: no block {wanted} on all nodes {RECOVERY_LIMIT_S:.0f} s after it was taken "
                    f"back; heights {self.heights}; {await self._statuses()}"
                )
                return
            await asyncio.sleep(self.pace.poll_s / 4)
        times = [started, *(at for at in self.final_at if started < at <= self.final_at[wanted])]
        stall_s = max(later - sooner for sooner, later in pairwise(times))
        quorum_s = max(0.0, self.final_at[wanted] - healed)
        started_s = max(0.0, self._answered_at - healed)
        played = Played(name, healed - started, blocks, started_s, quorum_s, everybody - healed, stall_s)
        self.perturb_report.played.append(played)
        print(f"         recovered: quorum {quorum_s:.2f} s, all {everybody - healed:.2f} s", file=sys.stderr)

    async def _statuses(self) -> list[Any]:
        shown: list[Any] = []
        for node in range(len(self.net.nodes)):
            try:
                async with asyncio.timeout(2.0):
                    status = await self.net.call(node, "bft.status")
                    keys = ("role", "term", "leader", "committed_height", "phase", "waiting", "missing")
                    shown.append({key: status[key] for key in keys})
            except (RpcUnavailable, RpcError, OSError, TimeoutError) as error:
                shown.append(str(error))
        return shown


def choose_kinds(net: PerturbNet, names: Sequence[str], skipped: list[str]) -> list[Kind]:
    """Return the kinds of these names (none: all) that can be played here; say which cannot."""
    kinds = [KINDS[name] for name in names or KINDS]
    if net.disks is None and any(kind.family == DISK for kind in kinds):
        skipped.append("SKIPPED: slow disks, there is no C compiler")
        kinds = [kind for kind in kinds if kind.family != DISK]
    shaped = [kind.name for kind in kinds if kind.shapes]
    if shaped and not net.links.fabric.shapes:
        skipped.append(f"SKIPPED: {', '.join(shaped)}: links between namespaces can only be cut")
        kinds = [kind for kind in kinds if not kind.shapes]
    return kinds


async def run(root: Path, order: Order) -> PerturbReport:
    """Run a campaign under ``root``. What cannot be played here is left out, and the report says so."""
    report = PerturbReport(order.seed, nodes=order.nodes, peak_mib=[0.0] * order.nodes)
    pace = pace_of(order.nodes)
    timing = replace(
        TEST_BFT,
        progress_timeout_ms=pace.progress_timeout_ms,
        slot_step_ms=pace.slot_step_ms,
        idle_interval_ms=pace.idle_interval_ms,
        block_interval_ms=pace.block_interval_ms,
    )
    if order.round_s:
        timing = replace(timing, round_s=order.round_s, substitution_s=max(1, order.round_s // 2))
    plan = ChainPlan(name="perturb", bft=timing, allocations=tuple(make_source(COINS).allocations()))
    in_kernel = order.namespaces
    if in_kernel and (reason := why_not()):
        report.skipped.append(f"SKIPPED: network namespaces: {reason}; links go through the proxy")
        in_kernel = False
    report.network = "namespaces" if in_kernel else "proxy"
    slow_disks = compiler() is not None
    net = await PerturbNet.open(root, order.nodes, plan, namespaces=in_kernel, slow_disks=slow_disks)
    async with net:
        net.start_all()
        await net.wait_ready()
        kinds = choose_kinds(net, order.kinds, report.skipped)
        campaign = Campaign(net, order, report, kinds)
        await _play(campaign)
        report.sent = len(campaign.payments)
    return report


async def _play(campaign: Campaign) -> None:
    observers = [campaign.observe(node) for node in range(len(campaign.net.nodes))]
    tasks = [asyncio.create_task(work) for work in (*observers, campaign.watch())]
    traffic = [asyncio.create_task(work) for work in (campaign.renew(), campaign.stream(math.inf))]
    try:
        until = monotonic() + campaign.order.seconds if campaign.order.seconds else math.inf
        await campaign.disturb(until)
        await _cancel(traffic)
        if not campaign.report.problems:
            await campaign.settle()
            await campaign.check()
            await judge(campaign)
    finally:
        await _cancel([*tasks, *traffic])


async def _cancel(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
