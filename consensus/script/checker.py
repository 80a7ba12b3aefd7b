"""What a script asks about the transaction that it is part of: signatures and lock times."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from consensus import keys, sighash
from consensus.limits import LOCKTIME_THRESHOLD
from consensus.script.flags import ScriptError
from consensus.sighash import Midstates
from consensus.transaction import (
    SEQUENCE_DISABLE_FLAG,
    SEQUENCE_FINAL,
    SEQUENCE_MASK,
    SEQUENCE_TYPE_FLAG,
    Transaction,
    TxOut,
)


class SigVersion(IntEnum):
    """Which rules of signing and execution a script runs under."""

    BASE = 0
    WITNESS_V0 = 1
    TAPROOT = 2
    TAPSCRIPT = 3


@dataclass(slots=True)
class TapContext:
    """What the taproot rules carry through one execution (BIP341, BIP342).

    ``leaf_hash`` is None on the key path; ``weight_left`` is the budget of signature checks.
    """

    annex: bytes | None = None
    leaf_hash: bytes | None = None
    code_separator: int = 0xFFFF_FFFF
    weight_left: int = 0


class Checker(Protocol):
    """The port through which scripts see their transaction."""

    def check_ecdsa(self, signature: bytes, pubkey: bytes, script_code: bytes, version: SigVersion) -> bool:
        """Whether ``signature`` (with its hash type) by ``pubkey`` signs this input."""
        ...

    def check_schnorr(self, signature: bytes, pubkey: bytes, context: TapContext) -> None:
        """Check a taproot signature. Raises ScriptError unless it holds."""
        ...

    def check_lock_time(self, lock_time: int) -> bool:
        """Whether the transaction cannot be mined before ``lock_time`` (BIP65)."""
        ...

    def check_sequence(self, sequence: int) -> bool:
        """Whether this input cannot be spent before the relative lock of ``sequence`` (BIP112)."""
        ...


class TransactionChecker:
    """Checker of one input of a transaction.

    ``amount`` is that of the output spent. ``spent_outputs``, one per input, are needed by taproot.
    Pass the ``midstates`` of the transaction when several of its inputs are checked.
    """

    __slots__ = ("amount", "index", "midstates", "tx")

    def __init__(
        self,
        tx: Transaction,
        input_index: int,
        amount: int,
        spent_outputs: Sequence[TxOut] | None = None,
        midstates: Midstates | None = None,
    ) -> None:
        self.tx = tx
        self.index = input_index
        self.amount = amount
        self.midstates = midstates or Midstates(tx, spent_outputs)

    def check_ecdsa(self, signature: bytes, pubkey: bytes, script_code: bytes, version: SigVersion) -> bool:
        """Whether ``signature`` (with its hash type) by ``pubkey`` signs this input."""
        if not signature or not keys.is_pubkey_size(pubkey):
            return False
        hash_type = signature[-1]
        if version == SigVersion.WITNESS_V0:
            message = sighash.segwit_v0(
                self.tx, self.index, script_code, self.amount, hash_type, self.midstates
            )
        else:
            message = sighash.legacy(self.tx, self.index, script_code, hash_type)
        return keys.verify_ecdsa(pubkey, message, signature[:-1])

    def check_schnorr(self, signature: bytes, pubkey: bytes, context: TapContext) -> None:
        """Check a taproot signature by a 32-byte key.

        Raises ScriptError ``SCHNORR_SIG_SIZE``, ``SCHNORR_SIG_HASHTYPE`` or ``SCHNORR_SIG``.
        """
        if len(signature) not in (64, 65):
            raise ScriptError("SCHNORR_SIG_SIZE")
        hash_type = sighash.SIGHASH_DEFAULT
        if len(signature) == 65:
            hash_type = signature[64]
            if hash_type == sighash.SIGHASH_DEFAULT:
                raise ScriptError("SCHNORR_SIG_HASHTYPE")
        leaf = None
        if context.leaf_hash is not None:
            leaf = sighash.TapLeaf(context.leaf_hash, context.code_separator)
        message = sighash.taproot(self.midstates, self.index, hash_type, context.annex, leaf)
        if message is None:
            raise ScriptError("SCHNORR_SIG_HASHTYPE")
        if not keys.verify_schnorr(pubkey, message, signature[:64]):
            raise ScriptError("SCHNORR_SIG")

    def check_lock_time(self, lock_time: int) -> bool:
        """Whether the transaction cannot be mined before ``lock_time`` (BIP65)."""
        own = self.tx.lock_time
        if (own < LOCKTIME_THRESHOLD) != (lock_time < LOCKTIME_THRESHOLD) or lock_time > own:
            return False
        # A final sequence number would switch nLockTime off for the whole transaction.
        return self.tx.vin[self.index].sequence != SEQUENCE_FINAL

    def check_sequence(self, sequence: int) -> bool:
        """Whether this input cannot be spent before the relative lock of ``sequence`` (BIP112)."""
        own = self.tx.vin[self.index].sequence
        if self.tx.version < 2 or own & SEQUENCE_DISABLE_FLAG:
            return False
        if (own ^ sequence) & SEQUENCE_TYPE_FLAG:
            return False
        return sequence & SEQUENCE_MASK <= own & SEQUENCE_MASK
