"""``wattd``: one executable for the node, its operators and its clients.

Exit statuses follow BSD sysexits where a fault is ours (``consensus.errors.LocalFault``); 1 is an
error that the node answered to ``wattd rpc``, 2 a wrong command line, 65 wrong input data.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from consensus.errors import ConfigError, LocalFault, PeerFault
from node.rpc.errors import RpcError

EXIT_RPC_ERROR = 1
EXIT_BAD_DATA = 65
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

COMMANDS = {
    "bench": "node.bench.command:bench",
    "config": "node.cli.config:config",
    "demo": "node.demo.command:demo",
    "init": "node.cli.init:init",
    "proof": "node.cli.proof:proof",
    "restart": "node.cli.restart:restart",
    "rpc": "node.cli.rpc:rpc",
    "run": "node.cli.run:run",
    "store": "node.cli.store:store",
}
"""Commands by module and attribute; a module is imported when its command is used."""

EXTRA_OF = {
    "aiomqtt": "gateway",
    "demandlib": "sim",
    "pandas": "sim",
    "pkcs11": "gateway",
    "pvlib": "sim",
    "pymodbus": "gateway",
}
"""Which optional extra of the distribution brings a module."""


class MissingExtra(LocalFault):
    """A command needs an optional extra that is not installed."""

    exit_status = 69


class _LazyGroup(click.Group):
    """Imports a command's module only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing those whose extra is missing."""
        rows = []
        for name in self.list_commands(ctx):
            try:
                command = self.get_command(ctx, name)
                text = "" if command is None else command.get_short_help_str(limit=70)
            except ModuleNotFoundError as error:
                text = f"(needs {error.name})"
            rows.append((name, text))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from cext import IMPLEMENTATION, sha_kernel
    from node.version import VERSION

    click.echo(f"wattd {VERSION} (cext: {IMPLEMENTATION}, sha256: {sha_kernel()})")
    ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and which native code runs, and exit.",
)
def cli() -> None:
    """A full blockchain node for energy communities."""


def run_command(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit status; what went wrong is told on standard error."""
    try:
        result = cli.main(args=list(arguments), prog_name="wattd", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Nobody reads our output any more; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    if isinstance(error, ModuleNotFoundError):
        extra = EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is not None:
            error = MissingExtra(
                "missing-extra",
                f"this command needs the module {error.name}",
                fix=f"pip install 'wattd[{extra}]'",
            )
    if isinstance(error, ConfigError):
        _complain(f"{error.code}: {error.problems[0]}")
        for problem in error.problems[1:]:
            _complain(f"{error.code}: {problem}")
        return error.exit_status
    if isinstance(error, LocalFault):
        _complain(str(error))
        return error.exit_status
    if isinstance(error, RpcError):
        _complain(f"{error.reason} (code {error.number})")
        return EXIT_RPC_ERROR
    if isinstance(error, PeerFault):
        _complain(str(error))
        return EXIT_BAD_DATA
    traceback.print_exception(error)
    _complain(f"a bug: {type(error).__name__}: {error}")
    return EXIT_BUG


def _complain(text: str) -> None:
    click.echo(f"wattd: error: {text}", err=True)


def main() -> None:
    """Run ``wattd``."""
    sys.exit(run_command(sys.argv[1:]))
