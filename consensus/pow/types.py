"""Events and effects of the proof-of-work engine, all immutable. Hashes are 32 bytes, internal order."""

from dataclasses import dataclass, field
from typing import TypeAlias

from consensus.block import BlockHeader

# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """The shell is ready to perform effects."""


@dataclass(frozen=True, slots=True)
class Headers:
    """Headers in chain order. ``sender`` names a peer in the shell's terms, None for our own miner."""

    sender: int | None
    headers: tuple[BlockHeader, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class BodyStored:
    """The body of this header passed ``check_block`` and is on disk."""

    block_hash: bytes


@dataclass(frozen=True, slots=True)
class BodyRefused:
    """A body failed ``check_block``. Not ``permanent``: it was not the header's, another may be."""

    block_hash: bytes
    code: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Connected:
    """Answer to Connect: the block is on the chain, and that is on disk."""

    block_hash: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer to Connect: ``connect_block`` raised this code. The header binds all that it judged."""

    block_hash: bytes
    code: str


@dataclass(frozen=True, slots=True)
class Recalled:
    """Answer to Recall: headers of the active chain, ascending, the last one just below the tree's root."""

    headers: tuple[BlockHeader, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; about once a second."""


@dataclass(frozen=True, slots=True)
class Invalidate:
    """The operator's ``invalidateblock``."""

    block_hash: bytes


@dataclass(frozen=True, slots=True)
class Reconsider:
    """The operator's ``reconsiderblock``: takes marks off the block, its ancestors and descendants."""

    block_hash: bytes


@dataclass(frozen=True, slots=True)
class Precious:
    """The operator's ``preciousblock``: as if it had been seen first."""

    block_hash: bytes


Event: TypeAlias = (
    Start
    | Headers
    | BodyStored
    | BodyRefused
    | Connected
    | Refused
    | Recalled
    | Tick
    | Invalidate
    | Reconsider
    | Precious
)


# --- effects: save ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoreHeader:
    """Put an accepted header into the header index. ``work`` is cumulative from genesis."""

    header: BlockHeader
    height: int
    work: int


@dataclass(frozen=True, slots=True)
class StoreInvalid:
    """Remember that this block, and with it all that builds on it, is invalid."""

    block_hash: bytes
    code: str


@dataclass(frozen=True, slots=True)
class ForgetInvalid:
    """Take the mark of StoreInvalid off again."""

    block_hash: bytes


# --- effects: send ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskHeaders:
    """Ask ``peer`` (None: whom the shell likes) for headers behind the first known of ``locator``."""

    peer: int | None
    locator: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class FetchBodies:
    """Fetch these bodies, lowest first. Asked again after FETCH_RETRY_S."""

    block_hashes: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Recall:
    """If ``block_hash`` is on the stored active chain, answer with Recalled: the headers from eleven below
    it up to ``root_height`` - 1. A branch leaves the chain there."""

    block_hash: bytes
    root_height: int


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """The sender broke a rule."""

    sender: int | None
    code: str


# --- effects: apply -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Take the tip off by its undo record. There is no answer: failing is a local fault."""

    block_hash: bytes


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect the stored block to the tip; answer Connected or Refused. One at a time."""

    block_hash: bytes


# --- effects: tell ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeepReorg:
    """A reorganisation takes off ``depth`` blocks, more than the chain's ``reorg_warn_depth``."""

    depth: int
    fork: bytes
    old_tip: bytes
    new_tip: bytes


@dataclass(frozen=True, slots=True)
class StaleTip:
    """No block for ``age_s``: peers are cut off, or miners are."""

    age_s: int


@dataclass(frozen=True, slots=True)
class InvalidLead:
    """A branch that we hold invalid has much more work than our tip: one of us errs."""

    block_hash: bytes
    code: str


Effect: TypeAlias = (
    StoreHeader
    | StoreInvalid
    | ForgetInvalid
    | AskHeaders
    | FetchBodies
    | Recall
    | Misbehaviour
    | Disconnect
    | Connect
    | DeepReorg
    | StaleTip
    | InvalidLead
)
Effects: TypeAlias = tuple[Effect, ...]
