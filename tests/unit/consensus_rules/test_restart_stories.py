"""A restart by the chain's rules: the set that goes on, what it writes, and what does not get past it."""

from dataclasses import replace

import pytest

from consensus import rounds
from consensus.bft import statements
from consensus.bft.certificates import bitmap_of
from consensus.bft.config import Electorate, VoterSet
from consensus.bft.shown import Vote
from consensus.bft.types import QC, Kind
from consensus.commitment import find_commitment
from consensus.errors import RuleError
from consensus.keys import sign_schnorr
from consensus.restart import Restart, draft, sign
from consensus.validators import sign_entry
from contracts.api import EnergyContracts
from contracts.governance.committee import committee

EPOCH_S = 1_000


def vote_secret(index):
    return bytes([17 + index]) * 32  # as conftest makes them


@pytest.fixture
def chain(tools):
    """Seven founders in round 0, at height 3."""
    params = tools.make_params(validators=7)
    start = params.genesis_time_s - params.genesis_time_s % EPOCH_S
    bft = replace(params.bft, round_s=EPOCH_S, substitution_s=EPOCH_S)
    params = replace(params, genesis_time_s=start, bft=bft)
    world = tools.World(params=params, contracts=EnergyContracts(params))
    world.start = start
    for _ in range(3):
        world.extend(term=5)
    return world


def restart_of(world, members=(1, 3, 5), dismissed=(0, 2, 4, 6), signed=True, kind=Kind.COMMIT, **changes):
    found, tip = world.round, world.tip
    electorate = Electorate(
        world.env.chain_id, VoterSet.of(found.validator_set), found.base(world.genesis.hash)
    )
    vote = Vote.COMMIT if kind is Kind.COMMIT else Vote.VALIDATED
    said = statements.block_vote(electorate, vote, 6, tip.height, tip.block_hash)
    sigs = tuple(sign_schnorr(vote_secret(at), said) for at in range(5))
    founders = world.params.bft.validators
    made = Restart(
        chain_id=world.env.chain_id,
        round=found.number + 1,
        height=tip.height,
        block_hash=tip.block_hash,
        certificate=QC(kind, found.number, 6, tip.height, tip.block_hash, bitmap_of(range(5), 7), sigs),
        members=tuple(founders[at] for at in members),
        dismissed=tuple(sorted(founders[at].payout_script for at in dismissed)),
        reason="fire",
        signatures=(),
    )
    made = draft(replace(made, **changes))
    for at in members if signed else ():
        made = sign(made, vote_secret(at))
    return made


def give(world, restart):
    world.env = replace(world.env, restarts={restart.block_hash: restart})


@pytest.mark.parametrize("kind", [Kind.COMMIT, Kind.PREPARE])
def test_the_new_set_goes_on_and_the_lost_are_no_organisations(chain, kind):
    old = chain.round
    made = restart_of(chain, kind=kind)
    before = dict(chain.state.data)
    give(chain, made)
    new = chain.round
    assert (new.number, new.epoch, new.first_height, new.base_term) == (1, 0, 4, 5)
    assert [member.name for member in new.members] == ["node 1", "node 3", "node 5"]
    assert chain.state.data == before
    connected = chain.extend(term=6, proposer=2)
    assert chain.round == new
    assert (
        find_commitment(chain.block(term=6).txs[0]).set_hash
        == new.validator_set.set_hash
        != old.validator_set.set_hash
    )
    assert rounds.set_record(chain.state, chain.params, chain.env.chain_id, 1).first_height == 4
    assert chain.state.get(rounds.BASE) == made.block_hash
    assert {entry.name for entry in committee(chain.state, chain.params)} == {"node 1", "node 3", "node 5"}
    for key, value in connected.state_undo.items():
        assert before.get(key) == value
    chain.env = replace(chain.env, restarts={})
    chain.extend(term=6)  # from here on the state knows


def test_without_the_file_neither_side_takes_the_blocks_of_the_other(chain):
    made = restart_of(chain)
    theirs = chain.block(term=6)
    bare, given = chain.env, replace(chain.env, restarts={made.block_hash: made})
    chain.env = given
    ours = chain.block(term=6)
    assert chain.refusal(theirs) == "bad-set-hash"
    chain.env = bare
    assert chain.refusal(ours) == "bad-set-hash"
    chain.env = given
    chain.apply(chain.connect(ours))


