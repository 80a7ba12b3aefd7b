"""The file of a snapshot: its form, written and read as a stream.

Integers are little-endian, hashes in internal byte order::

    file    = rooted | trailer
    rooted  = "WTSNAP" 00 form | u32 length | head | headers | coins | state
    headers = 80 bytes each, genesis first
    coins   = entries by ascending prevout; state = entries by ascending key
    entries = (01 | u32 length | key | u32 length | value)* 00
    trailer = "STEP" | steps | "CERT" | u32 length | certificates | root, 32 bytes
    steps   = (01 | u32 length | step)* 00

The steps lead from the founders to the validators that signed the certificates: one for each round that a
quorum handed over, ``consensus.light.encode_step``. Forms 1 and 2 were without them.

Form 3 is the state at a tip, believed for its root::

    head         = canonical array [chain id, height, block hash, encoded ChainTip, raw block]
    headers      up to the block
    certificates = the block's commit certificate; empty on a pow chain

Form 4 is the state that a later block, the proof, commits to (``consensus.state_root``)::

    head         = canonical array [chain id, height, raw block, proof height, raw coinbase, [Merkle branch]]
    headers      up to the proof
    certificates = canonical array [certificate of the block, [headers behind the proof], certificate of the
                   proof or of the last of these headers]; certificates are empty on a pow chain

The root is the RFC 6962 tree root over ``rooted`` in chunks of 1 MiB (the last may be shorter). Steps and
certificates are outside of it, because another quorum may have signed at another node: two nodes export one
root.
"""

from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import BinaryIO

from consensus import history
from consensus.errors import StorageError
from node.store.progress import Progress
from storage.files import Files

MAGIC = b"WTSNAP\x00"
AT_TIP = b"\x03"
PROVEN = b"\x04"
OUTDATED = (b"\x01", b"\x02")
CHUNK_BYTES = 1 << 20
U32 = Struct("<I")
HEAD_BYTES_MAX = 1 << 26
STEP_BYTES_MAX = 1 << 23
"""A step with the largest coinbase."""
_STEPS = b"STEP"
_TRAILER = b"CERT"
_KEY_BYTES_MAX = 1 << 16
_VALUE_BYTES_MAX = 1 << 26
_ENTRY_BYTES = 9
"""Mark and lengths of an entry."""


def damaged(what: str) -> StorageError:
    """Return the error for a file that is not in the form of a snapshot."""
    return StorageError("snapshot-damaged", what, fix="fetch the file again")


def refused(what: str) -> StorageError:
    """Return the error for a snapshot whose content does not hold."""
    return StorageError("snapshot-refused", what, fix="take a snapshot from a source that you trust")


class _Tree:
    """The tree root over a stream, in the memory of one chunk."""

    def __init__(self) -> None:
        self._chunk = bytearray()
        self._peaks: tuple[bytes, ...] = ()
        self._count = 0

    def update(self, data: bytes) -> None:
        self._chunk += data
        while len(self._chunk) >= CHUNK_BYTES:
            self._leaf(bytes(self._chunk[:CHUNK_BYTES]))
            del self._chunk[:CHUNK_BYTES]

    def root(self) -> bytes:
        if self._chunk:
            self._leaf(bytes(self._chunk))
            self._chunk.clear()
        return history.root(self._peaks)

    def _leaf(self, data: bytes) -> None:
        self._peaks = history.append(self._peaks, self._count, data)
        self._count += 1


