"""``wattd rpc``: arguments as bitcoin-cli takes them, results, and what a fault looks like."""

import json
import threading
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer

import click
import pytest

from node.cli.rpc import parse_arguments


class Echo(BaseHTTPRequestHandler):
    """Answers with the call it got; ``fail`` and ``text`` are special."""

    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = {"jsonrpc": "2.0", "id": call["id"], "result": {"params": call["params"], "fee": 1}}
        if call["method"] == "fail":
            reply = {"jsonrpc": "2.0", "id": call["id"], "error": {"code": -8, "message": "no such height"}}
        elif call["method"] == "text":
            reply["result"] = "plain text"
        elif call["method"] == "nothing":
            reply["result"] = None
        body = json.dumps(reply).replace('"fee": 1', '"fee": 0.00000001').encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def echo():
    server = HTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield ["--connect", f"127.0.0.1:{server.server_port}", "--user", "a:b"]
    server.shutdown()
    thread.join()
    server.server_close()


def test_arguments_follow_the_method_s_types():
    def positional(method, *arguments):
        return parse_arguments(method, arguments, named=False)

    assert positional("getblock", "00" * 32, "2") == ["00" * 32, 2]
    assert positional("getblock", "7", "true") == ["7", True]
    assert positional("getblockhash", "7") == [7]
    assert positional("testmempoolaccept", '["00"]', "0.1") == [["00"], Decimal("0.1")]
    assert positional("unknown", "7", "x", '"7"', "null", "[1]") == [7, "x", "7", None, [1]]
    assert positional("getblockcount", "1") == [1]
    named = parse_arguments("getblock", ("blockhash=12", "verbosity=0"), named=True)
    assert named == {"blockhash": "12", "verbosity": 0}
    with pytest.raises(click.UsageError, match="height"):
        positional("getblockhash", "seven")
    with pytest.raises(click.UsageError, match="name=value"):
        parse_arguments("getblock", ("12",), named=True)


def test_an_address_or_an_object_of_options_needs_no_quotes_of_its_own():
    def read(text):
        return parse_arguments("getaddressbalance", (text,), named=False)

    assert read("bc1qxyz") == ["bc1qxyz"]
    assert read("51") == ["51"]
    assert read('"51"') == ["51"]
    assert read('["51", "52"]') == [["51", "52"]]
    assert read('{"addresses": ["51"], "limit": 5}') == [{"addresses": ["51"], "limit": 5}]


def test_results(wattd, echo):
    done = wattd("rpc", *echo, "energy.market", "town", "5")
    assert done.status == 0
    assert '"params": [\n    "town",\n    5\n  ]' in done.out
    assert '"fee": 0.00000001' in done.out
    assert wattd("rpc", *echo, "text").out == "plain text\n"
    assert wattd("rpc", *echo, "nothing").out == ""
    done = wattd("rpc", *echo, "--named", "getblock", "verbosity=0")
    assert '"verbosity": 0' in done.out
    assert "-5" in wattd("rpc", *echo, "x", "-5").out


def test_an_error_of_the_node(wattd, echo):
    done = wattd("rpc", *echo, "fail")
    assert (done.status, done.out, done.err) == (1, "", "wattd: error: no such height (code -8)\n")


def test_nobody_listens(wattd, tmp_path):
    done = wattd("rpc", "--connect", "127.0.0.1:1", "--user", "a:b", "uptime")
    assert done.status == 69
    assert done.err.startswith("wattd: error: rpc-unreachable: no node answers at 127.0.0.1:1")
    assert done.err.count("\n") == 1
    done = wattd("rpc", "--datadir", tmp_path, "uptime")
    assert (done.status, done.err.split()[2]) == (69, "no-cookie:")
    assert wattd("rpc", "--connect", "nowhere", "uptime").status == 2
    assert wattd("rpc", "--datadir", tmp_path / "x", "uptime").status == 78
