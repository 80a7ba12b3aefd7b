"""Who has a place among the connections that others open to us, and who makes room.

Places for strangers are few. Identities that an operator named (*pinned*) and those that the node asked to
protect, the validators of the round, have places of their own beside them: whoever fills the places for
strangers shuts no validator out.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from p2p import limits


class Stranger(NamedTuple):
    """An inbound peer without a place of its own: its misbehaviour, and when it was ready."""

    id: int
    score: int
    host: str
    since_ms: int


class Places:
    """The identities that have a place of their own; both tables are bounded, one by the configuration."""

    __slots__ = ("_pinned", "_protected")

    def __init__(self) -> None:
        self._pinned: dict[bytes, None] = {}
        self._protected: dict[bytes, None] = {}

    def pin(self, identity: bytes) -> None:
        """Give an identity a place for ever, as the operator asked."""
        self._pinned[identity] = None

    def protect(self, identities: Iterable[bytes]) -> tuple[bytes, ...]:
        """Give these a place until the next call; return those that took one, at most MAX_PROTECTED."""
        self._protected = dict.fromkeys(islice(identities, limits.MAX_PROTECTED))
        return tuple(self._protected)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._pinned or identity in self._protected


def surplus(strangers: Sequence[Stranger], places: int) -> list[int]:
    """Return the ids of those who have to go, so that no more than ``places`` stay.

    Who misbehaved most goes first, then whoever shares its address with the most others, then the youngest:
    a place that was held for long and alone is the hardest to take away for somebody who opens many.
    """
    staying = list(strangers)
    gone: list[int] = []
    while len(staying) > places:
        crowd = Counter([one.host for one in staying])
        worst = max(staying, key=lambda one: (one.score, crowd[one.host], one.since_ms, one.id))
        staying.remove(worst)
        gone.append(worst.id)
    return gone


def newer_stays(inbound: bool, old_inbound: bool, *, lower: bool) -> bool:
    """Return whether of two connections to one identity the newer stays: both sides come to the same answer.

    In one direction the newer stays (the older is what a crashed peer left behind); of two directions the
    one that the lower identity dialled. ``lower``: the peer's identity is the lower one.
    """
    return inbound in (old_inbound, lower)
