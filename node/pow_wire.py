"""What the nodes of a proof-of-work chain say to each other beside what every chain does.

Headers come first: a new tip is announced by its header, gaps are filled by ``getheaders`` with a
locator. Bodies are asked for by hash, a few of each peer at a time, so that many peers share a sync.
"""

import logging
from collections.abc import Iterable

from consensus.block import Block, BlockHeader
from consensus.errors import PeerFault
from consensus.transaction import hash_hex
from node.admission import Admission
from node.chainstate import ChainState
from node.clock import Clock
from node.limits import BODIES_PER_PEER, BODY_AGAIN_MS, BODY_REST_MS, BODY_TIMEOUT_MS, HEADER_SOURCES
from node.mempool import Mempool
from node.peering import Peering
from node.pow_driver import PowDriver
from p2p.api import Peer
from p2p.limits import MAX_HEADERS, MAX_LOCATOR_HASHES
from p2p.messages import KIND_BLOCK, GetData, GetHeaders, Headers, Message, Status
from p2p.shell import Network
from p2p.sync import served_depth

log = logging.getLogger("wattd.peering")


class Source:
    """A peer as a source of bodies.

    ``height`` is the best that it is known to have; ``depth`` how many blocks up to there it serves, None
    for all; ``asked`` the bodies on their way and when they were asked for; ``resting`` the hashes that it
    could not give, and until when it is not asked for them. A peer that owed a body for too long, or sent
    a bad one, comes last until ``last_until_ms``.
    """

    __slots__ = ("asked", "depth", "height", "last_until_ms", "resting")

    def __init__(self, height: int, depth: int | None) -> None:
        self.height = height
        self.depth = depth
        self.asked: dict[bytes, int] = {}
        self.resting: dict[bytes, int] = {}
        self.last_until_ms = 0

    def may_give(self, block_hash: bytes, height: int, now_ms: int) -> bool:
        """Tell whether it says that it serves a body, and was not found without it just now."""
        serves = self.depth is None or height > self.height - self.depth
        return serves and self.might_give(block_hash, height, now_ms)

    def might_give(self, block_hash: bytes, height: int, now_ms: int) -> bool:
        """Tell whether it has seen a body, though it may not have kept it."""
        return self.height >= height and self.resting.get(block_hash, 0) <= now_ms


