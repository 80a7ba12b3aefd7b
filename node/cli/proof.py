"""``wattd proof``: make and check proofs of final transactions, and follow the validators that sign them."""

import json
from pathlib import Path

import click

from consensus.bft.evidence import encode_evidence
from consensus.chainfile import parse_chain_file
from consensus.errors import LocalFault, RuleError
from consensus.genesis import genesis_block
from consensus.light import RoundStep, Trust, check_proof, decode_proof, decode_steps, encode_steps, follow
from consensus.light_conflict import Branch, Conflict, evidence_in, find_conflict
from consensus.transaction import hash_hex
from contracts.api import EnergyContracts
from node.cli.options import datadir_option
from node.clock import Clock
from node.config import load_config, read_text
from node.proofs import founding_trust, parse_trust, render_trust
from node.rpc.client import RpcClient, read_cookie
from node.rpc.proof import verified_shape

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
READABLE = click.Path(path_type=Path, dir_okay=False, exists=True)
DAY_S = 86_400

CHAIN = click.option("--chain", type=READABLE, help="Trust the founders in this chain file.")
TRUST = click.option("--trust", type=READABLE, help="Trust what this file says (see `wattd proof trust`).")
SKIP = click.option("--skip", is_flag=True, help="Skip rounds for which members of the trusted set vouch.")
TRUSTING_DAYS = click.option(
    "--trusting-days", type=click.IntRange(1), default=30, show_default=True, help="Refuse an older --trust."
)


@click.group()
def proof() -> None:
    """Prove that a transaction is final to somebody who runs no node."""


@proof.command()
@datadir_option()
@click.argument("txid")
@click.option(
    "--anchor-height", type=click.IntRange(0), help="Prove through the history of this later block."
)
@click.option(
    "--trust", type=READABLE, help="Whoever checks it trusts what this file says, not the founders."
)
@SKIP
@click.option("--out", type=FILE, required=True, help="Where the proof goes.")
def make(
    datadir: Path, txid: str, anchor_height: int | None, trust: Path | None, skip: bool, out: Path
) -> None:
    """Ask the node of --datadir for the proof of TXID."""
    known = 0 if trust is None else parse_trust(read_text(trust)).signers.round
    result = _client(datadir).call("bft.getproof", txid, anchor_height, known, skip)
    _write(out, bytes.fromhex(result["proof"]))
    click.echo(f"block      {result['height']} {result['blockhash']}")
    click.echo(f"proof      {out}, {result['size']} bytes, {result['steps']} steps between rounds")


@proof.command()
@click.argument("file", type=READABLE)
@CHAIN
@TRUST
@click.option("--save-trust", type=FILE, help="Write what may be trusted after this proof.")
@SKIP
@TRUSTING_DAYS
def check(
    file: Path,
    chain: Path | None,
    trust: Path | None,
    save_trust: Path | None,
    skip: bool,
    trusting_days: int,
) -> None:
    """Check FILE and print the transaction that it proves; exit with 65 if it proves nothing."""
    believed, now_s = _believed(chain, trust)
    found = check_proof(
        believed,
        decode_proof(file.read_bytes()),
        now_s=now_s,
        trusting_period_s=trusting_days * DAY_S,
        skipping=skip,
    )
    click.echo(json.dumps(verified_shape(found), indent=2))
    if save_trust is not None:
        _write(save_trust, render_trust(found.trust).encode())


@proof.command()
@datadir_option()
@click.option("--known-round", type=click.IntRange(0), help="The round whose validators are known.")
@click.option("--trust", type=READABLE, help="Take that round from this file.")
@SKIP
@click.option("--out", type=FILE, required=True, help="Where the steps go.")
def rounds(datadir: Path, known_round: int | None, trust: Path | None, skip: bool, out: Path) -> None:
    """Ask the node of --datadir how the validators changed since a round: one page of steps."""
    if (known_round is None) == (trust is None):
        raise click.UsageError("give either --known-round or --trust")
    known = known_round if trust is None else parse_trust(read_text(trust)).signers.round
    page = _client(datadir).call("bft.getrounds", known, skip)
    _write(out, bytes.fromhex(page["steps"]))
    more = "" if page["round"] == page["current"] else f", the chain is in {page['current']}: ask again"
    click.echo(f"steps      {page['count']}, {page['size']} bytes, to round {page['round']}{more}")


