"""What people and programs get to see."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from node.demo.checks import run_checks
from node.demo.play import Event, Markets
from node.demo.report import Outcome, as_json, print_report, sources
from node.demo.view import LineView, LiveView, picture, progress_line, sparkline
from node.demo.watch import NodeStatus
from node.testnet import Founder
from tests.unit.node_demo.demokit import World


def outcome_of(world):
    return Outcome(
        scenario=world.scenario,
        seed=1,
        book=world.book,
        evidences=world.evidences,
        checks=run_checks(world.book, world.evidences),
        events=[Event("12:00", "node-1, a follower, is killed at height 3")],
        transactions=11,
        resent=2,
        elapsed_s=12.34,
    )


def console_of(width=100):
    return Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)


def test_the_document():
    world = World()
    document = json.loads(json.dumps(as_json(outcome_of(world))))
    assert list(document) == ["ok", "checks", "households", "chain"]
    assert document["ok"] is True
    assert all(set(check) == {"ok", "detail"} for check in document["checks"].values())
    totals = world.book.totals(world.bad)
    for household, member in zip(document["households"], world.scenario.households, strict=True):
        sums = totals[member.script]
        assert household["name"] == member.name
        assert (household["paid"], household["received"]) == (sums.paid, sums.received)
        assert household["saved"] == sums.saved
        assert household["bought_wh"] == sums.bought_wh
    assert sum(each["bought_wh"] for each in document["households"]) == 700
    assert document["chain"]["height"] == 99
    assert document["chain"]["nodes"] == ["node-0", "node-1"]


def test_a_failed_check_fails_the_run():
    world = World()
    world.bad.block_hash = "00" * 32
    outcome = outcome_of(world)
    assert not outcome.ok
    assert as_json(outcome)["ok"] is False
    console = console_of()
    print_report(console, outcome)
    assert "FAILED same_tip: node-1 has block 0000" in console.file.getvalue()


@pytest.mark.parametrize("width", [80, 140])
def test_the_table(width):
    world = World()
    console = console_of(width)
    print_report(console, outcome_of(world))
    text = console.file.getvalue()
    for member in world.scenario.households:
        assert member.name in text
    [row] = [line for line in text.splitlines() if line.split()[:1] == ["all"]]
    assert row.split()[1:3] == ["0.70", "0.70"]
    assert "…" not in text
    assert text.count("ok ") == len(run_checks(world.book, world.evidences))


def test_the_sources_are_named():
    text = sources(World().scenario)
    for part in ("15 July 1981", "Greensboro", "data/723170TYA.CSV", "pvlib", "demandlib", "H25"):
        assert part in text


# ---- while it runs --------------------------------------------------------------------------------


def make_play(slot=1):
    scenario = World(1).scenario
    nodes = [NodeStatus(f"node-{at}", True, "follower", 2, 0, 42, 3, 1) for at in range(4)]
    watch = SimpleNamespace(
        nodes=nodes,
        leader=0,
        term=2,
        height=42,
        up=[0, 1, 2],
        rate=14.6,
        transactions=99,
        has_caught_up=lambda index: index != 1,
    )
    net = SimpleNamespace(
        nodes=[
            SimpleNamespace(founder=Founder(f"node-{at}", "service-provider"), is_running=at != 3)
            for at in range(4)
        ]
    )
    nodes[3].is_up = False
    return SimpleNamespace(
        scenario=scenario,
        stage=SimpleNamespace(watch=watch, net=net, courier=SimpleNamespace(waiting=5)),
        markets=Markets({0: 12_000_000, 1: None}, {0: 700, 1: 0}),
        events=[Event("12:00", "node-3, a follower, is killed at height 40")],
        phase="trading",
        slot=slot,
    )


def test_a_line_of_progress():
    assert progress_line(make_play(0)) == (
        "12:00 slot 0/2  0.120/kWh  0.70 kWh  height 42  term 2  leader node-0  3/4 nodes  15 tx/s"
    )
    assert "no trade  0.00 kWh" in progress_line(make_play(1))
    assert progress_line(make_play(-5)).startswith("12:00 slot 0/2")


def test_lines_are_few(capsys):
    view = LineView()
    play = make_play(0)
    with view:
        view.say("four nodes are ready")
        for _ in range(3):
            view.show(play)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["four nodes are ready", "12:00 node-3, a follower, is killed at height 40"]
    assert len(lines) == 3


@pytest.mark.parametrize("slot", [-3, 1, 2])
def test_the_picture(slot):
    console = console_of()
    console.print(picture(make_play(slot), "the title", 100))
    text = console.file.getvalue()
    for part in ("the title", "trading", "leader node-0", "term 2", "height 42", "tx/s 15", "is killed"):
        assert part in text
    assert "0.7 kWh traded so far" in text
    states = {line.split()[0]: line.split()[3:] for line in text.splitlines() if line.startswith("node-")}
    assert states["node-0"] == ["leader", "42", "2", "3", "1"]
    assert states["node-1"][:2] == ["catching", "up"]
    assert states["node-2"][0] == "follower"
    assert states["node-3"] == ["killed"]


def test_the_live_view_draws():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with LiveView(console, World(1).scenario, 1) as view:
        view.say("four nodes are ready")
        view.show(make_play())
    assert "trading" in console.file.getvalue()


def test_sparklines():
    assert sparkline([0, 1, 4, 8, None], 10) == " ▁▄█ "
    assert sparkline([1, 2, 3], 2) == "▆█"
    assert sparkline([None, 0], 10) == "  "
    assert sparkline([1], 0) == ""
