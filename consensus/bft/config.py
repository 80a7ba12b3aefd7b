"""Who takes part and how patient it is: the immutable configuration of an engine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cext import verify_schnorr_batch
from consensus.bft.limits import MAX_VALIDATORS
from consensus.bft.quorum import faults, quorum
from consensus.bft.types import QC, Kind
from consensus.keys import sign_schnorr, xonly_from_secret
from consensus.validators import ValidatorSet


class Scheme(Protocol):
    """How votes are signed. The simulator swaps in a cheap one; chains use ``SCHNORR``."""

    def sign(self, secret: bytes, digest: bytes) -> bytes:
        """Return a 64-byte signature; equal arguments give equal signatures."""
        ...

    def verify(self, items: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
        """Check (32-byte digest, 32-byte key, 64-byte signature) triples; never raises."""
        ...


class _Schnorr:
    """BIP340 without auxiliary randomness: a vote that is sent again is the same vote."""

    def sign(self, secret: bytes, digest: bytes) -> bytes:
        """Sign a 32-byte digest."""
        return sign_schnorr(secret, digest)

    def verify(self, items: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
        """Check all items in one call."""
        return verify_schnorr_batch(list(items))


SCHNORR: Scheme = _Schnorr()


@dataclass(frozen=True, slots=True)
class VoteSecret:
    """The secret vote key of a validator, 32 bytes; never printed."""

    _secret: bytes = field(repr=False)
    scheme: Scheme = field(default=SCHNORR, repr=False)

    def sign(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest; 64 bytes."""
        return self.scheme.sign(self._secret, digest)

    def public_key(self) -> bytes:
        """Return the x-only public key, 32 bytes."""
        return xonly_from_secret(self._secret)


@dataclass(frozen=True, slots=True)
class VoterSet:
    """The ordered vote keys of one round, from 1 to 50 of them."""

    round: int
    first_height: int
    set_hash: bytes
    keys: tuple[bytes, ...]
    n: int = field(init=False)
    f: int = field(init=False)
    q: int = field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.keys) <= MAX_VALIDATORS or len(set(self.keys)) != len(self.keys):
            raise ValueError(f"a validator set has 1 to {MAX_VALIDATORS} distinct keys")
        object.__setattr__(self, "n", len(self.keys))
        object.__setattr__(self, "f", faults(len(self.keys)))
        object.__setattr__(self, "q", quorum(len(self.keys)))

    @classmethod
    def of(cls, validators: ValidatorSet) -> "VoterSet":
        """Return the voting side of a validator set."""
        keys = tuple(entry.vote_key for entry in validators.validators)
        return cls(validators.round, validators.first_height, validators.set_hash, keys)


@dataclass(frozen=True, slots=True)
class Timing:
    """Patience and cadence, milliseconds of real time unless the name says otherwise."""

    progress_timeout_ms: int = 300
    slot_step_ms: int = 40
    idle_interval_ms: int = 1_000
    block_interval_ms: int = 200
    retransmit_ms: int = 100
    min_batch_txs: int = 500
    tenure_blocks: int = 64
    kmax: int = 10

    def __post_init__(self) -> None:
        periods = (
            self.progress_timeout_ms,
            self.slot_step_ms,
            self.idle_interval_ms,
            self.block_interval_ms,
            self.retransmit_ms,
            self.min_batch_txs,
        )
        if min(periods) < 1 or self.tenure_blocks < 0 or self.kmax < 0:
            raise ValueError("timing parameters are positive (tenure_blocks = 0: no planned rotation)")

    @property
    def tick_ms(self) -> int:
        """Return the period of retransmission and signs of life: three fit into a leader's silence."""
        return max(1, min(self.retransmit_ms, self.progress_timeout_ms // 3))


@dataclass(frozen=True, slots=True)
class Electorate:
    """What a vote is bound to and who may cast it: all that certificate checks need.

    ``decrees`` are commit certificates without signatures, by decision of operators (``consensus.restart``).
    """

    chain_id: bytes
    voters: VoterSet
    base: QC
    scheme: Scheme = field(default=SCHNORR, repr=False)
    decrees: tuple[QC, ...] = ()
    prefix: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", self.chain_id + self.voters.set_hash)


def genesis_base(chain_id: bytes) -> QC:
    """Return the base of the first round: the genesis block at rank (0, 0), without signatures."""
    return QC(Kind.PREPARE, 0, 0, 0, chain_id, b"", ())


@dataclass(frozen=True, slots=True)
class Config:
    """Configuration of one engine.

    ``me`` is the index of this node in the set, None for a follower that is no validator; then
    ``secret`` is None too. ``seed`` is the round's seed, 32 bytes. ``base`` is the committed block
    that the round starts from (default: genesis), as a prepare certificate without signatures.
    ``decrees``: see ``Electorate``.
    """

    chain_id: bytes
    validator_set: VoterSet
    me: int | None
    secret: VoteSecret | None
    seed: bytes
    timing: Timing = Timing()
    base: QC | None = None
    scheme: Scheme = field(default=SCHNORR, repr=False)
    decrees: tuple[QC, ...] = ()
    electorate: Electorate = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if (self.me is None) != (self.secret is None):
            raise ValueError("a validator has an index and a secret, a follower has neither")
        if self.me is not None and not 0 <= self.me < self.validator_set.n:
            raise ValueError("this validator is not in the set")
        base = genesis_base(self.chain_id) if self.base is None else self.base
        electorate = Electorate(self.chain_id, self.validator_set, base, self.scheme, self.decrees)
        object.__setattr__(self, "electorate", electorate)
