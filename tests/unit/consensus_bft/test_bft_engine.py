"""Single steps: elections, leading, catching up, coming back, and whatever else comes."""

import json
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.bft.config import Timing
from consensus.bft.state import CommittedTip, Role, checkpoint, initial, restore
from consensus.bft.status import status
from consensus.bft.types import (
    AskEC,
    BlockAvailable,
    Broadcast,
    Build,
    Built,
    Censored,
    Check,
    Checked,
    Commit,
    Committed,
    CommitVote,
    Fetch,
    Fsync,
    Halt,
    Kind,
    LockRecord,
    Misbehaviour,
    PendingWork,
    Persist,
    PersistBody,
    Prepared,
    PreVote,
    Proof,
    Propose,
    Rank,
    RequestVote,
    Send,
    SetTimer,
    ShowEC,
    Slash,
    Start,
    Synced,
    TermRecord,
    Timer,
    TimerFired,
    Validated,
    ValRecord,
    VoteGranted,
)
from consensus.errors import RuleError
from tests.simulation.cluster import CHAIN_ID, config_of
from tests.unit.consensus_bft.bftkit import (
    B1,
    B2,
    B3,
    BASE,
    CONFIGS,
    CQ1,
    CQ2,
    EC1,
    P1,
    P2,
    P3,
    PQ1,
    PQ2,
    Engine,
    block,
    block_sig,
    elected,
    granted,
    make_ec,
    make_propose,
    make_qc,
    make_tc,
    pre_vote,
)
from tests.unit.consensus_bft.test_bft_codec import messages

# --- elections ----------------------------------------------------------------------------------


def slot_of(engine, cand):
    return engine.state.order.index(cand)


def test_a_vote_is_granted_in_the_candidates_slot_and_not_before():
    engine = Engine()
    cand = engine.state.order[2] or engine.state.order[3]
    slot = slot_of(engine, cand)
    engine.receive(cand, RequestVote(1, cand, None))
    assert not engine.sent(VoteGranted)
    (timer,) = engine.effects(SetTimer)
    assert timer.name is Timer.GRANT
    assert timer.at_ms == 1_000 + slot * engine.state.config.timing.slot_step_ms
    engine.fire(Timer.GRANT)
    assert [type(effect) for effect in engine.last] == [Persist, Fsync, Send]
    assert engine.last[0].record == TermRecord(1, cand, None)
    assert engine.sent(VoteGranted)[0].hq == BASE


def test_one_vote_per_term_and_the_same_again():
    engine = Engine()
    engine.now += 1_000
    engine.receive(1, RequestVote(1, 1, None))
    first = engine.sent(VoteGranted)
    engine.receive(2, RequestVote(1, 2, None))
    assert not engine.sent(VoteGranted)
    engine.receive(1, RequestVote(1, 1, None))
    assert engine.sent(VoteGranted) == first
    assert not engine.effects(Persist)


def test_a_candidate_speaks_for_itself_only():
    engine = Engine()
    assert engine.receive(2, RequestVote(1, 1, None)) == (Misbehaviour(2, "not-the-candidate"),)
    assert engine.receive(2, RequestVote(9, 2, None)) == (Misbehaviour(2, "bad-term-proof"),)


def test_no_vote_where_there_is_a_leader_or_a_lock_of_the_term():
    engine = Engine()
    engine.receive(1, ShowEC(EC1))
    engine.now += 1_000
    engine.receive(2, RequestVote(1, 2, None))
    assert not engine.sent(VoteGranted)
    locked = Engine()
    locked.receive(1, Prepared(PQ1))
    locked.now += 1_000
    locked.receive(2, RequestVote(1, 2, None))
    assert not locked.sent(VoteGranted)


def test_old_terms_get_the_proof_of_ours():
    engine = Engine()
    tc = make_tc(4)
    engine.receive(2, Proof(5, tc))
    for message in (RequestVote(3, 1, None), pre_vote(1, 4, None), P1, AskEC(1)):
        engine.receive(1, message)
        assert engine.last == (Send(1, Proof(5, tc)),)


