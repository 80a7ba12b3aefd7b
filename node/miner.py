"""The miner inside the daemon: it searches proofs of work on threads and hands in what they find.

A search thread runs without the interpreter lock, a slice of nonces at a time; between slices it looks
whether the search is still wanted. Threads never share an extra nonce, so they never try the same header.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import Any, Protocol

from consensus.assemble import MAX_EXTRA_NONCE
from consensus.block import Block
from consensus.errors import RuleError
from consensus.pow.mining import NONCES, Work
from consensus.transaction import hash_hex
from node.clock import Clock
from node.dice import random_bytes
from node.limits import (
    MINING_FIRST_SLICE,
    MINING_MAX_BEHIND_BLOCKS,
    MINING_MAX_SLICE,
    MINING_MAX_THREADS,
    MINING_RATE_WINDOW_S,
    MINING_REFRESH_S,
    MINING_RETRY_S,
    MINING_SLICE_S,
    TEMPLATE_CACHE,
)
from node.mining_port import PowControl, Template

log = logging.getLogger("wattd.miner")

TIME_TOO_NEW = "time-too-new"
NODE_STOPPING = "node-stopping"

OUTRUN = ("inconclusive", "duplicate", "prev-blk-not-found")
"""Answers to a block that is not refused: another was first, or the chain below it has been left."""

EXTRA_NONCE_BYTES = 8

_ROOM = bytes(MAX_EXTRA_NONCE)
"""Extra nonce of templates: whatever a miner puts in its place makes the block no heavier."""


class MinerClock(Protocol):
    """What the miner asks of ``node.clock.Clock``."""

    def now_s(self) -> int:
        """Return chain time."""
        ...

    def monotonic_ms(self) -> int:
        """Return real milliseconds that never run backwards."""
        ...


@dataclass(frozen=True, slots=True)
class TemplateStats:
    """The last template: its height, its transactions without the coinbase, its weight."""

    height: int
    txs: int
    weight: int


@dataclass(frozen=True, slots=True)
class MinerStatus:
    """What an operator is shown. ``hashes_per_s`` is measured over the last MINING_RATE_WINDOW_S."""

    enabled: bool
    threads: int
    script: bytes
    hashes_per_s: float
    blocks_found: int
    waits_for: str
    last: TemplateStats | None


@dataclass(frozen=True, slots=True)
class KeptTemplate:
    """A template, done ``tip`` when the chain has left its parent, the mempool's revision at its making."""

    template: Template
    tip: "asyncio.Future[None]"
    revision: int
    made_ms: int


class Templates:
    """Block templates by payout script, made anew when they are not worth mining any more.

    That is at once on a new tip, and MINING_REFRESH_S after their making if the mempool changed.
    ``revision`` counts the changes of the mempool.
    """

    def __init__(self, control: PowControl, clock: MinerClock, revision: Callable[[], int]) -> None:
        self._control = control
        self._clock = clock
        self._revision = revision
        self._kept: OrderedDict[bytes, KeptTemplate] = OrderedDict()
        self.last: TemplateStats | None = None

    @property
    def revision(self) -> int:
        """Return how often the mempool has changed."""
        return self._revision()

    def get(self, script: bytes) -> KeptTemplate:
        """Return a template that pays to ``script``. Raises RuleError "time-too-new"."""
        kept = self._kept.get(script)
        if kept is None or self._is_old(kept):
            return self.make(script)
        self._kept.move_to_end(script)
        return kept

    def make(self, script: bytes) -> KeptTemplate:
        """Return a template with everything that waits now. Raises RuleError "time-too-new"."""
        tip = self._control.watch()
        revision = self._revision()
        template = self._control.template(script, _ROOM)
        kept = KeptTemplate(template, tip, revision, self._clock.monotonic_ms())
        self._kept[script] = kept
        self._kept.move_to_end(script)
        if len(self._kept) > TEMPLATE_CACHE:
            self._kept.popitem(last=False)
        block = template.block
        self.last = TemplateStats(template.height, len(block.txs) - 1, block.weight)
        return kept

    def is_behind(self, template: Template) -> bool:
        """Tell whether the tip is so far below the best header that its child is hardly worth a search."""
        return self._control.headers_height - template.height >= MINING_MAX_BEHIND_BLOCKS

    def _is_old(self, kept: KeptTemplate) -> bool:
        if kept.tip.done():
            return True
        age_ms = self._clock.monotonic_ms() - kept.made_ms
        return age_ms >= MINING_REFRESH_S * 1000 and kept.revision != self._revision()


