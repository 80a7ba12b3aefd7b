"""Block headers (80 bytes) and blocks, byte for byte as Bitcoin serialises them."""

from collections.abc import Sequence

from cext import sha256d
from consensus.codec import Reader, compact_size, compact_size_width
from consensus.errors import DecodeError
from consensus.limits import WITNESS_SCALE
from consensus.transaction import Transaction, hash_hex

HEADER_SIZE = 80


class BlockHeader:
    """An immutable header over its 80 raw bytes. Hashes are in internal order."""

    __slots__ = ("_hash", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._hash: bytes | None = None

    @classmethod
    def parse(cls, raw: bytes) -> "BlockHeader":
        """Wrap exactly 80 bytes. Raises DecodeError ``bad-header-size``."""
        if len(raw) != HEADER_SIZE:
            raise DecodeError("bad-header-size", f"{len(raw)} bytes instead of {HEADER_SIZE}")
        return cls(bytes(raw))

    @classmethod
    def build(
        cls, *, version: int, prev_hash: bytes, merkle_root: bytes, time_s: int, bits: int, nonce: int
    ) -> "BlockHeader":
        """Serialise a header; ``version`` is i32, ``time_s``, ``bits`` and ``nonce`` are u32."""
        return cls.parse(
            version.to_bytes(4, "little", signed=True)
            + prev_hash
            + merkle_root
            + time_s.to_bytes(4, "little")
            + bits.to_bytes(4, "little")
            + nonce.to_bytes(4, "little")
        )

    @property
    def version(self) -> int:
        """nVersion, i32."""
        return int.from_bytes(self.raw[:4], "little", signed=True)

    @property
    def prev_hash(self) -> bytes:
        """Hash of the parent's header."""
        return self.raw[4:36]

    @property
    def merkle_root(self) -> bytes:
        """Root over the txids."""
        return self.raw[36:68]

    @property
    def time_s(self) -> int:
        """nTime, u32 seconds since 1970 UTC."""
        return int.from_bytes(self.raw[68:72], "little")

    @property
    def bits(self) -> int:
        """nBits, u32 compact target."""
        return int.from_bytes(self.raw[72:76], "little")

    @property
    def nonce(self) -> int:
        """nNonce, u32; on a bft chain the term of the block's first proposal."""
        return int.from_bytes(self.raw[76:80], "little")

    @property
    def hash(self) -> bytes:
        """Double SHA-256 of the header."""
        value = self._hash
        if value is None:
            value = self._hash = sha256d(self.raw)
        return value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlockHeader) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"BlockHeader({hash_hex(self.hash)})"


class Block:
    """An immutable block over its raw bytes; the header's hash names it, the raw bytes tell it apart."""

    __slots__ = ("_stripped_size", "header", "raw", "txs")

    def __init__(self, raw: bytes, header: BlockHeader, txs: tuple[Transaction, ...]) -> None:
        """Put together parts that belong together; use parse or build."""
        self.raw = raw
        self.header = header
        self.txs = txs
        self._stripped_size = 0

    @classmethod
    def parse(cls, raw: bytes) -> "Block":
        """Parse exactly one block. Raises DecodeError."""
        raw = bytes(raw)
        reader = Reader(raw)
        header = BlockHeader(reader.take(HEADER_SIZE))
        count = reader.compact_size()
        txs, reader.offset = Transaction.parse_many(raw, reader.offset, count)
        reader.finish()
        return cls(raw, header, tuple(txs))

    @classmethod
    def build(cls, header: BlockHeader, txs: Sequence[Transaction]) -> "Block":
        """Put header and transactions together as they are; nothing is checked or filled in."""
        raw = header.raw + compact_size(len(txs)) + b"".join([tx.raw for tx in txs])
        return cls(raw, header, tuple(txs))

    @property
    def hash(self) -> bytes:
        """The header's hash."""
        return self.header.hash

    @property
    def stripped_size(self) -> int:
        """Bytes without witness."""
        if not self._stripped_size:
            own = HEADER_SIZE + compact_size_width(len(self.txs))
            self._stripped_size = own + sum([tx.stripped_size for tx in self.txs])
        return self._stripped_size

    @property
    def has_witness(self) -> bool:
        """Whether any transaction has a witness."""
        return self.stripped_size != len(self.raw)

    @property
    def weight(self) -> int:
        """Weight units: three times the stripped size plus the size (BIP141)."""
        return (WITNESS_SCALE - 1) * self.stripped_size + len(self.raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.header.raw)

    def __repr__(self) -> str:
        return f"Block({hash_hex(self.hash)}, {len(self.txs)} transactions)"
