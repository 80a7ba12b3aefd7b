"""Brings transactions onto the chain: to a node, and to another one if that one is gone.

Sending the same transaction again is harmless, so whatever no block holds after a while is sent to the
next node, until it is in a block. The operations of one account keep their order.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from consensus.transaction import hash_hex
from contracts.operations import Operation, encode
from node.clock import Clock
from node.demo.journal import Journal
from node.demo.lanes import Lanes
from node.demo.limits import (
    GIVE_UP_REAL_S,
    MAX_IN_FLIGHT,
    POLL_TIMEOUT_REAL_S,
    REFUSED_REAL_S,
    RESEND_REAL_S,
    SLOW_REAL_S,
)
from node.demo.watch import Watch
from node.rpc.client import RpcUnavailable
from node.rpc.errors import VERIFY_ALREADY_IN_CHAIN, RpcError
from node.wallet import Built, Wallet, WalletError


@dataclass(frozen=True, slots=True)
class Task:
    """An operation to carry out, what rides on it, its name, and who wants to know it once it is signed."""

    operation: Operation
    value: int
    what: str
    signed: Callable[[Built, bytes], None] | None


@dataclass(slots=True)
class Actor:
    """An account that acts: its wallet, its usual node, and what waits for its turn."""

    name: str
    wallet: Wallet
    home: int
    tasks: deque[Task] = field(default_factory=deque)
    in_flight: int = 0


@dataclass(slots=True)
class Sent:
    """A signed transaction on its way. ``node`` is where it went last."""

    actor: Actor
    what: str
    built: Built
    raw: str
    node: int
    first_at: float
    sent_at: float = 0.0
    error: str = ""


class Courier:
    """Queues, signs, sends and follows the transactions of all actors."""

    def __init__(self, watch: Watch, journal: Journal) -> None:
        self._watch = watch
        self._journal = journal
        self._actors: list[Actor] = []
        self._pending: dict[str, Sent] = {}
        self._lanes = Lanes()
        self.resent = 0

    def join(self, actor: Actor) -> Actor:
        """Let an actor take part."""
        self._actors.append(actor)
        return actor

    @property
    def is_idle(self) -> bool:
        """Tell whether everything that was given up for sending is in a block."""
        return not self._pending and not any(actor.tasks for actor in self._actors)

    @property
    def waiting(self) -> int:
        """Return how many transactions no block holds yet."""
        return len(self._pending) + sum(len(actor.tasks) for actor in self._actors)

    def give(
        self,
        actor: Actor,
        operation: Operation,
        what: str,
        *,
        value: int = 0,
        signed: Callable[[Built, bytes], None] | None = None,
    ) -> None:
        """Queue an operation; ``signed`` is told of the transaction and its payload."""
        actor.tasks.append(Task(operation, value, what, signed))

    def confirm(self, txids: list[str]) -> None:
        """Take note of what a block holds."""
        for txid in txids:
            sent = self._pending.pop(txid, None)
            if sent is not None:
                sent.actor.in_flight -= 1
                sent.actor.wallet.observe(sent.built.tx)

    async def pump(self) -> None:
        """Sign what may go now, and send what is new or has waited too long."""
        now = Clock.monotonic_s()
        self._sign(now)
        by_node: dict[int, list[Sent]] = {}
        for sent in self._pending.values():
            if now - sent.sent_at < RESEND_REAL_S:
                continue
            node = self._target(sent.node + 1 if sent.sent_at else sent.node)
            if node is None:
                continue
            self.resent += bool(sent.sent_at)
            sent.node = node
            by_node.setdefault(node, []).append(sent)
        for node, items in by_node.items():
            self._lanes.start(node, self._send(node, items))
        await self._lanes.wait(SLOW_REAL_S)

    def complaints(self) -> list[str]:
        """Return what has waited longer than anything valid can, with what the nodes say."""
        now = Clock.monotonic_s()
        return [
            f"{sent.what}: {sent.error or 'in no block'}"
            for sent in self._pending.values()
            if now - sent.first_at > GIVE_UP_REAL_S
        ]

    def unconfirmed(self) -> list[str]:
        """Return everything that no block holds, with what the nodes say."""
        waiting = [f"{sent.what}: {sent.error or 'in no block'}" for sent in self._pending.values()]
        return waiting + [f"{task.what}: not sent" for actor in self._actors for task in actor.tasks]

    def _target(self, wanted: int) -> int | None:
        """Return ``wanted`` (any number) if that node answers and is not busy, else the next such one."""
        count = len(self._watch.nodes)
        for step in range(count):
            node = (wanted + step) % count
            if self._watch.nodes[node].is_up and self._lanes.is_free(node):
                return node
        return None

    def _sign(self, now: float) -> None:
        for actor in self._actors:
            while actor.tasks and actor.in_flight < MAX_IN_FLIGHT:
                task = actor.tasks[0]
                payload = encode(task.operation)
                try:
                    built = actor.wallet.operate(payload, value=task.value)
                except WalletError:
                    if not actor.in_flight:
                        raise
                    break  # its coins hang on too many unconfirmed transactions
                actor.tasks.popleft()
                account = actor.wallet.account.script
                self._journal.brought[account] += task.value
                self._journal.fees[account] += built.fee
                self._journal.transactions += 1
                if task.signed is not None:
                    task.signed(built, payload)
                txid = hash_hex(built.tx.txid)
                self._pending[txid] = Sent(
                    actor, task.what, built, built.tx.raw.hex(), actor.home, first_at=now
                )
                actor.in_flight += 1

    async def _send(self, node: int, items: list[Sent]) -> None:
        now = Clock.monotonic_s()
        for sent in items:
            sent.sent_at = now
        try:
            async with asyncio.timeout(POLL_TIMEOUT_REAL_S):
                client = await self._watch.net.client(node)
                replies = await client.batch([("sendrawtransaction", (sent.raw,)) for sent in items])
        except (RpcUnavailable, TimeoutError) as error:
            self._watch.lost(node)
            for sent in items:
                sent.error = str(error) or "no answer"
                sent.sent_at = now - RESEND_REAL_S
            return
        for sent, reply in zip(items, replies, strict=True):
            if not isinstance(reply, RpcError) or reply.number == VERIFY_ALREADY_IN_CHAIN:
                sent.error = ""
                continue
            # Most often it spends what another node has and this one has not heard of yet.
            sent.error = f"{self._watch.net.nodes[node].founder.name} says {reply.reason}"
            sent.sent_at = now - RESEND_REAL_S + REFUSED_REAL_S
