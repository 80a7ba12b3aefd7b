"""Older databases become today's, in batches that may be killed between any two."""

import errno
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from consensus.errors import StorageError
from storage import migrations, schema
from storage.files import Files
from storage.index import Index
from storage.migrations import MIGRATIONS, Migration
from storage.store import ChainStore
from tests.unit.storage.chainkit import Model, assert_same, open_toy, random_body


class Killed(BaseException):
    """The process ends here."""


def old_store(path: Path, blocks: int = 6) -> Model:
    """Make a store as schema 1 left it: coins at the tip, and nothing that says so."""
    model, rng = Model(), Random(1)
    with open_toy(path) as store:
        for _ in range(blocks):
            store.connect(model.connect(random_body(rng, model)))
    change(path, {schema.VERSION: schema.U32.pack(1), schema.COINS_TIP: None})
    return model


def change(path: Path, values: dict[bytes, bytes | None]) -> None:
    index = Index.open(path / "index", 0)
    batch = index.synced_batch()
    for key, value in values.items():
        batch.delete(key) if value is None else batch.put(key, value)
    index.write(batch)
    index.close()


def stored(path: Path, key: bytes) -> bytes | None:
    index = Index.open(path / "index", 0)
    value = index.get(key)
    index.close()
    return value


def error_of(call, *arguments, **options) -> StorageError:
    with pytest.raises(StorageError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return caught.value


SPACE = schema.TX
"""The keys that the synthetic migration rewrites."""


def rewrite(index: Index, batch: Any, cursor: bytes) -> tuple[bytes | None, int]:
    """Append a byte to two values per batch: done twice to one it would show."""
    rows = index.scan_from(cursor or SPACE, bytes([SPACE[0] + 1]))
    count, following = 0, None
    for key, value in rows:
        if count == 2:
            following = key
            break
        batch.put(key, value + b"!")
        count += 1
    return following, count


def synthetic(needed: int = 0) -> Migration:
    return Migration(
        schema.SCHEMA_VERSION,
        "rewriting transactions",
        needed_bytes=lambda index, cursor: needed,
        entries=lambda index: sum(1 for _ in index.scan(SPACE)),
        work=rewrite,
    )


def install(monkeypatch, step: Migration) -> int:
    """Let ``step`` lead from today's schema to one more; return that."""
    newer = schema.SCHEMA_VERSION + 1
    monkeypatch.setattr(migrations, "MIGRATIONS", {**MIGRATIONS, step.source: step})
    monkeypatch.setattr(schema, "SCHEMA_VERSION", newer)
    return newer


def rows(path: Path) -> dict[bytes, bytes]:
    index = Index.open(path / "index", 0)
    found = dict(index.scan(SPACE))
    index.close()
    return found


def test_there_is_a_way_from_every_schema() -> None:
    assert sorted(MIGRATIONS) == list(range(1, schema.SCHEMA_VERSION))
    assert all(step.source == source for source, step in MIGRATIONS.items())


def test_the_first_schema_gets_its_coins_tip(tmp_path: Path) -> None:
    model = old_store(tmp_path)
    heard: list[tuple[str, int, int]] = []
    with open_toy(tmp_path, migrating=lambda *each: heard.append(each)) as store:
        assert_same(store, model)
        assert schema.decode_tip(store._index.get(schema.COINS_TIP)) == (5, model.tip_hash, b"")
    assert heard == [("noting at which block the unspent outputs stand", 1, 1)]
    assert stored(tmp_path, schema.VERSION) == schema.U32.pack(schema.SCHEMA_VERSION)
    assert stored(tmp_path, schema.MIGRATION) is None
    with open_toy(tmp_path, migrating=lambda *each: heard.append(each)) as store:
        assert_same(store, model)
    assert len(heard) == 1


def test_an_empty_store_of_the_first_schema(tmp_path: Path) -> None:
    open_toy(tmp_path).close()
    change(tmp_path, {schema.VERSION: schema.U32.pack(1)})
    with open_toy(tmp_path) as store:
        assert_same(store, Model())
        assert store._index.get(schema.COINS_TIP) is None


@pytest.mark.parametrize("survive", range(8))
def test_a_migration_killed_after_any_batch_goes_on_where_it_was(
    tmp_path: Path, monkeypatch, survive: int
) -> None:
    model = old_store(tmp_path)
    before = rows(tmp_path)
    newer = install(monkeypatch, synthetic())
    write, left = Index.write, [survive]

    def killed(self: Index, batch: Any) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        write(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Index, "write", killed)
        with pytest.raises(Killed):
            open_toy(tmp_path)
    heard: list[tuple[str, int, int]] = []
    with open_toy(tmp_path, migrating=lambda *each: heard.append(each)) as store:
        assert dict(store.iterate_coins()) == model.coins
        assert store.tip == model.tips[-1]
    assert rows(tmp_path) == {key: value + b"!" for key, value in before.items()}
    assert stored(tmp_path, schema.VERSION) == schema.U32.pack(newer)
    assert stored(tmp_path, schema.MIGRATION) is None
    done = [at for what, at, _ in heard if what == "rewriting transactions"]
    assert done == list(range(2, 2 * len(done) + 1, 2))
    assert len(done) == len(before) // 2 - max(0, survive - 2)


def test_a_program_that_is_older_refuses_a_half_made_database(tmp_path: Path, monkeypatch) -> None:
    old_store(tmp_path)
    before = rows(tmp_path)
    with monkeypatch.context() as patch:
        install(patch, synthetic())

        def die(what: str, at: int, total: int) -> None:
            if what == "rewriting transactions" and at == 4:
                raise Killed

        with pytest.raises(Killed):
            open_toy(tmp_path, migrating=die)
    assert 0 < sum(value.endswith(b"!") for value in rows(tmp_path).values()) < len(before)
    assert error_of(open_toy, tmp_path).code == "schema-too-new"


def test_it_says_what_disk_it_needs_and_changes_nothing_without(tmp_path: Path, monkeypatch) -> None:
    class Small(Files):
        def free_bytes(self, path: Path) -> int:
            return 1_000_000

    old_store(tmp_path)
    open_toy(tmp_path).close()
    before = rows(tmp_path)
    install(monkeypatch, synthetic(needed=1_500_000))
    error = error_of(open_toy, tmp_path, files=Small())
    assert error.code == "migration-needs-disk"
    assert "1500000 bytes" in error.reason
    assert "1000000 are free" in error.reason
    assert "500000 bytes more" in error.fix
    assert rows(tmp_path) == before
    assert stored(tmp_path, schema.MIGRATION) is None
    open_toy(tmp_path).close()
    assert rows(tmp_path) != before


def test_a_schema_without_a_way_is_refused(tmp_path: Path) -> None:
    old_store(tmp_path)
    change(tmp_path, {schema.VERSION: schema.U32.pack(0)})
    error = error_of(open_toy, tmp_path)
    assert error.code == "schema-too-old"
    change(tmp_path, {schema.VERSION: schema.U32.pack(schema.SCHEMA_VERSION + 1)})
    assert error_of(open_toy, tmp_path).code == "schema-too-new"


def test_another_chain_s_old_database_is_left_as_it_is(tmp_path: Path) -> None:
    old_store(tmp_path)
    assert error_of(ChainStore.open, tmp_path, chain_id=bytes(32)).code == "datadir-foreign-chain"
    assert stored(tmp_path, schema.VERSION) == schema.U32.pack(1)


def test_a_disk_that_fails_in_a_migration_is_an_error_that_lets_the_directory_go(
    tmp_path: Path, monkeypatch
) -> None:
    class NoAnswer(Files):
        def free_bytes(self, path: Path) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def full(self: Index, batch: Any) -> None:
        raise StorageError("disk-full", "no room", fix="free some")

    model = old_store(tmp_path)
    assert error_of(open_toy, tmp_path, files=NoAnswer()).code == "disk-failed"
    with monkeypatch.context() as patch:
        patch.setattr(Index, "write", full)
        assert error_of(open_toy, tmp_path).code == "disk-full"
    with open_toy(tmp_path) as store:
        assert_same(store, model)
