"""The command: its options, its ends, and what it leaves behind."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from consensus.errors import ConfigError, LocalFault
from node.cli.main import run_command
from node.demo import run as module
from node.demo.command import DEFAULT_SEED
from node.demo.run import Options, make_root, run_demo, until_signal


@pytest.fixture
def temp(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def options(**changes):
    values = {
        "seed": 1,
        "days": 1,
        "slots": 8,
        "households": 2,
        "speed": 900,
        "keep": False,
        "datadir": None,
        "as_json": False,
    }
    return Options(**{**values, **changes})


def replace_run(monkeypatch, result):
    """Let a run end with a status, or with an exception, without a node."""

    async def ends(*arguments):
        (arguments[2] / "network-1").mkdir()
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(module, "plan", lambda **_: None)
    monkeypatch.setattr(module, "_run", ends)


def test_options_reach_the_run(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "run_demo", lambda given: seen.append(given) or 0)
    assert run_command(["demo"]) == 0
    assert (
        run_command(
            [
                "demo",
                "--seed",
                "7",
                "--households",
                "4",
                "--slots",
                "12",
                "--speed",
                "1800",
                "--json",
                "--keep",
            ]
        )
        == 0
    )
    assert run_command(["demo", "--days", "2", "--datadir", "/x"]) == 0
    assert seen == [
        options(seed=DEFAULT_SEED, slots=None, households=12),
        options(seed=7, slots=12, households=4, speed=1800, as_json=True, keep=True),
        options(seed=DEFAULT_SEED, slots=None, households=12, days=2, datadir=Path("/x")),
    ]


@pytest.mark.parametrize(
    "wrong", [["--households", "1"], ["--days", "0"], ["--slots", "97"], ["--speed", "0"], ["--nodes", "9"]]
)
def test_wrong_options(wrong, capsys):
    assert run_command(["demo", *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["pvlib", "demandlib", "pandas"])
def test_a_missing_extra_is_one_clear_line(missing, monkeypatch, capsys, temp):
    from node.demo.profiles import year_shares

    year_shares.cache_clear()
    monkeypatch.setitem(sys.modules, missing, None)
    for name in [name for name in sys.modules if name.startswith(f"{missing}.")]:
        monkeypatch.delitem(sys.modules, name)
    assert run_command(["demo"]) == 69
    [line] = capsys.readouterr().err.splitlines()
    assert "pip install 'wattd[sim]'" in line
    assert not list(temp.iterdir())


# ---- directories ----------------------------------------------------------------------------------


def test_a_directory_must_be_new_or_empty(tmp_path):
    assert make_root(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"
    assert make_root(tmp_path / "new" / "deep").is_dir()
    with pytest.raises(ConfigError, match="datadir-not-empty"):
        make_root(tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="bad-datadir"):
        make_root(tmp_path / "file")


def test_a_good_run_leaves_nothing(monkeypatch, temp):
    replace_run(monkeypatch, 0)
    assert run_demo(options()) == 0
    assert not list(temp.iterdir())


def test_kept_nodes_keep_their_data(monkeypatch, temp):
    replace_run(monkeypatch, 0)
    assert run_demo(options(keep=True)) == 0
    assert len(list(temp.iterdir())) == 1


def test_a_directory_that_was_given_stays(monkeypatch, tmp_path):
    replace_run(monkeypatch, 0)
    assert run_demo(options(datadir=tmp_path / "mine")) == 0
    assert (tmp_path / "mine" / "network-1").is_dir()


def test_a_failed_run_tells_where_its_logs_are(monkeypatch, temp, capsys):
    replace_run(monkeypatch, 1)
    assert run_demo(options()) == 1
    [left] = temp.iterdir()
    assert str(left) in capsys.readouterr().err


def test_a_broken_run_still_prints_a_document(monkeypatch, temp, capsys):
    replace_run(monkeypatch, LocalFault("demo-stuck", "no block"))
    with pytest.raises(LocalFault, match="demo-stuck"):
        run_demo(options(as_json=True))
    output = capsys.readouterr()
    document = json.loads(output.out)
    assert (document["ok"], document["error"]) == (False, "demo-stuck: no block")
    assert str(next(temp.iterdir())) in output.err


# ---- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_after_its_clean_up(number, capsys):
    cleaned = []

    async def work():
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.01)
            cleaned.append(True)
        return 0

    assert asyncio.run(until_signal(work())) == 128 + number
    assert cleaned == [True]
    assert signal.Signals(number).name in capsys.readouterr().err


def test_a_signal_leaves_no_data(monkeypatch, temp):
    replace_run(monkeypatch, 130)
    assert run_demo(options()) == 130
    assert run_demo(options(keep=True)) == 130
    assert not list(temp.iterdir())
