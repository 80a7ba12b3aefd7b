"""The stage: four nodes on one chain, members and meters registered, before the first slot begins."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from consensus.block import Block
from consensus.errors import LocalFault
from consensus.params import COIN, Allocation
from contracts.devices import chain_tag, prove_device
from contracts.operations import Deposit, RegisterDevice, RegisterMember
from node.clock import NANOSECONDS, Clock
from node.config import ClockConfig
from node.demo.courier import Actor, Courier
from node.demo.journal import Journal
from node.demo.limits import (
    COINS_PER_HOUSEHOLD,
    SETUP_PER_HOUSEHOLD_REAL_S,
    SETUP_REAL_S,
    SETUP_RETRY_FACTOR,
    TICK_REAL_S,
)
from node.demo.scenario import ORDER_LEAD_REAL_S, Scenario
from node.demo.seeded import Seeded
from node.demo.watch import Watch
from node.testnet import TEST_BFT, TEST_ENERGY, ChainPlan, Founder, Testnet
from node.wallet import Account, Wallet

FOUNDERS = (
    Founder("gridco", "grid-operator"),
    Founder("helios", "service-provider"),
    Founder("lumen", "service-provider"),
    Founder("aurora", "service-provider"),
)
COMMUNITY = "riverside"
CHAIN_NAME = "wattd-demo"
MARKET = TEST_ENERGY

HOUSEHOLD_TOKENS = 200
FOUNDER_TOKENS = 100_000
RESERVE_TOKENS = 2
"""What a household deposits for imbalance beyond its collateral."""

OPERATOR_TOKENS_PER_HOUSEHOLD_DAY = 50
"""What the grid operator deposits to pay for energy fed in."""

FEE_RATE = 2_000
"""Base units per 1000 virtual bytes: twice the least that this chain takes."""

MAX_DRIFT_S = 3_600
"""Chain time runs fast, so the clocks of two nodes may differ by more of it; the most a chain allows."""


class TooSlow(LocalFault):
    """The nodes or the registrations took longer than the time before the first gate."""

    exit_status = 75


@dataclass(slots=True)
class Stage:
    """Everything that plays a part, ready for the first slot."""

    scenario: Scenario
    net: Testnet
    clock: Clock
    watch: Watch
    courier: Courier
    journal: Journal
    households: list[Actor]
    operator: Actor
    providers: list[Actor]
    tag: bytes

    async def turn(self) -> None:
        """Look at the nodes once, and move transactions on."""
        for block in await self.watch.poll():
            self.courier.confirm(block.txids)
        await self.courier.pump()


Progress = Callable[[str], None]


async def set_stage(
    root: Path,
    scenario: Scenario,
    seed: int,
    progress: Progress,
    play: Callable[[Stage], Awaitable[None]],
) -> Stage:
    """Start the network under ``root`` and run ``play`` on it; everything stops when that ends badly.

    The chain's clock starts with the nodes, so set-up must end before the first orders are due. If it
    does not, all is done once more with more time. Raises TooSlow if that is not enough.
    """
    budget = SETUP_REAL_S + SETUP_PER_HOUSEHOLD_REAL_S * len(scenario.households)
    for attempt, real_s in enumerate((budget, budget * SETUP_RETRY_FACTOR)):
        stage = build_stage(root / f"network-{attempt + 1}", scenario, seed, real_s)
        try:
            await open_market(stage, progress)
            await play(stage)
        except TooSlow as fault:
            await stage.net.stop()
            if attempt:
                raise
            progress(f"{fault.reason}; trying again with {real_s * SETUP_RETRY_FACTOR:.0f} s")
        except BaseException:
            await stage.net.stop()
            raise
        else:
            return stage
    raise TooSlow("demo-setup", "the set-up was too slow twice")


def build_stage(root: Path, scenario: Scenario, seed: int, setup_real_s: float) -> Stage:
    """Write the network's files and gather who plays; nothing runs yet."""
    source = Seeded(seed)
    journal = Journal()
    allocations = []
    for member in scenario.households:
        share = HOUSEHOLD_TOKENS * COIN // COINS_PER_HOUSEHOLD
        allocations += [Allocation(member.script, share)] * COINS_PER_HOUSEHOLD
        journal.allocated[member.script] = share * COINS_PER_HOUSEHOLD
    chain = ChainPlan(
        name=CHAIN_NAME,
        genesis_time_s=scenario.start_s(0) - 86_400,
        bft=replace(TEST_BFT, round_s=86_400, max_drift_s=MAX_DRIFT_S),
        energy=scenario.energy,
        community=COMMUNITY,
        allocations=tuple(allocations),
        founder_tokens=FOUNDER_TOKENS * COIN,
    )
    clock = clock_for(scenario, setup_real_s)
    net = Testnet.create(root, FOUNDERS, chain, clock=clock, random=source.stream("nodes"))
    watch = Watch(net)
    courier = Courier(watch, journal)
    founders = [
        courier.join(Actor(node.founder.name, Wallet(Account(node.keys.payout), FEE_RATE), home))
        for home, node in enumerate(net.nodes)
    ]
    for founder in founders:
        journal.allocated[founder.wallet.account.script] = chain.founder_tokens
    households = [
        courier.join(Actor(member.name, Wallet(member.account, FEE_RATE), member.index))
        for member in scenario.households
    ]
    return Stage(
        scenario=scenario,
        net=net,
        clock=Clock(clock.speed, clock.real_origin_s * NANOSECONDS, clock.chain_origin_s),
        watch=watch,
        courier=courier,
        journal=journal,
        households=households,
        operator=founders[0],
        providers=founders[1:],
        tag=chain_tag(net.params),
    )


