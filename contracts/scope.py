"""What operations and timers work on."""

from dataclasses import dataclass

from consensus.errors import RuleError
from consensus.params import ChainParams
from consensus.ports import BlockContext
from contracts import keys
from contracts.bank import Bank
from contracts.records import ReadableState, unpack
from contracts.state import SessionState

GRID_OPERATOR = "grid-operator"
SERVICE_PROVIDER = "service-provider"


@dataclass(frozen=True, slots=True)
class Scope:
    """One block's view: parameters, block, state and the bank over it."""

    params: ChainParams
    context: BlockContext
    state: SessionState
    bank: Bank


@dataclass(frozen=True, slots=True)
class Call:
    """Who runs an operation, and where: ``object_id`` names what it creates, ``value`` is brought along."""

    account: bytes
    object_id: bytes
    txid: bytes
    value: int


def organisation_role(state: ReadableState, script: bytes) -> str | None:
    """Return the role of an organisation of the chain, None for any other script."""
    value = state.get(keys.ORGANISATION + script)
    return None if value is None else str(unpack(value)[1])


def require_provider(state: ReadableState, script: bytes) -> None:
    """Raise RuleError ``unknown-provider`` unless ``script`` is a service provider's."""
    if organisation_role(state, script) != SERVICE_PROVIDER:
        raise RuleError(
            "unknown-provider", "the provider is no service provider of this chain", permanent=False
        )


def grid_operator(state: ReadableState, community: str) -> bytes:
    """Return the account of a community's grid operator. Raises RuleError ``unknown-community``."""
    value = state.get(keys.COMMUNITY + community.encode())
    if value is None:
        raise RuleError("unknown-community", f"{community!r} is no community of this chain")
    return bytes(unpack(value)[0])


def require_operator(state: ReadableState, community: str, account: bytes) -> None:
    """Raise RuleError ``not-grid-operator`` unless ``account`` operates the grid of ``community``."""
    if grid_operator(state, community) != account:
        raise RuleError("not-grid-operator", f"only the grid operator of {community!r} may do this")
