"""Links between nodes that can be held, slowed, narrowed and reset, each direction alone.

``Proxy`` is one TCP forwarder per pair of nodes, in this process; it needs no rights. Who is behind a
cut keeps its connections and gets no bytes: what is sent meanwhile waits, as it does in TCP over a cable
that is unplugged, and arrives when the link is whole again.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

from node.config import Endpoint

HOST = "127.0.0.1"
HIGH_BYTES = 262_144
"""Beyond this much waiting in a pipe its source is not read: TCP's own window closes then."""
SLICE_BYTES = 4_096
"""A narrow link takes so much at once."""

Pair = tuple[int, int]
"""Sender and receiver, indices of nodes."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to the bytes of one direction. ``bytes_per_s`` 0: as many as there are."""

    held: bool = False
    delay_s: float = 0.0
    bytes_per_s: int = 0

    def __and__(self, other: "Rule") -> "Rule":
        """Return what both together do."""
        rates = [each for each in (self.bytes_per_s, other.bytes_per_s) if each]
        return Rule(self.held or other.held, self.delay_s + other.delay_s, min(rates, default=0))


OPEN = Rule()
HELD = Rule(held=True)

Rules = Mapping[Pair, Rule]


def both_ways(pairs: Iterable[Pair], rule: Rule = HELD) -> Rules:
    """Return the rule for both directions of each pair."""
    return {each: rule for one, other in pairs for each in ((one, other), (other, one))}


class Fabric(Protocol):
    """What carries the bytes between nodes."""

    shapes: bool
    """Whether links can be slowed and narrowed."""

    async def apply(self, rules: Rules) -> None:
        """Make these the rules in force; directions that are not named are open."""
        ...

    async def reset(self, pairs: Iterable[Pair]) -> None:
        """Close all connections between these nodes."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...


class Links:
    """The rules in force: those of several perturbations at once lie on top of each other."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self._layers: dict[int, Rules] = {}
        self._next = 0

    async def add(self, rules: Rules) -> int:
        """Put rules in force; return the number to take them back with."""
        self._next += 1
        self._layers[self._next] = rules
        await self._apply()
        return self._next

    async def remove(self, layer: int) -> None:
        """Take rules back."""
        del self._layers[layer]
        await self._apply()

    async def _apply(self) -> None:
        merged: dict[Pair, Rule] = {}
        for rules in self._layers.values():
            for pair, rule in rules.items():
                merged[pair] = merged.get(pair, OPEN) & rule
        await self.fabric.apply(merged)


class _Side(asyncio.Protocol):
    """One of the two sockets of a connection: what it reads goes into ``out``, ``inward`` writes to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport | None = None
        self.out: _Pipe | None = None
        self.inward: _Pipe | None = None
        self.full = False
        self.gone: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.inward is not None:
            self.inward.move()

    def data_received(self, data: bytes) -> None:
        assert self.out is not None
        self.out.feed(data)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.inward is not None:
            self.inward.move()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.out is not None:
            self.out.end()
        if not self.gone.done():
            self.gone.set_result(None)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Pipe:
    """One direction of one connection."""

    def __init__(self, proxy: "Proxy", pair: Pair, source: _Side, sink: _Side) -> None:
        self._proxy = proxy
        self.pair = pair
        self.source, self.sink = source, sink
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes]] = deque()  # when it may leave; b"" is the end
        self._bytes = 0
        self._free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._reading = True
        source.out, sink.inward = self, self

    def feed(self, data: bytes) -> None:
        rule = self._proxy.rule(self.pair)
        due = self._loop.time() + rule.delay_s
        step = SLICE_BYTES if rule.bytes_per_s else len(data)
        self._queue.extend((due, data[at : at + step]) for at in range(0, len(data), step))
        self._bytes += len(data)
        if self._bytes > HIGH_BYTES and self._reading and self.source.transport is not None:
            self._reading = False
            self.source.transport.pause_reading()
        self.move()

    def end(self) -> None:
        """The source is gone: the sink learns it after what was sent before, and when it can."""
        self._queue.append((self._loop.time(), b""))
        self.move()

    def move(self) -> None:
        """Write what may leave now, and come back for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sink = self.sink.transport
        while self._queue and sink is not None:
            rule, (due, data) = self._proxy.rule(self.pair), self._queue[0]
            if rule.held or self.sink.full:
                return
            now = self._loop.time()
            wait_s = max(due, self._free_at if rule.bytes_per_s else 0.0) - now
            if wait_s > 0:
                self._timer = self._loop.call_later(wait_s, self.move)
                return
            self._queue.popleft()
            self._bytes -= len(data)
            if not data:
                sink.close()
                return
            if rule.bytes_per_s:
                self._free_at = max(now, self._free_at) + len(data) / rule.bytes_per_s
            if not sink.is_closing():
                sink.write(data)
        self._read_on()

    def _read_on(self) -> None:
        source = self.source.transport
        if not self._reading and self._bytes <= HIGH_BYTES // 2 and source is not None:
            self._reading = True
            if not source.is_closing():
                source.resume_reading()


class Proxy:
    """A listening socket for each (who dials, whom), so that it is known whose bytes pass."""

    shapes = True

    def __init__(self) -> None:
        self._rules: Rules = {}
        self._pipes: dict[Pair, set[_Pipe]] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, targets: Sequence[Endpoint]) -> dict[Pair, Endpoint]:
        """Open a way from each node to each other; return where node i dials to reach j."""
        loop, ways = asyncio.get_running_loop(), {}
        for dialler in range(len(targets)):
            for target, where in enumerate(targets):
                if dialler == target:
                    continue
                accept = partial(self._accept, (dialler, target), where)
                server = await loop.create_server(accept, HOST)
                self._servers.append(server)
                ways[dialler, target] = Endpoint(HOST, server.sockets[0].getsockname()[1])
        return ways

    def rule(self, pair: Pair) -> Rule:
        return self._rules.get(pair, OPEN)

    async def apply(self, rules: Rules) -> None:
        old, self._rules = self._rules, dict(rules)
        for pair in {*old, *rules}:
            if old.get(pair, OPEN) != self.rule(pair):
                for pipe in list(self._pipes.get(pair, ())):
                    pipe.move()

    async def reset(self, pairs: Iterable[Pair]) -> None:
        for one, other in pairs:
            for pipe in [*self._pipes.get((one, other), ()), *self._pipes.get((other, one), ())]:
                pipe.source.abort()
                pipe.sink.abort()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, pair: Pair, where: Endpoint) -> _Side:
        loop = asyncio.get_running_loop()
        near = _Side(loop)
        task = loop.create_task(self._carry(near, pair, where))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return near

    async def _carry(self, near: _Side, pair: Pair, where: Endpoint) -> None:
        """Connect the far side, and be there until both are gone."""
        loop = asyncio.get_running_loop()
        far = _Side(loop)
        pipes = (_Pipe(self, pair, near, far), _Pipe(self, pair[::-1], far, near))
        for pipe in pipes:
            self._pipes.setdefault(pipe.pair, set()).add(pipe)
        try:
            await loop.create_connection(lambda: far, where.host, where.port)
            await near.gone
            await far.gone
        except OSError:
            pass  # nobody listens there now: who dials is told by the end of its own connection
        finally:
            near.abort()
            far.abort()
            for pipe in pipes:
                self._pipes[pipe.pair].discard(pipe)
