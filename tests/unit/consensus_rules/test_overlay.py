"""Overlays against a plain dict that was really changed."""

from hypothesis import given
from hypothesis import strategies as st

from consensus.overlay import CoinOverlay, Nothing, ReadOnce, StateOverlay, read_many

keys = st.binary(max_size=3)
diffs = st.dictionaries(keys, st.none() | st.binary(min_size=1, max_size=2), max_size=12)


def merged(*layers):
    data = {}
    for layer in layers:
        data.update(layer)
    return {key: value for key, value in sorted(data.items()) if value is not None}


@given(diffs, diffs, diffs, keys)
def test_stacked_views_equal_the_changed_map(one, two, three, prefix):
    view = StateOverlay(StateOverlay(StateOverlay(Nothing(), one), two), three)
    expected = merged(one, two, three)
    assert list(view.scan(b"")) == list(expected.items())
    assert list(view.scan(prefix)) == [i for i in expected.items() if i[0].startswith(prefix)]
    asked = [*one, prefix, *two, *three, prefix]
    assert [view.get(key) for key in asked] == [expected.get(key) for key in asked]
    once = ReadOnce(view)
    once.get(prefix)
    for each in (view, once, once):
        assert read_many(each, asked) == [expected.get(key) for key in asked]


@given(diffs, st.lists(st.tuples(keys, st.none() | st.binary(min_size=1, max_size=2))))
def test_put_is_seen_by_get_and_scan(base, writes):
    view = StateOverlay(StateOverlay(Nothing(), base), {})
    expected = dict(base)
    for key, value in writes:
        view.put(key, value)
        expected[key] = value
    assert list(view.scan(b"")) == list(merged(expected).items())
    assert view.diff == dict(writes)


def test_scan_stays_in_order_while_keys_are_put():
    view = StateOverlay(StateOverlay(Nothing(), {b"b": b"1", b"f": b"1"}), {b"a": b"1", b"d": b"1"})
    seen = []
    for key, _ in view.scan(b""):
        seen.append(key)
        view.put(b"c", b"new")
        view.put(b"0", b"new")
    assert seen == sorted(seen)
    assert {b"a", b"b", b"d", b"f"} <= set(seen)
    assert b"0" not in seen


@given(diffs, diffs)
def test_coins(one, two):
    view = CoinOverlay(CoinOverlay(Nothing(), one), two)
    expected = merged(one, two)
    assert all(view.get(key) == expected.get(key) for key in [*one, *two, b"other"])


def test_prefetch_asks_only_for_what_lies_below(tools):
    base = tools.DictView({})
    CoinOverlay(CoinOverlay(base, {b"1": None}), {b"2": b"x"}).prefetch([b"1", b"2", b"3"])
    assert base.prefetched == [[b"3"]]
    CoinOverlay(Nothing(), {}).prefetch([b"1"])
