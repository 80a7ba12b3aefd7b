"""``wattd store check`` on real chains: sound ones, and every kind of damage."""

import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import plyvel
import pytest

from consensus.genesis import genesis_block
from consensus.transaction import outpoint
from contracts.api import EnergyContracts
from node.store import check
from storage import schema
from storage.schema import decode_block, encode_block

ROOT = Path(__file__).parents[3]


def index_of(datadir):
    return plyvel.DB(str(datadir / "index"))


def first_fault(done):
    return next(line for line in done.out.splitlines() if "FAULT" in line)


def test_a_sound_store(store_command, datadir, kit):
    before = kit.tree_of(datadir)
    done = store_command("check", "--datadir", datadir, "--level", 4)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split()[:3] for line in lines] == [["level", str(level), "ok"] for level in range(5)]
    assert f"{kit.BLOCKS + 1} blocks" in lines[4]
    assert f"{kit.BLOCKS} with a quorum" in lines[2]
    assert kit.tree_of(datadir) == before
    assert not (datadir / "check.tmp").exists()


@pytest.mark.parametrize("seed", range(6))
def test_any_flipped_byte_in_a_segment_file_is_found(store_command, datadir, seed):
    rng = Random(seed)
    path = rng.choice(sorted((datadir / "blocks").glob("*.dat"))[:-1])
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    done = store_command("check", "--datadir", datadir, "--level", 0)
    assert done.status == 74
    assert "segment-corrupt" in first_fault(done)
    assert path.name in first_fault(done)
    assert path.read_bytes() == data
    assert "wattd store repair" in done.err


def test_a_missing_file_is_found(store_command, datadir):
    (datadir / "blocks" / "seg-00001.dat").unlink()
    done = store_command("check", "--datadir", datadir, "--level", 0)
    assert done.status == 74
    assert "the file is missing" in first_fault(done)


def test_a_missing_database_is_a_fault(store_command, datadir):
    (datadir / "index").rename(datadir / "elsewhere")
    done = store_command("check", "--datadir", datadir)
    assert (done.status, "leveldb-corrupt" in done.out) == (74, True)
    assert not (datadir / "index" / "CURRENT").exists()


def test_a_torn_tail_is_no_fault_and_stays(store_command, datadir):
    path = sorted((datadir / "blocks").glob("*.dat"))[-1]
    with path.open("ab") as file:
        file.write(b"\x10\x00\x00\x00torn")
    size = path.stat().st_size
    done = store_command("check", "--datadir", datadir, "--level", 0)
    assert done.status == 0
    assert "8 bytes of a torn write" in done.out
    assert path.stat().st_size == size


def test_level_1_headers_and_indexes(store_command, datadir, chain):
    with index_of(datadir) as index:
        key = schema.header_key(3)
        value = index.get(key)
        index.put(key, value[:40] + b"\xff" + value[41:])
        index.delete(schema.TX + chain.genesis.txs[0].txid)
    done = store_command("check", "--datadir", datadir, "--level", 1)
    assert done.status == 74
    assert "level 1  FAULT" in done.out
    assert "transaction 0 of height 0" in first_fault(done)
    assert "more" in done.out


def test_level_2_a_certificate_without_a_quorum(store_command, tmp_path, chain, kit):
    datadir = kit.make_datadir(tmp_path / "node", chain, 3)
    node = kit.node.Node(datadir, chain)
    block = node.build()
    weak = kit.certificate_of(chain, 4, block.hash, members=(0, 1))
    node.chain.commit(block.hash, weak)
    node.close()
    assert store_command("check", "--datadir", datadir, "--level", 1).status == 0
    done = store_command("check", "--datadir", datadir, "--level", 2)
    assert done.status == 74
    assert "height 4: bad-cert-quorum" in first_fault(done)
    assert "fetches the chain from its peers" in done.err


def test_level_2_a_certificate_of_another_block_and_a_covering_one(store_command, tmp_path, chain, kit):
    datadir = kit.make_datadir(tmp_path / "node", chain, 0)
    node = kit.node.Node(datadir, chain)
    first = node.build()
    second = node.build(parent=first.hash)
    covering = kit.certificate_of(chain, 2, second.hash)
    node.chain.commit(first.hash, covering)
    node.chain.commit(second.hash, covering)
    node.close()
    assert store_command("check", "--datadir", datadir, "--level", 2).status == 0
    node = kit.node.Node(datadir, chain)
    third = node.build()
    node.chain.commit(third.hash, covering)
    node.close()
    done = store_command("check", "--datadir", datadir, "--level", 2)
    assert "the certificate at height 3 is for another block" in first_fault(done)


