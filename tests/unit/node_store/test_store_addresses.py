"""The address index under the tools: checked, pruned, gone after a reindex and built again."""

import plyvel
import pytest

from storage import limits
from storage.follower import Follower
from storage.indexes import AddressIndex
from storage.store import ChainStore


def build(datadir, chain, *, slices=None):
    """Build the address index of a stopped node, at most so many slices of it."""
    with ChainStore.open(datadir, chain_id=chain.genesis.hash) as store:
        follower = Follower.open(store, AddressIndex(), wanted=True)
        while follower.has_work and slices != 0:
            follower.step()
            slices = None if slices is None else slices - 1
        return follower.height


def database(datadir):
    return plyvel.DB(str(datadir / "index"))


def rows(datadir, space):
    index = database(datadir)
    try:
        return list(index.iterator(prefix=space))
    finally:
        index.close()


def check(store_command, datadir):
    done = store_command("check", "--datadir", datadir, "--level", 1)
    return done.status, next((line for line in done.out.splitlines() if "FAULT" in line), "")


def test_a_sound_index_passes_the_check(store_command, datadir, chain):
    build(datadir, chain)
    assert check(store_command, datadir) == (0, "")


@pytest.mark.parametrize("space", [b"a", b"u"])
@pytest.mark.parametrize("damage", ["missing", "wrong", "extra"])
def test_any_wrong_row_is_found(store_command, datadir, chain, space, damage):
    build(datadir, chain)
    index = database(datadir)
    key, value = next(index.iterator(prefix=space, reverse=True))
    if damage == "missing":
        index.delete(key)
    elif damage == "wrong":
        index.put(key, bytes([value[0] ^ 1]) + value[1:])
    else:
        index.put(key[:-1] + bytes([key[-1] ^ 0x80]), value)
    index.close()
    status, fault = check(store_command, datadir)
    assert status == 74
    assert "address index" in fault
    assert "turn address_index off and on" in fault


def test_a_half_built_index_is_no_fault(store_command, datadir, chain, monkeypatch):
    monkeypatch.setattr(limits, "SIDE_SLICE_BLOCKS", 3)
    assert 0 <= build(datadir, chain, slices=2) < 10
    assert check(store_command, datadir) == (0, "")
    monkeypatch.setattr(limits, "SIDE_SLICE_ITEMS", 1)
    build(datadir, chain, slices=1)
    assert check(store_command, datadir) == (0, "")


def test_a_reindex_leaves_it_to_be_built_again(store_command, datadir, chain):
    build(datadir, chain)
    before = rows(datadir, b"a"), rows(datadir, b"u")
    done = store_command("reindex", "--datadir", datadir)
    assert done.status == 0
    assert rows(datadir, b"a") == []
    build(datadir, chain)
    assert (rows(datadir, b"a"), rows(datadir, b"u")) == before


def test_after_pruning_the_rest_of_it_is_sound(store_command, datadir, chain, monkeypatch):
    monkeypatch.setattr(limits, "KEEP_BLOCKS_MIN", 5)
    build(datadir, chain)
    unspent, history = rows(datadir, b"u"), rows(datadir, b"a")
    done = store_command("prune", "--datadir", datadir, "--keep-blocks", 8)
    assert done.status == 0, done.err
    with ChainStore.open(datadir, chain_id=chain.genesis.hash) as store:
        below = store.pruned_below
    assert below > 5
    assert check(store_command, datadir) == (0, "")
    assert rows(datadir, b"u") == unspent
    assert rows(datadir, b"a") == [row for row in history if int.from_bytes(row[0][33:37], "big") >= below]


def test_what_it_has_not_seen_is_not_pruned(store_command, datadir, chain, monkeypatch):
    monkeypatch.setattr(limits, "KEEP_BLOCKS_MIN", 5)
    monkeypatch.setattr(limits, "SIDE_SLICE_BLOCKS", 2)
    assert build(datadir, chain, slices=2) == 3
    done = store_command("prune", "--datadir", datadir, "--keep-blocks", 8)
    assert done.status == 0, done.err
    with ChainStore.open(datadir, chain_id=chain.genesis.hash) as store:
        assert store.pruned_below <= 4
    build(datadir, chain)
    assert check(store_command, datadir) == (0, "")
