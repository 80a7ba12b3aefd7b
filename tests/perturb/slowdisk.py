"""Disks that take their time: a library loaded before libc delays each fsync of a node's process."""

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("slowdisk.c")
STUCK_MS = 3_600_000
"""So long that only the end of the perturbation ends it."""


def compiler() -> str | None:
    """Return a C compiler, None if there is none."""
    return shutil.which("cc") or shutil.which("gcc")


class SlowDisks:
    """The library and, for each node, how slow its disk is."""

    def __init__(self, root: Path, count: int) -> None:
        self._library = root / "slowdisk.so"
        self._files = [root / f"disk-{number}" for number in range(count)]
        self._pages: list[mmap.mmap] = []

    def build(self) -> None:
        """Compile. Raises CalledProcessError."""
        command = [
            compiler() or "cc",
            "-O2",
            "-Wall",
            "-shared",
            "-fPIC",
            "-o",
            str(self._library),
            str(SOURCE),
        ]
        subprocess.run(command, check=True, capture_output=True, text=True)
        for path in self._files:
            path.write_bytes(bytes(4))
            with path.open("r+b") as file:
                self._pages.append(mmap.mmap(file.fileno(), 4))

    def environment(self, number: int) -> dict[str, str]:
        """Return what the process of a node needs in its environment."""
        return {"LD_PRELOAD": str(self._library), "WATTD_SLOW_DISK": str(self._files[number])}

    def set(self, number: int, delay_ms: int) -> None:
        """Let each sync of a node's process take so much longer, from now on."""
        self._pages[number][:] = struct.pack("=I", delay_ms)
