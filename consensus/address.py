"""Addresses and private keys as text, with the prefixes of a chain."""

from consensus import base58, bech32
from consensus.errors import DecodeError, RuleError
from consensus.limits import MAX_WITNESS_PROGRAM
from consensus.params import AddressPrefixes
from consensus.script import templates

_COMPRESSED_MARK = b"\x01"


def encode_address(script_pubkey: bytes, prefixes: AddressPrefixes) -> str | None:
    """Return the address that stands for an output script, None where there is none (as in Bitcoin Core)."""
    kind, parts = templates.classify(script_pubkey)
    if kind == templates.PUBKEYHASH:
        return base58.encode_check(bytes((prefixes.p2pkh,)) + parts[0])
    if kind == templates.SCRIPTHASH:
        return base58.encode_check(bytes((prefixes.p2sh,)) + parts[0])
    witness = templates.match_witness_program(script_pubkey)
    if witness is None or kind == templates.NONSTANDARD:
        return None
    return bech32.encode_witness(prefixes.bech32_hrp, *witness)


def decode_address(text: str, prefixes: AddressPrefixes) -> bytes:
    """Return the output script that an address stands for.

    Taken are P2PKH, P2SH, P2WPKH, P2WSH, P2TR and, as Bitcoin Core does, programs of later witness
    versions. Raises RuleError ``bad-address``.
    """
    try:
        if text.lower().startswith(prefixes.bech32_hrp + "1"):
            return _witness_script(*bech32.decode_witness(prefixes.bech32_hrp, text))
        payload = base58.decode_check(text)
    except DecodeError as error:
        raise RuleError("bad-address", error.reason) from None
    if len(payload) == 21:
        if payload[0] == prefixes.p2pkh:
            return templates.p2pkh(payload[1:])
        if payload[0] == prefixes.p2sh:
            return templates.p2sh(payload[1:])
    raise RuleError("bad-address", "neither a P2PKH nor a P2SH address of this chain")


def _witness_script(version: int, program: bytes) -> bytes:
    if not 2 <= len(program) <= MAX_WITNESS_PROGRAM:
        raise RuleError("bad-address", f"a witness program of {len(program)} bytes")
    if version == 0 and len(program) not in (20, 32):
        raise RuleError("bad-address", f"a version 0 witness program of {len(program)} bytes")
    return templates.witness_program(version, program)


def encode_wif(secret: bytes, prefixes: AddressPrefixes, *, compressed: bool = True) -> str:
    """Return a 32-byte secret in wallet import format; ``compressed`` tells which public key goes with it."""
    return base58.encode_check(bytes((prefixes.wif,)) + secret + _COMPRESSED_MARK * compressed)


def decode_wif(text: str, prefixes: AddressPrefixes) -> tuple[bytes, bool]:
    """Return (32-byte secret, compressed) of a key in wallet import format.

    Raises RuleError ``bad-secret-key``, which never repeats the key.
    """
    try:
        payload = base58.decode_check(text)
    except DecodeError:
        raise RuleError("bad-secret-key", "not a Base58Check string") from None
    compressed = len(payload) == 34 and payload[33:] == _COMPRESSED_MARK
    if (len(payload) != 33 and not compressed) or payload[0] != prefixes.wif:
        raise RuleError("bad-secret-key", "not a private key of this chain")
    return payload[1:33], compressed
