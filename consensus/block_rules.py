"""Context-free rules of blocks, and the form of what our outputs carry.

Nothing here looks at the chain. A rejection with ``permanent=False`` blames the body, not the
header: other transactions may hash to the same header (CVE-2012-2459, witnesses outside the txid),
so the block's hash must not be remembered as invalid.
"""

from collections.abc import Sequence

from consensus.block import Block
from consensus.commitment import carried, find_commitment
from consensus.errors import RuleError
from consensus.hashes import sha256d
from consensus.ledger_limits import BLOCK_VERSION, MAX_PAYLOAD_BYTES
from consensus.limits import WITNESS_SCALE
from consensus.merkle import txid_root, witness_root
from consensus.params import ChainParams
from consensus.script.templates import data_carrier
from consensus.transaction import TxOut
from consensus.tx_rules import check_transactions

PAYLOAD_MARK = b"WT"
"""First two bytes of the push of a contract payload."""

WITNESS_NONCE_BYTES = 32
"""Size of the only witness element of a coinbase (BIP141)."""

_WITNESS_HEAD = bytes.fromhex("6a24aa21a9ed")
_WITNESS_SCRIPT_BYTES = 38


def payload_of(script: bytes) -> bytes | None:
    """Return the contract payload that an output script carries, None if it is no payload output.

    The form is ``OP_RETURN <push>``: one minimal push of 3 to 65,535 bytes that starts with ``WT``.
    """
    payload = carried(script)
    if not payload.startswith(PAYLOAD_MARK):
        return None
    if not 3 <= len(payload) <= MAX_PAYLOAD_BYTES or data_carrier(payload) != script:
        return None
    return payload


def witness_commitment_script(witness_merkle_root: bytes, nonce: bytes) -> bytes:
    """Return the output script that commits to the witnesses (BIP141)."""
    return _WITNESS_HEAD + sha256d(witness_merkle_root + nonce)


def is_witness_commitment(script: bytes) -> bool:
    """Tell whether an output script is a witness commitment of exactly BIP141's 38 bytes."""
    return len(script) == _WITNESS_SCRIPT_BYTES and script.startswith(_WITNESS_HEAD)


def check_block(block: Block, params: ChainParams) -> None:
    """Check a block alone: form, Merkle trees, coinbase, commitments and every transaction's form.

    Raises RuleError; see the module's description for ``permanent``.
    """
    txs = block.txs
    if block.header.version != BLOCK_VERSION:
        raise RuleError("bad-version", f"version {block.header.version:#010x}")
    if not txs:
        raise RuleError("bad-cb-missing", "no transactions", permanent=False)
    _check_merkle_root(block)
    limit = params.ledger.max_block_weight
    if block.stripped_size * WITNESS_SCALE > limit:
        raise RuleError("bad-blk-length", f"{block.stripped_size} bytes without witness")
    if not txs[0].is_coinbase:
        raise RuleError("bad-cb-missing", "the first transaction is not a coinbase")
    for tx in txs[1:]:
        if tx.is_coinbase:
            raise RuleError("bad-cb-multiple", "a coinbase that is not the first transaction")
    check_transactions(txs, params.ledger.max_money)
    find_commitment(txs[0])
    _check_coinbase_payload(txs[0].vout)
    _check_witnesses(block)
    if block.weight > limit:  # last: only now is it sure that these witnesses belong to the header
        raise RuleError("bad-blk-weight", f"weight {block.weight}, at most {limit}")


def _check_merkle_root(block: Block) -> None:
    root, mutated = txid_root(block.txs)
    if root != block.header.merkle_root:
        raise RuleError("bad-txnmrklroot", "the Merkle root is not the header's", permanent=False)
    if mutated:
        raise RuleError("bad-txns-duplicate", "a repeated run of transactions", permanent=False)


def _check_coinbase_payload(outputs: Sequence[TxOut]) -> None:
    for output in outputs:
        if payload_of(output.script_pubkey) is not None:
            raise RuleError("bad-cb-payload", "a coinbase carries no contract payload")


def _check_witnesses(block: Block) -> None:
    """BIP141: the last matching coinbase output commits to all witnesses; without it there are none."""
    coinbase = block.txs[0]
    commitments = [o.script_pubkey for o in coinbase.vout if is_witness_commitment(o.script_pubkey)]
    if not commitments:
        if block.has_witness:
            raise RuleError("unexpected-witness", "witnesses without a commitment", permanent=False)
        return
    witness = coinbase.vin[0].witness
    if len(witness) != 1 or len(witness[0]) != WITNESS_NONCE_BYTES:
        raise RuleError("bad-witness-nonce-size", "not one element of 32 bytes", permanent=False)
    if witness_commitment_script(witness_root(block.txs), witness[0]) != commitments[-1]:
        raise RuleError("bad-witness-merkle-match", "the witnesses are not those committed", permanent=False)
