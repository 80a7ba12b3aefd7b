"""A cluster whose validators follow from the chain: elections and substitutions by the rules of rounds.

Every node judges every block by itself, over the state that its own blocks led to; nobody is told who comes
next. Header and coinbase say what those rules need: time, term, proposer, and whom the leader saw sign.
"""

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from consensus import round_rules
from consensus.bft.config import Config
from consensus.bft.types import QC, Build, Check, Effects, Event, Proposal
from consensus.commitment import Commitment, find_commitment
from consensus.dpos import Ballot, Candidate
from consensus.errors import PeerFault
from consensus.hashes import sha256
from consensus.params import Validator
from consensus.round_rules import Claim, RoundEnv, Verdict
from consensus.rounds import Round, current, founding
from consensus.transaction import Transaction, TxIn, TxOut
from tests.simulation.cluster import CHAIN_ID, TIMING, Cluster, Node
from tests.simulation.committees import secret_of
from tests.simulation.histories import settle
from tests.simulation.villains import STRATEGIES, Villain
from tests.unit.consensus_rules.conftest import DictView, ToyContracts, make_params

EPOCH_S, SUBSTITUTION_S, DELEGATES = 8, 3, 4


class Standing(ToyContracts):  # type: ignore[misc]  # the test kit of the rules is not annotated
    """Everybody can be elected, and everybody has one vote for nobody: the seed decides."""

    def __init__(self, entries: tuple[Validator, ...]) -> None:
        super().__init__()
        self.entries = sorted(entries, key=lambda entry: entry.payout_script)

    def candidates(self, state: Any, time_s: int) -> list[Candidate]:
        return [Candidate(entry, Ballot(entry.payout_script, 1, ())) for entry in self.entries]


def entry_of(key: int) -> Validator:
    name = b"%02d" % key
    return Validator(f"node {key}", "service-provider", secret_of(key), name * 16, name, b"", b"")


def environment(founders: int, candidates: int) -> RoundEnv:
    entries = tuple(entry_of(key) for key in range(candidates))
    params = make_params(validators=4)
    bft = replace(
        params.bft,
        validators=entries[:founders],
        round_s=EPOCH_S,
        substitution_s=SUBSTITUTION_S,
        delegates=DELEGATES,
    )
    start = params.genesis_time_s - params.genesis_time_s % (EPOCH_S * SUBSTITUTION_S)
    return RoundEnv(replace(params, bft=bft, genesis_time_s=start), CHAIN_ID, Standing(entries))


@dataclass
class Books:
    """What one node knows of the chain's state, by block."""

    env: RoundEnv
    states: dict[bytes, tuple[dict[bytes, bytes], int]] = field(init=False)

    def __post_init__(self) -> None:
        self.states = {CHAIN_ID: ({}, self.env.params.genesis_time_s)}

    def verdict(self, parent: bytes, height: int, time_s: int, term: int, place: int, seen: bytes) -> Verdict:
        state, parent_time_s = self.states[parent]
        claim = Claim(height, parent, time_s, parent_time_s, term, place, seen)
        return round_rules.judge(claim, DictView(state), self.env)

    def take(self, proposal: Proposal, height: int) -> Round | None:
        """Judge a block and keep the state behind it; return the round that begins after it.

        Raises PeerFault if it breaks a rule.
        """
        said = find_commitment(Transaction.parse(proposal.coinbase))
        time_s = int.from_bytes(proposal.header[68:72], "little")
        if said.proposer is None or said.last_bitmap is None:
            raise PeerFault("bad-commitment-form", "no block of a bft chain")
        found = self.verdict(proposal.parent, height, time_s, proposal.term, said.proposer, said.last_bitmap)
        if (said.set_hash, said.next_set_hash) != (found.round.validator_set.set_hash, found.next_set_hash):
            raise PeerFault("bad-next-set-hash", "not the sets that the rules lead to")
        state = self.states[proposal.parent][0] | found.writes
        kept = {key: value for key, value in state.items() if value is not None}
        self.states[proposal.block_hash] = kept, time_s
        return found.following


