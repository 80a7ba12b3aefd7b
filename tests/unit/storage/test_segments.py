from pathlib import Path
from random import Random

import pytest

from consensus.errors import StorageError
from storage import limits
from storage.schema import Position
from storage.segments import HEAD_BYTES, Kind, Record, Segments
from tests.unit.storage.chainkit import CHAIN_ID, IO_ERROR, NO_SPACE, DiskFiles, FaultyFiles

A, B, C = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
FIRST = "seg-00000.dat"


def reopen(path: Path, watermark: tuple[int, int] | None = None, files=None) -> Segments:
    return Segments.open(path, CHAIN_ID, watermark, files)


def contents(segments: Segments, start: tuple[int, int] | None = None) -> list[tuple]:
    return [(r.kind, r.block_hash, r.height, r.data) for r in segments.scan(start)]


def error_of(call, *arguments) -> StorageError:
    with pytest.raises(StorageError) as caught:
        call(*arguments)
    return caught.value


def three_synced(path: Path) -> list[Record]:
    segments = reopen(path)
    for block_hash in (A, B, C):
        segments.append(Kind.BODY, block_hash, 1, b"data of " + block_hash[:1])
        segments.sync()
    records = list(segments.scan(None))
    segments.close()
    return records


def flip(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 0x40
    path.write_bytes(raw)


def test_records_come_back_by_position_and_in_order(tmp_path: Path) -> None:
    segments = reopen(tmp_path)
    body = segments.append(Kind.BODY, A, 5, b"body")
    undo = segments.append(Kind.UNDO, A, 5, b"")
    segments.sync()
    for _ in range(2):
        assert segments.read(body, Kind.BODY, A) == b"body"
        assert segments.read(undo, Kind.UNDO, A) == b""
        assert contents(segments) == [(Kind.BODY, A, 5, b"body"), (Kind.UNDO, A, 5, b"")]
        assert contents(segments, (0, undo.offset)) == [(Kind.UNDO, A, 5, b"")]
        segments.close()
        segments = reopen(tmp_path, (0, undo.offset))
    segments.close()


def test_files_roll_at_the_limit_and_a_long_record_has_a_file_of_its_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "SEGMENT_BYTES", HEAD_BYTES + 200)
    monkeypatch.setattr(limits, "OPEN_SEGMENTS_MAX", 2)
    segments = reopen(tmp_path)
    data = [bytes([n]) * size for n, size in enumerate((50, 50, 50, 500, 10, 90))]
    positions = [segments.append(Kind.BODY, A, n, piece) for n, piece in enumerate(data)]
    assert [position.segment for position in positions] == [0, 1, 2, 3, 4, 5] or positions[-1].segment >= 3
    segments.sync()
    segments.close()
    segments = reopen(tmp_path, (0, HEAD_BYTES))
    assert [piece for *_, piece in contents(segments)] == data
    assert [segments.read(p, Kind.BODY, A) for p in positions] == data
    assert len(segments._open) <= 2
    assert segments.bytes_on_disk() == sum(f.stat().st_size for f in tmp_path.iterdir())
    segments.close()


def test_a_flipped_byte_is_found_on_read(tmp_path: Path) -> None:
    record = three_synced(tmp_path)[0]
    segments = reopen(tmp_path)
    for offset in range(record.position.offset, record.end):
        flip(tmp_path / FIRST, offset)
        error = error_of(segments.read, record.position, Kind.BODY, A)
        assert error.code == "segment-corrupt"
        assert f"{FIRST} at offset {HEAD_BYTES}" in error.reason
        assert "wattd store repair" in error.fix
        flip(tmp_path / FIRST, offset)
    assert segments.read(record.position, Kind.BODY, A) == record.data
    assert error_of(segments.read, record.position, Kind.BODY, B).code == "segment-corrupt"
    assert error_of(segments.read, record.position, Kind.UNDO, A).code == "segment-corrupt"
    assert error_of(segments.read, Position(7, 0, 5), Kind.BODY, A).code == "segment-corrupt"
    segments.close()


