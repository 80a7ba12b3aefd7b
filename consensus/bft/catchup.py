"""Commits and what is missing for them: certificates, bodies, segments from block sync.

A commit certificate commits its block and every uncommitted ancestor. Sections 2.6 and 2.14 of
CONSENSUS.md.
"""

from itertools import pairwise
from typing import NamedTuple

from consensus.bft import evidence, starting
from consensus.bft.certificates import members_of
from consensus.bft.limits import MAX_BLOCKS, MAX_FETCHES, MAX_SYNC_BLOCKS
from consensus.bft.state import Known, State, remember
from consensus.bft.terms import enter, note_commit
from consensus.bft.turn import Turn
from consensus.bft.types import (
    QC,
    BlockAvailable,
    Commit,
    Committed,
    Fetch,
    Kind,
    Synced,
)
from consensus.errors import RuleError

# --- blocks above the tip -----------------------------------------------------------------------


def have(s: State, block_hash: bytes) -> bool:
    """Return whether the body of a block is here: the committed tip or an uncommitted block."""
    return block_hash == s.committed_hash or block_hash in s.blocks


def add_block(turn: Turn, block_hash: bytes, known: Known) -> None:
    """Take a block into the table; the oldest that nothing refers to makes room."""
    s = turn.s
    blocks = {**s.blocks, block_hash: known}
    if len(blocks) > MAX_BLOCKS:
        needed = _needed(s)
        spare = next((key for key in blocks if key not in needed and key != block_hash), block_hash)
        del blocks[spare]
    s.blocks = blocks
    turn.stir()


def _needed(s: State) -> tuple[bytes, ...]:
    """Return the hashes that votes, locks and certificates refer to, with their ancestors."""
    roots = [s.lock.block_hash, s.val.block_hash]
    roots += [m.block_hash for m in (s.pending, s.mine) if m is not None]
    roots += [qc.block_hash for qc in (s.pending_commit, s.ec and s.ec.high) if qc is not None]
    needed = []
    for block_hash in roots:
        while block_hash in s.blocks and block_hash not in needed:
            needed.append(block_hash)
            block_hash = s.blocks[block_hash].proposal.parent
    return tuple(needed)


class Trace(NamedTuple):
    """A walk from a block down to the height of the committed tip.

    ``chain`` are the (height, hash) above the tip, ascending, if the walk came through; ``root`` is then
    the ancestor at the tip's height. Otherwise ``gap`` is the (hash, height) of the missing body.
    """

    chain: list[tuple[int, bytes]]
    root: bytes
    gap: tuple[bytes, int] | None


def trace(s: State, block_hash: bytes, height: int) -> Trace:
    """Walk from a block at ``height`` down to the committed height."""
    chain: list[tuple[int, bytes]] = []
    while height > s.committed_height:
        known = s.blocks.get(block_hash)
        if known is None:
            return Trace([], b"", (block_hash, height))
        chain.append((height, block_hash))
        block_hash, height = known.proposal.parent, height - 1
    return Trace(chain[::-1], block_hash, None)


def want(turn: Turn, block_hash: bytes, height: int, candidates: tuple[int, ...]) -> None:
    """Ask for a block and its ancestors, again after three retransmission periods.

    A block under check gets that much time first: its transactions may just be on their way.
    """
    s = turn.s
    if s.fetches.get(block_hash, turn.now) > turn.now:
        return
    under_check = block_hash in s.checking and block_hash not in s.fetches
    fetches = {key: at for key, at in s.fetches.items() if key != block_hash}
    fetches[block_hash] = turn.now + 3 * s.config.timing.tick_ms
    if len(fetches) > MAX_FETCHES:
        del fetches[next(iter(fetches))]
    s.fetches = fetches
    if under_check:
        return
    others = tuple(member for member in candidates if member != s.config.me)
    if others:
        turned = s.ticks % len(others)
        others = others[turned:] + others[:turned]
    turn.act(Fetch(block_hash, s.committed_height + 1, height, others))


def on_block_available(turn: Turn, event: BlockAvailable) -> None:
    """A body that we asked for is here.

    One that the full table does not take stays asked for: whoever is that far behind needs block
    sync, and asking again at once would leave no time for it.
    """
    s = turn.s
    block_hash = event.proposal.block_hash
    if event.height > s.committed_height and block_hash not in s.blocks:
        add_block(turn, block_hash, Known(event.height, event.proposal, checked=False, durable=False))
        if block_hash not in s.blocks:
            return
    s.fetches = {key: at for key, at in s.fetches.items() if key != block_hash}


