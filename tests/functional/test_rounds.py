"""Committees that change while the chain runs: elections, substitutions, and nodes that miss them."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus.transaction import TxOut
from contracts.governance.operations import CommitReveals
from contracts.operations import encode
from node.bench.load import COIN_VALUE, Source, make_source
from node.keyfile import Secret
from node.testnet import LOG_NAME, TEST_BFT, ChainPlan, Founder, Testnet
from node.wallet import Account, Coin, build_operation, build_payment
from tests.functional.waiting import grows, height, until

pytestmark = pytest.mark.functional

Run = Callable[..., Any]
FOUNDERS = [Founder("grid", "grid-operator"), *(Founder(f"p{n}", "service-provider") for n in range(1, 6))]
EVERYBODY = list(range(len(FOUNDERS)))
PAYMENTS = 40
REVEALS = 1_000


async def status(net: Testnet, index: int) -> dict[str, Any]:
    found: dict[str, Any] = await net.call(index, "bft.status")
    return found


async def epochs_pass(net: Testnet, index: int, by: int) -> None:
    start = (await status(net, index))["epoch"]

    async def passed() -> bool:
        return bool((await status(net, index))["epoch"] >= start + by)

    await until(passed, f"node {index} stays in epoch {start}")


async def same_chain(net: Testnet, indices: list[int]) -> None:
    """Wait until every node has a block that one of them has now, then compare."""
    at = await height(net, indices[0])

    async def there() -> bool:
        return all([await height(net, index) >= at for index in indices])

    await until(there, f"not everybody reaches {at}")
    assert len({await net.call(index, "getblockhash", at) for index in indices}) == 1
    stats = [await net.call(index, "gettxoutsetinfo") for index in indices]
    assert all(each["conserved"] for each in stats)


def log_of(net: Testnet, index: int) -> list[dict[str, Any]]:
    lines = (net.nodes[index].config.datadir / LOG_NAME).read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def rounds_of(net: Testnet, index: int) -> dict[int, tuple[str, ...]]:
    """Return the members of every round that a node has told of, by number."""
    begun = [row for row in log_of(net, index) if row["message"] == "round-begins"]
    return {row["round"]: tuple(row["members"].split(", ")) for row in begun}


def tell_the_same_rounds(net: Testnet, fresh: int) -> None:
    """See that the sets changed, that all nodes saw the same, and that none had to complain."""
    told = rounds_of(net, fresh)
    assert len(set(told.values())) > 2
    for index in EVERYBODY:
        known = rounds_of(net, index)
        shared = known.keys() & told.keys()
        assert {number: told[number] for number in shared} == {number: known[number] for number in shared}
        assert not [row for row in log_of(net, index) if row["level"] in ("error", "critical")]


class Payer:
    """Sends one payment per genesis coin, each to the next node that takes it."""

    def __init__(self, net: Testnet, source: Source) -> None:
        self.net = net
        self.source = source
        self.coins: list[Coin] = []
        self.sent: list[str] = []

    async def open(self) -> None:
        genesis = await self.net.call(0, "getblock", await self.net.call(0, "getblockhash", 0), 1)
        coinbase = bytes.fromhex(genesis["tx"][0])[::-1]
        first = len(FOUNDERS)
        outputs = [(first + at).to_bytes(4, "little") for at in range(self.source.coins)]
        self.coins = [Coin(coinbase + at, COIN_VALUE) for at in outputs]

    async def pay(self, *nodes: int) -> None:
        for index in nodes:
            output = TxOut(50_000, self.source.account.script)
            built = build_payment(self.source.account, [self.coins.pop()], [output], 1_000).tx
            self.sent.append(await self.net.call(index, "sendrawtransaction", built.raw.hex()))

    async def all_final(self, index: int) -> None:
        """Wait until everything that was sent is final at a node."""

        async def final() -> bool:
            calls = [("getrawtransaction", (txid, True)) for txid in self.sent]
            found = await (await self.net.client(index)).batch(calls)
            return all(isinstance(each, dict) and each.get("confirmations") for each in found)

        await until(final, "payments are missing")

    async def none_twice(self, index: int) -> None:
        """See that each transaction is in one block only, and nothing else is in any."""
        seen: list[str] = []
        for at in range(1, await height(self.net, index) + 1):
            block = await self.net.call(index, "getblock", await self.net.call(index, "getblockhash", at), 1)
            seen += block["tx"][1:]
        assert sorted(seen) == sorted(self.sent)


async def register_reveals(net: Testnet) -> list[str]:
    """Register a chain of every founder, as its node computes it; return the txids."""
    sent = []
    genesis = await net.call(0, "getblock", await net.call(0, "getblockhash", 0), 1)
    coinbase = bytes.fromhex(genesis["tx"][0])[::-1]
    for index, node in enumerate(net.nodes):
        found = await net.call(index, "governance.revealchain", REVEALS)
        assert (found["length"], found["generation"]) == (REVEALS, 0)
        operation = CommitReveals(bytes.fromhex(found["top"]), found["length"], found["generation"])
        coin = Coin(coinbase + index.to_bytes(4, "little"), net.params.allocations[index].amount)
        account = Account(Secret(node.keys.payout.reveal()))
        built = build_operation(account, [coin], encode(operation), 1_000)
        sent.append(await net.call(index, "sendrawtransaction", built.tx.raw.hex()))
    return sent


async def reveals_left(net: Testnet, index: int) -> list[int]:
    """Return what is left of each founder's chain."""
    found = await net.call(index, "governance.candidates")
    return [each["reveals"]["left"] for each in found if each["reveals"] is not None]


