"""What a snapshot is believed for: headers up to the block that commits to it, and who stands behind it.

On a bft chain that is the quorum whose certificate covers the block; on a pow chain a block hash or an
amount of work that the operator names, or a checkpoint of the chain file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from consensus import canonical, history
from consensus.bft.codec import decode_qc
from consensus.block import Block, BlockHeader
from consensus.block_rules import check_block
from consensus.chain import ChainTip
from consensus.commitment import find_commitment
from consensus.errors import DecodeError, PeerFault, RuleError, StorageError
from consensus.ledger_limits import MEDIAN_TIME_SPAN
from consensus.merkle import fold_branch
from consensus.params import ChainParams
from consensus.pow import rules as pow_rules
from consensus.pow.target import check_proof, target_of, work_of
from consensus.state_root import covered_height
from consensus.transaction import Transaction, hash_hex
from node.store.signers import SetWalk
from node.store.snapfile import damaged, refused
from node.store.target import Target

HEADER_BYTES = 80
BEHIND_MAX = 16
"""Headers behind a block up to the one whose certificate covers it: two may be uncommitted at a time."""
_BRANCH_MAX = 32
_HASH = 32


@dataclass(frozen=True, slots=True)
class Trust:
    """What the operator believes: the root of the file, the hash of a block (internal order), work."""

    root: bytes | None = None
    block_hash: bytes | None = None
    min_work: int | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """The block that a snapshot stands on. ``tip`` is None where it has to be worked out (form 4)."""

    height: int
    block: Block
    effects_digest: bytes
    tip: ChainTip | None
    proof: "Proof | None"


@dataclass(frozen=True, slots=True)
class Proof:
    """The block that commits to the snapshot's state, as far as needed: its coinbase and its place."""

    height: int
    coinbase: Transaction
    branch: tuple[bytes, ...]
    state_root: bytes


def base_at_tip(target: Target, head: bytes) -> Base:
    """Return what the head of a snapshot at a tip says. Raises StorageError ("snapshot-damaged" etc.)."""
    match _array(head):
        case [bytes(chain_id), int(height), bytes(block_hash), bytes(raw_tip), bytes(raw)] if height > 0:
            block, digest = _read_block(target, chain_id, raw)
        case _:
            raise damaged("its head is not of this version")
    interval = target.params.ledger.snapshot_interval_blocks
    if interval and height > interval and height % interval:
        raise refused(f"from height {height} the next state root could not be computed")
    try:
        tip = ChainTip.decode(raw_tip)
    except DecodeError as error:
        raise refused(f"its tip: {error}") from error
    if (tip.height, tip.block_hash, block.hash) != (height, block_hash, block_hash):
        raise refused("tip and block do not belong together")
    if digest != tip.effects_digest:
        raise refused("the effects digest is not what the block commits to")
    return Base(height, block, digest, tip, None)


def base_proven(target: Target, head: bytes) -> Base:
    """Return what the head of a proven snapshot says. Raises StorageError "snapshot-damaged" and the like."""
    match _array(head):
        case [bytes(chain_id), int(height), bytes(raw), int(proof_height), bytes(raw_coinbase), [*branch]]:
            block, digest = _read_block(target, chain_id, raw)
        case _:
            raise damaged("its head is not of this version")
    if proof_height < 1 or covered_height(proof_height, target.params) != height:
        raise refused(f"a block at {proof_height} does not commit to the state at {height}")
    path = tuple(node for node in branch if isinstance(node, bytes) and len(node) == _HASH)
    if len(path) != len(branch) or len(path) > _BRANCH_MAX:
        raise damaged("its Merkle branch is none")
    try:
        coinbase = Transaction.parse(raw_coinbase)
        root = find_commitment(coinbase).state_root
    except PeerFault as error:
        raise refused(f"the coinbase that commits to it: {error}") from error
    if root is None or not coinbase.is_coinbase:
        raise refused("the coinbase has no state root")
    return Base(height, block, digest, None, Proof(proof_height, coinbase, path, root))


