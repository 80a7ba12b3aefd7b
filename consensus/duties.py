"""What delegates missed in a round, counted block by block (CONSENSUS.md, section 2.12).

``consensus.dpos.duties`` says what is counted, from all blocks of a round at once. Here the same numbers are
carried along in the chain's state, so that a block costs one small record, and none while nothing changes.
"""

from typing import NamedTuple

from consensus import canonical
from consensus.dpos import Duty, failed_leads

_FIELDS = 7


class Duties(NamedTuple):
    """The counters after a block of ``term`` by ``proposer``; per place of the set ``rows`` to ``leads``.

    ``seen``: bits of who appears in this tenure's bitmaps; ``reports``: whether one of them is about a block
    of the tenure itself, not of the leader before. ``rows``: bits of the leaders in a row without this
    delegate, closed tenures only; ``most``: the longest such row, leaders counted once; ``leads``: failed
    leads.
    """

    term: int
    proposer: int
    seen: int
    reports: bool
    rows: tuple[int, ...]
    most: tuple[int, ...]
    leads: tuple[int, ...]


def begin(n: int, term: int, proposer: int) -> Duties:
    """Return the counters after the first block of a round of ``n``; its bitmap is about the set before."""
    return Duties(term, proposer, 0, False, (0,) * n, (0,) * n, (0,) * n)


def follow(duties: Duties, seed: bytes, term: int, proposer: int, last_bitmap: bytes) -> Duties:
    """Return the counters after one more block; ``seed`` orders the slots of the round."""
    bits = int.from_bytes(last_bitmap, "little")
    leads = duties.leads
    if term > duties.term + 1:
        missed = failed_leads(len(leads), seed, (duties.term, term))
        leads = tuple([had + more for had, more in zip(leads, missed, strict=True)])
    if (term, proposer) == (duties.term, duties.proposer):
        return duties._replace(seen=duties.seen | bits, reports=True)
    return _close(duties)._replace(term=term, proposer=proposer, seen=bits, reports=False, leads=leads)


def _close(duties: Duties) -> Duties:
    """Return the counters with the tenure under way taken in."""
    rows, most = list(duties.rows), list(duties.most)
    for place, row in enumerate(duties.rows):
        if place == duties.proposer or duties.seen >> place & 1:
            rows[place] = 0
        elif duties.reports:
            rows[place] = row | 1 << duties.proposer
            most[place] = max(most[place], rows[place].bit_count())
    return duties._replace(rows=tuple(rows), most=tuple(most))


def counters(duties: Duties) -> tuple[Duty, ...]:
    """Return what each delegate missed, by its place, the tenure under way included."""
    return tuple([Duty(*pair) for pair in zip(_close(duties).most, duties.leads, strict=True)])


def encode(duties: Duties) -> bytes:
    """Return the record as canonical MessagePack."""
    lists = [list(part) for part in (duties.rows, duties.most, duties.leads)]
    return canonical.encode([duties.term, duties.proposer, duties.seen, duties.reports, *lists])


def decode(value: bytes) -> Duties:
    """Read what ``encode`` wrote; only ever called on our own state."""
    fields = canonical.decode(value)
    if len(fields) != _FIELDS:
        raise ValueError("not a record of duties")
    term, proposer, seen, reports, rows, most, leads = fields
    return Duties(term, proposer, seen, reports, tuple(rows), tuple(most), tuple(leads))
