"""``wattd store export-snapshot`` and ``import-snapshot``: the state at the tip as one file.

Integers are little-endian, hashes in internal byte order::

    file    = rooted | trailer
    rooted  = "WTSNAP" 00 01 | u32 length | head | headers | coins | state
    head    = canonical array [chain id, height, block hash, encoded ChainTip, raw block]
    headers = (height + 1) x 80 bytes, genesis first
    coins   = entries by ascending prevout; state = entries by ascending key
    entries = (01 | u32 length | key | u32 length | value)* 00
    trailer = "CERT" | u32 length | commit certificate | root, 32 bytes

The root is the RFC 6962 tree root over ``rooted`` in chunks of 1 MiB (the last may be shorter).
The certificate is outside of it, because another quorum may have signed at another node: two
nodes at one height export one root.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from struct import Struct
from typing import BinaryIO

from consensus import canonical, history
from consensus.bft.certificates import check_qc
from consensus.bft.codec import decode_qc
from consensus.bft.types import Kind as VoteKind
from consensus.block import Block, BlockHeader
from consensus.block_rules import check_block
from consensus.chain import ChainTip
from consensus.coins import coin_amount
from consensus.commitment import find_commitment
from consensus.errors import DecodeError, PeerFault, StorageError
from consensus.ledger_limits import MEDIAN_TIME_SPAN
from node.store.check import ViewStore
from node.store.progress import Progress
from node.store.target import Target, need_room
from storage import schema, swap
from storage.files import Files, storage_error
from storage.index import Index
from storage.migrations import check_identity
from storage.schema import BlockRecords
from storage.segments import Kind, Segments
from storage.store import ChainStore

MAGIC = b"WTSNAP\x00\x01"
CHUNK_BYTES = 1 << 20
_TRAILER = b"CERT"
_HEADER_BYTES = 80
_U32 = Struct("<I")
_BATCH_BYTES = 1 << 20
_KEY_BYTES_MAX = 1 << 16
_VALUE_BYTES_MAX = 1 << 26
_HEAD_BYTES_MAX = 1 << 26


class _Tree:
    """The tree root over a stream, in the memory of one chunk."""

    def __init__(self) -> None:
        self._chunk = bytearray()
        self._peaks: tuple[bytes, ...] = ()
        self._count = 0

    def update(self, data: bytes) -> None:
        self._chunk += data
        while len(self._chunk) >= CHUNK_BYTES:
            self._leaf(bytes(self._chunk[:CHUNK_BYTES]))
            del self._chunk[:CHUNK_BYTES]

    def root(self) -> bytes:
        if self._chunk:
            self._leaf(bytes(self._chunk))
            self._chunk.clear()
        return history.root(self._peaks)

    def _leaf(self, data: bytes) -> None:
        self._peaks = history.append(self._peaks, self._count, data)
        self._count += 1


# ---- export ------------------------------------------------------------------------------------


class _Out:
    """A file that is written in order, with the tree root over what ``put`` got."""

    def __init__(self, files: Files, fd: int) -> None:
        self._files, self._fd = files, fd
        self._at = 0
        self._buffer = bytearray()
        self.tree = _Tree()

    def put(self, data: bytes) -> None:
        self.tree.update(data)
        self.put_unrooted(data)

    def put_unrooted(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        self._files.write(self._fd, bytes(self._buffer), self._at)
        self._at += len(self._buffer)
        self._buffer.clear()


def export_snapshot(
    target: Target, path: Path, progress: Progress, files: Files | None = None
) -> tuple[int, bytes]:
    """Write the state at the tip to ``path``; return (height, root).

    The file gets its name when it is complete. Raises StorageError: "snapshot-no-certificate" at
    genesis, "disk-full" and what reading the store raises.
    """
    files = files or Files()
    temporary = path.with_name(path.name + ".tmp")
    with ExitStack() as opened:
        store = _open_view(target, opened)
        height, certificate = _certified_tip(target, store)
        try:
            files.remove(temporary)
            fd = files.open(temporary, create=True)
            opened.callback(files.remove, temporary)  # after the rename there is none
            opened.callback(files.close, fd)
            root = _write(store, target, certificate, _Out(files, fd), progress)
            files.sync(fd)
            files.rename(temporary, path)
        except OSError as error:
            raise storage_error(error, path) from error
    return height, root


def _open_view(target: Target, opened: ExitStack) -> ViewStore:
    index = Index.open(target.path / swap.INDEX, target.cache_bytes // 2, create=False)
    opened.callback(index.close)

    def view(_: tuple[int, int] | None, first: int) -> Segments:
        return Segments.view(target.path / swap.BLOCKS, target.chain_id, first)

    return ViewStore.over(
        target.path, target.held_lock, index, view, target.cache_bytes // 2, target.chain_id
    )


def _certified_tip(target: Target, store: ChainStore) -> tuple[int, bytes]:
    certificate = store.certificate(store.height)
    if certificate is not None and decode_qc(certificate).height == store.height:
        return store.height, certificate
    raise StorageError(
        "snapshot-no-certificate",
        f"the tip at height {store.height} has no commit certificate of its own",
        fix="run the node until it has connected the next block, stop it and try again",
    )


def _write(store: ChainStore, target: Target, certificate: bytes, out: _Out, progress: Progress) -> bytes:
    tip, tip_hash = store.tip, store.tip_hash
    body = None if tip_hash is None else store.body(tip_hash)
    if tip is None or body is None:
        raise StorageError("segment-corrupt", "the body of the tip is missing", fix="wattd store repair")
    progress.begin("writing", store.sizes().index)
    head = canonical.encode([target.chain_id, store.height, tip_hash, tip, body])
    out.put(MAGIC + _U32.pack(len(head)) + head)
    for height in range(store.height + 1):
        header = store.header(height)
        if header is None:
            raise StorageError("leveldb-corrupt", f"no header at height {height}", fix="wattd store repair")
        out.put(header)
    for pairs in (store.iterate_coins(), store.state_view.scan(b"")):
        for key, value in pairs:
            out.put(b"\x01" + _U32.pack(len(key)) + key + _U32.pack(len(value)) + value)
            progress.advance(len(key) + len(value))
        out.put(b"\x00")
    root = out.tree.root()
    out.put_unrooted(_TRAILER + _U32.pack(len(certificate)) + certificate + root)
    out.flush()
    return root


# ---- import ------------------------------------------------------------------------------------


def _damaged(what: str) -> StorageError:
    return StorageError("snapshot-damaged", what, fix="fetch the file again")


def _refused(what: str) -> StorageError:
    return StorageError("snapshot-refused", what, fix="take a snapshot from a source that you trust")


class _In:
    """A file that is read in order, with the tree root over what ``take`` gave."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file, self._progress = file, progress
        self.tree = _Tree()

    def take(self, length: int) -> bytes:
        data = self.take_unrooted(length)
        self.tree.update(data)
        return data

    def take_unrooted(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            raise _damaged("the file ends early")
        self._progress.advance(length)
        return data

    def sized(self, limit: int, *, rooted: bool = True) -> bytes:
        take = self.take if rooted else self.take_unrooted
        (length,) = _U32.unpack(take(4))
        if length > limit:
            raise _damaged(f"a length of {length} bytes")
        return take(length)

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        last = b""
        while (mark := self.take(1)) == b"\x01":
            key, value = self.sized(_KEY_BYTES_MAX), self.sized(_VALUE_BYTES_MAX)
            if key <= last:
                raise _damaged("the keys are not in order")
            yield key, value
            last = key
        if mark != b"\x00":
            raise _damaged("an entry that is none")

    def trailer(self) -> tuple[bytes, bytes]:
        """Return (certificate, root as the file says)."""
        if self.take_unrooted(len(_TRAILER)) != _TRAILER:
            raise _damaged("no trailer")
        certificate, root = self.sized(_HEAD_BYTES_MAX, rooted=False), self.take_unrooted(32)
        if self._file.read(1):
            raise _damaged("the file is longer than its content")
        return certificate, root


class _Base:
    """The block that a snapshot stands on, as its head says."""

    def __init__(self, target: Target, head: bytes) -> None:
        try:
            fields = canonical.decode(head)
        except DecodeError as error:
            raise _damaged(str(error)) from error
        match fields:
            case [bytes(chain_id), int(height), bytes(block_hash), bytes(tip), bytes(raw)] if height > 0:
                pass
            case _:
                raise _damaged("its head is not of this version")
        if chain_id != target.chain_id:
            raise StorageError(
                "snapshot-foreign-chain",
                f"the snapshot is of chain {chain_id[::-1].hex()}",
                fix="give each chain a data directory of its own",
            )
        self.height, self.block_hash, self.raw_tip, self.raw = height, block_hash, tip, raw
        try:
            self.tip, self.block = ChainTip.decode(tip), Block.parse(raw)
            check_block(self.block, target.params)
            commitment = find_commitment(self.block.txs[0])
        except PeerFault as error:
            raise _refused(f"its block: {error}") from error
        if (self.tip.height, self.tip.block_hash, self.block.hash) != (height, block_hash, block_hash):
            raise _refused("tip and block do not belong together")
        if commitment.effects_digest != self.tip.effects_digest:
            raise _refused("the effects digest is not what the block commits to")


class _IndexState:
    """Contract state in a database without a store around it."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def get(self, key: bytes, /) -> bytes | None:
        return self._index.get(schema.STATE + key)

    def scan(self, prefix: bytes, /) -> Iterator[tuple[bytes, bytes]]:
        return self._index.scan(schema.STATE, prefix)


def import_snapshot(
    target: Target, path: Path, trusted_root: bytes, progress: Progress, files: Files | None = None
) -> int:
    """Make the store of an empty data directory from a snapshot; return its height.

    ``trusted_root`` comes from somebody the operator trusts: today's blocks do not commit to a state
    root, so the certificate proves the block and its effects digest, not the values. Raises
    StorageError: "store-not-empty", "snapshot-damaged", "snapshot-wrong-hash",
    "snapshot-foreign-chain", "snapshot-refused", "disk-full". Whatever it raises, the directory
    stays empty.
    """
    _need_empty(target)
    files = files or Files()
    try:
        size = path.stat().st_size
        need_room(target.path, 2 * size, "the import")
        swap.forget_building(target.path)
        (target.path / swap.BLOCKS_BUILDING).mkdir(mode=0o700)
        progress.begin("importing", size)
        with path.open("rb", buffering=CHUNK_BYTES) as file:
            height = _build(target, _In(file, progress), trusted_root, files)
        swap.decide(target.path, files)
    except OSError as error:
        raise storage_error(error, path) from error
    except StorageError:
        swap.forget_building(target.path)
        raise
    return height


def _need_empty(target: Target) -> None:
    blocks = target.path / swap.BLOCKS
    if (target.path / swap.INDEX).exists() or (blocks.is_dir() and any(blocks.iterdir())):
        raise StorageError(
            "store-not-empty",
            f"{target.path} holds a chain already",
            fix="import into a data directory without blocks/ and index/",
        )


def _build(target: Target, source: _In, trusted_root: bytes, files: Files) -> int:
    if source.take(len(MAGIC)) != MAGIC:
        raise _damaged("not a snapshot of this version")
    base = _Base(target, source.sized(_HEAD_BYTES_MAX))
    with ExitStack() as opened:
        index = Index.open(target.path / swap.INDEX_BUILDING, target.cache_bytes // 2)
        opened.callback(index.close)
        check_identity(index, target.path, target.chain_id)
        _take_headers(target, base, source, index)
        total = sum(map(coin_amount, _take_entries(source, index, schema.COIN)))
        for _ in _take_entries(source, index, schema.STATE):
            continue
        root = source.tree.root()
        certificate, said = source.trailer()
        if root != said:
            raise _damaged("its content does not fit its root")
        if root != trusted_root:
            raise StorageError(
                "snapshot-wrong-hash",
                f"the snapshot has root {root.hex()}",
                fix="compare with what a node that you trust has exported",
            )
        _check_certificate(target, base, certificate)
        held = sum(target.contracts.accounting(_IndexState(index)).values())
        if total + held != base.tip.issued:
            raise _refused(f"it holds {total + held} base units of {base.tip.issued} issued")
        _take_block(target, base, certificate, index, files)
        index.flush()
    return base.height


def _take_headers(target: Target, base: _Base, source: _In, index: Index) -> None:
    """Enter the headers; they must lead from genesis to the block of the snapshot."""
    parent = bytes(32)
    peaks: tuple[bytes, ...] = ()
    times: tuple[int, ...] = ()
    batch = index.batch()
    for height in range(base.height + 1):
        header = BlockHeader.parse(source.take(_HEADER_BYTES))
        if header.prev_hash != parent or (height == 0 and header.hash != target.chain_id):
            raise _refused(f"the header at height {height} does not follow the one before")
        parent = header.hash
        peaks = history.append(peaks, height, parent)
        times = (*times, header.time_s)[-MEDIAN_TIME_SPAN:]
        batch.put(schema.header_key(height), parent + header.raw)
        batch.put(schema.BLOCK + parent, schema.encode_block(BlockRecords(height)))
        if height % 4096 == 4095:
            index.write(batch)
            batch = index.batch()
    index.write(batch)
    if (parent, peaks, times) != (base.block_hash, base.tip.history, base.tip.times):
        raise _refused("the headers do not lead to its block")


def _take_entries(source: _In, index: Index, space: bytes) -> Iterator[bytes]:
    """Enter one sorted run of keys; yield the values."""
    batch, size = index.batch(), 0
    for key, value in source.entries():
        batch.put(space + key, value)
        size += len(key) + len(value)
        if size >= _BATCH_BYTES:
            index.write(batch)
            batch, size = index.batch(), 0
        yield value
    index.write(batch)


def _check_certificate(target: Target, base: _Base, certificate: bytes) -> None:
    try:
        qc = decode_qc(certificate)
        check_qc(target.electorate(), qc, VoteKind.COMMIT)
    except PeerFault as error:
        raise _refused(f"its certificate: {error}") from error
    if (qc.height, qc.block_hash) != (base.height, base.block_hash):
        raise _refused("the certificate is for another block")


def _take_block(target: Target, base: _Base, certificate: bytes, index: Index, files: Files) -> None:
    """Write body and certificate to a segment file, and the tip last of all."""
    segments = Segments.open(target.path / swap.BLOCKS_BUILDING, target.chain_id, None, files)
    try:
        body = segments.append(Kind.BODY, base.block_hash, base.height, base.raw)
        vote = segments.append(Kind.CERTIFICATE, base.block_hash, base.height, certificate)
        segments.sync()
        batch = index.synced_batch()
        for at, tx in enumerate(base.block.txs):
            batch.put(schema.TX + tx.txid, schema.encode_tx(base.height, at, base.block_hash))
        records = BlockRecords(base.height, body, None, vote)
        batch.put(schema.BLOCK + base.block_hash, schema.encode_block(records))
        batch.put(schema.WATERMARK, schema.encode_watermark(*segments.end))
        batch.put(schema.PRUNED, schema.encode_pruned(base.height, 0))
        batch.put(schema.COINS_TIP, schema.encode_tip(base.height, base.block_hash, b""))
        batch.put(schema.TIP, schema.encode_tip(base.height, base.block_hash, base.raw_tip))
        index.write(batch)
    finally:
        segments.close()
