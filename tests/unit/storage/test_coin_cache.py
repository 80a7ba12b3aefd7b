import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import limits, schema
from storage.coincache import SPENT, CoinCache, overlaid
from tests.unit.storage.chainkit import Model

KEYS = st.integers(0, 11).map(lambda n: bytes([n]) * 36)
VALUES = st.binary(min_size=1, max_size=30)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("connect"), st.dictionaries(KEYS, st.none() | VALUES, max_size=6)),
        st.tuples(st.just("disconnect"), st.none()),
        st.tuples(st.just("flush"), st.none()),
        st.tuples(st.just("read"), KEYS),
    ),
    max_size=40,
)


class Disk(dict):
    """What LevelDB holds, with the interface of a batch; counts what reaches it."""

    touched: frozenset = frozenset()

    def put(self, key: bytes, value: bytes) -> None:
        assert key.startswith(schema.COIN)
        self[key[1:]] = value
        self.touched |= {key[1:]}

    def delete(self, key: bytes) -> None:
        self.pop(key[1:], None)
        self.touched |= {key[1:]}


def look(cache: CoinCache, disk: Disk, prevout: bytes) -> bytes | None:
    value = cache.get(prevout)
    if value is None:
        value = disk.get(prevout)
        if value is not None:
            cache.note(prevout, value)
        return value
    return None if value == SPENT else value


@pytest.mark.parametrize("budget", [0, 700, 3000, 1 << 20])
@given(steps=STEPS)
def test_cache_over_disk_is_always_the_truth(budget: int, steps: list) -> None:
    cache, disk = CoinCache(budget), Disk()
    truth: dict[bytes, bytes] = {}
    undo: list[dict] = []
    for what, argument in steps:
        if what == "connect":
            diff = {key: value for key, value in argument.items() if (value is None) == (key in truth)}
            undo.append({key: truth.get(key) for key in diff})
            cache.connect(diff)
            Model.apply(truth, diff)
        elif what == "disconnect" and undo:
            diff = undo.pop()
            cache.disconnect(diff)
            Model.apply(truth, diff)
        elif what == "flush":
            cache.write(disk)
            cache.flushed()
            assert not cache.is_dirty
            assert disk == truth
        elif what == "read":
            look(cache, disk, argument)
        for number in range(12):
            assert look(cache, disk, bytes([number]) * 36) == truth.get(bytes([number]) * 36)
        assert list(overlaid(iter(sorted(disk.items())), cache.changes())) == sorted(truth.items())
        assert cache.is_full or cache.used_bytes <= budget
        assert cache.used_bytes >= 0
    cache.write(disk)
    cache.flushed()
    assert disk == truth
    assert cache.used_bytes <= budget


def test_a_coin_that_is_created_and_spent_between_two_flushes_never_reaches_the_disk() -> None:
    cache, disk = CoinCache(1 << 20), Disk()
    short, long = b"s" * 36, b"l" * 36
    cache.connect({short: b"coin", long: b"coin"})
    cache.connect({short: None})
    assert cache.get(short) is None
    cache.write(disk)
    cache.flushed()
    assert disk.touched == {long}
    cache.connect({long: None})
    cache.disconnect({long: b"coin"})
    cache.connect({long: None})  # the disk has it: taken off and on again it is not new
    cache.write(disk)
    cache.flushed()
    assert disk == {}


def test_entries_that_are_used_outlive_those_that_are_not() -> None:
    cost = 36 + 4 + limits.COIN_ENTRY_BYTES
    cache = CoinCache(50 * cost)
    for number in range(1000):
        cache.note(number.to_bytes(36, "little"), b"coin")
        assert cache.get(bytes(36)) == b"coin"
    assert cache.get((999).to_bytes(36, "little")) == b"coin"
    assert cache.get((500).to_bytes(36, "little")) is None


def test_what_waits_takes_room_from_what_is_clean() -> None:
    cost = 36 + 4 + limits.COIN_ENTRY_BYTES
    cache = CoinCache(100 * cost)
    for number in range(90):
        cache.note(number.to_bytes(36, "little"), b"coin")
    cache.connect({number.to_bytes(36, "big"): b"coin" for number in range(1 << 20, (1 << 20) + 45)})
    assert 80 * cost < cache.used_bytes <= 100 * cost
    assert not cache.is_full
    cache.connect({number.to_bytes(36, "big"): b"coin" for number in range(1 << 21, (1 << 21) + 6)})
    assert cache.is_full
    assert cache.used_bytes <= 100 * cost
    cache.connect({number.to_bytes(36, "big"): b"coin" for number in range(1 << 22, (1 << 22) + 60)})
    assert cache.used_bytes == 111 * cost  # more than a block's worth is never held without a flush


CHARGED = """
import os, sys
from pathlib import Path
from storage.coincache import CoinCache

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

cache = CoinCache(1 << 30)
before = resident()
for _ in range(44):  # stops just behind a growth of the dict, its worst moment
    cache.connect({os.urandom(36): os.urandom(37) for _ in range(1000)})
print(resident() - before, cache.used_bytes)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="asks Linux what is resident")
def test_what_is_charged_is_what_memory_goes_away() -> None:
    done = subprocess.run([sys.executable, "-c", CHARGED], capture_output=True, text=True, check=True)
    resident, charged = map(int, done.stdout.split())
    assert 0.5 * charged < resident < 1.15 * charged  # arenas of 1 MiB, and the last diff
