"""Making proofs of final transactions from what a node stores, and reading what a client trusts."""

import json
from typing import Any, Protocol

from consensus.bft.codec import decode_qc
from consensus.block import Block, BlockHeader
from consensus.errors import ConfigError, RuleError
from consensus.history import prove
from consensus.light import Certified, CoinbaseProof, HistoryPath, Signers, Trust, TxProof
from consensus.light_limits import MAX_LINKS
from consensus.merkle import branch
from consensus.params import ChainParams
from consensus.transaction import hash_from_hex, hash_hex
from consensus.validators import initial_set

_KINDS = {int: "an integer from 0 on", str: "a string", list: "an array"}


class ProofSource(Protocol):
    """The reads that a proof is made of (``node.rpc.backend.Backend``)."""

    @property
    def chain_id(self) -> bytes:
        """Return the genesis block hash."""
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


def make_proof(source: ProofSource, height: int, index: int, anchor: int | None = None) -> TxProof:
    """Return the proof of transaction ``index`` of the block at ``height``.

    With ``anchor``, a later height, the block there is certified and its history proves the older one:
    one hash per block of the chain is computed. That is done too where the certificate is so far above
    the block that its links would be too many: a node that caught up has one for many blocks. Raises
    RuleError "proof-unavailable" for what was pruned or has no certificate.
    """
    block = _block(source, height)
    own = certified_header(source, height if anchor is None else anchor)
    if len(own.links) > MAX_LINKS:
        own = certified_header(source, own.certificate.height)
    history = None if own.height == height else _history(source, height, own.height)
    path = branch([tx.txid for tx in block.txs], index)
    return TxProof(source.chain_id, block.txs[index], index, path, block.header, height, own, history)


def certified_header(source: ProofSource, height: int) -> Certified:
    """Return the header at ``height`` with its certificate and the links to it. Raises RuleError."""
    header, encoded = source.header(height), source.certificate(height)
    if header is None or encoded is None:
        raise RuleError("proof-unavailable", f"no certificate for block {height}", permanent=False)
    certificate = decode_qc(encoded)
    links = [source.header(at) for at in range(height + 1, certificate.height + 1)]
    return Certified(header, tuple([link for link in links if link is not None]), certificate)


def founding_trust(params: ChainParams, chain_id: bytes) -> Trust:
    """Return what the chain file alone lets a client trust: the founders, and genesis."""
    founders = initial_set(params)
    keys = tuple(validator.vote_key for validator in founders.validators)
    signers = Signers(founders.round, founders.first_height, keys)
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


def _history(source: ProofSource, height: int, anchor: int) -> HistoryPath:
    block = _block(source, anchor)
    hashes = [source.block_hash(at) or b"" for at in range(anchor)]
    coinbase = CoinbaseProof(block.txs[0], branch([tx.txid for tx in block.txs], 0))
    return HistoryPath(coinbase, prove(hashes, height))
