"""Clients of the RPC interface: one that blocks, one for asyncio; both keep their connection.

Amounts come back as ``decimal.Decimal``, never as floats.
"""

import base64
import http.client
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from consensus.errors import LocalFault
from node.config import Endpoint, NodeConfig
from node.limits import CLIENT_TIMEOUT_S
from node.rpc.encoding import decode, encode
from node.rpc.errors import MISC_ERROR, RpcError

if TYPE_CHECKING:
    import aiohttp

HTTP_UNAUTHORIZED = 401


class RpcUnavailable(LocalFault):
    """No answer from the node: it does not run, does not let us in, or is not one."""

    exit_status = 69


class RpcForbidden(RpcUnavailable):
    """The node refuses our credentials."""

    exit_status = 77


class Request(NamedTuple):
    """One call of a batch."""

    method: str
    params: Sequence[Any] | dict[str, Any] = ()


class Prepared(NamedTuple):
    """A batch of so many ``calls``, encoded ahead: their ids count from 1."""

    body: bytes
    calls: int


def prepare(requests: Sequence[Request | tuple[str, Sequence[Any]]]) -> Prepared:
    """Encode a batch, for whoever must not lose time when it is sent."""
    bodies = [_body(number, *request) for number, request in enumerate(requests, 1)]
    return Prepared(encode(bodies).encode(), len(bodies))


def read_cookie(path: Path) -> str:
    """Return "user:password" from a cookie file. Raises RpcUnavailable ``no-cookie``."""
    try:
        return path.read_text().strip()
    except OSError as error:
        raise RpcUnavailable(
            "no-cookie", f"{path}: {error.strerror}", fix="is the node running on this data directory?"
        ) from None


def client_of(config: NodeConfig) -> "RpcClient":
    """Return a client for the node that runs with ``config``. Raises RpcUnavailable."""
    return RpcClient(config.rpc.listen, read_cookie(config.cookie_file))


def _body(request_id: int, method: str, params: Sequence[Any] | dict[str, Any]) -> dict[str, Any]:
    arguments = params if isinstance(params, dict) else list(params)
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": arguments}


def _headers(credentials: str) -> dict[str, str]:
    token = base64.b64encode(credentials.encode()).decode()
    return {"Authorization": f"Basic {token}", "Content-Type": "application/json"}


def _parse(where: Endpoint, status: int, data: bytes) -> Any:
    if status == HTTP_UNAUTHORIZED:
        raise RpcForbidden("rpc-unauthorized", f"the node at {where} refuses these credentials")
    try:
        return decode(data)
    except ValueError:
        text = data[:200].decode("utf-8", "replace").strip()
        raise RpcUnavailable("rpc-bad-answer", f"{where} answered {status}: {text}") from None


def _error_of(reply: dict[str, Any]) -> RpcError | None:
    error = reply.get("error")
    if error is None:
        return None
    if not isinstance(error, dict):
        return RpcError(MISC_ERROR, str(error))
    return RpcError(int(error.get("code", MISC_ERROR)), str(error.get("message", "")))


def _result_of(where: Endpoint, reply: Any) -> Any:
    if not isinstance(reply, dict):
        raise RpcUnavailable("rpc-bad-answer", f"{where} does not speak JSON-RPC")
    error = _error_of(reply)
    if error is not None:
        raise error
    return reply.get("result")


def _results_of(where: Endpoint, replies: Any, first_id: int, count: int) -> list[Any]:
    if isinstance(replies, dict):
        _result_of(where, replies)
    if not isinstance(replies, list):
        raise RpcUnavailable("rpc-bad-answer", f"{where} does not speak JSON-RPC batches")
    by_id = {reply.get("id"): reply for reply in replies if isinstance(reply, dict)}
    results: list[Any] = []
    for request_id in range(first_id, first_id + count):
        reply = by_id.get(request_id)
        if reply is None:
            raise RpcUnavailable("rpc-bad-answer", f"{where} left calls of a batch unanswered")
        error = _error_of(reply)
        results.append(reply.get("result") if error is None else error)
    return results


def _unreachable(where: Endpoint, error: BaseException) -> RpcUnavailable:
    if isinstance(error, TimeoutError):
        return RpcUnavailable("rpc-timeout", f"no answer from {where} within the time limit")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return RpcUnavailable(
        "rpc-unreachable",
        f"no node answers at {where}: {reason or type(error).__name__}",
        fix="is it running?",
    )


