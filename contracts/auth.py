"""Who acts: the account of an operation, and that nobody else could have written its payload.

An operation is the work of the scriptPubKey of input 0 only if every signature of that input
covers all outputs: SIGHASH_ALL without ANYONECANPAY, or a taproot key path with DEFAULT or ALL.
Any other script or signature would let a stranger swap the payload. That the signatures hold is
checked with the scripts; here only their form is read, from scripts that leave no room: once the
script passes, the signatures read here are the ones that passed.
"""

from collections.abc import Sequence

from consensus.coins import coin_script
from consensus.errors import RuleError
from consensus.opcodes import TruncatedScript, operations
from consensus.script.templates import match_multisig
from consensus.transaction import Transaction, TxIn
from contracts.fields import account_kind

SIGHASH_ALL = 0x01


def _refuse(reason: str) -> RuleError:
    return RuleError("bad-op-auth", reason)


def authorise(tx: Transaction, spent: Sequence[bytes]) -> bytes:
    """Return the account that acts in ``tx``: the script of the coin that input 0 spends.

    ``spent`` holds one coin value per input. Raises RuleError ``bad-op-auth``.
    """
    script = coin_script(spent[0])
    for signature in _signatures(script, tx.vin[0]):
        if not signature or signature[-1] != SIGHASH_ALL:
            raise _refuse("a signature of input 0 is not SIGHASH_ALL")
    return script


def _signatures(script: bytes, txin: TxIn) -> list[bytes]:
    """Return the ECDSA signatures of an input of an allowed kind, none for a good taproot key path."""
    kind = account_kind(script)
    if kind == "p2pkh":
        return _key_hash_signatures(_pushes(txin.script_sig), bool(txin.witness))
    if kind == "p2sh":
        return _script_hash_signatures(txin)
    if kind is not None and txin.script_sig:
        raise _refuse("a native witness input with a scriptSig")
    if kind == "p2wpkh":
        return _key_hash_signatures(list(txin.witness), False)
    if kind == "p2wsh":
        return _multisig_signatures(list(txin.witness))
    if kind == "p2tr":
        _check_key_path(txin.witness)
        return []
    raise _refuse("input 0 is of no kind that speaks for an account")


def _key_hash_signatures(stack: list[bytes], extra: bool) -> list[bytes]:
    if len(stack) != 2 or extra:
        raise _refuse("a signature and a public key wanted")
    return stack[:1]


def _script_hash_signatures(txin: TxIn) -> list[bytes]:
    stack = _pushes(txin.script_sig)
    if len(stack) == 1 and account_kind(stack[0]) == "p2wpkh":
        return _key_hash_signatures(list(txin.witness), False)
    if txin.witness:
        raise _refuse("a P2SH input with a witness that is not P2WPKH")
    return _multisig_signatures(stack)


def _multisig_signatures(stack: list[bytes]) -> list[bytes]:
    """Return the signatures of ``[empty, signature..., multisig script]``, as many as it asks for."""
    multisig = match_multisig(stack[-1]) if stack else None
    if multisig is None:
        raise _refuse("a script that is no multisig")
    wanted = multisig[0]
    if len(stack) != wanted + 2 or stack[0]:
        raise _refuse(f"an empty element and {wanted} signatures wanted")
    return stack[1:-1]


def _check_key_path(witness: tuple[bytes, ...]) -> None:
    if len(witness) != 1:
        raise _refuse("a taproot input that is not a plain key path")
    signature = witness[0]
    if len(signature) == 64:
        return
    if len(signature) != 65 or signature[64] != SIGHASH_ALL:
        raise _refuse("a taproot signature that is neither DEFAULT nor ALL")


def _pushes(script: bytes) -> list[bytes]:
    """Return the data of a scriptSig that only pushes bytes."""
    found: list[bytes] = []
    try:
        for _, data in operations(script):
            if data is None:
                raise _refuse("a scriptSig with something that is no push of bytes")
            found.append(data)
    except TruncatedScript:
        raise _refuse("a scriptSig that ends inside a push") from None
    return found
