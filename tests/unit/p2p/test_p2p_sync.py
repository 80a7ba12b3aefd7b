import random

import pytest

from p2p import limits
from p2p.messages import SERVICE_BLOCKS, SERVICE_LIMITED, Blocks, GetBlocks
from p2p.rate import TokenBucket
from p2p.sync import BlockSync, SyncFault, serve_blocks, served_depth, split_txs


def block(height):
    return b"block %d" % height


def reply(request, count=None):
    heights = range(request.from_height, request.from_height + (count or request.max_blocks))
    return Blocks(request.from_height, list(map(block, heights)), b"cert %d" % heights[-1])


def apply_all(sync):
    """Apply what is ready and return the heights, checking order and certificates."""
    heights = []
    while (batch := sync.next_batch()) is not None:
        for offset, raw in enumerate(batch.blocks):
            assert raw == block(batch.from_height + offset)
            heights.append(batch.from_height + offset)
        assert batch.certificate == b"cert %d" % batch.last_height
        assert sync.next_batch() is None  # one at a time
        sync.report(batch, ok=True)
    return heights


def test_ranges_go_to_four_peers_and_are_applied_in_order():
    sync = BlockSync(0)
    for peer in range(1, 7):
        sync.peer_ready(peer, 1_000)
    sync.tick(0)
    asked = sync.take_outgoing()
    assert [request for _, request in asked] == [GetBlocks(1 + 100 * index, 100) for index in range(4)]
    assert len({peer for peer, _ in asked}) == 4
    assert sync.syncing
    for peer, request in reversed(asked):
        assert apply_all(sync) == []
        sync.on_blocks(peer, reply(request))
    assert apply_all(sync) == list(range(1, 401))
    assert sync.take_faults() == []


def test_what_follows_a_batch_can_be_seen_before_its_turn():
    sync = BlockSync(0)
    for peer in (1, 2, 3):
        sync.peer_ready(peer, 300)
    sync.tick(0)
    asked = sync.take_outgoing()
    for peer, request in (asked[0], asked[2]):
        sync.on_blocks(peer, reply(request))
    batch = sync.next_batch()
    assert sync.following(batch) is None
    sync.on_blocks(asked[1][0], reply(asked[1][1]))
    following = sync.following(batch)
    assert (following.from_height, following.last_height) == (101, 200)
    sync.report(batch, ok=True)
    assert sync.next_batch() == following


def test_a_peer_that_is_known_to_be_ahead_is_asked_at_once():
    """It speaks of a round that we have not begun: consensus will not bring us its first block."""
    sync = BlockSync(10)
    sync.peer_ready(1, 11)
    sync.peer_ready(2, 9)
    sync.tick(0)
    assert sync.take_outgoing() == []  # consensus may be about to deliver it
    sync.peer_ahead(7)
    sync.peer_ahead(2)
    sync.tick(0)
    [(peer, request)] = sync.take_outgoing()
    assert request == GetBlocks(11, 1)
    sync.on_blocks(peer, Blocks(11, [], b""))  # as with every claim, who cannot keep it is charged
    assert sync.take_faults() == [SyncFault(peer, "sync-lying-height")]


def test_a_short_reply_is_completed():
    sync = BlockSync(10, parallel=1)
    sync.peer_ready(1, 110)
    sync.tick(0)
    [(_, request)] = sync.take_outgoing()
    sync.on_blocks(1, reply(request, 30))
    sync.tick(1)
    assert sync.take_outgoing() == [(1, GetBlocks(41, 70))]
    assert apply_all(sync) == list(range(11, 41))


def test_nothing_is_asked_beyond_what_a_peer_claims():
    sync = BlockSync(0)
    sync.peer_ready(1, 5)
    sync.tick(0)
    assert sync.take_outgoing() == [(1, GetBlocks(1, 5))]
    sync.on_blocks(1, reply(GetBlocks(1, 5)))
    assert apply_all(sync) == [1, 2, 3, 4, 5]
    sync.tick(1)
    assert sync.take_outgoing() == []
    assert not sync.syncing


