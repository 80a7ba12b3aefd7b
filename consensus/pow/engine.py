"""The engine: ``step(state, event, now_s) -> (state, effects)``, pure.

The chain of most work is followed, and of equals the one that could be connected first. A step takes
the event in, then moves on as far as it can without an answer from the shell. Headers from others
never raise: one that breaks a rule changes nothing and leaves as ``Misbehaviour``.
"""

from collections.abc import Callable
from typing import Any

from consensus.block import BlockHeader
from consensus.errors import RuleError
from consensus.pow.limits import (
    FETCH_RETRY_S,
    FETCH_WINDOW,
    HEADERS_RETRY_S,
    INVALID_LEAD_BLOCKS,
    MAX_AHEAD,
    MAX_FETCHING,
    MAX_HEADERS,
    MAX_LOCKED,
    MAX_ORPHANS,
    MAX_ORPHANS_PER_SENDER,
    MAX_TREE,
    MEDIAN_SPAN,
    PRUNE_STEP,
    RECALL_HOLD_S,
    STALE_INTERVALS,
)
from consensus.pow.rules import check_bits, check_time
from consensus.pow.state import Config, Held, State, begin, config_of, restore
from consensus.pow.target import check_proof, work_of
from consensus.pow.tree import ChainTipView, Entry, entry_of
from consensus.pow.types import (
    AskHeaders,
    BodyRefused,
    BodyStored,
    Connect,
    Connected,
    DeepReorg,
    Disconnect,
    Effect,
    Effects,
    Event,
    FetchBodies,
    ForgetInvalid,
    Headers,
    Invalidate,
    InvalidLead,
    Misbehaviour,
    Precious,
    Recall,
    Recalled,
    Reconsider,
    Refused,
    StaleTip,
    Start,
    StoreHeader,
    StoreInvalid,
    Tick,
)

__all__ = ["Config", "State", "begin", "chain_tips", "config_of", "locator", "restore", "step", "wants_body"]


class Turn:
    """One step under way: the state that becomes, and effects in the order save, send, apply."""

    __slots__ = ("apply", "now", "s", "save", "send")

    def __init__(self, state: State, now_s: int) -> None:
        self.s = state.fork()
        self.now = now_s
        self.save: list[Effect] = []
        self.send: list[Effect] = []
        self.apply: list[Effect] = []


def step(state: State, event: Event, now_s: int) -> tuple[State, Effects]:
    """Return the next state and what to do, in order. ``now_s`` is the node's clock, which may be set back.

    ``state`` itself is left as it was. Raises RuleError "unknown-block" or "bad-genesis-mark" for an
    operator's command that cannot be carried out.
    """
    turn = Turn(state, now_s)
    _HANDLERS[type(event)](turn, event)
    if turn.s.started:
        _release_locked(turn)
        _advance(turn)
        _prune(turn)
        _fetch(turn)
        _go_on_asking(turn)
    if not turn.s.orphans:
        turn.s.gap_at_s = None
    return turn.s, (*turn.save, *turn.send, *turn.apply)


def chain_tips(state: State) -> list[ChainTipView]:
    """Return what ``getchaintips`` shows."""
    return state.tree.tips()


def wants_body(state: State, block_hash: bytes) -> bool:
    """Tell whether a body would be of use: asked for or not, its header is known and may win."""
    tree = state.tree
    entry = tree.entries.get(block_hash)
    if entry is None or block_hash in tree.bodies or block_hash in tree.invalid:
        return False
    if block_hash in state.fetching:
        return True
    return entry.work >= tree.tip.work and entry.height <= tree.tip.height + FETCH_WINDOW


def locator(state: State) -> tuple[bytes, ...]:
    """Return hashes of the best header's chain, ten in a row and then ever sparser, the root last."""
    tree = state.tree
    hashes = []
    distance, wanted = 1, tree.best.height
    entry = tree.best
    while True:
        if entry.height <= wanted:
            hashes.append(entry.block_hash)
            if len(hashes) >= 10:
                distance *= 2
            wanted = entry.height - distance
        if entry.height == tree.root_height:
            return tuple(hashes if hashes[-1] == entry.block_hash else [*hashes, entry.block_hash])
        entry = tree.entries[entry.prev]


# --- headers ------------------------------------------------------------------------------------


def _on_start(turn: Turn, event: Start) -> None:
    turn.s.started = True
    turn.s.tip_at_s = turn.now
    turn.send.append(AskHeaders(None, locator(turn.s)))


