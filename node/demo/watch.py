"""What the nodes say of themselves, and the blocks as they come: the eyes of the demo."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from node.clock import Clock
from node.demo.lanes import Lanes
from node.demo.limits import (
    CAUGHT_UP_BLOCKS,
    MAX_BLOCKS_PER_POLL,
    POLL_TIMEOUT_REAL_S,
    RATE_WINDOW_REAL_S,
    SLOW_REAL_S,
)
from node.rpc.client import RpcUnavailable
from node.rpc.errors import RpcError
from node.testnet import Testnet

_STATUS: Sequence[tuple[str, tuple[Any, ...]]] = (
    ("bft.status", ()),
    ("getconnectioncount", ()),
    ("getmempoolinfo", ()),
)


@dataclass(slots=True)
class NodeStatus:
    """One node as it was last heard. ``is_up`` is False while it does not answer."""

    name: str
    is_up: bool = False
    role: str = ""
    term: int = 0
    leader: int | None = None
    height: int = 0
    peers: int = 0
    mempool: int = 0


@dataclass(frozen=True, slots=True)
class SeenBlock:
    """A committed block: its height, chain time, term and transactions but the coinbase."""

    height: int
    time_s: int
    term: int
    txids: list[str] = field(repr=False)


class Watch:
    """Polls the nodes and follows the chain, each block once."""

    def __init__(self, net: Testnet) -> None:
        self.net = net
        self.nodes = [NodeStatus(node.founder.name) for node in net.nodes]
        self._index_of = {status.name: index for index, status in enumerate(self.nodes)}
        self.height = 0
        self.transactions = 0
        self.last: SeenBlock | None = None
        self.terms: set[int] = set()
        self._recent: deque[tuple[float, int]] = deque()
        self._lanes = Lanes()

    # ---- nodes ----------------------------------------------------------------------------------

    @property
    def up(self) -> list[int]:
        """Return the nodes that answer."""
        return [index for index, status in enumerate(self.nodes) if status.is_up]

    @property
    def leader(self) -> int | None:
        """Return the leader of the highest term that any node knows, if it has one."""
        known = [status for status in self.nodes if status.is_up and status.leader is not None]
        return max(known, key=lambda status: status.term).leader if known else None

    @property
    def term(self) -> int:
        """Return the highest term that any node knows."""
        return max((status.term for status in self.nodes), default=0)

    def best(self) -> int | None:
        """Return the node that is furthest."""
        return max(self.up, key=lambda index: self.nodes[index].height, default=None)

    def lost(self, index: int) -> None:
        """Take note that a node did not answer; the next poll looks again."""
        self.nodes[index].is_up = False

    def has_caught_up(self, index: int) -> bool:
        """Tell whether a node is as far as the best one, but for what is under way."""
        status = self.nodes[index]
        best = max(each.height for each in self.nodes)
        return status.is_up and status.height > 0 and status.height >= best - CAUGHT_UP_BLOCKS

    @property
    def rate(self) -> float:
        """Return the transactions per real second that became final of late."""
        now = Clock.monotonic_s()
        while self._recent and now - self._recent[0][0] > RATE_WINDOW_REAL_S:
            self._recent.popleft()
        return sum(count for _, count in self._recent) / RATE_WINDOW_REAL_S

    async def poll(self) -> list[SeenBlock]:
        """Ask every node, then fetch the blocks that are new; return those, oldest first."""
        for index in range(len(self.nodes)):
            if self._lanes.is_free(index):
                self._lanes.start(index, self._ask(index))
        await self._lanes.wait(SLOW_REAL_S)
        best = self.best()
        if best is None or self.nodes[best].height <= self.height:
            return []
        last = min(self.nodes[best].height, self.height + MAX_BLOCKS_PER_POLL)
        heights = range(self.height + 1, last + 1)
        try:
            async with asyncio.timeout(POLL_TIMEOUT_REAL_S):
                client = await self.net.client(best)
                hashes = await client.batch([("getblockhash", (height,)) for height in heights])
                blocks = await client.batch([("getblock", (each, 1)) for each in hashes])
        except (RpcUnavailable, TimeoutError):
            self.lost(best)
            return []
        return [self._take(block) for block in takewhile(lambda each: not isinstance(each, RpcError), blocks)]

    async def _ask(self, index: int) -> None:
        status = self.nodes[index]
        if not self.net.nodes[index].is_running:
            status.is_up = False
            return
        try:
            async with asyncio.timeout(POLL_TIMEOUT_REAL_S):
                client = await self.net.client(index)
                bft, peers, mempool = await client.batch(_STATUS)
        except (RpcUnavailable, TimeoutError):
            status.is_up = False
            return
        status.is_up = True
        # By its name: the voting order changes with the rounds, the order of the nodes does not.
        leader = None if bft["leader_name"] is None else self._index_of.get(bft["leader_name"])
        status.role, status.term, status.leader = bft["role"], bft["term"], leader
        status.height, status.peers, status.mempool = bft["committed_height"], peers, mempool["size"]

    def _take(self, block: dict[str, Any]) -> SeenBlock:
        seen = SeenBlock(block["height"], block["time"], block["term"], block["tx"][1:])
        self.height, self.last = seen.height, seen
        self.terms.add(seen.term)
        self.transactions += len(seen.txids)
        self._recent.append((Clock.monotonic_s(), len(seen.txids)))
        return seen
