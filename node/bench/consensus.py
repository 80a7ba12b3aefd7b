"""Figures of consensus alone, from committees in one process: messages, bytes, and the size of the network."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from consensus.genesis import genesis_block
from consensus.params import Allocation
from consensus.transaction import Transaction, outpoint
from contracts.api import EnergyContracts
from node.bench.committee import Committee, Traffic, committee_params
from node.bench.load import COIN_VALUE, make_source, payments
from node.bench.registry import Benchmark, Progress, Result, less_is_better

SIZES = (4, 7, 10, 16, 22, 31, 40, 50)
COUNTED_BLOCKS = 8
WARM_BLOCKS = 3
"""Blocks from the election until the pipeline runs evenly; they do not count."""

BLOCK_TXS = 500
"""Payments per block: as many as make a block due at once by default."""

SCALING_DELEGATES = 21
SCALING_SIZES = (22, 50)
SCALING_BLOCKS = 12
SCALING_BLOCK_TXS = 1_000

CONSENSUS = "Bft"
ANNOUNCEMENT = "Status"


def make_blocks(validators: int, followers: int, count: int, txs: int, root: Path) -> Committee:
    """Return a committee with ``count`` blocks of ``txs`` payments before it."""
    source = make_source(txs)
    params, keys = committee_params(validators, (Allocation(source.account.script, COIN_VALUE),) * txs)
    coinbase = genesis_block(params, EnergyContracts(params)).txs[0].txid
    prevouts = [outpoint(coinbase, validators + at) for at in range(txs)]
    stream = list(payments(source, prevouts, txs * count))
    blocks: list[list[Transaction]] = [stream[at : at + txs] for at in range(0, len(stream), txs)]
    return Committee(root, params, keys, followers, blocks)


def _traffic(validators: int) -> Traffic:
    """Return what a committee of ``validators`` sends during ``COUNTED_BLOCKS`` blocks."""
    last = WARM_BLOCKS + COUNTED_BLOCKS
    with (
        tempfile.TemporaryDirectory(prefix="wattd-bench-") as root,
        make_blocks(validators, 0, last + 2, BLOCK_TXS, Path(root)) as committee,
    ):
        committee.start()
        committee.run_to(WARM_BLOCKS)
        committee.count()
        committee.run_to(last)
        return committee.count()


@dataclass(frozen=True, slots=True)
class Line:
    """The straight line through points by least squares; ``residual`` is the largest, relative to its value."""

    slope: float
    start: float
    residual: float

    @classmethod
    def through(cls, xs: Sequence[float], ys: Sequence[float]) -> "Line":
        """Fit; at least two different ``xs``."""
        mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
        over = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
        slope = over / sum((x - mean_x) ** 2 for x in xs)
        start = mean_y - slope * mean_x
        residual = max(abs(start + slope * x - y) / y for x, y in zip(xs, ys, strict=True))
        return cls(slope, start, residual)


def _consensus_bytes(progress: Progress) -> list[Result]:
    """Return messages and bytes per block by number of validators, and how straight the lines are."""
    cells: list[Result] = []
    columns: dict[str, list[float]] = {"messages": [], "KB": []}
    for validators in SIZES:
        traffic = _traffic(validators)
        messages = traffic.messages[CONSENSUS] / COUNTED_BLOCKS
        kilobytes = traffic.wire_bytes[CONSENSUS] / COUNTED_BLOCKS / 1000
        progress(f"{validators} validators: {messages:.0f} messages, {kilobytes:.0f} KB per block")
        columns["messages"].append(messages)
        columns["KB"].append(kilobytes)
        cells += [
            Result(f"consensus_bytes[n={validators}, messages]", messages, "per block"),
            Result(f"consensus_bytes[n={validators}, all]", kilobytes, "KB per block"),
            Result(
                f"consensus_bytes[n={validators}, announcements]",
                traffic.messages[ANNOUNCEMENT] / COUNTED_BLOCKS,
                "per block",
            ),
        ]
    lines = {unit: Line.through(SIZES, values) for unit, values in columns.items()}
    for unit, line in lines.items():
        progress(f"{unit} per block: {line.slope:.2f} n {line.start:+.1f}, off by {line.residual:.1%} at most")
    per_validator = lines["KB"].slope
    return [
        Result("consensus_bytes", per_validator, "KB per block and validator"),
        Result("consensus_bytes[largest residual, messages]", 100 * lines["messages"].residual, "%"),
        Result("consensus_bytes[largest residual, all]", 100 * lines["KB"].residual, "%"),
        *cells,
    ]


def _committee_ms(nodes: int) -> tuple[float, float]:
    """Return time per block, and processor time of all nodes per block, both ms."""
    last = WARM_BLOCKS + SCALING_BLOCKS
    with (
        tempfile.TemporaryDirectory(prefix="wattd-bench-") as root,
        make_blocks(
            SCALING_DELEGATES, nodes - SCALING_DELEGATES, last + 2, SCALING_BLOCK_TXS, Path(root)
        ) as committee,
    ):
        committee.start()
        committee.run_to(last)
        return committee.block_ns(WARM_BLOCKS, last) / 1e6, committee.worked_ns / last / 1e6


def _committee_scaling(progress: Progress) -> list[Result]:
    """Return the time per block of a network of 50 nodes beside one of 22, with the same 21 delegates."""
    times: list[float] = []
    cells: list[Result] = []
    for nodes in SCALING_SIZES:
        elapsed, worked = _committee_ms(nodes)
        progress(f"{nodes} nodes: {elapsed:.2f} ms per block, {worked / nodes:.2f} ms of work on each node")
        times.append(elapsed)
        cells.append(Result(f"committee_scaling[{nodes} nodes, work per node]", worked / nodes, "ms per block"))
    small, large = times
    few, many = SCALING_SIZES
    reference = f"{few} nodes, the same {SCALING_DELEGATES} delegates"
    return [
        less_is_better("committee_scaling", large, "ms per block", reference, small),
        Result("committee_scaling[growth]", large / small, f"x from {few} to {many} nodes"),
        *cells,
    ]


BENCHMARKS = (
    Benchmark(
        ("consensus_bytes",),
        f"messages and bytes of consensus per block, {SIZES[0]} to {SIZES[-1]} validators",
        _consensus_bytes,
    ),
    Benchmark(
        ("committee_scaling",),
        f"{SCALING_DELEGATES} delegates in networks of {SCALING_SIZES[0]} and {SCALING_SIZES[1]} nodes",
        _committee_scaling,
    ),
)
