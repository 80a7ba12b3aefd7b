"""The load generator: it sends what is valid, and finds out when each payment is final, or lost."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from consensus.coins import encode_coin
from consensus.errors import LocalFault
from consensus.script import verify_transaction
from consensus.transaction import outpoint
from node.bench import traffic
from node.bench.load import COIN_VALUE, FEE, SENT, make_source, payments
from node.bench.traffic import Payload, Watcher, drive

SOURCE = make_source(2)
PREVOUTS = [outpoint(bytes((9,)) * 32, at) for at in range(2)]


def test_payments_form_chains_and_are_signed() -> None:
    script = SOURCE.account.script
    heads = dict.fromkeys(PREVOUTS, COIN_VALUE)
    for number, tx in enumerate(payments(SOURCE, PREVOUTS, 6)):
        [prevout] = tx.prevouts
        value = heads.pop(prevout)
        verify_transaction(tx, [encode_coin(1, False, value, script)])
        assert value - sum(output.value for output in tx.vout) == FEE
        assert tx.vout[1].value == SENT
        heads[outpoint(tx.txid, 0)] = tx.vout[0].value
        assert len(heads) == 2
        assert number // 2 == (COIN_VALUE - value) // (FEE + SENT)


class OneNode:
    """Stands in for a network of one node: puts what is sent into a block when asked how it is."""

    def __init__(self, *, loses: int = 0) -> None:
        self.nodes = [SimpleNamespace()]
        self.loses = loses
        self.pool: list[str] = []
        self.blocks: list[list[str]] = [[]]
        self.sizes: list[int] = []

    async def client(self, index: int) -> "OneNode":
        return self

    async def send(self, request: Any) -> list[str]:
        calls = json.loads(request.body)
        assert [call["id"] for call in calls] == list(range(1, request.calls + 1))
        self.sizes.append(len(calls))
        self.pool += [self.txid_of[call["params"][0]] for call in calls]
        return ["ok"] * len(calls)

    async def call(self, *arguments: Any) -> Any:
        method, *params = arguments[1:] if isinstance(arguments[0], int) else arguments
        if method == "getmempoolinfo":
            size = len(self.pool)
            if size:
                self.blocks.append(["coinbase", *self.pool[self.loses :]])
                self.pool = []
            return {"size": size}
        if method == "getblockcount":
            return len(self.blocks) - 1
        return params[0] if method == "getblockhash" else {"tx": self.blocks[params[0]]}


def made(count: int, size: int, net: OneNode) -> Payload:
    txs = list(payments(SOURCE, PREVOUTS, count))
    net.txid_of = {tx.raw.hex(): tx.txid[::-1].hex() for tx in txs}  # type: ignore[attr-defined]
    return Payload.of(txs, size)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "POLL_S", 0)
    monkeypatch.setattr(traffic, "DRAIN_TIMEOUT_S", 0.05)


@pytest.mark.parametrize("rate", [None, 1e9])
async def test_every_payment_gets_its_time(rate: float | None) -> None:
    net = OneNode()
    load = await asyncio.wait_for(drive(net, Watcher(net, 0), made(11, 4, net), rate), 5)  # type: ignore[arg-type]
    assert load.count == len(load.latencies_s) == 11
    assert net.sizes == [4, 4, 3]
    assert 0 <= load.percentile(0) <= load.percentile(0.99) <= load.elapsed_s


async def test_a_lost_payment_is_told() -> None:
    net = OneNode(loses=1)
    with pytest.raises(LocalFault, match="1 payments never became final"):
        await drive(net, Watcher(net, 0), made(3, 3, net), 1e9)  # type: ignore[arg-type]
