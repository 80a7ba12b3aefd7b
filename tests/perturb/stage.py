"""What a perturbation can do to a running network, and what it must know of it."""

import asyncio
import signal
import subprocess
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from consensus.bft.quorum import faults, quorum
from node.rpc.client import RpcUnavailable
from node.rpc.errors import RpcError
from tests.perturb.links import Rules
from tests.perturb.nodes import PerturbNet

ASK_TIMEOUT_S = 2.0
STOP_TIMEOUT_S = 20.0
"""For SIGTERM: a node's own budget is five seconds, on a machine that is not shared."""


class Stage:
    """The handles. ``up`` and ``lives`` belong to whoever sends payments: who is there, and how often each
    process was ended; ``started`` is called with those that were started again."""

    def __init__(
        self,
        net: PerturbNet,
        up: list[bool],
        lives: list[int],
        problem: Callable[[str], None],
        started: Callable[[int], None],
    ) -> None:
        self.net = net
        self.n = len(net.nodes)
        self.f, self.q = faults(self.n), quorum(self.n)
        self._up, self._lives = up, lives
        self._problem, self._started = problem, started

    def some(self, rng: Random, count: int = 1) -> list[int]:
        """Return so many nodes by lot."""
        return rng.sample(range(self.n), count)

    async def leader(self, rng: Random) -> int:
        """Return who leads, as the first node that answers says; any node while nobody does."""
        fallback, names = rng.randrange(self.n), [each.founder.name for each in self.net.nodes]
        for node in rng.sample(range(self.n), self.n):
            status = await self._status(node)
            if status is not None and status["leader_name"] is not None:
                return names.index(status["leader_name"])
        return fallback

    async def count_votes(self) -> None:
        """Learn from the first node that answers how many validators vote in this round."""
        for node in range(self.n):
            status = await self._status(node)
            if status is not None:
                self.f, self.q = status["f"], status["q"]
                return

    async def _status(self, node: int) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                status: dict[str, Any] = await self.net.call(node, "bft.status")
                return status
        except (RpcUnavailable, RpcError, OSError, TimeoutError):
            return None

    # --- processes --------------------------------------------------------------------------------

    def _down(self, nodes: Iterable[int]) -> None:
        for node in nodes:
            self._up[node] = False
            self._lives[node] += 1

    async def kill(self, nodes: list[int]) -> None:
        """SIGKILL, all at once."""
        self._down(nodes)
        for node in nodes:
            process = self.net.nodes[node].process
            if process is not None:
                process.kill()
        await asyncio.gather(*(self.net.kill(node) for node in nodes))

    async def end(self, nodes: list[int]) -> None:
        """SIGTERM; each must end with status 0."""
        self._down(nodes)
        await asyncio.gather(*(self._end(node) for node in nodes))

    async def _end(self, node: int) -> None:
        process = self.net.nodes[node].process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        name = self.net.nodes[node].founder.name
        try:
            status = await asyncio.to_thread(process.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._problem(f"{name} does not end {STOP_TIMEOUT_S:.0f} s after SIGTERM")
            await self.net.kill(node)
            return
        if status != 0:
            self._problem(f"SIGTERM ended {name} with status {status}")

    async def start(self, nodes: list[int]) -> None:
        """Start processes that are not running."""
        for node in nodes:
            self.net.start(node)
            self._started(node)

    async def signal(self, nodes: list[int], number: int) -> None:
        """Send a signal to processes, dead ones aside."""
        for node in nodes:
            process = self.net.nodes[node].process
            if process is not None and process.poll() is None:
                process.send_signal(number)

    # --- links and disks --------------------------------------------------------------------------

    async def rule(self, rules: Rules) -> Callable[[], "asyncio.Future[None]"]:
        """Put rules on links; return what takes them back."""
        layer = await self.net.links.add(rules)
        return lambda: asyncio.ensure_future(self.net.links.remove(layer))

    def slow(self, nodes: Iterable[int], delay_ms: int) -> None:
        """Let every sync of these nodes take so much longer; 0 ends it."""
        assert self.net.disks is not None
        for node in nodes:
            self.net.disks.set(node, delay_ms)
