"""How many signature checks the inputs of a transaction may cost, counted before they are run."""

from collections.abc import Sequence

from consensus.coins import coin_script
from consensus.errors import RuleError
from consensus.limits import MAX_PUBKEYS_PER_MULTISIG, MAX_TX_SIGNATURE_CHECKS
from consensus.opcodes import Op, TruncatedScript, operations
from consensus.script.templates import is_p2sh, match_witness_program
from consensus.transaction import Transaction, TxIn

_CHECKSIG = (Op.OP_CHECKSIG, Op.OP_CHECKSIGVERIFY)
_MULTISIG = (Op.OP_CHECKMULTISIG, Op.OP_CHECKMULTISIGVERIFY)


def count_checks(script: bytes) -> int:
    """Count the signature checks of a script as Bitcoin Core's GetSigOpCount(accurate) does.

    A CHECKMULTISIG behind a literal number of keys counts that number, any other 20.
    """
    count = 0
    previous = 0
    try:
        for opcode, _ in operations(script):
            if opcode in _CHECKSIG:
                count += 1
            elif opcode in _MULTISIG:
                literal = Op.OP_1 <= previous <= Op.OP_16
                count += previous - Op.OP_1 + 1 if literal else MAX_PUBKEYS_PER_MULTISIG
            previous = opcode
    except TruncatedScript:
        pass  # such a script fails when it gets there
    return count


def input_checks(txin: TxIn, script_pubkey: bytes) -> int:
    """Bound the signature checks that spending ``script_pubkey`` costs; taproot has a budget of its own."""
    script = _last_push(txin.script_sig) if is_p2sh(script_pubkey) else script_pubkey
    program = match_witness_program(script)
    if program is None:
        return count_checks(script)
    version, hash_ = program
    if version == 0 and len(hash_) == 20:
        return 1
    if version == 0 and txin.witness:
        return count_checks(txin.witness[-1])
    return 0


def _last_push(script: bytes) -> bytes:
    try:
        pushed = [data or b"" for _, data in operations(script)]
    except TruncatedScript:
        return b""
    return pushed[-1] if pushed else b""


def check_signature_budget(tx: Transaction, spent: Sequence[bytes]) -> None:
    """Check the work that all inputs together may cost; ``spent`` is one coin value per input.

    Raises RuleError ``bad-txns-too-many-sigops``.
    """
    count = sum(input_checks(txin, coin_script(coin)) for txin, coin in zip(tx.vin, spent, strict=True))
    if count > MAX_TX_SIGNATURE_CHECKS:
        raise RuleError("bad-txns-too-many-sigops", f"{count} signature checks")
