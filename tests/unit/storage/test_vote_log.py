import stat
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import StorageError
from storage import limits, wal
from storage.wal import LogState, VoteLog, encode_record, scan_records
from tests.unit.storage.chainkit import IO_ERROR, NO_SPACE, READ_ONLY, DiskFiles, FaultyFiles

RECORDS = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=80)), min_size=1, max_size=6)


def joined(records: list[tuple[int, bytes]]) -> bytes:
    return b"".join(encode_record(*record) for record in records)


def code_of(call, *arguments) -> str:
    with pytest.raises(StorageError) as caught:
        call(*arguments)
    return caught.value.code


def test_what_was_synced_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "votes.wal"
    log, records = VoteLog.open(path)
    assert (records, log.state) == ([], LogState.EMPTY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for number in range(5):
        log.append(number, b"vote %d" % number)
        log.sync()
    log.close()
    log, records = VoteLog.open(path)
    assert log.state is LogState.CLEAN
    assert records == [(number, b"vote %d" % number) for number in range(5)]
    log.append(9, b"")
    log.sync()
    assert log.size_bytes == path.stat().st_size
    log.close()
    assert VoteLog.open(path)[1][-1] == (9, b"")


@given(RECORDS, st.data())
def test_a_log_cut_anywhere_keeps_the_whole_records(records: list, data: st.DataObject) -> None:
    raw = joined(records)
    cut = data.draw(st.integers(0, len(raw)))
    whole, length, state = scan_records(raw[:cut])
    assert whole == records[: len(whole)]
    assert length == len(joined(whole))
    assert (state is LogState.TORN) == (length != cut)
    assert len(whole) == len(records) or len(joined(records[: len(whole) + 1])) > cut


@given(RECORDS, st.data())
def test_damage_before_a_valid_record_is_corruption_and_at_the_end_a_torn_tail(
    records: list, data: st.DataObject
) -> None:
    raw = bytearray(joined(records))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    whole, _, state = scan_records(bytes(raw))
    damaged = len(whole)
    assert whole == records[:damaged]
    assert len(joined(records[:damaged])) <= at < len(joined(records[: damaged + 1]))
    assert state is (LogState.TORN if damaged == len(records) - 1 else LogState.CORRUPT)


def test_zeros_behind_the_records_are_a_torn_tail() -> None:
    raw = joined([(1, b"a"), (2, b"b")])
    assert scan_records(raw + bytes(4096)) == ([(1, b"a"), (2, b"b")], len(raw), LogState.TORN)


def test_a_corrupt_log_stays_as_it_is_until_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "votes.wal"
    raw = bytearray(joined([(1, b"one"), (2, b"two"), (3, b"three")]))
    raw[len(encode_record(1, b"one")) + 10] ^= 1
    path.write_bytes(raw)
    for _ in range(2):
        log, records = VoteLog.open(path)
        assert (log.state, records) == (LogState.CORRUPT, [(1, b"one")])
        assert code_of(log.append, 4, b"four") == "wal-corrupt"
        assert code_of(log.sync) == "wal-corrupt"
        log.close()
        assert path.read_bytes() == raw
    log.rewrite([(5, b"five")])
    log.append(6, b"six")
    log.sync()
    log.close()
    assert (tmp_path / "votes.wal.corrupt").read_bytes() == raw
    log, records = VoteLog.open(path)
    assert (log.state, records) == (LogState.CLEAN, [(5, b"five"), (6, b"six")])


def test_rewrite_compacts_and_asks_for_it_past_the_budget(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "WAL_BYTES_MAX", 100)
    log, _ = VoteLog.open(tmp_path / "votes.wal")
    while not log.wants_rewrite:
        log.append(1, b"x" * 30)
    log.rewrite([(2, b"kept")])
    assert log.size_bytes == len(encode_record(2, b"kept"))
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    log.append(3, b"later")
    log.sync()
    log.close()
    assert VoteLog.open(log.path)[1] == [(2, b"kept"), (3, b"later")]


def test_a_record_over_the_limit_is_a_bug_and_not_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "WAL_RECORD_BYTES_MAX", 10)
    log, _ = VoteLog.open(tmp_path / "votes.wal")
    with pytest.raises(ValueError):
        log.append(1, bytes(11))
    with pytest.raises(ValueError):
        log.rewrite([(1, bytes(11))])
    log.append(1, bytes(10))
    log.sync()
    log.close()
    assert VoteLog.open(log.path)[1] == [(1, bytes(10))]


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        ("write", NO_SPACE, "disk-full"),
        ("sync", IO_ERROR, "disk-failed"),
        ("write", READ_ONLY, "not-writable"),
    ],
)
def test_a_failed_write_or_sync_poisons_the_log(tmp_path: Path, call: str, error: int, code: str) -> None:
    files = FaultyFiles()
    log, _ = VoteLog.open(tmp_path / "votes.wal", files)
    log.append(1, b"good")
    log.sync()
    files.fail(call, error, torn=7)

    def promise() -> None:
        log.append(2, b"lost")
        log.sync()

    assert code_of(promise) == code
    assert code_of(log.append, 3, b"never") == code
    assert code_of(log.sync) == code
    assert code_of(log.rewrite, []) == code
    log.close()
    assert VoteLog.open(log.path)[1][0] == (1, b"good")


