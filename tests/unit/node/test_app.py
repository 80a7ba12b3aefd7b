"""The composition root: pieces that need no daemon, and one daemon in this process."""

import asyncio
import shutil
import signal
from dataclasses import replace

import pytest

from consensus.errors import ConfigError, StorageError
from node import app as module
from node.app import EXIT_BUG, EXIT_OK, Daemon, load_params, run_node
from node.cli.main import run_command
from node.rounds import VOTE_LOG_NAME
from node.rpc.client import AsyncRpcClient, RpcUnavailable, read_cookie
from node.testnet import ChainPlan, Founder, Testnet
from storage.store import ChainStore
from storage.wal import VoteLog

# ---- a daemon ----------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    """The configuration of the only node of a chain that makes blocks fast."""
    fast = replace(ChainPlan().bft, slot_step_ms=10, idle_interval_ms=100, block_interval_ms=10)
    return Testnet.create(tmp_path, [Founder("grid", "grid-operator")], ChainPlan(bft=fast)).nodes[0].config


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def started(config):
    daemon = Daemon(config)
    await daemon.start()
    return daemon


async def test_a_daemon_starts_serves_and_stops(config):
    daemon = await started(config)
    await until(lambda: daemon.facade.is_ready()[0])
    client = AsyncRpcClient(config.rpc.listen, read_cookie(config.cookie_file))
    assert await client.call("getblockcount") >= 1
    await client.close()
    daemon.stop(None)
    daemon.stop(RuntimeError("too late"))
    assert await daemon.wait() is None
    assert await daemon.close_within(5)
    assert not config.cookie_file.exists()
    again = ChainStore.open(config.datadir, chain_id=daemon.chain.chain_id)  # the lock is free
    assert again.height == daemon.chain.tip.height
    again.close()


async def test_it_goes_on_where_it_was(config):
    daemon = await started(config)
    await until(lambda: daemon.chain.tip.height >= 2)
    assert await daemon.close_within(5)
    height = daemon.chain.tip.height
    daemon = await started(config)
    assert daemon.chain.tip.height == height
    await until(lambda: daemon.chain.tip.height > height)
    assert daemon.facade.bft_status().role == "leader"
    assert await daemon.close_within(5)


@pytest.mark.parametrize("damage", ["lost", "corrupt", "senseless"])
async def test_a_validator_with_a_doubtful_vote_log_only_follows(config, damage, caplog):
    daemon = await started(config)
    await until(lambda: daemon.chain.tip.height >= daemon.chain.round.first_height)
    assert await daemon.close_within(5)
    height = daemon.chain.tip.height
    path = config.datadir / VOTE_LOG_NAME
    if damage == "lost":
        path.unlink()
    elif damage == "corrupt":
        data = bytearray(path.read_bytes())
        data[4] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
        log, _ = VoteLog.open(path)
        log.append(99, b"no record of ours")
        log.close()
    daemon = await started(config)
    assert "does not vote" in caplog.text
    assert daemon.facade.bft_status().role == "learner"
    await asyncio.sleep(0)
    assert daemon.chain.tip.height == height
    assert daemon.peering.connected() == []
    assert await daemon.close_within(5)


async def test_a_taken_port_leaves_nothing_behind(config):
    first = await started(config)
    folder = config.datadir.parent / "other"
    folder.mkdir()
    shutil.copy2(config.keys_file, folder)
    other = Daemon(replace(config, datadir=folder))
    with pytest.raises(module.LocalFault) as caught:
        await other.start()
    assert caught.value.code == "port-in-use"
    assert await other.close_within(5)
    ChainStore.open(other.config.datadir, chain_id=first.chain.chain_id).close()
    assert await first.close_within(5)


async def test_two_daemons_cannot_share_a_folder(config):
    first = await started(config)
    second = Daemon(config)
    with pytest.raises(StorageError) as caught:
        await second.start()
    assert caught.value.code == "datadir-locked"
    assert await second.close_within(5)
    assert await first.close_within(5)


