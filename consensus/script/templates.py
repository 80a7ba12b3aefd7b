"""Standard output scripts: building and recognising them.

The kinds are named as Bitcoin Core's RPC names them.
"""

from collections.abc import Sequence

from consensus.keys import is_pubkey_size
from consensus.limits import MAX_PUBKEYS_PER_MULTISIG, MAX_WITNESS_PROGRAM
from consensus.opcodes import Op, TruncatedScript, is_push_only, operations
from consensus.script.numbers import BadNumber, decode_number, encode_number

PUBKEY = "pubkey"
PUBKEYHASH = "pubkeyhash"
SCRIPTHASH = "scripthash"
MULTISIG = "multisig"
NULLDATA = "nulldata"
WITNESS_V0_KEYHASH = "witness_v0_keyhash"
WITNESS_V0_SCRIPTHASH = "witness_v0_scripthash"
WITNESS_V1_TAPROOT = "witness_v1_taproot"
ANCHOR = "anchor"
WITNESS_UNKNOWN = "witness_unknown"
NONSTANDARD = "nonstandard"

ANCHOR_PROGRAM = b"\x4e\x73"
"""Program of the pay-to-anchor output (witness version 1, Bitcoin Core 28)."""

Parts = tuple[bytes, ...]


def push_data(data: bytes) -> bytes:
    """Push ``data`` by the shortest length form, never by a number opcode (Bitcoin Core's ``<<``)."""
    size = len(data)
    if size < Op.OP_PUSHDATA1:
        return bytes((size,)) + data
    if size <= 0xFF:
        return b"\x4c" + size.to_bytes(1, "little") + data
    if size <= 0xFFFF:
        return b"\x4d" + size.to_bytes(2, "little") + data
    return b"\x4e" + size.to_bytes(4, "little") + data


def push(data: bytes) -> bytes:
    """Push ``data`` in the only form that MINIMALDATA allows."""
    if len(data) == 1:
        if 1 <= data[0] <= 16:
            return bytes((Op.OP_1 - 1 + data[0],))
        if data[0] == 0x81:
            return bytes((Op.OP_1NEGATE,))
    return push_data(data)


def push_number(value: int) -> bytes:
    """Push a number in its minimal form; BIP34 writes the height of a block this way."""
    return push(encode_number(value))


def p2pk(pubkey: bytes) -> bytes:
    """Pay to a public key: ``<key> CHECKSIG``."""
    return push_data(pubkey) + bytes((Op.OP_CHECKSIG,))


def p2pkh(key_hash: bytes) -> bytes:
    """Pay to the HASH160 of a public key (20 bytes)."""
    return b"\x76\xa9\x14" + key_hash + b"\x88\xac"


def p2sh(script_hash: bytes) -> bytes:
    """Pay to the HASH160 of a redeem script (20 bytes, BIP16)."""
    return b"\xa9\x14" + script_hash + b"\x87"


def witness_program(version: int, program: bytes) -> bytes:
    """Pay to a witness program of 2 to 40 bytes (BIP141)."""
    return bytes((version and Op.OP_1 - 1 + version,)) + push_data(program)


def p2wpkh(key_hash: bytes) -> bytes:
    """Pay to the HASH160 of a compressed public key (20 bytes), segwit version 0."""
    return b"\x00\x14" + key_hash


def p2wsh(script_hash: bytes) -> bytes:
    """Pay to the SHA-256 of a witness script (32 bytes), segwit version 0."""
    return b"\x00\x20" + script_hash


def p2tr(output_key: bytes) -> bytes:
    """Pay to an x-only output key (32 bytes, BIP341)."""
    return b"\x51\x20" + output_key


def multisig(required: int, pubkeys: Sequence[bytes]) -> bytes:
    """Ask for signatures by ``required`` of ``pubkeys``, in their order.

    Raises ValueError unless 1 <= required <= len(pubkeys) <= 20.
    """
    if not 1 <= required <= len(pubkeys) <= MAX_PUBKEYS_PER_MULTISIG:
        raise ValueError(f"{required} of {len(pubkeys)} keys cannot sign")
    keys = b"".join([push_data(key) for key in pubkeys])
    return push_number(required) + keys + push_number(len(pubkeys)) + bytes((Op.OP_CHECKMULTISIG,))


