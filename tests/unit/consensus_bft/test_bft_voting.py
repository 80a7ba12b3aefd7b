"""Single steps: what a validator signs, refuses, persists and asks for."""

from dataclasses import replace

import pytest

from consensus.bft.config import SCHNORR, Config, Timing, VoteSecret
from consensus.bft.engine import step
from consensus.bft.state import initial
from consensus.bft.types import (
    AskEC,
    BlockAvailable,
    Built,
    Check,
    Checked,
    Commit,
    Committed,
    CommitVote,
    Fetch,
    Fsync,
    Kind,
    LockRecord,
    Misbehaviour,
    Persist,
    PersistBody,
    Prepared,
    Proof,
    Rank,
    Received,
    Send,
    SetTimer,
    ShowEC,
    Slash,
    Start,
    Timer,
    TimerFired,
    Validated,
    ValRecord,
)
from tests.simulation.cluster import CHAIN_ID, config_of, secrets_of
from tests.unit.consensus_bft.bftkit import (
    B1,
    B2,
    B3,
    BASE,
    CONFIGS,
    CQ1,
    EC1,
    ELECTORATE,
    P1,
    P2,
    PQ1,
    PQ2,
    Engine,
    block,
    make_ec,
    make_propose,
    make_qc,
    make_tc,
)

# --- the shape of a step ------------------------------------------------------------------------


def test_saves_come_before_sends():
    engine = Engine()
    engine.receive(1, P1)
    assert engine.effects(Check) == [Check(B1, 1, True, CHAIN_ID, 1)]
    engine.feed(Checked(B1.block_hash, True))
    kinds = [type(effect) for effect in engine.last]
    assert kinds[:4] == [PersistBody, Persist, Fsync, Send]
    assert engine.last[1].record == ValRecord(1, 1, B1.block_hash)
    vote = engine.sent(Validated)[0]
    assert (vote.term, vote.height, vote.block_hash, vote.commit) == (1, 1, B1.block_hash, None)


def test_a_step_leaves_the_state_before_as_it_was():
    engine = Engine()
    kept = engine.state
    image = repr(kept.__dict__)
    engine.validate(P1)
    engine.validate(P2)
    assert engine.state is not kept
    assert repr(kept.__dict__) == image
    again, effects = step(kept, Received(1, P1), engine.now)
    assert effects == step(kept, Received(1, P1), engine.now)[1]
    assert again.cur_term == 1


def test_a_message_that_breaks_a_rule_changes_nothing():
    engine = Engine()
    before = engine.state
    bad = replace(P1, sig=bytes(64))
    assert engine.receive(1, bad) == (Misbehaviour(1, "bad-vote-signature"),)
    assert engine.state is before


def test_a_proposal_comes_from_its_leader():
    """The signature covers the header only: another could pass it on with foreign transactions."""
    engine = Engine()
    garbled = replace(P1, proposal=replace(P1.proposal, wtxids=(bytes(32),)))
    assert garbled.block_hash == P1.block_hash
    assert engine.receive(3, garbled) == (Misbehaviour(3, "not-the-leader"),)
    assert engine.validate(P1)
    assert engine.state.val.block_hash == P1.block_hash


def test_nothing_is_heard_before_the_start():
    engine = Engine(start=False)
    assert engine.receive(1, P1) == ()
    assert engine.feed(TimerFired(Timer.TICK, 1)) == ()
    started = engine.feed(Start())
    assert {effect.name for effect in started if isinstance(effect, SetTimer)} == {"tick", "progress", "slot"}
    assert engine.feed(Start()) == ()


@pytest.mark.parametrize(("sender", "message"), [(None, P1), (4, P1), (-1, Prepared(PQ1))])
def test_links_that_are_no_validators(sender, message):
    assert Engine().receive(sender, message) == (Misbehaviour(sender, "not-a-validator"),)


def test_secrets_are_not_shown():
    config = config_of(4, 0, SCHNORR)
    secret = secrets_of(4)[0]
    assert config.secret.public_key() == config.validator_set.keys[0]
    for text in (repr(config), str(config.secret), repr(initial(config).__dict__)):
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text


@pytest.mark.parametrize(
    "change",
    [{"me": None}, {"secret": None}, {"me": 4}, {"me": -1}],
)
def test_configurations_that_make_no_sense(change):
    arguments = {"chain_id": CHAIN_ID, "validator_set": ELECTORATE.voters, "seed": bytes(32)}
    arguments |= {"me": 0, "secret": VoteSecret(bytes(32))} | change
    with pytest.raises(ValueError):
        Config(**arguments)


def test_timing_must_be_positive():
    with pytest.raises(ValueError):
        Timing(slot_step_ms=0)


