"""The delegate election: against counts by hand, published elections, an exact recount, and its promises."""

from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import dpos
from consensus.bft import slots
from consensus.dpos import Ballot
from consensus.hashes import sha256

SEED = sha256(b"a round")


def name(number):
    return b"sp-%03d" % number


def named(count, start=0):
    return [name(start + at) for at in range(count)]


@st.composite
def elections(draw, most=12):
    """Candidates and one ballot of each: weights, approvals of anybody, also of strangers and of itself."""
    people = named(draw(st.integers(1, most)))
    choice = st.lists(st.sampled_from([*people, b"stranger"]), max_size=most, unique=True)
    ballots = [Ballot(who, draw(st.integers(0, 50)), tuple(draw(choice))) for who in people]
    return people, ballots


# ---- tally and order -------------------------------------------------------------------------------


def test_a_vote_counts_whole_for_each_approval_but_not_for_its_own():
    a, b, c, stranger = *named(3), b"stranger"
    ballots = [Ballot(a, 5, (a, b, stranger)), Ballot(b, 3, (a, c, c)), Ballot(c, 0, (a, b))]
    assert dpos.tally([a, b, c], ballots) == {a: 3, b: 5, c: 3}
    assert dpos.tally([a, b, c], []) == {a: 0, b: 0, c: 0}
    with pytest.raises(ValueError):
        dpos.tally([a], [Ballot(a, 1, ()), Ballot(a, 2, ())])
    with pytest.raises(ValueError):
        dpos.tally([a], [Ballot(a, -1, ())])


@given(elections())
def test_the_tally_is_the_sum_of_the_formula(election):
    people, ballots = election
    votes = dpos.tally(people, ballots)
    for j in people:
        assert votes[j] == sum(b.weight for b in ballots if j in b.approvals and b.provider != j)


@given(elections(), st.data(), st.sampled_from(dpos.MODES))
def test_the_order_of_the_input_does_not_matter(election, data, mode):
    people, ballots = election
    shuffled = [
        b._replace(approvals=tuple(data.draw(st.permutations(b.approvals))))
        for b in data.draw(st.permutations(ballots))
    ]
    again = dpos.elect(data.draw(st.permutations(people)), shuffled, SEED, mode)
    first = dpos.elect(people, ballots, SEED, mode)
    assert again == first
    assert list(again.votes) == list(first.votes)


def test_the_rank_is_by_votes_and_does_not_hang_on_the_order_of_a_dict():
    votes = {name(at): at // 3 for at in range(12)}
    first = dpos.rank(votes, SEED)
    assert first == dpos.rank(dict(reversed(votes.items())), SEED)
    assert [votes[who] for who in first] == sorted(votes.values(), reverse=True)
    tied = [who for who in first if votes[who] == 2]
    assert tied == sorted(tied, key=lambda who: sha256(b"tie" + SEED + who))


def test_equal_votes_fall_to_everybody_equally_often():
    """Chi-squared over 6 orders of 3 equals, 5 degrees of freedom: 20.5 is passed once in 1000."""
    counts = dict.fromkeys(permutations(named(3)), 0)
    rounds = 6_000
    for number in range(rounds):
        counts[dpos.rank(dict.fromkeys(named(3), 7), sha256(number.to_bytes(4, "big")))] += 1
    expected = rounds / 6
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 20.5


# ---- delegates and alternates ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("providers", "delegates", "alternates"), [(1, 1, 0), (4, 4, 0), (21, 21, 0), (25, 21, 4), (40, 21, 10)]
)
def test_the_first_21_are_delegates_and_the_next_10_alternates(providers, delegates, alternates):
    people = named(providers)
    ballots = [Ballot(people[0], 3, tuple(people[5:15])), Ballot(b"else", 2, tuple(people[10:20]))]
    found = dpos.elect(people, ballots, SEED)
    assert (len(found.delegates), len(found.alternates)) == (delegates, alternates)
    assert sorted(found.delegates) == sorted(found.ranking[:21])
    assert sorted(found.alternates) == sorted(found.ranking[21:31])
    assert sorted(found.ranking) == people


