from hypothesis import given
from hypothesis import strategies as st

from p2p import limits
from p2p.bans import POINTS, BanTable, Reputation, Scores, is_loopback, points_of
from p2p.limits import Rate
from p2p.rate import TokenBucket


def test_scores_add_up_and_fade():
    scores = Scores()
    assert scores.add(b"a", 20, 0) == 20
    assert scores.add(b"a", 20, 0) == 40
    assert scores.get(b"b", 0) == 0
    assert scores.get(b"a", 3 * limits.SCORE_DECAY_MS) == 37
    assert scores.add(b"a", 1, 3 * limits.SCORE_DECAY_MS) == 38
    assert scores.get(b"a", 100 * limits.SCORE_DECAY_MS) == 0


def test_fading_is_not_lost_between_faults():
    scores = Scores()
    now = 0
    for _ in range(1_000):  # one point every 12 s, faded every 10 s
        assert scores.add(b"a", 1, now) <= 2
        now += limits.SCORE_DECAY_MS * 6 // 5


def test_scores_are_bounded_and_forget():
    scores = Scores(max_entries=3)
    for name in (b"a", b"b", b"c", b"a", b"d"):
        scores.add(name, 10, 0)
    assert [scores.get(name, 0) for name in (b"a", b"b", b"c", b"d")] == [20, 0, 10, 10]
    scores.forget(b"a")
    assert scores.get(b"a", 0) == 0


def test_bans_end():
    bans = BanTable()
    bans.ban(b"a", 1_000, "bad-message")
    bans.ban(b"a", 500, "shorter")
    assert bans.remaining_ms(b"a", 400) == 600
    assert bans.entries(400) == [(b"a", 600, "bad-message")]
    assert bans.remaining_ms(b"a", 1_000) == 0
    assert bans.entries(0) == []
    assert not bans.lift(b"a")


def test_bans_are_bounded_and_can_be_lifted():
    bans = BanTable(max_entries=2)
    bans.ban(b"a", 300, "x")
    bans.ban(b"b", 100, "x")
    bans.ban(b"c", 200, "x")
    assert [name for name, _, _ in bans.entries(0)] == [b"a", b"c"]
    assert bans.lift(b"a")
    assert bans.remaining_ms(b"a", 0) == 0


def test_enough_points_are_a_ban_and_a_new_start():
    reputation = Reputation()
    assert not reputation.charge(b"a", "duplicate", 0, 0, 1_000)
    assert not reputation.charge(b"a", "bad-message", 99, 0, 1_000)
    assert reputation.charge(b"a", "bad-message", 1, 0, 1_000)
    assert reputation.bans.entries(0) == [(b"a", 1_000, "bad-message")]
    assert reputation.scores.get(b"a", 0) == 0


def test_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, ("192.0.2.1", "::ffff:192.0.2.1", "localhost", "", "fe80::1%eth0")))


def test_codes_are_kebab_case():
    assert all(code == code.lower() and " " not in code and "_" not in code for code in POINTS)
    assert all(len(code) <= limits.MAX_CODE_CHARS for code in POINTS)
    assert points_of("bad-witness-nonce-size") > 0


@given(st.integers(1, 50), st.integers(1, 100), st.lists(st.integers(0, 300), max_size=60))
def test_bucket_never_gives_more_than_rate_and_burst(per_s, burst, steps):
    bucket = TokenBucket(Rate(per_s, burst), 0)
    now = taken = 0
    for step in steps:
        now += step
        taken += bucket.take(now)
        assert taken <= burst + now * per_s / 1_000


def test_bucket_gives_all_that_was_saved():
    bucket = TokenBucket(Rate(1, 3), 0)
    assert [bucket.take(0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(999)
    assert bucket.take(1_000)
    assert bucket.take_up_to(60_000, 10) == 3
    assert bucket.take_up_to(60_000, 10) == 0
    assert not bucket.take(61_000, 2)
    assert bucket.take(62_000, 2)


def test_bucket_debt():
    bucket = TokenBucket(Rate(1_000, 1_000), 0)
    assert bucket.owe(0, 1_000) == 0
    assert bucket.owe(0, 500) == 501
    assert bucket.owe(1_000, 0) == 0


def test_time_that_runs_backwards_gives_nothing():
    bucket = TokenBucket(Rate(1, 1), 10_000)
    assert bucket.take(10_000)
    assert not bucket.take(0)
    assert not bucket.take(10_500)
    assert bucket.take(11_000)
