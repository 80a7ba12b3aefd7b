"""Whether an input may spend an output: scriptSig, scriptPubKey, P2SH, witness programs, taproot."""

from collections.abc import Sequence

from consensus.codec import compact_size_width, var_bytes
from consensus.coins import coin_amount, coin_script
from consensus.errors import RuleError
from consensus.hashes import sha256, tagged_hash
from consensus.keys import taproot_tweak
from consensus.limits import (
    MAX_ELEMENT_SIZE,
    MAX_STACK_SIZE,
    MAX_TAPROOT_DEPTH,
    TAPSCRIPT_WEIGHT_PER_CHECK,
)
from consensus.opcodes import OP_SUCCESS, TruncatedScript, is_push_only, operations
from consensus.script import flags as bits
from consensus.script.checker import Checker, SigVersion, TapContext, TransactionChecker
from consensus.script.flags import CONSENSUS_FLAGS, ScriptError
from consensus.script.interpreter import Machine
from consensus.script.numbers import is_true
from consensus.script.sigops import check_signature_budget
from consensus.script.templates import (
    ANCHOR_PROGRAM,
    is_p2sh,
    match_witness_program,
    p2pkh,
    push_data,
)
from consensus.sighash import Midstates
from consensus.transaction import Transaction, TxOut

ANNEX_TAG = 0x50
"""First byte of a taproot annex (BIP341)."""

LEAF_VERSION_MASK = 0xFE
LEAF_VERSION_TAPSCRIPT = 0xC0
_CONTROL_BASE = 33
_CONTROL_NODE = 32

Witness = Sequence[bytes]


def verify_script(
    script_sig: bytes, script_pubkey: bytes, witness: Witness, flags: int, checker: Checker
) -> None:
    """Check that ``script_sig`` and ``witness`` satisfy ``script_pubkey``, as Bitcoin Core's VerifyScript.

    CLEANSTACK needs P2SH and WITNESS, WITNESS needs P2SH (ValueError otherwise). Raises ScriptError.
    """
    if (flags & bits.CLEANSTACK and not flags & bits.WITNESS) or (
        flags & bits.WITNESS and not flags & bits.P2SH
    ):
        raise ValueError("these flags cannot stand without P2SH and WITNESS")
    if flags & bits.SIGPUSHONLY and not is_push_only(script_sig):
        raise ScriptError("SIG_PUSHONLY")
    stack: list[bytes] = []
    Machine(stack, script_sig, flags, checker, SigVersion.BASE).run()
    pushed = list(stack)
    _run_to_true(stack, script_pubkey, flags, checker)
    had_witness = _verify_bare_witness(script_sig, script_pubkey, witness, flags, checker)
    if flags & bits.P2SH and is_p2sh(script_pubkey):
        if not is_push_only(script_sig):
            raise ScriptError("SIG_PUSHONLY")
        stack = pushed
        redeem_script = stack.pop()
        _run_to_true(stack, redeem_script, flags, checker)
        had_witness = _verify_nested_witness(script_sig, redeem_script, witness, flags, checker)
    if flags & bits.CLEANSTACK and not had_witness and len(stack) != 1:
        raise ScriptError("CLEANSTACK")
    if flags & bits.WITNESS and witness and not had_witness:
        raise ScriptError("WITNESS_UNEXPECTED")


def verify_transaction(tx: Transaction, spent: Sequence[bytes], flags: int = CONSENSUS_FLAGS) -> None:
    """Check the scripts of every input of ``tx``; ``spent`` is one coin value per input.

    Raises ScriptError for the first input that fails, RuleError ``bad-txns-too-many-sigops`` before any
    is run that together could cost more signature checks than one transaction may.
    """
    check_signature_budget(tx, spent)
    outputs = [TxOut(coin_amount(coin), coin_script(coin)) for coin in spent]
    midstates = Midstates(tx, outputs)
    for index, (txin, output) in enumerate(zip(tx.vin, outputs, strict=True)):
        checker = TransactionChecker(tx, index, output.value, midstates=midstates)
        verify_script(txin.script_sig, output.script_pubkey, txin.witness, flags, checker)


def _run_to_true(stack: list[bytes], script: bytes, flags: int, checker: Checker) -> None:
    """Run a legacy script on ``stack``, which must leave something true on top."""
    Machine(stack, script, flags, checker, SigVersion.BASE).run()
    if not stack or not is_true(stack[-1]):
        raise ScriptError("EVAL_FALSE")


def _verify_bare_witness(
    script_sig: bytes, script_pubkey: bytes, witness: Witness, flags: int, checker: Checker
) -> bool:
    """Check a witness program that is the output's script itself; return whether it is one."""
    program = match_witness_program(script_pubkey) if flags & bits.WITNESS else None
    if program is None:
        return False
    if script_sig:
        raise ScriptError("WITNESS_MALLEATED")
    _verify_witness_program(*program, witness, flags, checker, nested=False)
    return True


def _verify_nested_witness(
    script_sig: bytes, redeem_script: bytes, witness: Witness, flags: int, checker: Checker
) -> bool:
    """Check a witness program inside P2SH; return whether the redeem script is one."""
    program = match_witness_program(redeem_script) if flags & bits.WITNESS else None
    if program is None:
        return False
    if script_sig != push_data(redeem_script):
        raise ScriptError("WITNESS_MALLEATED_P2SH")
    _verify_witness_program(*program, witness, flags, checker, nested=True)
    return True


