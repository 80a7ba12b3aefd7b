import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import canonical
from consensus.bft import limits, wal
from consensus.bft.codec import decode, decode_qc, encode, encode_qc, frame, unframe
from consensus.bft.evidence import evidence_of
from consensus.bft.shown import SHOWN, Given, Signed
from consensus.bft.types import (
    EC,
    QC,
    TC,
    Accuse,
    Ask,
    AskEC,
    Committed,
    CommitVote,
    Grant,
    Kind,
    LearnerRecord,
    LockRecord,
    Prepared,
    PreVote,
    Proof,
    Proposal,
    Propose,
    Report,
    RequestVote,
    RoundRecord,
    ShowEC,
    TermRecord,
    Validated,
    ValRecord,
    VoteGranted,
)
from consensus.errors import DecodeError

u32 = st.integers(0, 0xFFFF_FFFF)
index = st.integers(0, limits.MAX_VALIDATORS - 1)
hashes = st.binary(min_size=32, max_size=32)
sigs = st.binary(min_size=64, max_size=64)
bitmaps = st.binary(max_size=limits.MAX_BITMAP_BYTES)
sig_lists = st.lists(sigs, max_size=4).map(tuple)
qcs = st.builds(QC, st.sampled_from(Kind), u32, u32, u32, hashes, bitmaps, sig_lists)
tcs = st.builds(TC, u32, u32, bitmaps, sig_lists)
grants = st.builds(Grant, index, u32, u32, hashes, sigs)
ecs = st.builds(EC, u32, u32, index, st.lists(grants, max_size=4).map(tuple), qcs)
proofs = st.none() | qcs | tcs | ecs
proposals = st.builds(
    Proposal,
    st.binary(min_size=80, max_size=80),
    st.binary(max_size=300),
    st.lists(hashes, max_size=5).map(tuple),
)
commit_votes = st.builds(CommitVote, u32, u32, hashes, index, sigs)
signed = {vote: st.builds(Signed, st.just(vote), u32, u32, hashes, sigs) for vote in SHOWN}
shown = st.sets(st.sampled_from(SHOWN)).flatmap(
    lambda votes: st.tuples(*(signed[vote] for vote in SHOWN if vote in votes))
)
givens = st.builds(Given, u32, index, u32, u32, hashes, sigs)
accusations = st.builds(
    lambda number, offender, pair: Accuse(number, evidence_of(offender, *pair)),
    u32,
    index,
    st.tuples(*[st.one_of(*signed.values(), givens)] * 2).filter(lambda pair: pair[0].order != pair[1].order),
)
messages = st.one_of(
    accusations,
    st.builds(PreVote, u32, index, sigs, proofs, u32),
    st.builds(RequestVote, u32, index, proofs),
    st.builds(VoteGranted, u32, index, index, qcs, sigs),
    st.builds(Propose, u32, u32, index, proposals, qcs | ecs, st.none() | qcs, sigs),
    st.builds(Validated, u32, u32, hashes, index, sigs, st.none() | commit_votes),
    commit_votes,
    st.builds(Prepared, qcs),
    st.builds(Committed, qcs),
    st.builds(Proof, u32, proofs),
    st.builds(AskEC, u32),
    st.builds(ShowEC, ecs),
    st.builds(Ask, u32, u32),
    st.builds(Report, u32, u32, u32, shown, st.none() | givens),
)
records = st.one_of(
    st.builds(TermRecord, u32, st.none() | index, proofs),
    st.builds(ValRecord, u32, u32, hashes),
    st.builds(LockRecord, qcs),
    st.builds(LearnerRecord, st.text(max_size=100)),
    st.builds(RoundRecord, u32, u32),
)


@given(messages)
def test_messages_come_back(message):
    data = encode(message)
    back = decode(data)
    assert back == message
    assert type(back) is type(message)
    assert encode(back) == data


@given(u32, messages)
def test_a_message_travels_with_its_round(number, message):
    assert unframe(frame(number, message)) == (number, encode(message))


