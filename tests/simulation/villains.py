"""Byzantine validators: the honest engine behind a hand that rewrites what it says.

A villain signs with its own key only. Each strategy may be mixed with others; ``saw`` hands it every
message that reaches it.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from consensus.bft import statements
from consensus.bft.certificates import bitmap_of
from consensus.bft.shown import Vote
from consensus.bft.types import (
    EC,
    QC,
    TC,
    Broadcast,
    CommitVote,
    Effect,
    Effects,
    Event,
    Message,
    Prepared,
    PreVote,
    Proof,
    Propose,
    Received,
    RequestVote,
    Send,
    Validated,
    VoteGranted,
)
from consensus.bft.voting import is_new
from consensus.hashes import sha256

STRATEGIES = (
    "silent",
    "equivocate",
    "selective",
    "withhold",
    "double",
    "stale",
    "invalid",
    "sibling",
    "extend",
    "spam",
    "racer",
    "replay",
    "slow",
)

Out = list[tuple[int, Message]]


class Villain:
    """Rewrites the effects of one node."""

    def __init__(self, node: Any, strategies: tuple[str, ...], rng: Random) -> None:
        self.node = node
        self.cluster = node.cluster
        self.rng = rng
        self.strategies = strategies
        self.memory: list[Message] = []
        self.last_term = 0
        self.shown: set[bytes] = set()
        node.villain = self

    @property
    def peers(self) -> list[int]:
        """The other places of the set; nobody for who is not in it."""
        me, voters = self.node.config.me, self.node.config.validator_set
        return [] if me is None else [place for place in range(voters.n) if place != me]

    def sign_block(self, vote: Vote, term: int, height: int, block_hash: bytes) -> bytes:
        config = self.node.config
        digest = statements.block_vote(config.electorate, vote, term, height, block_hash)
        return config.secret.sign(digest)

    # --- what it hears --------------------------------------------------------------------------

    def saw(self, event: Received) -> None:
        m = event.message
        if len(self.memory) < 200:
            self.memory.append(m)
        elif self.rng.random() < 0.1:
            self.memory[self.rng.randrange(200)] = m
        if not self.node.up or self.node.config.me is None:
            return
        if "double" in self.strategies and isinstance(m, Propose):
            self._vote_for_everything(m)
        if "stale" in self.strategies and isinstance(m, RequestVote):
            self._grant_anyone(m)
        if "replay" in self.strategies and self.rng.random() < 0.05:
            self._emit([(self.rng.choice(self.peers), self.rng.choice(self.memory))])
        if "spam" in self.strategies and self.rng.random() < 0.1:
            self._emit([(self.rng.choice(self.peers), self._junk())])
        if "racer" in self.strategies and self.node.state.cur_term != self.last_term:
            self.last_term = self.node.state.cur_term
            state = self.node.state
            self._emit(
                [(peer, RequestVote(state.cur_term, self.node.config.me, state.proof)) for peer in self.peers]
            )

    def _vote_for_everything(self, m: Propose) -> None:
        out: Out = []
        me = self.node.config.me
        commit = None
        if isinstance(m.justify, QC):
            qc = m.justify
            sig = self.sign_block(Vote.COMMIT, m.term, qc.height, qc.block_hash)
            commit = CommitVote(m.term, qc.height, qc.block_hash, me, sig)
        for block_hash in (m.block_hash, sha256(m.block_hash)):
            sig = self.sign_block(Vote.VALIDATED, m.term, m.height, block_hash)
            out.append((m.leader, Validated(m.term, m.height, block_hash, me, sig, commit)))
            sig = self.sign_block(Vote.COMMIT, m.term, m.height, block_hash)
            out.append((m.leader, CommitVote(m.term, m.height, block_hash, me, sig)))
        self._emit(out)

    def _grant_anyone(self, m: RequestVote) -> None:
        """A vote for everybody, and with the oldest lock there is."""
        config = self.node.config
        base = config.electorate.base
        digest = statements.grant(config.electorate, m.term, m.cand, *base.rank, base.block_hash)
        self._emit([(m.cand, VoteGranted(m.term, m.cand, config.me, base, config.secret.sign(digest)))])

    def _junk(self) -> Message:
        config, me = self.node.config, self.node.config.me
        term = self.node.state.cur_term + self.rng.choice((0, 1, 1000, 0xFFFF_0000))
        sigs = tuple(self.rng.randbytes(64) for _ in range(config.validator_set.q))
        members = bitmap_of(range(config.validator_set.q), config.validator_set.n)
        proof = self.rng.choice((None, TC(0, term - 1, members, sigs), self.node.state.proof))
        sig = config.secret.sign(statements.pre_vote(config.electorate, term))
        return self.rng.choice(
            (
                PreVote(term, me, sig, proof, self.rng.choice((0, 0xFFFF_FFFF))),
                RequestVote(term, me, proof),
                Proof(term, proof),
                RequestVote(term, self.rng.choice(self.peers), proof),
            )
        )

    # --- what it says ---------------------------------------------------------------------------

    def _emit(self, out: Out) -> None:
        for to, message in out:
            self.cluster.transmit(self.node, to, message)

    def rewrite(self, event: Event, effects: Effects) -> Effects:
        """Return the effects that its shell shall see instead; what it says goes out by itself."""
        kept: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Send):
                self._say([(effect.to, effect.message)])
            elif isinstance(effect, Broadcast):
                self._say([(peer, effect.message) for peer in self.peers])
            else:
                kept.append(effect)
        return tuple(kept)

    def _say(self, out: Out) -> None:
        for strategy in self.strategies:
            rewriter = _REWRITERS.get(strategy)
            if rewriter is not None:
                out = rewriter(self, out)
        self._emit(out)

    def _silent(self, out: Out) -> Out:
        return []

    def _withhold(self, out: Out) -> Out:
        return [item for item in out if not isinstance(item[1], Propose) or self.rng.random() < 0.5]

    def _selective(self, out: Out) -> Out:
        return [item for item in out if self.rng.random() < 0.7]

    def _slow(self, out: Out) -> Out:
        for item in out:
            self.cluster.at(self.rng.randint(20, 600), lambda item=item: self._emit([item]))
        return []

    def _other_block(self, m: Propose, parent: bytes, justify: EC | QC) -> Propose:
        """A valid proposal of another block at the same rank, signed by us."""
        proposal = self.cluster.block(self.node, parent, m.height, m.term, self.rng.randbytes(8))
        sig = self.sign_block(Vote.PROPOSE, m.term, m.height, proposal.block_hash)
        return Propose(m.term, m.height, m.leader, proposal, justify, m.commit_qc, sig)

    def _is_mine(self, m: Message) -> bool:
        return isinstance(m, Propose) and m.leader == self.node.config.me

    def _equivocate(self, out: Out) -> Out:
        """Two blocks, two halves."""
        twin: Propose | None = None
        said: Out = []
        for to, m in out:
            if isinstance(m, Propose) and self._is_mine(m) and to % 2:
                twin = twin or self._other_block(m, m.proposal.parent, m.justify)
                said.append((to, twin))
            else:
                said.append((to, m))
        return said

    def _invalid(self, out: Out) -> Out:
        """Its own block is invalid, or some hear of another that is."""
        said: Out = []
        news = [m for _, m in out if isinstance(m, Propose) and self._is_mine(m) and is_new(m)]
        shown = {m.block_hash for m in news} & self.shown
        self.shown |= {m.block_hash for m in news}
        if news and self.rng.random() < 0.5:
            if not shown:  # a block does not become invalid once somebody may have found it good
                self.cluster.invalid.add(news[0].block_hash)
            return out
        bad: Propose | None = None
        for to, m in out:
            if isinstance(m, Propose) and self._is_mine(m) and self.rng.random() < 0.5:
                if bad is None:
                    bad = self._other_block(m, m.proposal.parent, m.justify)
                    self.cluster.invalid.add(bad.block_hash)
                said.append((to, bad))
            else:
                said.append((to, m))
        return said

    def _sibling(self, out: Out) -> Out:
        """As a new leader, a sibling of EC.high instead of EC.high itself."""
        said: Out = []
        for to, m in out:
            if isinstance(m, Propose) and self._is_mine(m) and isinstance(m.justify, EC):
                m = self._other_block(m, m.proposal.parent, m.justify)
            said.append((to, m))
        return said

    def _extend(self, out: Out) -> Out:
        """As a new leader, a child of EC.high although EC.high is not committed."""
        child: Propose | None = None
        said: Out = []
        for to, m in out:
            if isinstance(m, Propose) and self._is_mine(m) and not is_new(m):
                child = child or self._child(m)
                m = child
            said.append((to, m))
        return said

    def _overrun(self, out: Out) -> Out:
        """As a leader, a child of the block that ends the round, as soon as that is prepared."""
        said: Out = []
        child: Propose | None = None
        for to, m in out:
            said.append((to, m))
            mine = self.node.state.mine
            if not isinstance(m, Prepared) or mine is None or not mine.proposal.ends_round:
                continue
            if child is None:
                child = replace(self._child(mine), justify=m.qc)
            said.append((to, child))
        return said

    def _child(self, m: Propose) -> Propose:
        proposal = self.cluster.block(self.node, m.block_hash, m.height + 1, m.term, self.rng.randbytes(8))
        sig = self.sign_block(Vote.PROPOSE, m.term, m.height + 1, proposal.block_hash)
        return Propose(m.term, m.height + 1, m.leader, proposal, m.justify, m.commit_qc, sig)


_REWRITERS: dict[str, Callable[[Villain, Out], Out]] = {
    "silent": Villain._silent,
    "withhold": Villain._withhold,
    "selective": Villain._selective,
    "slow": Villain._slow,
    "equivocate": Villain._equivocate,
    "invalid": Villain._invalid,
    "sibling": Villain._sibling,
    "extend": Villain._extend,
    "overrun": Villain._overrun,
}
