"""The genesis block: computed from the chain file and the contracts, never sent or signed.

Its hash is the chain id. Its coinbase is the one transaction that issues tokens: outputs in the
order of the chain file's allocations, then the WC commitment; they enter the UTXO set.
"""

from consensus.block import Block, BlockHeader
from consensus.chain import ChainTip, Connected
from consensus.chainfile import chain_file_hash
from consensus.coin_rules import CoinChanges
from consensus.commitment import ZERO_DIGEST, Commitment, effects_digest, pow_commitment
from consensus.connect import bitmap_size, connect_result, undo_view
from consensus.history import EMPTY_ROOT
from consensus.ledger_limits import BLOCK_VERSION
from consensus.merkle import txid_root
from consensus.overlay import Nothing
from consensus.params import ChainParams
from consensus.ports import Contracts
from consensus.script.templates import push_data, push_number
from consensus.transaction import NULL_PREVOUT, Transaction, TxIn, TxOut
from consensus.validators import initial_set


def genesis_block(params: ChainParams, contracts: Contracts) -> Block:
    """Return the block of height 0.

    The scriptSig pushes height 0 (BIP34) and the chain file's hash; the header has the chain file's
    time and bits, no parent, and nonce 0: the term before the first, or no proof of work.
    """
    return _build(params, _writes(contracts))


def genesis_connected(params: ChainParams, contracts: Contracts) -> Connected:
    """Return what the genesis block changes on an empty node: allocations and contract state."""
    writes = _writes(contracts)
    block = _build(params, writes)
    coinbase = block.txs[0]
    changes = CoinChanges(Nothing(), 0)
    changes.create(coinbase.txid, coinbase.vout, coinbase=True)
    issued = sum(allocation.amount for allocation in params.allocations)
    before = ChainTip(-1, bytes(32), 0, ZERO_DIGEST, (), issued, 0, ())
    view = undo_view(Nothing(), params)
    return connect_result(block.header, block.txs, before, changes, writes, view, 0)


def _writes(contracts: Contracts) -> dict[bytes, bytes | None]:
    return dict(contracts.genesis_state())


def _build(params: ChainParams, writes: dict[bytes, bytes | None]) -> Block:
    commitment = _commitment(params, effects_digest(ZERO_DIGEST, writes))
    outputs = [TxOut(allocation.amount, allocation.script_pubkey) for allocation in params.allocations]
    outputs.append(TxOut(0, commitment.encode_script()))
    script_sig = push_number(0) + push_data(chain_file_hash(params))
    coinbase = Transaction.build(1, (TxIn(NULL_PREVOUT, script_sig),), outputs)
    header = BlockHeader.build(
        version=BLOCK_VERSION,
        prev_hash=bytes(32),
        merkle_root=txid_root((coinbase,))[0],
        time_s=params.genesis_time_s,
        bits=params.bft.bits if params.pow is None else params.pow.bits,
        nonce=0,
    )
    return Block.build(header, (coinbase,))


def _commitment(params: ChainParams, digest: bytes) -> Commitment:
    if params.pow is not None:
        return pow_commitment(digest, EMPTY_ROOT)
    signers = initial_set(params)
    return Commitment(
        effects_digest=digest,
        history_root=EMPTY_ROOT,
        set_hash=signers.set_hash,
        proposer=0,
        last_bitmap=bytes(bitmap_size(signers.n)),
    )
