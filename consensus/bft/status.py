"""What the engine says about itself, for ``bft.status`` and the operator."""

from typing import Any

from consensus.bft import leading, terms
from consensus.bft.state import State


def status(state: State, now_ms: int) -> dict[str, Any]:
    """Return the situation as JSON-like values; hashes in display order, times relative to now."""
    voters = state.config.validator_set
    return {
        "round": voters.round,
        "validators": voters.n,
        "faults": voters.f,
        "quorum": voters.q,
        "index": state.config.me,
        "term": state.cur_term,
        "role": _role(state),
        "leader": state.leader,
        "voted_for": state.voted_for,
        "slots": list(state.order),
        "resumed": state.resumed,
        "learner": state.learner,
        "reports": sorted(state.reports) if state.asking else None,
        "committed_height": state.committed_height,
        "committed_hash": state.committed_hash[::-1].hex(),
        "terms_without_commit": max(0, state.cur_term - state.last_commit_term - 1),
        "lock": {
            "term": state.lock.term,
            "height": state.lock.height,
            "hash": state.lock.block_hash[::-1].hex(),
        },
        "validated": {"term": state.val.term, "height": state.val.height},
        "proposal_height": state.mine.height if state.mine is not None else None,
        "waiting_for": list(leading.missing(state)),
        "suspect": state.suspect,
        "suspects": sorted(state.pre_votes),
        "patience_left_ms": _patience_left(state, now_ms),
        "timers_ms": {name.value: armed.at_ms - now_ms for name, armed in sorted(state.timers.items())},
        "fetching": [block_hash[::-1].hex() for block_hash in state.fetches],
        "pending_commit_height": state.pending_commit.height if state.pending_commit is not None else None,
        "pending_transactions": state.work,
        "halted": state.halted,
    }


def _role(state: State) -> str:
    if state.config.me is None:
        return "observer"
    return "starting" if state.asking else state.role.value


def _patience_left(state: State, now_ms: int) -> int | None:
    """Return for how long the leader, or its election, is still waited for; None where nothing is."""
    if not state.votes or state.suspect or not state.started:
        return None
    return max(0, terms.deadline(state) - now_ms)
