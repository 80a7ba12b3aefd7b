from hypothesis import given
from hypothesis import strategies as st

from storage import schema

U32 = st.integers(0, (1 << 32) - 2)
HASH = st.binary(min_size=32, max_size=32)
POSITION = st.none() | st.builds(schema.Position, U32, U32, U32)


@given(st.builds(schema.BlockRecords, U32, POSITION, POSITION, POSITION))
def test_block_records_round_trip(records: schema.BlockRecords) -> None:
    assert schema.decode_block(schema.encode_block(records)) == records


@given(U32, HASH, st.binary())
def test_tip_round_trips(height: int, block_hash: bytes, tip: bytes) -> None:
    assert schema.decode_tip(schema.encode_tip(height, block_hash, tip)) == (height, block_hash, tip)


@given(U32, U32, HASH)
def test_tx_and_pending_entries_round_trip(height: int, index: int, block_hash: bytes) -> None:
    assert schema.decode_tx(schema.encode_tx(height, index, block_hash)) == (height, index, block_hash[:8])
    assert schema.parse_pending_key(schema.pending_key(height, block_hash)) == (height, block_hash)
    assert schema.decode_watermark(schema.encode_watermark(height, index)) == (height, index)


@given(U32, U32)
def test_keys_sort_as_their_numbers(one: int, other: int) -> None:
    assert (schema.header_key(one) < schema.header_key(other)) == (one < other)
    assert (schema.mark_key(one) < schema.mark_key(other)) == (one < other)


def test_prefixes_are_distinct_single_bytes() -> None:
    names = "VERSION CHAIN_ID SEQUENCE MARK_FLOOR MARK TIP WATERMARK HEADER BLOCK PENDING COIN STATE TX"
    prefixes = [getattr(schema, name) for name in names.split()]
    assert all(len(prefix) == 1 for prefix in prefixes)
    assert len(set(prefixes)) == len(prefixes)
