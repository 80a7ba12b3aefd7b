"""The replay: orders before their gates, readings after their slots, faults in between, money at the end."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from consensus.errors import LocalFault
from contracts.devices import sign_reading
from contracts.operations import PlaceOrder, SubmitReadings, Withdraw, object_id, reading_hash
from contracts.records import BUY
from node.clock import Clock
from node.demo.courier import Actor
from node.demo.journal import PlacedOrder
from node.demo.limits import CALLS_PER_BATCH, END_REAL_S, TICK_REAL_S
from node.demo.scenario import Kill, Wish
from node.demo.stage import COMMUNITY, Stage
from node.rpc.client import RpcUnavailable
from node.rpc.errors import RpcError
from node.testnet import LocalNode, tail_of_log
from node.wallet import Built

WH_PER_KWH = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """Something to tell: when in the day it happened, and what."""

    time: str
    text: str


@dataclass(slots=True)
class Outage:
    """A node that was killed, until it has caught up again. ``back_at`` is the slot of its restart."""

    node: int
    name: str
    was_leader: bool
    back_at: int
    killed_at: float
    height: int
    term: int
    restarted_at: float | None = None
    replaced: bool = False
    caught_up: bool = False


@dataclass(slots=True)
class Markets:
    """Cleared slots by position: price (base units per kWh, None without a trade) and Wh traded."""

    prices: dict[int, int | None] = field(default_factory=dict)
    volumes: dict[int, int] = field(default_factory=dict)


class Play:
    """One run over the stage. ``show`` is called after every look at the nodes."""

    def __init__(self, stage: Stage, show: Callable[["Play"], None]) -> None:
        self.stage = stage
        self.scenario = stage.scenario
        self.markets = Markets()
        self.events: list[Event] = []
        self.outages: list[Outage] = []
        self.phase = "the market opens"
        self._show = show
        self._ordered = 0
        self._read = 0
        self._kills = list(stage.scenario.kills)

    # ---- time -------------------------------------------------------------------------------------

    @property
    def slot(self) -> int:
        """Return the position of the slot that runs now: negative before the first, ``slots`` after all."""
        return min(self._slot_of_clock(), self.scenario.slots)

    def _slot_of_clock(self) -> int:
        return (self.stage.clock.now_s() - self.scenario.start_s(0)) // self.scenario.energy.slot_s

    def tell(self, text: str) -> None:
        """Note an event."""
        at = max(0, min(self.slot, self.scenario.slots - 1))
        self.events.append(Event(self.scenario.time_of_day(at), text))

    # ---- the run ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Replay all slots, then wait for bills, payouts and nodes that are catching up.

        Raises LocalFault if the chain stops taking transactions.
        """
        scenario = self.scenario
        self.phase = "trading"
        while self.stage.clock.now_s() < scenario.settled_s():
            if self.slot >= scenario.slots:
                self.phase = "last readings and settlement"
            await self._tick()
            await asyncio.sleep(TICK_REAL_S)
        await self._end()

    async def _tick(self) -> None:
        self._place_orders()
        self._submit_readings()
        await self._faults()
        await self.stage.turn()
        self._follow_outages()
        await self._look_at_markets()
        self._check_health()
        self._show(self)

    def _check_health(self) -> None:
        """Raise LocalFault if a node ended that nobody killed, or a transaction finds no block."""
        down = [outage.node for outage in self.outages if outage.restarted_at is None]
        for index, node in enumerate(self.stage.net.nodes):
            if index not in down and not node.is_running:
                raise LocalFault("demo-node-exited", f"{node.founder.name} {how_it_ended(node)}")
        complaints = self.stage.courier.complaints()
        if complaints:
            raise LocalFault("demo-stuck", complaints[0])

    def _place_orders(self) -> None:
        now_s = self.stage.clock.now_s()
        while self._ordered < self.scenario.slots and now_s >= self.scenario.order_time_s(self._ordered):
            for member, actor in zip(self.scenario.households, self.stage.households, strict=True):
                wish = self.scenario.wishes[member.index].get(self._ordered)
                if wish is not None:
                    self._order(actor, wish)
            self._ordered += 1

    def _order(self, actor: Actor, wish: Wish) -> None:
        market = self.scenario.energy
        price = wish.limit_price_per_kwh if wish.side == BUY else market.grid_price_per_kwh
        collateral = wish.energy_wh * price // WH_PER_KWH
        account = actor.wallet.account.script

        def signed(built: Built, payload: bytes) -> None:
            order_id = object_id(built.tx.prevouts[0], payload)
            self.stage.journal.orders[order_id] = PlacedOrder(account, wish, collateral)

        order = PlaceOrder(COMMUNITY, wish.slot, wish.side, wish.energy_wh, wish.limit_price_per_kwh)
        what = f"the order of {actor.name} for slot {wish.slot - self.scenario.first_slot}"
        self.stage.courier.give(actor, order, what, value=collateral, signed=signed)

    def _submit_readings(self) -> None:
        """Let each provider collect its meters' readings of the slots that are over into a batch.

        The first block after the end of a slot must not be older than that end, so a reading waits
        for a block that has passed it.
        """
        last = self.stage.watch.last
        while self._read < self.scenario.slots and last is not None:
            if last.time_s < self.scenario.start_s(self._read + 1):
                return
            batches: dict[int, list[Any]] = {}
            for member in self.scenario.households:
                net_wh = self.scenario.energies[member.index].net_wh(self._read)
                item = sign_reading(
                    self.stage.tag,
                    member.device.reveal(),
                    self.scenario.slot_number(self._read),
                    max(net_wh, 0),
                    max(-net_wh, 0),
                )
                self.stage.journal.readings[reading_hash(item)] = item
                batches.setdefault(member.provider, []).append(item)
            for provider, items in batches.items():
                actor = self.stage.providers[provider]
                what = f"the readings of {actor.name} for slot {self._read}"
                self.stage.courier.give(actor, SubmitReadings(tuple(items)), what)
            self._read += 1

    # ---- faults -----------------------------------------------------------------------------------

    async def _faults(self) -> None:
        net, watch = self.stage.net, self.stage.watch
        for outage in self.outages:
            if outage.restarted_at is None and self._slot_of_clock() >= outage.back_at:
                self._restart(outage)
        if not self._kills or self.slot < self._kills[0].at:
            return
        if len(watch.up) < len(watch.nodes) or not all(outage.caught_up for outage in self.outages):
            return  # one fault at a time is what four nodes bear
        victim = self._victim(self._kills[0])
        if victim is None:
            return
        kill, name = self._kills.pop(0), watch.nodes[victim].name
        await net.kill(victim)
        watch.lost(victim)
        back_at = self._slot_of_clock() + kill.back_at - kill.at
        outage = Outage(victim, name, kill.leader, back_at, Clock.monotonic_s(), watch.height, watch.term)
        self.outages.append(outage)
        what = "the leader" if kill.leader else "a follower"
        self.tell(f"{name}, {what}, is killed at height {watch.height}")

    def _restart(self, outage: Outage) -> None:
        self.stage.net.start(outage.node)
        outage.restarted_at = Clock.monotonic_s()
        self.tell(f"{outage.name} is started again")

    def _victim(self, kill: Kill) -> int | None:
        leader = self.stage.watch.leader
        if leader is None or kill.leader:
            return leader
        return next(index for index in reversed(range(len(self.stage.watch.nodes))) if index != leader)

    def _follow_outages(self) -> None:
        watch = self.stage.watch
        for outage in self.outages:
            leader = watch.leader
            if outage.was_leader and not outage.replaced and watch.term > outage.term and leader is not None:
                outage.replaced = True
                after_s = Clock.monotonic_s() - outage.killed_at
                self.tell(f"{watch.nodes[leader].name} leads term {watch.term}, after {after_s:.1f} s")
            if outage.restarted_at is None or outage.caught_up:
                continue
            if watch.has_caught_up(outage.node):
                outage.caught_up = True
                missed = watch.nodes[outage.node].height - outage.height
                after_s = Clock.monotonic_s() - outage.restarted_at
                self.tell(f"{outage.name} has caught up {missed} blocks, {after_s:.1f} s after its start")

    # ---- markets ----------------------------------------------------------------------------------

    async def _look_at_markets(self) -> None:
        """Fetch price and volume of the slots whose gates have closed since the last look."""
        last, index = self.stage.watch.last, self.stage.watch.best()
        if last is None or index is None:
            return
        due = [
            at
            for at in range(len(self.markets.volumes), self.scenario.slots)
            if self.scenario.start_s(at) - self.scenario.energy.gate_lead_s <= last.time_s
        ][:CALLS_PER_BATCH]
        if not due:
            return
        try:
            client = await self.stage.net.client(index)
            found = await client.batch(
                [("energy.market", (COMMUNITY, self.scenario.slot_number(at))) for at in due]
            )
        except RpcUnavailable:
            self.stage.watch.lost(index)
            return
        for at, market in zip(due, found, strict=True):
            if isinstance(market, RpcError) or market["status"] == "open":
                return
            self.markets.prices[at] = market["price_per_kwh"]
            self.markets.volumes[at] = market["volume_wh"]

    # ---- the end ----------------------------------------------------------------------------------

    async def _end(self) -> None:
        self._kills.clear()
        self.phase = "bills"
        await self._until(self._is_billed, "bills")
        self.phase = "payouts"
        await self._withdraw()
        await self._until(self._is_paid, "payouts")
        self.phase = "nodes that were away"
        await self._until(self._all_there, "the nodes to be at one height")
        self._show(self)

    async def _until(self, done: Callable[[], Any], what: str) -> None:
        deadline = Clock.monotonic_s() + END_REAL_S
        while True:
            await self._tick()
            try:
                if await done():
                    return
            except RpcUnavailable:
                pass
            if Clock.monotonic_s() > deadline:
                raise LocalFault("demo-end", f"waited {END_REAL_S:.0f} s for {what}")
            await asyncio.sleep(TICK_REAL_S)

    async def _call(self, method: str, *params: Any) -> Any:
        index = self.stage.watch.best()
        if index is None:
            raise RpcUnavailable("no-node", "no node answers")
        return await self.stage.net.call(index, method, *params)

    async def _is_billed(self) -> bool:
        if not self.stage.courier.is_idle:
            return False
        bills = [await self._call("energy.bills", COMMUNITY, day) for day in self.scenario.chain_days()]
        return all(bill is not None for bill in bills)

    async def _withdraw(self) -> None:
        """Let every household take its money out of the contracts."""
        least = self.stage.net.params.ledger.min_payout
        for member, actor in zip(self.scenario.households, self.stage.households, strict=True):
            account = await self._call("energy.account", self.stage.net.address_of(member.script))
            if account["available"] >= least:
                self.stage.journal.withdrawn[member.script] += account["available"]
                what = f"the withdrawal of {member.name}"
                self.stage.courier.give(actor, Withdraw(account["available"]), what)

    async def _is_paid(self) -> bool:
        if not self.stage.courier.is_idle:
            return False
        return not await self._call("energy.payouts")

    async def _all_there(self) -> bool:
        for outage in self.outages:
            if outage.restarted_at is None:
                self._restart(outage)
        watch = self.stage.watch
        return len(watch.up) == len(watch.nodes) and all(
            watch.has_caught_up(index) for index in range(len(watch.nodes))
        )


def how_it_ended(node: LocalNode) -> str:
    """Return how the process of a node ended that nobody here ended."""
    status = None if node.process is None else node.process.returncode
    if status is not None and status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}: {tail_of_log(node)}"
