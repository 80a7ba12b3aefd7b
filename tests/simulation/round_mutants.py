"""The hand-over between rounds with one rule removed, in the engine or in its shell: each must be caught."""

from collections.abc import Callable
from typing import Any, NamedTuple

from consensus.bft import leading, state, voting
from consensus.bft.types import QC, Kind, RoundRecord
from tests.simulation import cluster, committees
from tests.simulation.model import Model
from tests.simulation.mutants import Patch, removed
from tests.simulation.round_histories import chaos_rounds, cut_rounds, lone_rounds, pool_rounds


def leader_extends_last(patch: Patch) -> None:
    """A leader builds on the block that ends the round."""
    patch(leading, "ends_round", lambda mine: False)


def child_of_last_voted_for(patch: Patch) -> None:
    """Followers vote for a child of the block that ends the round."""
    patch(voting, "is_beyond", lambda s, m: False)


def old_records_count(patch: Patch) -> None:
    """Records of any round are promises in this one."""

    def promises(config: Any, records: Any) -> Any:
        return tuple(record for record in records if not isinstance(record, RoundRecord))

    patch(state, "promises", promises)


def base_of_certificate(patch: Patch) -> None:
    """The base of a round takes its term from whichever commit certificate is here."""

    def base_of(number: int, last: Any, height: int, certificate: QC) -> QC:
        return QC(Kind.PREPARE, number, certificate.term, height, last.block_hash, b"", ())

    patch(committees, "base_of", base_of)


def other_rounds_taken(patch: Patch) -> None:
    """Messages of other rounds are stepped."""
    patch(cluster, "takes", lambda node, number: True)


def lock_carried_over(patch: Patch) -> None:
    """The engine of a round starts with the lock of the one before."""
    original = cluster.turned

    def turned(old: Any, config: Any) -> Any:
        new = original(old, config)
        new.lock = old.lock
        return new

    patch(cluster, "turned", turned)


def vote_carried_over(patch: Patch) -> None:
    """The engine of a round goes on in the term of the one before."""
    original = cluster.turned

    def turned(old: Any, config: Any) -> Any:
        new = original(old, config)
        new.cur_term, new.voted_for, new.proof = old.cur_term, old.voted_for, old.proof
        return new

    patch(cluster, "turned", turned)


def log_not_rewritten(patch: Patch) -> None:
    """The log of a round goes on behind the records of the one before."""
    patch(cluster.Node, "_rewrite_log", lambda node: None)


def segments_cross(patch: Patch) -> None:
    """Block sync serves blocks of two rounds under one certificate."""
    patch(committees.Committees, "last_height", lambda self, number: None)


class RoundMutant(NamedTuple):
    """One rule removed, and from which seed on a short run finds it; -1: this layer cannot see it."""

    mutate: Callable[[Patch], None]
    pool: int
    cluster: int
    history: Callable[[int, int], Any] = cut_rounds
    model: Callable[[], Model] | None = None


ROUND_MUTANTS: dict[str, RoundMutant] = {
    "leader_extends_last": RoundMutant(leader_extends_last, -1, 0),
    "child_of_last_voted_for": RoundMutant(
        child_of_last_voted_for, 0, 0, model=lambda: Model(terms=3, ending=True, without=("last",))
    ),
    "old_records_count": RoundMutant(old_records_count, -1, 0),
    "base_of_certificate": RoundMutant(base_of_certificate, -1, 0, lone_rounds),
    "other_rounds_taken": RoundMutant(other_rounds_taken, -1, 0),
    "lock_carried_over": RoundMutant(lock_carried_over, -1, 0),
    "vote_carried_over": RoundMutant(vote_carried_over, -1, 0),
    "log_not_rewritten": RoundMutant(log_not_rewritten, -1, 0, chaos_rounds),
    "segments_cross": RoundMutant(segments_cross, -1, 0, chaos_rounds),
}
"""The adversary of the pool leads every term and does not play hand-overs: it sees votes alone,
as the model does."""


def hunt(name: str, layer: str, tries: int, first: int | None = None) -> tuple[int, str] | None:
    """Return after how many histories a mutant was caught, and what for; None: it survived."""
    mutant = ROUND_MUTANTS[name]
    if layer == "model":
        if mutant.model is None:
            return None
        walks, judged = mutant.model().walks(tries, first or 0)
        return None if judged.wrong is None else (walks, judged.wrong)
    start = getattr(mutant, layer)
    if start < 0:
        return None
    start = start if first is None else first
    play = pool_rounds if layer == "pool" else mutant.history
    with removed(mutant.mutate):
        for count, seed in enumerate(range(start, start + tries), 1):
            try:
                play(4, seed)
            except Exception as error:
                return count, str(error).split(";")[0] or type(error).__name__
    return None
