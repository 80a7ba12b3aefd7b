"""Restarts as operators handle them: what a stopped node can vouch for, and the files it was given.

The format and what a restart does to a chain are ``consensus.restart``; the procedure is docs/recovery.md.
All functions but ``load_restarts`` work on the data directory of a node that does not run.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from consensus import canonical
from consensus.bft.codec import decode_qc, encode_qc
from consensus.bft.state import State
from consensus.bft.types import QC, Kind, LearnerRecord
from consensus.block import Block, BlockHeader
from consensus.block_rules import check_block
from consensus.errors import DecodeError, LocalFault, PeerFault, RuleError, StorageError
from consensus.light import Signers, Trust
from consensus.params import Validator
from consensus.restart import (
    Restart,
    check_follows,
    check_form,
    check_members,
    check_signed,
    check_whole,
    decode_restart,
    decree,
    digest,
    draft,
    encode_restart,
    needed_signers,
    sign,
)
from consensus.transaction import hash_hex
from contracts.governance.committee import committee
from node.chainstate import ChainState
from node.keyfile import NodeKeys
from node.limits import MAX_REPORT_FILE_BYTES, MAX_RESTART_FILES
from node.rounds import VOTE_LOG_NAME, Promises, VoteKeys, timing_of
from storage.files import Files, storage_error

FOLDER = "restarts"
SUFFIX = ".restart"
SIGNED_NAME = "signed"
PROMISE = "it signed restart "
"""How the learner record begins that a node writes before it signs: it votes in the old round no more."""

_REPORT_VERSION = 1
_U32 = 0xFFFF_FFFF


class RestartFault(LocalFault):
    """A restart that this node must not take, sign or make."""

    exit_status = 65


# ---- files -------------------------------------------------------------------------------------------


def load_restarts(datadir: Path, chain_id: bytes) -> dict[bytes, Restart]:
    """Return the restarts that this data directory was given, by the hash of the block before each.

    Raises StorageError "restart-file-damaged".
    """
    folder = datadir / FOLDER
    found: dict[bytes, Restart] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
        try:
            restart = decode_restart(path.read_bytes())
            check_signed(restart)
            if restart.chain_id != chain_id or restart.block_hash in found:
                raise RuleError("restart-wrong-chain", "of another chain, or the second for its block")
        except (OSError, PeerFault) as error:
            raise StorageError(
                "restart-file-damaged", f"{path}: {error}", fix="remove it and apply the restart again"
            ) from None
        found[restart.block_hash] = restart
    return found


def read_restart(path: Path) -> Restart:
    """Read a restart file. Raises DecodeError "bad-restart-file", LocalFault "unreadable-file"."""
    try:
        return decode_restart(path.read_bytes())
    except OSError as error:
        raise LocalFault("unreadable-file", f"{path}: {error.strerror}") from None


def write_file(path: Path, data: bytes) -> None:
    """Write a whole file durably. Raises StorageError."""
    try:
        Files().write_whole(path, data)
    except OSError as error:
        raise storage_error(error, path) from error


# ---- what a node can vouch for -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Report:
    """What one survivor knows: its name, round and committed tip, and its highest certificate.

    ``has_block``: the block of the certificate, and all between it and the tip, are in its store.
    ``forgot`` says why its votes may be unknown, "" if its vote log is whole.
    """

    name: str
    vote_key: bytes
    chain_id: bytes
    round: int
    height: int
    certificate: QC
    has_block: bool
    forgot: str

    def encode(self) -> bytes:
        """Return the bytes of a report file."""
        return canonical.encode(
            [
                _REPORT_VERSION,
                self.name,
                self.vote_key,
                self.chain_id,
                self.round,
                self.height,
                encode_qc(self.certificate),
                self.has_block,
                self.forgot,
            ]
        )


def decode_report(data: bytes) -> Report:
    """Read a report file. Raises DecodeError "bad-restart-report"."""
    try:
        if len(data) <= MAX_REPORT_FILE_BYTES:
            match canonical.decode(data):
                case [
                    int(version),
                    str(name),
                    bytes(vote_key),
                    bytes(chain_id),
                    int(number),
                    int(height),
                    bytes(raw),
                    bool(has_block),
                    str(forgot),
                ] if version == _REPORT_VERSION and len(vote_key) == len(chain_id) == 32:
                    numbers = bool not in map(type, (version, number, height))
                    if numbers and 0 <= number <= _U32 and 0 <= height <= _U32:
                        qc = decode_qc(raw)
                        return Report(name, vote_key, chain_id, number, height, qc, has_block, forgot)
    except DecodeError as error:
        raise DecodeError("bad-restart-report", str(error)) from None
    raise DecodeError("bad-restart-report", "not a report of this version")


class Survivor:
    """The chain and the vote log of a stopped node, opened together."""

    def __init__(self, datadir: Path, chain: ChainState, keys: NodeKeys, promises: Promises) -> None:
        self.datadir = datadir
        self.chain = chain
        self._keys = keys
        self._promises = promises
        self._engine: State = promises.begin()
        self._bodies = {
            block_hash: Block.parse(raw) for block_hash, (_, raw) in chain.store.uncommitted_bodies().items()
        }

    @property
    def members(self) -> tuple[Validator, ...]:
        """Return the set of the round that stands still."""
        return self.chain.round.members

    @property
    def organisations(self) -> list[Validator]:
        """Return all whom a restart may put into the new set: old members first, then by account."""
        found = self.chain.round
        known = [*found.members, *found.alternates, *committee(self.chain.state, self.chain.params)]
        return list(dict.fromkeys(known))

    @property
    def is_member(self) -> bool:
        """Return whether this node is a validator of the round that stands still."""
        return self._promises.own is not None

    @property
    def forgot(self) -> str:
        """Return why the vote log may lack what we signed; "" if it is whole, or we are no validator."""
        learner = self._engine.learner or ""
        return "" if not self.is_member or learner.startswith(PROMISE) else learner

    @property
    def name(self) -> str:
        """Return the name of this node's organisation; its key where the chain does not know it."""
        key = self._keys.vote_key
        return next((each.name for each in self.organisations if each.vote_key == key), key.hex())

    def highest(self) -> QC:
        """Return the certificate of the highest rank that this node holds in this round."""
        committed, lock = self._engine.commit_qc, self._engine.lock
        return lock if lock.rank > committed.rank else committed

    def blocks_to(self, qc: QC) -> list[Block] | None:
        """Return the blocks from above the tip up to that of ``qc``; None if one is not at hand."""
        tip, found, block_hash = self.chain.tip, list[Block](), qc.block_hash
        for _ in range(tip.height, qc.height):
            block = self._bodies.get(block_hash)
            if block is None:
                return None
            found.append(block)
            block_hash = block.header.prev_hash
        return found[::-1] if block_hash == tip.block_hash else None

    def report(self) -> Report:
        """Return what this node can say of the end of the chain."""
        qc, chain = self.highest(), self.chain
        here = qc.height <= chain.tip.height or self.blocks_to(qc) is not None
        return Report(
            self.name,
            self._keys.vote_key,
            chain.chain_id,
            chain.round.number,
            chain.tip.height,
            qc,
            here,
            self.forgot,
        )

    # ---- making --------------------------------------------------------------------------------

    def make(
        self,
        reports: Sequence[Report],
        *,
        names: Sequence[str],
        keep: Sequence[str],
        reason: str,
        give_up: bool = False,
    ) -> Restart:
        """Return the restart that the reports of the survivors lead to, without signatures.

        The new set are the reporting members of the old one, and the organisations ``names``. Old members
        that are in neither lose vote and role, but for those in ``keep``. ``give_up``: a certified block that
        nobody here has is left out. Raises RestartFault and RuleError.
        """
        chain, own = self.chain, self.report()
        everybody = {each.vote_key: each for each in (*reports, own)}
        for each in everybody.values():
            self._check_report(each)
        if not own.has_block and not give_up:
            raise RestartFault(
                "restart-block-missing",
                f"block {own.certificate.height} is certified here but not in the store",
                fix="make the restart on a node whose report says that it has it",
            )
        certificate = own.certificate if own.has_block else self._engine.commit_qc
        for each in everybody.values():
            higher = each.certificate.rank > certificate.rank
            if higher and each.certificate.block_hash == certificate.block_hash:
                certificate = each.certificate
            elif higher and (each.has_block or not give_up):
                raise RestartFault(
                    "restart-not-highest",
                    f"{each.name} holds a certificate for block {each.certificate.height} of a higher rank",
                    fix=f"make the restart on the node of {each.name}",
                )
        members = self._new_set(set(everybody), names)
        gone = self._gone(members, keep)
        made = draft(
            Restart(
                chain_id=chain.chain_id,
                round=chain.round.number + 1,
                height=certificate.height,
                block_hash=certificate.block_hash,
                certificate=certificate,
                members=members,
                dismissed=gone,
                reason=reason,
                signatures=(),
            )
        )
        made = decode_restart(encode_restart(made))  # the limits of the form
        check_form(made, chain.chain_id, chain.params.name)
        check_follows(made, chain.round)
        return made

    def _check_report(self, report: Report) -> None:
        if report.chain_id != self.chain.chain_id:
            raise RestartFault("restart-wrong-chain", f"the report of {report.name} is of another chain")
        if report.round != self.chain.round.number:
            raise RestartFault(
                "restart-wrong-round",
                f"{report.name} is in round {report.round}, this node in round {self.chain.round.number}",
                fix="run both nodes until they have the same blocks, then stop them and report again",
            )

    def _new_set(self, reporting: set[bytes], names: Sequence[str]) -> tuple[Validator, ...]:
        members = [each for each in self.members if each.vote_key in reporting or each.name in names]
        for name in names:
            found = [each for each in self.organisations if each.name == name]
            if not found:
                raise RestartFault("restart-unknown-member", f"the chain knows no organisation {name!r}")
            members += [found[0]] if found[0] not in members else []
        return tuple(members)

    def _gone(self, members: Sequence[Validator], keep: Sequence[str]) -> tuple[bytes, ...]:
        for name in keep:
            if name not in [each.name for each in self.members]:
                raise RestartFault("restart-unknown-member", f"no validator is called {name!r}")
        staying = {each.payout_script for each in members}
        lost = [each for each in self.members if each.name not in keep]
        return tuple(sorted({each.payout_script for each in lost if each.payout_script not in staying}))

    # ---- signing -------------------------------------------------------------------------------

    def sign(self, restart: Restart, *, forgot: bool, give_up: bool, replace: bool) -> Restart:
        """Return the restart with this node's signature, after checking it against what the node knows.

        From here on the node votes in the old round no more: that is on the disk before the signature is
        made. Raises RestartFault and RuleError with the first reason not to sign.
        """
        self.check(restart)
        if self.forgot and not forgot:
            raise RestartFault(
                "restart-forgot",
                f"this node cannot say how far it voted: {self.forgot}",
                fix=f"--forgot, if {needed_signers(len(self.members))} other old validators sign without it",
            )
        mine = self.highest()
        other_block = mine.block_hash != restart.block_hash
        if mine.rank > restart.certificate.rank and other_block and not give_up:
            raise RestartFault(
                "restart-below-lock",
                f"this node holds a certificate of term {mine.term} for block {mine.height}, maybe final; "
                f"the restart's is of term {restart.certificate.term} for block {restart.height}",
                fix="make the restart again, with this node's report",
            )
        signed = sign(restart, self._keys.vote.reveal())
        mark, said = self.datadir / FOLDER / SIGNED_NAME, digest(restart)
        mark.parent.mkdir(exist_ok=True)
        if mark.exists() and not replace:
            earlier = mark.read_bytes()
            if earlier[4:] != said and earlier[:4] == restart.round.to_bytes(4, "big"):
                raise RestartFault(
                    "restart-signed-another",
                    f"this node has signed another restart of round {restart.round}",
                    fix="make sure that nobody has the other one complete, then give --replace",
                )
        if self.is_member and not self._engine.learner:
            self._promises.append(LearnerRecord(f"{PROMISE}{said.hex()}"))
            self._promises.sync()
        write_file(mark, restart.round.to_bytes(4, "big") + said)
        return signed

    # ---- applying ------------------------------------------------------------------------------

    def check(self, restart: Restart) -> None:
        """Check a restart against the own chain, missing signatures apart. Raises RestartFault, RuleError."""
        chain, tip = self.chain, self.chain.tip
        check_form(restart, chain.chain_id, chain.params.name)
        if tip.height > restart.height:
            raise RestartFault(
                "restart-below-tip",
                f"this node has final blocks up to {tip.height}, the restart goes on from {restart.height}",
                fix="make the restart again, with this node's report",
            )
        if tip.height == restart.height and tip.block_hash != restart.block_hash:
            raise RestartFault(
                "restart-wrong-block",
                f"block {tip.height} here is {hash_hex(tip.block_hash)}, not {hash_hex(restart.block_hash)}",
            )
        if chain.round.number >= restart.round:
            raise RestartFault(
                "restart-wrong-round",
                f"round {restart.round} has begun here without it (this is round {chain.round.number})",
            )
        if chain.round.number + 1 == restart.round or tip.height == restart.height:
            check_follows(restart, chain.round)
            check_members(restart, self.organisations)

    def apply(self, restart: Restart) -> int:
        """Store a complete restart and take over the blocks that it makes final; return the height reached.

        Doing it again changes nothing. Raises RestartFault, RuleError, StorageError.
        """
        check_signed(restart)
        held = load_restarts(self.datadir, self.chain.chain_id)
        for other in held.values():
            same_place = other.round == restart.round or other.block_hash == restart.block_hash
            if same_place and digest(other) != digest(restart):
                raise RestartFault(
                    "restart-conflict",
                    f"another restart of round {restart.round} was applied here",
                    fix="operators must agree on one; docs/recovery.md says how to change over",
                )
        if len(held) >= MAX_RESTART_FILES:
            raise RestartFault("restart-too-many", f"{len(held)} restarts were applied here")
        if held.get(restart.block_hash) is None:
            self.check(restart)
            folder = self.datadir / FOLDER
            folder.mkdir(exist_ok=True)
            name = f"{restart.round:010d}-{restart.height:010d}{SUFFIX}"
            write_file(folder / name, encode_restart(restart))
        if self.chain.round.number + 1 == restart.round:
            check_whole(restart, self.chain.round, self.chain.chain_id, self.chain.params.name)
            self._finish(restart)
        return self.chain.tip.height

    def trust(self, restart: Restart) -> Trust:
        """Return what light clients may trust. Raises RestartFault "restart-not-applied"."""
        held = self.chain.restarts.get(restart.block_hash)
        header = self.chain.store.header(restart.height)
        if held is None or digest(held) != digest(restart) or header is None:
            raise RestartFault(
                "restart-not-applied",
                f"this node did not apply the restart, or has no block {restart.height} yet",
                fix="wattd restart apply",
            )
        keys = tuple([member.vote_key for member in restart.members])
        signers = Signers(restart.round, restart.height + 1, keys)
        time_s = BlockHeader.parse(header).time_s
        return Trust(restart.chain_id, signers, restart.height, restart.block_hash, time_s)

    def _finish(self, restart: Restart) -> None:
        """Commit what the certificate of the restart covers, as far as the blocks are at hand."""
        blocks = self.blocks_to(restart.certificate)
        certificate = encode_qc(decree(restart) or restart.certificate)
        for block in blocks or ():
            check_block(block, self.chain.params)
            self.chain.execute(block, self.chain.tip.block_hash)
            self.chain.commit(block.hash, certificate)


