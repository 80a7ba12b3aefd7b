"""Organisations of a proof-of-work chain: in the chain file, in its identity, and in the contracts."""

from dataclasses import replace

import pytest

from consensus.chainfile import chain_file_hash, parse_chain_file, render_chain_file
from consensus.errors import ConfigError
from consensus.params import Community, Organisation
from consensus.script.templates import p2pkh
from contracts import devices
from contracts.api import EnergyContracts
from tests.unit.consensus_pow.powkit import make_params

GRID = Organisation("Grid", "grid-operator", p2pkh(b"\x01" * 20))
SUN = Organisation("Sun", "service-provider", p2pkh(b"\x02" * 20))


def chain(*organisations, operator=GRID.account):
    params = make_params(organisations=organisations)
    return replace(params, energy=replace(params.energy, communities=(Community("hill", operator),)))


def problems(params):
    with pytest.raises(ConfigError) as caught:
        parse_chain_file(render_chain_file(params))
    return caught.value.problems


def test_they_are_read_back_and_are_part_of_the_chains_identity():
    params = chain(GRID, SUN)
    assert parse_chain_file(render_chain_file(params)) == params
    assert params.organisations == (GRID, SUN)
    hashes = {chain_file_hash(each) for each in (params, chain(GRID), chain(SUN, GRID))}
    assert len(hashes) == 3
    tags = {devices.chain_tag(each) for each in (params, chain(GRID))}
    assert len(tags) == 2


def test_they_act_in_the_contracts_from_genesis_on():
    state = EnergyContracts(chain(GRID, SUN)).genesis_state()
    assert [key for key in state if key.endswith((GRID.account, SUN.account))]
    assert len(EnergyContracts(make_params()).genesis_state()) == len(state) - 3


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (chain(SUN), "energy.communities[0].grid_operator: not the account of an organisation with the role"),
        (chain(), "energy.communities[0].grid_operator: not the account of an organisation with the role"),
        (
            chain(GRID, replace(SUN, name="Grid")),
            "pow.organisations[1].name: the same as pow.organisations[0].name",
        ),
        (
            chain(GRID, replace(SUN, account=GRID.account)),
            "pow.organisations[1].account: the account of a service-provider and of a grid-operator",
        ),
        (chain(GRID, replace(SUN, role="miner")), "pow.organisations[1].role: "),
        (chain(GRID, replace(SUN, account=b"\x6a")), "pow.organisations[1].account: "),
    ],
)
def test_a_fault_names_the_field(params, problem):
    (found,) = problems(params)
    assert found.startswith(problem)
