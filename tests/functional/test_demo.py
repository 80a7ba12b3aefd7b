"""The demo in the small, as a user starts it: four real nodes, two of them killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pvlib", reason="the extra sim is not installed")
pytest.importorskip("demandlib", reason="the extra sim is not installed")

pytestmark = pytest.mark.functional

ROOT = Path(__file__).parents[2]
SHORT = ["--households", "4", "--slots", "16", "--speed", "1800"]
TIMEOUT_S = 150
CHECKS = {
    "same_tip",
    "conservation",
    "energy",
    "readings",
    "orders",
    "clearing",
    "payouts",
    "bills",
    "recovery",
}


@pytest.fixture
def datadir(tmp_path) -> Iterator[Path]:
    """A directory for the nodes; no process that works in it may outlive the test."""
    directory = tmp_path / "demo"
    yield directory
    left = node_processes(directory)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left


def node_processes(directory: Path) -> list[int]:
    """Return the processes whose command line names ``directory``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"run" in arguments and any(str(directory).encode() in argument for argument in arguments):
            found.append(int(path.parent.name))
    return found


def start(datadir: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "node", "demo", "--datadir", str(datadir), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_short_run_passes_every_check(datadir):
    process = start(datadir, "--json", *SHORT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert document["ok"] is True
    assert set(document["checks"]) == CHECKS
    assert all(check["ok"] for check in document["checks"].values())

    households = document["households"]
    assert len(households) == 4
    assert sum(each["bought_wh"] for each in households) == sum(each["sold_wh"] for each in households) > 0
    assert all(each["saved"] >= 0 for each in households)
    assert document["chain"]["slots"] == 16

    # A follower and the leader died, both came back, and somebody else led meanwhile.
    events = [event["text"] for event in document["chain"]["events"]]
    assert sum("a follower, is killed" in text for text in events) == 1
    assert sum("the leader, is killed" in text for text in events) == 1
    assert sum("has caught up" in text for text in events) == 2
    assert len(document["chain"]["terms"]) > 1
    assert node_processes(datadir) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_everything(datadir, number, status):
    process = start(datadir, *SHORT)
    deadline = time.monotonic() + TIMEOUT_S
    while len(node_processes(datadir)) < 4 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == status, err
    assert node_processes(datadir) == []
