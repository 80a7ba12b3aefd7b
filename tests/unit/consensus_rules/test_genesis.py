"""Genesis and blocks as other tools see them."""

import io
from dataclasses import replace

import bitcoin.core
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.block import Block
from consensus.chain import ChainTip
from consensus.chainfile import chain_file_hash
from consensus.commitment import effects_digest, find_commitment
from consensus.errors import DecodeError
from consensus.genesis import genesis_block, genesis_connected
from consensus.history import append
from consensus.params import Allocation


def foreign(block):
    """Parse a block with python-bitcoinlib, an implementation that nobody here wrote."""
    stream = io.BytesIO(block.raw)
    parsed = bitcoin.core.CBlock.stream_deserialize(stream)
    assert stream.read() == b""
    return parsed


def test_chain_id_is_stable(tools):
    """A change of this number is another chain: nodes of two versions would not find each other."""
    assert (
        tools.World(far_root=False).genesis.hash[::-1].hex()
        == "d01f8f928088f91c485699de6f02fdd3d6bcf0810d317fa02dadb1f070098049"
    )


def test_genesis_commits_the_chain_file_and_issues_the_allocations(world):
    coinbase = world.genesis.txs[0]
    assert coinbase.vin[0].script_sig == b"\x00\x20" + chain_file_hash(world.params)
    assert [(o.value, o.script_pubkey) for o in coinbase.vout[:-1]] == [
        (a.amount, a.script_pubkey) for a in world.params.allocations
    ]
    header = world.genesis.header
    assert (header.prev_hash, header.nonce) == (bytes(32), 0)
    assert (header.time_s, header.bits) == (world.params.genesis_time_s, world.params.bft.bits)
    state = world.contracts.genesis_state()
    assert find_commitment(coinbase).effects_digest == effects_digest(bytes(32), state)


def test_genesis_connected_writes_coins_and_state(world):
    connected = genesis_connected(world.params, world.contracts)
    tip = connected.tip
    assert tip.height == 0
    assert tip.block_hash == world.genesis.hash
    assert tip.history == append((), 0, world.genesis.hash)
    assert tip.issued == sum(a.amount for a in world.params.allocations)
    assert connected.state == world.contracts.genesis_state()
    assert len(connected.coins) == len(world.params.allocations)
    assert set(connected.coins_undo.values()) == {None}
    assert world.conserved()


def test_every_parameter_makes_another_chain(tools):
    contracts = tools.ToyContracts()
    base = genesis_block(tools.make_params(), contracts).hash
    others = [
        tools.make_params(op_budget=1001),
        tools.make_params(validators=5),
        tools.make_params(allocations=(Allocation(tools.script_of(1), 1),)),
    ]
    assert len({base, *(genesis_block(p, contracts).hash for p in others)}) == 4


def test_genesis_without_allocations(tools):
    world = tools.World(params=tools.make_params(allocations=()))
    world.extend()
    assert world.conserved()


def test_another_library_reads_our_blocks(world, tools):
    txs = [world.pay(world.purses[0], [(5_000, tools.payload("deposit"))])]
    txs.append(world.pay(world.purses[1], [], witness=(b"sig", b"key")))
    for block in (world.genesis, world.block(), world.block(txs)):
        judge = foreign(block)
        assert judge.GetHash() == block.hash
        assert judge.hashMerkleRoot == judge.calc_merkle_root() == block.header.merkle_root
        assert [tx.GetTxid() for tx in judge.vtx] == [tx.txid for tx in block.txs]
        assert judge.GetWeight() == block.weight
        assert judge.serialize() == block.raw
        assert Block.parse(block.raw) == block
    assert judge.calc_witness_merkle_root() is not None
    assert judge.get_witness_commitment_index() == len(judge.vtx[0].vout) - 2


tips = st.builds(
    lambda times, **given: ChainTip(time_s=times[-1], times=times, **given),
    height=st.just(0b1011 - 1),
    block_hash=st.binary(min_size=32, max_size=32),
    effects_digest=st.binary(min_size=32, max_size=32),
    history=st.tuples(*[st.binary(min_size=32, max_size=32)] * 3),
    issued=st.integers(0, 2**53),
    term=st.integers(0, 2**32 - 1),
    times=st.tuples(*[st.integers(0, 2**32 - 1)] * 11),
)


@given(tips)
def test_tip_survives_storage(tip):
    assert ChainTip.decode(tip.encode()) == tip


@pytest.mark.parametrize("data", [b"", b"\x90", b"\xc0"])
def test_other_bytes_are_no_tip(data):
    with pytest.raises(DecodeError):
        ChainTip.decode(data)


@given(tips)
def test_tip_that_contradicts_itself_is_refused(tip):
    for change in (
        {"height": tip.height + 1},
        {"times": tip.times[1:]},
        {"time_s": tip.time_s + 1},
        {"history": (*tip.history[1:], b"short")},
        {"block_hash": b"short"},
        {"height": -1, "history": (), "times": ()},
        {"issued": True},
    ):
        with pytest.raises(DecodeError, match="bad-chain-tip"):
            ChainTip.decode(replace(tip, **change).encode())
