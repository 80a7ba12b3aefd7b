"""The hash chains from which this node reveals what goes into the seed of the next election.

x_0 = HMAC-SHA256(vote secret, "wattd/reveal" || chain id || u32 LE generation), x_{i+1} = SHA256(x_i). An
organisation registers ``top`` = x_length; with ``left`` reveals left, x_left is what was published last and
x_{left-1} comes next (CONSENSUS.md, section 2.12). The vote secret is all it takes, so nothing is kept on
disk, and whoever restores the keys can reveal again.
"""

import hmac
from hashlib import sha256

from consensus.keys import xonly_from_secret
from consensus.params import ChainParams
from consensus.ports import StateView
from consensus.rounds import reveal_chain
from contracts.governance.committee import committee
from contracts.governance.reveals import next_reveals
from contracts.limits import MAX_REVEALS
from node.keyfile import Secret
from node.limits import REVEAL_CHECKPOINT_STEP

_TAG = b"wattd/reveal"


class RevealChain:
    """One chain of ``length`` reveals. Every REVEAL_CHECKPOINT_STEP-th value is kept, the rest computed."""

    def __init__(self, first: bytes, length: int) -> None:
        """``first`` is x_0, 32 bytes; ``length`` is 1 to MAX_REVEALS, else ValueError."""
        if not 1 <= length <= MAX_REVEALS:
            raise ValueError(f"a reveal chain has 1 to {MAX_REVEALS} reveals")
        self.length = length
        self._kept: list[bytes] = []
        value = first
        for at in range(length):
            if at % REVEAL_CHECKPOINT_STEP == 0:
                self._kept.append(value)
            value = sha256(value).digest()
        self.top = value

    def value(self, at: int) -> bytes:
        """Return x_at, 0 <= at <= length; at most REVEAL_CHECKPOINT_STEP - 1 hashes."""
        if not 0 <= at <= self.length:
            raise ValueError(f"the chain has no value {at}")
        if at == self.length:
            return self.top
        value = self._kept[at // REVEAL_CHECKPOINT_STEP]
        for _ in range(at % REVEAL_CHECKPOINT_STEP):
            value = sha256(value).digest()
        return value


def next_generation(state: StateView, params: ChainParams, vote_key: bytes) -> int:
    """Return the lowest generation that the organisation with this vote key may still register.

    0 for a key that no organisation has now: it has registered nothing.
    """
    for entry in committee(state, params):
        if entry.vote_key == vote_key:
            account = entry.payout_script
            known = (reveal_chain(state, account), next_reveals(state, account))
            return 1 + max(-1 if chain is None else chain.generation for chain in known)
    return 0


class Reveals:
    """The chains of this node's vote key on one chain; the one asked for last is kept."""

    def __init__(self, vote_secret: Secret, chain_id: bytes) -> None:
        self._secret = vote_secret
        self._chain_id = chain_id
        self._kept: tuple[int, RevealChain] | None = None

    @property
    def vote_key(self) -> bytes:
        """Return the x-only vote key, 32 bytes."""
        return xonly_from_secret(self._secret.reveal())

    def chain(self, generation: int, length: int = MAX_REVEALS) -> RevealChain:
        """Return a chain, to register its ``top``. Raises ValueError for a length that no chain has."""
        text = _TAG + self._chain_id + generation.to_bytes(4, "little")
        return RevealChain(hmac.digest(self._secret.reveal(), text, "sha256"), length)

    def reveal(self, generation: int, left: int, top: bytes) -> bytes | None:
        """Return the next value of a chain of which ``left`` are left; ``top`` is what is on the chain.

        None if our chain has another value there: it was registered with other keys. A generation that is
        asked for the first time costs some 30 ms, each further reveal of it a fraction of one.
        """
        if not 1 <= left <= MAX_REVEALS:
            return None
        if self._kept is None or self._kept[0] != generation or self._kept[1].length < left:
            self._kept = generation, self.chain(generation, left)
        found = self._kept[1].value(left - 1)
        return found if sha256(found).digest() == top else None
