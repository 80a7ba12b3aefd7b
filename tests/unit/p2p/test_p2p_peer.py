import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import limits
from p2p.framing import frame, record
from p2p.limits import NetworkLimits
from p2p.messages import (
    KIND_BLOCK,
    KIND_TX,
    Bft,
    Blocks,
    Body,
    Bye,
    GetBlocks,
    GetData,
    GetTxs,
    Inv,
    Ping,
    Pong,
    Status,
    Tx,
    Txs,
    encode,
)
from p2p.noise import NodeKeys
from p2p.peer import TRANSITIONS, Closed, Connection, Fault, Greeted, Received, Secured, State, Step, Throttle

OTHER = NodeKeys(b"\x03" * 32)


def kinds(events):
    return [type(event) for event in events]


def faults(events):
    return [event.code for event in events if isinstance(event, Fault)]


def closed(events):
    return next((event for event in events if isinstance(event, Closed)), None)


def say(wire, *encoded):
    """The client's channel says these bytes, whatever its own state machine thinks; the server's events."""
    plain = b"".join(frame(data) for data in encoded)
    events = []
    for at in range(0, len(plain), limits.MAX_NOISE_PLAIN_BYTES):
        sealed = wire.client._noise.encrypt(plain[at : at + limits.MAX_NOISE_PLAIN_BYTES])
        events.extend(wire.server.receive(record(sealed), wire.now_ms))
    return events


# --- the good path --------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_two_sides_become_ready(make_wire, chunk):
    wire = make_wire().run(chunk)
    for events, keys, height in (
        (wire.client_events, wire.server_keys, 9),
        (wire.server_events, wire.client_keys, 5),
    ):
        assert kinds(events) == [Secured, Greeted]
        assert events[0].static_key == keys.static_public
        assert events[1].hello.identity == keys.identity
        assert events[1].hello.height == height
    assert wire.client.state is wire.server.state is State.READY


def test_messages_flow_both_ways_and_are_counted(make_wire):
    wire = make_wire().ready()
    assert wire.client.send(Bft(b"vote"))
    assert wire.server.send(Status(10, bytes(32)))
    wire.run()
    assert wire.server_events == [Received(Bft(b"vote"))]
    assert wire.client_events == [Received(Status(10, bytes(32)))]
    assert wire.client.bytes_sent == wire.server.bytes_received > 0
    assert wire.client.messages_sent == wire.server.messages_received == 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=4), st.integers(1, 70_000))
def test_events_do_not_depend_on_chunking(make_wire, sizes, chunk):
    wire = make_wire().ready()
    sent = [Bft(bytes([index]) * size) for index, size in enumerate(sizes)]
    for message in sent:
        wire.client.send(message)
    wire.run(chunk)
    assert wire.server_events == [Received(message) for message in sent]


def test_every_step_of_the_table_and_no_other():
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[State.CLOSED] == {}
    for state in (State.HANDSHAKING, State.HELLO, State.READY):
        assert TRANSITIONS[state][Step.CLOSED] is State.CLOSED


# --- who is it? -----------------------------------------------------------------------------------


def test_pinned_identity(make_wire):
    wire = make_wire(pinned=NodeKeys(b"\x02" * 32).identity).run()
    assert wire.client.state is State.READY


def test_wrong_pinned_identity_learns_nothing(make_wire):
    wire = make_wire(pinned=OTHER.identity).run()
    assert faults(wire.client_events) == ["identity-mismatch"]
    assert closed(wire.client_events).code == "identity-mismatch"
    assert wire.server.state is State.HANDSHAKING
    assert wire.server.remote_static is None


def test_hello_with_another_identity(make_wire, make_hello):
    wire = make_wire(client_hello=make_hello(OTHER.identity)).run()
    assert closed(wire.server_events).code == "identity-mismatch"
    assert closed(wire.client_events) == Closed("remote-closed", "identity-mismatch", True)


def test_hello_with_an_identity_that_is_no_key(make_wire, make_hello):
    wire = make_wire(client_hello=make_hello(bytes(32))).run()
    assert closed(wire.server_events).code == "bad-identity"


