"""What an input of a partially signed transaction spends, and what it takes to spend that."""

from collections.abc import Sequence
from dataclasses import dataclass

from consensus import sighash
from consensus.errors import RuleError
from consensus.hashes import hash160, sha256
from consensus.keys import verify_ecdsa
from consensus.psbt.fields import InputType, read_output
from consensus.psbt.format import Psbt, Section
from consensus.script import CONSENSUS_FLAGS, ScriptError, templates
from consensus.script.encoding import check_pubkey, check_signature
from consensus.transaction import Transaction, TxOut


def spent_output(psbt: Psbt, index: int) -> TxOut:
    """Return the output that an input spends, as the updater said.

    Raises RuleError "psbt-missing-utxo", or "psbt-utxo-mismatch" if the two records disagree.
    """
    section, prevout = psbt.inputs[index], psbt.tx.prevouts[index]
    raw, short = section.get(InputType.NON_WITNESS_UTXO), section.get(InputType.WITNESS_UTXO)
    if raw is None and short is None:
        raise RuleError("psbt-missing-utxo", f"nobody said what input {index} spends")
    if raw is None or short is None:
        return read_output(short or b"") if raw is None else _previous_output(raw, prevout)
    output = _previous_output(raw, prevout)
    if output != read_output(short):
        raise RuleError("psbt-utxo-mismatch", f"input {index}: the two records of what it spends differ")
    return output


def _previous_output(raw: bytes, prevout: bytes) -> TxOut:
    """Return the output; ``check_previous`` was asked when the record came in."""
    return Transaction.parse(raw).vout[int.from_bytes(prevout[32:], "little")]


def spent_outputs(psbt: Psbt) -> list[TxOut]:
    """Return what all inputs spend. Raises RuleError as ``spent_output``."""
    return [spent_output(psbt, index) for index in range(len(psbt.inputs))]


@dataclass(frozen=True, slots=True)
class Unlock:
    """How an output is unlocked: the script that is executed, and what it is wrapped in.

    ``kind`` and ``parts`` are ``templates.classify`` of ``script``; a P2WPKH program counts as the
    P2PKH script that it stands for.
    """

    output: TxOut
    kind: str
    parts: templates.Parts
    script: bytes
    redeem: bytes | None
    is_segwit: bool
    witness_script: bytes | None

    def message(self, psbt: Psbt, index: int, hash_type: int) -> bytes:
        """Return the 32 bytes that an ECDSA signature of the input signs."""
        if self.is_segwit:
            return sighash.segwit_v0(psbt.tx, index, self.script, self.output.value, hash_type)
        return sighash.legacy(psbt.tx, index, self.script, hash_type)

    def named_keys(self) -> tuple[bytes, ...]:
        """Return the public keys that the script names, empty where it names a hash."""
        if self.kind == templates.MULTISIG:
            return self.parts[1:]
        return self.parts if self.kind == templates.PUBKEY else ()

    def admits(self, pubkey: bytes) -> bool:
        """Whether a signature by ``pubkey`` may stand in the input."""
        if self.kind == templates.PUBKEYHASH:
            return hash160(pubkey) == self.parts[0]
        return pubkey in self.named_keys()


def unlock_of(psbt: Psbt, index: int) -> Unlock:
    """Find out how an input is unlocked.

    Raises RuleError "psbt-missing-utxo", "psbt-missing-script", "psbt-script-mismatch" if a script is
    not the one that the output or the redeem script names, or "psbt-missing-previous-tx" where a
    signature before segwit would rest on an amount that nobody proved.
    """
    output, section = spent_output(psbt, index), psbt.inputs[index]
    script = output.script_pubkey
    redeem = witness_script = None
    if templates.is_p2sh(script):
        redeem = script = _script(section, InputType.REDEEM_SCRIPT, "redeem")
        if templates.p2sh(hash160(redeem)) != output.script_pubkey:
            raise RuleError("psbt-script-mismatch", f"input {index}: not the redeem script of the output")
    elif section.get(InputType.REDEEM_SCRIPT) is not None:
        raise RuleError("psbt-script-mismatch", f"input {index}: a redeem script for an output without one")
    program = templates.match_witness_program(script)
    if program is not None and program[0] == 0 and len(program[1]) == 32:
        witness_script = _script(section, InputType.WITNESS_SCRIPT, "witness")
        if sha256(witness_script) != program[1]:
            raise RuleError("psbt-script-mismatch", f"input {index}: not the witness script of the program")
        script = witness_script
    elif program is not None and program[0] == 0 and len(program[1]) == 20:
        script = templates.p2pkh(program[1])
    elif program is None and section.get(InputType.NON_WITNESS_UTXO) is None:
        raise RuleError(
            "psbt-missing-previous-tx", f"input {index} is no segwit input: the whole transaction is wanted"
        )
    kind, parts = templates.classify(script)
    return Unlock(output, kind, parts, script, redeem, program is not None, witness_script)


def _script(section: Section, kind: InputType, name: str) -> bytes:
    script = section.get(kind)
    if script is None:
        raise RuleError("psbt-missing-script", f"the {name} script is not known")
    return script