def test_a_restart_touches_no_other_block(chain):
    made = restart_of(chain)
    chain.extend(term=6)
    give(chain, made)
    assert chain.round.number == 0
    chain.extend(term=6)


def test_an_election_after_a_long_standstill_does_not_bring_the_lost_back(chain):
    give(chain, restart_of(chain))
    later = chain.tip.time_s + 5 * EPOCH_S
    chain.extend(time_s=later, term=6)
    assert (chain.round.number, chain.round.epoch) == (2, 1)
    assert {member.name for member in chain.round.members} == {"node 1", "node 3", "node 5"}


def test_whoever_is_kept_may_be_elected_again(chain):
    give(chain, restart_of(chain, dismissed=(0, 2, 4)))
    chain.extend(time_s=chain.tip.time_s + EPOCH_S, term=6)
    names = {member.name for member in chain.round.members}
    assert names == {"node 1", "node 3", "node 5", "node 6"}


def test_a_set_that_never_began_is_replaced_at_its_boundary(chain):
    chain.extend(time_s=chain.tip.time_s + EPOCH_S, term=6)
    elected, tip = chain.round, chain.tip
    assert (elected.number, elected.first_height) == (1, tip.height + 1)
    made = restart_of(chain, certificate=elected.base(tip.block_hash))
    give(chain, made)
    assert (chain.round.number, chain.round.first_height) == (2, tip.height + 1)
    chain.extend(term=7)
    assert [number for number, _ in rounds.set_records(chain.state)] == [1, 2]
    assert {m.name for m in chain.round.members} == {"node 1", "node 3", "node 5"}


def test_a_second_restart_follows_the_first(chain):
    first = restart_of(chain)
    give(chain, first)
    chain.extend(term=6)
    found, tip = chain.round, chain.tip
    voters = VoterSet.of(found.validator_set)
    electorate = Electorate(chain.env.chain_id, voters, found.base(first.block_hash))
    said = statements.block_vote(electorate, Vote.COMMIT, 7, tip.height, tip.block_hash)
    sigs = tuple(sign_schnorr(vote_secret(at), said) for at in (1, 3, 5))
    founders = chain.params.bft.validators
    second = draft(
        replace(
            first,
            round=2,
            height=tip.height,
            block_hash=tip.block_hash,
            certificate=QC(Kind.COMMIT, 1, 7, tip.height, tip.block_hash, bitmap_of(range(3), 3), sigs),
            members=(founders[3],),
            dismissed=(founders[5].payout_script,),
            signatures=(),
        )
    )
    both = {first.block_hash: first, second.block_hash: sign(second, vote_secret(3))}
    chain.env = replace(chain.env, restarts=both)
    assert [member.name for member in chain.round.members] == ["node 3"]
    chain.extend(term=8, proposer=0)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("restart-unsigned", {"signed": False}),
        ("restart-too-few", {"members": (1, 3), "dismissed": (0,)}),
        ("restart-wrong-round", {"round": 2}),
        ("restart-wrong-chain", {"chain_id": bytes(32)}),
        ("restart-bad-certificate", {"height": 4}),
    ],
)
def test_what_does_not_hold_stops_the_chain(chain, code, changes):
    made = restart_of(chain, **changes)
    theirs = chain.block(term=6)
    give(chain, made)
    with pytest.raises(RuleError) as caught:
        chain.round  # noqa: B018
    assert caught.value.code == code
    assert chain.refusal(theirs) == code


def test_a_stranger_in_the_set_stops_the_chain(chain):
    secret = b"\x63" * 32
    stranger = sign_entry(
        secret, secret, chain_name="toy", name="stranger", role="service-provider", payout_script=b"\x51"
    )
    members = (*(chain.params.bft.validators[at] for at in (1, 3, 5)), stranger)
    made = draft(restart_of(chain, signed=False, members=(1, 3, 5)))
    made = draft(replace(made, members=members, signatures=()))
    for each in (vote_secret(1), vote_secret(3), vote_secret(5), secret):
        made = sign(made, each)
    give(chain, made)
    with pytest.raises(RuleError, match="restart-unknown-member"):
        chain.round  # noqa: B018