def test_lists_are_shuffled_by_the_seed_alone():
    people = named(30)
    orders = [dpos.elect(people, [], sha256(bytes([at]))) for at in range(20)]
    assert len({found.delegates for found in orders}) == 20
    assert dpos.elect(people, [], SEED).delegates != dpos.elect(people, [], SEED).ranking[:21]
    # one permutation, that of the slots, under a key of its own
    key = sha256(b"list" + SEED)
    assert dpos.shuffle(people, SEED, b"list") == tuple([people[at] for at in slots.permutation(key, 0, 30)])
    assert dpos.shuffle(people, SEED, b"list") != dpos.shuffle(people, SEED, b"alist")
    assert dpos.shuffle(reversed(people), SEED, b"list") == dpos.shuffle(people, SEED, b"list")
    assert dpos.shuffle([], SEED, b"list") == ()


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError):
        dpos.elect([], [], SEED, "lottery")


@pytest.mark.parametrize(("size", "taken"), [(0, False), (3, False), (4, True), (50, True), (51, False)])
def test_a_set_that_cannot_work_leaves_the_old_one_in_place(size, taken):
    assert dpos.takes_over(named(size)) is taken


# ---- seats of the chain file, offenders ------------------------------------------------------------


@given(elections(), st.integers(1, 12), st.sampled_from(dpos.MODES))
def test_the_seats_decide_how_many_of_the_ranking_are_delegates(election, seats, mode):
    people, ballots = election
    found = dpos.elect(people, ballots, SEED, mode, seats)
    assert sorted(found.delegates) == sorted(found.ranking[:seats])
    assert sorted(found.alternates) == sorted(found.ranking[seats : seats + 10])
    assert sorted(found.ranking) == people
    everyone = dpos.elect(people, ballots, SEED, mode, len(people))
    assert found.ranking[:seats] == everyone.ranking[:seats]


