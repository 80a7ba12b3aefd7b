"""Creator, updater and combiner."""

from collections.abc import Sequence

from consensus.codec import compact_size
from consensus.errors import RuleError
from consensus.psbt.fields import INPUT_FORMS, GlobalType, InputType, OutputType
from consensus.psbt.format import EMPTY, Psbt, Section, check_previous, parse_unsigned
from consensus.psbt.inputs import spent_output, unlock_of, valid_signatures
from consensus.script import templates
from consensus.sighash import serialize_output
from consensus.transaction import Transaction, TxIn, TxOut

_SPENT_BY_FINAL = frozenset(INPUT_FORMS) - {
    InputType.NON_WITNESS_UTXO,
    InputType.WITNESS_UTXO,
    InputType.PROPRIETARY,
    InputType.FINAL_SCRIPTSIG,
    InputType.FINAL_SCRIPTWITNESS,
}


def create(vin: Sequence[TxIn], vout: Sequence[TxOut], *, version: int = 2, lock_time: int = 0) -> Psbt:
    """Return a new PSBT over the inputs (scripts and witnesses left out) and outputs."""
    blank = [txin._replace(script_sig=b"", witness=()) for txin in vin]
    if blank:
        return _around(Transaction.build(version, blank, vout, lock_time))
    body = b"\x00" + compact_size(len(vout)) + b"".join([serialize_output(output) for output in vout])
    return _around(parse_unsigned(version.to_bytes(4, "little") + body + lock_time.to_bytes(4, "little")))


def from_transaction(tx: Transaction) -> Psbt:
    """Return a new PSBT over ``tx``; its signatures, if any, are thrown away."""
    return create(tx.vin, tx.vout, version=tx.version, lock_time=tx.lock_time)


def _around(tx: Transaction) -> Psbt:
    head = EMPTY.with_record(GlobalType.UNSIGNED_TX, tx.raw)
    return Psbt(tx, head, (EMPTY,) * tx.input_count, (EMPTY,) * tx.output_count)


def add_utxo(
    psbt: Psbt, index: int, *, previous: Transaction | None = None, output: TxOut | None = None
) -> Psbt:
    """Record what an input spends: the whole previous transaction, for segwit the output, or both.

    Raises DecodeError "psbt-utxo-mismatch" if ``previous`` is another transaction, RuleError with the
    same code if the two disagree.
    """
    section = psbt.inputs[index]
    if previous is not None:
        section = section.with_record(InputType.NON_WITNESS_UTXO, previous.raw)
        check_previous(psbt.tx.prevouts[index], section)
    if output is not None:
        section = section.with_record(InputType.WITNESS_UTXO, serialize_output(output))
    updated = psbt.with_input(index, section)
    if previous is not None or output is not None:
        spent_output(updated, index)
    return updated


def add_input_scripts(
    psbt: Psbt, index: int, *, redeem: bytes | None = None, witness: bytes | None = None
) -> Psbt:
    """Record the redeem script and the witness script of an input."""
    section = _with_scripts(
        psbt.inputs[index], (InputType.REDEEM_SCRIPT, redeem), (InputType.WITNESS_SCRIPT, witness)
    )
    return psbt.with_input(index, section)


def add_output_scripts(
    psbt: Psbt, index: int, *, redeem: bytes | None = None, witness: bytes | None = None
) -> Psbt:
    """Record the redeem script and the witness script of an output, so that parties know their change."""
    section = _with_scripts(
        psbt.outputs[index], (OutputType.REDEEM_SCRIPT, redeem), (OutputType.WITNESS_SCRIPT, witness)
    )
    return psbt.with_output(index, section)


def _with_scripts(section: Section, *scripts: tuple[int, bytes | None]) -> Section:
    for kind, script in scripts:
        if script is not None:
            section = section.with_record(kind, script)
    return section


