"""Snapshots: what is exported is what starts a node elsewhere, and nothing else is believed."""

import errno
import shutil
from random import Random

import plyvel
import pytest

from consensus import history
from consensus.errors import StorageError
from consensus.transaction import outpoint
from node.store.evidence import Trust
from node.store.reindex import reindex
from node.store.snapfile import CHUNK_BYTES
from node.store.snapshot import export_snapshot, import_snapshot
from storage import schema
from storage.store import ChainStore
from tests.unit.storage.chainkit import FaultyFiles


@pytest.fixture
def snapshot(template, tmp_path, kit):
    """(file, root) of the template's chain."""
    source = shutil.copytree(template, tmp_path / "source")
    path = tmp_path / "snapshot.wts"
    with kit.locked(source) as target:
        height, root, *_ = export_snapshot(target, path, kit.Progress())
    assert height == kit.BLOCKS
    return path, root


def is_empty(datadir):
    return sorted(path.name for path in datadir.iterdir()) == ["chain.toml", "lock"]


def refusal(empty, kit, path, root):
    with kit.locked(empty) as target, pytest.raises(StorageError) as caught:
        import_snapshot(target, path, Trust(root), kit.Progress())
    assert is_empty(empty)
    return caught.value.code


def rooted(data):
    """Return the root over a snapshot's content, from its definition."""
    at = data.rindex(b"STEP")
    chunks = [data[start : min(start + CHUNK_BYTES, at)] for start in range(0, at, CHUNK_BYTES)]
    return history.tree_root([history.leaf_hash(chunk) for chunk in chunks])


def reseal(path, data):
    """Write a forged snapshot whose root fits; return the root."""
    root = rooted(data)
    path.write_bytes(data[:-32] + root)
    return root


def test_from_one_node_to_another(store_command, datadir, empty, tmp_path, kit, chain):
    file = tmp_path / "snapshot"
    done = store_command("export-snapshot", "--datadir", datadir, file)
    assert done.status == 0, done.err
    (_, height), (_, root) = (line.split() for line in done.out.splitlines())
    assert (int(height), root) == (kit.BLOCKS, rooted(file.read_bytes()).hex())
    done = store_command("import-snapshot", "--datadir", empty, file, "--hash", root)
    assert (done.status, done.err) == (0, "")
    full, light = kit.facts(datadir, chain), kit.facts(empty, chain)
    for what in ("tip", "coins", "state", "headers"):
        assert light[what] == full[what]
    assert light["bodies"] == full["bodies"][-1:]
    assert light["certificates"] == full["certificates"][-1:]
    for level in range(5):
        assert store_command("check", "--datadir", empty, "--level", level).status == 0


def test_the_node_starts_from_it_and_goes_on(snapshot, datadir, empty, kit, chain):
    with kit.locked(empty) as target:
        import_snapshot(target, snapshot[0], Trust(snapshot[1]), kit.Progress())
    full, light = kit.node.Node(datadir, chain), kit.node.Node(empty, chain)
    kit.grow(full, chain, 5)
    for height in range(kit.BLOCKS + 1, kit.BLOCKS + 6):
        block = full.chain.block(full.store.block_hash(height))
        light.chain.execute(block, light.chain.tip.block_hash)
        light.chain.commit(block.hash, full.store.certificate(height))
    assert light.chain.tip == full.chain.tip
    assert light.chain.time_at(3) == full.chain.time_at(3)
    assert light.store.body(chain.genesis.hash) is None
    assert light.store.height_of(chain.genesis.hash) == 0
    assert light.store.pruned_below == kit.BLOCKS
    light.close()
    again = kit.node.Node(empty, chain)
    assert again.chain.tip.height == kit.BLOCKS + 5
    again.close()
    full.close()


def test_another_quorum_gives_the_same_root(snapshot, tmp_path, kit, chain):
    datadir = kit.make_datadir(tmp_path / "other", chain, kit.BLOCKS - 1)
    node = kit.node.Node(datadir, chain)
    source = ChainStore.open(tmp_path / "source", chain_id=chain.genesis.hash)
    block = kit.node.Block.parse(source.body(source.tip_hash))
    source.close()
    node.chain.execute(block, node.chain.tip.block_hash)
    node.chain.commit(block.hash, kit.certificate_of(chain, kit.BLOCKS, block.hash, members=(1, 2, 3)))
    node.close()
    with kit.locked(datadir) as target:
        _, root, *_ = export_snapshot(target, tmp_path / "second", kit.Progress())
    assert root == snapshot[1]
    assert (tmp_path / "second").read_bytes() != snapshot[0].read_bytes()


@pytest.mark.parametrize("seed", range(12))
def test_any_flipped_byte_is_refused(snapshot, empty, kit, seed):
    path, root = snapshot
    data = bytearray(path.read_bytes())
    data[Random(seed).randrange(len(data))] ^= 1
    path.write_bytes(data)
    assert refusal(empty, kit, path, root).startswith("snapshot-")


