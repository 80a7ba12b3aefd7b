"""A validator after its start: whom it asks, when it may sign, and what makes it a learner."""

import pytest

from consensus.bft import starting, statements
from consensus.bft.limits import ASK_GRACE_TICKS
from consensus.bft.shown import Given, Signed, Vote
from consensus.bft.state import CommittedTip, checkpoint, initial, restore
from consensus.bft.status import status
from consensus.bft.types import (
    Ask,
    Built,
    Censored,
    Committed,
    CommitVote,
    Fsync,
    Kind,
    LearnerRecord,
    LockRecord,
    Misbehaviour,
    Persist,
    PreVote,
    Received,
    Report,
    RequestVote,
    Retired,
    Start,
    Synced,
    TermRecord,
    Timer,
    Validated,
    ValRecord,
    VoteGranted,
)
from consensus.bft.wal import decode_record, encode_record
from tests.simulation.cluster import config_of
from tests.unit.consensus_bft.bftkit import (
    B1,
    B2,
    BASE,
    CHAIN_ID,
    CONFIGS,
    CQ1,
    ELECTORATE,
    P1,
    PQ1,
    PQ2,
    Engine,
    block_sig,
    elected,
    granted,
    make_qc,
    make_tc,
    pre_vote,
    sign,
)

SESSION = 7
TICK = CONFIGS[0].timing.tick_ms


def asking(index=0, records=(), tip=None, session=SESSION):
    """An engine that was restored and has just asked."""
    committed = tip or CommittedTip(0, BASE.block_hash, BASE)
    engine = Engine(CONFIGS[index], restore(CONFIGS[index], records, committed, ()), start=False)
    engine.feed(Start(session))
    return engine


def report(*shown, height=0, grant=None, session=SESSION, term=1):
    return Report(session, term, height, shown, grant)


def shown(vote, term, height, block_hash, index=0):
    return Signed(Vote(vote), term, height, block_hash, block_sig(index, vote, term, height, block_hash))


def given(term, cand, index=0):
    digest = statements.grant(ELECTORATE, term, cand, 0, 0, BASE.block_hash)
    return Given(term, cand, 0, 0, BASE.block_hash, sign(index, digest))


def answer(engine, *senders, height=0):
    for sender in senders:
        engine.receive(sender, report(height=height))


def wait(engine, ticks=ASK_GRACE_TICKS):
    for _ in range(ticks):
        engine.fire(Timer.TICK)


SIGNED = (PreVote, RequestVote, VoteGranted, Validated, CommitVote)


def test_it_asks_everybody_and_signs_nothing_before_the_answers():
    engine = asking()
    assert engine.sent(Ask) == [Ask(SESSION, 0)]
    assert status(engine.state, engine.now)["role"] == "starting"
    said = []
    for effects in (
        engine.receive(1, P1),
        engine.receive(1, RequestVote(1, 1, None)),
        engine.feed(Censored()),
        *(engine.receive(voter, pre_vote(voter, 1, None)) for voter in (1, 2, 3)),
    ):
        said += engine.sent(SIGNED, effects)
    for _ in range(40):
        engine.fire(Timer.TICK)
        said += engine.sent(SIGNED)
    assert said == []
    assert set(engine.state.timers) == {Timer.TICK}


def test_who_has_not_answered_is_asked_again():
    engine = asking()
    answer(engine, 2)
    engine.fire(Timer.TICK)
    assert {effect.to for effect in engine.last if hasattr(effect, "to")} == {1, 3}
    assert engine.sent(Ask) == [Ask(SESSION, 0)] * 2


def test_all_answers_begin_the_term_at_once():
    engine = asking()
    answer(engine, 1, 2)
    assert engine.state.asking
    answer(engine, 3)
    assert not engine.state.asking
    assert {Timer.PROGRESS, Timer.SLOT} <= set(engine.state.timers)


def test_enough_answers_begin_it_after_the_grace():
    """One of four may be away for ever; the third answer may be the leader's, so it gets a moment."""
    engine = asking()
    answer(engine, 1)
    wait(engine, 30)
    assert engine.state.asking
    answer(engine, 3)
    wait(engine, ASK_GRACE_TICKS - 1)
    assert engine.state.asking
    wait(engine, 2)
    assert not engine.state.asking


def test_one_answer_per_validator_and_none_to_an_older_start():
    engine = asking()
    answer(engine, 1, 1, 1)
    for sender in (2, 3):
        engine.receive(sender, report(session=SESSION - 1))
    assert list(engine.state.reports) == [1]


def test_a_lone_validator_asks_nobody():
    config = config_of(1, 0)
    engine = Engine(config, initial(config), start=False)
    engine.feed(Start(SESSION))
    assert not engine.state.asking
    assert engine.sent(Ask) == []


LOG = (TermRecord(1, 2, None), ValRecord(1, 1, B1.block_hash), LockRecord(PQ1))


