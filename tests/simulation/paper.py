"""Algorithms 1 and 2 of the keyless-signature paper, taken at their word, and algorithm 3 beside them.

Kept as a demonstration of why the engine is not built from them: ``test_bft_paper.py`` shows each failure
that section 1 of CONSENSUS.md names, and that the engine does not have it. Where the paper is silent a node
does what Raft does: one vote per tenure, a higher tenure is adopted, a leader announces itself.

There is no time: the test decides which timer fires and which message arrives.
"""

from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Any, NamedTuple


class Role(Enum):
    FOLLOWER = "Follower"
    CANDIDATE = "Candidate"
    LEADER = "Leader"


class Block(NamedTuple):
    """What is checked of a block by line 7 of algorithm 2 is assumed to hold: all are well formed."""

    previous: str
    name: str


class VoteRequest(NamedTuple):
    tenure: int


class Vote(NamedTuple):
    tenure: int


class LeaderConfirmed(NamedTuple):
    """Line 16 of algorithm 1; nothing proves it."""

    tenure: int


class BlockSent(NamedTuple):
    block: Block


class Validated(NamedTuple):
    block: Block


class Committed(NamedTuple):
    """Line 14 of algorithm 2; nothing proves it."""

    block: Block


Message = VoteRequest | Vote | LeaderConfirmed | BlockSent | Validated | Committed


def votes_win(votes: int, n: int) -> bool:
    """Algorithm 1, line 13: N_v > n/2 + 1."""
    return votes > n / 2 + 1


def validated_commits(validated: int, n: int) -> bool:
    """Algorithm 2, line 13: V > 2f + 1, V counting followers alone (lines 11 and 12)."""
    return validated > 2 * ((n - 1) // 3) + 1


class Node:
    """One service provider."""

    def __init__(self, world: "World", index: int) -> None:
        self.world = world
        self.index = index
        self.chain: list[Block] = []
        self.start()

    def start(self) -> None:
        """Nothing but the chain is said to be stored."""
        self.role = Role.FOLLOWER
        self.tenure = 0
        self.voted_in = -1
        self.leader: int | None = None
        self.votes: set[int] = set()
        self.proposed: Block | None = None
        self.validated: set[int] = set()

    @property
    def tip(self) -> str:
        return self.chain[-1].name if self.chain else "genesis"

    def time_out(self) -> None:
        """Lines 6 to 10 of algorithm 1; a follower that knows a leader has no timer."""
        if self.role is Role.LEADER or self.leader is not None:
            return
        self.role = Role.CANDIDATE
        self.tenure += 1
        self.voted_in = self.tenure
        self.votes = {self.index}
        self._broadcast(VoteRequest(self.tenure))

    def propose(self, name: str) -> None:
        """Step 4: the leader broadcasts a block."""
        if self.role is Role.LEADER:
            self.proposed, self.validated = Block(self.tip, name), set()
            self._broadcast(BlockSent(self.proposed))

    def receive(self, sender: int, message: Message) -> None:
        _HANDLERS[type(message)](self, sender, message)

    def _broadcast(self, message: Message) -> None:
        for other in range(self.world.n):
            if other != self.index:
                self.world.send(self.index, other, message)

    def _on_request(self, sender: int, m: VoteRequest) -> None:
        if m.tenure > self.tenure:
            self.tenure, self.role, self.leader = m.tenure, Role.FOLLOWER, None
        if m.tenure == self.tenure and self.voted_in < m.tenure:
            self.voted_in = m.tenure
            self.world.send(self.index, sender, Vote(m.tenure))

    def _on_vote(self, sender: int, m: Vote) -> None:
        if self.role is not Role.CANDIDATE or m.tenure != self.tenure:
            return
        self.votes.add(sender)
        if votes_win(len(self.votes), self.world.n):
            self.role, self.leader = Role.LEADER, self.index
            self._broadcast(LeaderConfirmed(self.tenure))

    def _on_confirmed(self, sender: int, m: LeaderConfirmed) -> None:
        if m.tenure >= self.tenure:
            self.tenure, self.role, self.leader = m.tenure, Role.FOLLOWER, sender

    def _on_block(self, sender: int, m: BlockSent) -> None:
        if sender == self.leader and m.block.previous == self.tip:
            self.world.send(self.index, sender, Validated(m.block))

    def _on_validated(self, sender: int, m: Validated) -> None:
        if self.role is not Role.LEADER or m.block != self.proposed:
            return
        self.validated.add(sender)
        if validated_commits(len(self.validated), self.world.n) and m.block not in self.chain:
            self.chain.append(m.block)
            self._broadcast(Committed(m.block))

    def _on_committed(self, sender: int, m: Committed) -> None:
        if m.block.previous == self.tip:
            self.chain.append(m.block)


_HANDLERS: dict[type, Callable[[Node, int, Any], None]] = {
    VoteRequest: Node._on_request,
    Vote: Node._on_vote,
    LeaderConfirmed: Node._on_confirmed,
    BlockSent: Node._on_block,
    Validated: Node._on_validated,
    Committed: Node._on_committed,
}


class World:
    """n nodes and their mail; ``villains`` only do what the test makes them do."""

    def __init__(self, n: int, *villains: int) -> None:
        self.n = n
        self.nodes = [Node(self, index) for index in range(n)]
        self.villains = set(villains)
        self.down: set[int] = set()
        self.mail: list[tuple[int, int, Message]] = []
        self.heard: list[tuple[int, Message]] = []
        """What villains were told."""

    def send(self, source: int, to: int, message: Message) -> None:
        self.mail.append((source, to, message))

    def deliver(self, wanted: Callable[[int, int, Message], bool] = lambda source, to, m: True) -> None:
        """Deliver what is wanted, and what comes of it, until nothing is; the rest is lost."""
        while self.mail:
            source, to, message = self.mail.pop(0)
            if source in self.down or to in self.down or not wanted(source, to, message):
                continue
            if to in self.villains:
                self.heard.append((source, message))
            else:
                self.nodes[to].receive(source, message)

    def elect(self, index: int) -> None:
        """Let the timer of one node fire, and everything arrive."""
        self.nodes[index].time_out()
        self.deliver()

    @property
    def honest(self) -> list[Node]:
        return [node for node in self.nodes if node.index not in self.villains]

    def forks(self) -> list[set[str]]:
        """Return the heights at which honest nodes added different blocks, as the names there."""
        top = max(len(node.chain) for node in self.honest)
        names = [{n.chain[at].name for n in self.honest if len(n.chain) > at} for at in range(top)]
        return [found for found in names if len(found) > 1]


# --- algorithm 3 --------------------------------------------------------------------------------


def delegates(meters: dict[int, int], approvals: dict[int, set[int]], rng: Random) -> list[int]:
    """Lines 3 to 6: everybody gives all its votes (its self-declared meters) to each that it trusts."""
    votes = dict.fromkeys(meters, 0)
    for voter, trusted in approvals.items():
        for other in trusted - {voter}:
            votes[other] += meters[voter]
    chosen = sorted(votes, key=lambda index: (-votes[index], index))[:21]
    rng.shuffle(chosen)
    return chosen


def replace_failed(chosen: list[int], failed: int, alternates: list[int], rng: Random) -> list[int]:
    """Lines 8 to 10: "select a node randomly", "shuffle"; whose randomness is not said."""
    after = [index for index in chosen if index != failed] + [rng.choice(alternates)]
    rng.shuffle(after)
    return after
