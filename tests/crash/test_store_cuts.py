"""The store's files cut anywhere: whatever a crash leaves, the store opens on a whole state.

WATTD_CRASH_ROUNDS is how many seeds of power cuts are tried, WATTD_CRASH_SEED the first.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from consensus.errors import StorageError
from storage import limits
from storage.segments import Kind, Segments
from storage.store import ChainStore
from storage.wal import LogState, VoteLog, encode_record
from tests.unit.storage.chainkit import (
    CHAIN_ID,
    IO_ERROR,
    DiskFiles,
    Model,
    abandon,
    assert_same,
    catch_up,
    hash_of,
    make_body,
    open_toy,
    random_body,
    replay_of,
)

SEGMENT = Path("blocks") / "seg-00000.dat"
ROUNDS = int(os.environ.get("WATTD_CRASH_ROUNDS") or 12)
SEED = int(os.environ.get("WATTD_CRASH_SEED") or 0)


def open_store(path: Path, files: DiskFiles | None = None, **options: int) -> ChainStore:
    return open_toy(path, files=files, **options)


def small_block(model: Model, number: int) -> bytes:
    return make_body(model.tip_hash, {bytes([number]) * 36: b"coin"}, {b"key": bytes([number])}, number)


def copies(source: Path, target: Path) -> Iterator[None]:
    """Put a fresh copy of ``source`` at ``target`` for as long as it is asked."""
    while True:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        yield


def test_a_segment_file_cut_at_every_byte(tmp_path: Path) -> None:
    segments = Segments.open(tmp_path, CHAIN_ID, None)
    ends = [segments.end[1]]
    for number, kind in enumerate((Kind.BODY, Kind.UNDO, Kind.CERTIFICATE, Kind.BODY)):
        segments.append(kind, bytes([number]) * 32, number, bytes([number]) * 30)
        segments.sync()
        ends.append(segments.end[1])
    records = list(segments.scan(None))
    segments.close()
    path = tmp_path / "seg-00000.dat"
    raw = path.read_bytes()
    for cut in range(ends[0], len(raw) + 1):
        path.write_bytes(raw[:cut])
        segments = Segments.open(tmp_path, CHAIN_ID, None)
        whole = [record for record in records if record.end <= cut]
        assert list(segments.scan(None)) == whole
        assert segments.end == (0, ends[len(whole)])
        segments.close()


def test_a_store_whose_segments_end_anywhere_in_the_last_block(tmp_path: Path) -> None:
    """LevelDB as of block 1; the segments hold block 2, and block 3 as far as the cut lets them."""
    model = Model()
    store = open_store(tmp_path / "grown")
    for number in range(2):
        store.connect(model.connect(small_block(model, number), b"certificate"))
    shutil.copytree(tmp_path / "grown" / "index", tmp_path / "before" / "index")
    store.connect(model.connect(small_block(model, 2), b"certificate"))
    start = store.sizes().segments
    store.connect(model.connect(small_block(model, 3), b"certificate"))
    abandon(store)
    raw = (tmp_path / "grown" / SEGMENT).read_bytes()
    (tmp_path / "before" / SEGMENT).parent.mkdir()
    fresh = copies(tmp_path / "before", tmp_path / "cut")
    for cut in [*range(start, len(raw), 13), len(raw) - 1, len(raw)]:
        next(fresh)
        (tmp_path / "cut" / SEGMENT).write_bytes(raw[:cut])
        with open_store(tmp_path / "cut") as store:
            found = replay_of(store)
            assert found.height == 1
            assert catch_up(store, found) == 1 + (cut == len(raw))
            for body in model.bodies[found.height + 1 :]:
                store.connect(found.connect(body, b"certificate"))
            assert_same(store, model)


def test_leveldb_s_log_cut_anywhere_in_the_last_batch(tmp_path: Path) -> None:
    model = Model()
    store = open_store(tmp_path / "grown")
    (log,) = (tmp_path / "grown" / "index").glob("*.log")
    for number in range(4):
        if number == 3:
            start = log.stat().st_size
        store.connect(model.connect(small_block(model, number), b"certificate"))
    raw = log.read_bytes()
    abandon(store)
    fresh = copies(tmp_path / "grown", tmp_path / "cut")
    for cut in [*range(start, len(raw), 13), len(raw) - 1, len(raw)]:
        next(fresh)
        (tmp_path / "cut" / "index" / log.name).write_bytes(raw[:cut])
        with open_store(tmp_path / "cut") as store:
            found = replay_of(store)
            assert_same(store, found)
            assert found.height == 2 + (cut == len(raw))
            catch_up(store, found)
            assert_same(store, model)


@pytest.mark.parametrize("flush_blocks", [1, 3, 1000])
def test_leveldb_s_log_cut_anywhere_in_a_history_with_flushes_and_reorganisations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush_blocks: int
) -> None:
    """Blocks connect, some come off, coins are flushed in between; the log ends in any of these batches."""
    monkeypatch.setattr(limits, "FLUSH_BLOCKS_MAX", flush_blocks)
    rng, model = Random(f"{SEED}/{flush_blocks}"), Model()
    store = open_store(tmp_path / "grown")
    (log,) = (tmp_path / "grown" / "index").glob("*.log")
    ends = []
    for step in range(14):
        store.connect(model.connect(random_body(rng, model)))
        ends.append(log.stat().st_size)
        while step > 3 and model.height > 1 and rng.random() < 0.4:
            store.disconnect(*model.disconnect())
            ends.append(log.stat().st_size)
        if rng.random() < 0.2:
            store.flush()
            ends.append(log.stat().st_size)
    raw = log.read_bytes()
    abandon(store)
    fresh, heights = copies(tmp_path / "grown", tmp_path / "cut"), set()
    within = [end - rng.randrange(1, 40) for end in ends] + [rng.randrange(len(raw)) for _ in ends]
    for cut in sorted({len(raw), *rng.sample(ends, 6), *rng.sample(within, 8)}):
        next(fresh)
        (tmp_path / "cut" / "index" / log.name).write_bytes(raw[:cut])
        with open_store(tmp_path / "cut") as store:
            found = replay_of(store)
            assert_same(store, found)
            heights.add(store.height)
            for _ in range(2):
                store.connect(found.connect(random_body(rng, found)))
                if store.height > 0:
                    store.disconnect(*found.disconnect())
        with open_store(tmp_path / "cut") as store:
            assert_same(store, found)
    assert len(heights) > 1


def test_a_vote_log_cut_at_every_byte(tmp_path: Path) -> None:
    records = [(kind, bytes([kind]) * (kind * 7)) for kind in range(1, 7)]
    raw = b"".join(encode_record(*record) for record in records)
    path = tmp_path / "votes.wal"
    for cut in range(len(raw) + 1):
        path.write_bytes(raw[:cut])
        log, found = VoteLog.open(path)
        whole = b"".join(encode_record(*record) for record in found)
        assert raw.startswith(whole)
        assert (
            cut - len(whole) < len(encode_record(*records[len(found)])) if len(found) < 6 else cut == len(raw)
        )
        assert log.state is (LogState.TORN if len(whole) < cut else LogState.CLEAN if cut else LogState.EMPTY)
        log.append(9, b"next")
        log.sync()
        log.close()
        assert path.read_bytes() == whole + encode_record(9, b"next")


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_power_cuts_with_torn_and_reordered_writes(tmp_path: Path, seed: int) -> None:
    """Segments keep what was synced and any sectors of the rest; LevelDB falls back to any earlier state."""
    rng, files, model = Random(seed), DiskFiles(), Model()
    data = tmp_path / "data"
    for life in range(4):
        if life:
            shutil.copytree(data / "index", tmp_path / f"index-{life}")
        store = open_store(data, files, cache_bytes=rng.choice([0, 5_000, 1 << 20]))
        found = replay_of(store)
        assert_same(store, found)
        catch_up(store, found)
        assert found.bodies == model.bodies
        promised: list[bytes] = []
        for _ in range(rng.randrange(1, 6)):
            body = random_body(rng, model)
            store.put_body(hash_of(body), model.height + 1, body)
            if rng.random() < 0.5:
                store.sync()
                promised.append(body)
            if rng.random() < 0.8:
                store.connect(model.connect(body, b"certificate"))
            if rng.random() < 0.3:
                store.flush()
        assert [body for body in promised if store.body(hash_of(body)) != body] == []
        abandon(store)
        files.power_cut(rng)
        if rng.random() < 0.7:
            shutil.rmtree(data / "index")
            if life:
                shutil.copytree(tmp_path / f"index-{life}", data / "index")
        with open_store(data, files) as store:
            assert [body for body in promised if store.body(hash_of(body)) != body] == []


def test_after_a_failed_sync_and_a_restart_bodies_are_durable_again(tmp_path: Path) -> None:
    """The page cache shows a record that the disk does not have: opening must write it once more."""
    files, model = DiskFiles(), Model()
    store = open_store(tmp_path, files)
    store.connect(model.connect(small_block(model, 0)))
    body = small_block(model, 1)
    store.put_body(hash_of(body), 1, body)
    files.fail("sync", IO_ERROR)
    with pytest.raises(StorageError, match="disk-failed"):
        store.sync()
    abandon(store)
    store = open_store(tmp_path, files)
    assert store.body(hash_of(body)) == body
    abandon(store)
    files.power_cut(Random(1))
    with open_store(tmp_path) as store:
        assert store.uncommitted_bodies() == {hash_of(body): (1, body)}


def test_every_flipped_byte_of_a_synced_record_is_reported(tmp_path: Path) -> None:
    segments = Segments.open(tmp_path, CHAIN_ID, None)
    positions = []
    for number in range(3):
        positions.append(segments.append(Kind.BODY, bytes([number]) * 32, number, bytes(20)))
        segments.sync()
    path = tmp_path / "seg-00000.dat"
    raw = path.read_bytes()
    for offset in range(positions[0].offset, positions[2].offset):
        path.write_bytes(raw[:offset] + bytes([raw[offset] ^ 1]) + raw[offset + 1 :])
        with pytest.raises(StorageError, match="segment-corrupt"):
            Segments.open(tmp_path, CHAIN_ID, None)
    path.write_bytes(raw)
    segments.close()
