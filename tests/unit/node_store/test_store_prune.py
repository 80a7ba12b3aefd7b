"""Pruning: old blocks and their entries go, headers, state and the last blocks stay."""

import errno
from datetime import UTC, datetime
from types import SimpleNamespace

import plyvel
import pytest

from consensus.block import Block
from consensus.errors import StorageError
from node.engines import services_of
from node.rpc.backend import KnownHeader
from node.rpc.chain import find_block, get_block_header
from node.rpc.errors import MISC_ERROR, RpcError
from node.store.prune import Limit, prune
from p2p.limits import SYNC_LIMITED_BLOCKS
from p2p.messages import SERVICE_BLOCKS, SERVICE_LIMITED, SERVICE_VALIDATOR
from storage import limits, schema
from storage.files import Files
from storage.index import Index
from storage.store import ChainStore
from tests.unit.storage.chainkit import FaultyFiles


@pytest.fixture
def short(monkeypatch):
    """Let the guard of the last blocks fit a short chain."""
    monkeypatch.setattr(limits, "KEEP_BLOCKS_MIN", 5)


def pruned(datadir, kit, **limit):
    with kit.locked(datadir) as target:
        return prune(target, Limit(**limit), kit.Progress())


def check_pruned(datadir, kit, chain, before, below):
    """All that must hold of a store whose blocks under ``below`` are gone."""
    after = kit.facts(datadir, chain)
    for what in ("tip", "coins", "state", "headers"):
        assert after[what] == before[what]
    for what in ("bodies", "undo", "certificates"):
        assert after[what] == before[what][below:]
    gone = {tx.txid for raw in before["bodies"][:below] for tx in Block.parse(raw).txs}
    kept = {tx.txid for raw in before["bodies"][below:] for tx in Block.parse(raw).txs}
    with ChainStore.open(datadir, chain_id=chain.genesis.hash) as store:
        assert store.pruned_below == below
        for height in range(below):
            block_hash = store.block_hash(height)
            assert store.height_of(block_hash) == height
            assert (store.body(block_hash), store.undo(block_hash), store.certificate(height)) == (None,) * 3
        assert all(store.find_tx(txid) is None for txid in gone)
        assert all(store.find_tx(txid) is not None for txid in kept)
    with plyvel.DB(str(datadir / "index")) as index:
        assert sum(1 for _ in index.iterator(prefix=schema.TX)) == len(kept)


@pytest.mark.parametrize("keep", [5, 8, 12, 19])
def test_by_number_of_blocks(store_command, datadir, kit, chain, short, keep):
    before = kit.facts(datadir, chain)
    files = sorted((datadir / "blocks").glob("*.dat"))
    done = store_command("prune", "--datadir", datadir, "--keep-blocks", keep)
    assert done.status == 0, done.err
    left = sorted((datadir / "blocks").glob("*.dat"))
    below = int(done.out.split("below ")[1].split()[0])
    assert below <= kit.BLOCKS + 1 - keep
    assert left == files[len(files) - len(left) :]
    assert (len(left) < len(files)) == (below > 0)
    assert keep > 8 or below > 0
    check_pruned(datadir, kit, chain, before, below)
    for level in range(5):
        assert store_command("check", "--datadir", datadir, "--level", level).status == 0
    again = store_command("prune", "--datadir", datadir, "--keep-blocks", keep)
    assert again.out.startswith("0 bytes")


def test_by_bytes_and_by_time(store_command, datadir, kit, chain, short):
    before = kit.facts(datadir, chain)
    total = sum(path.stat().st_size for path in (datadir / "blocks").iterdir())
    assert pruned(datadir, kit, keep_bytes=total).freed == 0
    done = pruned(datadir, kit, keep_bytes=total - 1)
    assert done.freed > 0
    check_pruned(datadir, kit, chain, before, done.below)
    time_s = Block.parse(before["bodies"][-6]).header.time_s
    text = datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    said = store_command("prune", "--datadir", datadir, "--before", text)
    assert said.status == 0, said.err
    below = int(said.out.split("below ")[1].split()[0])
    assert done.below < below <= kit.BLOCKS - 5
    check_pruned(datadir, kit, chain, before, below)


def test_the_last_288_blocks_stay_whatever_is_asked(datadir, kit, chain):
    before = kit.tree_of(datadir)
    for limit in ({"keep_blocks": 1}, {"keep_bytes": 0}, {"before_s": 1 << 40}):
        assert pruned(datadir, kit, **limit).freed == 0
    assert kit.tree_of(datadir) == before
    assert limits.KEEP_BLOCKS_MIN == 288


