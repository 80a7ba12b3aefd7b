"""Signature operations: Bitcoin Core's cost of a transaction, and what its inputs may make a node check.

The cost counts what stands in outputs, redeem scripts and witness scripts (GetTransactionSigOpCost); it is
known without running anything. What bare outputs cost was counted where they were created, maybe
blocks ago, so the checks that inputs run are bounded as well.
"""

from collections.abc import Sequence

from consensus.coins import coin_script
from consensus.errors import RuleError
from consensus.limits import MAX_PUBKEYS_PER_MULTISIG, MAX_TX_SIGOPS_COST, WITNESS_SCALE
from consensus.opcodes import Op, TruncatedScript, operations
from consensus.script.templates import (
    is_p2pkh,
    is_p2sh,
    is_p2wpkh,
    match_witness_program,
)
from consensus.transaction import Transaction, TxIn

_CHECKSIG = (Op.OP_CHECKSIG, Op.OP_CHECKSIGVERIFY)
_MULTISIG = (Op.OP_CHECKMULTISIG, Op.OP_CHECKMULTISIGVERIFY)


def count_checks(script: bytes, *, accurate: bool = True) -> int:
    """Count the signature checks of a script as Bitcoin Core's GetSigOpCount does.

    A CHECKMULTISIG counts 20; if ``accurate``, one behind a literal number of keys counts that number.
    """
    count = 0
    previous = 0
    try:
        for opcode, _ in operations(script):
            if opcode in _CHECKSIG:
                count += 1
            elif opcode in _MULTISIG:
                literal = accurate and Op.OP_1 <= previous <= Op.OP_16
                count += previous - Op.OP_1 + 1 if literal else MAX_PUBKEYS_PER_MULTISIG
            previous = opcode
    except TruncatedScript:
        pass  # such a script fails when it gets there
    return count


def output_cost(script: bytes) -> int:
    """Return what an output script adds to the cost of the transaction that creates it."""
    if is_p2pkh(script):
        return WITNESS_SCALE
    if is_p2wpkh(script) or is_p2sh(script) or match_witness_program(script) is not None:
        return 0
    return WITNESS_SCALE * count_checks(script, accurate=False)


def input_cost(txin: TxIn, script_pubkey: bytes) -> int:
    """Return what spending ``script_pubkey`` adds to the cost: scripts that only the input shows."""
    own = WITNESS_SCALE * count_checks(txin.script_sig, accurate=False)
    if not is_p2sh(script_pubkey):
        return own + _witness_cost(script_pubkey, txin.witness)
    redeem = _last_push(txin.script_sig)
    return own + WITNESS_SCALE * count_checks(redeem) + _witness_cost(redeem, txin.witness)


def _witness_cost(script: bytes, witness: Sequence[bytes]) -> int:
    program = match_witness_program(script)
    if program is None or program[0] != 0:
        return 0  # tapscript pays by witness bytes (BIP342)
    if len(program[1]) == 20:
        return 1
    return count_checks(witness[-1]) if len(program[1]) == 32 and witness else 0


def transaction_cost(tx: Transaction, spent: Sequence[bytes]) -> int:
    """Return the cost of a transaction as Bitcoin Core's GetTransactionSigOpCost with P2SH and segwit.

    ``spent`` is one coin value per input; of a coinbase nothing.
    """
    cost = sum(output_cost(output.script_pubkey) for output in tx.vout)
    if tx.is_coinbase:
        return cost + WITNESS_SCALE * count_checks(tx.vin[0].script_sig, accurate=False)
    return cost + sum(input_cost(txin, coin_script(coin)) for txin, coin in zip(tx.vin, spent, strict=True))


def bare_checks(script_pubkey: bytes) -> int:
    """Return the signature checks that running a bare output script costs beyond a plain payment.

    Zero for what Bitcoin Core relays freely: one key, P2SH, witness programs. The rest is counted in no
    cost of the block that spends it.
    """
    if is_p2pkh(script_pubkey) or is_p2sh(script_pubkey) or match_witness_program(script_pubkey) is not None:
        return 0
    checks = count_checks(script_pubkey)
    return checks if checks > 1 else 0


def _last_push(script: bytes) -> bytes:
    """Return the redeem script in a scriptSig; nothing if it does anything but push."""
    pushed = b""
    try:
        for opcode, data in operations(script):
            if opcode > Op.OP_16:
                return b""
            pushed = data or b""
    except TruncatedScript:
        return b""
    return pushed


def check_signature_budget(tx: Transaction, spent: Sequence[bytes]) -> None:
    """Check the work that all inputs together may cost; ``spent`` is one coin value per input.

    The rules of blocks say it again with the outputs counted (``coin_rules.check_spend``); here it keeps
    scripts from being run. Raises RuleError ``bad-txns-too-many-sigops``.
    """
    cost = 0
    for txin, coin in zip(tx.vin, spent, strict=True):
        script = coin_script(coin)
        cost += input_cost(txin, script) + WITNESS_SCALE * bare_checks(script)
    if cost > MAX_TX_SIGOPS_COST:
        raise RuleError("bad-txns-too-many-sigops", f"signature operations of the inputs cost {cost}")
