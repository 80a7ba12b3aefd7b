"""JSON-RPC over HTTP as Bitcoin Core's functional tests ask for it."""

import asyncio
import base64
import hashlib
import hmac
import stat
from dataclasses import replace

import pytest

from consensus.errors import LocalFault
from consensus.params import COIN
from node import limits
from node.config import Endpoint, RpcCredential
from node.rpc import dispatch, registry
from node.rpc import server as server_module


async def test_version_1_has_result_and_error(served):
    assert await served.post({"method": "getblockcount", "id": 7}) == (
        200,
        {"result": 0, "error": None, "id": 7},
    )
    status, reply = await served.post({"version": "1.1", "jsonrpc": "1.0", "method": "nope", "id": "x"})
    assert (status, reply["error"]["code"], reply["result"], reply["id"]) == (404, -32601, None, "x")
    status, reply = await served.post({"method": "getblockhash", "params": [42], "id": 1})
    assert (status, reply["error"]["code"]) == (500, -8)


async def test_version_2_reports_errors_with_status_200(served):
    assert await served.post({"jsonrpc": "2.0", "method": "getblockcount", "id": None}) == (
        200,
        {"jsonrpc": "2.0", "result": 0, "id": None},
    )
    status, reply = await served.post({"jsonrpc": "2.0", "method": "nope", "id": 1})
    assert (status, reply["error"]["code"]) == (200, -32601)
    assert "result" not in reply
    status, reply = await served.post({"jsonrpc": "2.0", "method": "getblockhash", "params": [42], "id": 1})
    assert (status, reply["error"]["code"]) == (200, -8)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"jsonrpc": 2, "method": "getblockcount"}, "jsonrpc field must be a string"),
        ({"jsonrpc": "3.0", "method": "getblockcount"}, "JSON-RPC version not supported"),
        ({"jsonrpc": "2.0", "id": 1}, "Missing method"),
        ({"method": 5}, "Method must be a string"),
        ({"method": "getblockcount", "params": "x"}, "Params must be an array or object"),
        ({"method": "getblockcount", "id": {}}, "id must be a string, a number or null"),
    ],
)
async def test_invalid_requests(served, request_, message):
    status, reply = await served.post(request_)
    assert (status, reply["error"]["code"], reply["error"]["message"]) == (400, -32600, message)


@pytest.mark.parametrize("body", [b"", b"this is bad", b"[1", b'{"a":NaN}', b"[" * 100_000, b"\xff"])
async def test_parse_errors(served, body):
    status, _, data = await served.http(body)
    assert (status, data) == (
        500,
        b'{"result":null,"error":{"code":-32700,"message":"Parse error"},"id":null}\n',
    )


async def test_notifications_run_but_have_no_answer(served):
    assert await served.post({"jsonrpc": "2.0", "method": "stop"}) == (204, None)
    assert served.node.stops == 1
    assert await served.post({"jsonrpc": "2.0", "method": "nope"}) == (204, None)
    status, reply = await served.post({"method": "stop"})  # 1.x has no notifications
    assert (status, reply["id"]) == (200, None)


async def test_batches(served):
    calls = [
        {"method": "getblockcount", "id": 1},
        {"method": "nope", "id": 2},
        {"jsonrpc": "2.0", "method": "getblockcount"},
        {"jsonrpc": "2.0", "method": "getbestblockhash", "id": 3},
        5,
        {"jsonrpc": "2.0", "method": None},
    ]
    status, replies = await served.post(calls)
    assert status == 200
    assert [reply["id"] for reply in replies] == [1, 2, 3, None, None]
    assert replies[0] == {"result": 0, "error": None, "id": 1}
    assert replies[1]["error"]["code"] == -32601
    assert replies[1]["result"] is None
    assert replies[2]["result"] == served.node.tip().block_hash[::-1].hex()
    assert [reply["error"]["code"] for reply in replies[3:]] == [-32600, -32600]
    assert await served.post([]) == (200, [])
    assert await served.post([{"jsonrpc": "2.0", "method": "getblockcount"}] * 3) == (204, None)


async def test_batch_limits(served, monkeypatch):
    monkeypatch.setattr(dispatch, "RPC_MAX_BATCH", 3)
    status, reply = await served.post([{"method": "getblockcount", "id": 1}] * 4)
    assert (status, reply["error"]["code"]) == (400, -32600)
    monkeypatch.setattr(dispatch, "RPC_MAX_REPLY_BYTES", 50)
    status, replies = await served.post([{"method": "getblockcount", "id": n} for n in range(3)])
    assert [reply["error"] is None for reply in replies] == [True, True, False]
    assert replies[2]["error"]["code"] == -1


async def test_a_batch_of_submissions_keeps_its_order(served):
    wallet = served.node.wallet(1)
    chain = [wallet.pay([]).tx for _ in range(5)]
    served.node.gate = asyncio.Event()
    calls = [{"method": "sendrawtransaction", "params": [tx.raw.hex()], "id": tx.txid.hex()} for tx in chain]
    task = asyncio.create_task(served.post([*calls, {"method": "getmempoolinfo", "id": "last"}]))
    served.node.gate.set()
    status, replies = await task
    assert status == 200
    assert [reply["result"] for reply in replies[:-1]] == [tx.txid[::-1].hex() for tx in chain]
    assert replies[-1]["result"]["size"] == 5
    assert list(served.node.mempool.held) == [tx.txid for tx in chain]


