"""Context-free rules of a transaction, with Bitcoin Core's rejection codes (consensus/tx_check.cpp)."""

from collections.abc import Iterable

from cext import next_unusual
from consensus.errors import RuleError
from consensus.limits import (
    FORBIDDEN_TX_SIZE,
    LOCKTIME_THRESHOLD,
    MAX_COINBASE_SCRIPT,
    MAX_COINBASE_WEIGHT,
    MAX_TX_WEIGHT,
    MIN_COINBASE_SCRIPT,
)
from consensus.transaction import NULL_PREVOUT, SEQUENCE_FINAL, Transaction


def check_transactions(txs: Iterable[Transaction], max_money: int) -> None:
    """Check each transaction alone, in order: the usual ones in C, whatever is left by the rules below."""
    listed = list(txs)
    at = 0
    while True:
        at = next_unusual(listed, at, max_money, MAX_TX_WEIGHT, FORBIDDEN_TX_SIZE)
        if at == len(listed):
            return
        _check_unusual(listed[at], max_money)
        at += 1


def check_transaction(tx: Transaction, max_money: int) -> None:
    """Check what can be said of a transaction alone. Raises RuleError with one of the codes below."""
    if next_unusual([tx], 0, max_money, MAX_TX_WEIGHT, FORBIDDEN_TX_SIZE) == 0:
        _check_unusual(tx, max_money)


def _check_unusual(tx: Transaction, max_money: int) -> None:
    if not tx.input_count:
        raise RuleError("bad-txns-vin-empty")
    if not tx.output_count:
        raise RuleError("bad-txns-vout-empty")
    weight = tx.weight
    if weight > (MAX_COINBASE_WEIGHT if tx.is_coinbase else MAX_TX_WEIGHT):
        raise RuleError("bad-txns-oversize", f"{weight} weight units")
    if tx.stripped_size == FORBIDDEN_TX_SIZE:
        raise RuleError("bad-txns-size-64", "could pass for a node of the Merkle tree")
    _check_values(tx, max_money)
    _check_inputs(tx)


def _check_values(tx: Transaction, max_money: int) -> None:
    total = 0
    for output in tx.vout:
        value = output.value
        if value < 0:
            raise RuleError("bad-txns-vout-negative")
        if value > max_money:
            raise RuleError("bad-txns-vout-toolarge", str(value))
        total += value
    if total > max_money:
        raise RuleError("bad-txns-txouttotal-toolarge", str(total))


def _check_inputs(tx: Transaction) -> None:
    prevouts = tx.prevouts
    if len(prevouts) > 1 and len(frozenset(prevouts)) != len(prevouts):
        raise RuleError("bad-txns-inputs-duplicate")
    if tx.is_coinbase:
        size = len(tx.vin[0].script_sig)
        if not MIN_COINBASE_SCRIPT <= size <= MAX_COINBASE_SCRIPT:
            raise RuleError("bad-cb-length", f"a scriptSig of {size} bytes")
    elif NULL_PREVOUT in prevouts:
        raise RuleError("bad-txns-prevout-null")


def is_final(tx: Transaction, height: int, time_s: int) -> bool:
    """Whether nLockTime lets ``tx`` into a block of this height; ``time_s`` is compared with lock times."""
    lock_time = tx.lock_time
    if lock_time == 0 or lock_time < (height if lock_time < LOCKTIME_THRESHOLD else time_s):
        return True
    return all(txin.sequence == SEQUENCE_FINAL for txin in tx.vin)