def test_a_message_of_another_round_is_not_read():
    assert unframe(b"\x07\0\0\0no message at all") == (7, b"no message at all")
    for short in (b"", b"\0\0\0"):
        with pytest.raises(DecodeError) as caught:
            unframe(short)
        assert caught.value.code == "bad-bft-field"


@given(qcs)
def test_certificates_come_back(qc):
    assert decode_qc(encode_qc(qc)) == qc


@given(records)
def test_records_come_back(record):
    back = wal.decode_record(*wal.encode_record(record))
    assert back == record
    assert type(back) is type(record)


@given(st.binary(max_size=400))
def test_noise_is_refused_in_words(data):
    for read in (decode, decode_qc, lambda d: wal.decode_record(d[0] if d else 0, d[1:])):
        code_of(read, data)


def code_of(read, data):
    """Return the code that ``read`` refuses with, None if it reads; nothing else may be raised."""
    try:
        read(data)
    except DecodeError as error:
        code = error.code
    else:
        return None
    assert code in CODES
    return code


CODES = {"bft-unknown-type", "bft-too-large", "bad-bft-field", "non-canonical-msgpack"}


@settings(max_examples=200)
@given(messages, st.data())
def test_a_damaged_message_is_refused_or_another_message(message, data):
    raw = bytearray(encode(message))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    if code_of(decode, bytes(raw)) is None:
        assert encode(decode(bytes(raw))) == bytes(raw)


@st.composite
def shapes(draw):
    """Lists of the right number with values of the wrong kind."""
    leaf = (
        st.none() | st.booleans() | st.integers(-5, 2**64 - 1) | st.binary(max_size=80) | st.text(max_size=5)
    )
    item = st.recursive(leaf, lambda inner: st.lists(inner, max_size=8), max_leaves=12)
    return [draw(st.integers(0, 15)), *draw(st.lists(item, max_size=8))]


@given(shapes())
def test_wrong_shapes_are_refused(value):
    try:
        data = canonical.encode(value, max_depth=6)
    except ValueError:
        return
    if code_of(decode, data) is None:
        assert encode(decode(data)) == data


QC_FIELDS = [1, 2, 0, 1, 1, bytes(32), b"\x07", bytes(192)]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ([], "bft-unknown-type"),
        ([0], "bft-unknown-type"),
        ([15, 1], "bft-unknown-type"),
        ([10], "bad-bft-field"),
        ([10, 1, 1], "bad-bft-field"),
        ([10, -1], "bad-bft-field"),
        ([10, True], "bad-bft-field"),
        ([10, 2**32], "bad-bft-field"),
        ([10, b"1"], "bad-bft-field"),
        ([8, QC_FIELDS[:-1]], "bad-bft-field"),
        ([8, [1, 3, *QC_FIELDS[2:]]], "bad-bft-field"),
        ([8, [1, True, *QC_FIELDS[2:]]], "bad-bft-field"),
        ([8, [2, *QC_FIELDS[1:]]], "bad-bft-field"),
        ([8, [*QC_FIELDS[:5], bytes(31), *QC_FIELDS[6:]]], "bad-bft-field"),
        ([8, [*QC_FIELDS[:-1], bytes(100)]], "bad-bft-field"),
        ([8, [*QC_FIELDS[:-1], bytes(64 * 51)]], "bad-bft-field"),
        ([8, [*QC_FIELDS[:-2], bytes(8), bytes(64)]], "bad-bft-field"),
        ([9, 1, [4, 1]], "bad-bft-field"),
        ([9, 1, []], "bad-bft-field"),
        ([2, 1, 50, None], "bad-bft-field"),
        ([4, 1, 1, 0, [bytes(79), b"", b""], QC_FIELDS, None, bytes(64)], "bad-bft-field"),
        ([4, 1, 1, 0, [bytes(80), b"", bytes(33)], QC_FIELDS, None, bytes(64)], "bad-bft-field"),
        ([4, 1, 1, 0, [bytes(80), b"", b""], None, None, bytes(64)], "bad-bft-field"),
        ([4, 1, 1, 0, [bytes(80), b"", b""], [2, 0, 1, b"", b""], None, bytes(64)], "bad-bft-field"),
        ([6, 1, 1, bytes(600), 0, bytes(64)], "bft-too-large"),
        ([12, 2**32, 0], "bad-bft-field"),
        ([13, 1, 1, 1, [[3, 1, 1, bytes(32), bytes(64)]], None], "bad-bft-field"),
        ([13, 1, 1, 1, [[1, 1, 1, bytes(32), bytes(64)]] * 2, None], "bad-bft-field"),
        ([13, 1, 1, 1, [[at, 1, 1, bytes(32), bytes(64)] for at in (1, 0)], None], "bad-bft-field"),
        ([13, 1, 1, 1, [], [1, 50, 1, 1, bytes(32), bytes(64)]], "bad-bft-field"),
        ([14, 0, 1, [1, 1, 1, bytes(32), bytes(64)]], "bad-bft-field"),
        ([14, 0, 1, *[[1, 1, 1, bytes(32), bytes(64)]] * 2], "bad-bft-field"),
        ([14, 0, 1, *([1, 1, 1, bytes([at]) * 32, bytes(64)] for at in (2, 1))], "bad-bft-field"),
        ([14, 0, 50, *([1, 1, 1, bytes([at]) * 32, bytes(64)] for at in (1, 2))], "bad-bft-field"),
        ([14, 0, 1, [1, 1, 1, bytes(32), bytes(64)], [4, 1, 1, bytes(32), bytes(64)]], "bad-bft-field"),
        ([14, 0, 1, [1, 1, 1, bytes(32), bytes(64)], []], "bad-bft-field"),
        ([14, 0, 1, [1, 1, 1, bytes(32), bytes(64)], [3, 1, 1, 1, 1, bytes(32)]], "bad-bft-field"),
        ([14, 2**32, 1, *([1, 1, 1, bytes([at]) * 32, bytes(64)] for at in (1, 2))], "bad-bft-field"),
    ],
)
def test_each_field_is_judged(value, code):
    with pytest.raises(DecodeError) as caught:
        decode(canonical.encode(value, max_depth=6))
    assert caught.value.code == code


