"""Signing inputs on the wallet's side: P2PK, P2PKH, P2WPKH, P2TR key path, and multisig of every kind.

Pure: the secret comes in, a new transaction goes out. Multisig can be signed by one party after the
other: signatures that are already there stay, in the order of their keys. Parties that should not see each
other's half-signed transactions, or whose tools differ, use ``consensus.psbt``.
"""

from collections.abc import Sequence

from consensus import sighash
from consensus.coins import coin_amount, coin_script
from consensus.errors import RuleError
from consensus.hashes import hash160, sha256
from consensus.keys import (
    pubkey_from_secret,
    sign_ecdsa,
    sign_taproot,
    taproot_tweak,
    verify_ecdsa,
    xonly_from_secret,
)
from consensus.opcodes import TruncatedScript, operations
from consensus.script import templates
from consensus.sighash import SIGHASH_ALL, SIGHASH_DEFAULT, Midstates
from consensus.transaction import Transaction, TxIn, TxOut


def sign_input(
    tx: Transaction,
    index: int,
    secret: bytes,
    coin: TxOut | bytes,
    *,
    hash_type: int = SIGHASH_ALL,
) -> Transaction:
    """Return ``tx`` with input ``index`` signed for a P2PK, P2PKH, P2WPKH or nested P2WPKH output.

    ``coin`` is the output spent, or its coin value.
    The key is taken in the form that the output names (uncompressed keys only for P2PK and P2PKH).
    Raises RuleError ``bad-signing-key`` if the secret is not the output's, ``unsupported-script`` for
    another kind of output.
    """
    spent = _output(coin)
    pubkey = pubkey_from_secret(secret)
    kind, parts = templates.classify(spent.script_pubkey)
    if kind in (templates.PUBKEY, templates.PUBKEYHASH):
        if parts[0] not in (pubkey, hash160(pubkey)):
            pubkey = pubkey_from_secret(secret, compressed=False)
        _need(parts[0] in (pubkey, hash160(pubkey)))
        message = sighash.legacy(tx, index, spent.script_pubkey, hash_type)
        script_sig = templates.push(_sign(secret, message, hash_type))
        if kind == templates.PUBKEYHASH:
            script_sig += templates.push(pubkey)
        return _replace(tx, index, script_sig, ())
    program = templates.p2wpkh(hash160(pubkey))
    if kind == templates.WITNESS_V0_KEYHASH:
        _need(program == spent.script_pubkey)
        script_sig = b""
    elif kind == templates.SCRIPTHASH:
        _need(hash160(program) == parts[0])
        script_sig = templates.push(program)
    else:
        raise RuleError("unsupported-script", f"a {kind} output cannot be signed with one key")
    code = templates.p2pkh(hash160(pubkey))
    message = sighash.segwit_v0(tx, index, code, spent.value, hash_type)
    return _replace(tx, index, script_sig, (_sign(secret, message, hash_type), pubkey))


def sign_taproot_input(
    tx: Transaction,
    index: int,
    secret: bytes,
    spent: Sequence[TxOut],
    *,
    merkle_root: bytes = b"",
    hash_type: int = SIGHASH_DEFAULT,
    aux: bytes = bytes(32),
) -> Transaction:
    """Return ``tx`` with input ``index`` signed for the key path of a P2TR output (BIP341).

    ``secret`` is that of the internal key, ``merkle_root`` that of the script tree if there is one,
    ``spent`` the outputs of all inputs, ``aux`` 32 random bytes. Raises RuleError ``bad-signing-key``.
    """
    output_key, _ = taproot_tweak(xonly_from_secret(secret), merkle_root)
    _need(spent[index].script_pubkey == templates.p2tr(output_key))
    message = sighash.taproot(Midstates(tx, spent), index, hash_type)
    if message is None:
        raise RuleError("bad-hash-type", f"{hash_type:#x} cannot be signed here")
    signature = sign_taproot(secret, message, merkle_root, aux)
    return _replace(tx, index, b"", (signature + bytes((hash_type,)) * (hash_type != SIGHASH_DEFAULT),))


