"""Fetching blocks that this node missed: a core without I/O.

Theory of operation
-------------------

The core knows our height and what peers claim. While they are ahead it cuts the heights after ours
into ranges and asks up to SYNC_PARALLEL peers, one range each. A reply carries blocks in order and
the certificate of its last, so every reply can be verified by itself; a reply may be shorter than
asked (byte limit, end of a round), the rest of its range is then asked for again, or up to
SYNC_EXTRA_BLOCKS longer (to end with a block that has a certificate of its own). Replies wait until
they are next and are given out one at a time as a SyncBatch; the node applies it and reports back.

Claims cost nothing, so nothing is believed: a peer that has not what it claimed loses the claim, a
peer that stalls rests for a while, a peer whose blocks fail is not asked again on this connection.
``take_faults`` says whom to charge.
"""

from collections.abc import Callable
from typing import NamedTuple

from p2p import limits
from p2p.messages import SERVICE_BLOCKS, SERVICE_LIMITED, Blocks, GetBlocks
from p2p.rate import TokenBucket

PeerId = int


class SyncBatch(NamedTuple):
    """Blocks ``from_height`` on, raw, in order; ``certificate`` is of the last; ``peer`` sent them."""

    from_height: int
    blocks: list[bytes]
    certificate: bytes
    peer: PeerId

    @property
    def last_height(self) -> int:
        """Height of the last block."""
        return self.from_height + len(self.blocks) - 1


class SyncFault(NamedTuple):
    """A peer to charge, with the code."""

    peer: PeerId
    code: str


class _Range(NamedTuple):
    first: int
    last: int
    asked_ms: int


class _Peer:
    """``height`` is what it claims; ``failed``: its blocks did not verify; ``late``: replies given up on.

    ``depth`` is how many blocks up to its tip it has, None for all.
    """

    __slots__ = (
        "asked",
        "bucket",
        "depth",
        "failed",
        "height",
        "late",
        "resting_until_ms",
        "shut_until_ms",
        "used_ms",
    )

    def __init__(self, height: int, depth: int | None) -> None:
        self.height = height
        self.depth = depth
        self.bucket = TokenBucket(limits.SYNC_ASK_RATE, 0)
        self.asked: _Range | None = None
        self.late = 0
        self.failed = False
        self.resting_until_ms = 0
        self.shut_until_ms = 0
        self.used_ms = -1

    def has(self, height: int) -> bool:
        """Return whether it can serve the block of ``height``."""
        return self.height >= height and (self.depth is None or height > self.height - self.depth)


