"""What the node says to its peers on any chain: routes messages, spreads transactions, serves blocks.

What only one engine says is in ``node/bft_wire.py`` and ``node/pow_wire.py``.
"""

import asyncio
import logging
from typing import Protocol

from consensus.block import Block
from consensus.errors import DecodeError, PeerFault
from consensus.transaction import Transaction
from node.admission import Admission, Job
from node.chainstate import ChainState
from node.clock import Clock
from node.limits import SYNC_TICK_S
from node.mempool import Mempool
from p2p.api import Peer
from p2p.gossip import NewTx, TxGossip
from p2p.limits import FLUSH_INTERVAL_MS, GOSSIP_RESERVE_BYTES, MAX_BLOCK_BYTES
from p2p.messages import (
    KIND_BLOCK,
    Body,
    GetBody,
    GetData,
    GetTxs,
    Inv,
    Message,
    NotFound,
    Tx,
    Txs,
)
from p2p.shell import Network
from p2p.sync import split_txs

log = logging.getLogger("wattd.peering")


class TxTaker(Protocol):
    """Whoever may miss transactions of a block under way."""

    def supply(self, txs: list[Transaction]) -> None:
        """Take transactions that some block may miss."""
        ...


class Peering:
    """Implements ``p2p.api.Handler`` for the network. Each engine has a subclass with its messages.

    ``attach`` of the subclass completes the circle of network, driver and admission before anything is
    started.
    """

    def __init__(self, chain: ChainState, mempool: Mempool, clock: Clock) -> None:
        self._chain = chain
        self._mempool = mempool
        self._clock = clock
        self._network: Network
        self._gossip: TxGossip
        self._admission: Admission
        self._taker: TxTaker

    def _attach(self, network: Network, taker: TxTaker, admission: Admission) -> None:
        self._network = network
        self._taker = taker
        self._admission = admission
        self._gossip = TxGossip(self._raw_of, network.room)

    async def run(self) -> None:
        """Flush gossip and look at deadlines for ever; cancelled at stop."""
        rounds_per_tick = max(1, int(SYNC_TICK_S * 1000 / FLUSH_INTERVAL_MS))
        count = 0
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_MS / 1000)
            self._flush()
            count += 1
            if count % rounds_per_tick == 0:
                self._tick(self._clock.monotonic_ms())
            self._pump()

    # ---- what an engine adds -------------------------------------------------------------------

    def announce_tip(self) -> None:
        """Tell everybody where we are, after the tip moved."""
        raise NotImplementedError

    def _route(self, peer: Peer, message: Message) -> None:
        """Take a message of the engine's own. Raises PeerFault."""
        raise NotImplementedError

    def _peer_ready(self, peer: Peer) -> None:
        """Greet in the engine's own way."""
        raise NotImplementedError

    def _peer_lost(self, peer: Peer) -> None:
        """Forget what the peer owed the engine."""
        raise NotImplementedError

    def _tick(self, now_ms: int) -> None:
        """Look at deadlines."""

    def _pump(self) -> None:
        """Do a bounded piece of what waits."""

    def _take_body(self, peer: Peer, block_hash: bytes, block: Block | None) -> None:
        """Take a block, or the word that the peer does not have it. Raises PeerFault."""
        raise NotImplementedError

    def _blocks_not_found(self, peer: Peer, hashes: list[bytes]) -> None:
        """Take the word that the peer does not give these blocks now."""

    # ---- from the network ----------------------------------------------------------------------

    def on_peer_ready(self, peer: Peer) -> None:
        """Greet: tell of our mempool, note where the peer stands."""
        self._gossip.peer_ready(peer.id, self._clock.monotonic_ms(), self._mempool.wtxids())
        self._peer_ready(peer)
        log.info("peer ready", extra={"peer": peer.id, "address": peer.address, "height": peer.hello.height})

    def on_peer_lost(self, peer: Peer, reason: str) -> None:
        """Forget what the peer owed us."""
        self._gossip.peer_lost(peer.id, self._clock.monotonic_ms())
        self._peer_lost(peer)
        self._admission.peer_lost(peer.id)
        log.info("peer lost", extra={"peer": peer.id, "address": peer.address, "reason": reason})

    def on_message(self, peer: Peer, message: Message) -> None:
        """Route one message. Raises PeerFault where its content is at fault."""
        match message:
            case Tx(txs):
                self._take_txs(peer, txs)
            case Inv(kind, hashes):
                if kind != KIND_BLOCK:
                    self._gossip.on_inv(peer.id, hashes, self._clock.monotonic_ms())
            case GetData(kind, hashes):
                self._serve_data(peer, kind, hashes)
            case NotFound(kind, hashes):
                if kind == KIND_BLOCK:
                    self._blocks_not_found(peer, hashes)
                else:
                    self._gossip.on_notfound(peer.id, hashes, self._clock.monotonic_ms())
            case GetTxs(block_hash, wtxids):
                self._serve_txs(peer, block_hash, wtxids)
            case Txs(_, txs):
                self._taker.supply([Transaction.parse(raw) for raw in txs])
            case GetBody(block_hash):
                self._network.send_to(peer.id, Body(block_hash, self._chain.raw_block(block_hash)))
            case Body(block_hash, raw):
                self._take_body(peer, block_hash, None if raw is None else parse_asked(block_hash, raw))
            case _:
                self._route(peer, message)

    def _take_txs(self, peer: Peer, raws: list[bytes]) -> None:
        fresh: list[Transaction] = []
        fault: DecodeError | None = None
        for new in self._gossip.on_tx(peer.id, raws, self._clock.monotonic_ms()):
            try:
                fresh.append(Transaction.parse(new.raw))
            except DecodeError as error:
                self._gossip.refused([new.wtxid])
                fault = error
        for tx in self._admission.offer(fresh, peer.id):
            self._gossip.refused([tx.wtxid], may_return=True)
        if fault is not None:
            raise fault

    def _serve_data(self, peer: Peer, kind: int, hashes: list[bytes]) -> None:
        """Answer a GetData. What the send queue has no room for is refused, to be asked for again."""
        if kind != KIND_BLOCK:
            self._gossip.on_getdata(peer.id, hashes, self._clock.monotonic_ms())
            return
        missing = []
        for block_hash in hashes:
            raw = self._chain.raw_block(block_hash)
            if raw is None or self._network.room(peer.id) < len(raw) + GOSSIP_RESERVE_BYTES:
                missing.append(block_hash)
            else:
                self._network.send_to(peer.id, Body(block_hash, raw))
        if missing:
            self._network.send_to(peer.id, NotFound(kind, missing))

    def _serve_txs(self, peer: Peer, block_hash: bytes, wtxids: list[bytes]) -> None:
        block = self._chain.block(block_hash)
        held = {} if block is None else {tx.wtxid: tx.raw for tx in block.txs[1:]}
        found: list[bytes] = []
        room = MAX_BLOCK_BYTES  # no proposal takes more, whatever is asked for
        for wtxid in dict.fromkeys(wtxids):
            raw = held.get(wtxid) or self._raw_of(wtxid)
            if raw is None:
                continue
            room -= len(raw)
            if room < 0:
                break
            found.append(raw)
        for part in split_txs(found):
            self._network.send_to(peer.id, Txs(block_hash, part))

    def _raw_of(self, wtxid: bytes) -> bytes | None:
        tx = self._mempool.by_wtxid(wtxid)
        return None if tx is None else tx.raw

    # ---- from the node -------------------------------------------------------------------------

    def on_accepted(self, jobs: list[Job]) -> None:
        """Spread what the mempool took."""
        own = [NewTx(job.tx.wtxid, job.tx.raw) for job in jobs if job.source is None]
        if own:
            self._gossip.submitted(own, self._clock.monotonic_ms())
        self._gossip.accepted(job.tx.wtxid for job in jobs if job.source is not None)

    def on_refused(self, job: Job, fault: PeerFault, blame: bool) -> None:
        """Let gossip forget it; charge the peer where the fault can only be its own."""
        self._gossip.refused([job.tx.wtxid], may_return=not getattr(fault, "permanent", True))
        if blame and job.source is not None:
            self._network.penalise(job.source, fault.code)

    def on_orphan(self, job: Job, parents: list[bytes]) -> None:
        """Ask the peer that sent an orphan for its parents.

        Inputs name them by txid and peers by wtxid; the two are the same without a witness. For other
        parents the peer answers `notfound`, and they come when somebody announces them.
        """
        if job.source is not None:
            self._gossip.on_inv(job.source, parents, self._clock.monotonic_ms())

    def rebroadcast(self, tx: Transaction) -> None:
        """Spread a pending transaction once more."""
        self._gossip.submitted([NewTx(tx.wtxid, tx.raw)], self._clock.monotonic_ms())

    def _flush(self) -> None:
        self._gossip.flush(self._clock.monotonic_ms())
        for peer, message in self._gossip.take_outgoing():
            self._network.send_to(peer, message)


def parse_asked(block_hash: bytes, raw: bytes) -> Block:
    """Return the block that was asked for by its hash. Raises DecodeError or PeerFault "wrong-body"."""
    block = Block.parse(raw)
    if block.hash != block_hash:
        raise PeerFault("wrong-body", "the block is not the one that was asked for")
    return block
