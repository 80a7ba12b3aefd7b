"""``wattd`` under a plan, as a process of its own that is forked from a server which has imported everything.

That saves most of a start, so that a campaign is about dying rather than about importing. The lives between
two planned ones are started as an operator starts a node.
"""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import node.app
import node.cli.main
import node.cli.store
from storage import limits
from tests.crash.node_faults import Plan, install

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


class Life:
    """A process as ``subprocess.Popen`` shows it, as far as a testnet needs it."""

    def __init__(self, plan: Plan, arguments: Sequence[str], log: Path) -> None:
        self._process = _CONTEXT.Process(target=_run, args=(plan, tuple(arguments), log), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._lock = Lock()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with self._lock:  # the status can be read once
            if self.returncode is None:
                self.returncode = self._process.exitcode
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("wattd", timeout or 0.0)
            time.sleep(0.005)
        return status

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _run(plan: Plan, arguments: tuple[str, ...], log: Path) -> None:
    """Be ``wattd`` with these arguments, writing to ``log``. Does not return."""
    os.setsid()
    with log.open("ab") as output, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        sink = output.fileno()
        if plan.file_bytes:  # the log must not be what grows too long
            piped = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=output)
            assert piped.stdin is not None
            sink = piped.stdin.fileno()
        os.dup2(sink, 1)
        os.dup2(sink, 2)
    _set_limits(plan.limits)
    install(plan)
    if plan.file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (plan.file_bytes, plan.file_bytes))
    sys.exit(node.cli.main.run_command(arguments))


def _set_limits(values: dict[str, int]) -> None:
    """Replace constants of ``storage.limits``, also where they were imported by name."""
    for name, value in values.items():
        setattr(limits, name, value)
        for module in list(sys.modules.values()):
            ours = getattr(module, "__name__", "").startswith(("node.", "storage."))
            if ours and name in vars(module):
                setattr(module, name, value)
