"""The container: sections of records, in bytes and in Base64 (BIP174).

Records are written in Bitcoin Core's order, by type and then by key, so the same records are the same
bytes whoever collected them. Unknown records are kept.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from consensus.codec import Reader, compact_size, var_bytes
from consensus.errors import DecodeError
from consensus.hashes import hash160
from consensus.limits import MAX_PSBT_BYTES, MAX_TX_WEIGHT
from consensus.psbt.fields import (
    GLOBAL_FORMS,
    INPUT_FORMS,
    OUTPUT_FORMS,
    Form,
    GlobalType,
    InputType,
)
from consensus.transaction import Transaction, hash_hex

MAGIC = b"psbt\xff"


@dataclass(frozen=True, slots=True)
class Section:
    """Records of the transaction, an input or an output: whole keys (type and key data) to values."""

    records: Mapping[bytes, bytes]

    def get(self, kind: int, key_data: bytes = b"") -> bytes | None:
        """Return the value of one record, None if there is none."""
        return self.records.get(compact_size(kind) + key_data)

    def of_type(self, kind: int) -> Iterator[tuple[bytes, bytes]]:
        """Return (key data, value) of all records of a type, in the order of their keys."""
        head = compact_size(kind)
        for key in sorted(self.records):
            if key.startswith(head):
                yield key[len(head) :], self.records[key]

    def with_record(self, kind: int, value: bytes, key_data: bytes = b"") -> "Section":
        """Return the section with one record set."""
        return Section({**self.records, compact_size(kind) + key_data: value})

    def only(self, kinds: frozenset[int], *, and_unknown: Mapping[int, Form]) -> "Section":
        """Return the records of ``kinds`` and those of types that ``and_unknown`` does not know."""
        kept = {
            key: value
            for key, value in self.records.items()
            if key_type(key) in kinds or key_type(key) not in and_unknown
        }
        return Section(kept)


EMPTY = Section({})


def key_type(key: bytes) -> int:
    """Return the type that a whole key begins with."""
    return Reader(key).compact_size()


@dataclass(frozen=True, slots=True)
class Psbt:
    """A partially signed transaction: ``tx`` has neither scripts nor witnesses of inputs."""

    tx: Transaction
    globals: Section
    inputs: tuple[Section, ...]
    outputs: tuple[Section, ...]

    @classmethod
    def parse(cls, data: bytes) -> "Psbt":
        """Parse the binary form.

        Raises DecodeError "psbt-too-large", "psbt-bad-magic", "psbt-duplicate-key", "psbt-bad-key",
        "psbt-bad-value", "psbt-missing-tx", "psbt-signed-tx", "psbt-bad-version", "psbt-utxo-mismatch",
        or what a part that does not parse is refused with ("truncated", "trailing-bytes", ...).
        """
        if len(data) > MAX_PSBT_BYTES:
            raise DecodeError("psbt-too-large", f"{len(data)} bytes, at most {MAX_PSBT_BYTES}")
        reader = Reader(bytes(data))
        if reader.data[: len(MAGIC)] != MAGIC:
            raise DecodeError("psbt-bad-magic", "it does not begin with psbt and 0xff")
        reader.take(len(MAGIC))
        head = _read_section(reader, "global", GLOBAL_FORMS)
        raw = head.get(GlobalType.UNSIGNED_TX)
        if raw is None:
            raise DecodeError("psbt-missing-tx", "no unsigned transaction")
        version = head.get(GlobalType.VERSION)
        if version not in (None, bytes(4)):
            raise DecodeError("psbt-bad-version", "only version 0 is known")
        tx = parse_unsigned(raw)
        if tx.weight > MAX_TX_WEIGHT:
            raise DecodeError("psbt-too-large", "no block takes a transaction of this weight")
        inputs = tuple([_read_section(reader, "input", INPUT_FORMS) for _ in range(tx.input_count)])
        outputs = tuple([_read_section(reader, "output", OUTPUT_FORMS) for _ in range(tx.output_count)])
        reader.finish()
        for prevout, section in zip(tx.prevouts, inputs, strict=True):
            check_previous(prevout, section)
        return cls(tx, head, inputs, outputs)

    @classmethod
    def from_base64(cls, text: str) -> "Psbt":
        """Parse the Base64 form. Raises DecodeError "psbt-bad-base64" or as ``parse``."""
        if len(text) > MAX_PSBT_BYTES * 2:
            raise DecodeError("psbt-too-large", f"{len(text)} characters")
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise DecodeError("psbt-bad-base64", "not Base64") from None
        return cls.parse(data)

    @property
    def raw(self) -> bytes:
        """The binary form."""
        sections = [_write_section(self.globals, None)]
        sections += [_write_section(section, InputType.PARTIAL_SIG) for section in self.inputs]
        sections += [_write_section(section, None) for section in self.outputs]
        return MAGIC + b"".join(sections)

    def to_base64(self) -> str:
        """Return the Base64 form, without line breaks."""
        return base64.b64encode(self.raw).decode()

    def with_input(self, index: int, section: Section) -> "Psbt":
        """Return this with the records of one input exchanged."""
        return replace(self, inputs=(*self.inputs[:index], section, *self.inputs[index + 1 :]))

    def with_output(self, index: int, section: Section) -> "Psbt":
        """Return this with the records of one output exchanged."""
        return replace(self, outputs=(*self.outputs[:index], section, *self.outputs[index + 1 :]))


def parse_unsigned(raw: bytes) -> Transaction:
    """Parse a transaction in the form before segwit, which alone can write one without inputs.

    Raises DecodeError "psbt-signed-tx" if an input has a scriptSig or a witness.
    """
    if len(raw) > 5 and raw[4] == 0 and raw[5] != 0:
        try:
            return _parse_without_inputs(raw)
        except DecodeError:
            pass  # then it is segwit's marker
    tx = Transaction.parse(raw)
    if tx.has_witness or any(txin.script_sig for txin in tx.vin):
        raise DecodeError("psbt-signed-tx", "the unsigned transaction has scripts or witnesses of inputs")
    return tx


def _parse_without_inputs(raw: bytes) -> Transaction:
    reader = Reader(raw, 5)
    count = reader.compact_size()
    for _ in range(count):
        reader.take(8)
        reader.var_bytes()
    reader.take(4)
    reader.finish()
    return Transaction(raw, 4, 0, 5, count, 0)


def check_previous(prevout: bytes, section: Section) -> None:
    """Check that the previous transaction of an input, if given, is the one that the input names.

    Without this a signer would sign over an amount that somebody made up. Raises DecodeError.
    """
    raw = section.get(InputType.NON_WITNESS_UTXO)
    if raw is None:
        return
    previous = Transaction.parse(raw)
    if previous.txid != prevout[:32]:
        raise DecodeError(
            "psbt-utxo-mismatch", f"{hash_hex(previous.txid)} is not the transaction that the input spends"
        )
    if int.from_bytes(prevout[32:], "little") >= previous.output_count:
        raise DecodeError("psbt-utxo-mismatch", "the transaction spent has no such output")


def _read_section(reader: Reader, name: str, forms: Mapping[int, Form]) -> Section:
    records: dict[bytes, bytes] = {}
    while True:
        key = reader.var_bytes()
        if not key:
            return Section(records)
        if key in records:
            raise DecodeError("psbt-duplicate-key", f"key {key.hex()} of an {name} stands twice")
        value = reader.var_bytes()
        _check_record(key, value, name, forms)
        records[key] = value


def _check_record(key: bytes, value: bytes, name: str, forms: Mapping[int, Form]) -> None:
    reader = Reader(key)
    kind = reader.compact_size()
    form = forms.get(kind)
    if form is None:
        return
    if not form.key(key[reader.offset :]):
        raise DecodeError("psbt-bad-key", f"key {key.hex()} of an {name}")
    if not form.value(value):
        raise DecodeError("psbt-bad-value", f"value of {name} type {kind:#04x}")


def _write_section(section: Section, by_key_hash: int | None) -> bytes:
    def place(key: bytes) -> tuple[int, bytes]:
        kind = key_type(key)
        return kind, hash160(key[1:]) if kind == by_key_hash else key

    keys = sorted(section.records, key=place)
    return b"".join([var_bytes(key) + var_bytes(section.records[key]) for key in keys]) + b"\x00"
