"""A whole daemon in process: its mempool over a restart, and what it tells of double spends."""

import asyncio
from dataclasses import replace

import pytest

from consensus.errors import RuleError
from consensus.params import Allocation
from consensus.transaction import outpoint
from node.app import Daemon
from node.events import Events
from node.mempool_store import MEMPOOL_NAME
from node.testnet import ChainPlan, Founder, Testnet


@pytest.fixture
def config(tmp_path, kit):
    """A follower of a chain whose only validator does not run: what it takes stays in the pool."""
    plan = ChainPlan(allocations=(Allocation(kit.RICH.script, kit.TOKEN),) * 3)
    founders = [Founder("grid", "grid-operator"), Founder("provider", "service-provider")]
    return Testnet.create(tmp_path, founders, plan).nodes[0].config


async def started(config):
    daemon = Daemon(config)
    await daemon.start()
    async with asyncio.timeout(10):
        while not daemon.facade.mempool_loaded():
            await asyncio.sleep(0.002)
    return daemon


def coins_of(daemon, script):
    genesis = daemon.chain.block(daemon.chain.chain_id).txs[0]
    return [outpoint(genesis.txid, at) for at, out in enumerate(genesis.vout) if out.script_pubkey == script]


async def test_the_mempool_survives_a_restart(config, kit):
    daemon = await started(config)
    coins = coins_of(daemon, kit.RICH.script)
    txs = [kit.pay(prevout) for prevout in coins[:2]]
    for tx in txs:
        await daemon.facade.submit(tx.raw)
    assert await daemon.close_within(5)
    daemon = await started(config)
    assert [entry.tx for entry in daemon.mempool.entries()] == txs
    assert (config.datadir / MEMPOOL_NAME).stat().st_mode & 0o022 == 0
    assert await daemon.close_within(5)
    (config.datadir / MEMPOOL_NAME).write_bytes(b"damaged")
    daemon = await started(config)
    assert daemon.mempool.count == 0
    assert await daemon.close_within(5)


async def test_persistence_can_be_switched_off(config, kit):
    daemon = await started(replace(config, mempool_persist=False))
    await daemon.facade.submit(kit.pay(coins_of(daemon, kit.RICH.script)[0]).raw)
    assert await daemon.close_within(5)
    assert not (config.datadir / MEMPOOL_NAME).exists()


async def test_a_double_spend_is_told(config, kit, caplog):
    daemon = await started(config)
    heard = []
    end = daemon.events.subscribe(lambda name, fields: heard.append((name, fields)))
    prevout = coins_of(daemon, kit.RICH.script)[0]
    first, second = kit.pay(prevout), kit.pay(prevout, 7_000)
    await daemon.facade.submit(first.raw)
    with pytest.raises(RuleError, match="txn-mempool-conflict"):
        await daemon.facade.submit(second.raw)
    end()
    assert await daemon.close_within(5)
    [(name, fields)] = heard
    assert (name, fields["confirmed"]) == ("double-spend", False)
    assert (fields["txid"], fields["rival"]) == (first.txid[::-1].hex(), second.txid[::-1].hex())
    assert fields["spends"].startswith(prevout[:32][::-1].hex() + ":")
    assert daemon.metrics.double_spends.value == 1
    assert "double spend" in caplog.text


async def test_estimates_are_never_below_the_minimum(config, kit):
    daemon = await started(config)
    estimator = daemon.mempool.estimator
    for height in range(1, 40):
        estimator.block(height, [(height - 1, 500)] * 20)
    floor = daemon.mempool.min_fee_per_kvb
    assert daemon.facade.estimate_fee(2, conservative=False) == (floor, 2)
    assert daemon.facade.estimate_fee(500, conservative=True)[1] == 19
    assert await daemon.close_within(5)


def test_a_failing_listener_disturbs_nobody(caplog):
    events, heard = Events(), []

    def fail(name, fields):
        raise KeyError("bug")

    events.subscribe(fail)
    end = events.subscribe(lambda name, fields: heard.append(name))
    events.publish("one", {})
    end()
    events.publish("two", {})
    assert heard == ["one"]
    assert "a listener failed" in caplog.text
