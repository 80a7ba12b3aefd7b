"""``wattd rpc``: call a method of a running node, as bitcoin-cli does."""

import importlib
from pathlib import Path
from typing import Any

import click

from node.cli.options import ENDPOINT, datadir_option
from node.config import Endpoint, load_config
from node.limits import CLIENT_TIMEOUT_S
from node.rpc.client import RpcClient, read_cookie
from node.rpc.encoding import decode, encode_pretty
from node.rpc.registry import METHODS


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@datadir_option()
@click.option("--connect", type=ENDPOINT, help="Where the node listens; default from its configuration.")
@click.option("--user", metavar="USER:PASSWORD", help="Credentials; default is the node's cookie file.")
@click.option("--named", is_flag=True, help="Arguments are name=value.")
@click.option(
    "--timeout", type=click.FloatRange(0.1), default=CLIENT_TIMEOUT_S, show_default=True, metavar="SECONDS"
)
@click.argument("method")
@click.argument("arguments", nargs=-1, metavar="[ARGUMENT]...")
def rpc(
    datadir: Path,
    connect: Endpoint | None,
    user: str | None,
    named: bool,
    timeout: float,
    method: str,
    arguments: tuple[str, ...],
) -> None:
    """Call METHOD of a running node and print its result.

    Arguments of type string are taken as they are, others are JSON. Where both will do, JSON is what
    begins with a bracket or a quote. `wattd rpc help` lists the
    methods.
    """
    params = parse_arguments(method, arguments, named=named)
    if connect is None or user is None:
        config = load_config(datadir)
        connect = connect or config.rpc.listen
        user = user or read_cookie(config.cookie_file)
    with RpcClient(connect, user, timeout) as client:
        result = client.call(method, **params) if isinstance(params, dict) else client.call(method, *params)
    if isinstance(result, str):
        click.echo(result)
    elif result is not None:
        click.echo(encode_pretty(result))


def parse_arguments(method: str, arguments: tuple[str, ...], *, named: bool) -> list[Any] | dict[str, Any]:
    """Return the arguments of a command line as JSON values, by the method's argument types."""
    importlib.import_module("node.rpc.methods")  # registers every method

    types = (
        {each.name: each.type.json_type for each in METHODS[method].arguments} if method in METHODS else {}
    )
    if not named:
        names = [*types, *[""] * len(arguments)]
        return [_value(name, types.get(name), text) for name, text in zip(names, arguments, strict=False)]
    values = {}
    for argument in arguments:
        name, separator, text = argument.partition("=")
        if not separator:
            raise click.UsageError(f"with --named, arguments are name=value, not {argument!r}")
        values[name] = _value(name, types.get(name), text)
    return values


def _value(name: str, json_type: str | None, text: str) -> Any:
    if json_type == "string" or (json_type == "object or string" and text[:1] not in ("{", "[", '"')):
        return text
    try:
        return decode(text)
    except ValueError:
        if json_type is None:
            return text
        raise click.UsageError(f"argument {name} must be JSON ({json_type}), not {text!r}") from None
