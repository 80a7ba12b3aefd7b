"""When coins reach LevelDB, and that what is there is right after every single batch."""

from pathlib import Path
from random import Random

import plyvel
import pytest

from consensus.errors import StorageError
from storage import limits, schema
from storage.index import Index
from storage.store import ChainStore
from tests.unit.storage.chainkit import (
    Model,
    abandon,
    assert_same,
    make_body,
    open_toy,
    random_body,
)


def grow(store: ChainStore, model: Model, count: int, seed: int = 1) -> None:
    rng = Random(seed)
    for _ in range(count):
        store.connect(model.connect(random_body(rng, model)))


def stored_coins(store: ChainStore) -> dict[bytes, bytes]:
    return dict(store._index.scan(schema.COIN))


def coins_tip(store: ChainStore) -> tuple[int, bytes] | None:
    value = store._index.get(schema.COINS_TIP)
    return None if value is None else schema.decode_tip(value)[:2]


class Watched:
    """A store of which every batch is followed by a look at what LevelDB holds then."""

    def __init__(self, path: Path, cache_bytes: int) -> None:
        self.path, self.cache_bytes = path, cache_bytes
        self.model = Model()
        self.coins_at: dict[bytes, dict[bytes, bytes]] = {}
        self.batches = 0
        self.open()

    def open(self) -> None:
        self.store = open_toy(self.path, cache_bytes=self.cache_bytes)
        write = self.store._index.write

        def watched(batch) -> None:
            write(batch)
            self.batches += 1
            self.look()

        self.store._index.write = watched

    def look(self) -> None:
        index = self.store._index
        tip, at = index.get(schema.TIP), coins_tip(self.store)
        found = stored_coins(self.store)
        if at is None:
            assert found == {}
            return
        assert tip is not None
        height, block_hash = at
        assert height <= schema.decode_tip(tip)[0]
        assert index.get(schema.header_key(height))[:32] == block_hash
        assert found == self.coins_at[block_hash]

    def connect(self, body: bytes) -> None:
        batch = self.model.connect(body)
        self.coins_at[batch.block_hash] = dict(self.model.coins)
        self.store.connect(batch)

    def disconnect(self) -> None:
        self.store.disconnect(*self.model.disconnect())


@pytest.mark.parametrize("cache_bytes", [0, 6_000, 30_000, 1 << 20])
@pytest.mark.parametrize("seed", range(4))
def test_leveldb_s_coins_are_those_at_the_coins_tip_after_every_batch(
    tmp_path: Path, monkeypatch, cache_bytes: int, seed: int
) -> None:
    monkeypatch.setattr(limits, "FLUSH_BLOCKS_MAX", 7)
    rng, watched = Random(f"{seed}/{cache_bytes}"), Watched(tmp_path, cache_bytes)
    for _ in range(60):
        choice = rng.random()
        if choice < 0.55 or watched.model.height < 1:
            watched.connect(random_body(rng, watched.model))
        elif choice < 0.75:
            for _ in range(rng.randrange(1, min(watched.model.height, 10) + 1)):
                watched.disconnect()
        elif choice < 0.85:
            watched.store.flush()
            assert stored_coins(watched.store) == watched.model.coins
        elif choice < 0.95:
            abandon(watched.store)
            watched.open()
        else:
            watched.store.close()
            watched.open()
            assert stored_coins(watched.store) == watched.model.coins
        assert dict(watched.store.iterate_coins()) == watched.model.coins
    assert_same(watched.store, watched.model)
    assert watched.batches > 30
    watched.store.close()


def test_coins_wait_in_memory_and_are_all_there_after_a_kill_or_a_close(tmp_path: Path) -> None:
    model = Model()
    store = open_toy(tmp_path)
    grow(store, model, 10)
    assert stored_coins(store) == {}
    assert coins_tip(store) is None
    for _ in range(2):
        abandon(store)
        store = open_toy(tmp_path)
        assert_same(store, model)
        assert stored_coins(store) == {}
    store.close()
    store = open_toy(tmp_path)
    assert stored_coins(store) == model.coins
    assert coins_tip(store) == (9, model.tip_hash)
    store.close()


def test_what_makes_a_flush_due(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "FLUSH_BLOCKS_MAX", 5)
    model = Model()
    with open_toy(tmp_path / "blocks-max") as store:
        for height in range(12):
            grow(store, model, 1, seed=height)
            assert coins_tip(store) == (
                None if height < 4 else (height - (height - 4) % 5, coins_tip(store)[1])
            )
    monkeypatch.setattr(limits, "FLUSH_BLOCKS_MAX", 1000)
    for least, share in ((10_000, 1 << 30), (1_000, 6)):  # a sixth of the 60,000 that are not LevelDB's
        monkeypatch.setattr(limits, "FLUSH_BODY_BYTES_MAX", least)
        monkeypatch.setattr(limits, "FLUSH_BODY_SHARE", share)
        model = Model()
        with open_toy(tmp_path / f"bytes-{least}", cache_bytes=80_000) as store:
            waiting, flushed = 0, None
            for number in range(20):
                body = make_body(model.tip_hash, {}, {b"k": bytes(1500)}, number)
                store.connect(model.connect(body))
                waiting += len(body)
                if waiting >= 10_000:
                    flushed, waiting = (number, model.tip_hash), 0
                assert coins_tip(store) == flushed
            assert flushed is not None
    monkeypatch.setattr(limits, "FLUSH_BODY_BYTES_MAX", 1 << 30)
    model = Model()
    with open_toy(tmp_path / "budget", cache_bytes=20_000) as store:
        for height in range(100):
            grow(store, model, 1, seed=height)
            assert store.sizes().cache <= 20_000
        assert coins_tip(store) is not None


