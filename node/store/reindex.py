"""``wattd store reindex``: the database computed again from the segment files.

It is built under ``index.building`` and takes the place of the old one at the end (``storage.swap``).
A run that was killed goes on where it was; until the exchange the old database is untouched.
"""

import shutil
from dataclasses import dataclass
from functools import partial

from consensus.errors import StorageError
from node.sigcheck import SignatureVerifier
from node.store.progress import Progress
from node.store.replay import execute_stored, replay_store
from node.store.target import Target, need_room, size_of
from storage import schema, swap
from storage.files import Files
from storage.index import Index
from storage.segments import Segments


@dataclass(frozen=True, slots=True)
class Reindexed:
    """What came of it: height of the tip, and where a former run had left off (-1: nowhere)."""

    height: int
    resumed_at: int


def reindex(
    target: Target,
    progress: Progress,
    *,
    verify: bool = False,
    keep_old: bool = False,
    files: Files | None = None,
) -> Reindexed:
    """Execute the certified blocks of the segment files into a new database and let it replace the old.

    ``verify`` checks the signatures of transactions again, which their certificates vouch for.
    Raises StorageError: "pruned" if blocks are absent, "replay-failed", "segment-corrupt", "disk-full".
    """
    old_height = _former_height(target)
    swap.forget_import(target.path)
    building = target.path / swap.INDEX_BUILDING
    need_room(target.path, max(0, size_of(target.path / swap.INDEX) - size_of(building)), "the new database")
    verifier = SignatureVerifier(target.contracts) if verify else None
    try:
        done = _build(target, verifier, progress, files)
    except StorageError as error:
        if not building.is_dir() or error.code in (
            "disk-full",
            "not-writable",
            "replay-failed",
            "reindex-short",
        ):
            raise
        # What a former run left may be damaged itself, or older than a repair: once more from the start.
        swap.forget_building(target.path)
        done = _build(target, verifier, progress, files)
    finally:
        if verifier is not None:
            verifier.close()
    if done.height < old_height:
        raise StorageError(
            "reindex-short",
            f"the database in use reaches height {old_height}, the certified blocks only {done.height}",
            fix="wattd store repair finds what is damaged",
        )
    swap.decide(target.path, files)
    if not keep_old:
        shutil.rmtree(target.path / swap.INDEX_OLD, ignore_errors=True)
    return done


def _build(
    target: Target, verifier: SignatureVerifier | None, progress: Progress, files: Files | None
) -> Reindexed:
    (target.path / swap.BLOCKS).mkdir(mode=0o700, exist_ok=True)
    open_segments = partial(Segments.open, target.path / swap.BLOCKS, target.chain_id, files=files)
    with replay_store(target, target.path / swap.INDEX_BUILDING, open_segments, progress) as store:
        resumed_at = store.height
        chain = execute_stored(target, store, verifier, progress)
        if store.highest_certified > chain.tip.height:
            raise StorageError(
                "reindex-short",
                f"the segment files hold certified blocks up to {store.highest_certified}, "
                f"but height {chain.tip.height + 1} is missing: the chain came from a snapshot",
                fix="move blocks/ and index/ away, then import a snapshot or start again to fetch the chain",
            )
        return Reindexed(chain.tip.height, resumed_at)


def _former_height(target: Target) -> int:
    """Return the height of the database in use, -1 if it does not say. Raises "pruned"."""
    path = target.path / swap.INDEX
    if not path.is_dir():
        return -1
    try:
        index = Index.open(path, 0, create=False)
    except StorageError:
        return -1  # a damaged one is what we are here for; files that are missing show when they are read
    below, height = 0, -1
    try:
        below, _ = schema.decode_pruned(index.get(schema.PRUNED))
        stored = index.get(schema.TIP)
        height = -1 if stored is None else schema.decode_tip(stored)[0]
    except StorageError:
        pass
    finally:
        index.close()
    if below:
        raise StorageError(
            "pruned",
            f"blocks below {below} are absent, so the database cannot be computed again",
            fix="move blocks/ and index/ away, then import a snapshot or start again to fetch the chain",
        )
    return height
