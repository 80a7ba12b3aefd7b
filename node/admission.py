"""The way into the mempool: one consumer, whole batches, signatures off the loop.

Submissions of clients wait for their verdict; what peers relay is taken without an answer. A
relayed transaction whose parents are unknown waits, within a budget, for them to arrive. Of those
that contend for an output in one batch the first is judged first, and a forged one is no rival.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from consensus.errors import LocalFault, PeerFault, RuleError
from consensus.transaction import Transaction
from node.clock import Clock
from node.limits import (
    ADMISSION_BATCH_BYTES,
    ADMISSION_BATCH_TXS,
    ADMISSION_QUEUE_BYTES,
    JOB_OVERHEAD_BYTES,
    MAX_ORPHAN_BYTES,
    MAX_ORPHAN_PARENTS,
    MAX_ORPHANS,
    MAX_ORPHANS_PER_PEER,
    ORPHAN_EXPIRY_MS,
)
from node.mempool import Conflict, Mempool, MempoolEntry, Staging, missing_inputs
from node.sigcheck import SignatureVerifier

log = logging.getLogger("wattd.admission")

MISSING_INPUTS = "bad-txns-inputs-missingorspent"
NODE_STOPPING = "node-stopping"

RESTORED = -1
"""``Job.source`` of what waited before a restart: spread like what a peer sent, nobody to blame."""


@dataclass(slots=True, eq=False)
class Job:
    """One transaction on its way in. ``source`` names the peer that sent it, None for a client, RESTORED."""

    tx: Transaction
    source: int | None
    verdict: "asyncio.Future[None] | None"

    @property
    def cost_bytes(self) -> int:
        """Return what the job counts against the queue's budget."""
        return len(self.tx.raw) + JOB_OVERHEAD_BYTES


class Orphans:
    """Relayed transactions that wait for a parent: bounded in number, per peer, in bytes and in time.

    The oldest leave first, those of a peer that has too many before others.
    """

    def __init__(self) -> None:
        self._jobs: dict[bytes, Job] = {}
        self._since_ms: dict[bytes, int] = {}
        self._of_peer: dict[int | None, dict[bytes, None]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job, now_ms: int) -> list[Job]:
        """Keep ``job`` until a parent arrives; return what had to make room, or waited too long."""
        txid = job.tx.txid
        left = self.expire(now_ms)
        left += [old for old in self._drop(txid) if old.tx != job.tx]
        self._jobs[txid] = job
        self._since_ms[txid] = now_ms
        own = self._of_peer.setdefault(job.source, {})
        own[txid] = None
        self._bytes += len(job.tx.raw)
        while len(own) > MAX_ORPHANS_PER_PEER:
            left += self._drop(next(iter(own)))
        while len(self._jobs) > MAX_ORPHANS or self._bytes > MAX_ORPHAN_BYTES:
            left += self._drop(next(iter(self._jobs)))
        return left

    def expire(self, now_ms: int) -> list[Job]:
        """Remove and return what has waited too long."""
        late: list[Job] = []
        while self._since_ms:
            txid, since_ms = next(iter(self._since_ms.items()))
            if now_ms - since_ms < ORPHAN_EXPIRY_MS:
                break
            late += self._drop(txid)
        return late

    def drop_peer(self, peer: int) -> list[Job]:
        """Remove and return what a peer sent: whoever else has it will announce it again."""
        return [job for txid in list(self._of_peer.get(peer, ())) for job in self._drop(txid)]

    def take_children(self, parents: set[bytes]) -> list[Job]:
        """Remove and return what spends an output of one of ``parents`` (transaction ids)."""
        ready = [job for job in self._jobs.values() if any(p[:32] in parents for p in job.tx.prevouts)]
        for job in ready:
            self._drop(job.tx.txid)
        return ready

    def _drop(self, txid: bytes) -> list[Job]:
        job = self._jobs.pop(txid, None)
        if job is None:
            return []
        del self._since_ms[txid]
        own = self._of_peer[job.source]
        del own[txid]
        if not own:
            del self._of_peer[job.source]
        self._bytes -= len(job.tx.raw)
        return [job]