def test_a_proposal_of_the_largest_block_fits_and_no_more():
    def propose(count):
        block = Proposal(bytes(80), bytes(1_000), tuple(bytes([n % 251]) * 32 for n in range(count)))
        qc = QC(Kind.PREPARE, 0, 1, 1, bytes(32), b"\x07", (bytes(64),) * 3)
        return Propose(1, 2, 0, block, qc, qc, bytes(64))

    data = encode(propose(limits.MAX_PROPOSAL_TXS))
    assert len(data) <= limits.MAX_PROPOSE_BYTES
    assert len(decode(data).proposal.wtxids) == limits.MAX_PROPOSAL_TXS
    with pytest.raises(DecodeError):
        decode(encode(propose(limits.MAX_PROPOSAL_TXS + 1)))
    with pytest.raises(DecodeError) as caught:
        decode(data + bytes(limits.MAX_PROPOSE_BYTES))
    assert caught.value.code == "bft-too-large"


@pytest.mark.parametrize(("n", "most"), [(4, 260), (21, 970), (50, 2_260)])
def test_sizes_of_certificates(n, most):
    q = (n + (n - 1) // 3) // 2 + 1
    qc = QC(Kind.COMMIT, 3, 1_000, 100_000, bytes(32), bytes((n + 7) // 8), (bytes(64),) * q)
    assert len(encode_qc(qc)) <= most


def test_records_of_unknown_types():
    with pytest.raises(DecodeError) as caught:
        wal.decode_record(9, canonical.encode([1]))
    assert caught.value.code == "bft-unknown-type"


def test_a_learner_record_keeps_whole_characters_and_refuses_what_is_no_text():
    long = LearnerRecord("x" + "ü" * limits.MAX_REASON_BYTES)
    kept = wal.decode_record(*wal.encode_record(long))
    assert isinstance(kept, LearnerRecord)
    assert long.reason.startswith(kept.reason)
    assert len(kept.reason.encode()) >= limits.MAX_REASON_BYTES - 1
    with pytest.raises(DecodeError) as error:
        wal.decode_record(wal.LEARNER, canonical.encode([b"\xff"]))
    assert error.value.code == "bad-bft-field"
