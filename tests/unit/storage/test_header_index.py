"""The header index of a proof-of-work chain: branches, marks, order, and what a restart finds."""

from hypothesis import given
from hypothesis import strategies as st

from storage.headers import HeaderRecord
from storage.store import ChainStore

CHAIN = bytes(range(32))


def record(number, height, work=1):
    return HeaderRecord(number.to_bytes(32, "big"), height, number.to_bytes(80, "big"), work)


def test_headers_are_found_by_hash_and_by_height_also_after_a_restart(tmp_path):
    records = [record(1, 0, 5), record(2, 1, 10), record(3, 1, 2**255), record(4, 300, 2**256 - 1)]
    with ChainStore.open(tmp_path, chain_id=CHAIN) as store:
        store.headers.put(records)
        store.headers.mark(records[2].block_hash, "bad-cb-amount")
        store.headers.mark(records[3].block_hash, "high-hash")
        store.headers.unmark(records[3].block_hash)
    with ChainStore.open(tmp_path, chain_id=CHAIN) as store:
        assert [store.headers.get(each.block_hash) for each in records] == records
        assert store.headers.get(bytes(32)) is None
        assert list(store.headers.above(0)) == records[1:]
        assert list(store.headers.above(1)) == records[3:]
        assert store.headers.marks() == {records[2].block_hash: "bad-cb-amount"}


@given(heights=st.lists(st.integers(0, 2**32 - 2), unique=True, max_size=20), floor=st.integers(0, 2**32 - 2))
def test_above_is_in_order_of_height(tmp_path_factory, heights, floor):
    with ChainStore.open(tmp_path_factory.mktemp("headers"), chain_id=CHAIN) as store:
        store.headers.put([record(number, height) for number, height in enumerate(heights)])
        found = [each.height for each in store.headers.above(floor)]
    assert found == sorted(height for height in heights if height > floor)
