"""The stage: its chain, its clock, and what happens if setting it up takes too long."""

import asyncio
from types import SimpleNamespace

import pytest

from consensus.params import COIN
from contracts.operations import Deposit, RegisterDevice, RegisterMember
from node.clock import NANOSECONDS, Clock
from node.demo import stage as module
from node.demo.limits import SETUP_RETRY_FACTOR
from node.demo.scenario import ORDER_LEAD_REAL_S
from node.demo.stage import TooSlow, _check_time, _register, build_stage, clock_for, set_stage
from tests.unit.node_demo.demokit import make_scenario


@pytest.fixture
def scenario():
    return make_scenario()


@pytest.fixture
def stage(tmp_path, scenario):
    return build_stage(tmp_path, scenario, 1, 20.0)


def test_the_first_orders_are_due_after_the_set_up(scenario):
    clock = clock_for(scenario, 20.0)
    chain = Clock(clock.speed, clock.real_origin_s * NANOSECONDS, clock.chain_origin_s)
    # The origin is a whole second, so up to one is lost.
    assert 18.0 < chain.real_delay_s(scenario.order_time_s(0)) <= 20.0
    lead_s = chain.real_delay_s(scenario.start_s(0) - 900) - chain.real_delay_s(scenario.order_time_s(0))
    assert lead_s == pytest.approx(ORDER_LEAD_REAL_S)


def test_the_chain(stage, scenario):
    params = stage.net.params
    assert [validator.role for validator in params.bft.validators] == [
        "grid-operator",
        "service-provider",
        "service-provider",
        "service-provider",
    ]
    assert params.energy.slot_s == 900
    assert params.genesis_time_s <= stage.net.nodes[0].config.clock.chain_origin_s
    given = {}
    for allocation in params.allocations:
        given[allocation.script_pubkey] = given.get(allocation.script_pubkey, 0) + allocation.amount
    assert given == dict(stage.journal.allocated)
    assert all(given[member.script] == module.HOUSEHOLD_TOKENS * COIN for member in scenario.households)
    assert {node.config.clock for node in stage.net.nodes} == {stage.net.nodes[0].config.clock}


def test_the_same_seed_gives_the_same_network(tmp_path, scenario, stage):
    again = build_stage(tmp_path / "again", scenario, 1, 20.0)
    other = build_stage(tmp_path / "other", scenario, 2, 20.0)
    assert again.tag == stage.tag
    assert other.tag != stage.tag


def test_everybody_is_registered_in_an_order_that_works(stage, scenario):
    _register(stage)
    operations = [task.operation for task in stage.operator.tasks]
    assert isinstance(operations[0], Deposit)
    assert [type(each) for each in operations[1:3]] == [RegisterMember, RegisterDevice]
    assert len(operations) == 1 + 2 * len(scenario.households)
    for actor in stage.households:
        assert [type(task.operation) for task in actor.tasks] == [Deposit]


# ---- too slow -------------------------------------------------------------------------------------


def test_set_up_may_use_half_of_the_orders_lead(stage):
    late = [0.0]
    stage.clock = SimpleNamespace(real_delay_s=lambda _: -late[0])
    _check_time(stage)
    late[0] = ORDER_LEAD_REAL_S / 2 + 0.1
    with pytest.raises(TooSlow, match="set-up is not done 3 s after"):
        _check_time(stage)
    _register(stage)
    with pytest.raises(TooSlow, match="the operator's deposit: not sent"):
        _check_time(stage)


class Tries:
    """Stands for stages that are set up one after the other."""

    def __init__(self, monkeypatch, *faults):
        self.faults = list(faults)
        self.budgets, self.stopped, self.roots = [], [], []
        monkeypatch.setattr(module, "build_stage", self.build)
        monkeypatch.setattr(module, "open_market", self.open)

    def build(self, root, scenario, seed, real_s):
        self.budgets.append(real_s)
        self.roots.append(root)
        number = len(self.budgets)

        async def stop():
            self.stopped.append(number)

        return SimpleNamespace(net=SimpleNamespace(stop=stop), number=number)

    async def open(self, stage, progress):
        fault = self.faults.pop(0)
        if fault is not None:
            raise fault


async def play(stage):
    return None


SLOW = TooSlow("demo-setup", "slow")


async def test_a_slow_set_up_is_tried_once_more_with_more_time(tmp_path, scenario, monkeypatch):
    tries, said = Tries(monkeypatch, SLOW, None), []
    stage = await set_stage(tmp_path, scenario, 1, said.append, play)
    assert (stage.number, tries.stopped) == (2, [1])
    assert tries.budgets[1] == tries.budgets[0] * SETUP_RETRY_FACTOR
    assert tries.roots[0] != tries.roots[1]
    assert "trying again" in said[0]


async def test_twice_too_slow_is_an_error(tmp_path, scenario, monkeypatch):
    tries = Tries(monkeypatch, SLOW, SLOW)
    with pytest.raises(TooSlow):
        await set_stage(tmp_path, scenario, 1, lambda _: None, play)
    assert tries.stopped == [1, 2]


@pytest.mark.parametrize("fault", [RuntimeError("a bug"), asyncio.CancelledError()])
async def test_whatever_goes_wrong_stops_the_nodes(tmp_path, scenario, monkeypatch, fault):
    tries = Tries(monkeypatch, fault)
    with pytest.raises(type(fault)):
        await set_stage(tmp_path, scenario, 1, lambda _: None, play)
    assert tries.stopped == [1]
