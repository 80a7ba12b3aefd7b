"""Blocks, headers and transactions as Bitcoin Core's RPC shows them."""

from collections.abc import Mapping
from typing import Any

from consensus.block import BlockHeader
from consensus.coins import coin_amount, coin_height, coin_is_coinbase, coin_script
from consensus.commitment import Commitment
from consensus.params import AddressPrefixes
from consensus.transaction import Transaction, TxIn, hash_hex
from node.rpc.encoding import coins
from node.rpc.scripts import script_asm, script_shape

_DIFFICULTY_1_TARGET = 0xFFFF << 208


def target_of(bits: int) -> int:
    """Return the target that compact ``bits`` stand for (Bitcoin Core's SetCompact), 0 if none."""
    size, word = bits >> 24, bits & 0x7FFFFF
    if bits & 0x800000:
        return 0
    return word >> 8 * (3 - size) if size <= 3 else word << 8 * (size - 3)


def difficulty_of(bits: int) -> float:
    """Return how many times harder than Bitcoin's easiest target ``bits`` is; for display only."""
    target = target_of(bits)
    return _DIFFICULTY_1_TARGET / target if target else 0.0


def input_shape(txin: TxIn, *, is_coinbase: bool) -> dict[str, Any]:
    """Return one element of ``vin``."""
    shape: dict[str, Any] = {}
    if is_coinbase:
        shape["coinbase"] = txin.script_sig.hex()
    else:
        shape["txid"] = hash_hex(txin.prev_txid)
        shape["vout"] = txin.prev_index
        asm = script_asm(txin.script_sig, decode_hash_types=True)
        shape["scriptSig"] = {"asm": asm, "hex": txin.script_sig.hex()}
    if txin.witness:
        shape["txinwitness"] = [item.hex() for item in txin.witness]
    shape["sequence"] = txin.sequence
    return shape


def transaction_shape(tx: Transaction, prefixes: AddressPrefixes) -> dict[str, Any]:
    """Return a transaction as ``decoderawtransaction`` shows it."""
    is_coinbase = tx.is_coinbase
    return {
        "txid": hash_hex(tx.txid),
        "hash": hash_hex(tx.wtxid),
        "version": tx.version,
        "size": len(tx.raw),
        "vsize": tx.vsize,
        "weight": tx.weight,
        "locktime": tx.lock_time,
        "vin": [input_shape(txin, is_coinbase=is_coinbase) for txin in tx.vin],
        "vout": [
            {
                "value": coins(output.value),
                "n": index,
                "scriptPubKey": script_shape(output.script_pubkey, prefixes),
            }
            for index, output in enumerate(tx.vout)
        ],
    }


def add_spent(
    shape: dict[str, Any],
    tx: Transaction,
    spent: Mapping[bytes, bytes],
    prefixes: AddressPrefixes,
    *,
    with_prevouts: bool,
) -> None:
    """Add the fee, and what each input spends, to the shape of a transaction.

    ``spent`` maps outpoints to coin values; nothing is added unless it knows all inputs.
    """
    found = [spent.get(prevout) for prevout in tx.prevouts]
    known = [coin for coin in found if coin is not None]
    if tx.is_coinbase or len(known) != len(found):
        return
    for txin, coin in zip(shape["vin"] if with_prevouts else (), known, strict=False):
        sequence = txin.pop("sequence")
        txin["prevout"] = {
            "generated": coin_is_coinbase(coin),
            "height": coin_height(coin),
            "value": coins(coin_amount(coin)),
            "scriptPubKey": script_shape(coin_script(coin), prefixes),
        }
        txin["sequence"] = sequence
    shape["fee"] = coins(sum(map(coin_amount, known)) - sum(output.value for output in tx.vout))


def commitment_shape(commitment: Commitment) -> dict[str, Any]:
    """Return what a block's coinbase commits to."""
    return {
        "version": commitment.version,
        "effects_digest": commitment.effects_digest.hex(),
        "history_root": commitment.history_root.hex(),
        "state_root": _hex(commitment.state_root),
        "set_hash": _hex(commitment.set_hash),
        "next_set_hash": _hex(commitment.next_set_hash),
        "proposer": commitment.proposer,
        "last_bitmap": _hex(commitment.last_bitmap),
        "reveal": _hex(commitment.reveal),
        "evidence_root": _hex(commitment.evidence_root),
    }


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def header_shape(
    header: BlockHeader, height: int, *, confirmations: int, median_time_s: int, chain_work: int
) -> dict[str, Any]:
    """Return what ``getblockheader`` and ``getblock`` say alike of a block."""
    return {
        "hash": hash_hex(header.hash),
        "confirmations": confirmations,
        "height": height,
        "version": header.version,
        "versionHex": f"{header.version & 0xFFFFFFFF:08x}",
        "merkleroot": hash_hex(header.merkle_root),
        "time": header.time_s,
        "mediantime": median_time_s,
        "nonce": header.nonce,
        "bits": f"{header.bits:08x}",
        "target": f"{target_of(header.bits):064x}",
        "difficulty": difficulty_of(header.bits),
        "chainwork": f"{chain_work:064x}",
    }
