"""Why a bft chain does not advance, in words that an operator can act on, and when that is an alarm."""

from collections.abc import Mapping, Sequence
from typing import Any

from consensus.bft.config import Timing
from node.limits import MIN_STALL_MS, STALL_TIMEOUTS

APPLY_RESTART = "if it was restarted, get the restart file from the operators and apply it (docs/recovery.md)"


class Standstill:
    """Since when no block became final here; times are ``Clock.monotonic_ms``."""

    def __init__(self, timing: Timing, now_ms: int) -> None:
        patience_ms = timing.idle_interval_ms + timing.progress_timeout_ms
        self.limit_ms = max(MIN_STALL_MS, STALL_TIMEOUTS * patience_ms)
        self.since_ms = now_ms
        self._late_ms = patience_ms
        self._told = False
        self.unknown_round: int | None = None
        """A later round that peers are in and that does not follow from our chain."""

    def is_late(self, now_ms: int) -> bool:
        """Return whether the next block is overdue: an idle chain has one per idle interval."""
        return now_ms - self.since_ms > self._late_ms

    def look(self, now_ms: int) -> bool:
        """Return whether the chain stands still and nobody was told."""
        if self._told or now_ms - self.since_ms < self.limit_ms:
            return False
        self._told = True
        return True

    def next_look_ms(self, now_ms: int) -> int:
        """Return after how long to look again."""
        return self.limit_ms if self._told else max(1, self.since_ms + self.limit_ms - now_ms)

    def meet_round(self, number: int) -> bool:
        """Note that peers are in a round that we know nothing of; return whether that is new."""
        is_new = self.unknown_round != number
        self.unknown_round = number
        return is_new

    def advanced(self, now_ms: int) -> int | None:
        """Note a final block; return for how long the chain stood still, if somebody was told so."""
        stood_ms, told = now_ms - self.since_ms, self._told
        self.since_ms, self._told, self.unknown_round = now_ms, False, None
        return stood_ms if told else None


def explain(now: Mapping[str, Any], names: Sequence[str], own: int | None) -> dict[str, Any]:
    """Return ``waiting``, a sentence, and ``missing``, the names of validators that are away.

    ``now`` is the engine's status with ``connected`` and ``silent``, validators by index; ``own`` is the
    place of this node, also of one that has lost its vote.
    """
    away = [
        index
        for index in range(len(names))
        if index != own and (index not in now["connected"] or index in now["silent"])
    ]
    parts = [_WAITING[now["phase"]](now, names)]
    if now["suspect"]:
        parts.append(f"{_among(now['suspects'], names)} gave term {now['term']} up, {now['quorum']} must")
    if now.get("unknown_round") is not None:
        parts.append(
            f"peers are in round {now['unknown_round']}, to which this chain does not lead: {APPLY_RESTART}"
        )
    if away:
        parts.append(f"not heard of: {_among(away, names)}")
    return {"waiting": "; ".join(parts), "missing": [names[index] for index in away]}


def _among(members: Sequence[int], names: Sequence[str]) -> str:
    return ", ".join(names[member] for member in members) or "nobody"


def _starting(now: Mapping[str, Any], names: Sequence[str]) -> str:
    reports, needed = now["reports"] or [], now["quorum"] - 1
    if len(reports) < needed:
        return (
            f"before it signs, this validator needs {needed} others to say what they hold of it,"
            f" {len(reports)} did ({_among(reports, names)})"
        )
    return "before it signs, this validator catches up with the height that others reported"


def _election(now: Mapping[str, Any], names: Sequence[str]) -> str:
    if now["leader"] is not None:
        return f"a new leader, {names[now['leader']]} is given up"
    age_s = now["term_age_ms"] // 1000
    text = f"term {now['term']} has no leader since {age_s} s, {now['quorum']} votes are needed"
    if now["role"] == "candidate":
        text += f", no vote yet of {_among(now['unanswered'], names)}"
    return text


def _votes(now: Mapping[str, Any], names: Sequence[str]) -> str:
    height, leader = now["phase_height"], names[now["leader"]]
    if now["role"] == "leader":
        return f"votes on height {height} of {_among(now['unanswered'], names)}"
    return f"the certificate of height {height} from its leader, {leader}"


def _bodies(now: Mapping[str, Any], names: Sequence[str]) -> str:
    return f"the body of block {now['phase_height']} or of one below it"


def _checking(now: Mapping[str, Any], names: Sequence[str]) -> str:
    return f"transactions of, or the verdict on, the block proposed for height {now['phase_height']}"


def _idle(now: Mapping[str, Any], names: Sequence[str]) -> str:
    leader = "this node" if now["role"] == "leader" else names[now["leader"]]
    return f"the next block of the leader, {leader}"


def _following(now: Mapping[str, Any], names: Sequence[str]) -> str:
    if now["learner"] is not None:
        return f"blocks of the others; this validator has no vote: {now['learner']}"
    return "blocks of the validators"


_WAITING = {
    "starting": _starting,
    "election": _election,
    "votes": _votes,
    "bodies": _bodies,
    "checking": _checking,
    "idle": _idle,
    "following": _following,
}