@pytest.mark.parametrize(
    "answered",
    [
        report(shown("V", 1, 1, B1.block_hash)),
        report(shown("C", 1, 1, B1.block_hash)),
        report(shown("P", 1, 1, B1.block_hash)),
        report(grant=given(1, 2)),
    ],
)
def test_what_the_log_knows_is_no_reason(answered):
    engine = asking(records=LOG)
    engine.receive(1, answered)
    assert engine.state.learner is None
    assert list(engine.state.reports) == [1]


@pytest.mark.parametrize(
    ("answered", "told"),
    [
        (report(shown("V", 1, 2, B2.block_hash)), "Validated of term 1, height 2"),
        (report(shown("V", 1, 1, B2.block_hash)), "Validated of term 1, height 1"),
        (report(shown("C", 1, 2, B2.block_hash)), "CommitVote of term 1, height 2"),
        (report(shown("P", 2, 2, B2.block_hash)), "proposal of term 2, height 2"),
        (report(grant=given(1, 3)), "leader of term 1"),
        (report(grant=given(2, 2)), "leader of term 2"),
    ],
)
def test_a_statement_that_the_log_lacks_makes_a_learner(answered, told):
    engine = asking(records=LOG)
    engine.receive(1, answered)
    [record] = [effect.record for effect in engine.effects(Persist)]
    [retired] = engine.effects(Retired)
    assert isinstance(record, LearnerRecord)
    assert record.reason == retired.reason == engine.state.learner
    assert told in retired.reason
    assert engine.effects(Fsync)
    assert engine.state.config.me is None
    assert set(engine.state.timers) == {Timer.TICK}
    assert engine.sent(object, engine.receive(1, P1)) == []
    now = status(engine.state, engine.now)
    assert (now["role"], now["learner"]) == ("observer", retired.reason)


def test_a_learner_follows_and_stays_one_after_a_restart():
    engine = asking()
    engine.receive(1, report(shown("V", 1, 2, B2.block_hash)))
    engine.feed(Synced(1, ((1, B1.block_hash, BASE.block_hash),), CQ1))
    assert engine.state.committed_height == 1
    kept = [decode_record(*encode_record(record)) for record in checkpoint(engine.state)]
    again = asking(records=kept)
    assert again.state.learner == engine.state.learner
    assert again.sent(Ask) == []
    wait(again, 5)
    assert again.state.config.me is None


def test_a_forged_statement_is_charged_and_does_not_count():
    engine = asking()
    forged = Signed(Vote.VALIDATED, 5, 5, B1.block_hash, block_sig(1, "V", 5, 5, B1.block_hash))
    for message in (report(forged), report(grant=given(4, 1, index=2))):
        assert engine.receive(1, message) == (Misbehaviour(1, "bad-vote-signature"),)
    assert engine.state.reports == {}
    assert engine.state.learner is None


def test_an_answer_that_comes_late_still_counts_against_a_restored_log():
    engine = asking()
    answer(engine, 1, 2)
    wait(engine, ASK_GRACE_TICKS + 1)
    assert not engine.state.asking
    engine.receive(3, report(shown("V", 1, 2, B2.block_hash)))
    assert engine.state.learner is not None


def test_a_late_answer_with_what_was_signed_since_is_none():
    engine = asking()
    answer(engine, 1, 2)
    wait(engine, ASK_GRACE_TICKS + 1)
    engine.validate(P1)
    assert engine.state.val.rank == (1, 1)
    engine.receive(3, report(shown("V", 1, 1, B1.block_hash), shown("P", 1, 1, B1.block_hash)))
    assert engine.state.learner is None


def test_an_empty_log_waits_for_the_height_that_an_honest_peer_reported():
    engine = asking()
    engine.receive(1, report(height=1_000_000))  # one may lie
    answer(engine, 2, 3, height=1)
    assert engine.state.asking
    wait(engine, 10)
    assert engine.sent(Ask) == [Ask(SESSION, 0)] * 3  # who is behind asks all of them again
    engine.feed(Synced(1, ((1, B1.block_hash, BASE.block_hash),), make_cq()))
    assert not engine.state.asking
    assert engine.state.learner is None


def make_cq():
    """A certificate without our signature."""
    return make_qc(Kind.COMMIT, 1, 1, B1.block_hash, (1, 2, 3))


def test_a_certificate_with_a_signature_of_ours_gives_a_wiped_node_away():
    engine = asking()
    answer(engine, 1, 2, 3, height=1)
    engine.feed(Synced(1, ((1, B1.block_hash, BASE.block_hash),), CQ1))
    assert "certificate of height 1" in engine.state.learner
    assert engine.state.committed_height == 1


def test_our_own_store_may_give_an_old_log_away():
    """The vote log alone was restored: the block store still has a certificate with our signature."""
    engine = asking(tip=CommittedTip(1, B1.block_hash, CQ1))
    assert "certificate of height 1" in engine.state.learner
    assert engine.sent(Ask) == []
    whole = asking(records=LOG, tip=CommittedTip(1, B1.block_hash, CQ1))
    assert whole.state.learner is None


def test_the_term_goes_on_where_commits_have_led_meanwhile():
    engine = asking(records=LOG)
    engine.receive(1, Committed(make_cq()))
    answer(engine, 1, 2, 3)
    assert engine.state.cur_term == 1
    assert not engine.state.suspect


