"""The shell of the BFT engine: performs its effects in the order save, send, apply.

Events are stepped in groups. The records and bodies of a group are written and synced once, then
its messages leave, then blocks are committed, built and checked; those answers are new events.

Each round has an engine of its own. When a block that ends the round is committed, what its engine still
wanted is dropped and the next one takes over: see ``_switch``.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Container
from typing import Any

from consensus.bft.codec import decode, decode_qc, encode_qc, frame, unframe
from consensus.bft.engine import check_stranger, step
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
    Effect,
    Event,
    Fetch,
    Fsync,
    Halt,
    Misbehaviour,
    PendingWork,
    Persist,
    PersistBody,
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
from consensus.block import Block
from consensus.block_rules import check_block
from consensus.errors import PeerFault, RuleError
from consensus.restart import round_shown
from consensus.transaction import Transaction
from node.accusing import Accusations
from node.bodies import proposal_of
from node.censorship import CensorWatch
from node.chainstate import ChainState, block_height
from node.clock import Clock
from node.dice import new_session
from node.driver_ports import LATER_ROUND, ConsensusHalt, Links, Listener
from node.evidence import EvidenceBook
from node.judging import Judge
from node.limits import EVENTS_PER_GROUP, MAX_FETCH_DEPTH, MAX_WANTED_BODIES
from node.mempool import Mempool
from node.reveals import Reveals
from node.rounds import Promises, tell_round
from node.standstill import Standstill, explain

log = logging.getLogger("wattd.bft")


class BftDriver:
    """Owns the engine's state and carries out what it decides; ``promises`` says where it begins."""

    def __init__(
        self,
        promises: Promises,
        *,
        chain: ChainState,
        mempool: Mempool,
        find_tx: Callable[[bytes], Transaction | None],
        clock: Clock,
        reveals: Reveals,
        evidence: EvidenceBook,
        links: Links,
        listener: Listener,
    ) -> None:
        self._promises = promises
        self._state = promises.begin()
        self._round = chain.round
        self._chain = chain
        self._mempool = mempool
        self._clock = clock
        self.reveals = reveals
        self.evidence = evidence
        self._accusations = Accusations(evidence, chain, clock, links, listener)
        self._links = links
        self._listener = listener
        self._events: deque[Event] = deque()
        self._scheduled = False
        self._stopped = False
        self._timers: dict[Timer, asyncio.TimerHandle] = {}
        self._judge = Judge(self, chain, clock, links, find_tx)
        self._wanted: dict[bytes, None] = {}
        self._fetched: dict[bytes, Block] = {}
        self._segment: dict[bytes, Block] = {}
        self._head = chain.tip.block_hash
        self._reported_work = -1
        self._censored_term = self._mute_term = 0
        self._censor_watch = CensorWatch(mempool, chain.params.ledger)
        self._heard: dict[int, int] = {}
        self._standstill = Standstill(self._state.config.timing, clock.monotonic_ms())
        self._look: asyncio.TimerHandle | None = None
        self._untold: str | None = None
        self.last_commit_ms: int | None = None

    # ---- entry points --------------------------------------------------------------------------

    def start(self) -> None:
        """Give the engine its first event."""
        if self._state.learner is not None:
            self._tell_learner(self._state.learner)
        self.post(Start(new_session()))
        self._look_whether_it_advances()

    def _on_retired(self, reason: str) -> None:
        """Tell that we have no vote; while catching up not before that is over, for rounds pass by."""
        if self._segment:
            self._untold = reason
        else:
            self._tell_learner(reason)

    def _tell_learner(self, reason: str) -> None:
        self._untold = None
        log.error("this validator does not vote: %s", reason)
        self._listener.on_alarm("validator-is-learner", {"reason": reason})

    def stop(self) -> None:
        """Stop stepping; what was promised is on disk already."""
        self._stopped = True
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        self._judge.clear()
        if self._look is not None:
            self._look.cancel()

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
        now["evidence"], now["unknown_round"] = len(self.evidence), self._standstill.unknown_round
        now["epoch"], now["first_height"] = self._round.epoch, self._round.first_height
        return now | explain(now, self.names, self.own)

    @property
    def names(self) -> list[str]:
        """Return the validators of the round in voting order."""
        return [validator.name for validator in self._round.members]

    @property
    def me(self) -> int | None:
        """Return our place among the validators, None if we do not vote."""
        return self._state.config.me

    @property
    def own(self) -> int | None:
        """Return our place among the validators, also if we are a learner."""
        return self._promises.own

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

    def receive(self, validator: int | None, payload: bytes) -> bool:
        """Take a consensus message from an authenticated link; ``validator`` None: not one of us.

        One of another round says nothing here and is no fault of its sender, who is ahead or behind, but for
        evidence of an earlier one. Returns whether it is of a later round: then the sender has blocks that we
        lack. Raises DecodeError, and RuleError for what only a validator may say, or what does not hold.
        """
        number, body = unframe(payload)
        if validator is not None:
            self._heard[validator] = self._clock.monotonic_ms()
        if number < self._round.number:
            self._accusations.take(number, body)
        if number != self._round.number:
            return number > self._round.number
        message = decode(body)
        if validator is None:
            check_stranger(self._state, message)
        self.post(Received(validator, message))
        return False

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
        self._judge.supply(txs)

    def take_body(self, block: Block) -> None:
        """Take the answer to ``ask_body``. Raises RuleError if the block cannot be valid."""
        if block.hash not in self._wanted:
            return
        check_block(block, self._chain.params)
        height = block_height(block)
        del self._wanted[block.hash]
        self._fetched[block.hash] = block
        self._offer(block)
        self._judge.take_body(block)
        parent = block.header.prev_hash
        if height > self._chain.tip.height + 1 and not self._knows(parent):
            self._ask_body(parent, self._links.connected())

    def take_sync(self, from_height: int, blocks: list[Block], certificate: bytes) -> bool:
        """Take blocks from block sync with the certificate of the last; return whether all are final now.

        Whoever sent them may have put anything below the headers, and a certificate covers headers
        only, so form and Merkle trees are checked before the engine hears of them. All blocks are of one
        round: behind its last block there is another set, whose certificates nobody here can check yet.
        Raises PeerFault.
        """
        qc = decode_qc(certificate)
        last_height = from_height + len(blocks) - 1
        if qc.height != last_height:
            raise RuleError("sync-bad-certificate", f"of height {qc.height}, the last is {last_height}")
        if last_height <= self._chain.tip.height:
            return True  # consensus was faster, and its round may be over
        self._check_round(round_shown(qc, self._state.config.decrees))
        for block in blocks:
            check_block(block, self._chain.params)
        refs = tuple((from_height + at, each.hash, each.header.prev_hash) for at, each in enumerate(blocks))
        self._segment = {block.hash: block for block in blocks}
        self._events.append(Synced(None, refs, qc))
        self._pump()
        self._segment = {}
        return self._chain.tip.height >= last_height

    def _check_round(self, number: int) -> None:
        """Refuse what is of another round; a later one, to which nothing leads, is told once."""
        own = self._round.number
        if number > own and self._standstill.meet_round(number):
            self._listener.on_alarm("unknown-round", {"round": number} | self._situation())
        if number != own:
            raise RuleError(LATER_ROUND if number > own else "sync-other-round", f"round {number}, not {own}")

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
                    self._promises.append(record)
                case Fsync():
                    sync_votes = True
        if sync_votes:
            if sync_bodies:
                self._chain.store.sync()
            self._promises.sync()
            self._promises.keep_short(self._state)

    def _send(self, effects: list[Effect]) -> None:
        number = self._round.number
        for effect in effects:
            match effect:
                case Send(to, message):
                    self._links.send(to, frame(number, message))
                case Broadcast(message):
                    self._links.broadcast(frame(number, message))

    def _apply(self, effects: list[Effect]) -> None:
        """Carry out the rest. Once the round has ended, only what is said of its members still counts."""
        ended = False
        for effect in effects:
            match effect:
                case Misbehaviour(sender, code):
                    self._links.punish(sender, code)
                case Slash(evidence):
                    offender = self._round.members[evidence.offender]
                    self._accusations.keep(evidence, self._round.number, offender.name)
                case Halt(reason):
                    raise ConsensusHalt("consensus-halt", reason)
                case _ if ended:
                    pass
                case Commit():
                    self._commit(effect)
                    ended = self._chain.round.number != self._round.number
                case SetTimer(name, at_ms, token):
                    self._set_timer(name, at_ms, token)
                case CancelTimer(name):
                    self._cancel_timer(name)
                case Build():
                    self._build(effect)
                case Check():
                    self._check(effect)
                case Fetch():
                    self._fetch(effect)
                case Retired(reason):
                    self._on_retired(reason)
        if ended:
            self._switch()

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

    # ---- rounds --------------------------------------------------------------------------------

    def _switch(self) -> None:
        """Go over to the engine of the round that the last commit has begun.

        The block that ended the last one is durable before the vote log names the new round, and the log
        before anything is signed in it. Whoever voted until now has a log that is whole; everybody else asks
        first what the others hold of it.
        """
        before = self._round
        voted = self._state.votes and self._state.started and not self._segment
        for name in list(self._timers):
            self._cancel_timer(name)
        self._judge.clear()
        self._events.clear()
        self._wanted.clear()
        self._fetched.clear()
        self._heard.clear()
        self._untold = None
        self._head = self._chain.tip.block_hash
        self._chain.store.sync()
        self._state = self._promises.follow(self._state)
        self._round = self._chain.round
        self._links.set_validators([member.identity_key for member in self._round.members])
        tell_round(self._listener, before, self._round, self.own)
        if not self._segment:
            self._accusations.tell(anew=True)
        if self._state.learner is not None:
            self._on_retired(self._state.learner)
        self._events.append(Start(None if voted and self.me is not None else new_session()))
        self._reported_work = -1
        self.report_work()

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
        self._judge.forget_up_to(height)
        self._listener.on_commit(candidate.block, candidate.connected, evicted)
        self.report_work()
        if not self._segment:
            self._accusations.tell()
            if self._untold is not None:
                self._tell_learner(self._untold)

    def _look_for_censorship(self, block: Block, cheapest: int | None) -> None:
        """T_tx: give the term up while its leader passes over what others would have taken."""
        now_s = self._clock.now_s()
        txid = self._censor_watch.on_block(block, cheapest, lambda: self._chain.open_session(now_s))
        if txid is None or self.me is None:
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
        me, parent = self.me, effect.parent_hash
        if me is None:
            if self._state.learner is None:
                raise ConsensusHalt("build-without-key", "a node that is no validator cannot build")
            return  # it lost its vote behind this effect, in the same group of events
        try:
            assembled = self._chain.build(
                parent,
                self._mempool.candidates,
                time_s=self._clock.now_s(),
                term=effect.term,
                proposer=me,
                last_bitmap=effect.last_bitmap,
                reveal=self._reveal(parent, effect.term, me),
                evidence=self._chain.pending_evidence(parent, self.evidence.pairs()),
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

    def _reveal(self, parent: bytes, term: int, me: int) -> bytes | None:
        """Return what our block has to reveal, None if nothing is due.

        Raises RuleError "reveal-unknown" where our keys do not make the chain that is registered for us.
        """
        due = self._chain.reveal_due(parent, term=term, proposer=me)
        if due is None:
            return None
        found = self.reveals.reveal(due.generation, due.left, due.top)
        if found is not None:
            return found
        if self._mute_term != term:
            self._mute_term = term
            self._listener.on_alarm("reveal-unknown", {"generation": due.generation, "term": term})
        raise RuleError("reveal-unknown", f"generation {due.generation} was registered with other keys")

    def _check(self, effect: Check) -> None:
        block_hash = effect.proposal.block_hash
        known = self._chain.candidate(block_hash)
        if known is not None and known.parent_hash == effect.parent_hash:
            self.on_valid(block_hash)
            return
        body = self._body(block_hash)
        if body is not None:
            self._judge.judge(effect, body, self._clock.now_s())
        else:
            self._judge.park(effect)

    # ---- answers of the judge ------------------------------------------------------------------

    def asked(self) -> Container[bytes]:
        """Return the blocks on which the engine waits for a verdict (``node.judging.Asker``)."""
        return self._state.checking

    def on_valid(self, block_hash: bytes) -> None:
        """Answer the engine: the block may be voted for."""
        self._head = block_hash
        self.post(Checked(block_hash, True))
        self.report_work()

    def on_refused(self, block_hash: bytes, fault: PeerFault) -> None:
        """Answer the engine: it may not."""
        self.post(Checked(block_hash, False, fault.code))

    def on_bug(self, error: Exception) -> None:
        """Stop the daemon."""
        if not self._stopped:
            self._fail(error)

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
