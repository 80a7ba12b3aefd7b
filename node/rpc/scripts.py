"""Scripts as Bitcoin Core's RPC shows them: assembler text, type, address and descriptor."""

from typing import Any

from coincurve import PublicKey, PublicKeyXOnly

from consensus.address import encode_address
from consensus.coins import is_unspendable
from consensus.hashes import hash160, sha256
from consensus.keys import is_strict_der
from consensus.limits import MAX_ELEMENT_SIZE
from consensus.opcodes import Op, TruncatedScript, operations
from consensus.params import AddressPrefixes
from consensus.script import templates
from consensus.script.numbers import decode_number

_SHORT_PUSH = 4
"""Pushes up to this length are shown as numbers."""

HASH_TYPES = {
    0x01: "ALL",
    0x81: "ALL|ANYONECANPAY",
    0x02: "NONE",
    0x82: "NONE|ANYONECANPAY",
    0x03: "SINGLE",
    0x83: "SINGLE|ANYONECANPAY",
}

_INPUT_CHARSET = (
    "0123456789()[],'/*abcdefgh@:$%{}IJKLMNOPQRSTUVWXYZ&+-.;<=>?!^_|~ijklmnopqrstuvwxyzABCDEFGH`#\"\\ "
)
_CHECKSUM_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0xF5DEE51989, 0xA9FDCA3312, 0x1BAB10E32D, 0x3706B1677A, 0x644D626FFD)


def _op_name(opcode: int) -> str:
    if opcode == Op.OP_1NEGATE:
        return "-1"
    if Op.OP_1 <= opcode <= Op.OP_16:
        return str(opcode - Op.OP_1 + 1)
    try:
        return Op(opcode).name
    except ValueError:
        return "OP_INVALIDOPCODE" if opcode == 0xFF else "OP_UNKNOWN"


def script_asm(script: bytes, *, decode_hash_types: bool = False) -> str:
    """Return the script in words, like Bitcoin Core's ScriptToAsmStr."""
    words = []
    decode_hash_types = decode_hash_types and not is_unspendable(script)
    try:
        for opcode, data in operations(script):
            if data is None:
                words.append(_op_name(opcode))
            elif len(data) <= _SHORT_PUSH:
                words.append(str(decode_number(data, minimal=False)))
            elif decode_hash_types and data[-1] in HASH_TYPES and is_strict_der(data[:-1]):
                words.append(f"{data[:-1].hex()}[{HASH_TYPES[data[-1]]}]")
            else:
                words.append(data.hex())
    except TruncatedScript:
        words.append("[error]")
    return " ".join(words)


def _polymod(check: int, value: int) -> int:
    top = check >> 35
    check = (check & 0x7FFFFFFFF) << 5 ^ value
    for bit, generator in enumerate(_GENERATOR):
        if top >> bit & 1:
            check ^= generator
    return check


def add_checksum(descriptor: str) -> str:
    """Return ``descriptor#checksum`` (BIP380)."""
    check, groups, in_group = 1, 0, 0
    for char in descriptor:
        position = _INPUT_CHARSET.index(char)
        check = _polymod(check, position & 31)
        groups = groups * 3 + (position >> 5)
        in_group += 1
        if in_group == 3:
            check = _polymod(check, groups)
            groups, in_group = 0, 0
    if in_group:
        check = _polymod(check, groups)
    for _ in range(8):
        check = _polymod(check, 0)
    check ^= 1
    return f"{descriptor}#{''.join(_CHECKSUM_CHARSET[check >> 5 * (7 - at) & 31] for at in range(8))}"


def _is_point(key: bytes) -> bool:
    try:
        PublicKeyXOnly(key) if len(key) == 32 else PublicKey(key)
    except ValueError:
        return False
    return True


def descriptor(script: bytes, address: str | None) -> str:
    """Return the output descriptor that Bitcoin Core infers without knowing any key."""
    kind, parts = templates.classify(script)
    if kind == templates.PUBKEY and _is_point(parts[0]):
        return add_checksum(f"pk({parts[0].hex()})")
    if kind == templates.MULTISIG and all(map(_is_point, parts[1:])):
        return add_checksum(f"multi({parts[0][0]},{','.join(key.hex() for key in parts[1:])})")
    if kind == templates.WITNESS_V1_TAPROOT and _is_point(parts[0]):
        return add_checksum(f"rawtr({parts[0].hex()})")
    if address is not None:
        return add_checksum(f"addr({address})")
    return add_checksum(f"raw({script.hex()})")


def script_shape(script: bytes, prefixes: AddressPrefixes, *, with_hex: bool = True) -> dict[str, Any]:
    """Return the ``scriptPubKey`` object of an output."""
    kind = templates.classify(script)[0]
    address = None if kind == templates.PUBKEY else encode_address(script, prefixes)
    shape: dict[str, Any] = {"asm": script_asm(script), "desc": descriptor(script, address)}
    if with_hex:
        shape["hex"] = script.hex()
    if address is not None:
        shape["address"] = address
    shape["type"] = kind
    return shape


_WRAPPABLE = (
    templates.MULTISIG,
    templates.NONSTANDARD,
    templates.PUBKEY,
    templates.PUBKEYHASH,
    templates.WITNESS_V0_KEYHASH,
    templates.WITNESS_V0_SCRIPTHASH,
)
_SEGWIT_WRAPPABLE = (templates.MULTISIG, templates.NONSTANDARD, templates.PUBKEY, templates.PUBKEYHASH)


def _can_be_redeemed(script: bytes) -> bool:
    """Whether the script may stand as a redeem script: it decodes, and no push is too long."""
    if is_unspendable(script):
        return False
    try:
        return all(
            opcode < Op.OP_CHECKSIGADD and (data is None or len(data) <= MAX_ELEMENT_SIZE)
            for opcode, data in operations(script)
        )
    except TruncatedScript:
        return False


def decoded_script(script: bytes, prefixes: AddressPrefixes) -> dict[str, Any]:
    """Return the result of ``decodescript``: the script, and what it becomes inside P2SH and segwit."""
    shape = script_shape(script, prefixes, with_hex=False)
    kind, parts = templates.classify(script)
    if kind not in _WRAPPABLE or not _can_be_redeemed(script):
        return shape
    shape["p2sh"] = encode_address(templates.p2sh(hash160(script)), prefixes)
    keys = parts if kind == templates.PUBKEY else parts[1:] if kind == templates.MULTISIG else ()
    if kind in _SEGWIT_WRAPPABLE and all(len(key) == 33 for key in keys):
        if kind == templates.PUBKEY:
            program = templates.p2wpkh(hash160(parts[0]))
        elif kind == templates.PUBKEYHASH:
            program = templates.p2wpkh(parts[0])
        else:
            program = templates.p2wsh(sha256(script))
        segwit = script_shape(program, prefixes)
        segwit["p2sh-segwit"] = encode_address(templates.p2sh(hash160(program)), prefixes)
        shape["segwit"] = segwit
    return shape
