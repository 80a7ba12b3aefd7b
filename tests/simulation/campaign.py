"""Campaigns: many histories, on several processes; one that fails is told so that it can be read, and kept.

A history is a name, a number of nodes and a seed. Those that once failed are files in ``scenarios/``, which
every run of the tests plays again.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import Pool as Processes
from pathlib import Path
from typing import Any, NamedTuple

from tests.simulation import pow_histories
from tests.simulation.elections import elections
from tests.simulation.histories import chaos, coups, phase_cuts, twins
from tests.simulation.model import Model
from tests.simulation.pool import POOL_MOVES, Pool
from tests.simulation.round_histories import chaos_rounds, cut_rounds, lone_rounds, pool_rounds, twin_rounds
from tests.simulation.traces import recording, story
from tests.simulation.twin_worlds import Twins

KEPT = Path(__file__).with_name("scenarios")
STORY_LINES = 80
WALKS = 40
SCHEDULES = 10
BOUNDS = (
    {"terms": 4, "heights": 2},
    {"terms": 4, "heights": 3},
    {"terms": 3, "heights": 2, "children": 3},
    {"terms": 4, "heights": 3, "ending": True},
)


def pool(n: int, seed: int) -> None:
    """One schedule of the adversarial pool."""
    Pool(n, seed).run(POOL_MOVES)


def model(n: int, seed: int) -> None:
    """Some walks of the abstract model, in bounds that follow from the seed."""
    bounds = BOUNDS[seed % len(BOUNDS)]
    walks, judged = Model(n=n, **bounds).walks(WALKS, seed)
    if judged.wrong is not None:
        told = "\n".join(judged.story)
        raise AssertionError(f"Model(n={n}, **{bounds}).walk({seed + walks - 1}): {judged.wrong}\n{told}")


def twin_schedules(n: int, seed: int) -> None:
    """Some schedules of four terms with one validator of four run twice."""
    for number in range(SCHEDULES):
        Twins().wander(seed * SCHEDULES + number, 4)


_BFT = (chaos, phase_cuts, twins, coups, pool, model, twin_schedules)
_ROUNDS = (chaos_rounds, cut_rounds, lone_rounds, twin_rounds, pool_rounds, elections)
_POW = ("storm", "rewriting", "selfishness", "takeover", "healing", "forgery", "lying")
HISTORIES: dict[str, Callable[[int, int], Any]] = {
    **{history.__name__: history for history in (*_BFT, *_ROUNDS)},
    **{name: getattr(pow_histories, name) for name in _POW},
}


class Job(NamedTuple):
    """One history to play."""

    history: str
    n: int
    seed: int


class Failure(NamedTuple):
    """A history that failed: the error, and the end of its story."""

    job: Job
    error: str
    story: str

    def report(self) -> str:
        return f"{self.job.history}({self.job.n}, {self.job.seed}): {self.error}\n{self.story}"


def play(job: Job) -> Failure | None:
    """Play a history; one that fails is played again with its journal on."""
    history = HISTORIES[job.history]
    try:
        history(job.n, job.seed)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    else:
        return None
    with recording() as worlds:
        try:
            history(job.n, job.seed)
        except Exception:
            return Failure(job, text, story(worlds, STORY_LINES))
    return Failure(job, text, "it did not happen a second time: the history does not follow from its seed")


def play_all(jobs: Iterable[Job], processes: int) -> Iterator[Failure | None]:
    """Play histories in any order."""
    if processes == 1:
        yield from map(play, jobs)
        return
    with Processes(processes) as workers:
        yield from workers.imap_unordered(play, jobs, chunksize=4)


# --- scenario files -----------------------------------------------------------------------------


def keep(failure: Failure, folder: Path = KEPT) -> Path:
    """Write a history that failed to a file of its own; the note is for who repairs it."""
    folder.mkdir(exist_ok=True)
    path = folder / "{}-{}-{}.json".format(*failure.job)
    told = {**failure.job._asdict(), "failed": failure.error.split(";")[0][:300], "note": ""}
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return path


def kept(folder: Path = KEPT) -> list[Path]:
    """Return the files of all kept histories."""
    return sorted(folder.glob("*.json"))


def read(path: Path) -> Job:
    """Return the history in a file."""
    told = json.loads(path.read_text(encoding="utf-8"))
    return Job(told["history"], told["n"], told["seed"])
