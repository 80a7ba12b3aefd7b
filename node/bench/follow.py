"""A process that follows a chain from its standard input: ``python -m node.bench.follow DATADIR``.

Blocks come as u32 little-endian length and raw bytes. It loads what a node loads, connects each block as
a node that trusts the certificate does, and answers each with a line: the seconds that took. At the
end of the input it prints the most memory that it ever had resident, bytes, and its unspent outputs.
"""

import importlib
import resource
import sys
from pathlib import Path
from time import perf_counter

from consensus.block import Block
from consensus.block_rules import check_block
from consensus.chainfile import parse_chain_file
from consensus.genesis import genesis_block
from contracts.api import EnergyContracts
from node.chainstate import ChainState, Trusting
from node.config import load_config, read_text
from storage.store import ChainStore

NODE = "node.app"
"""Imported for its weight alone: what a daemon has loaded belongs to what it takes."""


def peak_bytes() -> int:
    """Return the most memory that this process ever had resident."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux; there it would also count what the parent had before exec
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def main(datadir: Path) -> None:
    """Follow until the input ends."""
    importlib.import_module(NODE)
    config = load_config(datadir)
    params = parse_chain_file(read_text(config.chain_file))
    contracts = EnergyContracts(params)
    genesis = genesis_block(params, contracts)
    with ChainStore.open(datadir, chain_id=genesis.hash, cache_bytes=config.cache_max_bytes) as store:
        chain = ChainState(store, genesis, params, contracts, contracts.open, Trusting())
        while length := sys.stdin.buffer.read(4):
            raw = sys.stdin.buffer.read(int.from_bytes(length, "little"))
            started = perf_counter()
            block = Block.parse(raw)
            check_block(block, params)
            chain.execute(block, chain.tip.block_hash, certified=True)
            chain.commit(block.hash, b"")
            print(perf_counter() - started, flush=True)
        print(peak_bytes(), sum(1 for _ in store.iterate_coins()), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
