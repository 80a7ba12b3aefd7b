"""The benchmarks of whole nodes do what they time: small chains, real processes."""

import pytest

from node.bench import network, sync


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
