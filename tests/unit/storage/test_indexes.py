"""The optional indexes against a naive computation: slices, reorganisations, kills, switching on and off."""

import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import StorageError
from storage import limits, schema
from storage.address_view import address_view
from storage.follower import Follower
from storage.indexes import AddressIndex, TxIndex, height_order, script_hash
from storage.schema import Mode, Phase
from storage.side import ADDRESS_INDEX, TX_INDEX
from storage.store import ChainStore
from tests.unit.storage.chainkit import abandon
from tests.unit.storage.indexkit import (
    ALL_SCRIPTS,
    CHAIN_ID,
    SCRIPTS,
    RandomChain,
    assert_indexed,
    assert_txs_found,
    indexed_unspent,
    run_out,
    unspent_of,
)

CACHE_BYTES = 1 << 20


class World:
    """A store, the chain that it must hold, and the two followers."""

    def __init__(self, path, seed, *, tx=True, address=True):
        print("seed", seed)
        self.path, self.rng = path, Random(seed)
        self.chain = RandomChain(self.rng)
        self.open(tx=tx, address=address)

    def open(self, *, tx=True, address=True):
        self.store = ChainStore.open(self.path, chain_id=CHAIN_ID, cache_bytes=CACHE_BYTES)
        self.tx = Follower.open(self.store, TxIndex(), wanted=tx)
        self.address = Follower.open(self.store, AddressIndex(), wanted=address)

    def reopen(self, *, kill=False, **wanted):
        abandon(self.store) if kill else self.store.close()
        self.open(**wanted)

    def grow(self, count, width=6):
        for _ in range(count):
            self.store.connect(self.chain.connect(self.chain.make_block(width)))

    def shrink(self, count):
        for _ in range(count):
            self.store.disconnect(*self.chain.disconnect())

    def move(self, move, count):
        if move == "grow":
            self.grow(count)
        elif move == "shrink":
            self.shrink(min(count, len(self.chain.blocks) - 1))
        elif move == "step":
            for _ in range(count):
                self.tx.step()
                self.address.step()
        elif move == "off and on":
            self.reopen(tx=False, address=False)
            self.tx.step()
            self.address.step()
            self.reopen()
        else:
            self.reopen(kill=move == "kill")

    def run_out(self):
        return run_out(self.tx, self.address)

    def entries(self, *spaces):
        index = self.store._index
        return [key for space in spaces for key, _ in index.scan_from(space, bytes([space[0] + 1]))]


@pytest.fixture
def make_world(tmp_path):
    worlds = []

    def make(seed=1, **wanted):
        worlds.append(World(tmp_path / f"data-{len(worlds)}", seed, **wanted))
        return worlds[-1]

    yield make
    for world in worlds:
        world.store.close()


@pytest.fixture
def tiny_slices(monkeypatch):
    """Cut the work into so small batches that most end within a block."""
    monkeypatch.setattr(limits, "SIDE_SLICE_ITEMS", 3)


def test_the_address_index_is_what_blocks_and_coins_say(make_world):
    world = make_world()
    world.grow(30)
    world.run_out()
    assert world.address.is_synced
    assert world.address.height == 29
    assert_indexed(world.store, world.chain)


@pytest.mark.parametrize("depth", [1, 7])
def test_it_follows_a_reorganisation(make_world, depth):
    world = make_world(2)
    world.grow(12)
    world.run_out()
    world.shrink(depth)
    assert not world.address.is_synced
    world.grow(depth + 1)
    world.run_out()
    assert_indexed(world.store, world.chain)


def test_it_goes_back_when_the_chain_only_becomes_shorter(make_world, tiny_slices):
    world = make_world(3)
    world.grow(9)
    world.run_out()
    world.shrink(5)
    world.run_out()
    assert world.address.height == 3
    assert_indexed(world.store, world.chain)


