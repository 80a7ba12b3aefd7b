"""RPC methods that make and check proofs of final transactions."""

import asyncio
from typing import Any

from consensus import rounds
from consensus.errors import DecodeError, RuleError
from consensus.history import AuditPath
from consensus.light import TxProof, Verified, check_proof, decode_proof, encode_proof, encode_steps
from consensus.transaction import hash_hex
from node.limits import HISTORY_SLICE
from node.proofs import begin_proof, founding_trust, make_steps, needs_history, with_history
from node.rpc.backend import Backend
from node.rpc.errors import (
    DESERIALIZATION_ERROR,
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    MISC_ERROR,
    VERIFY_REJECTED,
    RpcError,
)
from node.rpc.registry import Boolean, Hash32, HexBytes, Natural, method

SECTION = "Bft"


@method("bft.getproof", SECTION)
async def get_proof(
    node: Backend,
    txid: Hash32,
    anchor_height: Natural | None = None,
    known_round: Natural = 0,
    skipping: Boolean = False,
) -> dict[str, Any]:
    """Return a proof that a transaction is final, for whoever trusts the validators (`wattd proof check`).

    With ``anchor_height``, a later block, the proof goes through the history that this block commits to:
    it costs one hash per block below. ``known_round`` is the round whose validators the client knows: the
    proof has a step for each later one, at most 128 (see bft.getrounds); with ``skipping`` it skips those
    that members of that set vouch for.
    """
    _refuse_pow(node)
    place = node.find_transaction(txid)
    if place is None:
        raise RpcError(INVALID_ADDRESS_OR_KEY, "No such transaction in the chain")
    if anchor_height is not None and not place[0] <= anchor_height <= node.tip().height:
        raise RpcError(INVALID_PARAMETER, f"anchor_height must be between {place[0]} and the tip's height")
    try:
        proof = begin_proof(node, *place, anchor_height, known_round=known_round, skipping=skipping)
        if needs_history(proof):
            proof = with_history(node, proof, await _path(node, proof))
    except RuleError as fault:
        raise RpcError(MISC_ERROR, fault.reason) from None
    encoded = encode_proof(proof)
    return {**_shape(proof), "size": len(encoded), "proof": encoded.hex()}


async def _path(node: Backend, proof: TxProof) -> AuditPath:
    """Read the hashes of all blocks below the certified one, and let others go on meanwhile."""
    path = AuditPath(proof.height, proof.certified.height)
    for at in range(path.count):
        path.add(node.block_hash(at) or b"")
        if at % HISTORY_SLICE == HISTORY_SLICE - 1:
            await asyncio.sleep(0)
    return path


@method("bft.getrounds", SECTION)
def get_rounds(node: Backend, known_round: Natural, skipping: Boolean = False) -> dict[str, Any]:
    """Return how the validators changed since ``known_round``, step by step (`wattd proof trust --rounds`).

    ``steps`` in hex lead to ``round``, at most 128 steps or somewhat above 1 MiB at once: ask again from
    there until it is ``current``. With ``skipping`` they skip rounds where members of a known set vouch.
    """
    _refuse_pow(node)
    current = rounds.current(node.state(), node.params, node.chain_id).number
    if known_round > current:
        raise RpcError(INVALID_PARAMETER, f"There is no round {known_round} yet, the chain is in {current}")
    try:
        steps = make_steps(node, known_round, current, skipping=skipping)
    except RuleError as fault:
        raise RpcError(MISC_ERROR, fault.reason) from None
    encoded = encode_steps(node.chain_id, steps)
    reached = steps[-1].signers.round if steps else known_round
    return {
        "known_round": known_round,
        "round": reached,
        "current": current,
        "count": len(steps),
        "size": len(encoded),
        "steps": encoded.hex(),
    }


@method("bft.checkproof", SECTION)
def check_tx_proof(node: Backend, proof: HexBytes) -> dict[str, Any]:
    """Check a proof with nothing but this chain's founders: no block that the node stores is looked at."""
    _refuse_pow(node)
    try:
        found = check_proof(founding_trust(node.params, node.chain_id), decode_proof(proof))
    except DecodeError as fault:
        raise RpcError(DESERIALIZATION_ERROR, str(fault)) from None
    except RuleError as fault:
        raise RpcError(VERIFY_REJECTED, str(fault)) from None
    return verified_shape(found)


def verified_shape(found: Verified) -> dict[str, Any]:
    """Return what a checked proof has shown."""
    return {
        "txid": hash_hex(found.tx.txid),
        "height": found.height,
        "blockhash": hash_hex(found.header.hash),
        "blocktime": found.header.time_s,
        "hex": found.tx.raw.hex(),
    }


def _shape(proof: TxProof) -> dict[str, Any]:
    return {
        "txid": hash_hex(proof.tx.txid),
        "height": proof.height,
        "blockhash": hash_hex(proof.header.hash),
        "certified_height": proof.certified.certificate.height,
        "round": proof.certified.certificate.round,
        "steps": len(proof.rounds),
    }


def _refuse_pow(node: Backend) -> None:
    if node.pow is not None:
        raise RpcError(
            MISC_ERROR, "Nobody certifies the blocks of a proof-of-work chain; count confirmations"
        )