def _array(head: bytes) -> object:
    try:
        return canonical.decode(head)
    except DecodeError as error:
        raise damaged(str(error)) from error


def _read_block(target: Target, chain_id: bytes, raw: bytes) -> tuple[Block, bytes]:
    """Return the block of the snapshot and its effects digest."""
    if chain_id != target.chain_id:
        raise StorageError(
            "snapshot-foreign-chain",
            f"the snapshot is of chain {chain_id[::-1].hex()}",
            fix="give each chain a data directory of its own",
        )
    try:
        block = Block.parse(raw)
        check_block(block, target.params)
        return block, find_commitment(block.txs[0]).effects_digest
    except PeerFault as error:
        raise refused(f"its block: {error}") from error


class HeaderRun:
    """Headers from genesis on, each checked against those before as far as headers alone tell."""

    def __init__(self, target: Target, base: Base) -> None:
        self._target, self._base = target, base
        self._params: ChainParams = target.params
        rules = self._params.pow
        self._max_target = 0 if rules is None else target_of(rules.max_target) or 0
        self._checkpoints = (
            {} if rules is None else {each.height: each.block_hash for each in rules.checkpoints}
        )
        self._restarts = {each.height for each in target.restarts.values()}
        self._parent = bytes(32)
        self._peaks: tuple[bytes, ...] = ()
        self._times: tuple[int, ...] = ()
        self._issued = sum(allocation.amount for allocation in self._params.allocations)
        self._last_time_s = 0
        self.height = -1
        self.work = 0
        self.checkpointed = -1
        """Height of the highest checkpoint that was met."""
        self.hashes: dict[int, bytes] = {}
        """Block hashes by height: those that certificates or restarts may name, all from the proof on."""
        self.tip: ChainTip | None = None
        """The tip at the snapshot's block, once that was reached."""

    def add(self, raw: bytes) -> BlockHeader:
        """Take the next header. Raises StorageError "snapshot-refused"."""
        header, height = BlockHeader.parse(raw), self.height + 1
        if header.prev_hash != self._parent or (height == 0 and header.hash != self._target.chain_id):
            raise refused(f"the header at height {height} does not follow the one before")
        if height and self._params.pow is not None:
            self._check_work(header, height)
        self.work += work_of(header.bits)
        block_hash = header.hash
        self._parent, self.height, self._last_time_s = block_hash, height, header.time_s
        self._times = (*self._times, header.time_s)[-MEDIAN_TIME_SPAN:]
        base, proof = self._base, self._base.proof
        if height <= base.height:
            self._peaks = history.append(self._peaks, height, block_hash)
            if self._params.pow is not None:
                self._issued += pow_rules.subsidy_at(self._params, height, self._issued)
        if height == base.height:
            self._take_tip(header)
        is_near = base.height <= height <= base.height + BEHIND_MAX
        if is_near or height in self._restarts or (proof and height >= proof.height):
            self.hashes[height] = block_hash
        if proof and height == proof.height and _merkle_root(proof) != header.merkle_root:
            raise refused(f"the coinbase is not that of the block at height {height}")
        return header

    def _check_work(self, header: BlockHeader, height: int) -> None:
        try:
            bits = pow_rules.expected_bits(self._params, height - 1, self._last_time_s)
            pow_rules.check_bits(header, bits)
            pow_rules.check_time(header, pow_rules.median(self._times))
            check_proof(header, self._max_target)
        except PeerFault as error:
            raise refused(f"the header at height {height}: {error}") from error
        fixed = self._checkpoints.get(height)
        if fixed is not None:
            if fixed != header.hash:
                raise refused(f"the block at height {height} is not that of the checkpoint")
            self.checkpointed = height

    def _take_tip(self, header: BlockHeader) -> None:
        base = self._base
        self.tip = ChainTip(
            height=base.height,
            block_hash=header.hash,
            time_s=header.time_s,
            effects_digest=base.effects_digest,
            history=self._peaks,
            issued=self._issued,
            term=header.nonce,
            times=self._times,
        )
        if base.block.hash != header.hash or (base.tip is not None and base.tip != self.tip):
            raise refused("the headers do not lead to its block")


