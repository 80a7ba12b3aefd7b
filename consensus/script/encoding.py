"""How signatures and public keys must be written, as the flags demand."""

from consensus.keys import CURVE_ORDER, HALF_ORDER, is_strict_der
from consensus.script.flags import DERSIG, LOW_S, STRICTENC, WITNESS_PUBKEYTYPE, ScriptError
from consensus.sighash import is_defined_hash_type


def check_signature(signature: bytes, flags: int) -> None:
    """Check the form of an ECDSA signature with its hash type; an empty one is a failure that is well formed.

    Raises ScriptError ``SIG_DER``, ``SIG_HIGH_S`` or ``SIG_HASHTYPE``.
    """
    if not signature:
        return
    if flags & (DERSIG | LOW_S | STRICTENC) and not is_strict_der(signature[:-1]):
        raise ScriptError("SIG_DER")
    if flags & LOW_S and is_high_s(signature[:-1]):
        raise ScriptError("SIG_HIGH_S")
    if flags & STRICTENC and not is_defined_hash_type(signature[-1]):
        raise ScriptError("SIG_HASHTYPE")


def is_high_s(der: bytes) -> bool:
    """Whether S of a strict DER signature is in the upper half.

    Numbers beyond the order are not: libsecp256k1 reads such a signature as zero, and it verifies nowhere.
    """
    s_at = 6 + der[3]
    if int.from_bytes(der[4 : s_at - 2], "big") >= CURVE_ORDER:
        return False
    return HALF_ORDER < int.from_bytes(der[s_at:], "big") < CURVE_ORDER


def is_compressed(pubkey: bytes) -> bool:
    """Whether a public key has the compressed form."""
    return len(pubkey) == 33 and pubkey[0] in (2, 3)


def check_pubkey(pubkey: bytes, flags: int, *, witness_v0: bool) -> None:
    """Check the form of a public key. Raises ScriptError ``PUBKEYTYPE`` or ``WITNESS_PUBKEYTYPE``."""
    if is_compressed(pubkey):
        return
    if flags & STRICTENC and not (len(pubkey) == 65 and pubkey[0] == 4):
        raise ScriptError("PUBKEYTYPE")
    if witness_v0 and flags & WITNESS_PUBKEYTYPE:
        raise ScriptError("WITNESS_PUBKEYTYPE")
