"""What goes wrong at an operator's: one clear line, the right exit status, and nothing else breaks."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.clock import Clock
from node.config import CHAIN_NAME, CONFIG_NAME, KEYS_NAME, render_config
from node.rpc.client import RpcUnavailable
from node.rpc.errors import RpcError
from node.testnet import LOG_NAME, ChainPlan, Founder, Testnet

pytestmark = pytest.mark.functional

Run = Callable[..., Any]
EXIT_TIMEOUT_S = 30
LIVE_TIMEOUT_S = 30
STORAGE_STATUS = 74
CONFIG_STATUS = 78


def run_node(datadir: Path) -> subprocess.CompletedProcess[str]:
    """Run a node that is expected to end by itself."""
    command = [sys.executable, "-m", "node", "run", "--datadir", str(datadir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=EXIT_TIMEOUT_S, check=False)


def error_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in result.stderr
    return [line for line in result.stderr.splitlines() if line.startswith("wattd: error:")]


@pytest.fixture
def single(run: Run, tmp_path: Path) -> Testnet:
    """A chain of one validator; not started."""
    testnet = Testnet.create(tmp_path, [Founder("grid", "grid-operator")], ChainPlan())
    yield testnet
    run(testnet.stop())


def datadir_of(net: Testnet) -> Path:
    return net.nodes[0].config.datadir


def test_a_second_process_on_the_directory_is_refused_and_the_first_goes_on(
    run: Run, single: Testnet
) -> None:
    single.start(0)
    run(single.wait_ready())
    result = run_node(datadir_of(single))
    assert result.returncode == STORAGE_STATUS
    assert "datadir-locked" in error_lines(result)[0]
    assert run(single.call(0, "getblockcount")) >= 1


@pytest.mark.parametrize("which", ["p2p", "rpc"])
def test_an_occupied_port_is_named(single: Testnet, which: str) -> None:
    config = single.nodes[0].config
    port = (config.listen if which == "p2p" else config.rpc.listen).port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        result = run_node(config.datadir)
    assert result.returncode not in (0, 1)
    (line,) = error_lines(result)
    assert "port-in-use" in line
    assert str(port) in line


def test_all_problems_of_a_chain_file_are_told_at_once(single: Testnet) -> None:
    path = datadir_of(single) / CHAIN_NAME
    text = path.read_text().replace("slot_s = 900", "slot_s = 7\nslots_s = 1").replace("engine", "motor", 1)
    path.write_text(text)
    result = run_node(datadir_of(single))
    assert result.returncode == CONFIG_STATUS
    told = "\n".join(error_lines(result)) or result.stderr
    for field in ("energy.slot_s", "energy.slots_s", "chain.motor"):
        assert field in told, field


def test_a_directory_of_another_chain_is_refused(run: Run, single: Testnet) -> None:
    single.start(0)
    run(single.wait_ready())
    run(single.stop())
    path = datadir_of(single) / CHAIN_NAME
    path.write_text(path.read_text().replace("slot_s = 900", "slot_s = 1800"))
    result = run_node(datadir_of(single))
    assert result.returncode == STORAGE_STATUS
    assert "datadir-foreign-chain" in error_lines(result)[0]


def test_keys_that_others_can_read_are_refused(single: Testnet) -> None:
    keys = datadir_of(single) / KEYS_NAME
    keys.chmod(0o644)
    result = run_node(datadir_of(single))
    assert result.returncode == CONFIG_STATUS
    (line,) = error_lines(result)
    assert "key-file-exposed" in line
    secret = keys.read_text().split('"')[1]
    assert secret not in result.stderr + result.stdout


def test_an_unknown_configuration_key_is_refused(single: Testnet) -> None:
    path = datadir_of(single) / CONFIG_NAME
    path.write_text("speling = 1\n" + render_config(single.nodes[0].config))
    result = run_node(datadir_of(single))
    assert result.returncode == CONFIG_STATUS
    assert "speling" in result.stderr


def test_stop_by_rpc_and_by_signal_end_with_status_zero(run: Run, single: Testnet) -> None:
    for how in ("rpc", "signal"):
        single.start(0)
        run(single.wait_ready())
        process = single.nodes[0].process
        assert process is not None
        if how == "rpc":
            run(single.call(0, "stop"))
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(EXIT_TIMEOUT_S) == 0
    assert not (datadir_of(single) / ".cookie").exists()


def test_a_lost_vote_log_makes_a_learner_that_signs_nothing(run: Run, single: Testnet) -> None:
    single.start(0)
    run(single.wait_ready())
    run(single.stop())
    (datadir_of(single) / "votes.wal").unlink()
    single.start(0)
    status = wait_for_call(run, single, "bft.status")
    assert status["role"] == "learner"
    height = status["committed_height"]
    assert "does not vote" in (datadir_of(single) / LOG_NAME).read_text()
    assert run(single.call(0, "getblockcount")) == height


def wait_for_call(run: Run, net: Testnet, method: str) -> Any:
    deadline = Clock.monotonic_s() + LIVE_TIMEOUT_S
    while True:
        try:
            return run(net.call(0, method))
        except RpcUnavailable:
            assert Clock.monotonic_s() < deadline


def test_garbage_on_the_wire_breaks_nothing(run: Run, net: Testnet) -> None:
    listen = net.nodes[0].config.listen
    before = run(net.call(0, "getblockcount"))
    junk = [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 70_000,
        (0xFFFF).to_bytes(2, "big") + bytes(70_000),
        os.urandom(300_000),
    ]
    for data in junk * 4:
        with socket.create_connection((listen.host, listen.port), timeout=10) as stranger:
            try:
                stranger.sendall(data)
                stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(65_536):
                    pass
            except OSError:
                continue
    wait_for_height(run, net, before + 2)
    assert run(net.call(0, "getconnectioncount")) == len(net.nodes) - 1


def wait_for_height(run: Run, net: Testnet, height: int) -> None:
    deadline = Clock.monotonic_s() + LIVE_TIMEOUT_S
    while run(net.call(0, "getblockcount")) < height:
        assert Clock.monotonic_s() < deadline


@pytest.mark.parametrize(
    ("method", "params", "number"),
    [
        ("no.such.method", [], -32601),
        ("getblockhash", ["seven"], -3),
        ("getblockhash", [10**9], -8),
        ("getblockhash", [], -1),
        ("getblock", ["zz"], -8),
        ("sendrawtransaction", ["00"], -22),
        ("sendrawtransaction", ["not hex"], -22),
        ("energy.order", ["00"], -8),
        ("energy.market", ["nowhere", -1], -8),
    ],
)
def test_bad_calls_get_their_code(
    run: Run, net: Testnet, method: str, params: list[Any], number: int
) -> None:
    with pytest.raises(RpcError) as caught:
        run(net.call(0, method, *params))
    assert caught.value.number == number
    assert run(net.call(0, "getblockcount")) >= 0


def test_no_method_answers_without_credentials(net: Testnet) -> None:
    listen = net.nodes[0].config.rpc.listen
    body = json.dumps({"method": "stop", "id": 1})
    request = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    with socket.create_connection((listen.host, listen.port), timeout=10) as stranger:
        stranger.sendall(request.encode())
        answer = stranger.recv(65_536)
    assert b" 401 " in answer.split(b"\r\n")[0]
    assert net.nodes[0].is_running
