"""``wattd store export-snapshot`` and ``import-snapshot``: the state at one height as one file.

On a chain with a snapshot interval it is the state that a block on the chain commits to, and the import
computes the root again (form 4 of ``node.store.snapfile``). On others, and before the first such block, it is
the state at the tip, which is only as good as whoever names its hash (form 3). Who has signed follows from
the steps in the file, one per round from the founders on.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from consensus import canonical
from consensus.bft.codec import decode_qc
from consensus.block import Block
from consensus.chain import ChainTip
from consensus.coins import COIN_HEADER, coin_amount
from consensus.commitment import find_commitment
from consensus.errors import PeerFault, StorageError
from consensus.light import decode_step
from consensus.merkle import branch
from consensus.pow.target import work_of
from consensus.rounds import current, set_records
from consensus.state_root import TreeHasher, combine
from node.stateroots import PastState
from node.store.check import ViewStore
from node.store.evidence import (
    BEHIND_MAX,
    HEADER_BYTES,
    Base,
    HeaderRun,
    Trust,
    base_at_tip,
    base_proven,
    certificates_of,
    check_evidence,
    follow_restarts,
)
from node.store.progress import Progress
from node.store.signers import SetWalk
from node.store.snapfile import (
    AT_TIP,
    HEAD_BYTES_MAX,
    MAGIC,
    OUTDATED,
    PROVEN,
    In,
    Out,
    damaged,
    refused,
)
from node.store.target import Target, need_room
from storage import schema, swap
from storage.files import Files, storage_error
from storage.index import Index
from storage.migrations import check_identity
from storage.schema import BlockRecords
from storage.segments import Kind, Segments
from storage.store import ChainStore

_BATCH_BYTES = 1 << 20
_BATCH_HEADERS = 4096
_PIECE = 1024
"""Entries that are hashed and written at once."""
_PREVOUT_BYTES = 36


class Exported(NamedTuple):
    """What was exported: height, root of the file, and the block that commits to the state, if one does."""

    height: int
    root: bytes
    proof_height: int | None = None
    proof_hash: bytes | None = None


# ---- export ------------------------------------------------------------------------------------


def export_snapshot(target: Target, path: Path, progress: Progress, files: Files | None = None) -> Exported:
    """Write the newest state that a block commits to, or else one at the tip, to ``path``.

    On a chain with a snapshot interval that has no such block yet, it is the state at the end of its first
    interval, or at the tip before that.

    The file gets its name when it is complete. Raises StorageError: "snapshot-no-certificate" where a
    certificate is missing, "pruned" where blocks are, "disk-full" and what reading the store raises.
    """
    files = files or Files()
    temporary = path.with_name(path.name + ".tmp")
    with ExitStack() as opened:
        store = _open_view(target, opened)
        interval = target.params.ledger.snapshot_interval_blocks
        proof_height = store.height // interval * interval if interval else 0
        try:
            files.remove(temporary)
            fd = files.open(temporary, create=True)
            opened.callback(files.remove, temporary)  # after the rename there is none
            opened.callback(files.close, fd)
            out = Out(files, fd)
            if proof_height >= 2 * interval > 0:
                done = _write_proven(store, target, proof_height, out, progress)
            else:  # whoever starts from it must be able to compute the first state root
                done = _write_plain(store, target, proof_height or store.height, out, progress)
            files.sync(fd)
            files.rename(temporary, path)
        except OSError as error:
            raise storage_error(error, path) from error
    return done


def _open_view(target: Target, opened: ExitStack) -> ViewStore:
    index = Index.open(target.path / swap.INDEX, target.cache_bytes // 2, create=False)
    opened.callback(index.close)

    def view(_: tuple[int, int] | None, first: int) -> Segments:
        return Segments.view(target.path / swap.BLOCKS, target.chain_id, first)

    return ViewStore.over(
        target.path, target.held_lock, index, view, target.cache_bytes // 2, target.chain_id
    )


def _write_plain(store: ChainStore, target: Target, height: int, out: Out, progress: Progress) -> Exported:
    """Write the state at ``height``, to which no block commits."""
    certificate = b""
    if target.has_quorums:
        certificate = store.certificate(height) or b""
        if not certificate or decode_qc(certificate).height != height:
            raise _no_certificate(height)
    block = _block_at(store, height)
    tip = _tip_at(store, target, height, block)
    head = [target.chain_id, height, block.hash, tip.encode(), block.raw]
    progress.begin("writing", store.sizes().index)
    out.put(MAGIC + AT_TIP)
    out.sized(canonical.encode(head))
    _write_headers(store, height, out)
    _write_state(store, height, out, progress)
    steps = _steps(store, target, height, certificate)
    return Exported(height, out.finish(steps, certificate))


def _tip_at(store: ChainStore, target: Target, height: int, block: Block) -> ChainTip:
    """Return the tip as it was after an earlier block, which follows from the headers."""
    digest = find_commitment(block.txs[0]).effects_digest
    run = HeaderRun(target, Base(height, block, digest, None, None))
    for at in range(height + 1):
        run.add(_header_at(store, at))
    if run.tip is None:
        raise StorageError("leveldb-corrupt", "the headers do not reach the tip", fix="wattd store repair")
    return run.tip


def _write_state(store: ChainStore, height: int, out: Out, progress: Progress) -> None:
    past = PastState(store, height, step=lambda: progress.advance(0))
    try:
        out.entries(past.coins(), progress)
        out.entries(past.state(), progress)
    finally:
        past.close()


def _write_proven(
    store: ChainStore, target: Target, proof_height: int, out: Out, progress: Progress
) -> Exported:
    height = proof_height - target.params.ledger.snapshot_interval_blocks
    block, proof = _block_at(store, height), _block_at(store, proof_height)
    covering: bytes | None = b""
    certificates = certificates_of(b"", (), b"")
    if target.has_quorums:
        own = store.certificate(height)
        covering = store.certificate(proof_height)
        if own is None or covering is None:
            raise _no_certificate(height if own is None else proof_height)
        certificates = certificates_of(own, _headers_behind(store, proof_height, covering), covering)
    path = branch([tx.txid for tx in proof.txs], 0)
    head = [target.chain_id, height, block.raw, proof_height, proof.txs[0].raw, list(path)]
    progress.begin("writing", store.sizes().index)
    out.put(MAGIC + PROVEN)
    out.sized(canonical.encode(head))
    _write_headers(store, proof_height, out)
    _write_state(store, height, out, progress)
    steps = _steps(store, target, height, covering or b"")
    return Exported(height, out.finish(steps, certificates), proof_height, proof.hash)


def _steps(store: ChainStore, target: Target, height: int, certificate: bytes) -> Iterator[bytes]:
    """Yield the steps to the signers of the block behind ``height`` and of the certificate."""
    last = decode_qc(certificate).round if certificate else 0
    begun = {restart.round for restart in target.restarts.values()}
    for number, record in set_records(store.state_view):
        if record.first_height > height + 1 and number > last:
            return
        if number in begun:
            continue
        step = store.round_end(record.first_height - 1)
        if step is None:
            raise StorageError(
                "leveldb-corrupt",
                f"what proves the end of round {number - 1} is missing",
                fix="wattd store reindex",
            )
        yield step


def _write_headers(store: ChainStore, last: int, out: Out) -> None:
    for height in range(last + 1):
        out.put(_header_at(store, height))


def _header_at(store: ChainStore, height: int) -> bytes:
    header = store.header(height)
    if header is None:
        raise StorageError("leveldb-corrupt", f"no header at height {height}", fix="wattd store repair")
    return header


def _block_at(store: ChainStore, height: int) -> Block:
    block_hash = store.block_hash(height)
    raw = None if block_hash is None else store.body(block_hash)
    if raw is None:
        if height < store.pruned_below:
            raise StorageError(
                "pruned",
                f"block {height} is absent, and a snapshot needs it",
                fix="run the node until the next end of an interval, or export from one that keeps more",
            )
        raise StorageError("segment-corrupt", f"the body at {height} is missing", fix="wattd store repair")
    return Block.parse(raw)


def _headers_behind(store: ChainStore, height: int, certificate: bytes) -> list[bytes]:
    """Return the headers from behind the block at ``height`` to the one that its certificate is for."""
    qc = decode_qc(certificate)
    headers: list[bytes] = []
    block_hash = qc.block_hash
    for _ in range(qc.height - height):
        raw = store.body(block_hash)
        if raw is None or len(headers) == BEHIND_MAX:
            raise _no_certificate(height)
        headers.insert(0, raw[:HEADER_BYTES])
        block_hash = raw[4:36]
    return headers


def _no_certificate(height: int) -> StorageError:
    return StorageError(
        "snapshot-no-certificate",
        f"the block at height {height} has no commit certificate of its own",
        fix="run the node until it has connected the next block, stop it and try again",
    )


def chain_work(target: Target, height: int) -> int:
    """Return the work of the active chain up to ``height``: what an import may ask for."""
    with ExitStack() as opened:
        store = _open_view(target, opened)
        headers = store.header_run(0, height + 1)
        return sum(work_of(int.from_bytes(header[72:76], "little")) for header in headers)


# ---- import ------------------------------------------------------------------------------------


class _IndexState:
    """Contract state in a database without a store around it."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def get(self, key: bytes, /) -> bytes | None:
        return self._index.get(schema.STATE + key)

    def scan(self, prefix: bytes, /) -> Iterator[tuple[bytes, bytes]]:
        return self._index.scan(schema.STATE, prefix)