def test_a_quorum_of_grants_makes_a_leader_and_the_highest_lock_its_duty():
    engine = Engine()
    engine.receive(2, Proof(2, make_tc(1)))
    engine.fire(Timer.SLOT)
    assert engine.sent(RequestVote)[0].proof == make_tc(1)
    assert engine.state.voted_for == 0
    engine.receive(1, granted(engine, 1))
    engine.receive(1, granted(engine, 1))
    assert engine.state.role is Role.CANDIDATE
    engine.receive(3, granted(engine, 3, PQ1))
    assert engine.state.role is Role.LEADER
    assert engine.sent(ShowEC)[0].ec.high == PQ1
    assert engine.effects(Fetch)[0].block_hash == B1.block_hash
    engine.feed(BlockAvailable(1, B1))
    proposed = engine.sent(Propose)[0]
    assert (proposed.term, proposed.height, proposed.block_hash) == (2, 1, B1.block_hash)
    assert engine.effects(Check)[0].is_new is False


@pytest.mark.parametrize(
    ("lock", "code"),
    [
        (make_qc(Kind.PREPARE, 2, 1, B1.block_hash), "bad-grant"),
        (make_qc(Kind.COMMIT, 1, 1, B1.block_hash), "bad-qc-kind"),
        (PQ1._replace(height=9), "bad-cert-signature"),
    ],
)
def test_grants_with_impossible_locks(lock, code):
    engine = Engine()
    engine.receive(2, Proof(2, make_tc(1)))
    engine.fire(Timer.SLOT)
    assert engine.receive(1, granted(engine, 1, lock)) == (Misbehaviour(1, code),)


def test_a_restarted_node_does_not_lead_in_its_term():
    state = restore(CONFIGS[0], [TermRecord(1, None, None)], CommittedTip(0, CHAIN_ID, BASE), ())
    engine = Engine(state=state)
    assert engine.state.resumed
    assert Timer.SLOT not in engine.state.timers
    engine.receive(2, Proof(2, make_tc(1)))
    assert not engine.state.resumed
    assert Timer.SLOT in engine.state.timers


# --- terms --------------------------------------------------------------------------------------


def test_patience_ends_in_a_pre_vote_and_a_quorum_of_them_in_the_next_term():
    engine = Engine()
    engine.fire(Timer.PROGRESS)
    assert engine.sent(PreVote)[0].term == 1
    engine.receive(1, pre_vote(1, 1, None))
    engine.receive(1, pre_vote(1, 1, None))
    assert engine.state.cur_term == 1
    engine.receive(2, pre_vote(2, 1, None))
    assert engine.state.cur_term == 2
    assert engine.state.proof.term == 1
    assert engine.effects(Persist) == [Persist(TermRecord(2, None, engine.state.proof))]


def test_f_plus_one_convince_unless_the_leader_is_doing_well():
    engine = Engine()
    engine.validate(P1)
    for voter in (1, 2):
        engine.receive(voter, pre_vote(voter, 1, None))
    assert not engine.state.suspect
    engine.now += engine.state.config.timing.progress_timeout_ms // 2
    engine.receive(2, pre_vote(2, 1, None))
    assert engine.state.suspect or engine.state.cur_term == 2


def test_one_byzantine_pre_vote_convinces_nobody():
    engine = Engine()
    engine.now += 5_000
    engine.receive(1, pre_vote(1, 1, None))
    assert not engine.state.suspect


@pytest.mark.parametrize("proof", [None, make_tc(7), make_ec(5, 1), CQ1])
def test_terms_do_not_rise_without_proof(proof):
    engine = Engine()
    assert engine.receive(1, pre_vote(1, 9, proof)) == (Misbehaviour(1, "bad-term-proof"),)
    assert engine.receive(1, Proof(9, proof)) == (Misbehaviour(1, "bad-term-proof"),)
    assert engine.state.cur_term == 1


