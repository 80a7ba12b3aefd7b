"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from node.config import Endpoint, parse_endpoint

DEFAULT_DATADIR = "~/.wattd"


class EndpointType(click.ParamType[Endpoint]):
    """``host:port`` on the command line."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Endpoint:
        """Return an Endpoint, or fail with the reason."""
        if isinstance(value, Endpoint):
            return value
        try:
            return parse_endpoint(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


ENDPOINT = EndpointType()


def _expand(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    return None if value is None else value.expanduser().absolute()


def datadir_option(*, required: bool = False) -> Callable[[Any], Any]:
    """Return the ``--datadir`` option; WATTD_DATADIR stands for it, then ~/.wattd unless required."""
    return click.option(
        "--datadir",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="WATTD_DATADIR",
        default=None if required else DEFAULT_DATADIR,
        required=required,
        show_default=not required,
        callback=_expand,
        help="The node's data directory.",
    )
