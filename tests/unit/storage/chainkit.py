"""A toy chain for the store's tests: blocks that say what they change, and a dict model that executes them.

A body is an 80-byte header (parent hash at 4..36, as in Bitcoin) and the MessagePack of its two
diffs, so any state can be computed again from the bodies alone.
"""

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import msgpack

from storage.files import Files
from storage.store import ChainStore, ConnectBatch, Diff

CHAIN_ID = hashlib.sha256(b"toy chain").digest()
SECTOR_BYTES = 64
"""What the simulated disk writes as a whole; small, so that small records tear."""


def make_body(parent: bytes, coins: Diff, state: Diff, salt: int = 0) -> bytes:
    payload = msgpack.packb([list(coins.items()), list(state.items())])
    root = hashlib.sha256(payload).digest()
    return b"\x01\x00\x00\x00" + parent + root + salt.to_bytes(12, "little") + payload


def hash_of(body: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(body[:80]).digest()).digest()


def toy_coins(height: int, raw: bytes) -> Diff:
    """What a toy body changes in the coins: ``storage.restart.block_coins`` of this chain."""
    return dict(msgpack.unpackb(raw[80:])[0])


def open_toy(path: Path, **options: Any) -> ChainStore:
    """Open a store of the toy chain."""
    return ChainStore.open(path, chain_id=CHAIN_ID, coins_of=toy_coins, **options)


class Model:
    """What the store must hold: two dicts, and the tip of every height."""

    def __init__(self) -> None:
        self.coins: dict[bytes, bytes] = {}
        self.state: dict[bytes, bytes] = {}
        self.bodies: list[bytes] = []
        self.undos: list[bytes] = []
        self.tips: list[bytes] = []

    @staticmethod
    def apply(target: dict[bytes, bytes], diff: Diff) -> None:
        for key, value in diff.items():
            if value is None:
                target.pop(key, None)
            else:
                target[key] = value

    @property
    def height(self) -> int:
        return len(self.bodies) - 1

    @property
    def tip_hash(self) -> bytes:
        return hash_of(self.bodies[-1]) if self.bodies else bytes(32)

    def connect(self, body: bytes, certificate: bytes | None = None) -> ConnectBatch:
        coins, state = (dict(pairs) for pairs in msgpack.unpackb(body[80:]))
        coins_undo = {key: self.coins.get(key) for key in coins}
        state_undo = {key: self.state.get(key) for key in state}
        parent_tip = self.tips[-1] if self.tips else b""
        self.bodies.append(body)
        self.undos.append(msgpack.packb([list(coins_undo.items()), list(state_undo.items())]))
        self.tips.append(hashlib.sha256(parent_tip + body).digest())
        self.apply(self.coins, coins)
        self.apply(self.state, state)
        block_hash = hash_of(body)
        txids = tuple(hashlib.sha256(block_hash + bytes([i])).digest() for i in range(2))
        undo, tip = self.undos[-1], self.tips[-1]
        return ConnectBatch(
            self.height, block_hash, body[:80], body, txids, tip, coins, state, undo, certificate
        )

    def disconnect(self) -> tuple[int, Diff, Diff, bytes]:
        """Take the tip off; return the arguments of ``ChainStore.disconnect``."""
        height = self.height
        self.bodies.pop()
        self.tips.pop()
        coins, state = (dict(pairs) for pairs in msgpack.unpackb(self.undos.pop()))
        self.apply(self.coins, coins)
        self.apply(self.state, state)
        return height, coins, state, self.tips[-1]


def random_diff(rng: Random, present: dict[bytes, bytes], width: int, count: int) -> Diff:
    """Delete some keys that are there, add others."""
    diff: Diff = dict.fromkeys(rng.sample(sorted(present), min(len(present), rng.randrange(count))))
    for _ in range(rng.randrange(count)):
        diff[rng.randbytes(width)] = rng.randbytes(rng.randrange(1, 60))
    return diff


def random_body(rng: Random, model: Model, count: int = 12) -> bytes:
    coins = random_diff(rng, model.coins, 36, count)
    state = random_diff(rng, model.state, rng.randrange(1, 9), count)
    return make_body(model.tip_hash, coins, state, rng.getrandbits(60))


def replay_of(store: ChainStore) -> Model:
    """Execute the active chain of ``store`` from genesis, from its bodies."""
    model = Model()
    for height in range(store.height + 1):
        block_hash = store.block_hash(height)
        assert block_hash is not None
        body = store.body(block_hash)
        assert body is not None
        assert hash_of(body) == block_hash
        model.connect(body)
    return model


def assert_same(store: ChainStore, model: Model) -> None:
    """Everything that can be asked of the store is what the model says."""
    assert store.height == model.height
    assert dict(store.iterate_coins()) == model.coins
    assert list(store.state_view.scan(b"")) == sorted(model.state.items())
    assert store.tip == (model.tips[-1] if model.tips else None)
    assert store.tip_hash == (model.tip_hash if model.bodies else None)
    assert store.block_hash(store.height + 1) is None
    for height, body in enumerate(model.bodies):
        block_hash = hash_of(body)
        assert store.block_hash(height) == block_hash
        assert store.header(height) == body[:80]
        assert store.height_of(block_hash) == height
        assert store.undo(block_hash) == model.undos[height]
        txid = hashlib.sha256(block_hash + b"\x01").digest()
        assert store.find_tx(txid) == (height, 1)
    for key, value in model.coins.items():
        assert store.coin(key) == value
    for key, value in model.state.items():
        assert store.state_view.get(key) == value


