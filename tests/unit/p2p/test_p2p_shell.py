"""The network over real loopback sockets. Waits are for conditions, never for time to pass."""

import asyncio
import contextlib
import random
import time
from collections import Counter

import pytest
import uvloop

from cext import sha256d
from consensus.errors import LocalFault, PeerFault
from p2p import limits, shell
from p2p.gossip import NewTx, TxGossip
from p2p.limits import NetworkLimits
from p2p.messages import Bft, Blocks, GetBlocks, GetData, Inv, NotFound, Status, Tx
from p2p.noise import NodeKeys
from p2p.shell import Network

FAST = NetworkLimits(redial_first_ms=10, redial_cap_ms=50)
WAIT_S = 15


def seed(number):
    return bytes([number]) * 32


def identity(number):
    return NodeKeys(seed(number)).identity


class Node:
    """A network and a handler that records."""

    def __init__(self, number, make_hello, network_limits=FAST, **hello):
        self.number = number
        self.ready = []
        self.lost = []
        self.messages = []
        self.on_message_do = lambda peer, message: None
        self._news = asyncio.Event()
        self.network = Network(
            seed(number),
            lambda: make_hello(bytes(32), **hello),
            self,
            lambda: int(time.monotonic() * 1_000),
            random.Random(number).random,
            network_limits,
        )

    def on_peer_ready(self, peer):
        self.ready.append(peer)
        self._news.set()

    def on_peer_lost(self, peer, reason):
        self.lost.append((peer.id, reason))
        self._news.set()

    def on_message(self, peer, message):
        self.messages.append((peer.identity, message))
        self._news.set()
        self.on_message_do(peer, message)

    @property
    def connected(self):
        return {info.identity for info in self.network.peers()}

    async def until(self, condition):
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._news.clear()
                await self._news.wait()


