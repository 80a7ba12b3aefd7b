"""The fuzzer's loop: inputs out of a seed, an outcome of each, and what to do about a wrong one.

The sequence of inputs of a target depends on the seed alone, so a run can be repeated; an input with
an outcome not seen before joins the pool that later inputs are made from.
"""

import hashlib
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import process_time

from consensus.errors import PeerFault
from tests.fuzz.mutate import Mutate, mutate_bytes

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
FOUND = HERE / "found"

MAX_POOL = 400
"""Inputs that later ones are made from; the samples always stay."""

CASE_CPU_S = 20.0
"""Processor time after which an input counts as hanging: hundreds of times what the slowest takes."""


class Hang(BaseException):
    """One input took more than CASE_CPU_S of processor time."""


@dataclass
class Target:
    """A decoder under test.

    ``run`` takes one input and returns its outcome; it may raise ``allowed``, whose code is the outcome
    then. It checks the decoder's promises with ``ensure``. Any other exception is a find.
    """

    name: str
    samples: Sequence[bytes]
    run: Callable[[bytes], str]
    mutate: Mutate = mutate_bytes
    allowed: tuple[type[Exception], ...] = (PeerFault,)
    max_bytes: int = 16_384

    def outcome(self, data: bytes) -> str:
        """Return the outcome of one input; raises what nobody may raise."""
        try:
            return self.run(data)
        except self.allowed as error:
            return getattr(error, "name", "") or getattr(error, "code", type(error).__name__)


class Broken(Exception):
    """A promise of the decoder does not hold."""


def ensure(held: bool, promise: str) -> None:
    """Check a promise."""
    if not held:
        raise Broken(promise)


@dataclass
class Find:
    """An input with a wrong outcome."""

    target: str
    data: bytes
    number: int
    report: str

    @property
    def name(self) -> str:
        """File name of the input."""
        return f"{self.target}-{hashlib.sha256(self.data).hexdigest()[:12]}.bin"

    def write(self, seed: int) -> Path:
        """Keep the input, and beside it what happened and how to make it again."""
        FOUND.mkdir(exist_ok=True)
        path = FOUND / self.name
        path.write_bytes(self.data)
        again = f"python -m tests.fuzz --target {self.target} --seed {seed} --cases {self.number + 1}"
        path.with_suffix(".txt").write_text(f"seed {seed}, input {self.number}\n{again}\n\n{self.report}")
        return path


@dataclass
class Tally:
    """What a run of one target saw."""

    cases: int = 0
    cpu_s: float = 0.0
    slowest_s: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    finds: list[Find] = field(default_factory=list)


@contextmanager
def watched() -> Iterator[None]:
    """Raise Hang out of the block when it has used CASE_CPU_S of processor time."""

    def strike(number: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, strike)
    signal.setitimer(signal.ITIMER_PROF, CASE_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def judge(target: Target, data: bytes) -> str | None:
    """Return None if the outcome of an input is right, otherwise the report."""
    try:
        with watched():
            target.outcome(data)
    except (Exception, Hang):
        return traceback.format_exc()
    return None


class Run:
    """One target under one seed, case by case."""

    def __init__(self, target: Target, seed: int) -> None:
        self.target = target
        self.rng = Random(f"{seed}/{target.name}")
        self.pool = list(target.samples)
        self.tally = Tally()
        self._reports: set[str] = set()

    def check_samples(self) -> None:
        """Run the samples as they are: their outcomes are known from then on."""
        for sample in self.target.samples:
            self._try(sample)

    def step(self) -> None:
        """Make the next input and run it."""
        data = self.target.mutate(self.rng, self.pool)[: self.target.max_bytes]
        if self._try(data) and len(self.pool) < MAX_POOL:
            self.pool.append(data)

    def _try(self, data: bytes) -> bool:
        """Run one input; return whether its outcome is new."""
        tally = self.tally
        started = process_time()
        outcome = ""
        try:
            with watched():
                outcome = self.target.outcome(data)
        except (Exception, Hang) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} at {last.filename}:{last.lineno} {error}"[:160]
            if kind not in self._reports:
                self._reports.add(kind)
                tally.finds.append(Find(self.target.name, data, tally.cases, traceback.format_exc()))
        elapsed = process_time() - started
        tally.cases += 1
        tally.cpu_s += elapsed
        tally.slowest_s = max(tally.slowest_s, elapsed)
        tally.outcomes[outcome] = tally.outcomes.get(outcome, 0) + 1
        return tally.outcomes[outcome] == 1
