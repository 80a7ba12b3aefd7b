"""What the node says to its peers: routes messages, serves blocks, and links validators by index."""

import asyncio
import logging

from consensus.bft.codec import decode_qc
from consensus.block import Block
from consensus.errors import DecodeError, PeerFault
from consensus.transaction import Transaction
from node.admission import Admission, Job
from node.chainstate import ChainState
from node.clock import Clock
from node.driver import BftDriver
from node.limits import SYNC_TICK_S
from node.mempool import Mempool
from p2p.api import Peer
from p2p.gossip import NewTx, TxGossip
from p2p.limits import FLUSH_INTERVAL_MS, MAX_BLOCK_BYTES
from p2p.messages import (
    KIND_BLOCK,
    Bft,
    Blocks,
    Body,
    GetBlocks,
    GetBody,
    GetData,
    GetTxs,
    Inv,
    Message,
    NotFound,
    Status,
    Tx,
    Txs,
)
from p2p.shell import Network
from p2p.sync import BlockSync, SyncBatch, serve_blocks, served_depth, split_txs

log = logging.getLogger("wattd.peering")


class Peering:
    """Implements ``p2p.api.Handler`` for the network and ``node.driver.Links`` for the engine.

    ``validators`` are the identity keys in voting order. ``attach`` completes the circle of network,
    driver and admission before anything is started.
    """

    def __init__(self, chain: ChainState, mempool: Mempool, clock: Clock, validators: list[bytes]) -> None:
        self._chain = chain
        self._mempool = mempool
        self._clock = clock
        self._identities = validators
        self._index_of = {identity: index for index, identity in enumerate(validators)}
        self._connected: dict[int, int] = {}
        self._sync = BlockSync(chain.tip.height)
        self._network: Network
        self._gossip: TxGossip
        self._driver: BftDriver
        self._admission: Admission

    def attach(self, network: Network, driver: BftDriver, admission: Admission) -> None:
        """Connect the parts that need each other."""
        self._network = network
        self._driver = driver
        self._admission = admission
        self._gossip = TxGossip(self._raw_of, network.room)

    async def run(self) -> None:
        """Flush gossip and look at sync deadlines for ever; cancelled at stop."""
        rounds_per_tick = max(1, int(SYNC_TICK_S * 1000 / FLUSH_INTERVAL_MS))
        count = 0
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_MS / 1000)
            self._flush()
            count += 1
            if count % rounds_per_tick == 0:
                self._sync.tick(self._clock.monotonic_ms())
            self._pump_sync()

    # ---- from the network ----------------------------------------------------------------------

    def on_peer_ready(self, peer: Peer) -> None:
        """Greet: tell of our mempool, note the peer's height."""
        index = self._index_of.get(peer.identity)
        if index is not None:
            self._connected[index] = peer.id
        self._gossip.peer_ready(peer.id, self._clock.monotonic_ms(), self._mempool.wtxids())
        self._sync.peer_ready(peer.id, peer.hello.height, served_depth(peer.hello.services))
        log.info("peer ready", extra={"peer": peer.id, "address": peer.address, "height": peer.hello.height})

    def on_peer_lost(self, peer: Peer, reason: str) -> None:
        """Forget what the peer owed us."""
        index = self._index_of.get(peer.identity)
        if index is not None and self._connected.get(index) == peer.id:
            del self._connected[index]
        self._gossip.peer_lost(peer.id, self._clock.monotonic_ms())
        self._sync.peer_lost(peer.id)
        self._admission.peer_lost(peer.id)
        log.info("peer lost", extra={"peer": peer.id, "address": peer.address, "reason": reason})

    def on_message(self, peer: Peer, message: Message) -> None:
        """Route one message. Raises PeerFault where its content is at fault."""
        match message:
            case Bft(payload):
                self._driver.receive(self._index_of.get(peer.identity), payload)
            case Tx(txs):
                self._take_txs(peer, txs)
            case Inv(kind, hashes):
                if kind != KIND_BLOCK:
                    self._gossip.on_inv(peer.id, hashes, self._clock.monotonic_ms())
            case GetData(kind, hashes):
                self._serve_data(peer, kind, hashes)
            case NotFound(_, hashes):
                self._gossip.on_notfound(peer.id, hashes, self._clock.monotonic_ms())
            case GetTxs(block_hash, wtxids):
                self._serve_txs(peer, block_hash, wtxids)
            case Txs(_, txs):
                self._driver.supply([Transaction.parse(raw) for raw in txs])
            case Status(height, _):
                self._sync.peer_height(peer.id, height)
            case GetBlocks():
                self._network.send_to(peer.id, self._blocks_reply(message))
            case Blocks():
                self._sync.on_blocks(peer.id, message)
                self._pump_sync()
            case GetBody(block_hash):
                self._network.send_to(peer.id, Body(block_hash, self._chain.raw_block(block_hash)))
            case Body(block_hash, raw):
                self._take_body(block_hash, raw)

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
        if kind != KIND_BLOCK:
            self._gossip.on_getdata(peer.id, hashes, self._clock.monotonic_ms())
            return
        missing = []
        for block_hash in hashes:
            raw = self._chain.raw_block(block_hash)
            if raw is None:
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

    def _blocks_reply(self, request: GetBlocks) -> Blocks:
        store = self._chain.store

        def read_block(height: int) -> bytes | None:
            block_hash = store.block_hash(height)
            return None if block_hash is None else store.body(block_hash)

        def read_certificate(height: int) -> bytes | None:
            certificate = store.certificate(height)
            own = certificate is not None and decode_qc(certificate).height == height
            return certificate if own else None

        return serve_blocks(request, self._chain.tip.height, read_block, read_certificate)

    def _take_body(self, block_hash: bytes, raw: bytes | None) -> None:
        if raw is None:
            return
        block = Block.parse(raw)
        if block.hash != block_hash:
            raise PeerFault("wrong-body", "the block is not the one that was asked for")
        self._driver.take_body(block)

    def _raw_of(self, wtxid: bytes) -> bytes | None:
        tx = self._mempool.by_wtxid(wtxid)
        return None if tx is None else tx.raw

    # ---- block sync ----------------------------------------------------------------------------

    def _pump_sync(self) -> None:
        """Apply one batch at most: others on the loop have their turn before the next."""
        batch = self._sync.next_batch()
        if batch is not None:
            ok, code = self._apply(batch)
            self._sync.report(batch, ok=ok, code=code)
        for peer, request in self._sync.take_outgoing():
            self._network.send_to(peer, request)
        for fault in self._sync.take_faults():
            self._network.penalise(fault.peer, fault.code)

    def _apply(self, batch: SyncBatch) -> tuple[bool, str]:
        try:
            blocks = [Block.parse(raw) for raw in batch.blocks]
            done = self._driver.take_sync(batch.from_height, blocks, batch.certificate)
        except PeerFault as fault:
            log.warning(
                "refused blocks", extra={"peer": batch.peer, "code": fault.code, "reason": fault.reason}
            )
            return False, fault.code
        return (True, "") if done else (False, "sync-bad-blocks")

    # ---- from the node -------------------------------------------------------------------------

    def announce_tip(self) -> None:
        """Tell everybody where we are, after a commit."""
        tip = self._chain.tip
        self._sync.advanced(tip.height)
        self._network.broadcast(Status(tip.height, tip.block_hash))

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

    # ---- links of the engine -------------------------------------------------------------------

    def send(self, validator: int, payload: bytes) -> bool:
        """Send one consensus message."""
        return self._network.send(self._identities[validator], Bft(payload))

    def broadcast(self, payload: bytes) -> None:
        """Send a consensus message to all other validators, and to followers who listen."""
        self._network.broadcast(Bft(payload))

    def connected(self) -> list[int]:
        """Return the indices of connected validators."""
        return sorted(self._connected)

    def ask_txs(self, validator: int, block_hash: bytes, wtxids: list[bytes]) -> bool:
        """Ask for transactions of a proposed block."""
        return self._network.send(self._identities[validator], GetTxs(block_hash, wtxids))

    def ask_body(self, validator: int, block_hash: bytes) -> bool:
        """Ask for a whole block."""
        return self._network.send(self._identities[validator], GetBody(block_hash))

    def punish(self, validator: int | None, code: str) -> None:
        """Count a fault against the peer behind this link."""
        peer_id = None if validator is None else self._connected.get(validator)
        if peer_id is not None:
            self._network.penalise(peer_id, code)