def sign_multisig_input(
    tx: Transaction,
    index: int,
    secrets: Sequence[bytes],
    coin: TxOut | bytes,
    script: bytes,
    *,
    hash_type: int = SIGHASH_ALL,
) -> Transaction:
    """Return ``tx`` with the signatures of ``secrets`` added to a multisig input.

    The output is P2SH, P2WSH, P2WSH in P2SH, or the bare ``script``. ``coin`` is that output, or its coin
    value; ``script`` the redeem or witness script: up to 15 compressed keys fit P2SH, 20 P2WSH. No more
    signatures are put in than it asks for; ``missing_signatures`` tells how many are wanted still.
    Raises RuleError ``bad-signing-key`` if a secret is none of the script's, ``unsupported-script`` if
    the output does not pay to the script.
    """
    matched = templates.match_multisig(script)
    if matched is None:
        raise RuleError("unsupported-script", "not a multisig script")
    required, keys = matched
    spent = _output(coin)
    program = templates.p2wsh(sha256(script))
    nested = spent.script_pubkey == templates.p2sh(hash160(program))
    witness = nested or spent.script_pubkey == program
    if not witness and spent.script_pubkey not in (script, templates.p2sh(hash160(script))):
        raise RuleError("unsupported-script", "the output does not pay to this script")
    found = _present_signatures(tx, index, spent, script, keys, witness)
    for secret in secrets:
        forms = (pubkey_from_secret(secret), pubkey_from_secret(secret, compressed=False))
        own = [at for at, key in enumerate(keys) if key in forms]
        _need(bool(own))
        signature = _sign(secret, _message(tx, index, spent, script, hash_type, witness), hash_type)
        found.update(dict.fromkeys(own, signature))
    signatures = [found[at] for at in sorted(found)][:required]
    if witness:
        return _replace(tx, index, templates.push(program) if nested else b"", (b"", *signatures, script))
    redeem = () if spent.script_pubkey == script else (script,)
    pushes = b"".join([templates.push(item) for item in (b"", *signatures, *redeem)])
    return _replace(tx, index, pushes, ())


def missing_signatures(tx: Transaction, index: int, script: bytes) -> int:
    """How many signatures a multisig input that ``sign_multisig_input`` made still lacks."""
    matched = templates.match_multisig(script)
    if matched is None:
        raise RuleError("unsupported-script", "not a multisig script")
    return matched[0] - len(_signatures(tx.vin[index], script))


def _output(coin: TxOut | bytes) -> TxOut:
    return coin if isinstance(coin, TxOut) else TxOut(coin_amount(coin), coin_script(coin))


def _sign(secret: bytes, message: bytes, hash_type: int) -> bytes:
    return sign_ecdsa(secret, message) + bytes((hash_type,))


def _need(own_key: bool) -> None:
    if not own_key:
        raise RuleError("bad-signing-key", "the output asks for another key")


def _message(
    tx: Transaction, index: int, spent: TxOut, script: bytes, hash_type: int, witness: bool
) -> bytes:
    if witness:
        return sighash.segwit_v0(tx, index, script, spent.value, hash_type)
    return sighash.legacy(tx, index, script, hash_type)


def _elements(txin: TxIn) -> tuple[bytes, ...]:
    """What an input puts on the stack; nothing if its scriptSig does not parse."""
    if txin.witness:
        return txin.witness
    try:
        return tuple([data or b"" for _, data in operations(txin.script_sig)])
    except TruncatedScript:
        return ()


def _signatures(txin: TxIn, script: bytes) -> list[bytes]:
    """What stands between the dummy of CHECKMULTISIG and the script, if that is shown."""
    return [item for item in _elements(txin)[1:] if item and item != script]


def _present_signatures(
    tx: Transaction, index: int, spent: TxOut, script: bytes, keys: Sequence[bytes], witness: bool
) -> dict[int, bytes]:
    """Return the signatures that the input holds already, by the position of the key that made each."""
    found: dict[int, bytes] = {}
    for signature in _signatures(tx.vin[index], script):
        message = _message(tx, index, spent, script, signature[-1], witness)
        for at, key in enumerate(keys):
            if at not in found and verify_ecdsa(key, message, signature[:-1]):
                found[at] = signature
                break
    return found


def _replace(tx: Transaction, index: int, script_sig: bytes, witness: tuple[bytes, ...]) -> Transaction:
    vin = list(tx.vin)
    vin[index] = vin[index]._replace(script_sig=script_sig, witness=witness)
    return Transaction.build(tx.version, vin, tx.vout, tx.lock_time)
