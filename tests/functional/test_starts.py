"""Real validators that come back: restored, wiped, late, and in a network that has lost its quorum."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.testnet import LOG_NAME, ChainPlan, Founder, Testnet
from tests.functional.waiting import grows, height, until

pytestmark = pytest.mark.functional

Run = Callable[..., Any]
FOUNDERS = [Founder("grid", "grid-operator"), *(Founder(f"p{n}", "service-provider") for n in (1, 2, 3))]
KEPT = ("keys.toml", "chain.toml", "wattd.toml")


def datadir(net: Testnet, index: int) -> Path:
    return net.nodes[index].config.datadir


async def learner(net: Testnet, index: int) -> dict[str, Any]:
    """Wait until a node says that it is a learner; return its status."""

    async def found() -> Any:
        status = await net.call(index, "bft.status")
        return status if status["role"] == "learner" else None

    status: dict[str, Any] = await until(found, f"node {index} is no learner")
    return status


async def has_signed(net: Testnet, witness: int, index: int, at: int) -> bool:
    """Return whether the certificate of a height, in the round of now, bears the signature of a node."""
    certificate = await net.call(witness, "bft.certificate", at)
    status = await net.call(witness, "bft.status")
    place = status["validators"].index(net.nodes[index].founder.name)
    return bool(certificate["round"] == status["round"] and place in certificate["signers"])


async def votes(net: Testnet, index: int) -> None:
    """Wait until certificates bear the signature of a node."""

    async def signed() -> bool:
        reached = await height(net, index)
        if not reached:
            return False  # it has not begun to follow, and genesis has no certificate
        return await has_signed(net, index, index, reached)

    await until(signed, f"node {index} does not sign")


async def follows_without_a_vote(net: Testnet, index: int, witness: int) -> None:
    """Check that a learner follows, says why, and stays one; the others go on without it."""
    status = await learner(net, index)
    assert status["learner"]
    assert status["learner"] in status["waiting"]
    log = datadir(net, index) / LOG_NAME

    async def told() -> bool:
        return f"does not vote: {status['learner']}" in log.read_text()

    await until(told, "nobody says why it does not vote")
    tip = await grows(net, witness, 3)

    async def followed() -> bool:
        return await height(net, index) >= tip

    await until(followed, "the learner does not follow")
    assert not await has_signed(net, witness, index, await height(net, witness))
    await net.kill(index)
    net.start(index)
    assert (await learner(net, index))["learner"] == status["learner"]


def test_a_node_restored_from_a_backup_does_not_vote(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with Testnet.create(tmp_path / "net", FOUNDERS, ChainPlan()) as net:
            net.start_all()
            await net.wait_ready()
            await votes(net, 2)
            await net.kill(2)
            shutil.copytree(datadir(net, 2), tmp_path / "backup")
            net.start(2)
            await net.wait_ready([2])
            await votes(net, 2)
            await grows(net, 0, 3)
            await net.kill(2)
            shutil.rmtree(datadir(net, 2))
            shutil.copytree(tmp_path / "backup", datadir(net, 2))
            net.start(2)
            await follows_without_a_vote(net, 2, 0)

    run(story())


def test_a_wiped_node_does_not_vote_and_a_late_one_does(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with Testnet.create(tmp_path, FOUNDERS, ChainPlan()) as net:
            for index in (0, 1, 3):
                net.start(index)
            await grows_once_up(net, 0, 5)
            net.start(2)
            await votes(net, 2)
            await grows(net, 0, 3)
            await net.kill(2)
            for path in datadir(net, 2).iterdir():
                if path.name in KEPT:
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            net.start(2)
            await follows_without_a_vote(net, 2, 0)

    run(story())


async def grows_once_up(net: Testnet, index: int, by: int) -> None:
    async def grown() -> bool:
        return await height(net, index) >= by

    await until(grown, f"node {index} does not get to {by}")


def test_a_chain_without_a_quorum_says_who_is_missing_and_when_it_goes_on(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with Testnet.create(tmp_path, FOUNDERS, ChainPlan()) as net:
            net.start_all()
            await net.wait_ready()
            await net.kill(1)
            await net.kill(3)

            async def red() -> Any:
                status = await net.call(0, "bft.status")
                return status if not status["ready"] else None

            status = await until(red, "ready although two of four are gone")
            assert sorted(status["missing"]) == ["p1", "p3"]
            assert status["phase"] in ("election", "votes", "checking")
            assert f"not heard of: {', '.join(status['missing'])}" in status["reason"]
            log = datadir(net, 0) / LOG_NAME
            assert "chain-stands-still" in log.read_text()
            net.start(1)

            async def told() -> bool:
                return "chain-advances" in log.read_text()

            await until(told, "nobody says that it goes on")
            await net.wait_ready([0, 1, 2])
            assert (await net.call(0, "bft.status"))["missing"] == ["p3"]

    run(story())
