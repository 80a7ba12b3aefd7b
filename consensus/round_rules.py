"""What a block of a bft chain must say of its round, and what it changes there; pure.

``judge`` is asked by whoever builds a block and by whoever checks one, over the state at the parent. Nothing
of the block itself decides who comes next, so its proposer cannot choose (sections 2.9, 2.12).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from consensus import dpos, duties
from consensus.chain import ChainTip
from consensus.errors import RuleError
from consensus.hashes import sha256
from consensus.history import leaf_hash, tree_root
from consensus.offences import accept_evidence, forget_expired
from consensus.overlay import StateOverlay
from consensus.params import ChainParams, Validator
from consensus.ports import Contracts, StateView
from consensus.restart import Restart, effects
from consensus.rounds import (
    BASE,
    DUTY,
    MIX,
    NOW,
    REVEAL,
    RevealChain,
    Round,
    current,
    encode_reveal_chain,
    encode_round,
    encode_set,
    epoch_ends,
    may_substitute,
    offences,
    record_of,
    reveal_chain,
    set_key,
)

Writes = dict[bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class RoundEnv:
    """What the rules of rounds need of a chain.

    ``restarts``: what its operators decided, by the hash of the block before (``consensus.restart``).
    """

    params: ChainParams
    chain_id: bytes
    contracts: Contracts
    restarts: Mapping[bytes, Restart] = field(default_factory=dict)

    def begun(self, parent: ChainTip, state: StateView) -> Writes:
        """Return what a restart at ``parent`` writes before the next block; {} where there is none.

        Raises RuleError as ``consensus.restart.effects``.
        """
        if parent.block_hash not in self.restarts:
            return {}
        return effects(self.restarts, parent, state, self.params, self.chain_id, self.contracts)

    def round_after(self, parent: ChainTip, state: StateView) -> Round:
        """Return the round that signs the child of ``parent``, given its state."""
        return current(with_writes(state, self.begun(parent, state)), self.params, self.chain_id)


def with_writes(state: StateView, writes: Writes) -> StateView:
    """Return the state after ``writes``."""
    return StateOverlay(state, writes) if writes else state


@dataclass(frozen=True, slots=True)
class Claim:
    """What a block says of itself, by header and commitment. ``evidence``: as in its coinbase, in order."""

    height: int
    parent_hash: bytes
    time_s: int
    parent_time_s: int
    term: int
    proposer: int
    last_bitmap: bytes
    reveal: bytes | None = None
    evidence: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a claim: the round that signs the block, the next if it ends, roots and writes."""

    round: Round
    following: Round | None
    evidence_root: bytes
    writes: Writes

    @property
    def next_set_hash(self) -> bytes | None:
        """Return what the commitment must say of the next set; None within a round."""
        return None if self.following is None else self.following.validator_set.set_hash


def judge(claim: Claim, state: StateView, env: RoundEnv) -> Verdict:
    """Return what a claim leads to over the ``state`` of its parent, that of a restart taken in.

    Raises RuleError: "bad-proposer", "bad-last-bitmap", "bad-reveal" and those of
    ``consensus.offences.accept_evidence``.
    """
    found = current(state, env.params, env.chain_id)
    _check_shape(claim, found)
    writes: Writes = {}
    if found.number and claim.height == found.first_height:
        writes[BASE] = claim.parent_hash
    known = duties_before(state, found, claim.height)
    mix = state.get(MIX) or bytes(32)
    reveal = _check_reveal(claim, due_reveal(state, found, claim.height, claim.term, claim.proposer))
    if reveal is not None:
        writes[REVEAL + found.members[claim.proposer].payout_script] = encode_reveal_chain(reveal)
    writes |= accept_evidence(claim.evidence, state, found, env.params, env.chain_id)
    following = _following(claim, state, env, found, known, mix)
    if following is not None:
        writes |= {NOW: encode_round(following), set_key(following.number): encode_set(record_of(following))}
    if following is not None and following.epoch != found.epoch:
        writes = forget_expired(state, following.epoch) | writes
        mix = bytes(32)
    if claim.reveal is not None:
        mix = sha256(mix + claim.reveal)
    _put(writes, state, MIX, None if mix == bytes(32) else mix)
    _put(writes, state, DUTY, None if following is not None else _counted(claim, found, known))
    return Verdict(found, following, tree_root([leaf_hash(item) for item in claim.evidence]), writes)


def duties_before(state: StateView, found: Round, height: int) -> duties.Duties | None:
    """Return the counters of round ``found`` before the block at ``height``, None before its first."""
    value = None if height == found.first_height else state.get(DUTY)
    return None if value is None else duties.decode(value)


def due_reveal(state: StateView, found: Round, height: int, term: int, proposer: int) -> RevealChain | None:
    """Return the chain from which the block of ``proposer`` in ``term`` must reveal; None if from none.

    The first block of a proposer in its term reveals, if a chain of its own counts in this epoch.
    """
    known = duties_before(state, found, height)
    if known is not None and (known.term, known.proposer) == (term, proposer):
        return None
    chain = reveal_chain(state, found.members[proposer].payout_script)
    if chain is None or not chain.left or chain.from_epoch > found.epoch:
        return None
    return chain


