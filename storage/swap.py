"""A database built beside the one in use, and how it takes its place.

Whoever builds one (``wattd store reindex``, ``import-snapshot``) does so under ``index.building``,
and under ``blocks.building`` where it brings segment files too. What is complete and synced is
renamed to ``.new``, the database last: that rename is the moment of decision. From then on every
``open`` finishes the exchange; before it, nothing has happened. So a kill at any point leaves the
old store or the new one.
"""

import os
import shutil
from pathlib import Path

from storage.files import Files, storage_error

INDEX = "index"
INDEX_BUILDING = "index.building"
INDEX_NEW = "index.new"
INDEX_OLD = "index.old"
BLOCKS = "blocks"
BLOCKS_BUILDING = "blocks.building"
BLOCKS_NEW = "blocks.new"


def decide(path: Path, files: Files | None = None) -> None:
    """Let what was built in the data directory ``path`` replace the old. The caller holds its lock."""
    files = files or Files()
    try:
        shutil.rmtree(path / BLOCKS_NEW, ignore_errors=True)
        if (path / BLOCKS_BUILDING).is_dir():
            files.sync_directory(path / BLOCKS_BUILDING)
            files.rename_directory(path / BLOCKS_BUILDING, path / BLOCKS_NEW)
        files.sync_directory(path / INDEX_BUILDING)
        files.rename_directory(path / INDEX_BUILDING, path / INDEX_NEW)
    except OSError as error:
        raise storage_error(error, path) from error
    finish(path, files)


def finish(path: Path, files: Files | None = None) -> None:
    """Finish an exchange that was decided. The former database stays as ``index.old``."""
    if not (path / INDEX_NEW).is_dir():
        return
    files = files or Files()
    try:
        if (path / BLOCKS_NEW).is_dir():
            if (path / BLOCKS).is_dir():
                os.rmdir(path / BLOCKS)  # an import needs an empty one, so this removes nothing
            files.rename_directory(path / BLOCKS_NEW, path / BLOCKS)
        if (path / INDEX).is_dir():
            shutil.rmtree(path / INDEX_OLD, ignore_errors=True)
            files.rename_directory(path / INDEX, path / INDEX_OLD)
        files.rename_directory(path / INDEX_NEW, path / INDEX)
    except OSError as error:
        raise storage_error(error, path) from error


def forget_import(path: Path) -> None:
    """Remove what an import that was killed has left: it must not be taken for a reindex under way.

    An import makes ``blocks.building`` before anything else, which tells the two apart.
    """
    if (path / BLOCKS_BUILDING).is_dir() or (path / BLOCKS_NEW).is_dir():
        forget_building(path)


def forget_building(path: Path) -> None:
    """Remove what was being built: it is good for nothing once the segment files have changed."""
    for name in (INDEX_BUILDING, BLOCKS_BUILDING, BLOCKS_NEW):
        shutil.rmtree(path / name, ignore_errors=True)
