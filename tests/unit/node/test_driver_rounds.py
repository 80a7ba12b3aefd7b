"""The driver at the end of a round: an engine that goes on, blocks across rounds, and the order of it all."""

import asyncio

import pytest

from consensus.bft import statements
from consensus.bft.codec import decode_qc, encode_qc, frame
from consensus.bft.config import VoteSecret
from consensus.bft.evidence import encode_evidence
from consensus.bft.shown import Evidence, Signed, Vote
from consensus.bft.types import (
    Accuse,
    AskEC,
    Build,
    Built,
    Commit,
    Committed,
    Misbehaviour,
    PendingWork,
    Received,
    Retired,
    RoundRecord,
    SetTimer,
    Slash,
    Start,
    Timer,
)
from consensus.bft.wal import decode_record
from consensus.block import Block
from consensus.commitment import find_commitment
from consensus.errors import DecodeError, PeerFault, RuleError
from consensus.offences import carried_evidence
from consensus.rounds import reveal_chain
from consensus.transaction import outpoint
from contracts.governance.operations import CommitReveals
from node.bft_wire import BftPeering
from node.reveals import Reveals, next_generation
from p2p.messages import GetBlocks
from storage.wal import VoteLog

# ---- a real engine ------------------------------------------------------------------------------


async def reach_round(node, number):
    """Let the clock run on until a round has begun and has a block of its own."""
    while node.chain.round.number < number:
        node.clock.time_s += node.params.bft.round_s
        await node.ear.reach(node.chain.tip.height + 1)
    await node.ear.reach(node.chain.round.first_height)


@pytest.fixture
async def alone(make_node, kit, short1):
    """The only validator of a chain with short epochs, running."""
    node = make_node(short1, 0, clock=kit.RealTime())
    node.clock.time_s = short1.params.genesis_time_s + 1
    node.open_driver().start()
    await node.ear.reach(2)
    return node


@pytest.fixture
async def history(alone):
    """A chain of four rounds and more, whose maker has stopped."""
    await reach_round(alone, 4)
    alone.driver.stop()
    return alone


def log_round(node):
    """Return what the vote log on disk begins with."""
    log, found = VoteLog.open(node.path / "votes.wal")
    log.close()
    return decode_record(*found[0])


def replies(node):
    """Return what a peer answers to a node that asks for everything."""
    server = BftPeering(node.chain, node.mempool, node.clock, [])
    found, at = [], 1
    while at <= node.chain.tip.height:
        reply = server._blocks_reply(GetBlocks(at, 100))
        found.append((at, list(map(Block.parse, reply.blocks)), reply.certificate))
        at += len(reply.blocks)
    return found


async def test_a_validator_goes_from_round_to_round(history):
    chain = history.chain
    assert history.ear.errors == []
    begun = [fields for name, fields in history.ear.events if name == "round-begins"]
    assert [fields["round"] for fields in begun] == list(range(1, chain.round.number + 1))
    first = begun[0]["first_height"]
    assert begun[0] == {"round": 1, "epoch": 1, "first_height": first, "members": "grid", "me": 0}
    assert log_round(history) == RoundRecord(chain.round.number, chain.round.first_height)
    firsts = [fields["first_height"] for fields in begun]
    for height in range(1, chain.tip.height + 1):
        qc = decode_qc(history.store.certificate(height))
        assert (qc.height, qc.round) == (height, sum(first <= height for first in firsts))
    terms = [chain.block(history.store.block_hash(first)).header.nonce for first in firsts]
    assert terms == sorted(set(terms))
    assert len(history.links.validators) == len(firsts)
    assert history.driver.status()["round"] == chain.round.number
    assert (history.driver.status()["epoch"], history.driver.names) == (chain.round.epoch, ["grid"])


async def test_a_validator_comes_back_into_the_round(history, kit, short1):
    history.close()
    before = history.chain.tip.height
    history.__init__(history.path, short1, 0, clock=kit.RealTime())
    history.clock.time_s = history.chain.tip.time_s
    history.open_driver().start()
    await history.ear.reach(before + 1)
    assert history.driver.status()["learner"] is None
    await reach_round(history, history.chain.round.number + 1)
    assert history.ear.errors == []


