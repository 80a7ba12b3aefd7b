"""The way into the mempool: one consumer, whole batches, signatures off the loop.

Submissions of clients wait for their verdict; what peers relay is taken without an answer. A
relayed transaction whose parents are unknown waits, within a budget, for them to arrive.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from consensus.errors import PeerFault, RuleError
from consensus.transaction import Transaction
from node.clock import Clock
from node.limits import (
    ADMISSION_BATCH_TXS,
    ADMISSION_QUEUE_BYTES,
    MAX_ORPHAN_BYTES,
    MAX_ORPHANS,
)
from node.mempool import Mempool, MempoolEntry, Staging
from node.sigcheck import SignatureVerifier

MISSING_INPUTS = "bad-txns-inputs-missingorspent"


@dataclass(slots=True, eq=False)
class Job:
    """One transaction on its way in. ``source`` names the peer that sent it, None for a client."""

    tx: Transaction
    source: int | None
    verdict: "asyncio.Future[None] | None"


class Orphans:
    """Relayed transactions that wait for a parent: bounded in number and bytes, oldest leave first."""

    def __init__(self) -> None:
        self._jobs: dict[bytes, Job] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """Keep ``job`` until a parent arrives or room is needed."""
        self._drop(job.tx.txid)
        self._jobs[job.tx.txid] = job
        self._bytes += len(job.tx.raw)
        while len(self._jobs) > MAX_ORPHANS or self._bytes > MAX_ORPHAN_BYTES:
            self._drop(next(iter(self._jobs)))

    def take_children(self, parents: set[bytes]) -> list[Job]:
        """Remove and return what spends an output of one of ``parents`` (transaction ids)."""
        ready = [job for job in self._jobs.values() if any(p[:32] in parents for p in job.tx.prevouts)]
        for job in ready:
            self._drop(job.tx.txid)
        return ready

    def _drop(self, txid: bytes) -> None:
        job = self._jobs.pop(txid, None)
        if job is not None:
            self._bytes -= len(job.tx.raw)


class Admission:
    """Queue, batch, check, insert. ``on_accepted`` and ``on_refused`` tell the rest of the node."""

    def __init__(
        self,
        mempool: Mempool,
        verifier: SignatureVerifier,
        clock: Clock,
        *,
        on_accepted: Callable[[list[Job]], None],
        on_refused: Callable[[Job, PeerFault], None],
    ) -> None:
        self._mempool = mempool
        self._verifier = verifier
        self._clock = clock
        self._on_accepted = on_accepted
        self._on_refused = on_refused
        self._queue: deque[Job] = deque()
        self._queued: dict[bytes, Transaction] = {}
        self._queue_bytes = 0
        self._wake = asyncio.Event()
        self._orphans = Orphans()
        self.dropped = 0

    @property
    def backlog(self) -> int:
        """Return the number of transactions that wait to be looked at."""
        return len(self._queue)

    @property
    def orphans(self) -> int:
        """Return the number of transactions that wait for a parent."""
        return len(self._orphans)

    async def submit(self, tx: Transaction) -> None:
        """Admit a client's transaction. Raises RuleError if it is refused."""
        if self._queue_bytes + len(tx.raw) > ADMISSION_QUEUE_BYTES:
            raise RuleError("admission-queue-full", "try again in a moment", permanent=False)
        verdict: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(Job(tx, None, verdict))
        await verdict

    def find(self, wtxid: bytes) -> Transaction | None:
        """Return a transaction that waits for its checks: a proposal may name it already."""
        return self._queued.get(wtxid)

    def offer(self, transactions: list[Transaction], source: int) -> list[Transaction]:
        """Take what a peer relayed; return what does not fit the queue's budget."""
        left = []
        for tx in transactions:
            if tx.wtxid in self._queued or self._mempool.by_wtxid(tx.wtxid) is not None:
                continue
            if self._queue_bytes + len(tx.raw) > ADMISSION_QUEUE_BYTES:
                self.dropped += 1
                left.append(tx)
                continue
            self._put(Job(tx, source, None))
        return left

    def retry_orphans(self, parents: set[bytes]) -> None:
        """Look again at orphans whose parents a block brought."""
        for job in self._orphans.take_children(parents):
            self._put(job)

    async def run(self) -> None:
        """Consume the queue for ever; cancelled at stop."""
        while True:
            await self._wake.wait()
            while self._queue:
                batch = self._take()
                accepted = await self._process(batch)
                for job in batch:
                    self._queued.pop(job.tx.wtxid, None)
                    self._queue_bytes -= len(job.tx.raw)
                if accepted:
                    self._on_accepted(accepted)
                    self.retry_orphans({job.tx.txid for job in accepted})
                await asyncio.sleep(0)
            self._wake.clear()

    def _put(self, job: Job) -> None:
        self._queue.append(job)
        self._queued[job.tx.wtxid] = job.tx
        self._queue_bytes += len(job.tx.raw)
        self._wake.set()

    def _take(self) -> list[Job]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), ADMISSION_BATCH_TXS))]

    async def _process(self, batch: list[Job]) -> list[Job]:
        staging = Staging()
        staged: list[tuple[Job, MempoolEntry]] = []
        now_s = self._clock.now_s()
        for job in batch:
            try:
                entry = self._mempool.check(job.tx, staging, now_s)
            except PeerFault as fault:
                self._refuse(job, fault)
                continue
            staging.add(entry)
            staged.append((job, entry))
        faults = await self._verifier.check_many([(entry.tx, entry.spent) for _, entry in staged])
        return [job for job, entry in staged if self._insert(job, entry, faults.get(entry.tx.wtxid))]

    def _insert(self, job: Job, entry: MempoolEntry, fault: RuleError | None) -> bool:
        try:
            if fault is not None:
                raise fault
            self._mempool.add(entry)
        except RuleError as error:
            self._refuse(job, error)
            return False
        if job.verdict is not None and not job.verdict.done():
            job.verdict.set_result(None)
        return True

    def _refuse(self, job: Job, fault: PeerFault) -> None:
        if job.verdict is not None:
            if not job.verdict.done():
                job.verdict.set_exception(fault)
            return
        if fault.code == MISSING_INPUTS:
            self._orphans.add(job)
        else:
            self._on_refused(job, fault)
