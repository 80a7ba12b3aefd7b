"""Signature hashes: legacy, segwit version 0 (BIP143) and taproot (BIP341, BIP342)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cext import sha256d
from consensus.codec import compact_size, var_bytes
from consensus.hashes import sha256, tagged_hash
from consensus.opcodes import Op, TruncatedScript, read_operation
from consensus.transaction import Transaction, TxIn, TxOut

SIGHASH_DEFAULT = 0
SIGHASH_ALL = 1
SIGHASH_NONE = 2
SIGHASH_SINGLE = 3
SIGHASH_ANYONECANPAY = 0x80

_OUTPUT_MASK = 0x1F
SINGLE_BUG_HASH = b"\x01" + bytes(31)
"""What legacy SIGHASH_SINGLE signs for an input without an output at its index: the number one."""


def is_defined_hash_type(hash_type: int) -> bool:
    """Whether ``hash_type`` is ALL, NONE or SINGLE, with or without ANYONECANPAY."""
    return 1 <= hash_type & ~SIGHASH_ANYONECANPAY <= 3


def serialize_output(output: TxOut) -> bytes:
    """Return the wire form of an output."""
    return output.value.to_bytes(8, "little", signed=True) + var_bytes(output.script_pubkey)


class Midstates:
    """The parts of signature hashes that are the same for every input of a transaction.

    ``spent`` are the outputs that the inputs spend, in order; only taproot needs them.
    """

    def __init__(self, tx: Transaction, spent: Sequence[TxOut] | None = None) -> None:
        if spent is not None and len(spent) != tx.input_count:
            raise ValueError("one spent output per input is wanted")
        self.tx = tx
        self.spent = spent

    @cached_property
    def sequences(self) -> bytes:
        """The sequence numbers of all inputs on end."""
        return b"".join([txin.sequence.to_bytes(4, "little") for txin in self.tx.vin])

    @cached_property
    def prevouts_sha256(self) -> bytes:
        """Single SHA-256 of all outpoints."""
        return sha256(b"".join(self.tx.prevouts))

    @cached_property
    def sequences_sha256(self) -> bytes:
        """Single SHA-256 of all sequence numbers."""
        return sha256(self.sequences)

    @cached_property
    def outputs_sha256(self) -> bytes:
        """Single SHA-256 of all outputs."""
        return sha256(b"".join([serialize_output(output) for output in self.tx.vout]))

    @cached_property
    def amounts_sha256(self) -> bytes:
        """Single SHA-256 of all amounts spent (BIP341)."""
        return sha256(b"".join([o.value.to_bytes(8, "little", signed=True) for o in self._spent()]))

    @cached_property
    def scripts_sha256(self) -> bytes:
        """Single SHA-256 of all scripts spent (BIP341)."""
        return sha256(b"".join([var_bytes(output.script_pubkey) for output in self._spent()]))

    def spent_output(self, index: int) -> TxOut:
        """The output that input ``index`` spends."""
        return self._spent()[index]

    def _spent(self) -> Sequence[TxOut]:
        if self.spent is None:
            raise ValueError("a taproot signature hash needs the spent outputs")
        return self.spent


def _serialize_input(txin: TxIn, script: bytes, sequence: int) -> bytes:
    return txin.prevout + var_bytes(script) + sequence.to_bytes(4, "little")


def without_code_separators(script: bytes) -> bytes:
    """Return the script without its CODESEPARATOR operations; what no longer parses is kept."""
    if Op.OP_CODESEPARATOR not in script:
        return script
    kept = []
    at = 0
    try:
        while at < len(script):
            opcode, _, end = read_operation(script, at)
            if opcode != Op.OP_CODESEPARATOR:
                kept.append(script[at:end])
            at = end
    except TruncatedScript:
        kept.append(script[at:])
    return b"".join(kept)


def legacy(tx: Transaction, index: int, script_code: bytes, hash_type: int) -> bytes:
    """Return the 32 bytes that a pre-segwit signature of input ``index`` signs.

    ``hash_type`` may be any 32-bit number, signed or not: its low five bits choose the outputs.
    Raises IndexError when there is no such input.
    """
    vin, vout = tx.vin, tx.vout
    signed_input = vin[index]
    outputs = hash_type & _OUTPUT_MASK
    if outputs == SIGHASH_SINGLE and index >= len(vout):
        return SINGLE_BUG_HASH
    script = without_code_separators(script_code)
    if hash_type & SIGHASH_ANYONECANPAY:
        inputs = [_serialize_input(signed_input, script, signed_input.sequence)]
    else:
        others_final = outputs in (SIGHASH_NONE, SIGHASH_SINGLE)
        inputs = [_serialize_input(txin, b"", 0 if others_final else txin.sequence) for txin in vin]
        inputs[index] = _serialize_input(signed_input, script, signed_input.sequence)
    if outputs == SIGHASH_NONE:
        kept: Sequence[TxOut] = ()
    elif outputs == SIGHASH_SINGLE:
        kept = [TxOut(-1, b"")] * index + [vout[index]]
    else:
        kept = vout
    return sha256d(
        tx.raw[:4]
        + compact_size(len(inputs))
        + b"".join(inputs)
        + compact_size(len(kept))
        + b"".join([serialize_output(output) for output in kept])
        + tx.raw[-4:]
        + (hash_type & 0xFFFF_FFFF).to_bytes(4, "little")
    )


def segwit_v0(
    tx: Transaction,
    index: int,
    script_code: bytes,
    amount: int,
    hash_type: int,
    midstates: Midstates | None = None,
) -> bytes:
    """Return the 32 bytes that a segwit version 0 signature of input ``index`` signs (BIP143).

    ``amount`` is that of the output spent; ``midstates`` spares hashing all inputs once more.
    """
    mid = midstates or Midstates(tx)
    txin = tx.vin[index]
    outputs = hash_type & _OUTPUT_MASK
    anyone_can_pay = bool(hash_type & SIGHASH_ANYONECANPAY)
    prevouts = sequences = outputs_hash = bytes(32)
    if not anyone_can_pay:
        prevouts = sha256(mid.prevouts_sha256)
        if outputs not in (SIGHASH_NONE, SIGHASH_SINGLE):
            sequences = sha256(mid.sequences_sha256)
    if outputs not in (SIGHASH_NONE, SIGHASH_SINGLE):
        outputs_hash = sha256(mid.outputs_sha256)
    elif outputs == SIGHASH_SINGLE and index < len(tx.vout):
        outputs_hash = sha256d(serialize_output(tx.vout[index]))
    return sha256d(
        tx.raw[:4]
        + prevouts
        + sequences
        + txin.prevout
        + var_bytes(script_code)
        + amount.to_bytes(8, "little", signed=True)
        + txin.sequence.to_bytes(4, "little")
        + outputs_hash
        + tx.raw[-4:]
        + (hash_type & 0xFFFF_FFFF).to_bytes(4, "little")
    )


@dataclass(frozen=True, slots=True)
class TapLeaf:
    """What a tapscript signature commits to besides the transaction (BIP342)."""

    leaf_hash: bytes
    code_separator: int = 0xFFFF_FFFF


def taproot(
    midstates: Midstates,
    index: int,
    hash_type: int,
    annex: bytes | None = None,
    leaf: TapLeaf | None = None,
) -> bytes | None:
    """Return the 32 bytes that a taproot signature of input ``index`` signs (BIP341).

    ``midstates`` carries the transaction and its spent outputs. ``annex`` includes its 0x50 byte;
    ``leaf`` is given on the script path. None for a hash type that is not defined, and for SINGLE
    without an output at the index.
    """
    tx = midstates.tx
    output_type = hash_type & 3 or SIGHASH_ALL
    if hash_type not in (0, 1, 2, 3, 0x81, 0x82, 0x83):
        return None
    message = bytes((0, hash_type)) + tx.raw[:4] + tx.raw[-4:]
    anyone_can_pay = bool(hash_type & SIGHASH_ANYONECANPAY)
    if not anyone_can_pay:
        message += midstates.prevouts_sha256 + midstates.amounts_sha256
        message += midstates.scripts_sha256 + midstates.sequences_sha256
    if output_type == SIGHASH_ALL:
        message += midstates.outputs_sha256
    message += bytes((2 * (leaf is not None) + (annex is not None),))
    if anyone_can_pay:
        txin = tx.vin[index]
        message += txin.prevout + serialize_output(midstates.spent_output(index))
        message += txin.sequence.to_bytes(4, "little")
    else:
        message += index.to_bytes(4, "little")
    if annex is not None:
        message += sha256(var_bytes(annex))
    if output_type == SIGHASH_SINGLE:
        if index >= len(tx.vout):
            return None
        message += sha256(serialize_output(tx.vout[index]))
    if leaf is not None:
        message += leaf.leaf_hash + b"\x00" + leaf.code_separator.to_bytes(4, "little")
    return tagged_hash("TapSighash", message)
