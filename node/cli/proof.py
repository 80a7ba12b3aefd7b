"""``wattd proof``: make and check proofs of final transactions."""

import json
from pathlib import Path

import click

from consensus.chainfile import parse_chain_file
from consensus.errors import LocalFault
from consensus.genesis import genesis_block
from consensus.light import Trust, check_proof, decode_proof
from contracts.api import EnergyContracts
from node.cli.options import datadir_option
from node.clock import Clock
from node.config import load_config, read_text
from node.proofs import founding_trust, parse_trust, render_trust
from node.rpc.client import RpcClient, read_cookie
from node.rpc.proof import verified_shape

FILE = click.Path(path_type=Path, dir_okay=False)
READABLE = click.Path(path_type=Path, dir_okay=False, exists=True)
DAY_S = 86_400


@click.group()
def proof() -> None:
    """Prove that a transaction is final to somebody who runs no node."""


@proof.command()
@datadir_option()
@click.argument("txid")
@click.option(
    "--anchor-height", type=click.IntRange(0), help="Prove through the history of this later block."
)
@click.option("--out", type=FILE, required=True, help="Where the proof goes.")
def make(datadir: Path, txid: str, anchor_height: int | None, out: Path) -> None:
    """Ask the node of --datadir for the proof of TXID."""
    config = load_config(datadir)
    client = RpcClient(config.rpc.listen, read_cookie(config.cookie_file))
    anchor = [] if anchor_height is None else [anchor_height]
    result = client.call("bft.getproof", txid, *anchor)
    _write(out, bytes.fromhex(result["proof"]))
    click.echo(f"block      {result['height']} {result['blockhash']}")
    click.echo(f"proof      {out}, {result['size']} bytes")


@proof.command()
@click.argument("file", type=READABLE)
@click.option("--chain", type=READABLE, help="Trust the founders in this chain file.")
@click.option("--trust", type=READABLE, help="Trust what this file says (see `wattd proof trust`).")
@click.option("--save-trust", type=FILE, help="Write what may be trusted after this proof.")
@click.option(
    "--trusting-days", type=click.IntRange(1), default=30, show_default=True, help="Refuse an older --trust."
)
def check(
    file: Path, chain: Path | None, trust: Path | None, save_trust: Path | None, trusting_days: int
) -> None:
    """Check FILE and print the transaction that it proves; exit with 65 if it proves nothing."""
    if (chain is None) == (trust is None):
        raise click.UsageError("give either --chain or --trust")
    now_s = None if trust is None else Clock().now_s()
    believed = parse_trust(read_text(trust)) if trust is not None else _founders(chain or file)
    found = check_proof(
        believed, decode_proof(file.read_bytes()), now_s=now_s, trusting_period_s=trusting_days * DAY_S
    )
    click.echo(json.dumps(verified_shape(found), indent=2))
    if save_trust is not None:
        _write(save_trust, render_trust(found.trust).encode())


@proof.command()
@click.option("--chain", type=READABLE, required=True, help="The chain file.")
@click.option("--out", type=FILE, required=True, help="Where the trust goes.")
def trust(chain: Path, out: Path) -> None:
    """Write what a chain file lets a client trust: its founders."""
    _write(out, render_trust(_founders(chain)).encode())
    click.echo(f"trust      {out}")


def _founders(chain: Path) -> Trust:
    params = parse_chain_file(read_text(chain))
    return founding_trust(params, genesis_block(params, EnergyContracts(params)).hash)


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    except OSError as error:
        raise LocalFault("unwritable-file", f"{path}: {error.strerror}") from None
