"""Contradictions of validators, kept in a file: two signed statements that exclude each other.

They convince everybody who knows the validators' keys, so they outlive the node that saw them. The file
is rewritten as a whole; a damaged one is put aside and does not keep the node from starting.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from consensus import canonical
from consensus.bft.packing import fields_of, number, pack_evidence, round_field, unpack_evidence
from consensus.bft.shown import STATEMENTS, Evidence
from consensus.errors import DecodeError, StorageError
from node.limits import MAX_EVIDENCE, MAX_EVIDENCE_BYTES
from storage.files import Files

log = logging.getLogger("wattd.bft")

EVIDENCE_NAME = "evidence.bin"
_VERSION = 2
_ROUNDLESS = 1
"""Files from before validator sets changed: all of it is of round 0."""
_time_field = number(0xFFFF_FFFF, "time")


class Kept(NamedTuple):
    """One contradiction, the chain time at which this node saw it, and the round of its signatures."""

    evidence: Evidence
    seen_s: int
    round: int


class EvidenceBook:
    """What was seen, oldest first; of each validator once per type, term and height."""

    def __init__(self, path: Path, files: Files | None = None) -> None:
        """Read what is kept. Raises StorageError if the file cannot be read."""
        self._path = path
        self._files = Files() if files is None else files
        self._kept = self._read()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Kept]:
        return iter(list(self._kept.values()))

    def pairs(self) -> Iterator[tuple[int, Evidence]]:
        """Yield what is kept as (round, evidence), oldest first; blocks carry what is new among it."""
        for kept in list(self._kept.values()):
            yield kept.round, kept.evidence

    def holds(self, round_number: int, offender: int) -> bool:
        """Return whether there is anything against a validator of a round."""
        return any(key[:2] == (round_number, offender) for key in self._kept)

    def add(self, evidence: Evidence, now_s: int, round_number: int) -> bool:
        """Keep a contradiction durably; False if it is known. The oldest makes room.

        Raises StorageError if it cannot be written.
        """
        kept = Kept(evidence, now_s, round_number)
        key = _key(kept)
        if key in self._kept:
            return False
        self._kept[key] = kept
        if len(self._kept) > MAX_EVIDENCE:
            del self._kept[next(iter(self._kept))]
        try:
            self._files.write_whole(self._path, self._encode())
        except OSError as error:
            raise StorageError("evidence-not-written", f"{self._path}: {error}") from error
        return True

    def _encode(self) -> bytes:
        rows = [[*pack_evidence(kept.evidence), kept.seen_s, kept.round] for kept in self._kept.values()]
        return canonical.encode([_VERSION, rows])

    def _read(self) -> dict[tuple[int, ...], Kept]:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_EVIDENCE_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StorageError("evidence-not-read", f"{self._path}: {error}") from error
        try:
            return {_key(kept): kept for kept in _decode(data)}
        except DecodeError as damage:
            aside = self._path.with_suffix(".damaged")
            self._path.replace(aside)
            log.error("the file of evidence is damaged", extra={"code": damage.code, "moved_to": str(aside)})
            return {}


def _key(kept: Kept) -> tuple[int, ...]:
    first = kept.evidence.first
    kind = STATEMENTS.index(first.vote)
    return kept.round, kept.evidence.offender, kind, first.term, first.height


def _decode(data: bytes) -> list[Kept]:
    version, rows = fields_of(canonical.decode(data), 2, "evidence file")
    if version not in (_ROUNDLESS, _VERSION) or type(rows) is not list or len(rows) > MAX_EVIDENCE:
        raise DecodeError("bad-evidence-file", "version or length")
    found = []
    for row in rows:
        fields = (
            [*fields_of(row, 4, "evidence"), 0] if version == _ROUNDLESS else fields_of(row, 5, "evidence")
        )
        seen_s = _time_field(fields[3])
        found.append(Kept(unpack_evidence(fields[:3]), seen_s, round_field(fields[4])))
    return found
