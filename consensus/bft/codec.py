"""Messages and commit certificates as bytes: canonical list-shaped MessagePack.

A message is ``[type, fields...]``; identifiers of a proposal are one byte string, 32 bytes each. On the
wire the number of its round goes before it (``frame``). What decodes also encodes to the same bytes.
Errors: DecodeError ``bft-too-large``, ``bft-unknown-type``, ``bad-bft-field`` and that of
``consensus.canonical``.
"""

from collections.abc import Callable
from typing import Any

from consensus import canonical
from consensus.bft import limits
from consensus.bft.packing import (
    MAX_DEPTH,
    at_most,
    bad_field,
    fields_of,
    hash_field,
    header_field,
    height_field,
    index_field,
    items,
    number,
    pack_ec,
    pack_evidence,
    pack_proof,
    pack_qc,
    round_field,
    sig_field,
    term_field,
    unpack_ec,
    unpack_evidence,
    unpack_given,
    unpack_proof,
    unpack_qc,
)
from consensus.bft.shown import SHOWN, Signed
from consensus.bft.types import (
    EC,
    QC,
    Accuse,
    Ask,
    AskEC,
    Committed,
    CommitVote,
    Message,
    Prepared,
    PreVote,
    Proof,
    Proposal,
    Propose,
    Report,
    RequestVote,
    ShowEC,
    Validated,
    VoteGranted,
)
from consensus.errors import DecodeError


def encode_qc(qc: QC) -> bytes:
    """Return a quorum certificate as bytes, for the block store and light clients."""
    return canonical.encode(pack_qc(qc))


def decode_qc(data: bytes) -> QC:
    """Read what ``encode_qc`` wrote. Raises DecodeError; signatures are not checked."""
    if len(data) > limits.MAX_QC_BYTES:
        raise DecodeError("bft-too-large", "certificate")
    return unpack_qc(canonical.decode(data, max_depth=MAX_DEPTH))


# --- messages -----------------------------------------------------------------------------------


def _pack_commit_vote(m: CommitVote) -> list[Any]:
    return [m.term, m.height, m.block_hash, m.voter, m.sig]


def _unpack_commit_vote(f: list[Any]) -> CommitVote:
    return CommitVote(
        term_field(f[0]), height_field(f[1]), hash_field(f[2]), index_field(f[3]), sig_field(f[4])
    )


def _pack_propose(m: Propose) -> list[Any]:
    block = [m.proposal.header, m.proposal.coinbase, b"".join(m.proposal.wtxids)]
    commit = None if m.commit_qc is None else pack_qc(m.commit_qc)
    return [m.term, m.height, m.leader, block, pack_proof(m.justify), commit, m.sig]


def _unpack_propose(f: list[Any]) -> Propose:
    header, coinbase, wtxids = fields_of(f[3], 3, "proposal")
    proposal = Proposal(
        header_field(header),
        at_most(coinbase, limits.MAX_COINBASE_BYTES, "coinbase"),
        items(wtxids, 32, limits.MAX_PROPOSAL_TXS, "wtxids"),
    )
    justify = unpack_proof(f[4])
    if not isinstance(justify, QC | EC):
        raise bad_field("justification")
    commit = None if f[5] is None else unpack_qc(f[5])
    return Propose(
        term_field(f[0]), height_field(f[1]), index_field(f[2]), proposal, justify, commit, sig_field(f[6])
    )


def _pack_validated(m: Validated) -> list[Any]:
    commit = None if m.commit is None else _pack_commit_vote(m.commit)
    return [m.term, m.height, m.block_hash, m.voter, m.sig, commit]


def _unpack_validated(f: list[Any]) -> Validated:
    commit = None if f[5] is None else _unpack_commit_vote(fields_of(f[5], 5, "commit vote"))
    return Validated(
        term_field(f[0]), height_field(f[1]), hash_field(f[2]), index_field(f[3]), sig_field(f[4]), commit
    )


def _pack_report(m: Report) -> list[Any]:
    shown = [[SHOWN.index(s.vote), s.term, s.height, s.block_hash, s.sig] for s in m.statements]
    return [m.session, m.term, m.committed_height, shown, None if m.grant is None else list(m.grant)]


def _unpack_report(f: list[Any]) -> Report:
    if type(f[3]) is not list or len(f[3]) > len(SHOWN):
        raise bad_field("statements")
    found = [fields_of(value, 5, "statement") for value in f[3]]
    kinds = [_shown_type(kind) for kind, *_ in found]
    if kinds != sorted(set(kinds)):
        raise bad_field("statements are not distinct and ascending")
    statements = tuple(
        Signed(SHOWN[kind], term_field(term), height_field(height), hash_field(block_hash), sig_field(sig))
        for kind, term, height, block_hash, sig in found
    )
    grant = None if f[4] is None else unpack_given(f[4])
    return Report(session_field(f[0]), term_field(f[1]), height_field(f[2]), statements, grant)


_shown_type = number(len(SHOWN) - 1, "statement type")
session_field = number(limits.MAX_SESSION, "session")


_Pack = Callable[[Any], list[Any]]
_Unpack = Callable[[list[Any]], Message]

_PROOF_BYTES = limits.MAX_EC_BYTES + limits.MAX_SMALL_BYTES

