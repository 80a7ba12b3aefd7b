"""The way into the mempool: one consumer, whole batches, signatures off the loop.

Submissions of clients wait for their verdict; what peers relay is taken without an answer. A
relayed transaction whose parents are unknown waits, within a budget, for them to arrive. Of those
that contend for an output in one batch the first is judged first, and a forged one is no rival.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

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
MAX_FEE_EXCEEDED = "max-fee-exceeded"

RESTORED = -1
"""``Job.source`` of what waited before a restart: spread like what a peer sent, nobody to blame."""


class Submission:
    """Transactions of one call of a client. ``done`` ends when each has its verdict in ``faults``."""

    __slots__ = ("_left", "done", "faults")

    def __init__(self, count: int) -> None:
        self.faults: list[PeerFault | None] = [None] * count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = count

    def settle(self, at: int, fault: PeerFault | None) -> None:
        """Note the verdict on transaction ``at``; each gets one."""
        self.faults[at] = fault
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)


class Job:
    """One transaction on its way in. ``source`` names the peer that sent it, None for a client, RESTORED.

    It is number ``at`` of its ``submission``, if somebody waits for the verdict. ``max_fee_rate``: base
    units per 1000 virtual bytes beyond which the fee is taken for a mistake, 0: none is. ``cost_bytes``
    counts against the queue's budget.
    """

    __slots__ = ("at", "cost_bytes", "max_fee_rate", "source", "submission", "tx")

    def __init__(
        self,
        tx: Transaction,
        source: int | None,
        submission: Submission | None = None,
        at: int = 0,
        max_fee_rate: int = 0,
    ) -> None:
        self.tx = tx
        self.source = source
        self.submission = submission
        self.at = at
        self.max_fee_rate = max_fee_rate
        self.cost_bytes = len(tx.raw) + JOB_OVERHEAD_BYTES

    def answer(self, fault: PeerFault | None) -> None:
        """Give whoever waits the verdict, once."""
        if self.submission is not None and self.at >= 0:
            self.submission.settle(self.at, fault)
            self.at = -1


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
        [fault] = await self.submit_many([tx], [0], source)
        if fault is not None:
            raise fault

    async def submit_many(
        self, txs: Sequence[Transaction], max_fee_rates: Sequence[int], source: int | None = None
    ) -> list[PeerFault | None]:
        """Admit transactions of a client in this order; return why each is refused, None where it is not.

        ``max_fee_rates``: see ``Job``; beyond it the code is "max-fee-exceeded".
        """
        if self._closed:
            return [stopping() for _ in txs]
        if not txs:
            return []
        submission = Submission(len(txs))
        for at, (tx, max_fee_rate) in enumerate(zip(txs, max_fee_rates, strict=True)):
            job = Job(tx, source, submission, at, max_fee_rate)
            if self._queue_bytes + job.cost_bytes > ADMISSION_QUEUE_BYTES:
                job.answer(RuleError("admission-queue-full", "try again in a moment", permanent=False))
            else:
                self._put(job)
        await submission.done
        return submission.faults

    def find(self, wtxid: bytes) -> Transaction | None:
        """Return a transaction that waits for its checks: a proposal may name it already."""
        return self._queued.get(wtxid)

    def offer(self, transactions: list[Transaction], source: int) -> list[Transaction]:
        """Take what a peer relayed; return what does not fit the queue's budget."""
        left = []
        pending = self._mempool.by_wtxid
        for tx in transactions:
            wtxid = tx.wtxid
            if wtxid in self._queued or pending(wtxid) is not None:
                continue
            job = Job(tx, source)
            if self._queue_bytes + job.cost_bytes > ADMISSION_QUEUE_BYTES:
                self.dropped += 1
                left.append(tx)
                continue
            self._put(job)
        return left

    def retry_orphans(self, parents: set[bytes]) -> None:
        """Look again at orphans whose parents a block brought."""
        if not len(self._orphans):
            return
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
                job.answer(stopping())

    async def _admit(self) -> None:
        """Take one batch through all checks. What contends with another of it has its turn next."""
        self._batch = self._take()
        accepted, deferred = await self._process(self._batch)
        again = set(map(id, deferred))
        done = [job for job in self._batch if id(job) not in again] if again else self._batch
        for job in done:
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
                entry = self._check(job, staging, now_s)
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
        fault_of = faults.get
        accepted = [job for job, entry in staged if self._insert(job, entry, fault_of(entry.tx.wtxid))]
        return accepted, deferred

    def _judge_conflict(self, job: Job, conflict: Conflict, fault: RuleError | None) -> None:
        """Refuse what contends with a pending transaction; a double spend only if it is signed."""
        if fault is None:
            self._mempool.report(conflict.event)
        self._refuse(job, fault or conflict)

    def _check(self, job: Job, staging: Staging, now_s: int) -> MempoolEntry:
        try:
            entry = self._mempool.check(job.tx, staging, now_s)
        except (PeerFault, LocalFault):
            raise
        except Exception as bug:  # nobody has agreed on it yet, so it is refused and the node lives on
            log.error("a transaction crashed its checks", extra={"tx": job.tx.raw.hex()}, exc_info=bug)
            raise RuleError("transaction-crash", repr(bug), permanent=False) from bug
        if job.max_fee_rate and entry.fee > job.max_fee_rate * entry.vsize // 1000:
            raise RuleError(MAX_FEE_EXCEEDED, f"it pays {entry.fee}", permanent=False)
        return entry

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
        job.answer(None)
        return True

    def _refuse(self, job: Job, fault: PeerFault, *, blame: bool = True) -> None:
        if job.submission is not None:
            job.answer(fault)
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
