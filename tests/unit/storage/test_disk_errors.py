"""Errors of the operating system inside LevelDB, told from damage, and what must be durable before what."""

from pathlib import Path

import plyvel
import pytest

from consensus.errors import StorageError
from storage.index import Index


class Failing:
    """A batch that LevelDB cannot write."""

    def __init__(self, error: plyvel.Error) -> None:
        self._error = error

    def put(self, key: bytes, value: bytes) -> None: ...

    def write(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (plyvel.IOError(b"IO error: index/000005.log: No space left on device"), "disk-full"),
        (plyvel.IOError(b"IO error: index/000005.log: Disk quota exceeded"), "disk-full"),
        (plyvel.IOError(b"IO error: index/000005.log: File too large"), "disk-full"),
        (plyvel.IOError(b"IO error: index/000005.log: Input/output error"), "disk-failed"),
        (plyvel.IOError(b"IO error: index/000005.log: Read-only file system"), "not-writable"),
        (plyvel.IOError(b"IO error: index/000005.ldb: No such file or directory"), "leveldb-corrupt"),
        (plyvel.CorruptionError(b"Corruption: bad block type"), "leveldb-corrupt"),
    ],
)
def test_a_failing_disk_is_not_taken_for_a_damaged_database(
    tmp_path: Path, error: plyvel.Error, code: str
) -> None:
    index = Index.open(tmp_path, 0)
    with pytest.raises(StorageError) as caught:
        index.write(Failing(error))
    assert caught.value.code == code
    assert ("repair" in str(caught.value)) == (code == "leveldb-corrupt")
    index.close()
