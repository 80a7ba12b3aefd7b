"""Inputs that once went wrong, and a short run of every target from a fresh seed.

A failure prints the seed; ``python -m tests.fuzz --target NAME --seed SEED`` repeats it. WATTD_FUZZ_SEED
chooses the seed here, WATTD_FUZZ_SECONDS the time for each target.
"""

import os
import secrets
from time import process_time

import pytest

from tests.fuzz.runner import CORPUS, Find, Run, Target, ensure, judge
from tests.fuzz.targets import TARGETS, make

SEED = int(os.environ.get("WATTD_FUZZ_SEED") or secrets.randbelow(2**32))
SECONDS = float(os.environ.get("WATTD_FUZZ_SECONDS") or 0.3)
KEPT = sorted(CORPUS.glob("*.bin"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_once_went_wrong(path):
    report = judge(make(path.name.rpartition("-")[0]), path.read_bytes())
    assert report is None, report


@pytest.mark.parametrize("name", TARGETS)
def test_slice(name):
    run = Run(make(name), SEED)
    run.check_samples()
    end = process_time() + SECONDS
    while process_time() < end:
        run.step()
    finds = [f"{find.write(SEED)}\n{find.report}" for find in run.tally.finds]
    assert not finds, f"seed {SEED}\n" + "\n".join(finds)
    assert len(run.tally.outcomes) > 1, "a target that sees one outcome tests nothing"


def raising(data):
    ensure(b"\xff" not in data, "no 0xff")
    if data.startswith(b"\0"):
        raise KeyError("a bug")
    return "fine"


def test_a_bug_and_a_broken_promise_are_found_and_the_seed_repeats_them(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.fuzz.runner.FOUND", tmp_path)
    target = Target("toy", [b"harmless", b"more"], raising)

    def finds():
        run = Run(target, 5)
        run.check_samples()
        while run.tally.cases < 800:
            run.step()
        return [(find.number, find.data) for find in run.tally.finds], run.tally.finds

    first, found = finds()
    assert first == finds()[0]
    assert len(first) == 2
    path = found[0].write(5)
    assert path.read_bytes() == found[0].data
    assert "--seed 5" in path.with_suffix(".txt").read_text()


def test_an_input_that_hangs_is_found(monkeypatch):
    monkeypatch.setattr("tests.fuzz.runner.CASE_CPU_S", 0.05)

    def hang(data):
        while True:
            pass

    assert "Hang" in (judge(Target("toy", [b""], hang), b"") or "")


def test_names_of_finds_lead_back_to_their_target():
    assert Find("vote_log", b"x", 3, "").name.rpartition("-")[0] == "vote_log"