def _verify_witness_program(
    version: int, program: bytes, witness: Witness, flags: int, checker: Checker, *, nested: bool
) -> None:
    if version == 0:
        _verify_v0(program, witness, flags, checker)
    elif version == 1 and len(program) == 32 and not nested:
        if flags & bits.TAPROOT:
            _verify_taproot(program, witness, flags, checker)
    elif version == 1 and program == ANCHOR_PROGRAM and not nested:
        return  # pay-to-anchor: anybody may spend it, that is its purpose
    elif flags & bits.DISCOURAGE_UPGRADABLE_WITNESS_PROGRAM:
        raise ScriptError("DISCOURAGE_UPGRADABLE_WITNESS_PROGRAM")


def _verify_v0(program: bytes, witness: Witness, flags: int, checker: Checker) -> None:
    """Check a segwit version 0 program (BIP141)."""
    if len(program) == 20:
        if len(witness) != 2:
            raise ScriptError("WITNESS_PROGRAM_MISMATCH")
        stack, script = list(witness), p2pkh(program)
    elif len(program) == 32:
        if not witness:
            raise ScriptError("WITNESS_PROGRAM_WITNESS_EMPTY")
        stack, script = list(witness[:-1]), witness[-1]
        if sha256(script) != program:
            raise ScriptError("WITNESS_PROGRAM_MISMATCH")
    else:
        raise ScriptError("WITNESS_PROGRAM_WRONG_LENGTH")
    _execute_witness(stack, script, flags, checker, SigVersion.WITNESS_V0, None)


def _execute_witness(
    stack: list[bytes],
    script: bytes,
    flags: int,
    checker: Checker,
    version: SigVersion,
    tap: TapContext | None,
) -> None:
    """Run a witness script, which must leave exactly one element, a true one."""
    if any(len(element) > MAX_ELEMENT_SIZE for element in stack):
        raise ScriptError("PUSH_SIZE")
    Machine(stack, script, flags, checker, version, tap).run()
    if len(stack) != 1:
        raise ScriptError("CLEANSTACK")
    if not is_true(stack[0]):
        raise ScriptError("EVAL_FALSE")


def _verify_taproot(output_key: bytes, witness: Witness, flags: int, checker: Checker) -> None:
    """Check a taproot output: one element is a key path spend, more are a script path (BIP341)."""
    if not witness:
        raise ScriptError("WITNESS_PROGRAM_WITNESS_EMPTY")
    stack = list(witness)
    tap = TapContext()
    if len(stack) >= 2 and stack[-1][:1] == bytes((ANNEX_TAG,)):
        tap.annex = stack.pop()
    if len(stack) == 1:
        checker.check_schnorr(stack[0], output_key, tap)
        return
    control, script = stack.pop(), stack.pop()
    path_size = len(control) - _CONTROL_BASE
    if path_size % _CONTROL_NODE or not 0 <= path_size <= _CONTROL_NODE * MAX_TAPROOT_DEPTH:
        raise ScriptError("TAPROOT_WRONG_CONTROL_SIZE")
    leaf_version = control[0] & LEAF_VERSION_MASK
    tap.leaf_hash = tapleaf_hash(script, leaf_version)
    if not _is_committed(output_key, control, tap.leaf_hash):
        raise ScriptError("WITNESS_PROGRAM_MISMATCH")
    if leaf_version == LEAF_VERSION_TAPSCRIPT:
        tap.weight_left = _witness_size(witness) + TAPSCRIPT_WEIGHT_PER_CHECK
        _execute_tapscript(stack, script, flags, checker, tap)
    elif flags & bits.DISCOURAGE_UPGRADABLE_TAPROOT_VERSION:
        raise ScriptError("DISCOURAGE_UPGRADABLE_TAPROOT_VERSION")


def _execute_tapscript(
    stack: list[bytes], script: bytes, flags: int, checker: Checker, tap: TapContext
) -> None:
    """Run a tapscript (BIP342); an OP_SUCCESS anywhere before a truncated push makes it succeed."""
    try:
        for opcode, _ in operations(script):
            if opcode in OP_SUCCESS:
                if flags & bits.DISCOURAGE_OP_SUCCESS:
                    raise ScriptError("DISCOURAGE_OP_SUCCESS")
                return
    except TruncatedScript:
        raise ScriptError("BAD_OPCODE") from None
    if len(stack) > MAX_STACK_SIZE:
        raise ScriptError("STACK_SIZE")
    _execute_witness(stack, script, flags, checker, SigVersion.TAPSCRIPT, tap)


def tapleaf_hash(script: bytes, leaf_version: int = LEAF_VERSION_TAPSCRIPT) -> bytes:
    """Return the hash of a leaf of a taproot script tree (BIP341)."""
    return tagged_hash("TapLeaf", bytes((leaf_version,)) + var_bytes(script))


def tapbranch_hash(one: bytes, other: bytes) -> bytes:
    """Return the hash of an inner node of a taproot script tree, whose children are unordered (BIP341)."""
    return tagged_hash("TapBranch", min(one, other) + max(one, other))


def _is_committed(output_key: bytes, control: bytes, leaf_hash: bytes) -> bool:
    """Whether the output key commits to the leaf through the control block."""
    node = leaf_hash
    for at in range(_CONTROL_BASE, len(control), _CONTROL_NODE):
        node = tapbranch_hash(node, control[at : at + _CONTROL_NODE])
    try:
        tweaked, parity = taproot_tweak(control[1:_CONTROL_BASE], node)
    except RuleError:
        return False
    return tweaked == output_key and parity == control[0] & 1


def _witness_size(witness: Witness) -> int:
    """Serialised size of a witness stack, bytes."""
    return compact_size_width(len(witness)) + sum(compact_size_width(len(e)) + len(e) for e in witness)
