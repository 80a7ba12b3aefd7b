"""The commitment ``WC``: what consensus adds to a Bitcoin block, in the coinbase's last output.

The output's script is ``OP_RETURN <push>``; the pushed bytes are ``WC`` and one canonical
MessagePack array (DESIGN.md, section 4).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct

from cext import tree_root
from consensus import canonical
from consensus.errors import DecodeError, RuleError
from consensus.history import EMPTY_ROOT
from consensus.ledger_limits import COMMITMENT_VERSION
from consensus.script.templates import data_carrier
from consensus.transaction import Transaction

MARK = b"WC"
"""First two bytes of the push."""

ZERO_DIGEST = bytes(32)
"""Effects digest before genesis."""

_OP_RETURN = 0x6A
_DATA_AT = {0x4C: 3, 0x4D: 4}
"""Where pushed data starts behind OP_RETURN, for OP_PUSHDATA1 and OP_PUSHDATA2; at 2 otherwise."""

_FIELDS = 10


@dataclass(frozen=True, slots=True)
class Commitment:
    """The fields of a commitment; hashes are 32 bytes.

    ``proposer`` is an index into the validator set. Bit ``i & 7`` of byte ``i >> 3`` of
    ``last_bitmap`` tells that validator ``i`` was seen to sign the parent block. On a pow chain
    everything from ``set_hash`` on is None: see ``pow_commitment``.
    """

    effects_digest: bytes
    history_root: bytes
    set_hash: bytes | None
    proposer: int | None
    last_bitmap: bytes | None
    state_root: bytes | None = None
    next_set_hash: bytes | None = None
    reveal: bytes | None = None
    evidence_root: bytes | None = EMPTY_ROOT
    version: int = COMMITMENT_VERSION

    def encode_script(self) -> bytes:
        """Return the scriptPubKey of the commitment output."""
        fields = [
            self.version,
            self.effects_digest,
            self.history_root,
            self.state_root,
            self.set_hash,
            self.next_set_hash,
            self.proposer,
            self.last_bitmap,
            self.reveal,
            self.evidence_root,
        ]
        return data_carrier(MARK + canonical.encode(fields))


def pow_commitment(effects: bytes, history_root: bytes, state_root: bytes | None = None) -> Commitment:
    """Return the commitment of a block on a pow chain: effects, history, state if due, and nobody's votes."""
    return Commitment(
        effects_digest=effects,
        history_root=history_root,
        set_hash=None,
        proposer=None,
        last_bitmap=None,
        state_root=state_root,
        evidence_root=None,
    )


def carried(script: bytes) -> bytes:
    """Return what follows the first push opcode behind OP_RETURN, whatever its form; empty if nothing."""
    if len(script) < 2 or script[0] != _OP_RETURN:
        return b""
    return script[_DATA_AT.get(script[1], 2) :]


def is_commitment(script: bytes) -> bool:
    """Tell whether an output script claims to be a commitment, well-formed or not."""
    return carried(script).startswith(MARK)


def find_commitment(coinbase: Transaction) -> Commitment:
    """Return the commitment of a coinbase.

    Raises RuleError "bad-commitment-missing", "bad-commitment-multiple", "bad-commitment-place"
    (not the last output), "bad-commitment-value" or "bad-commitment-form".
    """
    outputs = coinbase.vout
    found = [index for index, output in enumerate(outputs) if is_commitment(output.script_pubkey)]
    if not found:
        raise RuleError("bad-commitment-missing", "no output of the coinbase carries WC")
    if len(found) > 1:
        raise RuleError("bad-commitment-multiple", f"{len(found)} outputs of the coinbase carry WC")
    if found[0] != len(outputs) - 1:
        raise RuleError("bad-commitment-place", f"WC is output {found[0]} of {len(outputs)}, not the last")
    if outputs[-1].value != 0:
        raise RuleError("bad-commitment-value", f"the WC output carries {outputs[-1].value}")
    return _decode(outputs[-1].script_pubkey)


def _decode(script: bytes) -> Commitment:
    data = carried(script)
    if script != data_carrier(data):
        raise RuleError("bad-commitment-form", "not one minimal push")
    try:
        fields = canonical.decode(data[len(MARK) :])
    except DecodeError as error:
        raise RuleError("bad-commitment-form", str(error)) from None
    if not isinstance(fields, list) or len(fields) != _FIELDS:
        raise RuleError("bad-commitment-form", f"not an array of {_FIELDS} fields")
    version, effects, history, state, signers, successors, proposer, bitmap, reveal, evidence = fields
    if isinstance(version, bool) or version != COMMITMENT_VERSION:
        raise RuleError("bad-commitment-version", f"version {version!r} is not {COMMITMENT_VERSION}")
    if (signers, successors, proposer, bitmap, reveal, evidence) == (None,) * 6:
        return pow_commitment(
            _hash("effects digest", effects),
            _hash("history_root", history),
            None if state is None else _hash("state_root", state),
        )
    if not isinstance(proposer, int) or isinstance(proposer, bool) or proposer < 0:
        raise RuleError("bad-commitment-form", "proposer is not an index")
    if not isinstance(bitmap, bytes):
        raise RuleError("bad-commitment-form", "last_bitmap is not bytes")
    return Commitment(
        effects_digest=_hash("effects digest", effects),
        history_root=_hash("history_root", history),
        set_hash=_hash("set_hash", signers),
        proposer=proposer,
        last_bitmap=bitmap,
        state_root=None if state is None else _hash("state_root", state),
        next_set_hash=None if successors is None else _hash("next_set_hash", successors),
        reveal=None if reveal is None else _hash("reveal", reveal),
        evidence_root=_hash("evidence_root", evidence),
        version=version,
    )


def _hash(name: str, value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != 32:
        raise RuleError("bad-commitment-form", f"{name} is not 32 bytes")
    return value


_U32 = Struct("<I")


def effects_root(writes: Mapping[bytes, bytes | None]) -> bytes:
    """Return R_h: the RFC 6962 root over the final value per key, None if deleted, sorted by key.

    Leaf ``SHA256(0x00 || u32le(len(key)) || key || 0x00 deleted or 0x01 present || value)``; 32 zero
    bytes when nothing was written.
    """
    leaves = []
    for key in sorted(writes):
        value = writes[key]
        head = _U32.pack(len(key)) + key
        leaves.append(head + b"\x00" if value is None else head + b"\x01" + value)
    return tree_root(leaves)


def effects_digest(previous: bytes, writes: Mapping[bytes, bytes | None]) -> bytes:
    """Return ``E_h = SHA256(E_{h-1} || R_h)``."""
    return sha256(previous + effects_root(writes)).digest()
