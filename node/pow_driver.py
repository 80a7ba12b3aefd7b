"""The shell of the proof-of-work engine: performs its effects in the order save, send, apply.

A step runs at once, whoever brings the event. Only connecting a block takes long, so that is a task:
signatures are checked on worker threads, the block is executed and written, and the answer is the next
event. The engine asks for one block at a time, and for no block to be taken off meanwhile.
"""

import asyncio
import logging
from collections.abc import Iterable
from heapq import merge
from typing import Any, Protocol

from consensus.block import Block, BlockHeader
from consensus.block_rules import check_block
from consensus.chain import Connected as ConnectedBlock
from consensus.errors import ConfigError, LocalFault, PeerFault, RuleError, StorageError
from consensus.pow.engine import State, chain_tips, locator, step, wants_body
from consensus.pow.rules import check_clock
from consensus.pow.state import StoredHeader, config_of, restore, root_height_of
from consensus.pow.tree import ChainTipView
from consensus.pow.types import (
    AskHeaders,
    BodyRefused,
    BodyStored,
    Connect,
    Connected,
    DeepReorg,
    Disconnect,
    Effect,
    Event,
    FetchBodies,
    ForgetInvalid,
    Headers,
    Invalidate,
    InvalidLead,
    Misbehaviour,
    Precious,
    Recall,
    Recalled,
    Reconsider,
    Refused,
    StaleTip,
    Start,
    StoreHeader,
    StoreInvalid,
    Tick,
)
from consensus.transaction import Transaction, hash_hex
from node.chainstate import ChainState
from node.clock import Clock
from node.limits import FRESH_BODIES_BYTES, POW_TICK_S, RETURNING_BYTES
from node.mempool import Mempool
from node.mining_port import Template
from storage.headers import HeaderRecord

log = logging.getLogger("wattd.pow")

NODE_STOPPING = "node-stopping"
HEADER_BYTES = 80
RECALL_BELOW = 11
"""How far below a fork headers are recalled: the median time past needs them."""


class PowLinks(Protocol):
    """The engine's way to its peers, by their numbers. Never blocks, may drop."""

    def ask_headers(self, peer: int | None, locator: tuple[bytes, ...]) -> None:
        """Ask for the headers behind a locator; None: whom it likes."""
        ...

    def headers_taken(self, peer: int | None, height: int) -> None:
        """A peer has the chain up to a header of this height."""
        ...

    def fetch_bodies(self, bodies: Iterable[tuple[bytes, int]]) -> None:
        """Fetch bodies by (block hash, height)."""
        ...

    def punish(self, peer: int | None, code: str) -> None:
        """Count a fault against a peer."""
        ...


class PowListener(Protocol):
    """What the rest of the node wants to hear."""

    def on_commit(self, block: Block, connected: ConnectedBlock, evicted: list[Transaction]) -> None:
        """A block was connected to the tip."""
        ...

    def on_disconnect(self, block: Block) -> None:
        """A block was taken off the tip."""
        ...

    def on_returned(self, transactions: list[Transaction]) -> None:
        """A reorganisation is over; what it left unconfirmed, parents first."""
        ...

    def on_alarm(self, name: str, fields: dict[str, Any]) -> None:
        """Something that an operator must look at."""
        ...

    def on_fatal(self, error: BaseException) -> None:
        """The daemon must stop."""
        ...


