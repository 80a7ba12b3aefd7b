"""Failure and substitution of delegates, from what a round's blocks say."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from consensus import dpos
from consensus.bft import slots
from consensus.bft.certificates import bitmap_of
from consensus.dpos import Duty, RoundBlock
from consensus.hashes import sha256

SEED = sha256(b"another round")
NAMES = tuple([b"sp-%02d" % at for at in range(7)])
ALL = frozenset(range(7))


def story(*tenures, n=7):
    """Blocks of a round: (term, leader, who appears in the bitmap of each block but its first)."""
    nobody = bytes((n + 7) // 8)
    blocks = [RoundBlock(1, 0, nobody)]
    for term, leader, *bitmaps in tenures:
        blocks.append(RoundBlock(term, leader, nobody))
        blocks += [RoundBlock(term, leader, bitmap_of(sorted(seen), n)) for seen in bitmaps]
    return blocks


def test_a_delegate_is_absent_where_a_leader_never_reports_it():
    blocks = story((2, 1, ALL - {3}, ALL - {3}), (3, 2, ALL - {3}), (4, 4, ALL - {3, 5}))
    assert dpos.absences(7, blocks) == (0, 0, 0, 3, 0, 1, 0)


def test_one_signature_in_a_tenure_is_enough_and_ends_the_row():
    blocks = story((2, 1, ALL - {3}), (3, 2, ALL - {3}, ALL), (4, 4, ALL - {3}))
    assert dpos.absences(7, blocks)[3] == 1
    # who leads is there, whatever it writes about itself
    blocks = story((2, 1, ALL - {3}), (3, 3, ALL - {3}), (4, 4, ALL - {3}))
    assert dpos.absences(7, blocks)[3] == 1


def test_one_leader_cannot_frame_a_delegate_however_often_it_leads():
    framing = [(2 * at, 1, ALL - {3}) for at in range(1, 30)]
    assert dpos.absences(7, story(*framing))[3] == 1
    # two liars that take turns are two, and f = 2 of them do not suffice
    taking_turns = [(at, 1 + at % 2, ALL - {3}) for at in range(2, 30)]
    duty = dpos.duties(7, SEED, story(*taking_turns))
    assert duty[3].absent == 2
    assert 3 not in dpos.failed(duty)


def test_a_leader_cannot_speak_through_the_one_that_follows_it():
    """What a leader's first block says of the block before comes from the certificates of who made that."""
    liar = (2, 1, ALL - {3}, ALL - {3})
    honest = [(3, 2), (4, 4), (5, 5)]  # their first bitmaps repeat what they were told, and there is no other
    assert dpos.absences(7, story(liar, *honest))[3] == 1
    # it tells who is there
    blocks = story(liar)
    blocks += [RoundBlock(3, 2, bitmap_of(sorted(ALL), 7)), RoundBlock(3, 2, bitmap_of([1, 2], 7))]
    assert dpos.absences(7, [*blocks, *story((4, 4, ALL - {3}))[1:]])[3] == 1
    # who leads one block only is there all the same
    assert dpos.absences(7, story(liar, (3, 3), (4, 2, ALL - {3})))[3] == 1


def test_the_bitmap_of_the_rounds_first_block_is_about_another_set():
    assert dpos.absences(7, [RoundBlock(1, 0, bytes(1))]) == (0,) * 7
    assert dpos.absences(7, []) == (0,) * 7


@given(st.lists(st.integers(0, 60), max_size=12), st.integers(1, 9))
def test_terms_without_a_block_are_counted_for_who_held_slot_0(steps, n):
    terms = [1]
    for step in steps:
        terms.append(terms[-1] + step)
    expected = [0] * n
    for earlier, later in pairwise(terms):
        for term in range(earlier + 1, later):
            expected[slots.order(SEED, term, n)[0]] += 1
    assert dpos.failed_leads(n, SEED, terms) == tuple(expected)


def test_a_leap_of_the_term_is_counted_in_cycles():
    assert dpos.failed_leads(4, SEED, [3, 4 + 4 * 10**9]) == (10**9,) * 4


def test_failed_is_f_plus_1_leaders_without_it_or_three_leads():
    duty = [Duty(2, 2), Duty(3, 0), Duty(0, 3), Duty(0, 0), Duty(9, 9), Duty(0, 0), Duty(0, 0)]
    assert dpos.failed(duty) == (4, 1, 2)  # the worst first


def test_terms_in_which_nobody_could_lead_are_nobodys_fault():
    outage = [Duty(0, 5), Duty(0, 6), Duty(0, 5), Duty(0, 5)]
    assert dpos.failed(outage) == ()
    assert dpos.failed([*outage[:3], Duty(0, 8)]) == (3,)
    assert dpos.failed([*outage[:3], Duty(2, 8)]) == (3,)


def test_failed_delegates_are_replaced_by_alternates_without_replacement():
    alternates = (b"x", b"y", b"z")
    chosen, left = dpos.substitute(NAMES, alternates, [1, 5], SEED, 77)
    pool, expected = list(alternates), []
    for count in range(2):
        digest = sha256(b"sub" + SEED + (77).to_bytes(4, "little") + count.to_bytes(4, "little"))
        expected.append(pool.pop(int.from_bytes(digest, "little") % len(pool)))
    assert sorted(chosen) == sorted([*[each for each in NAMES if each not in NAMES[1:6:4]], *expected])
    assert left == tuple(pool)
    again = sha256(SEED + (77).to_bytes(4, "little"))
    assert chosen == dpos.shuffle(chosen, again, b"list")
    # each height draws anew
    draws = {dpos.substitute(NAMES, alternates, [1], SEED, height)[1] for height in range(30)}
    assert len(draws) == 3


def test_at_most_f_are_replaced_and_no_more_than_there_are_alternates():
    many = tuple([b"alt-%d" % at for at in range(10)])
    chosen, left = dpos.substitute(NAMES, many, [0, 1, 2, 3], SEED, 9)
    assert len(set(NAMES) - set(chosen)) == 2
    assert set(NAMES[2:]) <= set(chosen)
    assert len(left) == 8
    chosen, left = dpos.substitute(NAMES, (b"x",), [0, 1], SEED, 9)
    assert b"x" in chosen
    assert NAMES[1] in chosen
    assert left == ()
    assert dpos.substitute(NAMES, many, [], SEED, 9) == (NAMES, many)
    assert dpos.substitute(NAMES, (), [1], SEED, 9) == (NAMES, ())


@given(
    st.integers(4, 21), st.integers(0, 10), st.lists(st.integers(0, 20), unique=True), st.integers(0, 9999)
)
def test_a_substitution_keeps_the_number_and_loses_nobody_twice(n, k, places, height):
    delegates = [b"d%02d" % at for at in range(n)]
    alternates = [b"a%02d" % at for at in range(k)]
    places = [place for place in places if place < n]
    chosen, left = dpos.substitute(delegates, alternates, places, SEED, height)
    assert len(chosen) == n
    assert len(set(chosen) | set(left)) == n + len(left)
    gone = set(delegates) - set(chosen)
    assert len(gone) == min(len(places), (n - 1) // 3, k)
    assert gone == {delegates[place] for place in places[: len(gone)]}