def test_a_pruned_peer_is_asked_for_what_it_has_only():
    sync = BlockSync(0, parallel=1)
    sync.peer_ready(1, 1_000, served_depth(SERVICE_LIMITED))
    sync.peer_ready(2, 1_000, served_depth(0))
    sync.tick(0)
    assert sync.take_outgoing() == []
    sync.peer_ready(3, 1_000, served_depth(SERVICE_BLOCKS | SERVICE_LIMITED))
    sync.tick(1)
    assert sync.take_outgoing() == [(3, GetBlocks(1, 100))]
    for tip, asked in ((712, []), (713, [(1, GetBlocks(714, 100))])):
        late = BlockSync(tip - 1)
        late.advanced(tip)
        late.peer_ready(1, 1_001, limits.SYNC_LIMITED_BLOCKS)
        late.tick(0)
        assert late.take_outgoing() == asked
    assert sync.take_faults() == []


@pytest.mark.parametrize("lag", [1, 2])
def test_a_small_lag_gets_a_grace_period(lag):
    sync = BlockSync(100, grace_ms=500)
    sync.peer_ready(1, 100)
    sync.peer_height(1, 100 + lag)
    sync.tick(1_000)
    sync.tick(1_499)
    assert sync.take_outgoing() == []
    sync.tick(1_500)
    assert sync.take_outgoing() == [(1, GetBlocks(101, lag))]


def test_the_grace_period_starts_again_when_consensus_moves_us():
    sync = BlockSync(100, grace_ms=500)
    sync.peer_ready(1, 101)
    for height in range(101, 120):
        sync.tick(height * 400)
        sync.advanced(height)
        sync.peer_height(1, height + 1)
    assert sync.take_outgoing() == []


def test_a_fast_node_does_not_look_like_a_flood():
    """Its questions, however fast they are answered, pass the bucket in which the peer counts them."""
    sync = BlockSync(0, parallel=1)
    sync.peer_ready(1, 100_000)
    theirs = TokenBucket(limits.RATES["fetch"], 0)
    asked = 0
    for now_ms in range(0, 20_000, 5):
        sync.tick(now_ms)
        for _, request in sync.take_outgoing():
            assert theirs.take(now_ms)
            asked += 1
            sync.on_blocks(1, reply(request, 1))
            assert len(apply_all(sync)) == 1
    assert 800 <= asked <= 20 * limits.SYNC_ASK_RATE.per_s + limits.SYNC_ASK_RATE.burst
    assert sync.take_faults() == []


def test_the_end_of_a_long_way_gets_no_grace_period():
    sync = BlockSync(0, parallel=1, grace_ms=500)
    sync.peer_ready(1, 101)
    sync.tick(1_000)
    [(_, request)] = sync.take_outgoing()
    sync.on_blocks(1, reply(request))
    assert apply_all(sync) == list(range(1, 101))
    sync.tick(1_000)
    [(_, last)] = sync.take_outgoing()
    assert last == GetBlocks(101, 1)
    sync.on_blocks(1, reply(last))
    assert apply_all(sync) == [101]
    sync.tick(1_001)
    sync.peer_height(1, 102)  # here it is consensus that may deliver
    sync.tick(1_002)
    assert sync.take_outgoing() == []
    sync.tick(1_502)
    assert sync.take_outgoing() == [(1, GetBlocks(102, 1))]


def test_a_stalling_peer_is_replaced_rests_and_may_answer_late():
    sync = BlockSync(0, parallel=1)
    sync.peer_ready(1, 50)
    sync.peer_ready(2, 50)
    sync.tick(0)
    [(staller, request)] = sync.take_outgoing()
    other = 3 - staller
    sync.tick(limits.SYNC_TIMEOUT_MS - 1)
    assert sync.take_outgoing() == []
    sync.tick(limits.SYNC_TIMEOUT_MS)
    assert sync.take_outgoing() == [(other, request)]
    assert sync.take_faults() == [SyncFault(staller, "sync-stalled")]
    sync.on_blocks(staller, reply(request))  # late: ignored, not charged
    assert sync.take_faults() == []
    assert sync.next_batch() is None
    sync.on_blocks(staller, reply(request))  # but once only
    assert sync.take_faults() == [SyncFault(staller, "sync-bad-range")]
    sync.on_blocks(other, reply(request, 10))
    sync.tick(limits.SYNC_TIMEOUT_MS + 1)
    assert sync.take_outgoing() == [(other, GetBlocks(11, 40))]  # the staller rests


