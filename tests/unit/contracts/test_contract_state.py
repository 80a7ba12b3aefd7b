"""The session overlay against a plain dict, and records against the canonical encoder."""

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import canonical
from contracts import records
from contracts.state import SessionState

KEY = st.text("ab/", min_size=1, max_size=3).map(str.encode)
VALUE = st.binary(max_size=2)
STEP = st.one_of(
    st.tuples(st.just("put"), KEY, VALUE),
    st.tuples(st.just("put_many"), st.dictionaries(KEY, VALUE, max_size=4), st.none()),
    st.tuples(st.just("get_many"), st.lists(KEY, max_size=8), st.none()),
    st.tuples(st.just("under"), KEY, st.lists(KEY, max_size=8)),
    st.tuples(st.just("delete"), KEY, st.none()),
    st.tuples(st.just("save"), st.none(), st.none()),
    st.tuples(st.just("rollback"), st.none(), st.none()),
    st.tuples(st.just("scan"), KEY, st.none()),
)


@given(st.dictionaries(KEY, VALUE), st.lists(STEP, max_size=40))
@settings(max_examples=300)
def test_the_overlay_behaves_like_a_dict_with_copies(kit, base, steps):
    state, model = SessionState(kit.DictState(base)), dict(base)
    saved = []
    for kind, key, value in steps:
        if kind == "put":
            state.put(key, value)
            model[key] = value
        elif kind == "put_many":
            state.put_many(key)
            model |= key
        elif kind == "get_many":
            assert state.get_many(key) == [model.get(each) for each in key]
        elif kind == "under":
            keys = [key + each for each in value]
            assert state.get_many_under(key, keys) == [model.get(each) for each in keys]
        elif kind == "delete":
            state.delete(key)
            model.pop(key, None)
        elif kind == "save":
            saved.append((state.savepoint(), dict(model)))
        elif kind == "rollback" and saved:
            mark, model = saved.pop()
            state.rollback(mark)
        elif kind == "scan":
            assert list(state.scan(key)) == sorted(i for i in model.items() if i[0].startswith(key))
    assert list(state.scan(b"")) == sorted(model.items())
    for key in [*base, *model, b"zz"]:
        assert state.get(key) == model.get(key)
    writes = state.writes()
    assert list(writes) == sorted(writes)
    after = dict(base) | {key: value for key, value in writes.items() if value is not None}
    assert {key: after[key] for key in after if writes.get(key, b"") is not None} == model


def test_a_scan_does_not_see_writes_made_while_it_runs(kit):
    state = SessionState(kit.DictState({b"a": b"1", b"c": b"3"}))
    state.put(b"b", b"2")
    seen = []
    for key, _ in state.scan(b""):
        seen.append(key)
        state.put(key + b"x", b"")
        state.delete(b"c")
    assert seen == [b"a", b"b", b"c"]


def test_keeping_ends_what_can_be_taken_back(kit):
    state = SessionState(kit.DictState())
    mark = state.savepoint()
    state.put(b"a", b"1")
    state.keep()
    state.rollback(mark)
    assert state.writes() == {b"a": b"1"}


FIELD = st.one_of(
    st.none(), st.integers(0, 2**64 - 1), st.binary(max_size=300), st.text(max_size=40), st.booleans()
)


@given(st.recursive(FIELD, lambda inner: st.lists(inner, max_size=20).map(tuple), max_leaves=20))
def test_records_are_canonical(value):
    record = (value,)
    assert records.pack(record) == canonical.encode(record)
    assert records.unpack(records.pack(record)) == record


def test_every_record_type_survives():
    for kind in (
        records.Account(1, 2, 3, 4),
        records.Member(b"p", 5, (b"d" * 32, b"e" * 32)),
        records.Device(b"o", b"p", "c", 1, None),
        records.Market("open", 1, None, 5),
        records.Order(b"a", "buy", 1, 2, 3, 4),
        records.Trade(b"b", b"s", 1, 2),
        records.Reading(b"o", 1, 2, b"h", 3),
        records.Outcome("accepted", 1, bytes(32)),
        records.Totals(*range(14)),
    ):
        assert type(kind)(*records.unpack(records.pack(kind))) == kind