def test_a_file_that_ends_early_or_late_is_refused(snapshot, empty, kit):
    path, root = snapshot
    data = path.read_bytes()
    for length in (0, 7, 500, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert refusal(empty, kit, path, root) == "snapshot-damaged"
    path.write_bytes(data + b"\x00")
    assert refusal(empty, kit, path, root) == "snapshot-damaged"


def test_only_the_trusted_hash_counts(snapshot, empty, kit):
    path, _ = snapshot
    assert refusal(empty, kit, path, bytes(32)) == "snapshot-wrong-hash"
    data = path.read_bytes()
    for form, code in ((4, "damaged"), (5, "damaged"), (0, "damaged"), (1, "outdated"), (2, "outdated")):
        body = data.replace(b"WTSNAP\x00\x03", b"WTSNAP\x00" + bytes([form]))
        assert refusal(empty, kit, path, reseal(path, body)) == f"snapshot-{code}"


def test_money_from_nowhere_is_refused_even_with_a_fitting_hash(snapshot, empty, kit, chain):
    path, _ = snapshot
    data = path.read_bytes()
    at = data.index(b"\x01\x24\x00\x00\x00" + outpoint(chain.genesis.txs[0].txid, 0)) + 5 + 36 + 4 + 4
    forged = (
        data[:at] + (int.from_bytes(data[at : at + 8], "little") + 1).to_bytes(8, "little") + data[at + 8 :]
    )
    assert refusal(empty, kit, path, reseal(path, forged)) == "snapshot-refused"


def test_a_certificate_without_a_quorum_is_refused(snapshot, empty, kit, chain):
    path, root = snapshot
    data = path.read_bytes()
    at = data.rindex(b"CERT")
    with ChainStore.open(path.parent / "source", chain_id=chain.genesis.hash) as store:
        height, block_hash = store.height, store.tip_hash
    for weak in (
        kit.certificate_of(chain, height, block_hash, members=(0, 1)),
        kit.certificate_of(chain, height - 1, block_hash),
    ):
        path.write_bytes(data[:at] + b"CERT" + len(weak).to_bytes(4, "little") + weak + data[-32:])
        assert refusal(empty, kit, path, root) == "snapshot-refused"


def test_another_chain_is_refused(snapshot, tmp_path, kit):
    other = kit.node.Chain(3)
    elsewhere = kit.make_datadir(tmp_path / "elsewhere", other, -1)
    assert refusal(elsewhere, kit, *snapshot) == "snapshot-foreign-chain"


def test_only_into_an_empty_directory(snapshot, datadir, kit, chain):
    before = kit.facts(datadir, chain)
    with kit.locked(datadir) as target, pytest.raises(StorageError, match="store-not-empty"):
        import_snapshot(target, snapshot[0], Trust(snapshot[1]), kit.Progress())
    assert kit.facts(datadir, chain) == before


@pytest.mark.parametrize(
    ("how", "count"),
    [("step", 15), ("step", 70), ("before", 1), ("behind", 1), ("before", 2), ("behind", 2), ("behind", 3)],
)
def test_kill_9_of_the_import(snapshot, empty, kit, chain, how, count):
    path, root = snapshot
    assert kit.killed("import", empty, how, count, path, root.hex())
    decided = (empty / "index.new").exists() or (empty / "index").exists()
    assert decided == ((how == "before" and count > 2) or (how == "behind" and count > 1))
    with kit.locked(empty) as target:
        if not decided:
            import_snapshot(target, path, Trust(root), kit.Progress())
    assert len(kit.facts(empty, chain)["headers"]) == kit.BLOCKS + 1


def test_a_reindex_does_not_go_on_with_a_killed_import(snapshot, empty, kit, chain):
    path, root = snapshot
    assert kit.killed("import", empty, "step", 70, path, root.hex())
    assert (empty / "index.building").is_dir()
    with kit.locked(empty) as target:
        assert reindex(target, kit.Progress()).height == 0
    found = kit.facts(empty, chain)
    assert len(found["headers"]) == 1
    assert not (empty / "blocks.building").exists()


def test_an_interrupted_export_leaves_no_file(datadir, tmp_path, kit):
    with kit.locked(datadir) as target, pytest.raises(KeyboardInterrupt):
        export_snapshot(target, tmp_path / "snapshot", kit.StopAfter(10))
    assert not list(tmp_path.glob("snapshot*"))


@pytest.mark.parametrize("call", ["write", "sync", "rename"])
def test_a_full_disk(datadir, empty, snapshot, tmp_path, kit, call):
    files = FaultyFiles()
    files.fail(call, errno.ENOSPC)
    with kit.locked(datadir) as target, pytest.raises(StorageError, match="disk-full"):
        export_snapshot(target, tmp_path / "another", kit.Progress(), files)
    assert not list(tmp_path.glob("another*"))
    files.heal()
    files.fail(call, errno.ENOSPC)
    with kit.locked(empty) as target, pytest.raises(StorageError, match="disk-full"):
        import_snapshot(target, snapshot[0], Trust(snapshot[1]), kit.Progress(), files)
    assert is_empty(empty)


def test_genesis_alone_has_no_certificate(tmp_path, kit, chain):
    datadir = kit.make_datadir(tmp_path / "young", chain, 0)
    with kit.locked(datadir) as target, pytest.raises(StorageError, match="snapshot-no-certificate"):
        export_snapshot(target, tmp_path / "snapshot", kit.Progress())


def test_what_a_snapshot_started_cannot_be_computed_again(store_command, snapshot, empty, kit, chain):
    with kit.locked(empty) as target:
        import_snapshot(target, snapshot[0], Trust(snapshot[1]), kit.Progress())
    done = store_command("reindex", "--datadir", empty)
    assert (done.status, "pruned: blocks below" in done.err) == (74, True)
    (empty / "index" / "CURRENT").write_bytes(b"rubbish\n")
    done = store_command("repair", "--datadir", empty)
    assert done.status == 0
    assert "import a snapshot" in done.out
    assert (empty / "damaged-1" / "blocks" / "seg-00000.dat").exists()
    with kit.locked(empty) as target:
        import_snapshot(target, snapshot[0], Trust(snapshot[1]), kit.Progress())
    with plyvel.DB(str(empty / "index")) as index:
        assert schema.decode_pruned(index.get(schema.PRUNED)) == (kit.BLOCKS, 0)