MOVES = st.one_of(
    st.tuples(st.just("grow"), st.integers(1, 3)),
    st.tuples(st.just("shrink"), st.integers(1, 3)),
    st.tuples(st.just("step"), st.integers(1, 20)),
    st.tuples(st.sampled_from(["kill", "restart", "off and on"]), st.just(0)),
)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([1, 2, 5, 1000]), st.lists(MOVES, max_size=40))
def test_random_histories_with_kills_between_any_two_batches(seed, slice_items, moves):
    """Blocks come and go while the index is anywhere, and a kill may follow any batch."""
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "SIDE_SLICE_ITEMS", slice_items)
        world = World(Path(home) / "data", seed)
        try:
            world.grow(2)
            for move, count in moves:
                world.move(move, count)
            world.run_out()
            assert_indexed(world.store, world.chain)
            assert_txs_found(world.store, world.chain)
        finally:
            world.store.close()


def test_slices_are_bounded_and_progress_moves_with_the_entries(make_world, monkeypatch):
    world = make_world(4)
    world.grow(3)
    world.grow(1, width=60)
    monkeypatch.setattr(limits, "SIDE_SLICE_ITEMS", 10)
    seen, phases = set(), set()
    while world.address.has_work:
        world.address.step()
        now = set(world.entries(schema.HISTORY, schema.UNSPENT))
        assert len(now ^ seen) <= 10
        seen = now
        progress = world.store.side.progress(ADDRESS_INDEX)
        phases.add(progress.phase)
        if progress.phase is Phase.CONNECTING:
            assert progress.done > 0
    assert phases == {Phase.WHOLE, Phase.CONNECTING}
    assert_indexed(world.store, world.chain)


@pytest.mark.parametrize(
    ("limit", "value"), [("SIDE_SLICE_BYTES", 500), ("SIDE_SLICE_BODY_BYTES", 1), ("SIDE_SLICE_BLOCKS", 2)]
)
def test_each_bound_ends_a_slice(make_world, monkeypatch, limit, value):
    world = make_world(5)
    world.grow(8)
    monkeypatch.setattr(limits, limit, value)
    assert world.run_out() >= 4
    assert_indexed(world.store, world.chain)


def test_a_view_is_of_one_block_while_the_index_moves_on(make_world):
    world = make_world(6)
    world.grow(5)
    world.run_out()
    coins = unspent_of(world.store.iterate_coins())
    with address_view(world.store) as view:
        world.grow(6)
        world.shrink(2)
        world.run_out()
        assert view.place.height == 4
        for script in SCRIPTS:
            with view.unspent([script_hash(script)]) as rows:
                assert [row.prevout for _, row in rows] == [row[1] for row in coins.get(script, [])]
    assert indexed_unspent(world.store) == unspent_of(world.store.iterate_coins()) != coins


def test_scripts_are_merged_in_chain_order_and_ranges_cut(make_world):
    world = make_world(7)
    world.grow(20)
    world.run_out()
    expected = sorted(
        (*row[:4], number)
        for number, script in enumerate(SCRIPTS)
        for row in world.chain.history().get(script, [])
    )
    hashes = [script_hash(script) for script in SCRIPTS]
    with address_view(world.store) as view:
        with view.history(hashes) as rows:
            found = [(r.height, r.place, r.side, r.number, number) for number, r in rows]
        assert found == expected
        with view.history(hashes, height_order(5), height_order(9)) as rows:
            assert [r.height for _, r in rows] == [row[0] for row in expected if 5 <= row[0] < 9]
        with view.history(hashes) as rows:  # leaving early must let the iterators go
            order = next(iter(rows))[1].order
        with view.history(hashes, order + b"\x00") as rows:
            assert len(list(rows)) == len(expected) - 1


def test_within_a_block_there_is_no_view(make_world, tiny_slices):
    world = make_world(8)
    world.grow(4)
    world.run_out()
    world.grow(1, width=30)
    world.address.step()
    assert world.address.height == 3
    with address_view(world.store) as view:
        assert view is None