class HashMeter:
    """Hashes per second over the last MINING_RATE_WINDOW_S; threads add to it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seconds: deque[list[int]] = deque()  # [second, hashes]
        self.total = 0

    def add(self, hashes: int) -> None:
        """Count what a slice has tried."""
        now = int(Clock.monotonic_s())
        with self._lock:
            self.total += hashes
            if not self._seconds or self._seconds[-1][0] != now:
                self._seconds.append([now, 0])
                self._forget(now)
            self._seconds[-1][1] += hashes

    def rate(self) -> float:
        """Return hashes per second, 0 when nothing was searched lately."""
        now = Clock.monotonic_s()
        with self._lock:
            self._forget(int(now))
            if not self._seconds:
                return 0.0
            return sum(hashes for _, hashes in self._seconds) / max(now - self._seconds[0][0], 0.1)

    def _forget(self, now: int) -> None:
        while self._seconds and self._seconds[0][0] <= now - MINING_RATE_WINDOW_S:
            self._seconds.popleft()


class Budget:
    """How many hashes may still be tried; None is no bound. Threads take from it."""

    def __init__(self, hashes: int | None = None) -> None:
        self._lock = Lock()
        self._left = hashes

    def take(self, wanted: int) -> int:
        """Return how many of ``wanted`` may be tried, 0 when nothing is left."""
        with self._lock:
            if self._left is None:
                return wanted
            given = min(wanted, self._left)
            self._left -= given
            return given

    @property
    def is_spent(self) -> bool:
        """Return whether nothing may be tried any more."""
        return self._left is not None and self._left <= 0


class Search:
    """One template under search by any number of threads, each in its own extra nonces."""

    def __init__(self, work: Work, time_s: int, next_extra: Callable[[], int], meter: HashMeter) -> None:
        self._work = work
        self._time_s = time_s
        self._next_extra = next_extra
        self._meter = meter
        self._stopped = False

    def stop(self) -> None:
        """Let the threads end after their slices."""
        self._stopped = True

    def run(self, budget: Budget) -> Block | None:
        """Search until a block is found, the budget is spent or the search is stopped. For a thread."""
        size = MINING_FIRST_SLICE
        while not self._stopped:
            extra = self._next_extra().to_bytes(EXTRA_NONCE_BYTES, "little")
            header = self._work.header(extra, self._time_s)
            start = 0
            while start < NONCES and not self._stopped:
                tries = budget.take(min(size, NONCES - start))
                if not tries:
                    return None
                began_s = Clock.monotonic_s()
                nonce = self._work.search(header, start, tries)
                if nonce is not None:
                    self._meter.add(nonce - start + 1)
                    return self._work.solved(extra, header, nonce)
                self._meter.add(tries)
                start += tries
                if tries == size:
                    size = _next_size(size, Clock.monotonic_s() - began_s)
        return None


def _next_size(size: int, took_s: float) -> int:
    """Return the next slice's size, so that a slice takes about MINING_SLICE_S."""
    if took_s < MINING_SLICE_S / 2:
        return min(2 * size, MINING_MAX_SLICE)
    return max(1, size // 2) if took_s > MINING_SLICE_S else size


class Miner:
    """Mines for ever while enabled (``run``), and as many blocks as asked for (``generate``).

    ``script`` is what blocks found here pay to, ``revision`` counts the changes of the mempool,
    ``dice`` gives the place where extra nonces start, so that two miners of one owner do not search the
    same headers. For the event loop; only the search itself is on threads.
    """

    def __init__(
        self,
        control: PowControl,
        clock: MinerClock,
        *,
        script: bytes,
        threads: int = 1,
        enabled: bool = False,
        revision: Callable[[], int],
        dice: Callable[[int], bytes] = random_bytes,
    ) -> None:
        self._control = control
        self._clock = clock
        self._script = script
        self._threads = threads
        self._enabled = enabled
        self._extra = count(int.from_bytes(dice(EXTRA_NONCE_BYTES - 1), "little"))
        self._meter = HashMeter()
        self._searches: set[Search] = set()
        self._generating = asyncio.Lock()
        self._order: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._blocks_found = 0
        self._waits_for = ""
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(
            2 * MINING_MAX_THREADS, thread_name_prefix="miner"
        )
        self.templates = Templates(control, clock, revision)
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the node stops: who waits for a new template need not wait any longer."""
        self.long_polls = 0
        """Calls of getblocktemplate that wait."""

    # ---- orders --------------------------------------------------------------------------------

    @property
    def script(self) -> bytes:
        """Return what blocks found here pay to."""
        return self._script

    def start(self, script: bytes | None = None, threads: int | None = None) -> None:
        """Mine from now on, to another script or with another number of threads if given."""
        if threads is not None and not 1 <= threads <= MINING_MAX_THREADS:
            raise ValueError(f"1 to {MINING_MAX_THREADS} threads")
        self._script = self._script if script is None else script
        self._threads = self._threads if threads is None else threads
        self._enabled = True
        self._announce_order()

    def stop(self) -> None:
        """Mine no more until ``start``; ``generate`` still works."""
        self._enabled = False
        self._waits_for = ""
        self._announce_order()

    def _announce_order(self) -> None:
        if not self._order.done():
            self._order.set_result(None)

    def status(self) -> MinerStatus:
        """Return what an operator is shown."""
        return MinerStatus(
            enabled=self._enabled,
            threads=self._threads,
            script=self._script,
            hashes_per_s=self._meter.rate(),
            blocks_found=self._blocks_found,
            waits_for=self._waits_for,
            last=self.templates.last,
        )

    def close(self) -> None:
        """End all searches and their threads: within a slice, which this waits for."""
        if not self.closed.done():
            self.closed.set_result(None)
        for search in self._searches:
            search.stop()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None

    # ---- mining --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Mine while enabled, until cancelled; then close. An exception is a bug or a local fault."""
        try:
            while True:
                self._order = asyncio.get_running_loop().create_future()
                if self._enabled:
                    await self._mine(self._order)
                else:
                    await self._order
        finally:
            self.close()

    async def _mine(self, order: "asyncio.Future[None]") -> None:
        """Search one template until it is solved or out of date, or until there is another order."""
        tip = self._control.watch()
        until = {tip, order}
        try:
            template = self.templates.get(self._script).template
        except RuleError as fault:
            if fault.code != TIME_TOO_NEW:
                raise
            await self._wait_for("the clock: the chain's median time is ahead of it", until)
            return
        if self.templates.is_behind(template):
            await self._wait_for("blocks whose headers are here", until)
            return
        self._waits_for = ""
        block = await self._search(template, Budget(), until, self._threads)
        if block is not None:
            await self._hand_in(block, tip)

    async def _wait_for(self, what: str, until: "set[asyncio.Future[None]]") -> None:
        if self._waits_for != what:
            self._waits_for = what
            log.warning("the miner waits", extra={"waits_for": what})
        await _any_of({*until}, MINING_RETRY_S)

    async def generate(self, blocks: int, script: bytes, max_tries: int) -> list[bytes]:
        """Mine ``blocks`` blocks on top of each other; return their hashes, lowest first.

        They are fewer if ``max_tries`` hashes did not find more. Whether the miner is enabled does not
        matter. Raises RuleError "time-too-new", or "node-stopping".
        """
        hashes: list[bytes] = []
        budget = Budget(max_tries)
        async with self._generating:
            while len(hashes) < blocks and not budget.is_spent:
                tip = self._control.watch()
                template = self.templates.make(script).template
                block = await self._search(template, budget, {tip}, self._threads)
                if block is not None and await self._hand_in(block, tip):
                    hashes.append(block.hash)
        return hashes

    async def solve(self, template: Template, max_tries: int) -> Block | None:
        """Search one template; None if ``max_tries`` hashes do not find a block or the tip moves.

        The block is not submitted. Raises RuleError "node-stopping".
        """
        tip, budget = self._control.watch(), Budget(max_tries)
        async with self._generating:
            while not (budget.is_spent or tip.done()):
                block = await self._search(template, budget, {tip}, self._threads)
                if block is not None:
                    return block
        return None

    async def _search(
        self, template: Template, budget: Budget, until: "set[asyncio.Future[None]]", threads: int
    ) -> Block | None:
        """Search a template on ``threads`` threads; None if one of ``until`` comes first, or a refresh."""
        if self._pool is None:
            raise RuleError(NODE_STOPPING, "the miner has ended", permanent=False)
        loop, pool = asyncio.get_running_loop(), self._pool
        time_s = max(template.block.header.time_s, self._clock.now_s())
        work = Work(template.block, template.height)
        search = Search(work, time_s, self._extra.__next__, self._meter)
        self._searches.add(search)
        lanes = [loop.run_in_executor(pool, search.run, budget) for _ in range(threads)]
        try:
            return await _first(lanes, until)
        finally:
            search.stop()
            self._searches.discard(search)
            await asyncio.gather(*lanes)

    async def _hand_in(self, block: Block, tip: "asyncio.Future[None]") -> bool:
        """Submit a block that was found here; return whether it is on the chain now.

        A refusal by the rules on the tip that the block was made for is a bug. Raises RuntimeError then.
        """
        moved = tip.done()
        answer = await self._control.submit_block(block)
        fields = {"hash": hash_hex(block.hash), "txs": len(block.txs)}
        if answer is None:
            self._blocks_found += 1
            log.info("block found", extra=fields)
            return True
        if answer not in (*OUTRUN, TIME_TOO_NEW) and not (moved or tip.done()):
            raise RuntimeError(f"the rules refuse the block {fields['hash']} that was found here: {answer}")
        log.info("a block found here was too late", extra={**fields, "answer": answer})
        return False


async def _first(
    lanes: "list[asyncio.Future[Block | None]]", until: "set[asyncio.Future[None]]"
) -> Block | None:
    """Return the first block that a lane finds; None after MINING_REFRESH_S or if all lanes end without."""
    searching = set(lanes)
    deadline_s = Clock.monotonic_s() + MINING_REFRESH_S
    while searching:
        left_s = max(0.0, deadline_s - Clock.monotonic_s())
        done = await _any_of({*searching, *until}, left_s)
        for lane in searching & done:
            block = lane.result()
            if block is not None:
                return block
        if not done or done & until:
            return None
        searching -= done
    return None


async def _any_of(futures: "set[asyncio.Future[Any]]", timeout_s: float) -> "set[asyncio.Future[Any]]":
    """Wait for one of ``futures``; return those that are done, none after ``timeout_s``. Cancels none."""
    done, _ = await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    return done
