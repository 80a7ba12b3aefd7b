"""The end of a round and the beginning of the next, one engine under the test's hands."""

from dataclasses import replace

import pytest

from consensus.bft import certificates, statements
from consensus.bft.config import VoterSet
from consensus.bft.state import CommittedTip, Role, checkpoint, initial, next_round, restore
from consensus.bft.status import status
from consensus.bft.types import (
    QC,
    Ask,
    Build,
    Built,
    Check,
    Checked,
    Commit,
    Committed,
    CommitVote,
    Fsync,
    Halt,
    Kind,
    LearnerRecord,
    LockRecord,
    Misbehaviour,
    PendingWork,
    Prepared,
    PreVote,
    Propose,
    Report,
    RequestVote,
    RoundRecord,
    Start,
    TermRecord,
    Timer,
    TimerFired,
    Validated,
    ValRecord,
    VoteGranted,
)
from consensus.bft.wal import decode_record, encode_record
from consensus.errors import RuleError
from consensus.validators import set_hash
from tests.simulation.cluster import CHAIN_ID, make_proposal
from tests.unit.consensus_bft.bftkit import (
    B1,
    BASE,
    CONFIGS,
    CQ1,
    P1,
    PQ1,
    Engine,
    block,
    block_sig,
    elected,
    make_ec,
    make_propose,
    make_qc,
    make_tc,
    pre_vote,
)

NEXT = b"\x0e" * 32
LAST = make_proposal(B1.block_hash, 2, 1, b"last", next_set=NEXT)
"""Ends round 0 at height 2; proposed first in term 1."""
CHILD = block(LAST.block_hash, 3, 1)
P_LAST = make_propose(1, 2, 1, LAST, PQ1)
PQ_LAST = make_qc(Kind.PREPARE, 1, 2, LAST.block_hash)
CQ_LAST = make_qc(Kind.COMMIT, 1, 2, LAST.block_hash)
P_CHILD = make_propose(1, 3, 1, CHILD, PQ_LAST, CQ1)

NEW_BASE = QC(Kind.PREPARE, 1, 1, 2, LAST.block_hash, b"", ())


def config_of_round_1(me=0):
    old = CONFIGS[0].validator_set
    keys = (*old.keys[2:], *old.keys[:2])
    voters = VoterSet(1, 3, set_hash(1, 3, keys), keys)
    secret = None if me is None else CONFIGS[(me + 2) % 4].secret
    return replace(CONFIGS[0], validator_set=voters, me=me, secret=secret, base=NEW_BASE)


# --- which blocks end a round -------------------------------------------------------------------


def test_the_commitment_of_the_coinbase_ends_a_round():
    assert LAST.ends_round
    assert LAST.ends_round  # read once
    assert not B1.ends_round  # a coinbase that cannot be read
    plain = make_proposal(CHAIN_ID, 1, 1, b"", next_set=NEXT).coinbase[:-1]
    assert not replace(B1, coinbase=plain).ends_round


def test_reading_the_coinbase_does_not_make_another_block():
    twin = replace(LAST)
    assert LAST.ends_round
    assert twin == LAST
    assert hash(twin) == hash(LAST)


# --- the drained pipeline -----------------------------------------------------------------------


def test_a_leader_does_not_extend_the_last_block():
    engine = elected(1)
    engine.feed(Built(CHAIN_ID, 1, B1))
    engine.feed(PendingWork(10_000))
    for voter in (0, 2):
        engine.receive(voter, _validated(voter, B1, 1))
    [build] = engine.effects(Build)
    assert build.height == 2
    engine.feed(Built(B1.block_hash, 1, LAST))
    for voter in (0, 2):
        engine.receive(voter, _validated(voter, LAST, 2, _commit(voter, B1, 1)))
    assert engine.state.committed_height == 1
    assert engine.sent(Prepared) == [Prepared(engine.state.prepared)]
    assert not engine.effects(Build)
    engine.now += 10_000
    engine.receive(0, _commit(0, LAST, 2))
    assert not engine.effects(Build)
    assert not engine.effects(Commit)
    engine.receive(2, _commit(2, LAST, 2))
    [commit] = engine.effects(Commit)
    assert commit.block_hash == LAST.block_hash
    # The certificate leaves in the same step: the shell turns to the next round after it.
    assert engine.sent(Committed) == [Committed(commit.qc)]
    assert not engine.effects(Build)
    assert engine.state.ended