# --- commits ------------------------------------------------------------------------------------


def on_committed(turn: Turn, sender: int | None, m: Committed) -> None:
    """Somebody shows a commit certificate."""
    if m.qc == turn.s.commit_qc:
        return
    turn.check_qc(m.qc, Kind.COMMIT)
    learn(turn, m.qc)


def learn(turn: Turn, qc: QC) -> None:
    """Take over a commit certificate that was checked."""
    s = turn.s
    if starting.retire_if_signed(turn, qc):
        return
    if qc.term > s.cur_term and s.votes:
        enter(turn, qc.term, qc)
    evidence.judge_commit(turn, qc)
    if qc.height <= s.committed_height:
        if s.recent.get(qc.height, qc.block_hash) != qc.block_hash:
            halt(turn, f"a certificate contradicts the committed block at height {qc.height}")
        return
    pending = s.pending_commit
    if pending is not None and pending.height == qc.height and pending.block_hash != qc.block_hash:
        halt(turn, f"two certificates for different blocks at height {qc.height}")
    elif pending is None or qc.height > pending.height:
        s.pending_commit = qc
        turn.stir()


def settle(turn: Turn) -> None:
    """Commit what the highest known certificate covers, or ask for the first body that is missing."""
    s = turn.s
    qc = s.pending_commit
    if qc is None:
        return
    if qc.height <= s.committed_height:
        s.pending_commit = None
        return
    path = trace(s, qc.block_hash, qc.height)
    if path.gap is not None:
        want(turn, *path.gap, members_of(qc.bitmap))
    elif path.root != s.committed_hash:
        halt(turn, f"a certificate at height {qc.height} does not extend the committed tip")
    else:
        commit(turn, path.chain, qc)


def commit(turn: Turn, chain: list[tuple[int, bytes]], qc: QC) -> None:
    """Commit (height, hash) pairs that extend the tip one by one; ``qc`` certifies the last."""
    s = turn.s
    last = chain[-1][1]
    for height, block_hash in chain:
        known = s.blocks.get(block_hash)
        if known is not None and known.proposal.ends_round:
            if block_hash != last:
                halt(turn, f"a block on top of height {height}, where the round ends, is certified in it")
                return
            s.ended = True
        turn.act(Commit(height, block_hash, qc))
        s.recent = remember(s.recent, height, block_hash)
    s.committed_height, s.committed_hash = chain[-1]
    s.commit_qc = qc
    s.blocks = {key: known for key, known in s.blocks.items() if known.height > s.committed_height}
    s.checking = {key: known for key, known in s.checking.items() if known.height > s.committed_height}
    s.fetches = {}
    if s.pending_commit is not None and s.pending_commit.height <= s.committed_height:
        s.pending_commit = None
    if s.votes:
        note_commit(turn, qc)
    elif s.asking and not s.ended:
        starting.look(turn)
    turn.stir()


def on_synced(turn: Turn, event: Synced) -> None:
    """Commit a segment from block sync: linked to our tip, its last block certified."""
    s = turn.s
    blocks, qc = event.blocks, event.qc
    if not 0 < len(blocks) <= MAX_SYNC_BLOCKS:
        raise RuleError("bad-sync-segment", "empty or too long")
    if blocks[-1][:2] != (qc.height, qc.block_hash):
        raise RuleError("bad-sync-segment", "the certificate is not for the last block")
    turn.check_qc(qc, Kind.COMMIT)
    for (height, block_hash, _), (next_height, _, parent) in pairwise(blocks):
        if (next_height, parent) != (height + 1, block_hash):
            raise RuleError("bad-sync-segment", "not a chain")
    starting.retire_if_signed(turn, qc)
    if qc.term > s.cur_term and s.votes:
        enter(turn, qc.term, qc)
    fresh = [block for block in blocks if block[0] > s.committed_height]
    if not fresh:
        learn(turn, qc)
        return
    if fresh[0][0] != s.committed_height + 1:
        raise RuleError("bad-sync-segment", "does not begin at our tip")
    if fresh[0][2] != s.committed_hash:
        halt(turn, f"a certified segment does not extend the committed tip at {s.committed_height}")
        return
    commit(turn, [(height, block_hash) for height, block_hash, _ in fresh], qc)


def halt(turn: Turn, reason: str) -> None:
    """More than f validators are Byzantine: never sign or commit again."""
    turn.s.halted = reason
