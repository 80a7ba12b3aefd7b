"""The mutation score: which layer catches which removed rule, and after how many tries.

A layer counts as the judge only if it lets the whole protocol pass; the histories of the other tests show
that.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.simulation.mutants import MUTANTS, OF_THE_SPECIFICATION, Mutant, removed
from tests.simulation.pool import POOL_MOVES, Pool
from tests.simulation.round_mutants import ROUND_MUTANTS
from tests.simulation.round_mutants import hunt as hunt_round

LAYERS = ("model", "pool", "cluster")


class Kill(NamedTuple):
    """Caught at the ``tries``-th try, for this reason."""

    tries: int
    reason: str


class Hunt(NamedTuple):
    """How long each layer looks for a mutant, and from which seed on (None: each mutant's own)."""

    walks: int
    schedules: int
    histories: int
    first: int | None = None


SHORT = Hunt(walks=600, schedules=400, histories=300)


def _in_model(mutant: Mutant, hunt: Hunt) -> Kill | None:
    first = mutant.walk if hunt.first is None else hunt.first
    tries, judged = mutant.model().walks(hunt.walks, first)
    return None if judged.wrong is None else Kill(tries, judged.wrong)


def _first_failure(play: Callable[[int], Any], seeds: range) -> Kill | None:
    for tries, seed in enumerate(seeds, 1):
        try:
            play(seed)
        except Exception as error:
            return Kill(tries, str(error).split(";")[0] or type(error).__name__)
    return None


def _in_pool(mutant: Mutant, hunt: Hunt) -> Kill | None:
    if mutant.pool < 0:
        return None
    first = mutant.pool if hunt.first is None else hunt.first
    with removed(mutant.mutate):
        return _first_failure(
            lambda seed: Pool(mutant.n, seed).run(POOL_MOVES), range(first, first + hunt.schedules)
        )


def _in_cluster(mutant: Mutant, hunt: Hunt) -> Kill | None:
    if mutant.cluster < 0:
        return None
    first = mutant.cluster if hunt.first is None else hunt.first
    with removed(mutant.mutate):
        return _first_failure(
            lambda seed: mutant.history(mutant.n, seed), range(first, first + hunt.histories)
        )


_HUNTERS = {"model": _in_model, "pool": _in_pool, "cluster": _in_cluster}


def kill(name: str, layer: str, hunt: Hunt = SHORT) -> Kill | None:
    """Look for a mutant in one layer; None: it survived, or this layer cannot see it."""
    return _HUNTERS[layer](MUTANTS[name], hunt)


def table(hunt: Hunt, tell: Callable[[str], None]) -> bool:
    """Play all mutants in all layers, tell a line for each, and return whether the score is reached.

    Reached: every mutant dies in the model or the pool, and at least eight of the specification's in the
    cluster.
    """
    tell(f"{'mutant':26}" + "".join(f"{layer:>10}" for layer in LAYERS) + "  in the cluster for")
    survivors, in_cluster = [], 0
    for number, name in enumerate(MUTANTS):
        kills = [kill(name, layer, hunt) for layer in LAYERS]
        cells = "".join(f"{'-' if found is None else found.tries:>10}" for found in kills)
        last = kills[-1]
        tell(f"{name:26}{cells}  {'' if last is None else last.reason[:70]}")
        if kills[0] is None and kills[1] is None:
            survivors.append(name)
        in_cluster += number < OF_THE_SPECIFICATION and last is not None
    tell(
        f"{len(MUTANTS) - len(survivors)} of {len(MUTANTS)} die in model or pool, {in_cluster} of "
        f"{OF_THE_SPECIFICATION} in the cluster" + (f"; survivors: {survivors}" if survivors else "")
    )
    return _hand_over(hunt, tell) and not survivors and in_cluster >= 8


def _hand_over(hunt: Hunt, tell: Callable[[str], None]) -> bool:
    """Tell a line for each mutant of the hand-over between rounds; return whether all die."""
    survivors = []
    for name in ROUND_MUTANTS:
        kills = [hunt_round(name, layer, hunt.histories, hunt.first) for layer in LAYERS]
        cells = "".join(f"{'-' if found is None else found[0]:>10}" for found in kills)
        last = kills[-1]
        tell(f"{name:26}{cells}  {'' if last is None else last[1][:70]}")
        if not any(kills):
            survivors.append(name)
    dead = len(ROUND_MUTANTS) - len(survivors)
    tell(
        f"{dead} of {len(ROUND_MUTANTS)} of the hand-over die"
        + (f"; survivors: {survivors}" if survivors else "")
    )
    return not survivors
