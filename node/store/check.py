"""``wattd store check``: is what the data directory holds what it should hold?

Nothing is changed: segment files are opened for reading, the replay of level 4 works in a folder
of its own that is removed at the end.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import zip_longest

from consensus.bft.codec import decode_qc
from consensus.block import Block, BlockHeader
from consensus.block_rules import check_block
from consensus.chain import ChainTip, Connected
from consensus.coins import is_unspendable
from consensus.commitment import find_commitment
from consensus.errors import PeerFault, StorageError
from consensus.history import append
from consensus.light import decode_step
from consensus.rounds import current, set_hash_of, set_record
from consensus.state_root import covered_height
from consensus.transaction import outpoint
from consensus.undo import decode_parent, decode_undo
from node.sigcheck import SignatureVerifier
from node.store.check_addresses import check_addresses
from node.store.powtree import check_branches
from node.store.progress import Progress
from node.store.replay import execute_stored, replay_store
from node.store.signers import SetWalk
from node.store.target import Target, need_room, size_of
from storage import schema, swap
from storage.index import Index
from storage.segments import HEAD_BYTES, Segments
from storage.store import ChainStore

LEVELS = (
    "checksums of segment files and database",
    "headers, bodies and indexes",
    "certificates",
    "undo data",
    "replay from genesis",
)
CHECK_FOLDER = "check.tmp"
_PROGRESS_KEYS = 1000

Say = Callable[[str], None]
Pairs = Iterator[tuple[bytes, bytes]]


class ViewStore(ChainStore):
    """A store that is looked at: what the segment files know beyond the database stays in memory."""

    VIEW = True


@dataclass(slots=True)
class Report:
    """What was found, per level: how much is good, and the first fault with the number of all."""

    say: Say
    good: dict[int, int] = field(default_factory=dict)
    faults: dict[int, list[str]] = field(default_factory=dict)

    def ok(self, level: int, count: int = 1) -> None:
        """Count something good."""
        self.good[level] = self.good.get(level, 0) + count

    def fault(self, level: int, what: str) -> None:
        """Note a fault."""
        self.faults.setdefault(level, []).append(what)

    def line(self, level: int, what: str) -> None:
        """Say how a level ended."""
        found = self.faults.get(level, [])
        if found:
            self.say(f"level {level}  FAULT  {LEVELS[level]}: {found[0]}")
            if len(found) > 1:
                self.say(f"                and {len(found) - 1} more")
        else:
            self.say(f"level {level}  ok     {LEVELS[level]}: {what}")

    @property
    def sound(self) -> bool:
        """Return whether no fault was found."""
        return not self.faults


def check_store(target: Target, level: int, progress: Progress, say: Say) -> set[int]:
    """Check up to ``level`` (see ``LEVELS``), say a line per level, return the levels with faults."""
    report = Report(say)
    with ExitStack() as opened:
        try:
            index = Index.open(target.path / swap.INDEX, target.cache_bytes // 2, create=False)
            opened.callback(index.close)
            _, first = schema.decode_pruned(index.get(schema.PRUNED))
            segments = Segments.view(target.path / swap.BLOCKS, target.chain_id, first)
            opened.callback(segments.close)
            said = _checksums(index, segments, report, progress)
        except StorageError as error:
            report.fault(0, str(error))
            said = ""
        report.line(0, said)
        if level == 0 or not report.sound:
            return set(report.faults)
        store = ViewStore.over(
            target.path,
            target.held_lock,
            index,
            lambda watermark, first: segments,
            target.cache_bytes // 2,
            target.chain_id,
        )
        _Blocks(target, store, report, min(level, 3)).run(progress)
        if level == len(LEVELS) - 1 and report.sound:
            said = _replay(target, store, report, progress)
            report.line(4, said)
    return set(report.faults)


def _checksums(index: Index, segments: Segments, report: Report, progress: Progress) -> str:
    """Level 0: read every byte; both layers verify their checksums as they read."""
    progress.begin("reading segment files", segments.bytes_on_disk())
    count = 0
    for record in segments.scan(None):
        count += 1
        progress.advance(record.end - record.position.offset)
    progress.begin("reading the database", 0)
    keys = 0
    for keys, _ in enumerate(index.scan(b""), 1):
        if keys % _PROGRESS_KEYS == 0:
            progress.advance(0)
    stored = index.get(schema.WATERMARK)
    if index.get(schema.TIP) is None or stored is None:
        report.fault(0, "the database has no tip; wattd store reindex computes it again")
    elif schema.decode_watermark(stored) > max(segments.end, (0, HEAD_BYTES)):
        report.fault(0, "the database knows of records behind the end of the segment files")
    torn = f", {segments.torn_bytes} bytes of a torn write at the end" if segments.torn_bytes else ""
    return f"{count} records, {keys} keys{torn}"


class _Blocks:
    """Levels 1 to 3: one pass over the active chain."""

    def __init__(self, target: Target, store: ChainStore, report: Report, level: int) -> None:
        self._target, self._store, self._report, self._level = target, store, report, level
        self._walk = SetWalk(target) if level >= 2 and target.has_quorums else None
        self._certificate = b""
        self._parent = bytes(32)
        self._peaks: tuple[bytes, ...] = ()

    def run(self, progress: Progress) -> None:
        """Check every height, then say a line per level."""
        store, report = self._store, self._report
        progress.begin("checking blocks", store.height + 1)
        for height in range(store.height + 1):
            self._header(height)
            progress.advance()
        self._tip()
        self._addresses(progress)
        branches = "" if self._target.has_quorums else self._branches(progress)
        pruned = f" ({store.pruned_below} pruned)" if store.pruned_below else ""
        report.line(1, f"{report.good.get(1, 0)} headers{pruned}{branches}")
        if self._level >= 2:
            self._sets()
            said = ", the engine of this chain has none"
            if self._walk is not None:
                said = f", {self._walk.latest.round + 1} rounds" if self._walk.latest.round else ""
            report.line(2, f"{report.good.get(2, 0)} with a quorum{said}")
        if self._level >= 3:
            report.line(3, f"{report.good.get(3, 0)} fit their blocks")

    def _branches(self, progress: Progress) -> str:
        """Check what a proof-of-work chain keeps beside its active chain; return what to say of it."""
        progress.begin("checking branches", 0)
        good = 0
        for fault in check_branches(self._target, self._store):
            progress.advance(0)
            if fault is None:
                good += 1
            else:
                self._report.fault(1, fault)
        marked = len(self._store.headers.marks())
        return f", {good} of all branches with their bodies, {marked} marked invalid"

    def _addresses(self, progress: Progress) -> None:
        """Compare the address index, if there is one, with the blocks and the unspent outputs."""
        progress.begin("checking the address index", 0)
        for fault in check_addresses(self._store):
            progress.advance(0)
            if fault is not None:
                self._report.fault(1, fault)

    def _header(self, height: int) -> None:
        store, report = self._store, self._report
        raw, block_hash = store.header(height), store.block_hash(height)
        if raw is None or block_hash is None:
            report.fault(1, f"no header at height {height}")
            return
        header = BlockHeader.parse(raw)
        linked = header.prev_hash == self._parent if height else header.hash == self._target.chain_id
        if header.hash != block_hash or not linked:
            report.fault(1, f"the header at height {height} does not follow the one before")
        if store.height_of(block_hash) != height:
            report.fault(1, f"the block at height {height} is not found by its hash")
        if not self._target.has_quorums and store.headers.get(block_hash) is None:
            report.fault(1, f"the header at height {height} is not in the header index")
        self._parent = block_hash
        self._peaks = append(self._peaks, height, block_hash)
        report.ok(1)
        if height >= store.pruned_below:
            try:
                self._body(height, block_hash)
            except (StorageError, PeerFault) as error:
                report.fault(1, f"height {height}: {error}")
        if self._walk is not None:
            self._end_of_round(self._walk, height, header)

    def _end_of_round(self, walk: SetWalk, height: int, header: BlockHeader) -> None:
        """Follow the change of the validators behind a block, if there is one."""
        try:
            kept = self._store.round_end(height)
            if kept is not None:
                step = decode_step(kept)
                if step.boundary.header != header:
                    self._report.fault(2, f"what proves the end of a round at {height} is of another block")
                walk.step(step)
                self._compare_set(walk)
            if height < self._store.height and walk.restart(height, header.hash):
                self._compare_set(walk)
        except (StorageError, PeerFault) as error:
            self._report.fault(2, f"the end of the round at height {height}: {error}")

    def _compare_set(self, walk: SetWalk) -> None:
        """Compare what the state says of a set with what its predecessors signed."""
        target, signers = self._target, walk.latest
        kept = set_record(self._store.state_view, target.params, target.chain_id, signers.round)
        if kept is None or set_hash_of(signers.round, kept) != signers.set_hash:
            self._report.fault(2, f"the state has another validator set for round {signers.round}")

    def _sets(self) -> None:
        """Compare the round of the state with the one that the chain leads to."""
        if self._walk is None:
            return
        found = current(self._store.state_view, self._target.params, self._target.chain_id)
        if found.validator_set.set_hash != self._walk.latest.set_hash:
            self._report.fault(
                2, f"the state is in round {found.number}, the blocks lead to round {self._walk.latest.round}"
            )

    def _body(self, height: int, block_hash: bytes) -> None:
        raw = self._store.body(block_hash)
        if raw is None:
            self._report.fault(1, f"no body at height {height}")
            return
        block = Block.parse(raw)
        if block.hash != block_hash:
            self._report.fault(1, f"the body at height {height} is that of another block")
            return
        if height:
            check_block(block, self._target.params)
        for at, tx in enumerate(block.txs if self._store.side.enters_txids else ()):
            if self._store.find_tx(tx.txid) != (height, at):
                self._report.fault(1, f"transaction {at} of height {height} is not found by its id")
        self._check_state_root(height, block)
        if self._walk is not None and height:
            self._check_certificate(self._walk, height, block_hash)
            ends = find_commitment(block.txs[0]).next_set_hash is not None
            if ends != (self._store.round_end(height) is not None):
                self._report.fault(2, f"what proves the end of a round at {height} is missing, or too much")
        if self._level >= 3 and (height or not self._store.pruned_below):
            self._check_undo(height, block)

    def _check_state_root(self, height: int, block: Block) -> None:
        """Compare what the database keeps of state roots with what the block commits to."""
        covered = covered_height(height, self._target.params)
        covered_hash = None if covered is None else self._store.block_hash(covered)
        if covered is None or covered_hash is None:
            return
        kept = self._store.state_roots.get(covered, covered_hash)
        if kept is not None and kept != find_commitment(block.txs[0]).state_root:
            self._report.fault(1, f"the state root of height {covered} is not what block {height} commits to")

    def _check_certificate(self, walk: SetWalk, height: int, block_hash: bytes) -> None:
        try:
            certificate = self._store.certificate(height)
            if certificate is None:
                self._report.fault(2, f"no certificate at height {height}")
                return
            qc = decode_qc(certificate)
            if certificate != self._certificate:
                walk.check(certificate)
                self._certificate = certificate
        except (StorageError, PeerFault) as error:
            self._report.fault(2, f"height {height}: {error}")
            return
        if qc.height < height or not self._covers(qc.block_hash, qc.height):
            self._report.fault(2, f"the certificate at height {height} is for another block")
            return
        self._report.ok(2)

    def _covers(self, block_hash: bytes, height: int) -> bool:
        """Return whether a certified block is on the active chain, or leads to it from above the tip."""
        store = self._store
        while height > store.height:
            raw = store.body(block_hash)
            if raw is None:
                return False
            block_hash, height = raw[4:36], height - 1
        return store.block_hash(height) == block_hash

    def _check_undo(self, height: int, block: Block) -> None:
        try:
            undo = self._store.undo(block.hash)
            if undo is None:
                if height != self._store.pruned_below:  # the block that a snapshot came with has none
                    self._report.fault(3, f"no undo data at height {height}")
                return
            coins, _ = decode_undo(undo)
            if not self._target.has_quorums and height:
                self._check_parent(height, block, undo)
        except (StorageError, PeerFault) as error:
            self._report.fault(3, f"height {height}: {error}")
            return
        spent, created = coin_changes(block)
        had = {prevout for prevout, coin in coins.items() if coin is not None}
        if had != spent or coins.keys() - had != created:
            self._report.fault(3, f"the undo data at height {height} is not that of the block")
        self._report.ok(3)

    def _check_parent(self, height: int, block: Block, undo: bytes) -> None:
        """Check the tip to which taking the block off leads back."""
        parent = decode_parent(undo)
        if (parent.height, parent.block_hash) != (height - 1, block.header.prev_hash):
            self._report.fault(3, f"the undo data at height {height} leads to another tip")

    def _tip(self) -> None:
        store, report = self._store, self._report
        if store.tip is None or store.tip_hash != self._parent:
            report.fault(1, "the tip is not the last block")
            return
        if store.header(store.height + 1) is not None:
            report.fault(1, f"there is a header above the tip at {store.height}")
        try:
            tip = ChainTip.decode(store.tip)
            raw = store.body(tip.block_hash)
            commitment = None if raw is None else find_commitment(Block.parse(raw).txs[0])
        except (StorageError, PeerFault) as error:
            report.fault(1, f"the tip: {error}")
            return
        if (tip.height, tip.block_hash, tip.history) != (store.height, self._parent, self._peaks):
            report.fault(1, "the tip does not fit the headers")
        if commitment is not None and commitment.effects_digest != tip.effects_digest:
            report.fault(1, "the effects digest of the tip is not what its block commits to")


def coin_changes(block: Block) -> tuple[set[bytes], set[bytes]]:
    """Return the prevouts that a block spends and those it creates; what it does both with is in neither."""
    spent: set[bytes] = set()
    created: set[bytes] = set()
    for tx in block.txs:
        if not tx.is_coinbase:
            inside = created.intersection(tx.prevouts)
            created -= inside
            spent.update(prevout for prevout in tx.prevouts if prevout not in inside)
        created.update(
            outpoint(tx.txid, at)
            for at, output in enumerate(tx.vout)
            if not is_unspendable(output.script_pubkey)
        )
    return spent, created


def _replay(target: Target, live: ChainStore, report: Report, progress: Progress) -> str:
    """Level 4: execute everything again with all signatures, and compare."""
    if live.pruned_below:
        return f"not possible, blocks below {live.pruned_below} are absent"
    folder = target.path / CHECK_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    need_room(target.path, size_of(target.path / swap.INDEX), "the replay")
    verifier = SignatureVerifier(target.contracts)

    def compare_undo(connected: Connected) -> None:
        undo = live.undo(connected.tip.block_hash)
        coins, state = ({}, {}) if undo is None else decode_undo(undo)
        # Where nobody asks for it, older versions kept it all the same.
        agrees = state == connected.state_undo or not target.params.keeps_state_undo
        if undo is None or coins != connected.coins_undo or not agrees:
            report.fault(3, f"the undo data at height {connected.tip.height} is not what executing gives")

    try:
        folder.mkdir(mode=0o700)
        with replay_store(target, folder, lambda watermark: _view(target), progress) as fresh:
            execute_stored(target, fresh, verifier, progress, live=live, see=compare_undo)
            return _compare(live, fresh, report, progress)
    except StorageError as error:
        report.fault(4, str(error))
        return ""
    finally:
        verifier.close()
        shutil.rmtree(folder, ignore_errors=True)


def _view(target: Target) -> Segments:
    return Segments.view(target.path / swap.BLOCKS, target.chain_id)


def _compare(live: ChainStore, fresh: ChainStore, report: Report, progress: Progress) -> str:
    if live.tip != fresh.tip:
        report.fault(4, f"the tip at {live.height} is not what executing gives ({fresh.height})")
    said = []
    for name, mine, theirs in (
        ("unspent outputs", live.iterate_coins(), fresh.iterate_coins()),
        ("contract state", live.state_view.scan(b""), fresh.state_view.scan(b"")),
    ):
        count, digest, difference = _compare_pairs(mine, theirs, progress)
        if difference:
            report.fault(4, f"{name} differ from what executing gives, first at {difference}")
        said.append(f"{count} {name} ({digest})")
    for line in report.faults.get(3, []):
        report.fault(4, line)
    effects = ChainTip.decode(fresh.tip).effects_digest.hex()[:16] if fresh.tip else ""
    return f"{fresh.height + 1} blocks, {', '.join(said)}, effects digest {effects}"


def _compare_pairs(mine: Pairs, theirs: Pairs, progress: Progress) -> tuple[int, str, str]:
    """Return (number of pairs, start of their SHA-256, hex of the first key that differs or "")."""
    digest, count, difference = sha256(), 0, ""
    for count, (one, other) in enumerate(zip_longest(mine, theirs), 1):
        if count % _PROGRESS_KEYS == 0:
            progress.advance(0)
        if one != other and not difference:
            difference = min(pair[0] for pair in (one, other) if pair is not None).hex()
        if one is not None:
            digest.update(len(one[0]).to_bytes(4, "little") + one[0])
            digest.update(len(one[1]).to_bytes(4, "little") + one[1])
    return count, digest.hexdigest()[:16], difference
