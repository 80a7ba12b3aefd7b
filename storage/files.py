"""The thin layer under everything that the store writes itself (LevelDB writes its own files).

Methods mirror system calls and raise OSError, so that a test can put a layer in their place that
tears writes, fills the disk or fails an fsync.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

from consensus.errors import StorageError

_CODES = {
    errno.ENOSPC: ("disk-full", "free some space or move the data directory, then start again"),
    errno.EDQUOT: ("disk-full", "raise the quota or move the data directory, then start again"),
    errno.EFBIG: ("disk-full", "raise the largest size of a file (ulimit -f), then start again"),
    errno.EROFS: ("not-writable", "mount the file system read-write, then start again"),
    errno.EACCES: ("not-writable", "give the user of the node write access, then start again"),
    errno.EPERM: ("not-writable", "give the user of the node write access, then start again"),
    errno.ENOTDIR: ("not-writable", "name a directory"),
    errno.EEXIST: ("not-writable", "name a directory"),
}
_OTHER = ("disk-failed", "check the disk and the kernel log, then start again")


def storage_error(error: OSError, path: Path) -> StorageError:
    """Return the coded StorageError for an operating system error on ``path``."""
    code, fix = _CODES.get(error.errno or 0, _OTHER)
    return StorageError(code, f"{path}: {error.strerror or error}", fix=fix)


class Files:
    """Real files. Descriptors are plain ints; offsets and sizes are bytes."""

    def open(self, path: Path, *, create: bool = False, mode: int = 0o644) -> int:
        """Open for reading and writing; with ``create`` an absent file is made with ``mode``."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), mode)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def size(self, fd: int) -> int:
        """Return the length of the file."""
        return os.fstat(fd).st_size

    def read(self, fd: int, length: int, offset: int) -> bytes:
        """Return up to ``length`` bytes from ``offset``, fewer only at the end of the file."""
        parts = []
        while length > 0 and (part := os.pread(fd, length, offset)):
            parts.append(part)
            length -= len(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``; on an error part of it may be in the file."""
        view = memoryview(data)
        while view:
            count = os.pwrite(fd, view, offset)
            view = view[count:]
            offset += count

    def sync(self, fd: int) -> None:
        """Return when data and length of the file are on the disk (fdatasync)."""
        os.fdatasync(fd)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to ``size`` bytes."""
        os.ftruncate(fd, size)

    def rename(self, source: Path, target: Path) -> None:
        """Replace ``target`` by ``source`` in one step and make the change of name durable."""
        os.rename(source, target)
        self.sync_directory(target.parent)

    def remove(self, path: Path) -> None:
        """Remove a file if it is there."""
        with suppress(FileNotFoundError):
            os.unlink(path)

    def free_bytes(self, path: Path) -> int:
        """Return what a user may still write to the file system of ``path``."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def sync_directory(self, path: Path) -> None:
        """Return when the names in the directory are on the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename_directory(self, source: Path, target: Path) -> None:
        """Give a directory another name and make that durable; ``target`` must not exist."""
        os.rename(source, target)
        self.sync_directory(target.parent)

    def write_whole(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        """Put ``data`` at ``path`` so that any crash leaves either the old file or the new one, durable."""
        temporary = path.with_name(path.name + ".tmp")
        self.remove(temporary)
        fd = self.open(temporary, create=True, mode=mode)
        try:
            self.write(fd, data, 0)
            self.sync(fd)
        finally:
            self.close(fd)
        self.rename(temporary, path)


class ReadOnlyFiles(Files):
    """Files that are looked at: nothing is created, changed, renamed or removed."""

    def open(self, path: Path, *, create: bool = False, mode: int = 0o644) -> int:
        """Open for reading."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Refuse: EROFS."""
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def truncate(self, fd: int, size: int) -> None:
        """Refuse: EROFS."""
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def rename(self, source: Path, target: Path) -> None:
        """Refuse: EROFS."""
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def remove(self, path: Path) -> None:
        """Leave it."""