def test_a_laggard_gets_the_last_certificate():
    engine = Engine()
    engine.validate(P1)
    engine.receive(1, Committed(CQ1))
    engine.receive(2, pre_vote(2, 1, None, height=0))
    assert Committed(CQ1) in engine.sent(Committed)
    engine.receive(3, pre_vote(3, 1, None, height=1))
    assert not engine.sent(Committed)


def test_a_late_timer_is_our_own_fault_once():
    engine = Engine()
    armed = engine.state.timers[Timer.PROGRESS]
    engine.now = armed.at_ms + 5_000
    engine.feed(TimerFired(Timer.PROGRESS, armed.token))
    assert not engine.state.suspect
    engine.fire(Timer.PROGRESS)
    assert engine.state.suspect


def test_censorship_seen_by_the_shell_is_a_reason():
    engine = Engine()
    engine.validate(P1)
    engine.feed(Censored())
    assert engine.sent(PreVote)
    assert engine.feed(Censored()) == ()


def test_back_off_grows_by_half_from_the_second_term_without_commit():
    engine = Engine(replace(CONFIGS[0], timing=Timing(progress_timeout_ms=400, kmax=3)))
    patience = []
    for term in range(2, 9):
        engine.receive(1, Proof(term, make_tc(term - 1)))
        engine.receive(1, ShowEC(make_ec(term, 1)))
        patience.append(engine.state.timers[Timer.PROGRESS].at_ms - engine.now)
    assert patience == [400, 600, 900, 1350, 1350, 1350, 1350]


# --- leading ------------------------------------------------------------------------------------


def test_a_leader_builds_proposes_votes_and_commits():
    engine = elected()
    term = engine.state.cur_term
    assert engine.effects(Build) == [Build(CHAIN_ID, 1, term, b"\x00")]
    engine.feed(Built(CHAIN_ID, term, B1))
    assert [type(e) for e in engine.last[:4]] == [PersistBody, Persist, Fsync, Broadcast]
    assert engine.sent(Propose)[0].justify.cand == 0
    for voter in (1, 2):
        sig = block_sig(voter, vote="V", term=1, height=1, block_hash=B1.block_hash)
        engine.receive(voter, Validated(1, 1, B1.block_hash, voter, sig, None))
    assert engine.state.prepared.rank == Rank(1, 1)
    assert engine.sent(Prepared), "no block is due"
    for voter in (1, 2):
        sig = block_sig(voter, vote="C", term=1, height=1, block_hash=B1.block_hash)
        engine.receive(voter, CommitVote(1, 1, B1.block_hash, voter, sig))
    assert engine.effects(Commit)[0].block_hash == B1.block_hash
    assert engine.sent(Committed)
    engine.feed(PendingWork(engine.state.config.timing.min_batch_txs))
    assert engine.effects(Build) == [Build(B1.block_hash, 2, 1, b"\x07")]
    assert engine.feed(PendingWork(10_000)) == ()


def test_a_small_batch_waits_and_an_empty_one_longer():
    engine = elected()
    engine.feed(Built(CHAIN_ID, 1, B1))
    for voter in (1, 2):
        sig = block_sig(voter, "V", 1, 1, B1.block_hash)
        engine.receive(voter, Validated(1, 1, B1.block_hash, voter, sig, None))
    timing = engine.state.config.timing
    assert engine.state.timers[Timer.BLOCK].at_ms == engine.now + timing.idle_interval_ms
    engine.feed(PendingWork(1))
    assert engine.state.timers[Timer.BLOCK].at_ms == engine.now + timing.block_interval_ms
    engine.fire(Timer.BLOCK)
    assert engine.effects(Build)


def test_a_build_that_fails_is_tried_again_later():
    engine = elected()
    engine.feed(Built(CHAIN_ID, 1, None))
    assert not engine.effects(Build)
    engine.fire(Timer.BLOCK)
    assert engine.effects(Build)
    wrong = block(B1.block_hash, 1, 1)
    engine.feed(Built(CHAIN_ID, 1, wrong))
    assert not engine.sent(Propose)