def _validated(voter, proposal, height, commit=None):
    sig = block_sig(voter, "V", 1, height, proposal.block_hash)
    return Validated(1, height, proposal.block_hash, voter, sig, commit)


def _commit(voter, proposal, height):
    return CommitVote(
        1, height, proposal.block_hash, voter, block_sig(voter, "C", 1, height, proposal.block_hash)
    )


def follower_with_last():
    engine = Engine()
    engine.validate(P1)
    engine.validate(P_LAST)
    assert engine.sent(Validated)
    return engine


def test_a_follower_does_not_vote_for_a_child_of_the_last_block():
    """It does vote for the commit of the last block itself, at once: no Validated will carry that vote."""
    engine = follower_with_last()
    engine.receive(1, P_CHILD)
    assert not engine.sent(Validated)
    assert not engine.effects(Check)
    assert engine.state.pending is None
    [vote] = engine.sent(CommitVote)
    assert (vote.height, vote.block_hash) == (2, LAST.block_hash)
    assert engine.effects(Fsync)
    assert engine.state.lock == PQ_LAST
    # Again: the same vote, and still none for the child.
    engine.receive(1, P_CHILD)
    assert engine.sent(CommitVote) == [vote]
    assert engine.state.val.height == 2


def test_a_last_block_that_only_one_node_prepared_is_certified_again():
    """A new leader of the same round re-proposes the last block; that is no child of it."""
    engine = follower_with_last()
    engine.receive(1, Prepared(PQ_LAST))
    ec = make_ec(2, 2, {0: PQ_LAST, 1: BASE, 2: BASE})
    engine.receive(2, make_propose(2, 2, 2, LAST, ec, CQ1))
    [vote] = engine.sent(Validated)
    assert (vote.term, vote.height) == (2, 2)


# --- the end ------------------------------------------------------------------------------------


def ended():
    engine = follower_with_last()
    engine.receive(1, Committed(CQ_LAST))
    assert [commit.height for commit in engine.effects(Commit)] == [1, 2]
    assert engine.state.ended
    return engine


def test_nothing_moves_an_engine_whose_round_has_ended():
    engine = ended()
    before = engine.state
    third = make_qc(Kind.COMMIT, 1, 3, CHILD.block_hash)
    for event in (
        lambda: engine.receive(1, P_CHILD),
        lambda: engine.receive(2, RequestVote(2, 2, make_tc(1))),
        lambda: engine.receive(3, pre_vote(3, 5, make_tc(4))),
        lambda: engine.receive(1, Committed(third)),
        lambda: engine.feed(TimerFired(Timer.PROGRESS, before.timers[Timer.PROGRESS].token)),
        lambda: engine.fire(Timer.TICK),
    ):
        assert event() == ()
    assert engine.state is before
    assert status(before, engine.now)["ended"]


def test_a_proposal_that_brings_the_last_certificate_is_not_looked_at():
    """A leader that goes on shows the commit of the last block with its child."""
    engine = follower_with_last()
    engine.receive(1, replace(P_CHILD, commit_qc=CQ_LAST))
    assert [commit.height for commit in engine.effects(Commit)] == [1, 2]
    assert not engine.effects(Check)
    assert not engine.sent(Validated)


def test_a_leader_whose_tenure_ends_with_the_round_suspects_nobody():
    quick = replace(CONFIGS[0].timing, tenure_blocks=2)
    engine = Engine(replace(CONFIGS[0], timing=quick))
    engine.validate(P1)
    engine.validate(P_LAST)
    engine.receive(1, Committed(CQ_LAST))
    assert engine.state.ended
    assert not engine.sent(PreVote)


def test_a_certified_child_of_the_last_block_is_a_reason_to_stop():
    engine = follower_with_last()
    engine.state.blocks = {
        **engine.state.blocks,
        CHILD.block_hash: engine.state.blocks[LAST.block_hash]._replace(height=3, proposal=CHILD),
    }
    engine.receive(1, Committed(make_qc(Kind.COMMIT, 1, 3, CHILD.block_hash)))
    assert engine.effects(Halt)
    assert not engine.effects(Commit)


# --- the next round -----------------------------------------------------------------------------


