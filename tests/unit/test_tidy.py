"""Sizes and left-overs. What is too large today is listed with its size, and may only shrink."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("cext", "consensus", "contracts", "storage", "p2p", "node")
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 600
MAX_TEST_FILE_LINES = 800
"""More than a source file, since stories and tables of cases are read one at a time."""

# Ratchets: "path::function" or "path" -> its size. Lower or remove an entry when its subject shrinks.
LARGE_FUNCTIONS: dict[str, int] = {}
LARGE_FILES: dict[str, int] = {}


def sources(*folders: str, suffixes: tuple[str, ...] = (".py",)) -> list[Path]:
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in suffixes and path.name != "_native.c"
    )


def function_sizes(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, int]]:
    """Yield (qualified name, lines from def to the end) of each function."""
    for node in ast.iter_child_nodes(tree):
        name = outer
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{outer}.{node.name}" if outer else node.name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, (node.end_lineno or node.lineno) - node.lineno + 1
        yield from function_sizes(node, name)


def test_functions_are_short() -> None:
    large = {
        f"{path.relative_to(ROOT)}::{name}": size
        for path in sources(*PACKAGES)
        for name, size in function_sizes(ast.parse(path.read_text()))
        if size > MAX_FUNCTION_LINES
    }
    assert large == LARGE_FUNCTIONS


def test_files_are_short() -> None:
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in sources(*PACKAGES, "tests", "benchmarks", suffixes=(".py", ".pyx", ".c", ".h"))
    }
    large = {
        path: size
        for path, size in sizes.items()
        if size > (MAX_TEST_FILE_LINES if path.startswith("tests/") else MAX_FILE_LINES)
    }
    assert large == LARGE_FILES


def test_nothing_is_left_for_later() -> None:
    mark = re.compile(r"\b(TO[D]O|FIX[M]E|XX[X]|HAC[K])\b")
    left = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources(*PACKAGES, "tests", "benchmarks", suffixes=(".py", ".pyx", ".c", ".h"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if mark.search(line)
    ]
    assert left == []


def test_every_package_folder_is_a_package() -> None:
    folders = {path.parent for path in sources(*PACKAGES)}
    assert [
        str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").exists()
    ] == []


def test_test_files_have_names_of_their_own() -> None:
    """Test folders are no packages, so that a name used twice would be confusing in every report."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_a_long_function_is_found() -> None:
    source = "class C:\n    def f(self):\n" + "        x = 1\n" * 70
    assert list(function_sizes(ast.parse(source))) == [("C.f", 71)]