def test_votes_are_checked_and_counted_once():
    engine = elected()
    engine.feed(Built(CHAIN_ID, 1, B1))
    good = Validated(1, 1, B1.block_hash, 1, block_sig(1, "V", 1, 1, B1.block_hash), None)
    assert engine.receive(1, good._replace(sig=bytes(64))) == (Misbehaviour(1, "bad-vote-signature"),)
    assert engine.receive(1, good._replace(voter=2)) == (Misbehaviour(1, "bad-vote-signature"),)
    engine.receive(1, good)
    engine.receive(1, good)
    assert sorted(engine.state.validated) == [0, 1]
    assert engine.state.prepared is None
    assert status(engine.state, engine.now)["waiting_for"] == [2, 3]


def test_11_a_double_vote_is_evidence():
    engine = elected()
    engine.feed(Built(CHAIN_ID, 1, B1))
    good = Validated(1, 1, B1.block_hash, 1, block_sig(1, "V", 1, 1, B1.block_hash), None)
    other = Validated(1, 1, bytes(32), 1, block_sig(1, "V", 1, 1, bytes(32)), None)
    engine.receive(1, other)
    assert not engine.effects(Slash), "one vote for nothing is odd, two are evidence"
    engine.receive(1, good)
    engine.receive(1, other)
    assert engine.effects(Slash)[0].evidence.offender == 1


def test_silent_followers_get_the_proposal_again_but_not_at_every_tick():
    engine = elected()
    engine.feed(Built(CHAIN_ID, 1, B1))
    engine.receive(1, Validated(1, 1, B1.block_hash, 1, block_sig(1, "V", 1, 1, B1.block_hash), None))
    resent = []
    for _ in range(9):
        engine.fire(Timer.TICK)
        resent.append(sorted(e.to for e in engine.effects(Send) if isinstance(e.message, Propose)))
    assert [at for at, to in enumerate(resent) if to] == [1, 2, 4, 8], "after 1, 2, 4, 8 periods"
    assert resent[1] == [2, 3]


# --- catching up --------------------------------------------------------------------------------


def segment(*proposals, start=1):
    return tuple((start + at, p.block_hash, p.parent) for at, p in enumerate(proposals))


def test_a_segment_is_committed_block_by_block():
    engine = Engine()
    qc = make_qc(Kind.COMMIT, 4, 3, B3.block_hash)
    engine.feed(Synced(2, segment(B1, B2, B3), qc))
    assert [(e.height, e.block_hash) for e in engine.effects(Commit)] == [
        (1, B1.block_hash),
        (2, B2.block_hash),
        (3, B3.block_hash),
    ]
    assert engine.state.cur_term == 4, "the certificate proves its term"
    assert engine.state.committed_height == 3
    assert engine.feed(Synced(2, segment(B1, B2, B3), qc))[:1] == ()


def test_segments_that_are_refused():
    qc = make_qc(Kind.COMMIT, 1, 3, B3.block_hash)
    bad = "bad-sync-segment"
    for blocks, certificate, code in [
        ((), qc, bad),
        (segment(B1, B2), qc, bad),
        (segment(B1, B3, start=2), qc, bad),
        (segment(B2, B3, start=2), qc, bad),
        (segment(B1, B2, B3), make_qc(Kind.PREPARE, 1, 3, B3.block_hash), "bad-qc-kind"),
        (segment(B1, B2, B3), qc._replace(bitmap=b"\x03", sigs=qc.sigs[:2]), "bad-cert-quorum"),
    ]:
        engine = Engine()
        assert engine.feed(Synced(2, blocks, certificate)) == (Misbehaviour(2, code),)


