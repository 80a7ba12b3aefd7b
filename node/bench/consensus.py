"""Figures of consensus alone, from committees in one process: messages, bytes, the size of the network."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from consensus.genesis import genesis_block
from consensus.params import Allocation
from consensus.transaction import Transaction, outpoint
from contracts.api import EnergyContracts
from node.bench.committee import Committee, Traffic, committee_keys, committee_params
from node.bench.load import COIN_VALUE, make_source, payments
from node.bench.registry import Benchmark, Progress, Result, less_is_better

SIZES = (4, 7, 10, 16, 22, 31, 40, 50)
COUNTED_BLOCKS = 8
WARM_BLOCKS = 3
"""Blocks from the election until the pipeline runs evenly; they do not count."""

BLOCK_TXS = 500
"""Payments per block: their ids are the most of a proposal."""

SCALING_DELEGATES = 21
SCALING_SIZES = (22, 50)
SCALING_BLOCKS = 12
SCALING_BLOCK_TXS = 1_000

CONSENSUS = "Bft"
ANNOUNCEMENT = "Status"


def make_blocks(validators: int, followers: int, count: int, txs: int, root: Path) -> Committee:
    """Return a committee with ``count`` blocks of ``txs`` payments before it."""
    source = make_source(txs)
    keys = committee_keys(validators)
    params = committee_params(keys, (Allocation(source.account.script, COIN_VALUE),) * txs)
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
    """The straight line through points by least squares.

    ``residual`` is the largest distance from it, relative to the largest value; ``r_squared`` the share of
    the variance that the line explains.
    """

    slope: float
    start: float
    residual: float
    r_squared: float

    @classmethod
    def through(cls, xs: Sequence[float], ys: Sequence[float]) -> "Line":
        """Fit; at least two different values of each."""
        mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
        over = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
        slope = over / sum((x - mean_x) ** 2 for x in xs)
        start = mean_y - slope * mean_x
        off = [start + slope * x - y for x, y in zip(xs, ys, strict=True)]
        spread = sum((y - mean_y) ** 2 for y in ys)
        return cls(slope, start, max(map(abs, off)) / max(ys), 1 - sum(each**2 for each in off) / spread)


def _consensus_bytes(progress: Progress) -> list[Result]:
    """Return messages and bytes per block by number of validators, and how straight the lines are."""
    units = {"messages": "per block", "all": "KB per block", "link": "KB per block"}
    columns: dict[str, list[float]] = {name: [] for name in units}
    announcements: list[Result] = []
    for validators in SIZES:
        traffic = _traffic(validators)
        messages = traffic.messages[CONSENSUS] / COUNTED_BLOCKS
        kilobytes = traffic.wire_bytes[CONSENSUS] / COUNTED_BLOCKS / 1000
        told = traffic.messages[ANNOUNCEMENT] / COUNTED_BLOCKS
        progress(f"{validators} validators: {messages:.0f} messages, {kilobytes:.0f} KB per block")
        for name, value in zip(columns, (messages, kilobytes, kilobytes / (validators - 1)), strict=True):
            columns[name].append(value)
        announcements.append(Result(f"consensus_bytes[n={validators}, announcements]", told, "per block"))
    lines = {name: Line.through(SIZES, values) for name, values in columns.items()}
    straight: list[Result] = []
    for name, line in lines.items():
        progress(
            f"{name}: {line.slope:.3f} n {line.start:+.2f} {units[name]}, R2 {line.r_squared:.4f}, "
            f"off by {line.residual:.1%} of the largest"
        )
        straight.append(Result(f"consensus_bytes[{name}, residual]", 100 * line.residual, "%"))
        straight.append(Result(f"consensus_bytes[{name}, R2]", line.r_squared, ""))
    cells = [
        Result(f"consensus_bytes[n={validators}, {name}]", value, units[name])
        for name, values in columns.items()
        for validators, value in zip(SIZES, values, strict=True)
    ]
    slope = Result("consensus_bytes", lines["all"].slope, "KB per block and validator")
    return [slope, *straight, *cells, *announcements]


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
        worked_ns = sum(node.worked_ns for node in committee.nodes)
        return committee.block_ns(WARM_BLOCKS, last) / 1e6, worked_ns / last / 1e6


def _committee_scaling(progress: Progress) -> list[Result]:
    """Return the time per block of a network of 50 nodes beside one of 22, with the same 21 delegates."""
    times: list[float] = []
    cells: list[Result] = []
    for nodes in SCALING_SIZES:
        elapsed, worked = _committee_ms(nodes)
        progress(f"{nodes} nodes: {elapsed:.2f} ms per block, {worked / nodes:.2f} ms of work on each node")
        times.append(elapsed)
        cells.append(
            Result(f"committee_scaling[{nodes} nodes, work per node]", worked / nodes, "ms per block")
        )
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
