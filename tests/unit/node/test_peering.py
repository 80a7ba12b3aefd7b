"""What the node says to its peers, over a network that only takes notes."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from cext import sha256d
from consensus.bft.codec import decode_qc, encode_qc
from consensus.bft.config import genesis_base
from consensus.errors import PeerFault, RuleError
from consensus.transaction import outpoint
from node import peering as module
from node.admission import Job
from node.bft_wire import BftPeering
from node.chainstate import ChainState
from p2p.api import Peer
from p2p.limits import MAX_BLOCK_BYTES, SYNC_GRACE_MS
from p2p.messages import (
    KIND_BLOCK,
    KIND_TX,
    Bft,
    Blocks,
    Body,
    GetBlocks,
    GetBody,
    GetData,
    GetTxs,
    Hello,
    Inv,
    NotFound,
    Status,
    Tx,
    Txs,
)


class FakeNetwork:
    def __init__(self):
        self.to_peer = []
        self.to_identity = []
        self.broadcasts = []
        self.charged = []

    def send_to(self, peer, message):
        self.to_peer.append((peer, message))
        return True

    def send(self, identity, message):
        self.to_identity.append((identity, message))
        return True

    def broadcast(self, message):
        self.broadcasts.append(message)
        return 1

    def penalise(self, peer, code):
        self.charged.append((peer, code))

    def protect(self, identities):
        self.protected = list(identities)

    def room(self, peer):
        return 1 << 23

    def take(self):
        sent, self.to_peer = self.to_peer, []
        return sent


class FakeDriver:
    """Takes notes; ``verdict`` answers block sync."""

    def __init__(self):
        self.received, self.supplied, self.bodies, self.synced = [], [], [], []
        self.verdict = True
        self.is_ahead = False

    def receive(self, validator, payload):
        self.received.append((validator, payload))
        return self.is_ahead

    def supply(self, txs):
        self.supplied += txs

    def take_body(self, block):
        self.bodies.append(block)

    def take_sync(self, *given):
        self.synced.append(given)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


@pytest.fixture
def world(make_node, chain4):
    node = make_node(chain4, 0)
    identities = [validator.identity_key for validator in chain4.params.bft.validators]
    node.peering = BftPeering(node.chain, node.mempool, node.clock, identities)
    node.network, node.driver_notes = FakeNetwork(), FakeDriver()
    node.peering.attach(node.network, node.driver_notes, node.open_admission())
    node.identities = identities
    return node


def peer(node, number, identity=None, height=0):
    """Return a peer that has said hello; ``identity`` is the index of a validator, or bytes."""
    key = node.identities[identity] if isinstance(identity, int) else identity or bytes([number]) * 32
    hello = Hello(1, node.chain.chain_id, key, height, bytes(32), 1, "test", 0, 0)
    made = Peer(number, key, f"127.0.0.1:{number}", False, False, hello)
    node.peering.on_peer_ready(made)
    return made


def test_validators_are_known_by_identity(world):
    stranger, second, third = peer(world, 1), peer(world, 2, 2), peer(world, 3, 1)
    assert world.peering.connected() == [1, 2]
    for each in (stranger, second):
        world.peering.on_message(each, Bft(b"payload"))
    assert world.driver_notes.received == [(None, b"payload"), (2, b"payload")]
    newer = peer(world, 9, 2)
    world.peering.on_peer_lost(second, "duplicate")
    assert world.peering.connected() == [1, 2]
    world.peering.punish(2, "bad-vote-signature")
    world.peering.punish(None, "x")
    world.peering.punish(3, "not here")
    assert world.network.charged == [(newer.id, "bad-vote-signature")]
    world.peering.on_peer_lost(third, "gone")
    assert world.peering.connected() == [2]


def test_a_new_round_gives_the_indices_another_meaning(world):
    second, third, stranger = peer(world, 1, 1), peer(world, 2, 2), peer(world, 3)
    assert world.peering.connected() == [1, 2]
    world.peering.set_validators([stranger.identity, world.identities[2], world.identities[0]])
    assert world.peering.connected() == [0, 1]
    for each in (second, third, stranger):
        world.peering.on_message(each, Bft(b"payload"))
    assert [validator for validator, _ in world.driver_notes.received] == [None, 1, 0]
    world.peering.punish(0, "bad-vote-signature")
    world.peering.punish(2, "not connected")
    assert world.network.charged == [(stranger.id, "bad-vote-signature")]
    assert world.peering.send(2, b"vote")
    assert world.network.to_identity == [(world.identities[0], Bft(b"vote"))]
    world.peering.on_peer_lost(third, "gone")
    assert world.peering.connected() == [0]


def test_members_and_alternates_of_the_round_have_a_place(world, monkeypatch):
    assert world.network.protected == world.identities
    members = world.params.bft.validators
    following = replace(world.chain.round, number=1, members=members[2:], alternates=members[:1])
    monkeypatch.setattr(ChainState, "round", following)
    world.peering.set_validators([member.identity_key for member in members[2:]])
    assert world.network.protected == [*world.identities[2:], world.identities[0]]


def test_who_speaks_of_a_later_round_is_asked_for_blocks_at_once(world):
    ahead = peer(world, 1, 1)
    world.driver_notes.is_ahead = True
    world.peering.on_message(ahead, Bft(b"payload"))
    assert world.network.take() == [(ahead.id, GetBlocks(1, 1))]


def test_a_reply_ends_where_the_round_ends(make_node, short4):
    node = make_node(short4, 0)
    sizes = (2, 3, 2)
    segments = [segment for size in sizes for segment in node.grow(1, size=size)]
    segments += node.grow(0, above=2)
    peering = BftPeering(node.chain, node.mempool, node.clock, [])
    at = 1
    for blocks, certificate in segments:
        for skipped in range(len(blocks)):
            left = blocks[skipped:]
            asked = GetBlocks(at + skipped, 50)
            assert peering._blocks_reply(asked) == Blocks(at + skipped, [b.raw for b in left], certificate)
        at += len(blocks)
    assert peering._blocks_reply(GetBlocks(at, 50)) == Blocks(at, [], b"")


def test_links_of_the_engine(world):
    assert world.peering.send(3, b"vote")
    assert world.peering.ask_txs(1, bytes(32), [b"w" * 32])
    assert world.peering.ask_body(2, bytes(32))
    assert world.network.to_identity == [
        (world.identities[3], Bft(b"vote")),
        (world.identities[1], GetTxs(bytes(32), [b"w" * 32])),
        (world.identities[2], GetBody(bytes(32))),
    ]
    world.peering.broadcast(b"propose")
    assert world.network.broadcasts == [Bft(b"propose")]


# ---- transactions ------------------------------------------------------------------------------


def test_relayed_transactions_go_to_admission_once(world, kit, chain4):
    source = peer(world, 1)
    txs = [kit.pay(chain4.coin(at)) for at in range(2)]
    world.peering.on_message(source, Tx([tx.raw for tx in txs]))
    world.peering.on_message(source, Tx([txs[0].raw]))
    assert world.admission.backlog == 2


def test_one_that_does_not_parse_is_charged_and_the_rest_is_taken(world, kit, chain4):
    source = peer(world, 1)
    with pytest.raises(PeerFault):
        world.peering.on_message(source, Tx([b"\x00" * 20, kit.pay(chain4.coin(0)).raw]))
    assert world.admission.backlog == 1


def test_what_admission_cannot_hold_may_come_again(world, kit, chain4, monkeypatch):
    monkeypatch.setattr("node.admission.ADMISSION_QUEUE_BYTES", 10)
    source, tx = peer(world, 1), kit.pay(chain4.coin(0))
    world.peering.on_message(source, Tx([tx.raw]))
    world.peering.on_message(source, Inv(KIND_TX, [tx.wtxid]))
    world.peering._flush()
    assert (1, GetData(KIND_TX, [tx.wtxid])) in world.network.take()


def test_verdicts_reach_gossip_and_the_right_peer(world, kit, chain4):
    source, other = peer(world, 1), peer(world, 2)
    bad, early, good, own = (kit.pay(chain4.coin(at)) for at in range(4))
    world.peering.on_message(source, Tx([bad.raw, early.raw, good.raw]))
    world.peering.on_refused(Job(bad, source.id, None), RuleError("bad-txns-in-belowout"), True)
    world.peering.on_refused(
        Job(early, source.id, None), RuleError("bad-txns-nonfinal", permanent=False), False
    )
    world.peering.on_refused(Job(early, None, None), RuleError("x"), True)
    assert world.network.charged == [(source.id, "bad-txns-in-belowout")]
    for tx in (good, own):
        world.add(tx)
    world.peering.on_accepted([Job(good, source.id, None), Job(own, None, None)])
    world.clock.ms += 100
    world.peering._flush()
    sent = world.network.take()
    assert (source.id, Tx([own.raw])) in sent
    assert (other.id, Tx([own.raw])) in sent
    assert (other.id, Inv(KIND_TX, [good.wtxid])) in sent
    assert (source.id, Inv(KIND_TX, [good.wtxid])) not in sent
    world.peering.rebroadcast(own)
    world.peering._flush()
    assert (other.id, Tx([own.raw])) in world.network.take()


def test_a_new_peer_hears_of_the_mempool(world, kit, chain4):
    tx = world.add(kit.pay(chain4.coin(0))).tx
    peer(world, 1)
    world.clock.ms += 100
    world.peering._flush()
    assert world.network.take() == [(1, Inv(KIND_TX, [tx.wtxid]))]
    world.peering.on_message(peer(world, 2), GetData(KIND_TX, [tx.wtxid, bytes(32)]))
    world.peering._flush()
    sent = world.network.take()
    assert (2, Tx([tx.raw])) in sent
    assert (2, NotFound(KIND_TX, [bytes(32)])) in sent


def test_the_sender_of_an_orphan_is_asked_for_its_parents(world, kit, chain4):
    """By txid, which is the wtxid of whatever has no witness."""
    source = peer(world, 1)
    parent = kit.pay(chain4.coin(0))
    orphan = Job(kit.pay(outpoint(parent.txid, 0)), source.id, None)
    world.peering.on_orphan(orphan, [parent.txid])
    world.peering._flush()
    assert world.network.take() == [(1, GetData(KIND_TX, [parent.wtxid]))]
    world.peering.on_message(source, Tx([parent.raw]))
    assert world.admission.find(parent.wtxid) == parent
    world.peering.on_orphan(orphan, [b"w" * 32])
    world.peering.on_message(source, NotFound(KIND_TX, [b"w" * 32]))
    world.peering._flush()
    world.peering.on_orphan(Job(orphan.tx, None, None), [b"w" * 32])
    assert world.peering._gossip.tracked == 1  # the parent that is being judged
    assert world.network.charged == []


def test_orphans_leave_with_the_peer(world, kit):
    source = peer(world, 1)
    job = Job(kit.pay(bytes(36)), source.id, None)
    world.admission._orphans.add(job, 0)
    world.peering.on_peer_lost(source, "gone")
    assert world.admission.orphans == 0
    assert [each.tx for each, _, _ in world.refused] == [job.tx]


def test_transactions_of_a_proposal_are_served_whatever_is_asked(world, kit, chain4):
    asker = peer(world, 1)
    pooled, in_block = kit.pay(chain4.coin(0)), kit.pay(chain4.coin(1))
    world.add(pooled)
    block = world.build([in_block])
    world.peering.on_message(asker, GetTxs(block.hash, [pooled.wtxid, in_block.wtxid, bytes(32)] * 3))
    assert world.network.take() == [(1, Txs(block.hash, [pooled.raw, in_block.raw]))]
    world.peering.on_message(asker, GetTxs(bytes(32), [bytes(32)]))
    assert world.network.take() == [(1, Txs(bytes(32), []))]
    world.peering.on_message(asker, Txs(block.hash, [pooled.raw]))
    assert world.driver_notes.supplied == [pooled]
    with pytest.raises(PeerFault):
        world.peering.on_message(asker, Txs(block.hash, [b"\x00" * 9]))


def test_a_reply_never_grows_beyond_a_block(world, kit, chain4, monkeypatch):
    txs = [world.add(kit.pay(chain4.coin(at))).tx for at in range(4)]
    monkeypatch.setattr(module, "MAX_BLOCK_BYTES", 2 * len(txs[0].raw) + 9)
    world.peering.on_message(peer(world, 1), GetTxs(bytes(32), [tx.wtxid for tx in txs]))
    assert world.network.take() == [(1, Txs(bytes(32), [tx.raw for tx in txs[:2]]))]
    assert module.MAX_BLOCK_BYTES < MAX_BLOCK_BYTES


# ---- blocks ------------------------------------------------------------------------------------


def test_bodies_are_served_and_taken(world, chain4):
    asker = peer(world, 1)
    block = world.build()
    for wanted, raw in (
        (block.hash, block.raw),
        (chain4.genesis.hash, chain4.genesis.raw),
        (bytes(32), None),
    ):
        world.peering.on_message(asker, GetBody(wanted))
        assert world.network.take() == [(1, Body(wanted, raw))]
    world.peering.on_message(asker, GetData(KIND_BLOCK, [block.hash, bytes(32)]))
    assert world.network.take() == [(1, Body(block.hash, block.raw)), (1, NotFound(KIND_BLOCK, [bytes(32)]))]
    world.peering.on_message(asker, Inv(KIND_BLOCK, [block.hash]))
    world.peering.on_message(asker, Body(block.hash, None))
    world.peering.on_message(asker, Body(block.hash, block.raw))
    assert world.driver_notes.bodies == [block]
    for wrong in (
        Body(bytes(32), block.raw),
        Body(block.hash, block.raw[:-1]),
        Body(block.hash, b"\x00" * 90),
    ):
        with pytest.raises(PeerFault):
            world.peering.on_message(asker, wrong)
    assert world.driver_notes.bodies == [block]


def certify(node, heights):
    """Commit a block per entry; its certificate names the height in the entry."""
    base = genesis_base(node.chain.chain_id)
    for covered in heights:
        block = node.build()
        node.chain.commit(block.hash, encode_qc(base._replace(height=covered)))


def test_replies_of_block_sync_end_at_a_certificate_of_their_own(world):
    """Blocks 2 and 3 were committed by the certificate of block 4, after a change of leaders."""
    asker = peer(world, 1)
    certify(world, [1, 4, 4, 4, 5])
    for asked, expected in ((1, 1), (2, 4), (3, 4), (5, 5)):
        world.peering.on_message(asker, GetBlocks(1, asked))
        [(_, reply)] = world.network.take()
        assert len(reply.blocks) == expected
        assert decode_qc(reply.certificate).height == expected
        assert reply.blocks[-1] == world.chain.block(world.store.block_hash(expected)).raw
    world.peering.on_message(asker, GetBlocks(6, 5))
    assert world.network.take() == [(1, Blocks(6, [], b""))]


def ask_for_blocks(world, best):
    """Let the sync core fall behind a peer's claim; return the peer and its question."""
    source = peer(world, 1, height=best)
    world.clock.ms += SYNC_GRACE_MS
    world.peering._look()
    [(_, question)] = world.network.take()
    return source, question