def import_snapshot(
    target: Target, path: Path, trust: Trust, progress: Progress, files: Files | None = None
) -> int:
    """Make the store of an empty data directory from a snapshot; return its height.

    Raises StorageError: "store-not-empty", "snapshot-damaged", "snapshot-wrong-hash",
    "snapshot-wrong-block", "snapshot-foreign-chain", "snapshot-refused", "snapshot-root-mismatch",
    "snapshot-untrusted", "disk-full". Whatever it raises, the directory stays empty.
    """
    _need_empty(target)
    files = files or Files()
    try:
        size = path.stat().st_size
        need_room(target.path, 2 * size, "the import")
        swap.forget_building(target.path)
        (target.path / swap.BLOCKS_BUILDING).mkdir(mode=0o700)
        progress.begin("importing", size)
        with path.open("rb", buffering=_BATCH_BYTES) as file:
            height = _build(target, In(file, progress), trust, files)
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


def _build(target: Target, source: In, trust: Trust, files: Files) -> int:
    if source.take(len(MAGIC)) != MAGIC:
        raise damaged("not a snapshot")
    form = source.take(1)
    if form in OUTDATED:
        raise StorageError(
            "snapshot-outdated",
            "the snapshot is of an older version, without the changes of the validators",
            fix="export it again with this version",
        )
    if form not in (AT_TIP, PROVEN):
        raise damaged("not a snapshot of this version")
    head = source.sized(HEAD_BYTES_MAX)
    base = base_at_tip(target, head) if form == AT_TIP else base_proven(target, head)
    with ExitStack() as opened:
        index = Index.open(target.path / swap.INDEX_BUILDING, target.cache_bytes // 2)
        opened.callback(index.close)
        check_identity(index, target.path, target.chain_id)
        run = _take_headers(target, base, source, index)
        tip = run.tip
        if tip is None:
            raise refused("the headers do not reach its block")
        coins = _Taken(index, schema.COIN)
        coins.take(source)
        state = _Taken(index, schema.STATE)
        state.take(source)
        ends = _RoundEnds(target, base, run, index)
        certificates, root = source.finish(ends.take)
        ends.close()
        if trust.root is not None and root != trust.root:
            raise StorageError(
                "snapshot-wrong-hash",
                f"the snapshot has root {root.hex()}",
                fix="compare with what a node that you trust has exported",
            )
        certificate = check_evidence(target, base, run, ends.walk, certificates, trust)
        state_root = combine(coins.finish(), state.finish())
        if base.proof is not None and state_root != base.proof.state_root:
            raise StorageError(
                "snapshot-root-mismatch",
                f"its values have state root {state_root.hex()}, block {base.proof.height} commits to "
                f"{base.proof.state_root.hex()}",
                fix="take a snapshot from another source",
            )
        _check_round(target, base, ends.walk, index)
        held = sum(target.contracts.accounting(_IndexState(index)).values())
        if coins.amount + held != tip.issued:
            raise refused(f"it holds {coins.amount + held} base units of {tip.issued} issued")
        _take_block(target, base.block, tip, certificate, state_root, index, files)
        index.flush()
    return base.height


def _take_headers(target: Target, base: Base, source: In, index: Index) -> HeaderRun:
    """Enter the headers; they must lead from genesis to the block of the snapshot, and on to its proof."""
    run = HeaderRun(target, base)
    last = base.height if base.proof is None else base.proof.height
    batch = index.batch()
    for height in range(last + 1):
        header = run.add(source.take(HEADER_BYTES))
        block_hash = header.hash
        if height <= base.height:
            batch.put(schema.header_key(height), block_hash + header.raw)
            batch.put(schema.BLOCK + block_hash, schema.encode_block(BlockRecords(height)))
        if target.params.pow is not None:
            batch.put(schema.HEADER_HEIGHT + block_hash, schema.U32.pack(height))
            batch.put(schema.branch_key(height, block_hash), schema.encode_branch(header.raw, run.work))
        if height % _BATCH_HEADERS == _BATCH_HEADERS - 1:
            index.write(batch)
            batch = index.batch()
    index.write(batch)
    return run


class _RoundEnds:
    """The steps of a snapshot: followed from the founders on, kept up to its block."""

    def __init__(self, target: Target, base: Base, run: HeaderRun, index: Index) -> None:
        self._base, self._run, self._index = base, run, index
        self._batch = index.batch()
        self._has_quorums = target.has_quorums
        self.walk = SetWalk(target, keep_from=base.height)

    def take(self, data: bytes) -> None:
        """Follow the next step. Raises StorageError "snapshot-refused" and the like."""
        if not self._has_quorums:
            raise damaged("steps on a chain without validators")
        try:
            step = decode_step(data)
            follow_restarts(self.walk, self._run, step.boundary.certificate.round)
            self.walk.step(step)
        except PeerFault as error:
            raise refused(f"the step to round {self.walk.latest.round + 1}: {error}") from error
        height = step.boundary.height
        if height <= self._base.height:
            known = self._index.get(schema.header_key(height)) or b""
            if known[32:] != step.boundary.header.raw:
                raise refused(f"the step at height {height} is of another chain of headers")
            self._batch.put(schema.round_end_key(height), data)

    def close(self) -> None:
        """Enter what was taken."""
        self._index.write(self._batch)


def _check_round(target: Target, base: Base, walk: SetWalk, index: Index) -> None:
    """Check that the state is in the round that the steps lead to. Raises StorageError."""
    if not target.has_quorums:
        return
    found = current(_IndexState(index), target.params, target.chain_id)
    known = walk.sets.get(found.number)
    later = [
        each.round
        for each in walk.sets.values()
        if each.round > found.number and each.first_height <= base.height + 1
    ]
    if known is None or known.set_hash != found.validator_set.set_hash or set(later) - walk.restarted:
        raise refused(f"its state is in round {found.number}, which is not what its steps lead to")


class _Taken:
    """One sorted run of keys that is entered: its tree, and the sum of what its coins are worth."""

    def __init__(self, index: Index, space: bytes) -> None:
        self._index, self._space = index, space
        self._tree = TreeHasher()
        self.amount = 0

    def take(self, source: In) -> None:
        """Enter a run. Raises StorageError "snapshot-damaged", "snapshot-refused"."""
        entries = source.entries()
        batch, size = self._index.batch(), 0
        while piece := list(islice(entries, _PIECE)):
            self._tree.add(piece)
            for key, value in piece:
                batch.put(self._space + key, value)
                size += len(key) + len(value)
            if self._space == schema.COIN:
                self._count(piece)
            if size >= _BATCH_BYTES:
                self._index.write(batch)
                batch, size = self._index.batch(), 0
        self._index.write(batch)

    def finish(self) -> tuple[int, bytes]:
        """Return (number of keys, root of their tree)."""
        root = self._tree.finish()
        return self._tree.count, root

    def _count(self, coins: list[tuple[bytes, bytes]]) -> None:
        for prevout, coin in coins:
            if len(prevout) != _PREVOUT_BYTES or len(coin) < COIN_HEADER:
                raise refused(f"an unspent output that is none: {prevout.hex()}")
            self.amount += coin_amount(coin)


def _take_block(
    target: Target,
    block: Block,
    tip: ChainTip,
    certificate: bytes,
    state_root: bytes,
    index: Index,
    files: Files,
) -> None:
    """Write body and certificate to a segment file, and the tip last of all."""
    height, block_hash = tip.height, tip.block_hash
    segments = Segments.open(target.path / swap.BLOCKS_BUILDING, target.chain_id, None, files)
    try:
        body = segments.append(Kind.BODY, block_hash, height, block.raw)
        vote = segments.append(Kind.CERTIFICATE, block_hash, height, certificate) if certificate else None
        segments.sync()
        batch = index.synced_batch()
        for at, tx in enumerate(block.txs):
            batch.put(schema.TX + tx.txid, schema.encode_tx(height, at, block_hash))
        batch.put(schema.BLOCK + block_hash, schema.encode_block(BlockRecords(height, body, None, vote)))
        batch.put(schema.WATERMARK, schema.encode_watermark(*segments.end))
        batch.put(schema.PRUNED, schema.encode_pruned(height, 0))
        batch.put(schema.COINS_TIP, schema.encode_tip(height, block_hash, b""))
        batch.put(schema.state_root_key(height), block_hash + state_root)
        batch.put(schema.TIP, schema.encode_tip(height, block_hash, tip.encode()))
        index.write(batch)
    finally:
        segments.close()
