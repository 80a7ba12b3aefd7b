"""Which implementation runs, and that the two have the same face."""

import importlib.machinery
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import cext
from cext import _pure

ROOT = Path(__file__).parents[3]


def implementation(**env: str) -> str:
    """Ask a fresh interpreter."""
    answer = subprocess.run(
        [sys.executable, "-c", "import cext; print(cext.IMPLEMENTATION, cext.sha_kernel())"],
        cwd=ROOT,
        env={**os.environ, **env},
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    return answer.stdout.strip()


def test_the_environment_forces_the_pure_twin() -> None:
    assert implementation(WATTD_PURE="1") == "pure hashlib"


def test_the_native_module_is_the_default(native: ModuleType) -> None:
    assert implementation(WATTD_PURE="0") == f"native {native._kernels()[0]}"


@pytest.mark.skipif(
    "CI" not in os.environ, reason="a machine without a compiler is welcome, but not to judge changes"
)
def test_ci_judges_the_native_module() -> None:
    assert importlib.machinery.PathFinder.find_spec("cext._native", [str(ROOT / "cext")]) is not None


def test_both_have_every_name(impl: ModuleType) -> None:
    assert {name for name in cext.__all__ if not hasattr(impl, name)} == set()
    assert impl.__name__.rpartition("_")[2] == impl.IMPLEMENTATION


def test_what_runs_is_one_of_the_two() -> None:
    modules = {cext.sha256d.__module__, cext.merkle_root.__module__, cext.scan_transaction.__module__}
    assert modules in ({"cext._pure"}, {"cext._native"})
    assert (cext.IMPLEMENTATION == "pure") == (cext.sha256d is _pure.sha256d)