def test_pinned_key_of_the_other_sign_is_refused(make_wire, make_hello):
    # A key and its negative share the X25519 form, so hello must be compared as well.
    identity = NodeKeys(b"\x02" * 32).identity
    negative = identity[:31] + bytes([identity[31] ^ 0x80])
    wire = make_wire(pinned=identity, server_hello=make_hello(negative)).run()
    assert closed(wire.client_events).code == "identity-mismatch"


def test_self_connect(make_wire):
    wire = make_wire(server_seed=b"\x01" * 32).run()
    assert closed(wire.client_events).code == "self-connect"


def test_wrong_chain_is_told_to_both(make_wire, make_hello):
    wire = make_wire(server_hello=make_hello(NodeKeys(b"\x02" * 32).identity, chain_id=b"\xee" * 32)).run()
    assert closed(wire.client_events).code == "wrong-chain"
    assert "ee" * 32 in closed(wire.client_events).reason
    assert closed(wire.server_events).code == "wrong-chain"


def test_obsolete_version(make_wire, make_hello):
    wire = make_wire(client_hello=make_hello(NodeKeys(b"\x01" * 32).identity, version=0)).run()
    assert closed(wire.server_events).code == "obsolete-version"


# --- garbage --------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.booleans(), st.binary(min_size=2, max_size=200))
def test_garbage_instead_of_a_handshake(make_wire, to_server, junk):
    wire = make_wire()
    victim = wire.server if to_server else wire.client
    events = list(victim.receive(junk, 0))
    assert set(faults(events)) <= {"handshake-malformed"}
    assert victim.state in (State.HANDSHAKING, State.CLOSED)
    assert list(victim.receive(junk, 0)) == [] or victim.state is State.CLOSED


@pytest.mark.parametrize(
    "text", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", bytes(64), b"\xff" * 64]
)
def test_other_protocols_are_refused_at_once(make_wire, text):
    events = list(make_wire().server.receive(text, 0))
    assert faults(events) == ["handshake-malformed"]
    assert kinds(events) == [Fault, Closed]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_garbage_at_every_stage(make_wire, stage):
    """After `stage` good flights the next one is junk of the right length."""
    wire = make_wire()
    sides = [(wire.client, wire.server), (wire.server, wire.client)]
    for step in range(stage):
        source, sink = sides[step % 2]
        assert faults(sink.receive(wire.drain(source), 0)) == []
    source, sink = sides[stage % 2]
    size = len(wire.drain(source)) or 50
    length = {0: 32, 1: 96, 2: 64}.get(stage, size)
    events = list(sink.receive(record(b"\xa5" * length), 0))
    if stage == 0:  # any 32 bytes are a key; the client must fail to use the answer
        events = list(wire.client.receive(wire.drain(wire.server), 0))
    assert faults(events) == [{3: "decrypt-failed"}.get(stage, "handshake-malformed")]
    assert closed(events) is not None


def test_a_damaged_record_ends_the_connection(make_wire):
    wire = make_wire().ready()
    wire.client.send(Bft(b"x"))
    data = bytearray(wire.drain(wire.client))
    data[-1] ^= 1
    events = list(wire.server.receive(bytes(data), 0))
    assert faults(events) == ["decrypt-failed"]
    assert closed(events).code == "decrypt-failed"
    assert list(wire.server.receive(b"more", 0)) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=6))
def test_authenticated_garbage_never_raises(make_wire, payloads):
    wire = make_wire().ready()
    for payload in payloads:
        sealed = wire.client._noise.encrypt(payload)
        assert set(kinds(wire.server.receive(record(sealed), 0))) <= {Received, Fault, Closed}


@pytest.mark.parametrize(
    ("plain", "code"),
    [
        (b"", "frame-malformed"),
        (bytes(6), "frame-malformed"),
        (b"\xff\xff\xff\xff\x92\x10", "frame-too-large"),
        (b"\x11\x00\x00\x00\x92\x02", "frame-too-large"),
    ],
)
def test_bad_frames_end_the_connection(make_wire, plain, code):
    wire = make_wire().ready()
    events = list(wire.server.receive(record(wire.client._noise.encrypt(plain)), 0))
    assert faults(events) == [code]
    assert closed(events).code == code


