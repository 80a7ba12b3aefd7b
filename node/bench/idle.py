"""What an idle chain costs: processor time of four real nodes that have nothing to do."""

import asyncio
import os
import tempfile
from pathlib import Path
from time import perf_counter

from consensus.errors import LocalFault
from node.bench.network import FOUNDERS
from node.bench.registry import Benchmark, Progress, Result, less_is_better
from node.testnet import ChainPlan, LocalNode, Testnet

SETTLE_S = 5.0
"""Until connections, the first election and what a start leaves to be done are over."""

MEASURED_S = 20.0
ALLOWED_PERCENT = 2.0


def processor_s(node: LocalNode) -> float:
    """Return the processor time that a running node has used, seconds. Raises LocalFault."""
    if node.process is None:
        raise LocalFault("bench-no-process", "the node is not running")
    try:
        text = Path(f"/proc/{node.process.pid}/stat").read_text()
    except OSError as error:
        reason = "this system does not tell the processor time of a process"
        raise LocalFault("bench-no-processor-time", reason) from error
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _idle(progress: Progress) -> list[Result]:
    """Return the share of a core that the busiest of four idle nodes takes, and all of them."""
    with tempfile.TemporaryDirectory(prefix="wattd-bench-") as root:
        net = Testnet.create(Path(root), FOUNDERS, ChainPlan(name="bench"))
        async with net:
            net.start_all()
            await net.wait_ready()
            await net.close_clients()
            await asyncio.sleep(SETTLE_S)
            before, began = [processor_s(node) for node in net.nodes], perf_counter()
            await asyncio.sleep(MEASURED_S)
            elapsed = perf_counter() - began
            used = [processor_s(node) - was for node, was in zip(net.nodes, before, strict=True)]
            height = await net.call(0, "getblockcount")
    shares = [100 * seconds / elapsed for seconds in used]
    progress(f"height {height}; " + ", ".join(f"{share:.2f} %" for share in shares))
    return [
        less_is_better("idle_cpu", max(shares), "% of a core", "what a node may take", ALLOWED_PERCENT),
        *(
            Result(f"idle_cpu[{node.founder.name}]", share, "% of a core")
            for node, share in zip(net.nodes, shares, strict=True)
        ),
    ]


BENCHMARKS = (
    Benchmark(
        ("idle_cpu",),
        f"processor time of four nodes on an idle chain, {MEASURED_S:.0f} s",
        lambda progress: asyncio.run(_idle(progress)),
    ),
)
