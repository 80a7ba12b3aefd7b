"""Signed statements as they are shown to others, and evidence made of two of them; all immutable."""

from enum import StrEnum
from typing import NamedTuple, TypeAlias


class Vote(StrEnum):
    """Types of signed statements; the value is the end of the tag that is hashed."""

    PRE_VOTE = "PV"
    GRANT = "VG"
    PROPOSE = "P"
    VALIDATED = "V"
    COMMIT = "C"


SHOWN = (Vote.PROPOSE, Vote.VALIDATED, Vote.COMMIT)
"""Statements about blocks, in the order of a Report."""

STATEMENTS = (*SHOWN, Vote.GRANT)
"""Statements of which evidence is made, in their order."""


class Signed(NamedTuple):
    """A statement about a block at a rank, and the signature under it."""

    vote: Vote
    term: int
    height: int
    block_hash: bytes
    sig: bytes

    @property
    def order(self) -> tuple[int | bytes, ...]:
        """Return the place among statements; signatures do not count."""
        return STATEMENTS.index(self.vote), self.term, self.height, self.block_hash


class Given(NamedTuple):
    """A vote that somebody gave in an election, as it signed it; the candidate is part of it."""

    term: int
    cand: int
    lock_term: int
    lock_height: int
    lock_hash: bytes
    sig: bytes

    @property
    def vote(self) -> Vote:
        """Return the type of this statement."""
        return Vote.GRANT

    @property
    def height(self) -> int:
        """Return the height of the lock."""
        return self.lock_height

    @property
    def block_hash(self) -> bytes:
        """Return the block of the lock."""
        return self.lock_hash

    @property
    def order(self) -> tuple[int | bytes, ...]:
        """Return the place among statements; signatures do not count."""
        return len(SHOWN), *self[:5]


Shown: TypeAlias = Signed | Given
"""A statement that can be held against its signer."""


class Evidence(NamedTuple):
    """Two statements of one validator that exclude each other (CONSENSUS.md, section 2.13), in order."""

    offender: int
    first: Shown
    second: Shown