class Admission:
    """Queue, batch, check, insert. Callbacks tell the rest of the node.

    ``on_orphan(job, parents)``: its peer may be asked for the parents, by transaction id.
    ``on_accepted(jobs)``; ``on_refused(job, fault, blame)``, where ``blame`` says that any node would
    refuse it: what depends on tip, pool or clock is nobody's fault.
    """

    def __init__(
        self,
        mempool: Mempool,
        verifier: SignatureVerifier,
        clock: Clock,
        *,
        on_accepted: Callable[[list[Job]], None],
        on_refused: Callable[[Job, PeerFault, bool], None],
        on_orphan: Callable[[Job, list[bytes]], None] = lambda job, parents: None,
    ) -> None:
        self._mempool = mempool
        self._verifier = verifier
        self._clock = clock
        self._on_accepted = on_accepted
        self._on_refused = on_refused
        self._on_orphan = on_orphan
        self._queue: deque[Job] = deque()
        self._batch: list[Job] = []
        self._queued: dict[bytes, Transaction] = {}
        self._queue_bytes = 0
        self._wake = asyncio.Event()
        self._closed = False
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

    async def submit(self, tx: Transaction, source: int | None = None) -> None:
        """Admit a transaction of a client, or a RESTORED one. Raises RuleError if it is refused."""
        job = Job(tx, source, asyncio.get_running_loop().create_future())
        if self._closed:
            raise stopping()
        if self._queue_bytes + job.cost_bytes > ADMISSION_QUEUE_BYTES:
            raise RuleError("admission-queue-full", "try again in a moment", permanent=False)
        self._put(job)
        if job.verdict is not None:
            await job.verdict

    def find(self, wtxid: bytes) -> Transaction | None:
        """Return a transaction that waits for its checks: a proposal may name it already."""
        return self._queued.get(wtxid)

    def offer(self, transactions: list[Transaction], source: int) -> list[Transaction]:
        """Take what a peer relayed; return what does not fit the queue's budget."""
        left = []
        for tx in transactions:
            if tx.wtxid in self._queued or self._mempool.by_wtxid(tx.wtxid) is not None:
                continue
            job = Job(tx, source, None)
            if self._queue_bytes + job.cost_bytes > ADMISSION_QUEUE_BYTES:
                self.dropped += 1
                left.append(tx)
                continue
            self._put(job)
        return left

    def retry_orphans(self, parents: set[bytes]) -> None:
        """Look again at orphans whose parents a block brought."""
        for job in self._orphans.take_children(parents):
            self._put(job)

    def peer_lost(self, peer: int) -> None:
        """Give up the orphans of a peer that left."""
        self._give_up(self._orphans.drop_peer(peer))

    async def run(self) -> None:
        """Consume the queue for ever; cancelled at stop. However it ends, no client is left waiting."""
        try:
            while True:
                await self._wake.wait()
                while self._queue:
                    await self._admit()
                    await asyncio.sleep(0)
                self._wake.clear()
        finally:
            self._closed = True
            for job in (*self._batch, *self._queue):
                if job.verdict is not None and not job.verdict.done():
                    job.verdict.set_exception(stopping())

    async def _admit(self) -> None:
        """Take one batch through all checks. What contends with another of it has its turn next."""
        self._batch = self._take()
        accepted, deferred = await self._process(self._batch)
        again = set(map(id, deferred))
        for job in self._batch:
            if id(job) not in again:
                self._queued.pop(job.tx.wtxid, None)
                self._queue_bytes -= job.cost_bytes
        self._queue.extendleft(reversed(deferred))
        self._batch = []
        if accepted:
            self._on_accepted(accepted)
            self.retry_orphans({job.tx.txid for job in accepted})

    def _put(self, job: Job) -> None:
        self._queue.append(job)
        self._queued[job.tx.wtxid] = job.tx
        self._queue_bytes += job.cost_bytes
        self._wake.set()

    def _take(self) -> list[Job]:
        batch: list[Job] = []
        room = ADMISSION_BATCH_BYTES
        while self._queue and len(batch) < ADMISSION_BATCH_TXS:
            room -= len(self._queue[0].tx.raw)
            if room < 0 and batch:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _process(self, batch: list[Job]) -> tuple[list[Job], list[Job]]:
        """Return what was accepted, and what must wait for the verdict on a rival of the same batch."""
        staging = Staging()
        staged: list[tuple[Job, MempoolEntry]] = []
        conflicts: list[tuple[Job, Conflict]] = []
        deferred: list[Job] = []
        now_s = self._clock.now_s()
        for job in batch:
            if staging.rivals(job.tx):
                deferred.append(job)
                continue
            try:
                entry = self._check(job.tx, staging, now_s)
            except Conflict as conflict:
                # One rival of each pending transaction is looked at: the rest would cost its sender nothing.
                again = any(other.event.first == conflict.event.first for _, other in conflicts)
                if again or self._mempool.is_reported(conflict.event):
                    self._refuse(job, conflict)
                else:
                    conflicts.append((job, conflict))
                continue
            except PeerFault as fault:
                self._refuse(job, fault)
                continue
            staging.add(entry)
            staged.append((job, entry))
        entries = [entry for _, entry in staged] + [rival.entry for _, rival in conflicts]
        faults = await self._verifier.check_many([(entry.tx, entry.spent) for entry in entries])
        for job, rival in conflicts:
            self._judge_conflict(job, rival, faults.get(job.tx.wtxid))
        accepted = [job for job, entry in staged if self._insert(job, entry, faults.get(entry.tx.wtxid))]
        return accepted, deferred

    def _judge_conflict(self, job: Job, conflict: Conflict, fault: RuleError | None) -> None:
        """Refuse what contends with a pending transaction; a double spend only if it is signed."""
        if fault is None:
            self._mempool.report(conflict.event)
        self._refuse(job, fault or conflict)

    def _check(self, tx: Transaction, staging: Staging, now_s: int) -> MempoolEntry:
        try:
            return self._mempool.check(tx, staging, now_s)
        except (PeerFault, LocalFault):
            raise
        except Exception as bug:  # nobody has agreed on it yet, so it is refused and the node lives on
            log.error("a transaction crashed its checks", extra={"tx": tx.raw.hex()}, exc_info=bug)
            raise RuleError("transaction-crash", repr(bug), permanent=False) from bug

    def _insert(self, job: Job, entry: MempoolEntry, fault: RuleError | None) -> bool:
        if fault is not None:
            self._refuse(job, fault)
            return False
        try:
            self._mempool.add(entry)
        except RuleError as error:
            if isinstance(error, Conflict):
                self._mempool.report(error.event)
            self._refuse(job, error, blame=False)
            return False
        if job.verdict is not None and not job.verdict.done():
            job.verdict.set_result(None)
        return True

    def _refuse(self, job: Job, fault: PeerFault, *, blame: bool = True) -> None:
        if job.verdict is not None:
            if not job.verdict.done():
                job.verdict.set_exception(fault)
        elif fault.code == MISSING_INPUTS:
            self._give_up(self._orphans.add(job, self._clock.monotonic_ms()))
            self._on_orphan(job, self._unknown_parents(job.tx))
        else:
            self._on_refused(job, fault, blame and getattr(fault, "permanent", True))

    def _give_up(self, orphans: list[Job]) -> None:
        for job in orphans:
            self._on_refused(job, missing_inputs(), False)

    def _unknown_parents(self, tx: Transaction) -> list[bytes]:
        looked_at = tx.prevouts[:MAX_ORPHAN_PARENTS]
        return list(
            dict.fromkeys(prevout[:32] for prevout in looked_at if self._mempool.coin(prevout) is None)
        )


def stopping() -> RuleError:
    """Return the answer to a client whose transaction the node will not get to any more."""
    return RuleError(NODE_STOPPING, "the node stops", permanent=False)
