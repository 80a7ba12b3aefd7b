"""One process at a time on a data directory."""

import fcntl
import os
from pathlib import Path

from consensus.errors import StorageError
from storage.files import storage_error

LOCK_NAME = "lock"


class DirectoryLock:
    """An exclusive ``flock`` on ``<directory>/lock``; the kernel drops it however the process ends.

    The file holds the pid of the owner for the message that a second process prints; it is never
    removed, because removing a locked file would let two processes lock two files of one name.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def acquire(cls, directory: Path) -> "DirectoryLock":
        """Lock the directory. Raises StorageError "datadir-locked" or "not-writable"."""
        path = directory / LOCK_NAME
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(error, path) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except BlockingIOError as error:
            owner = os.pread(fd, 20, 0).strip()
            os.close(fd)
            who = f" (pid {int(owner)})" if owner.isdigit() else ""
            raise StorageError(
                "datadir-locked",
                f"another process{who} uses the data directory {directory}",
                fix="stop it, or give this node a directory of its own",
            ) from error
        except OSError as error:
            os.close(fd)
            raise storage_error(error, path) from error
        return cls(fd)

    def release(self) -> None:
        """Let the directory go; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