async def until(condition):
    """For what no handler is told of: let the loop turn until it is so."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def nodes(make_hello):
    """Make started nodes; all are stopped at the end, and no task or bug is left behind."""
    made = []

    async def make(number, *, port=0, network_limits=FAST, **hello):
        node = Node(number, make_hello, network_limits, **hello)
        await node.network.start("127.0.0.1", port)
        made.append(node)
        return node

    yield make
    for node in made:
        failed = node.network.failed
        bug = failed.exception() if failed.done() and not failed.cancelled() else None
        await node.network.stop()
        assert bug is None or getattr(node, "expects_bug", False), bug
    assert [task for task in asyncio.all_tasks() if "dial" in repr(task)] == []


def join(a, b, pin=True):
    a.network.add_peer(*b.network.listen_address, b.network.identity if pin else None)


async def joined(a, b, pin=True):
    join(a, b, pin)
    await a.until(lambda: b.network.identity.hex() in a.connected)
    await b.until(lambda: a.network.identity.hex() in b.connected)


async def junk(address, data, read=True):
    """A client that speaks something else; returns when the node has closed on it."""
    reader, writer = await asyncio.open_connection(*address)
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
        if read:
            async with asyncio.timeout(WAIT_S):
                await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


# --- two nodes ----------------------------------------------------------------------------------


async def test_two_nodes_meet_and_talk(nodes):
    a, b = await nodes(1, height=4), await nodes(2, height=9)
    await joined(a, b)
    [at_a], [at_b] = a.ready, b.ready
    assert (at_a.identity, at_a.inbound, at_a.pinned) == (identity(2), False, True)
    assert (at_b.identity, at_b.inbound, at_b.pinned) == (identity(1), True, False)
    assert at_b.hello.listen_port == a.network.listen_address[1]
    assert a.network.send(identity(2), Bft(b"vote"))
    assert b.network.send_to(at_b.id, Status(10, bytes(32)))
    await b.until(lambda: (identity(1), Bft(b"vote")) in b.messages)
    await a.until(lambda: (identity(2), Status(10, bytes(32))) in a.messages)
    [info] = a.network.peers()
    assert info.height == 10
    assert info.identity == identity(2).hex()
    assert info.user_agent == "wattd:test"
    assert info.bytes_sent > 0 < info.bytes_received
    assert info.score == 0
    [target] = a.network.targets()
    assert target.connected
    assert not a.network.send(identity(3), Bft(b"nobody"))
    assert not a.network.send_to(999, Bft(b"nobody"))


async def test_stop_says_goodbye(nodes):
    a, b = await nodes(1), await nodes(2)
    await joined(a, b)
    await b.network.stop()
    await a.until(lambda: a.lost)
    assert a.lost == [(a.ready[0].id, "remote-closed:shutdown")]
    assert b.lost == [(b.ready[0].id, "shutdown")]
    assert a.network.peers() == []


async def test_a_killed_node_is_redialled_when_it_is_back(nodes):
    a, b = await nodes(1), await nodes(2)
    address = b.network.listen_address
    await joined(a, b)
    for link in list(b.network._links.values()):
        link.abort()  # as a kill does: no goodbye
    await b.network.stop()
    await a.until(lambda: a.lost)
    again = await nodes(2, port=address[1])
    await a.until(lambda: len(a.ready) == 2)
    await again.until(lambda: again.ready)
    assert a.network.send(identity(2), Bft(b"welcome back"))
    await again.until(lambda: again.messages)


async def test_dialling_starts_before_the_other_listens(nodes):
    a, b = await nodes(1), await nodes(2)
    address = b.network.listen_address
    await b.network.stop()
    a.network.add_peer(*address, identity(2))
    await until(lambda: a.network.targets()[0].attempts >= 2)
    assert a.network.targets()[0].last_error
    late = await nodes(2, port=address[1])
    await a.until(lambda: a.ready)
    await late.until(lambda: late.ready)


async def test_messages_arrive_in_order(nodes):
    a, b = await nodes(1), await nodes(2)
    await joined(a, b)
    sent = [Inv(0, [number.to_bytes(32, "big")]) for number in range(3_000)]
    for message in sent:
        a.network.send(identity(2), message)
    await b.until(lambda: len(b.messages) == len(sent))
    assert [message for _, message in b.messages] == sent


async def test_large_messages_and_votes_share_a_connection(nodes):
    a, b = await nodes(1), await nodes(2)
    await joined(a, b)
    large = Tx([bytes(250) for _ in range(1_000)])
    for _ in range(20):
        assert a.network.send(identity(2), large)
    assert a.network.send(identity(2), Bft(b"vote"))
    await b.until(lambda: len(b.messages) == 21)
    assert b.messages[0][1] == Bft(b"vote")  # queued last, sent first


# --- who is who ---------------------------------------------------------------------------------


async def test_wrong_pinned_identity(nodes):
    a, b = await nodes(1), await nodes(2)
    a.network.add_peer(*b.network.listen_address, identity(3))
    await until(lambda: "identity-mismatch" in a.network.targets()[0].last_error)
    assert a.ready == []
    assert b.ready == []


async def test_wrong_chain(nodes):
    a, b = await nodes(1), await nodes(2, chain_id=b"\xee" * 32)
    join(a, b)
    await until(lambda: "wrong-chain" in a.network.targets()[0].last_error)
    assert "ee" * 32 in a.network.targets()[0].last_error
    assert a.ready == b.ready == []
    assert a.network.bans() == b.network.bans() == []


async def test_self_connect_is_given_up(nodes):
    a = await nodes(1)
    a.network.add_peer(*a.network.listen_address)
    await until(lambda: a.network._targets[a.network.listen_address].task.done())
    assert a.network.targets()[0].last_error.startswith("self-connect")
    assert a.ready == []
    a.network.add_peer("127.0.0.1", 1, identity(1))  # pinned to ourselves: not even tried
    assert len(a.network.targets()) == 1


async def test_both_dial_each_other_and_keep_the_same_connection(nodes):
    for round_number in range(5):
        low, high = sorted((10 + 2 * round_number, 11 + 2 * round_number), key=identity)
        a, b = await nodes(low), await nodes(high)
        join(a, b, pin=False)  # unpinned, so that neither waits for the other
        join(b, a, pin=False)
        both = (a, b)
        await until(lambda both=both: all(len(x.connected) == len(x.network._links) == 1 for x in both))
        assert a.network.send(identity(high), Bft(b"x"))
        await b.until(lambda b=b: b.messages)
        [at_a], [at_b] = a.network.peers(), b.network.peers()
        assert at_a.inbound != at_b.inbound


async def test_the_lower_identity_s_connection_stays(nodes):
    low, high = sorted((1, 2), key=identity)
    a, b = await nodes(low), await nodes(high)
    join(b, a, pin=False)
    await a.until(lambda: a.ready)
    await b.until(lambda: b.ready)
    assert a.ready[0].inbound
    # The lower one dials by an address that it cannot know to be the same node.
    join(a, b, pin=False)
    await a.until(lambda: len(a.ready) == 2)
    await b.until(lambda: len(b.ready) == 2)
    for node in (a, b):
        [(lost, reason)] = node.lost
        assert lost == node.ready[0].id
        assert reason in ("duplicate", "remote-closed:duplicate")
    assert [info.inbound for info in a.network.peers()] == [False]
    assert [info.inbound for info in b.network.peers()] == [True]


async def test_two_addresses_of_one_node_make_one_connection(nodes):
    a, b = await nodes(1), await nodes(2)
    port = b.network.listen_address[1]
    a.network.add_peer("127.0.0.1", port)
    a.network.add_peer("localhost", port)
    await a.until(lambda: a.ready)
    await until(lambda: any(target.last_error == "duplicate" for target in a.network.targets()))
    await until(lambda: len(a.network._links) == 1)
    assert len(a.ready) == len(b.ready) == 1
    assert a.lost == b.lost == []


async def test_a_crashed_peer_s_old_connection_makes_way(nodes):
    a, b = await nodes(1), await nodes(2)
    await joined(b, a)
    twin = await nodes(2)  # the same identity, started again while a still believes in the old one
    join(twin, a)
    await a.until(lambda: len(a.ready) == 2)
    assert a.lost == [(a.ready[0].id, "duplicate")]
    assert len(a.network.peers()) == 1


# --- four nodes ---------------------------------------------------------------------------------


class GossipNode(Node):
    """A node with a mempool that accepts everything."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.pool = {}
        self.delivered = Counter()
        self.gossip = TxGossip(self.pool.get, self.network.room)
        self.flusher = None

    async def start(self):
        await self.network.start("127.0.0.1", 0)
        self.flusher = asyncio.create_task(self.flush_for_ever())

    async def stop(self):
        self.flusher.cancel()
        await asyncio.gather(self.flusher, return_exceptions=True)
        await self.network.stop()

    async def flush_for_ever(self):
        while True:
            self.gossip.flush(int(time.monotonic() * 1_000))
            self.carry_out()
            await asyncio.sleep(limits.FLUSH_INTERVAL_MS / 1_000)

    def carry_out(self):
        for peer, message in self.gossip.take_outgoing():
            self.network.send_to(peer, message)

    def submit(self, txs):
        self.pool.update(txs)
        self.gossip.submitted(txs, int(time.monotonic() * 1_000))

    def on_peer_ready(self, peer):
        self.gossip.peer_ready(peer.id, 0, self.pool)
        super().on_peer_ready(peer)

    def on_peer_lost(self, peer, reason):
        self.gossip.peer_lost(peer.id, 0)
        super().on_peer_lost(peer, reason)

    def on_message(self, peer, message):
        now = int(time.monotonic() * 1_000)
        match message:
            case Inv(_, hashes):
                self.gossip.on_inv(peer.id, hashes, now)
            case GetData(_, hashes):
                self.gossip.on_getdata(peer.id, hashes, now)
            case NotFound(_, hashes):
                self.gossip.on_notfound(peer.id, hashes, now)
            case Tx(txs):
                fresh = self.gossip.on_tx(peer.id, txs, now)
                self.pool.update(fresh)
                self.delivered.update(new.wtxid for new in fresh)
                self.gossip.accepted(new.wtxid for new in fresh)
        self.carry_out()
        self._news.set()


