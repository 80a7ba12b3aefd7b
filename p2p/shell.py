"""The asyncio side of the network: sockets, redial, and who is connected.

Everything that can be decided without I/O is in the pure files beside this one; here bytes move
between sockets and ``p2p.peer.Connection``, and events become calls of the node's handler. All of
it runs on one event loop; nothing here awaits while it holds half-changed state.
"""

import asyncio
import contextlib
import errno
import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from consensus.errors import LocalFault, PeerFault
from p2p import limits
from p2p.api import Handler, Peer, PeerInfo, TargetInfo
from p2p.bans import BY_HAND, Reputation, is_loopback, points_of
from p2p.framing import frame
from p2p.limits import DEFAULT_LIMITS, NetworkLimits
from p2p.messages import Hello, Message, Status, encode
from p2p.noise import NodeKeys
from p2p.peer import Closed, Connection, Event, Fault, Greeted, Received, Secured, Throttle
from p2p.places import Places, Stranger, newer_stays, surplus

LOG = logging.getLogger("wattd.p2p")


@dataclass(slots=True)
class _Target:
    """An address that is dialled for ever. ``known`` is whom we found there, when none was pinned."""

    host: str
    port: int
    pinned: bytes | None
    known: bytes | None = None
    attempts: int = 0
    last_error: str = ""
    task: "asyncio.Task[None] | None" = None

    @property
    def identity(self) -> bytes | None:
        """Whom we expect there."""
        return self.pinned or self.known