def data_carrier(data: bytes) -> bytes:
    """Carry ``data`` in an output that nobody can spend: ``RETURN <data>``, the push minimal."""
    return bytes((Op.OP_RETURN,)) + push(data)


def match_witness_program(script: bytes) -> tuple[int, bytes] | None:
    """Return (version, program) if the script is a witness program (BIP141)."""
    if not 4 <= len(script) <= MAX_WITNESS_PROGRAM + 2 or script[1] != len(script) - 2:
        return None
    if script[0] == Op.OP_0:
        return 0, script[2:]
    if Op.OP_1 <= script[0] <= Op.OP_16:
        return script[0] - Op.OP_1 + 1, script[2:]
    return None


def is_p2sh(script: bytes) -> bool:
    """Whether the script is exactly ``HASH160 <20 bytes> EQUAL``."""
    return len(script) == 23 and script[:2] == b"\xa9\x14" and script[22] == Op.OP_EQUAL


def is_p2pkh(script: bytes) -> bool:
    """Whether the script is exactly ``DUP HASH160 <20 bytes> EQUALVERIFY CHECKSIG``."""
    return len(script) == 25 and script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac"


def is_p2wpkh(script: bytes) -> bool:
    """Whether the script is exactly ``0 <20 bytes>``."""
    return len(script) == 22 and script[:2] == b"\x00\x14"


def classify(script: bytes) -> tuple[str, Parts]:
    """Return (kind, parts) of an output script.

    Parts: the key, the hash or program, the data pushed behind RETURN; for multisig the number
    required as one byte and then the keys; for an unknown witness the version as one byte and the
    program.
    """
    if is_p2pkh(script):
        return PUBKEYHASH, (script[3:23],)
    if is_p2sh(script):
        return SCRIPTHASH, (script[2:22],)
    witness = match_witness_program(script)
    if witness is not None:
        return _classify_witness(*witness)
    if script[:1] == b"\x6a":
        return _classify_null_data(script)
    key = _match_pubkey(script)
    if key is not None:
        return PUBKEY, (key,)
    keys = match_multisig(script)
    if keys is not None:
        return MULTISIG, (bytes((keys[0],)), *keys[1])
    return NONSTANDARD, ()


def _classify_witness(version: int, program: bytes) -> tuple[str, Parts]:
    if version == 0 and len(program) == 20:
        return WITNESS_V0_KEYHASH, (program,)
    if version == 0 and len(program) == 32:
        return WITNESS_V0_SCRIPTHASH, (program,)
    if version == 0:
        return NONSTANDARD, ()
    if version == 1 and len(program) == 32:
        return WITNESS_V1_TAPROOT, (program,)
    if version == 1 and program == ANCHOR_PROGRAM:
        return ANCHOR, ()
    return WITNESS_UNKNOWN, (bytes((version,)), program)


def _classify_null_data(script: bytes) -> tuple[str, Parts]:
    if not is_push_only(script[1:]):
        return NONSTANDARD, ()
    return NULLDATA, tuple([data for _, data in operations(script[1:]) if data is not None])


def _match_pubkey(script: bytes) -> bytes | None:
    key = script[1:-1]
    if script[-1:] != b"\xac" or script[:1] not in (b"\x21", b"\x41") or script[0] != len(key):
        return None
    return key if is_pubkey_size(key) else None


def match_multisig(script: bytes) -> tuple[int, tuple[bytes, ...]] | None:
    """Return (required, keys) of a bare multisig script, redeem script or witness script."""
    if script[-1:] != b"\xae":
        return None
    try:
        parts = list(operations(script[:-1]))
        if len(parts) < 3:
            return None
        required, total = _small_number(*parts[0]), _small_number(*parts[-1])
    except (TruncatedScript, BadNumber):
        return None
    keys = tuple([data for _, data in parts[1:-1] if data is not None and is_pubkey_size(data)])
    if not 1 <= required <= total <= MAX_PUBKEYS_PER_MULTISIG or not len(parts) - 2 == len(keys) == total:
        return None
    return required, keys


def _small_number(opcode: int, data: bytes | None) -> int:
    """Return the number that a minimal push stands for. Raises BadNumber."""
    if Op.OP_1 <= opcode <= Op.OP_16:
        return opcode - Op.OP_1 + 1
    if data is None or push(data) != push_data(data) or opcode != len(data):
        raise BadNumber("not a number in its shortest form")
    return decode_number(data, minimal=True)