@contextlib.asynccontextmanager
async def mesh(make_hello, count):
    members = [GossipNode(number, make_hello) for number in range(1, count + 1)]
    for node in members:
        await node.start()
    for node in members:
        for other in members:
            if other is not node:
                join(node, other)
    for node in members:
        await node.until(lambda node=node: len(node.connected) == count - 1)
    try:
        yield members
    finally:
        for node in members:
            await node.stop()


def some_txs(count, tag=b""):
    raws = (tag + number.to_bytes(8, "big") + bytes(240) for number in range(count))
    return [NewTx(sha256d(raw), raw) for raw in raws]


async def test_ten_thousand_transactions_reach_four_nodes_exactly_once(make_hello):
    async with mesh(make_hello, 4) as members:
        txs = some_txs(10_000)
        for at in range(0, len(txs), 100):
            members[at // 100 % 4].submit(txs[at : at + 100])
            if at % 1_000 == 0:
                await asyncio.sleep(0)
        for node in members:
            await node.until(lambda node=node: len(node.pool) == len(txs))
        assert all(set(node.delivered.values()) == {1} for node in members)
        assert all(node.network.peers()[0].score == 0 for node in members)


async def test_eighty_garbage_clients_disturb_nobody(make_hello):
    dice = random.Random(80)
    async with mesh(make_hello, 2) as members:
        address = members[0].network.listen_address
        attacks = [dice.randbytes(dice.choice((1, 2, 33, 500, 5_000))) for _ in range(76)]
        attacks += [b"GET / HTTP/1.1\r\n\r\n", bytes(2), b"\x20\x00" + bytes(32), b"\xff" * 70_000]
        clients = [asyncio.create_task(junk(address, data, read=len(data) > 34)) for data in attacks]
        members[1].submit(some_txs(2_000))
        await members[0].until(lambda: len(members[0].pool) == 2_000)
        await asyncio.gather(*clients)
        members[1].submit(some_txs(100, b"after"))
        await members[0].until(lambda: len(members[0].pool) == 2_100)
        await until(lambda: len(members[0].network._links) == 1)
        assert members[0].lost == members[1].lost == []
        assert members[0].network.bans() == []  # loopback is never banned


async def test_four_nodes_dialling_each_other_end_in_a_mesh(nodes):
    four = [await nodes(number) for number in (1, 2, 3, 4)]
    for node in four:
        for other in four:
            if node is not other:
                join(node, other)
    for node in four:
        await node.until(lambda node=node: len(node.connected) == 3)
    await until(lambda: all(len(node.network._links) == 3 for node in four))
    assert four[0].network.broadcast(Bft(b"to all")) == 3
    for node in four[1:]:
        await node.until(lambda node=node: (identity(1), Bft(b"to all")) in node.messages)
    one = next(peer for peer in four[0].network.peers() if peer.identity == identity(2).hex())
    assert four[0].network.broadcast(Bft(b"but one"), except_peer=one.id) == 2


# --- faults -------------------------------------------------------------------------------------


async def test_occupied_port(nodes, make_hello):
    a = await nodes(1)
    host, port = a.network.listen_address
    other = Node(2, make_hello)
    with pytest.raises(LocalFault) as caught:
        await other.network.start(host, port)
    assert caught.value.code == "port-in-use"
    assert f"{host}:{port}" in caught.value.reason
    await other.network.stop()


async def test_address_that_is_not_ours(make_hello):
    node = Node(1, make_hello)
    with pytest.raises(LocalFault) as caught:
        await node.network.start("192.0.2.1", 0)
    assert caught.value.code == "listen-failed"
    await node.network.stop()


async def test_faults_of_the_node_s_judgement_end_in_a_ban(nodes):
    a, b = await nodes(1), await nodes(2)
    await joined(b, a)

    def refuse(peer, message):
        raise PeerFault("bad-vote", "no")

    a.on_message_do = refuse
    for _ in range(5):
        b.network.send(identity(1), Bft(b"vote"))
    await a.until(lambda: a.lost)
    assert a.lost == [(a.ready[0].id, "bad-vote")]
    [(name, left_ms, code)] = a.network.bans()
    assert (name, code) == (identity(2), "bad-vote")
    assert 0 < left_ms <= limits.BAN_MS
    await until(lambda: "banned" in b.network.targets()[0].last_error)
    assert len(a.ready) == 1
    assert a.network.unban(identity(2))
    await a.until(lambda: len(a.ready) == 2)


async def test_pinned_peers_are_only_slowed_down(nodes):
    a, b = await nodes(1), await nodes(2)
    await joined(a, b)
    a.network.penalise(a.ready[0].id, "bad-vote", limits.BAN_SCORE)
    await a.until(lambda: a.lost)
    [(_, left_ms, _)] = a.network.bans()
    assert left_ms <= limits.BAN_PINNED_MS


async def test_points_are_remembered_across_connections(nodes):
    a, b = await nodes(1), await nodes(2)
    await joined(b, a)
    a.network.penalise(a.ready[0].id, "bad-vote", 60)
    assert a.network.peers()[0].score == 60
    a.network.disconnect(a.ready[0].id, "disconnected")
    await a.until(lambda: len(a.ready) == 2)
    assert a.network.peers()[0].score == 60
    a.network.penalise(a.ready[1].id, "bad-vote", 60)
    await a.until(lambda: len(a.lost) == 2)
    assert [code for _, _, code in a.network.bans()] == ["bad-vote"]


async def test_ban_and_disconnect_by_hand(nodes):
    a, b = await nodes(1), await nodes(2)
    await joined(b, a)
    a.network.ban(identity(2), 60_000)
    await a.until(lambda: a.lost)
    await b.until(lambda: b.lost)
    assert b.lost[0][1] == "remote-closed:banned"
    assert not a.network.unban(identity(3))
    assert not a.network.disconnect(999, "x")


async def test_unauthenticated_faults_ban_the_address_unless_loopback(nodes, monkeypatch):
    a = await nodes(1)
    monkeypatch.setattr(shell, "is_loopback", lambda host: False)
    for _ in range(4):
        await junk(a.network.listen_address, b"GET / HTTP/1.1\r\n\r\n")
    [(name, _, code)] = a.network.bans()
    assert (name, code) == (b"127.0.0.1", "handshake-malformed")
    await junk(a.network.listen_address, b"\x20\x00")  # closed without a word
    await until(lambda: not a.network._links)


async def test_places_for_strangers_are_limited_but_not_for_pinned_peers(nodes):
    a = await nodes(1, network_limits=NetworkLimits(redial_first_ms=10, redial_cap_ms=50, max_inbound=1))
    b, c, d = await nodes(2), await nodes(3), await nodes(4)
    a.network.add_peer("127.0.0.1", 1, identity(4))  # pinned, at an address that does not answer
    await joined(b, a)
    join(c, a)
    await until(lambda: c.network.targets()[0].last_error == "remote-closed: too-many-peers")
    await joined(d, a)
    assert a.connected == {identity(2).hex(), identity(4).hex()}


ONE_PLACE = NetworkLimits(redial_first_ms=10, redial_cap_ms=50, max_inbound=1)


async def test_a_validator_that_nobody_configured_has_a_place(nodes):
    """An attacker holds the places for strangers; who is elected gets in nevertheless."""
    a = await nodes(1, network_limits=ONE_PLACE)
    attacker, elected, other = await nodes(2), await nodes(3), await nodes(4)
    await joined(attacker, a)
    join(elected, a)
    await until(lambda: elected.network.targets()[0].last_error == "remote-closed: too-many-peers")
    a.network.protect([identity(3), identity(9)])
    await a.until(lambda: identity(3).hex() in a.connected)
    assert a.connected == {identity(2).hex(), identity(3).hex()}
    assert {info.identity for info in a.network.peers() if info.pinned} == {identity(3).hex()}
    assert a.ready[-1].pinned
    join(other, a)
    await until(lambda: other.network.targets()[0].last_error == "remote-closed: too-many-peers")
    assert a.lost == []


async def test_who_is_elected_leaves_its_place_to_strangers(nodes):
    a = await nodes(1, network_limits=ONE_PLACE)
    b, c = await nodes(2), await nodes(3)
    await joined(b, a)
    a.network.protect([identity(2)])
    await joined(c, a)
    assert (a.connected, a.lost) == ({identity(2).hex(), identity(3).hex()}, [])


async def test_whose_term_is_over_is_a_stranger_again_and_one_makes_room(nodes):
    a = await nodes(1, network_limits=ONE_PLACE)
    b, c, d = await nodes(2), await nodes(3), await nodes(4)
    a.network.protect([identity(2), identity(3)])
    for node in (b, c, d):
        await joined(node, a)
    a.network.penalise(a.ready[1].id, "bad-vote", 10)
    [_, worst, youngest] = a.ready
    a.network.protect([])
    await a.until(lambda: len(a.lost) == 2)
    assert a.lost == [(worst.id, "too-many-peers"), (youngest.id, "too-many-peers")]
    assert a.connected == {identity(2).hex()}


async def test_protected_peers_are_only_slowed_down_and_old_bans_end(nodes):
    a, b, c = await nodes(1), await nodes(2), await nodes(3)
    for node in (b, c):
        await joined(node, a)
    a.network.penalise(a.ready[0].id, "bad-vote", limits.BAN_SCORE)
    await a.until(lambda: a.lost)
    [(_, left_ms, _)] = a.network.bans()
    assert left_ms > limits.BAN_PINNED_MS
    a.network.protect([identity(2), identity(3)])
    a.network.penalise(a.ready[1].id, "bad-vote", limits.BAN_SCORE)
    await a.until(lambda: len(a.lost) == 2)
    assert {name for name, _, _ in a.network.bans()} == {identity(2), identity(3)}
    assert all(left_ms <= limits.BAN_PINNED_MS for _, left_ms, _ in a.network.bans())


async def test_places_for_handshakes_are_limited(nodes, monkeypatch):
    monkeypatch.setattr(limits, "MAX_HANDSHAKING", 3)
    a = await nodes(1)
    silent = [await asyncio.open_connection(*a.network.listen_address) for _ in range(3)]
    await until(lambda: len(a.network._links) == 3)
    await junk(a.network.listen_address, b"")
    assert len(a.network._links) == 3
    for _, writer in silent:
        writer.close()
    await until(lambda: not a.network._links)
    await joined(await nodes(2), a)


async def test_one_address_may_not_take_all_handshakes(nodes, monkeypatch):
    monkeypatch.setattr(limits, "MAX_HANDSHAKING_PER_ADDRESS", 2)
    monkeypatch.setattr(shell, "is_loopback", lambda host: False)
    a = await nodes(1)
    silent = [await asyncio.open_connection(*a.network.listen_address) for _ in range(2)]
    await until(lambda: len(a.network._links) == 2)
    await junk(a.network.listen_address, b"")
    assert len(a.network._links) == 2
    for _, writer in silent:
        writer.close()


async def test_a_silent_client_is_dropped(nodes):
    a = await nodes(1, network_limits=NetworkLimits(handshake_timeout_ms=50))
    await junk(a.network.listen_address, b"\x20")
    await until(lambda: not a.network._links)


async def test_a_peer_that_does_not_read(nodes):
    slow_limits = NetworkLimits(redial_first_ms=10, send_urgent_bytes=200_000, send_bulk_bytes=200_000)
    a, b = await nodes(1, network_limits=slow_limits), await nodes(2)
    await joined(b, a)
    for link in b.network._links.values():
        link._transport.pause_reading()
    payload = Bft(bytes(90_000))
    bulk = Tx([bytes(90_000)])
    while a.network.send(identity(2), bulk):
        await asyncio.sleep(0)
    assert a.network.room(a.ready[0].id) < 200_000
    assert a.network.peers()[0].messages_dropped == 1
    assert a.network.peers()[0].send_queue_bytes < 500_000
    while a.network.send(identity(2), payload):
        await asyncio.sleep(0)
    assert a.lost == [(a.ready[0].id, "send-queue-full")]
    assert a.network.room(a.ready[0].id) == 0


async def test_all_queues_together_are_bounded(nodes, monkeypatch):
    monkeypatch.setattr(limits, "SEND_TOTAL_BYTES", 300_000)
    a, b = await nodes(1), await nodes(2)
    await joined(b, a)
    taken = [a.network.send(identity(2), Tx([bytes(100_000)])) for _ in range(5)]
    assert taken == [True, True, False, False, False]
    await b.until(lambda: len(b.messages) == 2)
    assert a.network.send(identity(2), Tx([bytes(100_000)]))  # what has left counts no more


async def test_a_bug_in_the_handler_does_not_pass_unseen(nodes):
    a, b = await nodes(1), await nodes(2)
    a.expects_bug = True
    await joined(b, a)

    def broken(peer, message):
        raise KeyError("bug")

    a.on_message_do = broken
    b.network.send(identity(1), Bft(b"x"))
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(KeyError):
            await a.network.failed


async def test_the_handler_may_close_while_it_is_called(nodes):
    a, b = await nodes(1), await nodes(2)
    await joined(b, a)
    a.on_message_do = lambda peer, message: a.network.disconnect(peer.id, "enough")
    for _ in range(3):
        b.network.send(identity(1), Bft(b"x"))
    await b.until(lambda: b.lost)
    assert len(a.messages) == 1
    assert b.lost[0][1] == "remote-closed:enough"


async def test_unasked_answers_cost_the_connection(nodes):
    a, b = await nodes(1), await nodes(2)
    await joined(b, a)
    a.network.send(identity(2), GetBlocks(1, 10))
    await b.until(lambda: b.messages)
    a.network._ready[identity(2)].connection._credits.clear()  # as if it had never asked
    b.network.send(identity(1), Blocks(1, [b"x"], b"c"))
    await a.until(lambda: a.lost)
    assert a.lost[0][1] == "unrequested-message"


# --- the other event loop -----------------------------------------------------------------------


def test_it_runs_on_uvloop(make_hello):
    async def scene():
        async with mesh(make_hello, 3) as members:
            members[0].submit(some_txs(1_000))
            for node in members:
                await node.until(lambda node=node: len(node.pool) == 1_000)
            await junk(members[0].network.listen_address, b"GET / HTTP/1.1\r\n\r\n")
            assert all(len(node.connected) == 2 for node in members)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())