def _on_headers(turn: Turn, event: Headers) -> None:
    if len(event.headers) > MAX_HEADERS:
        turn.send.append(Misbehaviour(event.sender, "too-many-headers"))
        return
    waiting = 0
    for header in event.headers:
        try:
            if not _accept(turn, header, event.sender):
                return
        except RuleError as error:
            turn.send.append(Misbehaviour(event.sender, error.code))
            return
        waiting += header.hash not in turn.s.tree.entries
        if waiting >= MAX_ORPHANS_PER_SENDER:
            return  # more would push out the first of them, without which the others are of no use
    if len(event.headers) == MAX_HEADERS:
        turn.send.append(AskHeaders(event.sender, (event.headers[-1].hash,)))


def _accept(turn: Turn, header: BlockHeader, sender: int | None) -> bool:
    """Take a header, and what waited for it, into the tree; False if what follows it must be left out.

    Raises RuleError.
    """
    goes_on = _take(turn, header, sender)
    _adopt(turn, header.hash)
    return goes_on


def _take(turn: Turn, header: BlockHeader, sender: int | None) -> bool:
    s = turn.s
    tree = s.tree
    block_hash = header.hash
    if block_hash in tree.entries:
        if block_hash in tree.invalid:
            raise RuleError("duplicate-invalid")
        return True
    check_proof(header, s.config.max_target)
    parent = tree.entries.get(header.prev_hash)
    if header.prev_hash in s.locked:
        _hold_orphan(turn, header, sender)
        return True
    if parent is None or tree.root_height > parent.height - MEDIAN_SPAN + 1 > 0:
        _on_orphan(turn, header, sender)
        return True
    _check_in_tree(turn, header, parent)
    if header.time_s > turn.now + s.config.future_limit_s:
        _lock(turn, header, sender)
        return True
    if parent.height >= tree.tip.height + MAX_AHEAD:
        s.paused = True
        return False
    if len(tree.entries) >= MAX_TREE:
        tree.thin(MAX_TREE // 2)
        if parent.block_hash not in tree.entries or len(tree.entries) >= MAX_TREE:
            return False
    entry = entry_of(header, parent.height + 1, parent.work + work_of(header.bits))
    tree.insert(entry)
    turn.save.append(StoreHeader(header, entry.height, entry.work))
    return True


def _check_in_tree(turn: Turn, header: BlockHeader, parent: Entry) -> None:
    tree, config = turn.s.tree, turn.s.config
    height = parent.height + 1
    if parent.block_hash in tree.invalid:
        raise RuleError("bad-prevblk", "its parent is invalid")
    check_bits(header, config.expected_bits(parent.height, parent.time_s))
    check_time(header, tree.median_time(parent))
    if config.checkpoints.get(height, header.hash) != header.hash:
        raise RuleError("checkpoint-mismatch", f"another block is fixed at height {height}")
    for fixed, block_hash in config.checkpoints.items():
        if height <= fixed and block_hash in tree.entries:
            raise RuleError("bad-fork-prior-to-checkpoint", f"height {fixed} is fixed")


def _on_orphan(turn: Turn, header: BlockHeader, sender: int | None) -> None:
    """The parent is not in the tree, or so near the root that the header cannot be judged."""
    s = turn.s
    waits_alone = header.prev_hash not in s.orphans and all(
        header.prev_hash != held.header.hash for group in s.orphans.values() for held in group
    )
    if _hold_orphan(turn, header, sender) and waits_alone:
        turn.send.append(AskHeaders(sender, locator(s)))
        if s.tree.root_height > 0:
            turn.send.append(Recall(header.prev_hash, s.tree.root_height))
    if s.gap_at_s is None or turn.now < s.gap_at_s:
        s.gap_at_s = turn.now
    elif turn.now - s.gap_at_s >= HEADERS_RETRY_S:  # the answer was lost, or there was none
        s.gap_at_s = turn.now
        turn.send.append(AskHeaders(None, locator(s)))


def _hold_orphan(turn: Turn, header: BlockHeader, sender: int | None) -> bool:
    """Keep a header until its parent comes; the oldest make room. False if it is there already."""
    orphans = dict(turn.s.orphans)
    if any(held.header == header for held in orphans.get(header.prev_hash, ())):
        return False
    everybody = [(prev, held) for prev, group in orphans.items() for held in group]
    own = [pair for pair in everybody if pair[1].sender == sender]
    if len(own) >= MAX_ORPHANS_PER_SENDER:
        everybody = own
    if len(everybody) >= (MAX_ORPHANS_PER_SENDER if everybody is own else MAX_ORPHANS):
        prev, oldest = everybody[0]
        orphans[prev] = tuple(held for held in orphans[prev] if held is not oldest)
        if not orphans[prev]:
            del orphans[prev]
    orphans[header.prev_hash] = (*orphans.get(header.prev_hash, ()), Held(header, sender))
    turn.s.orphans = orphans
    return True


def _adopt(turn: Turn, *block_hashes: bytes) -> None:
    """Take in what waited for these headers, what waited for that, and so on."""
    waiting = [h for h in block_hashes if h in turn.s.orphans and h in turn.s.tree.entries]
    while waiting:
        parent = waiting.pop()
        orphans = dict(turn.s.orphans)
        group = orphans.pop(parent)
        turn.s.orphans = orphans
        for held in group:
            try:
                _take(turn, held.header, held.sender)
            except RuleError as error:
                turn.send.append(Misbehaviour(held.sender, error.code))
            else:
                if held.header.hash in turn.s.tree.entries and held.header.hash in turn.s.orphans:
                    waiting.append(held.header.hash)


def _lock(turn: Turn, header: BlockHeader, sender: int | None) -> None:
    """Keep back a header of the future. It is not invalid: our clock may be wrong."""
    locked = {**turn.s.locked, header.hash: Held(header, sender)}
    if len(locked) > MAX_LOCKED:
        del locked[max(locked, key=lambda h: locked[h].header.time_s)]
    turn.s.locked = locked


def _release_locked(turn: Turn) -> None:
    limit = turn.now + turn.s.config.future_limit_s
    due = [h for h, held in turn.s.locked.items() if held.header.time_s <= limit]
    for block_hash in sorted(due, key=lambda h: turn.s.locked[h].header.time_s):
        held = turn.s.locked[block_hash]
        turn.s.locked = {h: other for h, other in turn.s.locked.items() if h != block_hash}
        try:
            _accept(turn, held.header, held.sender)
        except RuleError as error:
            turn.send.append(Misbehaviour(held.sender, error.code))


def _on_recalled(turn: Turn, event: Recalled) -> None:
    """Let the tree reach further down, so that a branch from there can be judged."""
    tree = turn.s.tree
    if not event.headers or len(tree.entries) + len(event.headers) > MAX_TREE:
        return
    tree.prepend(reversed(event.headers))
    turn.s.hold_until_s = turn.now + RECALL_HOLD_S
    found = [parent for parent in turn.s.orphans if parent in tree.entries]
    senders = dict.fromkeys([held.sender for parent in found for held in turn.s.orphans[parent]])
    _adopt(turn, *found)
    for sender in senders:  # what followed and had no room
        turn.send.append(AskHeaders(sender, locator(turn.s)))


# --- bodies and answers -------------------------------------------------------------------------


def _on_body_stored(turn: Turn, event: BodyStored) -> None:
    tree = turn.s.tree
    turn.s.fetching = {h: at for h, at in turn.s.fetching.items() if h != event.block_hash}
    if event.block_hash in tree.entries and event.block_hash not in tree.bodies:
        tree.add_body(event.block_hash)


def _on_body_refused(turn: Turn, event: BodyRefused) -> None:
    tree = turn.s.tree
    turn.s.fetching = {h: at for h, at in turn.s.fetching.items() if h != event.block_hash}
    if event.block_hash not in tree.entries or event.block_hash in tree.validated:
        return
    if event.permanent:
        _mark(turn, event.block_hash, event.code)
    elif event.block_hash in tree.bodies and event.block_hash != turn.s.connecting:
        tree.drop_body(event.block_hash)


def _on_connected(turn: Turn, event: Connected) -> None:
    s = turn.s
    if event.block_hash != s.connecting:
        return
    s.connecting = None
    s.tree.push(event.block_hash)
    if event.block_hash in s.tree.invalid:  # marked by the operator meanwhile
        s.tree.reassess()
    s.tip_at_s = turn.now
    s.stale_told = False


def _on_refused(turn: Turn, event: Refused) -> None:
    if event.block_hash == turn.s.connecting:
        turn.s.connecting = None
        _mark(turn, event.block_hash, event.code)


def _mark(turn: Turn, block_hash: bytes, code: str) -> None:
    tree = turn.s.tree
    best = tree.best
    tree.mark_invalid(block_hash, code)
    turn.save.append(StoreInvalid(block_hash, code))
    lead = best.work - tree.tip.work
    if best.block_hash in tree.invalid and lead > INVALID_LEAD_BLOCKS * work_of(tree.tip.bits):
        turn.apply.append(InvalidLead(block_hash, code))


def _on_tick(turn: Turn, event: Tick) -> None:
    s = turn.s
    s.fetching = {h: at for h, at in s.fetching.items() if 0 <= turn.now - at < FETCH_RETRY_S}
    if s.tip_at_s is None or s.stale_told:
        return
    age_s = turn.now - s.tip_at_s
    if age_s >= STALE_INTERVALS * s.config.spacing_s:
        s.stale_told = True
        turn.send.append(AskHeaders(None, locator(s)))
        turn.apply.append(StaleTip(age_s))


# --- the operator -------------------------------------------------------------------------------


def _known(turn: Turn, block_hash: bytes) -> Entry:
    entry = turn.s.tree.entries.get(block_hash)
    if entry is None:
        raise RuleError("unknown-block", "no such block, or it is too deep", permanent=False)
    return entry


def _on_invalidate(turn: Turn, event: Invalidate) -> None:
    entry = _known(turn, event.block_hash)
    if entry.height == turn.s.tree.root_height:
        raise RuleError("bad-genesis-mark", "nothing would be left")
    if event.block_hash not in turn.s.tree.faults:
        _mark(turn, event.block_hash, "invalidated")


def _on_reconsider(turn: Turn, event: Reconsider) -> None:
    _known(turn, event.block_hash)
    for cleared in turn.s.tree.clear_invalid(event.block_hash):
        turn.save.append(ForgetInvalid(cleared))


def _on_precious(turn: Turn, event: Precious) -> None:
    _known(turn, event.block_hash)
    turn.s.tree.prefer(event.block_hash)


# --- moving on ----------------------------------------------------------------------------------


def _advance(turn: Turn) -> None:
    """Go towards the best candidate: take off what is not under it, then connect, one block at a time."""
    s = turn.s
    tree = s.tree
    if s.connecting is not None:
        return
    goal = tree.best_candidate()
    above = tree.next_above_tip(goal)
    if above is not None:
        s.connecting = above.block_hash
        turn.apply.append(Connect(s.connecting))
        return
    fork, path = tree.branch(goal)
    old_tip = tree.tip
    depth = old_tip.height - fork.height
    if depth > s.config.reorg_warn_depth:
        turn.apply.append(DeepReorg(depth, fork.block_hash, old_tip.block_hash, goal.block_hash))
    for _ in range(depth):
        turn.apply.append(Disconnect(tree.pop()))
    if path:
        s.connecting = path[0].block_hash
        turn.apply.append(Connect(s.connecting))


def _prune(turn: Turn) -> None:
    tree = turn.s.tree
    keep = turn.s.config.keep_depth
    if tree.tip.height - tree.root_height < keep + PRUNE_STEP or turn.now < turn.s.hold_until_s:
        return
    fork = tree.branch(tree.best)[0]
    lowest = min(tree.tip.height - keep, fork.height - MEDIAN_SPAN)
    if lowest > tree.root_height:
        tree.prune(lowest)


def _fetch(turn: Turn) -> None:
    """Ask for the bodies of the best header's chain that come next, and of no other."""
    s = turn.s
    tree = s.tree
    room = MAX_FETCHING - len(s.fetching)
    if room < MAX_FETCHING // 2 or tree.best_header in tree.order:
        return  # the walk below is long while headers are far ahead, so it is done for many bodies at once
    path = tree.branch(tree.best)[1]
    # From the first that is missing, not from the fork: a longer rival is no candidate before it is whole.
    first = next((at for at, entry in enumerate(path) if entry.block_hash not in tree.bodies), 0)
    missing = [
        entry.block_hash
        for entry in path[first : first + FETCH_WINDOW]
        if entry.block_hash not in tree.bodies and entry.block_hash not in s.fetching
    ][:room]
    if missing:
        s.fetching = {**s.fetching, **dict.fromkeys(missing, turn.now)}
        turn.send.append(FetchBodies(tuple(missing)))


def _go_on_asking(turn: Turn) -> None:
    """Headers were left out for being too far ahead: go on once half of the way is done."""
    s = turn.s
    if s.paused and s.tree.best.height - s.tree.tip.height <= MAX_AHEAD // 2:
        s.paused = False
        turn.send.append(AskHeaders(None, locator(s)))


_HANDLERS: dict[type[Any], Callable[[Turn, Any], None]] = {
    Start: _on_start,
    Headers: _on_headers,
    BodyStored: _on_body_stored,
    BodyRefused: _on_body_refused,
    Connected: _on_connected,
    Refused: _on_refused,
    Recalled: _on_recalled,
    Tick: _on_tick,
    Invalidate: _on_invalidate,
    Reconsider: _on_reconsider,
    Precious: _on_precious,
}
