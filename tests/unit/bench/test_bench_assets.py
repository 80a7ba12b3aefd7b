"""Asset transactions: their size, the file they wait in, the latencies that are kept of them."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from consensus.coins import encode_coin
from consensus.fastpath import signature_items
from consensus.transaction import Transaction, outpoint
from node.bench import million
from node.bench.assets import FEE, TX_BYTES, Latencies, Outcome, Stock, asset_transactions, results
from node.bench.bare import bare_check
from node.bench.load import COIN_VALUE, make_source


def made(count: int, coins: int) -> list[Transaction]:
    prevouts = [outpoint(bytes([7]) * 32, index) for index in range(coins)]
    return list(asset_transactions(make_source(coins), prevouts, count))


def test_each_has_the_size_and_a_signature_that_holds() -> None:
    txs = made(40, 4)
    assert {len(tx.raw) for tx in txs} == {TX_BYTES}
    assert len({tx.txid for tx in txs}) == 40
    script = make_source(4).account.script
    items = [
        (tx, [encode_coin(1, False, COIN_VALUE - FEE * (number // 4), script)])
        for number, tx in enumerate(txs)
    ]
    assert all(signature_items(tx, spent) for tx, spent in items)
    bare_check(items)()
    for number in range(4, 40):
        assert txs[number].prevouts == (outpoint(txs[number - 4].txid, 0),)


def test_the_stock_gives_back_what_it_took(tmp_path: Path) -> None:
    txs = made(11, 3)
    stock = Stock(tmp_path / "stock")
    assert list(stock.fill(txs, 3)) == list(range(1, 12))
    batches = list(stock.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert [item for batch in batches for item in batch] == [
        (tx.txid[::-1].hex(), tx.raw.hex()) for tx in txs
    ]
    assert stock.last == [tx.txid[::-1].hex() for tx in txs[-3:]]


def test_percentiles_of_the_histogram() -> None:
    latencies = Latencies()
    for hundredth in range(100):
        latencies.add(hundredth / 100 + 0.001)
    latencies.add(1e9)
    assert latencies.count == 101
    assert latencies.percentile(0.5) == pytest.approx(0.51)
    assert latencies.percentile(1) == 600
    assert Latencies().percentile(0.5) == 600


def test_the_long_run_prints_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(count: int, progress: object) -> Outcome:
        latencies = Latencies()
        latencies.add(0.5)
        return Outcome(count, 2.0, latencies, [400.0, 600.0, 640.0], 90.0)

    monkeypatch.setattr(million, "run_assets", run)
    found = CliRunner().invoke(million.million, ["--count", "1192"])
    assert found.exit_code == 0, found.output
    for text in ("1192 final on every node in 2.0 s, none lost", "asset_throughput", "596", "2 x"):
        assert text in found.output
    assert [each.value for each in results(Outcome(10, 1.0, Latencies(), [3.0, 1.0, 9.0], 5.0))][:2] == [
        10,
        3,
    ]
