"""Faults at exact places inside a node's process: it dies, loses power, or its disk fails.

A *spot* is one kind of write, named by what is called and by whom, such as "write Segments.append BODY in
ChainStore.put_body", "sync VoteLog.sync" or "batch ChainStore.disconnect". Spots are found while a process
runs, so a new kind of write in the product is a new spot by itself. A ``Plan`` says at which visit of
which spot what happens:

- "kill": SIGKILL before the write, in the middle of it, or after it;
- "power": the machine loses power there. Of what was not synced each sector is on the disk or is not,
  and LevelDB's log ends anywhere behind its last synced batch;
- "fail": the call fails with an errno, as when a disk is full or an fsync is not carried out. Pages of
  a failed fsync are not on the disk, and no later fsync of theirs brings them there.

Nothing here is in the product: ``install`` puts itself between the store and the system in this process.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import RLock
from types import FrameType
from typing import Any

from storage.files import Files
from storage.index import Index
from storage.segments import Kind
from tests.unit.storage.chainkit import DiskFiles

AT_START = "at start: "
"""Goes before the name of a spot that was visited before the plan was armed."""

PLUMBING = ("Index.", "Files.", "ChainStore._finish", "BlockLog.", "Segments._fail")
"""Functions that carry a write out for others and do not name its kind."""

OWNERS = (
    "ChainStore.",
    "prune_slices",
    "HeaderIndex.",
    "SideIndexes.",
    "StateRootRecords.",
    "MempoolKeeper.",
)
"""Functions that begin a write."""


@dataclass(frozen=True)
class Plan:
    """What happens to a process.

    ``spot`` ("": any) is visited ``count`` times after ``armed`` exists (None: from the start); ``when`` is
    "before", "torn" or "after". ``limits`` replaces constants of ``storage.limits``, ``file_bytes`` is
    the longest file that may be written (0: any). In ``home``, ``spots`` collects the names of spots,
    ``report`` gets what was done, ``images`` what the disk has of files whose fsync failed.
    """

    home: str
    seed: int
    mode: str = "kill"
    spot: str = ""
    count: int = 1
    when: str = "before"
    errno: int = 0
    armed: str | None = None
    limits: dict[str, int] = field(default_factory=dict)
    file_bytes: int = 0

    @property
    def spots(self) -> Path:
        return Path(self.home) / "spots"

    @property
    def report(self) -> Path:
        return Path(self.home) / "report"

    @property
    def images(self) -> Path:
        return Path(self.home) / "images"


def spot_of(call: str, detail: str = "") -> str:
    """Name the write under way by the functions that are on the stack."""
    doer = owner = ""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not owner:
        name = frame.f_code.co_qualname.partition(".<locals>")[0]
        module = frame.f_globals.get("__name__", "")
        if module.startswith(("storage.", "node.")) and not name.startswith(PLUMBING):
            doer = doer or name
            if name.startswith(OWNERS):
                owner = name
        frame = frame.f_back
    named = " ".join(part for part in (call, doer, detail) if part)
    return named if owner in ("", doer) else f"{named} in {owner}"


class Fate:
    """Counts visits of spots and carries the plan out."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = Random(plan.seed)
        self.cut: Callable[[], None] = lambda: None
        """What a loss of power does to the files."""
        self._left = plan.count
        self._place = ""
        self._known: set[tuple[bool, str]] = set()
        self.lock = RLock()
        """Held while a batch is written and while this process dies."""

    def due(self, spot: str) -> bool:
        """Note a visit; tell whether the plan's moment has come."""
        with self.lock:
            armed = self._is_armed()
            if (armed, spot) not in self._known:
                self._known.add((armed, spot))
                with self.plan.spots.open("a") as file:
                    file.write(f"{'' if armed else AT_START}{spot}\n")
            if self.plan.spot not in ("", spot) or not self._left or not armed:
                return False
            if self.plan.mode == "fail" and (spot.startswith("batch") or "Mempool" in spot):
                return False  # LevelDB's files are its own, and a node does without a saved mempool
            self._left -= 1
            self._place = spot
            return not self._left

    def die(self) -> None:
        """End this process as the plan says. Does not return."""
        with self.lock:
            if self.plan.mode == "power":
                self.cut()
            self.tell()
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    def tell(self) -> None:
        """Say that it happened."""
        self.plan.report.write_text(f"{self.plan.mode} {self.plan.when} {self._place}")

    def _is_armed(self) -> bool:
        return self.plan.armed is None or os.path.exists(self.plan.armed)


