"""The data directory that a tool works on: its chain, and the lock that keeps a node out meanwhile."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from consensus.block import Block
from consensus.chainfile import parse_chain_file
from consensus.errors import StorageError
from consensus.genesis import genesis_block
from consensus.params import ChainParams
from consensus.ports import SignatureChecker
from consensus.restart import Restart
from contracts.api import EnergyContracts
from node.chainstate import ChainState
from node.config import load_config, read_text
from node.restarts import load_restarts
from storage import swap
from storage.lock import DirectoryLock
from storage.store import ChainStore

HELD = -1
"""The descriptor of a lock that somebody else holds: releasing it does nothing."""


@dataclass(frozen=True, slots=True)
class Target:
    """A locked data directory and the rules of its chain, ``restarts`` that were applied to it included."""

    path: Path
    params: ChainParams
    contracts: EnergyContracts
    genesis: Block
    cache_bytes: int
    restarts: Mapping[bytes, Restart] = field(default_factory=dict)

    @property
    def chain_id(self) -> bytes:
        """Return the hash of the genesis block."""
        return self.genesis.hash

    @property
    def held_lock(self) -> DirectoryLock:
        """Return a lock for a store inside the directory, which is locked already."""
        return DirectoryLock(HELD)

    @property
    def has_quorums(self) -> bool:
        """Return whether blocks of this chain carry certificates."""
        return self.params.engine == "bft"

    def chain_over(self, store: ChainStore, signatures: SignatureChecker) -> ChainState:
        """Return the chain state over ``store``; an empty one gets the genesis block."""
        trial = partial(self.contracts.open, metered=False)
        return ChainState(
            store, self.genesis, self.params, self.contracts, trial, signatures, restarts=self.restarts
        )


@contextmanager
def locked(datadir: Path) -> Iterator[Target]:
    """Lock a data directory and read its chain file.

    Raises StorageError "datadir-locked", ConfigError.
    """
    config = load_config(datadir)
    params = parse_chain_file(read_text(config.chain_file))
    contracts = EnergyContracts(params)
    lock = DirectoryLock.acquire(config.datadir)
    try:
        swap.finish(config.datadir)
        genesis = genesis_block(params, contracts)
        restarts = load_restarts(config.datadir, genesis.hash)
        yield Target(config.datadir, params, contracts, genesis, config.cache_max_bytes, restarts)
    finally:
        lock.release()


def size_of(directory: Path) -> int:
    """Return the bytes of the files in a directory, 0 if it does not exist."""
    if not directory.is_dir():
        return 0
    total = 0
    for entry in os.scandir(directory):
        with suppress(FileNotFoundError):  # LevelDB removes tables in the background
            total += entry.stat().st_size
    return total


def need_room(path: Path, needed: int, what: str) -> None:
    """Raise StorageError "disk-full" if the file system of ``path`` has not ``needed`` bytes free."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise StorageError(
            "disk-full",
            f"{path}: {what} needs about {needed >> 20} MiB, {free >> 20} MiB are free",
            fix="free some space, then start again",
        )