def before_hello(wire):
    """Finish the handshake, but keep the client's hello back; its channel starts again at nonce 0."""
    list(wire.server.receive(wire.drain(wire.client), 0))
    list(wire.client.receive(wire.drain(wire.server), 0))
    handshake_end = wire.client._wire[0]
    wire.client._wire.clear()
    assert kinds(wire.server.receive(handshake_end, 0)) == [Secured]
    wire.client._noise._outgoing._number = 0
    return wire


@pytest.mark.parametrize(
    "early", [encode(Bft(b"early")), encode(Ping(1)), msgpack.packb([99, 1]), encode(Tx([b"t"]))]
)
def test_only_hello_is_taken_first(make_wire, early):
    wire = before_hello(make_wire())
    assert wire.server.state is State.HELLO
    assert not wire.server.send(Bft(b"nor is anything sent"))
    events = say(wire, early)
    assert faults(events) == ["unexpected-message"]
    assert closed(events) is not None


def test_a_bad_hello_ends_the_connection(make_wire):
    events = say(before_hello(make_wire()), msgpack.packb([1, 1, b"short"]))
    assert faults(events) == ["bad-message"]
    assert closed(events).code == "bad-message"


def test_a_second_hello(make_wire, make_hello):
    wire = make_wire().ready()
    events = say(wire, encode(make_hello(wire.client_keys.identity)))
    assert faults(events) == ["unexpected-message"]


def test_bad_message_is_charged_and_the_stream_goes_on(make_wire):
    wire = make_wire().ready()
    events = say(wire, msgpack.packb([2, "x"]), encode(Bft(b"good")))
    assert [kinds(events), faults(events)] == [[Fault, Received], ["bad-message"]]
    assert events[0].reason.startswith("ping.nonce")


def test_unknown_types_are_ignored_up_to_a_rate(make_wire):
    wire = make_wire().ready()
    unknown = msgpack.packb([77, 1])
    assert say(wire, *[unknown] * limits.UNKNOWN_PER_MINUTE) == []
    assert faults(say(wire, unknown)) == ["unknown-flood"]
    wire.now_ms += 60_000
    assert say(wire, *[unknown] * limits.UNKNOWN_PER_MINUTE) == []
    assert wire.server.unknown_messages == 2 * limits.UNKNOWN_PER_MINUTE + 1


# --- answers --------------------------------------------------------------------------------------


def test_answers_are_taken_only_when_asked_for(make_wire):
    wire = make_wire().ready()
    events = say(wire, encode(Blocks(1, [b"b"], b"c")))
    assert faults(events) == ["unrequested-message"]
    assert closed(events) is not None


def test_one_answer_per_question(make_wire):
    wire = make_wire().ready()
    wire.server.send(GetBlocks(1, 5))
    wire.run()
    assert kinds(say(wire, encode(Blocks(1, [b"b"], b"c")))) == [Received]
    assert faults(say(wire, encode(Blocks(1, [b"b"], b"c")))) == ["unrequested-message"]


def test_an_unasked_large_answer_is_refused_by_its_head(make_wire):
    wire = make_wire().ready()
    head = (4_000_000).to_bytes(4, "little") + b"\x94\x0a"
    events = list(wire.server.receive(record(wire.client._noise.encrypt(head)), 0))
    assert faults(events) == ["unrequested-message"]


def test_gettxs_may_be_answered_in_parts(make_wire):
    wire = make_wire().ready()
    wire.server.send(GetTxs(bytes(32), [bytes(32), b"\x01" * 32]))
    wire.run()
    part = encode(Txs(bytes(32), [b"t"]))
    assert kinds(say(wire, part, part)) == [Received, Received]
    assert faults(say(wire, part)) == ["unrequested-message"]


def test_getdata_of_blocks_is_answered_by_bodies(make_wire):
    wire = make_wire().ready()
    wire.server.send(GetData(KIND_BLOCK, [bytes(32), b"\x01" * 32]))
    wire.server.send(GetData(KIND_TX, [bytes(32)]))
    wire.run()
    body = encode(Body(bytes(32), b"b"))
    assert kinds(say(wire, body, body)) == [Received, Received]
    assert faults(say(wire, body)) == ["unrequested-message"]


