"""An open network of real processes: branches that become one, nodes killed while they sync, contracts."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consensus.params import Allocation
from consensus.transaction import TxOut
from contracts.operations import Deposit, encode
from node.bench.load import COIN_VALUE, make_source
from node.clock import Clock
from node.testnet import TEST_POW, ChainPlan, Founder, Testnet
from node.wallet import Coin, build_operation, build_payment

pytestmark = pytest.mark.functional

Run = Callable[..., Any]
TIMEOUT_S = 40.0
POLL_S = 0.05
FOUNDERS = [
    Founder("grid", "grid-operator"),
    Founder("p1", "service-provider"),
    Founder("p2", "service-provider"),
]
SOURCE = make_source(8)
PLAN = ChainPlan(
    name="hills",
    pow=TEST_POW,
    allocations=tuple(Allocation(SOURCE.account.script, COIN_VALUE) for _ in range(8)),
)


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = Clock.monotonic_s() + TIMEOUT_S
    while not await condition():
        assert Clock.monotonic_s() < deadline, what
        await asyncio.sleep(POLL_S)


async def agree(net: Testnet, indices: list[int], tip: str) -> None:
    """Wait until the nodes have this tip, then compare all that they hold."""
    for index in indices:

        async def there(index: int = index) -> bool:
            return bool(await net.call(index, "getbestblockhash") == tip)

        await until(there, f"node {index} does not come to {tip}")
    stats = [await net.call(index, "gettxoutsetinfo") for index in indices]
    assert all(each["conserved"] for each in stats)
    assert len({each["hash_serialized"] for each in stats}) == 1
    digests = {(await net.call(index, "getblockchaininfo"))["effects_digest"] for index in indices}
    assert len(digests) == 1


async def mine(net: Testnet, index: int, count: int) -> str:
    """Mine blocks on a node; return the last one."""
    address = net.address_of(net.nodes[index].account_script)
    return str((await net.call(index, "generatetoaddress", count, address))[-1])


async def coin(net: Testnet, index: int, number: int) -> Coin:
    """Return the source's genesis coin ``number``."""
    genesis = await net.call(index, "getblock", await net.call(index, "getblockhash", 0), 1)
    coinbase = bytes.fromhex(genesis["tx"][0])[::-1]
    return Coin(coinbase + (len(FOUNDERS) + number).to_bytes(4, "little"), COIN_VALUE)


async def only(net: Testnet, indices: list[int]) -> None:
    """Kill every node but these, and start these."""
    for index in range(len(net.nodes)):
        if index not in indices:
            await net.kill(index)
    for index in indices:
        net.start(index)
    await net.wait_ready(indices, health="/live")


def test_two_branches_become_one_and_nothing_that_was_paid_is_lost(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with Testnet.create(tmp_path, FOUNDERS, PLAN) as net:
            await only(net, [0, 1, 2])
            await agree(net, [0, 1, 2], await mine(net, 0, 3))
            await only(net, [0, 1])
            account = SOURCE.account
            output = TxOut(50_000, account.script)
            payment = build_payment(account, [await coin(net, 0, 0)], [output], 1_000).tx
            deposit = build_operation(
                account, [await coin(net, 0, 1)], encode(Deposit()), 1_000, value=70_000
            ).tx
            for tx in (payment, deposit):
                await net.call(0, "sendrawtransaction", tx.raw.hex())
            await agree(net, [0, 1], await mine(net, 0, 2))
            held = net.address_of(account.script)
            assert (await net.call(1, "energy.account", held))["available"] != 0
            await only(net, [2])
            tip = await mine(net, 2, 5)
            await only(net, [0, 1, 2])
            await agree(net, [0, 1, 2], tip)
            assert (await net.call(1, "energy.account", held))["available"] == 0
            tips = await net.call(0, "getchaintips")
            assert sorted((each["status"], each["branchlen"]) for each in tips) == [
                ("active", 0),
                ("valid-fork", 2),
            ]

            async def back() -> bool:
                return sorted(await net.call(0, "getrawmempool")) == sorted(
                    tx.txid[::-1].hex() for tx in (payment, deposit)
                )

            await until(back, "what the lost branch had confirmed is not pending again")
            await agree(net, [0, 1, 2], await mine(net, 0, 1))
            assert (await net.call(2, "energy.account", held))["available"] != 0
            assert await net.call(0, "getrawmempool") == []

    run(story())


def test_a_node_killed_again_and_again_while_it_syncs_arrives(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with Testnet.create(tmp_path, FOUNDERS[:2], PLAN) as net:
            await only(net, [0])
            tip = await mine(net, 0, 400)
            heights = []
            for life in range(4):
                net.start(1)
                await net.wait_ready([1], health="/live")

                async def beyond(life: int = life) -> bool:
                    heights.append(await net.call(1, "getblockcount"))
                    return bool(heights[-1] > life * 60)

                await until(beyond, "it does not sync")
                await net.kill(1)
            net.start(1)
            await net.wait_ready([1], health="/live")
            await agree(net, [0, 1], tip)
            # And once more from nothing, with the other one killed on the way.
            await net.kill(1)
            shutil.rmtree(net.nodes[1].config.datadir / "blocks")
            shutil.rmtree(net.nodes[1].config.datadir / "index")
            net.start(1)
            await net.wait_ready([1], health="/live")
            await net.kill(0)
            net.start(0)
            await net.wait_ready([0], health="/live")
            await agree(net, [0, 1], tip)

    run(story())
