"""Snapshots on a chain that commits to its state: believed for a certificate, and for nothing less."""

import shutil
from dataclasses import replace
from random import Random

import plyvel
import pytest

from consensus import canonical, history
from consensus.block import Block
from consensus.commitment import find_commitment
from consensus.errors import StorageError
from consensus.genesis import genesis_block
from consensus.state_root import state_root
from consensus.transaction import outpoint
from contracts.api import EnergyContracts
from node.store.evidence import Trust
from node.store.snapfile import CHUNK_BYTES, U32
from node.store.snapshot import export_snapshot, import_snapshot
from storage import schema
from storage.store import ChainStore

INTERVAL = 6
HEIGHT, PROOF, TIP = 12, 18, 20


@pytest.fixture(scope="module")
def chain(kit):
    """Four validators, and a state root each INTERVAL blocks."""
    made = kit.node.Chain(4)
    ledger = replace(made.params.ledger, snapshot_interval_blocks=INTERVAL)
    made.params = replace(made.params, ledger=ledger)
    made.genesis = genesis_block(made.params, EnergyContracts(made.params))
    return made


@pytest.fixture(scope="module")
def grown(tmp_path_factory, chain, kit):
    return kit.make_datadir(tmp_path_factory.mktemp("proven") / "node", chain, TIP)


@pytest.fixture(scope="module")
def exported(grown, tmp_path_factory, kit):
    path = tmp_path_factory.mktemp("snapshots") / "snapshot.wts"
    with kit.locked(grown) as target:
        done = export_snapshot(target, path, kit.Progress())
    assert (done.height, done.proof_height) == (HEIGHT, PROOF)
    return path, done


@pytest.fixture
def source(grown, tmp_path):
    return shutil.copytree(grown, tmp_path / "source")


@pytest.fixture
def snapshot(exported, tmp_path):
    return shutil.copy(exported[0], tmp_path / "snapshot.wts")


@pytest.fixture
def empty(tmp_path, chain, kit):
    return kit.make_datadir(tmp_path / "empty", chain, -1)


def take(empty, kit, path, trust=None):
    with kit.locked(empty) as target:
        return import_snapshot(target, path, trust or Trust(), kit.Progress())


def refusal(empty, kit, path, trust=None):
    with pytest.raises(StorageError) as caught:
        take(empty, kit, path, trust)
    assert sorted(each.name for each in empty.iterdir()) == ["chain.toml", "lock"]
    return caught.value.code


def reseal(path, data):
    """Write a forged snapshot whose root fits."""
    at = data.rindex(b"STEP")
    chunks = [data[start : min(start + CHUNK_BYTES, at)] for start in range(0, at, CHUNK_BYTES)]
    root = history.tree_root([history.leaf_hash(chunk) for chunk in chunks])
    path.write_bytes(data[:-32] + root)


class Parts:
    """A snapshot taken apart, and put together again."""

    def __init__(self, data):
        at = 8
        (size,) = U32.unpack_from(data, at)
        self.head = canonical.decode(data[at + 4 : at + 4 + size])
        at += 4 + size
        proof_height = self.head[3]
        self.headers = [data[at + 80 * n : at + 80 * n + 80] for n in range(proof_height + 1)]
        at += 80 * len(self.headers)
        self.coins, at = self._entries(data, at)
        self.state, at = self._entries(data, at)
        assert data[at : at + 4] == b"STEP"
        self.steps, at = [], at + 4
        while data[at]:
            (size,) = U32.unpack_from(data, at + 1)
            self.steps.append(data[at + 5 : at + 5 + size])
            at += 5 + size
        at += 1
        assert data[at : at + 4] == b"CERT"
        (size,) = U32.unpack_from(data, at + 4)
        self.certificates = canonical.decode(data[at + 8 : at + 8 + size])
        self.magic = data[:8]

    @staticmethod
    def _entries(data, at):
        pairs = []
        while data[at]:
            pair = []
            at += 1
            for _ in range(2):
                (size,) = U32.unpack_from(data, at)
                pair.append(data[at + 4 : at + 4 + size])
                at += 4 + size
            pairs.append(tuple(pair))
        return pairs, at + 1

    def write(self, path):
        data = bytearray(self.magic)
        head = canonical.encode(self.head)
        data += U32.pack(len(head)) + head + b"".join(self.headers)
        for pairs in (self.coins, self.state):
            for key, value in pairs:
                data += b"\x01" + U32.pack(len(key)) + key + U32.pack(len(value)) + value
            data += b"\x00"
        certificates = canonical.encode(self.certificates)
        data += b"STEP" + b"".join(b"\x01" + U32.pack(len(step)) + step for step in self.steps) + b"\x00"
        data += b"CERT" + U32.pack(len(certificates)) + certificates + bytes(32)
        reseal(path, bytes(data))


