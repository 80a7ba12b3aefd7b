"""Rounds of a bft chain: who signs which heights, as the chain's state says (CONSENSUS.md, section 2.12).

A round is one validator set; an epoch is the period of one election. The last block of a round, its
boundary, commits to the next set (``next_set_hash``), so each change is certified by the set before it. What
is kept in the contract state under ``round/`` is written by these rules alone and by no contract, but for the
reveal chains that organisations register. A chain whose first epoch has not ended has nothing there: round 0
is the founders.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from consensus import canonical
from consensus.bft.types import QC, Kind
from consensus.dpos import first_seed
from consensus.params import ChainParams, Validator
from consensus.ports import StateView
from consensus.validators import ValidatorSet, initial_set, set_hash

PREFIX = b"round/"
NOW = b"round/now"
SET = b"round/set/"
BASE = b"round/base"
DUTY = b"round/duty"
MIX = b"round/mix"
REVEAL = b"round/reveal/"
OFFENCE = b"round/offence/"
EVIDENCE = b"round/evidence/"

_KEY_BYTES = 32
_CACHED_ROUNDS = 8
"""Decoded records kept: those of the committed tip and of blocks under way, with room for tests' chains."""


@dataclass(frozen=True, slots=True)
class Round:
    """A validator set with what it came from; hashes and seeds are 32 bytes.

    ``seed`` is the epoch's, from which the next one is derived; ``slot_seed`` orders the candidates of each
    term. ``base_term`` is the header term of the boundary block before, 0 in round 0: the round's terms
    begin above it. ``alternates`` stand in for delegates that fail.
    """

    number: int
    epoch: int
    first_height: int
    seed: bytes
    slot_seed: bytes
    base_term: int
    members: tuple[Validator, ...]
    alternates: tuple[Validator, ...] = ()
    validator_set: ValidatorSet = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "validator_set", ValidatorSet(self.number, self.first_height, self.members))

    def base(self, block_hash: bytes) -> QC:
        """Return what the round's engine stands on: the boundary block before, as prepared.

        Its term is the header's. Nodes may hold commit certificates of different terms for that block, and
        the base has to be the same for all of them.
        """
        if not self.number:
            return QC(Kind.PREPARE, 0, 0, 0, block_hash, b"", ())
        return QC(Kind.PREPARE, self.number, self.base_term, self.first_height - 1, block_hash, b"", ())


class SetRecord(NamedTuple):
    """What is kept of every round: x-only vote keys in voting order, and whose account each answers for."""

    first_height: int
    epoch: int
    keys: tuple[bytes, ...]
    accounts: tuple[bytes, ...]


class RevealChain(NamedTuple):
    """The hash chain from which an organisation reveals: SHA256 of what comes next is ``top``.

    ``left`` reveals remain. It counts from epoch ``from_epoch`` on, so nobody can choose it knowing what
    the others reveal. ``generation`` tells the owner which of its chains this is.
    """

    top: bytes
    left: int
    generation: int
    from_epoch: int


# ---- the current round -----------------------------------------------------------------------------


def founding(params: ChainParams, chain_id: bytes) -> Round:
    """Return round 0: the founders, from height 1 on."""
    seed = first_seed(chain_id)
    return Round(0, 0, 1, seed, seed, 0, initial_set(params).validators)


def current(state: StateView, params: ChainParams, chain_id: bytes) -> Round:
    """Return the round that signs the child of the block whose state this is."""
    value = state.get(NOW)
    return founding(params, chain_id) if value is None else decode_round(value)


def set_record(state: StateView, params: ChainParams, chain_id: bytes, number: int) -> SetRecord | None:
    """Return the set of any round up to the current one, None for others."""
    if number == 0:
        return record_of(founding(params, chain_id))
    value = state.get(set_key(number))
    return None if value is None else decode_set(value)


def set_records(state: StateView) -> Iterator[tuple[int, SetRecord]]:
    """Yield (number, set) of all rounds from 1 on, in order."""
    for key, value in state.scan(SET):
        yield int.from_bytes(key[len(SET) :], "big"), decode_set(value)


def record_of(found: Round) -> SetRecord:
    """Return what is kept of a round."""
    keys = tuple([member.vote_key for member in found.members])
    accounts = tuple([member.payout_script for member in found.members])
    return SetRecord(found.first_height, found.epoch, keys, accounts)


def set_hash_of(number: int, record: SetRecord) -> bytes:
    """Return the set hash of a kept round."""
    return set_hash(number, record.first_height, record.keys)


def reveal_chain(state: StateView, account: bytes) -> RevealChain | None:
    """Return the reveal chain that an organisation has registered."""
    value = state.get(REVEAL + account)
    return None if value is None else RevealChain(*canonical.decode(value))


def offences(state: StateView) -> dict[bytes, int]:
    """Return the epoch up to which, it not included, each offender is barred, by account."""
    return {key[len(OFFENCE) :]: int.from_bytes(value, "big") for key, value in state.scan(OFFENCE)}


# ---- when a round ends -------------------------------------------------------------------------------


def epoch_ends(params: ChainParams, time_s: int, parent_time_s: int) -> bool:
    """Return whether a block is the first at or past a multiple of ``round_s`` of block time."""
    return time_s // params.bft.round_s != parent_time_s // params.bft.round_s


def may_substitute(params: ChainParams, time_s: int, parent_time_s: int) -> bool:
    """Return whether a block is the first at or past a multiple of ``substitution_s`` of block time."""
    return time_s // params.bft.substitution_s != parent_time_s // params.bft.substitution_s


# ---- bytes -------------------------------------------------------------------------------------------


def set_key(number: int) -> bytes:
    """Return where the set of a round is kept."""
    return SET + number.to_bytes(4, "big")


def encode_set(record: SetRecord) -> bytes:
    """Return a kept set as canonical MessagePack."""
    return canonical.encode([record.first_height, record.epoch, b"".join(record.keys), list(record.accounts)])


def decode_set(value: bytes) -> SetRecord:
    """Read what ``encode_set`` wrote."""
    first_height, epoch, keys, accounts = canonical.decode(value)
    split = tuple([keys[at : at + _KEY_BYTES] for at in range(0, len(keys), _KEY_BYTES)])
    return SetRecord(first_height, epoch, split, tuple(accounts))


def encode_round(found: Round) -> bytes:
    """Return a round as canonical MessagePack."""
    return canonical.encode(
        [
            found.number,
            found.epoch,
            found.first_height,
            found.seed,
            found.slot_seed,
            found.base_term,
            [_entry(member) for member in found.members],
            [_entry(member) for member in found.alternates],
        ]
    )


@lru_cache(maxsize=_CACHED_ROUNDS)
def decode_round(value: bytes) -> Round:
    """Read what ``encode_round`` wrote."""
    number, epoch, height, seed, slot_seed, term, members, alternates = canonical.decode(value)
    return Round(number, epoch, height, seed, slot_seed, term, _entries(members), _entries(alternates))


def encode_reveal_chain(chain: RevealChain) -> bytes:
    """Return the record of a reveal chain as canonical MessagePack."""
    return canonical.encode(list(chain))


def _entry(validator: Validator) -> list[Any]:
    return [
        validator.name,
        validator.role,
        validator.vote_key,
        validator.identity_key,
        validator.payout_script,
        validator.vote_signature,
        validator.identity_signature,
    ]


def _entries(values: list[list[Any]]) -> tuple[Validator, ...]:
    return tuple([Validator(*fields) for fields in values])
