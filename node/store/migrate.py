"""``wattd store migrate``: bring the database to this version's schema ahead of the next start."""

import logging

from node.store.progress import Progress
from node.store.target import Target
from storage import swap
from storage.files import Files
from storage.index import Index
from storage.migrations import check_identity
from storage.migrations import migrate as migrate_index

log = logging.getLogger("wattd.store")

_LINES = 100
"""Most lines per migration."""


def log_migration(what: str, at: int, total: int) -> None:
    """Tell of a migration that a starting node runs: at most ``_LINES`` lines."""
    if at >= total or at * _LINES // total != (at - 1) * _LINES // total:
        log.info("migrating the database", extra={"what": what, "done": at, "of": total})


def migrate(target: Target, progress: Progress, files: Files | None = None) -> list[str]:
    """Run the migrations that are due and return what was done; a run that was killed is gone on with.

    Raises StorageError "migration-needs-disk", "schema-too-new", "schema-too-old", "datadir-foreign-chain".
    """
    index = Index.open(target.path / swap.INDEX, target.cache_bytes // 2, create=False)
    try:
        check_identity(index, target.path, target.chain_id)
        seen: dict[str, int] = {}

        def step(what: str, at: int, total: int) -> None:
            if what not in seen:
                progress.begin(what, total)
            progress.advance(at - seen.get(what, 0))
            seen[what] = at

        return migrate_index(index, target.path, step, files)
    finally:
        index.close()