class Out:
    """A file that is written in order, with the tree root over what ``put`` got."""

    def __init__(self, files: Files, fd: int) -> None:
        self._files, self._fd = files, fd
        self._at = 0
        self._buffer = bytearray()
        self._tree = _Tree()

    def put(self, data: bytes) -> None:
        """Append ``data``."""
        self._tree.update(data)
        self._put(data)

    def sized(self, data: bytes) -> None:
        """Append ``data`` behind its length."""
        self.put(U32.pack(len(data)) + data)

    def entries(self, pairs: Iterator[tuple[bytes, bytes]], progress: Progress) -> None:
        """Append a run of keys and values."""
        for key, value in pairs:
            self.put(b"\x01" + U32.pack(len(key)) + key + U32.pack(len(value)) + value)
            progress.advance(len(key) + len(value))
        self.put(b"\x00")

    def finish(self, steps: Iterable[bytes], certificates: bytes) -> bytes:
        """Append the trailer; return the root."""
        root = self._tree.root()
        self._put(_STEPS)
        for step in steps:
            self._put(b"\x01" + U32.pack(len(step)) + step)
        self._put(b"\x00")
        self._put(_TRAILER + U32.pack(len(certificates)) + certificates + root)
        self._flush()
        return root

    def _put(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= CHUNK_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._files.write(self._fd, bytes(self._buffer), self._at)
        self._at += len(self._buffer)
        self._buffer.clear()


class In:
    """A file that is read in order, with the tree root over what was taken before ``finish``.

    All methods raise StorageError "snapshot-damaged".
    """

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file, self._progress = file, progress
        self._tree = _Tree()
        self._buffer = b""
        self._at = 0
        """What of the buffer was taken."""

    def take(self, length: int) -> bytes:
        """Return the next ``length`` bytes."""
        data = self._next(length)
        self._progress.advance(length)
        return data

    def sized(self, limit: int) -> bytes:
        """Return what stands behind its length, of at most ``limit`` bytes."""
        (length,) = U32.unpack(self.take(4))
        if length > limit:
            raise damaged(f"a length of {length} bytes")
        return self.take(length)

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield a run of keys and values."""
        last = b""
        advance = self._progress.advance
        while True:
            found = self._entry_at_hand() or self._entry()
            if found is None:
                return
            key, value = found
            if key <= last:
                raise damaged("the keys are not in order")
            advance(len(key) + len(value) + _ENTRY_BYTES)
            yield found
            last = key

    def finish(self, take_step: Callable[[bytes], None]) -> tuple[bytes, bytes]:
        """Read the trailer and check the root; return (certificates, root). Steps are handed on as read."""
        self._tree.update(self._buffer[: self._at])
        self._buffer, self._at = self._buffer[self._at :], 0
        root = self._tree.root()
        self._tree = _Tree()
        if self.take(len(_STEPS)) != _STEPS:
            raise damaged("no steps")
        while (mark := self.take(1)) != b"\x00":
            if mark != b"\x01":
                raise damaged("a step that is none")
            take_step(self.sized(STEP_BYTES_MAX))
        if self.take(len(_TRAILER)) != _TRAILER:
            raise damaged("no trailer")
        certificates, said = self.sized(HEAD_BYTES_MAX), self.take(len(root))
        if self._at != len(self._buffer) or self._file.read(1):
            raise damaged("the file is longer than its content")
        if root != said:
            raise damaged("its content does not fit its root")
        return certificates, root

    def _next(self, length: int) -> bytes:
        if len(self._buffer) - self._at < length:
            self._fill(length)
        data = self._buffer[self._at : self._at + length]
        if len(data) != length:
            raise damaged("the file ends early")
        self._at += length
        return data

    def _fill(self, length: int) -> None:
        """Have at least ``length`` bytes at hand, unless the file ends."""
        self._tree.update(self._buffer[: self._at])
        rest = self._buffer[self._at :]
        self._buffer = rest + self._file.read(max(length - len(rest), CHUNK_BYTES))
        self._at = 0

    def _entry_at_hand(self) -> tuple[bytes, bytes] | None:
        """Return the next entry if all of it is in the buffer: what most are, a million of them."""
        buffer, at = self._buffer, self._at
        left = len(buffer) - at
        if left < _ENTRY_BYTES or buffer[at] != 1:
            return None
        (key_length,) = U32.unpack_from(buffer, at + 1)
        if key_length > _KEY_BYTES_MAX or left < _ENTRY_BYTES + key_length:
            return None
        at += 5 + key_length
        (value_length,) = U32.unpack_from(buffer, at)
        if left < _ENTRY_BYTES + key_length + value_length:
            return None
        self._at = at + 4 + value_length
        return buffer[at - key_length : at], buffer[at + 4 : self._at]

    def _entry(self) -> tuple[bytes, bytes] | None:
        """Return the next entry, None at the end of the run."""
        mark = self._next(1)
        if mark == b"\x00":
            return None
        if mark != b"\x01":
            raise damaged("an entry that is none")
        parts = []
        for limit in (_KEY_BYTES_MAX, _VALUE_BYTES_MAX):
            (length,) = U32.unpack(self._next(4))
            if length > limit:
                raise damaged(f"a length of {length} bytes")
            parts.append(self._next(length))
        return parts[0], parts[1]