async def returned_and_signs(net: Testnet, witness: int) -> None:
    """Wait for a certificate with the signature of somebody who was left out in between."""

    async def found() -> bool:
        certificate = await net.call(witness, "bft.certificate", await height(net, witness))
        sets, now = rounds_of(net, witness), certificate["round"]
        signed = {sets[now][at] for at in certificate["signers"]} if now in sets else set()
        gone = {name for number, names in sets.items() if number < now for name in names}
        back = signed & gone - set(sets.get(now - 1, ()))
        return bool(back)

    await until(found, "nobody who came back signs")


def test_elections_payments_and_nodes_that_come_and_go(run: Run, tmp_path: Path) -> None:
    source = make_source(PAYMENTS)
    bft = replace(TEST_BFT, round_s=5, delegates=4)
    plan = ChainPlan(bft=bft, genesis_time_s=int(time.time()), allocations=tuple(source.allocations()))

    async def story() -> None:
        async with Testnet.create(tmp_path, FOUNDERS, plan) as net:
            net.start_all()
            await net.wait_ready()
            payer = Payer(net, source)
            await payer.open()
            await payer.pay(*EVERYBODY)
            payer.sent += await register_reveals(net)
            await epochs_pass(net, 0, 2)
            assert len(await reveals_left(net, 0)) == len(EVERYBODY)
            await payer.pay(*EVERYBODY)
            await returned_and_signs(net, 0)

            away = 5
            await payer.all_final(0)  # what a node has only just taken may die with it
            await net.kill(away)
            await payer.pay(0, 1, 2)
            await epochs_pass(net, 0, 2)
            net.start(away)
            await payer.pay(0, 1, 2)
            await net.wait_ready([away])
            await same_chain(net, EVERYBODY)

            begun = (await status(net, 4))["round"]

            async def at_the_boundary() -> bool:
                return bool((await status(net, 4))["round"] > begun)

            await until(at_the_boundary, "no round ends")
            await net.kill(4)
            await payer.pay(0, 1, 2, 3)
            net.start(4)
            await net.wait_ready([4])
            await payer.all_final(4)  # mempools do not survive what comes now

            for index in EVERYBODY:
                await net.kill(index)
            net.start_all()
            await net.wait_ready()
            await payer.pay(*EVERYBODY)
            await epochs_pass(net, 3, 1)
            assert min(await reveals_left(net, 3)) < REVEALS
            assert [(await status(net, index))["learner"] for index in EVERYBODY] == [None] * len(EVERYBODY)

            fresh = net.add_follower("fresh", [1, 2])
            net.start(fresh)
            await net.wait_ready([fresh])
            await payer.pay(fresh)
            await epochs_pass(net, fresh, 1)
            await payer.all_final(fresh)
            await payer.none_twice(fresh)
            await same_chain(net, [*EVERYBODY, fresh])
            tell_the_same_rounds(net, fresh)

    run(story())


