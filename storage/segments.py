"""Append-only segment files: block bodies, undo data and commit certificates.

File ``blocks/seg-00000.dat`` = head record, then records, back to back::

    record  = u32 length | u32 crc32c | u8 kind | payload          (integers little-endian)
    payload = mark, 8 bytes | u32 durable | block hash, 32 bytes | u32 height | data
    head    = a record of kind 0: hash = chain id, height = number of the segment, data = "WTSEG" 01

``length`` counts the payload, the checksum covers length, kind and payload. ``mark`` is drawn at
random per file: it finds the next record behind a damaged one, and nobody can put a forged record
into a transaction without knowing it. ``durable`` is the length of the file at its last fdatasync
when the record was appended.

Invariants, kept by ``append``, ``sync`` and ``_roll`` below:

- a position is handed to LevelDB only after ``sync``, so LevelDB never points at what a power cut can take;
- every file but the last is synced to its end before the next one exists;
- a record behind a damaged one whose ``durable`` lies past the damage proves that the damaged bytes
  had reached the disk: that is corruption, and the store stops. Without such a proof the damaged
  bytes were never promised to anybody: a torn tail, cut off at open.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from struct import Struct
from threading import RLock
from typing import NamedTuple, NoReturn

from cext import crc32c
from consensus.errors import StorageError
from storage import limits
from storage.files import Files, ReadOnlyFiles, storage_error
from storage.schema import Position

_HEAD_DATA = b"WTSEG\x01"
_FRAME = Struct("<IIB")
_LENGTH_KIND = Struct("<IB")
_PREFIX = Struct("<8sI32sI")
_NAME = re.compile(r"seg-(\d{5,})\.dat")
HEAD_BYTES = _FRAME.size + _PREFIX.size + len(_HEAD_DATA)


class Kind(IntEnum):
    """What a record holds."""

    HEAD = 0
    BODY = 1
    UNDO = 2
    CERTIFICATE = 3


class Record(NamedTuple):
    """One record as read from a file; ``end`` is the offset behind it."""

    kind: Kind
    mark: bytes
    durable: int
    block_hash: bytes
    height: int
    data: bytes
    position: Position
    end: int


class SegmentFault(StorageError):
    """Code "segment-corrupt": damage in file ``number``, found at ``offset``; all before it was good."""

    def __init__(self, path: Path, number: int, offset: int, what: str) -> None:
        home = path.parent.parent
        super().__init__(
            "segment-corrupt",
            f"{path} at offset {offset}: {what}",
            fix=f"wattd store repair --datadir {home}, then start again: "
            "the node fetches what is missing from its peers",
        )
        self.number = number
        self.offset = offset


def encode_record(
    kind: Kind, mark: bytes, durable: int, block_hash: bytes, height: int, data: bytes
) -> bytes:
    """Return the bytes of one record."""
    payload = _PREFIX.pack(mark, durable, block_hash, height) + data
    checksum = crc32c(payload, crc32c(_LENGTH_KIND.pack(len(payload), kind)))
    return _FRAME.pack(len(payload), checksum, kind) + payload


class Segments:
    """The segment files of one data directory. All methods may be called from any thread."""

    def __init__(self, directory: Path, chain_id: bytes, files: Files) -> None:
        self._directory = directory
        self._chain_id = chain_id
        self._files = files
        self._lock = RLock()
        self._open: dict[int, int] = {}
        self._marks: dict[int, bytes] = {}
        self._failed: StorageError | None = None
        self._number = -1
        self._size = 0
        self._durable = 0
        self.first = 0
        """Number of the first file; those before it were pruned."""
        self.watch: Callable[[Record], None] = lambda record: None
        """Hears of each record that ``scan`` passes: for progress bars."""
        self.torn_bytes = 0
        """What a ``view`` found torn behind the last good record; ``open`` cuts it off."""

    @classmethod
    def open(
        cls,
        directory: Path,
        chain_id: bytes,
        watermark: tuple[int, int] | None,
        files: Files | None = None,
        first: int = 0,
    ) -> "Segments":
        """Open or create the files; make the tail behind ``watermark`` (segment, offset) whole and durable.

        Files before ``first`` were pruned: what a killed pruning left of them is passed over.
        Raises StorageError: "segment-corrupt", "datadir-foreign-chain", "disk-full", "not-writable".
        """
        segments = cls(directory, chain_id, files or Files())
        segments.first = first
        try:
            segments._open_all(watermark)
        except OSError as error:
            segments._close_files()
            raise storage_error(error, directory) from error
        except StorageError:
            segments._close_files()
            raise
        return segments

    @classmethod
    def view(cls, directory: Path, chain_id: bytes, first: int = 0) -> "Segments":
        """Open the files to look at them: nothing is written, and ``append`` is refused.

        Raises SegmentFault, StorageError "datadir-foreign-chain", "schema-too-new".
        """
        segments = cls(directory, chain_id, ReadOnlyFiles())
        segments.first = first
        try:
            if segments._open_numbers():
                fd = segments._descriptor(segments._number)
                physical = segments._files.size(fd)
                segments._size = segments._durable = segments._good_end(HEAD_BYTES, physical)
                segments.torn_bytes = physical - segments._size
        except OSError as error:
            segments._close_files()
            raise storage_error(error, directory) from error
        except StorageError:
            segments._close_files()
            raise
        return segments

    @property
    def end(self) -> tuple[int, int]:
        """(segment, offset) where the next record goes."""
        return self._number, self._size

    @property
    def failed(self) -> bool:
        """True once a write or sync failed."""
        return self._failed is not None

    def append(self, kind: Kind, block_hash: bytes, height: int, data: bytes) -> Position:
        """Write a record behind the last one; it is durable after ``sync``.

        Raises StorageError "disk-full", "not-writable", "disk-failed"; from then on every write is refused.
        """
        with self._lock:
            self.ensure_writable()
            try:
                length = _FRAME.size + _PREFIX.size + len(data)
                if self._size + length > limits.SEGMENT_BYTES and self._size > HEAD_BYTES:
                    self._roll()
                mark = self._marks[self._number]
                record = encode_record(kind, mark, self._durable, block_hash, height, data)
                self._files.write(self._open[self._number], record, self._size)
            except OSError as error:
                self._fail(error)
            position = Position(self._number, self._size, len(record) - _FRAME.size)
            self._size += len(record)
            return position

    def sync(self) -> None:
        """Make every record appended so far durable. Raises StorageError; see ``append``.

        A failed fdatasync is final: the kernel may have dropped the pages and call the next one a success.
        """
        with self._lock:
            self.ensure_writable()
            if self._durable == self._size:
                return
            try:
                self._files.sync(self._open[self._number])
            except OSError as error:
                self._fail(error)
            self._durable = self._size

    def read(self, position: Position, kind: Kind, block_hash: bytes) -> bytes:
        """Return the data of a record, its checksum verified. Raises StorageError "segment-corrupt"."""
        with self._lock:
            try:
                fd = self._descriptor(position.segment)
                raw = self._files.read(fd, _FRAME.size + position.length, position.offset)
            except FileNotFoundError:
                self._corrupt(position.segment, 0, "the file is missing")
            except OSError as error:
                raise storage_error(error, self._path(position.segment)) from error
        record = _parse(raw, position)
        if record is None or (record.kind, record.block_hash) != (kind, block_hash):
            self._corrupt(position.segment, position.offset, "the record fails its checksum")
        return record.data

    def scan(self, start: tuple[int, int] | None) -> Iterator[Record]:
        """Yield the records from ``start`` (or from the first one) to the end, in the order of writing."""
        number, offset = start or (self.first, HEAD_BYTES)
        while number <= self._number:
            fd = self._descriptor(number)
            size = self._size if number == self._number else self._files.size(fd)
            while offset < size:
                record = self._record_at(number, offset, size)
                if record is None:
                    self._corrupt(number, offset, "the record fails its checksum")
                self.watch(record)
                yield record
                offset = record.end
            number, offset = number + 1, HEAD_BYTES

    def bytes_on_disk(self) -> int:
        """Return the total size of the files."""
        return sum(entry.stat().st_size for entry in os.scandir(self._directory) if entry.is_file())

    def size_of(self, number: int) -> int:
        """Return the length of one file, bytes."""
        return self._size if number == self._number else self._files.size(self._descriptor(number))

    def numbers_on_disk(self) -> list[int]:
        """Return the numbers of the files that exist, ascending, pruned or not."""
        names = (_NAME.fullmatch(entry.name) for entry in os.scandir(self._directory))
        return sorted(int(match[1]) for match in names if match)

    def remove(self, number: int) -> None:
        """Remove a file before ``first``. Raises StorageError."""
        with self._lock:
            if number >= self.first:
                raise ValueError("only a pruned file may go")
            if number in self._open:
                self._files.close(self._open.pop(number))
            try:
                self._files.remove(self._path(number))
                self._files.sync_directory(self._directory)
            except OSError as error:
                self._fail(error)

    def records_of(self, number: int) -> Iterator[Record]:
        """Yield the records of a pruned file that is still there, as far as they are good."""
        fd = self._descriptor(number)
        size = self._files.size(fd)
        head = self._record_at(number, 0, size, HEAD_BYTES)
        if head is None:
            return
        self._marks[number] = head.mark
        offset = HEAD_BYTES
        while (record := self._record_at(number, offset, size)) is not None:
            yield record
            offset = record.end

    def close(self) -> None:
        """Close the files. Whoever wants the tail to be durable calls ``sync`` first."""
        with self._lock:
            self._close_files()

    # -- opening

    def _open_all(self, watermark: tuple[int, int] | None) -> None:
        numbers = self._open_numbers()
        if watermark is not None and watermark[0] not in numbers:
            self._corrupt(watermark[0], 0, "the file is missing")
        if not numbers:
            self._create(0)
            return
        segment, start = watermark or (self.first, HEAD_BYTES)
        size = self._files.size(self._descriptor(segment))
        if size < start:
            self._corrupt(segment, size, f"the file is shorter than the index says ({start})")
        self._recover_tail(start if segment == self._number else HEAD_BYTES)

    def _open_numbers(self) -> range:
        """Check that no file is missing and that each has a good head; return the numbers."""
        numbers = [number for number in self._list() if number >= self.first]
        if not numbers:
            if self.first:
                self._corrupt(self.first, 0, "the file is missing")
            return range(0)
        for expected, number in enumerate(numbers, self.first):
            if number != expected:
                self._corrupt(expected, 0, "the file is missing")
        for number in numbers:
            self._read_head(number)
        self._number = numbers[-1]
        return range(self.first, self._number + 1)

    def _list(self) -> list[int]:
        numbers = []
        for entry in os.scandir(self._directory):
            if entry.name.endswith(".tmp"):
                self._files.remove(Path(entry.path))
            elif match := _NAME.fullmatch(entry.name):
                numbers.append(int(match[1]))
        return sorted(numbers)

    def _read_head(self, number: int) -> None:
        """Check the head of a file and keep its mark. The head is durable before the name exists."""
        fd = self._descriptor(number)
        head = self._record_at(number, 0, self._files.size(fd), HEAD_BYTES)
        if head is None or (head.kind, head.height) != (Kind.HEAD, number):
            self._corrupt(number, 0, "the head of the file is damaged")
        if head.block_hash != self._chain_id:
            raise StorageError(
                "datadir-foreign-chain",
                f"{self._path(number)} holds blocks of chain {head.block_hash[::-1].hex()}",
                fix="give each chain a data directory of its own",
            )
        if head.data != _HEAD_DATA:
            raise StorageError(
                "schema-too-new",
                f"{self._path(number)} has format {head.data[-1:].hex()}, this version reads 01",
                fix="install the newer version again",
            )
        self._marks[number] = head.mark

    def _recover_tail(self, start: int) -> None:
        """Walk the last file from ``start``, cut a torn tail, refuse corruption, and write the rest anew."""
        fd = self._descriptor(self._number)
        size = self._files.size(fd)
        end = self._good_end(start, size)
        if end < size:
            self._files.truncate(fd, end)
        self._write_again(fd, start, end)
        self._size = self._durable = end

    def _good_end(self, start: int, size: int) -> int:
        """Return the end of the last good record of the last file; raise if what follows is corruption."""
        offset = start
        while offset < size:
            record = self._record_at(self._number, offset, size)
            if record is None:
                self._judge_damage(offset, size)
                break
            offset = record.end
        return offset

    def _judge_damage(self, offset: int, size: int) -> None:
        """Return if the damage at ``offset`` is a torn tail; raise if a later record proves otherwise."""
        mark = self._marks[self._number]
        fd = self._descriptor(self._number)
        at = offset + 1
        while at < size:
            window = self._files.read(fd, limits.RESYNC_CHUNK_BYTES + len(mark), at)
            found = window.find(mark)
            if found < 0:
                at += limits.RESYNC_CHUNK_BYTES
                continue
            later = self._record_at(self._number, at + found - _FRAME.size, size)
            if later is not None and later.durable > offset:
                self._corrupt(self._number, offset, f"valid records follow at {later.position.offset}")
            at += found + 1

    def _write_again(self, fd: int, start: int, end: int) -> None:
        """Write ``start..end`` over itself and sync.

        After a failed fdatasync the page cache may show records that the disk does not hold, marked
        clean; reading them back proves nothing. Dirty pages written once more do.
        """
        for offset in range(start, end, limits.RESYNC_CHUNK_BYTES):
            length = min(limits.RESYNC_CHUNK_BYTES, end - offset)
            self._files.write(fd, self._files.read(fd, length, offset), offset)
        self._files.sync(fd)

    # -- files

    def _path(self, number: int) -> Path:
        return self._directory / f"seg-{number:05d}.dat"

    def _descriptor(self, number: int) -> int:
        """Return a descriptor of the file, kept open; the one that is written to is never closed."""
        with self._lock:
            fd = self._open.get(number)
            if fd is None:
                if len(self._open) >= limits.OPEN_SEGMENTS_MAX:
                    oldest = next(other for other in self._open if other != self._number)
                    self._files.close(self._open.pop(oldest))
                fd = self._open[number] = self._files.open(self._path(number))
            return fd

    def _create(self, number: int) -> None:
        """Make a new file. It gets its name only when its head is durable, so a bad head is corruption."""
        mark = secrets.token_bytes(8)
        head = encode_record(Kind.HEAD, mark, 0, self._chain_id, number, _HEAD_DATA)
        self._files.write_whole(self._path(number), head)
        self._marks[number] = mark
        self._number = number
        self._size = self._durable = len(head)
        self._descriptor(number)

    def _roll(self) -> None:
        """Start the next file, once every byte of this one is durable."""
        self._files.sync(self._open[self._number])
        self._create(self._number + 1)

    def _record_at(self, number: int, offset: int, size: int, limit: int = 0) -> Record | None:
        """Return the valid record at ``offset``, or None; ``limit`` bounds its length if given."""
        fd = self._descriptor(number)
        frame = self._files.read(fd, _FRAME.size, offset) if offset >= 0 else b""
        if len(frame) < _FRAME.size:
            return None
        length = int.from_bytes(frame[:4], "little")
        if length > (limit or limits.RECORD_BYTES_MAX) or offset + _FRAME.size + length > size:
            return None
        raw = frame + self._files.read(fd, length, offset + _FRAME.size)
        record = _parse(raw, Position(number, offset, length))
        if record is not None and offset > 0:
            foreign = record.kind is Kind.HEAD or record.mark != self._marks[number]
            return None if foreign else record
        return record

    def _close_files(self) -> None:
        for fd in self._open.values():
            self._files.close(fd)
        self._open.clear()

    # -- failures

    def _fail(self, error: OSError) -> NoReturn:
        self._failed = storage_error(error, self._path(self._number))
        raise self._failed from error

    def ensure_writable(self) -> None:
        """Raise again what made an earlier write fail."""
        if self._failed is not None:
            raise self._failed

    def _corrupt(self, number: int, offset: int, what: str) -> NoReturn:
        raise SegmentFault(self._path(number), number, offset, what)


def _parse(raw: bytes, position: Position) -> Record | None:
    """Return the record that ``raw`` is exactly, or None if it is not a valid one."""
    if len(raw) < _FRAME.size + _PREFIX.size:
        return None
    length, checksum, kind = _FRAME.unpack_from(raw)
    if length != position.length or length != len(raw) - _FRAME.size or kind > Kind.CERTIFICATE:
        return None
    if checksum != crc32c(memoryview(raw)[_FRAME.size :], crc32c(_LENGTH_KIND.pack(length, kind))):
        return None
    mark, durable, block_hash, height = _PREFIX.unpack_from(raw, _FRAME.size)
    data = raw[_FRAME.size + _PREFIX.size :]
    end = position.offset + len(raw)
    return Record(Kind(kind), mark, durable, block_hash, height, data, position, end)
