"""``wattd store``: tools on the data directory of a node that does not run."""

from datetime import UTC, datetime
from pathlib import Path

import click

from consensus.errors import StorageError
from node.cli.options import datadir_option
from node.store.bars import shown
from node.store.check import LEVELS, check_store
from node.store.compact import compact as compact_store
from node.store.evidence import Trust
from node.store.migrate import migrate as migrate_store
from node.store.prune import Limit
from node.store.prune import prune as prune_store
from node.store.reindex import reindex as reindex_store
from node.store.repair import repair as repair_store
from node.store.snapshot import chain_work
from node.store.snapshot import export_snapshot as write_snapshot
from node.store.snapshot import import_snapshot as read_snapshot
from node.store.target import locked

HINTS = (
    "mend it with: wattd store repair --datadir {0}",
    "compute the database again with: wattd store reindex --datadir {0}",
    "move blocks/ and index/ out of {0} and start the node: it fetches the chain from its peers",
)
"""What helps if checksums fail, if content is wrong, if blocks are stored that no quorum committed."""

HASH_BYTES = 32
EXIT_DAMAGED = StorageError.exit_status


@click.group()
def store() -> None:
    """Check, mend and move the chain that a stopped node keeps."""


@store.command()
@datadir_option()
@click.option(
    "--level",
    type=click.IntRange(0, len(LEVELS) - 1),
    default=3,
    show_default=True,
    help="How far to go: " + ", ".join(f"{level} {what}" for level, what in enumerate(LEVELS)) + ".",
)
def check(datadir: Path, level: int) -> int:
    """Check what is stored; exit with 74 if anything is wrong. Changes nothing."""
    with locked(datadir) as target, shown() as progress:
        faulty = check_store(target, level, progress, click.echo)
    if faulty:
        click.echo(HINTS[0 if 0 in faulty else 2 if 2 in faulty else 1].format(datadir), err=True)
    return EXIT_DAMAGED if faulty else 0


@store.command()
@datadir_option()
def repair(datadir: Path) -> None:
    """Mend what can be mended; set damaged files aside, delete nothing."""
    with locked(datadir) as target, shown() as progress:
        if not repair_store(target, progress, click.echo):
            click.echo("nothing to repair")


@store.command()
@datadir_option()
@click.option("--verify", is_flag=True, help="Check all signatures again; their certificates vouch for them.")
def reindex(datadir: Path, verify: bool) -> None:
    """Compute the database again from the segment files."""
    with locked(datadir) as target, shown() as progress:
        done = reindex_store(target, progress, verify=verify)
    resumed = f", going on from {done.resumed_at}" if done.resumed_at >= 0 else ""
    click.echo(f"height {done.height}{resumed}")


@store.command()
@datadir_option()
def compact(datadir: Path) -> None:
    """Give back the space of deleted entries in the database."""
    with locked(datadir) as target, shown() as progress:
        before, after = compact_store(target, progress)
    click.echo(f"database {before} bytes before, {after} after")


@store.command()
@datadir_option()
def migrate(datadir: Path) -> None:
    """Bring the database to this version's schema, as the next start would."""
    with locked(datadir) as target, shown() as progress:
        done = migrate_store(target, progress)
    for what in done:
        click.echo(f"done: {what}")
    if not done:
        click.echo("nothing to migrate")


@store.command("export-snapshot")
@datadir_option()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export_snapshot(datadir: Path, file: Path) -> None:
    """Write a state to FILE and print its hash.

    It is the newest state that a block commits to, or on a chain without snapshot_interval_blocks
    that at the tip.
    """
    if file.exists():
        raise click.UsageError(f"{file} exists")
    with locked(datadir) as target, shown() as progress:
        done = write_snapshot(target, file.absolute(), progress)
        work = None
        if done.proof_height is not None and not target.has_quorums:
            work = chain_work(target, done.proof_height)
    click.echo(f"height {done.height}")
    click.echo(f"hash   {done.root.hex()}")
    if done.proof_hash is not None:
        click.echo(f"proof  {done.proof_hash[::-1].hex()} (block {done.proof_height})")
    if work is not None:
        click.echo(f"work   {work:x}")


@store.command("import-snapshot")
@datadir_option()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--hash", "root", help="The hash that a node you trust printed at its export.")
@click.option("--trust-hash", help="Hash of the block that commits to the state, from somebody you trust.")
@click.option("--min-work", help="Proof of work: least work of the chain, in hexadecimal.")
def import_snapshot(
    datadir: Path, file: Path, root: str | None, trust_hash: str | None, min_work: str | None
) -> None:
    """Start a chain from a snapshot instead of from genesis.

    The values are checked against the state root that a block commits to. On a chain of validators
    their certificate stands for that block; on one of proof of work you name its hash, or the work
    that its chain must have. A snapshot without state root is only as good as the source of --hash.
    """
    block_hash = _hash_of("--trust-hash", trust_hash)
    try:
        work = None if min_work is None else int(min_work, 16)
    except ValueError:
        raise click.UsageError("--min-work takes a hexadecimal number") from None
    trust = Trust(_hash_of("--hash", root), block_hash and block_hash[::-1], work)
    with locked(datadir) as target, shown() as progress:
        height = read_snapshot(target, file, trust, progress)
    click.echo(f"height {height}; earlier blocks are absent (pruned)")


def _hash_of(option: str, text: str | None) -> bytes | None:
    try:
        value = None if text is None else bytes.fromhex(text)
    except ValueError:
        value = b""
    if value is not None and len(value) != HASH_BYTES:
        raise click.UsageError(f"{option} takes 64 hexadecimal digits")
    return value


@store.command()
@datadir_option()
@click.option("--keep-blocks", type=click.IntRange(min=1), help="Keep the last N blocks.")
@click.option("--keep-bytes", type=click.IntRange(min=0), help="Keep the newest segment files up to N bytes.")
@click.option(
    "--before",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="Remove what is older than this time (UTC).",
)
def prune(datadir: Path, keep_blocks: int | None, keep_bytes: int | None, before: datetime | None) -> None:
    """Remove old blocks with their index entries; headers and state stay.

    Whole segment files go, so somewhat more may stay; the last 288 blocks always do.
    """
    before_s = None if before is None else int(before.replace(tzinfo=UTC).timestamp())
    if [keep_blocks, keep_bytes, before_s].count(None) != 2:
        raise click.UsageError("give exactly one of --keep-blocks, --keep-bytes and --before")
    with locked(datadir) as target, shown() as progress:
        done = prune_store(target, Limit(keep_blocks, keep_bytes, before_s), progress)
    click.echo(f"{done.freed} bytes set free; blocks below {done.below} are absent")