def catch_up(store: ChainStore, model: Model) -> int:
    """Do what a node does at start: execute and connect what the store hands back. Returns the count."""
    count = 0
    for height, raw, certificate in store.replayable():
        assert height == model.height + 1
        store.connect(model.connect(raw, certificate))
        count += 1
    return count


def abandon(store: ChainStore) -> None:
    """Let go of the files as a killed process does: nothing is flushed or synced on the way out."""
    store._index.close()
    store._segments.close()
    store._directory_lock.release()


class FaultyFiles(Files):
    """Real files whose writes and syncs can be made to fail, once or for good."""

    def __init__(self) -> None:
        self._plan: dict[str, tuple[int, int, int]] = {}

    def fail(self, call: str, error: int, after: int = 0, torn: int = 0) -> None:
        """Let ``call`` (a method name) fail after ``after`` good ones; ``torn`` bytes get out."""
        self._plan[call] = (after, error, torn)

    def heal(self) -> None:
        """Forget the failures that are still to come."""
        self._plan.clear()

    def _due(self, call: str) -> tuple[int, int] | None:
        if call not in self._plan:
            return None
        after, error, torn = self._plan[call]
        if after:
            self._plan[call] = (after - 1, error, torn)
            return None
        del self._plan[call]
        return error, torn

    def open(self, path: Path, *, create: bool = False, mode: int = 0o644) -> int:
        if due := self._due("open"):
            raise OSError(due[0], os.strerror(due[0]))
        return super().open(path, create=create, mode=mode)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        if due := self._due("write"):
            super().write(fd, data[: due[1]], offset)
            raise OSError(due[0], os.strerror(due[0]))
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        if due := self._due("sync"):
            raise OSError(due[0], os.strerror(due[0]))
        super().sync(fd)

    def rename(self, source: Path, target: Path) -> None:
        if due := self._due("rename"):
            raise OSError(due[0], os.strerror(due[0]))
        super().rename(source, target)


class DiskFiles(FaultyFiles):
    """Files over a page cache and a disk: only ``sync`` moves written bytes from one to the other.

    A failed sync marks the written pages clean without writing them, as Linux does: they can still
    be read, and no later sync writes them. ``power_cut`` leaves what the disk has, plus any
    sectors of unsynced writes, in any order.
    """

    def __init__(self) -> None:
        super().__init__()
        self._paths: dict[int, Path] = {}
        self._disk: dict[Path, bytearray] = {}
        self._dirty: dict[Path, list[tuple[int, int]]] = {}

    def open(self, path: Path, *, create: bool = False, mode: int = 0o644) -> int:
        existed = path.exists()
        fd = super().open(path, create=create, mode=mode)
        if path not in self._disk:
            self._disk[path] = bytearray(path.read_bytes() if existed else b"")
            self._dirty[path] = []
        self._paths[fd] = path
        return fd

    def write(self, fd: int, data: bytes, offset: int) -> None:
        self._dirty[self._paths[fd]].append((offset, offset + len(data)))
        super().write(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        super().truncate(fd, size)
        disk = self._disk[self._paths[fd]]
        del disk[size:]

    def sync(self, fd: int) -> None:
        path = self._paths[fd]
        try:
            super().sync(fd)
        except OSError:
            self._dirty[path].clear()
            raise
        self._write_back(path, self._dirty[path])
        self._dirty[path].clear()

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._disk[target] = self._disk.pop(source)
        self._dirty[target] = self._dirty.pop(source)
        for fd, path in self._paths.items():
            if path == source:
                self._paths[fd] = target

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._disk.pop(path, None)
        self._dirty.pop(path, None)

    def power_cut(self, rng: Random) -> None:
        """Put the files into a state that a power cut could leave."""
        for path in self._disk:
            if not path.exists():
                continue
            sectors = [
                (at, min(at + SECTOR_BYTES - at % SECTOR_BYTES, end))
                for start, end in self._dirty[path]
                for at in range(start, end)
                if at == start or at % SECTOR_BYTES == 0
            ]
            self._write_back(path, [sector for sector in sectors if rng.random() < 0.5])
            path.write_bytes(self._disk[path])
            self._dirty[path].clear()
        self._paths.clear()

    def _write_back(self, path: Path, ranges: list[tuple[int, int]]) -> None:
        cached, disk = path.read_bytes(), self._disk[path]
        for start, end in ranges:
            data = cached[start:end]
            if len(disk) < start + len(data):
                disk.extend(bytes(start + len(data) - len(disk)))
            disk[start : start + len(data)] = data


def remove_quietly(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


IO_ERROR = errno.EIO
NO_SPACE = errno.ENOSPC
READ_ONLY = errno.EROFS