# ---- what works


def test_the_form_is_what_the_documentation_says(exported, grown, chain):
    parts = Parts(exported[0].read_bytes())
    with ChainStore.open(grown, chain_id=chain.genesis.hash) as store:
        block = Block.parse(store.body(store.block_hash(PROOF)))
        assert parts.headers == [store.header(height) for height in range(PROOF + 1)]
        assert parts.head[1] == HEIGHT
        assert parts.head[2] == store.body(store.block_hash(HEIGHT))
        assert parts.certificates == [store.certificate(HEIGHT), [], store.certificate(PROOF)]
    assert find_commitment(block.txs[0]).state_root == state_root(parts.coins, parts.state)


def test_command_line(store_command, source, empty, tmp_path, exported):
    file = tmp_path / "file"
    done = store_command("export-snapshot", "--datadir", source, file)
    said = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    block = exported[1].proof_hash[::-1].hex()
    assert said == {
        "height": str(HEIGHT),
        "hash": exported[1].root.hex(),
        "proof": f"{block} (block {PROOF})",
    }
    done = store_command("import-snapshot", "--datadir", empty, file, "--trust-hash", "00" * 32)
    assert (done.status, "snapshot-wrong-block" in done.err) == (74, True)
    for option, value in (("--trust-hash", "12"), ("--hash", "xx"), ("--min-work", "many")):
        assert store_command("import-snapshot", "--datadir", empty, file, option, value).status == 2
    done = store_command("import-snapshot", "--datadir", empty, file, "--trust-hash", block)
    assert (done.status, done.err, done.out.split(";")[0]) == (0, "", f"height {HEIGHT}")
    for level in range(5):
        assert store_command("check", "--datadir", empty, "--level", level).status == 0


def test_no_hash_is_needed_where_a_quorum_has_signed(snapshot, empty, source, kit, chain, tmp_path):
    assert take(empty, kit, snapshot) == HEIGHT
    young = kit.make_datadir(tmp_path / "young", chain, HEIGHT)
    light, then = kit.facts(empty, chain), kit.facts(young, chain)
    for what in ("tip", "coins", "state", "headers"):
        assert light[what] == then[what]


def test_the_node_starts_from_it_and_follows_the_chain(snapshot, empty, source, kit, chain):
    take(empty, kit, snapshot)
    full, light = kit.node.Node(source, chain), kit.node.Node(empty, chain)
    kit.grow(full, chain, 6)
    assert light.chain.state_roots.known(HEIGHT) is not None
    for height in range(HEIGHT + 1, full.chain.tip.height + 1):
        block = full.chain.block(full.store.block_hash(height))
        light.chain.execute(block, light.chain.tip.block_hash)  # with all roots on the way
        light.chain.commit(block.hash, full.store.certificate(height))
    assert light.chain.tip == full.chain.tip
    light.close()
    full.close()
    again = kit.node.Node(empty, chain)
    assert again.build().header.prev_hash == again.chain.tip.block_hash
    again.close()


def test_from_an_imported_chain_the_next_snapshot_is_the_same(snapshot, empty, source, kit, chain, tmp_path):
    take(empty, kit, snapshot)
    full, light = kit.node.Node(source, chain), kit.node.Node(empty, chain)
    kit.grow(full, chain, 6)
    for height in range(HEIGHT + 1, full.chain.tip.height + 1):
        block = full.chain.block(full.store.block_hash(height))
        light.chain.execute(block, light.chain.tip.block_hash, certified=True)
        light.chain.commit(block.hash, full.store.certificate(height))
    full.close()
    light.close()
    roots = []
    for number, datadir in enumerate((source, empty)):
        with kit.locked(datadir) as target:
            done = export_snapshot(target, tmp_path / f"later-{number}", kit.Progress())
        roots.append(done.root)
        assert done.height == HEIGHT + INTERVAL
    assert roots[0] == roots[1]


def test_a_node_that_lacks_the_blocks_cannot_export_yet(snapshot, empty, kit):
    take(empty, kit, snapshot)
    with kit.locked(empty) as target, pytest.raises(StorageError) as caught:
        export_snapshot(target, snapshot.with_name("again"), kit.Progress())
    assert caught.value.code == "pruned"
    assert not snapshot.with_name("again").exists()


def test_a_certificate_for_a_later_block_brings_its_headers(grown, tmp_path, kit, chain, empty):
    datadir = kit.make_datadir(tmp_path / "node", chain, PROOF - 1)
    node = kit.node.Node(datadir, chain)
    blocks = []
    parent = node.chain.tip.block_hash
    for _ in range(2):
        blocks.append(node.build(parent=parent, time_s=node.clock.now_s() + 40))
        parent = blocks[-1].hash
    later = kit.certificate_of(chain, PROOF + 1, blocks[1].hash)
    for block in blocks:
        node.chain.commit(block.hash, later)
    node.close()
    path = tmp_path / "snapshot"
    with kit.locked(datadir) as target:
        done = export_snapshot(target, path, kit.Progress())
    parts = Parts(path.read_bytes())
    assert (done.proof_height, parts.certificates[1]) == (PROOF, [blocks[1].header.raw])
    assert take(empty, kit, path, Trust(block_hash=blocks[1].hash)) == HEIGHT


