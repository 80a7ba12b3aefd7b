"""A whole run: plan, stage, replay, evidence, checks, report; and a clean end however it ends."""

import asyncio
import json
import shutil
import signal
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from consensus.errors import ConfigError
from node.clock import Clock
from node.demo.checks import make_book, recovery, run_checks
from node.demo.evidence import gather_all
from node.demo.play import Play
from node.demo.report import Outcome, as_json, print_report, sources
from node.demo.scenario import Scenario, plan
from node.demo.stage import MARKET, Stage, set_stage
from node.demo.view import LineView, LiveView, View

EXIT_OK = 0
EXIT_CHECK_FAILED = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPORT_COLUMNS = 110
"""Width of the report where no terminal gives one."""

TEMP_PREFIX = "wattd-demo-"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; see its help."""

    seed: int
    days: int
    slots: int | None
    households: int
    speed: int
    keep: bool
    datadir: Path | None
    as_json: bool


def run_demo(options: Options) -> int:
    """Run the demo and return the exit status: 0, 1 for a failed check, 128 + n for a signal.

    Raises LocalFault if the run could not come to its checks.
    """
    started = Clock.monotonic_s()
    scenario = plan(
        seed=options.seed,
        households=options.households,
        days=options.days,
        slots=options.slots,
        speed=options.speed,
        market=MARKET,
    )
    root = make_root(options.datadir)
    remove = options.datadir is None
    try:
        status = asyncio.run(until_signal(_run(options, scenario, root, started)))
        remove = remove and not (options.keep and status in (EXIT_OK, EXIT_CHECK_FAILED))
        if status == EXIT_CHECK_FAILED and remove:
            remove = False
            click.echo(f"the nodes' data and logs are in {root}", err=True)
    except Exception as error:
        remove = False
        click.echo(f"the nodes' data and logs are in {root}", err=True)
        if options.as_json:
            document = {"ok": False, "error": str(error), "checks": {}, "households": [], "chain": {}}
            click.echo(json.dumps(document, indent=2))
        raise
    finally:
        if remove:
            shutil.rmtree(root, ignore_errors=True)
    return status


def make_root(datadir: Path | None) -> Path:
    """Return the directory for the nodes, new or empty. Raises ConfigError ``datadir-not-empty``."""
    if datadir is None:
        return Path(tempfile.mkdtemp(prefix=TEMP_PREFIX))
    datadir = datadir.expanduser().absolute()
    try:
        datadir.mkdir(parents=True, exist_ok=True)
        if any(datadir.iterdir()):
            raise ConfigError("datadir-not-empty", (f"{datadir}: give a new directory, or an empty one",))
    except OSError as error:
        raise ConfigError("bad-datadir", (f"{datadir}: {error.strerror}",)) from None
    return datadir


async def until_signal(work: Coroutine[Any, Any, int]) -> int:
    """Await ``work``; a signal cancels it, once, and is told by the exit status that it is due."""
    loop, task = asyncio.get_running_loop(), asyncio.create_task(work)
    caught: list[int] = []

    def stop(number: int) -> None:
        if not caught:
            caught.append(number)
            task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not caught:
            raise
        click.echo(f"wattd: stopped by {signal.Signals(caught[0]).name}", err=True)
        return 128 + caught[0]


async def _run(options: Options, scenario: Scenario, root: Path, started: float) -> int:
    console = Console()
    if not console.is_terminal:
        console = Console(width=REPORT_COLUMNS)
    view: View = LineView()
    if console.is_terminal and not options.as_json:
        view = LiveView(console, scenario, options.seed)
    plays: list[Play] = []

    async def replay(stage: Stage) -> None:
        plays.append(Play(stage, view.show))
        await plays[-1].run()

    with view:
        view.say(sources(scenario))
        stage = await set_stage(root, scenario, options.seed, view.say, replay)
    keep = False
    try:
        outcome = await _judge(options, stage, plays[-1], started)
        if options.as_json:
            click.echo(json.dumps(as_json(outcome), indent=2))
        else:
            console.print()
            print_report(console, outcome)
        keep = options.keep
    finally:
        if keep:
            await stage.net.close_clients()
        else:
            await stage.net.stop()
    if keep:
        _tell_kept(stage)
    return EXIT_OK if outcome.ok else EXIT_CHECK_FAILED


async def _judge(options: Options, stage: Stage, play: Play, started: float) -> Outcome:
    evidences = await gather_all(stage)
    operator = stage.operator.wallet.account.script
    book = make_book(stage.scenario, stage.journal, operator, stage.net.address_of)
    return Outcome(
        scenario=stage.scenario,
        seed=options.seed,
        book=book,
        evidences=evidences,
        checks={
            **run_checks(book, evidences),
            "recovery": recovery(stage.scenario.kills, play.outages),
        },
        events=play.events,
        transactions=stage.watch.transactions,
        resent=stage.courier.resent,
        elapsed_s=Clock.monotonic_s() - started,
    )


def _tell_kept(stage: Stage) -> None:
    click.echo("the nodes keep running; stop each with: wattd rpc --datadir DIRECTORY stop", err=True)
    for node in stage.net.nodes:
        click.echo(f"{node.founder.name}: http://{node.config.rpc.listen} {node.config.datadir}", err=True)
