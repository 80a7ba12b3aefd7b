"""``wattd store`` on a chain of proof of work that has been reorganised."""

import shutil
from random import Random

import plyvel
import pytest

from consensus.block import Block, BlockHeader
from consensus.commitment import find_commitment
from consensus.errors import StorageError
from consensus.params import Checkpoint
from consensus.pow.rules import expected_bits
from consensus.pow.target import work_of
from node.store.evidence import Trust
from node.store.reindex import reindex
from node.store.repair import repair
from node.store.snapshot import chain_work, export_snapshot, import_snapshot
from storage import limits, schema
from storage.store import ChainStore
from tests.unit.node_store.powchain import SPACING, PowChain, PowNode, greedy, refused, stormy, unsolved

TIP = 15
INTERVAL = 5
KEYS = 5


@pytest.fixture(scope="module")
def keys(kit):
    return kit.node.Chain(1).keys[0]


@pytest.fixture(scope="module")
def chain(kit, keys):
    return PowChain(kit.node.RICH, keys)


@pytest.fixture(scope="module")
def rooted(kit, keys):
    """The same with a state root each INTERVAL blocks."""
    return PowChain(kit.node.RICH, keys, interval=INTERVAL)


@pytest.fixture(scope="module")
def stormy_template(tmp_path_factory, chain):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "SEGMENT_BYTES", 4_000)
        return stormy(tmp_path_factory.mktemp("stormy") / "node", chain)


@pytest.fixture
def datadir(stormy_template, tmp_path):
    return shutil.copytree(stormy_template, tmp_path / "node")


def facts(datadir, chain):
    with ChainStore.open(datadir, chain_id=chain.genesis.hash) as store:
        heights = range(store.pruned_below, store.height + 1)
        hashes = [store.block_hash(height) for height in heights]
        return {
            "tip": store.tip,
            "coins": dict(store.iterate_coins()),
            "state": dict(store.state_view.scan(b"")),
            "headers": store.header_run(0, store.height + 1),
            "bodies": [store.body(each) for each in hashes],
            "undo": [store.undo(each) for each in hashes],
            "off": store.bodies_off_chain(-1),
            "index": list(store.headers.above(-1)),
            "marks": store.headers.marks(),
        }


def first_fault(done):
    return next(line for line in done.out.splitlines() if "FAULT" in line)


# ---- check


def test_a_sound_store(store_command, datadir, kit, chain):
    before = kit.tree_of(datadir)
    done = store_command("check", "--datadir", datadir, "--level", 4)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert "1 marked invalid" in lines[1]
    assert "the engine of this chain has none" in lines[2]
    assert f"{TIP + 1} blocks" in lines[4]
    assert kit.tree_of(datadir) == before


def changed(datadir, key, change):
    with plyvel.DB(str(datadir / "index")) as index:
        value = change(index.get(key))
        index.delete(key) if value is None else index.put(key, value)


def flipped(value):
    return value[:-1] + bytes([value[-1] ^ 1])


def test_level_1_finds_a_header_that_is_not_in_the_index(store_command, datadir, chain):
    block_hash = facts(datadir, chain)["index"][6].block_hash
    changed(datadir, schema.HEADER_HEIGHT + block_hash, lambda value: None)
    done = store_command("check", "--datadir", datadir, "--level", 1)
    assert done.status == 74
    assert "FAULT" in first_fault(done)


@pytest.mark.parametrize("part", ["work", "header"])
def test_level_1_finds_another_header_or_work(store_command, datadir, chain, part):
    record = facts(datadir, chain)["index"][-3]
    key = schema.branch_key(record.height, record.block_hash)
    other = flipped if part == "work" else (lambda value: flipped(value[:80]) + value[80:])
    changed(datadir, key, other)
    done = store_command("check", "--datadir", datadir, "--level", 1)
    assert "bad-header-record" in first_fault(done)
    assert done.status == 74


def test_level_1_finds_a_header_without_work(store_command, datadir, chain):
    """A header whose fields fit, but whose nonce nobody has searched."""
    parent = facts(datadir, chain)["index"][-1]
    time_s = int.from_bytes(parent.header[68:72], "little") + SPACING
    bits = expected_bits(chain.params, parent.height, time_s - SPACING)
    forged = unsolved(
        BlockHeader.build(
            version=0x20000000,
            prev_hash=parent.block_hash,
            merkle_root=bytes(32),
            time_s=time_s,
            bits=bits,
            nonce=0,
        )
    )
    value = schema.encode_branch(forged.raw, parent.work + work_of(forged.bits))
    changed(datadir, schema.branch_key(parent.height + 1, forged.hash), lambda _: value)
    changed(datadir, schema.HEADER_HEIGHT + forged.hash, lambda _: schema.U32.pack(parent.height + 1))
    done = store_command("check", "--datadir", datadir, "--level", 1)
    assert done.status == 74
    assert "high-hash" in first_fault(done)


