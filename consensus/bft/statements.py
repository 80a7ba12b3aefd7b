"""What is signed: tagged hashes that bind chain, set (hence round) and the fields of a vote.

``tagged_hash("wattd/bft/" + type, chain_id || set_hash || fields)``, fields as u32 LE numbers and
32-byte hashes (CONSENSUS.md, section 2.2).
"""

from functools import lru_cache
from struct import Struct

from consensus.bft.config import Electorate
from consensus.bft.shown import Vote
from consensus.hashes import tagged_hash

_TERM = Struct("<I")
_BLOCK = Struct("<II32s")
_GRANT = Struct("<IIII32s")


@lru_cache(maxsize=64)
def _tagged(vote: Vote, prefix: bytes, fields: bytes) -> bytes:
    """Return what is signed; kept for a while, since all validators sign the same of a block."""
    return tagged_hash("wattd/bft/" + vote.value, prefix + fields)


def _digest(electorate: Electorate, vote: Vote, fields: bytes) -> bytes:
    return _tagged(vote, electorate.prefix, fields)


def pre_vote(electorate: Electorate, term: int) -> bytes:
    """(PV, t): I give the term up."""
    return _digest(electorate, Vote.PRE_VOTE, _TERM.pack(term))


def grant(
    electorate: Electorate, term: int, cand: int, lock_term: int, lock_height: int, lock_hash: bytes
) -> bytes:
    """(VG, t, cand, hq.rank, hq.hash): ``cand`` may lead, and this is my lock."""
    fields = _GRANT.pack(term, cand, lock_term, lock_height, lock_hash)
    return _digest(electorate, Vote.GRANT, fields)


def block_vote(electorate: Electorate, vote: Vote, term: int, height: int, block_hash: bytes) -> bytes:
    """(P | V | C, t, h, block hash): proposed, validated, to be committed."""
    return _digest(electorate, vote, _BLOCK.pack(term, height, block_hash))