def test_the_node_goes_on(datadir, kit, chain, short):
    pruned(datadir, kit, keep_blocks=6)
    node = kit.node.Node(datadir, chain)
    kit.grow(node, chain, 4)
    assert node.chain.block(chain.genesis.hash) is None
    node.close()
    assert len(kit.facts(datadir, chain)["headers"]) == kit.BLOCKS + 5


@pytest.mark.parametrize("step", [1, 2, 3])
def test_kill_9_while_files_go(datadir, kit, chain, short, step):
    before = kit.facts(datadir, chain)
    files = len(list((datadir / "blocks").iterdir()))
    assert kit.killed("prune", datadir, "step", step)
    kit.node.Node(datadir, chain).close()
    done = pruned(datadir, kit, keep_blocks=6)
    assert done.below > 0
    assert len(list((datadir / "blocks").iterdir())) < files
    check_pruned(datadir, kit, chain, before, done.below)


def test_a_failing_disk_stops_it_and_it_is_ended_later(datadir, kit, chain, short):
    class NoRemoval(FaultyFiles):
        def sync_directory(self, path):
            raise OSError(errno.ENOSPC, "No space left on device")

    before = kit.facts(datadir, chain)
    with kit.locked(datadir) as target, pytest.raises(StorageError, match="disk-full"):
        prune(target, Limit(keep_blocks=6), kit.Progress(), NoRemoval())
    below = pruned(datadir, kit, keep_blocks=6).below
    check_pruned(datadir, kit, chain, before, below)


def test_a_pruned_store_is_not_computed_again_but_repaired_by_starting_over(
    store_command, datadir, kit, short
):
    pruned(datadir, kit, keep_blocks=6)
    assert "pruned: " in store_command("reindex", "--datadir", datadir).err
    assert store_command("repair", "--datadir", datadir).out == "nothing to repair\n"
    path = min((datadir / "blocks").glob("*.dat"))
    path.write_bytes(path.read_bytes()[:100] + b"\xff" + path.read_bytes()[101:])
    assert "nothing is left to go on from" in store_command("repair", "--datadir", datadir).out
    assert (datadir / "damaged-1" / "blocks" / path.name).exists()
    assert (datadir / "damaged-1" / "index").exists()


def test_exactly_one_limit(store_command, datadir):
    assert store_command("prune", "--datadir", datadir).status == 2
    assert store_command("prune", "--datadir", datadir, "--keep-blocks", 9, "--keep-bytes", 9).status == 2


def test_clients_hear_that_a_block_is_pruned():
    with pytest.raises(RpcError) as caught:
        find_block(SimpleNamespace(block=lambda height: None), 3)
    assert (caught.value.number, caught.value.reason) == (MISC_ERROR, "Block not available (pruned data)")


def test_the_header_of_a_pruned_block_is_still_told(chain):
    header = chain.genesis.header
    node = SimpleNamespace(
        block=lambda height: None,
        header=lambda height: header if height == 0 else None,
        height_of=lambda block_hash: 0,
        block_hash=lambda height: header.hash if height == 0 else None,
        tip=lambda: SimpleNamespace(height=0),
        known_header=lambda block_hash: KnownHeader(header, 0, 2),
        stored_block=lambda block_hash: None,
    )
    shape = get_block_header(node, header.hash)
    assert shape["hash"] == header.hash[::-1].hex()
    assert "nTx" not in shape


def test_the_node_says_what_it_can_serve(datadir, kit, chain, short, monkeypatch):
    node = kit.node.Node(datadir, chain)
    assert services_of(node.chain, None) == SERVICE_BLOCKS
    node.close()
    pruned(datadir, kit, keep_blocks=6)
    node = kit.node.Node(datadir, chain)
    assert services_of(node.chain, 0) == SERVICE_VALIDATOR
    monkeypatch.setattr("node.engines.SYNC_LIMITED_BLOCKS", 6)
    assert services_of(node.chain, None) == SERVICE_LIMITED
    node.close()
    assert limits.KEEP_BLOCKS_MIN == 5
    assert SYNC_LIMITED_BLOCKS == 288


def test_what_leveldb_forgets_of_a_file_is_durable_before_the_file_goes(
    datadir, kit, chain, short, monkeypatch
):
    """Else a power cut brings the entries back, and nobody finds them again without the file."""
    synced, removed = [], []
    write = Index.write

    def noted(index, batch):
        write(index, batch)
        synced.append(index._synced == index._sequence)

    class Watched(Files):
        def remove(self, path):
            if path.suffix == ".dat":
                assert synced[-1]
                removed.append(path)
            super().remove(path)

    monkeypatch.setattr(Index, "write", noted)
    with kit.locked(datadir) as target:
        prune(target, Limit(keep_blocks=5), kit.Progress(), Watched())
    assert removed
    assert False in synced
