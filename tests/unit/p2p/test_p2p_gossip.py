import random
from collections import Counter

import pytest

from cext import sha256d
from p2p import limits
from p2p.gossip import NewTx, TxGossip
from p2p.messages import KIND_TX, GetData, Inv, NotFound, Tx, encode


def tx(number, size=200):
    raw = number.to_bytes(8, "big") + bytes(size)
    return NewTx(sha256d(raw), raw)


class Node:
    """A mempool and a gossip core; every delivered transaction is accepted at once."""

    def __init__(self, room=None):
        self.pool = {}
        self.delivered = Counter()
        reserve = limits.GOSSIP_RESERVE_BYTES
        self.gossip = TxGossip(self.pool.get, *([lambda peer: room(peer) + reserve] if room else []))

    def take(self, peer, message, now):
        gossip = self.gossip
        match message:
            case Inv(_, hashes):
                gossip.on_inv(peer, hashes, now)
            case GetData(_, hashes):
                gossip.on_getdata(peer, hashes, now)
            case NotFound(_, hashes):
                gossip.on_notfound(peer, hashes, now)
            case Tx(txs):
                fresh = gossip.on_tx(peer, txs, now)
                for wtxid, raw in fresh:
                    self.delivered[wtxid] += 1
                    self.pool[wtxid] = raw
                gossip.accepted(new.wtxid for new in fresh)

    def submit(self, txs, now):
        self.pool.update(txs)
        self.gossip.submitted(txs, now)


class Net:
    """Nodes with links of random delay; messages between two nodes keep their order."""

    def __init__(self, count, links, seed=1, max_delay_ms=30):
        self.max_delay_ms = max_delay_ms
        self.dice = random.Random(seed)
        self.nodes = [Node() for _ in range(count)]
        self.links = set(links) | {(b, a) for a, b in links}
        self.now = 0
        self.queue = []  # (due, sequence, source, sink, message)
        self.last_due = {}
        self.sequence = 0
        self.sent = Counter()
        self.lose = lambda source, sink, message: False
        for source, sink in sorted(self.links):
            self.nodes[source].gossip.peer_ready(sink, 0)

    def collect(self):
        for source, node in enumerate(self.nodes):
            for sink, message in node.gossip.take_outgoing():
                encode(message)  # within its size limit
                self.sent[type(message)] += 1
                if (source, sink) not in self.links or self.lose(source, sink, message):
                    continue
                due = max(
                    self.now + self.dice.randint(1, self.max_delay_ms), self.last_due.get((source, sink), 0)
                )
                self.last_due[(source, sink)] = due
                self.sequence += 1
                self.queue.append((due, self.sequence, source, sink, message))

    def run(self, duration_ms):
        end = self.now + duration_ms
        while self.now < end:
            self.now += 5
            self.queue.sort()
            while self.queue and self.queue[0][0] <= self.now:
                _, _, source, sink, message = self.queue.pop(0)
                self.nodes[sink].take(source, message, self.now)
            if self.now % limits.FLUSH_INTERVAL_MS == 0:
                for node in self.nodes:
                    node.gossip.flush(self.now)
            self.collect()


MESH = [(a, b) for a in range(5) for b in range(a)]
LINE = [(0, 1), (1, 2), (2, 3), (3, 4)]
RING = [*LINE, (4, 0)]


