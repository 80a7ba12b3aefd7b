"""The pure-Python twin of ``cext._native``: same functions, same results, same errors.

It is what runs on a machine without a compiler, and the specification that the native module is tested
against.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Self

from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT

IMPLEMENTATION = "pure"

MAX_COMPACT_SIZE = 0x0200_0000
"""Largest compact size that Bitcoin Core's deserialiser takes (``MAX_SIZE`` of serialize.h)."""

MIN_INPUT_BYTES = 41
"""An input is at least prevout 36, empty script 1, sequence 4; bounds the count before anything is built."""

MIN_OUTPUT_BYTES = 9
"""An output is at least value 8 and empty script 1."""

_Buffer = bytes | bytearray | memoryview

_GENERATOR_X = bytes.fromhex("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")

ECDSA_SELF_TEST = tuple(
    (
        sha256(message).digest(),
        b"\x02" + _GENERATOR_X,
        bytes.fromhex(
            "3045022100934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
            "02202442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"
        ),
        valid,
    )
    for message, valid in ((b"Satoshi Nakamoto", True), (b"satoshi nakamoto", False))
)
"""(message hash, key, signature, valid): the RFC 6979 vector for secret 1 that Bitcoin libraries share."""

SCHNORR_SELF_TEST = tuple(
    (
        message,
        bytes.fromhex("f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9"),
        bytes.fromhex(
            "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca8215"
            "25f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0"
        ),
        valid,
    )
    for message, valid in ((bytes(32), True), (bytes(31) + b"\x01", False))
)
"""(message, x-only key, signature, valid): vector 0 of BIP340."""


def sha_kernel() -> str:
    """Name the SHA-256 implementation that runs."""
    return "hashlib"


def signature_backend() -> str:
    """Name the way signature batches are checked: ``"nogil"`` or, as here, one ``"coincurve"`` call each."""
    return "coincurve"


def sha256d(data: _Buffer) -> bytes:
    """Return the 32-byte double SHA-256 of ``data``, in internal byte order."""
    return sha256(sha256(data).digest()).digest()


def sha256d_many(data: _Buffer, item_size: int) -> bytes:
    """Return the double SHA-256 of each ``item_size``-byte item of ``data``, concatenated (32 bytes each).

    Raises ValueError("bad-item-size") unless ``item_size`` is positive and divides ``len(data)``.
    """
    raw = bytes(data)
    if item_size <= 0 or len(raw) % item_size:
        raise ValueError("bad-item-size")
    items = (raw[at : at + item_size] for at in range(0, len(raw), item_size))
    return b"".join([sha256(sha256(item).digest()).digest() for item in items])


def merkle_root(leaves: _Buffer) -> tuple[bytes, bool]:
    """Return (root, mutated) of concatenated 32-byte leaves, as Bitcoin Core's ``ComputeMerkleRoot``.

    ``mutated`` tells that two neighbours of some level are equal, so that another list of leaves has the same
    root (CVE-2012-2459). Raises ValueError("bad-merkle-leaves") unless there is at least one whole leaf.
    """
    level = bytes(leaves)
    if not level or len(level) % 32:
        raise ValueError("bad-merkle-leaves")
    mutated = False
    while len(level) > 32:
        pairs = [level[at : at + 64] for at in range(0, len(level), 64)]
        mutated = mutated or any(pair[:32] == pair[32:] for pair in pairs)
        if len(pairs[-1]) == 32:
            pairs[-1] += pairs[-1]
        level = b"".join([sha256(sha256(pair).digest()).digest() for pair in pairs])
    return level, mutated