@proof.command()
@CHAIN
@TRUST
@click.option("--follow", "datadir", type=FOLDER, help="Ask the node of this directory for all later rounds.")
@click.option("--rounds", "page", type=READABLE, help="Follow the steps in this file (`wattd proof rounds`).")
@click.option("--witness", type=READABLE, help="Steps from another source, to compare with --rounds.")
@SKIP
@TRUSTING_DAYS
@click.option("--out", type=FILE, required=True, help="Where the trust goes.")
def trust(
    chain: Path | None,
    trust: Path | None,
    datadir: Path | None,
    page: Path | None,
    witness: Path | None,
    skip: bool,
    trusting_days: int,
    out: Path,
) -> None:
    """Write what a client may trust: the founders of a chain file, and the rounds that they lead to.

    Two sources that contradict each other stop it: both certificates go to OUT.conflict.
    """
    if (datadir is not None and page is not None) or (witness is not None and page is None):
        raise click.UsageError("--follow and --rounds exclude each other; --witness needs --rounds")
    believed, now_s = _believed(chain, trust)

    def after(known: Trust, data: bytes) -> tuple[Trust, tuple[RoundStep, ...]]:
        chain_id, steps = decode_steps(data)
        if chain_id != known.chain_id:
            raise RuleError("light-wrong-chain", "the steps are of another chain")
        age = {"now_s": now_s, "trusting_period_s": trusting_days * DAY_S}
        return follow(known, steps, **age, skipping=skip), steps

    if page is not None:
        reached, steps = after(believed, page.read_bytes())
        if witness is not None:
            _, others = after(believed, witness.read_bytes())
            _compare(believed, steps, others, out)
        believed = reached
    while datadir is not None:
        found = _client(datadir).call("bft.getrounds", believed.signers.round, skip)
        if not found["count"]:
            break
        believed, _ = after(believed, bytes.fromhex(found["steps"]))
    _write(out, render_trust(believed).encode())
    click.echo(f"trust      {out}")
    click.echo(f"round      {believed.signers.round}, {len(believed.signers.keys)} validators")


def _compare(trust: Trust, one: tuple[RoundStep, ...], other: tuple[RoundStep, ...], out: Path) -> None:
    """Raise RuleError "light-conflict" where two sources contradict each other, and keep what proves it."""
    conflict = find_conflict(trust, one, other)
    if conflict is None:
        return
    kept = out.with_name(out.name + ".conflict")
    _write(kept, json.dumps(_conflict_shape(trust, conflict), indent=2).encode())
    raise RuleError("light-conflict", f"round {conflict.round} ends in two ways, both certified; see {kept}")


def _conflict_shape(trust: Trust, conflict: Conflict) -> dict[str, object]:
    def shape(branch: Branch) -> dict[str, object]:
        boundary = branch.boundary
        step = RoundStep(boundary, branch.coinbase, branch.following, branch.signers)
        return {
            "height": boundary.height,
            "block_hash": hash_hex(boundary.header.hash),
            "term": boundary.certificate.term,
            "next_vote_keys": [key.hex() for key in branch.following.keys],
            "steps": encode_steps(trust.chain_id, [step]).hex(),
        }

    return {
        "chain_id": hash_hex(trust.chain_id),
        "round": conflict.round,
        "signed_both": [key.hex() for key in conflict.liars],
        "evidence": [encode_evidence(conflict.round, each).hex() for each in evidence_in(conflict)],
        "branches": [shape(conflict.one), shape(conflict.other)],
    }


def _believed(chain: Path | None, trust: Path | None) -> tuple[Trust, int | None]:
    """Return what to start from, and the time where its age counts."""
    if trust is not None and chain is None:
        return parse_trust(read_text(trust)), Clock().now_s()
    if chain is None or trust is not None:
        raise click.UsageError("give either --chain or --trust")
    params = parse_chain_file(read_text(chain))
    return founding_trust(params, genesis_block(params, EnergyContracts(params)).hash), None


def _client(datadir: Path) -> RpcClient:
    config = load_config(datadir)
    return RpcClient(config.rpc.listen, read_cookie(config.cookie_file))


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    except OSError as error:
        raise LocalFault("unwritable-file", f"{path}: {error.strerror}") from None
