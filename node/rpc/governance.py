"""RPC methods of governance: organisations with a vote, applications, delegate votes, elections.

Accounts are shown as addresses. Times are block times, in seconds since 1970.
"""

from typing import Any

from consensus import dpos
from contracts.governance import queries
from contracts.limits import MAX_GENERATION, MAX_REVEALS
from node.limits import RPC_DEFAULT_PAGE, RPC_MAX_PAGE
from node.rpc.backend import Backend
from node.rpc.energy import addressed
from node.rpc.errors import MISC_ERROR, RpcError
from node.rpc.registry import Key32, Natural, Text, invalid, method

SECTION = "Governance"


@method("governance.status", SECTION)
def status(node: Backend) -> dict[str, Any]:
    """Return how many organisations have a vote, the quorum of them, and the bounds of governance.

    ``counting_since`` is the height from which on readings count for weights, null before the first
    operation of governance. ``with_reveals`` counts those that have reveals left, ``barred`` offenders.
    """
    return queries.status(node.state(), node.params)


@method("governance.candidates", SECTION)
def candidates(node: Backend) -> list[dict[str, Any]]:
    """Return the organisations with a vote, all of which can be delegates, with their active meters.

    ``reveals`` is what is left of the chain by which the organisation takes part in the seed, and
    ``next_reveals`` the chain that follows at the end of the epoch. ``barred_until`` is the epoch from which
    an offender can be elected again.
    """
    return addressed(queries.candidates(node.state(), node.params, node.tip().time_s), node.params.addresses)


@method("governance.application", SECTION)
def application(node: Backend, id: Key32) -> dict[str, Any] | None:
    """Return a pending application; null if there is none, it is decided or expired."""
    found = queries.application(node.state(), id)
    return None if found is None else addressed(found, node.params.addresses)


@method("governance.applications", SECTION)
def applications(
    node: Backend, limit: Natural = RPC_DEFAULT_PAGE, after: Key32 = b""
) -> list[dict[str, Any]]:
    """Return pending applications in order of id, at most ``limit``, those beyond the id ``after``."""
    if limit > RPC_MAX_PAGE:
        raise invalid("limit", f"must be at most {RPC_MAX_PAGE}")
    return addressed(queries.applications(node.state(), limit, after), node.params.addresses)


@method("governance.removals", SECTION)
def removals(node: Backend) -> list[dict[str, Any]]:
    """Return the organisations whose removal some have voted for, and who."""
    return addressed(queries.removals(node.state()), node.params.addresses)


@method("governance.votes", SECTION)
def votes(node: Backend) -> list[dict[str, Any]]:
    """Return the standing delegate votes."""
    return addressed(queries.votes(node.state()), node.params.addresses)


@method("governance.tally", SECTION)
def tally(node: Backend, mode: Text | None = None, seed: Key32 | None = None) -> dict[str, Any]:
    """Return whom an election at the tip gives: delegates, alternates, votes of all candidates, the barred.

    By default it is what the chain does if the next block ends the epoch. ``mode`` is "plurality" or
    "proportional", by default that of the chain file; ``seed`` decides ties and shuffles, by default the next
    epoch's as far as it is revealed.
    """
    mode = node.params.bft.election if mode is None else mode
    if mode not in dpos.MODES:
        raise invalid("mode", "must be one of " + ", ".join(dpos.MODES))
    state, params = node.state(), node.params
    if seed is None:
        seed = queries.coming_seed(state, params, node.chain_id)
    found = queries.tally(state, params, node.chain_id, node.tip().time_s, seed, mode)
    return addressed(found, params.addresses)


@method("governance.round", SECTION)
def current_round(node: Backend) -> dict[str, Any]:
    """Return the round that signs the next block: members, alternates, what they missed, when it can end.

    ``absent`` counts leaders in a row without the member, ``failed_leads`` terms that it should have led; who
    ``failed`` is replaced by an alternate in the first block from ``next_substitution_s`` on. The first block
    from ``epoch_ends_s`` on ends the epoch.
    """
    if node.pow is not None:
        raise RpcError(MISC_ERROR, "This chain has no rounds: its blocks are mined, see getmininginfo")
    params = node.params
    found = queries.round_now(node.state(), params, node.chain_id, node.tip().time_s)
    return addressed(found, params.addresses)


@method("governance.revealchain", SECTION)
def reveal_chain(
    node: Backend, length: Natural = MAX_REVEALS, generation: Natural | None = None
) -> dict[str, Any]:
    """Return a reveal chain of this node's vote key, as ``governance.commit_reveals`` registers it.

    Nothing is kept: the node computes it again from its keys whenever it has to reveal. ``generation`` is by
    default the lowest that its organisation has not registered yet.
    """
    if node.pow is not None:
        raise RpcError(MISC_ERROR, "This chain has no elections: its blocks are mined, see getmininginfo")
    if not 1 <= length <= MAX_REVEALS:
        raise invalid("length", f"must be from 1 to {MAX_REVEALS}")
    if generation is not None and generation > MAX_GENERATION:
        raise invalid("generation", f"must be at most {MAX_GENERATION}")
    number, top = node.reveal_chain(length, generation)
    return {"top": top.hex(), "length": length, "generation": number}
