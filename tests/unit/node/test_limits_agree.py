"""Limits of one package that must hold what another one allows."""

from consensus.bft import limits as bft
from consensus.ledger_limits import MAX_BLOCK_WEIGHT
from consensus.limits import MAX_TX_WEIGHT, WITNESS_SCALE
from node import limits as node
from p2p import limits as p2p
from p2p.messages import BY_TYPE, Bft, Blocks, Body, GetTxs

SMALLEST_TX_BYTES = 60


def test_every_valid_block_can_be_proposed_and_sent():
    """Else the leader or a serving node would fail on a block that the rules allow."""
    most_txs = MAX_BLOCK_WEIGHT // (WITNESS_SCALE * SMALLEST_TX_BYTES)
    assert most_txs <= bft.MAX_PROPOSAL_TXS
    assert most_txs <= p2p.MAX_GETTXS_HASHES
    assert BY_TYPE[Bft].max_bytes >= bft.FRAME_BYTES + bft.MAX_PROPOSE_BYTES
    assert p2p.MAX_BLOCK_BYTES >= MAX_BLOCK_WEIGHT  # a witness byte weighs one
    assert BY_TYPE[Body].max_bytes > p2p.MAX_BLOCK_BYTES
    assert BY_TYPE[GetTxs].max_bytes > 34 * most_txs
    assert BY_TYPE[Blocks].max_bytes > p2p.BLOCKS_REPLY_BYTES + p2p.MAX_BLOCK_BYTES + bft.MAX_QC_BYTES


def test_every_admissible_transaction_can_be_relayed_and_queued():
    assert p2p.MAX_RELAY_TX_BYTES >= MAX_TX_WEIGHT
    for budget in (node.ADMISSION_QUEUE_BYTES, node.ADMISSION_BATCH_BYTES, node.MAX_ORPHAN_BYTES):
        assert budget >= MAX_TX_WEIGHT


def test_the_engine_can_hold_what_is_fetched():
    assert node.MAX_FETCH_DEPTH <= bft.MAX_BLOCKS
    assert node.MAX_FETCH_DEPTH <= node.MAX_WANTED_BODIES
    assert p2p.SYNC_GRACE_BLOCKS <= node.MAX_FETCH_DEPTH  # what is nearer than sync looks is fetched
    assert p2p.MAX_BLOCKS_PER_REPLY <= bft.MAX_SYNC_BLOCKS
    assert p2p.SYNC_EXTRA_BLOCKS == bft.MAX_SUFFIX
