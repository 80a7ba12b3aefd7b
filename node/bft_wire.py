"""What the nodes of a bft chain say to each other beside what every chain does.

It links the validators of the round by their index in the set, and fetches blocks in ranges, each with a
certificate.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from consensus.bft.codec import decode_qc
from consensus.block import Block
from consensus.errors import PeerFault
from node.admission import Admission
from node.chainstate import ChainState
from node.clock import Clock
from node.driver import BftDriver
from node.driver_ports import LATER_ROUND
from node.mempool import Mempool
from node.peering import Peering
from p2p.api import Peer
from p2p.messages import Bft, Blocks, GetBlocks, GetBody, GetTxs, Message, Status
from p2p.shell import Network
from p2p.sync import BlockSync, SyncBatch, serve_blocks, served_depth

log = logging.getLogger("wattd.peering")


class BftPeering(Peering):
    """Implements ``node.driver.Links``. ``validators`` are the identity keys in voting order."""

    def __init__(
        self, chain: ChainState, mempool: Mempool, clock: Clock, validators: Sequence[bytes]
    ) -> None:
        super().__init__(chain, mempool, clock)
        self._peers: dict[bytes, int] = {}
        self._name(validators)
        self._sync = BlockSync(chain.tip.height)
        self._driver: BftDriver
        self._arrived = asyncio.Event()
        self._warming: asyncio.Task[None] | None = None

    def set_validators(self, identities: Sequence[bytes]) -> None:
        """Take the identity keys of a round in voting order; from here on indices mean these."""
        self._name(identities)
        self._protect()

    def _name(self, identities: Sequence[bytes]) -> None:
        self._identities = tuple(identities)
        self._index_of = {identity: index for index, identity in enumerate(identities)}

    def attach(self, network: Network, driver: BftDriver, admission: Admission) -> None:
        """Connect the parts that need each other."""
        self._attach(network, driver, admission)
        self._driver = driver
        self._protect()

    def _protect(self) -> None:
        """Keep places for the members of the round, who may be anybody, and for who may stand in for them."""
        found = self._chain.round
        self._network.protect([entry.identity_key for entry in found.members + found.alternates])

    async def run(self) -> None:
        """Serve gossip and block sync for ever; cancelled at stop."""
        try:
            await asyncio.gather(super().run(), self._apply_for_ever())
        finally:
            if self._warming is not None:
                self._warming.cancel()

    # ---- from the network ----------------------------------------------------------------------

    def _peer_ready(self, peer: Peer) -> None:
        self._peers[peer.identity] = peer.id
        self._sync.peer_ready(peer.id, peer.hello.height, served_depth(peer.hello.services))
        self._look()

    def _peer_lost(self, peer: Peer) -> None:
        if self._peers.get(peer.identity) == peer.id:
            del self._peers[peer.identity]
        self._sync.peer_lost(peer.id)

    def _route(self, peer: Peer, message: Message) -> None:
        match message:
            case Bft(payload):
                if self._driver.receive(self._index_of.get(peer.identity), payload):
                    self._sync.peer_ahead(peer.id)
                    self._look()
            case Status(height, _):
                self._sync.peer_height(peer.id, height)
            case GetBlocks():
                self._network.send_to(peer.id, self._blocks_reply(message))
            case Blocks():
                self._sync.on_blocks(peer.id, message)
                self._look()

    def _take_body(self, peer: Peer, block_hash: bytes, block: Block | None) -> None:
        if block is not None:
            self._driver.take_body(block)

    def _tick(self, now_ms: int) -> None:
        self._sync.tick(now_ms)

    def _blocks_reply(self, request: GetBlocks) -> Blocks:
        store = self._chain.store

        def read_block(height: int) -> bytes | None:
            block_hash = store.block_hash(height)
            return None if block_hash is None else store.body(block_hash)

        def read_certificate(height: int) -> bytes | None:
            certificate = store.certificate(height)
            own = certificate is not None and decode_qc(certificate).height == height
            return certificate if own else None

        last_height = self._chain.next_boundary(request.from_height)
        if last_height is None:
            last_height = self._chain.tip.height
        return serve_blocks(request, last_height, read_block, read_certificate)

    # ---- block sync ----------------------------------------------------------------------------

    def _look(self) -> None:
        """Look at where sync is: the next question is on its way while the last answer is applied."""
        self._sync.tick(self._clock.monotonic_ms())
        self._pump()

    def _pump(self) -> None:
        for peer, request in self._sync.take_outgoing():
            self._network.send_to(peer, request)
        for fault in self._sync.take_faults():
            self._network.penalise(fault.peer, fault.code)
        if self._sync.buffered_bytes:
            self._arrived.set()

    async def _apply_for_ever(self) -> None:
        """Apply what arrives, one batch at a time: others on the loop have their turn before the next."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            batch = self._sync.next_batch()
            if batch is not None:
                ok, code = await self._apply(batch)
                self._sync.report(batch, ok=ok, code=code)
                self._look()
                await asyncio.sleep(0)

    async def _apply(self, batch: SyncBatch) -> tuple[bool, str]:
        try:
            blocks = [Block.parse(raw) for raw in batch.blocks]
            if self._chain.verifies_certified:
                await self._warm(batch, blocks)
            done = self._driver.take_sync(batch.from_height, blocks, batch.certificate)
        except PeerFault as fault:
            log.warning(
                "refused blocks", extra={"peer": batch.peer, "code": fault.code, "reason": fault.reason}
            )
            if fault.code == LATER_ROUND:
                self._sync.shut(batch.peer, self._clock.monotonic_ms())
                return False, ""
            return False, fault.code
        return (True, "") if done else (False, "sync-bad-blocks")

    async def _warm(self, batch: SyncBatch, blocks: list[Block]) -> None:
        """Check the signatures of a batch on worker threads, and begin with those of the batch behind it.

        So the threads work while this batch is executed on the loop.
        """
        if self._warming is not None:
            await self._warming
        await self._chain.prewarm_certified(blocks)
        following = self._sync.following(batch)
        if following is not None:
            self._warming = asyncio.create_task(self._warm_ahead(blocks, following))
            await asyncio.sleep(0)  # let it begin

    async def _warm_ahead(self, blocks: list[Block], following: SyncBatch) -> None:
        with suppress(PeerFault):  # found again when its turn comes
            await self._chain.prewarm_certified([*blocks, *map(Block.parse, following.blocks)])

    def announce_tip(self) -> None:
        """Tell everybody where we are, after a commit."""
        tip = self._chain.tip
        self._sync.advanced(tip.height)
        self._network.broadcast(Status(tip.height, tip.block_hash))

    # ---- links of the engine -------------------------------------------------------------------

    def send(self, validator: int, payload: bytes) -> bool:
        """Send one consensus message."""
        return self._network.send(self._identities[validator], Bft(payload))

    def broadcast(self, payload: bytes) -> None:
        """Send a consensus message to all other validators, and to followers who listen."""
        self._network.broadcast(Bft(payload))

    def connected(self) -> list[int]:
        """Return the indices of connected validators."""
        return [index for index, identity in enumerate(self._identities) if identity in self._peers]

    def ask_txs(self, validator: int, block_hash: bytes, wtxids: list[bytes]) -> bool:
        """Ask for transactions of a proposed block."""
        return self._network.send(self._identities[validator], GetTxs(block_hash, wtxids))

    def ask_body(self, validator: int, block_hash: bytes) -> bool:
        """Ask for a whole block."""
        return self._network.send(self._identities[validator], GetBody(block_hash))

    def punish(self, validator: int | None, code: str) -> None:
        """Count a fault against the peer behind this link."""
        peer_id = None if validator is None else self._peers.get(self._identities[validator])
        if peer_id is not None:
            self._network.penalise(peer_id, code)