def test_damage_before_a_record_written_after_its_sync_is_corruption(tmp_path: Path) -> None:
    first, second, _ = three_synced(tmp_path)
    whole = (tmp_path / FIRST).read_bytes()
    for record in (first, second):
        for offset in range(record.position.offset, record.end):
            flip(tmp_path / FIRST, offset)
            error = error_of(reopen, tmp_path)
            assert error.code == "segment-corrupt"
            assert f"offset {record.position.offset}" in error.reason
            flip(tmp_path / FIRST, offset)
            assert (tmp_path / FIRST).read_bytes() == whole


def test_damage_in_the_last_record_is_a_torn_tail(tmp_path: Path) -> None:
    *kept, last = three_synced(tmp_path)
    whole = (tmp_path / FIRST).read_bytes()
    for offset in range(last.position.offset, last.end):
        (tmp_path / FIRST).write_bytes(whole)
        flip(tmp_path / FIRST, offset)
        segments = reopen(tmp_path)
        assert list(segments.scan(None)) == kept
        assert segments.end == (0, last.position.offset)
        segments.close()
        assert (tmp_path / FIRST).stat().st_size == last.position.offset


def test_records_of_one_unsynced_group_do_not_prove_that_an_earlier_one_was_durable(tmp_path: Path) -> None:
    segments = reopen(tmp_path)
    first = segments.append(Kind.BODY, A, 1, b"first")
    segments.append(Kind.BODY, B, 2, b"second")
    segments.close()
    flip(tmp_path / FIRST, first.offset + 60)
    segments = reopen(tmp_path)
    assert contents(segments) == []
    segments.close()


def test_bytes_inside_a_torn_body_that_look_like_a_record_are_not_taken_for_one(tmp_path: Path) -> None:
    """A transaction could carry them; only this node's secret mark makes a record."""
    other = tmp_path / "other"
    other.mkdir()
    segments = reopen(other)
    segments.sync()
    segments.append(Kind.BODY, A, 1, b"forged")
    forged = (other / FIRST).read_bytes()[HEAD_BYTES:]
    segments.close()
    mine = tmp_path / "mine"
    mine.mkdir()
    segments = reopen(mine)
    start = segments.append(Kind.BODY, A, 1, b"x" * 40 + forged + b"y" * 40).offset
    segments.close()
    with (mine / FIRST).open("r+b") as file:
        file.truncate(file.seek(0, 2) - 5)
    segments = reopen(mine)
    assert segments.end == (0, start)
    segments.close()


def test_zeros_at_the_end_are_cut_off(tmp_path: Path) -> None:
    records = three_synced(tmp_path)
    with (tmp_path / FIRST).open("ab") as file:
        file.write(bytes(5000))
    segments = reopen(tmp_path)
    assert list(segments.scan(None)) == records
    segments.close()


def test_corruption_is_found_across_the_search_window(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "RESYNC_CHUNK_BYTES", 16)
    first, *_ = three_synced(tmp_path)
    flip(tmp_path / FIRST, first.position.offset)
    assert error_of(reopen, tmp_path).code == "segment-corrupt"


def test_missing_short_and_foreign_files_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "SEGMENT_BYTES", HEAD_BYTES + 100)
    records = three_synced(tmp_path)
    number = records[-1].position.segment
    assert number == 2
    error = error_of(reopen, tmp_path, (0, 1 << 20))
    assert (error.code, "shorter" in error.reason) == ("segment-corrupt", True)
    error = error_of(reopen, tmp_path, (3, HEAD_BYTES))
    assert "seg-00003.dat" in error.reason
    assert "missing" in error.reason
    assert error_of(Segments.open, tmp_path, A, None).code == "datadir-foreign-chain"
    (tmp_path / "seg-00001.dat").rename(tmp_path / "aside")
    assert "seg-00001.dat" in error_of(reopen, tmp_path).reason
    (tmp_path / "aside").rename(tmp_path / "seg-00001.dat")
    flip(tmp_path / "seg-00001.dat", 12)
    error = error_of(reopen, tmp_path)
    assert (error.code, "head" in error.reason) == ("segment-corrupt", True)


