"""``wattd bench``: names, the JSON document, and figures that come from the measurement and nowhere else."""

import json
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner

from node.bench import command, measure, registry
from node.bench.registry import Benchmark, Result, less_is_better, more_is_better


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two made-up measurements in the place of the real ones; the list tells which ran."""
    ran: list[str] = []

    def speed(progress: registry.Progress) -> list[Result]:
        ran.append("speed")
        return [more_is_better("rate", 300.0, "tx/s", "another", 100.0), Result("delay", 2.5, "s")]

    def size(progress: registry.Progress) -> list[Result]:
        ran.append("size")
        return [less_is_better("size", 50.0, "MiB", "another", 100.0)]

    made_up = (Benchmark(("rate", "delay"), "speed", speed), Benchmark(("size",), "size", size))
    monkeypatch.setattr(command, "benchmarks", lambda: made_up)
    monkeypatch.setattr(registry, "benchmarks", lambda: made_up)
    return ran


def run(*arguments: str):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(command.bench, arguments)


def test_everything_is_measured_once(calls: list[str]) -> None:
    document = json.loads(run("--json").stdout)
    assert calls == ["speed", "size"]
    assert document["results"] == [
        {
            "name": "rate",
            "value": 300.0,
            "unit": "tx/s",
            "reference": "another",
            "reference_value": 100.0,
            "ratio": 3.0,
        },
        {
            "name": "delay",
            "value": 2.5,
            "unit": "s",
            "reference": None,
            "reference_value": None,
            "ratio": None,
        },
        {
            "name": "size",
            "value": 50.0,
            "unit": "MiB",
            "reference": "another",
            "reference_value": 100.0,
            "ratio": 2.0,
        },
    ]
    assert {"processor", "cores", "memory_mib", "python", "cext", "sha256"} <= set(document["machine"])


def test_only_what_is_asked_for_is_measured(calls: list[str]) -> None:
    document = json.loads(run("delay", "--json").stdout)
    assert calls == ["speed"]
    assert [result["name"] for result in document["results"]] == ["delay"]


def test_the_table_has_the_machine_and_the_figures(calls: list[str]) -> None:
    result = run()
    assert result.exit_code == 0
    for text in ("processor", "rate", "300", "tx/s", "3 x", "delay", "2.5"):
        assert text in result.stdout


def test_an_unknown_name_is_a_usage_error(calls: list[str]) -> None:
    result = run("rate", "merkel_root")
    assert result.exit_code == 2
    assert "no benchmark 'merkel_root'; there are rate, delay, size" in result.stderr
    assert calls == []


def test_the_names_can_be_listed(calls: list[str]) -> None:
    assert run("--list").stdout == "rate, delay: speed\nsize: size\n"
    assert calls == []


def test_the_real_names() -> None:
    names = [name for benchmark in registry.benchmarks() for name in benchmark.names]
    assert {"merkle_root", "header_hash"} <= set(names)
    assert len(names) == len(set(names))


def test_each_real_kernel_benchmark_gives_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from node.bench import kernels

    monkeypatch.setattr(kernels, "interleaved", lambda ours, reference: (ours() and 1.0, reference() and 4.0))
    for benchmark in kernels.BENCHMARKS:
        results = benchmark.run(lambda line: None)
        assert tuple(result.name for result in results) == benchmark.names
        # A round of pow_search tries more nonces than its reference does.
        shares = {"pow_search": 16.0}
        assert [result.ratio for result in results] == [4.0 * shares.get(r.name, 1.0) for r in results]


def test_differing_results_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from node.bench import kernels

    monkeypatch.setattr(kernels, "merkle_root", lambda leaves: (bytes(32), False))
    with pytest.raises(RuntimeError, match="differ"):
        kernels.BENCHMARKS[0].run(lambda line: None)


def test_both_sides_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    order: list[str] = []

    def work(name: str, seconds: Iterator[float]):  # type: ignore[no-untyped-def]
        def go() -> None:
            nonlocal now
            order.append(name)
            now += next(seconds)

        return go

    monkeypatch.setattr(measure, "perf_counter", lambda: now)
    ours = work("ours", iter([1.0, 3.0, 1.0, 2.0]))
    reference = work("reference", iter([1.0, 9.0, 7.0, 8.0]))
    assert measure.interleaved(ours, reference, rounds=3) == (2.0, 8.0)
    assert order == ["ours", "reference"] * 4


def test_the_ledger_benchmarks_do_what_they_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from node.bench import ledger

    for name, small in (("CHECKS", 6), ("BARE_CHECKS", 2), ("PARSED_TXS", 3), ("VERIFIED_SCRIPTS", 2)):
        monkeypatch.setattr(ledger, name, small)
    for name, small in (("BLOCK_TXS", 5), ("BLOCKS", 3)):
        monkeypatch.setattr(ledger, name, small)
    monkeypatch.setattr(ledger, "interleaved", one_call_each)
    for benchmark in ledger.BENCHMARKS[:3]:  # the last one needs a node
        results = benchmark.run(lambda line: None)
        assert tuple(result.name for result in results) == benchmark.names
        assert all(result.value > 0 for result in results)


def one_call_each(ours: Callable[[], object], reference: Callable[[], object]) -> tuple[float, float]:
    ours()
    reference()
    return 1.0, 2.0