def test_level_1_finds_marks_of_nothing(store_command, datadir):
    changed(datadir, schema.INVALID + bytes(32), lambda _: b"invalidated")
    done = store_command("check", "--datadir", datadir, "--level", 1)
    assert "is marked as invalid, but its header is not there" in first_fault(done)


def test_level_3_finds_undo_data_of_another_block(store_command, datadir, chain):
    hashes = [Block.parse(raw).hash for raw in facts(datadir, chain)["bodies"]]
    with plyvel.DB(str(datadir / "index")) as index:
        stored = [index.get(schema.BLOCK + each) for each in hashes[12:14]]
    second = schema.decode_block(stored[1])
    changed(
        datadir,
        schema.BLOCK + hashes[12],
        lambda value: schema.encode_block(schema.decode_block(value)._replace(undo=second.undo)),
    )
    done = store_command("check", "--datadir", datadir, "--level", 3)
    assert done.status == 74


# ---- reindex


@pytest.mark.parametrize("options", [(), ("--verify",)])
@pytest.mark.parametrize("database", ["whole", "damaged", "gone"])
def test_the_branch_of_most_work_again(store_command, datadir, chain, options, database):
    before = facts(datadir, chain)
    if database == "damaged":
        (datadir / "index" / "CURRENT").write_bytes(b"rubbish\n")
    elif database == "gone":
        shutil.rmtree(datadir / "index")
    done = store_command("reindex", "--datadir", datadir, *options)
    height = TIP if database == "whole" else TIP + 1
    assert (done.status, done.out) == (0, f"height {height}\n"), done.err
    after = facts(datadir, chain)
    if database == "whole":
        assert after == before
    else:  # the mark was in the database alone, and the block under it breaks no rule
        assert after["marks"] == {}
        assert set(after["index"]) == set(before["index"])
        assert after["bodies"][:-1] == before["bodies"]
        assert len(after["off"]) == len(before["off"]) - 1
    assert store_command("check", "--datadir", datadir, "--level", 4).status == 0


@pytest.mark.parametrize("step", [8, 40, 60, 70, 80])
def test_kill_9_at_any_step(datadir, kit, chain, step):
    before = facts(datadir, chain)
    died = kit.killed("reindex", datadir, "step", step)
    assert facts(datadir, chain) == before
    with kit.locked(datadir) as target:
        done = reindex(target, kit.Progress())
    assert (done.height, died) == (TIP, True)
    assert facts(datadir, chain) == before


def test_a_stored_block_that_breaks_a_rule_is_marked_and_left(store_command, tmp_path, chain):
    """Its branch has more work, but nobody ever connected it."""
    datadir = chain.write_datadir(tmp_path / "node")
    node = PowNode(datadir, chain)
    node.extend(3)
    forged = greedy(node.mine(salt=7))
    assert refused(node, forged) == "bad-cb-amount"
    node.note(forged)
    node.store.sync()
    node.close()
    shutil.rmtree(datadir / "index")
    done = store_command("reindex", "--datadir", datadir)
    assert (done.status, done.out) == (0, "height 3\n")
    assert facts(datadir, chain)["marks"] == {forged.hash: "bad-cb-amount"}
    assert store_command("check", "--datadir", datadir, "--level", 4).status == 0


def test_a_mark_keeps_a_branch_of_more_work_away(store_command, tmp_path, chain):
    datadir = chain.write_datadir(tmp_path / "node")
    node = PowNode(datadir, chain)
    first = node.extend(5, salt=1)
    node.store.headers.mark(first[2].hash, "invalidated")
    node.back(3)
    node.extend(1, salt=2)
    tip = node.chain.tip
    node.close()
    done = store_command("reindex", "--datadir", datadir)
    assert (done.status, done.out) == (0, "height 3\n")
    node = PowNode(datadir, chain)
    assert node.chain.tip == tip
    assert node.store.headers.marks() == {first[2].hash: "invalidated"}
    node.close()