# --- voting -------------------------------------------------------------------------------------


def test_the_vote_for_the_next_block_carries_the_commit_vote():
    engine = Engine()
    engine.validate(P1)
    effects = engine.receive(1, P2)
    assert [e.record for e in effects if isinstance(e, Persist)] == [LockRecord(PQ1)]
    assert not engine.sent((Validated, CommitVote), effects)
    engine.feed(Checked(B2.block_hash, True))
    vote = engine.sent(Validated)[0]
    assert (vote.commit.term, vote.commit.height, vote.commit.block_hash) == (1, 1, B1.block_hash)
    assert vote.commit.sig == engine.sent(Validated)[0].commit.sig


def test_one_vote_per_rank_and_evidence_for_the_other():
    engine = Engine()
    engine.validate(P1)
    other = make_propose(1, 1, 1, block(CHAIN_ID, 1, 1, b"other"), EC1)
    engine.receive(1, other)
    assert not engine.sent((Validated, CommitVote))
    assert not engine.effects(Check)
    (slash,) = engine.effects(Slash)
    assert slash.evidence.offender == 1
    assert {slash.evidence.first.sig, slash.evidence.second.sig} == {P1.sig, other.sig}
    engine.receive(1, other)
    assert not engine.effects(Slash), "once is enough"


def test_a_proposal_again_brings_the_same_vote_again():
    engine = Engine()
    first = [e.message for e in engine.validate(P1) if isinstance(e, Send)]
    engine.receive(1, P1)
    assert engine.sent(Validated) == [m for m in first if isinstance(m, Validated)]
    assert not engine.effects(Persist)


def test_13_only_one_first_proposal_per_term():
    """Two election certificates of one term, with different locks: the second proposal gets no vote."""
    engine = Engine()
    lock = make_qc(Kind.PREPARE, 1, 1, B1.block_hash)
    high, low = make_ec(2, 1, {0: BASE, 1: lock, 2: BASE}), make_ec(2, 1)
    engine.validate(make_propose(2, 1, 1, block(CHAIN_ID, 1, 2), low))
    assert engine.state.val.rank == Rank(2, 1)
    child = block(B1.block_hash, 2, 2)
    engine.feed(BlockAvailable(1, B1))
    engine.receive(1, make_propose(2, 2, 1, child, high))
    engine.feed(Checked(child.block_hash, True))
    assert engine.state.val.rank == Rank(2, 1)
    assert not engine.sent(Validated)


def test_14_a_late_prepared_moves_the_lock_and_gets_no_vote():
    engine = Engine()
    engine.validate(P1)
    engine.receive(2, Proof(2, make_tc(1)))
    assert engine.state.cur_term == 2
    engine.receive(1, Prepared(PQ1))
    assert engine.state.lock == PQ1
    assert engine.effects(Persist) == [Persist(LockRecord(PQ1))]
    assert not engine.sent(CommitVote)


def test_prepared_in_time_gets_a_vote_under_a_durable_lock():
    engine = Engine()
    engine.validate(P1)
    engine.receive(1, Prepared(PQ1))
    assert [type(effect) for effect in engine.last[:3]] == [Persist, Fsync, Send]
    assert engine.sent(CommitVote)[0].block_hash == B1.block_hash


def test_a_block_of_ec_high_is_voted_for_again_without_the_clock():
    engine = Engine()
    engine.validate(P1)
    engine.receive(1, Prepared(PQ1))
    ec = make_ec(2, 3, {0: PQ1, 2: BASE, 3: BASE})
    engine.receive(3, make_propose(2, 1, 3, B1, ec))
    vote = engine.sent(Validated)[0]
    assert (vote.term, vote.height, vote.block_hash) == (2, 1, B1.block_hash)
    assert not engine.effects(Check), "it was checked in term 1"
    fresh = Engine(CONFIGS[2])
    fresh.receive(3, make_propose(2, 1, 3, B1, ec))
    assert fresh.effects(Check) == [Check(B1, 1, False, CHAIN_ID, 3)]


def test_12_a_new_leader_cannot_pass_by_a_prepared_block():
    engine = Engine()
    ec = make_ec(2, 3, {0: PQ1, 2: BASE, 3: BASE})
    sibling = block(CHAIN_ID, 1, 2)
    assert engine.receive(3, make_propose(2, 1, 3, sibling, ec)) == (Misbehaviour(3, "bad-justification"),)
    child = block(B1.block_hash, 2, 2)
    engine.receive(3, make_propose(2, 2, 3, child, ec))
    assert not engine.effects(Check), "its child only once it is committed"
    engine.feed(BlockAvailable(1, B1))
    engine.receive(3, Committed(CQ1))
    assert engine.effects(Check) == [Check(child, 2, True, B1.block_hash, 3)]


