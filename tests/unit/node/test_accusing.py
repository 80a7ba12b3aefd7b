"""Evidence reaches every node: whoever was away, in another round, or has no vote; forged, it is charged."""

import asyncio

import pytest

from consensus.bft import statements
from consensus.bft.codec import decode, encode_qc, frame, unframe
from consensus.bft.config import Electorate, VoterSet, VoteSecret
from consensus.bft.evidence import encode_evidence
from consensus.bft.shown import Evidence, Signed, Vote
from consensus.bft.types import QC, Accuse, AskEC, Commit, Kind, Slash, Start
from consensus.errors import DecodeError, RuleError
from node.limits import EVIDENCE_REPEAT_MS


def contradiction(given, found, name, vote=Vote.VALIDATED, secret=None):
    """Two statements of a member of a round of the chain ``given``, signed with its own key."""
    place = [member.name for member in found.members].index(name)
    keys = next(keys for keys in given.keys if keys.vote_key == found.members[place].vote_key)
    secret = VoteSecret((secret or keys.vote).reveal())
    electorate = Electorate(given.genesis.hash, VoterSet.of(found.validator_set), found.base(bytes(32)))
    shown = []
    for at in (1, 2):
        digest = statements.block_vote(electorate, vote, 9, 9, bytes([at]) * 32)
        shown.append(Signed(vote, 9, 9, bytes([at]) * 32, secret.sign(digest)))
    return Evidence(place, *shown)


def told(node):
    """Return what the node has told all since this was asked, as (round of the frame, accusation)."""
    sent = [unframe(payload) for payload in node.links.broadcasts]
    node.links.broadcasts.clear()
    read = [(number, decode(body)) for number, body in sent]
    return [(number, message) for number, message in read if isinstance(message, Accuse)]


def kept(node):
    return [(each.round, each.evidence) for each in node.driver.evidence]


async def settled():
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
async def ruled(make_node, short4, kit, monkeypatch):
    """Validator 0 of four with a scripted engine; ``go_on`` commits a block ``later_s`` after the last."""
    node = make_node(short4, 0)
    node.clock.time_s = short4.params.genesis_time_s + 1
    node.open_driver()
    node.script = kit.Script()
    monkeypatch.setattr("node.driver.step", node.script.step)

    async def go_on(later_s=0, *effects):
        node.clock.time_s += later_s
        found, height = node.chain.round, node.chain.tip.height + 1
        block = node.build(term=found.base_term + 1)
        qc = QC(Kind.COMMIT, found.number, found.base_term + 1, height, block.hash, b"\x01", (bytes(64),))
        node.script.queue = [(Commit(height, block.hash, qc), *effects)]
        node.driver.post(Start())
        await settled()
        assert (node.chain.tip.height, node.ear.errors) == (height, [])
        return block, qc

    node.go_on = go_on
    return node


async def test_what_no_block_carries_is_told_from_time_to_time(ruled, short4):
    evidence = contradiction(short4, ruled.chain.round, "provider-2")
    await ruled.go_on(0, Slash(evidence))
    assert told(ruled) == []  # who found it has told it
    await ruled.go_on()
    assert told(ruled) == []
    for _ in range(2):
        ruled.clock.ms += EVIDENCE_REPEAT_MS
        await ruled.go_on()
        assert told(ruled) == [(0, Accuse(0, evidence))]
        await ruled.go_on()
        assert told(ruled) == []
    ruled.clock.ms += EVIDENCE_REPEAT_MS
    carried = ruled.chain.build(
        ruled.chain.tip.block_hash,
        lambda exclude: [],
        time_s=ruled.clock.now_s(),
        term=1,
        proposer=0,
        last_bitmap=b"\x0f",
        evidence=[encode_evidence(0, evidence)],
    )
    qc = QC(Kind.COMMIT, 0, 1, ruled.chain.tip.height + 1, carried.block.hash, b"\x01", (bytes(64),))
    ruled.script.queue = [(Commit(qc.height, qc.block_hash, qc),)]
    ruled.driver.post(Start())
    await settled()
    assert ruled.chain.tip.block_hash == carried.block.hash
    ruled.clock.ms += EVIDENCE_REPEAT_MS
    await ruled.go_on()
    assert (told(ruled), ruled.ear.errors) == ([], [])
    assert kept(ruled) == [(0, evidence)]  # bft.evidence still shows it


async def test_a_node_that_comes_back_tells_what_it_kept(ruled, short4):
    evidence = contradiction(short4, ruled.chain.round, "provider-2")
    ruled.driver.evidence.add(evidence, 1, 0)
    await ruled.go_on()
    assert told(ruled) == [(0, Accuse(0, evidence))]