class CrashFiles(DiskFiles):
    """The simulated disk, with a fate at each call that changes something."""

    def __init__(self, fate: Fate) -> None:
        super().__init__()
        self._fate = fate
        self._images = fate.plan.images
        self._lock = RLock()
        fate.cut = self._lose_power
        self.cut_index: Callable[[], None] = lambda: None

    def open(self, path: Path, *, create: bool = False, mode: int = 0o644) -> int:
        with self._lock:
            fd = super().open(path, create=create, mode=mode)
            image = self._images / path.name
            if image.exists():
                self._disk[path] = bytearray(image.read_bytes())
                image.unlink()
            return fd

    def write(self, fd: int, data: bytes, offset: int) -> None:
        # In a segment record the ninth byte is its kind; what is written anew at open starts anywhere.
        caller = sys._getframe(1).f_code.co_qualname
        detail = Kind(data[8]).name if caller == "Segments.append" else ""
        with self._lock:
            if self._fate.due(spot_of("write", detail)):
                plan, torn = self._fate.plan, self._fate.rng.randrange(1, len(data)) if len(data) > 1 else 0
                if plan.mode == "fail":
                    self._fate.tell()
                    self.fail("write", plan.errno, torn=torn)
                elif plan.when == "after":
                    super().write(fd, data, offset)
                elif plan.when == "torn":
                    super().write(fd, data[:torn], offset)
                if plan.mode != "fail":
                    self._fate.die()
            super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        with self._lock:
            if self._fate.due(spot_of("sync")):
                plan = self._fate.plan
                if plan.mode == "fail":
                    self._fate.tell()
                    self._remember(fd)
                    self.fail("sync", plan.errno)
                else:
                    if plan.when == "after":
                        super().sync(fd)
                    self._fate.die()
            super().sync(fd)

    def truncate(self, fd: int, size: int) -> None:
        self._around("truncate", lambda: super(CrashFiles, self).truncate(fd, size))

    def rename(self, source: Path, target: Path) -> None:
        self._around("rename", lambda: super(CrashFiles, self).rename(source, target))

    def remove(self, path: Path) -> None:
        self._around("remove", lambda: super(CrashFiles, self).remove(path))

    def _around(self, call: str, work: Callable[[], None]) -> None:
        with self._lock:
            if not self._fate.due(spot_of(call)):
                work()
                return
            plan = self._fate.plan
            if plan.mode == "fail":
                self._fate.tell()
                raise OSError(plan.errno, os.strerror(plan.errno))
            if plan.when == "after":
                work()
            self._fate.die()

    def _remember(self, fd: int) -> None:
        """Keep what the disk has of a file whose fsync fails: the next process finds the page cache."""
        path = self._paths[fd]
        self._images.mkdir(exist_ok=True)
        (self._images / path.name).write_bytes(self._disk[path])

    def _lose_power(self) -> None:
        alone = self._lock.acquire(timeout=1.0)  # another thread may wait, in here, for this one to be gone
        self.power_cut(self._fate.rng)
        self.cut_index()
        if alone:
            self._lock.release()


class CrashLog:
    """LevelDB's own log: how much of it is synced, and how it looks after a loss of power."""

    def __init__(self, directory: Path, rng: Random) -> None:
        self._directory = directory
        self._rng = rng
        self._synced: tuple[Path | None, int] = (None, 0)

    def mark(self) -> None:
        """All that was written so far is on the disk."""
        self._synced = self.place()

    def tear(self, start: tuple[Path | None, int]) -> None:
        """Leave a part of what was written since ``start`` (a place)."""
        path, size = self.place()
        if path is not None and start[0] == path and start[1] < size:
            os.truncate(path, self._rng.randrange(start[1], size))

    def lose_power(self) -> None:
        """Let the log end anywhere behind its synced part, sometimes in zeros."""
        path, size = self.place()
        if path is None:
            return
        floor = self._synced[1] if self._synced[0] == path else 0
        kept = self._rng.choice((floor, self._rng.randint(floor, size), size))
        os.truncate(path, kept)
        if self._rng.random() < 0.3:
            os.truncate(path, size)

    def place(self) -> tuple[Path | None, int]:
        """The log that is written to, and its length."""
        logs = sorted(self._directory.glob("*.log"))
        return (logs[-1], logs[-1].stat().st_size) if logs else (None, 0)


def install(plan: Plan) -> None:
    """Put the plan between the store and the system, for the rest of this process."""
    fate = Fate(plan)
    files = CrashFiles(fate)

    def shared() -> Files:
        return files

    for module in list(sys.modules.values()):
        name = getattr(module, "__name__", "")
        ours = name.startswith(("storage.", "node.")) and name != "storage.files"
        if ours and getattr(module, "Files", None) is Files:
            module.Files = shared  # type: ignore[attr-defined]
    _wrap_index(fate, files)


def _wrap_index(fate: Fate, files: CrashFiles) -> None:
    opened, write = Index.open.__func__, Index.write  # type: ignore[attr-defined]
    logs: dict[int, CrashLog] = {}

    def open_index(cls: type[Index], path: Path, *args: Any, **options: Any) -> Index:
        index: Index = opened(cls, path, *args, **options)
        log = logs[id(index)] = CrashLog(path, fate.rng)
        log.mark()  # what LevelDB finds in its logs at open goes into table files, synced
        files.cut_index = log.lose_power
        return index

    def write_index(self: Index, batch: Any) -> None:
        log, plan = logs[id(self)], fate.plan
        with fate.lock:
            due = fate.due(spot_of("batch"))
            if due and plan.when == "before":
                fate.die()
            start = log.place()
            write(self, batch)
            torn = due and plan.when == "torn"
            if self._synced == self._sequence and not torn:
                log.mark()
            if torn and plan.mode == "kill":
                log.tear(start)
            if due:
                fate.die()

    Index.open = classmethod(open_index)  # type: ignore[method-assign, assignment]
    Index.write = write_index  # type: ignore[method-assign]