def test_an_interrupted_or_killed_run_is_done_again(snapshot, empty, source, tmp_path, kit, chain):
    with kit.locked(source) as target, pytest.raises(KeyboardInterrupt):
        export_snapshot(target, tmp_path / "interrupted", kit.StopAfter(6))
    assert not list(tmp_path.glob("interrupted*"))
    with kit.locked(empty) as target, pytest.raises(KeyboardInterrupt):
        import_snapshot(target, snapshot, Trust(), kit.StopAfter(60))
    assert take(empty, kit, snapshot) == HEIGHT


def test_a_check_compares_the_roots_that_are_kept(store_command, source):
    with plyvel.DB(str(source / "index")) as index:
        key = schema.state_root_key(HEIGHT)
        kept = index.get(key)
        index.put(key, kept[:-1] + bytes([kept[-1] ^ 1]))
    done = store_command("check", "--datadir", source, "--level", 1)
    assert (done.status, f"the state root of height {HEIGHT}" in done.out) == (74, True)


# ---- what is refused


@pytest.mark.parametrize(
    "what", ["coin", "owner", "removed coin", "added coin", "state", "removed key", "added key"]
)
def test_any_other_state_is_refused(snapshot, empty, kit, what):
    parts = Parts(snapshot.read_bytes())
    at = 3
    prevout, coin = parts.coins[at]
    key, value = parts.state[at]
    if what == "coin":
        parts.coins[at] = (prevout, coin[:4] + bytes([coin[4] ^ 1]) + coin[5:])
    elif what == "owner":
        parts.coins[at] = (prevout, coin[:-1] + bytes([coin[-1] ^ 1]))
    elif what == "removed coin":
        del parts.coins[at]
    elif what == "added coin":
        parts.coins.append((outpoint(b"\xff" * 32, 0), coin))
    elif what == "state":
        parts.state[at] = (key, value + b"\x00")
    elif what == "removed key":
        del parts.state[at]
    else:
        parts.state.append((b"\xff" * 40, b"more"))
    parts.write(snapshot)
    assert refusal(empty, kit, snapshot) == "snapshot-root-mismatch"


def test_a_coinbase_of_ones_own_is_refused(snapshot, empty, kit, chain):
    """With a root that fits the forged values, the coinbase no longer fits the block."""
    parts = Parts(snapshot.read_bytes())
    prevout, coin = parts.coins[0]
    parts.coins[0] = (prevout, coin[:-1] + bytes([coin[-1] ^ 1]))
    block = Block.parse(chain.genesis.raw)
    coinbase = type(block.txs[0]).parse(parts.head[4])
    forged = replace(find_commitment(coinbase), state_root=state_root(parts.coins, parts.state))
    outputs = [*coinbase.vout[:-1], coinbase.vout[-1]._replace(script_pubkey=forged.encode_script())]
    parts.head[4] = type(coinbase).build(coinbase.version, coinbase.vin, outputs, coinbase.lock_time).raw
    parts.write(snapshot)
    assert refusal(empty, kit, snapshot) == "snapshot-refused"


def test_a_chain_of_ones_own_is_refused(snapshot, empty, kit, chain, tmp_path):
    """Another state needs another block, which no quorum has signed."""
    rival = kit.make_datadir(tmp_path / "rival", chain, 0)
    node = kit.node.Node(rival, chain)
    for height in range(1, TIP + 1):
        block = node.build(time_s=node.clock.now_s() + 7 * height)
        weak = kit.certificate_of(chain, height, block.hash, members=(0, 1))
        node.chain.commit(block.hash, weak)
    node.close()
    with kit.locked(rival) as target:
        export_snapshot(target, tmp_path / "rival.wts", kit.Progress())
    forged = Parts((tmp_path / "rival.wts").read_bytes())
    assert refusal(empty, kit, tmp_path / "rival.wts") == "snapshot-refused"
    forged.certificates = Parts(snapshot.read_bytes()).certificates
    forged.write(tmp_path / "rival.wts")
    assert refusal(empty, kit, tmp_path / "rival.wts") == "snapshot-refused"


