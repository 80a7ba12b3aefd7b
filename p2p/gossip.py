"""How transactions spread: an inventory core without I/O.

Theory of operation
-------------------

A transaction is named by its wtxid, the double SHA-256 of its raw bytes (BIP339). Its life here::

    announced (inv) --> asked (getdata) --> judging (the node checks it) --> seen
    pushed or submitted --------------------^

* ``on_inv`` asks for what is unknown at once, one `getdata` per `inv`. Who else announces the same
  meanwhile is remembered as a holder and asked next if the first does not deliver.
* ``on_tx`` hands what is new to the node, once. The node answers ``accepted`` or ``refused``.
* An accepted transaction waits in the outbox of each peer that is not known to hold it, and leaves
  with a later ``flush``, many to a message. A peer that announces it before that does not get it.
  As a transaction is accepted once, it is sent to a peer at most once: no loops.
* What this node's clients submitted is pushed whole to up to PUSH_MAX_PEERS peers, with every
  flush: that saves the round trip where it matters (a consortium of a few validators, all
  connected). What came from a peer is only announced, every ANNOUNCE_INTERVAL_MS: everybody else
  probably has it from its origin by then.

The owner calls ``flush`` every FLUSH_INTERVAL_MS and sends what ``take_outgoing`` returns.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from cext import sha256d
from p2p import limits
from p2p.messages import KIND_TX, GetData, Inv, NotFound, Tx
from p2p.rate import TokenBucket

PeerId = int
_ID_BYTES = 34  # a hash with its MessagePack header
_HEADER_BYTES = 5  # MessagePack header of a long byte string
Outgoing = Inv | GetData | NotFound | Tx


class NewTx(NamedTuple):
    """A transaction for the node to judge."""

    wtxid: bytes
    raw: bytes


class GossipStats(NamedTuple):
    """Counters since the start."""

    received: int
    duplicates: int
    dropped: int
    timeouts: int
    not_found: int
    announced: int
    pushed: int


class _Peer:
    """What we owe a peer and what we await from it. ``bit`` is its place in holder masks."""

    __slots__ = (
        "announcing",
        "asking",
        "bit",
        "in_flight",
        "outbox",
        "pace_ids",
        "pace_txs",
        "pushes",
        "sending",
        "serving",
        "todo",
        "wanted",
    )

    def __init__(self, bit: int, now_ms: int) -> None:
        self.bit = bit
        self.announcing = TokenBucket(limits.PEER_TX_RATE, now_ms)
        self.asking = TokenBucket(limits.PEER_TX_RATE, now_ms)
        self.sending = TokenBucket(limits.PEER_TX_RATE, now_ms)
        self.pace_ids = TokenBucket(limits.PACE_ID_RATE, now_ms)
        self.pace_txs = TokenBucket(limits.PACE_TX_RATE, now_ms)
        self.outbox: dict[bytes, None] = {}  # to announce, in order
        self.pushes: dict[bytes, bytes] = {}  # to send whole
        self.serving: deque[bytes] = deque()  # asked of us, waiting for room in the send queue
        self.todo: deque[bytes] = deque()  # to ask of the peer once less is in flight
        self.in_flight = 0
        self.wanted = 0  # items that this peer made us track

    def drop(self, wtxid: bytes) -> bool:
        """The peer has it: neither announce nor push it. False if neither was planned."""
        if wtxid in self.outbox:
            del self.outbox[wtxid]
            return True
        return self.pushes.pop(wtxid, None) is not None


class _Item:
    """A transaction that we track: wanted from holders, asked of one, or at the node for judgement."""

    __slots__ = ("asked", "holders", "raw_bytes", "rounds_left", "since_ms", "tracked_for", "tried")

    def __init__(self, holders: int, tracked_for: PeerId | None, now_ms: int) -> None:
        self.holders = holders
        self.tried = 0
        self.rounds_left = limits.GETDATA_ROUNDS - 1
        self.asked: PeerId | None = None
        self.tracked_for = tracked_for
        self.raw_bytes = 0  # above 0: at the node
        self.since_ms = now_ms


class TxGossip:
    """The state. ``lookup`` gives the raw transaction of a wtxid from the mempool, or None;
    ``room`` tells how many bytes a peer's send queue takes now."""

    def __init__(
        self,
        lookup: Callable[[bytes], bytes | None],
        room: Callable[[PeerId], int] = lambda peer: limits.SEND_BULK_BYTES,
    ) -> None:
        self._lookup = lookup
        self._room = room
        self._peers: dict[PeerId, _Peer] = {}
        self._items: dict[bytes, _Item] = {}
        self._seen: set[bytes] = set()
        self._seen_before: set[bytes] = set()
        self._asked: deque[tuple[int, bytes, PeerId]] = deque()  # (when, wtxid, peer)
        self._judging: deque[tuple[int, bytes]] = deque()  # (when, wtxid)
        self._judging_count = 0
        self._judging_bytes = 0
        self._outgoing: list[tuple[PeerId, Outgoing]] = []
        self._next_announcement_ms = 0
        self._counts = dict.fromkeys(GossipStats._fields, 0)

    # --- peers ---------------------------------------------------------------------------------------------

    def peer_ready(self, peer: PeerId, now_ms: int, pool: Iterable[bytes] = ()) -> None:
        """A peer connected; ``pool`` are the wtxids of our mempool, which it will be told of."""
        used = 0
        for other in self._peers.values():
            used |= other.bit
        bit = ~used & (used + 1)  # lowest free bit
        state = _Peer(bit, now_ms)
        self._peers[peer] = state
        for wtxid in pool:
            if len(state.outbox) >= limits.MAX_OUTBOX_IDS:
                break
            state.outbox[wtxid] = None

    def peer_lost(self, peer: PeerId, now_ms: int) -> None:
        """A peer left: what it was asked for is asked of others."""
        state = self._peers.pop(peer, None)
        if state is None:
            return
        orphaned = []
        for wtxid, item in self._items.items():
            item.holders &= ~state.bit
            item.tried &= ~state.bit
            if item.tracked_for == peer:
                item.tracked_for = None
            if item.asked == peer:
                item.asked = None
                orphaned.append(wtxid)
        for wtxid in (*orphaned, *state.todo):
            item_left = self._items.get(wtxid)
            if item_left is not None and item_left.asked is None and not item_left.raw_bytes:
                self._ask_another(wtxid, now_ms)

    # --- from the network ----------------------------------------------------------------------------------

    def on_inv(self, peer: PeerId, wtxids: Sequence[bytes], now_ms: int) -> None:
        """A peer has these transactions."""
        state = self._peers.get(peer)
        if state is None:
            return
        for wtxid in self._within(state.announcing, wtxids, now_ms):
            if state.drop(wtxid):
                continue  # we were about to tell it
            item = self._items.get(wtxid)
            if item is not None:
                item.holders |= state.bit
            elif self._is_seen(wtxid) or self._lookup(wtxid) is not None:
                continue
            elif state.wanted < limits.MAX_WANTED_PER_PEER:
                state.wanted += 1
                self._items[wtxid] = _Item(state.bit, peer, now_ms)
                state.todo.append(wtxid)
            else:
                self._counts["dropped"] += 1
        self._ask(peer, state, now_ms)

    def on_tx(self, peer: PeerId, txs: Sequence[bytes], now_ms: int) -> list[NewTx]:
        """Take raw transactions; return those that are new. Each must be judged."""
        state = self._peers.get(peer)
        if state is None:
            return []
        self._counts["received"] += len(txs)
        fresh = []
        for raw in self._within(state.sending, txs, now_ms):
            wtxid = sha256d(raw)
            if state.outbox or state.pushes:
                state.drop(wtxid)
            if self._admit(wtxid, raw, peer, state, now_ms):
                fresh.append(NewTx(wtxid, raw))
        self._ask(peer, state, now_ms)
        return fresh

    def on_getdata(self, peer: PeerId, wtxids: Sequence[bytes], now_ms: int) -> None:
        """A peer asks for transactions; they leave as its send queue has room."""
        state = self._peers.get(peer)
        if state is None:
            return
        wtxids = self._within(state.asking, wtxids, now_ms)
        room = limits.MAX_SERVING_IDS - len(state.serving)
        state.serving.extend(wtxids[:room])
        self._counts["dropped"] += max(0, len(wtxids) - room)
        self._serve(peer, state, now_ms)

    def on_notfound(self, peer: PeerId, wtxids: Sequence[bytes], now_ms: int) -> None:
        """A peer does not have what we asked for: ask another holder now."""
        state = self._peers.get(peer)
        if state is None:
            return
        for wtxid in wtxids[: state.in_flight]:
            item = self._items.get(wtxid)
            if item is not None and item.asked == peer:
                self._counts["not_found"] += 1
                state.in_flight -= 1
                item.asked = None
                item.holders &= ~state.bit
                self._ask_another(wtxid, now_ms)
        self._ask(peer, state, now_ms)

    # --- from the node -------------------------------------------------------------------------------------

    def submitted(self, txs: Iterable[NewTx], now_ms: int) -> None:
        """Accepted transactions that this node's own clients sent: spread them."""
        pushing = len(self._peers) <= limits.PUSH_MAX_PEERS
        for wtxid, raw in txs:
            item = self._forget_item(wtxid)
            self._remember(wtxid)
            small = pushing and len(raw) <= limits.PUSH_MAX_TX_BYTES
            self._spread(wtxid, raw if small else None, item.holders if item is not None else 0)

    def accepted(self, wtxids: Iterable[bytes]) -> None:
        """Transactions from ``on_tx`` are in the mempool: announce them to who lacks them."""
        for wtxid in wtxids:
            item = self._forget_item(wtxid)
            self._spread(wtxid, None, item.holders if item is not None else 0)

    def refused(self, wtxids: Iterable[bytes], *, may_return: bool = False) -> None:
        """Transactions from ``on_tx`` are not wanted; ``may_return`` if they may be valid later."""
        for wtxid in wtxids:
            self._forget_item(wtxid)
            if may_return:
                self._seen.discard(wtxid)
                self._seen_before.discard(wtxid)

    # --- time and output -----------------------------------------------------------------------------------

    def flush(self, now_ms: int) -> None:
        """Send what has gathered, and look at the deadlines."""
        self._expire(now_ms)
        announcing = now_ms >= self._next_announcement_ms
        if announcing:
            self._next_announcement_ms = now_ms + limits.ANNOUNCE_INTERVAL_MS
        for peer, state in self._peers.items():
            if state.serving:
                self._serve(peer, state, now_ms)
            if state.pushes:
                self._push(peer, state, now_ms)
            if announcing and state.outbox:
                self._announce(peer, state, now_ms)
            if state.todo:
                self._ask(peer, state, now_ms)

    def take_outgoing(self) -> list[tuple[PeerId, Outgoing]]:
        """Return the messages to send, in order, and forget them."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def stats(self) -> GossipStats:
        """Return the counters."""
        return GossipStats(**self._counts)

    @property
    def tracked(self) -> int:
        """Transactions wanted, asked for or being judged."""
        return len(self._items)

    # --- inside --------------------------------------------------------------------------------------------

    def _room_for(self, peer: PeerId) -> int:
        """Room in the peer's send queue; a reserve keeps the last message from being one too many."""
        return self._room(peer) - limits.GOSSIP_RESERVE_BYTES

    def _within(self, bucket: TokenBucket, items: Sequence[bytes], now_ms: int) -> Sequence[bytes]:
        """Return as many of the items as the peer may send now."""
        allowed = bucket.take_up_to(now_ms, len(items))
        if allowed == len(items):
            return items
        self._counts["dropped"] += len(items) - allowed
        return items[:allowed]

    def _is_seen(self, wtxid: bytes) -> bool:
        return wtxid in self._seen or wtxid in self._seen_before

    def _remember(self, wtxid: bytes) -> None:
        if len(self._seen) >= limits.SEEN_IDS:
            self._seen_before = self._seen
            self._seen = set()
        self._seen.add(wtxid)

    def _admit(self, wtxid: bytes, raw: bytes, peer: PeerId, state: _Peer, now_ms: int) -> bool:
        """Move a transaction to judgement; False if it is known, or there is no place for it."""
        item = self._items.get(wtxid)
        if item is None:
            if wtxid in self._seen or wtxid in self._seen_before or self._lookup(wtxid) is not None:
                self._counts["duplicates"] += 1
                return False
        else:
            item.holders |= state.bit
            if item.raw_bytes:
                self._counts["duplicates"] += 1
                return False
            self._settle_asked(item)
        size = len(raw)
        if (
            self._judging_count >= limits.MAX_JUDGING_TXS
            or self._judging_bytes + size > limits.MAX_JUDGING_BYTES
        ):
            self._counts["dropped"] += 1
            self._forget_item(wtxid)
            return False
        if item is None:
            item = self._items[wtxid] = _Item(state.bit, None, now_ms)
        else:
            self._release(item)
            item.since_ms = now_ms
        item.raw_bytes = size
        self._judging_count += 1
        self._judging_bytes += size
        self._judging.append((now_ms, wtxid))
        self._remember(wtxid)
        return True

    def _settle_asked(self, item: _Item) -> None:
        """The item is no longer in flight, whoever delivered it."""
        if item.asked is None:
            return
        asked = self._peers.get(item.asked)
        if asked is not None:
            asked.in_flight -= 1
        item.asked = None

    def _release(self, item: _Item) -> None:
        """Give back the place that the item took in its first announcer's budget."""
        if item.tracked_for is None:
            return
        owner = self._peers.get(item.tracked_for)
        if owner is not None:
            owner.wanted -= 1
        item.tracked_for = None

    def _forget_item(self, wtxid: bytes) -> _Item | None:
        item = self._items.pop(wtxid, None)
        if item is not None:
            self._settle_asked(item)
            self._release(item)
            if item.raw_bytes:
                self._judging_count -= 1
                self._judging_bytes -= item.raw_bytes
        return item

    def _spread(self, wtxid: bytes, raw: bytes | None, holders: int) -> None:
        for state in self._peers.values():
            if holders & state.bit:
                continue
            waiting: dict[bytes, Any] = state.outbox if raw is None else state.pushes
            if len(waiting) >= limits.MAX_OUTBOX_IDS:
                oldest = list(islice(waiting, limits.MAX_OUTBOX_IDS // 4))  # many at once: cheap per item
                for old in oldest:
                    del waiting[old]
                self._counts["dropped"] += len(oldest)
            waiting[wtxid] = raw

    def _ask(self, peer: PeerId, state: _Peer, now_ms: int) -> None:
        """Ask a peer for what it should deliver, as far as its share of requests goes."""
        most = limits.MAX_IN_FLIGHT_PER_PEER
        if state.in_flight > most // 2 and len(state.todo) > most - state.in_flight:
            return  # a small question now would make for small answers ever after
        asking: list[bytes] = []
        while state.todo and state.in_flight < most:
            wtxid = state.todo.popleft()
            item = self._items.get(wtxid)
            if item is None or item.raw_bytes or item.asked is not None:
                continue
            item.asked = peer
            item.since_ms = now_ms
            item.tried |= state.bit
            state.in_flight += 1
            asking.append(wtxid)
            self._asked.append((now_ms, wtxid, peer))
        if asking:
            self._outgoing.append((peer, GetData(KIND_TX, asking)))

    def _ask_another(self, wtxid: bytes, now_ms: int) -> None:
        """Give an item that nobody is asked for to its next holder, or forget it."""
        item = self._items[wtxid]
        untried = item.holders & ~item.tried
        if not untried and item.rounds_left:
            item.rounds_left -= 1
            item.tried = 0
            untried = item.holders
        for peer, state in self._peers.items():
            if untried & state.bit:
                state.todo.append(wtxid)
                self._ask(peer, state, now_ms)
                return
        self._forget_item(wtxid)

    def _serve(self, peer: PeerId, state: _Peer, now_ms: int) -> None:
        """Answer a getdata as far as the send queue has room and the pace allows."""
        room = self._room_for(peer)
        missing: list[bytes] = []
        batch = _Batch()
        while state.serving and room > 0 and state.pace_txs.take(now_ms):
            wtxid = state.serving.popleft()
            raw = self._lookup(wtxid)
            if raw is None or len(raw) > limits.MAX_RELAY_TX_BYTES:
                missing.append(wtxid)
                room -= len(wtxid)
                continue
            state.drop(wtxid)
            batch.add(raw)
            room -= len(raw) + _HEADER_BYTES
        self._outgoing.extend((peer, Tx(txs)) for txs in batch.messages())
        if missing:
            self._outgoing.extend((peer, NotFound(KIND_TX, part)) for part in _parts(missing))

    def _push(self, peer: PeerId, state: _Peer, now_ms: int) -> None:
        """Send whole transactions, as far as room and pace go; the rest waits."""
        room = self._room_for(peer)
        most = state.pace_txs.take_up_to(now_ms, len(state.pushes)) if room > 0 else 0
        batch = _Batch()
        waiting = iter(state.pushes.items())
        for _, raw in islice(waiting, most):
            batch.add(raw)
            room -= len(raw) + _HEADER_BYTES
            if room <= 0:
                break
        state.pace_txs.give_back(most - batch.count)
        state.pushes = dict(waiting)
        self._counts["pushed"] += batch.count
        self._outgoing.extend((peer, Tx(txs)) for txs in batch.messages())

    def _announce(self, peer: PeerId, state: _Peer, now_ms: int) -> None:
        """Send announcements, as far as room and pace go; the rest waits."""
        room = max(0, self._room_for(peer))
        count = state.pace_ids.take_up_to(now_ms, min(len(state.outbox), room // _ID_BYTES))
        if not count:
            return
        announcing = list(islice(state.outbox, count))
        if count == len(state.outbox):
            state.outbox.clear()
        else:
            for wtxid in announcing:
                del state.outbox[wtxid]
        self._counts["announced"] += count
        self._outgoing.extend((peer, Inv(KIND_TX, part)) for part in _parts(announcing))

    def _expire(self, now_ms: int) -> None:
        # An entry whose time is not the item's belongs to an earlier question.
        while self._asked and self._asked[0][0] <= now_ms - limits.GETDATA_TIMEOUT_MS:
            asked_ms, wtxid, peer = self._asked.popleft()
            item = self._items.get(wtxid)
            if item is not None and item.asked == peer and item.since_ms == asked_ms:
                self._counts["timeouts"] += 1
                self._settle_asked(item)
                self._ask_another(wtxid, now_ms)
        while self._judging and self._judging[0][0] <= now_ms - limits.JUDGING_TIMEOUT_MS:
            given_ms, wtxid = self._judging.popleft()
            item = self._items.get(wtxid)
            if item is not None and item.raw_bytes and item.since_ms == given_ms:
                self._forget_item(wtxid)


class _Batch:
    """Raw transactions, cut into messages of about TX_BATCH_BYTES."""

    __slots__ = ("_bytes", "_done", "_open", "count")

    def __init__(self) -> None:
        self._done: list[list[bytes]] = []
        self._open: list[bytes] = []
        self._bytes = 0
        self.count = 0

    def add(self, raw: bytes) -> None:
        if self._open and (
            self._bytes + len(raw) > limits.TX_BATCH_BYTES or len(self._open) >= limits.MAX_TXS_PER_MESSAGE
        ):
            self._done.append(self._open)
            self._open = []
            self._bytes = 0
        self._open.append(raw)
        self._bytes += len(raw) + _HEADER_BYTES
        self.count += 1

    def messages(self) -> list[list[bytes]]:
        return [*self._done, self._open] if self._open else self._done


def _parts(wtxids: list[bytes]) -> list[list[bytes]]:
    size = limits.MAX_INV_HASHES
    return [wtxids[at : at + size] for at in range(0, len(wtxids), size)]