def test_disconnecting_what_is_only_in_memory_writes_no_coins(tmp_path: Path) -> None:
    model = Model()
    with open_toy(tmp_path) as store:
        grow(store, model, 4)
        store.flush()
        flushed = stored_coins(store)
        grow(store, model, 4, seed=2)
        for _ in range(3):
            store.disconnect(*model.disconnect())
        assert coins_tip(store)[0] == 3
        assert stored_coins(store) == flushed
        for _ in range(3):
            store.disconnect(*model.disconnect())
            assert coins_tip(store) == (store.height, model.tip_hash)
            assert stored_coins(store) == model.coins
        assert_same(store, model)


def test_coins_roll_forward_within_their_budget(tmp_path: Path) -> None:
    model = Model()
    store = open_toy(tmp_path, cache_bytes=1 << 20)
    grow(store, model, 80)
    abandon(store)
    store = open_toy(tmp_path, cache_bytes=8_000)
    assert coins_tip(store) is not None
    assert store.sizes().cache <= 8_000
    assert_same(store, model)
    store.close()


def error_of(call, *arguments, **options) -> StorageError:
    with pytest.raises(StorageError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_coins_that_cannot_be_rolled_forward_are_refused(tmp_path: Path) -> None:
    model, other = Model(), Model()
    store = open_toy(tmp_path)
    grow(store, model, 5)
    abandon(store)
    index = Index.open(tmp_path / "index", 0)
    batch = index.batch()
    batch.put(schema.BLOCK + model.tip_hash, schema.encode_block(schema.BlockRecords(4)))
    index.write(batch)
    index.close()
    error = error_of(open_toy, tmp_path)
    assert error.code == "leveldb-corrupt"
    assert "height 4" in error.reason
    assert "wattd store repair" in error.fix
    with open_toy(tmp_path / "other") as store:
        grow(store, other, 3)
    index = Index.open(tmp_path / "other" / "index", 0)
    batch = index.batch()
    batch.put(schema.COINS_TIP, schema.encode_tip(2, bytes(32), b""))
    index.write(batch)
    index.close()
    error = error_of(open_toy, tmp_path / "other")
    assert error.code == "leveldb-corrupt"
    assert "off the active chain" in error.reason


class FailingBatch:
    """A batch of LevelDB whose write fails, by default as on a full disk."""

    words = b"No space left on device"

    def __init__(self, batch) -> None:
        self.put, self.delete = batch.put, batch.delete

    def write(self) -> None:
        raise plyvel.IOError(b"IO error: 000005.log: " + self.words)


def fail_batches(monkeypatch, after: int) -> list[int]:
    """Let each index fail from its batch number ``after`` on; return the list of what it was asked for."""
    asked: list[int] = []
    batch = Index.batch

    def failing(self: Index):
        asked.append(len(asked))
        return batch(self) if len(asked) <= after else FailingBatch(batch(self))

    monkeypatch.setattr(Index, "batch", failing)
    return asked


@pytest.mark.parametrize(
    ("words", "code"),
    [(b"No space left on device", "disk-full"), (b"Read-only file system", "not-writable")],
)
def test_a_flush_that_fails_stops_all_writing_and_loses_nothing(
    tmp_path: Path, monkeypatch, words: bytes, code: str
) -> None:
    monkeypatch.setattr(FailingBatch, "words", words)
    model, rng = Model(), Random(5)
    store = open_toy(tmp_path)
    grow(store, model, 6)
    body = random_body(rng, model)
    monkeypatch.setattr(limits, "FLUSH_BLOCKS_MAX", 7)
    with monkeypatch.context() as patch:
        fail_batches(patch, after=1)
        assert error_of(store.connect, model.connect(body)).code == code
    assert_same(store, model)  # the block is connected, its coins are in memory
    files = {path: path.read_bytes() for path in (tmp_path / "blocks").iterdir()}
    assert error_of(store.flush).code == code
    assert error_of(store.put_body, bytes(32), 9, body).code == code
    assert error_of(store.disconnect, 6, {}, {}, b"").code == code
    assert_same(store, model)
    store.close()
    assert files == {path: path.read_bytes() for path in (tmp_path / "blocks").iterdir()}
    with open_toy(tmp_path) as store:
        assert_same(store, model)


@pytest.mark.parametrize("deep", [False, True])
def test_a_disconnect_that_fails_leaves_the_block_on(tmp_path: Path, monkeypatch, deep: bool) -> None:
    model = Model()
    store = open_toy(tmp_path)
    grow(store, model, 6)
    if deep:
        store.flush()
    twin = Model()
    for body in model.bodies:
        twin.connect(body)
    with monkeypatch.context() as patch:
        fail_batches(patch, after=0)
        assert error_of(store.disconnect, *twin.disconnect()).code == "disk-full"
    assert_same(store, model)
    store.close()
    with open_toy(tmp_path) as store:
        assert_same(store, model)


def test_rolling_forward_onto_a_full_disk_is_an_error_that_lets_the_directory_go(
    tmp_path: Path, monkeypatch
) -> None:
    model = Model()
    store = open_toy(tmp_path)
    grow(store, model, 40)
    abandon(store)
    with monkeypatch.context() as patch:
        asked = fail_batches(patch, after=0)
        assert error_of(open_toy, tmp_path, cache_bytes=4_000).code == "disk-full"
        assert len(asked) == 1
    with open_toy(tmp_path, cache_bytes=4_000) as store:
        assert_same(store, model)
