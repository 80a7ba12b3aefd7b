"""LevelDB behind numbered batches: the one place that calls plyvel.

LevelDB is written without fsync (the segment files are the log), so a power cut may take its last
batches. Losing the newest ones is harmless: the node replays them. Losing one in the middle
would not be: LevelDB skips a block of zeros in its own log without a word, and does not sync a log
that it leaves for a new one. Therefore:

- every batch carries its number ``Q`` and a mark ``m<number>``;
- at open, the marks from the floor ``F`` to ``Q`` must all be there, or the index is refused;
- marks are removed only after LevelDB's memory table was flushed: what is in table files cannot be lost.
"""

import errno
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import plyvel

from consensus.errors import StorageError
from storage import limits, schema
from storage.files import storage_error

Rows = Generator[tuple[bytes, bytes], None, None]

_SYSTEM_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
)
"""Faults of the disk or its state, not of what is on it: computing the database again would not help."""

_SMALLEST = b"\x00"
"""Below every key of the schema: compacting this range compacts nothing, but flushes the memory table."""


class Snapshot:
    """The database as it was at one instant, for reads that belong together. Use as a context manager."""

    def __init__(self, path: Path, snapshot: Any) -> None:
        self._path = path
        self._snapshot = snapshot

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self._snapshot.close()

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, its checksum verified."""
        try:
            value: bytes | None = self._snapshot.get(key, verify_checksums=True)
        except plyvel.Error as error:
            raise _fault(self._path, error) from error
        return value

    def scan_from(self, start: bytes, stop: bytes) -> Rows:
        """Iterate over whole keys in ``start <= key < stop`` in order; whoever stops early closes it."""
        iterator = self._snapshot.iterator(start=start, stop=stop, verify_checksums=True)
        return _guarded(self._path, iterator)


class Index:
    """The LevelDB database of one data directory. Reads from any thread, writes from one at a time."""

    def __init__(self, path: Path, database: Any) -> None:
        self._path = path
        self._db = database
        self._failed: StorageError | None = None
        self._sequence = 0
        self._floor = 0
        self._synced = 0

    @classmethod
    def open(cls, path: Path, cache_bytes: int, *, create: bool = True) -> "Index":
        """Open the database; with ``create`` an absent one is made.

        Raises StorageError: "leveldb-corrupt", "not-writable", "disk-full".
        """
        try:
            database = plyvel.DB(
                os.fspath(path),
                create_if_missing=create,
                lru_cache_size=cache_bytes,
                write_buffer_size=limits.WRITE_BUFFER_BYTES,
                max_file_size=limits.LEVELDB_FILE_BYTES,
                max_open_files=_open_files(cache_bytes),
                bloom_filter_bits=limits.BLOOM_BITS,
                compression="snappy" if cache_bytes <= limits.COMPRESSED_CACHE_BYTES else None,
            )
        except plyvel.Error as error:
            raise _fault(path, error) from error
        index = cls(path, database)
        try:
            index._check_marks()
        except StorageError:
            index.close()
            raise
        return index

    @property
    def is_empty(self) -> bool:
        """True before the first batch."""
        return self._sequence == 0

    @property
    def failed(self) -> bool:
        """True once a write failed."""
        return self._failed is not None

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, its checksum verified."""
        try:
            value: bytes | None = self._db.get(key, verify_checksums=True)
        except plyvel.Error as error:
            raise _fault(self._path, error) from error
        return value

    def scan(self, space: bytes, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the keys ``space + prefix...`` in order, as of this call; ``space`` is cut off."""
        iterator = self._db.prefixed_db(space).iterator(prefix=prefix, verify_checksums=True)
        return _guarded(self._path, iterator)

    def scan_from(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over whole keys in ``start <= key < stop`` in order, as they are now."""
        return _guarded(self._path, self._db.iterator(start=start, stop=stop, verify_checksums=True))

    def snapshot(self) -> Snapshot:
        """Return the database as it is now."""
        return Snapshot(self._path, self._db.snapshot())

    def batch(self) -> Any:
        """Return an empty plyvel batch (``put``, ``delete``) for ``write``."""
        self.ensure_writable()
        return self._db.write_batch(sync=self._sequence + 1 - self._synced >= limits.SYNC_EVERY_BATCHES)

    def synced_batch(self) -> Any:
        """Return an empty batch whose ``write`` returns when it and all earlier ones are on the disk."""
        self.ensure_writable()
        self._synced = self._sequence + 1 - limits.SYNC_EVERY_BATCHES
        return self.batch()

    def write(self, batch: Any) -> None:
        """Write a batch, all or nothing. After a failure every further write is refused."""
        self.ensure_writable()
        sequence = self._sequence + 1
        batch.put(schema.SEQUENCE, schema.U64.pack(sequence))
        batch.put(schema.mark_key(sequence), b"")
        try:
            batch.write()
            self._sequence = sequence
            if sequence - self._synced >= limits.SYNC_EVERY_BATCHES:
                self._synced = sequence
            if sequence - self._floor >= limits.MARKS_MAX:
                self._drop_marks()
        except plyvel.Error as error:
            self._failed = _fault(self._path, error)
            raise self._failed from error

    def flush(self) -> None:
        """Return when every batch so far is in table files. A failure shows at the next write."""
        self._db.compact_range(start=_SMALLEST, stop=_SMALLEST)

    def compact(self, start: bytes, stop: bytes) -> None:
        """Compact the keys from ``start`` to ``stop``: what was deleted or replaced gives its space back."""
        self._db.compact_range(start=start, stop=stop)

    def bytes_on_disk(self) -> int:
        """Return the total size of LevelDB's files."""
        total = 0
        for name in os.listdir(self._path):
            try:
                total += (self._path / name).stat().st_size
            except FileNotFoundError:  # LevelDB removes tables in the background
                continue
        return total

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _check_marks(self) -> None:
        """Refuse an index that lacks a batch before its last one."""
        stored = self.get(schema.SEQUENCE)
        if stored is None:
            if next(self.scan(b""), None) is not None:
                _corrupt(self._path, "it has data but no batch number")
            return
        (self._sequence,) = schema.U64.unpack(stored)
        (self._floor,) = schema.U64.unpack(self.get(schema.MARK_FLOOR) or bytes(8))
        self._synced = self._sequence
        marks = self.scan_from(schema.mark_key(self._floor + 1), schema.mark_key(self._sequence + 1))
        missing = self._sequence - self._floor - sum(1 for _ in marks)
        if missing:
            _corrupt(self._path, f"a power cut took {missing} batches before the last, {self._sequence}")

    def _drop_marks(self) -> None:
        """Flush the memory table, so that no batch so far can be lost, and then forget their marks."""
        self.flush()
        last = self._sequence
        batch = self._db.write_batch(sync=True)
        for sequence in range(self._floor + 1, last + 1):
            batch.delete(schema.mark_key(sequence))
        batch.put(schema.MARK_FLOOR, schema.U64.pack(last))
        batch.put(schema.SEQUENCE, schema.U64.pack(last + 1))
        batch.put(schema.mark_key(last + 1), b"")
        batch.write()
        self._floor, self._sequence, self._synced = last, last + 1, last + 1

    def ensure_writable(self) -> None:
        """Raise again what made an earlier write fail."""
        if self._failed is not None:
            raise self._failed


def _open_files(cache_bytes: int) -> int:
    """Return how many table files LevelDB keeps open: it maps them, so what it reads of them is resident."""
    wanted = cache_bytes // limits.CACHE_BYTES_PER_FILE
    return min(max(wanted, limits.LEVELDB_FILES_MIN), limits.LEVELDB_FILES_MAX)


def _guarded(path: Path, iterator: Any) -> Rows:
    """Step through a LevelDB iterator, which took its view of the data when it was made."""
    try:
        yield from iterator
    except plyvel.Error as error:
        raise _fault(path, error) from error
    finally:
        iterator.close()


def _fault(path: Path, error: Exception) -> StorageError:
    """Translate an error of LevelDB, which carries the words of the operating system in its text."""
    raw = error.args[0] if error.args else b""
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
    for number in _SYSTEM_ERRORS:
        if os.strerror(number) in text:
            return storage_error(OSError(number, os.strerror(number)), path)
    return StorageError("leveldb-corrupt", f"{path}: {text}", fix=_rebuild(path))


def _corrupt(path: Path, what: str) -> NoReturn:
    raise StorageError("leveldb-corrupt", f"{path}: {what}", fix=_rebuild(path))


def _rebuild(path: Path) -> str:
    return f"wattd store repair --datadir {path.parent}, then start again"
