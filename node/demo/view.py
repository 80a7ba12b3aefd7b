"""What a run looks like while it runs: a live picture on a terminal, lines on standard error elsewhere."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from consensus.params import COIN
from node.demo.limits import EVENTS_SHOWN, PROGRESS_EVERY_SLOTS
from node.demo.play import Play
from node.demo.report import sources
from node.demo.scenario import Scenario

_BARS = " ▁▂▃▄▅▆▇█"
_LABEL_COLUMNS = 14


class View(AbstractContextManager["View"], Protocol):
    """Shows a run."""

    def say(self, text: str) -> None:
        """Tell something that is not part of the replay."""
        ...

    def show(self, play: Play) -> None:
        """Take note of where the run is."""
        ...


class LineView:
    """A line every two hours of the day, and one per event."""

    def __init__(self) -> None:
        self._next = 0
        self._events = 0

    def __enter__(self) -> "LineView":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def say(self, text: str) -> None:
        """Print a line."""
        click.echo(text, err=True)

    def show(self, play: Play) -> None:
        """Print what is new, if enough is."""
        for event in play.events[self._events :]:
            self.say(f"{event.time} {event.text}")
        self._events = len(play.events)
        if play.slot >= self._next:
            self._next = play.slot - play.slot % PROGRESS_EVERY_SLOTS + PROGRESS_EVERY_SLOTS
            if play.slot < play.scenario.slots:
                self.say(progress_line(play))


class LiveView:
    """A picture that redraws itself in place."""

    def __init__(self, console: Console, scenario: Scenario, seed: int) -> None:
        self._console = console
        self._title = f"{sources(scenario)}; seed {seed}"
        self._said: list[str] = []
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> "LiveView":
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Show a line until the replay begins."""
        self._said.append(text)
        self._live.update(Group(Text(self._title, style="bold"), *map(Text, self._said)), refresh=True)

    def show(self, play: Play) -> None:
        """Draw the run."""
        self._live.update(picture(play, self._title, self._console.width), refresh=True)


def progress_line(play: Play) -> str:
    """Return where the run is, in one line."""
    watch, at = play.stage.watch, max(0, play.slot)
    leader = "none" if watch.leader is None else watch.nodes[watch.leader].name
    return (
        f"{play.scenario.time_of_day(at)} slot {at}/{play.scenario.slots}  {price_text(play, at)}  "
        f"{volume_text(play, at)}  height {watch.height}  term {watch.term}  leader {leader}  "
        f"{len(watch.up)}/{len(watch.nodes)} nodes  {watch.rate:.0f} tx/s"
    )


def price_text(play: Play, at: int) -> str:
    """Return the clearing price of a slot."""
    price = play.markets.prices.get(at)
    return "no trade" if price is None else f"{price / COIN:.3f}/kWh"


def volume_text(play: Play, at: int) -> str:
    """Return the energy traded in a slot."""
    return f"{play.markets.volumes.get(at, 0) / 1000:.2f} kWh"


def sparkline(values: Sequence[int | None], width: int) -> str:
    """Return the last ``width`` values as bars from 0 to the greatest; None is a gap."""
    shown = list(values)[-width:] if width > 0 else []
    top = max((value for value in shown if value is not None), default=0)
    steps = len(_BARS) - 1
    return "".join(" " if value is None or not top else _BARS[-(-value * steps // top)] for value in shown)


def picture(play: Play, title: str, width: int) -> RenderableType:
    """Return everything that the live view shows."""
    return Group(
        Text(title, style="bold"),
        _clock(play),
        _market(play, width),
        _chain(play),
        _nodes(play),
        *[Text(f"{event.time}  {event.text}") for event in play.events[-EVENTS_SHOWN:]],
    )


def _clock(play: Play) -> RenderableType:
    at = max(0, min(play.slot, play.scenario.slots - 1))
    line = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=play.scenario.slots, completed=max(0, play.slot), width=40)
    where = f"slot {at + 1} of {play.scenario.slots}" if play.slot >= 0 else "before the first slot"
    line.add_row(Text(play.scenario.time_of_day(at), style="bold cyan"), bar, where, play.phase)
    return line


def _market(play: Play, width: int) -> RenderableType:
    at = max(0, min(play.slot, play.scenario.slots - 1))
    prices, volumes = play.markets.prices, play.markets.volumes
    room = width - 2 * _LABEL_COLUMNS
    total = sum(volumes.values()) / 1000
    lines = Table.grid(padding=(0, 2))
    lines.add_row("price", Text(price_text(play, at), style="green"), sparkline([*prices.values()], room))
    lines.add_row("traded", Text(volume_text(play, at), style="green"), sparkline([*volumes.values()], room))
    lines.add_row("", "", f"{total:.1f} kWh traded so far")
    return lines


def _chain(play: Play) -> RenderableType:
    watch, courier = play.stage.watch, play.stage.courier
    leader = "none" if watch.leader is None else watch.nodes[watch.leader].name
    line = Text()
    for label, value in (
        ("height", str(watch.height)),
        ("term", str(watch.term)),
        ("leader", leader),
        ("tx/s", f"{watch.rate:.0f}"),
        ("transactions", str(watch.transactions)),
        ("waiting", str(courier.waiting)),
    ):
        line.append(f"{label} ").append(f"{value}   ", style="bold")
    return line


def _nodes(play: Play) -> RenderableType:
    watch, net = play.stage.watch, play.stage.net
    table = Table(box=None, padding=(0, 3, 0, 0))
    for name in ("node", "is a", "state", "height", "term", "peers", "mempool"):
        table.add_column(name, justify="left" if name in ("node", "is a", "state") else "right")
    for index, status in enumerate(watch.nodes):
        running = net.nodes[index].is_running
        if not status.is_up:
            state = Text("starting" if running else "killed", style="yellow" if running else "bold red")
        elif not watch.has_caught_up(index):
            state = Text("catching up", style="yellow")
        else:
            state = Text("leader" if index == watch.leader else "follower", style="green")
        figures = (status.height, status.term, status.peers, status.mempool)
        role = net.nodes[index].founder.role.replace("-", " ")
        table.add_row(status.name, role, state, *(str(value) if status.is_up else "" for value in figures))
    return table
