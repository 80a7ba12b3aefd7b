"""The command ``wattd demo``."""

from pathlib import Path

import click

from node.demo.limits import DEFAULT_SPEED, MAX_HOUSEHOLDS, MAX_SPEED
from node.demo.profiles import MAX_DAYS, SLOTS_PER_DAY

DEFAULT_SEED = 20_260
DEFAULT_HOUSEHOLDS = 12


@click.command()
@click.option("--seed", type=int, default=DEFAULT_SEED, show_default=True, help="What the run follows from.")
@click.option(
    "--households",
    type=click.IntRange(2, MAX_HOUSEHOLDS),
    default=DEFAULT_HOUSEHOLDS,
    show_default=True,
    help="Members of the community; seven of twelve have PV.",
)
@click.option(
    "--days", type=click.IntRange(1, MAX_DAYS), default=1, show_default=True, help="Days to replay."
)
@click.option(
    "--slots",
    type=click.IntRange(8, SLOTS_PER_DAY),
    help="Replay only so many quarter-hours, around noon.",
)
@click.option(
    "--speed",
    type=click.IntRange(1, MAX_SPEED),
    default=DEFAULT_SPEED,
    show_default=True,
    help="Seconds of chain time per second.",
)
@click.option("--keep", is_flag=True, help="Leave the nodes running and print their RPC addresses.")
@click.option(
    "--datadir",
    type=click.Path(path_type=Path),
    help="A new or empty directory for the nodes; it stays. Default: a temporary one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
def demo(
    seed: int,
    households: int,
    days: int,
    slots: int | None,
    speed: int,
    keep: bool,
    datadir: Path | None,
    as_json: bool,
) -> int:
    """Run a real energy market on four nodes, kill two of them, and check the result.

    Four node processes on this machine share a ledger. Households with standard loads and PV under
    measured weather trade a day's energy in 96 auctions; signed meter readings settle it. At the end
    each node is asked over RPC, and everything is computed again.
    """
    from node.demo.run import Options, run_demo

    return run_demo(Options(seed, days, slots, households, speed, keep, datadir, as_json))
