"""Whom a leader reports in its blocks: from that the chain decides who is absent."""

from consensus.bft.certificates import members_of
from consensus.bft.shown import Vote
from consensus.bft.types import Build, Built, Checked, CommitVote, PendingWork, Validated
from tests.simulation.cluster import CHAIN_ID
from tests.unit.consensus_bft.bftkit import block, block_sig, elected

TERM = 1


def validated(voter, height, block_hash, parent):
    commit = None
    if height > 1:
        sig = block_sig(voter, Vote.COMMIT, TERM, height - 1, parent)
        commit = CommitVote(TERM, height - 1, parent, voter, sig)
    sig = block_sig(voter, Vote.VALIDATED, TERM, height, block_hash)
    return Validated(TERM, height, block_hash, voter, sig, commit)


def lead(blocks, late):
    """Lead under load; yield who is reported. ``late(engine, vote)`` delivers what validator 3 answers."""
    engine, parent = elected(0), CHAIN_ID
    engine.feed(PendingWork(100_000))
    for height in range(1, blocks + 1):
        made = block(parent, height, TERM)
        engine.now += 20
        engine.feed(Built(parent, TERM, made))
        engine.feed(Checked(made.block_hash, True))
        effects = []
        for voter in (1, 2):
            effects += engine.receive(voter, validated(voter, height, made.block_hash, parent))
        late(engine, validated(3, height, made.block_hash, parent))
        engine.feed(PendingWork(100_000))
        (build,) = [effect for effect in effects if isinstance(effect, Build)]
        yield members_of(build.last_bitmap)
        parent = made.block_hash


def test_who_votes_for_every_block_but_is_always_last_is_reported():
    """With enough work the leader builds as soon as it has q votes, and the fourth comes after that."""
    seen = list(lead(5, lambda engine, vote: engine.receive(3, vote)))
    assert seen == [(0, 1, 2)] + 4 * [(0, 1, 2, 3)]


def test_who_is_silent_is_not_reported_whatever_others_say_of_it():
    assert set(lead(5, lambda engine, vote: None)) == {(0, 1, 2)}
    assert set(lead(5, lambda engine, vote: engine.receive(2, vote))) == {(0, 1, 2)}


def test_an_answer_is_reported_once():
    answers = iter([True] + 4 * [False])
    seen = list(lead(5, lambda engine, vote: next(answers) and engine.receive(3, vote)))
    assert seen == [(0, 1, 2), (0, 1, 2, 3)] + 3 * [(0, 1, 2)]