def test_damage_in_a_file_that_is_not_the_last_is_never_a_torn_tail(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "SEGMENT_BYTES", HEAD_BYTES + 100)
    three_synced(tmp_path)
    with (tmp_path / FIRST).open("r+b") as file:
        file.truncate(file.seek(0, 2) - 1)
    segments = reopen(tmp_path)
    assert error_of(contents, segments).code == "segment-corrupt"
    segments.close()


def test_a_file_that_was_being_made_is_removed(tmp_path: Path) -> None:
    three_synced(tmp_path)
    (tmp_path / "seg-00001.dat.tmp").write_bytes(b"half a he")
    reopen(tmp_path).close()
    assert [entry.name for entry in tmp_path.iterdir()] == [FIRST]


@pytest.mark.parametrize(
    ("call", "number", "code"), [("write", NO_SPACE, "disk-full"), ("sync", IO_ERROR, "disk-failed")]
)
def test_after_a_failure_every_write_is_refused(tmp_path: Path, call: str, number: int, code: str) -> None:
    files = FaultyFiles()
    segments = reopen(tmp_path, files=files)
    kept = segments.append(Kind.BODY, A, 1, b"kept")
    segments.sync()
    files.fail(call, number, torn=20)

    def write() -> None:
        segments.append(Kind.BODY, B, 2, b"lost" * 9)
        segments.sync()

    assert error_of(write).code == code
    assert error_of(segments.append, Kind.BODY, C, 3, b"").code == code
    assert error_of(segments.sync).code == code
    assert segments.failed
    assert segments.read(kept, Kind.BODY, A) == b"kept"
    segments.close()
    segments = reopen(tmp_path)
    assert contents(segments)[0] == (Kind.BODY, A, 1, b"kept")
    segments.close()


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("call", ["open", "write", "sync", "rename"])
def test_a_roll_that_fails_at_any_step_loses_nothing(
    tmp_path: Path, monkeypatch, call: str, after: int
) -> None:
    monkeypatch.setattr(limits, "SEGMENT_BYTES", HEAD_BYTES + 100)
    files = DiskFiles()
    segments = reopen(tmp_path, files=files)
    segments.append(Kind.BODY, A, 1, b"durable before the next file exists")
    files.fail(call, NO_SPACE, after=after, torn=11)
    failed = ""
    try:
        segments.append(Kind.BODY, B, 2, b"in the next file" * 4)
        segments.sync()
    except StorageError as error:
        failed = error.code
    segments.close()
    files.heal()
    files.power_cut(Random(after))
    segments = reopen(tmp_path)
    hashes = [block_hash for _, block_hash, _, _ in contents(segments)]
    assert failed in ("", "disk-full")
    assert hashes in ([A, B], [A], []) if failed else hashes == [A, B]
    assert A in hashes or not (tmp_path / "seg-00001.dat").exists()
    segments.close()


@pytest.mark.parametrize("seed", range(40))
def test_a_power_cut_takes_only_what_was_not_synced(tmp_path: Path, monkeypatch, seed: int) -> None:
    """Sectors of unsynced writes reach the disk in any order, and syncs may fail and be forgotten."""
    monkeypatch.setattr(limits, "SEGMENT_BYTES", HEAD_BYTES + 700)
    rng, files = Random(seed), DiskFiles()
    durable: list[bytes] = []
    for _ in range(4):
        segments = reopen(tmp_path, files=files)
        found = [data for *_, data in contents(segments)]
        assert found[: len(durable)] == durable
        durable = found
        for _ in range(rng.randrange(6)):
            pending = [rng.randbytes(rng.randrange(300)) for _ in range(rng.randrange(1, 4))]
            if rng.random() < 0.15:
                files.fail(rng.choice(["sync", "write"]), IO_ERROR, torn=rng.randrange(100))
            try:
                for data in pending:
                    segments.append(Kind.BODY, A, 1, data)
                if rng.random() < 0.7:
                    segments.sync()
                    durable = [data for *_, data in contents(segments)]
            except StorageError:
                break
        segments.close()
        files.heal()
        if rng.random() < 0.6:
            files.power_cut(rng)