async def test_a_crash_between_boundary_and_vote_log(alone, kit, short1, monkeypatch):
    def cut(state):
        raise OSError("the power is gone")

    monkeypatch.setattr(alone.driver._promises, "follow", cut)
    alone.clock.time_s += 10
    async with asyncio.timeout(kit.WAIT_S):
        while not alone.ear.errors:
            await asyncio.sleep(0)
    assert log_round(alone) == RoundRecord(0, 1)
    alone.close()
    alone.__init__(alone.path, short1, 0, clock=kit.RealTime())
    assert alone.chain.round.number == 1
    alone.clock.time_s = alone.chain.tip.time_s
    alone.open_driver().start()
    await alone.ear.reach(alone.chain.tip.height + 1)
    assert (alone.driver.status()["learner"], log_round(alone).round) == (None, 1)


async def test_block_sync_crosses_rounds_one_reply_at_a_time(history, make_node, short1):
    follower = make_node(short1)
    follower.open_driver().start()
    served = replies(history)
    assert len(served) == history.chain.round.number + 1
    for _, blocks, _ in served[:-1]:
        assert find_commitment(blocks[-1].txs[0]).next_set_hash is not None
        assert not any(find_commitment(block.txs[0]).next_set_hash for block in blocks[:-1])
    for first, blocks, certificate in served:
        assert follower.driver.take_sync(first, blocks, certificate)
    assert follower.chain.tip == history.chain.tip
    assert log_round(follower).round == history.chain.round.number
    assert follower.ear.errors == []


async def test_what_crosses_a_boundary_is_refused(history, make_node, short1):
    follower = make_node(short1)
    follower.open_driver().start()
    (first, own, own_qc), (_, other, other_qc), *_ = replies(history)
    with pytest.raises(RuleError, match="round 1, not 0"):
        follower.driver.take_sync(first, [*own, *other], other_qc)
    forged = encode_qc(decode_qc(other_qc)._replace(height=len(own) + 1))
    with pytest.raises(RuleError, match="round 1, not 0"):
        follower.driver.take_sync(first, [*own, other[0]], forged)
    assert follower.chain.tip.height == 0
    assert follower.driver.take_sync(first, own, own_qc)
    assert follower.driver.take_sync(first, own, own_qc)  # it came too late, which is nobody's fault
    late = encode_qc(decode_qc(own_qc)._replace(height=len(own) + 1))
    with pytest.raises(RuleError, match="sync-other-round"):
        follower.driver.take_sync(first, [*own, other[0]], late)
    assert (follower.chain.tip.height, follower.ear.errors) == (len(own), [])


async def test_messages_of_other_rounds_say_nothing(history, make_node, short1):
    follower = make_node(short1)
    follower.open_driver().start()
    await asyncio.sleep(0)
    for first, blocks, certificate in replies(history)[:2]:
        follower.driver.take_sync(first, blocks, certificate)
    await asyncio.sleep(0)
    receive, committed = follower.driver.receive, follower.chain.tip.height
    assert receive(0, (9).to_bytes(4, "little") + b"what nobody can read") is True
    assert receive(None, (9).to_bytes(4, "little")) is True  # nor does it matter from whom it is
    assert receive(None, (1).to_bytes(4, "little") + b"\xff") is False
    for payload in (b"", b"\x02", b"\x02\x00\x00", (2).to_bytes(4, "little") + b"\xff"):
        with pytest.raises(DecodeError):
            receive(0, payload)
    with pytest.raises(PeerFault, match="not-a-validator"):
        receive(None, frame(2, AskEC(1)))
    assert list(follower.driver._events) == []
    certificate = decode_qc(history.store.certificate(committed + 1))
    assert receive(None, frame(2, Committed(certificate))) is False
    assert list(follower.driver._events) == [Received(None, Committed(certificate))]


# ---- a scripted engine: order, and what is dropped -----------------------------------------------


@pytest.fixture
async def ending(make_node, short4, kit, monkeypatch):
    """Validator 0 of four with a scripted engine, two blocks before its round ends; ``end`` ends it."""
    node = make_node(short4, 0)
    node.clock.time_s = short4.params.genesis_time_s + 1
    node.open_driver()
    node.script = kit.Script()
    monkeypatch.setattr("node.driver.step", node.script.step)
    node.extend()
    node.clock.time_s += 10
    block = node.build()
    base = node.driver._state.commit_qc
    qc = base._replace(height=2, block_hash=block.hash, bitmap=b"\x01", sigs=(bytes(64),))
    node.boundary = Commit(2, block.hash, qc)
    node.order = []

    def spy(name, target, attribute):
        real = getattr(target, attribute)

        def noted(*given):
            node.order.append(name)
            return real(*given)

        monkeypatch.setattr(target, attribute, noted)

    spy("commit", node.chain, "commit")
    spy("sync", node.store, "sync")
    spy("log", node.vote_log, "rewrite")
    spy("links", node.links, "set_validators")

    async def run(*effects):
        node.script.queue = [effects]
        node.driver.post(Start())
        for _ in range(3):
            await asyncio.sleep(0)

    node.run = run
    return node


