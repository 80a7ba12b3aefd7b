"""The replay: who is killed and when, what is ordered and read, and how a run notices that it is lost."""

import signal
from types import SimpleNamespace

import pytest

from consensus.errors import LocalFault
from contracts.operations import PlaceOrder, SubmitReadings
from contracts.records import SELL
from node.demo.journal import Journal
from node.demo.play import Play, how_it_ended
from node.demo.watch import NodeStatus, SeenBlock
from node.testnet import Founder, plain_line
from tests.unit.node_demo.demokit import METERED, WISHES, make_scenario


class Process:
    def __init__(self, returncode=None):
        self.returncode = returncode


class Net:
    def __init__(self):
        self.nodes = [
            SimpleNamespace(
                founder=Founder(f"node-{at}", "service-provider"), process=Process(), is_running=True
            )
            for at in range(4)
        ]

    async def kill(self, index):
        self.nodes[index].is_running = False

    def start(self, index):
        self.nodes[index].is_running = True


class Watch:
    def __init__(self):
        self.nodes = [NodeStatus(f"node-{at}", True, height=9) for at in range(4)]
        self.leader, self.term, self.height, self.last = 3, 1, 9, None

    @property
    def up(self):
        return [at for at, status in enumerate(self.nodes) if status.is_up]

    def lost(self, index):
        self.nodes[index].is_up = False

    def has_caught_up(self, index):
        return self.nodes[index].is_up


class Courier:
    def __init__(self):
        self.given, self.late = [], []

    def give(self, actor, operation, what, *, value=0, signed=None):
        self.given.append((actor.name, operation, value))

    def complaints(self):
        return self.late


@pytest.fixture
def play():
    scenario = make_scenario()
    actors = [
        SimpleNamespace(name=member.name, wallet=SimpleNamespace(account=member.account))
        for member in scenario.households
    ]
    clock = SimpleNamespace(at_s=0)
    clock.now_s = lambda: clock.at_s
    stage = SimpleNamespace(
        scenario=scenario,
        net=Net(),
        clock=clock,
        watch=Watch(),
        courier=Courier(),
        journal=Journal(),
        households=actors,
        providers=[SimpleNamespace(name=f"provider-{at}") for at in range(3)],
        tag=bytes(32),
    )
    return Play(stage, lambda _: None)


def set_slot(play, at):
    play.stage.clock.at_s = play.scenario.start_s(at)


# ---- orders and readings --------------------------------------------------------------------------


def test_orders_are_placed_when_they_are_due(play):
    play.stage.clock.at_s = play.scenario.order_time_s(0) - 1
    play._place_orders()
    assert play.stage.courier.given == []
    play.stage.clock.at_s += 1
    play._place_orders()
    play._place_orders()
    first = [wish for wish in WISHES if wish[1] == 0]
    assert len(play.stage.courier.given) == len(first)
    for (_, operation, value), (_, _, side, energy_wh, limit) in zip(
        play.stage.courier.given, first, strict=True
    ):
        assert isinstance(operation, PlaceOrder)
        assert (operation.side, operation.energy_wh) == (side, energy_wh)
        # A buyer's collateral is at its limit, a seller's at the grid price.
        price = play.scenario.energy.grid_price_per_kwh if side == SELL else limit
        assert value == energy_wh * price // 1000
    set_slot(play, 1)
    play._place_orders()
    assert len(play.stage.courier.given) == len(WISHES)


def test_readings_wait_for_a_block_after_their_slot(play):
    set_slot(play, 2)
    play._submit_readings()
    assert play.stage.courier.given == []
    end_s = play.scenario.start_s(1)
    play.stage.watch.last = SeenBlock(3, end_s - 1, 1, [])
    play._submit_readings()
    assert play.stage.courier.given == []
    play.stage.watch.last = SeenBlock(4, end_s, 1, [])
    play._submit_readings()
    play._submit_readings()
    batches = [operation for _, operation, _ in play.stage.courier.given]
    assert all(isinstance(batch, SubmitReadings) for batch in batches)
    items = [item for batch in batches for item in batch.items]
    assert sorted(item.import_wh - item.export_wh for item in items) == sorted(METERED[0])
    assert set(play.stage.journal.readings.values()) == set(items)


# ---- faults ---------------------------------------------------------------------------------------


async def test_a_follower_dies_and_comes_back(play):
    set_slot(play, -1)
    await play._faults()
    assert play.outages == []
    set_slot(play, 0)
    await play._faults()
    [outage] = play.outages
    assert (outage.node, outage.was_leader, outage.back_at) == (2, False, 1)
    assert not play.stage.net.nodes[2].is_running
    play._check_health()
    set_slot(play, 1)
    await play._faults()
    assert play.stage.net.nodes[2].is_running
    play._follow_outages()
    assert not outage.caught_up
    play.stage.watch.nodes[2].is_up = True
    play._follow_outages()
    assert outage.caught_up
    assert [event.text.split(",")[0] for event in play.events] == [
        "node-2",
        "node-2 is started again",
        "node-2 has caught up 0 blocks",
    ]


async def test_only_one_node_is_away_at_a_time(play):
    play.stage.watch.nodes[0].is_up = False
    set_slot(play, 1)
    await play._faults()
    assert play.outages == []
    play.stage.watch.nodes[0].is_up = True
    await play._faults()
    # Later than planned, and away for as long as planned.
    assert play.outages[0].back_at == 2


async def test_the_leader_dies_and_is_replaced(play):
    play._kills = [play.scenario.kills[0].__class__(0, 1, leader=True)]
    set_slot(play, 0)
    play.stage.watch.leader = None
    await play._faults()
    assert play.outages == []
    play.stage.watch.leader = 1
    await play._faults()
    [outage] = play.outages
    assert (outage.node, outage.was_leader) == (1, True)
    play._follow_outages()
    assert not outage.replaced
    play.stage.watch.leader, play.stage.watch.term = 0, 2
    play._follow_outages()
    assert outage.replaced
    assert play.events[-1].text.startswith("node-0 leads term 2, after ")


# ---- runs that are lost ---------------------------------------------------------------------------


def test_a_node_that_ends_by_itself_ends_the_run(play):
    node = play.stage.net.nodes[1]
    node.is_running, node.process.returncode = False, -signal.SIGKILL
    with pytest.raises(LocalFault, match="node-1 was ended by SIGKILL"):
        play._check_health()


def test_a_transaction_that_no_block_takes_ends_the_run(play):
    play.stage.courier.late = ["the order of flat-01: gate-closed"]
    with pytest.raises(LocalFault, match="demo-stuck: the order of flat-01: gate-closed"):
        play._check_health()


def test_the_last_words_of_a_node(play, tmp_path):
    node = play.stage.net.nodes[0]
    node.process.returncode = 70
    node.config = SimpleNamespace(datadir=tmp_path)
    assert how_it_ended(node) == "ended with status 70: it printed nothing"
    (tmp_path / "node.log").write_text('started\n{"message": "stopped", "trace": "a\\nValueError: no"}\n')
    assert how_it_ended(node) == "ended with status 70: stopped: ValueError: no"


def test_lines_of_logs():
    assert plain_line("wattd: error: bad-config") == "wattd: error: bad-config"
    assert plain_line('{"message": "stopped"}') == "stopped"
    assert plain_line("[1]") == "[1]"
