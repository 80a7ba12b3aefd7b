"""What the engine says about itself, for ``bft.status`` and the operator."""

from typing import Any

from consensus.bft import leading, terms
from consensus.bft.state import Role, State


def status(state: State, now_ms: int) -> dict[str, Any]:
    """Return the situation as JSON-like values; hashes in display order, times relative to now."""
    voters = state.config.validator_set
    phase, phase_height = _phase(state)
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
        "phase": phase,
        "phase_height": phase_height,
        "unanswered": _unanswered(state),
        "term_age_ms": now_ms - state.entered_at if state.votes and state.started else 0,
        "suspect": state.suspect,
        "suspects": sorted(state.pre_votes),
        "patience_left_ms": _patience_left(state, now_ms),
        "timers_ms": {name.value: armed.at_ms - now_ms for name, armed in sorted(state.timers.items())},
        "fetching": [block_hash[::-1].hex() for block_hash in state.fetches],
        "pending_commit_height": state.pending_commit.height if state.pending_commit is not None else None,
        "pending_transactions": state.work,
        "ended": state.ended,
        "halted": state.halted,
    }


def _phase(s: State) -> tuple[str, int | None]:
    """Return what is waited for, and at which height."""
    if s.asking:
        return "starting", None
    if s.pending_commit is not None:
        return "bodies", s.pending_commit.height
    if s.config.me is None:
        return "following", None
    if s.leader is None or s.suspect:
        return "election", None
    if s.pending is not None:
        return "checking", s.pending.height
    voted = max(s.val.height, 0 if s.mine is None else s.mine.height)
    return ("votes", voted) if voted > s.committed_height else ("idle", None)


def _unanswered(s: State) -> list[int]:
    """Return who has not answered what this node asked last: votes, or what they hold of it."""
    if s.role is Role.LEADER:
        return list(leading.missing(s))
    if s.asking:
        answered = tuple(s.reports)
    elif s.role is Role.CANDIDATE:
        answered = tuple(s.grants)
    else:
        return []
    members = range(s.config.validator_set.n)
    return [member for member in members if member not in answered and member != s.config.me]


def _role(state: State) -> str:
    if state.config.me is None:
        return "observer"
    return "starting" if state.asking else state.role.value


def _patience_left(state: State, now_ms: int) -> int | None:
    """Return for how long the leader, or its election, is still waited for; None where nothing is."""
    if not state.votes or state.suspect or not state.started:
        return None
    return max(0, terms.deadline(state) - now_ms)