@given(elections(), st.data(), st.integers(0, 20))
def test_an_offender_is_no_candidate_and_counts_half_until_its_epoch(election, data, epoch):
    people, ballots = election
    barred = data.draw(st.dictionaries(st.sampled_from([*people, b"gone"]), st.integers(0, 20)))
    out = {who for who, until in barred.items() if epoch < until}
    names, counted = dpos.eligible(data.draw(st.permutations(ballots)), barred, epoch)
    assert list(names) == [who for who in people if who not in out]
    assert [ballot.provider for ballot in counted] == people
    for before, after in zip(ballots, counted, strict=True):
        assert after.weight == (before.weight // 2 if before.provider in out else before.weight)
        assert after.approvals == before.approvals
    found = dpos.elect(names, counted, SEED)
    assert not out & set(found.ranking)


def test_an_offence_is_over_in_its_last_epoch():
    ballots = [Ballot(who, 9, ()) for who in named(5)]
    for epoch, size in ((9, 4), (10, 5), (11, 5)):
        names, counted = dpos.eligible(ballots, {name(2): 10}, epoch)
        assert len(names) == size
        assert sum(ballot.weight for ballot in counted) == (41 - 1 if epoch == 9 else 45)


# ---- seed ------------------------------------------------------------------------------------------


def test_the_seed_is_a_chain_of_hashes_over_what_was_revealed():
    seed = dpos.first_seed(bytes(32))
    assert seed == sha256(b"seed" + bytes(32))
    one, two = sha256(b"one"), sha256(b"two")
    mix = dpos.fold_reveals([one, None, two])
    assert mix == sha256(sha256(bytes(32) + one) + two)
    assert mix != dpos.fold_reveals([two, one])
    assert dpos.fold_reveals([]) == bytes(32)
    assert dpos.next_seed(seed, mix) == sha256(b"seed" + seed + mix)


# ---- sequential Phragmen ---------------------------------------------------------------------------


def phragmen_by_hand(candidates, ballots, seats, seed):
    """The same election with fractions and loads per ballot, step by step as the rule is told."""
    load = {b.provider: Fraction(0) for b in ballots}
    votes = dpos.tally(candidates, ballots)
    elected = []
    while len(elected) < min(seats, len(candidates)):
        costs = []
        for c in sorted(set(candidates) - set(elected)):
            behind = [b for b in ballots if c in b.approvals and b.provider != c and b.weight]
            if not behind:
                costs.append((1, Fraction(0), 0, sha256(b"tie" + seed + c), c))
                continue
            weight = sum(b.weight for b in behind)
            cost = (1 + sum(b.weight * load[b.provider] for b in behind)) / Fraction(weight)
            costs.append((0, cost, -votes[c], sha256(b"tie" + seed + c), c))
        idle, cost, _, _, winner = min(costs)
        elected.append(winner)
        if not idle:
            for b in ballots:
                if winner in b.approvals and b.provider != winner:
                    load[b.provider] = cost
    return tuple(elected)


@given(elections(), st.integers(0, 12))
def test_phragmen_agrees_with_a_recount_in_fractions(election, seats):
    people, ballots = election
    expected = phragmen_by_hand(people, ballots, seats, SEED)
    assert dpos.phragmen(people, ballots, seats, SEED) == expected


def people_voting(*groups):
    """Ballots of ``count`` voters, each of weight 1, for the candidates named by letters."""
    ballots, number = [], 0
    for count, letters in groups:
        for _ in range(count):
            ballots.append(Ballot(b"voter-%02d" % number, 1, tuple(bytes([ord(x)]) for x in letters)))
            number += 1
    return ballots


def letters(elected):
    return b"".join(elected).decode()


def test_a_published_election_with_loads():
    """Lackner and Skowron, Multi-Winner Voting with Approval Preferences, Example 9: a, then b and c in
    either order (11/32 both), then d."""
    ballots = people_voting((3, "ab"), (3, "ac"), (2, "ad"), (1, "bcf"), (1, "e"), (1, "f"), (1, "g"))
    candidates = [bytes([ord(x)]) for x in "abcdefg"]
    orders = {letters(dpos.phragmen(candidates, ballots, 4, sha256(bytes([number])))) for number in range(32)}
    assert orders == {"abcd", "acbd"}


def test_another_published_election():
    """The same book, Example 12: c (1/5), b (1/3), d (29/60)."""
    ballots = people_voting((3, "cd"), (2, "ab"), (2, "ac"), (1, "bd"))
    candidates = [bytes([ord(x)]) for x in "abcd"]
    assert letters(dpos.phragmen(candidates, ballots, 3, SEED)) == "cbd"


def test_phragmens_own_example():
    """1034 ABC, 519 PQR, 90 ABQ, 47 APQ and three seats: A, Q, B where a plurality would elect A, B, C."""
    groups = ((1034, "ABC"), (519, "PQR"), (90, "ABQ"), (47, "APQ"))
    ballots = [
        Ballot(b"group-%d" % at, weight, tuple(bytes([ord(x)]) for x in who))
        for at, (weight, who) in enumerate(groups)
    ]
    candidates = [bytes([ord(x)]) for x in "ABCPQR"]
    assert letters(dpos.phragmen(candidates, ballots, 3, SEED)) == "AQB"
    assert letters(dpos.rank(dpos.tally(candidates, ballots), SEED)[:3]) == "ABC"


@st.composite
def besieged(draw):
    """A group with at least 15/21 of the weight that agrees on 15 candidates or more; rivals at will."""
    own, rivals = named(draw(st.integers(15, 21)), 200), named(30, 300)
    members, others = named(draw(st.integers(1, 6))), named(draw(st.integers(1, 8)), 100)
    ballots = [Ballot(who, draw(st.integers(1, 1000)), tuple(own)) for who in members]
    room = sum(b.weight for b in ballots) * 6 // 15
    for who in others:
        weight = draw(st.integers(0, room))
        room -= weight
        targets = draw(st.lists(st.sampled_from(rivals), min_size=1, max_size=21, unique=True))
        ballots.append(Ballot(who, weight, tuple(targets)))
    return own, [*members, *others, *own, *rivals], ballots


@given(besieged(), st.binary(min_size=32, max_size=32))
def test_15_of_21_parts_of_the_weight_get_15_seats(case, seed):
    own, candidates, ballots = case
    found = dpos.elect(candidates, ballots, seed, dpos.PROPORTIONAL)
    assert sum(who in own for who in found.delegates) >= 15


@st.composite
def shares(draw):
    """Seats, and a group with ``due``/``seats`` of the weight at least that agrees on as many or more."""
    seats = draw(st.integers(4, 50))
    due = draw(st.integers(1, seats))
    own = named(draw(st.integers(due, min(50, due + 3))), 200)
    rivals = named(draw(st.integers(seats, 60)), 300)
    members, others = named(draw(st.integers(1, 5))), named(draw(st.integers(0, 6)), 100)
    ballots = [Ballot(who, draw(st.integers(1, 1000)), tuple(own)) for who in members]
    room = sum(b.weight for b in ballots) * (seats - due) // due
    for who in others:
        weight = draw(st.integers(0, room))
        room -= weight
        targets = draw(st.lists(st.sampled_from(rivals), min_size=1, max_size=50, unique=True))
        ballots.append(Ballot(who, weight, tuple(targets)))
    return seats, due, own, [*members, *others, *own, *rivals], draw(st.permutations(ballots))


@given(shares(), st.binary(min_size=32, max_size=32))
def test_a_share_of_the_weight_is_a_share_of_the_seats_however_many_there_are(case, seed):
    seats, due, own, candidates, ballots = case
    found = dpos.elect(candidates, ballots, seed, dpos.PROPORTIONAL, seats)
    assert len(found.delegates) == seats
    assert sum(who in own for who in found.delegates) >= due


@given(besieged(), st.binary(min_size=32, max_size=32), st.data())
def test_at_most_six_delegates_stand_against_15_parts_of_21_also_with_offenders(case, seed, data):
    """Offenders among the rivals' backers weigh half, which cannot help them."""
    own, candidates, ballots = case
    honest = {b.provider for b in ballots if b.approvals == tuple(own)}
    others = sorted(b.provider for b in ballots if b.provider not in honest)
    barred = {who: 3 for who in others if data.draw(st.booleans())}
    voters = {b.provider: b for b in ballots}
    everybody = [voters.get(who, Ballot(who, 0, ())) for who in candidates]
    names, counted = dpos.eligible(everybody, barred, 2)
    found = dpos.elect(names, counted, seed, dpos.PROPORTIONAL)
    assert sum(who not in own for who in found.delegates) <= 6
    assert not set(barred) & set(found.ranking)


def test_the_largest_of_a_group_may_miss_a_seat_that_only_the_small_can_give_it():
    """Nobody approves itself: 15 that approve each other agree on 15 candidates, less one for each."""
    group, rivals = named(15), named(21, 300)
    weights = [1_400, 9, *[7] * 13]
    mutual = [Ballot(who, weight, tuple(group)) for who, weight in zip(group, weights, strict=True)]
    enemy = Ballot(b"enemy", 600, tuple(rivals))
    everybody = [*group, *rivals, b"enemy"]
    found = dpos.elect(everybody, [*mutual, enemy], SEED, dpos.PROPORTIONAL)
    assert sum(who in group for who in found.delegates) == 14
    assert group[0] not in found.delegates
    # one candidate more on whom all agree, and the promise holds
    friend = name(99)
    wider = [ballot._replace(approvals=(*group, friend)) for ballot in mutual]
    found = dpos.elect([*everybody, friend], [*wider, enemy], SEED, dpos.PROPORTIONAL)
    assert sum(who in [*group, friend] for who in found.delegates) == 15


def test_a_bare_majority_takes_every_seat_by_plurality_but_not_in_proportion():
    honest, greedy = named(21, 200), named(21, 300)
    ballots = [Ballot(b"many", 501, tuple(greedy)), Ballot(b"few", 499, tuple(honest))]
    everybody = [*honest, *greedy, b"many", b"few"]
    taken = dpos.elect(everybody, ballots, SEED, dpos.PLURALITY).delegates
    assert sum(who in greedy for who in taken) == 21
    shared = dpos.elect(everybody, ballots, SEED, dpos.PROPORTIONAL).delegates
    assert sum(who in greedy for who in shared) in (10, 11)


def test_loads_stay_exact_with_many_seats_and_awkward_weights():
    people = named(40)
    ballots = [
        Ballot(who, 999_983 + 7_919 * at, tuple(people[at : at + 13] + people[: max(0, at - 27)]))
        for at, who in enumerate(people)
    ]
    assert dpos.phragmen(people, ballots, 31, SEED) == phragmen_by_hand(people, ballots, 31, SEED)
