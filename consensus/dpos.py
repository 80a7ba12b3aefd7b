"""The delegate election (DPoS): who validates in a round, computed from votes and a seed.

Pure functions over the contract state's votes and weights and over the round's blocks (CONSENSUS.md,
section 2.12). A provider is named by the bytes of its account. Integers only; the result depends on
the values given and never on the order of a mapping.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from consensus.bft.quorum import faults
from consensus.bft.slots import permutation
from consensus.hashes import sha256
from consensus.ledger_limits import (
    FAILED_LEADS,
    MAX_ALTERNATES,
    MAX_DELEGATES,
    MAX_VALIDATORS,
    MIN_VALIDATORS,
)
from consensus.params import Validator

PLURALITY = "plurality"
"""The most votes win every seat: the keyless-signature paper's Algorithm 3 to the letter."""

PROPORTIONAL = "proportional"
"""Seats in proportion to the weights behind them: sequential Phragmen."""

MODES = (PLURALITY, PROPORTIONAL)


class Ballot(NamedTuple):
    """The standing vote of a provider: ``weight`` goes whole to each of ``approvals``."""

    provider: bytes
    weight: int
    approvals: tuple[bytes, ...]


class Candidate(NamedTuple):
    """An organisation that can be elected: its validator entry and its own ballot.

    ``ballot.provider`` is ``entry.payout_script``, the account that names both.
    """

    entry: Validator
    ballot: Ballot


class Election(NamedTuple):
    """``delegates`` is list_r and ``alternates`` alist_r, both shuffled; ``ranking`` has all candidates."""

    delegates: tuple[bytes, ...]
    alternates: tuple[bytes, ...]
    ranking: tuple[bytes, ...]
    votes: dict[bytes, int]


# ---- seed and shuffles -----------------------------------------------------------------------------


def first_seed(chain_id: bytes) -> bytes:
    """Return seed_0, 32 bytes: H("seed" || chain id), as nothing was revealed before round 0."""
    return sha256(b"seed" + chain_id)


def fold_reveals(reveals: Iterable[bytes | None]) -> bytes:
    """Return mix_r: the H-fold of the reveals of a round's blocks in order of height, 32 bytes.

    mix = 32 zero bytes, then mix := H(mix || reveal) for each block that has one. Who signed a block is
    no part of it: the leader chooses which signatures go into a certificate, and could grind.
    """
    mix = bytes(32)
    for reveal in reveals:
        if reveal is not None:
            mix = sha256(mix + reveal)
    return mix


def next_seed(seed: bytes, mix: bytes) -> bytes:
    """Return seed_{r+1} = H("seed" || seed_r || mix_r)."""
    return sha256(b"seed" + seed + mix)


def shuffle(names: Sequence[bytes], seed: bytes, purpose: bytes) -> tuple[bytes, ...]:
    """Return ``names`` in an order that ``seed`` and ``purpose`` alone decide.

    The permutation of the slots (Fisher-Yates over a SHA-256 counter stream, with rejection) under
    H(purpose || seed); the names are sorted first, so the order in which they come has no influence.
    """
    ordered = sorted(names)
    return tuple([ordered[at] for at in permutation(sha256(purpose + seed), 0, len(ordered))])


# ---- offenders -------------------------------------------------------------------------------------


