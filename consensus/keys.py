"""Signatures: ECDSA and BIP340 Schnorr over secp256k1 (libsecp256k1), Ed25519 (libsodium).

Verification never raises for bad keys or signatures: it says False. Secrets never appear in errors.
"""

import nacl.bindings
import nacl.exceptions
from coincurve import PrivateKey
from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT

from cext import verify_ecdsa_batch
from consensus.errors import RuleError
from consensus.hashes import tagged_hash

CURVE_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
HALF_ORDER = CURVE_ORDER // 2
"""Largest S of a low-S signature (BIP62, BIP146)."""

ED25519_SIGNATURE_SIZE = 64
_SCHNORR_EXTRA_MAGIC = b"\xda\x6f\xb3\x8c"


def _checked(secret: bytes) -> bytes:
    if len(secret) != 32 or not 0 < int.from_bytes(secret, "big") < CURVE_ORDER:
        raise RuleError("bad-secret-key", "32 bytes, from 1 to the curve order less 1, are wanted")
    return secret


def _private_key(secret: bytes) -> PrivateKey:
    return PrivateKey(_checked(secret))


def pubkey_from_secret(secret: bytes, *, compressed: bool = True) -> bytes:
    """Return the SEC1 public key, 33 or 65 bytes, of a secret. Raises RuleError ``bad-secret-key``."""
    key: bytes = _private_key(secret).public_key.format(compressed=compressed)
    return key


def xonly_from_secret(secret: bytes) -> bytes:
    """Return the 32-byte x-only public key (BIP340). Raises RuleError ``bad-secret-key``."""
    key: bytes = _private_key(secret).public_key_xonly.format()
    return key


def is_pubkey_size(pubkey: bytes) -> bool:
    """Whether the length fits the first byte, as Bitcoin Core's CPubKey asks (compressed, full or hybrid)."""
    if not pubkey:
        return False
    if pubkey[0] in (2, 3):
        return len(pubkey) == 33
    return pubkey[0] in (4, 6, 7) and len(pubkey) == 65


def sign_ecdsa(secret: bytes, message: bytes) -> bytes:
    """Sign a 32-byte hash: strict DER, low S, nonce by RFC 6979. Raises RuleError ``bad-secret-key``."""
    signature: bytes = _private_key(secret).sign(message, hasher=None)
    return signature


def verify_ecdsa(pubkey: bytes, message: bytes, signature: bytes) -> bool:
    """Check an ECDSA signature over a 32-byte hash as Bitcoin's CPubKey::Verify does.

    DER is read laxly and a high S taken: the script flags judge the encoding, not this.
    """
    if not is_pubkey_size(pubkey):
        return False
    if not is_strict_der(signature):
        normal = normalise_der(signature)
        if normal is None:
            return False
        signature = normal
    return verify_ecdsa_batch([(message, pubkey, signature)])[0]


def sign_schnorr(secret: bytes, message: bytes, aux: bytes = bytes(32)) -> bytes:
    """Sign ``message`` by BIP340 with 32 bytes of auxiliary randomness; 64 bytes.

    Raises RuleError ``bad-secret-key``.
    """
    keypair = ffi.new("secp256k1_keypair *")
    # Not by way of a PrivateKey, which works out the public key twice more.
    lib.secp256k1_keypair_create(GLOBAL_CONTEXT.ctx, keypair, _checked(secret))
    return _sign_schnorr(keypair, message, aux)


def _sign_schnorr(keypair: object, message: bytes, aux: bytes) -> bytes:
    if len(aux) != 32:
        raise ValueError("32 bytes of auxiliary randomness are wanted")
    signature = ffi.new("unsigned char[64]")
    randomness = ffi.new("unsigned char[32]", aux)
    extra = ffi.new("secp256k1_schnorrsig_extraparams *", (_SCHNORR_EXTRA_MAGIC, ffi.NULL, randomness))
    lib.secp256k1_schnorrsig_sign_custom(GLOBAL_CONTEXT.ctx, signature, message, len(message), keypair, extra)
    return bytes(ffi.buffer(signature))


def verify_schnorr(xonly: bytes, message: bytes, signature: bytes) -> bool:
    """Check a 64-byte BIP340 signature by a 32-byte x-only key over a message of any length."""
    if len(xonly) != 32 or len(signature) != 64:
        return False
    key = ffi.new("secp256k1_xonly_pubkey *")
    if not lib.secp256k1_xonly_pubkey_parse(GLOBAL_CONTEXT.ctx, key, xonly):
        return False
    return bool(lib.secp256k1_schnorrsig_verify(GLOBAL_CONTEXT.ctx, signature, message, len(message), key))


