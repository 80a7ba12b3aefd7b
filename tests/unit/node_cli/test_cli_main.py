"""``wattd``: version, help, faults in one line, exit statuses."""

import tomllib
from pathlib import Path

import pytest

from consensus.errors import ConfigError, DecodeError, LocalFault, StorageError
from node.cli import main as cli_main
from node.version import version_number

ROOT = Path(__file__).resolve().parents[3]


def test_version(wattd):
    done = wattd("--version")
    assert done.status == 0
    assert done.out.startswith("wattd 0.1.0 (cext: ")


def test_the_distribution_takes_its_version_from_here():
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "node.version.VERSION"}
    assert version_number() == 100


def test_help_lists_commands(wattd):
    done = wattd("--help")
    assert done.status == 0
    for name in ("init", "run", "rpc", "config"):
        assert f"  {name} " in done.out


@pytest.mark.parametrize("arguments", [["fly"], ["run", "--what"], ["rpc"]])
def test_usage_errors(wattd, arguments):
    done = wattd(*arguments)
    assert done.status == 2
    assert "Error:" in done.err


class Broken:
    def __init__(self, error):
        self.error = error

    def main(self, **_):
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (
            LocalFault("port-in-use", "another process", fix="stop it"),
            70,
            "port-in-use: another process (stop it)",
        ),
        (StorageError("locked", "in use"), 74, "locked: in use"),
        (ConfigError("bad-config", ("a: wrong",)), 78, "bad-config: a: wrong"),
        (DecodeError("bad-hash", "64 hex digits wanted"), 65, "bad-hash: 64 hex digits wanted"),
        (ModuleNotFoundError("", name="pvlib.iotools"), 69, "missing-extra: this command needs the module"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_faults_take_one_line(wattd, monkeypatch, error, status, text):
    monkeypatch.setattr(cli_main, "cli", Broken(error))
    done = wattd()
    assert done.status == status
    assert done.err.startswith(f"wattd: error: {text}")
    assert done.err.count("\n") == 1


def test_every_problem_has_its_line(wattd, monkeypatch):
    monkeypatch.setattr(cli_main, "cli", Broken(ConfigError("bad-config", ("a: x", "b: y"))))
    assert wattd().err == "wattd: error: bad-config: a: x\nwattd: error: bad-config: b: y\n"


def test_bugs_show_a_traceback(wattd, monkeypatch):
    for bug in (ZeroDivisionError("oops"), ModuleNotFoundError("x", name="consensus.nowhere")):
        monkeypatch.setattr(cli_main, "cli", Broken(bug))
        done = wattd()
        assert done.status == 70
        assert "Traceback" in done.err
        assert done.err.splitlines()[-1].startswith("wattd: error: a bug: ")


def test_missing_extra_when_a_command_is_loaded(wattd, monkeypatch, tmp_path):
    (tmp_path / "needy_command.py").write_text("import demandlib_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli_main.COMMANDS, "needy", "needy_command:needy")
    monkeypatch.setitem(cli_main.EXTRA_OF, "demandlib_missing", "sim")
    done = wattd("needy")
    assert done.status == 69
    assert "pip install 'wattd[sim]'" in done.err
    assert "(needs demandlib_missing)" in wattd("--help").out


def test_python_m_node_is_wattd(process, tmp_path):
    assert process("--version", WATTD_PURE="1").out.startswith("wattd 0.1.0 (cext: pure")
    done = process("run", "--datadir", tmp_path / "missing")
    assert done.status == 78
    assert done.err.startswith("wattd: error: no-datadir: ")
    assert done.err.count("\n") == 1
    done = process("rpc", "uptime", WATTD_DATADIR=str(tmp_path))
    assert done.status == 69
    assert done.err.startswith("wattd: error: no-cookie: ")
    assert process("fly").status == 2
