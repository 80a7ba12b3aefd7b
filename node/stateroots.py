"""State roots of this node's chain: computed in the background, kept, and at once where one is due.

The state of an earlier block is the state at the tip with the values of before laid over it, which the
undo records of the blocks in between have. So a root can be computed at any time after its block was
committed, also after a restart or a reorganisation, and never needs a state that is gone.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from threading import Event, Thread

from consensus.errors import DecodeError, StorageError
from consensus.params import ChainParams
from consensus.state_root import Space, StateProof, TreeHasher, combine, prove
from consensus.undo import decode_undo
from node.limits import ROLLBACK_BYTES, ROLLBACK_ENTRY_BYTES, STATE_ROOT_PAUSE_S, STATE_ROOT_SLICE
from storage.store import ChainStore

log = logging.getLogger(__name__)

Pair = tuple[bytes, bytes]
Pairs = Iterator[Pair]
Former = dict[bytes, bytes | None]
"""Key to the value that it had, None where it had none."""


class PastState:
    """Coins and contract state as they were after the block at ``height``, which is not above the tip.

    They are those of the moment of construction, whatever is connected meanwhile; both may be read once,
    on any thread. Memory: ``budget_bytes`` of former values, however many blocks lie in between, since the
    undo records are read again for each range of keys that fits. ``step`` is called before each of them.
    The contract state needs a chain that keeps its former values (``ChainParams.keeps_state_undo``).
    """

    def __init__(
        self,
        store: ChainStore,
        height: int,
        budget_bytes: int = ROLLBACK_BYTES,
        step: Callable[[], None] = lambda: None,
    ) -> None:
        if not 0 <= height <= store.height:
            raise ValueError(f"no state after block {height}, the tip is {store.height}")
        self._store = store
        self._budget = budget_bytes
        self._step = step
        self._coins = store.iterate_coins()
        self._state = store.state_view.scan(b"")
        hashes = [store.block_hash(above) for above in range(store.height, height, -1)]
        self._above = [block_hash for block_hash in hashes if block_hash is not None]

    def coins(self) -> Pairs:
        """Yield (prevout, coin) in the order of prevouts."""
        return self._merged(self._coins, 0)

    def state(self) -> Pairs:
        """Yield (key, value) of the contract state in the order of keys."""
        return self._merged(self._state, 1)

    def close(self) -> None:
        """Let go of what was not read."""
        for pairs in (self._coins, self._state):
            close: Callable[[], None] | None = getattr(pairs, "close", None)
            if close is not None:
                close()

    def _merged(self, stored: Pairs, kind: int) -> Pairs:
        if not self._above:
            yield from stored
            return
        held: Pair | None = next(stored, None)
        low, high = b"", None
        while True:
            former, high = self._former(kind, low)
            for key in sorted(former):
                while held is not None and held[0] < key:
                    yield held
                    held = next(stored, None)
                if held is not None and held[0] == key:
                    held = next(stored, None)
                value = former[key]
                if value is not None:
                    yield key, value
            while held is not None and (high is None or held[0] < high):
                yield held
                held = next(stored, None)
            if high is None:
                return
            low = high

    def _former(self, kind: int, low: bytes) -> tuple[Former, bytes | None]:
        """Return the former values of the keys from ``low`` to below a bound that makes them fit."""
        former: Former = {}
        high: bytes | None = None
        used = 0
        for block_hash in self._above:
            for key, value in self._undo(block_hash)[kind].items():
                if key >= low and (high is None or key < high):
                    if key not in former:
                        used += len(key) + ROLLBACK_ENTRY_BYTES
                    used += len(value or b"") - len(former.get(key) or b"")
                    former[key] = value  # a lower block has the older value
            while used > self._budget and len(former) > 1:
                keys = sorted(former)
                high = keys[len(keys) // 2]
                for key in keys[bisect_left(keys, high) :]:
                    used -= len(key) + ROLLBACK_ENTRY_BYTES + len(former.pop(key) or b"")
        return former, high

    def _undo(self, block_hash: bytes) -> tuple[Former, Former]:
        self._step()
        data = self._store.undo(block_hash)
        if data is None:
            raise StorageError(
                "undo-missing",
                f"the undo record of block {block_hash[::-1].hex()} was pruned or lost",
                fix="remove blocks/ and index/ and sync again, with more blocks kept if they were pruned",
            )
        try:
            return decode_undo(data)
        except DecodeError as fault:
            raise StorageError(
                "undo-corrupt",
                f"the undo record of block {block_hash[::-1].hex()}: {fault}",
                fix="wattd store repair, then start again",
            ) from fault


class _Cancelled(Exception):
    """Nobody wants the root any more."""


class _Job:
    """The computation of one root. ``pause_s`` after each slice leaves the interpreter to the node."""

    def __init__(self, store: ChainStore, height: int, block_hash: bytes) -> None:
        self.height, self.block_hash = height, block_hash
        self._store = store
        self._past = PastState(store, height, step=self._check)
        self._hurry, self._cancelled = Event(), Event()
        self._thread: Thread | None = None
        self._result: bytes | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Compute on a thread."""
        self._thread = Thread(target=self._run, name=f"state root {self.height}", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Give up, and return once the thread has ended."""
        self._cancelled.set()
        self._hurry.set()
        self._join()

    def result(self) -> bytes:
        """Return the root, computed without pauses from now on. Raises what the computation raised."""
        self._hurry.set()
        if self._thread is None:
            self._run()
        self._join()
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise _Cancelled
        return self._result

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise _Cancelled

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            coins, state = self._hash(self._past.coins()), self._hash(self._past.state())
            self._result = combine(coins, state)
            self._store.state_roots.put(self.height, self.block_hash, self._result)
        except _Cancelled:
            pass
        except BaseException as error:
            self._error = error
            log.warning("the state root was not computed: %s", error, extra={"height": self.height})
        finally:
            self._past.close()

    def _hash(self, pairs: Pairs) -> tuple[int, bytes]:
        tree = TreeHasher()
        for piece in _slices(pairs):
            self._check()
            tree.add(piece)
            self._hurry.wait(STATE_ROOT_PAUSE_S)
        root = tree.finish()
        return tree.count, root


class StateRoots:
    """The state roots of a chain (``consensus.ports.StateRoots``): what is not at hand is computed at once.

    All methods are called on the thread that connects blocks.
    """

    def __init__(self, store: ChainStore, params: ChainParams) -> None:
        self._store = store
        self._interval = params.ledger.snapshot_interval_blocks
        self._keeps_past = params.keeps_state_undo
        self._job: _Job | None = None
        self._background = False
        store.state_roots.undo_floor = self._undo_floor

    def _undo_floor(self) -> int | None:
        """Return from which height on the root of the last interval, if not known, needs undo data."""
        last = self._store.height // self._interval * self._interval if self._interval else 0
        return last + 1 if last > 0 and self.known(last) is None else None

    def root_at(self, height: int, /) -> bytes:
        """Return the root of the state after the committed block at ``height``.

        Where the background is not done, it waits for it; where nobody has begun, it computes: some 4 s per
        million coins. Raises StorageError if undo records that it needs are gone.
        """
        known = self.known(height)
        if known is not None:
            return known
        block_hash = self._hash_at(height)
        job, self._job = self._job, None
        if job is None or (job.height, job.block_hash) != (height, block_hash):
            if job is not None:
                job.cancel()
            job = _Job(self._store, height, block_hash)
        return job.result()

    def known(self, height: int) -> bytes | None:
        """Return the root after the block at ``height`` if it was computed."""
        block_hash = self._store.block_hash(height)
        return None if block_hash is None else self._store.state_roots.get(height, block_hash)

    def prove(self, height: int, space: Space, key: bytes) -> StateProof | None:
        """Return the proof that a coin or key had its value after block ``height``; None if it had none.

        Reads the whole state, as ``root_at`` does. Raises StorageError, also for a height below the tip of a
        chain that keeps no former values.
        """
        if height < self._store.height and not self._keeps_past:
            raise StorageError(
                "no-past-state",
                f"this chain keeps no contract state of block {height}",
                fix="ask at the tip, or set ledger.snapshot_interval_blocks in a new chain file",
            )
        past = PastState(self._store, height)
        try:
            return prove(past.coins(), past.state(), space, key)
        finally:
            past.close()

    def run_in_background(self) -> None:
        """Begin with the root of the last interval, unless it is known, and from now on be ahead of need."""
        self._background = bool(self._interval)
        if self._interval:
            self._begin(self._store.height // self._interval * self._interval)

    def connected(self, height: int) -> None:
        """Hear that the block at ``height`` is the tip now: the end of an interval starts a computation."""
        if self._background and height % self._interval == 0:
            self._begin(height)

    def close(self) -> None:
        """Stop the computation under way; the store may be closed then."""
        self._background = False
        self._drop()

    def _begin(self, height: int) -> None:
        if height == 0 or self.known(height) is not None:
            return
        self._drop()
        try:
            self._job = _Job(self._store, height, self._hash_at(height))
        except StorageError as error:  # it shows again, and loudly, where the root is needed
            log.warning("the state root cannot be computed: %s", error, extra={"height": height})
            return
        self._job.start()

    def _drop(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job.cancel()

    def _hash_at(self, height: int) -> bytes:
        block_hash = self._store.block_hash(height)
        if block_hash is None:
            raise ValueError(f"no block at height {height}")
        return block_hash


class KnownStateRoots:
    """State roots for blocks that a quorum certified: one that is not at hand is left to the quorum."""

    def __init__(self, roots: StateRoots) -> None:
        self._roots = roots

    def root_at(self, height: int, /) -> bytes | None:
        """Return the root if it was computed."""
        return self._roots.known(height)


def _slices(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    rest = iter(pairs)
    while piece := list(islice(rest, STATE_ROOT_SLICE)):
        yield piece