def contradiction(offender):
    return Evidence(offender, *(Signed(Vote.VALIDATED, 1, 1, bytes([at]) * 32, bytes(64)) for at in (1, 2)))


async def test_the_boundary_is_durable_before_the_log_and_the_log_before_the_engine(ending):
    now = ending.clock.ms
    ending.driver.receive(1, frame(0, AskEC(1)))
    await ending.run(
        SetTimer(Timer.SLOT, now + 50_000, 1),
        ending.boundary,
        SetTimer(Timer.TICK, now + 50_000, 2),
        Build(ending.boundary.block_hash, 3, 1, b"\x0f"),
        Retired("of no meaning any more"),
        Slash(contradiction(3)),
        Misbehaviour(2, "bad-vote-signature"),
    )
    assert ending.order == ["commit", "sync", "log", "links"]
    assert ending.driver._timers == {}
    assert not any(isinstance(event, Built) for event in ending.script.events)
    assert ending.links.punished == [(2, "bad-vote-signature")]
    first, *others = ending.script.events[-2:]
    assert (isinstance(first, Start), first.session is None, others) == (True, False, [PendingWork(0)])
    members = ending.chain.round.members
    assert ending.links.validators == [[member.identity_key for member in members]]
    founders = short_names(ending)
    name, told = ending.ear.alarms[0]
    assert (name, told["validator"]) == ("validator-contradicts-itself", founders[3])  # by the old order
    assert [(kept.round, kept.evidence) for kept in ending.driver.evidence] == [(0, contradiction(3))]
    assert len(ending.ear.alarms) == 1
    assert ending.driver.names == [member.name for member in members]
    assert ending.driver.own == [member.vote_key for member in members].index(ending.keys.vote_key)


def short_names(node):
    return [validator.name for validator in node.params.bft.validators]


@pytest.mark.parametrize(("asking", "started", "asks"), [(False, True, False), (True, True, True)])
async def test_only_who_voted_in_the_round_goes_on_without_asking(ending, asking, started, asks):
    ending.driver._state.asking, ending.driver._state.started = asking, started
    await ending.run(ending.boundary)
    [start] = [event for event in ending.script.events[1:] if isinstance(event, Start)]
    assert (start.session is not None) is asks


async def test_who_comes_by_block_sync_asks(ending):
    ending.driver._state.started = True
    block = ending.chain.block(ending.boundary.block_hash)
    ending.chain.trim(())
    ending.script.queue = [(ending.boundary,)]
    assert ending.driver.take_sync(2, [block], encode_qc(ending.boundary.qc))
    [start] = [event for event in ending.script.events if isinstance(event, Start)]
    assert start.session is not None


async def test_who_learns_while_catching_up_is_told_of_when_that_is_over(ending):
    block = ending.chain.block(ending.boundary.block_hash)
    ending.script.queue = [(Retired("old"), ending.boundary)]
    ending.driver.take_sync(2, [block], encode_qc(ending.boundary.qc))
    assert ending.ear.alarms == []  # that round is over
    qc = ending.boundary.qc._replace(round=1)
    child = ending.build(term=2)
    ending.script.queue = [(Commit(3, child.hash, qc), Retired("now"))]
    ending.driver.take_sync(3, [child], encode_qc(qc._replace(height=3)))
    assert ending.ear.alarms == []
    last = ending.build(term=2)
    await ending.run(Commit(4, last.hash, qc))
    await ending.run(Commit(4, last.hash, qc))
    assert ending.ear.alarms == [("validator-is-learner", {"reason": "now"})]


# ---- what leaders put into their blocks ----------------------------------------------------------


async def confirmed(node, tx):
    """Let the chain take a transaction."""
    node.add(tx)
    node.driver.report_work()
    async with asyncio.timeout(5):
        while node.mempool.count:
            node.ear.changed.clear()
            await node.ear.changed.wait()


