"""The rule of purity: what decides validity has no clock, dice, files, network, threads or floating point.

Each check walks the syntax tree of the sources, and each is itself tested on a line that it must find.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PURE_PACKAGES = ("consensus", "contracts", "p2p")
IMPURE_FILES = {"p2p/shell.py"}

# What a pure file may import from outside the house. Add a module only if it computes and does nothing else.
PURE_IMPORTS = {
    "__future__",
    "base64",
    "binascii",
    "bisect",
    "collections",
    "contextlib",
    "dataclasses",
    "difflib",
    "enum",
    "functools",
    "hashlib",
    "heapq",
    "hmac",
    "ipaddress",
    "itertools",
    "operator",
    "re",
    "string",
    "struct",
    "tomllib",
    "types",
    "typing",
    # Codecs and cryptography: bytes in, bytes out.
    "coincurve",
    "cryptography",
    "msgpack",
    "nacl",
    "noise",
}
HOUSE = {"cext", "consensus", "contracts", "p2p", "storage", "node"}

# Builtins that read or write the world, or whose result differs from one process to the next.
IMPURE_BUILTINS = {"open", "input", "print", "exec", "eval", "compile", "__import__", "breakpoint", "id"}

CLOCK_AND_DICE = {"time", "random", "secrets", "uuid"}
CLOCK_AND_DICE_FILES = {
    "node/clock.py",
    "node/dice.py",
    "storage/segments.py",  # A mark per file tells its records from those of a deleted file; no rule sees it.
}
MEASURING = ("node/bench/",)

Fault = tuple[int, str]
Check = Callable[[ast.Module], Iterator[Fault]]


def sources(*packages: str) -> list[str]:
    return sorted(
        path.relative_to(ROOT).as_posix() for package in packages for path in (ROOT / package).rglob("*.py")
    )


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of each import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module or ''}.{alias.name}") for alias in node.names)


def impure_imports(tree: ast.Module) -> Iterator[Fault]:
    for line, name in imported(tree):
        if name.partition(".")[0] not in PURE_IMPORTS | HOUSE:
            yield line, f"imports {name}"


def impure_calls(tree: ast.Module) -> Iterator[Fault]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_BUILTINS:
            yield node.lineno, f"calls {node.func.id}()"


def hashes(tree: ast.Module) -> Iterator[Fault]:
    """Python's hash() of text and bytes differs between processes; only __hash__ itself may use it."""
    allowed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__hash__"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "hash" and id(node) not in allowed:
            yield node.lineno, "calls hash()"


def assertions(tree: ast.Module) -> Iterator[Fault]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield node.lineno, "asserts, which goes away under -O"


def floats(tree: ast.Module) -> Iterator[Fault]:
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=float() | complex()):
                yield node.lineno, f"has the float {node.value}"
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
                yield node.lineno, "divides with /"
            case ast.Name(id="float" | "complex"):
                yield node.lineno, f"uses {node.id}"


def is_set(node: ast.AST | None) -> bool:
    """Tell whether an expression is a set, or an annotation says so, by its looks."""
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.BinOp(op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
            return is_set(node.left) or is_set(node.right)
        case ast.Name(id="set" | "frozenset") | ast.Subscript(value=ast.Name(id="set" | "frozenset")):
            return True
    return False


def known_sets(scope: ast.AST) -> set[str]:
    """The names and attributes, as written, that are bound to a set somewhere in ``scope``."""
    known = set()
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=targets, value=value) if is_set(value):
                known |= {ast.unparse(target) for target in targets}
            case ast.AnnAssign(target=target, annotation=annotation) if is_set(annotation):
                known.add(ast.unparse(target))
            case ast.arg(arg=name, annotation=annotation) if is_set(annotation):
                known.add(name)
    return known


def iterated(scope: ast.AST) -> Iterator[ast.expr]:
    """Yield what is gone through in order: by loops, by unpacking, and by calls that keep the order."""
    for node in ast.walk(scope):
        match node:
            case ast.For(iter=what) | ast.Starred(value=what) | ast.YieldFrom(value=what):
                yield what
            case ast.ListComp() | ast.DictComp() | ast.GeneratorExp():
                yield from (generator.iter for generator in node.generators)
            case ast.Call(func=ast.Name(id="list" | "tuple" | "iter" | "enumerate" | "next" | "map" | "zip")):
                yield from node.args
            case ast.Call(func=ast.Attribute(attr="join" | "extend")):
                yield from node.args


ORDER_DOES_NOT_MATTER = {"sorted", "sum", "min", "max", "any", "all", "set", "frozenset", "len"}