def test_it_is_built_for_a_chain_that_is_there_already(make_world):
    world = make_world(9, address=False)
    world.grow(15)
    assert not world.address.has_work
    assert world.entries(schema.HISTORY, schema.UNSPENT) == []
    world.reopen(kill=True)
    assert world.address.height == -1
    world.run_out()
    assert_indexed(world.store, world.chain)


def test_switched_off_its_entries_go_in_slices(make_world, tiny_slices):
    world = make_world(10)
    world.grow(6)
    world.run_out()
    world.reopen(address=False)
    with address_view(world.store) as view:
        assert view is None
    world.address.step()
    world.reopen(address=False, kill=True)
    assert world.store.side.progress(ADDRESS_INDEX).mode is Mode.DROP
    assert world.run_out() > 2
    assert world.entries(schema.HISTORY, schema.UNSPENT, schema.PROGRESS) == []
    world.reopen()
    world.run_out()
    assert_indexed(world.store, world.chain)


def test_switched_on_again_while_it_is_removed_it_begins_anew(make_world, tiny_slices):
    world = make_world(11)
    world.grow(6)
    world.run_out()
    world.reopen(address=False)
    world.address.step()
    world.shrink(2)
    world.grow(3)
    world.reopen(address=True)
    world.run_out()
    assert_indexed(world.store, world.chain)


def test_the_transaction_index_costs_nothing_while_it_is_kept(make_world):
    world = make_world(12)
    world.grow(5)
    assert not world.tx.has_work
    assert world.tx.height == 4
    assert world.store.side.progress(TX_INDEX) is None
    assert_txs_found(world.store, world.chain)


def test_without_transaction_index_nothing_is_entered_or_found(make_world):
    world = make_world(13, tx=False)
    world.grow(5)
    assert world.entries(schema.TX) == []
    assert world.store.find_tx(world.chain.blocks[2].txs[0].txid) is None
    assert not world.tx.is_synced


def test_the_transaction_index_is_dropped_and_built_again(make_world, tiny_slices):
    world = make_world(14)
    world.grow(6)
    world.reopen(tx=False)
    assert world.store.find_tx(world.chain.blocks[2].txs[0].txid) is None
    world.grow(2)
    world.run_out()
    assert world.entries(schema.TX) == []

    world.reopen(tx=True)
    for _ in range(3):
        world.tx.step()
    assert world.store.find_tx(world.chain.blocks[0].txs[0].txid) == (0, 0)
    world.reopen(tx=True, kill=True)
    world.shrink(2)
    world.grow(4)
    assert world.store.side.progress(TX_INDEX).mode is Mode.FOLLOW
    world.run_out()
    assert world.store.side.progress(TX_INDEX) is None
    world.grow(2)
    assert world.tx.is_synced
    assert_txs_found(world.store, world.chain)


@pytest.mark.parametrize("seed", range(4))
def test_a_transaction_index_under_construction_survives_reorganisations(make_world, tiny_slices, seed):
    """The same transaction may be in blocks of two branches; what is found is where it is now."""
    world = make_world(100 + seed, tx=False)
    world.grow(10)
    world.reopen(tx=True)
    while world.tx.has_work:
        world.tx.step()
        if world.rng.random() < 0.3 and len(world.chain.blocks) > 5:
            world.shrink(2)
            world.grow(1 + world.rng.randrange(2))
    world.shrink(3)
    world.grow(2)
    assert_txs_found(world.store, world.chain)


def test_a_block_that_cannot_be_taken_off_makes_the_index_begin_anew(make_world, tiny_slices):
    """Bodies off the chain are of no value to the store; the index must not need them for ever."""
    world = make_world(15)
    world.grow(6)
    world.run_out()
    stale = world.store.tip_hash
    world.shrink(1)
    world.grow(2)
    body = world.store.body
    world.store.body = lambda block_hash: None if block_hash == stale else body(block_hash)
    world.run_out()
    assert_indexed(world.store, world.chain)


@pytest.mark.parametrize("what", ["body", "undo"])
def test_a_block_of_the_chain_that_cannot_be_read_stops_the_node(make_world, what):
    world = make_world(19)
    world.grow(5)
    setattr(world.store, what, lambda block_hash: None)
    with pytest.raises(StorageError) as caught:
        world.run_out()
    assert caught.value.code == "segment-corrupt"