def register(node, kit, chain, **other):
    """Return the registration of a reveal chain by the founder."""
    owner = kit.account(int.from_bytes(chain.keys[0].payout.reveal(), "big"))
    reveals = other.pop("reveals", None) or node.driver.reveals
    generation = next_generation(node.chain.state, node.params, node.keys.vote_key)
    made = reveals.chain(generation, 5)
    coin = other.pop("coin", outpoint(chain.genesis.txs[0].txid, 0))
    have = other.pop("have", chain.plan.founder_tokens)
    return kit.operate(coin, CommitReveals(made.top, 5, generation), payer=owner, have=have)


async def test_a_leader_reveals_and_the_seed_follows(alone, kit, short1):
    await confirmed(alone, register(alone, kit, short1))
    account = short1.params.bft.validators[0].payout_script
    assert reveal_chain(alone.chain.state, account).left == 5
    assert next_generation(alone.chain.state, alone.params, alone.keys.vote_key) == 1
    seeds = set()
    for left in (4, 3, 2, 1, 0):
        await reach_round(alone, alone.chain.round.number + 1)
        first = alone.chain.block(alone.store.block_hash(alone.chain.round.first_height))
        assert find_commitment(first.txs[0]).reveal is not None
        assert reveal_chain(alone.chain.state, account).left == left
        seeds.add(alone.chain.round.seed)
    await reach_round(alone, alone.chain.round.number + 1)
    first = alone.chain.block(alone.store.block_hash(alone.chain.round.first_height))
    assert find_commitment(first.txs[0]).reveal is None
    assert (len(seeds), alone.ear.alarms, alone.ear.errors) == (5, [], [])


async def test_who_cannot_reveal_does_not_lead(alone, kit, short1):
    foreign = Reveals(short1.stranger.vote, alone.chain.chain_id)
    await confirmed(alone, register(alone, kit, short1, reveals=foreign))
    alone.clock.time_s += 10
    async with asyncio.timeout(kit.WAIT_S):
        while not alone.ear.alarms:
            await asyncio.sleep(0.001)
    name, fields = alone.ear.alarms[0]
    assert (name, fields["generation"]) == ("reveal-unknown", 0)
    assert alone.chain.tip.height == alone.chain.round.first_height - 1
    assert alone.ear.errors == []


async def test_evidence_goes_into_the_next_block_once(alone, short1):
    electorate = alone.driver._state.config.electorate
    secret = VoteSecret(short1.keys[0].vote.reveal())
    shown = []
    for at in (1, 2):
        block_hash = bytes([at]) * 32
        digest = statements.block_vote(electorate, Vote.VALIDATED, 9, 9, block_hash)
        shown.append(Signed(Vote.VALIDATED, 9, 9, block_hash, secret.sign(digest)))
    alone.driver.evidence.add(Evidence(0, *shown), 1, 0)
    alone.driver.evidence.add(contradiction(0), 1, 0)  # proves nothing: no block may carry it
    height = alone.chain.tip.height
    await alone.ear.reach(height + 4)
    found = [carried_evidence(block.txs[0]) for block, _, _ in alone.ear.blocks]
    assert [each for each in found if each] == [(encode_evidence(*next(alone.driver.evidence.pairs())),)]
    assert alone.ear.errors == []


async def test_an_accusation_reaches_the_book_if_it_proves_something(make_node, chain4):
    node = make_node(chain4, 0)
    node.open_driver().start()
    await asyncio.sleep(0)
    node.driver._state.asking = False  # the others have said what they hold of it
    electorate = node.driver._state.config.electorate
    secret = VoteSecret(chain4.keys[2].vote.reveal())
    shown = []
    for at in (1, 2):
        digest = statements.block_vote(electorate, Vote.COMMIT, 9, 9, bytes([at]) * 32)
        shown.append(Signed(Vote.COMMIT, 9, 9, bytes([at]) * 32, secret.sign(digest)))
    for session, accusation in enumerate((contradiction(1), Evidence(2, *shown), Evidence(2, *shown))):
        node.driver.receive(1, frame(0, Accuse(0, accusation)))
        await asyncio.sleep(0)
        assert len(node.driver.evidence) == min(session, 1)
    assert node.links.punished == [(1, "bad-evidence-signature")]
    [(name, fields)] = node.ear.alarms
    assert (name, fields["validator"]) == ("validator-contradicts-itself", "provider-2")
