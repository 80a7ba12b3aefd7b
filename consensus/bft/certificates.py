"""When a certificate holds. Thresholds come from the set, never from the certificate.

All functions raise RuleError; ``verified`` holds certificates known to be good, which are not checked
again. Codes: ``bad-qc-kind``, ``bad-cert-round``, ``bad-cert-bitmap``, ``bad-cert-quorum``,
``bad-cert-signature``, ``bad-ec-votes``, ``bad-ec-high``, ``bad-term-proof``.
"""

from collections.abc import Collection, Iterable, Sequence

from consensus.bft import statements
from consensus.bft.config import Electorate
from consensus.bft.shown import Vote
from consensus.bft.types import EC, QC, TC, Grant, Kind, TermProof
from consensus.errors import RuleError

Certificate = QC | TC | EC


def bitmap_of(members: Iterable[int], n: int) -> bytes:
    """Return one bit per validator, least significant first, (n + 7) // 8 bytes."""
    bits = 0
    for member in members:
        bits |= 1 << member
    return bits.to_bytes((n + 7) // 8, "little")


def members_of(bitmap: bytes) -> tuple[int, ...]:
    """Return the validators whose bit is set, ascending."""
    bits = int.from_bytes(bitmap, "little")
    return tuple(index for index in range(8 * len(bitmap)) if bits >> index & 1)


def signers(electorate: Electorate, bitmap: bytes, sigs: Sequence[bytes]) -> tuple[int, ...]:
    """Return who signed, after checking the shape: a bit per signature, at least a quorum of them."""
    voters = electorate.voters
    if len(bitmap) != (voters.n + 7) // 8 or int.from_bytes(bitmap, "little") >> voters.n:
        raise RuleError("bad-cert-bitmap")
    members = members_of(bitmap)
    if len(members) != len(sigs):
        raise RuleError("bad-cert-bitmap", "not one signature per bit")
    if len(members) < voters.q:
        raise RuleError("bad-cert-quorum", f"{len(members)} of {voters.q}")
    return members


def _check_round(electorate: Electorate, round_number: int) -> None:
    if round_number != electorate.voters.round:
        raise RuleError("bad-cert-round")


def _check_signatures(electorate: Electorate, items: Iterable[tuple[int, bytes, bytes]]) -> None:
    """Check (validator, digest, signature) triples in one batch."""
    keys = electorate.voters.keys
    batch = [(digest, keys[member], sig) for member, digest, sig in items]
    if not all(electorate.scheme.verify(batch)):
        raise RuleError("bad-cert-signature")


def is_base(electorate: Electorate, qc: QC) -> bool:
    """Return whether ``qc`` is the committed base of the round, which needs no signatures."""
    return qc == electorate.base


def check_qc(electorate: Electorate, qc: QC, kind: Kind, verified: Collection[Certificate] = ()) -> None:
    """Check a quorum certificate of ``kind``. The base of the round is prepared, a decree of it committed."""
    if qc.kind is not kind:
        raise RuleError("bad-qc-kind")
    if qc in verified or is_base(electorate, qc) or qc in electorate.decrees:
        return
    _check_round(electorate, qc.round)
    members = signers(electorate, qc.bitmap, qc.sigs)
    vote = Vote.VALIDATED if kind is Kind.PREPARE else Vote.COMMIT
    digest = statements.block_vote(electorate, vote, qc.term, qc.height, qc.block_hash)
    _check_signatures(electorate, ((m, digest, sig) for m, sig in zip(members, qc.sigs, strict=True)))


def check_tc(electorate: Electorate, tc: TC, verified: Collection[Certificate] = ()) -> None:
    """Check a term certificate."""
    if tc in verified:
        return
    _check_round(electorate, tc.round)
    members = signers(electorate, tc.bitmap, tc.sigs)
    digest = statements.pre_vote(electorate, tc.term)
    _check_signatures(electorate, ((m, digest, sig) for m, sig in zip(members, tc.sigs, strict=True)))


def check_ec(electorate: Electorate, ec: EC, verified: Collection[Certificate] = ()) -> None:
    """Check an election certificate: q distinct grants, and ``high`` is the highest lock among them."""
    if ec in verified:
        return
    _check_round(electorate, ec.round)
    voters = [vote.voter for vote in ec.votes]
    if ec.cand >= electorate.voters.n or len(voters) < electorate.voters.q:
        raise RuleError("bad-ec-votes", "candidate or number of votes")
    if voters != sorted(set(voters)) or voters[-1] >= electorate.voters.n:
        raise RuleError("bad-ec-votes", "voters are not distinct and ascending")
    highest = max(ec.votes, key=lambda vote: vote.rank)
    if highest.term >= ec.term:
        raise RuleError("bad-ec-votes", "a lock of the elected term itself")
    if (ec.high.rank, ec.high.block_hash) != (highest.rank, highest.block_hash):
        raise RuleError("bad-ec-high")
    check_qc(electorate, ec.high, Kind.PREPARE, verified)
    _check_signatures(
        electorate, ((vote.voter, grant_digest(electorate, ec, vote), vote.sig) for vote in ec.votes)
    )


def grant_digest(electorate: Electorate, ec: EC, vote: Grant) -> bytes:
    """Return what a grant inside ``ec`` signed."""
    return statements.grant(electorate, ec.term, ec.cand, vote.term, vote.height, vote.block_hash)


def check_term_proof(
    electorate: Electorate, term: int, proof: TermProof, verified: Collection[Certificate] = ()
) -> None:
    """Check that ``proof`` allows to be in ``term``: TC(term - 1), EC(term), any QC of it, or the first."""
    if proof is None:
        if term != electorate.base.term + 1:
            raise RuleError("bad-term-proof", "only the first term of a round needs no proof")
        return
    proven = proof.term + 1 if isinstance(proof, TC) else proof.term
    if proven != term or (isinstance(proof, QC) and is_base(electorate, proof)):
        raise RuleError("bad-term-proof", f"proves term {proven}, not {term}")
    if isinstance(proof, TC):
        check_tc(electorate, proof, verified)
    elif isinstance(proof, EC):
        check_ec(electorate, proof, verified)
    else:
        check_qc(electorate, proof, proof.kind, verified)