def test_a_certificate_ahead_of_us_is_fetched_for_until_it_comes():
    engine = Engine()
    engine.receive(1, Committed(make_qc(Kind.COMMIT, 1, 3, B3.block_hash)))
    (fetch,) = engine.effects(Fetch)
    assert (fetch.block_hash, fetch.first_height, fetch.last_height) == (B3.block_hash, 1, 3)
    asked = 0
    for _ in range(6):
        engine.fire(Timer.TICK)
        asked += len(engine.effects(Fetch))
    assert asked == 2
    for height, proposal in ((3, B3), (1, B1)):
        engine.feed(BlockAvailable(height, proposal))
        assert not engine.effects(Commit)
    engine.feed(BlockAvailable(2, B2))
    assert [effect.height for effect in engine.effects(Commit)] == [1, 2, 3]


def test_a_contradicting_certificate_stops_everything():
    for height in (1, 2):
        engine = Engine()
        engine.validate(P1)
        engine.validate(P2)
        engine.receive(1, Committed(CQ2))
        assert len(engine.effects(Commit)) == 2
        other = make_qc(Kind.COMMIT, 1, height, bytes(32))
        (halt,) = engine.receive(1, Committed(other))
        assert isinstance(halt, Halt)
        assert engine.feed(Start()) == ()
        assert engine.receive(1, P3) == ()
        assert status(engine.state, engine.now)["halted"] == halt.reason


def test_a_certified_sibling_of_our_chain_stops_everything():
    engine = Engine()
    engine.feed(Synced(1, segment(B1), CQ1))
    stranger = block(bytes(32), 2, 1)
    qc = make_qc(Kind.COMMIT, 1, 2, stranger.block_hash)
    (halt,) = engine.feed(Synced(1, segment(stranger, start=2), qc))
    assert isinstance(halt, Halt)


def test_an_observer_takes_commits_and_nothing_else():
    engine = Engine(config_of(4, None))
    assert [effect.name for effect in engine.last] == [Timer.TICK]
    assert engine.receive(1, P1) == ()
    engine.receive(None, Committed(CQ1))
    engine.feed(BlockAvailable(1, B1))
    assert engine.effects(Commit) == [Commit(1, B1.block_hash, CQ1)]
    engine.fire(Timer.TICK)
    assert status(engine.state, engine.now)["role"] == "observer"


# --- coming back --------------------------------------------------------------------------------


def test_a_rewritten_log_says_the_same():
    engine = Engine()
    engine.validate(P1)
    engine.validate(P2)
    engine.receive(1, Prepared(PQ2))
    tip = CommittedTip(0, CHAIN_ID, BASE)
    back = restore(CONFIGS[0], checkpoint(engine.state), tip, [(1, B1), (2, B2)])
    for name in ("cur_term", "voted_for", "proof", "val", "lock"):
        assert getattr(back, name) == getattr(engine.state, name)
    assert set(back.blocks) == {B1.block_hash, B2.block_hash}
    assert back.resumed


def test_a_vote_that_the_crash_kept_from_leaving_is_given_again():
    engine = Engine()
    engine.validate(P1)
    engine.validate(P2)
    vote = engine.sent(Validated)[0]
    tip = CommittedTip(0, CHAIN_ID, BASE)
    back = Engine(state=restore(CONFIGS[0], checkpoint(engine.state), tip, [(1, B1), (2, B2)]))
    back.receive(1, ShowEC(EC1))
    back.receive(1, P2)
    assert back.sent(Validated) == [vote]
    assert not back.effects(Check)
    assert not back.effects(Persist)
    back.receive(1, make_propose(1, 2, 1, block(B1.block_hash, 2, 1, b"other"), PQ1))
    assert not back.sent(Validated)


def test_a_log_that_contradicts_itself():
    tip = CommittedTip(0, CHAIN_ID, BASE)
    for records in (
        [TermRecord(3, None, None), TermRecord(2, None, None)],
        [TermRecord(3, None, None), ValRecord(3, 2, bytes(32)), ValRecord(3, 1, bytes(32))],
        [TermRecord(1, None, None), ValRecord(3, 2, bytes(32))],
        [LockRecord(make_qc(Kind.PREPARE, 3, 1, bytes(32)))],
    ):
        with pytest.raises(RuleError) as caught:
            restore(CONFIGS[0], records, tip, ())
        assert caught.value.code == "bad-wal"


