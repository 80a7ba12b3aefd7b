"""Data directories with a real chain: real contracts, blocks, signatures and certificates."""

import importlib.util
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from consensus.bft import statements
from consensus.bft.certificates import bitmap_of
from consensus.bft.codec import encode_qc
from consensus.bft.config import Electorate, VoterSet, VoteSecret, genesis_base
from consensus.bft.shown import Vote
from consensus.bft.types import QC, Kind
from consensus.chainfile import render_chain_file
from consensus.transaction import outpoint
from consensus.validators import initial_set
from contracts.operations import Deposit
from node.cli.main import run_command
from node.store.progress import Progress
from node.store.target import locked
from storage import limits
from storage.store import ChainStore

ROOT = Path(__file__).parents[3]
BLOCKS = 20


def _node_kit():
    spec = importlib.util.spec_from_file_location("node_kit", ROOT / "tests/unit/node/conftest.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["node_kit"] = module
    spec.loader.exec_module(module)
    return module


node_kit = _node_kit()


def electorate_of(chain):
    return Electorate(
        chain.genesis.hash, VoterSet.of(initial_set(chain.params)), genesis_base(chain.genesis.hash)
    )


def certificate_of(chain, height, block_hash, members=(0, 1, 2), term=1):
    """Return a real commit certificate."""
    electorate = electorate_of(chain)
    digest = statements.block_vote(electorate, Vote.COMMIT, term, height, block_hash)
    sigs = tuple(VoteSecret(chain.keys[member].vote.reveal()).sign(digest) for member in members)
    return encode_qc(QC(Kind.COMMIT, 0, term, height, block_hash, bitmap_of(members, 4), sigs))


def grow(node, chain, count):
    """Commit ``count`` blocks: a payment, a deposit or nothing in each."""
    rich, coin = node_kit.RICH, outpoint(chain.genesis.txs[0].txid, 4)
    for _ in range(count):
        height = node.chain.tip.height + 1
        txs = []
        if height % 3 and height < node_kit.COINS:
            txs = [node_kit.pay(chain.coin(height))]
        elif height < node_kit.COINS:
            txs = [node_kit.operate(chain.coin(height), Deposit(), value=90_000)]
        block = node.build(txs, time_s=node.clock.now_s() + height)
        node.chain.commit(block.hash, certificate_of(chain, height, block.hash))
    return rich, coin


@pytest.fixture(scope="session")
def chain():
    return node_kit.Chain(4)


def make_datadir(path, chain, count):
    path.mkdir(parents=True)
    (path / "chain.toml").write_text(render_chain_file(chain.params))
    if count >= 0:
        node = node_kit.Node(path, chain)
        grow(node, chain, count)
        node.close()
    return path


@pytest.fixture(scope="session")
def template(tmp_path_factory, chain):
    """A chain of BLOCKS blocks in several segment files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "SEGMENT_BYTES", 8_000)
        return make_datadir(tmp_path_factory.mktemp("template") / "node", chain, BLOCKS)


@pytest.fixture
def datadir(template, tmp_path):
    return shutil.copytree(template, tmp_path / "node")


@pytest.fixture
def empty(tmp_path, chain):
    """A data directory with a chain file and nothing else."""
    return make_datadir(tmp_path / "empty", chain, -1)


@dataclass
class Done:
    status: int
    out: str
    err: str


@pytest.fixture
def store_command(capsys):
    """Run ``wattd store`` in this process."""

    def run(*arguments):
        status = run_command(["store", *map(str, arguments)])
        said = capsys.readouterr()
        return Done(status, said.out, said.err)

    return run


def facts(datadir, chain):
    """Open the store as a node does (without executing) and return all that it says."""
    with ChainStore.open(datadir, chain_id=chain.genesis.hash) as store:
        heights = range(store.pruned_below, store.height + 1)
        hashes = [store.block_hash(height) for height in heights]
        return {
            "tip": store.tip,
            "coins": dict(store.iterate_coins()),
            "state": dict(store.state_view.scan(b"")),
            "headers": [store.header(height) for height in range(store.height + 1)],
            "bodies": [store.body(each) for each in hashes],
            "undo": [store.undo(each) for each in hashes],
            "certificates": [store.certificate(height) for height in heights],
        }


def tree_of(path):
    """Return every file with its bytes, but for LevelDB's and the lock, which each open writes."""
    return {
        file.relative_to(path): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and "index" not in file.relative_to(path).parts and file.name != "lock"
    }


class StopAfter(Progress):
    """Interrupts the tool at its ``count``-th step, as Ctrl-C does."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def advance(self, amount=1):
        self.count -= 1
        self.interrupted = self.count <= 0
        super().advance(amount)


def killed(tool, datadir, how, count, *more):
    """Run a tool in a process that kills itself (see toolchild); return whether it came to that."""
    command = [
        sys.executable,
        "-m",
        "tests.unit.node_store.toolchild",
        tool,
        *map(str, (datadir, how, count, *more)),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode != 0


class Kit:
    BLOCKS = BLOCKS
    Progress, StopAfter = Progress, StopAfter
    facts, tree_of, grow, make_datadir = map(staticmethod, (facts, tree_of, grow, make_datadir))
    certificate_of, locked, killed = map(staticmethod, (certificate_of, locked, killed))
    node = node_kit


@pytest.fixture(scope="session")
def kit():
    return Kit