async def test_each_submission_of_a_batch_gets_its_own_answer(served):
    node, wallet = served.node, served.node.wallet(1)
    good, last = (wallet.pay([]).tx for _ in range(2))
    wallet.fee_rate = COIN // 5
    dear = wallet.pay([]).tx

    def send(number, *params, **named):
        return {"method": "sendrawtransaction", "params": named or list(params), "id": number}

    calls = [
        send(0, good.raw.hex()),
        send(1, "zz"),
        send(2, 5),
        send(3, "00", 0, 0, 0),
        send(4, hexstring=last.raw.hex(), maxfeerate=0),
        {**send(5, "00"), "params": "00"},
        {"jsonrpc": "2.0", "method": "sendrawtransaction", "params": [good.raw.hex()]},
        send(6, dear.raw.hex()),
        {"method": "getmempoolinfo", "id": 7},
        send(8, hexstring=good.raw.hex(), wrong=1),
        send(9),
    ]
    status, replies = await served.post(calls)
    assert (status, [reply["id"] for reply in replies]) == (200, list(range(10)))
    assert replies[0]["result"] == good.txid[::-1].hex()
    assert replies[4]["result"] == last.txid[::-1].hex()
    assert replies[7]["result"]["size"] == 2
    codes = [reply["error"] and reply["error"]["code"] for reply in replies]
    assert codes == [None, -22, -3, -1, None, -32600, -25, None, -8, -1]
    assert set(node.mempool.held) == {good.txid, last.txid}


async def test_a_bug_behind_a_batch_of_submissions_stops_the_node(served, monkeypatch):
    async def crash(txs, rates):
        raise IndexError("bug")

    raw = served.node.wallet(1).pay([]).tx.raw.hex()
    monkeypatch.setattr(served.node, "submit_many", crash)
    calls = [{"method": "sendrawtransaction", "params": [text], "id": 1} for text in (raw, 5, raw)]
    _, replies = await served.post(calls)
    assert [reply["error"]["code"] for reply in replies] == [-32603, -3, -32603]
    assert [type(bug) for bug in served.node.reported] == [IndexError]


async def test_only_post(served):
    for method in ("GET", "PUT", "HEAD", "DELETE"):
        status, headers, _ = await served.http(None, method=method)
        assert (status, headers["Allow"]) == (405, "POST")
    assert (await served.http(b"{}", path="/wallet/x"))[0] == 404


# ---- credentials -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer abc", "Basic", "Basic !!!", "Basic dXNlcjpwYXNz", "Basic bm9jb2xvbg=="],
)
async def test_wrong_credentials(served, monkeypatch, header):
    monkeypatch.setattr(server_module, "RPC_AUTH_DELAY_S", 0)
    headers = {} if header is None else {"Authorization": header}
    status, answer, data = await served.http(b'{"method":"stop"}', headers=headers)
    assert status == 401
    assert answer["WWW-Authenticate"] == 'Basic realm="jsonrpc"'
    assert served.cookie.text.encode() not in data
    assert served.node.stops == 0


async def test_rpcauth_credentials(serve, monkeypatch):
    monkeypatch.setattr(server_module, "RPC_AUTH_DELAY_S", 0)
    digest = hmac.new(b"salt", b"secret", hashlib.sha256).hexdigest()
    served = await serve(auth=(RpcCredential("alice", "salt", digest),))

    def basic(pair):
        return {"Authorization": "Basic " + base64.b64encode(pair).decode()}

    body = b'{"method":"getblockcount","id":1}'
    assert (await served.http(body, headers=basic(b"alice:secret")))[0] == 200
    for pair in (b"alice:wrong", b"bob:secret", b"alice:", b":secret", b"alice:secret\x00"):
        assert (await served.http(body, headers=basic(pair)))[0] == 401


async def test_cookie_file_is_private_and_goes_away(serve, tmp_path):
    served = await serve()
    path = tmp_path / ".cookie"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    user, _, password = path.read_text().partition(":")
    assert (user, len(password)) == ("__cookie__", 64)
    assert password not in repr(served.cookie)
    await served.server.stop()
    assert not path.exists()


async def test_a_cookie_of_another_process_stays(serve, tmp_path):
    served = await serve()
    (tmp_path / ".cookie").write_text("__cookie__:other")
    await served.server.stop()
    assert (tmp_path / ".cookie").read_text() == "__cookie__:other"


async def test_foreign_networks_are_refused(serve):
    served = await serve(allow=("10.0.0.0/8",))
    assert (await served.http(b'{"method":"stop"}'))[0] == 403
    assert (await served.http(None, method="GET", path="/live"))[0] == 403
    assert served.node.stops == 0