def add_derivation(
    psbt: Psbt,
    pubkey: bytes,
    fingerprint: bytes,
    path: Sequence[int],
    *,
    input_index: int | None = None,
    output_index: int | None = None,
) -> Psbt:
    """Record where a key comes from (BIP32): the master key's four-byte fingerprint, u32 steps."""
    value = fingerprint + b"".join([step.to_bytes(4, "little") for step in path])
    if input_index is not None:
        section = psbt.inputs[input_index].with_record(InputType.BIP32_DERIVATION, value, pubkey)
        psbt = psbt.with_input(input_index, section)
    if output_index is not None:
        section = psbt.outputs[output_index].with_record(OutputType.BIP32_DERIVATION, value, pubkey)
        psbt = psbt.with_output(output_index, section)
    return psbt


def set_sighash_type(psbt: Psbt, index: int, hash_type: int) -> Psbt:
    """Say which hash type signatures of an input must have."""
    value = hash_type.to_bytes(4, "little")
    return psbt.with_input(index, psbt.inputs[index].with_record(InputType.SIGHASH_TYPE, value))


def set_taproot_key(psbt: Psbt, index: int, internal_key: bytes, merkle_root: bytes = b"") -> Psbt:
    """Record the x-only internal key of a taproot input, and the root of its script tree if it has one."""
    section = psbt.inputs[index].with_record(InputType.TAP_INTERNAL_KEY, internal_key)
    if merkle_root:
        section = section.with_record(InputType.TAP_MERKLE_ROOT, merkle_root)
    return psbt.with_input(index, section)


def is_segwit_output(psbt: Psbt, index: int, output: TxOut) -> bool:
    """Whether an input spends a witness program, as far as scripts that are recorded tell."""
    script = output.script_pubkey
    if templates.is_p2sh(script):
        script = psbt.inputs[index].get(InputType.REDEEM_SCRIPT) or b""
    return templates.match_witness_program(script) is not None


def combine(psbts: Sequence[Psbt]) -> Psbt:
    """Return the records of all ``psbts`` in one. The order does not matter: of two values the lesser stays,
    but of two signatures by one key one that holds, so that nobody can push out another's.

    Raises RuleError "psbt-different-tx" unless all are over the same transaction, ValueError for none.
    """
    if not psbts:
        raise ValueError("nothing to combine")
    first = psbts[0]
    if any(psbt.tx.raw != first.tx.raw for psbt in psbts):
        raise RuleError("psbt-different-tx", "PSBTs not compatible (different transactions)")
    combined = Psbt(
        first.tx,
        _merge([psbt.globals for psbt in psbts]),
        tuple([_settle(_merge(sections)) for sections in zip(*[p.inputs for p in psbts], strict=True)]),
        tuple([_merge(sections) for sections in zip(*[p.outputs for p in psbts], strict=True)]),
    )
    for index in range(len(combined.inputs)):
        combined = _prefer_good_signatures(combined, index, [psbt.inputs[index] for psbt in psbts])
    return combined


def _prefer_good_signatures(psbt: Psbt, index: int, sections: Sequence[Section]) -> Psbt:
    for pubkey, kept in psbt.inputs[index].of_type(InputType.PARTIAL_SIG):
        given = {section.get(InputType.PARTIAL_SIG, pubkey) for section in sections} - {None, kept}
        for signature in (kept, *sorted(filter(None, given))) if given else ():
            trial = psbt.with_input(
                index, psbt.inputs[index].with_record(InputType.PARTIAL_SIG, signature, pubkey)
            )
            try:
                holds = pubkey in valid_signatures(trial, index, unlock_of(trial, index))
            except RuleError:
                break  # not known well enough to tell
            if holds:
                psbt = trial
                break
    return psbt


def _merge(sections: Sequence[Section]) -> Section:
    records: dict[bytes, bytes] = {}
    for section in sections:
        for key, value in section.records.items():
            records[key] = min(records.get(key, value), value)
    return Section(records)


def _settle(section: Section) -> Section:
    """Drop what a final script was made of, if one of the parties has finalised the input."""
    if section.get(InputType.FINAL_SCRIPTSIG) is None and section.get(InputType.FINAL_SCRIPTWITNESS) is None:
        return section
    kept = frozenset(INPUT_FORMS) - _SPENT_BY_FINAL
    return section.only(kept, and_unknown=INPUT_FORMS)
