"""Transactions, byte for byte as Bitcoin serialises them (BIP144).

A Transaction keeps its raw bytes and the offsets that one scan found; inputs, outputs and hashes
are built when they are asked for. Nothing is encoded again to be hashed, stored or relayed.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cext import ScannedTx
from consensus.codec import Reader, compact_size, compact_size_width, var_bytes
from consensus.errors import DecodeError

NULL_HASH = bytes(32)
NULL_PREVOUT = NULL_HASH + b"\xff\xff\xff\xff"
"""What the only input of a coinbase refers to."""

SEQUENCE_FINAL = 0xFFFF_FFFF
"""An input with this sequence number does not care for nLockTime."""

SEQUENCE_DISABLE_FLAG = 1 << 31
"""A sequence number with this bit carries no relative lock time (BIP68)."""

SEQUENCE_TYPE_FLAG = 1 << 22
"""A relative lock time with this bit counts units of 512 seconds instead of blocks (BIP68)."""

SEQUENCE_MASK = 0xFFFF
"""The bits of a sequence number that hold the relative lock time (BIP68)."""


def outpoint(txid: bytes, index: int) -> bytes:
    """Return the 36 bytes by which an input names output ``index`` of ``txid`` (internal order)."""
    return txid + index.to_bytes(4, "little")


def hash_hex(value: bytes) -> str:
    """Return a 32-byte hash as people see it: reversed, in hex."""
    return value[::-1].hex()


def hash_from_hex(text: str) -> bytes:
    """Return the 32 bytes in internal order of a displayed hash. Raises DecodeError ``bad-hash``."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != 32 or len(text) != 64:
        raise DecodeError("bad-hash", "64 hex digits wanted")
    return value[::-1]


class TxIn(NamedTuple):
    """An input. ``prevout`` is the 36 bytes of the wire: txid in internal order, u32 LE output index."""

    prevout: bytes
    script_sig: bytes
    sequence: int = SEQUENCE_FINAL
    witness: tuple[bytes, ...] = ()

    @property
    def prev_txid(self) -> bytes:
        """The transaction spent from, internal order."""
        return self.prevout[:32]

    @property
    def prev_index(self) -> int:
        """The output spent."""
        return int.from_bytes(self.prevout[32:], "little")


class TxOut(NamedTuple):
    """An output: ``value`` in base units (i64 on the wire, not yet judged) and its script."""

    value: int
    script_pubkey: bytes


class Transaction(ScannedTx):
    """An immutable transaction over its raw bytes; equal when the wtxid is.

    ``cext.ScannedTx`` brings ``raw``, offsets, ids, sizes and ``prevouts``.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, raw: bytes) -> "Transaction":
        """Parse exactly one transaction. Raises DecodeError: a code of the scan or ``trailing-bytes``."""
        try:
            return cls.scan_whole(raw if type(raw) is bytes else bytes(raw))
        except ValueError as error:
            raise DecodeError(str(error), "transaction") from None

    @classmethod
    def parse_at(cls, data: bytes, offset: int) -> tuple["Transaction", int]:
        """Parse the transaction at ``data[offset]``; return it and the offset behind. Raises DecodeError."""
        found, end = cls.parse_many(data, offset, 1)
        return found[0], end

    @classmethod
    def parse_many(cls, data: bytes, offset: int, count: int) -> tuple[list["Transaction"], int]:
        """Parse ``count`` transactions from ``data[offset]`` on; return them and the offset behind.

        Raises DecodeError.
        """
        try:
            return cls.scan_many(data, offset, count)
        except ValueError as error:
            raise DecodeError(str(error), f"transactions from byte {offset} on") from None

    @classmethod
    def build(
        cls, version: int, vin: Sequence[TxIn], vout: Sequence[TxOut], lock_time: int = 0
    ) -> "Transaction":
        """Serialise a transaction; with witness if any input has one.

        ``version`` and ``lock_time`` are u32. Raises DecodeError for what cannot be told apart on
        the wire (no inputs but outputs), OverflowError for numbers out of range.
        """
        body = compact_size(len(vin))
        body += b"".join(
            [i.prevout + var_bytes(i.script_sig) + i.sequence.to_bytes(4, "little") for i in vin]
        )
        body += compact_size(len(vout))
        body += b"".join(
            [o.value.to_bytes(8, "little", signed=True) + var_bytes(o.script_pubkey) for o in vout]
        )
        marker = witness = b""
        if any(i.witness for i in vin):
            marker = b"\x00\x01"
            witness = b"".join(
                [compact_size(len(i.witness)) + b"".join(map(var_bytes, i.witness)) for i in vin]
            )
        head = version.to_bytes(4, "little") + marker
        return cls.parse(head + body + witness + lock_time.to_bytes(4, "little"))

    @property
    def version(self) -> int:
        """nVersion as u32 (Bitcoin Core 28 and later)."""
        return int.from_bytes(self.raw[:4], "little")

    @property
    def lock_time(self) -> int:
        """nLockTime, u32."""
        return int.from_bytes(self.raw[-4:], "little")

    @property
    def has_witness(self) -> bool:
        """Whether any input carries a witness."""
        return self.witness_at != 0

    @property
    def sequences(self) -> tuple[int, ...]:
        """nSequence of every input (u32); of a single input without building it."""
        if self.input_count == 1:
            at = self.outputs_at
            return (int.from_bytes(self.raw[at - 4 : at], "little"),)
        return tuple([txin.sequence for txin in self.vin])

    @property
    def vin(self) -> tuple[TxIn, ...]:
        """The inputs."""
        vin: tuple[TxIn, ...] | None = self._vin
        if vin is None:
            vin = self._vin = self._build_vin()
        return vin

    @property
    def vout(self) -> tuple[TxOut, ...]:
        """The outputs."""
        vout: tuple[TxOut, ...] | None = self._vout
        if vout is None:
            vout = self._vout = self._build_vout()
        return vout

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Transaction) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.wtxid)

    def __repr__(self) -> str:
        return f"Transaction({hash_hex(self.txid)})"

    def _build_vin(self) -> tuple[TxIn, ...]:
        raw = self.raw
        at = self.body_at + compact_size_width(self.input_count)
        witnesses = self._build_witnesses()
        vin = []
        for index in range(self.input_count):
            start, end = _string_span(raw, at + 36)
            sequence = int.from_bytes(raw[end : end + 4], "little")
            vin.append(TxIn(raw[at : at + 36], raw[start:end], sequence, witnesses[index]))
            at = end + 4
        return tuple(vin)

    def _build_witnesses(self) -> Sequence[tuple[bytes, ...]]:
        if not self.witness_at:
            return ((),) * self.input_count
        reader = Reader(self.raw, self.witness_at)
        return [
            tuple([reader.var_bytes() for _ in range(reader.compact_size())]) for _ in range(self.input_count)
        ]

    def _build_vout(self) -> tuple[TxOut, ...]:
        raw = self.raw
        at = self.outputs_at + compact_size_width(self.output_count)
        vout = []
        for _ in range(self.output_count):
            start, end = _string_span(raw, at + 8)
            vout.append(TxOut(int.from_bytes(raw[at : at + 8], "little", signed=True), raw[start:end]))
            at = end
        return tuple(vout)


def _string_span(raw: bytes, at: int) -> tuple[int, int]:
    """Return (start, end) of the string whose CompactSize length stands at ``at``; the scan checked it."""
    size = raw[at]
    if size < 0xFD:
        return at + 1, at + 1 + size
    reader = Reader(raw, at)
    size = reader.compact_size()
    return reader.offset, reader.offset + size
