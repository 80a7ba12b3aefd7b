"""Reveal chains and elections in blocks with the real contracts: registered, due, replaced, elected."""

from dataclasses import replace

import pytest

from consensus import dpos, rounds
from consensus.errors import RuleError
from consensus.hashes import hash160, sha256
from consensus.keys import pubkey_from_secret
from consensus.params import COIN, Allocation, Community
from consensus.script.templates import p2pkh
from consensus.signing import sign_input
from consensus.transaction import TxOut
from consensus.undo import decode_undo, encode_undo
from consensus.validators import sign_entry
from contracts.api import EnergyContracts
from contracts.governance import queries
from contracts.governance.operations import CommitReveals, Leave, VoteDelegates
from contracts.operations import encode, payload_script

EPOCH_S = 1_000
SECRETS = [bytes([number]) * 32 for number in range(1, 7)]
SCRIPTS = [p2pkh(hash160(pubkey_from_secret(secret))) for secret in SECRETS]


def links(seed, length):
    """Return a chain with its top; what is revealed first stands before the top."""
    chain = [sha256(seed)]
    for _ in range(length):
        chain.append(sha256(chain[-1]))
    return chain


@pytest.fixture
def chain(tools):
    """Six founders, as many seats, epochs of 1,000 s."""
    return make_chain(tools, 6)


def make_chain(tools, seats):
    base = tools.make_params(allocations=tuple(Allocation(each, 100 * COIN) for each in SCRIPTS))
    entries = tuple(
        sign_entry(
            bytes([0x41 + at]) * 32,
            bytes([0x61 + at]) * 32,
            chain_name="toy",
            name=f"org-{at}",
            role="service-provider" if at else "grid-operator",
            payout_script=script,
        )
        for at, script in enumerate(SCRIPTS)
    )
    times = {"round_s": EPOCH_S, "substitution_s": EPOCH_S}
    params = replace(
        base,
        genesis_time_s=base.genesis_time_s - base.genesis_time_s % EPOCH_S,
        bft=replace(base.bft, delegates=seats, election="proportional", validators=entries, **times),
        energy=replace(base.energy, communities=(Community("toytown", SCRIPTS[0]),)),
    )
    world = tools.World(params=params, contracts=EnergyContracts(params))
    world.purse = dict(enumerate(world.purses))
    world.start = params.genesis_time_s
    return world


def act(world, who, operation):
    """Return the signed transaction by which ``who`` does ``operation``; its change is their next purse."""
    purse = world.purse[who]
    tx = world.pay(purse, [(0, payload_script(encode(operation)))], fee=2_000)
    tx = sign_input(tx, 0, SECRETS[who], TxOut(purse.amount, purse.script))
    world.purse[who] = world.output(tx, 1)
    return tx


def block_of(world, at_s, txs, **given):
    everybody = ((1 << world.signers.n) - 1).to_bytes(1, "little")
    return world.block(txs, time_s=world.start + at_s, last_bitmap=everybody, **given)


def grow(world, at_s, *operations, leader=0, term=1, reveal=None):
    """Extend by one block ``at_s`` seconds after genesis; check that its undo gives back what was."""
    txs = [act(world, who, operation) for who, operation in operations]
    block = block_of(world, at_s, txs, term=term, proposer=place(world, leader), reveal=reveal)
    before = dict(world.state.data)
    connected = world.connect(block)
    world.apply(connected)
    undone = world.state.data | decode_undo(encode_undo(connected))[1]
    assert {key: value for key, value in undone.items() if value is not None} == before


def place(world, who):
    return [member.payout_script for member in world.round.members].index(SCRIPTS[who])


def chain_of(world, who):
    return rounds.reveal_chain(world.state, SCRIPTS[who])


def is_due(world, at_s, who, term):
    """Whether a block of ``who`` is refused without a reveal."""
    try:
        block_of(world, at_s, [], term=term, proposer=place(world, who))
    except RuleError as error:
        if error.code != "bad-reveal":
            raise
        return True
    return False


