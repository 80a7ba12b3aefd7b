"""Nodes in network namespaces of their own, joined by a bridge: what is cut is cut in the kernel.

A direction is cut by giving the sender a wrong hardware address of the receiver. Its packets leave and are
lost, TCP's acknowledgements among them, and nobody is told; after the cut TCP comes back in its own time,
as its retransmissions have backed off. Needs root and iproute2.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterable

from node.config import Endpoint
from tests.perturb.links import OPEN, Pair, Rules

PREFIX_BITS = 24
BASE_PORT = 9_833
NOBODY = "02:00:00:00:00:01"
"""A hardware address that no interface has."""


def why_not() -> str:
    """Return why namespaces cannot be used here; empty if they can."""
    if shutil.which("ip") is None:
        return "there is no ip command (Debian: apt-get install iproute2)"
    if os.geteuid() != 0:
        return "making network namespaces takes root"
    name = f"wattd-probe-{os.getpid()}"
    bridge = f"wtp{os.getpid() % 10**7}"
    try:
        _ip("netns", "add", name)
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "add", f"{bridge}v", "type", "veth", "peer", "name", "eth0", "netns", name)
    except subprocess.CalledProcessError as error:
        return f"the system refuses: {error.stderr.strip()}"
    finally:
        for command in (("link", "del", f"{bridge}v"), ("netns", "del", name), ("link", "del", bridge)):
            subprocess.run(["ip", *command], capture_output=True, check=False)
    return ""


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, check=True, text=True).stdout


class Namespaces:
    """One namespace per node, the bridge, and who is cut off from whom."""

    shapes = False

    def __init__(self, count: int) -> None:
        self._names = [f"wattd-{os.getpid()}-{number}" for number in range(count)]
        self._bridge = f"wt{os.getpid() % 10**7}"
        self._held: set[Pair] = set()
        self._net = ""

    def open(self) -> None:
        """Make everything. Raises CalledProcessError, and then nothing is left behind."""
        try:
            self._make()
        except BaseException:
            self._remove()
            raise

    def _make(self) -> None:
        self._net = _free_net()
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self._net}.254/{PREFIX_BITS}", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number, name in enumerate(self._names):
            here, there = f"{self._bridge}v{number}", "eth0"
            _ip("netns", "add", name)
            _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
            _ip("link", "set", here, "master", self._bridge, "up")
            _ip("-n", name, "addr", "add", f"{self._address(number)}/{PREFIX_BITS}", "dev", there)
            _ip("-n", name, "link", "set", there, "up")
            _ip("-n", name, "link", "set", "lo", "up")

    @property
    def network(self) -> str:
        """The network in CIDR notation, this side of the bridge included."""
        return f"{self._net}.0/{PREFIX_BITS}"

    def endpoint(self, number: int, port: int) -> Endpoint:
        """Return where a node listens; in its own namespace every port is free."""
        return Endpoint(self._address(number), port)

    def command(self, number: int) -> list[str]:
        """Return what goes before a command that shall run in a namespace."""
        return ["ip", "netns", "exec", self._names[number]]

    async def apply(self, rules: Rules) -> None:
        wanted = {pair for pair, rule in rules.items() if rule.held}
        if any(rule not in (OPEN, type(rule)(held=True)) for rule in rules.values()):
            raise ValueError("links between namespaces can be cut and nothing else")
        changes = [("del", "", each) for each in self._held - wanted]
        changes += [("replace", f" lladdr {NOBODY} nud permanent", each) for each in wanted - self._held]
        self._held = wanted
        by_node: dict[int, list[str]] = {}
        for verb, end, (source, target) in sorted(changes):
            by_node.setdefault(source, []).append(f"neigh {verb} {self._address(target)} dev eth0{end}")
        await asyncio.gather(*(self._batch(node, lines) for node, lines in by_node.items()))

    async def _batch(self, node: int, lines: list[str]) -> None:
        process = await asyncio.create_subprocess_exec(
            "ip",
            "-n",
            self._names[node],
            "-batch",
            "-",
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate("\n".join(lines).encode() + b"\n")
        if process.returncode:
            raise RuntimeError(f"ip: {errors.decode().strip()}")

    async def reset(self, pairs: Iterable[Pair]) -> None:
        raise NotImplementedError("connections between namespaces are not reset")

    async def close(self) -> None:
        self._remove()

    def _remove(self) -> None:
        for number, name in enumerate(self._names):
            subprocess.run(
                ["ip", "link", "del", f"{self._bridge}v{number}"], capture_output=True, check=False
            )
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True, check=False)

    def _address(self, number: int) -> str:
        return f"{self._net}.{number + 1}"


def _free_net() -> str:
    """Return the first three numbers of a network of 10.0.0.0/8 that no route leads to."""
    taken = _ip("-4", "route", "show", "table", "all")
    for third in range(os.getpid() % 200, os.getpid() % 200 + 50):
        net = f"10.213.{third}"
        if net not in taken:
            return net
    raise RuntimeError("no free network for the namespaces")