def taproot_tweak(xonly: bytes, merkle_root: bytes = b"") -> tuple[bytes, int]:
    """Return (output key, parity of its Y) of an internal key and the root of its script tree (BIP341).

    Raises RuleError ``bad-public-key``.
    """
    context = GLOBAL_CONTEXT.ctx
    internal = ffi.new("secp256k1_xonly_pubkey *")
    if len(xonly) != 32 or not lib.secp256k1_xonly_pubkey_parse(context, internal, xonly):
        raise RuleError("bad-public-key", "not the X coordinate of a point")
    tweaked = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_xonly_pubkey_tweak_add(
        context, tweaked, internal, tagged_hash("TapTweak", xonly + merkle_root)
    ):
        raise RuleError("bad-public-key", "the tweak leads to infinity")
    output = ffi.new("secp256k1_xonly_pubkey *")
    parity = ffi.new("int *")
    lib.secp256k1_xonly_pubkey_from_pubkey(context, output, parity, tweaked)
    serialised = ffi.new("unsigned char[32]")
    lib.secp256k1_xonly_pubkey_serialize(context, serialised, output)
    return bytes(ffi.buffer(serialised)), int(parity[0])


def sign_taproot(secret: bytes, message: bytes, merkle_root: bytes = b"", aux: bytes = bytes(32)) -> bytes:
    """Sign for the key path of a taproot output: the secret of the internal key, tweaked (BIP341)."""
    xonly = xonly_from_secret(secret)
    keypair = ffi.new("secp256k1_keypair *")
    lib.secp256k1_keypair_create(GLOBAL_CONTEXT.ctx, keypair, secret)
    tweak = tagged_hash("TapTweak", xonly + merkle_root)
    if not lib.secp256k1_keypair_xonly_tweak_add(GLOBAL_CONTEXT.ctx, keypair, tweak):
        raise RuleError("bad-public-key", "the tweak leads to infinity")
    return _sign_schnorr(keypair, message, aux)


def is_strict_der(signature: bytes) -> bool:
    """Whether an ECDSA signature, without its hash type, is strict DER (BIP66)."""
    size = len(signature)
    if not 8 <= size <= 72 or signature[0] != 0x30 or signature[1] != size - 2:
        return False
    r_size = signature[3]
    if r_size + 5 >= size:
        return False
    s_size = signature[5 + r_size]
    if r_size + s_size + 6 != size:
        return False
    return _is_der_integer(signature, 2, r_size) and _is_der_integer(signature, 4 + r_size, s_size)


def _is_der_integer(der: bytes, at: int, size: int) -> bool:
    """Whether a positive integer in its shortest form stands at ``at``."""
    if der[at] != 0x02 or size == 0 or der[at + 2] & 0x80:
        return False
    return not (size > 1 and der[at + 2] == 0 and not der[at + 3] & 0x80)


def encode_der(r: int, s: int) -> bytes:
    """Return the strict DER form of a signature."""
    body = b""
    for value in (r, s):
        digits = value.to_bytes(value.bit_length() // 8 + 1, "big")
        body += b"\x02" + bytes([len(digits)]) + digits
    return b"\x30" + bytes([len(body)]) + body


def normalise_der(signature: bytes) -> bytes | None:
    """Return the strict form of what Bitcoin Core's lax DER parser makes of a signature.

    None where it finds none, or numbers of the curve's order and beyond (which never verify).
    """
    at = _skip_sequence_header(signature)
    numbers = []
    for _ in range(2):
        if at is None:
            return None
        number, at = _lax_integer(signature, at)
        numbers.append(number)
    if at is None or max(numbers) >= CURVE_ORDER:
        return None
    return encode_der(*numbers)


def _skip_sequence_header(der: bytes) -> int | None:
    if len(der) < 2 or der[0] != 0x30:
        return None
    at = 2
    if der[1] & 0x80:  # the announced length is not looked at, only skipped
        at += der[1] & 0x7F
    return at if at <= len(der) else None


def _lax_integer(der: bytes, at: int) -> tuple[int, int | None]:
    """Return (value, offset behind) of the INTEGER at ``at``; the offset is None where there is none."""
    if at + 1 >= len(der) or der[at] != 0x02:
        return 0, None
    size = der[at + 1]
    at += 2
    if size & 0x80:
        width = size & 0x7F
        if width > len(der) - at:
            return 0, None
        size = int.from_bytes(der[at : at + width], "big")
        at += width
    if size > len(der) - at:
        return 0, None
    return int.from_bytes(der[at : at + size], "big"), at + size


def ed25519_public(seed: bytes) -> bytes:
    """Return the 32-byte public key of a 32-byte seed (RFC 8032). Raises RuleError ``bad-secret-key``."""
    return _ed25519_pair(seed)[0]


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    """Sign with Ed25519 (RFC 8032); 64 bytes. Raises RuleError ``bad-secret-key``."""
    signed: bytes = nacl.bindings.crypto_sign(message, _ed25519_pair(seed)[1])
    return signed[:ED25519_SIGNATURE_SIZE]


def ed25519_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Check an Ed25519 signature as libsodium does: canonical S, no key of small order."""
    if len(public_key) != 32 or len(signature) != ED25519_SIGNATURE_SIZE:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, public_key)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


def _ed25519_pair(seed: bytes) -> tuple[bytes, bytes]:
    if len(seed) != 32:
        raise RuleError("bad-secret-key", "a seed of 32 bytes is wanted")
    pair: tuple[bytes, bytes] = nacl.bindings.crypto_sign_seed_keypair(seed)
    return pair
