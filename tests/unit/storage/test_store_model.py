"""Random histories of the store against a dict model, reopened and robbed of its index at any point."""

import shutil
import tempfile
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage import limits, schema
from storage.store import ChainStore
from tests.unit.storage.chainkit import (
    Model,
    abandon,
    assert_same,
    catch_up,
    hash_of,
    make_body,
    open_toy,
    random_body,
    replay_of,
)

KEYS = st.integers(0, 15)
DIFFS = st.dictionaries(KEYS, st.none() | st.binary(min_size=1, max_size=20), max_size=8)


class StoreMachine(RuleBasedStateMachine):
    """``certified`` histories only grow (a bft chain); the others also lose blocks at the tip (pow)."""

    @initialize(
        certified=st.booleans(),
        cache_bytes=st.sampled_from([0, 1500, 1 << 20]),
        flush_blocks=st.sampled_from([2, 500]),
    )
    def start(self, certified: bool, cache_bytes: int, flush_blocks: int) -> None:
        self.usual_flush_blocks, limits.FLUSH_BLOCKS_MAX = limits.FLUSH_BLOCKS_MAX, flush_blocks
        self.home = Path(tempfile.mkdtemp())
        self.certified, self.cache_bytes = certified, cache_bytes
        self.model, self.rng = Model(), Random(0)
        self.store = self.open()
        self.waiting: dict[bytes, tuple[int, bytes]] = {}
        self.backup: Path | None = None

    def open(self) -> ChainStore:
        return open_toy(self.home / "data", cache_bytes=self.cache_bytes)

    def certificate(self) -> bytes | None:
        return b"certificate %d" % (self.model.height + 1) if self.certified else None

    @rule(coins=DIFFS, state=DIFFS, put_first=st.booleans())
    def connect(self, coins: dict, state: dict, put_first: bool) -> None:
        coins = {bytes([key]) * 36: value for key, value in coins.items()}
        coins = {key: value for key, value in coins.items() if value is None or key not in self.model.coins}
        state = {bytes([key % 4, key]): value for key, value in state.items()}
        body = make_body(self.model.tip_hash, coins, state, self.rng.getrandbits(60))
        if put_first:
            self.store.put_body(hash_of(body), self.model.height + 1, body)
        certificate = self.certificate()
        self.store.connect(self.model.connect(body, certificate))

    @precondition(lambda self: not self.certified and self.model.height > 0)
    @rule()
    def disconnect(self) -> None:
        self.waiting[self.model.tip_hash] = (self.model.height, self.model.bodies[-1])
        self.store.disconnect(*self.model.disconnect())

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def connect_again(self, data: st.DataObject) -> None:
        block_hash = data.draw(st.sampled_from(sorted(self.waiting)))
        height, body = self.waiting[block_hash]
        if height == self.model.height + 1 and body[4:36] == self.model.tip_hash:
            self.store.connect(self.model.connect(body, self.certificate()))
            del self.waiting[block_hash]

    @rule()
    def put_rival(self) -> None:
        body = random_body(self.rng, self.model, count=3)
        self.store.put_body(hash_of(body), self.model.height + 1, body)
        self.waiting[hash_of(body)] = (self.model.height + 1, body)

    @rule()
    def flush(self) -> None:
        self.store.flush()
        assert dict(self.store._index.scan(schema.COIN)) == self.model.coins

    @precondition(lambda self: not self.certified)
    @rule(depth=st.integers(1, 6), length=st.integers(1, 8))
    def reorganise(self, depth: int, length: int) -> None:
        """Take many blocks off in a row, and put others on."""
        for _ in range(min(depth, self.model.height)):
            self.disconnect()
        for _ in range(length):
            self.store.connect(self.model.connect(random_body(self.rng, self.model, count=5)))

    @rule(kill=st.booleans())
    def reopen(self, kill: bool) -> None:
        abandon(self.store) if kill else self.store.close()
        self.store = self.open()

    @rule()
    def keep_index(self) -> None:
        """Remember what LevelDB has, as the last state that will survive the next power cut."""
        abandon(self.store)
        self.backup = self.home / "backup"
        shutil.rmtree(self.backup, ignore_errors=True)
        shutil.copytree(self.home / "data" / "index", self.backup)
        self.store = self.open()

    @rule()
    def lose_index(self) -> None:
        abandon(self.store)
        shutil.rmtree(self.home / "data" / "index")
        if self.backup is not None:
            shutil.copytree(self.backup, self.home / "data" / "index")
        self.store = self.open()
        found = replay_of(self.store)
        assert_same(self.store, found)
        if self.certified:
            catch_up(self.store, found)
        else:
            self.follow(found)

    def follow(self, found: Model) -> None:
        """Choose the model's chain again, as a fork choice does, from the bodies in the store."""
        while found.bodies and found.bodies[-1] not in self.model.bodies:
            self.store.disconnect(*found.disconnect())
        for body in self.model.bodies[found.height + 1 :]:
            stored = self.store.body(hash_of(body))
            assert stored == body
            self.store.connect(found.connect(body, None))

    @invariant()
    def same(self) -> None:
        if hasattr(self, "store"):
            assert_same(self.store, self.model)
            above = {h: v for h, v in self.waiting.items() if v[0] > self.model.height}
            assert self.store.uncommitted_bodies() == above
            assert [h for h in self.waiting if self.store.body(h) is None] == []

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.home)
            limits.FLUSH_BLOCKS_MAX = self.usual_flush_blocks


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
