"""A light client: is this transaction final? Answered with headers, one certificate and a Merkle branch.

It trusts one validator set and follows each change of it, which the last block of a round commits
(``next_set_hash``) and the set before has certified (CONSENSUS.md, section 4). A client may skip rounds:
where f + 1 members of the set that it trusts signed a later certificate, one of them is honest, and no
honest validator signs for a set that the chain did not choose (each vote binds the set's hash). That trusts
more: who follows each round is deceived by a quorum only, who skips by f + 1. So it needs a fresh trust.

All functions are pure; a check costs one batch of signatures and some twenty hashes. An operation that its
contract refuses makes its transaction invalid, so a final transaction is one that took effect.

RuleError codes, beside those of ``consensus.bft.certificates`` and ``consensus.commitment``:
``light-wrong-chain``, ``light-trust-expired``, ``light-unknown-round``, ``light-bad-set``,
``light-skip-refused``, ``light-skip-unknown``, ``light-conflict``, ``light-bad-link``, ``light-bad-branch``,
``light-bad-history``, ``light-bad-transaction`` and ``light-time-outside``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from consensus import canonical
from consensus.bft.certificates import check_qc, members_of
from consensus.bft.codec import decode_qc, encode_qc
from consensus.bft.config import Electorate, VoterSet, genesis_base
from consensus.bft.limits import MAX_VALIDATORS
from consensus.bft.quorum import faults
from consensus.bft.types import QC, Kind
from consensus.block import HEADER_SIZE, BlockHeader
from consensus.commitment import Commitment, find_commitment
from consensus.errors import DecodeError, RuleError
from consensus.hashes import sha256d
from consensus.history import verify as verify_history
from consensus.light_limits import (
    MAX_BRANCH,
    MAX_HISTORY_PATH,
    MAX_LINKS,
    MAX_PROOF_BYTES,
    MAX_ROUND_STEPS,
    MERKLE_NODE_BYTES,
)
from consensus.transaction import Transaction
from consensus.validators import set_hash

_VERSION = 2
_HASH = 32


@dataclass(frozen=True, slots=True)
class Signers:
    """The vote keys of a round in voting order, x-only, 32 bytes each."""

    round: int
    first_height: int
    keys: tuple[bytes, ...]

    @property
    def set_hash(self) -> bytes:
        """Return what votes and commitments name this set by."""
        return set_hash(self.round, self.first_height, self.keys)

    def voters(self) -> VoterSet:
        """Return the set with its quorum. Raises RuleError "light-bad-set"."""
        try:
            return VoterSet(self.round, self.first_height, self.set_hash, self.keys)
        except ValueError as error:
            raise RuleError("light-bad-set", str(error)) from None


@dataclass(frozen=True, slots=True)
class Trust:
    """What a client knows for certain: the chain, its present signers, and a block that was final.

    ``chain_id`` is the hash of the genesis block. A device gets it once over a channel that it trusts.
    """

    chain_id: bytes
    signers: Signers
    height: int
    block_hash: bytes
    time_s: int


@dataclass(frozen=True, slots=True)
class Certified:
    """A header and why it is final: a commit certificate on it, or on the last of at most 2 ``links``."""

    header: BlockHeader
    links: tuple[BlockHeader, ...]
    certificate: QC

    @property
    def height(self) -> int:
        """Return the height of ``header``, which the certificate implies."""
        return self.certificate.height - len(self.links)


@dataclass(frozen=True, slots=True)
class CoinbaseProof:
    """The coinbase of a block with its Merkle branch: what the block commits to."""

    coinbase: Transaction
    branch: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RoundStep:
    """The last block of a round, its coinbase, and the signers of the next round.

    ``voters``: who signed that block, if rounds are skipped: between the set that the client trusts and it.
    """

    boundary: Certified
    coinbase: CoinbaseProof
    signers: Signers
    voters: Signers | None = None


@dataclass(frozen=True, slots=True)
class HistoryPath:
    """Proves an older header by the history root of a certified one: audit path, lowest first."""

    coinbase: CoinbaseProof
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TxProof:
    """Proof that a transaction is final.

    ``header`` is that of its block at ``height``; ``certified`` is the same header, or a later one whose
    ``history`` contains it. ``rounds`` lead from the client's set to the one that signed.
    """

    chain_id: bytes
    tx: Transaction
    index: int
    branch: tuple[bytes, ...]
    header: BlockHeader
    height: int
    certified: Certified
    history: HistoryPath | None = None
    rounds: tuple[RoundStep, ...] = ()


@dataclass(frozen=True, slots=True)
class Verified:
    """A transaction that is final, its block, and what the client may trust from now on."""

    tx: Transaction
    height: int
    header: BlockHeader
    trust: Trust


def check_proof(
    trust: Trust,
    proof: TxProof,
    *,
    now_s: int | None = None,
    trusting_period_s: int | None = None,
    window_s: tuple[int, int] | None = None,
    skipping: bool = False,
) -> Verified:
    """Return what a proof shows, given what the client trusts. Raises RuleError if it shows nothing.

    ``window_s``: the block's time must be in it, both ends included. The rest is as in ``follow``.
    """
    if proof.chain_id != trust.chain_id:
        raise RuleError("light-wrong-chain", "the proof is of another chain")
    trust = follow(trust, proof.rounds, now_s=now_s, trusting_period_s=trusting_period_s, skipping=skipping)
    signers, certified = trust.signers, proof.certified
    tip = _check_certified(trust.chain_id, signers, certified)
    _agree(trust, certified.certificate)
    if certified.header != proof.header:
        _check_history(proof)
    elif proof.height != certified.height or proof.history is not None:
        raise RuleError("light-bad-history", "the height is not the certified one")
    _check_transaction(proof)
    time_s = proof.header.time_s
    if window_s is not None and not window_s[0] <= time_s <= window_s[1]:
        raise RuleError("light-time-outside", f"the block is of time {time_s}")
    reached = trust
    if certified.certificate.height > trust.height:
        reached = Trust(trust.chain_id, signers, certified.certificate.height, tip.hash, tip.time_s)
    return Verified(proof.tx, proof.height, proof.header, reached)


def follow(
    trust: Trust,
    steps: Sequence[RoundStep],
    *,
    now_s: int | None = None,
    trusting_period_s: int | None = None,
    skipping: bool = False,
) -> Trust:
    """Return what a client may trust after ``steps``. Raises RuleError at the first that does not hold.

    Steps to rounds that the client knows or is past are passed over. With ``now_s`` and
    ``trusting_period_s`` a trust older than that is refused: keys of that time may be in other hands. Only
    with both, and ``skipping``, steps may skip rounds.
    """
    is_aged = now_s is not None and trusting_period_s is not None
    if now_s is not None and trusting_period_s is not None and now_s - trust.time_s > trusting_period_s:
        raise RuleError("light-trust-expired", f"it is {now_s - trust.time_s} s old", permanent=False)
    for step in steps:
        if step.signers.round <= trust.signers.round:
            continue
        if step.voters is not None and not (skipping and is_aged):
            raise RuleError("light-skip-refused", f"from round {trust.signers.round}")
        signers = next_signers(trust.chain_id, trust.signers, step)
        boundary = step.boundary
        _agree(trust, boundary.certificate)
        trust = replace(trust, signers=signers)
        if boundary.height > trust.height:
            header = boundary.header
            trust = Trust(trust.chain_id, signers, boundary.height, header.hash, header.time_s)
    return trust


def next_signers(chain_id: bytes, trusted: Signers, step: RoundStep) -> Signers:
    """Return who signs after a step, given a set that is trusted. Raises RuleError if it does not hold."""
    boundary, following = step.boundary, step.signers
    signers = trusted if step.voters is None else step.voters
    _check_certified(chain_id, signers, boundary)
    if signers is not trusted:
        _check_known(trusted, signers, boundary.certificate)
    if boundary.links:
        raise RuleError("light-bad-link", "the last block of a round has a certificate of its own")
    commitment = _commitment(boundary.header, step.coinbase)
    if commitment.set_hash != signers.set_hash:
        raise RuleError("light-bad-set", "the block is signed by another set than it commits to")
    if following.round != signers.round + 1 or following.first_height != boundary.height + 1:
        raise RuleError("light-bad-set", "the next set does not follow")
    if commitment.next_set_hash != following.set_hash:
        raise RuleError("light-bad-set", "not the next set that the block commits to")
    return following


def can_skip(trusted: Signers, voters: Signers, certificate: QC) -> bool:
    """Return whether more members of ``trusted`` signed a later certificate than may be dishonest.

    ``voters``: the set that the certificate is of.
    """
    known = {voters.keys[member] for member in members_of(certificate.bitmap)}
    return sum(key in known for key in trusted.keys) > faults(len(trusted.keys))


def _check_known(trusted: Signers, voters: Signers, certificate: QC) -> None:
    if voters.round <= trusted.round or voters.first_height < trusted.first_height:
        raise RuleError("light-bad-set", f"round {voters.round} does not follow round {trusted.round}")
    if not can_skip(trusted, voters, certificate):
        raise RuleError("light-skip-unknown", f"too few of round {trusted.round} signed in {voters.round}")


def _agree(trust: Trust, certificate: QC) -> None:
    """Check that what a quorum signed is not a rival of what is trusted."""
    if (certificate.height, certificate.block_hash) == (trust.height, trust.block_hash):
        return
    if certificate.height == trust.height:
        raise RuleError("light-conflict", f"another block is certified at height {trust.height}")


def _check_certified(chain_id: bytes, signers: Signers, certified: Certified) -> BlockHeader:
    """Return the header that the certificate names. Raises RuleError."""
    if len(certified.links) > MAX_LINKS:
        raise RuleError("light-bad-link", f"{len(certified.links)} links, at most {MAX_LINKS}")
    last = certified.header
    for link in certified.links:
        if link.prev_hash != last.hash:
            raise RuleError("light-bad-link", "a header does not follow the one before")
        last = link
    certificate = certified.certificate
    if certificate.round != signers.round:
        raise RuleError("light-unknown-round", f"round {certificate.round}, trusted is {signers.round}")
    if certificate.block_hash != last.hash or certified.height < signers.first_height:
        raise RuleError("light-bad-link", "the certificate is of another block")
    # The base of a round needs no signatures; as a commit certificate it does not exist.
    electorate = Electorate(chain_id, signers.voters(), genesis_base(chain_id))
    check_qc(electorate, certificate, Kind.COMMIT)
    return last


def _commitment(header: BlockHeader, proof: CoinbaseProof) -> Commitment:
    if not proof.coinbase.is_coinbase or _stripped_size(proof.coinbase) == MERKLE_NODE_BYTES:
        raise RuleError("light-bad-branch", "not a coinbase")
    if _fold(proof.coinbase.txid, proof.branch, 0) != header.merkle_root:
        raise RuleError("light-bad-branch", "the coinbase is not in the block")
    return find_commitment(proof.coinbase)


def _check_history(proof: TxProof) -> None:
    certified, history = proof.certified, proof.history
    if history is None:
        raise RuleError("light-bad-history", "another header is certified, and no history leads to it")
    if len(history.path) > MAX_HISTORY_PATH:
        raise RuleError("light-bad-history", "the path is too long")
    commitment = _commitment(certified.header, history.coinbase)
    header_hash, count = proof.header.hash, certified.height
    if not verify_history(header_hash, proof.height, count, history.path, commitment.history_root):
        raise RuleError("light-bad-history", "the header is not in the certified history")


def _check_transaction(proof: TxProof) -> None:
    """The branch leads from the transaction to the header's Merkle root.

    A transaction of 64 bytes could be an inner node (CVE-2017-12842); one with an equal sibling on its left
    is a copy that no block has (CVE-2012-2459).
    """
    if _stripped_size(proof.tx) == MERKLE_NODE_BYTES:
        raise RuleError("light-bad-transaction", "64 bytes: it could be an inner node of the tree")
    if _fold(proof.tx.txid, proof.branch, proof.index) != proof.header.merkle_root:
        raise RuleError("light-bad-branch", "the transaction is not in the block")


def _stripped_size(tx: Transaction) -> int:
    """Return the bytes without witness, which the txid is the hash of (BIP141)."""
    return (tx.weight - len(tx.raw)) // 3


def _fold(leaf: bytes, branch: Sequence[bytes], index: int) -> bytes:
    if len(branch) > MAX_BRANCH or index >> len(branch):
        raise RuleError("light-bad-branch", "its length does not fit the place")

    def climb(node: tuple[bytes, int], sibling: bytes) -> tuple[bytes, int]:
        below, at = node
        if not at & 1:
            return sha256d(below + sibling), at >> 1
        if below == sibling:
            raise RuleError("light-bad-branch", "a repeated run of transactions")
        return sha256d(sibling + below), at >> 1

    return reduce(climb, branch, (leaf, index))[0]


# ---- bytes -------------------------------------------------------------------------------------


def encode_proof(proof: TxProof) -> bytes:
    """Return a proof as canonical MessagePack."""
    history = proof.history
    fields = [
        _VERSION,
        proof.chain_id,
        proof.tx.raw,
        proof.index,
        _join(proof.branch),
        proof.height,
        proof.header.raw,
        None if proof.certified.header == proof.header else proof.certified.header.raw,
        *_pack_evidence(proof.certified),
        None if history is None else [_pack_coinbase(history.coinbase), _join(history.path)],
        [_pack_step(step) for step in proof.rounds],
    ]
    return canonical.encode(fields)


def decode_proof(data: bytes) -> TxProof:
    """Read what ``encode_proof`` wrote. Raises DecodeError; nothing is judged but the form."""
    if len(data) > MAX_PROOF_BYTES:
        raise DecodeError("bad-proof", f"{len(data)} bytes, at most {MAX_PROOF_BYTES}")
    match canonical.decode(data):
        case [
            2,
            bytes(chain_id),
            bytes(tx),
            int(index),
            bytes(branch),
            int(height),
            bytes(header),
            anchor,
            bytes(links),
            bytes(certificate),
            history,
            [*rounds],
        ] if len(rounds) <= MAX_ROUND_STEPS and min(index, height) >= 0 and len(chain_id) == _HASH:
            if bool in (type(index), type(height)):
                raise DecodeError("bad-proof", "numbers")
            own = BlockHeader.parse(header)
            certified = own if anchor is None else BlockHeader.parse(_bytes(anchor))
            return TxProof(
                chain_id,
                Transaction.parse(tx),
                index,
                _split(branch, MAX_BRANCH),
                own,
                height,
                _certified(certified, links, certificate),
                None if history is None else _history(history),
                tuple([_step(step) for step in rounds]),
            )
    raise DecodeError("bad-proof", "not a proof of this version")


def encode_steps(chain_id: bytes, steps: Sequence[RoundStep]) -> bytes:
    """Return a page of steps as canonical MessagePack."""
    return canonical.encode([_VERSION, chain_id, [_pack_step(step) for step in steps]])


def decode_steps(data: bytes) -> tuple[bytes, tuple[RoundStep, ...]]:
    """Read what ``encode_steps`` wrote: (chain id, steps). Raises DecodeError; only the form is judged."""
    if len(data) > MAX_PROOF_BYTES:
        raise DecodeError("bad-proof", f"{len(data)} bytes, at most {MAX_PROOF_BYTES}")
    match canonical.decode(data):
        case [2, bytes(chain_id), [*steps]] if len(chain_id) == _HASH and len(steps) <= MAX_ROUND_STEPS:
            return chain_id, tuple([_step(step) for step in steps])
    raise DecodeError("bad-proof", "not a page of rounds of this version")


def encode_step(step: RoundStep) -> bytes:
    """Return one step as canonical MessagePack."""
    return canonical.encode(_pack_step(step))


def decode_step(data: bytes) -> RoundStep:
    """Read what ``encode_step`` wrote. Raises DecodeError; nothing is judged but the form."""
    return _step(canonical.decode(data))


def _pack_evidence(certified: Certified) -> list[bytes]:
    return [b"".join(link.raw for link in certified.links), encode_qc(certified.certificate)]


def _pack_step(step: RoundStep) -> list[Any]:
    head = [step.boundary.header.raw, *_pack_evidence(step.boundary)]
    voters = None if step.voters is None else _pack_signers(step.voters)
    return [*head, _pack_coinbase(step.coinbase), _pack_signers(step.signers), voters]


def _pack_coinbase(proof: CoinbaseProof) -> list[bytes]:
    return [proof.coinbase.raw, _join(proof.branch)]


def _pack_signers(signers: Signers) -> list[int | bytes]:
    return [signers.round, signers.first_height, _join(signers.keys)]


def _certified(header: BlockHeader, links: bytes, certificate: bytes) -> Certified:
    if len(links) % HEADER_SIZE or len(links) > MAX_LINKS * HEADER_SIZE:
        raise DecodeError("bad-proof", "links")
    parts = [links[at : at + HEADER_SIZE] for at in range(0, len(links), HEADER_SIZE)]
    return Certified(header, tuple([BlockHeader.parse(part) for part in parts]), decode_qc(certificate))


def _coinbase(value: object) -> CoinbaseProof:
    match value:
        case [bytes(raw), bytes(branch)]:
            return CoinbaseProof(Transaction.parse(raw), _split(branch, MAX_BRANCH))
    raise DecodeError("bad-proof", "coinbase")


def _history(value: object) -> HistoryPath:
    match value:
        case [coinbase, bytes(path)]:
            return HistoryPath(_coinbase(coinbase), _split(path, MAX_HISTORY_PATH))
    raise DecodeError("bad-proof", "history")


def _step(value: object) -> RoundStep:
    match value:
        case [bytes(header), bytes(links), bytes(certificate), coinbase, following, voters]:
            return RoundStep(
                _certified(BlockHeader.parse(header), links, certificate),
                _coinbase(coinbase),
                _signers(following),
                None if voters is None else _signers(voters),
            )
    raise DecodeError("bad-proof", "round")


def _signers(value: object) -> Signers:
    match value:
        case [int(number), int(first_height), bytes(keys)] if min(number, first_height) >= 0:
            if max(number, first_height) >> 32 == 0:
                return Signers(number, first_height, _split(keys, MAX_VALIDATORS))
    raise DecodeError("bad-proof", "signers")


def _join(hashes: Sequence[bytes]) -> bytes:
    return b"".join(hashes)


def _split(data: bytes, most: int) -> tuple[bytes, ...]:
    if len(data) % _HASH or len(data) > most * _HASH:
        raise DecodeError("bad-proof", "hashes")
    return tuple([data[at : at + _HASH] for at in range(0, len(data), _HASH)])


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise DecodeError("bad-proof", "bytes")
    return value
