"""Judging proposed blocks: their bodies are completed, their signatures checked off the loop, then executed.

Each question of the engine gets one answer, whenever it comes; questions may overtake each other.
"""

import asyncio
import logging
from collections.abc import Container
from typing import Protocol

from consensus.bft.types import Check
from consensus.block import Block, BlockHeader
from consensus.commitment import find_commitment
from consensus.connect import check_clock
from consensus.errors import LocalFault, PeerFault, RuleError
from consensus.transaction import Transaction
from node.bodies import Find, Parked, ProposalBodies, TxSource, complete_block
from node.chainstate import ChainState
from node.clock import Clock
from node.limits import BODY_RETRY_MS

log = logging.getLogger("wattd.bft")


class Asker(Protocol):
    """Who asks, and takes the answers."""

    def asked(self) -> Container[bytes]:
        """Return the hashes of the blocks on which a verdict is still wanted."""
        ...

    def on_valid(self, block_hash: bytes) -> None:
        """The block is executed and kept as a candidate."""
        ...

    def on_refused(self, block_hash: bytes, fault: PeerFault) -> None:
        """The block breaks a rule, or cannot be judged here."""
        ...

    def on_bug(self, error: Exception) -> None:
        """The daemon must stop."""
        ...


class Judge:
    """``find_tx`` looks a transaction up by wtxid, ``source`` are the peers that may have what is missing."""

    def __init__(
        self, asker: Asker, chain: ChainState, clock: Clock, source: TxSource, find_tx: Find
    ) -> None:
        self._asker = asker
        self._chain = chain
        self._clock = clock
        self._bodies = ProposalBodies(source, find_tx, self._on_complete)
        self._retry: asyncio.TimerHandle | None = None
        self._under_way: dict[bytes, tuple[bytes, asyncio.Task[None]]] = {}

    @property
    def parked(self) -> int:
        """Return how many proposals wait for bodies."""
        return len(self._bodies)

    def park(self, check: Check) -> None:
        """Judge a proposal as soon as all of its transactions are here."""
        self._bodies.add(check, self._clock.now_s(), self._clock.monotonic_ms())
        self._arm_retry()

    def supply(self, txs: list[Transaction]) -> None:
        """Take transactions that some parked proposal may miss."""
        if len(self._bodies):
            self._bodies.supply(txs)

    def take_body(self, block: Block) -> None:
        """Take a whole block that some parked proposal may wait for."""
        parked = self._bodies.take(block.hash)
        if parked is not None:
            self.judge(parked.check, block, parked.arrived_s)

    def forget_up_to(self, height: int) -> None:
        """Drop parked proposals up to a height that is final."""
        self._bodies.forget(lambda check: check.height > height)

    def clear(self) -> None:
        """Drop everything: nobody wants these answers any more."""
        for _, task in self._under_way.values():
            task.cancel()
        self._under_way.clear()
        self._bodies.forget(lambda check: False)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    # ---- bodies --------------------------------------------------------------------------------

    def _arm_retry(self) -> None:
        if len(self._bodies) and self._retry is None:
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(BODY_RETRY_MS / 1000, self._retry_bodies)

    def _retry_bodies(self) -> None:
        self._retry = None
        try:
            asked = self._asker.asked()
            self._bodies.forget(lambda check: check.proposal.block_hash in asked)
            self._bodies.retry(self._clock.monotonic_ms())
        except Exception as error:
            self._asker.on_bug(error)
            return
        self._arm_retry()

    def _on_complete(self, parked: Parked) -> None:
        """All transactions of a proposal are here."""
        try:
            block = complete_block(parked)
        except PeerFault as fault:
            self._refuse(parked.check, fault)
            return
        self.judge(parked.check, block, parked.arrived_s)

    # ---- verdicts ------------------------------------------------------------------------------

    def judge(self, check: Check, block: Block, arrived_s: int) -> None:
        """Judge a block whose body is here: at once, or after its signatures were checked off the loop."""
        try:
            if check.is_new:
                check_clock(BlockHeader.parse(check.proposal.header), arrived_s, self._chain.params)
                if find_commitment(block.txs[0]).proposer != check.from_validator:
                    raise RuleError("bad-proposer", "the block names another proposer than its sender")
        except PeerFault as fault:
            self._refuse(check, fault)
            return
        if self._chain.wants_prewarm(block):
            self._judge_later(check, block)
        else:
            self._execute(check, block)

    def _judge_later(self, check: Check, block: Block) -> None:
        """Begin to check signatures on worker threads; of two bodies of one block the latest counts."""
        asked = self._asker.asked()
        for given_up in [key for key in self._under_way if key not in asked]:
            self._under_way.pop(given_up)[1].cancel()
        raw, task = self._under_way.get(block.hash, (b"", None))
        if task is not None:
            if raw == block.raw:
                return  # its answer will be the answer to this question
            task.cancel()
        task = asyncio.get_running_loop().create_task(self._prewarm(check, block))
        self._under_way[block.hash] = block.raw, task

    async def _prewarm(self, check: Check, block: Block) -> None:
        fault = None
        try:
            await self._chain.prewarm(block, check.parent_hash)
        except PeerFault as found:
            fault = found
        except Exception as bug:
            self._asker.on_bug(bug)
            return
        del self._under_way[block.hash]  # still ours: whoever takes its place has cancelled this
        try:
            if fault is not None:
                self._refuse(check, fault)
            elif block.hash in self._asker.asked():
                self._execute(check, block, formed=True)
        except Exception as error:
            self._asker.on_bug(error)

    def _execute(self, check: Check, block: Block, *, formed: bool = False) -> None:
        try:
            self._chain.execute(block, check.parent_hash, formed=formed)
        except PeerFault as fault:
            self._refuse(check, fault)
        except LocalFault:
            raise
        except Exception as bug:  # nothing is certified yet: a block that nobody can execute is no block
            log.error("a proposed block crashed its contracts", exc_info=bug)
            self._refuse(check, RuleError("contract-crash", repr(bug)))
        else:
            self._asker.on_valid(block.hash)

    def _refuse(self, check: Check, fault: PeerFault) -> None:
        log.warning(
            "refused a proposed block",
            extra={"code": fault.code, "reason": fault.reason, "height": check.height},
        )
        self._asker.on_refused(check.proposal.block_hash, fault)
