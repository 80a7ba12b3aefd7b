"""The engine's state across rounds: who this node is in each of them, and what its vote log promises.

A round has an engine of its own, on the base that the round before left behind. One vote log serves all of
them: its first record names the round that the rest is of, and a node that comes into a round replaces the
whole log in one step. So there is always a log of the current round, also on nodes that have no vote in it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from consensus.bft.codec import decode_qc
from consensus.bft.config import Config, Timing, VoterSet, VoteSecret
from consensus.bft.state import CommittedTip, State, checkpoint, next_round, restore
from consensus.bft.types import Record, RoundRecord
from consensus.bft.wal import decode_record, encode_record
from consensus.block import Block
from consensus.errors import ConfigError, PeerFault
from consensus.params import BftParams, Validator
from consensus.restart import decreed
from consensus.rounds import Round
from node.bodies import proposal_of
from node.chainstate import ChainState
from node.driver_ports import Listener
from node.keyfile import NodeKeys
from storage.wal import LogState, VoteLog, VoteRecord

log = logging.getLogger("wattd.bft")

VOTE_LOG_NAME = "votes.wal"


@dataclass(frozen=True, slots=True)
class VoteKeys:
    """What names this node among validators, and what it signs votes with."""

    vote_key: bytes
    identity_key: bytes
    secret: VoteSecret

    @classmethod
    def of(cls, keys: NodeKeys) -> "VoteKeys":
        """Return the part of a node's keys that the engine needs."""
        return cls(keys.vote_key, keys.identity_key, VoteSecret(keys.vote.reveal()))


class Promises:
    """The vote log of a node and the engine that it allows. ``own``: our place in the round's set.

    ``own`` is set also where this node has no vote, because its log may have forgotten what it signed.
    """

    def __init__(
        self, chain: ChainState, keys: VoteKeys, timing: Timing, vote_log: VoteLog, found: list[VoteRecord]
    ) -> None:
        self._chain = chain
        self._keys = keys
        self._timing = timing
        self._log = vote_log
        self._records, self._is_sound = _decoded(found)
        self._round = _round_of(self._records) if found else None
        self.own: int | None = None

    @classmethod
    def open(cls, path: Path, chain: ChainState, keys: VoteKeys, timing: Timing) -> "Promises":
        """Open or create the vote log at ``path``. Raises StorageError."""
        return cls(chain, keys, timing, *VoteLog.open(path))

    @property
    def log(self) -> VoteLog:
        """Return the file."""
        return self._log

    @property
    def is_ahead(self) -> bool:
        """Return whether the log is of a round that the chain here has yet to come to.

        The data directory was put back, its log was not. Nothing may be written to such a log: it is all that
        is left of what was promised in its round.
        """
        return self._round is not None and self._round > self._chain.round.number

    @property
    def _is_behind(self) -> bool:
        """Return whether the log is of an earlier round: it says nothing of this one."""
        return self._round is not None and self._round < self._chain.round.number

    # ---- engines -------------------------------------------------------------------------------

    def begin(self) -> State:
        """Return the engine at the start of a node. Raises ConfigError for keys that do not belong together.

        A validator that may have forgotten what it signed becomes a learner: it follows without a vote until
        the next round (CONSENSUS.md, section 2.7).
        """
        self.own = place_of(self._chain.round.members, self._keys)
        state = self._as_found()
        if self._log.state is LogState.EMPTY or self._is_behind:
            self._write(state)
        return state

    def _as_found(self) -> State:
        """Return the engine of the current round that the log allows, as it was found at the start."""
        doubt = "" if self.own is None else self._doubt()
        usable = not (doubt or self.is_ahead)
        try:
            state = self._restored(None if doubt else self.own, self._records if usable else ())
        except PeerFault as fault:
            doubt, state = f"its vote log makes no sense ({fault})", self._restored(None, ())
        if doubt and self.own is not None:
            state.learner = doubt
        return state

    def _doubt(self) -> str:
        chain = self._chain
        number, base = chain.round.number, chain.round_base().height
        reason = reason_not_to_vote(self._log.state, self._round, number, chain.tip.height, base)
        if not reason and not self._is_sound and not self._is_behind:
            return "its vote log makes no sense"
        return reason

    def follow(self, state: State) -> State:
        """Return the engine of the round that the chain has come to, after ``state``, that of the one before.

        The log is of the new round when this returns. What the store wrote must be durable before: a log of a
        round that the chain does not know is taken for that of a data directory that was put back.
        """
        self.own = self._place()
        if self.is_ahead:
            following = next_round(state, self._config(None))
            if self.own is not None:
                following.learner = _put_back(self._round, self._chain.round.number)
            return following
        if self._round == self._chain.round.number:  # the chain has caught up with its log, which holds here
            following = self._as_found()
            following.work, following.next_token = state.work, state.next_token
            return following
        following = next_round(state, self._config(self.own))
        self._write(following)
        return following

    def _place(self) -> int | None:
        """Return our place in a set that was elected while we run; no vote rather than no node."""
        try:
            return place_of(self._chain.round.members, self._keys)
        except ConfigError as fault:
            log.error("this node does not vote in the round", extra={"reason": fault.problems[0]})
            return None

    def _config(self, me: int | None) -> Config:
        found = self._chain.round
        return Config(
            chain_id=self._chain.chain_id,
            validator_set=VoterSet.of(found.validator_set),
            me=me,
            secret=None if me is None else self._keys.secret,
            seed=found.slot_seed,
            timing=self._timing,
            base=self._chain.round_base(),
            decrees=decreed(self._chain.restarts, found),
        )

    def _restored(self, me: int | None, records: Sequence[Record]) -> State:
        """Raises RuleError "bad-wal" where the records contradict each other."""
        chain, tip = self._chain, self._chain.tip
        config = self._config(me)
        certificate = None
        if tip.height > config.electorate.base.height:
            certificate = chain.store.certificate(tip.height)
        qc = config.electorate.base if certificate is None else decode_qc(certificate)
        bodies = [
            (height, proposal_of(Block.parse(raw)))
            for height, raw in chain.store.uncommitted_bodies().values()
        ]
        return restore(config, records, CommittedTip(tip.height, tip.block_hash, qc), bodies)

    # ---- the log -------------------------------------------------------------------------------

    def append(self, record: Record) -> None:
        """Add a record; durable after ``sync``. Raises StorageError."""
        if self.is_ahead:
            raise RuntimeError("a vote in a round that the vote log is ahead of")
        self._log.append(*encode_record(record))

    def sync(self) -> None:
        """Return when every record is on the disk. Raises StorageError."""
        self._log.sync()

    def keep_short(self, state: State) -> None:
        """Rewrite the log if it is long. Raises StorageError."""
        if self._log.wants_rewrite and not self.is_ahead:
            self._write(state)

    def _write(self, state: State) -> None:
        self._log.rewrite(encode_record(record) for record in checkpoint(state))
        self._round, self._records = state.config.validator_set.round, ()

    def close(self) -> None:
        """Close the file."""
        self._log.close()


