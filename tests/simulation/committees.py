"""Who signs which heights of a simulated chain: committees that change at heights that a history chooses.

A validator is named by its key (a number); its place in the voting order differs from round to round. The
block at a height with a change must commit to the next set, any other must not.
"""

from bisect import bisect_left

from consensus.bft.config import SCHNORR, Scheme, VoterSet
from consensus.bft.types import QC, Kind, Proposal
from consensus.hashes import sha256
from consensus.keys import xonly_from_secret
from consensus.validators import set_hash

Members = tuple[int, ...]


def secret_of(key: int) -> bytes:
    return sha256(b"validator %d" % key)


def voters_of(number: int, first_height: int, members: Members, scheme: Scheme) -> VoterSet:
    """The voting side of a round."""
    secrets = [secret_of(key) for key in members]
    keys = tuple(xonly_from_secret(secret) for secret in secrets) if scheme is SCHNORR else tuple(secrets)
    return VoterSet(number, first_height, set_hash(number, first_height, keys), keys)


class Committees:
    """``changes``: by the height of a round's last block, ascending, who signs from the next height on."""

    def __init__(self, founders: Members, scheme: Scheme) -> None:
        self.founders = founders
        self.scheme = scheme
        self.changes: dict[int, Members] = {}

    def change(self, height: int, members: Members) -> None:
        """The round of block ``height`` ends with it; ``members`` sign what follows."""
        if self.changes and height <= max(self.changes):
            raise ValueError("changes come in order")
        self.changes[height] = members

    def members(self, number: int) -> Members:
        """Who signs in a round, by place."""
        return list(self.changes.values())[number - 1] if number else self.founders

    def round_of(self, height: int) -> int:
        """The round that signs ``height``."""
        return bisect_left(list(self.changes), height)

    def last_height(self, number: int) -> int | None:
        """The height of the last block of a round, None if it does not end."""
        heights = list(self.changes)
        return heights[number] if number < len(heights) else None

    def changes_at(self, number: int) -> int:
        """The height of the block that round ``number`` stands on."""
        return list(self.changes)[number - 1] if number else 0

    def voters(self, number: int) -> VoterSet:
        """The voting side of a round."""
        first = self.changes_at(number) + 1
        return voters_of(number, first, self.members(number), self.scheme)

    def next_set(self, height: int) -> bytes | None:
        """What the block at ``height`` must commit to."""
        return self.voters(self.round_of(height) + 1).set_hash if height in self.changes else None


def base_of(number: int, last: Proposal, height: int, certificate: QC) -> QC:
    """What round ``number`` starts from: the last block of the round before, at its header's own term.

    ``certificate`` is its commit certificate here; its term may differ from node to node.
    """
    return QC(Kind.PREPARE, number, last.term, height, last.block_hash, b"", ())
