"""What differs between the engines when a node is put together: drivers, peering, what is restored."""

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from consensus.bft.codec import decode_qc
from consensus.bft.config import Config, Timing, VoterSet, VoteSecret
from consensus.bft.state import CommittedTip, State, checkpoint, restore
from consensus.bft.wal import decode_record, encode_record
from consensus.block import Block
from consensus.chain import Connected
from consensus.errors import ConfigError, PeerFault
from consensus.params import BftParams, ChainParams
from consensus.transaction import Transaction
from consensus.validators import initial_set
from node.admission import Admission
from node.bft_wire import BftPeering
from node.chainstate import ChainState
from node.clock import Clock
from node.driver import BftDriver, proposal_of
from node.evidence import EVIDENCE_NAME, EvidenceBook
from node.keyfile import NodeKeys
from node.mempool import Mempool
from node.peering import Peering
from node.pow_driver import PowDriver, restore_engine
from node.pow_wire import PowPeering
from p2p.limits import SYNC_LIMITED_BLOCKS
from p2p.messages import SERVICE_BLOCKS, SERVICE_LIMITED, SERVICE_VALIDATOR
from p2p.shell import Network
from storage.wal import LogState, VoteLog

log = logging.getLogger("wattd")

VOTE_LOG_NAME = "votes.wal"


class EngineListener(Protocol):
    """What the node hears of either driver."""

    def on_commit(self, block: Block, connected: Connected, evicted: list[Transaction]) -> None:
        """The tip moved up."""
        ...

    def on_disconnect(self, block: Block) -> None:
        """A block was taken off the tip."""
        ...

    def on_returned(self, transactions: list[Transaction]) -> None:
        """A reorganisation left these unconfirmed."""
        ...

    def on_event(self, name: str, fields: dict[str, Any]) -> None:
        """Something that others may want to hear of."""
        ...

    def on_alarm(self, name: str, fields: dict[str, Any]) -> None:
        """Something that an operator must look at."""
        ...

    def on_fatal(self, error: BaseException) -> None:
        """The daemon must stop."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine is wired to. ``find_tx`` returns a transaction that is pending or on its way in."""

    datadir: Path
    keys: NodeKeys
    clock: Clock
    chain: ChainState
    mempool: Mempool
    resources: AsyncExitStack
    find_tx: Callable[[bytes], Transaction | None]
    listener: EngineListener


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that is wired. ``attach`` gives its peering the network and the admission.

    ``bft`` or ``pow`` is the driver, whichever the chain has; ``me`` the place in the validator set of a
    node that votes, ``is_validator`` whether its keys are a validator's.
    """

    driver: BftDriver | PowDriver
    peering: Peering
    attach: Callable[[Network, Admission], None]
    bft: BftDriver | None = None
    pow: PowDriver | None = None
    me: int | None = None
    is_validator: bool = False


def wire_engine(parts: Parts) -> Engine:
    """Wire the engine that the chain file asks for. Raises LocalFault for keys and files that do not fit."""
    return _wire_bft(parts) if parts.chain.params.pow is None else _wire_pow(parts)


def _wire_bft(parts: Parts) -> Engine:
    params = parts.chain.params
    identities = [validator.identity_key for validator in params.bft.validators]
    peering = BftPeering(parts.chain, parts.mempool, parts.clock, identities)
    own = own_index(params, parts.keys)
    vote_log, state = open_bft(parts, own)
    me = state.config.me
    driver = BftDriver(
        state,
        me=me,
        own=own,
        chain=parts.chain,
        mempool=parts.mempool,
        find_tx=parts.find_tx,
        clock=parts.clock,
        vote_log=vote_log,
        evidence=EvidenceBook(parts.datadir / EVIDENCE_NAME),
        links=peering,
        listener=parts.listener,
    )

    def attach(network: Network, admission: Admission) -> None:
        peering.attach(network, driver, admission)

    return Engine(driver, peering, attach, bft=driver, me=me, is_validator=own is not None)


def _wire_pow(parts: Parts) -> Engine:
    peering = PowPeering(parts.chain, parts.mempool, parts.clock)
    driver = PowDriver(
        restore_engine(parts.chain),
        chain=parts.chain,
        mempool=parts.mempool,
        clock=parts.clock,
        links=peering,
        listener=parts.listener,
    )

    def attach(network: Network, admission: Admission) -> None:
        peering.attach(network, driver, admission)

    return Engine(driver, peering, attach, pow=driver)


def open_bft(parts: Parts, own: int | None) -> tuple[VoteLog, State]:
    """Restore the engine. A validator that may have forgotten what it signed becomes a learner."""
    chain = parts.chain
    vote_log, records = VoteLog.open(parts.datadir / VOTE_LOG_NAME)
    parts.resources.callback(vote_log.close)
    tip = chain.tip
    doubt = "" if own is None else reason_not_to_vote(vote_log.state, tip.height)
    me = None if doubt else own
    config = Config(
        chain_id=chain.chain_id,
        validator_set=VoterSet.of(initial_set(chain.params)),
        me=me,
        secret=None if me is None else VoteSecret(parts.keys.vote.reveal()),
        seed=chain.chain_id,
        timing=timing_of(chain.params.bft),
    )
    certificate = chain.store.certificate(tip.height)
    qc = config.electorate.base if certificate is None else decode_qc(certificate)
    bodies = [
        (height, proposal_of(Block.parse(raw))) for height, raw in chain.store.uncommitted_bodies().values()
    ]
    committed = CommittedTip(tip.height, tip.block_hash, qc)
    try:
        promises = [decode_record(*record) for record in records] if me is not None else []
        state = restore(config, promises, committed, bodies)
    except PeerFault as fault:
        state = restore(replace(config, me=None, secret=None), (), committed, bodies)
        state.learner = f"its vote log makes no sense ({fault})"
        return vote_log, state
    if doubt:
        state.learner = doubt
    if me is not None and vote_log.state is LogState.EMPTY:
        vote_log.rewrite(encode_record(record) for record in checkpoint(state))
    return vote_log, state


def own_index(params: ChainParams, keys: NodeKeys) -> int | None:
    """Return our place in the validator set, None for a follower.

    Raises ConfigError if only one of the two keys is that of a validator.
    """
    for index, validator in enumerate(params.bft.validators):
        same_vote = validator.vote_key == keys.vote_key
        if same_vote != (validator.identity_key == keys.identity_key):
            raise ConfigError(
                "wrong-keys",
                (f"keys.toml: one of vote and identity key is that of {validator.name}, the other is not",),
            )
        if same_vote:
            return index
    return None


def services_of(chain: ChainState, me: int | None) -> int:
    """Return our service bits. A pruned chain serves its last blocks, once it has enough of them."""
    services = 0 if me is None else SERVICE_VALIDATOR
    if not chain.store.pruned_below:
        return services | SERVICE_BLOCKS
    held = chain.tip.height + 1 - chain.store.pruned_below
    return services | (SERVICE_LIMITED if held >= SYNC_LIMITED_BLOCKS else 0)


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


def reason_not_to_vote(found: LogState, height: int) -> str:
    """Return why a validator must not sign with this vote log; "" if it may.

    Its first start leaves a record, so an empty log on a chain that has grown was lost
    (CONSENSUS.md, section 2.7: learner mode).
    """
    if found is LogState.CORRUPT:
        return "its vote log is damaged, so it may have forgotten what it signed"
    if found is LogState.EMPTY and height > 0:
        return "its vote log is missing, so it may have forgotten what it signed"
    return ""