def _decoded(found: Sequence[VoteRecord]) -> tuple[tuple[Record, ...], bool]:
    """Return the records up to the first that is none of ours, and whether there is no such record."""
    records: list[Record] = []
    for kind, payload in found:
        try:
            records.append(decode_record(kind, payload))
        except PeerFault:
            return tuple(records), False
    return tuple(records), True


def _round_of(records: Sequence[Record]) -> int | None:
    """Return the round that a log is of; None: not known. Before logs named it there was round 0 only."""
    if not records:
        return None
    return records[0].round if isinstance(records[0], RoundRecord) else 0


def place_of(members: Sequence[Validator], keys: VoteKeys) -> int | None:
    """Return our place in a validator set, None if we are not in it.

    Raises ConfigError if only one of the two keys is that of a member.
    """
    for index, validator in enumerate(members):
        same_vote = validator.vote_key == keys.vote_key
        if same_vote != (validator.identity_key == keys.identity_key):
            raise ConfigError(
                "wrong-keys",
                (f"keys.toml: one of vote and identity key is that of {validator.name}, the other is not",),
            )
        if same_vote:
            return index
    return None


def reason_not_to_vote(found: LogState, log_round: int | None, number: int, height: int, base: int) -> str:
    """Return why a validator of round ``number`` must not sign with this vote log; "" if it may.

    ``log_round`` is the round of the log, None if it has no record that could be read; ``height`` is that of
    the committed tip, ``base`` that of the block on which the round stands. The reasoning:

    - Whoever has run in a round has a log of it, also without a vote: the switch to a round writes the log
      before anything else of the round is done, and so does the first start. So a missing log was lost, if
      the chain here is above the base. At the base itself nothing shows that this node ever ran in the
      round; if it did, its peers hold what it signed and say so (it asks them before it signs).
    - A log of an earlier round is what a crash at the boundary leaves behind, and then the tip is the base:
      nothing was signed in this round. Above the base the log was put back (``restore`` retires it).
    - A log of a later round is whole, but the chain was put back: what was signed in this round is forgotten.
    - A damaged log may have lost promises of its own round only: every round replaces the whole file.
    """
    if log_round is not None and log_round > number:
        return _put_back(log_round, number)
    if found is LogState.CORRUPT and (log_round is None or log_round == number):
        return "its vote log is damaged, so it may have forgotten what it signed"
    if found is LogState.EMPTY and height > base:
        return "its vote log is missing, so it may have forgotten what it signed"
    return ""


def _put_back(log_round: int | None, number: int) -> str:
    return (
        f"its vote log is of round {log_round}, the chain here in round {number}: the data directory was put"
        " back, so it may have forgotten what it signed"
    )


def tell_round(listener: Listener, before: Round, now: Round, own: int | None) -> None:
    """Tell that a round has begun, in which our place is ``own``, and who came and went."""
    members = ", ".join(member.name for member in now.members)
    fields = {"round": now.number, "epoch": now.epoch, "first_height": now.first_height}
    listener.on_event("round-begins", fields | {"members": members, "me": own})
    for event, those, others in (("joined", now, before), ("left", before, now)):
        known = {member.vote_key for member in others.members}
        for member in those.members:
            if member.vote_key not in known:
                listener.on_event(f"validator-{event}", {"validator": member.name, "round": now.number})


def timing_of(params: BftParams) -> Timing:
    """Return the engine's timing as the chain file sets it."""
    return Timing(
        progress_timeout_ms=params.progress_timeout_ms,
        slot_step_ms=params.slot_step_ms,
        idle_interval_ms=params.idle_interval_ms,
        block_interval_ms=params.block_interval_ms,
        min_batch_txs=params.min_batch_txs,
        tenure_blocks=params.tenure_blocks,
    )
