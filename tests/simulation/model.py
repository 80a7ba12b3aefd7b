"""The voting rules alone, as a small-step model: no messages, no time, no code of the engine.

Written from sections 2.2 to 2.8 of CONSENSUS.md. A state is what each honest validator remembers and what it
has ever signed; the f Byzantine ones sign everything, so a certificate exists as soon as q - f honest
signatures do. Whatever is justified may happen, to anybody, in any order: network, clocks and leaders belong
to the adversary. ``RULES`` names every guard; ``without`` switches some off, which must end in two commit
certificates off one chain.

Some steps of the protocol are folded into others, without losing a behaviour. *Entering a term* only forbids
lower terms, so it happens with the first signature in the term, and needs no proof (proofs serve liveness).
*The first term* is granted from the start: there is nothing to report and nothing below to give up. *Learning
a lock* shows only in a later grant, so a grant may report any certificate at or above the lock. *Restarts*
change nothing while the log is kept; without ``log`` they forget all but the signatures, without ``lock-log``
the lock.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

RULES = {
    "high": "the first proposal of a term is EC.high again, or its child",
    "highest": "EC.high is the highest of the reported locks",
    "lock": "whoever signs a commit vote locks the certificate that it is for",
    "carried": "a grant reports the lock",
    "commit-term": "a commit vote is signed in the term of its certificate alone",
    "first": "a vote justified by an EC is the first of its term",
    "increase": "the ranks of votes increase",
    "once": "one vote for each rank",
    "log": "what was signed survives a restart",
    "lock-log": "so does the lock",
    "validity": "votes are for valid blocks",
    "recertify": "a child of EC.high only if EC.high is committed",
    "pipeline": "a vote at height h only if the ancestor at h - 2 is committed",
    "last": "no vote for a child of a block that ends the round",
}

Cert = tuple[int, int]
"""(term, block): at least q signatures say so. (0, 0) is genesis."""

Rank = tuple[int, int]
"""(term, height)."""

GENESIS: Cert = (0, 0)

LONGEST_WALK = 100
"""Walks end by themselves after some thirty steps, unless somebody forgets again and again."""


class Node(NamedTuple):
    """An honest validator: what it remembers, then what it has signed (both in order)."""

    term: int = 0
    granted: bool = False
    val: Rank = (0, 0)
    lock: Cert = GENESIS
    votes: tuple[Cert, ...] = ()
    commits: tuple[Cert, ...] = ()
    grants: tuple[tuple[int, Cert], ...] = ()


World = tuple[int, ...]
"""One number (see ``Model.number``) per honest validator, in order: who is who does not matter."""

Ballot = tuple[int, int, bool]
"""(term, block, by EC): what a vote could be justified for."""


class Block(NamedTuple):
    """A block that could be: ``children`` of them per parent and term."""

    parent: int
    height: int
    term: int
    name: str


class Judged(NamedTuple):
    """An exploration: how much was seen, what was wrong and how it came about, if anything was."""

    states: int
    steps: int
    wrong: str | None = None
    story: tuple[str, ...] = ()


def with_one(items: tuple, item: object) -> tuple:
    """Return ``items`` with one more, in order."""
    return tuple(sorted({*items, item}))


@dataclass
class Model:
    """n validators, f of them Byzantine; terms 1 to ``terms``, blocks up to ``heights``."""

    n: int = 4
    terms: int = 2
    heights: int = 2
    children: int = 2
    without: tuple[str, ...] = ()
    quorum: int = 0
    invalid: bool = False
    """Whether the last child of each parent and term is an invalid block."""
    ending: bool = False
    """Whether the first child of each parent and term ends the round, and its siblings do not."""

    def __post_init__(self) -> None:
        if not set(self.without) <= set(RULES):
            raise ValueError(f"no such rule: {self.without}")
        self.f = (self.n - 1) // 3
        self.needed = (self.quorum or (self.n + self.f) // 2 + 1) - self.f
        self.blocks = [Block(0, 0, 0, "genesis")]
        self.offspring: dict[tuple[int, int], list[int]] = {}
        at = 0
        while at < len(self.blocks):
            self._add_children(at)
            at += 1
        self.lineage = [self._ancestors(block) for block in range(len(self.blocks))]
        self.nodes: list[Node] = []
        self.numbers: dict[Node, int] = {}
        self.seen_steps: dict[tuple, list[tuple[str, int]]] = {}
        self.seen_certs: dict[tuple, tuple[Cert, ...]] = {}

    def _add_children(self, parent: int) -> None:
        block = self.blocks[parent]
        for term in range(max(block.term, 1), self.terms + 1 if block.height < self.heights else 0):
            first = len(self.blocks)
            self.offspring[parent, term] = list(range(first, first + self.children))
            for variant in range(self.children):
                name = f"{'' if not parent else block.name + '>'}{term}{'abcd'[variant]}"
                self.blocks.append(Block(parent, block.height + 1, term, name))

    def _ancestors(self, block: int) -> frozenset[int]:
        found = {block}
        while block:
            block = self.blocks[block].parent
            found.add(block)
        return frozenset(found)

    def on(self, rule: str) -> bool:
        return rule not in self.without

    def rank(self, cert: Cert) -> Rank:
        return cert[0], self.blocks[cert[1]].height

    def number(self, node: Node) -> int:
        """Return the number under which a validator in this condition is known."""
        if node not in self.numbers:
            self.numbers[node] = len(self.nodes)
            self.nodes.append(node)
        return self.numbers[node]

    def begin(self) -> World:
        node = Node(term=1, granted=True, grants=((1, GENESIS),))
        return (self.number(node),) * (self.n - self.f)

    # --- certificates ---------------------------------------------------------------------------

    def certified(self, signed: tuple[tuple[Cert, ...], ...]) -> tuple[Cert, ...]:
        """Return what enough honest validators have signed, by rising rank."""
        if signed not in self.seen_certs:
            counts: dict[Cert, int] = {}
            for items in signed:
                for cert in items:
                    counts[cert] = counts.get(cert, 0) + 1
            enough = (cert for cert, count in counts.items() if count >= self.needed)
            self.seen_certs[signed] = tuple(sorted(enough, key=self.rank))
        return self.seen_certs[signed]

    def final(self, world: World) -> tuple[Cert, ...]:
        """Return what is committed."""
        return self.certified(tuple(self.nodes[number].commits for number in world))

    def highs(self, nodes: list[Node], term: int, prepared: tuple[Cert, ...]) -> list[Cert]:
        """Return every ``high`` that some EC of ``term`` may have: Byzantine grants report what suits."""
        reports = [[self.rank(lock) for at, lock in node.grants if at == term] for node in nodes]
        if sum(map(bool, reports)) < self.needed:
            return []
        found = []
        for cert in prepared:
            if cert[0] >= term:
                continue
            rank = self.rank(cert)
            if self.on("highest"):
                agree = sum(any(lock <= rank for lock in locks) for locks in reports)
            else:
                agree = sum(any(lock >= rank for lock in locks) for locks in reports)
            if agree >= self.needed or not self.on("high"):
                found.append(cert)
        return found

    # --- steps ----------------------------------------------------------------------------------

    def steps(self, world: World) -> Iterator[tuple[str, World]]:
        """Yield every (what happens, world after it)."""
        nodes = [self.nodes[number] for number in world]
        prepared = (GENESIS, *self.certified(tuple(node.votes for node in nodes)))
        ballots = self._ballots(nodes, prepared, self._committed(world))
        for index, number in enumerate(world):
            if index and number == world[index - 1]:
                continue  # the same as its neighbour
            key = (number, prepared, ballots)
            if key not in self.seen_steps:
                found = self._of_one(self.nodes[number], prepared, ballots)
                self.seen_steps[key] = [(what, self.number(after)) for what, after in found]
            rest = world[:index] + world[index + 1 :]
            for what, after in self.seen_steps[key]:
                yield what, tuple(sorted((*rest, after)))

    def _committed(self, world: World) -> frozenset[int]:
        """Return every block that is final, with its ancestors."""
        return frozenset((0,)).union(*(self.lineage[block] for _, block in self.final(world)))

    def _ballots(
        self, nodes: list[Node], prepared: tuple[Cert, ...], committed: frozenset[int]
    ) -> tuple[Ballot, ...]:
        voted = {block for node in nodes for _, block in node.votes}
        found: dict[Ballot, None] = {}
        for term in range(1, self.terms + 1):
            for _, high in self.highs(nodes, term, prepared):
                if high:
                    found[term, high, True] = None
                if (high in committed or not self.on("recertify")) and self._may_follow(high):
                    for child in self._children(high, term, voted):
                        found[term, child, True] = None
        for term, parent in prepared[1:]:
            if not self._may_follow(parent):
                continue
            if self.blocks[parent].parent in committed or not self.on("pipeline"):
                for child in self._children(parent, term, voted):
                    found[term, child, False] = None
        return tuple(found)

    def _ends(self, block: int) -> bool:
        """Return whether a block ends the round: which one does depends on its time, so siblings differ."""
        return self.ending and block > 0 and (block - 1) % self.children == 0

    def _may_follow(self, parent: int) -> bool:
        return not (self.on("last") and self._ends(parent))

    def _children(self, parent: int, term: int, voted: set[int]) -> list[int]:
        """Return the children that matter: those voted for, and one that is still like the others."""
        children = self.offspring.get((parent, term), [])
        if self.invalid:
            return children if not self.on("validity") else children[:-1]
        if self.ending:
            return children
        fresh = next((child for child in children if child not in voted), None)
        return [child for child in children if child in voted or child == fresh]

    def _of_one(
        self, node: Node, prepared: tuple[Cert, ...], ballots: tuple[Ballot, ...]
    ) -> Iterator[tuple[str, Node]]:
        yield from self._grants(node, prepared)
        for term, block, by_ec in ballots:
            rank = (term, self.blocks[block].height)
            if term >= node.term and self._may_vote(node, rank, (term, block), by_ec):
                yield (
                    f"votes in {term} for {self.blocks[block].name} by {'EC' if by_ec else 'QC'}",
                    self._in_term(node, term)._replace(val=rank, votes=with_one(node.votes, (term, block))),
                )
        for cert in prepared[1:]:
            if cert not in node.commits and (cert[0] >= node.term or not self.on("commit-term")):
                locks = self.on("lock") and self.rank(cert) > self.rank(node.lock)
                yield (
                    f"commits {self.blocks[cert[1]].name} in {cert[0]}",
                    self._in_term(node, max(cert[0], node.term))._replace(
                        lock=cert if locks else node.lock, commits=with_one(node.commits, cert)
                    ),
                )
        if not self.on("log") and (node.val[0] or node.lock != GENESIS):
            yield "forgets all", Node(votes=node.votes, commits=node.commits, grants=node.grants)
        if not self.on("lock-log") and node.lock != GENESIS:
            yield "forgets its lock", node._replace(lock=GENESIS)

    def _grants(self, node: Node, prepared: tuple[Cert, ...]) -> Iterator[tuple[str, Node]]:
        for term in range(max(node.term, 1), self.terms + 1):
            if (node.granted and term == node.term) or node.val[0] >= term:
                continue
            for cert in prepared:
                if self.rank(cert) < self.rank(node.lock) or cert[0] >= term:
                    continue
                if not self.on("lock") and cert != node.lock:
                    continue
                shown = cert if self.on("carried") else GENESIS
                yield (
                    f"grants {term} and reports {self.blocks[shown[1]].name} in {shown[0]}",
                    node._replace(
                        term=term, granted=True, lock=cert, grants=with_one(node.grants, (term, shown))
                    ),
                )

    def _in_term(self, node: Node, term: int) -> Node:
        return node if term == node.term else node._replace(term=term, granted=False)

    def _may_vote(self, node: Node, rank: Rank, vote: Cert, by_ec: bool) -> bool:
        if by_ec and self.on("first") and self.on("increase") and node.val[0] >= rank[0]:
            return False
        if vote in node.votes:
            return False
        if not self.on("increase"):
            return all(self.rank(other) != rank for other in node.votes)
        return rank > node.val or (rank == node.val and not self.on("once"))

    # --- judgement ------------------------------------------------------------------------------

    def judge(self, world: World) -> str | None:
        """Return what is wrong: a fork, an invalid block that is final, more than two that are not."""
        final = self.final(world)
        for index, (_, low) in enumerate(final):
            if self.invalid and any(block and (block - 1) % self.children for block in self.lineage[low]):
                return f"{self.blocks[low].name} is final and not valid"
            if any(self._ends(block) for block in self.lineage[self.blocks[low].parent] if low):
                return f"{self.blocks[low].name} is final in a round that had ended before"
            for _, high in final[index + 1 :]:
                if low not in self.lineage[high] and high not in self.lineage[low]:
                    return f"{self.blocks[low].name} and {self.blocks[high].name} are both final"
        if self.heights > 2:
            committed = self._committed(world)
            for _, block in self.certified(tuple(self.nodes[number].votes for number in world)):
                if len(self.lineage[block] - committed) > 2:
                    return f"{self.blocks[block].name} is prepared on more than one block that is not final"
        return None

    def explore(self, limit: int = 0) -> Judged:
        """Visit every world breadth first, up to ``limit`` of them (0: all)."""
        came_from: dict[World, World | None] = {self.begin(): None}
        layer = [self.begin()]
        steps = 0
        while layer and not (limit and len(came_from) >= limit):
            following = []
            for world in layer:
                for _, after in self.steps(world):
                    steps += 1
                    if after in came_from:
                        continue
                    came_from[after] = world
                    following.append(after)
                    wrong = self.judge(after)
                    if wrong is not None:
                        return Judged(len(came_from), steps, wrong, self._story(after, came_from))
            layer = following
        return Judged(len(came_from), steps)

    def _story(self, world: World, came_from: dict[World, World | None]) -> tuple[str, ...]:
        lines: list[str] = []
        before = came_from[world]
        while before is not None:
            lines.append(next(what for what, after in self.steps(before) if after == world))
            world, before = before, came_from[before]
        return tuple(lines[::-1])

    def walk(self, seed: int) -> Judged:
        """Go at random until nothing is left to do."""
        rng = Random(seed)
        world = self.begin()
        story: list[str] = []
        while True:
            choices = list(self.steps(world))
            if not choices or len(story) == LONGEST_WALK:
                return Judged(len(story), len(story), None, tuple(story))
            what, after = rng.choice(choices)
            story.append(what)
            # In an order that does not depend on earlier walks: a seed is one walk.
            world = tuple(sorted(after, key=self.nodes.__getitem__))
            wrong = self.judge(world)
            if wrong is not None:
                return Judged(len(story), len(story), wrong, tuple(story))

    def walks(self, count: int, first: int = 0) -> tuple[int, Judged]:
        """Take ``count`` walks or stop at the first that goes wrong: (walks, all steps or the bad walk)."""
        steps = 0
        for number in range(count):
            judged = self.walk(first + number)
            steps += judged.steps
            if judged.wrong is not None:
                return number + 1, judged
        return count, Judged(0, steps)