class BlockSync:
    """The state. ``height`` is that of our applied tip."""

    def __init__(
        self,
        height: int,
        *,
        blocks_per_request: int = limits.SYNC_BLOCKS_PER_REQUEST,
        parallel: int = limits.SYNC_PARALLEL,
        timeout_ms: int = limits.SYNC_TIMEOUT_MS,
        grace_ms: int = limits.SYNC_GRACE_MS,
        grace_blocks: int = limits.SYNC_GRACE_BLOCKS,
        buffer_bytes: int = limits.SYNC_BUFFER_BYTES,
    ) -> None:
        self._height = height
        self._per_request = blocks_per_request
        self._parallel = parallel
        self._timeout_ms = timeout_ms
        self._grace_ms = grace_ms
        self._grace_blocks = grace_blocks
        self._buffer_limit = buffer_bytes
        self._peers: dict[PeerId, _Peer] = {}
        self._buffer: dict[int, SyncBatch] = {}  # by first height
        self._buffer_bytes = 0
        self._applying: SyncBatch | None = None
        self._behind_since_ms: int | None = None
        self._catching_up = False
        self._outgoing: list[tuple[PeerId, GetBlocks]] = []
        self._faults: list[SyncFault] = []

    # --- what happened -------------------------------------------------------------------------------------

    def peer_ready(self, peer: PeerId, height: int, depth: int | None = None) -> None:
        """A peer connected, at ``height`` as its hello says, with its last ``depth`` blocks (None: all)."""
        self._peers[peer] = _Peer(height, depth)

    def peer_height(self, peer: PeerId, height: int) -> None:
        """A peer announced its tip."""
        state = self._peers.get(peer)
        if state is not None:
            state.height = height

    def peer_ahead(self, peer: PeerId) -> None:
        """A peer shows that it has blocks above our tip which consensus will not deliver to us.

        Then there is nothing to be patient for. What it shows is a claim like any other: of one block.
        """
        state = self._peers.get(peer)
        if state is not None:
            state.height = max(state.height, self._height + 1)
            self._catching_up = True

    def peer_lost(self, peer: PeerId) -> None:
        """A peer left; what it was asked for becomes free."""
        self._peers.pop(peer, None)

    def advanced(self, height: int) -> None:
        """Our tip moved, by a batch or by consensus; what lies below is not needed any more."""
        if height > self._height:
            self._height = height
            self._behind_since_ms = None
            for first in [first for first, batch in self._buffer.items() if batch.last_height <= height]:
                self._unbuffer(first)

    def on_blocks(self, peer: PeerId, reply: Blocks) -> None:
        """A reply arrived. What is wrong with it goes to ``take_faults``."""
        state = self._peers.get(peer)
        if state is None:
            return
        asked = state.asked
        if asked is None or reply.from_height != asked.first:
            if state.late:
                state.late -= 1  # an answer to a question that we gave up
            else:
                self._faults.append(SyncFault(peer, "sync-bad-range"))
            return
        state.asked = None
        if len(reply.blocks) > asked.last - asked.first + 1 + limits.SYNC_EXTRA_BLOCKS:
            state.failed = True
            self._faults.append(SyncFault(peer, "sync-bad-range"))
        elif not reply.blocks:
            state.height = min(state.height, asked.first - 1)
            self._faults.append(SyncFault(peer, "sync-lying-height"))
        else:
            batch = SyncBatch(reply.from_height, reply.blocks, reply.certificate, peer)
            if batch.last_height > self._height:
                self._unbuffer(batch.from_height)
                self._buffer[batch.from_height] = batch
                self._buffer_bytes += sum(map(len, batch.blocks))

    def next_batch(self) -> SyncBatch | None:
        """Return the batch to apply now, if there is one; then ``report`` on it."""
        if self._applying is not None:
            return None
        for first, batch in self._buffer.items():
            if first <= self._height + 1 <= batch.last_height:
                self._unbuffer(first)
                skip = self._height + 1 - first
                self._applying = batch._replace(from_height=first + skip, blocks=batch.blocks[skip:])
                return self._applying
        return None

    def following(self, batch: SyncBatch) -> SyncBatch | None:
        """Return what waits to be applied behind ``batch``, if it is here already."""
        wanted = batch.last_height + 1
        return next((b for b in self._buffer.values() if b.from_height <= wanted <= b.last_height), None)

    def report(self, batch: SyncBatch, *, ok: bool, code: str = "") -> None:
        """Say how applying went. ``code`` is what was wrong with the blocks, "" if it was not the peer."""
        if batch is not self._applying:
            return
        self._applying = None
        if ok:
            self.advanced(batch.last_height)
        elif code:
            self._faults.append(SyncFault(batch.peer, code))
            state = self._peers.get(batch.peer)
            if state is not None:
                state.failed = True
            for first in [first for first, other in self._buffer.items() if other.peer == batch.peer]:
                self._unbuffer(first)

    def shut(self, peer: PeerId, now_ms: int) -> None:
        """Ask this peer for nothing for a while: what it has we cannot use, and it may not be its fault."""
        state = self._peers.get(peer)
        if state is not None:
            state.shut_until_ms = now_ms + limits.SYNC_COOLDOWN_MS

    def tick(self, now_ms: int) -> None:
        """Look at the deadlines and ask for what is missing.

        Call every 50 to 200 ms, and when a reply has come or was applied, so that peers never wait.
        """
        for peer, state in self._peers.items():
            if state.asked is not None and now_ms - state.asked.asked_ms >= self._timeout_ms:
                state.asked = None
                state.late += 1
                state.resting_until_ms = now_ms + limits.SYNC_COOLDOWN_MS
                self._faults.append(SyncFault(peer, "sync-stalled"))
        if self._is_due(now_ms):
            self._ask(now_ms)

    # --- what to do ----------------------------------------------------------------------------------------

    def take_outgoing(self) -> list[tuple[PeerId, GetBlocks]]:
        """Return the messages to send and forget them."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def take_faults(self) -> list[SyncFault]:
        """Return the peers to charge and forget them."""
        faults, self._faults = self._faults, []
        return faults

    @property
    def best_height(self) -> int:
        """The highest tip that a peer claims and has not been caught lying about."""
        return max((peer.height for peer in self._peers.values() if not peer.failed), default=0)

    @property
    def syncing(self) -> bool:
        """Blocks are being asked for or applied."""
        return self._applying is not None or any(peer.asked is not None for peer in self._peers.values())

    @property
    def buffered_bytes(self) -> int:
        """Bytes of blocks that wait for their turn."""
        return self._buffer_bytes

    # --- inside --------------------------------------------------------------------------------------------

    def _unbuffer(self, first: int) -> None:
        batch = self._buffer.pop(first, None)
        if batch is not None:
            self._buffer_bytes -= sum(map(len, batch.blocks))

    def _is_due(self, now_ms: int) -> bool:
        """Behind, and not just by what consensus is about to deliver.

        Whoever was far behind goes on to the tip: consensus delivers nothing of what came before.
        """
        lag = self.best_height - self._height
        if lag <= 0:
            self._behind_since_ms = None
            self._catching_up = False
            return False
        if self._behind_since_ms is None:
            self._behind_since_ms = now_ms
        self._catching_up = (
            self._catching_up or lag > self._grace_blocks or now_ms - self._behind_since_ms >= self._grace_ms
        )
        return self._catching_up

    def _ask(self, now_ms: int) -> None:
        covered = [(batch.from_height, batch.last_height) for batch in self._buffer.values()]
        if self._applying is not None:
            covered.append((self._applying.from_height, self._applying.last_height))
        asked = [peer.asked for peer in self._peers.values() if peer.asked is not None]
        covered.extend((taken.first, taken.last) for taken in asked)
        covered.sort()
        best = min(self.best_height, self._height + limits.SYNC_WINDOW_BLOCKS)
        at, on_the_way = self._height + 1, len(asked)
        while at <= best and on_the_way < self._parallel:
            holder = next((item for item in covered if item[0] <= at <= item[1]), None)
            if holder is not None:
                at = holder[1] + 1
                continue
            if at > self._height + 1 and self._buffer_bytes >= self._buffer_limit:
                return
            gap_ends = min((first - 1 for first, _ in covered if first > at), default=best)
            last = self._ask_one(at, min(gap_ends, best), now_ms)
            if last is None:
                return
            on_the_way += 1
            at = last + 1

    def _ask_one(self, first: int, last: int, now_ms: int) -> int | None:
        """Ask the best peer for a range; return its last height, None if nobody can be asked now."""
        usable = [
            (state.resting_until_ms > now_ms, state.used_ms, peer)
            for peer, state in self._peers.items()
            if state.asked is None and not state.failed and state.has(first) and state.shut_until_ms <= now_ms
        ]
        if not usable:
            return None
        peer = min(usable)[2]
        state = self._peers[peer]
        if not state.bucket.take(now_ms):
            return None
        last = min(last, state.height, first + self._per_request - 1)
        state.asked = _Range(first, last, now_ms)
        state.used_ms = now_ms
        self._outgoing.append((peer, GetBlocks(first, last - first + 1)))
        return last


def served_depth(services: int) -> int | None:
    """Return how many blocks up to its tip a peer with these service bits has, None for all."""
    if services & SERVICE_BLOCKS:
        return None
    return limits.SYNC_LIMITED_BLOCKS if services & SERVICE_LIMITED else 0


Read = Callable[[int], bytes | None]


def serve_blocks(request: GetBlocks, last_height: int, read_block: Read, read_certificate: Read) -> Blocks:
    """Answer a GetBlocks from storage: at least one block if we have it, then up to the limits.

    ``last_height`` is that of the tip, or of the block below it where the round of the first one ends: one
    certificate, of one set of validators, has to vouch for the whole reply. ``read_certificate`` gives the
    certificate of the very block at a height, None where a descendant's covers it (after a change of
    leaders). The reply ends with a block that has its own, if need be up to SYNC_EXTRA_BLOCKS beyond what
    was asked for.
    """
    first = request.from_height
    count = min(request.max_blocks, limits.MAX_BLOCKS_PER_REPLY)
    blocks = _read_some(read_block, first, min(count, last_height - first + 1))
    room = limits.BLOCKS_REPLY_BYTES + limits.MAX_BLOCK_BYTES - sum(map(len, blocks))
    for height in range(first + len(blocks), first + len(blocks) + limits.SYNC_EXTRA_BLOCKS):
        if not blocks or height > last_height or read_certificate(height - 1) is not None:
            break
        raw = read_block(height)
        room -= 0 if raw is None else len(raw)
        if raw is None or room < 0 or len(blocks) == limits.MAX_BLOCKS_PER_REPLY:
            break
        blocks.append(raw)
    while blocks:
        certificate = read_certificate(first + len(blocks) - 1)
        if certificate is not None:
            return Blocks(first, blocks, certificate)
        blocks.pop()
    return Blocks(first, [], b"")


def _read_some(read_block: Read, first: int, count: int) -> list[bytes]:
    """Read up to ``count`` blocks, ending with the one that crosses BLOCKS_REPLY_BYTES."""
    blocks: list[bytes] = []
    size = 0
    for height in range(first, first + count):
        raw = read_block(height)
        if raw is None:
            break
        blocks.append(raw)
        size += len(raw)
        if size >= limits.BLOCKS_REPLY_BYTES:
            break
    return blocks


def split_txs(txs: list[bytes]) -> list[list[bytes]]:
    """Cut the answer to a GetTxs into messages of about TX_BATCH_BYTES; one empty part if there are none."""
    parts: list[list[bytes]] = [[]]
    size = 0
    for raw in txs:
        if parts[-1] and size + len(raw) > limits.TX_BATCH_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(raw)
        size += len(raw)
    return parts
