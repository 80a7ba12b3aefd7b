"""The header tree of a proof-of-work chain, computed again and checked: for check, repair and reindex.

No quorum says here which blocks count, so the bodies in the segment files decide: the branch of most work
whose bodies are all there and break no rule.
"""

from collections.abc import Iterable, Iterator

from consensus.block import Block, BlockHeader
from consensus.block_rules import check_block
from consensus.errors import PeerFault, RuleError, StorageError
from consensus.ledger_limits import MEDIAN_TIME_SPAN
from consensus.pow import rules
from consensus.pow.target import check_proof, target_of, work_of
from consensus.transaction import hash_hex
from node.chainstate import ChainState
from node.store.progress import Progress
from node.store.target import Target
from storage.headers import HeaderIndex, HeaderRecord
from storage.store import ChainStore

HEADER_BYTES = 80
_BATCH_HEADERS = 1000
_HASH = 32


class HeaderRules:
    """What headers of a chain must obey, given those before."""

    def __init__(self, target: Target) -> None:
        self._params = target.params
        self._chain_id = target.chain_id
        self._max_target = target_of(rules.pow_of(target.params).max_target) or 0

    def check(self, record: HeaderRecord, parent: HeaderRecord | None, times: tuple[int, ...]) -> None:
        """Check a header, its height and work against its parent and the times up to it.

        Raises RuleError, "bad-header-record" for a record that does not fit its header.
        """
        header = BlockHeader.parse(record.header)
        if header.hash != record.block_hash:
            raise RuleError("bad-header-record", "it is filed under another hash")
        if parent is None:
            if (record.height, record.block_hash) != (0, self._chain_id):
                raise RuleError("bad-header-record", "its parent is not there")
            if record.work != work_of(header.bits):
                raise RuleError("bad-header-record", "its work is not that of the chain")
            return
        if (record.height, record.work) != (parent.height + 1, parent.work + work_of(header.bits)):
            raise RuleError("bad-header-record", "height or work do not follow from its parent")
        before = BlockHeader.parse(parent.header)
        rules.check_bits(header, rules.expected_bits(self._params, parent.height, before.time_s))
        rules.check_time(header, rules.median(times))
        check_proof(header, self._max_target)


def times_up_to(headers: HeaderIndex, record: HeaderRecord | None) -> tuple[int, ...]:
    """Return the header times of the last blocks up to ``record``, its own last."""
    times: list[int] = []
    while record is not None and len(times) < MEDIAN_TIME_SPAN:
        header = BlockHeader.parse(record.header)
        times.append(header.time_s)
        record = headers.get(header.prev_hash)
    return tuple(reversed(times))


def check_branches(target: Target, store: ChainStore) -> Iterator[str | None]:
    """Check the header index and the bodies off the active chain; yield a fault, or None for what is good."""
    obeyed = HeaderRules(target)
    headers = store.headers
    for record in headers.above(-1):
        parent = headers.get(record.header[4:36])
        active = store.block_hash(record.height) == record.block_hash
        try:
            if headers.get(record.block_hash) != record:
                raise RuleError("bad-header-record", "it is not found by its hash")
            if parent is not None and active and record.height > MEDIAN_TIME_SPAN:
                times = _active_times(store, record.height)
            else:
                times = times_up_to(headers, parent)
            obeyed.check(record, parent, times)
            yield None
        except PeerFault as fault:
            yield f"header {hash_hex(record.block_hash)} at height {record.height}: {fault}"
    for block_hash in headers.marks():
        if headers.get(block_hash) is None:
            yield f"block {hash_hex(block_hash)} is marked as invalid, but its header is not there"
    for height, block_hash in store.bodies_off_chain(-1):
        yield _body_fault(target, store, height, block_hash)


def _active_times(store: ChainStore, height: int) -> tuple[int, ...]:
    run = store.header_run(height - MEDIAN_TIME_SPAN, MEDIAN_TIME_SPAN)
    return tuple(BlockHeader.parse(raw).time_s for raw in run)


def _body_fault(target: Target, store: ChainStore, height: int, block_hash: bytes) -> str | None:
    try:
        raw = store.body(block_hash)
        if raw is None:
            return f"no body of block {hash_hex(block_hash)} at height {height}"
        block = Block.parse(raw)
        check_block(block, target.params)
    except (PeerFault, StorageError) as fault:
        return f"block {hash_hex(block_hash)} off the chain at height {height}: {fault}"
    if block.hash != block_hash:
        return f"the body at height {height} off the chain is that of another block"
    return None


# ---- the index, computed again -----------------------------------------------------------------


def enter_headers(
    target: Target, store: ChainStore, progress: Progress, former: HeaderIndex | None = None
) -> None:
    """Enter the headers of all bodies, of every branch, then those of the ``former`` index with its marks.

    What does not lead to genesis, or breaks a rule of headers, is left out: peers send it again.
    """
    bodies = store.bodies_off_chain(-1)
    progress.begin("reading headers", len(bodies))

    def of_bodies() -> Iterator[tuple[bytes, bytes]]:
        for _, block_hash in bodies:
            progress.advance()
            raw = None if store.headers.get(block_hash) is not None else store.body(block_hash)
            if raw is not None:
                yield block_hash, raw[:HEADER_BYTES]

    _enter(target, store, of_bodies())
    if former is None:
        return
    _enter(target, store, ((record.block_hash, record.header) for record in former.above(0)))
    for block_hash, code in former.marks().items():
        if store.headers.get(block_hash) is not None:
            store.headers.mark(block_hash, code)


