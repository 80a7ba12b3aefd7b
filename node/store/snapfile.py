"""The file of a snapshot: its form, written and read as a stream.

Integers are little-endian, hashes in internal byte order::

    file    = rooted | trailer
    rooted  = "WTSNAP" 00 form | u32 length | head | headers | coins | state
    headers = 80 bytes each, genesis first
    coins   = entries by ascending prevout; state = entries by ascending key
    entries = (01 | u32 length | key | u32 length | value)* 00
    trailer = "CERT" | u32 length | certificates | root, 32 bytes

Form 1 is the state at a tip, believed for its root::

    head         = canonical array [chain id, height, block hash, encoded ChainTip, raw block]
    headers      up to the block
    certificates = the block's commit certificate; empty on a pow chain

Form 2 is the state that a later block, the proof, commits to (``consensus.state_root``)::

    head         = canonical array [chain id, height, raw block, proof height, raw coinbase, [Merkle branch]]
    headers      up to the proof
    certificates = canonical array [certificate of the block, [headers behind the proof], certificate of the
                   proof or of the last of these headers]; certificates are empty on a pow chain

The root is the RFC 6962 tree root over ``rooted`` in chunks of 1 MiB (the last may be shorter). Certificates
are outside of it, because another quorum may have signed at another node: two nodes export one root.
"""

from collections.abc import Iterator
from struct import Struct
from typing import BinaryIO

from consensus import history
from consensus.errors import StorageError
from node.store.progress import Progress
from storage.files import Files

MAGIC = b"WTSNAP\x00"
AT_TIP = b"\x01"
PROVEN = b"\x02"
CHUNK_BYTES = 1 << 20
U32 = Struct("<I")
HEAD_BYTES_MAX = 1 << 26
_TRAILER = b"CERT"
_KEY_BYTES_MAX = 1 << 16
_VALUE_BYTES_MAX = 1 << 26


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

    def finish(self, certificates: bytes) -> bytes:
        """Append the trailer; return the root."""
        root = self._tree.root()
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
    """A file that is read in order, with the tree root over what ``take`` gave.

    All methods raise StorageError "snapshot-damaged".
    """

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file, self._progress = file, progress
        self._tree = _Tree()

    def take(self, length: int) -> bytes:
        """Return the next ``length`` bytes."""
        data = self._unrooted(length)
        self._tree.update(data)
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
        while (mark := self.take(1)) == b"\x01":
            key, value = self.sized(_KEY_BYTES_MAX), self.sized(_VALUE_BYTES_MAX)
            if key <= last:
                raise damaged("the keys are not in order")
            yield key, value
            last = key
        if mark != b"\x00":
            raise damaged("an entry that is none")

    def finish(self) -> tuple[bytes, bytes]:
        """Read the trailer and check the root; return (certificates, root)."""
        root = self._tree.root()
        if self._unrooted(len(_TRAILER)) != _TRAILER:
            raise damaged("no trailer")
        (length,) = U32.unpack(self._unrooted(4))
        if length > HEAD_BYTES_MAX:
            raise damaged(f"a length of {length} bytes")
        certificates, said = self._unrooted(length), self._unrooted(len(root))
        if self._file.read(1):
            raise damaged("the file is longer than its content")
        if root != said:
            raise damaged("its content does not fit its root")
        return certificates, root

    def _unrooted(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            raise damaged("the file ends early")
        self._progress.advance(length)
        return data
