"""``wattd restart``: going on without a quorum, by decision of the operators (docs/recovery.md)."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import click

from consensus.chainfile import parse_chain_file
from consensus.genesis import genesis_block
from consensus.restart import Restart, check_form, check_signed, encode_restart, join
from consensus.transaction import hash_hex
from contracts.api import EnergyContracts
from node.chainstate import ChainState
from node.cli.options import datadir_option
from node.config import load_config, read_text
from node.keyfile import read_keys
from node.proofs import render_trust
from node.restarts import (
    Survivor,
    decode_report,
    load_restarts,
    read_restart,
    summary,
    survivor,
    write_file,
)
from node.sigcheck import SignatureVerifier
from node.store.target import locked
from storage.store import ChainStore

READABLE = click.Path(path_type=Path, dir_okay=False, exists=True)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def restart() -> None:
    """Restart a chain whose validators are lost for good, without a quorum.

    Read docs/recovery.md first. The node of --datadir must be stopped.
    """


@contextmanager
def _opened(datadir: Path) -> Iterator[Survivor]:
    """Open the chain and the vote log of a stopped node. Raises StorageError "datadir-locked" if it runs."""
    config = load_config(datadir)
    keys = read_keys(config.keys_file)
    params = parse_chain_file(read_text(config.chain_file))
    contracts = EnergyContracts(params)
    genesis = genesis_block(params, contracts)
    trial = partial(contracts.open, metered=False)
    with ExitStack() as opened:
        store = opened.enter_context(
            ChainStore.open(config.datadir, chain_id=genesis.hash, cache_bytes=config.cache_max_bytes)
        )
        verifier = SignatureVerifier(contracts)
        opened.callback(verifier.close)
        applied = load_restarts(config.datadir, genesis.hash)
        chain = ChainState(store, genesis, params, contracts, trial, verifier, restarts=applied)
        opened.callback(chain.state_roots.close)
        yield opened.enter_context(survivor(config.datadir, chain, keys))


@restart.command()
@datadir_option()
@click.option("--out", type=FILE, required=True, help="Where the report goes.")
def report(datadir: Path, out: Path) -> None:
    """Write what this node knows of the end of the chain, for whoever makes the restart."""
    with _opened(datadir) as found:
        done = found.report()
    write_file(out.absolute(), done.encode())
    qc = done.certificate
    click.echo(f"name         {done.name}")
    click.echo(f"round        {done.round}")
    click.echo(f"final up to  {done.height}")
    click.echo(
        f"certificate  {qc.kind.name.lower()}, term {qc.term}, block {qc.height} {hash_hex(qc.block_hash)}"
    )
    click.echo(f"its block    {'is here' if done.has_block else 'is not here'}")
    if done.forgot:
        click.echo(f"its votes    may be forgotten: {done.forgot}")


@restart.command()
@datadir_option()
@click.argument("reports", type=READABLE, nargs=-1)
@click.option("--member", "names", multiple=True, help="An organisation without a report in the new set.")
@click.option("--keep", multiple=True, help="A lost validator that stays an organisation and a candidate.")
@click.option("--reason", required=True, help="Why, in one line.")
@click.option("--give-up", is_flag=True, help="Give up a certified block that no survivor has.")
@click.option("--out", type=FILE, required=True, help="Where the restart goes.")
def make(
    datadir: Path,
    reports: tuple[Path, ...],
    names: tuple[str, ...],
    keep: tuple[str, ...],
    reason: str,
    give_up: bool,
    out: Path,
) -> None:
    """Make a restart from this node's chain and the REPORTS of all other survivors."""
    known = [decode_report(path.read_bytes()) for path in reports]
    with _opened(datadir) as found:
        made = found.make(known, names=names, keep=keep, reason=reason, give_up=give_up)
    write_file(out.absolute(), encode_restart(made))
    _show(made)


@restart.command()
@datadir_option()
@click.argument("file", type=READABLE)
@click.option("--forgot", is_flag=True, help="Sign although this node's vote log is not whole.")
@click.option("--give-up", is_flag=True, help="Sign although this node holds a higher certificate.")
@click.option("--replace", is_flag=True, help="Sign although this node signed another restart of this round.")
def sign(datadir: Path, file: Path, forgot: bool, give_up: bool, replace: bool) -> None:
    """Check FILE against this node's chain and votes, and add its signature.

    From here on this node never votes in the old round again.
    """
    with _opened(datadir) as found:
        signed = found.sign(read_restart(file), forgot=forgot, give_up=give_up, replace=replace)
    write_file(file.absolute(), encode_restart(signed))
    _show(signed)


@restart.command("join")
@click.argument("files", type=READABLE, nargs=-1, required=True)
@click.option("--out", type=FILE, required=True, help="Where the restart goes.")
def join_files(files: tuple[Path, ...], out: Path) -> None:
    """Put the signatures of all FILES, copies of one restart, into one."""
    joined = join([read_restart(path) for path in files])
    write_file(out.absolute(), encode_restart(joined))
    _show(joined)


@restart.command()
@click.argument("file", type=READABLE)
@datadir_option()
def show(file: Path, datadir: Path) -> None:
    """Print FILE and check it against the chain file of --datadir; exit with 65 if it is not complete."""
    found = read_restart(file)
    _show(found)
    with locked(datadir) as target:
        check_form(found, target.chain_id, target.params.name)
    check_signed(found)


@restart.command()
@datadir_option()
@click.argument("file", type=READABLE)
def apply(datadir: Path, file: Path) -> None:
    """Let the node of --datadir go on by FILE, which all its members signed."""
    found = read_restart(file)
    with _opened(datadir) as here:
        height = here.apply(found)
    click.echo(f"round      {found.round}, {len(found.members)} validators from block {found.height + 1} on")
    if height < found.height:
        click.echo(f"to come    blocks {height + 1} to {found.height} from the peers")


@restart.command()
@datadir_option()
@click.argument("file", type=READABLE)
@click.option("--out", type=FILE, required=True, help="Where the trust goes.")
def trust(datadir: Path, file: Path, out: Path) -> None:
    """Write what FILE, applied to --datadir, lets a light client trust: the new set."""
    found = read_restart(file)
    with _opened(datadir) as here:
        trusted = here.trust(found)
    write_file(out.absolute(), render_trust(trusted).encode())
    click.echo(f"trust      {out}, round {found.round} from block {found.height + 1} on")


@restart.command("list")
@datadir_option()
def list_applied(datadir: Path) -> None:
    """Print the restarts that were applied to --datadir."""
    with locked(datadir) as target:
        applied = load_restarts(target.path, target.chain_id)
    for each in applied.values():
        _show(each)


def _show(found: Restart) -> None:
    click.echo(json.dumps(summary(found), indent=2))