def _put(writes: Writes, state: StateView, key: bytes, value: bytes | None) -> None:
    """Write what differs: a block that changes nothing here costs nothing."""
    if state.get(key) != value:
        writes[key] = value


def _check_shape(claim: Claim, found: Round) -> None:
    n = len(found.members)
    if not 0 <= claim.proposer < n:
        raise RuleError("bad-proposer", f"proposer {claim.proposer} of {n} validators")
    bitmap = claim.last_bitmap
    if len(bitmap) != bitmap_size(n) or int.from_bytes(bitmap, "little") >> n:
        raise RuleError("bad-last-bitmap", f"not a bitmap of {n} validators")


def bitmap_size(validators: int) -> int:
    """Return the bytes of a bitmap with one bit per validator."""
    return (validators + 7) // 8


def _check_reveal(claim: Claim, chain: RevealChain | None) -> RevealChain | None:
    """Return the chain behind the reveal, None if nothing is due. Raises RuleError "bad-reveal"."""
    if chain is None:
        if claim.reveal is not None:
            raise RuleError("bad-reveal", "not due")
        return None
    if claim.reveal is None or sha256(claim.reveal) != chain.top:
        raise RuleError("bad-reveal", "not the next of the proposer's chain")
    return chain._replace(top=claim.reveal, left=chain.left - 1)


def _counted(claim: Claim, found: Round, known: duties.Duties | None) -> bytes:
    if known is None:
        return duties.encode(duties.begin(len(found.members), claim.term, claim.proposer))
    after = duties.follow(known, found.slot_seed, claim.term, claim.proposer, claim.last_bitmap)
    return duties.encode(after)


# ---- who comes next ------------------------------------------------------------------------------------


def _following(
    claim: Claim, state: StateView, env: RoundEnv, found: Round, known: duties.Duties | None, mix: bytes
) -> Round | None:
    """Return the round after this block, None if the block does not end one."""
    if epoch_ends(env.params, claim.time_s, claim.parent_time_s):
        return _elected(claim, state, env, found, mix)
    if may_substitute(env.params, claim.time_s, claim.parent_time_s):
        return _substituted(claim, state, env, found, known)
    return None


def _elected(claim: Claim, state: StateView, env: RoundEnv, found: Round, mix: bytes) -> Round:
    epoch = found.epoch + 1
    seed = dpos.next_seed(found.seed, mix)
    candidates = env.contracts.candidates(state, claim.parent_time_s)
    entries = {each.entry.payout_script: each.entry for each in candidates}
    names, ballots = dpos.eligible([each.ballot for each in candidates], offences(state), epoch)
    bft = env.params.bft
    election = _elect(names, ballots, seed, bft.election, bft.delegates)
    members = tuple([entries[name] for name in election.delegates])
    alternates = tuple([entries[name] for name in election.alternates])
    if not dpos.takes_over(election.delegates) or not _distinct(members):
        members, alternates = found.members, ()
    height = claim.height + 1
    return Round(found.number + 1, epoch, height, seed, seed, claim.term, members, alternates)


@lru_cache(maxsize=4)
def _elect(
    names: tuple[bytes, ...], ballots: tuple[dpos.Ballot, ...], seed: bytes, mode: str, seats: int
) -> dpos.Election:
    """Elect once for all that is built and checked on one parent: with many providers it takes a while."""
    return dpos.elect(names, ballots, seed, mode, seats)


def _distinct(members: Sequence[Validator]) -> bool:
    return len({member.vote_key for member in members}) == len(members)


def _substituted(
    claim: Claim, state: StateView, env: RoundEnv, found: Round, known: duties.Duties | None
) -> Round | None:
    """Return the round with alternates in the places of those that failed or offended, if there are any."""
    barred = offences(state)
    failed = () if known is None else dpos.failed(duties.counters(known))
    guilty = [place for place, member in enumerate(found.members) if member.payout_script in barred]
    places = [*guilty, *[place for place in failed if place not in guilty]]
    standing = {
        each.entry.payout_script: each.entry
        for each in (env.contracts.candidates(state, claim.parent_time_s) if places else ())
    }
    able = [each.payout_script for each in found.alternates if each.payout_script not in barred]
    ready = [standing[account] for account in able if account in standing]  # with the keys that it has now
    entries = {each.payout_script: each for each in (*found.members, *ready)}
    names = [member.payout_script for member in found.members]
    chosen, left = dpos.substitute(
        names, [each.payout_script for each in ready], places, found.seed, claim.height
    )
    members = tuple([entries[name] for name in chosen])
    if chosen == tuple(names) or not _distinct(members):
        return None
    return Round(
        found.number + 1,
        found.epoch,
        claim.height + 1,
        found.seed,
        sha256(found.seed + claim.height.to_bytes(4, "little")),
        claim.term,
        members,
        tuple([entries[name] for name in left]),
    )
