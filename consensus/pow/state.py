"""The state of one proof-of-work engine: the tree, and what is under way."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from consensus.block import BlockHeader
from consensus.errors import ConfigError
from consensus.params import ChainParams
from consensus.pow.limits import KEEP_DEPTH, MEDIAN_SPAN
from consensus.pow.rules import expected_bits, pow_of
from consensus.pow.target import target_of, work_of
from consensus.pow.tree import Tree, entry_of


@dataclass(frozen=True, slots=True)
class Config:
    """What an engine is given: the chain, and its checkpoints as height to block hash."""

    params: ChainParams
    max_target: int
    future_limit_s: int
    spacing_s: int
    reorg_warn_depth: int
    checkpoints: Mapping[int, bytes] = field(repr=False)
    keep_depth: int = KEEP_DEPTH

    def expected_bits(self, height: int, time_s: int) -> int:
        """Return nBits of the block after one of this height and time."""
        return expected_bits(self.params, height, time_s)


def config_of(params: ChainParams, *, keep_depth: int = KEEP_DEPTH) -> Config:
    """Return the configuration of a chain's engine. Raises ConfigError for a chain without proof of work."""
    rules = pow_of(params)
    most = target_of(rules.max_target)
    if most is None:
        raise ConfigError("bad-chain-file", ("pow.max_target: no target",))
    return Config(
        params=params,
        max_target=most,
        future_limit_s=rules.future_limit_s,
        spacing_s=rules.spacing_s,
        reorg_warn_depth=rules.reorg_warn_depth,
        checkpoints={checkpoint.height: checkpoint.block_hash for checkpoint in rules.checkpoints},
        keep_depth=keep_depth,
    )


class Held(NamedTuple):
    """A header that waits for its parent or its time."""

    header: BlockHeader
    sender: int | None


class State:
    """A value: a step works on a fork and replaces collections instead of changing them."""

    __slots__ = (
        "config",
        "connecting",
        "fetching",
        "gap_at_s",
        "hold_until_s",
        "locked",
        "orphans",
        "paused",
        "stale_told",
        "started",
        "tip_at_s",
        "tree",
    )

    def __init__(self, config: Config, tree: Tree) -> None:
        self.config = config
        self.tree = tree
        self.started = False
        self.connecting: bytes | None = None
        """The block of a Connect that was not answered yet."""
        self.fetching: Mapping[bytes, int] = {}
        """Bodies asked for, and when."""
        self.orphans: Mapping[bytes, tuple[Held, ...]] = {}
        """Headers by the parent that is missing."""
        self.gap_at_s: int | None = None
        """Since when headers lack a parent, or when everybody was last asked about it."""
        self.locked: Mapping[bytes, Held] = {}
        """Headers by hash whose time is too far in the future."""
        self.paused = False
        """Headers were left out because they are too far ahead."""
        self.hold_until_s = 0
        """The tree is not cut before."""
        self.tip_at_s: int | None = None
        self.stale_told = False

    def fork(self) -> "State":
        """Return a state that may be changed without changing this one."""
        other = State.__new__(State)
        for name in State.__slots__:
            setattr(other, name, getattr(self, name))
        other.tree = self.tree.fork()
        return other


class StoredHeader(NamedTuple):
    """A header from the store. ``has_body``: checked and on disk. ``fault``: code of StoreInvalid."""

    header: BlockHeader
    has_body: bool
    fault: str | None = None


def root_height_of(config: Config, tip_height: int, block_at: Callable[[int], bytes | None]) -> int:
    """Return the height at which the tree of a restart has to begin.

    It is ``keep_depth`` below the tip. Where a checkpoint new in the chain file contradicts the active
    chain further down, it is below that, so that the engine sees it and leaves the chain. ``block_at`` gives
    hashes of the active chain by height.
    """
    contradicted = [
        height
        for height, block_hash in config.checkpoints.items()
        if height <= tip_height and block_at(height) != block_hash
    ]
    lowest = min([tip_height - config.keep_depth, *[height - MEDIAN_SPAN for height in contradicted]])
    return max(0, lowest)


def restore(
    config: Config,
    root: BlockHeader,
    root_height: int,
    root_work: int,
    headers: Iterable[StoredHeader],
    tip_hash: bytes,
) -> State:
    """Return the state after a restart.

    ``root`` is a block of the active chain, genesis or at least ``keep_depth`` below the tip; ``headers``
    are those above it, parents before children, ``tip_hash`` is the connected tip among them. Headers without
    parent here are passed over. Whatever contradicts a checkpoint is marked invalid, so that the first
    step leaves it. Raises ConfigError if the tip is not among the headers.
    """
    tree = Tree(entry_of(root, root_height, root_work))
    marks = []
    bodies = []
    for stored in headers:
        parent = tree.entries.get(stored.header.prev_hash)
        if parent is None or stored.header.hash in tree.entries:
            continue
        entry = entry_of(stored.header, parent.height + 1, parent.work + work_of(stored.header.bits))
        tree.insert(entry)
        if stored.has_body:
            bodies.append(entry.block_hash)
        checkpoint = config.checkpoints.get(entry.height)
        if stored.fault is not None:
            marks.append((entry.block_hash, stored.fault))
        elif checkpoint is not None and checkpoint != entry.block_hash:
            marks.append((entry.block_hash, "checkpoint-mismatch"))
    if tip_hash not in tree.entries:
        raise ConfigError("bad-header-index", ("the connected tip is not in the header index",))
    path = []
    entry = tree.entries[tip_hash]
    while entry.block_hash != root.hash:
        path.append(entry.block_hash)
        entry = tree.entries[entry.prev]
    for block_hash in reversed(path):  # what is connected came first
        tree.add_body(block_hash)
        tree.push(block_hash)
    for block_hash in bodies:
        if block_hash not in tree.bodies:
            tree.add_body(block_hash)
    for block_hash, code in marks:
        tree.mark_invalid(block_hash, code)
    return State(config, tree)


def begin(config: Config, genesis: BlockHeader) -> State:
    """Return the state of an empty node, whose tip is genesis."""
    return restore(config, genesis, 0, work_of(genesis.bits), (), genesis.hash)
