"""The operations of governance, as clients build them and nodes read them.

``encode`` and the form of payloads are in ``contracts.operations``; ``entry`` signs an application.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

from contracts import fields
from contracts.limits import MAX_APPROVALS, MAX_GENERATION, MAX_ORGANISATION_NAME_CHARS, MAX_REVEALS


@dataclass(frozen=True, slots=True)
class Apply:
    """Ask to become an organisation: the paper's {ID, h(Am), Sig(Am), PK}; by ``account`` itself.

    ``vote_key`` (x-only secp256k1) and ``identity_key`` (Ed25519), 32 bytes each, are proven by the two
    signatures over ``validators.entry_digest``, as a founder's are. ``agreement_hash`` is SHA-256 of the
    licence agreement, ``agreement_signature`` the identity key's over ``entry.agreement_message``.
    """

    NAME: ClassVar[str] = "governance.apply"
    account: bytes
    name: str
    vote_key: bytes
    identity_key: bytes
    vote_signature: bytes
    identity_signature: bytes
    agreement_hash: bytes
    agreement_signature: bytes

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return [
            self.account,
            self.name,
            self.vote_key,
            self.identity_key,
            self.vote_signature,
            self.identity_signature,
            self.agreement_hash,
            self.agreement_signature,
        ]

    @classmethod
    def parse(cls, *values: Any) -> Self:
        """Build from decoded fields, eight of them; RuleError ``bad-op-field``."""
        account, name, vote_key, identity_key, vote, identity, agreement, signature = values
        return cls(
            fields.account("account", account),
            _name("name", name),
            fields.fixed("vote_key", vote_key, 32),
            fields.fixed("identity_key", identity_key, 32),
            fields.fixed("vote_signature", vote, 64),
            fields.fixed("identity_signature", identity, 64),
            fields.fixed("agreement_hash", agreement, 32),
            fields.fixed("agreement_signature", signature, 64),
        )


@dataclass(frozen=True, slots=True)
class Approve:
    """Approve an application; by an organisation with a vote.

    ``agreement_hash`` is that of the agreement which the approver itself holds.
    """

    NAME: ClassVar[str] = "governance.approve"
    application: bytes
    agreement_hash: bytes

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return [self.application, self.agreement_hash]

    @classmethod
    def parse(cls, application: Any, agreement_hash: Any) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``, TypeError for their number."""
        return cls(
            fields.fixed("application", application, 32), fields.fixed("agreement_hash", agreement_hash, 32)
        )


@dataclass(frozen=True, slots=True)
class Expel:
    """Vote for the removal of an organisation; by another one with a vote."""

    NAME: ClassVar[str] = "governance.expel"
    organisation: bytes

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return [self.organisation]

    @classmethod
    def parse(cls, organisation: Any) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``, TypeError for their number."""
        return cls(fields.script("organisation", organisation))


@dataclass(frozen=True, slots=True)
class Leave:
    """Stop being an organisation; by itself."""

    NAME: ClassVar[str] = "governance.leave"

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return []

    @classmethod
    def parse(cls) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``, TypeError for their number."""
        return cls()


@dataclass(frozen=True, slots=True)
class VoteDelegates:
    """Name the organisations that this one wants as delegates, in ascending order of account.

    It replaces the vote before and stands until the next; without approvals there is none.
    """

    NAME: ClassVar[str] = "governance.vote"
    approvals: tuple[bytes, ...]

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return [list(self.approvals)]

    @classmethod
    def parse(cls, approvals: Any) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``, TypeError for their number."""
        if type(approvals) is not list or len(approvals) > MAX_APPROVALS:
            raise fields.bad_field("approvals", f"an array of {MAX_APPROVALS} accounts at most wanted")
        found = [fields.script(f"approvals[{at}]", each) for at, each in enumerate(approvals)]
        if any(earlier >= later for earlier, later in pairwise(found)):
            raise fields.bad_field("approvals", "not in ascending order, or one of them twice")
        return cls(tuple(found))


@dataclass(frozen=True, slots=True)
class CommitReveals:
    """Register a chain of ``length`` reveals: ``top`` is SHA-256 of the first of them, 32 bytes.

    Each next one has the one before as its SHA-256. It counts from the next epoch on. ``generation`` tells
    the owner from which secret it made the chain; it rises from chain to chain.
    """

    NAME: ClassVar[str] = "governance.commit_reveals"
    top: bytes
    length: int
    generation: int

    def fields(self) -> list[Any]:
        """Return what follows the name."""
        return [self.top, self.length, self.generation]

    @classmethod
    def parse(cls, top: Any, length: Any, generation: Any) -> Self:
        """Build from decoded fields; RuleError ``bad-op-field``, TypeError for their number."""
        return cls(
            fields.fixed("top", top, 32),
            fields.uint("length", length, 1, MAX_REVEALS),
            fields.uint("generation", generation, 0, MAX_GENERATION),
        )


GovernanceOperation = Apply | Approve | Expel | Leave | VoteDelegates | CommitReveals

KINDS: tuple[type[GovernanceOperation], ...] = (Apply, Approve, Expel, Leave, VoteDelegates, CommitReveals)


def _name(field: str, value: Any) -> str:
    """Return a name of printable ASCII: what is printable beyond differs between versions of Unicode."""
    if (
        type(value) is not str
        or not 0 < len(value) <= MAX_ORGANISATION_NAME_CHARS
        or not all(" " <= c <= "~" for c in value)
        or value != value.strip(" ")
    ):
        raise fields.bad_field(
            field,
            f"1 to {MAX_ORGANISATION_NAME_CHARS} printable ASCII characters wanted, no space at the ends",
        )
    return value
