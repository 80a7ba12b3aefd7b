"""Coins that a real chain has not flushed: rolled forward from real blocks, seen by every tool."""

import plyvel
import pytest

from consensus.block import Block
from consensus.undo import decode_undo
from node.store.prune import Limit, prune
from storage import limits, schema
from storage.restart import block_coins
from storage.store import ChainStore


def abandon(node):
    """Let go of the files as a killed process does."""
    node.chain.store._closed = True
    node.close()


def change(datadir, values):
    with plyvel.DB(str(datadir / "index")) as index, index.write_batch(sync=True) as batch:
        for key, value in values.items():
            batch.delete(key) if value is None else batch.put(key, value)


def raw_coins(datadir):
    with plyvel.DB(str(datadir / "index")) as index:
        return dict(index.prefixed_db(schema.COIN).iterator())


@pytest.fixture
def unflushed(kit, chain, tmp_path):
    """A killed node's directory, with all its coins in the bodies alone."""
    path = kit.make_datadir(tmp_path / "killed", chain, -1)
    node = kit.node.Node(path, chain)
    kit.grow(node, chain, kit.BLOCKS)
    abandon(node)
    assert raw_coins(path) == {}
    return path


def test_a_body_says_which_coins_its_block_changes(datadir, chain):
    held = {}
    with ChainStore.open(datadir, chain_id=chain.genesis.hash) as store:
        for height in range(store.height + 1):
            block_hash = store.block_hash(height)
            coins = block_coins(height, store.body(block_hash))
            before, _ = decode_undo(store.undo(block_hash))
            assert coins.keys() == before.keys()
            assert all((coins[key] is None) == (value is not None) for key, value in before.items())
            for key, value in coins.items():
                if value is None:
                    del held[key]
                else:
                    held[key] = value
        assert held == dict(store.iterate_coins())
        assert len(held) > 30


def test_a_killed_node_has_all_its_coins_again(unflushed, datadir, kit, chain):
    expected = kit.facts(datadir, chain)
    with ChainStore.open(unflushed, chain_id=chain.genesis.hash) as store:
        found = dict(store.iterate_coins())
        heights = [coin[:4] for coin in found.values()]
        assert sorted(heights) == sorted(coin[:4] for coin in expected["coins"].values())
        assert {key: store.coin(key) for key in found} == found
    assert raw_coins(unflushed) == found


def test_the_tools_see_coins_that_wait_in_the_bodies(unflushed, kit, chain, store_command, tmp_path):
    for level in range(5):
        done = store_command("check", "--datadir", unflushed, "--level", level)
        assert done.status == 0, done.out + done.err
    assert raw_coins(unflushed) == {}
    first, second = tmp_path / "first", tmp_path / "second"
    said = store_command("export-snapshot", "--datadir", unflushed, first).out
    assert raw_coins(unflushed) == {}
    ChainStore.open(unflushed, chain_id=chain.genesis.hash).close()
    assert raw_coins(unflushed) != {}
    assert store_command("export-snapshot", "--datadir", unflushed, second).out == said
    assert first.read_bytes() == second.read_bytes()
    assert store_command("repair", "--datadir", unflushed).out == "nothing to repair\n"


def test_pruning_never_takes_a_body_that_the_coins_need(kit, chain, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "KEEP_BLOCKS_MIN", 5)
    monkeypatch.setattr(limits, "SEGMENT_BYTES", 8_000)
    path = kit.make_datadir(tmp_path / "node", chain, -1)
    node = kit.node.Node(path, chain)
    kit.grow(node, chain, kit.BLOCKS)
    before = dict(node.chain.store.iterate_coins())
    slices = node.chain.store.prune_slices(kit.BLOCKS - 6)
    next(slices)
    slices.close()  # killed once it has said what is gone
    assert node.chain.store.pruned_below > 0
    abandon(node)
    with ChainStore.open(path, chain_id=chain.genesis.hash) as store:
        assert dict(store.iterate_coins()) == before
        assert store.pruned_below > 0


def make_old(datadir):
    """Turn a closed store into one of schema 1."""
    change(datadir, {schema.VERSION: schema.U32.pack(1), schema.COINS_TIP: None})


def test_tools_on_a_store_of_an_older_schema(datadir, kit, chain, store_command):
    before = kit.facts(datadir, chain)
    make_old(datadir)
    for command in (("check", "--level", 2), ("export-snapshot", datadir / "snapshot")):
        done = store_command(command[0], "--datadir", datadir, *command[1:])
        assert done.status == 74
        assert "schema-not-migrated" in done.err
        assert f"wattd store migrate --datadir {datadir}" in done.err
    done = store_command("migrate", "--datadir", datadir)
    assert (done.status, done.out) == (0, "done: noting at which block the unspent outputs stand\n")
    assert store_command("migrate", "--datadir", datadir).out == "nothing to migrate\n"
    assert store_command("check", "--datadir", datadir, "--level", 4).status == 0
    assert kit.facts(datadir, chain) == before
    make_old(datadir)
    with kit.locked(datadir) as target:
        prune(target, Limit(keep_blocks=kit.BLOCKS), kit.Progress())
    assert kit.facts(datadir, chain) == before
    make_old(datadir)
    assert store_command("reindex", "--datadir", datadir).status == 0
    assert store_command("compact", "--datadir", datadir).status == 0
    assert kit.facts(datadir, chain) == before


def test_repair_computes_again_what_stands_off_the_chain(datadir, kit, chain, store_command):
    before = kit.facts(datadir, chain)
    change(datadir, {schema.COINS_TIP: schema.encode_tip(3, bytes(32), b"")})
    refused = store_command("check", "--datadir", datadir, "--level", 1)
    assert refused.status == 74
    assert "leveldb-corrupt" in refused.out + refused.err
    assert "off the active chain" in store_command("repair", "--datadir", datadir).out
    assert kit.facts(datadir, chain) == before
    assert Block.parse(before["bodies"][0]).hash == chain.genesis.hash
