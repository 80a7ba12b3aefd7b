"""The signatures of plain payments, taken out without running the interpreter.

Almost every input spends P2PKH or P2WPKH with one canonical signature. For a transaction that has
only such inputs, the interpreter under CONSENSUS_FLAGS would succeed exactly if the ECDSA signatures
hold that ``signature_items`` returns, so that they can be verified in large batches.
"""

from collections.abc import Sequence

from consensus import sighash
from consensus.codec import compact_size_width
from consensus.hashes import hash160, sha256d
from consensus.keys import HALF_ORDER, is_strict_der
from consensus.script.encoding import is_compressed
from consensus.sighash import SIGHASH_ALL, is_defined_hash_type
from consensus.transaction import Transaction

Item = tuple[bytes, bytes, bytes]
"""32-byte message, compressed public key, strict DER signature with a low S."""

_MIN_SIGNATURE = 40
"""Shorter signatures are left to the interpreter: nobody can make one that holds, and one of 20 bytes
could equal the key hash, which the interpreter would look for in the script code."""

_COIN_P2PKH_SIZE = 12 + 25
_COIN_P2WPKH_SIZE = 12 + 22
_ALL_TYPE = SIGHASH_ALL.to_bytes(4, "little")
_BLANK_INPUT = 41

_Unlock = tuple[bytes, bytes]


def signature_items(tx: Transaction, spent: Sequence[bytes]) -> list[Item] | None:
    """Return one item per input of ``tx``, or None when the full interpreter must run.

    ``spent`` is one coin value per input (ValueError otherwise). All items hold if and only if every
    script succeeds.
    """
    if len(spent) != tx.input_count:
        raise ValueError("one coin per input is wanted")
    inputs = _Inputs.cut(tx)
    if inputs is None:
        return None
    items = []
    for index, coin in enumerate(spent):
        size = len(coin)
        if size == _COIN_P2PKH_SIZE and coin[12:15] == b"\x76\xa9\x14" and coin[35:] == b"\x88\xac":
            unlock, key_hash = inputs.script_pushes(index), coin[15:35]
        elif size == _COIN_P2WPKH_SIZE and coin[12:14] == b"\x00\x14":
            unlock, key_hash = inputs.witness_pair(index), coin[14:]
        else:
            return None
        if unlock is None or not _is_canonical(unlock, key_hash):
            return None
        signature, pubkey = unlock
        if size == _COIN_P2PKH_SIZE:
            message = inputs.legacy_hash(index, coin[12:], signature[-1])
        else:
            message = inputs.witness_hash(index, key_hash, coin[4:12], signature[-1])
        items.append((message, pubkey, signature[:-1]))
    return items


def _is_canonical(unlock: _Unlock, key_hash: bytes) -> bool:
    """Whether signature and key have the form that the flags demand, and the key is the right one."""
    signature, pubkey = unlock
    der = signature[:-1]
    return (
        len(signature) >= _MIN_SIGNATURE
        and is_strict_der(der)
        and int.from_bytes(der[6 + der[3] :], "big") <= HALF_ORDER
        and is_defined_hash_type(signature[-1])
        and is_compressed(pubkey)
        and hash160(pubkey) == key_hash
    )


