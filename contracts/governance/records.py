"""Values of the state of governance; encoded like those of ``contracts.records``."""

from typing import NamedTuple


class Provider(NamedTuple):
    """An organisation that the committee admitted: its validator entry, and the agreement it signed."""

    name: str
    role: str
    vote_key: bytes
    identity_key: bytes
    vote_signature: bytes
    identity_signature: bytes
    agreement_hash: bytes
    agreement_signature: bytes
    height: int


class Application(NamedTuple):
    """A request to be admitted, at ``provider.height``; ``approvals`` are accounts in order of approval."""

    account: bytes
    provider: Provider
    expires_s: int
    approvals: tuple[bytes, ...] = ()


class Removal(NamedTuple):
    """The votes to remove an organisation, in their order."""

    height: int
    expires_s: int
    votes: tuple[bytes, ...] = ()


class NextReveals(NamedTuple):
    """A reveal chain that counts from ``from_epoch`` on: it takes the place of the old one at ``due_s``."""

    top: bytes
    left: int
    generation: int
    from_epoch: int
    due_s: int


class Vote(NamedTuple):
    """A standing delegate vote."""

    approvals: tuple[bytes, ...]
    height: int
