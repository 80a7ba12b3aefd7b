"""JSON-RPC 2.0, and 1.0 and 1.1 as Bitcoin clients speak it: from a request body to a reply body.

Like Bitcoin Core: a failed 1.x call is an HTTP error, a failed 2.0 call is not; batches always
answer 200; a 2.0 call without id is a notification and gets no answer.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from consensus.errors import LocalFault, PeerFault
from node.clock import Clock
from node.limits import RPC_BATCH_PARALLEL, RPC_MAX_BATCH, RPC_MAX_REPLY_BYTES, RPC_YIELD_EVERY
from node.metrics import Durations, Metrics
from node.rpc.backend import Backend
from node.rpc.encoding import decode, encode
from node.rpc.errors import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISC_ERROR,
    PARSE_ERROR,
    RpcError,
    rpc_error,
)
from node.rpc.registry import METHODS, Method, find_method

log = logging.getLogger("wattd.rpc")

HTTP_OK = 200
HTTP_NO_CONTENT = 204
HTTP_BAD_REQUEST = 400
HTTP_NOT_FOUND = 404
HTTP_INTERNAL_ERROR = 500


@dataclass(slots=True)
class Call:
    """One parsed call; ``fault`` stands where it could not be parsed or will not be run."""

    id: Any = None
    is_v2: bool = False
    is_notification: bool = False
    method: str = ""
    params: list[Any] | dict[str, Any] = field(default_factory=list)
    fault: RpcError | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """HTTP status and body."""

    status: int
    body: str


def parse_call(value: Any) -> Call:
    """Read one call object; what is wrong with it is noted in ``fault``."""
    call = Call()
    try:
        _read_call(call, value)
    except RpcError as fault:
        call.fault = fault
    return call


def _read_call(call: Call, value: Any) -> None:
    if not isinstance(value, dict):
        raise RpcError(INVALID_REQUEST, "Invalid Request object")
    call.id = value.get("id")
    if isinstance(call.id, dict | list):
        call.id = None
        raise RpcError(INVALID_REQUEST, "id must be a string, a number or null")
    version = value.get("jsonrpc")
    if version is not None and not isinstance(version, str):
        raise RpcError(INVALID_REQUEST, "jsonrpc field must be a string")
    if version not in (None, "1.0", "1.1", "2.0"):
        raise RpcError(INVALID_REQUEST, "JSON-RPC version not supported")
    call.is_v2 = version == "2.0"
    if value.get("method") is None:
        raise RpcError(INVALID_REQUEST, "Missing method")
    if not isinstance(value["method"], str):
        raise RpcError(INVALID_REQUEST, "Method must be a string")
    call.method = value["method"]
    params = value.get("params")
    if params is not None and not isinstance(params, list | dict):
        raise RpcError(INVALID_REQUEST, "Params must be an array or object")
    if params is not None:
        call.params = params
    call.is_notification = call.is_v2 and "id" not in value


def _encode_id(value: Any) -> str:
    if type(value) is int:
        return str(value)
    return encode(value) if value is None or isinstance(value, str | bool | int) else str(value)


def _result(call: Call, result: str) -> str:
    if call.is_v2:
        return f'{{"jsonrpc":"2.0","result":{result},"id":{_encode_id(call.id)}}}'
    return f'{{"result":{result},"error":null,"id":{_encode_id(call.id)}}}'


def _error(call: Call, error: RpcError) -> str:
    body = encode({"code": error.number, "message": error.reason})
    if call.is_v2:
        return f'{{"jsonrpc":"2.0","error":{body},"id":{_encode_id(call.id)}}}'
    return f'{{"result":null,"error":{body},"id":{_encode_id(call.id)}}}'


class Dispatcher:
    """Runs calls against the node."""

    def __init__(self, node: Backend, metrics: Metrics) -> None:
        self._node = node
        self._metrics = metrics
        self._timers: dict[str, Durations] = {}

    async def handle(self, body: bytes) -> Reply:
        """Answer one HTTP request body."""
        try:
            request = decode(body)
        except ValueError:
            return self._refuse(RpcError(PARSE_ERROR, "Parse error"))
        if isinstance(request, list):
            return await self._batch(request)
        if not isinstance(request, dict):
            return self._refuse(RpcError(PARSE_ERROR, "Top-level object parse error"))
        return await self._single(parse_call(request))

    def _refuse(self, error: RpcError) -> Reply:
        self._metrics.rpc_errors.labels(error.number).inc()
        status = HTTP_BAD_REQUEST if error.number == INVALID_REQUEST else HTTP_INTERNAL_ERROR
        return Reply(status, _error(Call(), error))

    async def _single(self, call: Call) -> Reply:
        body, number = await self._run(call)
        if call.is_notification:
            return Reply(HTTP_NO_CONTENT, "")
        if number == 0 or (call.is_v2 and call.fault is None):
            return Reply(HTTP_OK, body)
        statuses = {INVALID_REQUEST: HTTP_BAD_REQUEST, METHOD_NOT_FOUND: HTTP_NOT_FOUND}
        return Reply(statuses.get(number, HTTP_INTERNAL_ERROR), body)

    async def _batch(self, request: list[Any]) -> Reply:
        if len(request) > RPC_MAX_BATCH:
            return self._refuse(RpcError(INVALID_REQUEST, f"at most {RPC_MAX_BATCH} calls in a batch"))
        replies: list[str] = []
        size = 0
        for number, group in enumerate(_groups([parse_call(each) for each in request])):
            if size > RPC_MAX_REPLY_BYTES:
                for call in group:
                    call.fault = RpcError(MISC_ERROR, f"batch reply exceeds {RPC_MAX_REPLY_BYTES} bytes")
            done = [await self._run(group[0])] if len(group) == 1 else await self._run_together(group)
            for call, (body, _) in zip(group, done, strict=True):
                if not call.is_notification:
                    replies.append(body)
                    size += len(body)
            if number % RPC_YIELD_EVERY == RPC_YIELD_EVERY - 1:
                await asyncio.sleep(0)
        if request and not replies:
            return Reply(HTTP_NO_CONTENT, "")
        return Reply(HTTP_OK, "[" + ",".join(replies) + "]")

    async def _run(self, call: Call) -> tuple[str, int]:
        """Return the reply body and the error number, 0 for none."""
        started_s = Clock.monotonic_s()
        try:
            if call.fault is not None:
                raise call.fault
            method = find_method(call.method)
            value = await method.call(self._node, call.params)
            return _result(call, encode(value)), 0
        except Exception as failure:
            return self._refused(call, self._explained(call.method, failure))
        finally:
            self._time(call.method, Clock.monotonic_s() - started_s)

    async def _run_together(self, group: list[Call]) -> list[tuple[str, int]]:
        """Run calls of one method that answers many at once; return as ``_run`` for each."""
        started_s = Clock.monotonic_s()
        method = find_method(group[0].method)
        outcomes: list[Any] = []
        bound: list[list[Any]] = []
        places: list[int] = []
        for at, call in enumerate(group):
            try:
                if call.fault is not None:
                    raise call.fault
                bound.append(method.bind(call.params))
            except PeerFault as fault:
                outcomes.append(fault)
            else:
                outcomes.append(None)
                places.append(at)
        try:
            answers: Sequence[Any] = await method.together(self._node, bound) if method.together else ()
            for at, answer in zip(places, answers, strict=True):
                outcomes[at] = answer
        except Exception as failure:
            error = self._explained(method.name, failure)
            for at in places:
                outcomes[at] = error
        elapsed_s = Clock.monotonic_s() - started_s
        done = []
        for call, outcome in zip(group, outcomes, strict=True):
            self._time(call.method, elapsed_s)
            if isinstance(outcome, PeerFault):
                done.append(self._refused(call, rpc_error(outcome)))
            else:
                done.append((_result(call, encode(outcome)), 0))
        return done

    def _explained(self, name: str, failure: Exception) -> RpcError:
        """Return the error for the client; what is not its fault stops the node."""
        if isinstance(failure, PeerFault):
            return rpc_error(failure)
        if isinstance(failure, LocalFault):  # a failing disk is no bug, and no reason to go on
            log.error("RPC method %s: %s", name, failure)
        else:
            log.error("a bug in RPC method %s", name if name in METHODS else "?", exc_info=failure)
        self._node.fatal(failure)
        return RpcError(INTERNAL_ERROR, "Internal error")

    def _refused(self, call: Call, error: RpcError) -> tuple[str, int]:
        self._metrics.rpc_errors.labels(error.number).inc()
        return _error(call, error), error.number

    def _time(self, method: str, elapsed_s: float) -> None:
        """Count a call of a known method: a client cannot make up time series."""
        timer = self._timers.get(method)
        if timer is None:
            if method not in METHODS:
                return
            timer = self._timers[method] = self._metrics.rpc_seconds.labels(method)
        timer.observe(elapsed_s)


def _groups(calls: list[Call]) -> Iterator[list[Call]]:
    """Split a batch into runs of one call, or of one method that answers many calls together: so 500
    submissions become one admission batch."""
    group: list[Call] = []
    for call in calls:
        if group and (group[-1].method != call.method or len(group) == RPC_BATCH_PARALLEL):
            yield group
            group = []
        group.append(call)
        method: Method | None = METHODS.get(call.method)
        if method is None or method.together is None:
            yield group
            group = []
    if group:
        yield group
