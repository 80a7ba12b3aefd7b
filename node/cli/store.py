"""``wattd store``: tools on the data directory of a node that does not run."""

from pathlib import Path

import click

from consensus.errors import StorageError
from node.cli.options import datadir_option
from node.store.check import LEVELS, check_store
from node.store.compact import compact as compact_store
from node.store.progress import shown
from node.store.reindex import reindex as reindex_store
from node.store.repair import repair as repair_store
from node.store.target import locked

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
        sound = check_store(target, level, progress, click.echo)
    if not sound:
        click.echo(f"mend it with: wattd store repair --datadir {datadir}", err=True)
    return 0 if sound else EXIT_DAMAGED


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