def _merkle_root(proof: Proof) -> bytes:
    return fold_branch(proof.coinbase.txid, proof.branch, 0)


def certificates_of(certificate: bytes, behind: Sequence[bytes], proof: bytes) -> bytes:
    """Return the certificates of a proven snapshot as bytes."""
    return canonical.encode([certificate, list(behind), proof])


def check_evidence(
    target: Target, base: Base, run: HeaderRun, walk: SetWalk, certificates: bytes, trust: Trust
) -> bytes:
    """Check that the snapshot may be believed, its root apart; return the certificate of its block.

    ``walk`` is that over the steps of the snapshot. Raises StorageError "snapshot-refused",
    "snapshot-untrusted", "snapshot-wrong-block", "snapshot-needs-restart".
    """
    own, covering = certificates, certificates
    if base.proof is not None:
        match _array(certificates):
            case [bytes(own), [*behind], bytes(covering)] if len(behind) <= BEHIND_MAX:
                for raw in behind:
                    if not isinstance(raw, bytes) or len(raw) != HEADER_BYTES:
                        raise damaged("a header behind the proof is none")
                    run.add(raw)
            case _:
                raise damaged("its certificates are none")
    if target.has_quorums:
        _check_certificate(walk, run, own, base.height)
        if base.proof is not None:
            _check_certificate(walk, run, covering, base.proof.height)
    elif own or covering:
        raise damaged("certificates on a chain that has none")
    _check_trust(target, base, run, trust)
    return own


def _check_certificate(walk: SetWalk, run: HeaderRun, certificate: bytes, height: int) -> None:
    """Check that a quorum committed the block at ``height`` or one that follows it."""
    try:
        follow_restarts(walk, run, decode_qc(certificate).round)
        qc = walk.check(certificate)
    except PeerFault as error:
        raise refused(f"its certificate: {error}") from error
    if qc.height < height or run.hashes.get(qc.height) != qc.block_hash:
        raise refused("the certificate is for another block")


def follow_restarts(walk: SetWalk, run: HeaderRun, number: int) -> None:
    """Follow restarts up to round ``number``. Raises RuleError, StorageError "snapshot-needs-restart"."""
    try:
        walk.restart_up_to(number, run.hashes.get)
    except RuleError as error:
        if error.code != "restart-missing":
            raise
        raise StorageError(
            "snapshot-needs-restart",
            f"no step leads to round {walk.latest.round + 1}, and no restart of this data directory does",
            fix="copy the restarts of the chain into restarts/ (docs/recovery.md), or take another snapshot",
        ) from None


def _check_trust(target: Target, base: Base, run: HeaderRun, trust: Trust) -> None:
    """Check what the operator named; see that at least one thing stands for the snapshot."""
    known = base.height if base.proof is None else base.proof.height
    believed = trust.root is not None
    if trust.block_hash is not None:
        if trust.block_hash not in [run.hashes[height] for height in run.hashes if height >= known]:
            raise StorageError(
                "snapshot-wrong-block",
                f"the trusted block is not the one at height {known}, {hash_hex(run.hashes[known])}",
                fix="compare with a node that you trust",
            )
        believed |= base.proof is not None
    if base.proof is not None:
        believed |= target.has_quorums or run.checkpointed >= known
        if trust.min_work is not None and run.work < trust.min_work:
            raise refused(f"its chain has {run.work:#x} of work, asked for are {trust.min_work:#x}")
        believed |= trust.min_work is not None and not target.has_quorums
    if not believed:
        need = "--hash" if base.proof is None else "--trust-hash, --min-work or --hash"
        block_hash = hash_hex(run.hashes[known])
        raise StorageError(
            "snapshot-untrusted",
            f"nothing stands for the block at height {known}, {block_hash}, work {run.work:#x}",
            fix=f"compare with a node that you trust, then give {need}",
        )