@pytest.mark.parametrize("links", [MESH, LINE, RING], ids=["mesh", "line", "ring"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_transaction_reaches_every_node_exactly_once(links, seed):
    net = Net(5, links, seed)
    every = {}
    for step in range(20):
        batch = [tx(1_000 * step + number) for number in range(net.dice.randint(1, 40))]
        every.update(batch)
        net.nodes[net.dice.randrange(5)].submit(batch, net.now)
        net.run(20)
    net.run(2_000)
    for node in net.nodes:
        assert node.pool == every
        assert set(node.delivered.values()) <= {1}
        assert node.gossip.tracked == 0
    assert not net.queue


def test_a_transaction_is_sent_to_a_node_once_in_a_mesh():
    net = Net(5, MESH, max_delay_ms=10)
    net.nodes[0].submit([tx(number) for number in range(500)], 0)
    net.run(1_000)
    # 500 pushed in one message to each of 4 peers; nobody had to ask.
    assert net.sent[Tx] == 4
    assert net.sent[GetData] == 0
    assert sum(node.gossip.stats().duplicates for node in net.nodes) == 0


def test_many_transactions_travel_in_few_messages():
    net = Net(5, LINE)
    net.nodes[0].submit([tx(number) for number in range(4_000)], 0)
    net.run(2_000)
    assert all(len(node.pool) == 4_000 for node in net.nodes)
    assert sum(net.sent.values()) < 100


def test_beyond_eight_peers_it_is_announced_not_pushed():
    node = Node()
    for peer in range(limits.PUSH_MAX_PEERS + 1):
        node.gossip.peer_ready(peer, 0)
    node.submit([tx(1)], 0)
    node.gossip.flush(0)
    assert [message for _, message in node.gossip.take_outgoing()] == [Inv(KIND_TX, [tx(1).wtxid])] * 9


def test_large_transactions_are_announced():
    node = Node()
    node.gossip.peer_ready(1, 0)
    large = tx(1, limits.PUSH_MAX_TX_BYTES)
    node.submit([large], 0)
    node.gossip.flush(0)
    assert node.gossip.take_outgoing() == [(1, Inv(KIND_TX, [large.wtxid]))]


def test_nothing_goes_back_to_who_has_it():
    node = Node()
    node.gossip.peer_ready(1, 0)
    node.gossip.peer_ready(2, 0)
    node.take(1, Tx([tx(1).raw]), 0)
    node.take(2, Inv(KIND_TX, [tx(1).wtxid]), 0)
    node.gossip.flush(0)
    assert node.gossip.take_outgoing() == []


def test_two_announcers_one_question():
    node = Node()
    node.gossip.peer_ready(1, 0)
    node.gossip.peer_ready(2, 0)
    ids = [tx(number).wtxid for number in range(3)]
    node.take(1, Inv(KIND_TX, ids), 0)
    node.take(2, Inv(KIND_TX, ids), 0)
    assert node.gossip.take_outgoing() == [(1, GetData(KIND_TX, ids))]


def test_timeout_asks_the_other_announcer_and_gives_up_after_some_rounds():
    node = Node()
    node.gossip.peer_ready(1, 0)
    node.gossip.peer_ready(2, 0)
    wanted = [tx(1).wtxid]
    node.take(1, Inv(KIND_TX, wanted), 0)
    node.take(2, Inv(KIND_TX, wanted), 0)
    question = GetData(KIND_TX, wanted)
    assert node.gossip.take_outgoing() == [(1, question)]
    node.gossip.flush(limits.GETDATA_TIMEOUT_MS - 1)
    assert node.gossip.take_outgoing() == []
    asked = []
    for step in range(1, 10):
        node.gossip.flush(step * limits.GETDATA_TIMEOUT_MS)
        asked.extend(node.gossip.take_outgoing())
    assert asked == [(2, question), (1, question), (2, question), (1, question), (2, question)]
    assert node.gossip.tracked == 0
    node.take(1, Inv(KIND_TX, wanted), 100_000)  # may be announced again
    assert node.gossip.take_outgoing() == [(1, question)]


def test_notfound_asks_the_other_announcer_at_once():
    node = Node()
    node.gossip.peer_ready(1, 0)
    node.gossip.peer_ready(2, 0)
    wanted = [tx(1).wtxid]
    node.take(1, Inv(KIND_TX, wanted), 0)
    node.take(2, Inv(KIND_TX, wanted), 0)
    node.gossip.take_outgoing()
    node.take(2, NotFound(KIND_TX, wanted), 1)  # was not asked: nothing happens
    assert node.gossip.take_outgoing() == []
    node.take(1, NotFound(KIND_TX, wanted), 1)
    assert node.gossip.take_outgoing() == [(2, GetData(KIND_TX, wanted))]
    node.take(2, NotFound(KIND_TX, wanted), 2)  # nobody is left
    assert node.gossip.tracked == 0
    assert node.gossip.take_outgoing() == []


def test_a_lost_peer_hands_its_questions_on():
    node = Node()
    for peer in (1, 2, 3):
        node.gossip.peer_ready(peer, 0)
    many = [tx(number).wtxid for number in range(limits.MAX_IN_FLIGHT_PER_PEER + 10)]
    node.take(1, Inv(KIND_TX, many), 0)
    node.take(2, Inv(KIND_TX, many[:-1]), 0)
    node.gossip.take_outgoing()
    node.gossip.peer_lost(1, 0)
    node.gossip.flush(0)
    asked = [wtxid for peer, message in node.gossip.take_outgoing() for wtxid in message.hashes if peer == 2]
    assert len(asked) == limits.MAX_IN_FLIGHT_PER_PEER
    assert node.gossip.tracked == len(many) - 1  # the last had no other holder


def test_in_flight_is_limited_per_peer_and_goes_on():
    node = Node()
    node.gossip.peer_ready(1, 0)
    txs = [tx(number) for number in range(limits.MAX_IN_FLIGHT_PER_PEER + 500)]
    node.take(1, Inv(KIND_TX, [new.wtxid for new in txs]), 0)
    [(_, first)] = node.gossip.take_outgoing()
    assert len(first.hashes) == limits.MAX_IN_FLIGHT_PER_PEER
    node.take(1, Tx([new.raw for new in txs[:499]]), 10)
    assert node.gossip.take_outgoing() == []  # not in small portions
    node.take(1, Tx([txs[499].raw]), 10)
    [(_, second)] = node.gossip.take_outgoing()
    assert second.hashes == [new.wtxid for new in txs[limits.MAX_IN_FLIGHT_PER_PEER :]]


def test_a_flood_of_announcements_is_bounded():
    node = Node()
    node.gossip.peer_ready(1, 0)
    for step in range(20):
        ids = [sha256d(f"{step}/{number}".encode()) for number in range(limits.MAX_INV_HASHES)]
        node.take(1, Inv(KIND_TX, ids), 0)
    assert node.gossip.tracked == limits.MAX_WANTED_PER_PEER
    assert node.gossip.stats().dropped == 20 * limits.MAX_INV_HASHES - limits.MAX_WANTED_PER_PEER
    node.gossip.peer_ready(2, 0)  # another peer's place is its own
    node.take(2, Inv(KIND_TX, [tx(1).wtxid]), 0)
    assert (2, GetData(KIND_TX, [tx(1).wtxid])) in node.gossip.take_outgoing()


def test_a_burst_is_spread_below_what_the_peer_takes(monkeypatch):
    monkeypatch.setattr(limits, "PACE_TX_RATE", limits.Rate(1_000, 100))
    node = Node()
    node.gossip.peer_ready(1, 0)
    node.submit([tx(number) for number in range(150)], 0)
    sizes = []
    for now in range(0, 200, 20):
        node.gossip.flush(now)
        sizes.extend(len(message.txs) for _, message in node.gossip.take_outgoing())
    assert sizes == [100, 20, 20, 10]


def test_what_is_sent_above_the_rate_is_ignored(monkeypatch):
    monkeypatch.setattr(limits, "PEER_TX_RATE", limits.Rate(1_000, 10))
    gossip = TxGossip(lambda wtxid: None)
    gossip.peer_ready(1, 0)
    txs = [tx(number) for number in range(20)]
    assert gossip.on_tx(1, [new.raw for new in txs], 0) == txs[:10]
    gossip.on_inv(1, [tx(number).wtxid for number in range(100, 120)], 0)
    gossip.on_getdata(1, [new.wtxid for new in txs], 0)
    kinds = [(type(message), len(message.hashes)) for _, message in gossip.take_outgoing()]
    assert kinds == [(GetData, 10), (NotFound, 10)]
    assert gossip.stats().dropped == 30
    assert gossip.on_tx(1, [new.raw for new in txs[10:]], 5) == txs[10:15]


def test_unjudged_transactions_are_bounded_and_expire(monkeypatch):
    monkeypatch.setattr(limits, "MAX_JUDGING_TXS", 3)
    gossip = TxGossip(lambda wtxid: None)
    gossip.peer_ready(1, 0)
    txs = [tx(number) for number in range(5)]
    assert gossip.on_tx(1, [new.raw for new in txs], 0) == txs[:3]
    assert gossip.stats().dropped == 2
    gossip.refused([txs[0].wtxid])
    assert gossip.on_tx(1, [txs[4].raw], 1) == [txs[4]]
    gossip.flush(limits.JUDGING_TIMEOUT_MS + 1)
    assert gossip.tracked == 0
    assert gossip.on_tx(1, [txs[3].raw], 70_000) == [txs[3]]


def test_refused_transactions_do_not_come_back_unless_they_may():
    gossip = TxGossip(lambda wtxid: None)
    gossip.peer_ready(1, 0)
    for may_return in (False, True):
        new = tx(may_return)
        assert gossip.on_tx(1, [new.raw], 0) == [new]
        gossip.refused([new.wtxid], may_return=may_return)
        assert gossip.on_tx(1, [new.raw], 0) == ([new] if may_return else [])


def test_what_is_seen_is_remembered_for_two_generations(monkeypatch):
    monkeypatch.setattr(limits, "SEEN_IDS", 10)
    gossip = TxGossip(lambda wtxid: None)
    gossip.peer_ready(1, 0)
    txs = [tx(number) for number in range(25)]
    for new in txs:
        gossip.on_tx(1, [new.raw], 0)
        gossip.refused([new.wtxid])
    assert gossip.on_tx(1, [txs[12].raw], 0) == []
    assert gossip.on_tx(1, [txs[2].raw], 0) == [txs[2]]


def test_serving_waits_for_room_and_reports_what_is_missing():
    rooms = {1: 1_000}
    node = Node(lambda peer: rooms[peer])
    txs = [tx(number, 392) for number in range(10)]  # 400 bytes each
    node.pool.update(txs)
    node.gossip.peer_ready(1, 0)
    missing = tx(99).wtxid
    node.take(1, GetData(KIND_TX, [missing, *(new.wtxid for new in txs)]), 0)
    first, absent = [message for _, message in node.gossip.take_outgoing()]
    assert absent == NotFound(KIND_TX, [missing])
    assert len(first.txs) == 3
    rooms[1] = 0
    node.gossip.flush(20)
    assert node.gossip.take_outgoing() == []
    rooms[1] = 1_000_000
    node.gossip.flush(40)
    assert node.gossip.take_outgoing() == [(1, Tx([new.raw for new in txs[3:]]))]


def test_a_slow_peer_gets_its_announcements_later_and_bounded(monkeypatch):
    monkeypatch.setattr(limits, "MAX_OUTBOX_IDS", 8)
    rooms = {1: 0}
    node = Node(lambda peer: rooms[peer])
    node.gossip.peer_ready(1, 0)
    txs = [tx(number) for number in range(10)]
    node.submit(txs, 0)
    node.gossip.flush(0)
    assert node.gossip.take_outgoing() == []
    rooms[1] = 300
    node.gossip.flush(20)
    assert node.gossip.take_outgoing() == [(1, Tx([new.raw for new in txs[2:4]]))]
    rooms[1] = 10**6
    node.gossip.flush(40)
    assert node.gossip.take_outgoing() == [(1, Tx([new.raw for new in txs[4:]]))]


def test_a_new_peer_hears_of_the_pool():
    node = Node()
    node.pool.update([tx(1), tx(2)])
    node.gossip.peer_ready(1, 0, node.pool)
    node.gossip.flush(0)
    assert node.gossip.take_outgoing() == [(1, Inv(KIND_TX, [tx(1).wtxid, tx(2).wtxid]))]


def test_batches_are_cut_by_size():
    node = Node()
    node.gossip.peer_ready(1, 0)
    node.submit([tx(number, 3_000) for number in range(300)], 0)
    node.gossip.flush(0)
    messages = [message for _, message in node.gossip.take_outgoing()]
    assert len(messages) == 4
    assert all(len(encode(message)) <= limits.MAX_TX_MESSAGE_BYTES for message in messages)


def test_lost_messages_are_made_good():
    net = Net(5, RING, seed=7)
    net.lose = lambda source, sink, message: isinstance(message, GetData) and net.dice.random() < 0.5
    net.nodes[0].submit([tx(number, 5_000) for number in range(50)], 0)  # too large to be pushed
    net.run(200)
    net.lose = lambda source, sink, message: False
    net.run(3 * limits.GETDATA_TIMEOUT_MS)
    assert all(len(node.pool) == 50 for node in net.nodes)
    assert all(set(node.delivered.values()) <= {1} for node in net.nodes)


def test_places_of_lost_peers_are_used_again():
    gossip = TxGossip(lambda wtxid: None)
    for peer in range(100):
        gossip.peer_ready(peer, 0)
        if peer >= 3:
            gossip.peer_lost(peer - 3, 0)
    assert max(state.bit for state in gossip._peers.values()) <= 8
    gossip.peer_lost(12_345, 0)  # unknown peers are no bug
    assert gossip.on_tx(12_345, [b"x"], 0) == []
    gossip.on_inv(12_345, [bytes(32)], 0)
    gossip.on_getdata(12_345, [bytes(32)], 0)
    gossip.on_notfound(12_345, [bytes(32)], 0)
    assert gossip.take_outgoing() == []