def test_a_commit_that_was_cut_in_the_middle_goes_on():
    """The certificate of block 2 committed block 1; then the power went."""
    state = restore(CONFIGS[0], [TermRecord(1, None, None)], CommittedTip(1, B1.block_hash, CQ2), [(2, B2)])
    engine = Engine(state=state)
    assert engine.effects(Commit) == [Commit(2, B2.block_hash, CQ2)]


def test_a_term_known_only_from_a_certificate():
    qc = make_qc(Kind.COMMIT, 6, 1, B1.block_hash)
    state = restore(CONFIGS[0], [TermRecord(2, 1, make_tc(1))], CommittedTip(1, B1.block_hash, qc), ())
    assert (state.cur_term, state.voted_for, state.proof) == (6, None, qc)
    # The log gets it before anything is signed in it: votes of a term that was never entered make no sense.
    assert [effect.record for effect in Engine(state=state).effects(Persist)] == [TermRecord(6, None, qc)]


# --- whatever comes -----------------------------------------------------------------------------


def test_status_is_json():
    engine = elected()
    engine.feed(Built(CHAIN_ID, 1, B1))
    report = status(engine.state, engine.now)
    assert json.loads(json.dumps(report)) == report
    assert report["role"] == "leader"
    assert report["quorum"] == 3
    assert status(initial(CONFIGS[1]), 0)["patience_left_ms"] is None


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 3) | st.none(), messages), max_size=8))
def test_no_message_makes_a_step_raise(stream):
    engine = Engine()
    for sender, message in stream:
        engine.receive(sender, message)
    assert engine.state.cur_term == 1


@pytest.mark.parametrize("seed", range(20))
def test_true_messages_in_any_order_make_no_step_raise(seed):
    """Everything that is validly signed here, shuffled, repeated, and to anybody."""
    rng = Random(seed)
    ec2 = make_ec(2, 3, {0: PQ1, 2: BASE, 3: BASE})
    pool = [
        P1,
        P2,
        P3,
        Prepared(PQ1),
        Prepared(PQ2),
        Committed(CQ1),
        Committed(CQ2),
        ShowEC(EC1),
        ShowEC(ec2),
    ]
    pool += [Proof(2, make_tc(1)), Proof(5, make_tc(4)), AskEC(1), AskEC(2), RequestVote(1, 2, None)]
    pool += [pre_vote(voter, term, make_tc(term - 1)) for voter in (1, 2, 3) for term in (2, 3)]
    pool += [make_propose(2, 1, 3, B1, ec2), make_propose(2, 2, 3, block(B1.block_hash, 2, 2), ec2)]
    pool += [
        Validated(1, 1, B1.block_hash, voter, block_sig(voter, "V", 1, 1, B1.block_hash), None)
        for voter in (1, 2, 3)
    ]
    events = [
        BlockAvailable(1, B1),
        BlockAvailable(2, B2),
        PendingWork(9),
        Censored(),
        Built(CHAIN_ID, 1, B1),
    ]
    events += [Checked(p.block_hash, ok) for p in (B1, B2, B3) for ok in (True, False)]
    events += [Synced(1, segment(B1), CQ1), Synced(None, segment(B1, B2), CQ2)]
    engine = Engine(CONFIGS[rng.choice((0, 1))])
    for _ in range(300):
        engine.now += rng.choice((0, 1, 50, 400))
        dice = rng.random()
        if dice < 0.6:
            message = rng.choice(pool)
            sender = getattr(message, "leader", None) or getattr(message, "cand", None) or rng.randint(0, 3)
            engine.receive(sender, message)
        elif dice < 0.8:
            engine.feed(rng.choice(events))
        elif engine.state.timers:
            engine.fire(rng.choice(list(engine.state.timers)))
    assert not engine.effects(Halt)
    assert engine.state.halted is None
