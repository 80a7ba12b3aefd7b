"""Contradictions of validators, kept in a file: two signed statements that exclude each other.

They convince everybody who knows the validators' keys, so they outlive the node that saw them. The file
is rewritten as a whole; a damaged one is put aside and does not keep the node from starting.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from consensus import canonical
from consensus.bft.packing import (
    fields_of,
    hash_field,
    height_field,
    index_field,
    sig_field,
    term_field,
    uint,
)
from consensus.bft.types import SHOWN, Evidence, Signed
from consensus.errors import DecodeError, StorageError
from node.limits import MAX_EVIDENCE, MAX_EVIDENCE_BYTES
from storage.files import Files

log = logging.getLogger("wattd.bft")

EVIDENCE_NAME = "evidence.bin"
_VERSION = 1
_MAX_TIME_S = 0xFFFF_FFFF


class Kept(NamedTuple):
    """One contradiction and the chain time at which this node saw it."""

    evidence: Evidence
    seen_s: int


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

    def add(self, evidence: Evidence, now_s: int) -> bool:
        """Keep a contradiction durably; False if it is known. The oldest makes room.

        Raises StorageError if it cannot be written.
        """
        key = _key(evidence)
        if key in self._kept:
            return False
        self._kept[key] = Kept(evidence, now_s)
        if len(self._kept) > MAX_EVIDENCE:
            del self._kept[next(iter(self._kept))]
        try:
            self._files.write_whole(self._path, self._encode())
        except OSError as error:
            raise StorageError("evidence-not-written", f"{self._path}: {error}") from error
        return True

    def _encode(self) -> bytes:
        rows = [
            [kept.evidence.offender, _pack(kept.evidence.first), _pack(kept.evidence.second), kept.seen_s]
            for kept in self._kept.values()
        ]
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
            return {_key(kept.evidence): kept for kept in _decode(data)}
        except DecodeError as damage:
            aside = self._path.with_suffix(".damaged")
            self._path.replace(aside)
            log.error("the file of evidence is damaged", extra={"code": damage.code, "moved_to": str(aside)})
            return {}


def _key(evidence: Evidence) -> tuple[int, ...]:
    first = evidence.first
    return evidence.offender, SHOWN.index(first.vote), first.term, first.height


def _pack(shown: Signed) -> list[Any]:
    return [SHOWN.index(shown.vote), shown.term, shown.height, shown.block_hash, shown.sig]


def _unpack(value: Any) -> Signed:
    kind, term, height, block_hash, sig = fields_of(value, 5, "statement")
    vote = SHOWN[uint(kind, len(SHOWN) - 1, "statement type")]
    return Signed(vote, term_field(term), height_field(height), hash_field(block_hash), sig_field(sig))


def _decode(data: bytes) -> list[Kept]:
    version, rows = fields_of(canonical.decode(data), 2, "evidence file")
    if version != _VERSION or type(rows) is not list or len(rows) > MAX_EVIDENCE:
        raise DecodeError("bad-evidence-file", "version or length")
    found = []
    for row in rows:
        offender, first, second, seen_s = fields_of(row, 4, "evidence")
        evidence = Evidence(index_field(offender), _unpack(first), _unpack(second))
        found.append(Kept(evidence, uint(seen_s, _MAX_TIME_S, "time")))
    return found