def iterated_sets(tree: ast.Module) -> Iterator[Fault]:
    harmless = {
        id(generator.iter)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ORDER_DOES_NOT_MATTER
        for argument in node.args
        if isinstance(argument, ast.GeneratorExp)
        for generator in argument.generators
    }
    attributes = {name for name in known_sets(tree) if "." in name}
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for scope in [tree, *scopes]:
        names = attributes | (set() if scope is tree else known_sets(scope))
        for what in iterated(scope):
            if id(what) not in harmless and (is_set(what) or ast.unparse(what) in names):
                yield what.lineno, f"goes through the set {ast.unparse(what)}, in no certain order"


def clock_or_dice(tree: ast.Module) -> Iterator[Fault]:
    for line, name in imported(tree):
        if name.partition(".")[0] in CLOCK_AND_DICE or name in {"os.urandom", "os.getrandom"}:
            yield line, f"imports {name}"
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="urandom" | "getrandom"):
                yield node.lineno, "uses the dice of the system"
            case ast.Call(func=ast.Attribute(attr="now" | "utcnow" | "today", value=value)) if (
                "date" in ast.unparse(value)
            ):
                yield node.lineno, "reads the clock of the system"


def plyvel_imports(tree: ast.Module) -> Iterator[Fault]:
    yield from (
        (line, "imports plyvel") for line, name in imported(tree) if name.partition(".")[0] == "plyvel"
    )


def faults(check: Check, paths: list[str]) -> list[str]:
    found = []
    for path in paths:
        tree = ast.parse((ROOT / path).read_text(), path)
        found += sorted({f"{path}:{line}: {what}" for line, what in check(tree)})
    return found


PURE = [path for path in sources(*PURE_PACKAGES) if path not in IMPURE_FILES]
RULES = [path for path in PURE if not path.startswith("p2p/")]
TIMELESS = [
    path
    for path in sources("cext", "consensus", "contracts", "p2p", "storage", "node")
    if path not in CLOCK_AND_DICE_FILES and not path.startswith(MEASURING)
]
NOT_STORAGE = sources("cext", "consensus", "contracts", "p2p", "node")


@pytest.mark.parametrize(
    ("check", "paths"),
    [
        pytest.param(impure_imports, PURE, id="imports"),
        pytest.param(impure_calls, PURE, id="calls"),
        pytest.param(hashes, RULES, id="hash"),
        pytest.param(assertions, PURE, id="assert"),
        pytest.param(floats, RULES, id="floats"),
        pytest.param(iterated_sets, PURE, id="sets"),
        pytest.param(clock_or_dice, TIMELESS, id="clock and dice"),
        pytest.param(plyvel_imports, NOT_STORAGE, id="plyvel"),
    ],
)
def test_the_sources_are_pure(check: Check, paths: list[str]) -> None:
    assert paths
    assert faults(check, paths) == []


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (impure_imports, "import asyncio"),
        (impure_imports, "def f():\n    from os import path"),
        (impure_imports, "import os.path as p"),
        (impure_calls, "open('x')"),
        (hashes, "x = hash(b'')"),
        (assertions, "assert x"),
        (floats, "x = 1e8"),
        (floats, "x = a / b"),
        (floats, "x /= 2"),
        (floats, "x = float(y)"),
        (iterated_sets, "for x in {1, 2}: pass"),
        (iterated_sets, "y = [x for x in set(z)]"),
        (iterated_sets, "y = list(frozenset(z))"),
        (iterated_sets, "def f(a: set[int]):\n    for x in a: pass"),
        (iterated_sets, "def f():\n    a = {x for x in y}\n    return b''.join(a)"),
        (
            iterated_sets,
            "class C:\n    def f(self):\n        self.a = set()\n    def g(self):\n        yield from self.a",
        ),
        (iterated_sets, "y = [*(set(a) | set(b))]"),
        (clock_or_dice, "import time"),
        (clock_or_dice, "from os import urandom"),
        (clock_or_dice, "x = os.urandom(8)"),
        (clock_or_dice, "x = datetime.datetime.now()"),
        (plyvel_imports, "from plyvel import DB"),
    ],
)
def test_each_check_finds_what_it_looks_for(check: Check, line: str) -> None:
    assert list(check(ast.parse(line)))


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (impure_imports, "from collections.abc import Mapping"),
        (hashes, "class C:\n    def __hash__(self): return hash(self.x)"),
        (floats, "x = a // b"),
        (iterated_sets, "for x in sorted({1, 2}): pass"),
        (iterated_sets, "y = sum(x for x in {1, 2})"),
        (iterated_sets, "y = x in {1, 2}"),
        (iterated_sets, "for x in [1, 2]: pass"),
        (clock_or_dice, "x = clock.now()"),
    ],
)
def test_no_check_cries_wolf(check: Check, line: str) -> None:
    assert list(check(ast.parse(line))) == []
