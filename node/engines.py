"""What differs between the engines when a node is put together: drivers, peering, what is restored."""

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from consensus.block import Block
from consensus.chain import Connected
from consensus.transaction import Transaction
from node.admission import Admission
from node.bft_wire import BftPeering
from node.chainstate import ChainState
from node.clock import Clock
from node.driver import BftDriver
from node.evidence import EVIDENCE_NAME, EvidenceBook
from node.keyfile import NodeKeys
from node.mempool import Mempool
from node.peering import Peering
from node.pow_driver import PowDriver, restore_engine
from node.pow_wire import PowPeering
from node.reveals import Reveals
from node.rounds import VOTE_LOG_NAME, Promises, VoteKeys, timing_of
from p2p.limits import SYNC_LIMITED_BLOCKS
from p2p.messages import SERVICE_BLOCKS, SERVICE_LIMITED, SERVICE_VALIDATOR
from p2p.shell import Network

log = logging.getLogger("wattd")


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

    ``bft`` or ``pow`` is the driver, whichever the chain has.
    """

    driver: BftDriver | PowDriver
    peering: Peering
    attach: Callable[[Network, Admission], None]
    bft: BftDriver | None = None
    pow: PowDriver | None = None

    @property
    def me(self) -> int | None:
        """Return the place of this node among the validators of the round, None if it does not vote now."""
        return None if self.bft is None else self.bft.me

    @property
    def is_validator(self) -> bool:
        """Return whether its keys are those of a validator of the round, with or without a vote."""
        return self.bft is not None and self.bft.own is not None


def wire_engine(parts: Parts) -> Engine:
    """Wire the engine that the chain file asks for. Raises LocalFault for keys and files that do not fit."""
    return _wire_bft(parts) if parts.chain.params.pow is None else _wire_pow(parts)


def _wire_bft(parts: Parts) -> Engine:
    chain = parts.chain
    identities = [member.identity_key for member in chain.round.members]
    peering = BftPeering(chain, parts.mempool, parts.clock, identities)
    path, timing = parts.datadir / VOTE_LOG_NAME, timing_of(chain.params.bft)
    promises = Promises.open(path, chain, VoteKeys.of(parts.keys), timing)
    parts.resources.callback(promises.close)
    driver = BftDriver(
        promises,
        chain=chain,
        mempool=parts.mempool,
        find_tx=parts.find_tx,
        clock=parts.clock,
        reveals=Reveals(parts.keys.vote, chain.chain_id),
        evidence=EvidenceBook(parts.datadir / EVIDENCE_NAME),
        links=peering,
        listener=parts.listener,
    )

    def attach(network: Network, admission: Admission) -> None:
        peering.attach(network, driver, admission)

    return Engine(driver, peering, attach, bft=driver)


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


def services_of(chain: ChainState, me: int | None) -> int:
    """Return our service bits. A pruned chain serves its last blocks, once it has enough of them."""
    services = 0 if me is None else SERVICE_VALIDATOR
    if not chain.store.pruned_below:
        return services | SERVICE_BLOCKS
    held = chain.tip.height + 1 - chain.store.pruned_below
    return services | (SERVICE_LIMITED if held >= SYNC_LIMITED_BLOCKS else 0)
