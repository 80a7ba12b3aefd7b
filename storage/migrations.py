"""The schema of the database: who wrote it, and how an older one becomes today's.

A migration works in batches, and each batch carries the cursor from which the next one goes on, so a
kill between two of them costs nothing. The first batch already writes the new version: an older
program then refuses the half-made database instead of taking it for its own. While the cursor
(``schema.MIGRATION``) is there the migration is not done; the batch that ends it removes the cursor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from consensus.errors import StorageError
from storage import schema
from storage.files import Files, storage_error
from storage.index import Index

Progress = Callable[[str, int, int], None]
"""Hears (what is done, bytes or entries done so far, how many there are about) after each batch."""

Needed = Callable[[Index, bytes], int]
"""Bytes of disk that the rest of a migration takes, from a cursor on (b"": all of it)."""

Work = Callable[[Index, Any, bytes], tuple[bytes | None, int]]
"""Puts one batch's worth into the batch, from a cursor on; returns (next cursor or None, entries done)."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from the schema ``source`` to the next. ``entries`` says about how many there are to do."""

    source: int
    what: str
    needed_bytes: Needed
    entries: Callable[[Index], int]
    work: Work


def _add_coins_tip(index: Index, batch: Any, cursor: bytes) -> tuple[bytes | None, int]:
    """Schema 1 moved coins and tip in one batch, so its coins stand at its tip."""
    tip = index.get(schema.TIP)
    if tip is not None:
        height, block_hash, _ = schema.decode_tip(tip)
        batch.put(schema.COINS_TIP, schema.encode_tip(height, block_hash, b""))
    return None, 1


MIGRATIONS: Mapping[int, Migration] = {
    1: Migration(
        1,
        "noting at which block the unspent outputs stand",
        needed_bytes=lambda index, cursor: 1 << 12,
        entries=lambda index: 1,
        work=_add_coins_tip,
    ),
}
"""By the schema that they start from; each leads to the next one."""


def check_identity(index: Index, path: Path, chain_id: bytes) -> None:
    """Check schema version and chain of the database, or write them into an empty one.

    An older version passes: ``migrate`` is for it. Raises StorageError "schema-too-new",
    "datadir-foreign-chain".
    """
    if index.is_empty:
        batch = index.synced_batch()
        batch.put(schema.VERSION, schema.U32.pack(schema.SCHEMA_VERSION))
        batch.put(schema.CHAIN_ID, chain_id)
        index.write(batch)
        return
    version = stored_version(index)
    if version > schema.SCHEMA_VERSION:
        raise StorageError(
            "schema-too-new",
            f"{path} was written by schema {version}, this version reads {schema.SCHEMA_VERSION}",
            fix="install the newer version again",
        )
    found = index.get(schema.CHAIN_ID) or b""
    if found != chain_id:
        raise StorageError(
            "datadir-foreign-chain",
            f"{path} holds chain {found[::-1].hex()}, not {chain_id[::-1].hex()}",
            fix="give each chain a data directory of its own",
        )


def stored_version(index: Index) -> int:
    """Return the schema version that the database names, 0 if it has none."""
    (version,) = schema.U32.unpack(index.get(schema.VERSION) or bytes(4))
    return int(version)


def is_current(index: Index) -> bool:
    """Return whether no migration is due or under way."""
    return stored_version(index) == schema.SCHEMA_VERSION and index.get(schema.MIGRATION) is None


def need_current(index: Index, path: Path) -> None:
    """Refuse a database that a migration has to change first, for whoever may not write to it."""
    if not is_current(index):
        raise StorageError(
            "schema-not-migrated",
            f"{path} has schema {stored_version(index)}, this version reads {schema.SCHEMA_VERSION}",
            fix=f"wattd store migrate --datadir {path}, or start the node once",
        )


def migrate(
    index: Index, path: Path, progress: Progress | None = None, files: Files | None = None
) -> list[str]:
    """Bring the database up to today's schema, from where a killed run was; return what was done.

    Raises StorageError "migration-needs-disk" before anything is written if the file system of
    ``path`` has not the room that a step wants, "schema-too-old" if no step starts from the stored one.
    """
    done = []
    while not is_current(index):
        version, cursor = stored_version(index), index.get(schema.MIGRATION)
        step = MIGRATIONS.get(version if cursor is None else version - 1)
        if step is None:
            _too_old(path, version)
        _run(step, index, path, cursor, progress or (lambda what, at, total: None), files or Files())
        done.append(step.what)
    return done


def _run(
    step: Migration, index: Index, path: Path, cursor: bytes | None, progress: Progress, files: Files
) -> None:
    try:
        needed, free = step.needed_bytes(index, cursor or b""), files.free_bytes(path)
    except OSError as error:
        raise storage_error(error, path) from error
    if free < needed:
        raise StorageError(
            "migration-needs-disk",
            f"{path}: {step.what} (schema {step.source} to {step.source + 1}) needs about {needed} bytes, "
            f"{free} are free",
            fix=f"free {needed - free} bytes more, then start again; nothing was changed by this attempt",
        )
    at, total = 0, step.entries(index)
    following: bytes | None = cursor or b""
    while following is not None:
        batch = index.batch()
        following, entries = step.work(index, batch, following)
        batch.put(schema.VERSION, schema.U32.pack(step.source + 1))
        if following is None:
            batch.delete(schema.MIGRATION)
        else:
            batch.put(schema.MIGRATION, following)
        index.write(batch)
        at += entries
        progress(step.what, min(at, total), total)
    index.write(index.synced_batch())


def _too_old(path: Path, version: int) -> NoReturn:
    raise StorageError(
        "schema-too-old",
        f"{path} was written by schema {version}, and this version knows no way from there",
        fix=f"move {path / 'index'} away and start again: it is computed anew from the segment files",
    )
