"""The command line in this process, and as real processes."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.cli.main import run_command

ROOT = Path(__file__).resolve().parents[3]

TEMPLATE = """
[chain]
name = "clitest"
engine = "bft"
genesis_time_s = 1750000000
addresses = "regtest"

[[energy.communities]]
id = "town"
grid_operator = "@Grid & Co"

[[genesis.allocations]]
script_pubkey = "@Shop 1"
amount = 100000000000
"""


@dataclass
class Outcome:
    status: int
    out: str
    err: str


@pytest.fixture
def wattd(capsys, monkeypatch):
    """Run the command line here; return status, standard output and standard error."""
    monkeypatch.delenv("WATTD_DATADIR", raising=False)

    def run(*arguments):
        capsys.readouterr()
        status = run_command([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture
def process():
    """Run ``python -m node`` as a process of its own."""

    def run(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "node", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def found(wattd, tmp_path):
    """Make the keys and entries of two founders; return their data directories."""

    def found_chain(chain_name="clitest"):
        directories = []
        for name, role in (("Grid & Co", "grid-operator"), ("Shop 1", "service-provider")):
            directory = tmp_path / name.replace(" ", "-")
            done = wattd(
                "init", "--datadir", directory, "--name", name, "--role", role, "--chain-name", chain_name
            )
            assert done.status == 0, done.err
            directories.append(directory)
        return directories

    return found_chain


@pytest.fixture
def chain(wattd, found, tmp_path):
    """A chain file made by a ceremony, the founders' directories, and the ceremony's output."""
    directories = found()
    template, out = tmp_path / "template.toml", tmp_path / "chain.toml"
    template.write_text(TEMPLATE)
    entries = [option for each in directories for option in ("--entry", each / "validator-entry.toml")]
    done = wattd("init", "--ceremony", template, *entries, "--out", out)
    assert done.status == 0, done.err
    return out, directories, done.out