_SCHEMA: tuple[tuple[int, type[Any], int, int, _Pack, _Unpack], ...] = (
    # number, message, fields, largest encoding, pack, unpack
    (
        1,
        PreVote,
        5,
        _PROOF_BYTES,
        lambda m: [m.term, m.voter, m.sig, pack_proof(m.proof), m.committed_height],
        lambda f: PreVote(
            term_field(f[0]), index_field(f[1]), sig_field(f[2]), unpack_proof(f[3]), height_field(f[4])
        ),
    ),
    (
        2,
        RequestVote,
        3,
        _PROOF_BYTES,
        lambda m: [m.term, m.cand, pack_proof(m.proof)],
        lambda f: RequestVote(term_field(f[0]), index_field(f[1]), unpack_proof(f[2])),
    ),
    (
        3,
        VoteGranted,
        5,
        limits.MAX_QC_BYTES + limits.MAX_SMALL_BYTES,
        lambda m: [m.term, m.cand, m.voter, pack_qc(m.hq), m.sig],
        lambda f: VoteGranted(
            term_field(f[0]), index_field(f[1]), index_field(f[2]), unpack_qc(f[3]), sig_field(f[4])
        ),
    ),
    (4, Propose, 7, limits.MAX_PROPOSE_BYTES, _pack_propose, _unpack_propose),
    (5, Validated, 6, limits.MAX_SMALL_BYTES, _pack_validated, _unpack_validated),
    (6, CommitVote, 5, limits.MAX_SMALL_BYTES, _pack_commit_vote, _unpack_commit_vote),
    (
        7,
        Prepared,
        1,
        limits.MAX_QC_BYTES + limits.MAX_SMALL_BYTES,
        lambda m: [pack_qc(m.qc)],
        lambda f: Prepared(unpack_qc(f[0])),
    ),
    (
        8,
        Committed,
        1,
        limits.MAX_QC_BYTES + limits.MAX_SMALL_BYTES,
        lambda m: [pack_qc(m.qc)],
        lambda f: Committed(unpack_qc(f[0])),
    ),
    (
        9,
        Proof,
        2,
        _PROOF_BYTES,
        lambda m: [m.term, pack_proof(m.proof)],
        lambda f: Proof(term_field(f[0]), unpack_proof(f[1])),
    ),
    (
        10,
        AskEC,
        1,
        limits.MAX_SMALL_BYTES,
        lambda m: [m.term],
        lambda f: AskEC(term_field(f[0])),
    ),
    (
        11,
        ShowEC,
        1,
        _PROOF_BYTES,
        lambda m: [pack_ec(m.ec)],
        lambda f: ShowEC(unpack_ec(f[0])),
    ),
    (
        12,
        Ask,
        2,
        limits.MAX_SMALL_BYTES,
        lambda m: [m.session, m.committed_height],
        lambda f: Ask(session_field(f[0]), height_field(f[1])),
    ),
    (13, Report, 5, limits.MAX_REPORT_BYTES, _pack_report, _unpack_report),
    (
        14,
        Accuse,
        4,
        limits.MAX_EVIDENCE_BYTES,
        lambda m: [m.round, *pack_evidence(m.evidence)],
        lambda f: Accuse(round_field(f[0]), unpack_evidence(f[1:])),
    ),
)

_BY_TYPE = {entry[1]: (entry[0], entry[4]) for entry in _SCHEMA}
_TYPES = {entry[0]: entry[1] for entry in _SCHEMA}
_BY_NUMBER = {entry[0]: (entry[2], entry[3], entry[5]) for entry in _SCHEMA}


def encode(message: Message) -> bytes:
    """Return a message as bytes."""
    number, pack = _BY_TYPE[type(message)]
    return canonical.encode([number, *pack(message)], max_depth=MAX_DEPTH)


def frame(round_number: int, message: Message) -> bytes:
    """Return a message as it travels: the number of its round (u32 LE), then the message."""
    return round_number.to_bytes(limits.FRAME_BYTES, "little") + encode(message)


def unframe(payload: bytes) -> tuple[int, bytes]:
    """Return (round, message bytes). Raises DecodeError ``bad-bft-field`` if there is no round.

    The message is not read: what belongs to another round says nothing about its sender.
    """
    if len(payload) < limits.FRAME_BYTES:
        raise bad_field("round")
    return int.from_bytes(payload[: limits.FRAME_BYTES], "little"), payload[limits.FRAME_BYTES :]


def type_of(data: bytes) -> type[Any] | None:
    """Return the type that a message claims to have, None for an unknown one. The message is not read."""
    return _TYPES.get(data[1]) if len(data) > 1 else None


def decode(data: bytes) -> Message:
    """Read a message. Raises DecodeError, nothing else, whatever the bytes are."""
    # A list of fewer than 16 items is one byte, the type (below 128) the next: size first, then parse.
    if len(data) < 2 or data[1] not in _BY_NUMBER:
        raise DecodeError("bft-unknown-type")
    count, limit, unpack = _BY_NUMBER[data[1]]
    if len(data) > limit:
        raise DecodeError("bft-too-large", f"{len(data)} bytes, the limit is {limit}")
    value = fields_of(canonical.decode(data, max_depth=MAX_DEPTH), count + 1, "message")
    return unpack(value[1:])