class _Inputs:
    """The inputs of a transaction, cut out of its raw bytes, and what their signature hashes share."""

    __slots__ = ("blanks", "head", "outputs", "scripts", "tail", "tx", "witness_midstate", "witnesses")

    def __init__(
        self,
        tx: Transaction,
        head: bytes,
        blanks: bytes,
        scripts: list[bytes],
        witnesses: list[_Unlock | None],
    ) -> None:
        raw = tx.raw
        self.tx = tx
        self.head = head
        self.blanks = blanks  # every input as 41 bytes: outpoint, empty script, sequence
        self.scripts = scripts
        self.witnesses = witnesses
        self.outputs = raw[tx.outputs_at : tx.witness_at or -4]
        self.tail = raw[-4:] + _ALL_TYPE
        self.witness_midstate: tuple[bytes, bytes] | None = None

    @classmethod
    def cut(cls, tx: Transaction) -> "_Inputs | None":
        """Cut the inputs; None if there is a script or witness that no plain payment has."""
        raw = tx.raw
        count = tx.input_count
        at = tx.body_at + compact_size_width(count)
        head = raw[:4] + raw[tx.body_at : at]
        blanks = []
        scripts = []
        for _ in range(count):
            size = raw[at + 36]
            if size > 0xFC:
                return None
            end = at + 37 + size
            scripts.append(raw[at + 37 : end])
            blanks.append(raw[at : at + 36] + b"\x00" + raw[end : end + 4])
            at = end + 4
        witnesses = _cut_witnesses(tx)
        return None if witnesses is None else cls(tx, head, b"".join(blanks), scripts, witnesses)

    def script_pushes(self, index: int) -> _Unlock | None:
        """Return (signature, 33-byte key) if the scriptSig pushes just these and there is no witness."""
        script = self.scripts[index]
        size = len(script) - 35
        if size < _MIN_SIGNATURE or script[0] != size or script[size + 1] != 33 or self.witnesses[index]:
            return None
        return script[1 : size + 1], script[size + 2 :]

    def witness_pair(self, index: int) -> _Unlock | None:
        """Return (signature, key) if the witness is just these and there is no scriptSig."""
        return None if self.scripts[index] else self.witnesses[index]

    def legacy_hash(self, index: int, script: bytes, hash_type: int) -> bytes:
        """The message of a P2PKH input."""
        if hash_type != SIGHASH_ALL:
            return sighash.legacy(self.tx, index, script, hash_type)
        blanks = self.blanks
        at = index * _BLANK_INPUT
        end = at + _BLANK_INPUT
        own = blanks[at : at + 36] + b"\x19" + script + blanks[end - 4 : end]
        return sha256d(self.head + blanks[:at] + own + blanks[end:] + self.outputs + self.tail)

    def witness_hash(self, index: int, key_hash: bytes, amount: bytes, hash_type: int) -> bytes:
        """The message of a P2WPKH input; ``amount`` is the eight bytes of the coin."""
        code = b"\x76\xa9\x14" + key_hash + b"\x88\xac"
        if hash_type != SIGHASH_ALL:
            value = int.from_bytes(amount, "little", signed=True)
            return sighash.segwit_v0(self.tx, index, code, value, hash_type)
        if self.witness_midstate is None:
            self.witness_midstate = self._witness_midstate()
        before, outputs_hash = self.witness_midstate
        at = index * _BLANK_INPUT
        own = self.blanks[at : at + 36] + b"\x19" + code + amount + self.blanks[at + 37 : at + 41]
        return sha256d(before + own + outputs_hash + self.tail)

    def _witness_midstate(self) -> tuple[bytes, bytes]:
        """What comes before and behind the input in every BIP143 preimage of type ALL."""
        blanks = self.blanks
        sequences = b"".join([blanks[at + 37 : at + 41] for at in range(0, len(blanks), _BLANK_INPUT)])
        count_width = compact_size_width(self.tx.output_count)
        before = self.tx.raw[:4] + sha256d(b"".join(self.tx.prevouts)) + sha256d(sequences)
        return before, sha256d(self.outputs[count_width:])


def _cut_witnesses(tx: Transaction) -> list[_Unlock | None] | None:
    """Return two elements per input that has a witness; None if one has another shape."""
    if not tx.witness_at:
        return [None] * tx.input_count
    raw = tx.raw
    at = tx.witness_at
    found: list[_Unlock | None] = []
    for _ in range(tx.input_count):
        elements = raw[at]
        at += 1
        if elements == 0:
            found.append(None)
            continue
        if elements != 2 or raw[at] > 0xFC:
            return None
        key_at = at + 1 + raw[at]
        if raw[key_at] > 0xFC:
            return None
        end = key_at + 1 + raw[key_at]
        found.append((raw[at + 1 : key_at], raw[key_at + 1 : end]))
        at = end
    return found
