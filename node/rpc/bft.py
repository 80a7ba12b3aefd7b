"""RPC methods on the BFT engine."""

from typing import Any

from consensus.address import encode_address
from consensus.bft.certificates import members_of
from consensus.bft.codec import decode_qc
from consensus.params import AddressPrefixes
from consensus.transaction import hash_hex
from node.rpc.backend import Backend, Convicted
from node.rpc.errors import INVALID_ADDRESS_OR_KEY, INVALID_PARAMETER, MISC_ERROR, RpcError
from node.rpc.registry import Natural, method

SECTION = "Bft"


@method("bft.status", SECTION)
def status(node: Backend) -> dict[str, Any]:
    """Return where the engine stands: role, round, term, leader, heights, and the validator set.

    ``leader`` and ``index`` are positions in ``validators``, null where there is none. ``phase`` and
    ``waiting`` say what the chain waits for, ``missing`` names the validators that are not heard of,
    ``learner`` is why a validator has no vote.
    """
    if node.pow is not None:
        raise RpcError(MISC_ERROR, "This chain has no bft engine: its blocks are mined, see getmininginfo")
    now = node.bft_status()
    ready, reason = node.is_ready()
    return {
        "role": now.role,
        "round": now.round,
        "epoch": now.details.get("epoch", 0),
        "term": now.term,
        "leader": now.leader,
        "leader_name": None if now.leader is None else now.names[now.leader],
        "index": now.index,
        "name": None if now.index is None else now.names[now.index],
        "committed_height": now.committed_height,
        "prepared_height": now.prepared_height,
        "validators": list(now.names),
        "n": len(now.names),
        "f": now.faults_tolerated,
        "q": now.quorum,
        "ready": ready,
        "reason": reason,
        "phase": now.details.get("phase"),
        "waiting": now.details.get("waiting"),
        "missing": now.details.get("missing", []),
        "learner": now.details.get("learner"),
        "term_age_s": now.details.get("term_age_ms", 0) // 1000,
        "commit_age_s": now.details.get("commit_age_ms", 0) // 1000,
        "details": dict(now.details),
    }


@method("bft.evidence", SECTION)
def evidence(node: Backend) -> list[dict[str, Any]]:
    """Return the contradictions of validators that this node has seen, oldest first.

    Each is two statements signed with the vote key of ``validator`` in ``round`` that exclude each other:
    about different blocks at one term and height, votes for two leaders of a term, or a vote for a leader
    that denies a block signed before. The signatures prove it to everybody.
    """
    if node.pow is not None:
        raise RpcError(MISC_ERROR, "This chain has no bft engine: nobody votes on it")
    return [_shown(found, node.params.addresses) for found in node.bft_evidence()]


def _shown(found: Convicted, prefixes: AddressPrefixes) -> dict[str, Any]:
    kept = found.kept
    statements = (kept.evidence.first, kept.evidence.second)
    return {
        "validator": found.name,
        "account": encode_address(found.account, prefixes),
        "round": kept.round,
        "index": kept.evidence.offender,
        "vote_key": found.vote_key.hex(),
        "statements": [shown.vote.name.lower() for shown in statements],
        "terms": [shown.term for shown in statements],
        "heights": [shown.height for shown in statements],
        "blocks": [hash_hex(shown.block_hash) for shown in statements],
        "signatures": [shown.sig.hex() for shown in statements],
        "seen": kept.seen_s,
    }


@method("bft.certificate", SECTION)
def certificate(node: Backend, height: Natural) -> dict[str, Any]:
    """Return the commit certificate that proves the block at ``height``.

    It may certify a descendant, ``certified_height``, and so all its ancestors. ``certificate`` is
    the encoding in hex, ``signers`` are positions in the validator set of ``round``.
    """
    block_hash = node.block_hash(height)
    if block_hash is None:
        raise RpcError(INVALID_PARAMETER, "Block height out of range")
    encoded = node.certificate(height)
    if encoded is None:
        raise RpcError(INVALID_ADDRESS_OR_KEY, "No certificate for this block (the genesis block has none)")
    qc = decode_qc(encoded)
    return {
        "height": height,
        "block_hash": hash_hex(block_hash),
        "certified_height": qc.height,
        "certified_hash": hash_hex(qc.block_hash),
        "round": qc.round,
        "term": qc.term,
        "signers": list(members_of(qc.bitmap)),
        "signatures": [signature.hex() for signature in qc.sigs],
        "certificate": encoded.hex(),
    }