def _enter(target: Target, store: ChainStore, found: Iterable[tuple[bytes, bytes]]) -> None:
    """Enter headers that come parents first."""
    obeyed, headers = HeaderRules(target), store.headers
    fresh: dict[bytes, HeaderRecord] = {}

    def known(block_hash: bytes) -> HeaderRecord | None:
        return fresh.get(block_hash) or headers.get(block_hash)

    def times(record: HeaderRecord | None) -> tuple[int, ...]:
        seen: list[int] = []
        while record is not None and len(seen) < MEDIAN_TIME_SPAN:
            seen.append(int.from_bytes(record.header[68:72], "little"))
            record = known(record.header[4:36])
        return tuple(reversed(seen))

    for block_hash, raw in found:
        parent = known(raw[4:36])
        if parent is None or known(block_hash) is not None:
            continue
        work = parent.work + work_of(BlockHeader.parse(raw).bits)
        record = HeaderRecord(block_hash, parent.height + 1, raw, work)
        try:
            obeyed.check(record, parent, times(parent))
        except RuleError:
            continue
        fresh[block_hash] = record
        if len(fresh) >= _BATCH_HEADERS:
            headers.put(fresh.values())
            fresh.clear()
    headers.put(fresh.values())


def mend_active_headers(store: ChainStore, progress: Progress) -> int:
    """Enter the headers of the active chain that the index lacks or has wrong; return how many that were."""
    progress.begin("checking headers", store.height + 1)
    work = mended = 0
    for height in range(store.height + 1):
        raw, block_hash = store.header(height), store.block_hash(height)
        if raw is None or block_hash is None:
            raise StorageError("leveldb-corrupt", f"no header at height {height}", fix="wattd store repair")
        work += work_of(BlockHeader.parse(raw).bits)
        record = HeaderRecord(block_hash, height, raw, work)
        if store.headers.get(block_hash) != record:
            store.headers.put([record])
            mended += 1
        progress.advance()
    return mended


# ---- the branch of most work -------------------------------------------------------------------


def best_branch(store: ChainStore, former_tip: bytes | None) -> HeaderRecord | None:
    """Return the end of the branch of most work whose blocks are all there and not marked.

    Of equal work the ``former_tip`` wins, then a block that was connected before. Memory: one height.
    """
    marks = store.headers.marks()
    best: HeaderRecord | None = None
    height, below, here = -1, set[bytes](), set[bytes]()

    def preferred(block_hash: bytes) -> tuple[bool, bool]:
        return block_hash == former_tip, store.undo(block_hash) is not None

    for record in store.headers.above(-1):
        if record.height != height:
            height, below, here = record.height, here, set()
        block_hash = record.block_hash
        if block_hash in marks or not store.has_body(block_hash):
            continue
        if height and record.header[4:36] not in below:
            continue
        here.add(block_hash)
        if (
            best is None
            or record.work > best.work
            or (record.work == best.work and preferred(block_hash) > preferred(best.block_hash))
        ):
            best = record
    return best


def connect_best(
    target: Target,
    store: ChainStore,
    chain: ChainState,
    former_tip: bytes | None,
    progress: Progress,
    *,
    verify: bool,
) -> None:
    """Move the chain to the branch of most work; a block that breaks a rule is marked and left out.

    Signatures are checked of blocks that were never connected, and of all if ``verify``.
    """
    while True:
        best = best_branch(store, former_tip)
        current = store.headers.get(chain.tip.block_hash)
        if best is None or (current is not None and best.work <= current.work):
            return
        path, fork = _path(store, best)
        progress.begin("executing blocks", len(path) // _HASH)
        while chain.tip.height > fork:
            chain.disconnect()
        if _connect(target, store, chain, path, progress, verify=verify):
            return


def _path(store: ChainStore, end: HeaderRecord) -> tuple[bytes, int]:
    """Return the hashes from behind the active chain up to ``end``, and the height where they leave it."""
    path = bytearray()
    record: HeaderRecord | None = end
    while record is not None and store.block_hash(record.height) != record.block_hash:
        path += record.block_hash[::-1]
        record = store.headers.get(record.header[4:36])
    if record is None:
        raise StorageError("header-missing", "a branch does not lead to genesis", fix="wattd store repair")
    path.reverse()
    return bytes(path), record.height


def _connect(
    target: Target, store: ChainStore, chain: ChainState, path: bytes, progress: Progress, *, verify: bool
) -> bool:
    """Connect the blocks of ``path``; return whether all of them hold."""
    for at in range(0, len(path), _HASH):
        block_hash = path[at : at + _HASH]
        raw = store.body(block_hash)
        if raw is None:
            raise StorageError("segment-corrupt", "a body is missing", fix="wattd store repair")
        try:
            block = Block.parse(raw)
            check_block(block, target.params)
            trusted = not verify and store.undo(block_hash) is not None
            chain.execute(block, chain.tip.block_hash, certified=trusted, formed=True)
        except PeerFault as fault:
            store.headers.mark(block_hash, fault.code)
            return False
        chain.commit(block_hash, None)
        progress.advance()
    return True