def sighash_type(section: Section, default: int = sighash.SIGHASH_ALL) -> int:
    """Return the hash type that signatures of the input must have."""
    value = section.get(InputType.SIGHASH_TYPE)
    return default if value is None else int.from_bytes(value, "little")


def valid_signatures(psbt: Psbt, index: int, unlock: Unlock) -> dict[bytes, bytes]:
    """Return the signatures that hold, by public key; what a careless party put in is passed over.

    Raises RuleError "psbt-sighash-mismatch" for a signature of another type than the input asks for.
    """
    section = psbt.inputs[index]
    wanted = section.get(InputType.SIGHASH_TYPE)
    found = {}
    for pubkey, signature in section.of_type(InputType.PARTIAL_SIG):
        if wanted is not None and signature[-1] != int.from_bytes(wanted, "little"):
            raise RuleError("psbt-sighash-mismatch", f"input {index}: a signature of type {signature[-1]:#x}")
        if unlock.admits(pubkey) and _holds(psbt, index, unlock, pubkey, signature):
            found[pubkey] = signature
    return found


def _holds(psbt: Psbt, index: int, unlock: Unlock, pubkey: bytes, signature: bytes) -> bool:
    """Whether the interpreter would take the signature: in form (low S, kind of key), then in substance."""
    try:
        check_signature(signature, CONSENSUS_FLAGS)
        check_pubkey(pubkey, CONSENSUS_FLAGS, witness_v0=unlock.is_segwit)
    except ScriptError:
        return False
    return verify_ecdsa(pubkey, unlock.message(psbt, index, signature[-1]), signature[:-1])


@dataclass(frozen=True, slots=True)
class Missing:
    """What an input lacks: hashes of unknown keys, hash160 of keys that must sign, script hashes.

    ``count`` is how many signatures are wanted still; any of ``signers`` can give them. Without signers
    the script is of a kind that is not known here.
    """

    utxo: bool = False
    pubkeys: tuple[bytes, ...] = ()
    signers: tuple[bytes, ...] = ()
    count: int = 0
    redeem_script: bytes | None = None
    witness_script: bytes | None = None


def missing_parts(psbt: Psbt, index: int) -> Missing:
    """Return what an input lacks before it can be finalised. Raises RuleError for what contradicts."""
    try:
        unlock = unlock_of(psbt, index)
    except RuleError as error:
        if error.code in ("psbt-missing-utxo", "psbt-missing-previous-tx"):
            return Missing(utxo=True)
        if error.code == "psbt-missing-script":
            return _missing_script(psbt, index)
        raise
    if unlock.kind == templates.WITNESS_V1_TAPROOT:
        lacks = psbt.inputs[index].get(InputType.TAP_KEY_SIG) is None
        return Missing(signers=(hash160(unlock.parts[0]),) if lacks else (), count=int(lacks))
    have = valid_signatures(psbt, index, unlock)
    if unlock.kind == templates.PUBKEYHASH:
        key_hash = unlock.parts[0]
        if have:
            return Missing()
        known = any(
            hash160(key) == key_hash for key, _ in psbt.inputs[index].of_type(InputType.BIP32_DERIVATION)
        )
        return Missing(pubkeys=() if known else (key_hash,), signers=(key_hash,) if known else (), count=1)
    if not required_signatures(unlock):
        return Missing(count=1)  # of a kind that we cannot sign; somebody else may
    keys = unlock.named_keys()
    count = max(required_signatures(unlock) - sum(key in have for key in keys), 0)
    if not count:
        return Missing()
    return Missing(signers=tuple([hash160(key) for key in keys if key not in have]), count=count)


def _missing_script(psbt: Psbt, index: int) -> Missing:
    script = spent_output(psbt, index).script_pubkey
    redeem = psbt.inputs[index].get(InputType.REDEEM_SCRIPT)
    if templates.is_p2sh(script) and redeem is None:
        return Missing(redeem_script=script[2:22])
    program = templates.match_witness_program(redeem if redeem is not None else script)
    return Missing(witness_script=None if program is None else program[1])


def required_signatures(unlock: Unlock) -> int:
    """Return how many signatures a script asks for; one of a kind that we do not know asks for none."""
    if unlock.kind == templates.MULTISIG:
        return unlock.parts[0][0]
    return int(unlock.kind in (templates.PUBKEY, templates.PUBKEYHASH))


def solution(unlock: Unlock, signatures: dict[bytes, bytes]) -> Sequence[bytes] | None:
    """Return what satisfies the script, None if signatures are wanted still or the kind is unknown."""
    required = required_signatures(unlock)
    if not required:
        return None
    if unlock.kind == templates.MULTISIG:
        # CHECKMULTISIG takes signatures in the order of the keys; a key that stands twice signs twice.
        chosen = [signatures[key] for key in unlock.named_keys() if key in signatures][:required]
        return (b"", *chosen) if len(chosen) == required else None
    if not signatures:
        return None
    pubkey = min(signatures)
    if unlock.kind == templates.PUBKEY:
        return (signatures[pubkey],)
    return (signatures[pubkey], pubkey)