def test_bodies_without_their_ancestors_are_no_chain(store_command, datadir, chain, kit):
    for path in sorted((datadir / "blocks").glob("*.dat"))[:2]:
        path.unlink()
    shutil.rmtree(datadir / "index")
    with kit.locked(datadir) as target, pytest.raises(StorageError):
        reindex(target, kit.Progress())


# ---- repair, prune, compact


def test_nothing_to_repair(store_command, datadir, kit):
    before = kit.tree_of(datadir)
    done = store_command("repair", "--datadir", datadir)
    assert (done.status, done.out) == (0, "nothing to repair\n")
    assert kit.tree_of(datadir) == before


@pytest.mark.parametrize("seed", range(6))
def test_damage_in_a_segment_file(store_command, datadir, chain, seed):
    rng = Random(seed)
    before = facts(datadir, chain)
    path = rng.choice(sorted((datadir / "blocks").glob("*.dat"))[:-1])
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 255
    path.write_bytes(data)
    done = store_command("repair", "--datadir", datadir)
    assert done.status == 0, done.err
    assert "found: " in done.out
    assert store_command("check", "--datadir", datadir, "--level", 4).status == 0
    node = PowNode(datadir, chain)
    known = [Block.parse(raw) for raw in before["bodies"]]
    while node.store.block_hash(node.chain.tip.height) != known[node.chain.tip.height].hash:
        node.back(1)  # it stands on a branch of the past
    for block in known[node.chain.tip.height + 1 :]:
        node.connect(block)
    assert node.chain.tip.encode() == before["tip"]
    assert dict(node.store.iterate_coins()) == before["coins"]
    node.close()


def test_a_header_index_with_holes_is_filled(datadir, kit, chain):
    before = facts(datadir, chain)
    active = [Block.parse(raw).hash for raw in before["bodies"]]
    for height in (3, 9):
        changed(datadir, schema.HEADER_HEIGHT + active[height], lambda value: None)
    changed(datadir, schema.branch_key(5, active[5]), flipped)
    said = []
    with kit.locked(datadir) as target:
        assert repair(target, kit.Progress(), said.append)
    assert said == ["done: 3 headers of the active chain are in the header index again"]
    assert facts(datadir, chain) == before


def test_pruning_takes_old_branches_along(store_command, datadir, chain, monkeypatch):
    monkeypatch.setattr(limits, "KEEP_BLOCKS_MIN", 3)
    before = facts(datadir, chain)
    done = store_command("prune", "--datadir", datadir, "--keep-blocks", 4)
    assert done.status == 0, done.err
    after = facts(datadir, chain)
    assert after["index"] == before["index"]
    assert after["coins"] == before["coins"]
    assert len(after["bodies"]) < len(before["bodies"])
    assert set(after["off"]) < set(before["off"])
    assert store_command("check", "--datadir", datadir, "--level", 4).status == 0
    done = store_command("reindex", "--datadir", datadir)
    assert "pruned: blocks below" in done.err
    node = PowNode(datadir, chain)
    node.back(2)
    node.extend(3, salt=8)
    node.close()


def test_compacting_changes_nothing(store_command, datadir, chain):
    before = facts(datadir, chain)
    assert store_command("compact", "--datadir", datadir).status == 0
    assert facts(datadir, chain) == before


# ---- state roots across reorganisations


def test_roots_of_a_branch_that_was_left_are_not_used(store_command, source, rooted):
    node = PowNode(source, rooted)
    roots = node.chain.state_roots
    roots.run_in_background()
    before = roots.root_at(TIP)
    node.extend(1, salt=6)
    node.back(4)  # to TIP - 3
    assert roots.known(TIP) is None
    node.extend(8, salt=7, txs=[node.pay(5)])
    after = roots.root_at(TIP)
    assert after != before
    block = node.chain.block(node.store.block_hash(TIP + INTERVAL))
    assert find_commitment(block.txs[0]).state_root == after
    roots.close()
    node.close()
    assert store_command("check", "--datadir", source, "--level", 4).status == 0


# ---- snapshots


@pytest.fixture(scope="module")
def rooted_template(tmp_path_factory, rooted):
    return stormy(tmp_path_factory.mktemp("rooted") / "node", rooted)


@pytest.fixture
def source(rooted_template, tmp_path):
    return shutil.copytree(rooted_template, tmp_path / "source")


@pytest.fixture
def empty(tmp_path, rooted):
    return rooted.write_datadir(tmp_path / "empty")


