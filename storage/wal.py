"""The write-ahead log of votes: what a validator must remember before a vote leaves.

Record = ``u32 length | u32 crc32c | u8 type | payload``, integers little-endian, ``length`` counts
the payload, the checksum covers length, type and payload (CONSENSUS 2.7).

Invariants:

- a vote leaves only after ``sync`` returned; a failed write or fdatasync poisons the log for good,
  because a second fdatasync may report success for pages that the kernel has dropped;
- opening writes the whole log anew (new file, fsync, rename): what ``open`` returns is on the disk,
  even if the file was last seen through a page cache whose fsync had failed;
- a damaged log is never changed by ``open``: as long as it lies there, every start reports CORRUPT.
"""

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from struct import Struct
from typing import NoReturn

from cext import crc32c
from consensus.errors import StorageError
from storage import limits
from storage.files import Files, storage_error

_FRAME = Struct("<IIB")
_LENGTH_TYPE = Struct("<IB")

VoteRecord = tuple[int, bytes]
"""(type, payload)."""


class LogState(Enum):
    """What ``VoteLog.open`` found."""

    EMPTY = "empty"
    """No file, or one without records: nothing was ever promised here, or the log is gone."""
    CLEAN = "clean"
    """Every byte belongs to a valid record."""
    TORN = "torn"
    """The last append was cut by a crash before it was synced; it has been removed."""
    CORRUPT = "corrupt"
    """Valid records follow a damaged one: promises may be missing. The file is left as it is."""


def encode_record(kind: int, payload: bytes) -> bytes:
    """Return the bytes of one record; ``kind`` is 0 to 255."""
    if len(payload) > limits.WAL_RECORD_BYTES_MAX:
        raise ValueError(f"a vote record of {len(payload)} bytes is over the limit")
    checksum = crc32c(payload, crc32c(_LENGTH_TYPE.pack(len(payload), kind)))
    return _FRAME.pack(len(payload), checksum, kind) + payload


def scan_records(data: bytes) -> tuple[list[VoteRecord], int, LogState]:
    """Return (records before the first damage, their length in bytes, state) of the bytes of a log."""
    records = []
    offset = 0
    while record := _record_at(data, offset):
        records.append(record)
        offset += _FRAME.size + len(record[1])
    if offset == len(data):
        return records, offset, LogState.CLEAN if records else LogState.EMPTY
    if any(_record_at(data, later) for later in range(offset + 1, len(data))):
        return records, offset, LogState.CORRUPT
    return records, offset, LogState.TORN


def _record_at(data: bytes, offset: int) -> VoteRecord | None:
    if len(data) - offset < _FRAME.size:
        return None
    length, checksum, kind = _FRAME.unpack_from(data, offset)
    start = offset + _FRAME.size
    if length > limits.WAL_RECORD_BYTES_MAX or start + length > len(data):
        return None
    payload = data[start : start + length]
    if checksum != crc32c(payload, crc32c(_LENGTH_TYPE.pack(length, kind))):
        return None
    return kind, payload


class VoteLog:
    """The open log; ``state`` says what was found. The data-directory lock keeps other processes out."""

    def __init__(self, path: Path, files: Files, state: LogState) -> None:
        self.path = path
        self.state = state
        self._files = files
        self._fd = -1
        self._size = 0
        self._dirty = False
        self._failed: StorageError | None = None

    @classmethod
    def open(cls, path: Path, files: Files | None = None) -> tuple["VoteLog", list[VoteRecord]]:
        """Open or create the log and return it with its records.

        A log in state CORRUPT comes with the records before the damage and refuses ``append``;
        only ``rewrite`` makes it usable again, and sets the damaged file aside. A caller that had
        signed before must take EMPTY as a lost log. Raises StorageError "disk-full",
        "not-writable" or "disk-failed".
        """
        layer = files or Files()
        try:
            data = _read_whole(path, layer)
            records, _, state = scan_records(data)
            log = cls(path, layer, state)
            if state is LogState.CORRUPT:
                log._failed = _corrupt(path)
            else:
                log._replace(records)
        except OSError as error:
            raise storage_error(error, path) from error
        return log, records

    @property
    def size_bytes(self) -> int:
        """Length of the log."""
        return self._size

    @property
    def wants_rewrite(self) -> bool:
        """True when the log is past its byte budget: call ``rewrite`` with what still matters."""
        return self._size > limits.WAL_BYTES_MAX

    def append(self, kind: int, payload: bytes) -> None:
        """Write a record; it is durable after ``sync``. Raises StorageError, ValueError if it is too long."""
        record = encode_record(kind, payload)
        self._refuse_after_failure()
        try:
            self._dirty = True
            self._files.write(self._fd, record, self._size)
        except OSError as error:
            self._fail(error)
        self._size += len(record)

    def sync(self) -> None:
        """Return when every record appended is on the disk. Raises StorageError."""
        self._refuse_after_failure()
        if not self._dirty:
            return
        try:
            self._files.sync(self._fd)
        except OSError as error:
            self._fail(error)
        self._dirty = False

    def rewrite(self, records: Iterable[VoteRecord]) -> None:
        """Replace the log by ``records`` in one durable step: a crash leaves the old log or the new one.

        A damaged log is renamed to ``<name>.corrupt`` first, and ``state`` becomes CLEAN.
        """
        if self.state is not LogState.CORRUPT:
            self._refuse_after_failure()
        kept = list(records)
        for kind, payload in kept:
            encode_record(kind, payload)
        try:
            if self.state is LogState.CORRUPT:
                self._files.rename(self.path, self.path.with_name(self.path.name + ".corrupt"))
                self.state, self._failed = LogState.CLEAN, None
            self._replace(kept)
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Close the file; what was not synced is not promised."""
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1

    def _replace(self, records: list[VoteRecord]) -> None:
        data = b"".join(encode_record(kind, payload) for kind, payload in records)
        self._files.write_whole(self.path, data, mode=0o600)
        self.close()
        self._fd = self._files.open(self.path)
        self._size = len(data)
        self._dirty = False

    def _fail(self, error: OSError) -> NoReturn:
        self._failed = storage_error(error, self.path)
        raise self._failed from error

    def _refuse_after_failure(self) -> None:
        if self._failed is not None:
            raise self._failed


def _read_whole(path: Path, files: Files) -> bytes:
    try:
        fd = files.open(path)
    except FileNotFoundError:
        return b""
    try:
        return files.read(fd, files.size(fd), 0)
    finally:
        files.close(fd)


def _corrupt(path: Path) -> StorageError:
    return StorageError(
        "wal-corrupt",
        f"{path}: valid records follow a damaged one, so votes may be missing",
        fix="this validator signs nothing until the next round; keep the file for the post-mortem",
    )
