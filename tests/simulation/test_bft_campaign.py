"""Fresh histories with every run, the kept ones again, and what a failure leaves behind."""

import json
import os
import secrets

import pytest

from tests.simulation.__main__ import BFT, campaign, jobs
from tests.simulation.campaign import HISTORIES, Failure, Job, keep, kept, play, read
from tests.simulation.mutants import MUTANTS, removed
from tests.simulation.traces import recording

FRESH = int(os.environ.get("WATTD_SIMULATE_SEED", secrets.randbelow(2**31)))


@pytest.mark.parametrize("part", range(4))
def test_fresh_histories(part):
    """WATTD_SIMULATE_SEED repeats a run; the seed is printed when one fails."""
    first = FRESH + part * len(BFT)
    print(f"WATTD_SIMULATE_SEED={FRESH}")
    for job in jobs("bft", range(first, first + len(BFT))):
        failure = play(job)
        assert failure is None, f"WATTD_SIMULATE_SEED={FRESH}\n{failure.report()}"


@pytest.mark.parametrize("path", kept(), ids=lambda path: path.stem)
def test_a_kept_history_passes(path):
    failure = play(read(path))
    assert failure is None, failure.report()


def test_kept_files_say_what_they_are_for():
    for path in kept():
        told = json.loads(path.read_text())
        assert set(told) == {"history", "n", "seed", "failed", "note"}
        assert told["history"] in HISTORIES
        assert told["note"], f"{path.name}: say what it was"


@pytest.mark.parametrize(
    ("name", "history", "n", "first", "told"),
    [("two_votes_per_rank", "phase_cuts", 4, 0, "I6"), ("two_f_plus_one", "pool", 5, 15, "Fork")],
)
def test_a_failure_tells_its_story_and_is_kept(tmp_path, name, history, n, first, told):
    with removed(MUTANTS[name].mutate):
        failures = map(play, (Job(history, n, seed) for seed in range(first, first + 300)))
        failure = next(failure for failure in failures if failure is not None)
    assert told in failure.error
    lines = failure.story.splitlines()
    assert any("Propose(" in line for line in lines)
    assert "term" in lines[-1]
    path = keep(failure, tmp_path / "kept")
    assert kept(tmp_path / "kept") == [path]
    assert read(path) == failure.job
    assert play(read(path)) is None, "it fails with the rule removed alone"


def test_a_campaign_names_what_failed(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tests.simulation.__main__.keep", lambda failure: keep(failure, tmp_path))
    seeds = range(BFT.index(("pool", 7)), 100 * len(BFT), len(BFT))
    with removed(MUTANTS["majority_quorum"].mutate):
        bad = next(seed for seed in seeds if play(Job("pool", 7, seed)))
        assert campaign("bft", range(bad, bad + 1), 1) == 1
    told = capsys.readouterr().out
    assert f"again: python -m tests.simulation --kind bft --first {bad} --seeds 1" in told
    assert f"pool(7, {bad})" in told
    assert [path.name for path in tmp_path.iterdir()] == [f"pool-7-{bad}.json"]
    assert campaign("bft", range(bad, bad + 1), 1) == 0


def test_a_history_that_is_not_its_seed_is_told(monkeypatch):
    played = []

    def moody(n, seed):
        played.append(seed)
        assert len(played) > 1

    monkeypatch.setitem(HISTORIES, "moody", moody)
    failure = play(Job("moody", 4, 1))
    assert isinstance(failure, Failure)
    assert "a second time" in failure.story


def test_journals_are_kept_only_while_they_are_wanted():
    with recording() as worlds:
        HISTORIES["pool"](4, 1)
        HISTORIES["twins"](4, 1)
    assert [bool(world.journal) for world in worlds] == [True, True]
    HISTORIES["pool"](4, 1)
    assert len(worlds) == 2
