"""Benchmarks of the store: what a node takes that follows a chain of a million unspent outputs."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from consensus.block import Block
from consensus.errors import LocalFault
from consensus.genesis import genesis_block
from consensus.params import Allocation
from consensus.transaction import Transaction, TxIn, TxOut, outpoint
from contracts.api import EnergyContracts
from node.bench.network import FOUNDERS
from node.bench.registry import Benchmark, Progress, Result, less_is_better
from node.chainstate import ChainState, Trusting
from node.keyfile import Secret
from node.testnet import ChainPlan, Testnet
from node.wallet import Account
from storage.store import ChainStore

OUTPUTS = 1_000_000
FAN_OUT = 2_000
"""Outputs per transaction that builds the set."""

FAN_OUT_TXS_PER_BLOCK = 8
BLOCKS = 200
BLOCK_TXS = 1_000
TARGET_MIB = 128
TARGET = "what a node may have resident"

_VALUE = 1_000_000
_FEE = 1_000
_STRIDE = 618_033
"""Prime to the number of outputs: steps of this length visit each once, in an order without locality."""

_SCRIPT_SIG = bytes([72]) + bytes(72) + bytes([33]) + bytes(33)
"""As long as a signature and its key. Nobody looks at it: a certificate stands for the signatures."""

_MEBIBYTE = 1 << 20


def _account(number: int) -> bytes:
    return Account(Secret(bytes(31) + bytes([number]))).script


def _spend(prevout: bytes, outputs: list[TxOut]) -> Transaction:
    return Transaction.build(2, [TxIn(prevout, _SCRIPT_SIG, 0xFFFFFFFF)], outputs)


def _fan_outs(genesis_txid: bytes, first: int) -> list[Transaction]:
    """Return the transactions that turn genesis outputs into the set, ``FAN_OUT`` each."""
    script = _account(7)
    outputs = [TxOut(_VALUE, script)] * FAN_OUT
    return [_spend(outpoint(genesis_txid, first + at), outputs) for at in range(OUTPUTS // FAN_OUT)]


def _payments(fan_outs: list[bytes], first: int, count: int) -> list[Transaction]:
    """Return payments of two outputs, each of which spends some output of the set that is still there."""
    script, other = _account(7), _account(9)
    outputs = [TxOut(_VALUE - _FEE - 1_000, script), TxOut(1_000, other)]
    found = []
    for number in range(first, first + count):
        at, index = divmod(number * _STRIDE % OUTPUTS, FAN_OUT)
        found.append(_spend(outpoint(fan_outs[at], index), outputs))
    return found


def _build(chain: ChainState, txs: list[Transaction]) -> Block:
    """Assemble a block of ``txs`` on the tip and commit it."""
    tip = chain.tip
    assembled = chain.build(
        tip.block_hash, lambda _: txs, time_s=tip.time_s, term=1, proposer=0, last_bitmap=b"\x00"
    )
    if len(assembled.block.txs) != len(txs) + 1:
        raise LocalFault("bench-refused", str(assembled.refused[:1]))
    chain.commit(assembled.block.hash, b"")
    return assembled.block


def _grow(chain: ChainState, progress: Progress) -> list[bytes]:
    """Build the set of unspent outputs; return the txids that hold it."""
    genesis = chain.block(chain.chain_id)
    if genesis is None:
        raise LocalFault("bench-refused", "the store has no genesis block")
    txs = _fan_outs(genesis.txs[0].txid, len(FOUNDERS[:1]))
    progress(f"building {OUTPUTS} unspent outputs")
    for at in range(0, len(txs), FAN_OUT_TXS_PER_BLOCK):
        _build(chain, txs[at : at + FAN_OUT_TXS_PER_BLOCK])
    return [tx.txid for tx in txs]


def _blocks(chain: ChainState, fan_outs: list[bytes]) -> Iterator[Block]:
    for number in range(BLOCKS):
        yield _build(chain, _payments(fan_outs, number * BLOCK_TXS, BLOCK_TXS))


def _million(progress: Progress) -> list[Result]:
    """Let a process of its own follow a chain, block by block as this one builds it; ask what it took."""
    with tempfile.TemporaryDirectory(prefix="wattd-bench-") as root:
        grant = FAN_OUT * _VALUE + 1_000_000
        allocations = (Allocation(_account(7), grant),) * (OUTPUTS // FAN_OUT)
        net = Testnet.create(Path(root), FOUNDERS[:1], ChainPlan(name="bench", allocations=allocations))
        contracts = EnergyContracts(net.params)
        genesis = genesis_block(net.params, contracts)
        home, copy = net.nodes[0].config.datadir, Path(root) / "copy"

        def chain_over(store: ChainStore) -> ChainState:
            return ChainState(store, genesis, net.params, contracts, contracts.open, Trusting())

        with ChainStore.open(home, chain_id=genesis.hash, cache_bytes=256 * _MEBIBYTE) as store:
            fan_outs = _grow(chain_over(store), progress)
        shutil.copytree(home, copy)
        progress(f"following {BLOCKS} blocks of {BLOCK_TXS} payments")
        with ChainStore.open(home, chain_id=genesis.hash) as store:
            seconds, peak, outputs = _follow(copy, _blocks(chain_over(store), fan_outs))
    if outputs < OUTPUTS + BLOCKS * BLOCK_TXS:
        raise RuntimeError(f"the follower holds {outputs} unspent outputs")
    return [
        less_is_better("utxo_million_rss", peak / _MEBIBYTE, "MiB", TARGET, TARGET_MIB),
        Result("utxo_million_connect", BLOCK_TXS / median(seconds), "tx/s"),
        Result("utxo_million_slowest_block", max(seconds) * 1000, "ms"),
    ]


def _follow(datadir: Path, blocks: Iterator[Block]) -> tuple[list[float], int, int]:
    """Return the seconds per block of a follower, the bytes that it had resident, its unspent outputs."""
    command = [sys.executable, "-m", "node.bench.follow", str(datadir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("no pipes")
        seconds = []
        for block in blocks:
            child.stdin.write(len(block.raw).to_bytes(4, "little") + block.raw)
            child.stdin.flush()
            seconds.append(float(child.stdout.readline()))
        child.stdin.close()
        peak, outputs = map(int, child.stdout.readline().split())
    return seconds, peak, outputs


BENCHMARKS = (
    Benchmark(
        ("utxo_million_rss", "utxo_million_connect", "utxo_million_slowest_block"),
        f"following a chain of {OUTPUTS:,} unspent outputs",
        _million,
    ),
)
