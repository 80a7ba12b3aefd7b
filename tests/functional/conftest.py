"""A network of four real node processes, shared by the tests of a module."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from consensus.params import Allocation
from node.bench.load import COIN_VALUE
from node.keyfile import Secret
from node.testnet import ChainPlan, Founder, Testnet
from node.wallet import Account

T = TypeVar("T")

FOUNDERS = (
    Founder("grid", "grid-operator"),
    Founder("provider-1", "service-provider"),
    Founder("provider-2", "service-provider"),
    Founder("provider-3", "service-provider"),
)


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Coroutine[Any, Any, T]], T]]:
    """Run coroutines on one loop for the whole module."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def funded() -> Account:
    """An account with 100 genesis coins of one token."""
    return Account(Secret(bytes(31) + b"\x2a"))


@pytest.fixture(scope="module")
def net(
    run: Callable[[Coroutine[Any, Any, T]], T], tmp_path_factory: pytest.TempPathFactory, funded: Account
) -> Iterator[Testnet]:
    """Four nodes, ready."""
    plan = ChainPlan(allocations=(Allocation(funded.script, COIN_VALUE),) * 100)
    testnet = Testnet.create(tmp_path_factory.mktemp("net"), FOUNDERS, plan)
    testnet.start_all()
    try:
        run(testnet.wait_ready())
        yield testnet
    finally:
        run(testnet.stop())