def clock_for(scenario: Scenario, setup_real_s: float) -> ClockConfig:
    """Return a clock by which the first orders are due ``setup_real_s`` real seconds from now."""
    return ClockConfig(
        speed=scenario.speed,
        real_origin_s=Clock.unix_ns() // NANOSECONDS,
        chain_origin_s=scenario.order_time_s(0) - int(setup_real_s * scenario.speed),
    )


async def open_market(stage: Stage, progress: Progress) -> None:
    """Start the nodes, register everybody, and return when all of it is on the chain. Raises TooSlow."""
    stage.net.start_all()
    await stage.net.wait_ready()
    left_s = stage.clock.real_delay_s(stage.scenario.order_time_s(0))
    progress(f"four nodes are ready, {left_s:.1f} s before the market opens")
    await _find_coins(stage)
    _register(stage)
    while not stage.courier.is_idle:
        _check_time(stage)
        await stage.turn()
        await asyncio.sleep(TICK_REAL_S / 2)
    _check_time(stage)
    left_s = stage.clock.real_delay_s(stage.scenario.order_time_s(0))
    progress(
        f"{len(stage.households)} households and their meters are registered at height "
        f"{stage.watch.height}, {left_s:.1f} s before the market opens"
    )


def _check_time(stage: Stage) -> None:
    """Orders placed late still make their gate, by a margin that belongs to leader changes."""
    late_s = -stage.clock.real_delay_s(stage.scenario.order_time_s(0))
    if late_s > ORDER_LEAD_REAL_S / 2:
        waiting = stage.courier.unconfirmed()
        raise TooSlow(
            "demo-setup",
            f"set-up is not done {late_s:.0f} s after the market should have opened"
            + (f", waiting for {len(waiting)} transactions ({waiting[0]})" if waiting else ""),
            fix="the machine is busy; try again",
        )


async def _find_coins(stage: Stage) -> None:
    """Give every wallet its outputs of the genesis block, as a node tells it."""
    genesis_hash = await stage.net.call(0, "getblockhash", 0)
    genesis = Block.parse(bytes.fromhex(await stage.net.call(0, "getblock", genesis_hash, 0)))
    for actor in (stage.operator, *stage.providers, *stage.households):
        for tx in genesis.txs:
            actor.wallet.observe(tx)


def _register(stage: Stage) -> None:
    scenario, courier = stage.scenario, stage.courier
    days = -(-scenario.slots * scenario.energy.slot_s // 86_400)
    deposit = OPERATOR_TOKENS_PER_HOUSEHOLD_DAY * len(scenario.households) * days * COIN
    courier.give(stage.operator, Deposit(), "the operator's deposit", value=deposit)
    for member, actor in zip(scenario.households, stage.households, strict=True):
        provider = stage.providers[member.provider].wallet.account.script
        admit = RegisterMember(COMMUNITY, member.script, provider)
        courier.give(stage.operator, admit, f"the registration of {member.name}")
        proof = prove_device(stage.tag, member.device.reveal(), member.script, COMMUNITY)
        meter = RegisterDevice(member.device_key, member.script, provider, COMMUNITY, proof)
        courier.give(stage.operator, meter, f"the meter of {member.name}")
        reserve = RESERVE_TOKENS * COIN
        courier.give(actor, Deposit(), f"the deposit of {member.name}", value=reserve)