@pytest.fixture
def exported(source, tmp_path, kit):
    path = tmp_path / "snapshot.wts"
    with kit.locked(source) as target:
        done = export_snapshot(target, path, kit.Progress())
        assert (done.height, done.proof_height) == (TIP - INTERVAL, TIP)
        return path, done, chain_work(target, TIP)


def take(empty, kit, path, trust):
    with kit.locked(empty) as target:
        return import_snapshot(target, path, trust, kit.Progress())


def refusal(empty, kit, path, trust):
    with pytest.raises(StorageError) as caught:
        take(empty, kit, path, trust)
    assert sorted(each.name for each in empty.iterdir()) == ["chain.toml", "lock"]
    return caught.value.code


def test_somebody_must_stand_for_it(exported, empty, kit):
    path, _, work = exported
    assert refusal(empty, kit, path, Trust()) == "snapshot-untrusted"
    assert refusal(empty, kit, path, Trust(min_work=work + 1)) == "snapshot-refused"
    assert refusal(empty, kit, path, Trust(block_hash=bytes(32))) == "snapshot-wrong-block"
    assert refusal(empty, kit, path, Trust(root=bytes(32))) == "snapshot-wrong-hash"


@pytest.mark.parametrize("trusted", ["block", "work", "root"])
def test_a_node_goes_on_from_it(exported, empty, source, kit, rooted, trusted):
    path, done, work = exported
    trust = {
        "block": Trust(block_hash=done.proof_hash),
        "work": Trust(min_work=work),
        "root": Trust(root=done.root),
    }[trusted]
    assert take(empty, kit, path, trust) == done.height
    full, light = PowNode(source, rooted), PowNode(empty, rooted)
    full.extend(INTERVAL + 1, salt=4)
    assert light.store.headers.get(done.proof_hash).work == work
    for height in range(done.height + 1, full.chain.tip.height + 1):
        light.connect(full.chain.block(full.store.block_hash(height)))
    assert light.chain.tip == full.chain.tip
    assert dict(light.store.iterate_coins()) == dict(full.store.iterate_coins())
    light.back(3)
    light.extend(4, salt=5)
    light.close()
    full.close()


def test_command_line(store_command, source, empty, tmp_path):
    file = tmp_path / "file"
    done = store_command("export-snapshot", "--datadir", source, file)
    said = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert store_command("import-snapshot", "--datadir", empty, file).status == 74
    done = store_command("import-snapshot", "--datadir", empty, file, "--min-work", said["work"])
    assert (done.status, done.err) == (0, "")
    for level in range(5):
        done = store_command("check", "--datadir", empty, "--level", level)
        assert done.status == 0, done.out


def test_a_checkpoint_of_the_chain_file_stands_for_it(exported, empty, kit, keys, rooted, tmp_path):
    path, done, _ = exported
    fixed = PowChain(kit.node.RICH, keys, interval=INTERVAL, checkpoints=[Checkpoint(TIP, done.proof_hash)])
    assert take(fixed.write_datadir(tmp_path / "fixed"), kit, path, Trust()) == done.height
    other = PowChain(kit.node.RICH, keys, interval=INTERVAL, checkpoints=[Checkpoint(TIP, bytes(32))])
    there = other.write_datadir(tmp_path / "other")
    assert refusal(there, kit, path, Trust(block_hash=done.proof_hash)) == "snapshot-refused"


@pytest.mark.parametrize("height", [1, TIP - 2, TIP])
def test_headers_without_work_are_refused(exported, empty, kit, height):
    path, done, _ = exported
    data = bytearray(path.read_bytes())
    (size,) = schema.U32.unpack_from(data, 8)
    at = 12 + size + 80 * height
    data[at : at + 80] = unsolved(BlockHeader.parse(bytes(data[at : at + 80]))).raw
    path.write_bytes(data)
    with pytest.raises(StorageError, match="high-hash"):
        take(empty, kit, path, Trust(block_hash=done.proof_hash))


def test_a_chain_without_roots_is_believed_for_its_hash_alone(datadir, tmp_path, kit, chain):
    path = tmp_path / "plain"
    with kit.locked(datadir) as target:
        done = export_snapshot(target, path, kit.Progress())
    assert (done.height, done.proof_hash) == (TIP, None)
    empty = chain.write_datadir(tmp_path / "empty")
    assert refusal(empty, kit, path, Trust(min_work=1)) == "snapshot-untrusted"
    assert take(empty, kit, path, Trust(root=done.root)) == TIP
    node = PowNode(empty, chain)
    node.extend(1)
    node.close()
