"""``wattd store``: tools on the data directory of a node that does not run."""

from datetime import UTC, datetime
from pathlib import Path

import click

from consensus.errors import StorageError
from node.cli.options import datadir_option
from node.store.check import LEVELS, check_store
from node.store.compact import compact as compact_store
from node.store.progress import shown
from node.store.prune import Limit
from node.store.prune import prune as prune_store
from node.store.reindex import reindex as reindex_store
from node.store.repair import repair as repair_store
from node.store.snapshot import export_snapshot as write_snapshot
from node.store.snapshot import import_snapshot as read_snapshot
from node.store.target import locked

HINTS = (
    "mend it with: wattd store repair --datadir {0}",
    "compute the database again with: wattd store reindex --datadir {0}",
    "move blocks/ and index/ out of {0} and start the node: it fetches the chain from its peers",
)
"""What helps if checksums fail, if content is wrong, if blocks are stored that no quorum committed."""

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


@store.command("export-snapshot")
@datadir_option()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export_snapshot(datadir: Path, file: Path) -> None:
    """Write the state at the tip to FILE and print its hash."""
    if file.exists():
        raise click.UsageError(f"{file} exists")
    with locked(datadir) as target, shown() as progress:
        height, root = write_snapshot(target, file.absolute(), progress)
    click.echo(f"height {height}")
    click.echo(f"hash   {root.hex()}")


@store.command("import-snapshot")
@datadir_option()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--hash", "trusted", required=True, help="The hash that a node you trust printed at its export."
)
def import_snapshot(datadir: Path, file: Path, trusted: str) -> None:
    """Start a chain from a snapshot instead of from genesis.

    The hash has to come from somebody you trust: blocks do not commit to a state root yet, so the
    certificate inside proves the block and the log of writes, but not the values.
    """
    try:
        root = bytes.fromhex(trusted)
    except ValueError:
        root = b""
    if len(root) != 32:
        raise click.UsageError("--hash takes 64 hexadecimal digits")
    with locked(datadir) as target, shown() as progress:
        height = read_snapshot(target, file, root, progress)
    click.echo(f"height {height}; earlier blocks are absent (pruned)")


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
