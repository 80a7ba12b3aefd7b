"""The long run, ``make bench-million``: a million asset transactions through four nodes, none lost."""

import asyncio
from datetime import UTC, datetime

import click

from node.bench.assets import TX_BYTES, results, run_assets
from node.bench.command import print_results
from node.bench.machine import facts

MILLION = 1_000_000


@click.command()
@click.option("--count", default=MILLION, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def million(count: int, as_json: bool) -> None:
    """Send transactions of 765 bytes through four nodes and check that every node holds all of them.

    A million take some 5 GB of disk under the directory for temporary files.
    """

    def progress(line: str) -> None:
        click.echo(f"{datetime.now(UTC):%H:%M:%S} {line}", err=True)

    machine = facts()
    progress(f"{count} transactions of {TX_BYTES} bytes")
    outcome = asyncio.run(run_assets(count, progress))
    progress(f"{outcome.count} final on every node in {outcome.elapsed_s:.1f} s, none lost")
    print_results(machine, results(outcome), as_json)


if __name__ == "__main__":
    million()