async def test_requests_under_way_do_not_hold_up_a_stop(config, kit):
    """A client that waits for a verdict gets an answer, and the node stops within its budget."""
    daemon = await started(config)
    entered = asyncio.Event()

    async def never(items):
        entered.set()
        await asyncio.Event().wait()

    daemon.verifier.check_many = never
    coin = daemon.chain.block(daemon.chain.chain_id).txs[0]
    owner = kit.account(int.from_bytes(daemon.keys.payout.reveal(), "big"))
    prevout = coin.txid + bytes(4)
    tx = kit.pay(prevout, payer=owner, have=coin.vout[0].value)
    client = AsyncRpcClient(config.rpc.listen, read_cookie(config.cookie_file))
    waiting = asyncio.create_task(client.call("sendrawtransaction", tx.raw.hex()))
    await entered.wait()
    daemon.stop(None)
    assert await daemon.close_within(2)
    [answer] = await asyncio.gather(waiting, return_exceptions=True)
    assert "node-stopping" in str(answer) or isinstance(answer, RpcUnavailable)
    await client.close()


async def test_signals_and_failing_tasks_stop_it(config):
    daemon = await started(config)
    signal.raise_signal(signal.SIGTERM)
    assert await asyncio.wait_for(daemon.wait(), 5) is None
    assert await daemon.close_within(5)
    daemon = await started(config)

    async def fail():
        raise KeyError("bug")

    daemon._begin(fail(), "failing")
    assert isinstance(await asyncio.wait_for(daemon.wait(), 5), KeyError)
    assert await daemon.close_within(5)


async def test_a_bug_in_the_network_stops_it(config):
    daemon = await started(config)
    daemon.network.failed.set_exception(KeyError("bug"))
    assert isinstance(await asyncio.wait_for(daemon.wait(), 5), KeyError)
    assert await daemon.close_within(5)


async def test_a_stop_that_takes_too_long_is_left(config, monkeypatch, caplog):
    daemon = await started(config)

    async def hang():
        await asyncio.Event().wait()

    daemon._resources.push_async_callback(hang)
    assert not await daemon.close_within(0.01)
    assert "too long" in caplog.text
    ChainStore.open(config.datadir, chain_id=daemon.chain.chain_id).close()  # what can be closed is closed


# ---- exit statuses -----------------------------------------------------------------------------


@pytest.fixture
def quiet(monkeypatch):
    """Leave the logging of the test process alone."""
    monkeypatch.setattr(module, "setup_logging", lambda config: None)


def after(blocks, action, monkeypatch):
    """Call ``action(daemon, block)`` once that many blocks are there."""
    on_commit = Daemon.on_commit

    def count(self, block, connected, evicted):
        on_commit(self, block, connected, evicted)
        if connected.tip.height >= blocks:
            action(self, block)

    monkeypatch.setattr(Daemon, "on_commit", count)


def test_a_requested_stop_ends_with_zero(config, quiet, monkeypatch):
    after(1, lambda daemon, block: daemon.facade.request_stop(), monkeypatch)
    assert run_node(config) == EXIT_OK


def test_a_bug_ends_with_seventy(config, quiet, monkeypatch, caplog):
    def crash(daemon, block):
        raise KeyError("bug")

    after(1, crash, monkeypatch)
    assert run_node(config) == EXIT_BUG == 70
    assert "stopped by a bug" in caplog.text


def test_a_full_disk_ends_with_one_clear_line_and_seventy_four(config, quiet, monkeypatch, capsys):
    connect = ChainStore.connect

    def full(self, batch):
        if batch.height == 2:
            raise StorageError("disk-full", "blocks: No space left on device", fix="free some space")
        connect(self, batch)

    monkeypatch.setattr(ChainStore, "connect", full)
    assert run_command(["run", "--datadir", str(config.datadir)]) == 74
    assert capsys.readouterr().err == (
        "wattd: error: disk-full: blocks: No space left on device (free some space)\n"
    )


def test_a_stop_that_hangs_does_not_end_with_zero(config, quiet, monkeypatch):
    async def close_within(self, budget_s):
        await self.close()
        return False

    monkeypatch.setattr(Daemon, "close_within", close_within)
    after(1, lambda daemon, block: daemon.facade.request_stop(), monkeypatch)
    assert run_node(config) == EXIT_BUG


def test_a_chain_file_that_cannot_be_read_is_a_config_error(config):
    with pytest.raises(ConfigError):
        load_params(replace(config, chain_file=config.datadir / "missing.toml"))
