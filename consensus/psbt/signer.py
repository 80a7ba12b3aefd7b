"""The signer: each party adds the signatures of its own keys."""

from collections.abc import Sequence

from consensus import sighash
from consensus.errors import RuleError
from consensus.keys import pubkey_from_secret, sign_ecdsa, sign_taproot, taproot_tweak, xonly_from_secret
from consensus.psbt.fields import InputType
from consensus.psbt.finaliser import is_final
from consensus.psbt.format import Psbt
from consensus.psbt.inputs import Unlock, sighash_type, spent_outputs, unlock_of
from consensus.script import templates
from consensus.sighash import SIGHASH_ALL, SIGHASH_DEFAULT, Midstates

ACCEPTED = (SIGHASH_DEFAULT, SIGHASH_ALL)
"""Hash types that a signer accepts unless it is told otherwise: they fix the whole transaction."""

NOT_OURS = ("bad-signing-key", "unsupported-script", "psbt-finalised")


def sign_input(
    psbt: Psbt, index: int, secret: bytes, *, accepted: Sequence[int] = ACCEPTED, aux: bytes = bytes(32)
) -> Psbt:
    """Return ``psbt`` with the signature of ``secret`` added to one input.

    Signs P2PK, P2PKH, P2WPKH, bare multisig, and these in P2SH and P2WSH; for P2TR the key path, with
    32 random bytes ``aux``. The hash type is the one that the input asks for (ALL, for taproot DEFAULT, if
    it asks for none) and must be among ``accepted``.

    Raises RuleError "bad-signing-key" if the input does not ask for this key, "unsupported-script",
    "psbt-finalised", "psbt-sighash-refused", and what ``unlock_of`` raises.
    """
    if is_final(psbt, index):
        raise RuleError("psbt-finalised", f"input {index} is signed already")
    unlock = unlock_of(psbt, index)
    if unlock.kind == templates.WITNESS_V1_TAPROOT and unlock.redeem is None:
        return _sign_taproot(psbt, index, secret, unlock, accepted, aux)
    if unlock.kind not in (templates.PUBKEY, templates.PUBKEYHASH, templates.MULTISIG):
        raise RuleError("unsupported-script", f"a {unlock.kind} script cannot be signed")
    hash_type = _hash_type(psbt, index, SIGHASH_ALL, accepted)
    if hash_type == SIGHASH_DEFAULT or not sighash.is_defined_hash_type(hash_type):
        raise RuleError("psbt-sighash-refused", f"input {index} asks for type {hash_type:#x}")
    pubkey = pubkey_from_secret(secret)
    if not unlock.admits(pubkey) and not unlock.is_segwit:
        pubkey = pubkey_from_secret(secret, compressed=False)
    if not unlock.admits(pubkey):
        raise RuleError("bad-signing-key", f"input {index} asks for another key")
    signature = sign_ecdsa(secret, unlock.message(psbt, index, hash_type)) + bytes((hash_type,))
    return psbt.with_input(index, psbt.inputs[index].with_record(InputType.PARTIAL_SIG, signature, pubkey))


def sign_all(
    psbt: Psbt, secrets: Sequence[bytes], *, accepted: Sequence[int] = ACCEPTED, aux: bytes = bytes(32)
) -> Psbt:
    """Return ``psbt`` with every signature that ``secrets`` can give; other inputs stay as they are.

    Raises RuleError for an input that is ours as far as can be told, and must not be signed.
    """
    for index in range(len(psbt.inputs)):
        for secret in secrets:
            try:
                psbt = sign_input(psbt, index, secret, accepted=accepted, aux=aux)
            except RuleError as error:
                if error.code not in NOT_OURS and not error.code.startswith("psbt-missing"):
                    raise
    return psbt


def _hash_type(psbt: Psbt, index: int, default: int, accepted: Sequence[int]) -> int:
    hash_type = sighash_type(psbt.inputs[index], default)
    if hash_type not in accepted:
        raise RuleError("psbt-sighash-refused", f"input {index} asks for type {hash_type:#x}")
    return hash_type


def _sign_taproot(
    psbt: Psbt, index: int, secret: bytes, unlock: Unlock, accepted: Sequence[int], aux: bytes
) -> Psbt:
    section = psbt.inputs[index]
    root = section.get(InputType.TAP_MERKLE_ROOT) or b""
    if taproot_tweak(xonly_from_secret(secret), root)[0] != unlock.parts[0]:
        raise RuleError("bad-signing-key", f"input {index} asks for another key")
    hash_type = _hash_type(psbt, index, SIGHASH_DEFAULT, accepted)
    message = sighash.taproot(Midstates(psbt.tx, spent_outputs(psbt)), index, hash_type)
    if message is None:
        raise RuleError("psbt-sighash-refused", f"input {index} asks for type {hash_type:#x}")
    signature = sign_taproot(secret, message, root, aux)
    if hash_type != SIGHASH_DEFAULT:
        signature += bytes((hash_type,))
    return psbt.with_input(index, section.with_record(InputType.TAP_KEY_SIG, signature))