# --- limits ---------------------------------------------------------------------------------------


def test_message_rate(make_wire):
    wire = make_wire().ready()
    burst = limits.RATES["control"].burst
    ping = encode(Ping(1))
    assert faults(say(wire, *[ping] * burst)) == []
    assert faults(say(wire, ping)) == ["rate-exceeded"]
    wire.now_ms += 1_000
    assert faults(say(wire, *[ping] * limits.RATES["control"].per_s)) == []


def test_large_messages_cost_more(make_wire):
    wire = make_wire().ready()
    full = encode(Inv(0, [bytes(32)] * limits.MAX_INV_HASHES))
    tokens = 1 + len(full) // limits.MESSAGE_TOKEN_BYTES
    events = []
    for _ in range(limits.RATES["gossip"].burst // tokens):
        events.extend(say(wire, full))
    assert faults(events) == []
    assert faults(say(wire, full)) == ["rate-exceeded"]


def test_too_many_tips_are_dropped_but_not_charged(make_wire):
    wire = make_wire().ready()
    status = encode(Status(1, bytes(32)))
    events = say(wire, *[status] * (limits.RATES["status"].burst + 5))
    assert kinds(events) == [Received] * limits.RATES["status"].burst
    assert wire.server.messages_dropped == 5


def test_bytes_rate_slows_reading(make_wire, monkeypatch):
    monkeypatch.setattr(limits, "BYTES_RATE", limits.Rate(1_000, 10_000))
    wire = make_wire().ready()
    events = say(wire, encode(Bft(bytes(20_000))))
    assert kinds(events) == [Received, Throttle]
    assert 9_000 < events[1].delay_ms < 12_000


def test_bulk_beyond_the_budget_is_dropped(make_wire):
    wire = make_wire(network_limits=NetworkLimits(send_bulk_bytes=1_000)).ready()
    assert wire.client.send(Tx([bytes(5_000)]))  # an empty queue takes any message
    assert not wire.client.send(Tx([b"x"]))
    assert wire.client.bulk_room == 0
    assert wire.client.send(Bft(b"vote"))
    assert wire.client.messages_dropped == 1
    wire.run()
    assert [event.message for event in wire.server_events] == [Bft(b"vote"), Tx([bytes(5_000)])]
    assert wire.client.send(Tx([b"x"]))


def test_consensus_beyond_the_budget_is_fatal(make_wire):
    wire = make_wire(network_limits=NetworkLimits(send_urgent_bytes=1_000)).ready()
    wire.client.send(Bft(bytes(900)))
    assert not wire.client.send(GetTxs(bytes(32), [bytes(32)] * 5))  # urgent, but not consensus
    with pytest.raises(OverflowError):
        wire.client.send(Bft(bytes(900)))


# --- time -----------------------------------------------------------------------------------------


def test_silent_handshake_times_out(make_wire):
    wire = make_wire()
    assert wire.server.tick(1_000 + limits.HANDSHAKE_TIMEOUT_MS - 1) == []
    events = wire.server.tick(1_000 + limits.HANDSHAKE_TIMEOUT_MS)
    assert faults(events) == ["handshake-timeout"]
    assert closed(events).code == "handshake-timeout"
    assert wire.drain(wire.server) == b""


def test_slow_loris_in_the_handshake(make_wire):
    wire = make_wire()
    first = wire.drain(wire.client)
    now = 1_000
    for at in range(len(first)):  # a byte every 200 ms does not buy time
        assert list(wire.server.receive(first[at : at + 1], now)) == []
        now += 200
        if wire.server.tick(now):
            break
    assert wire.server.state is State.CLOSED


def test_hello_that_never_comes(make_wire):
    wire = before_hello(make_wire())
    assert faults(wire.server.tick(1_000 + limits.HANDSHAKE_TIMEOUT_MS)) == ["handshake-timeout"]


def test_pings_measure_and_repeat(make_wire):
    wire = make_wire().ready()
    wire.client.tick(wire.now_ms)
    data = wire.drain(wire.client)
    wire.now_ms += 30
    list(wire.server.receive(data, wire.now_ms))
    list(wire.client.receive(wire.drain(wire.server), wire.now_ms))
    assert wire.client.ping_ms == 30
    assert wire.client.tick(wire.now_ms + limits.PING_INTERVAL_MS - 1) == []
    assert wire.drain(wire.client) == b""
    wire.client.tick(wire.now_ms + limits.PING_INTERVAL_MS)
    assert wire.drain(wire.client) != b""


def test_missing_pong_ends_the_connection(make_wire):
    wire = make_wire().ready()
    wire.client.tick(wire.now_ms)
    assert wire.client.tick(wire.now_ms + limits.PONG_TIMEOUT_MS - 1) == []
    assert closed(wire.client.tick(wire.now_ms + limits.PONG_TIMEOUT_MS)).code == "ping-timeout"


def test_pong_nobody_asked_for(make_wire):
    wire = make_wire().ready()
    assert faults(say(wire, encode(Pong(5)))) == ["unrequested-message"]


def test_a_message_that_drips(make_wire):
    wire = make_wire().ready()
    wire.client.send(Bft(bytes(1_000)))
    plain = wire.client._queue.next_chunk()
    now = wire.now_ms
    events = []
    for at in range(len(plain)):
        sealed = record(wire.client._noise.encrypt(plain[at : at + 1]))
        events.extend(wire.server.receive(sealed, now))
        now += 1_000
        events.extend(wire.server.tick(now))
        if events:
            break
    assert faults(events) == ["frame-timeout"]
    assert now - wire.now_ms == limits.FRAME_TIMEOUT_MS


def test_a_long_message_is_not_cut_by_the_pong_deadline(make_wire):
    wire = make_wire().ready()
    wire.server.tick(wire.now_ms)  # the ping is out
    wire.client.send(Bft(bytes(200_000)))
    first = wire.client.wire()
    now = wire.now_ms + limits.PONG_TIMEOUT_MS + 1
    list(wire.server.receive(first, wire.now_ms))
    assert wire.server.tick(now) == []
    assert kinds(wire.server.receive(wire.drain(wire.client), now)) == [Received]


# --- goodbye --------------------------------------------------------------------------------------


def test_close_tells_the_peer(make_wire):
    wire = make_wire().ready()
    wire.client.send(Tx([bytes(100)]))
    assert wire.client.close("shutdown") == [Closed("shutdown", "", False)]
    assert wire.client.close("again") == []
    assert not wire.client.send(Bft(b"x"))
    wire.run()
    assert wire.server_events == [Closed("remote-closed", "shutdown", True)]


def test_close_inside_a_long_message_says_nothing(make_wire):
    wire = make_wire().ready()
    wire.client.send(Tx([bytes(200_000)]))
    wire.client.wire()
    wire.client.close("shutdown")
    assert wire.drain(wire.client) == b""


def test_bye_is_not_answered(make_wire):
    wire = make_wire().ready()
    events = say(wire, encode(Bye("why-not")))
    assert events == [Closed("remote-closed", "why-not", True)]
    assert wire.drain(wire.server) == b""


def test_end_of_file(make_wire):
    wire = make_wire().ready()
    assert wire.client.end_of_file() == [Closed("connection-lost", "", True)]
    assert wire.client.end_of_file() == []


def test_close_between_two_events_counts(make_wire):
    wire = make_wire().ready()
    for payload in (b"1", b"2", b"3"):
        wire.client.send(Bft(payload))
    seen = []
    for event in wire.server.receive(wire.drain(wire.client), 0):
        seen.append(event.message.payload)
        wire.server.close("enough")
    assert seen == [b"1"]


def test_hello_is_what_the_source_says_now(make_hello):
    heights = iter((1, 2))
    keys = NodeKeys(b"\x01" * 32)
    connection = Connection(keys, lambda: make_hello(keys.identity, height=next(heights)), 0, initiator=True)
    assert connection.remote_hello is None
    assert next(heights) == 1  # not asked before it is needed
