"""A tool that kills itself: ``python -m tests.unit.node_store.toolchild TOOL DATADIR HOW COUNT``.

HOW is "step" (at the COUNT-th step of the tool), "before" or "behind" (its COUNT-th change of a
directory's name). Not a fork: LevelDB's background thread would not exist in it.
"""

import os
import signal
import sys
from pathlib import Path

from node.store.compact import compact
from node.store.evidence import Trust
from node.store.progress import Progress
from node.store.prune import Limit, prune
from node.store.reindex import reindex
from node.store.repair import repair
from node.store.snapshot import import_snapshot
from node.store.target import locked
from storage import limits
from storage.files import Files


class KillAfter(Progress):
    def __init__(self, count):
        super().__init__()
        self.count = count

    def advance(self, amount=1):
        self.count -= 1
        if self.count == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class KillingFiles(Files):
    def __init__(self, count, *, before):
        self.count, self.before = count, before

    def rename_directory(self, source, target):
        self.count -= 1
        if self.count == 0 and self.before:
            os.kill(os.getpid(), signal.SIGKILL)
        super().rename_directory(source, target)
        if self.count == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main(tool, datadir, how, count, *more):
    progress = KillAfter(count if how == "step" else 0)
    files = KillingFiles(0 if how == "step" else count, before=how == "before")
    with locked(datadir) as target:
        if tool == "reindex":
            reindex(target, progress, files=files)
        elif tool == "repair":
            repair(target, progress, lambda line: None, files)
        elif tool == "compact":
            compact(target, progress)
        elif tool == "prune":
            limits.KEEP_BLOCKS_MIN = 5
            prune(target, Limit(keep_blocks=6), progress, files)
        elif tool == "import":
            import_snapshot(target, Path(more[0]), Trust(bytes.fromhex(more[1])), progress, files)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
