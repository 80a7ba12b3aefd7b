"""Finaliser and extractor: from signatures to scripts and witnesses, judged by the interpreter."""

from collections.abc import Sequence

from consensus.codec import compact_size, var_bytes
from consensus.errors import RuleError
from consensus.psbt.fields import INPUT_FORMS, InputType, read_witness
from consensus.psbt.format import Psbt
from consensus.psbt.inputs import Unlock, solution, spent_output, unlock_of, valid_signatures
from consensus.script import CONSENSUS_FLAGS, ScriptError, TransactionChecker, templates, verify_script
from consensus.transaction import Transaction, TxOut

_KEPT = frozenset({InputType.NON_WITNESS_UTXO, InputType.WITNESS_UTXO, InputType.PROPRIETARY})
"""What a finalised input keeps beside its scripts and unknown records (BIP174)."""

Final = tuple[bytes, tuple[bytes, ...]]
"""scriptSig and witness."""


def is_final(psbt: Psbt, index: int) -> bool:
    """Whether an input has its final scripts."""
    section = psbt.inputs[index]
    return (
        section.get(InputType.FINAL_SCRIPTSIG) is not None
        or section.get(InputType.FINAL_SCRIPTWITNESS) is not None
    )


def final_scripts(psbt: Psbt, index: int) -> Final:
    """Return scriptSig and witness of a finalised input, both empty if it is not."""
    section = psbt.inputs[index]
    return (
        section.get(InputType.FINAL_SCRIPTSIG) or b"",
        read_witness(section.get(InputType.FINAL_SCRIPTWITNESS) or b"\x00"),
    )


def finalise_input(psbt: Psbt, index: int) -> Psbt:
    """Return ``psbt`` with the final scripts of one input in the place of what they were made of.

    Raises RuleError "psbt-incomplete" if signatures are wanted still, ScriptError if the interpreter
    does not accept what came out, and what ``unlock_of`` and ``valid_signatures`` raise.
    """
    return _finalise_input(psbt, index, _known_outputs(psbt))


def _finalise_input(psbt: Psbt, index: int, spent: list[TxOut] | None) -> Psbt:
    if is_final(psbt, index):
        return psbt
    script_sig, witness = _build(psbt, index, unlock_of(psbt, index))
    _verify(psbt, index, (script_sig, witness), spent)
    section = psbt.inputs[index].only(_KEPT, and_unknown=INPUT_FORMS)
    if script_sig:
        section = section.with_record(InputType.FINAL_SCRIPTSIG, script_sig)
    if witness:
        stack = compact_size(len(witness)) + b"".join(map(var_bytes, witness))
        section = section.with_record(InputType.FINAL_SCRIPTWITNESS, stack)
    return psbt.with_input(index, section)


def finalise(psbt: Psbt) -> tuple[Psbt, list[tuple[int, RuleError]]]:
    """Finalise every input that can be; return also (input, why not) of the others."""
    refused = []
    spent = _known_outputs(psbt)
    for index in range(len(psbt.inputs)):
        try:
            psbt = _finalise_input(psbt, index, spent)
        except RuleError as error:
            refused.append((index, error))
    return psbt, refused


def extract(psbt: Psbt, *, verify: bool = True) -> Transaction:
    """Return the signed transaction.

    Raises RuleError "psbt-incomplete"; with ``verify`` also "psbt-missing-utxo", and ScriptError for an
    input that the interpreter does not accept.
    """
    finals = []
    spent = _known_outputs(psbt) if verify else None
    for index in range(len(psbt.inputs)):
        if not is_final(psbt, index):
            raise RuleError("psbt-incomplete", f"input {index} is not finalised")
        finals.append(final_scripts(psbt, index))
        if verify:
            _verify(psbt, index, finals[-1], spent)
    if not finals:
        return psbt.tx
    vin = [
        txin._replace(script_sig=script_sig, witness=witness)
        for txin, (script_sig, witness) in zip(psbt.tx.vin, finals, strict=True)
    ]
    return Transaction.build(psbt.tx.version, vin, psbt.tx.vout, psbt.tx.lock_time)


def estimate(psbt: Psbt) -> Transaction | None:
    """Return the transaction as large as it will be, with signatures of 72 bytes in the place of those that
    are wanted still; None if an input is of a kind that we cannot finalise, or not known well enough."""
    vin = []
    for index, txin in enumerate(psbt.tx.vin):
        if is_final(psbt, index):
            script_sig, witness = final_scripts(psbt, index)
        else:
            try:
                unlock = unlock_of(psbt, index)
            except RuleError:
                return None
            if unlock.kind == templates.WITNESS_V1_TAPROOT:
                script_sig, witness = b"", (bytes(64),)
            else:
                keys = unlock.named_keys() or (bytes(33),)
                items = solution(unlock, dict.fromkeys(keys, bytes(72)))
                if items is None:
                    return None
                script_sig, witness = _wrap(unlock, items)
        vin.append(txin._replace(script_sig=script_sig, witness=witness))
    return Transaction.build(psbt.tx.version, vin, psbt.tx.vout, psbt.tx.lock_time) if vin else None


def _build(psbt: Psbt, index: int, unlock: Unlock) -> Final:
    if unlock.kind == templates.WITNESS_V1_TAPROOT and unlock.redeem is None:
        signature = psbt.inputs[index].get(InputType.TAP_KEY_SIG)
        if signature is None:
            raise RuleError("psbt-incomplete", f"input {index} lacks its signature")
        return b"", (signature,)
    items = solution(unlock, valid_signatures(psbt, index, unlock))
    if items is None:
        raise RuleError("psbt-incomplete", f"input {index} lacks signatures")
    return _wrap(unlock, items)


def _wrap(unlock: Unlock, items: Sequence[bytes]) -> Final:
    """Put what satisfies the script where it belongs, with the scripts that the output only names."""
    if not unlock.is_segwit:
        pushed = [*items] if unlock.redeem is None else [*items, unlock.redeem]
        return b"".join([templates.push(item) for item in pushed]), ()
    script_sig = b"" if unlock.redeem is None else templates.push(unlock.redeem)
    witness = (*items,) if unlock.witness_script is None else (*items, unlock.witness_script)
    return script_sig, witness


def _known_outputs(psbt: Psbt) -> list[TxOut] | None:
    """Return what all inputs spend, None unless all of it is known."""
    try:
        return [spent_output(psbt, index) for index in range(len(psbt.inputs))]
    except RuleError:
        return None


def _verify(psbt: Psbt, index: int, final: Final, spent: list[TxOut] | None) -> None:
    script_sig, witness = final
    tx, output = psbt.tx, spent_output(psbt, index)
    if spent is None and templates.classify(output.script_pubkey)[0] == templates.WITNESS_V1_TAPROOT:
        raise RuleError("psbt-missing-utxo", "a taproot signature covers what all inputs spend")
    vin = list(tx.vin)
    vin[index] = vin[index]._replace(script_sig=script_sig, witness=witness)
    signed = Transaction.build(tx.version, vin, tx.vout, tx.lock_time)
    checker = TransactionChecker(signed, index, output.value, spent)
    try:
        verify_script(script_sig, output.script_pubkey, witness, CONSENSUS_FLAGS, checker)
    except ScriptError as error:
        raise RuleError("psbt-script-failed", f"input {index}: {error.name}") from error
