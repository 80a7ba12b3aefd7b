"""The HTTP server: JSON-RPC on ``/``, health on ``/live`` and ``/ready``, Prometheus on ``/metrics``.

Everything a client can hold is bounded: connections, requests under way, bytes of their bodies, and
the time in which a request must arrive. Health and metrics need no credentials and tell no secret.
"""

import asyncio
import errno
import logging
from asyncio import Protocol
from collections.abc import Awaitable, Callable
from ipaddress import ip_address, ip_network
from typing import cast

from aiohttp import web

from consensus.errors import LocalFault
from node.config import RpcConfig
from node.limits import (
    RPC_AUTH_DELAY_S,
    RPC_MAX_BODY_BYTES,
    RPC_MAX_CONNECTIONS,
    RPC_MAX_HEADER_BYTES,
    RPC_MAX_INFLIGHT_BYTES,
    RPC_SERVER_TIMEOUT_S,
    RPC_STOP_GRACE_S,
    RPC_WORK_QUEUE,
)
from node.metrics import Metrics
from node.rpc import methods as methods  # registers every method
from node.rpc.auth import Authenticator, Cookie
from node.rpc.backend import Backend
from node.rpc.dispatch import Dispatcher

log = logging.getLogger("wattd.rpc")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONTENT_TYPE_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class RpcServer:
    """Listens from ``start`` to ``stop``; ``port`` is the port really bound."""

    def __init__(self, node: Backend, config: RpcConfig, cookie: Cookie, metrics: Metrics) -> None:
        self._node = node
        self._config = config
        self._cookie = cookie
        self._metrics = metrics
        self._auth = Authenticator(cookie, config.auth)
        self._dispatcher = Dispatcher(node, metrics)
        self._networks = [ip_network(network) for network in config.allow]
        self._running = 0
        self._body_bytes = 0
        self._silent: dict[Protocol, asyncio.TimerHandle] = {}
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self.port = config.listen.port

    async def start(self) -> None:
        """Bind and serve. Raises LocalFault ``port-in-use`` or ``cannot-listen``."""
        app = web.Application(client_max_size=RPC_MAX_BODY_BYTES, middlewares=[self._guard])
        app.router.add_get("/live", self._live)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_route("*", "/", self._rpc)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=RPC_SERVER_TIMEOUT_S,
            max_line_size=RPC_MAX_HEADER_BYTES,
            max_field_size=RPC_MAX_HEADER_BYTES,
            shutdown_timeout=RPC_STOP_GRACE_S,
        )
        await self._runner.setup()
        listen = self._config.listen
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._accept, listen.host, listen.port
            )
        except OSError as error:
            await self._runner.cleanup()
            raise _listen_fault(error, str(listen)) from None
        self.port = self._server.sockets[0].getsockname()[1]
        if not all(ip_address(s.getsockname()[0]).is_loopback for s in self._server.sockets):
            log.warning("RPC listens on %s without encryption: keep it inside a trusted network", listen)
        log.info("RPC listens", extra={"host": listen.host, "port": self.port})

    async def stop(self) -> None:
        """Stop listening, let requests under way end for a moment, remove the cookie."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        for timer in self._silent.values():
            timer.cancel()
        self._silent.clear()
        self._cookie.remove()

    # ---- connections ---------------------------------------------------------------------------

    def _accept(self) -> Protocol:
        """Make the protocol of a new connection; one too many is closed at once."""
        server = self._runner.server if self._runner is not None else None
        if server is None or len(server.connections) >= RPC_MAX_CONNECTIONS:
            self._metrics.rpc_refused.labels("connections").inc()
            return _Refusal()
        protocol = cast(Protocol, server())
        loop = asyncio.get_running_loop()
        self._silent[protocol] = loop.call_later(RPC_SERVER_TIMEOUT_S, self._drop_silent, protocol)
        return protocol

    def _drop_silent(self, protocol: Protocol) -> None:
        """Close a connection that has not sent a complete request head in time."""
        self._silent.pop(protocol, None)
        transport = getattr(protocol, "transport", None)
        if transport is not None:
            transport.close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        timer = self._silent.pop(cast(Protocol, request.protocol), None)
        if timer is not None:
            timer.cancel()
        if not self._is_allowed(request.remote):
            return self._refuse(403, "this address may not connect")
        return await handler(request)

    def _is_allowed(self, remote: str | None) -> bool:
        if remote is None:
            return False
        address = ip_address(remote.partition("%")[0])
        if address.version == 6 and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)

    def _refuse(self, status: int, text: str, **headers: str) -> web.Response:
        self._metrics.rpc_refused.labels(status).inc()
        return web.Response(status=status, text=text + "\n", headers=headers)

    # ---- health --------------------------------------------------------------------------------

    async def _live(self, request: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def _ready(self, request: web.Request) -> web.Response:
        ready, reason = self._node.is_ready()
        return web.Response(text="ready\n") if ready else web.Response(status=503, text=reason + "\n")

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        body = self._metrics.render(self._node)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_METRICS})

    # ---- calls ---------------------------------------------------------------------------------

    async def _rpc(self, request: web.Request) -> web.Response:
        if request.method != "POST":
            return self._refuse(405, "JSONRPC server handles only POST requests", Allow="POST")
        if not self._auth.accepts(request.headers.get("Authorization", "")):
            return await self._unauthorized(request)
        if self._running >= RPC_WORK_QUEUE:
            return self._refuse(503, "Work queue depth exceeded")
        self._running += 1
        held = [0]
        try:
            body = await self._read(request, held)
            if body is None:
                return self._refuse(503, "Request bodies exceed their budget")
            reply = await self._dispatcher.handle(body)
        except TimeoutError:
            return self._refuse(408, "the request did not arrive in time")
        except web.HTTPRequestEntityTooLarge:
            return self._refuse(413, f"a request may have {RPC_MAX_BODY_BYTES} bytes")
        finally:
            self._running -= 1
            self._body_bytes -= held[0]
        if not reply.body:
            return web.Response(status=reply.status)
        return web.Response(status=reply.status, text=reply.body + "\n", content_type="application/json")

    async def _unauthorized(self, request: web.Request) -> web.Response:
        if "Authorization" in request.headers:
            log.warning("RPC: wrong credentials", extra={"remote": request.remote})
            await asyncio.sleep(RPC_AUTH_DELAY_S)
        return self._refuse(401, "credentials needed", **{"WWW-Authenticate": 'Basic realm="jsonrpc"'})

    async def _read(self, request: web.Request, held: list[int]) -> bytes | None:
        """Return the body, or None where all bodies together exceed their budget; ``held`` counts
        what it has taken of that budget."""
        chunks = []
        async with asyncio.timeout(RPC_SERVER_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                held[0] += len(chunk)
                self._body_bytes += len(chunk)
                if held[0] > RPC_MAX_BODY_BYTES:
                    raise web.HTTPRequestEntityTooLarge(max_size=RPC_MAX_BODY_BYTES, actual_size=held[0])
                if self._body_bytes > RPC_MAX_INFLIGHT_BYTES:
                    return None
                chunks.append(chunk)
        return b"".join(chunks)


class _Refusal(Protocol):
    """Closes a connection that has no place."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _listen_fault(error: OSError, where: str) -> LocalFault:
    if error.errno == errno.EADDRINUSE:
        return LocalFault(
            "port-in-use",
            f"another process listens on {where}",
            fix="stop it, or choose another port with [rpc] listen",
        )
    return LocalFault("cannot-listen", f"{where}: {error.strerror or error}")
