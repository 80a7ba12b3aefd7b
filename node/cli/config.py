"""``wattd config``."""

from pathlib import Path

import click

from consensus.chainfile import parse_chain_file
from consensus.errors import ConfigError, LocalFault
from consensus.params import ChainParams
from node.cli.ceremony import chain_id_of
from node.cli.options import datadir_option
from node.config import load_config, mining_script, read_text
from node.keyfile import read_keys


@click.group()
def config() -> None:
    """Look at the node's configuration."""


@config.command()
@datadir_option()
def check(datadir: Path) -> None:
    """Check configuration, chain file and keys, and name every problem."""
    node_config = load_config(datadir)
    problems: list[str] = []
    params: ChainParams | None = None
    try:
        params = parse_chain_file(read_text(node_config.chain_file))
    except ConfigError as error:
        problems += [f"{node_config.chain_file}: {problem}" for problem in error.problems]
    else:
        try:
            mining_script(node_config.mining, params, b"")
        except ConfigError as error:
            problems += error.problems
    try:
        keys = read_keys(node_config.keys_file)
    except ConfigError as error:
        problems += error.problems
    except LocalFault as error:
        problems.append(str(error))
    if problems or params is None:
        raise ConfigError("bad-config", tuple(problems))
    names = [each.name for each in params.bft.validators if each.vote_key == keys.vote_key]
    click.echo(f"chain      {params.name} ({chain_id_of(params)})")
    click.echo(f"role       {'validator ' + names[0] if names else 'follower (not in the validator set)'}")
    click.echo(f"identity   {keys.identity_key.hex()}")
    click.echo(f"peers      {len(node_config.peers)}, listening on {node_config.listen}")
    click.echo(f"rpc        {node_config.rpc.listen}")
