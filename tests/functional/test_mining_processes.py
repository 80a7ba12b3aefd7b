"""Mining with real processes: blocks to order, all the time, and from outside; an operator who steers."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from consensus.params import Allocation
from consensus.transaction import TxOut, outpoint
from node.bench.load import COIN_VALUE
from node.clock import Clock
from node.config import CONFIG_NAME, MiningConfig, render_config
from node.keyfile import Secret
from node.rpc.errors import RpcError
from node.testnet import TEST_POW, ChainPlan, Founder, Testnet
from node.wallet import Account, Coin, build_payment

pytestmark = pytest.mark.functional

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
TIMEOUT_S = 30.0
POLL_S = 0.05
DOCS = Path(__file__).resolve().parents[2] / "docs"
FOUNDERS = (
    Founder("grid", "grid-operator"),
    Founder("provider-1", "service-provider"),
    Founder("provider-2", "service-provider"),
)
RICH = Account(Secret(bytes(31) + b"\x2a"))


@pytest.fixture(scope="module")
def net(run: Run[None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testnet]:
    """Three nodes of a proof-of-work chain whose blocks take two hashes."""
    plan = ChainPlan(name="hill", pow=TEST_POW, allocations=(Allocation(RICH.script, COIN_VALUE),) * 3)
    testnet = Testnet.create(tmp_path_factory.mktemp("pow"), FOUNDERS, plan)
    testnet.start_all()
    try:
        run(testnet.wait_ready(health="/live"))
        yield testnet
    finally:
        run(testnet.stop())


async def until(condition: Callable[[], Coroutine[Any, Any, Any]], what: str) -> None:
    deadline = Clock.monotonic_s() + TIMEOUT_S
    while not await condition():
        assert Clock.monotonic_s() < deadline, what
        await asyncio.sleep(POLL_S)


async def follow(net: Testnet, index: int) -> str:
    """Wait until all nodes have the tip of one, which may still move; return it."""
    tips: list[str] = []

    async def alike() -> bool:
        tips[:] = [await net.call(other, "getbestblockhash") for other in (index, *range(len(net.nodes)))]
        return len(set(tips)) == 1

    await until(alike, f"not everybody has the tip of node {index}")
    return tips[0]


def address(net: Testnet, index: int) -> str:
    return net.address_of(net.nodes[index].account_script)


def test_blocks_to_order_reach_everybody(run: Run[None], net: Testnet) -> None:
    async def story() -> None:
        hashes = await net.call(0, "generatetoaddress", 5, address(net, 1))
        assert await follow(net, 0) == hashes[-1]
        coinbase = (await net.call(2, "getblock", hashes[0], 2))["tx"][0]
        assert coinbase["vout"][0]["scriptPubKey"]["address"] == address(net, 1)
        info = await net.call(2, "getblockchaininfo")
        assert (info["blocks"], info["headers"], info["engine"]) == (5, 5, "pow")
        assert (await net.call(2, "getmininginfo"))["miner"]["enabled"] is False

    run(story())


def test_the_miner_in_the_documentation_mines(run: Run[None], net: Testnet, tmp_path: Path) -> None:
    text = (DOCS / "pow.md").read_text()
    script = tmp_path / "miner.py"
    script.write_text(text.split("```python\n")[-1].split("```")[0])

    async def story() -> None:
        genesis = await net.call(0, "getblock", await net.call(0, "getblockhash", 0), 2)
        txid = bytes.fromhex(genesis["tx"][0]["txid"])[::-1]
        coin = Coin(outpoint(txid, len(FOUNDERS)), COIN_VALUE)
        payment = build_payment(RICH, [coin], [TxOut(COIN_VALUE // 2, RICH.script)], fee_rate=2_000)
        sent = await net.call(0, "sendrawtransaction", payment.tx.raw.hex())

        async def is_pending() -> bool:
            return sent in await net.call(1, "getrawmempool")

        await until(is_pending, "the payment does not reach the miner's node")
        config = net.nodes[1].config
        miner = await asyncio.create_subprocess_exec(
            sys.executable, str(script), f"http://{config.rpc.listen}", str(config.cookie_file),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await miner.communicate()
        block_hash, answer = said.decode().split()
        assert (answer, miner.returncode) == ("accepted", 0)
        assert await follow(net, 1) == block_hash
        assert sent in (await net.call(2, "getblock", block_hash))["tx"]

    run(story())


def test_a_long_poll_hears_of_a_block_that_another_node_mined(run: Run[None], net: Testnet) -> None:
    async def story() -> None:
        tip = await follow(net, 0)
        request = {"rules": ["segwit"]}
        template = await net.call(2, "getblocktemplate", request)
        assert template["previousblockhash"] == tip
        request["longpollid"] = template["longpollid"]
        poll = asyncio.create_task(net.call(2, "getblocktemplate", request))
        [block_hash] = await net.call(0, "generatetoaddress", 1, address(net, 0))
        async with asyncio.timeout(TIMEOUT_S):
            # A header that comes before its block ends no poll; the block does.
            assert (await poll)["previousblockhash"] == block_hash

    run(story())


def test_an_operator_leaves_a_branch_also_over_a_restart_and_comes_back(run: Run[None], net: Testnet) -> None:
    async def story() -> None:
        await net.call(0, "generatetoaddress", 4, address(net, 0))
        tip = await follow(net, 0)
        height = await net.call(2, "getblockcount")
        before = await net.call(2, "gettxoutsetinfo")
        wrong = await net.call(2, "getblockhash", height - 1)
        assert await net.call(2, "invalidateblock", wrong) is None
        assert await net.call(2, "getblockcount") == height - 2
        assert (await net.call(2, "getblockheader", tip))["confirmations"] == -1
        await net.kill(2)
        net.start(2)
        await net.wait_ready([2], health="/live")
        assert await net.call(2, "getblockcount") == height - 2
        states = {each["hash"]: each["status"] for each in await net.call(2, "getchaintips")}
        assert states[tip] == "invalid"
        assert await net.call(2, "reconsiderblock", wrong) is None
        assert await follow(net, 0) == tip
        assert await net.call(2, "gettxoutsetinfo") | {"disk_size": 0} == before | {"disk_size": 0}

    run(story())


def test_a_node_that_is_configured_to_mine_does_so_and_stops_in_time(run: Run[None], net: Testnet) -> None:
    node = net.nodes[0]
    mining = MiningConfig(enabled=True, threads=2, payout_address=address(net, 2))
    node.config = replace(node.config, mining=mining)
    (node.config.datadir / CONFIG_NAME).write_text(render_config(node.config))

    async def story() -> None:
        height = await net.call(1, "getblockcount")
        await net.kill(0)
        net.start(0)
        await net.wait_ready([0], health="/live")

        async def grown() -> bool:
            return bool(await net.call(1, "getblockcount") > height + 5)

        await until(grown, "the chain does not grow")
        status = await net.call(0, "miner.stop")
        assert (status["threads"], status["address"]) == (2, address(net, 2))
        assert status["blocksfound"] > 5
        await follow(net, 0)
        tip = await net.call(1, "getblock", await net.call(1, "getblockhash", height + 3), 2)
        assert tip["tx"][0]["vout"][0]["scriptPubKey"]["address"] == address(net, 2)
        await net.call(0, "miner.start")
        await net.call(0, "stop")
        process = node.process
        assert process is not None
        assert await asyncio.to_thread(process.wait, TIMEOUT_S) == 0
        with pytest.raises(RpcError):
            await net.call(1, "miner.start", "nobody")

    run(story())