@pytest.fixture
async def syncing(world):
    """The world, with the task that applies what arrives."""
    task = asyncio.create_task(world.peering._apply_for_ever())
    yield world
    task.cancel()


async def some_turns():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_synced_blocks_go_to_the_driver_one_batch_at_a_time(syncing, chain4):
    source, question = ask_for_blocks(syncing, 105)
    assert question == GetBlocks(1, 100)
    raws = [chain4.genesis.raw] * 100
    syncing.peering.on_message(source, Blocks(1, raws, b"certificate"))
    assert syncing.network.take() == [(1, GetBlocks(101, 5))]  # before the first is applied
    assert syncing.driver_notes.synced == []
    await some_turns()
    assert syncing.driver_notes.synced == [(1, [chain4.genesis] * 100, b"certificate")]
    syncing.peering.on_message(source, Blocks(101, raws[:5], b"last"))
    await some_turns()
    assert syncing.driver_notes.synced[1:] == [(101, [chain4.genesis] * 5, b"last")]
    assert syncing.network.charged == []
    assert syncing.peering._sync.best_height == 105


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_signatures_of_what_follows_are_checked_meanwhile(syncing, make_node, kit, chain4, monkeypatch):
    """Three replies from three peers; the last is broken, which is found when its turn comes."""
    monkeypatch.setattr(syncing.chain, "_certified_env", syncing.chain._env)
    monkeypatch.setattr(syncing.peering._sync, "_per_request", 1)
    maker = make_node(chain4)
    first = kit.pay(chain4.coin(0))
    second = kit.pay(outpoint(first.txid, 0), 5_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    raws = [maker.extend([first]).block.raw, maker.extend([second]).block.raw, b"broken"]
    known = []

    def take_sync(height, blocks, certificate):
        known.append((height, [tx.wtxid in syncing.verifier._cache for tx in (first, second)]))
        return True

    monkeypatch.setattr(syncing.driver_notes, "take_sync", take_sync)
    for number in (1, 2, 3):
        peer(syncing, number, height=3)
    asked = {question.from_height: number for number, question in syncing.network.take()}
    for height in (3, 2, 1):
        source = Peer(asked[height], b"", "", False, False, None)
        syncing.peering.on_message(source, Blocks(height, [raws[height - 1]], b"certificate"))
    await until(lambda: syncing.network.charged)
    assert known == [(1, [True, False]), (2, [True, True])]
    assert syncing.network.charged == [(asked[3], "truncated")]


async def test_what_arrived_early_is_applied_when_its_turn_comes(syncing, chain4):
    """Consensus brings the block before; nothing arrives from then on."""
    ask_for_blocks(syncing, 5)
    other = peer(syncing, 2, height=200)
    [(_, question)] = [sent for sent in syncing.network.take() if sent[0] == other.id]
    syncing.peering.on_message(other, Blocks(question.from_height, [chain4.genesis.raw], b"early"))
    await some_turns()
    assert syncing.driver_notes.synced == []
    syncing.peering._sync.advanced(question.from_height - 1)
    syncing.peering._pump()
    await some_turns()
    assert [given[0] for given in syncing.driver_notes.synced] == [question.from_height]


@pytest.mark.parametrize(
    ("verdict", "raw", "code"),
    [
        (False, None, "sync-bad-blocks"),
        (RuleError("bad-txnmrklroot"), None, "bad-txnmrklroot"),
        (True, bytes(82), "trailing-bytes"),
    ],
)
async def test_bad_blocks_are_charged_and_not_asked_there_again(syncing, chain4, verdict, raw, code):
    source, _ = ask_for_blocks(syncing, 1)
    syncing.driver_notes.verdict = verdict
    syncing.peering.on_message(source, Blocks(1, [raw or chain4.genesis.raw], b"certificate"))
    await some_turns()
    assert syncing.network.charged == [(source.id, code)]
    syncing.peering._look()
    assert syncing.network.take() == []


def test_a_new_tip_is_announced(world):
    certify(world, [1])
    world.peering.announce_tip()
    assert world.network.broadcasts == [Status(1, world.chain.tip.block_hash)]
    source = peer(world, 1)
    world.peering.on_message(source, Status(9, bytes(32)))
    assert world.peering._sync.best_height == 9
    world.peering.on_peer_lost(source, "gone")
    assert world.peering._sync.best_height == 0


async def test_run_flushes_and_looks_at_the_deadlines(world, kit, chain4, monkeypatch):
    monkeypatch.setattr(module, "FLUSH_INTERVAL_MS", 1)
    monkeypatch.setattr(module, "SYNC_TICK_S", 0.001)
    peer(world, 1, height=3)
    task = asyncio.create_task(world.peering.run())
    async with asyncio.timeout(5):
        while not world.network.to_peer:
            world.clock.ms += SYNC_GRACE_MS
            await asyncio.sleep(0)
    task.cancel()
    assert world.network.to_peer[0] == (1, GetBlocks(1, 3))


def test_garbage_never_escapes_as_a_bug(world, kit, chain4):
    """Every message with content that a peer chooses, with hostile content."""
    source = peer(world, 1, 1)
    hostile = [b"\x00", b"\xff" * 60, bytes(200), kit.pay(chain4.coin(0)).raw[:-1], chain4.genesis.raw[:-3]]
    for raw in hostile:
        for message in (
            Tx([raw]),
            Txs(bytes(32), [raw]),
            Body(bytes(32), raw),
            Body(sha256d(raw[:80]), raw),
            Blocks(1, [raw], raw),
            GetTxs(bytes(32), [outpoint(bytes(32), 0)[:32]]),
            GetBlocks(0xFFFF_FFFF, 0xFFFF),
        ):
            with suppress(PeerFault):
                world.peering.on_message(source, message)
    assert world.driver_notes.bodies == world.driver_notes.supplied == []
    assert world.admission.backlog == 0