@contextmanager
def survivor(datadir: Path, chain: ChainState, keys: NodeKeys) -> Iterator[Survivor]:
    """Open the vote log beside an open chain. Raises RestartFault "restart-no-quorums" on a pow chain."""
    if chain.params.pow is not None:
        raise RestartFault("restart-no-quorums", "a chain of proof of work has no validators to replace")
    timing = timing_of(chain.params.bft)
    promises = Promises.open(datadir / VOTE_LOG_NAME, chain, VoteKeys.of(keys), timing)
    try:
        yield Survivor(datadir, chain, keys, promises)
    finally:
        promises.close()


def summary(restart: Restart) -> dict[str, object]:
    """Return a restart as people read it."""
    qc = restart.certificate
    return {
        "chain_id": hash_hex(restart.chain_id),
        "round": restart.round,
        "height": restart.height,
        "block_hash": hash_hex(restart.block_hash),
        "certificate": "commit" if qc.kind is Kind.COMMIT else "prepare",
        "certificate_term": qc.term,
        "members": [
            {"name": member.name, "vote_key": member.vote_key.hex(), "signed": bool(signature)}
            for member, signature in zip(restart.members, restart.signatures, strict=True)
        ],
        "dismissed": [account.hex() for account in restart.dismissed],
        "reason": restart.reason,
        "digest": digest(restart).hex(),
        "complete": not restart.missing,
    }
