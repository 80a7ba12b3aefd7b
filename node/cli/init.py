"""``wattd init``: keys and a signed entry, the founders' ceremony, and a data directory for a chain."""

from collections.abc import Sequence
from pathlib import Path

import click

from consensus.chainfile import parse_chain_file, render_chain_file
from consensus.errors import ConfigError, LocalFault
from consensus.params import ChainParams
from consensus.validators import ROLES
from node.cli.ceremony import (
    ENTRY_NAME,
    address_of,
    chain_id_of,
    hold_ceremony,
    make_entry,
    parse_entry,
    render_entry,
)
from node.cli.options import ENDPOINT, datadir_option
from node.config import (
    CHAIN_NAME,
    CONFIG_NAME,
    KEYS_NAME,
    Endpoint,
    NodeConfig,
    PeerConfig,
    RpcConfig,
    load_config,
    parse_endpoint,
    read_text,
    render_config,
)
from node.dice import random_bytes
from node.keyfile import NodeKeys, generate_keys, read_keys, write_keys

FILE = click.Path(path_type=Path, dir_okay=False)


class ForeignDatadir(LocalFault):
    """The data directory belongs to another chain."""

    exit_status = 78


@click.command()
@datadir_option(required=False)
@click.option("--name", help="Found: the organisation's name in its validator entry.")
@click.option("--role", type=click.Choice(ROLES), help="Found: the organisation's role.")
@click.option("--chain-name", help="Found: the chain that the entry is signed for.")
@click.option("--ceremony", type=FILE, metavar="TEMPLATE", help="Collect entries into a chain file.")
@click.option("--entry", "entries", type=FILE, multiple=True, help="Ceremony: a signed entry; repeat it.")
@click.option("--out", type=FILE, help="Ceremony: where the chain file goes.")
@click.option("--chain", type=FILE, help="Install this chain file into the data directory.")
@click.option("--listen", type=ENDPOINT, help="With --chain: where peers connect.")
@click.option("--rpc-listen", type=ENDPOINT, help="With --chain: where clients connect.")
@click.option("--peer", "peers", multiple=True, metavar="HOST:PORT@IDENTITY", help="With --chain; repeat it.")
def init(
    datadir: Path,
    name: str | None,
    role: str | None,
    chain_name: str | None,
    ceremony: Path | None,
    entries: tuple[Path, ...],
    out: Path | None,
    chain: Path | None,
    listen: Endpoint | None,
    rpc_listen: Endpoint | None,
    peers: tuple[str, ...],
) -> None:
    """Make keys, found a chain, or prepare a data directory for one.

    \b
    wattd init --datadir D --name N --role R --chain-name C   keys and a signed entry
    wattd init --ceremony T --entry E... --out chain.toml     collect entries, print the chain id
    wattd init --datadir D --chain chain.toml                 install a chain file
    """
    if ceremony is not None:
        if not entries or out is None:
            raise click.UsageError("--ceremony needs at least one --entry and --out")
        _collect(ceremony, entries, out)
    elif chain is not None:
        rpc = RpcConfig(listen=rpc_listen) if rpc_listen else RpcConfig()
        config = NodeConfig(datadir, datadir / CHAIN_NAME, rpc=rpc, peers=_parse_peers(peers))
        if listen is not None:
            config = NodeConfig(datadir, config.chain_file, listen, rpc, config.peers)
        _install(datadir, chain, config)
    else:
        if not (name and role and chain_name):
            raise click.UsageError("give --name, --role and --chain-name, or --ceremony, or --chain")
        _found(datadir, name, role, chain_name)


def _parse_peers(peers: Sequence[str]) -> tuple[PeerConfig, ...]:
    parsed = []
    for text in peers:
        address, _, identity = text.rpartition("@")
        try:
            key = bytes.fromhex(identity)
            if len(key) != 32:
                raise ValueError("the identity has 64 hexadecimal digits")
            parsed.append(PeerConfig(parse_endpoint(address), key))
        except ValueError as error:
            raise click.UsageError(f"--peer {text}: HOST:PORT@IDENTITY wanted: {error}") from None
    return tuple(parsed)


def _found(datadir: Path, name: str, role: str, chain_name: str) -> None:
    _make_directory(datadir)
    keys = _keys_of(datadir)
    path = datadir / ENTRY_NAME
    _write(path, render_entry(make_entry(keys, chain_name, name, role)))
    click.echo(f"identity   {keys.identity_key.hex()}")
    click.echo(f"entry      {path}")


def _collect(template: Path, entries: Sequence[Path], out: Path) -> None:
    params = hold_ceremony(read_text(template), [parse_entry(read_text(path), str(path)) for path in entries])
    if out.exists():
        raise LocalFault("file-exists", f"{out} exists and is not overwritten", fix="choose another --out")
    _write(out, render_chain_file(params))
    click.echo(f"chain      {params.name}, {len(params.bft.validators)} validators")
    click.echo(f"chain id   {chain_id_of(params)}")
    click.echo(f"chain file {out}")


def _install(datadir: Path, chain: Path, config: NodeConfig) -> None:
    params = parse_chain_file(read_text(chain))
    _make_directory(datadir)
    _refuse_other_chain(datadir, params)
    keys = _keys_of(datadir)
    _write(datadir / CHAIN_NAME, render_chain_file(params))
    if (datadir / CONFIG_NAME).exists():
        load_config(datadir)
        click.echo(f"kept       {datadir / CONFIG_NAME}")
    else:
        _write(datadir / CONFIG_NAME, render_config(config))
    click.echo(f"chain id   {chain_id_of(params)}")
    click.echo(f"identity   {keys.identity_key.hex()}")
    click.echo(f"address    {address_of(keys, params)}")
    if params.pow is not None:
        click.echo(f"role       follower; to mine, set [mining] enabled = true in {datadir / CONFIG_NAME}")
    elif not any(each.vote_key == keys.vote_key for each in params.bft.validators):
        click.echo("role       follower: this node's vote key is not in the chain file")


def _refuse_other_chain(datadir: Path, params: ChainParams) -> None:
    installed = read_text(datadir / CHAIN_NAME, default="")
    if not installed:
        return
    there, here = chain_id_of(parse_chain_file(installed)), chain_id_of(params)
    if there != here:
        raise ForeignDatadir(
            "foreign-datadir", f"{datadir} holds chain {there}, not {here}", fix="use another directory"
        )


def _keys_of(datadir: Path) -> NodeKeys:
    """Return the node's keys, made now if there are none."""
    path = datadir / KEYS_NAME
    if path.exists():
        return read_keys(path)
    keys = generate_keys(random_bytes)
    write_keys(path, keys)
    return keys


def _make_directory(datadir: Path) -> None:
    try:
        datadir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("no-datadir", (f"{datadir}: {error.strerror}",)) from None


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise LocalFault("unwritable-file", f"{path}: {error.strerror}") from None
