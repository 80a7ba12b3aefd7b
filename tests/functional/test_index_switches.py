"""Indexes of a real node: turned on at a restart, built in the background, killed on the way, turned off."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from node.bench.load import COIN_VALUE, SENT, make_source, payments
from node.clock import Clock
from node.config import CONFIG_NAME, render_config
from node.rpc.client import RpcUnavailable
from node.rpc.errors import RpcError
from node.testnet import ChainPlan, Founder, Testnet

pytestmark = pytest.mark.functional

Run = Callable[..., Any]
TIMEOUT_S = 40.0
POLL_S = 0.05
COINS = 4
VALIDATOR, FOLLOWER = 0, 1


class Story:
    """A validator, a follower that has the indexes, and a stream of payments."""

    def __init__(self, net: Testnet) -> None:
        self.net = net
        self.source = make_source(COINS)
        self.name = net.address_of(self.source.account.script)

    async def begin(self) -> None:
        genesis = await self.net.call(
            VALIDATOR, "getblock", await self.net.call(VALIDATOR, "getblockhash", 0), 1
        )
        coinbase = bytes.fromhex(genesis["tx"][0])[::-1]
        prevouts = [coinbase + (1 + number).to_bytes(4, "little") for number in range(COINS)]
        self.stream = payments(self.source, prevouts, 1_000)
        self.sent: list[str] = []

    async def pay(self, count: int) -> None:
        """Send payments and wait until the follower has them in blocks."""
        for tx in islice(self.stream, count):
            self.sent.append(await self.net.call(VALIDATOR, "sendrawtransaction", tx.raw.hex()))

        async def confirmed() -> bool:
            last = await self.net.call(VALIDATOR, "getrawtransaction", self.sent[-1], True)
            if not last.get("confirmations"):
                return False
            known = (await self.net.call(VALIDATOR, "getblockheader", last["blockhash"]))["height"]
            return int(await self.net.call(FOLLOWER, "getblockcount")) >= int(known)

        await self.until(confirmed, "the payments do not get into blocks")

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = Clock.monotonic_s() + TIMEOUT_S
        while not await condition():
            assert Clock.monotonic_s() < deadline, what
            await asyncio.sleep(POLL_S)

    async def restart(self, *, kill: bool = False, **storage: bool) -> None:
        """Stop the follower or kill it, change its configuration, start it again."""
        node = self.net.nodes[FOLLOWER]
        assert node.process is not None
        node.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        status = await asyncio.to_thread(node.process.wait)
        assert status == (-signal.SIGKILL if kill else 0)
        node.config = replace(node.config, **storage)
        (node.config.datadir / CONFIG_NAME).write_text(render_config(node.config))
        self.net.start(FOLLOWER)

        async def answers() -> bool:
            try:
                return bool(await self.net.call(FOLLOWER, "getindexinfo"))
            except RpcUnavailable:
                return False

        await self.until(answers, "the follower does not come back")

    async def synced(self, index: str) -> None:
        async def check() -> bool:
            return bool((await self.net.call(FOLLOWER, "getindexinfo"))[index]["synced"])

        await self.until(check, f"the {index} is not built")

    async def refused(self, method: str, *params: Any) -> RpcError:
        with pytest.raises(RpcError) as caught:
            await self.net.call(FOLLOWER, method, *params)
        return caught.value

    async def check_addresses(self) -> None:
        """Compare what the index says with blocks and UTXO set, as the other methods show them."""
        call = self.net.call
        query = {"addresses": [self.name], "chainInfo": True}
        found = await call(FOLLOWER, "getaddressutxos", query)
        spent = Decimal(0)
        for each in found["utxos"]:
            shown = await call(FOLLOWER, "gettxout", each["txid"], each["outputIndex"])
            assert shown["value"] * COIN_VALUE == each["satoshis"]
            assert shown["scriptPubKey"]["address"] == self.name
            spent += each["satoshis"]
        assert len(found["utxos"]) == COINS
        balance = await call(FOLLOWER, "getaddressbalance", query)
        assert balance["balance"] == spent == COINS * COIN_VALUE - len(self.sent) * (SENT + 400)
        txids = await call(FOLLOWER, "getaddresstxids", {"addresses": [self.name], "start": 1})
        assert sorted(txids) == sorted(self.sent)
        deltas = await call(FOLLOWER, "getaddressdeltas", query)
        assert sum(each["satoshis"] for each in deltas["deltas"]) == balance["balance"]
        assert await call(FOLLOWER, "getblockhash", deltas["height"]) == deltas["hash"]


def test_indexes_are_turned_on_and_off_at_a_restart(run: Run, tmp_path: Path) -> None:
    founders = [Founder("grid", "grid-operator")]
    plan = ChainPlan(allocations=tuple(make_source(COINS).allocations()))

    async def story() -> None:
        async with Testnet.create(tmp_path, founders, plan) as net:
            net.start(VALIDATOR)
            await net.wait_ready([VALIDATOR])
            assert net.add_follower("archive", [VALIDATOR]) == FOLLOWER
            net.start(FOLLOWER)
            await net.wait_ready()
            tale = Story(net)
            await tale.begin()
            await tale.pay(30)
            assert (await tale.refused("getaddressbalance", tale.name)).reason.startswith("address-index-off")

            await tale.restart(address_index=True)
            await tale.restart(kill=True)
            await tale.synced("addressindex")
            await tale.check_addresses()
            await tale.pay(10)
            await tale.check_addresses()

            place = await net.call(FOLLOWER, "getrawtransaction", tale.sent[0], True)
            await tale.restart(tx_index=False)
            assert list(await net.call(FOLLOWER, "getindexinfo")) == ["addressindex"]
            fault = await tale.refused("getrawtransaction", tale.sent[0])
            assert (fault.number, "tx_index = true" in fault.reason) == (-5, True)
            await tale.pay(5)
            again = await net.call(FOLLOWER, "getrawtransaction", tale.sent[0], True, place["blockhash"])
            assert again["hex"] == place["hex"]
            await tale.check_addresses()

            await tale.restart(kill=True, tx_index=True, address_index=False)
            await tale.synced("txindex")
            for txid in tale.sent:
                assert (await net.call(FOLLOWER, "getrawtransaction", txid, True))["confirmations"] > 0

    run(story())
