"""The shell of the BFT engine: performs its effects in the order save, send, apply.

Events are stepped in groups. The records and bodies of a group are written and synced once, then
its messages leave, then blocks are committed, built and checked; those answers are new events.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from consensus.bft.codec import decode, decode_qc, encode, encode_qc
from consensus.bft.engine import step
from consensus.bft.state import State, checkpoint
from consensus.bft.status import status
from consensus.bft.types import (
    BlockAvailable,
    Broadcast,
    Build,
    Built,
    CancelTimer,
    Censored,
    Check,
    Checked,
    Commit,
    Committed,
    Effect,
    Event,
    Evidence,
    Fetch,
    Fsync,
    Halt,
    Misbehaviour,
    PendingWork,
    Persist,
    PersistBody,
    Proposal,
    Received,
    Retired,
    Send,
    SetTimer,
    Slash,
    Start,
    Synced,
    Timer,
    TimerFired,
)
from consensus.bft.wal import encode_record
from consensus.block import Block, BlockHeader
from consensus.block_rules import check_block
from consensus.commitment import find_commitment
from consensus.connect import check_clock
from consensus.errors import LocalFault, PeerFault, RuleError
from consensus.transaction import Transaction
from node.bodies import Parked, ProposalBodies, complete_block
from node.censorship import CensorWatch
from node.chainstate import ChainState, block_height
from node.clock import Clock
from node.dice import random_bytes
from node.driver_ports import ConsensusHalt, Links, Listener
from node.evidence import EvidenceBook
from node.limits import BODY_RETRY_MS, EVENTS_PER_GROUP, MAX_FETCH_DEPTH, MAX_WANTED_BODIES
from node.mempool import Mempool
from node.standstill import Standstill, explain
from storage.wal import VoteLog

log = logging.getLogger("wattd.bft")


class BftDriver:
    """Owns the engine's state and carries out what it decides.

    ``me`` is our index in the set if we vote, ``own`` also if we are a learner.
    """

    def __init__(
        self,
        state: State,
        *,
        me: int | None,
        own: int | None = None,
        chain: ChainState,
        mempool: Mempool,
        find_tx: Callable[[bytes], Transaction | None],
        clock: Clock,
        vote_log: VoteLog,
        evidence: EvidenceBook,
        links: Links,
        listener: Listener,
    ) -> None:
        self._state = state
        self._me = me
        self._own = me if own is None else own
        self._chain = chain
        self._mempool = mempool
        self._clock = clock
        self._vote_log = vote_log
        self.evidence = evidence
        self._links = links
        self._listener = listener
        self._events: deque[Event] = deque()
        self._scheduled = False
        self._stopped = False
        self._timers: dict[Timer, asyncio.TimerHandle] = {}
        self._bodies = ProposalBodies(links, find_tx, self._judge)
        self._body_retry: asyncio.TimerHandle | None = None
        self._wanted: dict[bytes, None] = {}
        self._fetched: dict[bytes, Block] = {}
        self._segment: dict[bytes, Block] = {}
        self._judging: dict[bytes, tuple[bytes, asyncio.Task[None]]] = {}
        self._head = chain.tip.block_hash
        self._reported_work = -1
        self._censored_term = 0
        self._censor_watch = CensorWatch(mempool, chain.params.ledger)
        self._heard: dict[int, int] = {}
        self._standstill = Standstill(state.config.timing, clock.monotonic_ms())
        self._look: asyncio.TimerHandle | None = None
        self.last_commit_ms: int | None = None

    # ---- entry points --------------------------------------------------------------------------

    def start(self) -> None:
        """Give the engine its first event."""
        if self._state.learner is not None:
            self._tell_learner(self._state.learner)
        self.post(Start(int.from_bytes(random_bytes(4))))
        self._look_whether_it_advances()

    def _tell_learner(self, reason: str) -> None:
        log.error("this validator does not vote: %s", reason)
        self._listener.on_alarm("validator-is-learner", {"reason": reason})

    def stop(self) -> None:
        """Stop stepping; what was promised is on disk already."""
        self._stopped = True
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        for _, task in self._judging.values():
            task.cancel()
        self._judging.clear()
        for waiting in (self._body_retry, self._look):
            if waiting is not None:
                waiting.cancel()

    def status(self) -> dict[str, Any]:
        """Return where the engine stands, what it waits for, and who is missing."""
        now_ms = self._clock.monotonic_ms()
        now = status(self._state, now_ms)
        since_ms = self._standstill.since_ms
        now["connected"] = self._links.connected()
        now["silent"] = [
            index
            for index in now["connected"]
            if self._standstill.is_late(now_ms) and self._heard.get(index, since_ms - 1) < since_ms
        ]
        now["commit_age_ms"] = now_ms - since_ms
        now["evidence"] = len(self.evidence)
        names = [validator.name for validator in self._chain.params.bft.validators]
        return now | explain(now, names, self._own)

    @property
    def stall_limit_ms(self) -> int:
        """Return how long no block may be final before the chain counts as standing still."""
        return self._standstill.limit_ms

    def _look_whether_it_advances(self) -> None:
        """Raise an alarm once per standstill; look again when the next could begin."""
        now_ms = self._clock.monotonic_ms()
        if self._standstill.look(now_ms):
            self._listener.on_alarm("chain-stands-still", self._situation())
        delay_s = self._standstill.next_look_ms(now_ms) / 1000
        self._look = asyncio.get_running_loop().call_later(delay_s, self._look_whether_it_advances)

    def _situation(self) -> dict[str, Any]:
        now = self.status()
        told = {key: now[key] for key in ("committed_height", "term", "phase", "waiting", "missing")}
        return told | {"age_s": now["commit_age_ms"] // 1000}

    def receive(self, validator: int | None, payload: bytes) -> None:
        """Take a consensus message from an authenticated link; ``validator`` None: not one of us.

        Raises PeerFault: DecodeError, or "not-a-validator" for what only a validator may say.
        """
        message = decode(payload)
        if validator is None and not isinstance(message, Committed):
            raise PeerFault("not-a-validator", type(message).__name__)
        if validator is not None:
            self._heard[validator] = self._clock.monotonic_ms()
        self.post(Received(validator, message))

    def post(self, event: Event) -> None:
        """Queue an event; it is stepped before the loop waits again."""
        if self._stopped:
            return
        self._events.append(event)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def report_work(self) -> None:
        """Tell the engine how many transactions wait for a block."""
        under_way = sum(len(c.block.txs) - 1 for c in self._chain.branch_or_empty(self._head))
        count = max(0, len(self._mempool) - under_way)
        if count != self._reported_work:
            self._reported_work = count
            self.post(PendingWork(count))

    def supply(self, txs: list[Transaction]) -> None:
        """Take transactions that some parked proposal may miss."""
        if len(self._bodies):
            self._bodies.supply(txs)

    def take_body(self, block: Block) -> None:
        """Take the answer to ``ask_body``. Raises RuleError if the block cannot be valid."""
        if block.hash not in self._wanted:
            return
        check_block(block, self._chain.params)
        height = block_height(block)
        del self._wanted[block.hash]
        self._fetched[block.hash] = block
        self._offer(block)
        parked = self._bodies.take(block.hash)
        if parked is not None:
            self._judge_block(parked.check, block, parked.arrived_s)
        parent = block.header.prev_hash
        if height > self._chain.tip.height + 1 and not self._knows(parent):
            self._ask_body(parent, self._links.connected())

    def take_sync(self, from_height: int, blocks: list[Block], certificate: bytes) -> bool:
        """Take blocks from block sync with the certificate of the last; return whether all are final now.

        Whoever sent them may have put anything below the headers, and a certificate covers headers
        only, so form and Merkle trees are checked before the engine hears of them. Raises PeerFault.
        """
        qc = decode_qc(certificate)
        last_height = from_height + len(blocks) - 1
        if qc.height != last_height:
            raise RuleError("sync-bad-certificate", f"of height {qc.height}, the last is {last_height}")
        for block in blocks:
            check_block(block, self._chain.params)
        refs = tuple(
            (from_height + at, block.hash, block.header.prev_hash) for at, block in enumerate(blocks)
        )
        self._segment = {block.hash: block for block in blocks}
        self._events.append(Synced(None, refs, qc))
        self._pump()
        self._segment = {}
        return self._chain.tip.height >= last_height

    # ---- stepping ------------------------------------------------------------------------------

    def _pump(self) -> None:
        self._scheduled = False
        try:
            while self._events and not self._stopped:
                effects: list[Effect] = []
                now_ms = self._clock.monotonic_ms()
                for _ in range(min(len(self._events), EVENTS_PER_GROUP)):
                    self._state, out = step(self._state, self._events.popleft(), now_ms)
                    effects.extend(out)
                self._save(effects)
                self._send(effects)
                self._apply(effects)
            self._trim()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """A bug or a failing disk: the listener stops the daemon."""
        self._stopped = True
        self._events.clear()
        self._listener.on_fatal(error)

    def _trim(self) -> None:
        """Forget the blocks that the engine does not hold; it has seen all that was offered to it."""
        needed = self._state.blocks
        self._chain.trim(needed)
        self._fetched = {key: block for key, block in self._fetched.items() if key in needed}

    def _body(self, block_hash: bytes) -> Block | None:
        """Return a block that is here, wherever it came from; its form was checked then."""
        return self._fetched.get(block_hash) or self._segment.get(block_hash) or self._chain.block(block_hash)

    def _save(self, effects: list[Effect]) -> None:
        sync_votes = sync_bodies = False
        for effect in effects:
            match effect:
                case PersistBody(block_hash):
                    block = self._body(block_hash)
                    if block is None:
                        raise ConsensusHalt("body-missing", f"no body of {block_hash[::-1].hex()} to save")
                    self._chain.save_body(block)
                    sync_bodies = True
                case Persist(record):
                    self._vote_log.append(*encode_record(record))
                case Fsync():
                    sync_votes = True
        if sync_votes:
            if sync_bodies:
                self._chain.store.sync()
            self._vote_log.sync()
        if self._vote_log.wants_rewrite:
            self._vote_log.rewrite(encode_record(record) for record in checkpoint(self._state))

    def _send(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(to, message):
                    self._links.send(to, encode(message))
                case Broadcast(message):
                    self._links.broadcast(encode(message))

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SetTimer(name, at_ms, token):
                    self._set_timer(name, at_ms, token)
                case CancelTimer(name):
                    self._cancel_timer(name)
                case Commit():
                    self._commit(effect)
                case Build():
                    self._build(effect)
                case Check():
                    self._check(effect)
                case Fetch():
                    self._fetch(effect)
                case Misbehaviour(sender, code):
                    self._links.punish(sender, code)
                case Slash(evidence):
                    self._keep_evidence(evidence)
                case Retired(reason):
                    self._tell_learner(reason)
                case Halt(reason):
                    raise ConsensusHalt("consensus-halt", reason)

    def _keep_evidence(self, evidence: Evidence) -> None:
        if not self.evidence.add(evidence, self._clock.now_s()):
            return
        first = evidence.first
        name = self._chain.params.bft.validators[evidence.offender].name
        fields = {"validator": name, "term": first.term, "height": first.height, "statement": first.vote.name}
        self._listener.on_alarm("validator-contradicts-itself", fields)

    def _set_timer(self, name: Timer, at_ms: int, token: int) -> None:
        self._cancel_timer(name)
        delay_s = max(0, at_ms - self._clock.monotonic_ms()) / 1000
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(delay_s, self._fire, name, token)

    def _fire(self, name: Timer, token: int) -> None:
        self._timers.pop(name, None)
        self.post(TimerFired(name, token))

    def _cancel_timer(self, name: Timer) -> None:
        handle = self._timers.pop(name, None)
        if handle is not None:
            handle.cancel()

    # ---- blocks --------------------------------------------------------------------------------

    def _commit(self, effect: Commit) -> None:
        if effect.height <= self._chain.tip.height:
            return
        if self._chain.candidate(effect.block_hash) is None:
            self._execute_certified(effect)
        candidate = self._chain.commit(effect.block_hash, encode_qc(effect.qc))
        self.last_commit_ms = self._clock.monotonic_ms()
        stood_ms = self._standstill.advanced(self.last_commit_ms)
        if stood_ms is not None:
            fields = {"height": effect.height, "stood_s": stood_ms // 1000}
            self._listener.on_event("chain-advances", fields)
        # What comes by block sync was made while this node, and maybe its transactions, were away.
        cheapest = None if self._segment else self._censor_watch.cheapest(candidate.block)
        evicted = self._mempool.connect(candidate.block.txs[1:], self._chain.ground(), self._clock.now_s())
        self._look_for_censorship(candidate.block, cheapest)
        height = self._chain.tip.height
        self._bodies.forget(lambda check: check.height > height)
        self._listener.on_commit(candidate.block, candidate.connected, evicted)
        self.report_work()

    def _look_for_censorship(self, block: Block, cheapest: int | None) -> None:
        """T_tx: give the term up while its leader passes over what others would have taken."""
        now_s = self._clock.now_s()
        txid = self._censor_watch.on_block(block, cheapest, lambda: self._chain.open_session(now_s))
        if txid is None or self._me is None:
            return
        if block.header.nonce != self._censored_term:
            self._censored_term = block.header.nonce
            fields = {"txid": txid[::-1].hex(), "term": block.header.nonce, "height": self._chain.tip.height}
            self._listener.on_alarm("transaction-passed-over", fields)
        self.post(Censored())

    def _execute_certified(self, effect: Commit) -> None:
        block = self._body(effect.block_hash)
        if block is None:
            raise ConsensusHalt("body-missing", f"block {effect.height} is final but its body is not here")
        try:
            self._chain.execute(block, self._chain.tip.block_hash, certified=True)
        except PeerFault as fault:
            raise ConsensusHalt(
                "certified-block-invalid",
                f"a quorum certified block {effect.height} that breaks a rule here ({fault})",
                fix="compare versions with the other operators before starting again",
            ) from fault

    def _build(self, effect: Build) -> None:
        if self._me is None:
            raise ConsensusHalt("build-without-key", "a node that is no validator cannot build")
        try:
            assembled = self._chain.build(
                effect.parent_hash,
                self._mempool.candidates,
                time_s=self._clock.now_s(),
                term=effect.term,
                proposer=self._me,
                last_bitmap=effect.last_bitmap,
            )
        except RuleError as error:
            log.warning("cannot build", extra={"code": error.code, "parent": effect.parent_hash[::-1].hex()})
            self.post(Built(effect.parent_hash, effect.term, None))
            return
        for txid, crash in assembled.crashed:
            log.error("contract crashed", extra={"txid": txid[::-1].hex()}, exc_info=crash)
        for txid, _ in assembled.refused:
            self._mempool.remove_with_descendants(txid)
        block = assembled.block
        self._head = block.hash
        self.post(Built(effect.parent_hash, effect.term, proposal_of(block)))
        self._reported_work = -1  # the engine counts down by itself: say what is left even if it is as much
        self.report_work()

    def _check(self, effect: Check) -> None:
        block_hash = effect.proposal.block_hash
        known = self._chain.candidate(block_hash)
        if known is not None and known.parent_hash == effect.parent_hash:
            self._accept(block_hash)
            return
        body = self._body(block_hash)
        if body is not None:
            self._judge_block(effect, body, self._clock.now_s())
            return
        self._bodies.add(effect, self._clock.now_s(), self._clock.monotonic_ms())
        self._arm_body_retry()

    def _arm_body_retry(self) -> None:
        if len(self._bodies) and self._body_retry is None:
            loop = asyncio.get_running_loop()
            self._body_retry = loop.call_later(BODY_RETRY_MS / 1000, self._retry_bodies)

    def _retry_bodies(self) -> None:
        self._body_retry = None
        if self._stopped:
            return
        try:
            checking = self._state.checking
            self._bodies.forget(lambda check: check.proposal.block_hash in checking)
            self._bodies.retry(self._clock.monotonic_ms())
        except Exception as error:
            self._fail(error)
            return
        self._arm_body_retry()

    def _judge(self, parked: Parked) -> None:
        try:
            block = complete_block(parked)
        except PeerFault as fault:
            self._refuse(parked.check, fault)
            return
        self._judge_block(parked.check, block, parked.arrived_s)

    def _judge_block(self, check: Check, block: Block, arrived_s: int) -> None:
        """Judge a block whose body is here: at once, or after its signatures were checked off the loop.

        Each check of the engine gets one answer, whenever it comes; checks may overtake each other.
        """
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
        for given_up in [key for key in self._judging if key not in self._state.checking]:
            self._judging.pop(given_up)[1].cancel()
        raw, task = self._judging.get(block.hash, (b"", None))
        if task is not None:
            if raw == block.raw:
                return  # its answer will be the answer to this question
            task.cancel()
        task = asyncio.get_running_loop().create_task(self._prewarm(check, block))
        self._judging[block.hash] = block.raw, task

    async def _prewarm(self, check: Check, block: Block) -> None:
        fault = None
        try:
            await self._chain.prewarm(block, check.parent_hash)
        except PeerFault as found:
            fault = found
        except Exception as bug:
            self._fail(bug)
            return
        del self._judging[block.hash]  # still ours: whoever takes its place has cancelled this
        try:
            if fault is not None:
                self._refuse(check, fault)
            elif block.hash in self._state.checking:
                self._execute(check, block, formed=True)
        except Exception as error:
            self._fail(error)

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
            self._accept(block.hash)

    def _refuse(self, check: Check, fault: PeerFault) -> None:
        log.warning(
            "refused a proposed block",
            extra={"code": fault.code, "reason": fault.reason, "height": check.height},
        )
        self.post(Checked(check.proposal.block_hash, False, fault.code))

    def _accept(self, block_hash: bytes) -> None:
        self._head = block_hash
        self.post(Checked(block_hash, True))
        self.report_work()

    def _knows(self, block_hash: bytes) -> bool:
        return (
            block_hash in self._fetched
            or self._chain.candidate(block_hash) is not None
            or self._chain.store.height_of(block_hash) is not None
        )

    def _fetch(self, effect: Fetch) -> None:
        block = self._body(effect.block_hash)
        if block is not None:
            self._offer(block)
        elif effect.last_height <= self._chain.tip.height + MAX_FETCH_DEPTH:
            self._ask_body(effect.block_hash, [*effect.candidates, *self._links.connected()])

    def _ask_body(self, block_hash: bytes, candidates: list[int]) -> None:
        self._wanted.pop(block_hash, None)
        self._wanted[block_hash] = None
        if len(self._wanted) > MAX_WANTED_BODIES:
            del self._wanted[next(iter(self._wanted))]
        for validator in candidates:
            if self._links.ask_body(validator, block_hash):
                return

    def _offer(self, block: Block) -> None:
        height = block_height(block)
        if height > self._chain.tip.height:
            self.post(BlockAvailable(height, proposal_of(block)))


def proposal_of(block: Block) -> Proposal:
    """Return a block as a proposal: header, raw coinbase and the ids of the rest."""
    return Proposal(block.header.raw, block.txs[0].raw, tuple(tx.wtxid for tx in block.txs[1:]))
