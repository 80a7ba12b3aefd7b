"""Fields and certificates inside the engine's encodings: lists for ``consensus.canonical``.

A certificate is ``[type, fields...]``; its signatures are one byte string, 64 bytes each. Every value
is checked for type, size and range. Errors: DecodeError ``bad-bft-field``.
"""

from collections.abc import Callable
from typing import Any

from consensus.bft import limits
from consensus.bft.shown import SHOWN, STATEMENTS, Evidence, Given, Shown, Signed
from consensus.bft.types import EC, QC, TC, Grant, Kind, TermProof
from consensus.errors import DecodeError

_QC, _TC, _EC = 1, 2, 3
MAX_DEPTH = 6
"""Message, certificate, its QC, lists of votes: five levels are used."""


def bad_field(what: str) -> DecodeError:
    """Return the error for a field of the wrong type, size or range."""
    return DecodeError("bad-bft-field", what)


def number(limit: int, what: str) -> Callable[[Any], int]:
    """Return a check for an int from 0 to ``limit``."""

    def check(value: Any) -> int:
        if type(value) is not int or not 0 <= value <= limit:
            raise bad_field(what)
        return value

    return check


def _exactly(size: int, what: str) -> Callable[[Any], bytes]:
    """Return a check for byte strings of ``size`` bytes."""

    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) != size:
            raise bad_field(what)
        return value

    return check


term_field = number(limits.MAX_TERM, "term")
height_field = number(limits.MAX_HEIGHT, "height")
round_field = number(limits.MAX_ROUND, "round")
index_field = number(limits.MAX_VALIDATORS - 1, "validator")
hash_field = _exactly(32, "hash")
sig_field = _exactly(64, "signature")
header_field = _exactly(80, "header")


def at_most(value: Any, limit: int, what: str) -> bytes:
    """Return a byte string of at most ``limit`` bytes."""
    if type(value) is not bytes or len(value) > limit:
        raise bad_field(what)
    return value


def items(value: Any, size: int, count: int, what: str) -> tuple[bytes, ...]:
    """Cut a byte string into items of ``size`` bytes, at most ``count`` of them."""
    data = at_most(value, size * count, what)
    if len(data) % size:
        raise bad_field(what)
    return tuple(data[at : at + size] for at in range(0, len(data), size))


def fields_of(value: Any, count: int, what: str) -> list[Any]:
    """Return a list of exactly ``count`` items."""
    if type(value) is not list or len(value) != count:
        raise bad_field(what)
    return value


def pack_qc(qc: QC) -> list[Any]:
    """Return a quorum certificate as a list."""
    return [
        _QC,
        int(qc.kind),
        qc.round,
        qc.term,
        qc.height,
        qc.block_hash,
        qc.bitmap,
        b"".join(qc.sigs),
    ]


def pack_tc(tc: TC) -> list[Any]:
    """Return a term certificate as a list."""
    return [_TC, tc.round, tc.term, tc.bitmap, b"".join(tc.sigs)]


def pack_ec(ec: EC) -> list[Any]:
    """Return an election certificate as a list."""
    votes = [list(vote) for vote in ec.votes]
    return [_EC, ec.round, ec.term, ec.cand, votes, pack_qc(ec.high)]


def pack_proof(proof: TermProof) -> list[Any] | None:
    """Return any proof of a term as a list, or None."""
    if proof is None:
        return None
    if isinstance(proof, QC):
        return pack_qc(proof)
    return pack_tc(proof) if isinstance(proof, TC) else pack_ec(proof)


def _signatures(value: Any) -> tuple[bytes, ...]:
    return items(value, 64, limits.MAX_VALIDATORS, "signatures")


def _bitmap(value: Any) -> bytes:
    return at_most(value, limits.MAX_BITMAP_BYTES, "bitmap")