def test_a_resting_peer_is_better_than_none():
    sync = BlockSync(0)
    sync.peer_ready(1, 50)
    for step in range(3):
        sync.tick(step * limits.SYNC_TIMEOUT_MS)
        assert sync.take_outgoing() == [(1, GetBlocks(1, 50))]


def test_a_liar_about_its_height_loses_its_claim():
    sync = BlockSync(10)
    sync.peer_ready(1, 1_000_000)
    sync.peer_ready(2, 20)
    sync.tick(0)
    asked = dict(sync.take_outgoing())
    liars = asked[1]
    sync.on_blocks(1, Blocks(liars.from_height, [], b""))
    assert sync.take_faults() == [SyncFault(1, "sync-lying-height")]
    if 2 in asked:
        sync.on_blocks(2, Blocks(asked[2].from_height, [], b""))
        sync.peer_height(2, 20)
    assert sync.best_height == 20
    sync.tick(1)
    for peer, request in sync.take_outgoing():
        assert peer == 2
        sync.on_blocks(peer, reply(request))
    assert apply_all(sync)[-1] == 20


def test_blocks_that_fail_come_from_somebody_else():
    sync = BlockSync(0, parallel=2, blocks_per_request=10)
    sync.peer_ready(1, 40)
    sync.peer_ready(2, 40)
    sync.tick(0)
    asked = dict(sync.take_outgoing())
    bad = next(peer for peer, request in asked.items() if request.from_height == 1)
    good = 3 - bad
    for peer, request in asked.items():
        sync.on_blocks(peer, reply(request))
    batch = sync.next_batch()
    sync.report(batch, ok=False, code="bad-txnmrklroot")
    assert sync.take_faults() == [SyncFault(bad, "bad-txnmrklroot")]
    sync.tick(1)
    assert sync.take_outgoing() == [(good, GetBlocks(1, 10))]
    sync.on_blocks(good, reply(GetBlocks(1, 10)))
    assert apply_all(sync) == list(range(1, 21))
    sync.tick(2)
    assert [peer for peer, _ in sync.take_outgoing()] == [good]


def test_a_failed_peers_other_replies_are_thrown_away():
    sync = BlockSync(0, parallel=4, blocks_per_request=10)
    sync.peer_ready(1, 40)
    sync.tick(0)
    sync.on_blocks(1, reply(sync.take_outgoing()[0][1]))
    batch = sync.next_batch()
    sync.tick(1)
    sync.on_blocks(1, reply(sync.take_outgoing()[0][1]))
    assert sync.buffered_bytes > 0
    sync.report(batch, ok=False, code="bad-cert")
    assert sync.buffered_bytes == 0
    assert sync.best_height == 0


def test_a_failure_of_our_own_is_tried_again():
    sync = BlockSync(0)
    sync.peer_ready(1, 5)
    sync.tick(0)
    [(_, request)] = sync.take_outgoing()
    sync.on_blocks(1, reply(request))
    sync.report(sync.next_batch(), ok=False)
    assert sync.take_faults() == []
    sync.tick(1)
    assert sync.take_outgoing() == [(1, request)]


@pytest.mark.parametrize(
    "wrong",
    [Blocks(2, [b"x"], b"c"), Blocks(0, [b"x"], b"c"), Blocks(1, [b"x"] * 8, b"c")],
    ids=["later", "earlier", "too-many"],
)
def test_wrong_ranges(wrong):
    sync = BlockSync(0)
    sync.peer_ready(1, 5)
    sync.tick(0)
    sync.on_blocks(1, wrong)
    assert sync.take_faults() == [SyncFault(1, "sync-bad-range")]
    assert sync.next_batch() is None
    sync.on_blocks(9, wrong)  # no peer of ours


def test_a_lost_peers_range_is_asked_again():
    sync = BlockSync(0)
    sync.peer_ready(1, 5)
    sync.tick(0)
    assert len(sync.take_outgoing()) == 1
    sync.peer_lost(1)
    sync.peer_ready(2, 5)
    sync.tick(1)
    assert sync.take_outgoing() == [(2, GetBlocks(1, 5))]


