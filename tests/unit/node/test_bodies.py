"""Proposals that wait for transactions: who is asked for what, and what completes them."""

import pytest

from consensus.bft.types import Check, Proposal
from consensus.errors import PeerFault
from node import bodies as module
from node.bodies import ProposalBodies, complete_block
from node.limits import BODY_RETRY_MS, MAX_PARKED_PROPOSALS

LEADER = 1


class World:
    def __init__(self, kit):
        self.links = kit.FakeLinks()
        self.links.up = [1, 2, 3]
        self.here = {}
        self.ready = []
        self.bodies = ProposalBodies(self.links, self.here.get, self.ready.append)

    def wanted(self):
        """Return (validator, wtxids) of the last question."""
        validator, _, wtxids = self.links.asked_txs[-1]
        return validator, wtxids


@pytest.fixture
def world(kit):
    return World(kit)


@pytest.fixture(scope="module")
def txs(kit, chain4):
    return [kit.pay(chain4.coin(at)) for at in range(4)]


def proposal(chain, txs, number=0):
    """Return a proposal of ``txs``; ``number`` makes the header another."""
    header = chain.genesis.header.raw[:76] + number.to_bytes(4, "little")
    return Proposal(header, chain.genesis.txs[0].raw, tuple(tx.wtxid for tx in txs))


def check(wanted, *, is_new=True, leader=LEADER):
    return Check(wanted, 1, is_new, bytes(32), leader)


def test_what_is_here_is_complete_at_once(world, txs, chain4):
    world.here.update({tx.wtxid: tx for tx in txs})
    world.bodies.add(check(proposal(chain4, txs)), 7, 0)
    [parked] = world.ready
    assert parked.arrived_s == 7
    assert complete_block(parked).txs[1:] == tuple(txs)
    assert (len(world.bodies), world.links.asked_txs) == (0, [])


def test_only_what_is_missing_is_asked_for(world, txs, chain4):
    world.here[txs[1].wtxid] = txs[1]
    world.bodies.add(check(proposal(chain4, txs)), 7, 0)
    assert world.wanted() == (LEADER, [tx.wtxid for tx in (txs[0], txs[2], txs[3])])
    world.bodies.supply([txs[3], txs[1]])
    assert (world.ready, len(world.bodies)) == ([], 1)
    world.bodies.supply([txs[2], txs[0], txs[0]])
    assert complete_block(world.ready[0]).txs[1:] == tuple(txs)
    assert len(world.bodies) == 0
    world.bodies.supply(txs)
    assert len(world.ready) == 1


def test_who_owes_too_long_is_passed_over(world, txs, chain4):
    world.bodies.add(check(proposal(chain4, txs)), 7, 1_000)
    world.bodies.retry(1_000 + BODY_RETRY_MS - 1)
    assert len(world.links.asked_txs) == 1
    order = []
    for turn in range(1, 5):
        world.bodies.retry(1_000 + turn * BODY_RETRY_MS)
        order.append(world.wanted()[0])
    assert order == [2, 3, 1, 2]


def test_nobody_connected_is_no_harm(world, txs, chain4):
    world.links.up = []
    world.bodies.add(check(proposal(chain4, txs)), 7, 0)
    world.bodies.retry(BODY_RETRY_MS)
    assert [asked[0] for asked in world.links.asked_txs] == [LEADER, LEADER]
    world.links.up = [3]
    world.bodies.retry(2 * BODY_RETRY_MS)
    assert world.wanted()[0] == 3


def test_a_question_is_bounded(world, txs, chain4, monkeypatch):
    monkeypatch.setattr(module, "MAX_GETTXS_HASHES", 3)
    world.bodies.add(check(proposal(chain4, txs)), 7, 0)
    assert world.wanted()[1] == [tx.wtxid for tx in txs[:3]]
    world.bodies.supply(txs[:3])
    world.bodies.retry(BODY_RETRY_MS)
    assert world.wanted()[1] == [txs[3].wtxid]


def test_a_transaction_named_twice_is_never_waited_for(world, txs, chain4):
    """It cannot be valid, and the second place would stay empty for ever."""
    for here in ({}, {txs[0].wtxid: txs[0]}):
        world.here.update(here)
        world.bodies.add(check(proposal(chain4, [txs[0], txs[1], txs[0]])), 7, 0)
        with pytest.raises(PeerFault, match="bad-txns-duplicate"):
            complete_block(world.ready.pop())
    assert (world.links.asked_txs, len(world.bodies)) == ([], 0)


def test_the_latest_question_about_a_proposal_counts(world, txs, chain4):
    """A block that was new may come back re-certified by another leader."""
    wanted = proposal(chain4, txs)
    world.bodies.add(check(wanted), 7, 0)
    again = check(wanted, is_new=False, leader=2)
    world.bodies.add(again, 99, 0)
    world.bodies.supply(txs)
    [parked] = world.ready
    assert (parked.check, parked.arrived_s) == (again, 7)


def test_garbage_under_a_header_does_not_keep_the_proposal_out(world, txs, chain4, kit):
    garbage = proposal(chain4, [kit.pay(bytes(36))])
    world.bodies.add(check(garbage), 7, 0)
    world.bodies.add(check(proposal(chain4, txs)), 8, 0)
    assert len(world.bodies) == 1
    world.bodies.supply(txs)
    assert complete_block(world.ready[0]).txs[1:] == tuple(txs)


def test_the_oldest_makes_room(world, txs, chain4):
    for number in range(MAX_PARKED_PROPOSALS + 1):
        world.bodies.add(check(proposal(chain4, txs, number)), number, 0)
    assert len(world.bodies) == MAX_PARKED_PROPOSALS
    world.bodies.supply(txs)
    assert [parked.arrived_s for parked in world.ready] == list(range(1, MAX_PARKED_PROPOSALS + 1))


def test_forget_and_take(world, txs, chain4):
    checks = [check(proposal(chain4, txs, number)) for number in range(3)]
    for each in checks:
        world.bodies.add(each, 7, 0)
    world.bodies.forget(lambda each: each is not checks[0])
    assert world.bodies.take(checks[0].proposal.block_hash) is None
    assert world.bodies.take(checks[1].proposal.block_hash).check is checks[1]
    assert len(world.bodies) == 1


def test_incomplete_or_unreadable_proposals_are_the_peers_fault(world, txs, chain4):
    world.bodies.add(check(proposal(chain4, txs)), 7, 0)
    parked = world.bodies.take(proposal(chain4, txs).block_hash)
    with pytest.raises(PeerFault, match="block-incomplete"):
        complete_block(parked)
    parked.txs = list(txs)
    assert len(complete_block(parked).txs) == 5
    for coinbase in (b"", b"\x00", bytes(500)):
        parked.check = check(Proposal(parked.check.proposal.header, coinbase, parked.check.proposal.wtxids))
        with pytest.raises(PeerFault):
            complete_block(parked)
