"""``wattd run``."""

import gc
from dataclasses import replace
from pathlib import Path

import click

from node.cli.options import ENDPOINT, datadir_option
from node.config import LOG_FORMATS, LOG_LEVELS, Endpoint, load_config
from node.limits import GC_GENERATIONS, GC_YOUNG_OBJECTS


@click.command()
@datadir_option()
@click.option("--listen", type=ENDPOINT, help="Where peers connect; overrides [p2p] listen.")
@click.option("--rpc-listen", type=ENDPOINT, help="Where clients connect; overrides [rpc] listen.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="Overrides [log] level.")
@click.option("--log-format", type=click.Choice(LOG_FORMATS), help="Overrides [log] format.")
def run(
    datadir: Path,
    listen: Endpoint | None,
    rpc_listen: Endpoint | None,
    log_level: str | None,
    log_format: str | None,
) -> int:
    """Run the node until it is told to stop (SIGINT, SIGTERM or the RPC method stop)."""
    gc.set_threshold(GC_YOUNG_OBJECTS, GC_GENERATIONS, GC_GENERATIONS)  # what a start loads stays
    config = load_config(datadir)
    config = replace(
        config,
        listen=listen or config.listen,
        rpc=replace(config.rpc, listen=rpc_listen or config.rpc.listen),
        log=replace(config.log, level=log_level or config.log.level, format=log_format or config.log.format),
    )
    from node.app import run_node

    return run_node(config)
