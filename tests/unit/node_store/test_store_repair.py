"""``wattd store repair``: what is good stays, what is damaged is set aside, nothing is deleted."""

import shutil
from random import Random

import plyvel
import pytest

from consensus.errors import StorageError
from node.store.repair import repair
from storage import schema
from tests.unit.storage.chainkit import FaultyFiles


def bytes_aside(datadir, name):
    """Return what a repair set aside of a segment file."""
    return b"".join(part.read_bytes() for part in datadir.glob(f"damaged-*/{name}*"))


def test_nothing_to_repair(store_command, datadir, kit):
    before = kit.tree_of(datadir)
    done = store_command("repair", "--datadir", datadir)
    assert (done.status, done.out) == (0, "nothing to repair\n")
    assert kit.tree_of(datadir) == before


@pytest.mark.parametrize("seed", range(8))
def test_damage_in_a_segment_file(store_command, datadir, kit, chain, seed):
    rng = Random(seed)
    before = kit.facts(datadir, chain)
    files = {path.name: path.read_bytes() for path in sorted((datadir / "blocks").glob("*.dat"))}
    name = rng.choice(list(files)[:-1])
    data = bytearray(files[name])
    at = rng.randrange(len(data))
    data[at : at + rng.choice((1, 40, 3000))] = b""
    data[at : at + 1] = bytes([data[min(at, len(data) - 1)] ^ 255])
    (datadir / "blocks" / name).write_bytes(data)
    done = store_command("repair", "--datadir", datadir)
    assert done.status == 0, done.err
    assert "found: " in done.out
    after = kit.facts(datadir, chain)
    height = len(after["bodies"]) - 1
    assert f"up to height {height}" in done.out
    assert after["bodies"] == before["bodies"][: height + 1]
    assert after["certificates"][1:] == before["certificates"][1 : height + 1]
    kept = (datadir / "blocks" / name).read_bytes() if (datadir / "blocks" / name).exists() else b""
    aside = bytes_aside(datadir, name)
    assert kept[: len(data) - len(aside)] + aside == data
    for later in (other for other in files if other > name):
        assert bytes_aside(datadir, later) == files[later]
    assert store_command("check", "--datadir", datadir, "--level", 4).status == 0
    node = kit.node.Node(datadir, chain)
    for raw, certificate in zip(
        before["bodies"][height + 1 :], before["certificates"][height + 1 :], strict=True
    ):
        block = kit.node.Block.parse(raw)
        node.chain.execute(block, node.chain.tip.block_hash)
        node.chain.commit(block.hash, certificate)
    node.close()
    synced = kit.facts(datadir, chain)
    assert (synced["tip"], synced["coins"], synced["state"]) == (
        before["tip"],
        before["coins"],
        before["state"],
    )


def test_a_missing_segment_file(store_command, datadir, kit, chain):
    (datadir / "blocks" / "seg-00001.dat").unlink()
    done = store_command("repair", "--datadir", datadir)
    assert (done.status, "the file is missing" in done.out) == (0, True)
    assert store_command("check", "--datadir", datadir, "--level", 4).status == 0


def test_a_damaged_first_head_leaves_an_empty_chain(store_command, datadir, kit, chain):
    path = datadir / "blocks" / "seg-00000.dat"
    path.write_bytes(b"\xff" * 20 + path.read_bytes()[20:])
    assert store_command("repair", "--datadir", datadir).status == 0
    assert len(kit.facts(datadir, chain)["bodies"]) == 1


def test_a_corrupt_database_is_computed_again(store_command, datadir, kit, chain):
    before = kit.facts(datadir, chain)
    for table in (datadir / "index").glob("*.ldb"):
        data = bytearray(table.read_bytes())
        for at in range(100, len(data) - 200, 50):
            data[at] ^= 0x55
        table.write_bytes(data)
    done = store_command("repair", "--datadir", datadir)
    assert (done.status, done.err) == (0, "")
    assert "damaged-1/index" in done.out
    assert (datadir / "damaged-1" / "index").is_dir()
    assert kit.facts(datadir, chain) == before
    assert store_command("repair", "--datadir", datadir).out == "nothing to repair\n"


def test_a_database_ahead_of_its_segment_files(store_command, datadir, kit, chain):
    with plyvel.DB(str(datadir / "index")) as index:
        index.put(schema.WATERMARK, schema.encode_watermark(9, 9))
    done = store_command("repair", "--datadir", datadir)
    assert (done.status, "records that the segment files do not have" in done.out) == (0, True)
    assert len(kit.facts(datadir, chain)["bodies"]) == kit.BLOCKS + 1


def test_kill_9_at_any_step_then_again(datadir, kit, chain):
    before = kit.facts(datadir, chain)
    path = datadir / "blocks" / "seg-00001.dat"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    heights = set()
    for step in (1, 40, 80, 100):
        copy = shutil.copytree(datadir, datadir.with_name(f"killed-{step}"))
        kit.killed("repair", copy, "step", step)
        with kit.locked(copy) as target:
            repair(target, kit.Progress(), lambda line: None)
        after = kit.facts(copy, chain)
        heights.add(len(after["bodies"]))
        assert after["bodies"] == before["bodies"][: len(after["bodies"])]
    assert len(heights) == 1
    assert 1 < heights.pop() <= kit.BLOCKS


@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_full_disk_loses_nothing(datadir, kit, chain, call):
    path = datadir / "blocks" / "seg-00000.dat"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    files = FaultyFiles()
    files.fail(call, 28, torn=10)
    with kit.locked(datadir) as target:
        with pytest.raises(StorageError, match="disk-full"):
            repair(target, kit.Progress(), lambda line: None, files)
        assert path.read_bytes() == data
        assert repair(target, kit.Progress(), lambda line: None)
    assert kit.facts(datadir, chain)["bodies"]