def eligible(
    ballots: Iterable[Ballot], barred: Mapping[bytes, int], epoch: int
) -> tuple[tuple[bytes, ...], tuple[Ballot, ...]]:
    """Return who may be elected for ``epoch``, and the ballots that count there; both in order of name.

    ``barred`` has, by account, the epoch up to which (exclusive) an offender is barred. Until then it is
    no candidate and its ballot has half the weight, rounded down: it keeps a voice, since its meters are
    those of people who did nothing.
    """
    names, counted = [], []
    for ballot in sorted(ballots):
        if epoch < barred.get(ballot.provider, 0):
            counted.append(ballot._replace(weight=ballot.weight // 2))
        else:
            names.append(ballot.provider)
            counted.append(ballot)
    return tuple(names), tuple(counted)


# ---- votes -----------------------------------------------------------------------------------------


def support(candidates: Collection[bytes], ballots: Iterable[Ballot]) -> dict[bytes, list[Ballot]]:
    """Return who counts for each candidate: ballots with weight that approve it, its own left out.

    Approvals of others than candidates count for nothing, repeated ones once. Keys and ballots are in
    order of name. ValueError if a provider votes twice or a weight is negative.
    """
    found: dict[bytes, list[Ballot]] = {candidate: [] for candidate in sorted(candidates)}
    ordered = sorted(ballots)
    for at, ballot in enumerate(ordered):
        if ballot.weight < 0 or (at and ordered[at - 1].provider == ballot.provider):
            raise ValueError("one ballot of a weight from 0 up per provider")
        for name in sorted(set(ballot.approvals)):
            if ballot.weight and name != ballot.provider and name in found:
                found[name].append(ballot)
    return found


def tally(candidates: Collection[bytes], ballots: Iterable[Ballot]) -> dict[bytes, int]:
    """Return V_j = sum of w_i over the ballots i that approve j, j != i; 0 for whom nobody approves."""
    backers = support(candidates, ballots)
    return {name: sum(ballot.weight for ballot in behind) for name, behind in backers.items()}


def tie_key(seed: bytes, name: bytes) -> bytes:
    """Return H("tie" || seed || j), by which equal votes are ordered: nobody can know it beforehand."""
    return sha256(b"tie" + seed + name)


def rank(votes: Mapping[bytes, int], seed: bytes) -> tuple[bytes, ...]:
    """Return the candidates sorted by (-V_j, H("tie" || seed || j))."""
    return tuple(sorted(votes, key=lambda name: (-votes[name], tie_key(seed, name), name)))


def phragmen(
    candidates: Collection[bytes], ballots: Iterable[Ballot], seats: int, seed: bytes
) -> tuple[bytes, ...]:
    """Return the winners of ``seats`` by sequential Phragmen, in the order in which they are elected.

    Each seat is a load of 1 that its backers share. In every step the candidate wins that leaves its
    backers with the least load: s_c = (1 + sum of w_i x_i) / (sum of w_i), then x_i := s_c for them. Loads
    are numerators over one denominator, so s_c is exact. Equal s_c: more votes, then the tie key.

    It is proportional (PJR): ballots with l/k of the weight that approve the same l candidates or more
    get l of k seats. A provider cannot approve itself, so what counts are candidates that the whole
    group approves. Candidates without backers come last, in order of rank.
    """
    backers = support(candidates, ballots)
    votes = {name: sum(ballot.weight for ballot in behind) for name, behind in backers.items()}
    order = rank(votes, seed)
    waiting = [name for name in order if votes[name]]
    loads: dict[bytes, int] = {}
    common = 1
    elected: list[bytes] = []
    while waiting and len(elected) < seats:
        best, cost = waiting[0], 0
        for name in waiting:
            own = common + sum(b.weight * loads.get(b.provider, 0) for b in backers[name])
            if name == best:
                cost = own
            elif own * votes[best] < cost * votes[name]:
                best, cost = name, own
        loads = {provider: load * votes[best] for provider, load in loads.items()}
        common *= votes[best]
        for ballot in backers[best]:
            loads[ballot.provider] = cost
        elected.append(best)
        waiting.remove(best)
    idle = [name for name in order if not votes[name]]
    return tuple(elected + idle[: max(0, seats - len(elected))])


def elect(
    candidates: Collection[bytes],
    ballots: Collection[Ballot],
    seed: bytes,
    mode: str = PLURALITY,
    seats: int = MAX_DELEGATES,
) -> Election:
    """Return list_r and alist_r of the epoch that ``seed`` opens.

    delegates:  all candidates if they are ``seats`` or fewer, else the first ``seats`` of the order
    alternates: the next min(10, rest)
    list_r = shuffle(delegates, seed_r), alist_r = shuffle(alternates, seed_r)

    The order is ``rank``, in ``PROPORTIONAL`` mode that of ``phragmen``. Whether a set of that size may
    take over is ``takes_over``'s decision.
    """
    if mode not in MODES:
        raise ValueError(f"no election mode: {mode}")
    votes = tally(candidates, ballots)
    ranking = rank(votes, seed)
    if mode == PROPORTIONAL:
        chosen = phragmen(candidates, ballots, seats + MAX_ALTERNATES, seed)
        ranking = chosen + tuple([name for name in ranking if name not in chosen])
    return Election(
        shuffle(ranking[:seats], seed, b"list"),
        shuffle(ranking[seats : seats + MAX_ALTERNATES], seed, b"alist"),
        ranking,
        votes,
    )


def takes_over(delegates: Collection[bytes]) -> bool:
    """Tell whether a set of that size may take over: 4 to 50; otherwise the old one goes on."""
    return MIN_VALIDATORS <= len(delegates) <= MAX_VALIDATORS


# ---- failure and substitution ----------------------------------------------------------------------


class RoundBlock(NamedTuple):
    """What a block of the round says of its delegates, named by their places in list_r.

    ``term`` is that of the first proposal (the header's nonce), ``proposer`` who made it, ``last_bitmap``
    whom it saw sign the block before: bit ``i`` of the little-endian number is place ``i``.
    """

    term: int
    proposer: int
    last_bitmap: bytes


class Duty(NamedTuple):
    """What one delegate missed: ``absent`` leaders in a row without it, ``failed_lead`` terms as slot 0."""

    absent: int
    failed_lead: int


def absences(n: int, blocks: Sequence[RoundBlock]) -> tuple[int, ...]:
    """Return the greatest number of distinct leaders in a row in whose tenures a delegate never appears.

    A tenure is a run of blocks of one proposer in one term; its bitmaps are what that leader reports, so
    one Byzantine leader counts once, however often it leads. A delegate that leads is there. The bitmap of
    a tenure's first block is about a block of the leader before, who made its certificates with whose votes
    it liked: it tells who is there, and not who is absent. ``blocks`` begin with the round's first, whose
    bitmap is about the set before and says nothing.
    """
    most = [0] * n
    rows: list[set[int]] = [set() for _ in range(n)]
    for leader, seen, reports in _tenures(blocks):
        for place in range(n):
            if place == leader or seen >> place & 1:
                rows[place].clear()
            elif reports:
                rows[place].add(leader)
                most[place] = max(most[place], len(rows[place]))
    return tuple(most)


def _tenures(blocks: Sequence[RoundBlock]) -> list[tuple[int, int, bool]]:
    """Return (leader, bits of all that appear in its bitmaps, whether it has two blocks) of each tenure."""
    found: list[tuple[int, int, bool]] = []
    last: tuple[int, int] | None = None
    for count, block in enumerate(blocks):
        bits = int.from_bytes(block.last_bitmap, "little") if count else 0
        if last == (block.term, block.proposer):
            found[-1] = (block.proposer, found[-1][1] | bits, True)
        else:
            found.append((block.proposer, bits, False))
        last = (block.term, block.proposer)
    return found


def failed_leads(n: int, seed: bytes, terms: Sequence[int]) -> tuple[int, ...]:
    """Return in how many terms between two consecutive blocks each delegate held slot 0.

    ``terms`` are those of the round's blocks in order of height. A whole cycle (terms c n to c n + n - 1)
    gives everybody slot 0 once and is counted without being walked, however far two terms are apart.
    """
    counts = [0] * n
    for earlier, later in pairwise(terms):
        first, border = earlier + 1, -(-(earlier + 1) // n) * n
        cycles = max(0, later - border) // n
        counts = [count + cycles for count in counts]
        walked = [*range(first, min(border, later)), *range(border + cycles * n, later)]
        for cycle, turn in [divmod(term, n) for term in walked]:
            counts[permutation(seed, cycle, n)[turn]] += 1
    return tuple(counts)


def duties(n: int, seed: bytes, blocks: Sequence[RoundBlock]) -> tuple[Duty, ...]:
    """Return the counters of every delegate, by its place, for the blocks of a round so far."""
    leads = failed_leads(n, seed, [block.term for block in blocks])
    return tuple([Duty(*pair) for pair in zip(absences(n, blocks), leads, strict=True)])


def failed(duty: Sequence[Duty]) -> tuple[int, ...]:
    """Return the places that failed, the worst first.

    Failed is who was absent under f + 1 distinct leaders in a row, or has 3 failed leads more than the
    delegate with the fewest: terms without a block in which nobody could lead are nobody's fault. In order of
    what was missed, then of place.
    """
    bound = faults(len(duty)) + 1
    shared = min(each.failed_lead for each in duty)
    own = [(each.absent >= bound, each.absent, each.failed_lead - shared) for each in duty]
    places = [place for place, (away, _, leads) in enumerate(own) if away or leads >= FAILED_LEADS]
    return tuple(sorted(places, key=lambda place: (*[-part for part in own[place]], place)))


def substitute(
    delegates: Sequence[bytes], alternates: Sequence[bytes], places: Sequence[int], seed: bytes, height: int
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Replace failed delegates at a substitution point; return list and alist from here on.

    At most f are replaced, in the order of ``places``, as long as alternates are left: failure c gets
    alist[H("sub" || seed || h || c) mod len] without replacement, numbers u32 LE. Then the list is
    shuffled under seed' = H(seed || h). The list keeps its order where nobody is replaced.
    """
    chosen, left = list(delegates), list(alternates)
    at_height = height.to_bytes(4, "little")
    for count, place in enumerate(places[: faults(len(chosen))]):
        if not left:
            break
        digest = sha256(b"sub" + seed + at_height + count.to_bytes(4, "little"))
        chosen[place] = left.pop(int.from_bytes(digest, "little") % len(left))
    if len(left) == len(alternates):
        return tuple(delegates), tuple(alternates)
    return shuffle(chosen, sha256(seed + at_height), b"list"), tuple(left)
