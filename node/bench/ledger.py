"""Benchmarks of the ledger's rules, beside the bare rate: one signature check per call on one core."""

import asyncio
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from consensus.block import Block
from consensus.errors import LocalFault
from consensus.genesis import genesis_block
from consensus.ports import SignatureCheck
from consensus.transaction import Transaction, outpoint
from contracts.api import EnergyContracts
from node.bench.bare import BARE, BARE_CHECKS, Payments, bare_check, chain_of_payments
from node.bench.load import Source, make_source, payments
from node.bench.measure import interleaved
from node.bench.network import BATCH_TXS, COINS, FOUNDERS, plan_for
from node.bench.registry import Benchmark, Progress, Result, more_is_better
from node.chainstate import ChainState
from node.limits import THREAD_SWITCH_S
from node.rpc.errors import RpcError
from node.sigcheck import SignatureVerifier
from node.testnet import Testnet
from storage.store import ChainStore

CHECKS = 500
"""Transactions per batch of signature checks: what admission and sync hand over at once."""

BLOCK_TXS = 2_000
BLOCKS = 8
WARM_BLOCKS = 2
"""Blocks that are connected before those that count."""

SENT_TXS = 20_000
PARSED_TXS = 200
VERIFIED_SCRIPTS = 50

BITCOINLIB = "python-bitcoinlib"


@contextmanager
def _verifier(workers: int | None) -> Iterator[SignatureVerifier]:
    """Give a verifier that remembers nothing."""
    verifier = SignatureVerifier(_NoContracts(), workers)
    try:
        yield verifier
    finally:
        verifier.close()


class _NoContracts(EnergyContracts):
    """Payments carry no payload, so nothing is asked of it."""

    def __init__(self) -> None:
        """Take no parameters."""

    def signatures(self, tx: Transaction) -> tuple[SignatureCheck, ...]:
        """Find none."""
        return ()


def _forgetful(verifier: SignatureVerifier, items: Payments) -> Callable[[], None]:
    def run() -> None:
        verifier.forget()
        verifier.check(items)

    return run


def _script_checks(progress: Progress) -> list[Result]:
    _, items = chain_of_payments(CHECKS, CHECKS)
    bare = bare_check(items[:BARE_CHECKS])
    results = []
    for name, workers in (("script_check", 1), ("script_check_two_cores", 2)):
        with _verifier(workers) as verifier:
            ours, theirs = interleaved(_forgetful(verifier, items), bare)
        results.append(more_is_better(name, CHECKS / ours, "inputs/s", BARE, BARE_CHECKS / theirs))
    results.append(_busy_loop(items, bare))
    return results


def _busy_loop(items: Payments, bare: Callable[[], None]) -> Result:
    """Check batches on a worker thread while the event loop has other things to do all the time."""

    async def beside(verifier: SignatureVerifier) -> None:
        checking = asyncio.create_task(verifier.check_many(items))
        while not checking.done():
            sum(range(500))
            await asyncio.sleep(0)
        if await checking:
            raise RuntimeError("a signature of the benchmark does not hold")

    with _verifier(1) as verifier, asyncio.Runner() as runner:

        def run() -> None:
            verifier.forget()
            runner.run(beside(verifier))

        usual = sys.getswitchinterval()
        sys.setswitchinterval(THREAD_SWITCH_S)  # as in the daemon
        try:
            ours, theirs = interleaved(run, bare)
        finally:
            sys.setswitchinterval(usual)
    return more_is_better("script_check_busy_loop", CHECKS / ours, "inputs/s", BARE, BARE_CHECKS / theirs)


