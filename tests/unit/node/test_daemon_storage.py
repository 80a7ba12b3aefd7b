"""A daemon in this process whose store prunes itself, and one that finds a database of an older schema."""

import asyncio
import logging
from dataclasses import replace

import plyvel
import pytest

from node.app import Daemon
from node.engines import services_of
from node.testnet import ChainPlan, Founder, Testnet
from p2p.messages import SERVICE_BLOCKS
from storage import limits, schema


@pytest.fixture
def config(tmp_path):
    """The configuration of the only node of a chain that makes blocks fast."""
    fast = replace(ChainPlan().bft, slot_step_ms=10, idle_interval_ms=10, block_interval_ms=10)
    return Testnet.create(tmp_path, [Founder("grid", "grid-operator")], ChainPlan(bft=fast)).nodes[0].config


async def until(condition, daemon):
    """Wait for a condition; a daemon that stops meanwhile ends it with its reason."""
    stopped = daemon._stopped  # not by a task of ``wait``: to cancel that cancels this
    async with asyncio.timeout(20):
        while not condition():
            if stopped.done():
                raise stopped.result() or AssertionError("it stopped")
            await asyncio.sleep(0.005)


async def test_a_daemon_prunes_as_it_is_told(config, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(limits, "KEEP_BLOCKS_MIN", 5)
    monkeypatch.setattr(limits, "SEGMENT_BYTES", 6_000)
    daemon = Daemon(replace(config, prune_keep_blocks=6))
    await daemon.start()
    store = daemon.chain.store
    assert services_of(daemon.chain, None) == SERVICE_BLOCKS
    await until(lambda: store.pruned_below > 4 and "pruned" in caplog.messages, daemon)
    height = store.height
    await until(lambda: store.height > height, daemon)
    assert store.body(store.block_hash(1)) is None
    assert store.body(store.block_hash(store.height - 5)) is not None
    assert not services_of(daemon.chain, None) & SERVICE_BLOCKS
    assert await daemon.close_within(5)
    below = store.pruned_below
    daemon = Daemon(config)  # switched off again: what is gone stays away, nothing more goes
    await daemon.start()
    height = daemon.chain.tip.height
    await until(lambda: daemon.chain.tip.height > height + 3, daemon)
    assert daemon.chain.store.pruned_below == below
    assert await daemon.close_within(5)


async def test_a_daemon_migrates_what_an_older_version_left_and_says_so(config, caplog):
    caplog.set_level(logging.INFO)
    daemon = Daemon(config)
    await daemon.start()
    await until(lambda: daemon.chain.tip.height >= 2, daemon)
    assert await daemon.close_within(5)
    tip, coins = daemon.chain.tip, 0
    with plyvel.DB(str(config.datadir / "index")) as index:
        index.put(schema.VERSION, schema.U32.pack(1))
        index.delete(schema.COINS_TIP)
        coins = sum(1 for _ in index.iterator(prefix=schema.COIN))
    caplog.clear()
    daemon = Daemon(config)
    await daemon.start()
    assert "migrating the database" in caplog.messages
    assert daemon.chain.tip.height >= tip.height
    assert sum(1 for _ in daemon.chain.store.iterate_coins()) >= coins > 0
    assert await daemon.close_within(5)
