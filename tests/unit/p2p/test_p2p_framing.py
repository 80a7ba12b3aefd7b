from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import PeerFault
from p2p import limits
from p2p.framing import FrameDecoder, RecordDecoder, SendQueue, frame, record
from p2p.messages import Bft, Ping, encode, size_limit


def chunks(data, cuts):
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def drain(decoder):
    out = []
    while (item := decoder.next()) is not None:
        out.append(item)
    return out


def fault_code(call):
    try:
        call()
    except PeerFault as fault:
        return fault.code
    return None


@given(st.lists(st.binary(max_size=300), max_size=10), st.lists(st.integers(0, 3_000), max_size=20))
def test_records_survive_any_chunking(payloads, cuts):
    decoder = RecordDecoder()
    got = []
    for part in chunks(b"".join(map(record, payloads)), cuts):
        decoder.feed(part)
        got.extend(drain(decoder))
    assert got == payloads


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=10), st.lists(st.integers(0, 3_000), max_size=20)
)
def test_frames_survive_any_chunking(payloads, cuts):
    sent = [encode(Bft(payload)) for payload in payloads]
    decoder = FrameDecoder(size_limit)
    got = []
    for part in chunks(b"".join(map(frame, sent)), cuts):
        decoder.feed(part)
        got.extend(drain(decoder))
    assert got == sent
    assert decoder.held_bytes == 0


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=10),
    st.lists(st.integers(0, 3_000), max_size=20),
    st.lists(st.integers(0, 3), max_size=20),
)
def test_what_is_not_taken_at_once_stays(payloads, cuts, takes):
    records, frames = RecordDecoder(), FrameDecoder(size_limit)
    sent = [encode(Bft(payload)) for payload in payloads]
    for decoder, whole in ((records, map(record, payloads)), (frames, map(frame, sent))):
        got = []
        for at, part in enumerate(chunks(b"".join(whole), cuts)):
            decoder.feed(part)
            for _ in range(takes[at] if at < len(takes) else 1):
                if (item := decoder.next()) is not None:
                    got.append(item)
        got.extend(drain(decoder))
        assert got == (payloads if decoder is records else sent)
        assert all(type(item) is bytes for item in got)


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=2_000), max_size=20))
def test_garbage_never_makes_it_hold_more_than_a_message(parts):
    decoder = FrameDecoder(size_limit)
    for part in parts:
        decoder.feed(part)
        code = fault_code(lambda: drain(decoder))
        assert code in (None, "frame-malformed", "frame-too-large")
        if code:
            return
        assert decoder.held_bytes < 4 + 5_300_000


@pytest.mark.parametrize(
    ("head", "code"),
    [
        ((0).to_bytes(4, "little") + b"\x92\x02", "frame-malformed"),
        ((1).to_bytes(4, "little") + b"\x92\x02", "frame-malformed"),
        ((9).to_bytes(4, "little") + b"GE", "frame-malformed"),
        ((17).to_bytes(4, "little") + b"\x92\x02", "frame-too-large"),
        ((limits.UNKNOWN_MESSAGE_BYTES + 1).to_bytes(4, "little") + b"\x92\x70", "frame-too-large"),
        (b"\xff\xff\xff\xff\x92\x0a", "frame-too-large"),
    ],
)
def test_the_head_alone_is_judged(head, code):
    decoder = FrameDecoder(size_limit)
    decoder.feed(head)
    with pytest.raises(PeerFault) as caught:
        decoder.next()
    assert caught.value.code == code


def test_the_limit_is_asked_once_per_message():
    asked = []

    def limit(first, second):
        asked.append((first, second))
        return 1_000

    decoder = FrameDecoder(limit)
    framed = frame(encode(Bft(bytes(100))))
    for at in range(len(framed)):
        decoder.feed(framed[at : at + 1])
        decoder.next()
    assert asked == [(0x92, 15)]


def test_queue_cuts_long_messages_and_joins_short_ones():
    queue = SendQueue()
    long = frame(encode(Bft(bytes(200_000))))
    queue.push(long, urgent=False)
    queue.push(b"a" * 10, urgent=False)
    queue.push(b"b" * 10, urgent=False)
    assert queue.total_bytes == len(long) + 20
    sizes, stream = [], b""
    while part := queue.next_chunk():
        sizes.append(len(part))
        stream += part
    assert stream == long + b"a" * 10 + b"b" * 10
    assert sizes[:-1] == [limits.MAX_NOISE_PLAIN_BYTES] * (len(sizes) - 1)
    assert queue.total_bytes == 0


def test_urgent_messages_overtake_between_messages_only():
    queue = SendQueue()
    long = bytes(limits.MAX_NOISE_PLAIN_BYTES + 5)
    queue.push(long, urgent=False)
    queue.push(b"later", urgent=False)
    assert queue.next_chunk() == long[: limits.MAX_NOISE_PLAIN_BYTES]
    assert not queue.at_frame_border
    queue.push(b"urgent", urgent=True)
    assert queue.next_chunk() == bytes(5) + b"urgent" + b"later"
    assert queue.at_frame_border


def test_queue_counts_and_clears():
    queue = SendQueue()
    queue.push(frame(encode(Ping(1))), urgent=True)
    queue.push(bytes(70_000), urgent=False)
    queue.next_chunk()
    assert (queue.urgent_bytes, queue.bulk_bytes) == (0, 0)
    assert queue.total_bytes > 0
    queue.clear()
    assert queue.total_bytes == 0
    assert queue.next_chunk() == b""
