"""Nodes killed at bad moments: the chain goes on, nobody forks, and who was away catches up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consensus.params import Allocation
from consensus.transaction import TxOut
from node.bench.load import COIN_VALUE, make_source
from node.testnet import ChainPlan, Founder, Testnet
from node.wallet import Coin, build_payment
from tests.functional.waiting import grows, height, until

pytestmark = pytest.mark.functional

Run = Callable[..., Any]


async def same_chain(net: Testnet, at_height: int, indices: list[int]) -> None:
    """Wait until every node has the block at a height, then compare."""

    async def reached(index: int) -> bool:
        return await height(net, index) >= at_height

    for index in indices:
        await until(lambda index=index: reached(index), f"node {index} does not reach {at_height}")
    hashes = {await net.call(index, "getblockhash", at_height) for index in indices}
    assert len(hashes) == 1
    stats = [await net.call(index, "gettxoutsetinfo") for index in indices]
    assert all(each["conserved"] for each in stats)


def test_a_killed_leader_is_replaced_and_catches_up(run: Run, net: Testnet) -> None:
    async def story() -> None:
        names = [node.founder.name for node in net.nodes]

        async def leading() -> Any:
            return (await net.call(0, "bft.status"))["leader_name"]

        leader = names.index(await until(leading, "nobody leads"))
        witness = (leader + 1) % 4
        await net.kill(leader)
        await grows(net, witness, 3)
        status = await net.call(witness, "bft.status")
        assert status["leader_name"] != names[leader]
        net.start(leader)
        await net.wait_ready([leader])
        await same_chain(net, await grows(net, witness, 2), [0, 1, 2, 3])

    run(story())


def test_without_a_quorum_nothing_is_final_and_with_it_again_everything_goes_on(
    run: Run, net: Testnet
) -> None:
    async def story() -> None:
        await net.kill(2)
        await net.kill(3)
        stuck = max(await height(net, 0), await height(net, 1))
        settled = [stuck, -1]

        async def stalled() -> bool:
            settled.append(max(await height(net, 0), await height(net, 1)))
            status = await net.call(0, "bft.status")
            return settled[-1] == settled[-2] and status["details"]["suspect"]

        await until(stalled, "two of four go on as if nothing had happened")
        assert settled[-1] <= stuck + 2
        net.start(2)
        net.start(3)
        await net.wait_ready()
        await same_chain(net, await grows(net, 0, 3), [0, 1, 2, 3])

    run(story())


def test_all_nodes_killed_at_once_come_back_to_the_same_chain(run: Run, net: Testnet) -> None:
    async def story() -> None:
        before = await grows(net, 1, 1)
        hashes = [await net.call(1, "getblockhash", at) for at in range(before + 1)]
        for index in range(4):
            await net.kill(index)
        net.start_all()
        await net.wait_ready()
        await same_chain(net, await grows(net, 3, 2), [0, 1, 2, 3])
        assert [await net.call(2, "getblockhash", at) for at in range(before + 1)] == hashes

    run(story())


def test_payments_under_kills_are_confirmed_exactly_once(run: Run, tmp_path: Path) -> None:
    """Every payment that a node took is final in the end, on every node, once."""
    source = make_source(40)
    founders = [Founder("grid", "grid-operator"), *(Founder(f"p{n}", "service-provider") for n in (1, 2, 3))]
    plan = ChainPlan(allocations=tuple(Allocation(source.account.script, COIN_VALUE) for _ in range(40)))

    async def story() -> None:
        async with Testnet.create(tmp_path, founders, plan) as net:
            net.start_all()
            await net.wait_ready()
            genesis = await net.call(0, "getblock", await net.call(0, "getblockhash", 0), 1)
            coinbase = bytes.fromhex(genesis["tx"][0])[::-1]
            sent = []
            for number in range(40):
                prevout = coinbase + (len(founders) + number).to_bytes(4, "little")
                output = TxOut(50_000, source.account.script)
                built = build_payment(source.account, [Coin(prevout, COIN_VALUE)], [output], 1_000).tx
                if number == 10:
                    await net.kill(3)
                if number == 25:
                    net.start(3)
                await net.call(number % 3, "sendrawtransaction", built.raw.hex())
                sent.append(built.txid[::-1].hex())
            await net.wait_ready()

            async def all_final() -> bool:
                found = await (await net.client(3)).batch([("getrawtransaction", (t, True)) for t in sent])
                return all(isinstance(each, dict) and each.get("confirmations") for each in found)

            await until(all_final, "payments are missing on the node that was away")
            tip = await height(net, 3)
            await same_chain(net, tip, [0, 1, 2, 3])
            seen: list[str] = []
            for at in range(1, tip + 1):
                block = await net.call(3, "getblock", await net.call(3, "getblockhash", at), 1)
                seen += block["tx"][1:]
            assert sorted(seen) == sorted(sent)

    run(story())


def test_a_node_without_a_vote_follows_relays_and_catches_up(run: Run, tmp_path: Path) -> None:
    """A follower of one validator sees what is final; a second one knows only the first."""
    source = make_source(2)
    founders = [Founder("grid", "grid-operator")]
    plan = ChainPlan(allocations=tuple(source.allocations()))

    async def story() -> None:
        async with Testnet.create(tmp_path, founders, plan) as net:
            net.start(0)
            await net.wait_ready([0])
            near = net.add_follower("near", [0])
            far = net.add_follower("far", [near])
            net.start(near)
            net.start(far)
            await net.wait_ready()
            assert (await net.call(far, "bft.status"))["role"] == "observer"
            genesis = await net.call(0, "getblock", await net.call(0, "getblockhash", 0), 1)
            prevout = bytes.fromhex(genesis["tx"][0])[::-1] + (1).to_bytes(4, "little")
            output = TxOut(50_000, source.account.script)
            tx = build_payment(source.account, [Coin(prevout, COIN_VALUE)], [output], 1_000).tx
            txid = await net.call(far, "sendrawtransaction", tx.raw.hex())

            async def final() -> bool:
                found = await net.call(far, "getrawtransaction", txid, True)
                return bool(found.get("confirmations"))

            await until(final, "the payment that the far follower relayed is not final there")
            await net.kill(far)
            await grows(net, 0, 3)
            net.start(far)
            await net.wait_ready([far])
            await same_chain(net, await grows(net, 0, 2), [0, near, far])

    run(story())
