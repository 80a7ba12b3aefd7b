"""Histories that can be read: what was sent, lost, signed and committed, line by line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from consensus.bft.types import (
    Accuse,
    Ask,
    Committed,
    CommitVote,
    Message,
    Prepared,
    Propose,
    ShowEC,
    Validated,
)

_watched: list[Any] | None = None


@contextmanager
def recording() -> Iterator[list[Any]]:
    """Collect every world that is made inside; each keeps a journal while this is on."""
    global _watched
    before, _watched = _watched, []
    try:
        yield _watched
    finally:
        _watched = before


def watch(world: Any) -> bool:
    """Return whether a new world shall keep a journal."""
    if _watched is not None:
        _watched.append(world)
    return _watched is not None


def term_of(message: Message) -> int:
    """The term that a message belongs to."""
    if isinstance(message, Prepared | Committed):
        return message.qc.term
    if isinstance(message, ShowEC):
        return message.ec.term
    if isinstance(message, Ask | Accuse):
        return 0
    return message.term


def describe(message: Message) -> str:
    """One message in few words: type, term, height, what it carries."""
    if isinstance(message, Prepared | Committed):
        return f"{type(message).__name__}({message.qc.term}, {message.qc.height})"
    if isinstance(message, Propose | Validated | CommitVote):
        carried = ""
        if isinstance(message, Propose):
            carried = f" by {type(message.justify).__name__}"
            if message.commit_qc is not None:
                carried += f" with commit {message.commit_qc.height}"
        elif isinstance(message, Validated) and message.commit is not None:
            carried = f" with commit vote {message.commit.height}"
        return f"{type(message).__name__}({message.term}, {message.height}){carried}"
    return f"{type(message).__name__}({term_of(message)})"


def block_of(message: Message) -> str:
    """The first bytes of the block that a message is about."""
    if isinstance(message, Prepared | Committed):
        return " " + message.qc.block_hash[:3].hex()
    if isinstance(message, Propose | Validated | CommitVote):
        return " " + message.block_hash[:3].hex()
    return ""


def story(worlds: list[Any], lines: int) -> str:
    """Return the last lines of what happened, and how the nodes are."""
    told: list[str] = []
    for world in worlds[-1:]:
        left_out = len(world.journal) - lines
        if left_out > 0:
            told.append(f"({left_out} lines before)")
        told += world.journal[-lines:]
        told.append(world.describe())
    return "\n".join(told)
