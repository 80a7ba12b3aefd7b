"""Making proofs of final transactions from what a node stores, and reading what a client trusts."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from consensus.bft.codec import decode_qc
from consensus.block import Block, BlockHeader
from consensus.chain import ChainTip
from consensus.commitment import find_commitment
from consensus.errors import ConfigError, RuleError
from consensus.history import AuditPath
from consensus.light import (
    Certified,
    CoinbaseProof,
    HistoryPath,
    RoundStep,
    Signers,
    Trust,
    TxProof,
    can_skip,
    decode_step,
    encode_step,
)
from consensus.light_limits import MAX_LINKS, MAX_ROUND_STEPS, STEP_PAGE_BYTES
from consensus.merkle import branch
from consensus.params import ChainParams
from consensus.ports import StateView
from consensus.rounds import NOW, SetRecord, decode_round, founding, record_of, set_record
from consensus.transaction import hash_from_hex, hash_hex

_KINDS = {int: "an integer from 0 on", str: "a string", list: "an array"}


class ProofSource(Protocol):
    """The reads that a proof is made of (``node.rpc.backend.Backend``)."""

    @property
    def params(self) -> ChainParams:
        """Return the chain file."""
        ...

    @property
    def chain_id(self) -> bytes:
        """Return the genesis block hash."""
        ...

    def state(self) -> StateView:
        """Return the contract state at the committed tip."""
        ...

    def tip(self) -> ChainTip:
        """Return the committed tip."""
        ...

    def block(self, height: int, /) -> Block | None:
        """Read the block at ``height``."""
        ...

    def header(self, height: int, /) -> BlockHeader | None:
        """Return the header at ``height``."""
        ...

    def block_hash(self, height: int, /) -> bytes | None:
        """Return the block hash at ``height``."""
        ...

    def certificate(self, height: int, /) -> bytes | None:
        """Return the encoded certificate that covers block ``height``."""
        ...

    def round_end(self, height: int, /) -> bytes | None:
        """Return what proves the block at ``height``, kept if it ended a round (``round_end_of``)."""
        ...


# ---- proofs ------------------------------------------------------------------------------------


def make_proof(
    source: ProofSource,
    height: int,
    index: int,
    anchor: int | None = None,
    *,
    known_round: int = 0,
    skipping: bool = False,
) -> TxProof:
    """Return the proof of transaction ``index`` of the block at ``height``; see ``begin_proof``."""
    proof = begin_proof(source, height, index, anchor, known_round=known_round, skipping=skipping)
    if not needs_history(proof):
        return proof
    path = AuditPath(height, proof.certified.height)
    for at in range(path.count):
        path.add(source.block_hash(at) or b"")
    return with_history(source, proof, path)


def begin_proof(
    source: ProofSource,
    height: int,
    index: int,
    anchor: int | None = None,
    *,
    known_round: int = 0,
    skipping: bool = False,
) -> TxProof:
    """Return the proof of transaction ``index`` of the block at ``height``, but for what ``needs_history``.

    With ``anchor``, a later height, the block there is certified and its history proves the older one:
    one hash per block of the chain is computed. That is done too where the certificate is so far above
    the block that its links would be too many: a node that caught up has one for many blocks; and where
    it is of a round before ``known_round``, that of the set which the client trusts. The steps lead from
    there to the round of the certificate, and skip rounds with ``skipping``. Raises RuleError
    "proof-unavailable" for what was pruned or has no certificate, "proof-too-long" for too many steps.
    """
    block = _block(source, height)
    own = certified_header(source, height if anchor is None else anchor)
    if own.certificate.round < known_round and anchor is None:
        own = certified_header(source, _last_height_of(source, known_round))
    if not own.certificate.sigs:  # final by a restart; what follows it proves it
        own = certified_header(source, source.tip().height)
    if len(own.links) > MAX_LINKS:
        own = certified_header(source, own.certificate.height)
    if own.certificate.round < known_round or not own.certificate.sigs:
        raise RuleError("proof-unavailable", f"no block of round {known_round} yet", permanent=False)
    path = branch([tx.txid for tx in block.txs], index)
    last = own.certificate.round
    steps = make_steps(source, known_round, last, skipping=skipping) if known_round < last else ()
    if (steps[-1].signers.round if steps else known_round) < last:
        raise RuleError("proof-too-long", f"too many rounds since {known_round}; follow them first")
    tx = block.txs[index]
    return TxProof(source.chain_id, tx, index, path, block.header, height, own, None, steps)


def needs_history(proof: TxProof) -> bool:
    """Return whether a proof that was begun goes through the history of a later block."""
    return proof.certified.height != proof.height


def with_history(source: ProofSource, proof: TxProof, path: AuditPath) -> TxProof:
    """Return the whole proof, given the path over all blocks below the certified one."""
    block = _block(source, proof.certified.height)
    coinbase = CoinbaseProof(block.txs[0], branch([tx.txid for tx in block.txs], 0))
    return replace(proof, history=HistoryPath(coinbase, path.path()))


def certified_header(source: ProofSource, height: int) -> Certified:
    """Return the header at ``height`` with its certificate and the links to it. Raises RuleError."""
    header, encoded = source.header(height), source.certificate(height)
    if header is None or encoded is None:
        raise RuleError("proof-unavailable", f"no certificate for block {height}", permanent=False)
    certificate = decode_qc(encoded)
    links = [source.header(at) for at in range(height + 1, certificate.height + 1)]
    return Certified(header, tuple([link for link in links if link is not None]), certificate)


# ---- rounds ------------------------------------------------------------------------------------


def round_end_of(
    block: Block, certificate: bytes | None, state_writes: Mapping[bytes, bytes | None]
) -> bytes | None:
    """Return what proves a block that ended a round, None if it did not.

    It is a step of ``consensus.light`` without what skips. A node keeps it beside its blocks: proofs,
    snapshots and checks need it after the block was pruned.
    """
    written = state_writes.get(NOW)  # it is written by the first block after a restart, too
    if not certificate or written is None or find_commitment(block.txs[0]).next_set_hash is None:
        return None
    following = decode_round(written)
    boundary = Certified(block.header, (), decode_qc(certificate))
    coinbase = CoinbaseProof(block.txs[0], branch([tx.txid for tx in block.txs], 0))
    return encode_step(RoundStep(boundary, coinbase, signers_of(following.number, record_of(following))))


def signers_of(number: int, record: SetRecord) -> Signers:
    """Return a kept set as the light client has it."""
    return Signers(number, record.first_height, record.keys)


def signers_at(source: ProofSource, number: int) -> Signers:
    """Return the set of a round. Raises RuleError "proof-unavailable"."""
    record = set_record(source.state(), source.params, source.chain_id, number)
    if record is None:
        raise RuleError("proof-unavailable", f"there is no round {number} yet", permanent=False)
    return signers_of(number, record)


def _last_height_of(source: ProofSource, number: int) -> int:
    """Return the last height so far of a round. Raises RuleError "proof-unavailable"."""
    signers_at(source, number)
    following = set_record(source.state(), source.params, source.chain_id, number + 1)
    return source.tip().height if following is None else following.first_height - 1


def make_steps(
    source: ProofSource, first: int, last: int, *, skipping: bool = False
) -> tuple[RoundStep, ...]:
    """Return steps from the set of round ``first`` on to that of ``last``, or as far as one page reaches.

    Raises RuleError "proof-unavailable".
    """
    steps: list[RoundStep] = []
    size = 0
    while first < last and len(steps) < MAX_ROUND_STEPS and size < STEP_PAGE_BYTES:
        step = _farthest_step(source, first, last) if skipping else step_to(source, first + 1)
        size += len(encode_step(step))
        steps.append(step)
        first = step.signers.round
    return tuple(steps)


def step_to(source: ProofSource, number: int) -> RoundStep:
    """Return the step from the round before to round ``number``. Raises RuleError "proof-unavailable"."""
    signers = signers_at(source, number)
    kept = source.round_end(signers.first_height - 1)
    step = None if kept is None else decode_step(kept)
    if step is None or step.signers != signers or not step.boundary.certificate.sigs:
        raise RuleError(
            "proof-unavailable",
            f"no quorum of round {number - 1} handed over to round {number}: operators began it by a "
            "restart, and clients need a trust file of it",
            permanent=False,
        )
    return step


def _farthest_step(source: ProofSource, first: int, last: int) -> RoundStep:
    """Return a step from round ``first`` as far as its members vouch for, found by halving."""
    trusted = signers_at(source, first)
    target = last
    while target > first + 1:
        try:
            step = step_to(source, target)
        except RuleError:
            target -= 1
            continue
        voters = signers_at(source, target - 1)
        if can_skip(trusted, voters, step.boundary.certificate):
            return RoundStep(step.boundary, step.coinbase, step.signers, voters)
        target = first + (target - first) // 2
    return step_to(source, first + 1)


# ---- what a client trusts ----------------------------------------------------------------------


def founding_trust(params: ChainParams, chain_id: bytes) -> Trust:
    """Return what the chain file alone lets a client trust: the founders, and genesis."""
    signers = signers_of(0, record_of(founding(params, chain_id)))
    return Trust(chain_id, signers, 0, chain_id, params.genesis_time_s)


def render_trust(trust: Trust) -> str:
    """Return a trust as the JSON text of a trust file."""
    signers = trust.signers
    return json.dumps(
        {
            "chain_id": hash_hex(trust.chain_id),
            "round": signers.round,
            "first_height": signers.first_height,
            "vote_keys": [key.hex() for key in signers.keys],
            "height": trust.height,
            "block_hash": hash_hex(trust.block_hash),
            "time_s": trust.time_s,
        },
        indent=2,
    )


def parse_trust(text: str) -> Trust:
    """Read a trust file. Raises ConfigError "bad-trust-file" that names the field."""
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ConfigError("bad-trust-file", (f"not JSON: {error}",)) from None
    if not isinstance(fields, dict):
        raise ConfigError("bad-trust-file", ("must be a JSON object",))
    keys = _field(fields, "vote_keys", list)
    signers = Signers(
        _field(fields, "round", int),
        _field(fields, "first_height", int),
        tuple(_hex(key, f"vote_keys[{at}]") for at, key in enumerate(keys)),
    )
    return Trust(
        _hash(fields, "chain_id"),
        signers,
        _field(fields, "height", int),
        _hash(fields, "block_hash"),
        _field(fields, "time_s", int),
    )


def _field(fields: dict[str, Any], name: str, kind: type[Any]) -> Any:
    value = fields.get(name)
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and value < 0):
        raise ConfigError("bad-trust-file", (f"{name}: give {_KINDS[kind]}",))
    return value


def _hash(fields: dict[str, Any], name: str) -> bytes:
    text = _field(fields, name, str)
    _hex(text, name)
    return hash_from_hex(text)


def _hex(value: object, name: str) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != 32:
        raise ConfigError("bad-trust-file", (f"{name}: give 64 hexadecimal digits",))
    return data


def _block(source: ProofSource, height: int) -> Block:
    block = source.block(height)
    if block is None:
        raise RuleError("proof-unavailable", f"block {height} was pruned or is not there", permanent=False)
    return block