def test_a_leader_that_registers_a_new_chain_owes_the_old_one_until_the_epoch_ends(chain):
    old, new = links(b"old", 5), links(b"new", 7)
    grow(chain, 1, (0, CommitReveals(old.pop(), 5, 0)))
    assert not is_due(chain, 2, 0, 2)  # it counts from the next epoch on
    grow(chain, EPOCH_S)
    assert is_due(chain, EPOCH_S + 1, 0, 2)
    grow(chain, EPOCH_S + 1, (0, CommitReveals(new[-1], 7, 1)), term=2, reveal=old.pop())
    assert chain_of(chain, 0)[1:] == (4, 0, 1)
    grow(chain, EPOCH_S + 2, term=2)
    assert is_due(chain, EPOCH_S + 3, 0, 3)
    grow(chain, EPOCH_S + 3, term=3, reveal=old.pop())
    # the block that ends the epoch reveals from the old chain still, and puts the new one in its place
    grow(chain, 2 * EPOCH_S, term=4, reveal=old.pop())
    assert chain_of(chain, 0) == (new.pop(), 7, 1, 2)
    assert is_due(chain, 2 * EPOCH_S + 1, 0, 5)
    grow(chain, 2 * EPOCH_S + 1, term=5, reveal=new.pop())
    assert chain_of(chain, 0)[1:] == (6, 1, 2)


def test_a_chain_that_is_used_up_can_be_followed_by_another_in_the_very_block(chain):
    old, new = links(b"old", 1), links(b"new", 2)
    grow(chain, 1, (0, CommitReveals(old.pop(), 1, 0)))
    grow(chain, EPOCH_S)
    grow(chain, EPOCH_S + 1, (0, CommitReveals(new[-1], 2, 1)), term=2, reveal=old.pop())
    assert chain_of(chain, 0)[1:] == (0, 0, 1)
    assert not is_due(chain, EPOCH_S + 2, 0, 3)
    grow(chain, 2 * EPOCH_S, term=3)
    assert chain_of(chain, 0) == (new[-1], 2, 1, 2)


def test_the_last_chain_registered_before_the_end_of_the_epoch_counts_at_once(chain):
    """In the block that ends the epoch, too: the next epoch's reveals are nobody's yet."""
    top = links(b"late", 3)
    grow(chain, EPOCH_S, (2, CommitReveals(top.pop(), 3, 0)))
    assert chain_of(chain, 2)[1:] == (3, 0, 1)
    assert is_due(chain, EPOCH_S + 1, 2, 2)
    grow(chain, EPOCH_S + 1, leader=2, term=2, reveal=top.pop())


def test_whoever_leaves_signs_until_the_epoch_ends_and_owes_no_reveal(chain):
    top = links(b"mine", 3).pop()
    grow(chain, 1, (3, CommitReveals(top, 3, 0)))
    grow(chain, EPOCH_S)
    grow(chain, EPOCH_S + 1, (3, Leave()), term=2)
    assert SCRIPTS[3] in [member.payout_script for member in chain.round.members]
    assert not is_due(chain, EPOCH_S + 2, 3, 3)
    grow(chain, EPOCH_S + 2, leader=3, term=3)
    grow(chain, 2 * EPOCH_S, term=4)
    assert SCRIPTS[3] not in [member.payout_script for member in chain.round.members]
    assert len(chain.round.members) == 5


def test_the_preview_is_what_the_block_that_ends_the_epoch_elects(tools):
    chain = make_chain(tools, 4)
    link = links(b"one", 9)
    grow(chain, 1, (0, CommitReveals(link.pop(), 9, 0)), (5, VoteDelegates((SCRIPTS[0], SCRIPTS[1]))))
    orders = set()
    for epoch in range(1, 5):
        if SCRIPTS[0] in [member.payout_script for member in chain.round.members] and epoch > 1:
            last = epoch * EPOCH_S - 1
            grow(chain, last, term=2 * epoch, reveal=link.pop())
        seed = queries.coming_seed(chain.state, chain.params, chain.env.chain_id)
        preview = queries.tally(
            chain.state, chain.params, chain.env.chain_id, chain.tip.time_s, seed, dpos.PROPORTIONAL
        )
        signer = SCRIPTS.index(chain.round.members[0].payout_script)
        due = is_due(chain, epoch * EPOCH_S, signer, 2 * epoch + 1)
        grow(chain, epoch * EPOCH_S, leader=signer, term=2 * epoch + 1, reveal=link.pop() if due else None)
        now = chain.round
        assert (now.epoch, now.seed) == (preview["epoch"], seed) == (epoch, seed)
        assert [member.payout_script.hex() for member in now.members] == preview["delegates"]
        assert [member.payout_script.hex() for member in now.alternates] == preview["alternates"]
        orders.add(tuple(preview["delegates"]))
    assert len(orders) > 1