def test_undo_data_of_another_block_stop_the_node(make_world):
    world = make_world(20)
    world.grow(12)
    undo = world.store.undo
    world.store.undo = lambda block_hash: undo(world.store.block_hash(0))
    with pytest.raises(StorageError) as caught:
        world.run_out()
    assert caught.value.code == "segment-corrupt"
    assert "nobody knows the coin" in str(caught.value)


def test_a_chain_without_its_first_blocks_is_refused(make_world, monkeypatch):
    world = make_world(16, address=False, tx=False)
    prune_first_file(world, monkeypatch)
    assert world.store.pruned_below > 3
    world.store.close()
    with pytest.raises(StorageError) as caught:
        world.open()
    assert caught.value.code == "index-needs-blocks"
    assert "address_index = false" in caught.value.fix
    world.store.close()

    world.open(address=False, tx=True)
    world.run_out()
    for height, block in enumerate(world.chain.blocks):
        place = (height, 0) if height >= world.store.pruned_below else None
        assert world.store.find_tx(block.txs[0].txid) == place


def test_pruning_takes_the_history_of_its_blocks_and_leaves_the_unspent_outputs(make_world, monkeypatch):
    world = make_world(17)
    prune_first_file(world, monkeypatch)
    below = world.store.pruned_below
    assert below > 3
    assert indexed_unspent(world.store) == unspent_of(world.store.iterate_coins())
    heights = [int.from_bytes(key[33:37], "big") for key in world.entries(schema.HISTORY)]
    assert min(heights) == below
    with address_view(world.store) as view:
        assert view.place.history_from == below
        with view.history([script_hash(script) for script in ALL_SCRIPTS]) as rows:
            found = [(r.height, r.place, r.side, r.number) for _, r in rows]
    rows = sorted(row for rows in world.chain.history().values() for row in rows)
    assert found == [row[:4] for row in rows if row[0] >= below]
    world.shrink(2)
    world.grow(5)
    world.run_out()
    assert indexed_unspent(world.store) == unspent_of(world.store.iterate_coins())


def test_pruning_leaves_what_an_unfinished_index_needs(make_world, monkeypatch):
    world = make_world(18, address=False)
    monkeypatch.setattr("storage.segments.limits.SEGMENT_BYTES", 4000)
    monkeypatch.setattr(limits, "KEEP_BLOCKS_MIN", 3)
    world.grow(40)
    world.reopen()
    monkeypatch.setattr(limits, "SIDE_SLICE_BLOCKS", 2)
    world.address.step()
    assert world.address.height == 1
    world.store.prune(30)
    assert world.store.pruned_below <= 2
    world.run_out()
    assert_indexed(world.store, world.chain)


def test_pruning_leaves_what_an_index_on_a_branch_that_was_left_needs(make_world, monkeypatch):
    """It takes the branch off block by block, so the blocks from the fork on must be there, on both sides."""
    world = make_world(19)
    monkeypatch.setattr("storage.segments.limits.SEGMENT_BYTES", 4000)
    monkeypatch.setattr(limits, "KEEP_BLOCKS_MIN", 3)
    world.grow(25)
    world.run_out()
    assert world.address.height == 24
    world.shrink(12)
    world.grow(40)
    assert world.store.prunable(40) == 12
    world.store.prune(40)
    assert world.store.pruned_below <= 12
    world.run_out()
    assert indexed_unspent(world.store) == unspent_of(world.store.iterate_coins())
    world.store.prune(40)
    assert world.store.pruned_below > 12


def prune_first_file(world, monkeypatch):
    """Grow the chain over several segment files and let the first ones go."""
    monkeypatch.setattr("storage.segments.limits.SEGMENT_BYTES", 4000)
    monkeypatch.setattr(limits, "KEEP_BLOCKS_MIN", 3)
    world.grow(40)
    world.run_out()
    world.store.prune(30)