@pytest.mark.parametrize("call", ["open", "write", "sync", "rename"])
def test_a_rewrite_that_fails_leaves_the_old_log(tmp_path: Path, call: str) -> None:
    files = FaultyFiles()
    log, _ = VoteLog.open(tmp_path / "votes.wal", files)
    log.append(1, b"promise")
    log.sync()
    files.fail(call, NO_SPACE, torn=3)
    assert code_of(log.rewrite, [(2, b"new")]) == "disk-full"
    assert code_of(log.append, 3, b"") == "disk-full"
    log.close()
    assert VoteLog.open(log.path)[1] == [(1, b"promise")]


def test_an_unreadable_log_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    files = FaultyFiles()
    VoteLog.open(tmp_path / "votes.wal")[0].close()
    files.fail("open", IO_ERROR)
    assert code_of(VoteLog.open, tmp_path / "votes.wal", files) == "disk-failed"


@pytest.mark.parametrize("seed", range(40))
def test_a_power_cut_never_takes_a_synced_vote(tmp_path: Path, seed: int) -> None:
    rng, files, path = Random(seed), DiskFiles(), tmp_path / "votes.wal"
    promised: list[tuple[int, bytes]] = []
    for _ in range(4):
        log, records = VoteLog.open(path, files)
        assert records[: len(promised)] == promised
        assert log.state is not LogState.CORRUPT
        promised = records
        for _ in range(rng.randrange(5)):
            record = (rng.randrange(256), rng.randbytes(rng.randrange(200)))
            log.append(*record)
            if rng.random() < 0.2:
                files.fail("sync", IO_ERROR)
                with pytest.raises(StorageError):
                    log.sync()
                break
            log.sync()
            promised = [*promised, record]
        else:
            if rng.random() < 0.3:
                promised = promised[-2:]
                log.rewrite(promised)
            if rng.random() < 0.7:
                log.append(7, rng.randbytes(150))
        log.close()
        if rng.random() < 0.5:
            files.power_cut(rng)


def test_after_a_failed_sync_and_a_restart_the_records_are_durable_again(tmp_path: Path) -> None:
    files, path = DiskFiles(), tmp_path / "votes.wal"
    log, _ = VoteLog.open(path, files)
    log.append(1, b"written, sync failed")
    files.fail("sync", IO_ERROR)
    assert code_of(log.sync) == "disk-failed"
    log.close()
    log, records = VoteLog.open(path, files)
    assert records == [(1, b"written, sync failed")]
    log.close()
    files.power_cut(Random(0))
    assert VoteLog.open(path)[1] == records


def test_the_frame_is_the_documented_one() -> None:
    assert (
        encode_record(7, b"123456789").hex()
        == ("09000000" + wal.crc32c(b"\x09\x00\x00\x00\x07123456789").to_bytes(4, "little").hex() + "07")
        + b"123456789".hex()
    )