class _Link(asyncio.Protocol):
    """One socket and its Connection."""

    def __init__(self, network: "Network", connection: Connection, target: _Target | None) -> None:
        self.network = network
        self.connection = connection
        self.target = target
        self.peer: Peer | None = None
        self.height = 0
        self.host = self.address = ""
        self.opened_at_ms = 0
        self.ready_at_ms: int | None = None
        self.close_code = ""
        self.gone = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._flush_planned = False

    @property
    def inbound(self) -> bool:
        """The peer dialled us."""
        return self.target is None

    # --- called by asyncio ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register with the network, which may refuse."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=limits.TRANSPORT_HIGH_BYTES)
        with contextlib.suppress(OSError):  # other kernels back off further
            transport.get_extra_info("socket").setsockopt(*limits.TCP_RTO_MAX)
        name = transport.get_extra_info("peername") or ("", 0)
        self.host, self.address = str(name[0]), f"{name[0]}:{name[1]}"
        self.network._guard(self, self.network._opened, self)

    def data_received(self, data: bytes) -> None:
        """Feed the state machine."""
        self.network._guard(self, self.network._read, self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone, by whichever side."""
        self.network._guard(self, self.network._lost, self)
        self.gone.set()

    def pause_writing(self) -> None:
        """The socket has enough: the rest waits in the send queue, where it can be overtaken."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket has room again."""
        self._paused = False
        self.plan_flush()

    # --- called by the network -----------------------------------------------------------------------------

    def plan_flush(self) -> None:
        """Write at the end of this turn of the loop, so that what is sent together travels together."""
        if not self._flush_planned and not self._paused:
            self._flush_planned = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        while not self._paused:
            data = self.connection.wire()
            if not data:
                break
            transport.write(data)

    def throttle(self, delay_ms: int) -> None:
        """Stop reading for a while; the peer's own socket then slows it down."""
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(delay_ms / 1_000, self._read_again)

    def _read_again(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def shut(self) -> None:
        """Write the last bytes and close; abort if they do not leave in time."""
        if self._transport is None or self._transport.is_closing():
            return
        data = self.connection.wire()
        if data:
            self._transport.write(data)
        self._transport.close()
        asyncio.get_running_loop().call_later(limits.CLOSE_LINGER_MS / 1_000, self.abort)

    def abort(self) -> None:
        """Drop the socket at once."""
        if self._transport is not None and not self.gone.is_set():
            self._transport.abort()


class Network:
    """All connections of this node.

    ``identity_seed`` is the Ed25519 seed (32 bytes). ``hello_source`` gives our current Hello (whatever
    it says of identity and listen_port is replaced here). ``clock_ms`` is a monotonic clock; ``jitter``
    gives numbers in [0, 1). ``failed`` ends with the exception of a bug in a callback, if any.
    """

    def __init__(
        self,
        identity_seed: bytes,
        hello_source: Callable[[], Hello],
        handler: Handler,
        clock_ms: Callable[[], int],
        jitter: Callable[[], float],
        network_limits: NetworkLimits = DEFAULT_LIMITS,
    ) -> None:
        self._keys = NodeKeys(identity_seed)
        self._hello_source = hello_source
        self._handler = handler
        self._clock_ms = clock_ms
        self._jitter = jitter
        self._limits = network_limits
        self._links: dict[int, _Link] = {}  # every open socket, by number
        self._numbers: dict[_Link, int] = {}
        self._ready: dict[bytes, _Link] = {}  # by identity
        self._targets: dict[tuple[str, int], _Target] = {}
        self._next_number = itertools.count(1)
        self._reputation = Reputation()
        self._places = Places()
        self._bulk_estimate = 0
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._listen_address: tuple[str, int] = ("", 0)
        self._stopping = False
        self.failed: asyncio.Future[None] | None = None

    # --- start and stop ------------------------------------------------------------------------------------

    @property
    def identity(self) -> bytes:
        """Our Ed25519 public key."""
        return self._keys.identity

    @property
    def listen_address(self) -> tuple[str, int]:
        """Where we listen: (host, port), the port that was really taken."""
        return self._listen_address

    async def start(self, host: str, port: int) -> None:
        """Listen and begin to dial. Raises LocalFault "port-in-use" or "listen-failed"."""
        loop = asyncio.get_running_loop()
        self.failed = loop.create_future()
        try:
            self._server = await loop.create_server(self._accept, host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise LocalFault(
                    "port-in-use", f"{host}:{port} is taken by another process", fix="choose another p2p port"
                ) from error
            raise LocalFault("listen-failed", f"{host}:{port}: {error.strerror or error}") from error
        name = self._server.sockets[0].getsockname()
        self._listen_address = (name[0], name[1])
        self._ticker = asyncio.create_task(self._tick_for_ever())
        self._ticker.add_done_callback(self._task_ended)
        for target in self._targets.values():
            self._begin_dialling(target)

    async def stop(self) -> None:
        """Say goodbye to everybody and close; takes at most CLOSE_LINGER_MS."""
        self._stopping = True
        tasks = [target.task for target in self._targets.values() if target.task is not None]
        if self._ticker is not None:
            tasks.append(self._ticker)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        links = list(self._links.values())
        for link in links:
            self._close(link, "shutdown")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.CLOSE_LINGER_MS / 1_000):
                await asyncio.gather(*(link.gone.wait() for link in links))
        for link in links:
            link.abort()
        if self._server is not None:
            await self._server.wait_closed()
        if self.failed is not None and not self.failed.done():
            self.failed.cancel()

    # --- peers ---------------------------------------------------------------------------------------------

    def add_peer(self, host: str, port: int, identity: bytes | None = None) -> None:
        """Dial an address for ever; ``identity`` pins who must answer (and exempts it from limits)."""
        if identity == self.identity or (host, port) in self._targets:
            return
        if identity is not None:
            self._places.pin(identity)
        target = _Target(host, port, identity)
        self._targets[(host, port)] = target
        if self._ticker is not None:
            self._begin_dialling(target)

    def protect(self, identities: Iterable[bytes]) -> None:
        """Treat these as pinned until the next call, at most MAX_PROTECTED: the validators of the round.

        Bans of theirs for faults end as soon as those of pinned peers; one by hand stays.
        """
        until_ms = self._clock_ms() + limits.BAN_PINNED_MS
        for identity in self._places.protect(identities):
            self._reputation.bans.shorten(identity, until_ms)

    def peers(self) -> list[PeerInfo]:
        """Return the figures of every ready peer."""
        return [self._info(link, link.peer) for link in self._ready.values() if link.peer is not None]

    def targets(self) -> list[TargetInfo]:
        """Return the addresses that are dialled, and how that goes."""
        return [
            TargetInfo(
                f"{target.host}:{target.port}",
                target.pinned.hex() if target.pinned else "",
                target.identity in self._ready,
                target.attempts,
                target.last_error,
            )
            for target in self._targets.values()
        ]

    def disconnect(self, peer_id: int, code: str = "disconnected") -> bool:
        """Close a connection; the peer is told the code. False if there is no such peer."""
        link = self._links.get(peer_id)
        if link is not None:
            self._close(link, code)
        return link is not None

    def penalise(self, peer_id: int, code: str, points: int | None = None) -> None:
        """Charge a peer for something the node found wrong later; enough points end in a ban."""
        if (link := self._links.get(peer_id)) is not None:
            self._charge(link, code, points_of(code) if points is None else points)

    def ban(self, identity: bytes, duration_ms: int | None = None, code: str = BY_HAND) -> None:
        """Shut an identity out and disconnect it."""
        until_ms = self._clock_ms() + (self._limits.ban_ms if duration_ms is None else duration_ms)
        self._reputation.bans.ban(identity, until_ms, code)
        if (link := self._ready.get(identity)) is not None:
            self._close(link, "banned")

    def unban(self, identity: bytes) -> bool:
        """Lift a ban; False if there was none."""
        return self._reputation.bans.lift(identity)

    def bans(self) -> list[tuple[bytes, int, str]]:
        """Return (identity, or address as text bytes; ms left; code) of every ban in force."""
        return self._reputation.bans.entries(self._clock_ms())

    # --- sending -------------------------------------------------------------------------------------------

    def send(self, identity: bytes, message: Message) -> bool:
        """Queue a message for an identity. False if it is not connected or its queue is full."""
        link = self._ready.get(identity)
        return link is not None and self._post(link, message)

    def send_to(self, peer_id: int, message: Message) -> bool:
        """Queue a message for a connection; as ``send``."""
        link = self._links.get(peer_id)
        return link is not None and self._post(link, message)

    def broadcast(self, message: Message, except_peer: int | None = None) -> int:
        """Queue a message for every ready peer but one; return how many took it."""
        framed = frame(encode(message))
        sent = 0
        for link in list(self._ready.values()):
            if link.peer is not None and link.peer.id != except_peer:
                sent += self._post(link, message, framed)
        return sent

    def room(self, peer_id: int) -> int:
        """Return the bytes of bulk messages that a peer's send queue still takes."""
        link = self._links.get(peer_id)
        return 0 if link is None or link.peer is None else link.connection.bulk_room

    def _post(self, link: _Link, message: Message, framed: bytes | None = None) -> bool:
        connection = link.connection
        if framed is None:
            framed = frame(encode(message))
        if not self._within_total(len(framed)):
            connection.messages_dropped += 1
            return False
        try:
            taken = connection.send_framed(message, framed)
        except OverflowError:
            self._close(link, "send-queue-full")
            return False
        if taken:
            link.plan_flush()
        return taken

    def _within_total(self, size: int) -> bool:
        """Keep all queues together under their budget. The estimate only grows until it is looked at."""
        self._bulk_estimate += size
        if self._bulk_estimate > limits.SEND_TOTAL_BYTES:
            self._bulk_estimate = size + sum(link.connection.queued_bytes for link in self._links.values())
        return self._bulk_estimate <= limits.SEND_TOTAL_BYTES

    # --- a socket's life -----------------------------------------------------------------------------------

    def _connection(self, target: _Target | None) -> Connection:
        return Connection(
            self._keys,
            self._hello,
            self._clock_ms(),
            initiator=target is not None,
            pinned=target.pinned if target is not None else None,
            network_limits=self._limits,
        )

    def _hello(self) -> Hello:
        return self._hello_source()._replace(identity=self.identity, listen_port=self._listen_address[1])

    def _accept(self) -> _Link:
        return _Link(self, self._connection(None), None)

    def _opened(self, link: _Link) -> None:
        number = next(self._next_number)
        self._links[number] = link
        self._numbers[link] = number
        link.opened_at_ms = self._clock_ms()
        refusal = self._refusal(link) if link.inbound else ""
        if self._stopping or refusal:
            link.close_code = refusal or "shutdown"
            link.abort()
            return
        link.plan_flush()

    def _refusal(self, link: _Link) -> str:
        """Why an inbound socket is not even worth a handshake, or ""."""
        if self._reputation.bans.remaining_ms(link.host.encode(), self._clock_ms()):
            return "banned"
        waiting = [other for other in self._links.values() if other.inbound and other.peer is None]
        if len(waiting) > limits.MAX_HANDSHAKING:
            return "too-many-peers"
        same = sum(other.host == link.host for other in waiting)
        if same > limits.MAX_HANDSHAKING_PER_ADDRESS and not is_loopback(link.host):
            return "too-many-peers"
        return ""

    def _read(self, link: _Link, data: bytes) -> None:
        self._handle(link, link.connection.receive(data, self._clock_ms()))
        link.plan_flush()

    def _lost(self, link: _Link) -> None:
        self._handle(link, link.connection.end_of_file())
        number = self._numbers.pop(link, None)
        if number is not None:
            del self._links[number]

    def _close(self, link: _Link, code: str, reason: str = "") -> None:
        self._handle(link, link.connection.close(code, reason))

    def _handle(self, link: _Link, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Received(message):
                    self._deliver(link, message)
                case Secured(static_key):
                    self._on_secured(link, static_key)
                case Greeted(hello):
                    self._on_greeted(link, hello)
                case Fault(code, reason):
                    LOG.debug("peer %s: %s %s", link.address, code, reason)
                    self._charge(link, code, points_of(code))
                case Throttle(delay_ms):
                    link.throttle(delay_ms)
                case Closed():
                    self._on_closed(link, event)

    def _deliver(self, link: _Link, message: Message) -> None:
        peer = link.peer
        if peer is None:
            return
        if isinstance(message, Status):
            link.height = message.height
        try:
            self._handler.on_message(peer, message)
        except PeerFault as fault:
            LOG.debug("peer %s: %s %s", link.address, fault.code, fault.reason)
            self._charge(link, fault.code, points_of(fault.code))

    def _on_secured(self, link: _Link, static_key: bytes) -> None:
        # Two targets may lead to one node. Of several connections in one direction the listener keeps
        # the newest, so the dialler must not let a second one get that far.
        if not link.inbound and any(
            other is not link and not other.inbound and not other.connection.closed
            for other in self._links.values()
            if other.connection.remote_static == static_key
        ):
            if link.target is not None:
                link.target.known = self._identity_of(static_key)
            self._close(link, "duplicate")

    def _identity_of(self, static_key: bytes) -> bytes | None:
        for identity, link in self._ready.items():
            if link.connection.remote_static == static_key:
                return identity
        return None

    def _on_greeted(self, link: _Link, hello: Hello) -> None:
        identity = hello.identity
        if link.target is not None:
            link.target.known = identity
        if self._reputation.bans.remaining_ms(identity, self._clock_ms()):
            self._close(link, "banned")
            return
        old = self._ready.get(identity)
        lower = identity < self.identity
        if old is not None and not newer_stays(link.inbound, old.inbound, lower=lower):
            old.connection.probe(self._clock_ms())  # if it is dead, learn it now
            old.plan_flush()
            self._close(link, "duplicate")
            return
        pinned, full = identity in self._places, len(self._strangers()) >= self._limits.max_inbound
        if link.inbound and old is None and not pinned and full:
            self._close(link, "too-many-peers")
            return
        if old is not None:
            self._close(old, "duplicate")
        link.peer = Peer(self._numbers[link], identity, link.address, link.inbound, pinned, hello)
        link.height = hello.height
        link.ready_at_ms = self._clock_ms()
        self._ready[identity] = link
        LOG.info("peer %s ready: %s", link.address, identity.hex())
        self._handler.on_peer_ready(link.peer)

    def _strangers(self) -> list[Stranger]:
        """Return the inbound peers that have no place of their own, as things stand now."""
        now_ms, score = self._clock_ms(), self._reputation.scores.get
        return [
            Stranger(link.peer.id, score(identity, now_ms), link.host, link.ready_at_ms or 0)
            for identity, link in self._ready.items()
            if link.peer is not None and link.inbound and identity not in self._places
        ]

    def _make_room(self) -> None:
        """Let go of those for whom there is no place left, since theirs was that of a validator."""
        for peer_id in surplus(self._strangers(), self._limits.max_inbound):
            self.disconnect(peer_id, "too-many-peers")

    def _on_closed(self, link: _Link, event: Closed) -> None:
        code = f"{event.code}:{event.reason}" if event.by_peer and event.reason else event.code
        link.close_code = link.close_code or event.code
        if link.target is not None:
            link.target.last_error = f"{event.code}: {event.reason}" if event.reason else event.code
        link.shut()
        peer = link.peer
        if peer is not None and self._ready.get(peer.identity) is link:
            del self._ready[peer.identity]
            LOG.info("peer %s lost: %s", link.address, code)
            self._handler.on_peer_lost(peer, code)

    def _charge(self, link: _Link, code: str, points: int) -> None:
        """Add points to an identity, or to an address where the fault came before it was known."""
        if link.peer is None and is_loopback(link.host):
            return
        name = link.host.encode() if link.peer is None else link.peer.identity
        ban_ms = limits.BAN_PINNED_MS if name in self._places else self._limits.ban_ms
        if self._reputation.charge(name, code, points, self._clock_ms(), ban_ms):
            LOG.warning("peer %s banned for %d s: %s", link.address, ban_ms // 1_000, code)
            self._close(link, code)

    def _info(self, link: _Link, peer: Peer) -> PeerInfo:
        score = self._reputation.scores.get(peer.identity, self._clock_ms())
        pinned = peer.identity in self._places
        return PeerInfo.of(peer, link.connection, pinned, link.height, link.opened_at_ms, score)

    # --- time ----------------------------------------------------------------------------------------------

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(limits.TICK_MS / 1_000)
            now_ms = self._clock_ms()
            self._make_room()
            for link in list(self._links.values()):
                self._handle(link, link.connection.tick(now_ms))
                link.plan_flush()

    # --- dialling ------------------------------------------------------------------------------------------

    def _begin_dialling(self, target: _Target) -> None:
        target.task = asyncio.create_task(self._dial_for_ever(target))
        target.task.add_done_callback(self._task_ended)

    async def _dial_for_ever(self, target: _Target) -> None:
        if target.pinned is not None and self.identity > target.pinned:
            await asyncio.sleep(limits.REDIAL_POLITE_MS / 1_000)
        while True:
            connected = self._ready.get(target.identity) if target.identity is not None else None
            if connected is not None:
                await connected.gone.wait()
                target.attempts = 0
            elif await self._dial_once(target) == "self-connect":
                return
            await asyncio.sleep(self._backoff_s(target.attempts))

    async def _dial_once(self, target: _Target) -> str:
        """Dial, stay until the connection ends, and return why it did."""
        factory = partial(_Link, self, self._connection(target), target)
        try:
            async with asyncio.timeout(limits.CONNECT_TIMEOUT_MS / 1_000):
                _, link = await asyncio.get_running_loop().create_connection(
                    factory, target.host, target.port
                )
        except (OSError, TimeoutError) as error:
            target.attempts += 1
            target.last_error = str(error) or "connect timed out"
            return "connect-failed"
        await link.gone.wait()
        lived_ms = 0 if link.ready_at_ms is None else self._clock_ms() - link.ready_at_ms
        target.attempts = 0 if lived_ms >= limits.REDIAL_STABLE_MS else target.attempts + 1
        return link.close_code

    def _backoff_s(self, attempts: int) -> float:
        """Half of the step is fixed, half is dice, so that nodes that lost each other do not dial in step."""
        step_ms = min(self._limits.redial_cap_ms, self._limits.redial_first_ms << min(attempts, 16))
        return step_ms * (1 + self._jitter()) / 2_000

    # --- bugs ----------------------------------------------------------------------------------------------

    def _guard(self, link: _Link, work: Callable[..., None], *arguments: Any) -> None:
        """Run work that asyncio started; what it raises is a bug, and must not pass unseen."""
        try:
            work(*arguments)
        except Exception as error:
            link.abort()
            self._crash(error)

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash(error)

    def _crash(self, error: BaseException) -> None:
        LOG.error("bug in the network: %r", error)
        if self.failed is not None and not self.failed.done():
            self.failed.set_exception(error)