def test_the_next_round_starts_from_nothing_but_the_last_block():
    engine = ended()
    engine.state.work = 7
    config = config_of_round_1()
    state = next_round(engine.state, config)
    assert (state.cur_term, state.proof, state.voted_for) == (2, None, None)
    assert (state.committed_height, state.committed_hash, state.commit_qc) == (2, LAST.block_hash, NEW_BASE)
    assert state.lock == NEW_BASE
    assert state.val == ValRecord(1, 2, LAST.block_hash)
    assert (state.work, state.fresh, state.resumed, state.ended, state.started) == (
        7,
        True,
        False,
        False,
        False,
    )
    assert not state.blocks
    assert not state.seen


def test_timers_of_the_old_engine_fire_for_nobody():
    engine = ended()
    late = {name: armed.token for name, armed in engine.state.timers.items()}
    engine.state = next_round(engine.state, config_of_round_1())
    engine.feed(Start())
    before = engine.state
    for name, token in late.items():
        assert engine.feed(TimerFired(name, token)) == ()
    assert engine.state.timers == before.timers


def in_round_1(me=0, session=None):
    engine = ended()
    engine.state = next_round(engine.state, config_of_round_1(me))
    engine.feed(Start(session))
    return engine


def sign_1(me, kind, *fields):
    config = config_of_round_1(me)
    return config.secret.sign(kind(config.electorate, *fields))


def test_a_leader_of_the_new_round_builds_on_the_last_block():
    engine = in_round_1(me=1)
    engine.fire(Timer.SLOT)
    assert engine.sent(RequestVote) == [RequestVote(2, 1, None)]
    for voter in (0, 2):
        fields = 2, 1, NEW_BASE.term, NEW_BASE.height, NEW_BASE.block_hash
        sig = sign_1(voter, statements.grant, *fields)
        engine.receive(voter, VoteGranted(2, 1, voter, NEW_BASE, sig))
    assert engine.state.role is Role.LEADER
    [build] = engine.effects(Build)
    assert (build.parent_hash, build.height, build.term) == (LAST.block_hash, 3, 2)
    assert build.last_bitmap == b"\x00"
    first = make_proposal(LAST.block_hash, 3, 2, b"first")
    engine.feed(Built(LAST.block_hash, 2, first))
    [propose] = engine.sent(Propose)
    # The base has no signatures: nobody is shown it as the certificate of a commit.
    assert propose.commit_qc is None
    assert propose.justify.high == NEW_BASE


def test_the_base_is_never_shown_as_a_certificate():
    engine = in_round_1()
    for _ in range(12):
        engine.fire(Timer.TICK)
        assert not engine.sent(Committed)
    sig = sign_1(1, statements.pre_vote, 2)
    engine.receive(1, PreVote(2, 1, sig, None, 0))
    assert not engine.sent(Committed)
    engine.receive(1, Ask(9, 0))
    assert not engine.sent(Committed)
    [answer] = engine.sent(Report)
    assert (answer.committed_height, answer.statements, answer.grant) == (2, (), None)


def test_votes_and_certificates_of_the_old_round_mean_nothing_in_the_new():
    engine = in_round_1()
    for message in (
        Prepared(PQ_LAST),
        Committed(CQ_LAST),
        make_propose(2, 3, 1, make_proposal(LAST.block_hash, 3, 2, b""), make_ec(2, 1)),
        pre_vote(1, 2, None),
    ):
        [charged] = engine.receive(1, message)
        assert isinstance(charged, Misbehaviour)
    assert engine.state.cur_term == 2


def test_the_base_proves_no_term_and_no_commit():
    electorate = config_of_round_1().electorate
    certificates.check_qc(electorate, NEW_BASE, Kind.PREPARE)
    certificates.check_term_proof(electorate, 2, None)
    for broken in (
        lambda: certificates.check_qc(electorate, NEW_BASE._replace(kind=Kind.COMMIT), Kind.COMMIT),
        lambda: certificates.check_qc(electorate, NEW_BASE._replace(term=2), Kind.PREPARE),
        lambda: certificates.check_qc(electorate, BASE, Kind.PREPARE),
        lambda: certificates.check_term_proof(electorate, 1, NEW_BASE),
        lambda: certificates.check_term_proof(electorate, 1, None),
        lambda: certificates.check_term_proof(electorate, 3, None),
    ):
        with pytest.raises(RuleError):
            broken()


# --- the log ------------------------------------------------------------------------------------