def unpack_qc(value: Any) -> QC:
    """Read what ``pack_qc`` wrote; signatures are not checked."""
    tag, kind, round_, term, height, block_hash, bitmap, sigs = fields_of(value, 8, "certificate")
    if type(tag) is not int or tag != _QC or type(kind) is not int or kind not in (1, 2):
        raise bad_field("certificate kind")
    return QC(
        Kind(kind),
        round_field(round_),
        term_field(term),
        height_field(height),
        hash_field(block_hash),
        _bitmap(bitmap),
        _signatures(sigs),
    )


def unpack_tc(value: Any) -> TC:
    """Read what ``pack_tc`` wrote, behind its type."""
    _, round_, term, bitmap, sigs = fields_of(value, 5, "term certificate")
    return TC(round_field(round_), term_field(term), _bitmap(bitmap), _signatures(sigs))


def _unpack_grant(value: Any) -> Grant:
    voter, term, height, block_hash, sig = fields_of(value, 5, "grant")
    return Grant(
        index_field(voter), term_field(term), height_field(height), hash_field(block_hash), sig_field(sig)
    )


def unpack_ec(value: Any) -> EC:
    """Read what ``pack_ec`` wrote."""
    tag, round_, term, cand, votes, high = fields_of(value, 6, "election certificate")
    if type(tag) is not int or tag != _EC or type(votes) is not list or len(votes) > limits.MAX_VALIDATORS:
        raise bad_field("election certificate")
    grants = tuple(_unpack_grant(vote) for vote in votes)
    return EC(round_field(round_), term_field(term), index_field(cand), grants, unpack_qc(high))


def unpack_proof(value: Any) -> TermProof:
    """Read any proof of a term."""
    if value is None:
        return None
    if type(value) is not list or not value or type(value[0]) is not int:
        raise bad_field("proof of a term")
    unpack = _CERTIFICATES.get(value[0])
    if unpack is None:
        raise bad_field("proof of a term")
    return unpack(value)


_CERTIFICATES: dict[int, Callable[[Any], QC | TC | EC]] = {
    _QC: unpack_qc,
    _TC: unpack_tc,
    _EC: unpack_ec,
}


# --- statements ---------------------------------------------------------------------------------


def unpack_given(value: Any) -> Given:
    """Read a vote that somebody gave, with its candidate: six fields."""
    term, cand, lock_term, lock_height, lock_hash, sig = fields_of(value, 6, "vote of an election")
    return Given(
        term_field(term),
        index_field(cand),
        term_field(lock_term),
        height_field(lock_height),
        hash_field(lock_hash),
        sig_field(sig),
    )


def pack_shown(shown: Shown) -> list[Any]:
    """Return a statement as a list, its type first."""
    kind = STATEMENTS.index(shown.vote)
    if isinstance(shown, Given):
        return [kind, *shown]
    return [kind, shown.term, shown.height, shown.block_hash, shown.sig]


_statement_type = number(len(STATEMENTS) - 1, "statement type")


def unpack_shown(value: Any) -> Shown:
    """Read what ``pack_shown`` wrote; the signature is not checked."""
    if type(value) is not list or not value:
        raise bad_field("statement")
    kind = _statement_type(value[0])
    if kind == len(SHOWN):
        return unpack_given(value[1:])
    _, term, height, block_hash, sig = fields_of(value, 5, "statement")
    vote = STATEMENTS[kind]
    return Signed(vote, term_field(term), height_field(height), hash_field(block_hash), sig_field(sig))


def pack_evidence(evidence: Evidence) -> list[Any]:
    """Return evidence as a list of three."""
    return [evidence.offender, pack_shown(evidence.first), pack_shown(evidence.second)]


def unpack_evidence(value: Any) -> Evidence:
    """Read what ``pack_evidence`` wrote: its statements are distinct and in order."""
    offender, first, second = fields_of(value, 3, "evidence")
    evidence = Evidence(index_field(offender), unpack_shown(first), unpack_shown(second))
    if evidence.first.order >= evidence.second.order:
        raise bad_field("statements are not distinct and ascending")
    return evidence