class ElectedCluster(Cluster):
    """``founders`` sign round 0; each epoch elects four delegates of ``candidates``, the rest stand by."""

    def __init__(self, founders: int, candidates: int, seed: int, **options: Any) -> None:
        self.env = environment(founders, candidates)
        self.books: dict[int, Books] = {}
        self.rounds = [founding(self.env.params, CHAIN_ID)]
        self.keys = {secret_of(key): key for key in range(candidates)}
        super().__init__(founders, seed, spares=candidates - founders, **options)
        self.gossip()

    def books_of(self, node: Node) -> Books:
        return self.books.setdefault(node.index, Books(self.env))

    def members(self, number: int) -> tuple[int, ...]:
        return tuple(self.keys[member.vote_key] for member in self.rounds[number].members)

    def config_for(self, key: int | None, number: int, base: QC | None) -> Config:
        found = super().config_for(key, number, base)
        if base is not None and base != self.rounds[number].base(base.block_hash):
            raise AssertionError("the rules and the shell differ in the base of a round")
        return replace(found, seed=self.rounds[number].slot_seed)

    def block(
        self, node: Node, parent: bytes, height: int, term: int, salt: bytes, last_bitmap: bytes = b""
    ) -> Proposal:
        books, me = self.books_of(node), node.config.me
        time_s = max(self.env.params.genesis_time_s + self.now // 1_000, books.states[parent][1])
        seen = last_bitmap or bytes((node.config.validator_set.n + 7) // 8)
        found = books.verdict(parent, height, time_s, term, me or 0, seen)
        said = Commitment(
            bytes(32),
            bytes(32),
            found.round.validator_set.set_hash,
            me,
            seen,
            next_set_hash=found.next_set_hash,
        )
        entry = TxIn(bytes(32) + b"\xff" * 4, height.to_bytes(4, "little"))
        coinbase = Transaction.build(2, (entry,), (TxOut(0, said.encode_script()),)).raw
        numbers = time_s.to_bytes(4, "little") + bytes(4) + term.to_bytes(4, "little")
        proposal = Proposal((4).to_bytes(4, "little") + parent + sha256(salt) + numbers, coinbase, ())
        books.take(proposal, height)
        return proposal

    def follows_rules(self, node: Node, check: Check) -> bool:
        try:
            self.books_of(node).take(check.proposal, check.height)
        except PeerFault:
            return False
        return True

    def is_final(self, node: Node, height: int, proposal: Proposal) -> None:
        """Every node comes to the same next set by itself; the first tells the cluster's own books."""
        books = self.books_of(node)
        following = books.take(proposal, height)
        if following is None:
            return
        if following.number == len(self.rounds):
            self.rounds.append(following)
            self.committees.change(height, self.members(following.number))
        state = DictView(books.states[proposal.block_hash][0])
        if (
            following != self.rounds[following.number]
            or current(state, self.env.params, CHAIN_ID) != following
        ):
            raise AssertionError(f"node {node.index} came to another round {following.number}")

    def seat(self, key: int) -> int | None:
        """The place of a validator in the newest round."""
        members = self.members(len(self.rounds) - 1)
        return members.index(key) if key in members else None


class Framing:
    """A delegate that leaves one name out of every bitmap that it reports."""

    def __init__(self, node: Node, victim: int) -> None:
        self.node, self.victim = node, victim
        self.left_out = 0
        node.villain = self

    def saw(self, event: Event) -> None:
        pass

    def rewrite(self, event: Event, effects: Effects) -> Effects:
        return tuple(self._framed(effect) if isinstance(effect, Build) else effect for effect in effects)

    def _framed(self, effect: Build) -> Build:
        members = self.node.cluster.committees.members(self.node.round)
        if self.victim not in members:
            return effect
        self.left_out += 1
        bits = int.from_bytes(effect.last_bitmap, "little") & ~(1 << members.index(self.victim))
        return replace(effect, last_bitmap=bits.to_bytes(len(effect.last_bitmap), "little"))


def _silence(cluster: ElectedCluster, place: int) -> None:
    """Cut a delegate of the newest round off: whoever leads meanwhile misses it."""
    members = cluster.members(len(cluster.rounds) - 1)
    gone = members[place % len(members)]
    cluster.partition((gone,), tuple(node.index for node in cluster.nodes if node.index != gone))


def elections(n: int, seed: int, cut_ms: int = 18_000, tail_ms: int = 12_000) -> ElectedCluster:
    """Epochs and substitutions in bad weather; one of the seven candidates or more may be a villain."""
    rng = Random(seed)
    cluster = ElectedCluster(n, 7, seed, timing=replace(TIMING, tenure_blocks=rng.choice((4, 6, 12))))
    if rng.random() < 0.6:
        bad, victim = rng.sample(range(7), 2)
        if rng.random() < 0.5:
            Framing(cluster.nodes[bad], victim)
        else:
            strategies = tuple(rng.sample(STRATEGIES, rng.randint(1, 2)))
            Villain(cluster.nodes[bad], strategies, Random(rng.random()))
    cluster.delays_ms = (1, rng.choice((20, 100)))
    cluster.drop = rng.choice((0.0, 0.0, 0.02, 0.1))
    cluster.crash_rate = rng.choice((0.0, 0.0, 0.0005, 0.002))
    cluster.boundary_crash_rate = rng.choice((0.0, 0.2, 0.5))
    cluster.start()
    cluster.work(rng.choice((5, 100)))
    for at_ms in sorted(rng.randint(0, cut_ms) for _ in range(rng.randint(0, 3))):
        key = rng.randrange(7)
        cluster.at(at_ms, lambda key=key: cluster.nodes[key].up and cluster.crashed(cluster.nodes[key]))
    if rng.random() < 0.5:
        at_ms = rng.randint(8_500, 12_000)
        cluster.at(at_ms, lambda: _silence(cluster, rng.randrange(DELEGATES)))
        cluster.at(at_ms + rng.randint(3_000, 6_000), lambda: setattr(cluster, "blocked", set()))
    cluster.restart_ms = (50, 4_000)
    cluster.run(cut_ms)
    settle(cluster, tail_ms)
    return cluster