def tree_root(leaves: list[bytes]) -> bytes:
    """Return the RFC 6962 root over the data of ``leaves``; 32 zero bytes when there are none."""
    if not leaves:
        return bytes(32)
    level = [sha256(b"\x00" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = [sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        if len(level) & 1:  # an odd last node goes up as it is: the same shape as RFC 6962's split
            pairs.append(level[-1])
        level = pairs
    return level[0]


def check_search(header: bytes, start_nonce: int, count: int, target: int) -> None:
    """Raise ValueError for arguments of ``pow_search`` that name no header, nonces or target."""
    if len(header) != 80:
        raise ValueError("bad-header-size")
    if start_nonce < 0 or count < 0 or start_nonce + count > 1 << 32:
        raise ValueError("bad-nonce-range")
    if not 0 <= target < 1 << 256:
        raise ValueError("bad-target")


def pow_search(header: bytes, start_nonce: int, count: int, target: int) -> int | None:
    """Return the first nonce of ``count`` from ``start_nonce`` on for which the header meets ``target``.

    The 80-byte header's own nonce, its last four bytes, does not count. A header meets a target if its
    double SHA-256, as a little-endian number, is at most the target. None if no nonce does. Raises
    ValueError "bad-header-size", "bad-nonce-range" (beyond 32 bits) or "bad-target" (beyond 256 bits).
    """
    check_search(header, start_nonce, count, target)
    middle = sha256(header[:76])
    for nonce in range(start_nonce, start_nonce + count):
        inner = middle.copy()
        inner.update(nonce.to_bytes(4, "little"))
        if int.from_bytes(sha256(inner.digest()).digest(), "little") <= target:
            return nonce
    return None


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC32C_TABLE = _crc32c_table()


def crc32c(data: _Buffer, crc: int = 0) -> int:
    """Return the CRC32C (Castagnoli, RFC 3720 appendix B.4) of ``data``, continuing from ``crc``.

    ``crc32c(b, crc32c(a)) == crc32c(a + b)``. Raises OverflowError unless ``0 <= crc < 2**32``.
    """
    if not 0 <= crc < 1 << 32:
        raise OverflowError("crc must fit in 32 bits")
    table = _CRC32C_TABLE
    crc ^= 0xFFFF_FFFF
    for byte in bytes(data):
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFF_FFFF


def _compact_size(data: bytes, at: int) -> tuple[int, int]:
    """Return (value, next offset); refuses what Bitcoin Core's ``ReadCompactSize`` refuses."""
    if at >= len(data):
        raise ValueError("tx-truncated")
    first = data[at]
    if first < 0xFD:
        return first, at + 1
    width = 1 << (first - 0xFC)
    end = at + 1 + width
    if end > len(data):
        raise ValueError("tx-truncated")
    value = int.from_bytes(data[at + 1 : end], "little")
    if value < (0xFD, 0x1_0000, 0x1_0000_0000)[first - 0xFD]:
        raise ValueError("non-canonical-compactsize")
    if value > MAX_COMPACT_SIZE:
        raise ValueError("oversized-compactsize")
    return value, end


def _count(data: bytes, at: int, smallest: int) -> tuple[int, int]:
    """Read the length of a vector whose elements take at least ``smallest`` bytes each."""
    count, at = _compact_size(data, at)
    if count * smallest > len(data) - at:
        raise ValueError("tx-too-many")
    return count, at


def _skip_bytes(data: bytes, at: int, behind: int) -> int:
    """Return the offset after a length-prefixed string and ``behind`` more bytes."""
    size, at = _compact_size(data, at)
    end = at + size + behind
    if end > len(data):
        raise ValueError("tx-truncated")
    return end


def _skip_inputs(data: bytes, at: int, count: int) -> int:
    for _ in range(count):
        at = _skip_bytes(data, at + 36, 4)
    return at


def _skip_outputs(data: bytes, at: int, count: int) -> int:
    for _ in range(count):
        at = _skip_bytes(data, at + 8, 0)
    return at


def _skip_witness(data: bytes, at: int, n_in: int) -> int:
    """Return the offset after ``n_in`` witness stacks, of which one at least must hold an item."""
    items = 0
    for _ in range(n_in):
        count, at = _count(data, at, 1)
        items += count
        for _ in range(count):
            at = _skip_bytes(data, at, 0)
    if items == 0:
        raise ValueError("superfluous-witness")
    return at


def scan_transaction(data: bytes, offset: int) -> tuple[int, int, int, int, int, int]:
    """Find the parts of the serialised transaction that starts at ``data[offset]``.

    Returns (end, body_at, n_in, outputs_at, n_out, witness_at), offsets into ``data``: ``end`` is one past
    the lock time, ``body_at`` the input count, ``outputs_at`` the output count, ``witness_at`` the first
    witness stack or 0. Accepts exactly what Bitcoin Core's ``UnserializeTransaction`` (BIP144) accepts, and
    judges no amount.

    Raises ValueError with one of the codes ``tx-truncated``, ``tx-too-many`` (a count that the bytes behind
    it cannot hold), ``non-canonical-compactsize``, ``oversized-compactsize``, ``superfluous-witness``,
    ``unknown-tx-flags``.
    """
    size = len(data)
    if not 0 <= offset <= size - 4:
        raise ValueError("tx-truncated")
    body_at = offset + 4
    flags = 0
    n_in, at = _count(data, body_at, MIN_INPUT_BYTES)
    if n_in == 0:
        if at >= size:
            raise ValueError("tx-truncated")
        flags = data[at]
        if flags > 1:
            raise ValueError("unknown-tx-flags")
        if flags:
            body_at = at + 1
            n_in, at = _count(data, body_at, MIN_INPUT_BYTES)
    at = outputs_at = _skip_inputs(data, at, n_in)
    # An empty input vector followed by flags 0 is, to Bitcoin Core, a transaction without outputs:
    # the flags byte reads as their count.
    n_out, at = _count(data, at, MIN_OUTPUT_BYTES)
    at = _skip_outputs(data, at, n_out)
    witness_at = at if flags else 0
    if flags:
        at = _skip_witness(data, at, n_in)
    end = at + 4
    if end > size:
        raise ValueError("tx-truncated")
    return end, body_at, n_in, outputs_at, n_out, witness_at


class ScannedTx:
    """A serialised transaction and where its parts are; nothing is encoded again to be hashed.

    ``raw`` its bytes, ``body_at`` where the count of inputs stands, ``outputs_at`` that of outputs,
    ``witness_at`` the first witness or 0. ``_vin`` and ``_vout`` are a subclass's to use, None at first.
    """

    __slots__ = (
        "_prevouts",
        "_txid",
        "_vin",
        "_vout",
        "_wtxid",
        "body_at",
        "input_count",
        "output_count",
        "outputs_at",
        "raw",
        "witness_at",
    )

    def __init__(
        self, raw: bytes, body_at: int, n_in: int, outputs_at: int, n_out: int, witness_at: int
    ) -> None:
        """Wrap ``raw`` with offsets of ``scan_transaction``."""
        self.raw = raw
        self.body_at = body_at
        self.input_count = n_in
        self.outputs_at = outputs_at
        self.output_count = n_out
        self.witness_at = witness_at
        self._txid: bytes | None = None
        self._wtxid: bytes | None = None
        self._vin: Any = None
        self._vout: Any = None
        self._prevouts: tuple[bytes, ...] | None = None

    @classmethod
    def scan_whole(cls, data: bytes) -> Self:
        """Return the transaction that ``data`` is.

        Raises ValueError as ``scan_transaction``, or "trailing-bytes".
        """
        found, end = cls.scan_many(data, 0, 1)
        if end != len(data):
            raise ValueError("trailing-bytes")
        return found[0]

    @classmethod
    def scan_many(cls, data: bytes, offset: int, count: int) -> tuple[list[Self], int]:
        """Return the ``count`` transactions that stand in a row from ``offset`` on, and what is behind.

        Raises ValueError as ``scan_transaction``.
        """
        found = []
        for _ in range(count):
            end, body_at, n_in, outputs_at, n_out, witness_at = scan_transaction(data, offset)
            if witness_at:
                witness_at -= offset
            raw = data[offset:end]
            found.append(cls(raw, body_at - offset, n_in, outputs_at - offset, n_out, witness_at))
            offset = end
        return found, offset

    @property
    def stripped(self) -> bytes:
        """The serialisation without witness, which the txid covers."""
        raw = self.raw
        if not self.witness_at:
            return raw
        return raw[:4] + raw[self.body_at : self.witness_at] + raw[-4:]

    @property
    def stripped_size(self) -> int:
        """Bytes without witness."""
        if not self.witness_at:
            return len(self.raw)
        return self.witness_at - self.body_at + 8

    @property
    def weight(self) -> int:
        """Weight units: three times the stripped size plus the size (BIP141)."""
        return 3 * self.stripped_size + len(self.raw)

    @property
    def vsize(self) -> int:
        """Virtual bytes: a quarter of the weight, rounded up."""
        return (self.weight + 3) // 4

    @property
    def txid(self) -> bytes:
        """Double SHA-256 without witness, 32 bytes, internal order."""
        txid = self._txid
        if txid is None:
            txid = self._txid = sha256d(self.stripped)
        return txid

    @property
    def wtxid(self) -> bytes:
        """Double SHA-256 with witness, 32 bytes, internal order."""
        if not self.witness_at:
            return self.txid
        wtxid = self._wtxid
        if wtxid is None:
            wtxid = self._wtxid = sha256d(self.raw)
        return wtxid

    @property
    def prevouts(self) -> tuple[bytes, ...]:
        """The 36-byte outpoints that the inputs spend, in order."""
        prevouts = self._prevouts
        if prevouts is None:
            _, at = _compact_size(self.raw, self.body_at)
            found = []
            for _ in range(self.input_count):
                found.append(self.raw[at : at + 36])
                at = _skip_bytes(self.raw, at + 36, 4)
            prevouts = self._prevouts = tuple(found)
        return prevouts

    @property
    def is_coinbase(self) -> bool:
        """Whether the only input is the null outpoint."""
        if self.input_count != 1:
            return False
        at = self.body_at + 1
        return self.raw[at : at + 36] == _NULL_PREVOUT


_NULL_PREVOUT = bytes(32) + b"\xff\xff\xff\xff"

Payment = tuple[Any, Sequence[bytes]]
"""A transaction, and the coin value of each of its inputs."""


def _check_arguments(message: bytes, public_key: bytes, signature: bytes) -> None:
    """Tell the caller's mistakes from a signature that does not hold."""
    if not (isinstance(message, bytes) and isinstance(public_key, bytes) and isinstance(signature, bytes)):
        raise TypeError("a signature check takes bytes")
    if len(message) != 32:
        raise ValueError("bad-message-size")


def _verify_ecdsa(message: bytes, public_key: bytes, signature: bytes) -> bool:
    _check_arguments(message, public_key, signature)
    context = GLOBAL_CONTEXT.ctx
    key = ffi.new("secp256k1_pubkey *")
    parsed = ffi.new("secp256k1_ecdsa_signature *")
    if not lib.secp256k1_ec_pubkey_parse(context, key, public_key, len(public_key)):
        return False
    if not lib.secp256k1_ecdsa_signature_parse_der(context, parsed, signature, len(signature)):
        return False
    lib.secp256k1_ecdsa_signature_normalize(context, parsed, parsed)
    return bool(lib.secp256k1_ecdsa_verify(context, parsed, message, key))


def verify_ecdsa_batch(items: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
    """Check ECDSA signatures: one bool per (32-byte message hash, SEC1 public key, strict DER signature).

    A high S is normalised first, as Bitcoin's ``CPubKey::Verify`` does; a key or signature that does not
    parse is False. Raises ValueError("bad-message-size") when a message hash is not 32 bytes.
    """
    return [_verify_ecdsa(message, key, signature) for message, key, signature in items]


def _verify_schnorr(message: bytes, public_key: bytes, signature: bytes) -> bool:
    _check_arguments(message, public_key, signature)
    if len(public_key) != 32 or len(signature) != 64:
        return False
    context = GLOBAL_CONTEXT.ctx
    key = ffi.new("secp256k1_xonly_pubkey *")
    if not lib.secp256k1_xonly_pubkey_parse(context, key, public_key):
        return False
    return bool(lib.secp256k1_schnorrsig_verify(context, signature, message, len(message), key))


def verify_schnorr_batch(items: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
    """Check BIP340 signatures: one bool per (32-byte message, 32-byte x-only key, 64-byte signature).

    A key or signature of the wrong size or form is False. Raises ValueError("bad-message-size") when a
    message is not 32 bytes.
    """
    return [_verify_schnorr(message, key, signature) for message, key, signature in items]


class PaymentBatch:
    """Plain payments whose signatures any number of threads may judge together.

    ``items`` are (transaction, coin values); ValueError unless there is one coin per input. Every thread
    calls ``judge``, and when all calls have returned, ``verdicts`` has a byte per item: 1 says that all its
    scripts hold, 0 that one does not, 2 that it is not judged here. The twin leaves all to
    ``consensus.fastpath`` and the interpreter.
    """

    def __init__(self, items: list[Payment]) -> None:
        """Take a batch, whose transactions and coins stay as they are."""
        for tx, spent in items:
            if len(spent) != tx.input_count:
                raise ValueError("one coin per input is wanted")
        self._items = list(items)

    def judge(self) -> None:
        """Judge until nothing is left to be begun; others may still be busy with what they took."""

    def start(self, threads: int, wake: int) -> int:
        """Return 0: there are no threads beside the interpreter's. ``wake`` is an eventfd."""
        return 0

    def finish(self) -> None:
        """Return: nothing was started."""

    @property
    def verdicts(self) -> bytes:
        """One byte per item."""
        return b"\x02" * len(self._items)

    def marked(self) -> list[int]:
        """Return the indices of those that may carry a contract payload: their bytes have its mark."""
        return [index for index, (tx, _) in enumerate(self._items) if b"WT" in tx.raw]


def judge_payments(items: list[Payment]) -> bytes:
    """Judge a batch on this thread alone; return its verdicts (``PaymentBatch``)."""
    batch = PaymentBatch(items)
    batch.judge()
    return batch.verdicts


def outside_prevouts(txs: list[Any]) -> list[bytes]:
    """Return the prevouts of ``txs`` that are no outputs of one of them, in order."""
    inside = {tx.txid for tx in txs}
    return [prevout for tx in txs for prevout in tx.prevouts if prevout[:32] not in inside]


def next_unusual(txs: list[Any], start: int, max_money: int, max_weight: int, forbidden_size: int) -> int:
    """Return the index at or behind ``start`` of the first transaction whose form is not proven here.

    Those before it have inputs and outputs, distinct and not null inputs, amounts in range, and fit the
    sizes. The twin proves nothing, and leaves all to ``consensus.tx_rules``.
    """
    return min(start, len(txs))


def plain_fee(tx: ScannedTx, spent: list[bytes], max_money: int, min_fee_per_kvb: int) -> int:
    """Return the fee of a plain payment that spends the coin values ``spent``, -1 if it is not judged here.

    Such a payment has no lock time and no payload, moves coins of no coinbase behind genesis between
    standard scripts, maybe beside outputs that carry data and no value, has its amounts in range and pays
    at least ``min_fee_per_kvb``. The twin judges none:
    ``consensus.coin_rules`` does.
    """
    return -1


def usual_fee(
    tx: ScannedTx,
    spent: list[bytes],
    max_money: int,
    min_fee_per_kvb: int,
    max_weight: int,
    forbidden_size: int,
) -> int:
    """Return ``plain_fee`` of what ``next_unusual`` finds nothing unusual at, -1 of anything else."""
    return -1


def output_coin(tx: ScannedTx, index: int, code: int) -> bytes | None:
    """Return output ``index`` as a coin value that begins with ``code``, None if there is no such output.

    Nothing is asked of its script: one that nobody can spend makes no coin.
    """
    if not 0 <= index < tx.output_count:
        return None
    _, at = _compact_size(tx.raw, tx.outputs_at)
    for _ in range(index):
        size, at = _compact_size(tx.raw, at + 8)
        at += size
    size, script_at = _compact_size(tx.raw, at + 8)
    return code.to_bytes(4, "little") + tx.raw[at : at + 8] + tx.raw[script_at : script_at + size]


def plain_cost(tx: ScannedTx, spent: list[bytes]) -> int:
    """Return the signature operation cost of a plain payment, -1 if it is not judged here.

    It spends P2PKH and P2WPKH coins with scriptSigs that only push, and pays to standard scripts; what else
    it has carries data and no value. The twin judges none: ``consensus.coin_rules`` does.
    """
    return -1


def create_coins(
    tx: ScannedTx, coins: dict[bytes, bytes | None], undo: dict[bytes, bytes | None], code: int
) -> bool:
    """Create the outputs of ``tx`` if all have standard scripts or just carry data; return whether they do.

    ``coins`` and ``undo`` are those of a block under way, ``code`` what its coins begin with. The twin
    creates none: ``consensus.coin_rules`` does.
    """
    return False


def move_payments(
    txs: list[Any],
    start: int,
    items: list[Payment],
    coins: dict[bytes, bytes | None],
    undo: dict[bytes, bytes | None],
    known: dict[bytes, bytes],
    get: Callable[[bytes], bytes | None],
    code: int,
    max_money: int,
    min_fee_per_kvb: int,
) -> tuple[int, int, int, int, int]:
    """Move the coins of plain payments, whose scriptSigs only push, from ``start`` to the first other one.

    None of them has the mark of a contract payload anywhere.
    Returns (its index, sum of fees, P2PKH inputs, P2WPKH inputs, P2PKH outputs).
    ``coins`` and ``undo`` are those of a block under way, ``code`` what its coins begin with (height << 1),
    ``known`` coin values read ahead, ``get`` the view below; (transaction, coin values) go to ``items``.
    The twin moves none, and leaves all to ``consensus.coin_rules``.
    """
    return start, 0, 0, 0, 0