def test_certificates_that_do_not_cover_the_proof_are_refused(snapshot, empty, kit, chain):
    good = Parts(snapshot.read_bytes()).certificates
    parts = Parts(snapshot.read_bytes())
    for certificates in (
        [good[0], [], good[0]],
        [good[2], [], b""],
        [b"", [], good[2]],
        [good[0], [parts.headers[PROOF]], good[2]],
        [good[0], [b"short"], good[2]],
        [good[0], [parts.headers[PROOF]] * 17, good[2]],
        [good[0], good[2]],
    ):
        parts.certificates = certificates
        parts.write(snapshot)
        assert refusal(empty, kit, snapshot) in ("snapshot-refused", "snapshot-damaged")


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (1, HEIGHT + 1),
        (1, HEIGHT - INTERVAL),
        (3, PROOF + 1),
        (3, INTERVAL),
        (3, 0),
        (3, -6),
        (4, b"\x00"),
        (5, [b"x"]),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(snapshot, empty, kit, at, value):
    parts = Parts(snapshot.read_bytes())
    parts.head[at] = value
    parts.write(snapshot)
    assert refusal(empty, kit, snapshot) in ("snapshot-refused", "snapshot-damaged")


def test_headers_of_another_chain_are_refused(snapshot, empty, kit):
    parts = Parts(snapshot.read_bytes())
    parts.headers[7] = parts.headers[7][:-1] + bytes([parts.headers[7][-1] ^ 1])
    parts.write(snapshot)
    assert refusal(empty, kit, snapshot) == "snapshot-refused"


@pytest.mark.parametrize("seed", range(12))
def test_any_flipped_byte_is_refused(snapshot, empty, kit, seed):
    data = bytearray(snapshot.read_bytes())
    data[Random(seed).randrange(len(data))] ^= 1
    snapshot.write_bytes(data)
    assert refusal(empty, kit, snapshot).startswith("snapshot-")


def test_a_file_that_ends_early_or_late_is_refused(snapshot, empty, kit):
    data = snapshot.read_bytes()
    for length in (0, 7, 8, 500, len(data) // 2, len(data) - 1):
        snapshot.write_bytes(data[:length])
        assert refusal(empty, kit, snapshot) == "snapshot-damaged"
    snapshot.write_bytes(data + b"\x00")
    assert refusal(empty, kit, snapshot) == "snapshot-damaged"


def test_what_the_operator_names_must_fit(snapshot, empty, kit, exported):
    assert refusal(empty, kit, snapshot, Trust(root=bytes(32))) == "snapshot-wrong-hash"
    below = Block.parse(Parts(snapshot.read_bytes()).head[2]).hash
    assert refusal(empty, kit, snapshot, Trust(block_hash=below)) == "snapshot-wrong-block"
    assert take(empty, kit, snapshot, Trust(exported[1].root, exported[1].proof_hash)) == HEIGHT


@pytest.mark.parametrize(("tip", "height"), [(INTERVAL - 1, INTERVAL - 1), (2 * INTERVAL - 1, INTERVAL)])
def test_before_the_first_commitment_it_is_a_state_to_go_on_from(tmp_path, kit, chain, empty, tip, height):
    datadir = kit.make_datadir(tmp_path / "young", chain, tip)
    with kit.locked(datadir) as target:
        done = export_snapshot(target, tmp_path / "early", kit.Progress())
    assert (done.height, done.proof_height) == (height, None)
    assert refusal(empty, kit, tmp_path / "early") == "snapshot-untrusted"
    assert refusal(empty, kit, tmp_path / "early", Trust(block_hash=bytes(32))) == "snapshot-wrong-block"
    assert take(empty, kit, tmp_path / "early", Trust(done.root)) == height
    full, light = kit.node.Node(datadir, chain), kit.node.Node(empty, chain)
    kit.grow(full, chain, 2 * INTERVAL - tip)
    for at in range(height + 1, 2 * INTERVAL + 1):
        block = full.chain.block(full.store.block_hash(at))
        light.chain.execute(block, light.chain.tip.block_hash)
        light.chain.commit(block.hash, full.store.certificate(at))
    assert light.chain.tip == full.chain.tip
    full.close()
    light.close()


def test_a_state_from_which_no_root_could_be_computed_is_refused(tmp_path, kit, chain, empty):
    datadir = kit.make_datadir(tmp_path / "young", chain, INTERVAL + 1)
    with kit.locked(datadir) as target:
        plain = replace(target.params, ledger=replace(target.params.ledger, snapshot_interval_blocks=0))
        done = export_snapshot(replace(target, params=plain), tmp_path / "odd", kit.Progress())
    assert done.height == INTERVAL + 1
    assert refusal(empty, kit, tmp_path / "odd", Trust(done.root)) == "snapshot-refused"


def test_another_chain_is_refused(snapshot, tmp_path, kit):
    other = kit.make_datadir(tmp_path / "elsewhere", kit.node.Chain(3), -1)
    assert refusal(other, kit, snapshot) == "snapshot-foreign-chain"