# --- answering ----------------------------------------------------------------------------------


def test_it_answers_while_it_asks_itself():
    """All nodes of a network may start at once."""
    engine = asking(records=LOG)
    engine.receive(2, Ask(99, 0))
    assert engine.sent(Report) == [Report(99, 1, 0, (shown("V", 1, 1, B1.block_hash, 2),), None)]


def test_a_leader_remembers_votes_that_no_certificate_holds():
    leader = elected(0)
    leader.receive(3, granted(leader, 3))
    message = Validated(1, 1, B1.block_hash, 3, block_sig(3, "V", 1, 1, B1.block_hash), None)
    leader.state.seen = {}
    starting.note(leader.state, 3, Signed(Vote.VALIDATED, 1, 1, B1.block_hash, message.sig))
    starting.note(leader.state, 3, shown("V", 0, 9, B2.block_hash, 3))
    leader.receive(3, Ask(5, 0))
    [told] = leader.sent(Report)
    assert [(s.vote, s.term, s.height) for s in told.statements] == [(Vote.VALIDATED, 1, 1)]


def vote_of(voter, block_hash=B1.block_hash, sig=None):
    return Validated(1, 1, block_hash, voter, sig or block_sig(voter, "V", 1, 1, block_hash), None)


def prepared_leader():
    """Return a leader whose first block has its certificate, without the vote of validator 3."""
    leader = elected(0)
    leader.feed(Built(CHAIN_ID, 1, B1))
    for voter in (1, 2):
        leader.receive(voter, vote_of(voter))
    assert leader.state.prepared is not None
    return leader


def reported(leader, member):
    leader.receive(member, Ask(5, 0))
    [told] = leader.sent(Report)
    return [(s.vote, s.term, s.height, s.block_hash) for s in told.statements]


def test_a_vote_behind_its_certificate_is_remembered_and_checked_when_it_is_asked_for(monkeypatch):
    leader, checked = prepared_leader(), []
    scheme = type(ELECTORATE.scheme)
    verify = scheme.verify
    monkeypatch.setattr(scheme, "verify", lambda self, items: checked.extend(items) or verify(self, items))
    assert leader.receive(3, vote_of(3)) == ()
    assert leader.receive(3, vote_of(3)) == ()
    assert not checked
    assert 3 not in leader.state.validated
    told = [(Vote.VALIDATED, 1, 1, B1.block_hash)]
    assert reported(leader, 3) == told
    assert len(checked) == 1
    assert reported(leader, 3) == told
    assert len(checked) == 1


def test_a_late_vote_that_was_never_signed_is_not_shown():
    leader = prepared_leader()
    assert leader.receive(3, vote_of(3, sig=bytes(64))) == ()
    assert reported(leader, 3) == []
    leader.receive(3, vote_of(3))
    assert reported(leader, 3) == [(Vote.VALIDATED, 1, 1, B1.block_hash)]


def test_a_late_vote_over_the_link_of_another_is_checked_at_once():
    leader = prepared_leader()
    forged = vote_of(3, sig=bytes(64))
    assert leader.receive(2, forged) == (Misbehaviour(2, "bad-vote-signature"),)
    leader.receive(2, vote_of(3))
    assert leader.state.validated[3] == vote_of(3).sig


def test_certificates_show_what_nobody_sent_to_us():
    engine = Engine()
    engine.validate(P1)
    engine.receive(1, Committed(CQ1))
    engine.receive(2, Ask(5, 0))
    [told] = engine.sent(Report)
    assert [(s.vote, s.height) for s in told.statements] == [(Vote.COMMIT, 1)]
    assert told.grant is not None
    assert (told.grant.term, told.grant.cand) == (1, 1)
    engine.state.lock = PQ2
    engine.receive(1, Ask(5, 0))
    [told] = engine.sent(Report)
    assert [(s.vote, s.height) for s in told.statements] == [
        (Vote.PROPOSE, 1),
        (Vote.VALIDATED, 2),
        (Vote.COMMIT, 1),
    ]


def test_who_is_behind_is_shown_the_latest_certificate():
    engine = Engine(state=restore(CONFIGS[0], LOG, CommittedTip(1, B1.block_hash, CQ1), ()))
    engine.receive(2, Ask(5, 0))
    assert engine.sent(Committed) == [Committed(CQ1)]
    engine.receive(2, Ask(5, 1))
    assert engine.sent(Committed) == []


def test_followers_neither_ask_nor_answer():
    config = config_of(4, None)
    engine = Engine(config, initial(config), start=False)
    engine.feed(Start(SESSION))
    assert engine.sent(Ask) == []
    assert engine.receive(1, Ask(1, 0)) == ()
    assert Engine().feed(Received(None, Ask(1, 0))) == (Misbehaviour(None, "not-a-validator"),)


def test_a_term_proof_is_of_no_use_before_the_answers():
    engine = asking()
    engine.receive(1, pre_vote(1, 2, make_tc(1)))
    assert engine.state.cur_term == 1
