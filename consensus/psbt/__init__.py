"""Partially signed transactions (BIP174 version 0, with BIP371's key path fields).

One party creates, any may update, sign and combine, and the last finalises and extracts; every role is
a pure function from one ``Psbt`` to another.
"""

from consensus.psbt.fields import GlobalType, InputType, OutputType
from consensus.psbt.finaliser import estimate, extract, finalise, finalise_input, is_final
from consensus.psbt.format import Psbt, Section, parse_unsigned
from consensus.psbt.inputs import Missing, missing_parts, spent_output, spent_outputs
from consensus.psbt.roles import (
    add_derivation,
    add_input_scripts,
    add_output_scripts,
    add_utxo,
    combine,
    create,
    from_transaction,
    is_segwit_output,
    set_sighash_type,
    set_taproot_key,
)
from consensus.psbt.signer import sign_all, sign_input

__all__ = [
    "GlobalType",
    "InputType",
    "Missing",
    "OutputType",
    "Psbt",
    "Section",
    "add_derivation",
    "add_input_scripts",
    "add_output_scripts",
    "add_utxo",
    "combine",
    "create",
    "estimate",
    "extract",
    "finalise",
    "finalise_input",
    "from_transaction",
    "is_final",
    "is_segwit_output",
    "missing_parts",
    "parse_unsigned",
    "set_sighash_type",
    "set_taproot_key",
    "sign_all",
    "sign_input",
    "spent_output",
    "spent_outputs",
]
