"""What perturbs does what it says: links that hold, delay, narrow and reset; disks that are slow."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time

import pytest

from node.config import Endpoint
from tests.perturb.links import HELD, HOST, Links, Proxy, Rule
from tests.perturb.slowdisk import STUCK_MS, SlowDisks, compiler

LIMIT_S = 20.0
QUIET_S = 0.2


class Ends:
    """Two ends that listen, and connections between them through a proxy."""

    async def open(self):
        self.accepted = asyncio.Queue()
        self.servers = [
            await asyncio.start_server(lambda r, w: self.accepted.put_nowait((r, w)), HOST, 0) for _ in "ab"
        ]
        self.proxy = Proxy()
        self.links = Links(self.proxy)
        ports = [server.sockets[0].getsockname()[1] for server in self.servers]
        self.ways = await self.proxy.listen([Endpoint(HOST, port) for port in ports])
        return self

    async def connect(self):
        """Return the streams of node 0, which dials, and of node 1."""
        near = await asyncio.open_connection(HOST, self.ways[0, 1].port)
        return near, await self.accepted.get()

    async def close(self):
        await self.proxy.close()
        for server in self.servers:
            server.close()


@pytest.fixture
async def ends():
    opened = await Ends().open()
    async with asyncio.timeout(LIMIT_S):
        yield opened
    await opened.close()


async def silent(reader):
    """Whether nothing arrives for a while."""
    try:
        async with asyncio.timeout(QUIET_S):
            return not await reader.read(1)
    except TimeoutError:
        return True


async def test_a_held_direction_keeps_its_bytes_and_the_other_passes(ends):
    (near_reader, near_writer), (far_reader, far_writer) = await ends.connect()
    layer = await ends.links.add({(0, 1): HELD})
    near_writer.write(b"up")
    far_writer.write(b"down")
    assert await near_reader.readexactly(4) == b"down"
    assert await silent(far_reader)
    await ends.links.remove(layer)
    assert await far_reader.readexactly(2) == b"up"


async def test_rules_lie_on_top_of_each_other(ends):
    first = await ends.links.add({(1, 0): HELD, (0, 1): HELD})
    second = await ends.links.add({(1, 0): Rule(delay_s=0.5)})
    third = await ends.links.add({(1, 0): Rule(delay_s=0.5, bytes_per_s=10)})
    assert ends.proxy.rule((1, 0)) == Rule(True, 1.0, 10)
    await ends.links.remove(first)
    assert not ends.proxy.rule((0, 1)).held
    await ends.links.remove(second)
    assert ends.proxy.rule((1, 0)) == Rule(False, 0.5, 10)
    await ends.links.remove(third)
    assert ends.proxy.rule((1, 0)) == Rule()


async def test_who_is_cut_off_learns_of_a_death_when_the_link_is_back(ends):
    (_, near_writer), (far_reader, _) = await ends.connect()
    layer = await ends.links.add({(0, 1): HELD})
    near_writer.write(b"last words")
    near_writer.close()
    assert await silent(far_reader)
    await ends.links.remove(layer)
    assert await far_reader.read() == b"last words"


async def test_more_than_fits_is_not_read_and_arrives_whole(ends):
    (_, near_writer), (far_reader, _) = await ends.connect()
    data = os.urandom(12_000_000)
    layer = await ends.links.add({(0, 1): HELD})
    near_writer.write(data)
    try:
        async with asyncio.timeout(QUIET_S):
            await near_writer.drain()
        pytest.fail("the proxy swallows everything")
    except TimeoutError:
        pass
    await ends.links.remove(layer)
    assert await far_reader.readexactly(len(data)) == data


@pytest.mark.parametrize("rule", [Rule(delay_s=0.3), Rule(bytes_per_s=20_000)])
async def test_slow_and_narrow_links_take_their_time(ends, rule):
    (_, near_writer), (far_reader, _) = await ends.connect()
    await ends.links.add({(0, 1): rule})
    data = os.urandom(10_000)
    started = time.monotonic()
    near_writer.write(data)
    assert await far_reader.readexactly(len(data)) == data
    assert time.monotonic() - started > 0.25


async def test_a_reset_ends_both_sides(ends):
    (near_reader, _), (far_reader, _) = await ends.connect()
    await ends.proxy.reset([(1, 0)])
    for reader in (near_reader, far_reader):
        with contextlib.suppress(ConnectionError):
            assert await reader.read(1) == b""


async def test_nobody_behind_a_link_ends_the_connection(ends):
    ends.servers[1].close()
    reader, _ = await asyncio.open_connection(HOST, ends.ways[0, 1].port)
    assert await reader.read(1) == b""


SYNCS = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for sync in (os.fsync, os.fdatasync):
    started = time.monotonic()
    sync(fd)
    print(time.monotonic() - started, flush=True)
"""


def test_a_slow_disk_delays_syncs_until_it_is_fast_again(tmp_path):
    if compiler() is None:
        pytest.skip("there is no C compiler")
    disks = SlowDisks(tmp_path, 1)
    disks.build()
    disks.set(0, 150)
    command = [sys.executable, "-c", SYNCS, str(tmp_path / "file")]
    environment = os.environ | disks.environment(0)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert all(float(line) >= 0.15 for line in done.stdout.split())
    assert len(done.stdout.split()) == 2
    disks.set(0, STUCK_MS)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    disks.set(0, 0)
    assert process.wait(LIMIT_S) == 0
