"""``wattd store reindex`` and ``compact``: the same database again, whatever interrupts."""

import errno
import shutil

import plyvel
import pytest

from consensus.errors import StorageError
from node.store.reindex import reindex
from storage import schema
from storage.files import Files


class FullDisk(Files):
    """A disk without space from the ``after``-th call of ``call`` on."""

    def __init__(self, call, after):
        self.call, self.after = call, after

    def _count(self, call):
        if call == self.call:
            self.after -= 1
            if self.after < 0:
                raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, fd, data, offset):
        self._count("write")
        super().write(fd, data, offset)

    def sync(self, fd):
        self._count("sync")
        super().sync(fd)

    def rename_directory(self, source, target):
        self._count("rename_directory")
        super().rename_directory(source, target)


@pytest.fixture
def before(datadir, kit, chain, tmp_path):
    """What the store says, read from a copy."""
    return kit.facts(shutil.copytree(datadir, tmp_path / "copy"), chain)


def no_leftovers(datadir):
    return not [path.name for path in datadir.iterdir() if "." in path.name and path.suffix != ".toml"]


@pytest.mark.parametrize("options", [(), ("--verify",)])
def test_the_same_database_again(store_command, datadir, kit, chain, before, options):
    (datadir / "index" / "CURRENT").write_bytes(b"rubbish\n")
    done = store_command("reindex", "--datadir", datadir, *options)
    assert (done.status, done.out) == (0, f"height {kit.BLOCKS}\n")
    assert kit.facts(datadir, chain) == before
    assert no_leftovers(datadir)
    assert store_command("check", "--datadir", datadir, "--level", 4).status == 0


@pytest.mark.parametrize("step", [5, 66, 75, 82])
def test_kill_9_at_any_step(datadir, kit, chain, before, step):
    assert kit.killed("reindex", datadir, "step", step)
    assert kit.facts(datadir, chain) == before
    with kit.locked(datadir) as target:
        done = reindex(target, kit.Progress())
    assert done.height == kit.BLOCKS
    assert kit.facts(datadir, chain) == before
    assert no_leftovers(datadir)


@pytest.mark.parametrize(("how", "count"), [("before", 1), ("behind", 1), ("behind", 2), ("behind", 3)])
def test_kill_9_during_the_exchange(datadir, kit, chain, before, how, count):
    assert kit.killed("reindex", datadir, how, count)
    assert kit.facts(datadir, chain) == before
    assert not (datadir / "index.new").exists()


def test_an_interrupted_run_goes_on(datadir, kit, chain, before):
    with kit.locked(datadir) as target:
        with pytest.raises(KeyboardInterrupt):
            reindex(target, kit.StopAfter(75))
        assert (datadir / "index.building").is_dir()
        done = reindex(target, kit.Progress())
    assert 0 < done.resumed_at < done.height == kit.BLOCKS
    assert kit.facts(datadir, chain) == before


@pytest.mark.parametrize(
    ("call", "after"), [("write", 0), ("sync", 0), ("rename_directory", 0), ("rename_directory", 1)]
)
def test_a_full_disk_leaves_the_old_database(datadir, kit, chain, before, call, after):
    with kit.locked(datadir) as target, pytest.raises(StorageError, match="disk-full"):
        reindex(target, kit.Progress(), files=FullDisk(call, after))
    assert kit.facts(datadir, chain) == before


def test_what_cannot_fit_is_not_begun(datadir, kit, monkeypatch):
    monkeypatch.setattr("node.store.target.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with kit.locked(datadir) as target, pytest.raises(StorageError, match="disk-full"):
        reindex(target, kit.Progress())
    assert not (datadir / "index.building").exists()


def test_a_building_of_other_segment_files_is_not_trusted(datadir, kit, chain, before):
    """A building that knows more than the segment files was left by a run from before a repair."""
    with kit.locked(datadir) as target:
        with pytest.raises(KeyboardInterrupt):
            reindex(target, kit.StopAfter(80))
        (datadir / "index").rename(datadir / "lost")
        sorted((datadir / "blocks").glob("*.dat"))[-1].rename(datadir / "elsewhere")
        done = reindex(target, kit.Progress())
    assert done.resumed_at == -1
    assert 0 < done.height < kit.BLOCKS
    assert kit.facts(datadir, chain)["bodies"] == before["bodies"][: done.height + 1]


def test_it_never_shortens_a_chain(store_command, datadir, kit, chain):
    sorted((datadir / "blocks").glob("*.dat"))[-1].unlink()
    done = store_command("reindex", "--datadir", datadir)
    assert (done.status, "reindex-short" in done.err) == (74, True)
    with plyvel.DB(str(datadir / "index")) as index:
        assert schema.decode_tip(index.get(schema.TIP))[0] == kit.BLOCKS
    assert store_command("repair", "--datadir", datadir).status == 0
    assert 1 < len(kit.facts(datadir, chain)["bodies"]) < kit.BLOCKS


def test_a_node_starts_and_goes_on_after_it(datadir, kit, chain):
    with kit.locked(datadir) as target:
        reindex(target, kit.Progress())
    node = kit.node.Node(datadir, chain)
    kit.grow(node, chain, 3)
    assert node.chain.tip.height == kit.BLOCKS + 3
    node.close()


def test_compact_changes_nothing(store_command, datadir, kit, chain, before):
    done = store_command("compact", "--datadir", datadir)
    assert (done.status, done.out.split()[0]) == (0, "database")
    assert kit.facts(datadir, chain) == before

    assert kit.killed("compact", datadir, "step", 20)
    assert kit.facts(datadir, chain) == before