class PowDriver:
    """Owns the engine's state and carries out what it decides. Implements ``node.mining_port.PowControl``."""

    def __init__(
        self,
        state: State,
        *,
        chain: ChainState,
        mempool: Mempool,
        clock: Clock,
        links: PowLinks,
        listener: PowListener,
    ) -> None:
        self._state = state
        self._chain = chain
        self._mempool = mempool
        self._clock = clock
        self._links = links
        self._listener = listener
        self._stopped = False
        self._connecting: asyncio.Task[None] | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._fresh: dict[bytes, Block] = {}
        self._fresh_bytes = 0
        self._senders: dict[bytes, int] = {}
        self._returning: dict[bytes, Transaction] = {}
        self._own_fault: str | None = None
        self._watchers: list[asyncio.Future[None]] = []
        self._settling: list[asyncio.Future[None]] = []
        self.last_commit_ms: int | None = None

    # ---- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Give the engine its first event."""
        self._step(Start())
        self._arm_tick()

    def stop(self) -> None:
        """Stop stepping; what was connected is on disk already."""
        self._stopped = True
        if self._tick is not None:
            self._tick.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        for future in (*self._watchers, *self._settling):
            future.cancel()
        self._watchers, self._settling = [], []

    # ---- from peers ----------------------------------------------------------------------------

    def take_headers(self, peer: int, headers: list[BlockHeader]) -> None:
        """Take headers in chain order."""
        self._step(Headers(peer, tuple(headers)))
        known = [h.hash for h in headers if h.hash in self._state.tree.entries]
        if known:
            self._links.headers_taken(peer, self._state.tree.entries[known[-1]].height)

    def take_body(self, peer: int, block: Block) -> None:
        """Take a body that was asked for. Raises RuleError if it cannot be valid."""
        if self._stopped or not wants_body(self._state, block.hash):
            return
        try:
            check_block(block, self._chain.params)
        except RuleError as fault:
            self._step(BodyRefused(block.hash, fault.code, fault.permanent))
            raise
        self._store_body(block, peer)

    def knows(self, block_hash: bytes) -> bool:
        """Tell whether a header is known."""
        if block_hash in self._state.tree.entries:
            return True
        return self._chain.store.headers.get(block_hash) is not None

    def locator(self) -> tuple[bytes, ...]:
        """Return hashes that let a peer find where its chain leaves ours."""
        return locator(self._state)

    def wanted_height(self, block_hash: bytes) -> int | None:
        """Return the height of a body that is still of use, None if it is not."""
        wanted = wants_body(self._state, block_hash)
        return self._state.tree.entries[block_hash].height if wanted else None

    def supply(self, txs: list[Transaction]) -> None:
        """Take nothing: blocks are fetched whole."""

    def report_work(self) -> None:
        """Do nothing: a miner asks for a template when it wants one."""

    # ---- from miners and operators -------------------------------------------------------------

    @property
    def headers_height(self) -> int:
        """Return the height of the header with most work."""
        return self._state.tree.best.height

    @property
    def is_synced(self) -> bool:
        """Return whether no header with more work than the tip is known."""
        tree = self._state.tree
        return tree.best.work <= tree.entries[self._chain.tip.block_hash].work

    def chain_tips(self) -> list[ChainTipView]:
        """Return all ends of branches, most work first."""
        return chain_tips(self._state)

    def next_bits(self) -> int:
        """Return nBits of the block after the tip."""
        tip = self._chain.tip
        return self._state.config.expected_bits(tip.height, tip.time_s)

    def template(self, payout_script: bytes, extra_nonce: bytes = b"") -> Template:
        """Assemble a block on the tip from the mempool. Raises RuleError "time-too-new" if no time fits."""
        now_s = self._clock.now_s()
        candidates = self._mempool.candidates(set())
        assembled = self._chain.template(candidates, now_s, payout_script, extra_nonce)
        check_clock(assembled.block.header, now_s, self._chain.params)
        for txid, crash in assembled.crashed:
            log.error("contract crashed", extra={"txid": hash_hex(txid)}, exc_info=crash)
        for txid, _ in assembled.refused:
            self._mempool.remove_with_descendants(txid)
        return Template(self._chain.tip.height + 1, assembled)

    def watch(self) -> "asyncio.Future[None]":
        """Return a future that is done when the tip moves next."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers = [each for each in self._watchers if not each.done()]
        self._watchers.append(future)
        return future

    async def submit_block(self, block: Block) -> str | None:
        """Take a block from a miner; return as BIP22 why it is not on the chain now, or None."""
        known = self._verdict(block.hash)
        if block.hash in self._state.tree.bodies or known == "duplicate-invalid":
            return known or "duplicate"
        try:
            check_block(block, self._chain.params)
            self._take_own_header(block.header)
        except RuleError as fault:
            return fault.code
        self._store_body(block, None)
        while self._connecting is not None and self._verdict(block.hash) == "inconclusive":
            await self._settled()
        verdict = self._verdict(block.hash)
        if verdict != "duplicate-invalid":
            return verdict
        tree = self._state.tree
        return tree.faults.get(tree.invalid[block.hash], verdict)

    async def submit_header(self, header: BlockHeader) -> None:
        """Take a header. Raises RuleError."""
        self._take_own_header(header)

    async def invalidate(self, block_hash: bytes) -> None:
        """Mark a block invalid and leave it. Raises RuleError "unknown-block" or "bad-genesis-mark"."""
        await self._command(Invalidate(block_hash))

    async def reconsider(self, block_hash: bytes) -> None:
        """Take the marks off a block, its ancestors and descendants. Raises RuleError "unknown-block"."""
        await self._command(Reconsider(block_hash))

    async def precious(self, block_hash: bytes) -> None:
        """Prefer a block over others of the same work. Raises RuleError "unknown-block"."""
        await self._command(Precious(block_hash))

    async def _command(self, event: Event) -> None:
        self._step(event)
        while self._connecting is not None:
            await self._settled()

    def _take_own_header(self, header: BlockHeader) -> None:
        self._own_fault = None
        self._step(Headers(None, (header,)))
        if self._own_fault is not None:
            raise RuleError(self._own_fault)
        if header.hash in self._state.locked:
            raise RuleError("time-too-new", "kept back until its time comes", permanent=False)
        if header.hash not in self._state.tree.entries:
            raise RuleError("prev-blk-not-found", hash_hex(header.prev_hash), permanent=False)

    def _verdict(self, block_hash: bytes) -> str | None:
        """Return None for a block of the active chain, "duplicate-invalid" or "inconclusive"."""
        tree = self._state.tree
        if block_hash in tree.invalid:
            return "duplicate-invalid"
        entry = tree.entries.get(block_hash)
        return None if entry is not None and tree.is_active(entry) else "inconclusive"

    def _settled(self) -> "asyncio.Future[None]":
        """Return a future that is done after the next step."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settling.append(future)
        return future

    # ---- stepping ------------------------------------------------------------------------------

    def _step(self, event: Event) -> None:
        """Let the engine take an event and perform what it decides. Raises RuleError for a bad command."""
        if self._stopped:
            return
        try:
            self._state, effects = step(self._state, event, self._clock.now_s())
            self._save(effects)
            self._send(effects)
            self._apply(effects)
        except RuleError:
            raise
        except Exception as error:
            self._fail(error)
            return
        waiting, self._settling = self._settling, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _fail(self, error: BaseException) -> None:
        """A bug or a failing disk: the listener stops the daemon."""
        self.stop()
        self._listener.on_fatal(error)

    def _save(self, effects: tuple[Effect, ...]) -> None:
        headers = self._chain.store.headers
        fresh = [
            HeaderRecord(effect.header.hash, effect.height, effect.header.raw, effect.work)
            for effect in effects
            if isinstance(effect, StoreHeader)
        ]
        if fresh:
            headers.put(fresh)
        for effect in effects:
            match effect:
                case StoreInvalid(block_hash, code):
                    log.warning("invalid block", extra={"block": hash_hex(block_hash), "code": code})
                    headers.mark(block_hash, code)
                case ForgetInvalid(block_hash):
                    headers.unmark(block_hash)

    def _send(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case AskHeaders(peer, hashes):
                    self._links.ask_headers(peer, hashes)
                case FetchBodies(hashes):
                    entries = self._state.tree.entries
                    self._links.fetch_bodies([(each, entries[each].height) for each in hashes])
                case Recall():
                    asyncio.get_running_loop().call_soon(self._recall, effect)
                case Misbehaviour(None, code):
                    self._own_fault = code
                case Misbehaviour(sender, code):
                    self._links.punish(sender, code)

    def _apply(self, effects: tuple[Effect, ...]) -> None:
        disconnected = False
        for effect in effects:
            match effect:
                case Disconnect(block_hash):
                    self._disconnect(block_hash)
                    disconnected = True
                case Connect(block_hash):
                    self._settle_pool(disconnected)
                    disconnected = False
                    self._connecting = asyncio.create_task(self._connect(block_hash))
                case DeepReorg() | StaleTip() | InvalidLead():
                    self._alarm(effect)
        self._settle_pool(disconnected)
        if self._connecting is None and self._returning:
            self._give_back()

    def _alarm(self, effect: DeepReorg | StaleTip | InvalidLead) -> None:
        match effect:
            case DeepReorg(depth, fork, old_tip, new_tip):
                fields = {
                    "depth": depth,
                    "fork": hash_hex(fork),
                    "old_tip": hash_hex(old_tip),
                    "new_tip": hash_hex(new_tip),
                }
                self._listener.on_alarm("deep-reorg", fields)
            case StaleTip(age_s):
                self._listener.on_alarm("stale-tip", {"age_s": age_s, "height": self._chain.tip.height})
            case InvalidLead(block_hash, code):
                self._listener.on_alarm("invalid-lead", {"block": hash_hex(block_hash), "code": code})

    def _arm_tick(self) -> None:
        self._tick = asyncio.get_running_loop().call_later(POW_TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        self._step(Tick())
        if not self._stopped:
            self._arm_tick()

    def _recall(self, effect: Recall) -> None:
        """Hand the tree headers of the active chain that left it, down to where a branch begins."""
        store = self._chain.store
        record = store.headers.get(effect.block_hash)
        if record is None or store.block_hash(record.height) != effect.block_hash:
            return
        first = max(0, record.height - RECALL_BELOW)
        raws = store.header_run(first, effect.root_height - first)
        self._step(Recalled(tuple(BlockHeader.parse(raw) for raw in raws)))

    # ---- blocks --------------------------------------------------------------------------------

    def _store_body(self, block: Block, sender: int | None) -> None:
        """Keep a body whose form holds, and tell the engine.

        It is not synced, since nothing was promised to anybody: what a power cut takes is fetched again.
        Connecting the block syncs its body first, so what was ever the tip is kept.
        """
        block_hash = block.hash
        self._chain.store.put_body(block_hash, self._state.tree.entries[block_hash].height, block.raw)
        self._fresh[block_hash] = block
        self._fresh_bytes += len(block.raw)
        while self._fresh_bytes > FRESH_BODIES_BYTES and len(self._fresh) > 1:
            self._fresh_bytes -= len(self._fresh.pop(next(iter(self._fresh))).raw)
        if sender is not None:
            self._senders[block_hash] = sender
        self._step(BodyStored(block_hash))

    def _take_fresh(self, block_hash: bytes) -> Block:
        block = self._fresh.pop(block_hash, None)
        if block is not None:
            self._fresh_bytes -= len(block.raw)
            return block
        block = self._chain.block(block_hash)
        if block is None:
            raise StorageError(
                "body-missing",
                f"the body of block {hash_hex(block_hash)} is not in the segment files",
                fix="wattd store check, or remove the data directory and sync again",
            )
        return block

    async def _connect(self, block_hash: bytes) -> None:
        """Connect a stored block to the tip and tell the engine how that went."""
        try:
            block = self._take_fresh(block_hash)
            answer: Event = Connected(block_hash)
            try:
                await self._execute(block)
            except LocalFault:
                raise
            except PeerFault as fault:
                if fault.code == NODE_STOPPING:
                    return
                answer = Refused(block_hash, fault.code)
                self._blame(block_hash, fault)
            except Exception as bug:  # every node of this version refuses it, and goes on without it
                log.error(
                    "a block crashed its contracts", extra={"block": hash_hex(block_hash)}, exc_info=bug
                )
                answer = Refused(block_hash, "contract-crash")
            else:
                self._senders.pop(block_hash, None)
                self._commit(block)
        except Exception as error:
            self._fail(error)
            return
        self._connecting = None
        self._step(answer)

    async def _execute(self, block: Block) -> None:
        tip_hash = self._chain.tip.block_hash
        if self._chain.wants_prewarm(block):
            await self._chain.prewarm(block, tip_hash)
        else:
            await asyncio.sleep(0)  # others have their turn, however many blocks wait
        self._chain.execute(block, tip_hash, formed=True)

    def _blame(self, block_hash: bytes, fault: PeerFault) -> None:
        sender = self._senders.pop(block_hash, None)
        log.warning(
            "refused a block",
            extra={"block": hash_hex(block_hash), "code": fault.code, "reason": fault.reason},
        )
        if sender is not None:
            self._links.punish(sender, fault.code)

    def _commit(self, block: Block) -> None:
        candidate = self._chain.commit(block.hash, None)
        self.last_commit_ms = self._clock.monotonic_ms()
        for txid in candidate.connected.txids:
            self._returning.pop(txid, None)
        evicted = self._mempool.connect(block.txs[1:], self._chain.ground(), self._clock.now_s())
        self._listener.on_commit(block, candidate.connected, evicted)
        self._tip_moved()

    def _disconnect(self, block_hash: bytes) -> None:
        if self._chain.tip.block_hash != block_hash:
            raise StorageError(
                "disconnect-out-of-order", "the engine takes off what is not the tip", fix="report this"
            )
        block = self._chain.disconnect()
        self._returning = {tx.txid: tx for tx in block.txs[1:]} | self._returning
        log.info(
            "block disconnected",
            extra={"height": self._chain.tip.height + 1, "hash": hash_hex(block_hash), "txs": len(block.txs)},
        )
        self._listener.on_disconnect(block)

    def _settle_pool(self, disconnected: bool) -> None:
        """Let the mempool follow a tip from which blocks were taken off."""
        if not disconnected:
            return
        left = self._mempool.reorganise(self._chain.ground(), self._clock.now_s())
        self._returning |= {tx.txid: tx for tx in left}
        self._tip_moved()

    def _give_back(self) -> None:
        """Offer what a reorganisation left unconfirmed to the mempool again, the newest first dropped."""
        returned, room = [], RETURNING_BYTES
        for tx in self._returning.values():
            room -= len(tx.raw)
            if room < 0:
                break
            returned.append(tx)
        self._returning = {}
        self._listener.on_returned(returned)

    def _tip_moved(self) -> None:
        watchers, self._watchers = self._watchers, []
        for future in watchers:
            if not future.done():
                future.set_result(None)


def restore_engine(chain: ChainState) -> State:
    """Return the engine's state from the header index, the marks and the bodies in the store.

    A power cut may have taken headers whose bodies are there; those are taken from the bodies. So every
    body that is durable counts again, and the engine's first step goes to the most work among them. Raises
    StorageError if the index does not reach down to the tree's root or misses the tip.
    """
    store, config = chain.store, config_of(chain.params)
    root_height = root_height_of(config, chain.tip.height, store.block_hash)
    root = store.headers.get(store.block_hash(root_height) or b"")
    if root is None:
        raise StorageError("header-missing", f"no header at height {root_height}", fix="wattd store repair")
    marks = store.headers.marks()
    lost: list[tuple[int, BlockHeader]] = []
    bodies: set[bytes] = set()
    for height, block_hash in store.bodies_off_chain(root_height):
        bodies.add(block_hash)
        raw = store.body(block_hash) if store.headers.get(block_hash) is None else None
        if raw is not None:
            lost.append((height, BlockHeader.parse(raw[:HEADER_BYTES])))
    stored = (
        (record.height, BlockHeader.parse(record.header)) for record in store.headers.above(root_height)
    )
    headers = (
        StoredHeader(header, header.hash in bodies, marks.get(header.hash))
        for _, header in merge(stored, lost, key=lambda item: item[0])
    )
    tip_hash = chain.tip.block_hash
    try:
        state = restore(config, BlockHeader.parse(root.header), root_height, root.work, headers, tip_hash)
    except ConfigError as error:
        raise StorageError("header-missing", str(error), fix="wattd store repair") from error
    found = [(header, state.tree.entries.get(header.hash)) for _, header in lost]
    if found:
        store.headers.put(
            HeaderRecord(header.hash, entry.height, header.raw, entry.work)
            for header, entry in found
            if entry
        )
    return state