@pytest.mark.parametrize(
    ("propose", "code"),
    [
        (replace(P1, leader=2), "bad-vote-signature"),
        (replace(P1, height=2), "bad-vote-signature"),
        (make_propose(1, 1, 2, B1, EC1), "bad-justification"),
        (make_propose(2, 1, 1, block(CHAIN_ID, 1, 2), EC1), "bad-justification"),
        (make_propose(1, 1, 1, block(CHAIN_ID, 1, 7), EC1), "bad-block-term"),
        (make_propose(1, 2, 1, B3, PQ1), "bad-justification"),
        (make_propose(1, 3, 1, B2, PQ1), "bad-justification"),
        (make_propose(1, 2, 1, block(B1.block_hash, 2, 2), PQ1), "bad-block-term"),
        (make_propose(1, 2, 1, B2, CQ1), "bad-qc-kind"),
        (make_propose(1, 1, 1, B1, EC1, PQ1), "bad-qc-kind"),
        (make_propose(1, 2, 1, B2, PQ1._replace(sigs=PQ1.sigs[::-1])), "bad-cert-signature"),
        (make_propose(1, 1, 1, B1, EC1._replace(votes=EC1.votes[:2])), "bad-ec-votes"),
        (make_propose(0, 1, 1, block(CHAIN_ID, 1, 0), BASE), "stale"),
    ],
)
def test_proposals_that_are_refused(propose, code):
    engine = Engine()
    engine.receive(propose.leader, propose)
    if code == "stale":
        assert engine.sent(Proof)
    else:
        assert engine.last == (Misbehaviour(propose.leader, code),)


def test_somebody_else_does_not_lead():
    engine = Engine()
    engine.validate(P1)
    usurper = make_propose(1, 2, 2, B2, PQ1)
    assert engine.receive(2, usurper) == (Misbehaviour(2, "not-the-leader"),)


def test_an_unknown_leader_is_asked_for():
    engine = Engine()
    engine.receive(1, P2)
    assert engine.last == (Send(1, AskEC(1)),)
    engine.fire(Timer.TICK)
    assert AskEC(1) in engine.sent(AskEC)
    engine.receive(1, ShowEC(EC1))
    assert engine.effects(Fetch) == [Fetch(B1.block_hash, 1, 1, engine.effects(Fetch)[0].candidates)]
    assert set(engine.effects(Fetch)[0].candidates) == {1, 2}
    engine.feed(BlockAvailable(1, B1))
    assert engine.effects(Check) == [Check(B1, 1, False, CHAIN_ID, 1)], "the parent first"
    engine.feed(Checked(B1.block_hash, True))
    assert engine.effects(Check) == [Check(B2, 2, True, B1.block_hash, 1)]
    engine.feed(Checked(B2.block_hash, True))
    vote = engine.sent(Validated)[0]
    assert (vote.height, vote.commit.height) == (2, 1)


def test_not_more_than_two_blocks_above_the_committed_tip():
    engine = Engine()
    engine.validate(P1)
    engine.validate(P2)
    deep = make_propose(1, 3, 1, B3, PQ2)
    engine.validate(deep)
    assert engine.state.val.height == 2
    engine.receive(2, Committed(CQ1))
    assert engine.effects(Commit) == [Commit(1, B1.block_hash, CQ1)]
    assert engine.effects(Check) == [Check(B3, 3, True, B2.block_hash, 1)]


def test_a_refused_block_still_lets_the_commit_vote_go():
    engine = Engine()
    engine.validate(P1)
    engine.receive(1, P2)
    engine.feed(Checked(B2.block_hash, False, "bad-cb-amount"))
    assert not engine.sent(Validated)
    assert engine.sent(CommitVote)[0].height == 1
    engine.receive(1, P2)
    assert not engine.effects(Check), "not at once again"
    assert engine.sent(CommitVote)
    engine.now += 1_000
    engine.receive(1, P2)
    assert engine.effects(Check)


def test_a_slow_check_does_not_hold_the_commit_vote_for_long():
    engine = Engine()
    engine.validate(P1)
    engine.receive(1, P2)
    engine.fire(Timer.TICK)
    assert engine.sent(CommitVote)[0].height == 1
    engine.feed(Checked(B2.block_hash, True))
    assert engine.sent(Validated)[0].commit.height == 1


def test_stale_answers_are_ignored():
    engine = Engine()
    assert engine.feed(Checked(B1.block_hash, True)) == ()
    assert engine.feed(Built(CHAIN_ID, 1, B1)) == ()
    assert engine.feed(TimerFired(Timer.PROGRESS, 999)) == ()
    assert engine.feed(TimerFired(Timer.BLOCK, 1)) == ()
