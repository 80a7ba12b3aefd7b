"""The restart of a consortium that lost more than a third of its validators for good.

Without a quorum nothing becomes final any more, and no rule of the chain can bring new validators in. So
people decide: they write a restart, which names the last block of the old round and the set that goes on, and
each member of that set signs it. Operators give it to their nodes by hand; no node takes one from a peer.

Why it contradicts nothing that was final: at least n - q + 1 of the old set sign. Every quorum shares a
member with them, so one of them cast its commit vote for any block that was ever final, and says by its
signature that its lock is no higher than the certificate here. By the argument of CONSENSUS.md, 2.8, that
certificate is then for the final block or a descendant. It may be a prepare certificate: its block,
which a quorum found valid, becomes final by the restart itself. The same n - q + 1 never vote in the old
round again, so those who were taken for lost are no quorum should they come back. The procedure is in
docs/recovery.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from consensus import canonical
from consensus.bft.certificates import check_qc
from consensus.bft.codec import decode_qc, encode_qc
from consensus.bft.config import Electorate, VoterSet
from consensus.bft.quorum import quorum
from consensus.bft.types import QC, Kind
from consensus.chain import ChainTip
from consensus.errors import DecodeError, RuleError
from consensus.hashes import sha256, tagged_hash
from consensus.keys import sign_schnorr, verify_schnorr, xonly_from_secret
from consensus.ledger_limits import (
    MAX_RESTART_BYTES,
    MAX_RESTART_DISMISSED,
    MAX_RESTART_REASON_CHARS,
    MAX_VALIDATORS,
)
from consensus.params import ChainParams, Validator
from consensus.ports import Contracts, StateView
from consensus.rounds import NOW, Round, current, encode_round, encode_set, record_of, set_key
from consensus.transaction import hash_hex
from consensus.validators import check_entry

_VERSION = 1
_TAG = "wattd/restart"
_HASH, _SIGNATURE = 32, 64
_U32 = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Restart:
    """A restart file. ``signatures`` has 64 bytes per member, in their order, b"" where one is missing.

    ``round`` is the number of the new set, which signs from ``height`` + 1 on; ``block_hash`` is the block
    at ``height``, and ``certificate`` the old round's highest for it: of kind COMMIT, or PREPARE where no
    survivor has the commit certificate. ``members`` are in voting order. ``dismissed`` are the accounts of
    organisations that lose vote and role, ascending. ``reason`` is for people.
    """

    chain_id: bytes
    round: int
    height: int
    block_hash: bytes
    certificate: QC
    members: tuple[Validator, ...]
    dismissed: tuple[bytes, ...]
    reason: str
    signatures: tuple[bytes, ...]

    @property
    def missing(self) -> tuple[Validator, ...]:
        """Return the members that have not signed."""
        return tuple([m for m, sig in zip(self.members, self.signatures, strict=True) if not sig])


def needed_signers(n: int) -> int:
    """Return how many of an old set of ``n`` must sign: n - q + 1, one more than a quorum can miss.

    That is f + 1, and f + 2 where n is a multiple of 3: the others alone are never a quorum.
    """
    return n - quorum(n) + 1


# ---- making and signing ------------------------------------------------------------------------------


def digest(restart: Restart) -> bytes:
    """Return the 32 bytes that every member signs: tagged hash "wattd/restart" of all but signatures."""
    return tagged_hash(_TAG, canonical.encode(_fields(restart)))


def draft(restart: Restart) -> Restart:
    """Return the same restart without signatures."""
    return replace(restart, signatures=(b"",) * len(restart.members))


def sign(restart: Restart, vote_secret: bytes) -> Restart:
    """Return the restart with the signature of the member that holds ``vote_secret``.

    Raises RuleError "restart-not-a-member".
    """
    key = xonly_from_secret(vote_secret)
    for place, member in enumerate(restart.members):
        if member.vote_key == key:
            signatures = list(restart.signatures)
            signatures[place] = sign_schnorr(vote_secret, digest(restart))
            return replace(restart, signatures=tuple(signatures))
    raise RuleError("restart-not-a-member", "this node's vote key is not in the new set")


def join(parts: Sequence[Restart]) -> Restart:
    """Return one restart with the signatures of all copies. Raises RuleError "restart-different"."""
    first = parts[0]
    if any(digest(part) != digest(first) for part in parts):
        raise RuleError("restart-different", "these files are not copies of one restart")
    columns = zip(*[part.signatures for part in parts], strict=True)
    return replace(first, signatures=tuple([max(column, key=len) for column in columns]))


# ---- checking ----------------------------------------------------------------------------------------


def check_form(restart: Restart, chain_id: bytes, chain_name: str) -> None:
    """Check what can be checked without the chain, missing signatures apart; those that are there must hold.

    Raises RuleError: restart-wrong-chain, restart-bad-set, restart-bad-certificate, restart-wrong-round,
    bad-vote-signature and bad-identity-signature (an entry), restart-bad-signature.
    """
    if restart.chain_id != chain_id:
        raise RuleError("restart-wrong-chain", f"it is for chain {hash_hex(restart.chain_id)}")
    members, qc = restart.members, restart.certificate
    for what in ("vote_key", "identity_key", "name"):
        if len({getattr(member, what) for member in members}) != len(members):
            raise RuleError("restart-bad-set", f"two members have the same {what.replace('_', ' ')}")
    accounts = {member.payout_script for member in members}
    if any(account in accounts for account in restart.dismissed):
        raise RuleError("restart-bad-set", "a member is dismissed")
    if (qc.height, qc.block_hash) != (restart.height, restart.block_hash):
        raise RuleError("restart-bad-certificate", "it is for another block")
    if qc.round != restart.round - 1:
        raise RuleError(
            "restart-wrong-round", f"round {restart.round}, with a certificate of round {qc.round}"
        )
    for member in members:
        check_entry(chain_name, member)
    signed = digest(restart)
    for member, signature in zip(members, restart.signatures, strict=True):
        if signature and not verify_schnorr(member.vote_key, signed, signature):
            raise RuleError("restart-bad-signature", f"not the signature of {member.name}")


def check_signed(restart: Restart) -> None:
    """Check that no signature is missing. Raises RuleError "restart-unsigned"."""
    if restart.missing:
        names = ", ".join([member.name for member in restart.missing])
        raise RuleError("restart-unsigned", f"not signed by {names}")


def check_follows(restart: Restart, found: Round) -> None:
    """Check a restart against the round that it ends.

    Raises RuleError: restart-wrong-round, restart-wrong-height, restart-too-few, restart-bad-certificate.
    """
    if restart.round != found.number + 1:
        raise RuleError("restart-wrong-round", f"round {restart.round} does not follow round {found.number}")
    if restart.height < found.first_height - 1:
        raise RuleError("restart-wrong-height", f"round {found.number} begins at {found.first_height}")
    new = {member.vote_key for member in restart.members}
    kept = sum(member.vote_key in new for member in found.members)
    needed = needed_signers(len(found.members))
    if kept < needed:
        raise RuleError(
            "restart-too-few",
            f"{kept} of the {len(found.members)} validators of round {found.number} are in the new set, "
            f"at least {needed} must vouch for the height",
        )
    # Only where nothing was committed in the old round can the certificate be the round's own base.
    base = found.base(restart.block_hash)
    electorate = Electorate(restart.chain_id, VoterSet.of(found.validator_set), base)
    try:
        check_qc(electorate, restart.certificate, restart.certificate.kind)
    except RuleError as error:
        raise RuleError("restart-bad-certificate", f"of round {found.number}: {error}") from error


def check_members(restart: Restart, known: Sequence[Validator]) -> None:
    """Check that every member is an organisation that the chain knows, by the very entry it knows.

    Raises RuleError "restart-unknown-member".
    """
    for member in restart.members:
        if member not in known:
            raise RuleError("restart-unknown-member", f"the chain has no such entry of {member.name}")


@lru_cache(maxsize=8)
def check_whole(restart: Restart, found: Round, chain_id: bytes, chain_name: str) -> None:
    """Check all that a complete restart must satisfy but for its members; codes as of the parts.

    The results that hold are remembered: a chain that stands at the restart asks again and again.
    """
    check_form(restart, chain_id, chain_name)
    check_signed(restart)
    check_follows(restart, found)


# ---- what it does ------------------------------------------------------------------------------------


def decree(restart: Restart) -> QC | None:
    """Return the certificate without signatures by which a prepared block is final; None if none is needed.

    It holds only where it equals what a restart of the node's own says.
    """
    qc = restart.certificate
    if qc.kind is Kind.COMMIT or not qc.sigs:
        return None
    return qc._replace(kind=Kind.COMMIT, bitmap=b"", sigs=())


def decreed(restarts: Mapping[bytes, Restart], found: Round) -> tuple[QC, ...]:
    """Return what ``decree`` says of the restarts that end a round."""
    certificates = [decree(each) for each in restarts.values() if each.round == found.number + 1]
    return tuple([qc for qc in certificates if qc is not None])


def round_shown(qc: QC, decrees: Sequence[QC]) -> int:
    """Return the round whose members a commit certificate shows to be at work.

    One without signatures is by decree; where it is none of ours, a restart began the next round.
    """
    return qc.round if qc.sigs or qc in decrees else qc.round + 1


def round_after(restart: Restart, found: Round, base_term: int) -> Round:
    """Return the round that a checked restart begins after ``found``; ``base_term`` is the last header's.

    The epoch goes on, so its seed stays; the order of candidates is drawn as after a substitution.
    """
    first = restart.height + 1
    return Round(
        number=restart.round,
        epoch=found.epoch,
        first_height=first,
        seed=found.seed,
        slot_seed=sha256(found.seed + restart.height.to_bytes(4, "little")),
        base_term=base_term,
        members=restart.members,
    )


def effects(
    restarts: Mapping[bytes, Restart],
    parent: ChainTip,
    state: StateView,
    params: ChainParams,
    chain_id: bytes,
    contracts: Contracts,
) -> dict[bytes, bytes | None]:
    """Return what a restart at ``parent`` writes before anything else of the next block; {} without one.

    ``state`` is that at the parent. The next block runs on the state with these writes, and its effects
    contain them. Raises RuleError for a restart that does not hold: the chain does not go on by it.
    """
    restart = restarts.get(parent.block_hash)
    if restart is None:
        return {}
    found = current(state, params, chain_id)
    check_whole(restart, found, chain_id, params.name)
    organisations = [each.entry for each in contracts.candidates(state, parent.time_s)]
    check_members(restart, [*found.members, *found.alternates, *organisations])
    new = round_after(restart, found, parent.term)
    writes: dict[bytes, bytes | None] = dict(contracts.dismiss(state, restart.dismissed))
    writes[NOW] = encode_round(new)
    writes[set_key(new.number)] = encode_set(record_of(new))
    return writes


# ---- bytes -------------------------------------------------------------------------------------------


def encode_restart(restart: Restart) -> bytes:
    """Return the bytes of a restart file: canonical MessagePack."""
    return canonical.encode([*_fields(restart), list(restart.signatures)])


def decode_restart(data: bytes) -> Restart:
    """Read a restart file; nothing is judged but the form. Raises DecodeError "bad-restart-file"."""
    if len(data) > MAX_RESTART_BYTES:
        raise _bad(f"{len(data)} bytes, at most {MAX_RESTART_BYTES}")
    try:
        value = canonical.decode(data)
    except DecodeError as error:
        raise _bad(str(error)) from None
    match value:
        case [
            1,
            bytes(chain_id),
            int(number),
            int(height),
            bytes(block_hash),
            bytes(certificate),
            [*members],
            [*dismissed],
            str(reason),
            [*signatures],
        ] if len(chain_id) == len(block_hash) == _HASH:
            if bool in map(type, (value[0], number, height)):
                raise _bad("numbers")
            if not 1 <= number <= _U32 or not 0 <= height < _U32:
                raise _bad("round or height is out of range")
            if len(reason) > MAX_RESTART_REASON_CHARS or not reason.isprintable():
                raise _bad(f"the reason is one line of at most {MAX_RESTART_REASON_CHARS} characters")
            return Restart(
                chain_id,
                number,
                height,
                block_hash,
                _certificate(certificate),
                tuple([_member(each) for each in _at_most(members, MAX_VALIDATORS, 1)]),
                _accounts(dismissed),
                reason,
                _signatures(signatures, len(members)),
            )
    raise _bad("not a restart file of this version")


def _fields(restart: Restart) -> list[Any]:
    return [
        _VERSION,
        restart.chain_id,
        restart.round,
        restart.height,
        restart.block_hash,
        encode_qc(restart.certificate),
        [
            [
                member.name,
                member.role,
                member.vote_key,
                member.identity_key,
                member.payout_script,
                member.vote_signature,
                member.identity_signature,
            ]
            for member in restart.members
        ],
        list(restart.dismissed),
        restart.reason,
    ]


def _bad(reason: str) -> DecodeError:
    return DecodeError("bad-restart-file", reason)


def _at_most(values: list[Any], most: int, least: int = 0) -> list[Any]:
    if not least <= len(values) <= most:
        raise _bad(f"a list of {len(values)}, {least} to {most} are allowed")
    return values


def _certificate(data: bytes) -> QC:
    try:
        return decode_qc(data)
    except DecodeError as error:
        raise _bad(f"its certificate: {error}") from None


def _member(value: object) -> Validator:
    match value:
        case [
            str(name),
            str(role),
            bytes(vote_key),
            bytes(identity_key),
            bytes(payout_script),
            bytes(vote_signature),
            bytes(identity_signature),
        ] if (
            len(vote_key) == len(identity_key) == _HASH
            and len(vote_signature) == len(identity_signature) == _SIGNATURE
        ):
            return Validator(
                name, role, vote_key, identity_key, payout_script, vote_signature, identity_signature
            )
    raise _bad("a member")


def _accounts(values: list[Any]) -> tuple[bytes, ...]:
    found = _at_most(values, MAX_RESTART_DISMISSED)
    if not all(type(each) is bytes and each for each in found) or found != sorted(set(found)):
        raise _bad("dismissed accounts are distinct and ascending")
    return tuple(found)


def _signatures(values: list[Any], count: int) -> tuple[bytes, ...]:
    if len(values) != count or not all(type(s) is bytes and len(s) in (0, _SIGNATURE) for s in values):
        raise _bad("signatures")
    return tuple(values)