# ---- budgets ---------------------------------------------------------------------------------------


async def test_work_queue(served, monkeypatch):
    monkeypatch.setattr(server_module, "RPC_WORK_QUEUE", 2)
    served.node.gate = asyncio.Event()
    raw = served.node.wallet(1).pay([]).tx.raw.hex()
    call = {"method": "sendrawtransaction", "params": [raw], "id": 1}
    waiting = [asyncio.create_task(served.post(call)) for _ in range(2)]
    while served.server._running < 2:
        await asyncio.sleep(0)
    status, _, data = await served.http(b'{"method":"getblockcount"}')
    assert (status, data) == (503, b"Work queue depth exceeded\n")
    assert (await served.http(None, method="GET", path="/live"))[0] == 200
    served.node.gate.set()
    assert [status for status, _ in await asyncio.gather(*waiting)] == [200, 200]
    assert (await served.post({"method": "getblockcount"}))[0] == 200


async def test_large_requests(served, monkeypatch):
    monkeypatch.setattr(server_module, "RPC_MAX_BODY_BYTES", 1000)
    assert (await served.http(b" " * 1001))[0] == 413
    assert (await served.http(b'{"method":"getblockcount"}' + b" " * 900))[0] == 200
    monkeypatch.setattr(server_module, "RPC_MAX_INFLIGHT_BYTES", 500)
    assert (await served.http(b" " * 600))[0] == 503
    assert served.server._body_bytes == 0
    long_header = {**served.headers, "X-Long": "x" * (limits.RPC_MAX_HEADER_BYTES + 1)}
    assert (await served.http(b"{}", headers=long_header))[0] in (400, 431)


async def test_a_body_that_never_ends(served, monkeypatch):
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    while not served.server._silent:  # accepted: the time for the head is set, the short one is for the body
        await asyncio.sleep(0)
    monkeypatch.setattr(server_module, "RPC_SERVER_TIMEOUT_S", 0.05)
    auth = served.headers["Authorization"]
    writer.write(
        f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: {auth}\r\nContent-Length: 9\r\n\r\n{{".encode()
    )
    assert (await reader.readline()).split()[1] == b"408"
    writer.close()


async def test_silent_connections_are_closed(served, monkeypatch):
    monkeypatch.setattr(server_module, "RPC_SERVER_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    writer.write(b"POST / HT")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    assert served.server._silent == {}


async def test_connection_limit(served, monkeypatch):
    monkeypatch.setattr(server_module, "RPC_MAX_CONNECTIONS", 1)
    assert await served.call("getblockcount") == 0  # its connection is kept
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    assert await served.call("getblockcount") == 0


async def test_occupied_port(serve):
    served = await serve()
    with pytest.raises(LocalFault) as caught:
        await serve(listen=Endpoint("127.0.0.1", served.server.port))
    assert caught.value.code == "port-in-use"


async def test_unusable_address(serve):
    with pytest.raises(LocalFault) as caught:
        await serve(listen=Endpoint("192.0.2.1", 0))
    assert caught.value.code == "cannot-listen"


# ---- health and bugs -------------------------------------------------------------------------------


async def test_health_needs_no_credentials(served):
    async def get(path):
        status, _, data = await served.http(None, method="GET", path=path, headers={})
        return status, data

    assert await get("/live") == (200, b"live\n")
    assert await get("/ready") == (200, b"ready\n")
    served.node.ready = (False, "no block for 20 s")
    assert await get("/ready") == (503, b"no block for 20 s\n")
    status, data = await get("/metrics")
    assert status == 200
    assert b"wattd_height 0.0" in data
    assert b'wattd_peers{direction="inbound"} 1.0' in data
    assert b"process_resident_memory_bytes" in data
    assert served.cookie.text.partition(":")[2].encode() not in data


async def test_metrics_tell_of_missing_validators_and_of_evidence(served):
    known = served.node.bft_status()
    served.node.bft_status = lambda: replace(known, details={"evidence": 3, "missing": ["north"]})
    _, _, data = await served.http(None, method="GET", path="/metrics")
    assert b"wattd_evidence 3.0" in data
    assert b"wattd_validators_missing 1.0" in data


async def test_rpc_timings_are_counted_for_known_methods_only(served):
    await served.post({"method": "getblockcount", "id": 1})
    await served.post({"method": "evil", "id": 1})
    _, _, data = await served.http(None, method="GET", path="/metrics")
    assert b'wattd_rpc_seconds_count{method="getblockcount"} 1.0' in data
    assert b'wattd_rpc_errors_total{code="-32601"} 1.0' in data
    assert b"evil" not in data


async def test_a_bug_reaches_the_node(served, monkeypatch):
    bug = ZeroDivisionError("secret detail")

    def broken(node):
        raise bug

    monkeypatch.setitem(registry.METHODS, "broken", registry.Method("broken", "Test", broken, (), "", False))
    status, reply = await served.post({"method": "broken", "id": 1})
    assert (status, reply["error"]) == (500, {"code": -32603, "message": "Internal error"})
    assert served.node.reported == [bug]
