"""Bitcoin Core's script_tests.json: every case, with its flags and its expected error."""

import json
import re
from pathlib import Path

import pytest

from consensus.keys import taproot_tweak
from consensus.opcodes import Op
from consensus.params import COIN
from consensus.script import (
    ScriptError,
    TransactionChecker,
    flags_from_names,
    tapleaf_hash,
    verify_script,
)
from consensus.script import flags as bits
from consensus.script.templates import p2tr, push, push_data, push_number
from consensus.transaction import NULL_PREVOUT, Transaction, TxIn, TxOut, outpoint

NAMES = {op.name.removeprefix("OP_"): op for op in Op if op > Op.OP_16 or op == Op.OP_RESERVED}
NAMES |= {"1NEGATE": Op.OP_1NEGATE}
# The internal key of Core's tapscript cases: any valid x-only key will do, this one is G.
INTERNAL_KEY = bytes.fromhex("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")


def assemble(text: str) -> bytes:
    """Read the notation of Bitcoin Core's ParseScript."""
    script = b""
    for word in text.split():
        if re.fullmatch(r"-?[0-9]+", word):
            script += push_number(int(word))
        elif word.startswith("0x"):
            script += bytes.fromhex(word[2:])
        elif word.startswith("'"):
            script += push_data(word[1:-1].encode())
        else:
            script += bytes((NAMES[word.removeprefix("OP_")],))
    return script


def spending(script_sig: bytes, script_pubkey: bytes, witness: tuple[bytes, ...], amount: int) -> Transaction:
    credit = Transaction.build(1, [TxIn(NULL_PREVOUT, b"\x00\x00")], [TxOut(amount, script_pubkey)])
    return Transaction.build(
        1, [TxIn(outpoint(credit.txid, 0), script_sig, witness=witness)], [TxOut(amount, b"")]
    )


def read_witness(fields: list) -> tuple[tuple[bytes, ...], int, bytes]:
    """Return (stack, amount, output key) of a case's witness field, tapscript placeholders filled in."""
    *items, amount = fields
    leaf = output_key = control = b""
    stack = []
    for item in items:
        if item.startswith("#SCRIPT#"):
            leaf = assemble(item.removeprefix("#SCRIPT#"))
            output_key, parity = taproot_tweak(INTERNAL_KEY, tapleaf_hash(leaf))
            control = bytes((0xC0 | parity,)) + INTERNAL_KEY
            stack.append(leaf)
        elif item == "#CONTROLBLOCK#":
            stack.append(control)
        else:
            stack.append(bytes.fromhex(item))
    return tuple(stack), round(amount * COIN), output_key


def run_case(case: list) -> str:
    """Return the error name that a case ends with."""
    witness, amount, output_key = (), 0, b""
    if isinstance(case[0], list):
        witness, amount, output_key = read_witness(case[0])
        case = case[1:]
    script_sig = assemble(case[0])
    script_pubkey = assemble(case[1].replace("#TAPROOTOUTPUT#", "0x" + output_key.hex()))
    flags = flags_from_names(case[2])
    if flags & bits.CLEANSTACK:  # as Bitcoin Core's own runner does
        flags |= bits.P2SH | bits.WITNESS
    tx = spending(script_sig, script_pubkey, witness, amount)
    checker = TransactionChecker(tx, 0, amount, [TxOut(amount, script_pubkey)])
    try:
        verify_script(script_sig, script_pubkey, witness, flags, checker)
    except ScriptError as error:
        return error.name
    return "OK"


def test_every_script_case_ends_as_bitcoin_core_says(
    shared_vectors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = json.loads((shared_vectors / "bitcoin" / "script_tests.json").read_text())
    cases = [entry for entry in entries if len(entry) > 1]
    wrong = []
    for case in cases:
        expected = case[4 if isinstance(case[0], list) else 3]
        got = run_case(case)
        if got != expected:
            wrong.append(f"{got} instead of {expected}: {json.dumps(case)[:300]}")
    with capsys.disabled():
        print(f"\nscript_tests.json: {len(cases)} cases run, {len(cases) - len(wrong)} passed, 0 left out")
    assert not wrong, "\n".join(wrong)
    assert len(cases) > 1000


def test_p2tr_template_matches_the_placeholder_form() -> None:
    assert p2tr(INTERNAL_KEY) == assemble("0x51 0x20 0x" + INTERNAL_KEY.hex())
    assert push(b"\x05") == assemble("5")
