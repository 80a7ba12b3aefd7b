"""Rounds by the chain's rules: elections, substitution, reveals and evidence, block by block."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import dpos, duties, rounds
from consensus.bft import slots, statements
from consensus.bft.config import Electorate, VoterSet, genesis_base
from consensus.bft.evidence import decode_evidence, encode_evidence, evidence_of
from consensus.bft.shown import Signed, Vote
from consensus.commitment import find_commitment
from consensus.dpos import Ballot, Candidate, RoundBlock
from consensus.errors import RuleError
from consensus.hashes import sha256
from consensus.keys import sign_schnorr
from consensus.offences import acceptable_evidence, evidence_script
from consensus.transaction import TxOut

EPOCH_S, SUB_S = 1_000, 100


def vote_secret(index):
    return bytes([17 + index]) * 32  # as conftest makes them


@pytest.fixture
def electing(tools):
    class Electing(tools.ToyContracts):
        def __init__(self):
            super().__init__()
            self.standing = ()

        def candidates(self, state, time_s):
            return [
                Candidate(entry, Ballot(entry.payout_script, 1, ()))
                for entry in sorted(self.standing, key=lambda entry: entry.payout_script)
            ]

    return Electing


@pytest.fixture
def chain(tools, electing):
    """Six founders of whom an epoch elects four delegates; the founding round has all six."""
    params = tools.make_params(validators=6)
    start = params.genesis_time_s - params.genesis_time_s % EPOCH_S
    bft = replace(params.bft, round_s=EPOCH_S, substitution_s=SUB_S, delegates=4)
    contracts = electing()
    contracts.standing = params.bft.validators
    world = tools.World(params=replace(params, genesis_time_s=start, bft=bft), contracts=contracts)
    world.start = start
    return world


def full(world):
    return ((1 << world.signers.n) - 1).to_bytes(1, "little")


def grow(world, at_s, **given):
    """Extend by a block at ``at_s`` seconds after genesis that everybody signed, unless told otherwise."""
    fields = {"proposer": 0, "last_bitmap": full(world), "term": max(1, world.tip.term)} | given
    world.extend(time_s=world.start + at_s, **fields)
    return world.round


def seat(world, name):
    return [member.name for member in world.round.members].index(name)


# ---- epochs --------------------------------------------------------------------------------------------


def test_an_epoch_ends_with_the_first_block_at_its_multiple(chain):
    grow(chain, 10)
    founders = chain.round
    assert (founders.number, founders.epoch, len(founders.members)) == (0, 0, 6)
    block = chain.block(time_s=chain.start + EPOCH_S, proposer=0)
    following = grow(chain, EPOCH_S)
    assert (following.number, following.epoch, following.first_height) == (1, 1, 3)
    assert find_commitment(block.txs[0]).next_set_hash == following.validator_set.set_hash
    assert len(following.members) == 4
    assert len(following.alternates) == 2
    assert {m.name for m in following.members + following.alternates} == {m.name for m in founders.members}
    assert following.seed == dpos.next_seed(founders.seed, bytes(32))
    boundary = chain.tip.block_hash
    grow(chain, EPOCH_S + 1, term=2)
    assert chain.round == following
    assert chain.state.get(rounds.BASE) == boundary
    assert rounds.set_record(chain.state, chain.params, chain.env.chain_id, 1).keys == tuple(
        member.vote_key for member in following.members
    )


def test_a_boundary_has_to_name_the_next_set(chain, tools):
    boundary = chain.block(time_s=chain.start + EPOCH_S)
    for wrong in (None, bytes(32)):
        assert chain.refusal(tools.rebuild(boundary, commitment={"next_set_hash": wrong})) == (
            "bad-next-set-hash"
        )


def test_the_old_set_signs_nothing_after_its_boundary(chain, tools):
    old = chain.signers
    grow(chain, EPOCH_S)
    block = chain.block(time_s=chain.start + EPOCH_S + 1)
    assert chain.refusal(tools.rebuild(block, commitment={"set_hash": old.set_hash})) == "bad-set-hash"
    assert chain.refusal(tools.rebuild(block, commitment={"proposer": 5})) == "bad-proposer"


def test_the_boundary_itself_decides_nothing_of_the_next_set(chain):
    """Two proposers of the boundary, in other terms and with other transactions, commit to one order."""
    here = chain.block(time_s=chain.start + EPOCH_S, proposer=0, term=1)
    there = chain.block(
        [chain.pay(chain.purses[0], [])], time_s=chain.start + EPOCH_S + 7, proposer=4, term=9
    )
    hashes = {find_commitment(block.txs[0]).next_set_hash for block in (here, there)}
    assert len(hashes) == 1


@pytest.mark.parametrize("standing", [0, 3])
def test_too_few_candidates_leave_the_members_in_office(chain, standing):
    chain.contracts.standing = chain.params.bft.validators[:standing]
    members = chain.round.members
    following = grow(chain, EPOCH_S)
    assert (following.number, following.members, following.alternates) == (1, members, ())


def test_a_whole_missed_epoch_is_one_change(chain):
    assert grow(chain, 7 * EPOCH_S + 3).number == 1
    assert grow(chain, 7 * EPOCH_S + 4).number == 1
    assert grow(chain, 8 * EPOCH_S).number == 2


# ---- duties and substitution ---------------------------------------------------------------------------

BLOCKS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 31)), min_size=1, max_size=40
)


@settings(max_examples=200, deadline=None)
@given(BLOCKS, st.binary(min_size=32, max_size=32))
def test_counting_block_by_block_gives_what_all_blocks_give(steps, seed):
    term, blocks = 5, []
    for ahead, proposer, bits in steps:
        term += ahead
        blocks.append(RoundBlock(term, proposer, bytes([bits])))
    now = duties.begin(5, blocks[0].term, blocks[0].proposer)
    for count, block in enumerate(blocks):
        if count:
            now = duties.follow(now, seed, *block)
        assert duties.counters(now) == dpos.duties(5, seed, blocks[: count + 1])
    assert duties.decode(duties.encode(now)) == now


def second_epoch(chain):
    grow(chain, EPOCH_S)
    grow(chain, EPOCH_S + 1, term=2)
    return chain.round


def without(chain, place):
    return bytes([0b1111 & ~(1 << place)])


def test_an_absent_delegate_is_replaced_at_the_next_substitution_point(chain):
    before = second_epoch(chain)
    absent = before.members[3]
    grow(chain, EPOCH_S + 2, term=2, proposer=0, last_bitmap=without(chain, 3))
    for at in (3, 4):  # the first bitmap of a tenure says nothing
        grow(chain, EPOCH_S + at, term=3, proposer=1, last_bitmap=without(chain, 3))
    assert chain.round == before  # it counts as failed, and stays until the next point
    after = grow(chain, EPOCH_S + SUB_S, term=3, proposer=1, last_bitmap=without(chain, 3))
    assert (after.number, after.epoch, after.seed) == (before.number + 1, before.epoch, before.seed)
    assert after.slot_seed != before.slot_seed
    names = {member.name for member in after.members}
    assert absent.name not in names
    assert len(names) == 4
    assert len(after.alternates) == 1
    assert names <= {member.name for member in before.members + before.alternates}
    assert len(grow(chain, 2 * EPOCH_S, term=4).members) == 4  # and the next epoch elects from all again
    everybody = {member.name for member in chain.round.members + chain.round.alternates}
    assert absent.name in everybody


def test_one_leader_alone_frames_nobody(chain):
    before = second_epoch(chain)
    for at in range(2, 50):
        grow(chain, EPOCH_S + at, term=2 + at // 2, proposer=0, last_bitmap=without(chain, 3))
    assert (
        grow(chain, EPOCH_S + SUB_S, term=60, proposer=0) == before
        or chain.round.members[3] == (before.members[3])
    )
    assert before.members[3] in chain.round.members


def test_one_leader_frames_nobody_through_the_next_one_either(chain):
    """Who takes over repeats in its first block what the certificates of the leader before say."""
    before = second_epoch(chain)
    for at in (2, 3):
        grow(chain, EPOCH_S + at, term=2, proposer=0, last_bitmap=without(chain, 3))
    grow(chain, EPOCH_S + SUB_S - 1, term=3, proposer=1, last_bitmap=without(chain, 3))
    assert grow(chain, EPOCH_S + SUB_S, term=3, proposer=1) == before


def test_a_delegate_that_never_leads_when_it_is_its_turn_is_replaced(chain):
    before = second_epoch(chain)
    term = 2
    for at in range(2, 20):
        term += 1
        turn = slots.order(before.slot_seed, term, 4)[0]
        if turn != 3:  # in its terms somebody else leads one later
            grow(chain, EPOCH_S + at, term=term, proposer=turn)
    after = grow(chain, EPOCH_S + SUB_S, term=term + 1, proposer=0)
    assert after.number == before.number + 1
    assert set(before.members) - set(after.members) == {before.members[3]}


def test_an_outage_of_all_costs_nobody_its_place(chain):
    before = second_epoch(chain)
    grow(chain, EPOCH_S + SUB_S - 1, term=40, proposer=0)
    assert grow(chain, EPOCH_S + SUB_S, term=40, proposer=0) == before


def test_without_alternates_the_absent_stay(chain):
    chain.contracts.standing = chain.params.bft.validators[:4]
    before = second_epoch(chain)
    for at, leader in ((2, 0), (3, 1), (4, 2)):
        for _ in range(2):
            grow(chain, EPOCH_S + at, term=at, proposer=leader, last_bitmap=without(chain, 3))
    assert grow(chain, EPOCH_S + SUB_S, term=4, proposer=2) == before


# ---- reveals -------------------------------------------------------------------------------------------


def register(chain, place, *, left=3, epoch=0):
    """Give a member a reveal chain; return its secrets, the next to be revealed last."""
    links = [sha256(b"secret %d" % place)]
    for _ in range(left):
        links.append(sha256(links[-1]))
    record = rounds.RevealChain(links.pop(), left, 0, epoch)
    account = chain.round.members[place].payout_script
    chain.state.data[rounds.REVEAL + account] = rounds.encode_reveal_chain(record)
    return links


def test_the_first_block_of_a_term_reveals(chain, tools):
    links = register(chain, 0)
    with pytest.raises(RuleError) as caught:
        chain.assemble([], proposer=0)
    assert caught.value.code == "bad-reveal"
    block = chain.block(proposer=0, reveal=links[-1])
    assert chain.refusal(tools.rebuild(block, commitment={"reveal": bytes(32)})) == "bad-reveal"
    assert chain.refusal(tools.rebuild(block, commitment={"reveal": None})) == "bad-reveal"
    grow(chain, 1, reveal=links.pop())
    grow(chain, 2)  # the second block of the term has nothing to reveal
    with pytest.raises(RuleError) as caught:
        chain.assemble([], proposer=0, reveal=links[-1])
    assert caught.value.code == "bad-reveal"
    grow(chain, 3, term=2, reveal=links.pop())
    grow(chain, 4, term=3, reveal=links.pop())
    assert links == []
    grow(chain, 5, term=4)  # used up: nothing is due


def test_a_chain_of_the_next_epoch_is_not_due_yet(chain):
    register(chain, 0, epoch=1)
    grow(chain, 1)


def test_what_was_revealed_makes_the_next_seed(chain):
    first = register(chain, 0)[-1]
    second = register(chain, 1)[-1]
    seed = chain.round.seed
    grow(chain, 1, proposer=0, term=1, reveal=first)
    grow(chain, 2, proposer=1, term=2, reveal=second)
    last = register(chain, 2)[-1]
    following = grow(chain, EPOCH_S, proposer=2, term=3, reveal=last)
    mix = dpos.fold_reveals([first, second])
    assert following.seed == dpos.next_seed(seed, mix)
    assert chain.state.get(rounds.MIX) == dpos.fold_reveals([last])  # the boundary's own counts for the next


# ---- evidence ------------------------------------------------------------------------------------------


def double_vote(chain, offender, *, found=None, secret=None):
    found = found or chain.round
    place = [member.name for member in found.members].index(f"node {offender}")
    voters = VoterSet.of(found.validator_set)
    electorate = Electorate(chain.env.chain_id, voters, genesis_base(chain.env.chain_id))
    pair = []
    for block_hash in (bytes([1]) * 32, bytes([2]) * 32):
        digest = statements.block_vote(electorate, Vote.VALIDATED, 7, 9, block_hash)
        sig = sign_schnorr(secret or vote_secret(offender), digest)
        pair.append(Signed(Vote.VALIDATED, 7, 9, block_hash, sig))
    return encode_evidence(found.number, evidence_of(place, *pair))


def test_evidence_bars_its_offender_from_the_next_election_on(chain):
    proof = double_vote(chain, 2)
    grow(chain, 1, evidence=[proof])
    account = chain.params.bft.validators[2].payout_script
    assert rounds.offences(chain.state) == {account: 9}
    for epoch in range(1, 9):
        following = grow(chain, epoch * EPOCH_S, term=epoch)
        names = {member.name for member in following.members + following.alternates}
        assert "node 2" not in names, epoch
    following = grow(chain, 9 * EPOCH_S, term=9)
    assert "node 2" in {member.name for member in following.members + following.alternates}
    assert rounds.offences(chain.state) == {}


def test_an_offending_delegate_is_replaced_within_its_epoch(chain):
    before = second_epoch(chain)
    offender = int(before.members[1].name.split()[1])
    grow(chain, EPOCH_S + 2, term=2, evidence=[double_vote(chain, offender)])
    after = grow(chain, EPOCH_S + SUB_S, term=2)
    assert before.members[1] not in after.members
    assert len(after.members) == 4


def test_evidence_counts_once(chain):
    proof = double_vote(chain, 2)
    grow(chain, 1, evidence=[proof])
    with pytest.raises(RuleError) as caught:
        chain.assemble([], evidence=[proof])
    assert caught.value.code == "bad-evidence-known"


def test_evidence_of_a_former_round_counts_for_two_epochs(chain):
    founders = chain.round
    for epoch in (1, 2):
        grow(chain, epoch * EPOCH_S, term=epoch)
    late = double_vote(chain, 1, found=founders)
    chain.assemble([], time_s=chain.start + 2 * EPOCH_S, term=2, evidence=[late])
    grow(chain, 3 * EPOCH_S, term=3)
    with pytest.raises(RuleError) as caught:
        chain.assemble([], time_s=chain.start + 3 * EPOCH_S, term=3, evidence=[late])
    assert caught.value.code == "bad-evidence-round"


class Counting:
    """A state that tells which of its records were looked at."""

    def __init__(self, state):
        self.state, self.read = state, []

    def get(self, key):
        self.read.append(key)
        return self.state.get(key)


def offered(chain, items, state=None):
    known = [decode_evidence(item) for item in items]
    state = chain.state if state is None else state
    return acceptable_evidence(known, state, chain.round, chain.params, chain.env.chain_id)


def test_a_leader_offers_what_is_neither_too_old_nor_on_the_chain(chain, tools):
    founders = chain.round
    ancient = [double_vote(chain, index) for index in range(6)]
    for epoch in (1, 2, 3):
        grow(chain, epoch * EPOCH_S, term=epoch)
    members = [int(member.name.split()[1]) for member in chain.round.members]
    forged, *fresh = [
        double_vote(chain, at, secret=vote_secret(9) if at == members[0] else None) for at in members
    ]
    again = double_vote(chain, members[1])
    alien = double_vote(chain, members[0], found=replace(chain.round, number=4))
    assert offered(chain, [*ancient, forged, alien, *fresh, again]) == tuple(
        sorted(fresh, key=lambda item: decode_evidence(item)[1].offender)
    )
    grow(chain, 3 * EPOCH_S + 1, term=4, evidence=[fresh[0]])
    assert fresh[0] not in offered(chain, fresh)
    assert len(offered(chain, [double_vote(chain, at) for at in members])) == 3
    assert offered(chain, [double_vote(chain, at, found=founders) for at in range(6)]) == ()


def test_old_evidence_costs_a_leader_next_to_nothing(chain, monkeypatch):
    for epoch in range(1, 9):
        grow(chain, epoch * EPOCH_S, term=epoch)
    now = chain.round
    old = [double_vote(chain, 1, found=replace(now, number=number)) for number in range(now.number - 2)]
    state = Counting(chain.state)
    monkeypatch.setattr("consensus.offences.check_evidence", None)
    assert offered(chain, old * 50, state) == ()
    assert state.read == [rounds.set_key(now.number - 3)]  # those before it cannot be younger


def test_a_block_offers_no_more_evidence_than_it_may_carry(chain):
    known = [double_vote(chain, index) for index in range(6)]
    taken = offered(chain, known)
    assert taken == tuple(sorted(known[:4], key=lambda item: decode_evidence(item)[1].offender))
    chain.assemble([], evidence=taken)


def test_evidence_that_proves_nothing_is_refused(chain, tools):
    forged = double_vote(chain, 2, secret=vote_secret(3))
    alien = double_vote(chain, 2, found=replace(chain.round, number=1))
    two = [double_vote(chain, 3), double_vote(chain, 1)]
    many = [double_vote(chain, index) for index in range(5)]
    for evidence, code in (
        ([forged], "bad-evidence-signature"),
        ([alien], "bad-evidence-round"),
        ([b"\x90"], "bad-evidence-form"),
        (two, "bad-evidence-order"),
        (many, "bad-evidence-count"),
    ):
        with pytest.raises(RuleError) as caught:
            chain.assemble([], evidence=evidence)
        assert caught.value.code == code


def test_the_output_of_evidence_has_one_form_and_place(chain, tools):
    proof = double_vote(chain, 2)
    block = chain.block(evidence=[proof])
    carrier, wc = block.txs[0].vout
    assert chain.refusal(tools.rebuild(block, vout=[wc])) == "bad-evidence-root"
    assert chain.refusal(tools.rebuild(block, vout=[carrier, carrier, wc])) == "bad-evidence-output"
    valued = TxOut(1, carrier.script_pubkey)
    assert chain.refusal(tools.rebuild(block, vout=[valued, wc])) == "bad-evidence-output"
    empty = TxOut(0, evidence_script([]))
    assert chain.refusal(tools.rebuild(block, vout=[empty, wc])) == "bad-evidence-output"
    assert chain.refusal(tools.rebuild(block, commitment={"evidence_root": bytes(32)})) == (
        "bad-evidence-root"
    )


def test_fees_payouts_and_evidence_stand_in_their_order(chain):
    tx = chain.pay(chain.purses[0], [], witness=(b"sig", b"key"))
    block = chain.block([tx], evidence=[double_vote(chain, 2)])
    chain.apply(chain.connect(block))
    marks = [output.script_pubkey[:8] for output in block.txs[0].vout]
    assert len(marks) == 4  # fees, evidence, witness commitment, WC
