"""Waiting for real networks: for a condition, never for a time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from node.clock import Clock
from node.rpc.client import RpcUnavailable
from node.rpc.errors import RpcError
from node.testnet import Testnet

TIMEOUT_S = 60.0
POLL_S = 0.05


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Wait for an awaitable condition to become true and return its value; a node may be away meanwhile."""
    deadline = Clock.monotonic_s() + TIMEOUT_S
    while True:
        try:
            value = await condition()
        except (RpcUnavailable, RpcError):
            value = None
        if value:
            return value
        assert Clock.monotonic_s() < deadline, what
        await asyncio.sleep(POLL_S)


async def height(net: Testnet, index: int) -> int:
    """Return the height of a node."""
    return int(await net.call(index, "getblockcount"))


async def grows(net: Testnet, index: int, by: int) -> int:
    """Wait until the chain of a node has grown and return its height."""
    start = await height(net, index)

    async def grown() -> int:
        now = await height(net, index)
        return now if now >= start + by else 0

    return int(await until(grown, f"node {index} stays at {start}"))


async def reaches(net: Testnet, index: int, wanted: int) -> None:
    """Wait until a node has a height."""

    async def there() -> bool:
        return await height(net, index) >= wanted

    await until(there, f"node {index} does not reach {wanted}")
