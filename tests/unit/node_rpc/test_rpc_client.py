"""The clients: results, errors, batches, and faults of the connection in one clear line."""

import asyncio
import socket
from decimal import Decimal

import pytest

from consensus.transaction import hash_hex
from node.config import Endpoint
from node.rpc import server as server_module
from node.rpc.client import AsyncRpcClient, Request, RpcClient, RpcForbidden, RpcUnavailable, read_cookie
from node.rpc.errors import RpcError


@pytest.fixture
def client(served):
    made = RpcClient(served.where, served.cookie.text)
    yield made
    made.close()


async def test_calls(served, client):
    def story():
        assert client.call("getblockcount") == 0
        assert client.call("getblockhash", 0) == client.call("getblockhash", height=0)
        raw = client.call("getblock", hash_hex(served.node.chain_id), verbosity=0)
        assert raw == served.node.blocks[0].raw.hex()
        assert client.call("getmempoolinfo")["minrelaytxfee"] == Decimal("0.00001000")
        with pytest.raises(RpcError) as caught:
            client.call("getblockhash", 7)
        assert caught.value.number == -8

    await asyncio.to_thread(story)


async def test_batches_keep_order_and_report_errors_in_place(served, client):
    requests = [Request("getblockcount"), ("getblockhash", [9]), Request("getblockhash", {"height": 0})]
    for results in (await asyncio.to_thread(client.batch, requests), await served.client.batch(requests)):
        assert results[0] == 0
        assert isinstance(results[1], RpcError)
        assert results[2] == hash_hex(served.node.chain_id)
    assert await served.client.batch([]) == []


async def test_overlapping_calls(served):
    assert await asyncio.gather(*[served.call("getblockcount") for _ in range(20)]) == [0] * 20
    assert (await served.client.get("/ready")) == (200, "ready\n")


async def test_a_kept_connection_that_the_server_closed(served, client):
    def call():
        return client.call("getblockcount")

    assert await asyncio.to_thread(call) == 0
    for protocol in served.server._runner.server.connections:
        protocol.transport.close()
    await asyncio.sleep(0)
    assert await asyncio.to_thread(call) == 0


async def test_nobody_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        where = Endpoint("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(RpcUnavailable) as caught:
            await asyncio.to_thread(RpcClient(where, "a:b").call, "uptime")
        assert caught.value.code == "rpc-unreachable"
        assert str(where) in str(caught.value)
        async with AsyncRpcClient(where, "a:b") as client:
            with pytest.raises(RpcUnavailable):
                await client.call("uptime")


async def test_wrong_credentials(served, monkeypatch):
    monkeypatch.setattr(server_module, "RPC_AUTH_DELAY_S", 0)
    with pytest.raises(RpcForbidden):
        await asyncio.to_thread(RpcClient(served.where, "eve:guess").call, "uptime")


async def test_something_else_listens():
    async def greet(reader, writer):
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    where = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    with pytest.raises(RpcUnavailable) as caught:
        await asyncio.to_thread(RpcClient(where, "a:b").call, "uptime")
    assert caught.value.code == "rpc-bad-answer"
    server.close()


async def test_time_limit(served):
    served.node.gate = asyncio.Event()
    raw = served.node.wallet(1).pay([]).tx.raw.hex()
    client = RpcClient(served.where, served.cookie.text, timeout_s=0.05)
    with pytest.raises(RpcUnavailable) as caught:
        await asyncio.to_thread(client.call, "sendrawtransaction", raw)
    assert caught.value.code == "rpc-timeout"
    served.node.gate.set()


def test_missing_cookie(tmp_path):
    with pytest.raises(RpcUnavailable) as caught:
        read_cookie(tmp_path / ".cookie")
    assert caught.value.code == "no-cookie"


def test_no_password_in_repr():
    assert "hunter2" not in repr(RpcClient(Endpoint("127.0.0.1", 1), "user:hunter2"))
    assert "hunter2" not in repr(AsyncRpcClient(Endpoint("127.0.0.1", 1), "user:hunter2"))
