"""Records of the write-ahead log: what a validator must remember before a vote leaves.

Section 2.7 of CONSENSUS.md. Framing, checksum and torn tails are the log's business; here a record is
(type byte, payload), the payload canonical MessagePack.
"""

from typing import Any

from consensus import canonical
from consensus.bft.limits import MAX_REASON_BYTES
from consensus.bft.packing import (
    MAX_DEPTH,
    at_most,
    bad_field,
    fields_of,
    hash_field,
    height_field,
    index_field,
    pack_proof,
    pack_qc,
    round_field,
    term_field,
    unpack_proof,
    unpack_qc,
)
from consensus.bft.types import LearnerRecord, LockRecord, Record, RoundRecord, TermRecord, ValRecord
from consensus.errors import DecodeError

TERM, VAL, LOCK, LEARNER, ROUND = 1, 2, 3, 4, 5
"""Type bytes of the records."""


def encode_record(record: Record) -> tuple[int, bytes]:
    """Return (type, payload) of a record."""
    fields: list[Any]
    if isinstance(record, TermRecord):
        kind, fields = TERM, [record.term, record.voted_for, pack_proof(record.proof)]
    elif isinstance(record, ValRecord):
        kind, fields = VAL, [record.term, record.height, record.block_hash]
    elif isinstance(record, LockRecord):
        kind, fields = LOCK, pack_qc(record.qc)
    elif isinstance(record, RoundRecord):
        kind, fields = ROUND, [record.round, record.first_height]
    else:
        whole = record.reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        kind, fields = LEARNER, [whole.encode()]
    return kind, canonical.encode(fields, max_depth=MAX_DEPTH)


def decode_record(kind: int, payload: bytes) -> Record:
    """Read what ``encode_record`` wrote. Raises DecodeError."""
    value = canonical.decode(payload, max_depth=MAX_DEPTH)
    if kind == TERM:
        term, voted_for, proof = fields_of(value, 3, "term record")
        candidate = None if voted_for is None else index_field(voted_for)
        return TermRecord(term_field(term), candidate, unpack_proof(proof))
    if kind == VAL:
        term, height, block_hash = fields_of(value, 3, "validated record")
        return ValRecord(term_field(term), height_field(height), hash_field(block_hash))
    if kind == LOCK:
        return LockRecord(unpack_qc(value))
    if kind == ROUND:
        number, first_height = fields_of(value, 2, "round record")
        return RoundRecord(round_field(number), height_field(first_height))
    if kind == LEARNER:
        (reason,) = fields_of(value, 1, "learner record")
        return LearnerRecord(_text(at_most(reason, MAX_REASON_BYTES, "reason")))
    raise DecodeError("bft-unknown-type", f"record {kind}")


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise bad_field("reason is no UTF-8") from None