async def test_a_new_round_hears_at_once_of_the_last(ruled, short4):
    founders = ruled.chain.round
    evidence = contradiction(short4, founders, "provider-2")
    await ruled.go_on()
    await ruled.go_on(10, Slash(evidence))
    assert ruled.chain.round.number == 1
    assert told(ruled) == [(0, Accuse(0, evidence))]
    for _ in range(3):
        await ruled.go_on(10)
        told(ruled)
    await ruled.go_on(10)
    assert (ruled.chain.round.epoch, told(ruled)) == (5, [])  # too old by now


async def test_who_catches_up_tells_nothing(ruled, short4):
    ruled.driver.evidence.add(contradiction(short4, ruled.chain.round, "provider-2"), 1, 0)
    block = ruled.build()
    qc = QC(Kind.COMMIT, 0, 1, 1, block.hash, b"\x01", (bytes(64),))
    ruled.script.queue = [(Commit(1, block.hash, qc),)]
    assert ruled.driver.take_sync(1, [block], encode_qc(qc))
    assert told(ruled) == []


async def test_evidence_of_an_earlier_round_is_taken_once_from_anybody(ruled, short4):
    founders = ruled.chain.round
    await ruled.go_on(10)
    evidence = contradiction(short4, founders, "provider-2")
    receive = ruled.driver.receive
    for wrong, code in (
        (
            contradiction(short4, founders, "provider-2", secret=short4.stranger.vote),
            "bad-evidence-signature",
        ),
        (evidence._replace(offender=7), "bad-evidence-form"),
    ):
        for sender in (None, 1):
            with pytest.raises(RuleError, match=code):
                receive(sender, frame(0, Accuse(0, wrong)))
    with pytest.raises(RuleError, match="bad-evidence-form"):
        receive(1, frame(0, Accuse(1, evidence)))
    with pytest.raises(DecodeError):
        receive(1, frame(0, Accuse(0, evidence))[:-1])
    assert receive(1, frame(0, AskEC(1))) is False  # all else of that round is over
    assert (kept(ruled), ruled.ear.alarms) == ([], [])
    for _ in range(2):
        assert receive(None, frame(0, Accuse(0, evidence))) is False
        assert kept(ruled) == [(0, evidence)]
    assert (
        receive(1, frame(0, Accuse(0, contradiction(short4, founders, "provider-2", Vote.COMMIT)))) is False
    )
    [(name, fields)] = ruled.ear.alarms
    assert (name, fields["validator"], len(kept(ruled))) == (
        "validator-contradicts-itself",
        "provider-2",
        1,
    )
    assert ruled.chain.pending_evidence(ruled.chain.tip.block_hash, ruled.driver.evidence.pairs()) == (
        encode_evidence(0, evidence),
    )


async def test_what_is_too_old_or_of_a_round_to_come_is_nobodys_fault(ruled, short4):
    founders = ruled.chain.round
    for _ in range(3):
        await ruled.go_on(10)
    forged = contradiction(short4, founders, "provider-2", secret=short4.stranger.vote)
    evidence = contradiction(short4, founders, "provider-2")
    assert ruled.chain.round.epoch == 3
    for each in (forged, evidence):
        assert ruled.driver.receive(None, frame(0, Accuse(0, each))) is False
        assert ruled.driver.receive(None, frame(9, Accuse(9, each))) is True
    assert kept(ruled) == []


@pytest.mark.parametrize("me", [None, 0])
async def test_nodes_without_a_vote_keep_evidence_too(make_node, chain4, me):
    """An observer, and a validator that has not heard yet what the others hold of it."""
    node = make_node(chain4, me)
    node.open_driver().start()
    await settled()
    assert not node.driver._state.votes
    evidence = contradiction(chain4, node.chain.round, "provider-2")
    with pytest.raises(RuleError, match="bad-evidence-signature"):
        node.driver.receive(None, frame(0, Accuse(0, evidence._replace(offender=1))))
    node.driver.receive(1, frame(0, Accuse(0, evidence._replace(offender=1))))
    await settled()
    assert (kept(node), node.links.punished) == ([], [(1, "bad-evidence-signature")])
    for sender in (None, 1):
        node.driver.receive(sender, frame(0, Accuse(0, evidence)))
        await settled()
    assert (kept(node), len(node.ear.alarms)) == ([(0, evidence)], 1)
    assert node.ear.errors == []
