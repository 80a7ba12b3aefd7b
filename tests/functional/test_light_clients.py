"""Whoever trusted the founders once: payments proven, and a node started, after the committee has changed."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus.chainfile import render_chain_file
from consensus.transaction import TxOut
from node.bench.load import COIN_VALUE, Source, make_source
from node.cli.main import run_command
from node.testnet import TEST_BFT, TEST_LEDGER, ChainPlan, Founder, Testnet
from node.wallet import Coin, build_payment
from tests.functional.waiting import until

pytestmark = pytest.mark.functional

Run = Callable[..., Any]
INTERVAL = 5
FOUNDERS = [Founder("grid", "grid-operator"), *(Founder(f"p{n}", "service-provider") for n in range(1, 6))]
EVERYBODY = list(range(len(FOUNDERS)))


async def round_of(net: Testnet, index: int) -> int:
    return int((await net.call(index, "bft.status"))["round"])


async def rounds_pass(net: Testnet, index: int, by: int) -> None:
    start = await round_of(net, index)

    async def passed() -> bool:
        return await round_of(net, index) >= start + by

    await until(passed, f"node {index} stays in round {start}")


async def reach(net: Testnet, indices: list[int], height: int) -> None:
    for index in indices:

        async def there(index: int = index) -> bool:
            return int(await net.call(index, "getblockcount")) >= height

        await until(there, f"node {index} does not come to {height}")
    assert len({await net.call(index, "getblockhash", height) for index in indices}) == 1


async def pay(net: Testnet, source: Source, at: int) -> str:
    """Send a payment and return its id once it is final on every node."""
    genesis = await net.call(0, "getblock", await net.call(0, "getblockhash", 0), 1)
    coin = bytes.fromhex(genesis["tx"][0])[::-1] + (len(FOUNDERS) + at).to_bytes(4, "little")
    output = TxOut(50_000, source.account.script)
    tx = build_payment(source.account, [Coin(coin, COIN_VALUE)], [output], 1_000).tx
    txid = str(await net.call(0, "sendrawtransaction", tx.raw.hex()))
    for index in range(len(net.nodes)):

        async def final(index: int = index) -> bool:
            return bool((await net.call(index, "getrawtransaction", txid, True)).get("confirmations"))

        await until(final, "the payment is missing")
    return txid


def store(net: Testnet, index: int, command: str, *arguments: str) -> dict[str, str]:
    """Run ``wattd store`` on the directory of a node that is down; return what it said by first word."""
    datadir = str(net.nodes[index].config.datadir)
    line = [sys.executable, "-m", "node", "store", command, "--datadir", datadir, *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return dict(each.split(maxsplit=1) for each in done.stdout.splitlines() if each.split()[0] != "level")


class Device:
    """A light client with a folder of its own; it asks a node only through the command line."""

    def __init__(self, folder: Path, net: Testnet, said: pytest.CaptureFixture[str]) -> None:
        folder.mkdir()
        self.folder, self.net, self.said = folder, net, said
        self.file("chain.toml").write_text(render_chain_file(net.params))

    def file(self, name: str) -> Path:
        return self.folder / name

    def wattd(self, *arguments: str, status: int = 0) -> str:
        """Run ``wattd proof``: names of files are of the folder, ``@n`` is the directory of node n."""

        def meant(each: str) -> str:
            if each.startswith("@"):
                return str(self.net.nodes[int(each[1:])].config.datadir)
            return str(self.file(each)) if "." in each else each

        assert run_command(["proof", *map(meant, arguments)]) == status
        return self.said.readouterr().out

    def trust(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file(name).read_text())
        return found

    def proven(self, *trusting: str) -> str:
        """Check the proof at hand; return the transaction id."""
        return str(json.loads(self.wattd("check", "payment.proof", *trusting))["txid"])


async def starts_from_a_snapshot(net: Testnet, device: Device, source: Source) -> None:
    """A node that has nothing but the chain file starts from a snapshot, and follows the rounds to come."""
    await net.kill(5)
    said = store(net, 5, "export-snapshot", str(device.file("snapshot")))
    assert store(net, 5, "check", "--level", "4") == {}
    fresh = net.add_follower("fresh", [0, 1, 2])
    store(net, fresh, "import-snapshot", str(device.file("snapshot")))
    assert store(net, fresh, "check", "--level", "3") == {}
    net.start(5)
    net.start(fresh)
    await net.wait_ready([5, fresh])
    assert int(await net.call(fresh, "getblockcount")) >= int(said["height"])
    await rounds_pass(net, fresh, 2)
    await reach(net, [*EVERYBODY, fresh], int(await net.call(0, "getblockcount")))
    device.wattd("trust", "--trust", "now.json", "--follow", f"@{fresh}", "--out", "now.json")
    last = await pay(net, source, 2)
    device.wattd("make", "--datadir", f"@{fresh}", last, "--out", "payment.proof")
    assert device.proven("--chain", "chain.toml") == last


def test_trust_in_the_founders_outlives_their_office(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_source(10)
    plan = ChainPlan(
        bft=replace(TEST_BFT, round_s=3, delegates=4, idle_interval_ms=200),
        ledger=replace(TEST_LEDGER, snapshot_interval_blocks=INTERVAL),
        genesis_time_s=int(time.time()),
        allocations=tuple(source.allocations()),
    )

    async def story() -> None:
        async with Testnet.create(tmp_path / "net", FOUNDERS, plan) as net:
            net.start_all()
            await net.wait_ready()
            early = await pay(net, source, 0)
            await rounds_pass(net, 0, 4)
            late = await pay(net, source, 1)
            device = Device(tmp_path / "device", net, capsys)

            # The founders are enough, with a step for every round.
            device.wattd("trust", "--chain", "chain.toml", "--out", "founders.json")
            device.wattd("make", "--datadir", "@2", late, "--out", "payment.proof")
            assert device.proven("--chain", "chain.toml", "--save-trust", "now.json") == late
            assert device.trust("now.json")["round"] >= 4
            proof = device.file("payment.proof").read_bytes().hex()
            shown = await net.call(3, "bft.checkproof", proof)
            assert shown["txid"] == late

            # Who knows the validators of today needs no steps, for old payments neither.
            for txid in (late, early):
                device.wattd("make", "--datadir", "@1", txid, "--trust", "now.json", "--out", "payment.proof")
                assert device.file("payment.proof").stat().st_size < 10 * 1024
                assert device.proven("--trust", "now.json") == txid

            # Rounds are followed without a payment, page by page, compared, skipped, or all at once.
            device.wattd("rounds", "--datadir", "@1", "--trust", "founders.json", "--out", "page.bin")
            device.wattd("rounds", "--datadir", "@4", "--known-round", "0", "--out", "other.bin")
            witnessed = ("--rounds", "page.bin", "--witness", "other.bin", "--out", "paged.json")
            device.wattd("trust", "--chain", "chain.toml", *witnessed)
            device.wattd("trust", "--chain", "chain.toml", "--follow", "@3", "--out", "followed.json")
            assert device.trust("followed.json")["round"] >= device.trust("paged.json")["round"] >= 4
            device.wattd(
                "rounds", "--datadir", "@1", "--trust", "founders.json", "--skip", "--out", "skip.bin"
            )
            skipping = ("trust", "--trust", "founders.json", "--rounds", "skip.bin", "--out", "skipped.json")
            device.wattd(*skipping, "--skip")
            reached = device.trust("skipped.json")["round"]
            assert reached >= 4
            assert device.file("skip.bin").stat().st_size < device.file("page.bin").stat().st_size
            page = await net.call(0, "bft.getrounds", reached - 1)
            device.file("last.bin").write_bytes(bytes.fromhex(page["steps"]))
            stale = ("--rounds", "last.bin", "--out", "none.json")
            device.wattd("trust", "--trust", "founders.json", *stale, status=65)

            await starts_from_a_snapshot(net, device, source)

    run(story())