def _bitcoinlib(module: str) -> Any:
    """Return a module of python-bitcoinlib, None where it is not installed (extra "test")."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _versus_bitcoinlib(progress: Progress) -> list[Result]:
    """Return script check and parsing beside python-bitcoinlib; without it, figures without a reference."""
    _, items = chain_of_payments(CHECKS, CHECKS)
    raws = [tx.raw for tx, _ in items[:PARSED_TXS]]
    core, scripteval = _bitcoinlib("bitcoin.core"), _bitcoinlib("bitcoin.core.scripteval")

    def parse() -> list[bytes]:
        return [Transaction.parse(raw).txid for raw in raws]

    def parse_like_them() -> list[bytes]:
        return [core.CTransaction.deserialize(raw).GetTxid() for raw in raws]

    with _verifier(1) as verifier:
        check = _forgetful(verifier, items)
        if core is None or scripteval is None:
            progress("python-bitcoinlib is not installed: no reference")
            (ours, _), (parsing, _) = interleaved(check, int), interleaved(parse, int)
            return [
                Result("script_check_vs_bitcoinlib", CHECKS / ours, "inputs/s"),
                Result("tx_parse", len(raws) / parsing, "tx/s"),
            ]
        script = core.CScript(items[0][1][0][12:])
        theirs_txs = [core.CTransaction.deserialize(tx.raw) for tx, _ in items[:VERIFIED_SCRIPTS]]

        def check_like_them() -> None:
            for tx in theirs_txs:
                scripteval.VerifyScript(tx.vin[0].scriptSig, script, tx, 0)

        if parse() != parse_like_them():
            raise RuntimeError("the two ways to compute it differ")
        ours, theirs = interleaved(check, check_like_them)
        parsing, parsing_like_them = interleaved(parse, parse_like_them)
    return [
        more_is_better(
            "script_check_vs_bitcoinlib", CHECKS / ours, "inputs/s", BITCOINLIB, VERIFIED_SCRIPTS / theirs
        ),
        more_is_better("tx_parse", len(raws) / parsing, "tx/s", BITCOINLIB, len(raws) / parsing_like_them),
    ]


class _Chains:
    """Chain states of one chain, each over a store of its own."""

    def __init__(self, root: Path, source: Source) -> None:
        self._root = root
        self.net = Testnet.create(root / "net", FOUNDERS[:1], plan_for(source))
        self.contracts = EnergyContracts(self.net.params)
        self.genesis = genesis_block(self.net.params, self.contracts)
        founders = len(self.net.nodes)
        self.prevouts = [outpoint(self.genesis.txs[0].txid, founders + at) for at in range(source.coins)]

    @contextmanager
    def open(self, name: str, verifier: SignatureVerifier) -> Iterator[ChainState]:
        """Give an empty chain."""
        with ChainStore.open(self._root / name, chain_id=self.genesis.hash) as store:
            contracts = self.contracts
            yield ChainState(store, self.genesis, self.net.params, contracts, contracts.open, verifier)


def _build(chain: ChainState, txs: list[Transaction]) -> Block:
    """Build a block of ``txs`` on the tip and commit it."""
    assembled = chain.build(
        chain.tip.block_hash,
        lambda _: txs,
        time_s=chain.tip.time_s,
        term=1,
        proposer=0,
        last_bitmap=b"\x00",
    )
    if len(assembled.block.txs) != len(txs) + 1:
        raise LocalFault("bench-refused", str(assembled.refused[:1]))
    chain.commit(assembled.block.hash, b"")
    return assembled.block


def _connect_seconds(
    chain: ChainState, blocks: list[Callable[[], Block]], bare: Callable[[], None]
) -> tuple[float, float]:
    """Connect all blocks; return the median seconds of one, and of the reference, taken in turns."""
    ours, theirs = [], []
    for get in blocks:
        started = perf_counter()
        bare()
        theirs.append(perf_counter() - started)
        started = perf_counter()
        block = get()
        chain.execute(block, chain.tip.block_hash)
        chain.commit(block.hash, b"")
        ours.append(perf_counter() - started)
    return median(ours[WARM_BLOCKS:]), median(theirs[WARM_BLOCKS:])


def _connects(progress: Progress) -> list[Result]:
    """Connect full blocks to a chain on disk: executed, logged, in LevelDB."""
    source = make_source(BLOCK_TXS)
    results = []
    with tempfile.TemporaryDirectory(prefix="wattd-bench-") as root:
        chains = _Chains(Path(root), source)
        with _verifier(None) as seen, _verifier(None) as unseen:
            progress(f"signing {BLOCKS * BLOCK_TXS} payments")
            txs = list(payments(source, chains.prevouts, BLOCKS * BLOCK_TXS))
            with chains.open("builder", seen) as builder:
                blocks = [_build(builder, txs[at : at + BLOCK_TXS]) for at in range(0, len(txs), BLOCK_TXS)]
            _, items = chain_of_payments(BARE_CHECKS, BARE_CHECKS)
            bare = bare_check(items)
            # A proposal is put together from the mempool's transactions, a synced block comes as bytes.
            held: list[Callable[[], Block]] = [lambda block=block: block for block in blocks]  # type: ignore[misc]
            wire: list[Callable[[], Block]] = [
                lambda raw=block.raw: Block.parse(raw)  # type: ignore[misc]
                for block in blocks
            ]
            for name, verifier, source_of in (
                ("connect_checked", seen, held),
                ("connect_unseen", unseen, wire),
            ):
                with chains.open(name, verifier) as chain:
                    ours, theirs = _connect_seconds(chain, source_of, bare)
                results.append(more_is_better(name, BLOCK_TXS / ours, "tx/s", BARE, BARE_CHECKS / theirs))
    return results


async def _sendraw(progress: Progress) -> list[Result]:
    """Send batches into one node over one connection, the reference between them."""
    source = make_source(COINS)
    with tempfile.TemporaryDirectory(prefix="wattd-bench-") as root:
        chains = _Chains(Path(root), source)
        progress(f"signing {SENT_TXS} payments")
        raws = [tx.raw.hex() for tx in payments(source, chains.prevouts, SENT_TXS)]
        _, items = chain_of_payments(BARE_CHECKS, BARE_CHECKS)
        bare = bare_check(items)
        ours, theirs = [], []
        async with chains.net as net:
            net.start(0)
            await net.wait_ready()
            client = await net.client(0)
            for at in range(0, len(raws), BATCH_TXS):
                started = perf_counter()
                bare()
                theirs.append(perf_counter() - started)
                calls = [("sendrawtransaction", (raw,)) for raw in raws[at : at + BATCH_TXS]]
                started = perf_counter()
                for reply in await client.batch(calls):
                    if isinstance(reply, RpcError):
                        raise LocalFault("bench-refused", str(reply))
                ours.append(perf_counter() - started)
    return [more_is_better("sendraw", BATCH_TXS / median(ours), "tx/s", BARE, BARE_CHECKS / median(theirs))]


BENCHMARKS = (
    Benchmark(
        ("script_check", "script_check_two_cores", "script_check_busy_loop"),
        f"signatures of {CHECKS} P2PKH inputs",
        _script_checks,
    ),
    Benchmark(
        ("script_check_vs_bitcoinlib", "tx_parse"),
        "script check and parsing beside python-bitcoinlib",
        _versus_bitcoinlib,
    ),
    Benchmark(
        ("connect_checked", "connect_unseen"), f"connecting blocks of {BLOCK_TXS} P2PKH payments", _connects
    ),
    Benchmark(
        ("sendraw",),
        f"sendrawtransaction in batches of {BATCH_TXS}",
        lambda progress: asyncio.run(_sendraw(progress)),
    ),
)
