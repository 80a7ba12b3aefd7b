"""Who has a place of its own, and who makes room for it."""

from hypothesis import given
from hypothesis import strategies as st

from p2p import limits
from p2p.bans import BY_HAND, BanTable
from p2p.places import Places, Stranger, newer_stays, surplus


def name(number):
    return number.to_bytes(32, "big")


def test_a_place_is_for_ever_or_until_others_are_protected():
    places = Places()
    places.pin(name(1))
    assert places.protect([name(2), name(3), name(2)]) == (name(2), name(3))
    assert [name(number) in places for number in range(5)] == [False, True, True, True, False]
    assert places.protect([name(1), name(4)]) == (name(1), name(4))
    assert [name(number) in places for number in range(5)] == [False, True, False, False, True]
    assert places.protect([]) == ()
    assert name(1) in places


def test_protected_places_are_bounded_and_the_first_named_have_them():
    places = Places()
    taken = places.protect(map(name, range(1_000_000)))
    assert taken == tuple(map(name, range(limits.MAX_PROTECTED)))
    assert name(limits.MAX_PROTECTED) not in places


def test_who_misbehaved_goes_first_then_who_is_many_then_the_youngest():
    strangers = [
        Stranger(1, 0, "a", 100),
        Stranger(2, 0, "b", 50),
        Stranger(3, 0, "b", 60),
        Stranger(4, 0, "c", 900),
        Stranger(5, 30, "d", 1),
        Stranger(6, 0, "b", 10),
    ]
    assert surplus(strangers, 0) == [5, 3, 2, 4, 1, 6]
    assert surplus(strangers[::-1], 2) == [5, 3, 2, 4]
    assert surplus(strangers, 6) == []


strangers = st.lists(
    st.builds(Stranger, st.integers(0, 99), st.integers(0, 99), st.sampled_from("abc"), st.integers(0, 9)),
    unique_by=lambda one: one.id,
    max_size=40,
)


@given(strangers, st.integers(0, 40), st.randoms(use_true_random=False))
def test_no_more_go_than_have_to_whatever_their_order(those, room, dice):
    gone = surplus(those, room)
    assert len(gone) == max(0, len(those) - room)
    shuffled = list(those)
    dice.shuffle(shuffled)
    assert surplus(shuffled, room) == gone
    staying = [one.score for one in those if one.id not in gone]
    assert all(one.score >= max(staying, default=0) for one in those if one.id in gone)


@given(st.booleans(), st.booleans(), st.booleans())
def test_both_sides_keep_the_same_connection(inbound, old_inbound, lower):
    here = newer_stays(inbound, old_inbound, lower=lower)
    there = newer_stays(not inbound, not old_inbound, lower=not lower)
    assert here is there
    if inbound != old_inbound:
        assert newer_stays(old_inbound, inbound, lower=lower) is not here


def test_a_ban_for_faults_is_shortened_but_not_one_by_hand():
    bans = BanTable()
    bans.ban(b"a", 1_000, "bad-vote")
    bans.ban(b"b", 1_000, BY_HAND)
    bans.ban(b"c", 100, "bad-vote")
    for each in (b"a", b"b", b"c", b"d"):
        bans.shorten(each, 500)
    assert bans.entries(0) == [(b"a", 500, "bad-vote"), (b"b", 1_000, BY_HAND), (b"c", 100, "bad-vote")]
