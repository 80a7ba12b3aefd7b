"""The engine with one rule removed, by patching: each must be caught, or the simulator is blind.

Every mutant takes a ``patch(module, name, value)``.
"""

from collections.abc import Callable
from typing import Any

from consensus.bft import certificates, config, election, engine, statements, turn, voting
from consensus.bft.state import Role
from consensus.bft.types import Checked, CommitVote, Grant, LockRecord, Propose, TermRecord, Vote, VoteGranted

Patch = Callable[[Any, str, Any], None]


def _commit_vote(t: Any, qc: Any) -> CommitVote | None:
    """commit_vote without its conditions on term and lock."""
    s = t.s
    sig = t.sign_block(Vote.COMMIT, qc.term, qc.height, qc.block_hash)
    vote = CommitVote(qc.term, qc.height, qc.block_hash, t.me, sig)
    if s.role is Role.LEADER:
        if qc == s.committing and t.me not in s.commits:
            t.sync()
            s.commits = {**s.commits, t.me: sig}
            t.stir()
        return None
    s.held = vote
    return vote


def high_not_enforced(patch: Patch) -> None:
    patch(voting, "follows_high", lambda m, high: True)
    patch(voting, "_high_ready", lambda t, m, ec: t.s.val.term < m.term and voting._connected(t, m, ec.high))


def commit_outside_term(patch: Patch) -> None:
    patch(voting, "commit_vote", _commit_vote)


def lock_not_updated(patch: Patch) -> None:
    patch(voting, "bump_lock", lambda t, qc: None)
    patch(voting, "commit_vote", lambda t, qc: _commit_vote(t, qc) if qc.term == t.s.cur_term else None)


def lock_not_carried(patch: Patch) -> None:
    def grant(t: Any, cand: int) -> Grant:
        s, base = t.s, t.electorate.base
        s.voted_for = cand
        t.persist(TermRecord(s.cur_term, cand, s.proof))
        t.sync()
        digest = statements.grant(t.electorate, s.cur_term, cand, 0, 0, base.block_hash)
        return Grant(t.me, 0, 0, base.block_hash, t.sign(digest))

    def send(t: Any, cand: int) -> None:
        t.send(cand, VoteGranted(t.s.cur_term, cand, t.me, t.electorate.base, grant(t, cand).sig))

    patch(election, "_grant", grant)
    patch(election, "_send_grant", send)


def lowest_lock_wins(patch: Patch) -> None:
    """Leaders take, and followers accept, the lowest lock of an EC."""
    patch(election, "max", min)
    patch(certificates, "max", min)


def second_first_proposal(patch: Patch) -> None:
    def ready(t: Any, m: Propose, ec: Any) -> bool:
        if voting.is_new(m):
            return t.s.recent.get(ec.high.height) == ec.high.block_hash
        return voting._connected(t, m, ec.high) and m.height <= t.s.committed_height + 2

    patch(voting, "_high_ready", ready)


def ranks_may_decrease(patch: Patch) -> None:
    patch(voting, "outranks", lambda m, val: m.rank != val.rank)
    second_first_proposal(patch)


def lock_forgotten(patch: Patch) -> None:
    """LOCK records never reach the disk."""
    original = turn.Turn.persist
    patch(turn.Turn, "persist", lambda t, r: None if isinstance(r, LockRecord) else original(t, r))


def amnesia(patch: Patch) -> None:
    """Votes leave before their records are synced."""
    patch(turn.Turn, "sync", lambda t: None)


def majority_quorum(patch: Patch) -> None:
    patch(config, "quorum", lambda n: n // 2 + 1)


def two_f_plus_one(patch: Patch) -> None:
    """Unsafe where n is not 3f + 1."""
    patch(config, "quorum", lambda n: 2 * ((n - 1) // 3) + 1)


def checks_ignored(patch: Patch) -> None:
    """Invalid blocks are voted for."""
    original = voting.on_checked

    def on_checked(t: Any, event: Checked) -> None:
        original(t, Checked(event.block_hash, True))

    patch(engine, "_HANDLERS", {**engine._HANDLERS, Checked: on_checked})


MUTANTS: dict[str, tuple[Callable[[Patch], None], int, int]] = {
    # name: (mutation, validators, seed from which on the pool is tried)
    "high_not_enforced": (high_not_enforced, 4, 340),
    "commit_outside_term": (commit_outside_term, 4, 50),
    "lock_not_updated": (lock_not_updated, 4, 70),
    "lock_not_carried": (lock_not_carried, 4, 70),
    "lowest_lock_wins": (lowest_lock_wins, 4, 60),
    "ranks_may_decrease": (ranks_may_decrease, 4, 0),
    "lock_forgotten": (lock_forgotten, 4, 390),
    "amnesia": (amnesia, 4, 60),
    "majority_quorum": (majority_quorum, 7, 0),
    "two_f_plus_one": (two_f_plus_one, 5, 10),
    "checks_ignored": (checks_ignored, 4, 0),
}
"""``second_first_proposal`` alone is not among them: the lock that a vote carries masks it."""
