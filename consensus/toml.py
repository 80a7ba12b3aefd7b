"""TOML as our files use it. Whatever is wrong with a text is one ValueError with the reason.

Beyond the grammar two things are refused that no file of ours needs, and that would fail later, in
the middle of a message about them: numbers beyond 64 bits (the range that TOML 1.0 promises) and deep
nesting.
"""

import tomllib
from typing import Any

from consensus.limits import MAX_TOML_DEPTH


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a text. Raises ValueError."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # the interpreter's limit for decimal digits
        raise ValueError("a number is out of range") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check(values)
    return values


def _check(root: dict[str, Any]) -> None:
    """Look at every value without recursion: dotted keys nest as deep as a line is long."""
    level: list[Any] = [root]
    for _ in range(MAX_TOML_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
                raise ValueError("a number is out of range")
        level = below
    if level:
        raise ValueError("nested too deeply")
