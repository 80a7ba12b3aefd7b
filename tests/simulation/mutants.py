"""The protocol with one rule removed: each must be caught, or the simulator is blind.

A mutation patches the engine with ``patch(owner, name, value)``, for the adversarial pool and the timed
cluster; the abstract model has a switch for each rule instead. ``MUTANTS`` says where each is looked for, and
from which seed on a short run finds it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from consensus.bft import certificates, config, election, engine, statements, turn, voting
from consensus.bft.shown import Vote
from consensus.bft.state import Role
from consensus.bft.types import Checked, CommitVote, Grant, LockRecord, Propose, TermRecord, VoteGranted
from tests.simulation.histories import chaos, coups, phase_cuts, twins
from tests.simulation.model import Model

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


def two_votes_per_rank(patch: Patch) -> None:
    """A second proposal at a rank is voted for like the first."""

    def ready(t: Any, m: Propose, ec: Any) -> bool:
        if t.s.val.term >= m.term and t.s.val.rank != m.rank:
            return False
        if voting.is_new(m):
            return t.s.recent.get(ec.high.height) == ec.high.block_hash
        return voting._connected(t, m, ec.high) and m.height <= t.s.committed_height + 2

    patch(voting, "outranks", lambda m, val: m.rank >= val.rank)
    patch(voting, "keep_proposal", lambda s, m: None)
    patch(voting, "_high_ready", ready)


def extends_uncommitted_high(patch: Patch) -> None:
    """The first proposal of a term may extend EC.high although that is not committed."""

    def ready(t: Any, m: Propose, ec: Any) -> bool:
        return t.s.val.term < m.term and voting._connected(t, m, ec.high)

    patch(voting, "_high_ready", ready)


def suffix_unbounded(patch: Patch) -> None:
    """Proposals are voted for however far the committed tip is behind."""
    patch(voting, "MAX_SUFFIX", 1_000)


@contextmanager
def removed(mutate: Callable[[Patch], None]) -> Iterator[None]:
    """Run what is inside on the mutated engine."""
    undo: list[tuple[Any, str, Any]] = []
    missing = object()

    def patch(owner: Any, name: str, value: Any) -> None:
        undo.append((owner, name, vars(owner).get(name, missing)))
        setattr(owner, name, value)

    try:
        mutate(patch)
        yield
    finally:
        for owner, name, value in reversed(undo):
            if value is missing:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def deep(without: str, **bounds: Any) -> Model:
    """The bounds in which walks find most mutants."""
    return Model(without=(without,), **{"terms": 4, "heights": 2, **bounds})


class Mutant(NamedTuple):
    """One rule removed. ``None`` or -1: this layer cannot see it."""

    mutate: Callable[[Patch], None]
    n: int
    """Validators in pool and cluster."""
    model: Callable[[], Model]
    walk: int
    pool: int
    cluster: int
    """First walk, schedule, history of the short run."""
    history: Callable[[int, int], Any] = phase_cuts


MUTANTS: dict[str, Mutant] = {
    "high_not_enforced": Mutant(high_not_enforced, 4, lambda: deep("high"), 220, 60, 70, coups),
    "commit_outside_term": Mutant(commit_outside_term, 4, lambda: deep("commit-term"), 10, 40, 120),
    "lock_not_updated": Mutant(lock_not_updated, 4, lambda: deep("lock"), 80, 0, 0),
    "lock_not_carried": Mutant(lock_not_carried, 4, lambda: deep("carried"), 220, 0, 0),
    "lowest_lock_wins": Mutant(lowest_lock_wins, 4, lambda: deep("highest"), 20, 0, 150),
    "second_first_proposal": Mutant(second_first_proposal, 4, lambda: deep("first"), 2_090, -1, -1),
    "ranks_may_decrease": Mutant(ranks_may_decrease, 4, lambda: deep("increase"), 280, 0, 0),
    "two_votes_per_rank": Mutant(two_votes_per_rank, 4, lambda: deep("once"), 0, 0, 0),
    "lock_forgotten": Mutant(lock_forgotten, 4, lambda: deep("lock-log"), 1_190, 405, 0),
    "amnesia": Mutant(amnesia, 4, lambda: deep("log"), 0, 35, 0),
    "two_f_plus_one": Mutant(two_f_plus_one, 5, lambda: Model(n=5, heights=1, quorum=3), 0, 15, 0, twins),
    "majority_quorum": Mutant(majority_quorum, 7, lambda: Model(n=7, heights=1, quorum=4), 0, 0, 0, twins),
    "checks_ignored": Mutant(checks_ignored, 4, lambda: deep("validity", invalid=True), 0, 0, 35, chaos),
    "extends_uncommitted_high": Mutant(
        extends_uncommitted_high,
        4,
        lambda: Model(terms=3, heights=3, without=("recertify",)),
        180,
        -1,
        15,
        coups,
    ),
    "suffix_unbounded": Mutant(
        suffix_unbounded, 4, lambda: Model(terms=3, heights=3, without=("pipeline",)), 0, -1, -1
    ),
}
"""The first thirteen are those of CONSENSUS.md, section 5.4. In the engine the lock that a vote carries masks
``second_first_proposal``; the pool does not judge how many blocks wait for their commit."""

OF_THE_SPECIFICATION = 13
