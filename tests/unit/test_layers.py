"""Ranks and circles: imports go to strictly lower ranks only, and no module imports itself in a ring."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RANKS = {"cext": 0, "consensus": 1, "contracts": 2, "storage": 2, "p2p": 2, "node": 3}
Graph = dict[str, set[str]]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def targets(tree: ast.Module, package: str, modules: set[str]) -> Iterator[str]:
    """Yield the modules of the house that ``tree`` imports, at any depth of the code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in modules or base in modules:
                    yield inner if inner in modules else base


def imports_of_the_house() -> Graph:
    paths = {module_name(path): path for package in RANKS for path in (ROOT / package).rglob("*.py")}
    modules = set(paths)
    graph = {}
    for name, path in paths.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = set(targets(ast.parse(path.read_text(), str(path)), package, modules)) - {name}
    return graph


def upward(graph: Graph) -> list[str]:
    """Imports of another package of the same or a higher rank."""
    found = []
    for name, imports in sorted(graph.items()):
        package = name.partition(".")[0]
        for target in sorted(imports):
            other = target.partition(".")[0]
            if other != package and RANKS[other] >= RANKS[package]:
                found.append(f"{name} imports {target}")
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Tarjan's strongly connected components of more than one module."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                found.append(sorted(component))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


@pytest.fixture(scope="module")
def graph() -> Graph:
    return imports_of_the_house()


def test_the_walk_sees_the_house(graph: Graph) -> None:
    assert {name.partition(".")[0] for name in graph} == set(RANKS)
    assert "cext._pure" in graph["cext"]
    assert any("consensus" in target for name in graph if name.startswith("node") for target in graph[name])


def test_imports_go_down(graph: Graph) -> None:
    assert upward(graph) == []


def test_there_is_no_import_circle(graph: Graph) -> None:
    assert circles(graph) == []


def test_an_upward_import_and_a_circle_are_found() -> None:
    assert upward({"cext": {"consensus.x"}, "consensus.x": set()}) == ["cext imports consensus.x"]
    assert upward({"p2p.a": {"storage.b"}, "storage.b": {"consensus"}, "consensus": set()}) == [
        "p2p.a imports storage.b"
    ]
    ring: Graph = {"node.a": {"node.b"}, "node.b": {"node.c"}, "node.c": {"node.a"}, "node.d": {"node.a"}}
    assert circles(ring) == [["node.a", "node.b", "node.c"]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import consensus.codec", {"consensus.codec"}),
        ("from consensus import codec", {"consensus.codec"}),
        ("from consensus import Reader", {"consensus"}),
        ("from consensus.codec import Reader", {"consensus.codec"}),
        ("def f():\n    from .codec import Reader", {"consensus.codec"}),
        ("from . import codec", {"consensus.codec"}),
        ("import json", set()),
    ],
)
def test_every_form_of_import_is_understood(line: str, expected: set[str]) -> None:
    assert set(targets(ast.parse(line), "consensus", {"consensus", "consensus.codec"})) == expected
