"""The search for a nonce: both implementations and every kernel find the same first one."""

from collections.abc import Iterator
from hashlib import sha256
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cext import _pure

try:
    from cext import _native
except ImportError:
    KERNELS: tuple[str, ...] = ()
else:
    KERNELS = _native._kernels()

both = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)

GENESIS = bytes.fromhex(
    "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e"
    "67768f617fc81bc3888a51323a9fb8aa4b1e5e4a29ab5f49ffff001d1dac2b7c"
)
GENESIS_NONCE = 2_083_236_893
DIFFICULTY_1 = 0xFFFF << 208


@pytest.fixture(params=KERNELS)
def kernel(native: ModuleType, request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    before = native.sha_kernel()
    native._use_kernel(request.param)
    yield native
    native._use_kernel(before)


def number(header: bytes, nonce: int) -> int:
    raw = header[:76] + nonce.to_bytes(4, "little")
    return int.from_bytes(sha256(sha256(raw).digest()).digest(), "little")


def test_finds_the_nonce_of_bitcoins_first_block(impl: ModuleType) -> None:
    for before in (0, 1, 2, 40, 500):
        start = GENESIS_NONCE - before
        assert impl.pow_search(GENESIS, start, before + 1, DIFFICULTY_1) == GENESIS_NONCE
        assert impl.pow_search(GENESIS, start, before, DIFFICULTY_1) is None


@both
@given(
    header=st.binary(min_size=80, max_size=80),
    start=st.integers(0, 2**32 - 200),
    count=st.integers(0, 200),
    bits=st.integers(240, 256),
)
def test_every_kernel_finds_the_first_nonce_that_the_twin_finds(
    kernel: ModuleType, header: bytes, start: int, count: int, bits: int
) -> None:
    target = (1 << bits) - 1
    found = kernel.pow_search(header, start, count, target)
    assert found == _pure.pow_search(header, start, count, target)
    if found is not None:
        assert number(header, found) <= target
        assert all(number(header, nonce) > target for nonce in range(start, found))


@both
@given(header=st.binary(min_size=80, max_size=80))
def test_the_target_itself_is_met_and_one_less_is_not(kernel: ModuleType, header: bytes) -> None:
    numbers = [number(header, nonce) for nonce in range(40)]
    best = min(numbers)
    assert kernel.pow_search(header, 0, 40, best) == numbers.index(best)
    assert kernel.pow_search(header, 0, 40, best - 1) is None


def test_the_last_nonces_of_all(impl: ModuleType) -> None:
    assert impl.pow_search(GENESIS, 2**32 - 3, 3, 0) is None
    assert impl.pow_search(GENESIS, 2**32 - 1, 1, 2**256 - 1) == 2**32 - 1
    assert impl.pow_search(GENESIS, 2**32, 0, 2**256 - 1) is None


def test_a_long_search_without_the_lock_agrees(native: ModuleType) -> None:
    target = 1 << 242
    assert native.pow_search(GENESIS, 0, 100_000, target) == _pure.pow_search(GENESIS, 0, 100_000, target)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((bytes(79), 0, 1, 1), "bad-header-size"),
        ((bytes(81), 0, 1, 1), "bad-header-size"),
        ((bytes(80), -1, 1, 1), "bad-nonce-range"),
        ((bytes(80), 0, -1, 1), "bad-nonce-range"),
        ((bytes(80), 2**32, 1, 1), "bad-nonce-range"),
        ((bytes(80), 1, 2**32, 1), "bad-nonce-range"),
        ((bytes(80), 0, 1, -1), "bad-target"),
        ((bytes(80), 0, 1, 2**256), "bad-target"),
    ],
)
def test_arguments_that_name_nothing_are_refused(
    impl: ModuleType, arguments: tuple[bytes, int, int, int], code: str
) -> None:
    with pytest.raises(ValueError, match=code):
        impl.pow_search(*arguments)
