"""The command ``wattd bench``."""

import json

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from node.bench.machine import facts
from node.bench.registry import Result, benchmarks, run

WIDTH = 120
"""Columns of a table that goes into a file."""


def _figure(value: float | None) -> str:
    """Four significant digits, without an exponent where a reader would not expect one."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _print_tables(machine: dict[str, str | int | float | None], results: list[Result]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    about = Table.grid(padding=(0, 2))
    for name, fact in machine.items():
        about.add_row(name, escape(str(fact)))
    console.print(about)
    table = Table("name", "value", "unit", "reference", "its value", "ratio")
    table.columns[0].no_wrap = True
    for column in (1, 4, 5):
        table.columns[column].justify = "right"
    for result in results:
        table.add_row(
            escape(result.name),
            _figure(result.value),
            result.unit,
            result.reference or "",
            _figure(result.reference_value),
            "" if result.ratio is None else f"{_figure(result.ratio)} x",
        )
    console.print(table)
    console.print("ratio: how many times better than the reference", style="dim")


def print_results(machine: dict[str, str | int | float | None], results: list[Result], as_json: bool) -> None:
    """Print figures with the facts of the machine, as they were before the measurement."""
    if as_json:
        click.echo(
            json.dumps({"machine": machine, "results": [result.as_json() for result in results]}, indent=2)
        )
    else:
        _print_tables(machine, results)


def _print_names() -> None:
    for benchmark in benchmarks():
        click.echo(f"{', '.join(benchmark.names)}: {benchmark.summary}")


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--list", "list_names", is_flag=True, help="Print the names, and measure nothing.")
def bench(names: tuple[str, ...], as_json: bool, list_names: bool) -> None:
    """Measure what this machine reaches, beside references from the same run.

    Without a NAME, everything is measured.
    """
    if list_names:
        _print_names()
        return
    machine = facts()
    try:
        results = run(names, lambda line: click.echo(f"measuring: {line}", err=True))
    except LookupError as error:
        known = ", ".join(name for benchmark in benchmarks() for name in benchmark.names)
        raise click.UsageError(f"there is no benchmark {error.args[0]!r}; there are {known}") from error
    print_results(machine, results, as_json)
