"""A consortium that lost four of seven validators for good goes on with three: its operators decide."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus.params import Allocation
from consensus.restart import decode_restart, draft, encode_restart, sign
from consensus.transaction import TxOut
from node.bench.load import COIN_VALUE
from node.cli.main import run_command
from node.keyfile import Secret
from node.testnet import LOG_NAME, TEST_BFT, ChainPlan, Founder, Testnet
from node.wallet import Account, Coin, build_payment
from storage.store import ChainStore
from tests.functional.waiting import height, reaches, until

pytestmark = pytest.mark.functional

Run = Callable[..., Any]
FOUNDERS = [Founder("grid", "grid-operator"), *(Founder(f"p{n}", "service-provider") for n in range(1, 7))]
LEFT, LOST = (0, 2, 5), (1, 3, 4, 6)
OWNER = Account(Secret(bytes(31) + b"\x2a"))


async def sends(net: Testnet, index: int, number: int) -> str:
    """Spend genesis coin ``number`` and return the id of the payment."""
    genesis = await net.call(index, "getblock", await net.call(index, "getblockhash", 0), 1)
    coinbase = bytes.fromhex(genesis["tx"][0])[::-1]
    coin = Coin(coinbase + (len(FOUNDERS) + number).to_bytes(4, "little"), COIN_VALUE)
    tx = build_payment(OWNER, [coin], [TxOut(50_000, OWNER.script)], 1_000).tx
    return str(await net.call(index, "sendrawtransaction", tx.raw.hex()))


async def pays(net: Testnet, index: int, number: int) -> tuple[int, str]:
    """Spend genesis coin ``number``; return the height of the block in which that is final, and its id."""
    txid = await sends(net, index, number)

    async def final() -> int:
        now = await height(net, index)
        for at in range(now, max(0, now - 5), -1):
            block = await net.call(index, "getblock", await net.call(index, "getblockhash", at), 1)
            if txid in block["tx"]:
                return at
        return 0

    return int(await until(final, "the payment is not final")), txid


def datadir(net: Testnet, index: int) -> Path:
    return net.nodes[index].config.datadir


class Operator:
    """Somebody at the command line of stopped nodes."""

    def __init__(self, net: Testnet, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.net, self.folder, self.capsys = net, folder, capsys

    def __call__(self, *arguments: str, node: int | None = None) -> str:
        """Run ``wattd restart`` and return what it printed; it must succeed."""
        status, out, error = self.run(*arguments, node=node)
        assert status == 0, error
        return out

    def run(self, *arguments: str, node: int | None = None) -> tuple[int, str, str]:
        options = [] if node is None else ["--datadir", str(datadir(self.net, node))]
        status = run_command(["restart", *arguments[:1], *options, *arguments[1:]])
        told = self.capsys.readouterr()
        return status, told.out, told.err

    def refused(self, code: str, *arguments: str, node: int | None = None) -> None:
        status, _, error = self.run(*arguments, node=node)
        assert status == 65
        assert f"wattd: error: {code}" in error

    def file(self, name: str) -> str:
        return str(self.folder / name)


async def lose_the_quorum(net: Testnet) -> list[tuple[int, str]]:
    """Kill four in the middle of their work; return what each last knew to be final, as (height, hash)."""
    chain_id = bytes.fromhex(await net.call(0, "getblockhash", 0))[::-1]
    for number in range(10, 30):
        await sends(net, LEFT[0], number)
    for index in LOST:
        net.nodes[index].process.kill()
    final = []
    for index in LOST:
        await net.kill(index)
        with ChainStore.open(datadir(net, index), chain_id=chain_id) as store:
            final.append((store.height, (store.tip_hash or b"")[::-1].hex()))
        shutil.rmtree(datadir(net, index))

    async def red() -> bool:
        return not (await net.call(0, "bft.status"))["ready"]

    await until(red, "ready although four of seven are gone")
    return final


def decide(operator: Operator) -> str:
    """Report, make, sign and join; return the path of the complete restart."""
    reports = {}
    for index in LEFT:
        operator("report", "--out", operator.file(f"{index}.report"), node=index)
        reports[index] = operator.file(f"{index}.report")
    made = operator.file("chain.restart")
    for index in LEFT:
        others = [path for at, path in reports.items() if at != index]
        status, _, error = operator.run("make", *others, "--reason", "fire", "--out", made, node=index)
        if status == 0:
            break
        assert "restart-not-highest" in error or "restart-block-missing" in error
    else:
        pytest.fail("nobody can make the restart")
    copies = []
    for index in LEFT:
        copy = operator.file(f"signed-{index}.restart")
        shutil.copy(made, copy)
        operator("sign", copy, node=index)
        copies.append(copy)
    operator("join", *copies, "--out", made)
    return made


def spoil(operator: Operator, path: str) -> None:
    """Show that restarts that do not fit are refused with their codes."""
    net, bad = operator.net, operator.file("bad.restart")
    good = decode_restart(Path(path).read_bytes())
    secrets = [net.nodes[index].keys.vote.reveal() for index in LEFT]

    def write(code: str, *, signed: bool = True, **changes: Any) -> None:
        made = draft(replace(good, **changes))
        for secret in secrets if signed else secrets[1:]:
            made = sign(made, secret)
        Path(bad).write_bytes(encode_restart(made))
        operator.refused(code, "apply", bad, node=LEFT[0])

    write("restart-unsigned", signed=False)
    write("restart-wrong-chain", chain_id=bytes(32))
    write("restart-below-tip", height=1, certificate=good.certificate._replace(height=1))
    write("restart-bad-certificate", height=good.height + 1)
    write("restart-bad-certificate", certificate=good.certificate._replace(block_hash=bytes(32)))
    write("restart-wrong-round", round=good.round + 1)
    Path(bad).write_bytes(encode_restart(replace(good, reason="another")))
    operator.refused("restart-bad-signature", "apply", bad, node=LEFT[0])
    Path(bad).write_bytes(Path(path).read_bytes()[:-1])
    operator.refused("bad-restart-file", "apply", bad, node=LEFT[0])


def test_three_of_seven_go_on(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def story() -> None:
        bft = replace(
            TEST_BFT, idle_interval_ms=400, block_interval_ms=50
        )  # a standstill shows in a few seconds
        plan = ChainPlan(allocations=(Allocation(OWNER.script, COIN_VALUE),) * 30, bft=bft)
        async with Testnet.create(tmp_path / "net", FOUNDERS, plan) as net:
            operator = Operator(net, tmp_path, capsys)
            net.start_all()
            await net.wait_ready()
            paid = [await pays(net, 0, 0), await pays(net, 2, 1)]
            hashes = [await net.call(0, "getblockhash", at) for at in range(max(paid)[0] + 1)]
            before = (await net.call(0, "bft.status"))["round"]
            final = await lose_the_quorum(net)
            assert operator.run("report", "--out", operator.file("x"), node=0)[0] == 74  # it runs
            for index in LEFT:
                await net.end(index)
            path = decide(operator)
            spoil(operator, path)
            end = decode_restart(Path(path).read_bytes()).height
            for index in LEFT:
                operator("apply", path, node=index)
                operator("apply", path, node=index)  # again changes nothing
                net.start(index)
            await net.wait_ready(LEFT)
            status = await net.call(0, "bft.status")
            assert (status["round"], sorted(status["validators"])) == (before + 1, ["grid", "p2", "p5"])
            paid += [await pays(net, 5, 2), await pays(net, 2, 3)]
            assert min(paid[2:])[0] > end
            assert [await net.call(5, "getblockhash", at) for at in range(len(hashes))] == hashes
            for at, block_hash in final:
                assert await net.call(2, "getblockhash", at) == block_hash
            organisations = await net.call(0, "energy.organisations")
            assert sorted(each["name"] for each in organisations) == ["grid", "p2", "p5"]
            await followers(net, operator, path, end)
            for index in LEFT:
                await net.end(index)
            await light(net, operator, path, [txid for _, txid in paid])

    run(story())


async def followers(net: Testnet, operator: Operator, path: str, end: int) -> None:
    """A new node with the file goes across the restart, one without it stops there and says why."""
    knowing, lacking = net.add_follower("knowing", LEFT), net.add_follower("lacking", LEFT)
    operator("apply", path, node=knowing)
    for index in (knowing, lacking):
        net.start(index)
    await reaches(net, knowing, await height(net, 0))
    log = datadir(net, lacking) / LOG_NAME

    async def told() -> bool:
        return "unknown-round" in log.read_text()

    await until(told, "nobody says why it stops")
    status = await net.call(lacking, "bft.status")
    assert "restart file" in status["waiting"]
    assert await height(net, lacking) <= end
    await net.end(lacking)
    operator("apply", path, node=lacking)
    net.start(lacking)
    await reaches(net, lacking, await height(net, 0))
    assert await net.call(lacking, "getblockhash", end + 1) == await net.call(0, "getblockhash", end + 1)


async def light(net: Testnet, operator: Operator, path: str, txids: list[str]) -> None:
    """The file is shown, and gives light clients a new beginning, for payments before and after it."""
    shown = json.loads(operator("show", path, node=LEFT[0]))
    assert (shown["complete"], shown["reason"]) == (True, "fire")
    assert sorted(member["name"] for member in shown["members"]) == ["grid", "p2", "p5"]
    for tool in (["check", "--level", "4"], ["reindex"], ["check", "--level", "2"]):
        assert run_command(["store", *tool, "--datadir", str(datadir(net, LEFT[0]))]) == 0
    operator.capsys.readouterr()
    trust, proof = operator.file("trust.json"), operator.file("payment.proof")
    operator("trust", path, "--out", trust, node=LEFT[0])
    net.start(LEFT[0])
    await net.wait_ready([LEFT[0]], "/live")
    for txid in txids:
        make = [
            "proof",
            "make",
            "--datadir",
            str(datadir(net, LEFT[0])),
            txid,
            "--trust",
            trust,
            "--out",
            proof,
        ]
        assert run_command(make) == 0
        operator.capsys.readouterr()
        assert run_command(["proof", "check", proof, "--trust", trust]) == 0
        assert txid in operator.capsys.readouterr().out
