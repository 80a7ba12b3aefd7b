"""The facts of a machine that a figure means nothing without."""

import os
import platform
from pathlib import Path

from cext import IMPLEMENTATION, sha_kernel, signature_backend
from node.version import VERSION

_MEBIBYTE = 1 << 20


def _processor() -> str:
    """Return the model's name, which Linux calls "model name" on x86 and "Model" on a Raspberry Pi."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return fields.get("model name") or fields.get("Model") or platform.processor() or "unknown"


def _memory_mib() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MEBIBYTE
    except (OSError, ValueError):
        return None


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def facts() -> dict[str, str | int | float | None]:
    """Return what the "machine" member of the JSON document holds, all of it printable."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": _usable_cores(),
        "memory_mib": _memory_mib(),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "wattd": VERSION,
        "cext": IMPLEMENTATION,
        "sha256": sha_kernel(),
        "signatures": signature_backend(),
    }
