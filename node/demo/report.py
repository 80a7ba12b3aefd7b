"""The result of a run for people and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consensus.params import COIN
from node.demo.checks import Book, Check
from node.demo.evidence import Evidence
from node.demo.play import Event
from node.demo.profiles import PLACE, WEATHER_FILE
from node.demo.recompute import Sums
from node.demo.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that a run ends with."""

    scenario: Scenario
    seed: int
    book: Book
    evidences: Sequence[Evidence]
    checks: Mapping[str, Check]
    events: Sequence[Event]
    transactions: int
    resent: int
    elapsed_s: float

    @property
    def ok(self) -> bool:
        """Tell whether every check passed."""
        return all(check.ok for check in self.checks.values())


def tokens(amount: int) -> float:
    """Return base units as tokens, for display."""
    return amount / COIN


def sources(scenario: Scenario) -> str:
    """Return where the data of the day come from."""
    return (
        f"{scenario.day:%A, %d %B %Y} in {PLACE}: weather of {WEATHER_FILE} in pvlib (TMY3), "
        "loads of the BDEW profiles H25, G25 and L25 in demandlib"
    )


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return the document of ``--json``."""
    first = outcome.evidences[0]
    totals = outcome.book.totals(first)
    return {
        "ok": outcome.ok,
        "checks": {name: {"ok": check.ok, "detail": check.detail} for name, check in outcome.checks.items()},
        "households": [_household(outcome, index, totals) for index in range(len(totals))],
        "chain": {
            "height": first.height,
            "block_hash": first.block_hash,
            "effects_digest": first.effects_digest,
            "transactions": first.facts.transactions,
            "terms": sorted(first.facts.terms),
            "nodes": [each.name for each in outcome.evidences],
            "slots": outcome.scenario.slots,
            "speed": outcome.scenario.speed,
            "seed": outcome.seed,
            "day": outcome.scenario.day.isoformat(),
            "place": PLACE,
            "weather": WEATHER_FILE,
            "resent": outcome.resent,
            "elapsed_s": round(outcome.elapsed_s, 1),
            "events": [{"time": event.time, "text": event.text} for event in outcome.events],
        },
    }


def _household(outcome: Outcome, index: int, totals: Mapping[bytes, Sums]) -> dict[str, Any]:
    member = outcome.scenario.households[index]
    sums = totals[member.script]
    return {
        "name": member.name,
        "address": outcome.book.addresses[member.script],
        "device_key": member.device_key.hex(),
        "profile": member.kind,
        "annual_kwh": member.annual_kwh,
        "pv_peak_w": 0 if member.pv is None else member.pv.peak_w,
        **{name: getattr(sums, name) for name in Sums.__slots__},
        "paid": sums.paid,
        "received": sums.received,
        "saved": sums.saved,
    }


def print_report(console: Console, outcome: Outcome) -> None:
    """Print the table of households and the checks."""
    table = Table(
        title="households: energy in kWh, money in tokens", title_justify="left", box=SIMPLE, pad_edge=False
    )
    table.add_column("household", no_wrap=True)
    for name in ("kWp", "bought", "sold", "from\ngrid", "to\ngrid", "paid", "received", "saved"):
        table.add_column(name, justify="right", no_wrap=True)
    everybody = Sums()
    totals = outcome.book.totals(outcome.evidences[0])
    for member in outcome.scenario.households:
        sums = totals[member.script]
        everybody.add(sums)
        peak = "" if member.pv is None else f"{member.pv.peak_w / 1000:.1f}"
        table.add_row(escape(member.name), peak, *_figures(sums))
    table.add_section()
    table.add_row("all", "", *_figures(everybody))
    console.print(table)
    console.print("saved: against the grid's tariff for all that was consumed and generated", style="dim")
    console.print()
    for name, check in outcome.checks.items():
        mark = "[green]ok[/green]    " if check.ok else "[bold red]FAILED[/bold red]"
        console.print(f"{mark} [bold]{name}[/bold]: {escape(check.detail)}", soft_wrap=True)


def _figures(sums: Sums) -> list[str]:
    energy = (sums.bought_wh, sums.sold_wh, sums.from_grid_wh, sums.to_grid_wh)
    money = (sums.paid, sums.received, sums.saved)
    return [f"{wh / 1000:.2f}" for wh in energy] + [f"{tokens(amount):.2f}" for amount in money]
