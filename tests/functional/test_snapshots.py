"""Real processes on chains that commit to their state: a new node starts from a snapshot and follows."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.clock import Clock
from node.testnet import TEST_BFT, TEST_LEDGER, TEST_POW, ChainPlan, Founder, Testnet

pytestmark = pytest.mark.functional

Run = Callable[..., Any]
TIMEOUT_S = 40.0
POLL_S = 0.05
INTERVAL = 5
LEDGER = replace(TEST_LEDGER, snapshot_interval_blocks=INTERVAL)


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = Clock.monotonic_s() + TIMEOUT_S
    while not await condition():
        assert Clock.monotonic_s() < deadline, what
        await asyncio.sleep(POLL_S)


async def reach(net: Testnet, indices: list[int], height: int) -> None:
    """Wait until nodes have a height, then compare their blocks there and their state."""
    for index in indices:

        async def there(index: int = index) -> bool:
            return int(await net.call(index, "getblockcount")) >= height

        await until(there, f"node {index} does not come to {height}")
    assert len({await net.call(index, "getblockhash", height) for index in indices}) == 1
    stats = [await net.call(index, "gettxoutsetinfo") for index in indices]
    assert all(each["conserved"] for each in stats)


def store(net: Testnet, index: int, command: str, *arguments: str) -> dict[str, str]:
    """Run ``wattd store`` on the directory of a node that is down; return what it said by first word."""
    datadir = str(net.nodes[index].config.datadir)
    line = [sys.executable, "-m", "node", "store", command, "--datadir", datadir, *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return dict(each.split(maxsplit=1) for each in done.stdout.splitlines())


async def committed(net: Testnet, index: int, height: int) -> str | None:
    block = await net.call(index, "getblock", await net.call(index, "getblockhash", height), 1)
    root = block["commitment"]["state_root"]
    return None if root is None else str(root)


def test_a_follower_starts_from_what_a_quorum_signed(run: Run, tmp_path: Path) -> None:
    founders = [Founder("grid", "grid-operator"), *(Founder(f"p{n}", "service-provider") for n in (1, 2, 3))]
    plan = ChainPlan(name="roots", ledger=LEDGER, bft=replace(TEST_BFT, idle_interval_ms=200))

    async def story() -> None:
        async with Testnet.create(tmp_path, founders, plan) as net:
            net.start_all()
            await net.wait_ready()
            await reach(net, [0, 1, 2, 3], 3 * INTERVAL + 1)
            due = [height for height in range(3 * INTERVAL + 1) if await committed(net, 0, height)]
            assert due == [2 * INTERVAL, 3 * INTERVAL]
            await net.kill(3)
            said = store(net, 3, "export-snapshot", str(tmp_path / "snapshot"))
            assert int(said["height"]) >= 2 * INTERVAL
            assert net.add_follower("late", [0, 1, 2]) == 4
            store(net, 4, "import-snapshot", str(tmp_path / "snapshot"))
            net.start(3)
            net.start(4)
            await net.wait_ready([4])
            first = int(await net.call(4, "getblockcount"))
            assert first >= int(said["height"])
            await reach(net, [0, 1, 2, 3, 4], first + 2 * INTERVAL)

    run(story())


def test_a_miner_starts_from_the_block_that_it_trusts(run: Run, tmp_path: Path) -> None:
    founders = [Founder("grid", "grid-operator"), Founder("p1", "service-provider")]
    plan = ChainPlan(name="peaks", ledger=LEDGER, pow=TEST_POW)

    async def story() -> None:
        async with Testnet.create(tmp_path, founders, plan) as net:

            async def mine(index: int, count: int) -> None:
                address = net.address_of(net.nodes[index].account_script)
                await net.call(index, "generatetoaddress", count, address)

            net.start(0)
            await net.wait_ready([0], health="/live")
            await mine(0, 3 * INTERVAL + 1)
            assert await committed(net, 0, 3 * INTERVAL)
            await net.end(0)
            said = store(net, 0, "export-snapshot", str(tmp_path / "snapshot"))
            block = said["proof"].split()[0]
            store(net, 1, "import-snapshot", str(tmp_path / "snapshot"), "--trust-hash", block)
            net.start(0)
            net.start(1)
            await net.wait_ready([0, 1], health="/live")
            await reach(net, [0, 1], 3 * INTERVAL + 1)
            await mine(1, INTERVAL)
            await reach(net, [0, 1], 4 * INTERVAL + 1)
            assert await committed(net, 0, 4 * INTERVAL) == await committed(net, 1, 4 * INTERVAL)

    run(story())