class RpcClient:
    """A blocking client. ``credentials`` is "user:password". Not for use by several threads.

    ``call`` and ``batch`` raise RpcError for the node's errors and RpcUnavailable where there is
    no answer.
    """

    def __init__(self, where: Endpoint, credentials: str, timeout_s: float = CLIENT_TIMEOUT_S) -> None:
        self.where = where
        self._headers = _headers(credentials)
        self._connection = http.client.HTTPConnection(where.host, where.port, timeout=timeout_s)
        self._next_id = 1

    def __repr__(self) -> str:
        return f"RpcClient({self.where})"

    def call(self, method: str, *params: Any, **named: Any) -> Any:
        """Call ``method`` with positional or named arguments and return its result."""
        if named and params:
            named = {"args": list(params), **named}
        body = _body(self._take_ids(1), method, named or params)
        return _result_of(self.where, self._post(encode(body)))

    def batch(self, requests: Sequence[Request | tuple[str, Sequence[Any]]]) -> list[Any]:
        """Send all ``requests`` at once; return results in their order, an RpcError in the place of
        a result where a call failed."""
        if not requests:
            return []
        first = self._take_ids(len(requests))
        bodies = [_body(first + at, *request) for at, request in enumerate(requests)]
        return _results_of(self.where, self._post(encode(bodies)), first, len(bodies))

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_ids(self, count: int) -> int:
        first = self._next_id
        self._next_id += count
        return first

    def _post(self, body: str) -> Any:
        fresh = self._connection.sock is None
        try:
            return self._exchange(body)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            # A kept connection that the server closed meanwhile; nothing of the request was answered.
            self.close()
            if fresh:
                raise _unreachable(self.where, error) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _unreachable(self.where, error) from None
        try:
            return self._exchange(body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _unreachable(self.where, error) from None

    def _exchange(self, body: str) -> Any:
        self._connection.request("POST", "/", body.encode(), self._headers)
        if self._connection.sock is not None:
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        response = self._connection.getresponse()
        return _parse(self.where, response.status, response.read())


class AsyncRpcClient:
    """A client for asyncio; calls may overlap, each on a connection of the pool. Raises as RpcClient."""

    def __init__(self, where: Endpoint, credentials: str, timeout_s: float = CLIENT_TIMEOUT_S) -> None:
        self.where = where
        self._headers = _headers(credentials)
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._next_id = 1

    def __repr__(self) -> str:
        return f"AsyncRpcClient({self.where})"

    async def call(self, method: str, *params: Any, **named: Any) -> Any:
        """Call ``method`` with positional or named arguments and return its result."""
        if named and params:
            named = {"args": list(params), **named}
        body = _body(self._take_ids(1), method, named or params)
        return _result_of(self.where, await self._post(encode(body)))

    async def batch(self, requests: Sequence[Request | tuple[str, Sequence[Any]]]) -> list[Any]:
        """Send all ``requests`` at once; return results in their order, an RpcError in the place of
        a result where a call failed."""
        if not requests:
            return []
        first = self._take_ids(len(requests))
        bodies = [_body(first + at, *request) for at, request in enumerate(requests)]
        return _results_of(self.where, await self._post(encode(bodies)), first, len(bodies))

    async def send(self, batch: Prepared) -> list[Any]:
        """Send a batch that was encoded ahead; return as ``batch``."""
        reply = _parse(self.where, *await self._request("POST", "/", batch.body))
        return _results_of(self.where, reply, 1, batch.calls)

    async def get(self, path: str) -> tuple[int, str]:
        """Fetch a health page: ("/ready") -> (status, text). Raises RpcUnavailable."""
        status, data = await self._request("GET", path, b"")
        return status, data.decode("utf-8", "replace")

    async def close(self) -> None:
        """Close the connections; the next call opens others."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _take_ids(self, count: int) -> int:
        first = self._next_id
        self._next_id += count
        return first

    async def _post(self, body: str) -> Any:
        return _parse(self.where, *await self._request("POST", "/", body.encode()))

    async def _request(self, verb: str, path: str, body: bytes) -> tuple[int, bytes]:
        import aiohttp  # loading it takes longer than a call of the blocking client

        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._timeout_s)
            self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        try:
            async with self._session.request(verb, f"http://{self.where}{path}", data=body) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(self.where, error) from None