def test_consensus_may_overtake_a_reply():
    sync = BlockSync(0)
    sync.peer_ready(1, 10)
    sync.tick(0)
    [(_, request)] = sync.take_outgoing()
    sync.advanced(4)
    sync.on_blocks(1, reply(request))
    batch = sync.next_batch()
    assert (batch.from_height, batch.blocks) == (5, list(map(block, range(5, 11))))
    sync.advanced(10)
    sync.report(batch, ok=True)
    sync.tick(1)
    assert sync.take_outgoing() == []
    sync.advanced(10)
    sync.on_blocks(1, reply(request))
    assert sync.next_batch() is None


def test_buffer_is_bounded_but_the_next_range_is_always_asked():
    sync = BlockSync(0, blocks_per_request=10, buffer_bytes=100)
    for peer in range(4):
        sync.peer_ready(peer, 1_000)
    sync.tick(0)
    asked = sync.take_outgoing()
    for peer, request in asked[1:]:
        sync.on_blocks(peer, reply(request))
    assert sync.buffered_bytes > 100
    sync.tick(1)
    assert sync.take_outgoing() == []  # three peers are free, the buffer is full
    sync.peer_lost(asked[0][0])
    sync.tick(2)
    assert [request.from_height for _, request in sync.take_outgoing()] == [1]


def test_window_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "SYNC_WINDOW_BLOCKS", 150)
    sync = BlockSync(0)
    for peer in range(4):
        sync.peer_ready(peer, 1_000)
    sync.tick(0)
    assert [request for _, request in sync.take_outgoing()] == [GetBlocks(1, 100), GetBlocks(101, 50)]


class FickleNet:
    """Peers that answer, stall, lie, shorten, send rubbish or leave, by dice."""

    def __init__(self, seed, tip):
        self.dice = random.Random(seed)
        self.tip = tip
        self.sync = BlockSync(0, blocks_per_request=20)
        self.habits = {1: "honest", 2: "stall", 3: "empty", 4: "rubbish", 5: "short"}
        self.pending = []
        for peer, habit in self.habits.items():
            self.sync.peer_ready(peer, tip + 500 if habit == "empty" else tip)

    def answer(self, peer, request):
        match self.habits[peer]:
            case "stall":
                return None
            case "empty":
                return Blocks(request.from_height, [], b"")
            case "rubbish":
                return Blocks(request.from_height, [b"rubbish"] * self.dice.randint(1, 20), b"c")
            case "short":
                return reply(request, self.dice.randint(1, request.max_blocks))
        return reply(request)

    def step(self, now):
        self.sync.tick(now)
        self.pending.extend(self.sync.take_outgoing())
        self.dice.shuffle(self.pending)
        for peer, request in self.pending[:2]:
            if (message := self.answer(peer, request)) is not None:
                self.sync.on_blocks(peer, message)
        del self.pending[:2]


@pytest.mark.parametrize("seed", range(10))
def test_it_arrives_whatever_most_peers_do(seed):
    net = FickleNet(seed, 500)
    applied = []
    for now in range(0, 400_000, 100):
        net.step(now)
        batch = net.sync.next_batch()
        if batch is not None:
            good = all(raw == block(batch.from_height + at) for at, raw in enumerate(batch.blocks))
            if good:
                applied.extend(range(batch.from_height, batch.last_height + 1))
            net.sync.report(batch, ok=good, code="" if good else "bad-prevblk")
        if len(applied) >= 500:
            break
    assert applied == list(range(1, 501))
    charged = {fault.peer for fault in net.sync.take_faults()}
    assert 1 not in charged
    assert 5 not in charged
    assert charged


# --- serving ------------------------------------------------------------------------------------