def test_wiped_and_restored_validators_vote_again_from_the_next_round_on(run: Run, tmp_path: Path) -> None:
    """Whatever they have forgotten was said in a round that is over, and nobody contradicts himself."""
    founders = FOUNDERS[:4]
    plan = ChainPlan(bft=replace(TEST_BFT, round_s=6, delegates=4), genesis_time_s=int(time.time()))
    wiped, restored = 2, 3

    async def votes(net: Testnet, index: int, after: int) -> None:
        name = founders[index].name

        async def signed() -> bool:
            certificate = await net.call(0, "bft.certificate", await height(net, 0))
            now = await status(net, 0)
            if certificate["round"] != now["round"] or now["round"] <= after:
                return False
            return now["validators"].index(name) in certificate["signers"]

        await until(signed, f"{name} does not vote again")

    async def story() -> None:
        async with Testnet.create(tmp_path / "net", founders, plan) as net:
            net.start_all()
            await net.wait_ready()
            await votes(net, wiped, 0)
            await votes(net, restored, 0)
            await net.kill(restored)
            shutil.copytree(net.nodes[restored].config.datadir, tmp_path / "backup")
            net.start(restored)
            await net.wait_ready([restored])
            await epochs_pass(net, 0, 1)
            for index, source in ((wiped, None), (restored, tmp_path / "backup")):
                await votes(net, index, 0)
                datadir = net.nodes[index].config.datadir
                await net.kill(index)
                kept = {path.name: path.read_bytes() for path in datadir.glob("*.toml")}
                shutil.rmtree(datadir)
                if source is None:
                    datadir.mkdir()
                    for name, data in kept.items():
                        (datadir / name).write_bytes(data)
                        (datadir / name).chmod(0o600)
                else:
                    shutil.copytree(source, datadir)
                left = (await status(net, 0))["round"]
                net.start(index)
                await net.wait_ready([index])
                await votes(net, index, left)
                assert (await status(net, index))["learner"] is None
            for index in range(len(founders)):
                assert await net.call(index, "bft.evidence") == []
            await same_chain(net, list(range(len(founders))))

    run(story())


def test_a_silent_delegate_is_replaced_by_an_alternate(run: Run, tmp_path: Path) -> None:
    """The first block ends the founders' epoch, whose genesis lies years back; the next one takes a year."""
    bft = replace(TEST_BFT, substitution_s=3, delegates=4, tenure_blocks=2)

    async def story() -> None:
        async with Testnet.create(tmp_path, FOUNDERS, ChainPlan(bft=bft)) as net:
            net.start_all()
            await net.wait_ready()
            await grows(net, 0, 3)
            before = await status(net, 0)
            names = [founder.name for founder in FOUNDERS]
            silent = names.index(before["validators"][1 if before["validators"][0] == "grid" else 0])
            witness = next(index for index in EVERYBODY if index != silent)
            await net.kill(silent)

            async def replaced() -> Any:
                now = await status(net, witness)
                return now if names[silent] not in now["validators"] else None

            now = await until(replaced, "a delegate that is away stays")
            assert now["epoch"] == before["epoch"]
            assert now["round"] > before["round"]
            assert len(set(now["validators"]) & set(before["validators"])) == 3
            assert any(
                row["message"] == "validator-left" and row["validator"] == names[silent]
                for row in log_of(net, witness)
            )
            await grows(net, witness, 3)
            net.start(silent)
            await net.wait_ready([silent])
            await same_chain(net, EVERYBODY)
            assert (await status(net, silent))["role"] == "observer"

    run(story())