TIP_2 = CommittedTip(2, LAST.block_hash, CQ_LAST)
FIRST = make_proposal(LAST.block_hash, 3, 2, b"first")
TIP_3 = CommittedTip(
    3, FIRST.block_hash, QC(Kind.COMMIT, 1, 2, 3, FIRST.block_hash, b"\x07", (bytes(64),) * 3)
)
OLD = (
    RoundRecord(0, 1),
    TermRecord(9, 2, make_tc(8)),
    ValRecord(1, 2, LAST.block_hash),
    LockRecord(PQ_LAST),
    LearnerRecord("of the old round"),
)


def saved(records):
    return [decode_record(*encode_record(record)) for record in records]


def test_every_log_says_its_round_first():
    assert checkpoint(initial(CONFIGS[0]))[0] == RoundRecord(0, 1)
    kept = checkpoint(initial(config_of_round_1()))
    assert kept[0] == RoundRecord(1, 3)
    assert sum(isinstance(record, RoundRecord) for record in kept) == 1


@pytest.mark.parametrize(
    "records", [OLD, OLD[1:], OLD[:1], ()], ids=["old", "nameless", "only-round", "empty"]
)
def test_records_of_an_earlier_round_promise_nothing(records):
    """Not even that its writer was a learner; its own certificate is no certificate of the new round."""
    state = restore(config_of_round_1(), saved(records), TIP_2, ())
    assert (state.cur_term, state.voted_for, state.lock) == (2, None, NEW_BASE)
    assert (state.commit_qc, state.val.rank) == (NEW_BASE, NEW_BASE.rank)
    assert (state.fresh, state.resumed, state.learner) == (True, False, None)
    assert state.config.me == 0


def test_a_log_that_fell_behind_by_a_round_does_not_vote():
    """The log is rewritten before the first block of a round: it was lost, or an old one was put back."""
    state = restore(config_of_round_1(), saved(OLD[:4]), TIP_3, ())
    assert state.learner is not None
    assert "earlier round" in state.learner
    assert state.config.me is None
    follower = restore(config_of_round_1(None), saved(OLD[:4]), TIP_3, ())
    assert follower.learner is None


def test_without_a_log_a_node_above_the_base_does_not_lead_in_its_first_term():
    assert restore(config_of_round_1(), (), TIP_3, ()).resumed
    assert not restore(config_of_round_1(), (), TIP_2, ()).resumed


def test_records_of_this_round_are_kept_promises():
    records = saved(
        (RoundRecord(1, 3), TermRecord(4, 1, None), ValRecord(2, 3, FIRST.block_hash), LearnerRecord("why"))
    )
    state = restore(config_of_round_1(), records[:3], TIP_2, [(3, FIRST)])
    assert (state.cur_term, state.voted_for, state.val.height) == (4, 1, 3)
    assert (state.fresh, state.resumed) == (False, True)
    assert restore(config_of_round_1(), records, TIP_2, ()).learner == "why"


@pytest.mark.parametrize(
    "records",
    [
        (RoundRecord(2, 9), TermRecord(5, None, None)),
        (RoundRecord(2, 3), TermRecord(5, None, None)),
        (RoundRecord(1, 4),),
        (RoundRecord(1, 3), TermRecord(2, None, None), RoundRecord(1, 3)),
        (TermRecord(1, None, None), RoundRecord(1, 3)),
    ],
    ids=["later", "later-there", "other-height", "twice", "not-first"],
)
def test_a_log_that_cannot_be_of_this_round_is_refused(records):
    with pytest.raises(RuleError) as caught:
        restore(config_of_round_1(), saved(records), TIP_2, ())
    assert caught.value.code == "bad-wal"


def test_a_round_needs_its_base():
    with pytest.raises(ValueError, match="committed is 1"):
        restore(config_of_round_1(), (), CommittedTip(1, B1.block_hash, CQ1), ())


def test_a_new_member_asks_and_then_votes():
    engine = in_round_1(session=11)
    assert engine.sent(Ask) == [Ask(11, 2)]
    for peer in (1, 2, 3):
        assert engine.state.asking
        engine.receive(peer, Report(11, 2, 2, (), None))
    assert not engine.state.asking
    assert Timer.SLOT in engine.state.timers


def test_a_check_of_the_old_round_is_answered_too_late():
    engine = in_round_1()
    assert engine.feed(Checked(LAST.block_hash, True)) == ()
    assert engine.feed(Built(B1.block_hash, 1, LAST)) == ()
