import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import plyvel
import pytest

from consensus.errors import StorageError
from storage import limits, schema
from storage.index import Index
from storage.segments import Record, Segments
from storage.store import ChainStore
from tests.unit.storage.chainkit import (
    CHAIN_ID,
    IO_ERROR,
    NO_SPACE,
    READ_ONLY,
    FaultyFiles,
    Model,
    abandon,
    assert_same,
    catch_up,
    hash_of,
    make_body,
    open_toy,
    random_body,
)


def open_store(path: Path, **options) -> ChainStore:
    return open_toy(path, **options)


def error_of(call, *arguments, **options) -> StorageError:
    with pytest.raises(StorageError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def grow(store: ChainStore, model: Model, count: int, seed: int = 1) -> None:
    rng = Random(seed)
    for _ in range(count):
        store.connect(model.connect(random_body(rng, model), b"certificate %d" % (model.height + 1)))


def test_an_empty_store(tmp_path: Path) -> None:
    with open_store(tmp_path / "deep" / "data") as store:
        assert_same(store, Model())
        assert store.coin(bytes(36)) is None
        assert store.coins([bytes(36)]) == {}
        assert store.body(bytes(32)) is None
        assert store.undo(bytes(32)) is None
        assert store.certificate(0) is None
        assert store.header(-1) is None
        assert store.height_of(bytes(32)) is None
        assert store.find_tx(bytes(32)) is None
        assert list(store.replayable()) == []
        assert store.uncommitted_bodies() == {}


def test_what_was_connected_comes_back_after_close_and_after_a_kill(tmp_path: Path) -> None:
    model = Model()
    store = open_store(tmp_path)
    for leave in (ChainStore.close, abandon, ChainStore.close):
        grow(store, model, 4, seed=model.height)
        assert_same(store, model)
        leave(store)
        store = open_store(tmp_path)
        assert_same(store, model)
        assert store.certificate(3) == b"certificate 3"
    sizes = store.sizes()
    assert sizes.segments == (tmp_path / "blocks" / "seg-00000.dat").stat().st_size
    assert sizes.index > 0
    assert sizes.cache > 0
    store.close()
    store.close()


def test_disconnect_restores_the_parent_and_hides_the_block(tmp_path: Path) -> None:
    model, rng = Model(), Random(3)
    with open_store(tmp_path) as store:
        for _ in range(5):
            store.connect(model.connect(random_body(rng, model)))
        gone = model.bodies[4]
        store.disconnect(*model.disconnect())
        assert_same(store, model)
        assert store.height_of(hash_of(gone)) is None
        assert store.find_tx(b"") is None
        assert store.body(hash_of(gone)) == gone
        assert store.uncommitted_bodies() == {hash_of(gone): (4, gone)}
        size = store.sizes().segments
        store.connect(model.connect(gone))
        assert_same(store, model)
        assert store.sizes().segments == size
        assert store.uncommitted_bodies() == {}


def test_a_transaction_of_a_disconnected_block_is_not_found(tmp_path: Path) -> None:
    model, rng = Model(), Random(3)
    with open_store(tmp_path) as store:
        grow(store, model, 2)
        batch = model.connect(random_body(rng, model))
        store.connect(batch)
        assert store.find_tx(batch.txids[1]) == (2, 1)
        store.disconnect(*model.disconnect())
        assert store.find_tx(batch.txids[1]) is None
        store.connect(model.connect(random_body(rng, model)))
        assert store.find_tx(batch.txids[1]) is None


def test_a_block_that_does_not_follow_the_tip_is_a_bug(tmp_path: Path) -> None:
    model, rng = Model(), Random(5)
    with open_store(tmp_path) as store:
        grow(store, model, 3)
        batch = model.connect(random_body(rng, model))
        for wrong in (
            {"height": 4},
            {"header": bytes(80)},
            {"header": batch.header + b"x"},
            {"body": bytes(80)},
            {"block_hash": b"short"},
        ):
            fields = {name: getattr(batch, name) for name in type(batch).__slots__}
            with pytest.raises(ValueError):
                store.connect(type(batch)(**{**fields, **wrong}))
        arguments = model.disconnect()
        with pytest.raises(ValueError):
            store.disconnect(*arguments)
        assert_same(store, model)
        store.disconnect(2, {}, {}, b"")
        store.disconnect(1, {}, {}, b"")
        with pytest.raises(ValueError):
            store.disconnect(0, {}, {}, b"")


def test_the_views_are_the_ports_of_the_rules(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        state = {b"a": b"1", b"a\x00": b"2", b"a\xff": b"3", b"b": b"4", b"": b"0"}
        model = Model()
        store.connect(model.connect(make_body(model.tip_hash, {b"p" * 36: b"coin"}, state)))
        assert store.coins_view.get(b"p" * 36) == b"coin"
        assert store.state_view.get(b"") == b"0"
        asked = [b"zz", *state, b"", b"zz"]
        for _ in range(2):  # from LevelDB, then from the cache
            assert store.state_view.get_many(asked) == [state.get(key) for key in asked]
        assert list(store.state_view.scan(b"a")) == [(b"a", b"1"), (b"a\x00", b"2"), (b"a\xff", b"3")]
        assert list(store.state_view.scan(b"c")) == []
        assert [key for key, _ in store.state_view.scan(b"")] == sorted(state)


def test_iterations_see_the_state_of_the_call(tmp_path: Path) -> None:
    model = Model()
    with open_store(tmp_path) as store:
        grow(store, model, 4)
        coins, state = store.iterate_coins(), store.state_view.scan(b"")
        expected = dict(model.coins), dict(model.state)
        grow(store, model, 4, seed=2)
        assert (dict(coins), dict(state)) == expected


def test_coins_come_from_cache_and_disk_alike(tmp_path: Path) -> None:
    model = Model()
    for cache_bytes in (0, 4000, 1 << 20):
        with open_store(tmp_path, cache_bytes=cache_bytes) as store:
            grow(store, model, 6, seed=cache_bytes)
            asked = [*model.coins, b"absent" * 6, *model.coins]
            assert store.coins(reversed(asked)) == model.coins
            assert_same(store, model)
            assert store.sizes().cache <= cache_bytes


def test_bodies_wait_above_the_tip_until_they_are_connected(tmp_path: Path) -> None:
    model, rng = Model(), Random(8)
    store = open_store(tmp_path)
    grow(store, model, 2)
    rival, chosen = random_body(rng, model), random_body(rng, model)
    for body in (rival, chosen, rival):
        store.put_body(hash_of(body), 2, body)
    store.sync()
    waiting = {hash_of(body): (2, body) for body in (rival, chosen)}
    assert store.body(hash_of(rival)) == rival
    abandon(store)
    store = open_store(tmp_path)
    assert store.uncommitted_bodies() == waiting
    assert list(store.replayable()) == []
    assert store.height_of(hash_of(chosen)) is None
    store.connect(model.connect(chosen, b"certificate"))
    assert store.uncommitted_bodies() == {}
    assert store.body(hash_of(rival)) == rival
    assert (tmp_path / "blocks" / "seg-00000.dat").read_bytes().count(chosen) == 1
    assert_same(store, model)
    store.close()


@pytest.mark.parametrize("kill", [True, False])
def test_a_mutated_body_of_the_same_hash_gives_way_to_the_connected_one(tmp_path: Path, kill: bool) -> None:
    model = Model()
    store = open_store(tmp_path)
    grow(store, model, 1)
    body = make_body(model.tip_hash, {}, {b"k": b"v"})
    block_hash = hash_of(body)
    store.put_body(block_hash, 1, body + b"another witness")
    store.sync()
    store.connect(model.connect(body))
    for _ in range(2):
        assert store.body(block_hash) == body
        if kill:
            abandon(store)
            shutil.rmtree(tmp_path / "index")
        else:
            store.close()
        store = open_store(tmp_path)
    store.close()


def test_uncommitted_bodies_stay_within_their_budget_newest_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "UNCOMMITTED_BYTES", 3 * 400)
    model = Model()
    with open_store(tmp_path) as store:
        grow(store, model, 1)
        bodies = [make_body(model.tip_hash, {b"k" * 36: bytes([n]) * 200}, {}, n) for n in range(9)]
        for body in bodies:
            store.put_body(hash_of(body), 1, body)
        assert list(store.uncommitted_bodies()) == [hash_of(body) for body in reversed(bodies[-3:])]
        assert store.body(hash_of(bodies[0])) == bodies[0]


def test_many_bodies_are_indexed_without_waiting_for_a_block(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "UNINDEXED_RECORDS_MAX", 8)
    model = Model()
    store = open_store(tmp_path)
    grow(store, model, 1)
    bodies = [make_body(model.tip_hash, {}, {}, n) for n in range(50)]
    for body in bodies:
        store.put_body(hash_of(body), 1, body)
        assert len(store._blocks.unindexed) < 8
    abandon(store)
    with open_store(tmp_path) as store:
        assert store.uncommitted_bodies() == {hash_of(body): (1, body) for body in bodies}


def test_a_lost_index_is_rebuilt_from_the_segments(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "SEGMENT_BYTES", 4000)
    monkeypatch.setattr(limits, "UNINDEXED_RECORDS_MAX", 5)
    model, again = Model(), Model()
    with open_store(tmp_path) as store:
        grow(store, model, 30)
    assert len(list((tmp_path / "blocks").iterdir())) > 3
    shutil.rmtree(tmp_path / "index")
    with open_store(tmp_path) as store:
        assert store.height == -1
        assert catch_up(store, again) == 30
        assert_same(store, model)
        assert store.certificate(29) == b"certificate 29"


@pytest.mark.parametrize("read", [1, 7, 40])
def test_a_rebuild_that_is_interrupted_goes_on_where_it_was(tmp_path: Path, monkeypatch, read: int) -> None:
    monkeypatch.setattr(limits, "UNINDEXED_RECORDS_MAX", 4)
    model = Model()
    with open_store(tmp_path) as store:
        grow(store, model, 20)
    shutil.rmtree(tmp_path / "index")

    def interrupted(self: Segments, start: tuple[int, int] | None) -> Iterator[Record]:
        yield from islice(scan(self, start), read)
        raise KeyboardInterrupt

    scan = Segments.scan
    with monkeypatch.context() as patch:
        patch.setattr(Segments, "scan", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_store(tmp_path)
    with open_store(tmp_path) as store:
        assert catch_up(store, Model()) == 20
        assert_same(store, model)


def test_replay_follows_the_certified_branch(tmp_path: Path) -> None:
    model, rng = Model(), Random(4)
    with open_store(tmp_path) as store:
        grow(store, model, 3)
    index = tmp_path / "old"
    shutil.copytree(tmp_path / "index", index)
    with open_store(tmp_path) as store:
        rivals = [random_body(rng, model) for _ in range(4)]
        for body in rivals:
            store.put_body(hash_of(body), 3, body)
        grow(store, model, 3, seed=2)
    shutil.rmtree(tmp_path / "index")
    index.rename(tmp_path / "index")
    with open_store(tmp_path) as store:
        assert store.height == 2
        assert [raw for _, raw, _ in store.replayable()] == model.bodies[3:]
        assert set(store.uncommitted_bodies()) == {hash_of(body) for body in rivals}
        again = Model()
        for body in model.bodies[:3]:
            again.connect(body)
        assert catch_up(store, again) == 3
        assert_same(store, model)


@pytest.mark.parametrize("seed", range(6))
def test_replay_never_leaves_its_branch(tmp_path: Path, seed: int) -> None:
    """Of two certified branches (more than f byzantine) it takes either, and stays on it."""
    rng = Random(seed)
    with open_store(tmp_path) as store:
        root = make_body(bytes(32), {}, {})
        store.connect(Model().connect(root))
        for _ in range(2):
            model = Model()
            model.connect(root)
            for _ in range(3):
                store.connect(model.connect(random_body(rng, model), b"certificate"))
            while store.height > 0:
                store.disconnect(*model.disconnect())
        parent = store.tip_hash
        branch = list(store.replayable())
        assert [height for height, _, _ in branch] == [1, 2, 3]
        for _, raw, _ in branch:
            assert raw[4:36] == parent
            parent = hash_of(raw)


def test_a_connected_block_leaves_the_list_of_pending_ones(tmp_path: Path) -> None:
    model = Model()
    with open_store(tmp_path) as store:
        grow(store, model, 5)
        store.disconnect(*model.disconnect())
        grow(store, model, 2, seed=2)
        assert len(list(store._index.scan(schema.PENDING))) == 1


def test_another_process_chain_or_version_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path):
        assert error_of(open_store, tmp_path).code == "datadir-locked"
    error = error_of(ChainStore.open, tmp_path, chain_id=bytes(32))
    assert error.code == "datadir-foreign-chain"
    assert CHAIN_ID[::-1].hex() in error.reason
    database = plyvel.DB(str(tmp_path / "index"))
    database.put(schema.VERSION, schema.U32.pack(schema.SCHEMA_VERSION + 1))
    database.close()
    assert error_of(open_store, tmp_path).code == "schema-too-new"
    shutil.rmtree(tmp_path / "index")
    assert error_of(ChainStore.open, tmp_path, chain_id=bytes(32)).code == "datadir-foreign-chain"


def test_a_refused_open_lets_the_directory_go(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    for _ in range(2):
        assert error_of(ChainStore.open, tmp_path, chain_id=bytes(32)).code == "datadir-foreign-chain"
    open_store(tmp_path).close()


def test_a_path_that_cannot_be_a_directory_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert error_of(open_store, tmp_path / "file").code == "not-writable"
    assert error_of(open_store, tmp_path / "file" / "below").code == "not-writable"


def test_damaged_leveldb_files_are_refused_with_a_command(tmp_path: Path) -> None:
    model = Model()
    with open_store(tmp_path) as store:
        grow(store, model, 3)
    current = tmp_path / "index" / "CURRENT"
    current.write_bytes(b"MANIFEST-999999\n")
    error = error_of(open_store, tmp_path)
    assert error.code == "leveldb-corrupt"
    assert "wattd store repair" in error.fix
    shutil.move(tmp_path / "index", tmp_path / "index.damaged")
    with open_store(tmp_path) as store:
        assert catch_up(store, Model()) == 3
        assert_same(store, model)


def test_a_missing_segment_file_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        grow(store, Model(), 2)
    (tmp_path / "blocks" / "seg-00000.dat").unlink()
    error = error_of(open_store, tmp_path)
    assert error.code == "segment-corrupt"
    assert "seg-00000.dat" in error.reason


@pytest.mark.parametrize(
    ("call", "number", "code"),
    [
        ("write", NO_SPACE, "disk-full"),
        ("write", READ_ONLY, "not-writable"),
        ("sync", IO_ERROR, "disk-failed"),
    ],
)
@pytest.mark.parametrize("after", range(3))
def test_after_a_failed_write_only_a_new_open_helps(
    tmp_path: Path, call: str, number: int, code: str, after: int
) -> None:
    files, model, rng = FaultyFiles(), Model(), Random(6)
    store = open_store(tmp_path, files=files)
    grow(store, model, 2)
    body = random_body(rng, model)
    twin = Model()
    for old in model.bodies:
        twin.connect(old)
    files.fail(call, number, after=after if call == "write" else 0, torn=30)
    assert error_of(store.connect, twin.connect(body, b"certificate")).code == code
    assert_same(store, model)
    assert error_of(store.put_body, hash_of(body), 2, body).code == code
    assert error_of(store.sync).code == code
    assert error_of(store.disconnect, 1, {}, {}, b"").code == code
    store.close()
    with open_store(tmp_path) as store:
        catch_up(store, model)
        if model.height < 2:
            store.connect(model.connect(body, b"certificate"))
        assert_same(store, model)


def test_a_failed_index_write_stops_all_writing(tmp_path: Path) -> None:
    class FullDisk:
        def put(self, key: bytes, value: bytes) -> None: ...

        def write(self) -> None:
            raise plyvel.IOError(b"IO error: 000005.log: No space left on device")

    index = Index.open(tmp_path, 0)
    assert error_of(index.write, FullDisk()).code == "disk-full"
    assert error_of(index.batch).code == "disk-full"
    assert error_of(index.synced_batch).code == "disk-full"
    index.close()


def test_batches_are_synced_and_marks_removed_in_their_turn(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "MARKS_MAX", 10)
    model = Model()
    store = open_store(tmp_path)
    for _ in range(7):
        grow(store, model, 5, seed=model.height)
        assert len(list(store._index.scan(schema.MARK))) <= 11
    abandon(store)
    with open_store(tmp_path) as store:
        assert_same(store, model)


def test_a_batch_lost_in_the_middle_of_leveldb_s_log_is_noticed(tmp_path: Path) -> None:
    """A power cut may leave a block of zeros there, which LevelDB skips in silence."""
    store, model = open_store(tmp_path), Model()
    for number in range(6):
        store.connect(model.connect(make_body(model.tip_hash, {}, {bytes([number]) * 36: bytes(20000)})))
    abandon(store)
    (log,) = (tmp_path / "index").glob("*.log")
    raw = bytearray(log.read_bytes())
    raw[32768 : 2 * 32768] = bytes(32768)
    log.write_bytes(raw)
    error = error_of(open_store, tmp_path)
    assert error.code == "leveldb-corrupt"
    assert "batch" in error.reason
