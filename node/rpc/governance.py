"""RPC methods of governance: organisations with a vote, applications, delegate votes, elections.

Accounts are shown as addresses. What an election gives is a preview: the validators of the chain file
go on whatever it says.
"""

from typing import Any

from consensus import dpos
from contracts.governance import queries
from node.limits import RPC_DEFAULT_PAGE, RPC_MAX_PAGE
from node.rpc.backend import Backend
from node.rpc.energy import addressed
from node.rpc.registry import Key32, Natural, Text, invalid, method

SECTION = "Governance"


@method("governance.status", SECTION)
def status(node: Backend) -> dict[str, Any]:
    """Return how many organisations have a vote, the quorum of them, and the bounds of governance.

    ``counting_since`` is the height from which on readings count for weights, null before the first
    operation of governance.
    """
    return queries.status(node.state(), node.params)


@method("governance.candidates", SECTION)
def candidates(node: Backend) -> list[dict[str, Any]]:
    """Return the organisations with a vote, all of which can be delegates, with their active meters."""
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
def tally(node: Backend, mode: Text = dpos.PLURALITY, seed: Key32 | None = None) -> dict[str, Any]:
    """Return what an election at the tip would give: delegates, alternates, votes of all candidates.

    ``mode`` is "plurality" or "proportional". ``seed`` decides ties and shuffles; without it that of
    round 0 is taken, since nothing is revealed yet.
    """
    if mode not in dpos.MODES:
        raise invalid("mode", "must be one of " + ", ".join(dpos.MODES))
    chosen = dpos.first_seed(node.chain_id) if seed is None else seed
    found = queries.tally(node.state(), node.params, node.tip().time_s, chosen, mode)
    return addressed(found, node.params.addresses)