class PowPeering(Peering):
    """Implements ``node.pow_driver.PowLinks`` for the engine."""

    def __init__(self, chain: ChainState, mempool: Mempool, clock: Clock) -> None:
        super().__init__(chain, mempool, clock)
        self._sources: dict[int, Source] = {}
        self._wanted: dict[bytes, int] = {}
        self._driver: PowDriver

    def attach(self, network: Network, driver: PowDriver, admission: Admission) -> None:
        """Connect the parts that need each other."""
        self._attach(network, driver, admission)
        self._driver = driver

    # ---- from the network ----------------------------------------------------------------------

    def _peer_ready(self, peer: Peer) -> None:
        hello = peer.hello
        self._sources[peer.id] = Source(hello.height, served_depth(hello.services))
        if not self._driver.knows(hello.tip_hash):
            self.ask_headers(peer.id, self._driver.locator())

    def _peer_lost(self, peer: Peer) -> None:
        source = self._sources.pop(peer.id, None)
        if source is not None:
            self._ask_again(source.asked)

    def _route(self, peer: Peer, message: Message) -> None:
        match message:
            case Status(height, tip_hash):
                self._heard_of(peer.id, height)
                if not self._driver.knows(tip_hash):
                    self.ask_headers(peer.id, self._driver.locator())
            case GetHeaders(locator):
                self._network.send_to(peer.id, Headers(self._headers_behind(locator)))
            case Headers(raws):
                self._driver.take_headers(peer.id, [BlockHeader.parse(raw) for raw in raws])

    def _headers_behind(self, locator: list[bytes]) -> list[bytes]:
        store = self._chain.store
        for block_hash in locator:
            record = store.headers.get(block_hash)
            if record is not None and store.block_hash(record.height) == block_hash:
                return store.header_run(record.height + 1, MAX_HEADERS)
        return store.header_run(1, MAX_HEADERS)

    def _take_body(self, peer: Peer, block_hash: bytes, block: Block | None) -> None:
        source = self._sources.get(peer.id)
        if source is None or source.asked.pop(block_hash, None) is None:
            return  # it came too late, another peer has been asked
        if block is None:
            self._refused(source, [block_hash])
            return
        try:
            self._driver.take_body(peer.id, block)
        except PeerFault:
            source.last_until_ms = self._clock.monotonic_ms() + BODY_REST_MS
            raise
        self._assign()

    def _blocks_not_found(self, peer: Peer, hashes: list[bytes]) -> None:
        source = self._sources.get(peer.id)
        if source is not None:
            self._refused(source, [each for each in hashes if source.asked.pop(each, None) is not None])

    def _refused(self, source: Source, hashes: list[bytes]) -> None:
        until_ms = self._clock.monotonic_ms() + BODY_AGAIN_MS
        source.resting.update(dict.fromkeys(hashes, until_ms))
        self._ask_again(hashes)

    def _tick(self, now_ms: int) -> None:
        for peer_id, source in self._sources.items():
            source.resting = {key: at for key, at in source.resting.items() if at > now_ms}
            late = [key for key, asked_ms in source.asked.items() if now_ms - asked_ms >= BODY_TIMEOUT_MS]
            if late:
                log.info("a peer owes blocks", extra={"peer": peer_id, "blocks": len(late)})
                for key in late:
                    del source.asked[key]
                source.last_until_ms = now_ms + BODY_REST_MS
                self._ask_again(late)
        self._assign()

    # ---- links of the engine -------------------------------------------------------------------

    def announce_tip(self) -> None:
        """Send the header of our tip to everybody, unless more blocks are on their way."""
        if not self._driver.is_synced:
            return
        header = self._chain.store.header(self._chain.tip.height)
        if header is not None:
            self._network.broadcast(Headers([header]))

    def ask_headers(self, peer: int | None, locator: tuple[bytes, ...]) -> None:
        """Ask a peer for headers; None: those that claim to be highest."""
        if peer is None:
            by_height = sorted(self._sources, key=lambda each: -self._sources[each].height)
            asked = by_height[:HEADER_SOURCES]
        else:
            asked = [peer]
        for each in asked:
            self._network.send_to(each, GetHeaders(list(locator[:MAX_LOCATOR_HASHES])))

    def headers_taken(self, peer: int | None, height: int) -> None:
        """Note that a peer has the blocks up to this height."""
        if peer is not None:
            self._heard_of(peer, height)
            self._assign()

    def fetch_bodies(self, bodies: Iterable[tuple[bytes, int]]) -> None:
        """Fetch bodies, given as (block hash, height), the lowest first."""
        under_way = {key for source in self._sources.values() for key in source.asked}
        self._wanted.update((key, height) for key, height in bodies if key not in under_way)
        self._assign()

    def punish(self, peer: int | None, code: str) -> None:
        """Count a fault against a peer."""
        log.info("a peer's header or block was refused", extra={"peer": peer, "code": code})
        if peer is not None:
            self._network.penalise(peer, code)

    def _heard_of(self, peer_id: int, height: int) -> None:
        source = self._sources.get(peer_id)
        if source is not None:
            source.height = max(source.height, height)

    def _ask_again(self, hashes: Iterable[bytes]) -> None:
        """Want bodies again that a peer does not give, unless the engine has lost its interest."""
        for block_hash in hashes:
            height = self._driver.wanted_height(block_hash)
            if height is not None:
                self._wanted[block_hash] = height

    def _assign(self) -> None:
        """Hand wanted bodies out, to reliable peers first, then to those with the fewest on their way."""
        if not self._wanted or not self._sources:
            return
        # Our own miner may have found a block meanwhile, or another branch may have won.
        self._wanted = {
            key: height for key, height in self._wanted.items() if self._driver.wanted_height(key) is not None
        }
        now_ms = self._clock.monotonic_ms()
        shares: dict[int, list[bytes]] = {}
        for block_hash, height in sorted(self._wanted.items(), key=lambda item: item[1]):
            peer_id = self._choose(block_hash, height, now_ms)
            if peer_id is not None:
                self._sources[peer_id].asked[block_hash] = now_ms
                shares.setdefault(peer_id, []).append(block_hash)
                del self._wanted[block_hash]
        for peer_id, hashes in shares.items():
            if not self._network.send_to(peer_id, GetData(KIND_BLOCK, hashes)):
                log.debug("cannot ask for blocks", extra={"peer": peer_id, "first": hash_hex(hashes[0])})

    def _choose(self, block_hash: bytes, height: int, now_ms: int) -> int | None:
        """Return whom to ask for a body, None if all who may give it have enough to do."""
        able = [
            (source, peer_id)
            for peer_id, source in self._sources.items()
            if source.may_give(block_hash, height, now_ms)
        ] or [  # a node that has just started from a snapshot promises nothing, but has what it mined
            (source, peer_id)
            for peer_id, source in self._sources.items()
            if source.might_give(block_hash, height, now_ms)
        ]
        reliable = [pair for pair in able if pair[0].last_until_ms <= now_ms]
        free = [
            (len(source.asked), peer_id)
            for source, peer_id in reliable or able
            if len(source.asked) < BODIES_PER_PEER
        ]
        return min(free)[1] if free else None
