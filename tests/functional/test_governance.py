"""A provider joins a running consortium: it applies, three founders approve, it votes; all nodes agree."""

from collections.abc import Callable
from typing import Any

import pytest

from contracts.governance.entry import sign_application
from contracts.governance.operations import Approve, VoteDelegates
from contracts.operations import Operation, encode, object_id
from node.bench.load import COIN_VALUE
from node.keyfile import Secret
from node.rpc.errors import RpcError
from node.testnet import Testnet
from node.wallet import Account, Coin, build_operation
from tests.functional.waiting import until

pytestmark = pytest.mark.functional

Run = Callable[..., Any]
AGREEMENT = bytes(range(32))


async def on_all(net: Testnet, method: str, *params: Any) -> list[Any]:
    return [await net.call(index, method, *params) for index in range(len(net.nodes))]


async def genesis_coin(net: Testnet, number: int, value: int) -> Coin:
    genesis = await net.call(0, "getblock", await net.call(0, "getblockhash", 0), 1)
    return Coin(bytes.fromhex(genesis["tx"][0])[::-1] + number.to_bytes(4, "little"), value)


def test_a_provider_applies_is_approved_and_votes(run: Run, net: Testnet, funded: Account) -> None:
    async def operate(index: int, account: Account, coin: Coin, operation: Operation) -> Coin:
        built = build_operation(account, [coin], encode(operation), 1_000)
        await net.call(index, "sendrawtransaction", built.tx.raw.hex())
        assert built.change is not None
        return built.change._replace(depth=0)

    async def story() -> None:
        assert (await net.call(0, "governance.status"))["quorum"] == 3
        newcomer = net.address_of(funded.script)
        application = sign_application(
            net.params,
            b"\x51" * 32,
            b"\x52" * 32,
            name="provider-4",
            account=funded.script,
            agreement_hash=AGREEMENT,
        )
        coin = await genesis_coin(net, len(net.nodes) + 1, COIN_VALUE)
        found = object_id(coin.prevout, encode(application))
        change = await operate(1, funded, coin, application)

        async def pending() -> bool:
            return None not in await on_all(net, "governance.application", found.hex())

        await until(pending, "the application is not on every node")
        for index in (0, 1, 2):
            founder = Account(Secret(net.nodes[index].keys.payout.reveal()))
            assert founder.script == net.nodes[index].account_script
            own = await genesis_coin(net, index, net.params.allocations[index].amount)
            if index == 2:
                with pytest.raises(RpcError, match="wrong-agreement"):
                    await operate(3, founder, own, Approve(found, bytes(32)))
            await operate(3 - index, founder, own, Approve(found, AGREEMENT))

        async def admitted() -> bool:
            lists = await on_all(net, "governance.candidates")
            return all(newcomer in [each["account"] for each in listed] for listed in lists)

        await until(admitted, "the newcomer is not an organisation on every node")
        assert await on_all(net, "governance.application", found.hex()) == [None] * 4
        wanted = VoteDelegates((net.nodes[1].account_script,))
        await operate(2, funded, change, wanted)

        async def voted() -> bool:
            return all(await on_all(net, "governance.votes"))

        await until(voted, "the vote is not on every node")
        for [vote] in await on_all(net, "governance.votes"):
            assert vote["account"] == newcomer
            assert vote["approvals"] == [net.address_of(net.nodes[1].account_script)]
        previews = await on_all(net, "governance.tally")
        assert previews == [previews[0]] * 4
        assert len(previews[0]["delegates"]) == 5
        assert newcomer in previews[0]["delegates"]
        # the founders sign until the epoch ends
        for shown in await on_all(net, "bft.status"):
            assert shown["n"] == 4

        async def together() -> bool:
            heights = await on_all(net, "getblockcount")
            infos = await on_all(net, "getblockchaininfo")
            same = len({each["effects_digest"] for each in infos}) == 1
            return len(set(heights)) == 1 and same

        await until(together, "the nodes hold different states")

    run(story())