def test_level_3_undo_of_another_block(store_command, datadir, kit):
    with index_of(datadir) as index:
        keys = [schema.BLOCK + index.get(schema.header_key(height))[:32] for height in (4, 5)]
        four, five = (decode_block(index.get(key)) for key in keys)
        index.put(keys[1], encode_block(five._replace(undo=four.undo)))
    assert store_command("check", "--datadir", datadir, "--level", 2).status == 0
    done = store_command("check", "--datadir", datadir, "--level", 3)
    assert done.status == 74
    assert "level 3  FAULT" in done.out


@pytest.mark.parametrize("space", ["coin", "state"])
def test_level_4_finds_what_checksums_cannot(store_command, datadir, chain, space):
    with index_of(datadir) as index:
        if space == "coin":
            key = schema.COIN + outpoint(chain.genesis.txs[0].txid, 4)
            assert index.get(key) is not None
            index.delete(key)
        else:
            index.put(schema.STATE + b"\x00new", b"forged")
    assert store_command("check", "--datadir", datadir, "--level", 3).status == 0
    done = store_command("check", "--datadir", datadir, "--level", 4)
    assert done.status == 74
    assert "wattd store reindex" in done.err
    assert ("unspent outputs differ" if space == "coin" else "contract state differ") in first_fault(done)
    assert not (datadir / "check.tmp").exists()


@pytest.mark.parametrize("interval", [0, 1_000_000])
def test_level_4_undo_of_contract_state(store_command, tmp_path, kit, monkeypatch, interval):
    """Former values that a final chain keeps in spite of nobody asking are no fault; elsewhere they are."""
    chain = kit.node.Chain(4)
    ledger = replace(chain.params.ledger, snapshot_interval_blocks=interval)
    chain.params = replace(chain.params, ledger=ledger)
    chain.genesis = genesis_block(chain.params, EnergyContracts(chain.params))
    datadir = kit.make_datadir(tmp_path / "node", chain, 3)
    assert store_command("check", "--datadir", datadir, "--level", 4).status == 0
    read = check.decode_undo

    def with_more(raw):
        coins, state = read(raw)
        return coins, state | {b"zz": b"older"}

    monkeypatch.setattr(check, "decode_undo", with_more)
    done = store_command("check", "--datadir", datadir, "--level", 4)
    assert done.status == (74 if interval else 0)


def test_an_interruption_leaves_everything_as_it_was(datadir, kit):
    from node.store.check import check_store

    before = kit.tree_of(datadir)
    for steps in (1, 30, 90, 150):
        with kit.locked(datadir) as target, pytest.raises(KeyboardInterrupt):
            check_store(target, 4, kit.StopAfter(steps), lambda line: None)
        assert kit.tree_of(datadir) == before


def test_a_running_node_keeps_the_tools_out(store_command, datadir, kit):
    with kit.locked(datadir):
        done = store_command("check", "--datadir", datadir)
    assert (done.status, "datadir-locked" in done.err) == (74, True)


def test_bars_on_a_terminal(datadir, kit):
    """On a pseudo-terminal the tool draws bars and ends with the same lines."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "node", "store", "check", "--datadir", str(datadir), "--level", "4"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    drawn = b""
    while True:
        try:
            drawn += os.read(master, 65536)
        except OSError:  # the other side is closed
            break
    out, _ = process.communicate()
    os.close(master)
    assert process.returncode == 0
    assert out.count(b"ok") == 5
    assert b"executing blocks" in drawn
    assert b"100 %" in drawn


def test_ctrl_c_of_a_real_process(datadir, kit):
    """The signal that a terminal sends, in the middle of the replay."""
    before = kit.tree_of(datadir)
    command = [sys.executable, "-c", INTERRUPTED, str(datadir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode().lstrip()) == (130, "wattd: error: interrupted\n")
    assert kit.tree_of(datadir) == before
    assert not (datadir / "check.tmp").exists()


INTERRUPTED = """
import os, signal, sys
from node.chainstate import ChainState
from node.cli.main import run_command
commit = ChainState.commit
def committed(self, *given):
    if self.tip.height == 7:
        os.kill(os.getpid(), signal.SIGINT)
    return commit(self, *given)
ChainState.commit = committed
sys.exit(run_command(["store", "check", "--level", "4", "--datadir", sys.argv[1]]))
"""
