"""A validator that is further behind than its table of blocks is long."""

from consensus.bft.limits import MAX_BLOCKS
from consensus.bft.types import BlockAvailable, Commit, Committed, Fetch, Kind, Synced, Timer
from tests.simulation.cluster import CHAIN_ID
from tests.unit.consensus_bft.bftkit import Engine, block, make_qc


def long_chain(length):
    blocks, parent = [], CHAIN_ID
    for height in range(1, length + 1):
        blocks.append(block(parent, height, 1))
        parent = blocks[-1].block_hash
    return blocks


def test_a_body_that_the_full_table_does_not_take_is_not_asked_for_at_once():
    blocks = long_chain(MAX_BLOCKS + 4)
    height = len(blocks)
    qc = make_qc(Kind.COMMIT, 1, height, blocks[-1].block_hash)
    engine = Engine()
    engine.receive(1, Committed(qc))
    asked = 0
    while wanted := engine.effects(Fetch):
        asked += 1
        # A shell that has the body answers before anything else can happen.
        assert asked <= MAX_BLOCKS + 1
        last = wanted[0].last_height
        engine.feed(BlockAvailable(last, blocks[last - 1]))
    assert asked == MAX_BLOCKS + 1

    again = 0
    for _ in range(3):
        engine.fire(Timer.TICK)
        again += len(engine.effects(Fetch))
    assert again == 1

    segment = tuple((at, each.block_hash, each.parent) for at, each in enumerate(blocks, 1))
    engine.feed(Synced(1, segment, qc))
    assert [effect.height for effect in engine.effects(Commit)] == list(range(1, height + 1))
