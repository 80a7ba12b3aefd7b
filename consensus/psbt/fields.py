"""The records that BIP174 and BIP371 define, and the form that each must have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from consensus.codec import Reader
from consensus.errors import DecodeError
from consensus.keys import is_pubkey_size, is_strict_der
from consensus.limits import MAX_TAPROOT_DEPTH
from consensus.sighash import is_defined_hash_type
from consensus.transaction import Transaction, TxOut


class GlobalType(IntEnum):
    """Records of the whole transaction."""

    UNSIGNED_TX = 0x00
    XPUB = 0x01
    VERSION = 0xFB
    PROPRIETARY = 0xFC


class InputType(IntEnum):
    """Records of one input."""

    NON_WITNESS_UTXO = 0x00
    WITNESS_UTXO = 0x01
    PARTIAL_SIG = 0x02
    SIGHASH_TYPE = 0x03
    REDEEM_SCRIPT = 0x04
    WITNESS_SCRIPT = 0x05
    BIP32_DERIVATION = 0x06
    FINAL_SCRIPTSIG = 0x07
    FINAL_SCRIPTWITNESS = 0x08
    POR_COMMITMENT = 0x09
    RIPEMD160 = 0x0A
    SHA256 = 0x0B
    HASH160 = 0x0C
    HASH256 = 0x0D
    TAP_KEY_SIG = 0x13
    TAP_SCRIPT_SIG = 0x14
    TAP_LEAF_SCRIPT = 0x15
    TAP_BIP32_DERIVATION = 0x16
    TAP_INTERNAL_KEY = 0x17
    TAP_MERKLE_ROOT = 0x18
    PROPRIETARY = 0xFC


class OutputType(IntEnum):
    """Records of one output."""

    REDEEM_SCRIPT = 0x00
    WITNESS_SCRIPT = 0x01
    BIP32_DERIVATION = 0x02
    TAP_INTERNAL_KEY = 0x05
    TAP_TREE = 0x06
    TAP_BIP32_DERIVATION = 0x07
    PROPRIETARY = 0xFC


Check: TypeAlias = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Form:
    """What the key data behind a type, and the value, must look like."""

    key: Check
    value: Check


def read_output(data: bytes) -> TxOut:
    """Read an output in its wire form. Raises DecodeError."""
    reader = Reader(data)
    output = TxOut(reader.i64(), reader.var_bytes())
    reader.finish()
    return output


def read_witness(data: bytes) -> tuple[bytes, ...]:
    """Read a witness stack. Raises DecodeError."""
    reader = Reader(data)
    stack = tuple([reader.var_bytes() for _ in range(_count(reader))])
    reader.finish()
    return stack


def _count(reader: Reader) -> int:
    """Read how many items follow, each at least one byte: a false count must not cost memory."""
    count = reader.compact_size()
    if count > reader.remaining:
        raise DecodeError("truncated", f"{count} items announced")
    return count


def _parses(read: Callable[[bytes], object]) -> Check:
    def check(data: bytes) -> bool:
        try:
            read(data)
        except DecodeError:
            return False
        return True

    return check


def _size(*sizes: int) -> Check:
    return lambda data: len(data) in sizes


def _anything(data: bytes) -> bool:
    return True


def _is_signature(data: bytes) -> bool:
    return len(data) > 1 and is_strict_der(data[:-1]) and is_defined_hash_type(data[-1])


def _is_path(data: bytes) -> bool:
    """Fingerprint of the master key, then one u32 per step."""
    return len(data) >= 4 and len(data) % 4 == 0


def _is_tap_path(data: bytes) -> bool:
    """The leaves that the key signs for, then as ``_is_path``."""
    reader = Reader(data)
    try:
        reader.take(32 * _count(reader))
    except DecodeError:
        return False
    return _is_path(data[reader.offset :])


def _is_control_block(data: bytes) -> bool:
    return len(data) >= 33 and (len(data) - 33) % 32 == 0 and len(data) <= 33 + 32 * MAX_TAPROOT_DEPTH


def _read_tap_tree(data: bytes) -> None:
    """Read leaves of (depth, version, script) in order; they must fill a binary tree (BIP371)."""
    reader = Reader(data)
    open_depths = [0]
    while reader.remaining:
        depth, version = reader.u8(), reader.u8()
        reader.var_bytes()
        if not open_depths or depth > MAX_TAPROOT_DEPTH or version & 1 or depth < open_depths[-1]:
            raise DecodeError("psbt-bad-value", "not a tree")
        at = open_depths.pop()
        open_depths += range(at + 1, depth + 1)
    if open_depths:
        raise DecodeError("psbt-bad-value", "not a whole tree")


def _is_proprietary_key(data: bytes) -> bool:
    reader = Reader(data)
    try:
        reader.var_bytes()
        reader.compact_size()
    except DecodeError:
        return False
    return True


_ALONE = _size(0)
_XONLY = _size(32)
_SCHNORR = _size(64, 65)
_PROPRIETARY = Form(_is_proprietary_key, _anything)
_SCRIPT = Form(_ALONE, _anything)
_PATH = Form(is_pubkey_size, _is_path)

GLOBAL_FORMS: Mapping[int, Form] = {
    GlobalType.UNSIGNED_TX: Form(_ALONE, _anything),
    GlobalType.XPUB: Form(_size(78), _is_path),
    GlobalType.VERSION: Form(_ALONE, _size(4)),
    GlobalType.PROPRIETARY: _PROPRIETARY,
}

INPUT_FORMS: Mapping[int, Form] = {
    InputType.NON_WITNESS_UTXO: Form(_ALONE, _parses(Transaction.parse)),
    InputType.WITNESS_UTXO: Form(_ALONE, _parses(read_output)),
    InputType.PARTIAL_SIG: Form(is_pubkey_size, _is_signature),
    InputType.SIGHASH_TYPE: Form(_ALONE, _size(4)),
    InputType.REDEEM_SCRIPT: _SCRIPT,
    InputType.WITNESS_SCRIPT: _SCRIPT,
    InputType.BIP32_DERIVATION: _PATH,
    InputType.FINAL_SCRIPTSIG: _SCRIPT,
    InputType.FINAL_SCRIPTWITNESS: Form(_ALONE, _parses(read_witness)),
    InputType.POR_COMMITMENT: _SCRIPT,
    InputType.RIPEMD160: Form(_size(20), _anything),
    InputType.SHA256: Form(_size(32), _anything),
    InputType.HASH160: Form(_size(20), _anything),
    InputType.HASH256: Form(_size(32), _anything),
    InputType.TAP_KEY_SIG: Form(_ALONE, _SCHNORR),
    InputType.TAP_SCRIPT_SIG: Form(_size(64), _SCHNORR),
    InputType.TAP_LEAF_SCRIPT: Form(_is_control_block, lambda data: len(data) > 0),
    InputType.TAP_BIP32_DERIVATION: Form(_XONLY, _is_tap_path),
    InputType.TAP_INTERNAL_KEY: Form(_ALONE, _XONLY),
    InputType.TAP_MERKLE_ROOT: Form(_ALONE, _XONLY),
    InputType.PROPRIETARY: _PROPRIETARY,
}

OUTPUT_FORMS: Mapping[int, Form] = {
    OutputType.REDEEM_SCRIPT: _SCRIPT,
    OutputType.WITNESS_SCRIPT: _SCRIPT,
    OutputType.BIP32_DERIVATION: _PATH,
    OutputType.TAP_INTERNAL_KEY: Form(_ALONE, _XONLY),
    OutputType.TAP_TREE: Form(_ALONE, _parses(_read_tap_tree)),
    OutputType.TAP_BIP32_DERIVATION: Form(_XONLY, _is_tap_path),
    OutputType.PROPRIETARY: _PROPRIETARY,
}