def test_serve_within_limits():
    chain = {height: block(height) for height in range(1, 301)}
    cert = {height: b"cert %d" % height for height in chain}

    def serve(first, count):
        return serve_blocks(GetBlocks(first, count), 300, chain.get, cert.get)

    assert serve(5, 3) == reply(GetBlocks(5, 3))
    assert serve(299, 50) == reply(GetBlocks(299, 2))
    assert len(serve(1, 65_535).blocks) == limits.MAX_BLOCKS_PER_REPLY
    assert serve(301, 5) == Blocks(301, [], b"")
    assert serve(1, 0) == Blocks(1, [], b"")
    del chain[7]
    assert serve(5, 10) == reply(GetBlocks(5, 2))
    del cert[6]
    assert serve(5, 10).blocks == [chain[5]]


def test_serve_ends_with_a_block_that_has_its_own_certificate():
    """After a change of leaders a descendant's certificate covers up to two blocks."""
    chain = {height: block(height) for height in range(1, 301)}
    cert = {height: b"cert %d" % height for height in (1, 2, 5, 8, 200, 300)}

    def serve(first, count):
        served = serve_blocks(GetBlocks(first, count), 300, chain.get, cert.get)
        assert served.blocks == [chain[first + at] for at in range(len(served.blocks))]
        last = first + len(served.blocks) - 1
        assert served.certificate == (cert[last] if served.blocks else b"")
        return last

    assert serve(1, 2) == 2
    assert serve(1, 3) == 5  # two more than asked for
    assert serve(4, 1) == 5
    assert serve(3, 1) == 5
    assert serve(1, 9) == 8  # none at 9 to 11: back to the last that has one
    assert serve(1, 500) == 200  # never more than a message holds
    assert serve(299, 1) == 300
    assert serve(9, 1) == 8  # nothing
    huge = {3: bytes(limits.MAX_BLOCK_BYTES), 4: bytes(limits.MAX_BLOCK_BYTES)}
    served = serve_blocks(GetBlocks(2, 2), 300, (chain | huge).get, cert.get)
    assert served == Blocks(2, [chain[2]], b"cert 2")  # both would not fit a message


def test_whose_blocks_cannot_be_used_is_left_alone_for_a_while_and_not_blamed():
    sync = BlockSync(0)
    sync.peer_ready(1, 50)
    sync.tick(0)
    [(peer, request)] = sync.take_outgoing()
    sync.on_blocks(peer, reply(request))
    batch = sync.next_batch()
    sync.shut(peer, 1_000)
    sync.shut(9, 1_000)  # it is gone
    sync.report(batch, ok=False)
    sync.peer_ahead(peer)
    sync.tick(1_000 + limits.SYNC_COOLDOWN_MS - 1)
    assert sync.take_outgoing() == []
    assert sync.take_faults() == []
    sync.peer_ready(2, 50)
    sync.tick(2_000)
    assert [asked for asked, _ in sync.take_outgoing()] == [2]
    sync.peer_lost(2)
    sync.tick(1_000 + limits.SYNC_COOLDOWN_MS)
    assert [asked for asked, _ in sync.take_outgoing()] == [1]


def test_serve_ends_where_the_round_ends():
    chain = {height: block(height) for height in range(1, 301)}
    cert = {height: b"cert %d" % height for height in (2, 5, 6, 9)}
    for first, count, served in ((1, 50, 6), (1, 3, 5), (4, 1, 5), (5, 1, 5), (6, 1, 6), (7, 9, 6)):
        found = serve_blocks(GetBlocks(first, count), 6, chain.get, cert.get)
        assert first + len(found.blocks) - 1 == served


def test_serve_stops_at_the_byte_limit_but_sends_one():
    big = bytes(limits.BLOCKS_REPLY_BYTES // 2)
    served = serve_blocks(GetBlocks(1, 10), 10, lambda height: big, lambda height: b"c")
    assert len(served.blocks) == 2
    huge = bytes(limits.MAX_BLOCK_BYTES)
    served = serve_blocks(GetBlocks(1, 10), 10, lambda height: huge, lambda height: b"c")
    assert len(served.blocks) == 1


def test_split_txs():
    assert split_txs([]) == [[]]
    assert split_txs([b"a", b"b"]) == [[b"a", b"b"]]
    half = bytes(limits.TX_BATCH_BYTES // 2 + 1)
    assert split_txs([half, half, half]) == [[half], [half], [half]]
    assert split_txs([bytes(limits.MAX_BLOCK_BYTES)]) == [[bytes(limits.MAX_BLOCK_BYTES)]]
