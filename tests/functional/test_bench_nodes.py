"""The benchmarks of whole nodes do what they time: small chains, real processes."""

import pytest

from node.bench import assets, idle, network, sync


def test_nodes_sync_with_and_without_checking_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in (("SYNCED_TXS", 30), ("BLOCK_TXS", 6), ("ROUNDS", 1), ("BARE_ROUNDS", 1)):
        monkeypatch.setattr(sync, name, small)
    [benchmark] = sync.BENCHMARKS
    results = benchmark.run(lambda line: None)
    assert tuple(result.name for result in results) == benchmark.names
    assert all(result.value > 0 for result in results)


def test_a_node_starts_on_a_chain_that_was_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "LONG_CHAIN_BLOCKS", 40)
    monkeypatch.setattr(network, "STARTS", 1)
    [benchmark] = [each for each in network.BENCHMARKS if "start_long_chain" in each.names]
    [result] = benchmark.run(lambda line: None)
    assert (result.name, result.unit) == ("start_long_chain", "s")
    assert result.ratio is not None
    assert result.ratio > 0


def test_assets_go_through_four_nodes_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in (("BURST_TXS", 90), ("BATCH_TXS", 10), ("IN_FLIGHT_TXS", 40), ("COINS", 40)):
        monkeypatch.setattr(assets, name, small)
    monkeypatch.setattr(network, "COINS", 40)
    lines: list[str] = []
    [benchmark] = assets.BENCHMARKS
    results = benchmark.run(lines.append)
    assert results[0].name == "asset_throughput"
    assert all(result.value > 0 for result in results)
    assert any(line.startswith("90 of 90 final") for line in lines)


def test_an_idle_chain_takes_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "SETTLE_S", 0.1)
    monkeypatch.setattr(idle, "MEASURED_S", 1.5)
    [benchmark] = idle.BENCHMARKS
    head, *each = benchmark.run(lambda line: None)
    assert head.reference_value == idle.ALLOWED_PERCENT
    assert head.value == max(result.value for result in each)
    assert 0 < head.value < 200


def test_payments_go_through_four_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in (("COINS", 80), ("TRIAL_TXS", 160), ("BATCH_TXS", 20), ("PACED_BATCH_TXS", 5)):
        monkeypatch.setattr(network, name, small)
    monkeypatch.setattr(network, "LOAD_S", 0.2)
    monkeypatch.setattr(network, "PACED_S", 0.5)
    [benchmark] = [each for each in network.BENCHMARKS if "bft_throughput" in each.names]
    results = benchmark.run(lambda line: None)
    assert {result.name.partition("[")[0] for result in results} == set(benchmark.names)
    assert all(result.value > 0 for result in results)
