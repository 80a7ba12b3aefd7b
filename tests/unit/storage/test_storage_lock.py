import os
import subprocess
import sys
from pathlib import Path

import pytest

from consensus.errors import StorageError
from storage.lock import LOCK_NAME, DirectoryLock

HOLDER = """
import sys
from pathlib import Path
from storage.lock import DirectoryLock
lock = DirectoryLock.acquire(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_directory_and_pid(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(StorageError) as caught:
            DirectoryLock.acquire(tmp_path)
        assert caught.value.code == "datadir-locked"
        assert str(tmp_path) in caught.value.reason
        assert f"pid {holder.pid}" in caught.value.reason
        assert "\n" not in str(caught.value)
        holder.kill()
    DirectoryLock.acquire(tmp_path).release()


def test_the_lock_goes_with_release_and_only_then(tmp_path: Path) -> None:
    lock = DirectoryLock.acquire(tmp_path)
    assert (tmp_path / LOCK_NAME).read_bytes() == b"%d\n" % os.getpid()
    with pytest.raises(StorageError):
        DirectoryLock.acquire(tmp_path)
    lock.release()
    lock.release()
    again = DirectoryLock.acquire(tmp_path)
    again.release()


def test_an_unreadable_owner_is_left_out_of_the_message(tmp_path: Path) -> None:
    lock = DirectoryLock.acquire(tmp_path)
    (tmp_path / LOCK_NAME).write_bytes(b"?")
    with pytest.raises(StorageError) as caught:
        DirectoryLock.acquire(tmp_path)
    assert "pid" not in caught.value.reason
    lock.release()


def test_a_directory_that_is_none_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        DirectoryLock.acquire(tmp_path / "file")
    assert caught.value.code == "not-writable"
