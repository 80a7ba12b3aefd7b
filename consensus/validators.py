"""Validators: their signed entries in the chain file, and the ordered set that signs a round."""

from dataclasses import dataclass, field, replace

from consensus import canonical
from consensus.bft.quorum import faults, quorum
from consensus.errors import RuleError
from consensus.hashes import tagged_hash
from consensus.keys import (
    ed25519_public,
    ed25519_sign,
    ed25519_verify,
    sign_schnorr,
    verify_schnorr,
    xonly_from_secret,
)
from consensus.params import ChainParams, Validator

ROLES = ("grid-operator", "service-provider")
"""What an organisation may be."""


def entry_digest(chain_name: str, entry: Validator) -> bytes:
    """Return the 32 bytes that both keys of an entry sign: all its fields but the signatures.

    Tagged hash (BIP340) "wattd/validator-entry" over the canonical array of chain name, name, role,
    vote key, identity key and payout script.
    """
    fields = [
        chain_name,
        entry.name,
        entry.role,
        entry.vote_key,
        entry.identity_key,
        entry.payout_script,
    ]
    return tagged_hash("wattd/validator-entry", canonical.encode(fields))


def sign_entry(
    vote_secret: bytes,
    identity_seed: bytes,
    *,
    chain_name: str,
    name: str,
    role: str,
    payout_script: bytes,
) -> Validator:
    """Return the entry of a founder, signed with its secp256k1 vote secret and its Ed25519 seed.

    Both secrets have 32 bytes. Each signature proves that the founder holds the key, so nobody can
    enter a key of somebody else under another name.
    """
    blank = bytes(64)
    entry = Validator(
        name=name,
        role=role,
        vote_key=xonly_from_secret(vote_secret),
        identity_key=ed25519_public(identity_seed),
        payout_script=payout_script,
        vote_signature=blank,
        identity_signature=blank,
    )
    digest = entry_digest(chain_name, entry)
    return replace(
        entry,
        vote_signature=sign_schnorr(vote_secret, digest),
        identity_signature=ed25519_sign(identity_seed, digest),
    )


def check_entry(chain_name: str, entry: Validator) -> None:
    """Check both signatures of an entry.

    Raises RuleError "bad-vote-signature" or "bad-identity-signature".
    """
    digest = entry_digest(chain_name, entry)
    if not verify_schnorr(entry.vote_key, digest, entry.vote_signature):
        raise RuleError("bad-vote-signature", f"not a signature of {entry.name}'s vote key")
    if not ed25519_verify(entry.identity_key, digest, entry.identity_signature):
        raise RuleError("bad-identity-signature", f"not a signature of {entry.name}'s identity key")


def set_hash(round_number: int, first_height: int, vote_keys: tuple[bytes, ...]) -> bytes:
    """Return what names a validator set in votes and commitments (CONSENSUS.md, section 2.2).

    Tagged hash "wattd/set" over u32 LE round, u32 LE first height and the x-only keys in order.
    """
    head = round_number.to_bytes(4, "little") + first_height.to_bytes(4, "little")
    return tagged_hash("wattd/set", head + b"".join(vote_keys))


@dataclass(frozen=True, slots=True)
class ValidatorSet:
    """The validators of one round, in voting order; ``first_height`` is the first that they sign."""

    round: int
    first_height: int
    validators: tuple[Validator, ...]
    set_hash: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        keys = tuple(validator.vote_key for validator in self.validators)
        object.__setattr__(self, "set_hash", set_hash(self.round, self.first_height, keys))

    @property
    def n(self) -> int:
        """Return the number of validators."""
        return len(self.validators)

    @property
    def f(self) -> int:
        """Return how many Byzantine validators the set tolerates."""
        return faults(len(self.validators))

    @property
    def q(self) -> int:
        """Return how many signatures make a certificate."""
        return quorum(len(self.validators))


def initial_set(params: ChainParams) -> ValidatorSet:
    """Return the founders as the set of round 0, which signs from height 1 on."""
    return ValidatorSet(0, 1, params.bft.validators)
