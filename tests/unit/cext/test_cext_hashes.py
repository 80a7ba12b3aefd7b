"""SHA-256, Merkle roots and CRC32C: published vectors, hashlib, and the Merkle rule written out again."""

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
    SHA_KERNELS, CRC_KERNELS = (), ()
else:
    SHA_KERNELS, CRC_KERNELS = _native._kernels(), _native._crc_kernels()

both = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)

# FIPS 180-4 examples: "abc", the 448-bit and the 896-bit message, and the empty message (CAVP).
NIST = {
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": (
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn"
    b"hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu": (
        "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"
    ),
    b"a" * 1_000_000: "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
}

GENESIS_HEADER = bytes.fromhex(
    "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e"
    "67768f617fc81bc3888a51323a9fb8aa4b1e5e4a29ab5f49ffff001d1dac2b7c"
)
GENESIS_HASH = bytes.fromhex("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f")[::-1]

# Transaction ids and Merkle root of block 100,000 of Bitcoin's main chain.
BLOCK_100000_TXIDS = (
    "8c14f0db3df150123e6f3dbbf30f8b955a8249b62ac1d1ff16284aefa3d06d87",
    "fff2525b8931402dd09222c50775608f75787bd2b87e56995a7bdd30f79702c4",
    "6359f0868171b1d194cbee1af2f16ea598ae8fad666d9b012c8ed2b79a236ec4",
    "e9a66845e05d5abc0ad04ec80f774a7e585c6e8db975962d069a522137b80c1d",
)
BLOCK_100000_ROOT = "f3e94742aca4b5ef85488dc37c06c3282295ffec960994b2c0d5ac2a25a95766"


def double(data: bytes) -> bytes:
    return sha256(sha256(data).digest()).digest()


def root_by_the_book(leaves: list[bytes]) -> tuple[bytes, bool]:
    """The rule of Bitcoin Core's ComputeMerkleRoot on a list of hashes."""
    mutated = False
    while len(leaves) > 1:
        mutated |= any(leaves[i] == leaves[i + 1] for i in range(0, len(leaves) - 1, 2))
        if len(leaves) % 2:
            leaves = [*leaves, leaves[-1]]
        leaves = [double(leaves[i] + leaves[i + 1]) for i in range(0, len(leaves), 2)]
    return leaves[0], mutated


@pytest.fixture(params=SHA_KERNELS)
def sha_kernel(native: ModuleType, request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The native module with one of its SHA-256 kernels chosen."""
    before = native.sha_kernel()
    native._use_kernel(request.param)
    yield native
    native._use_kernel(before)


@pytest.fixture(params=CRC_KERNELS)
def crc_kernel(native: ModuleType, request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    before = native._crc_kernels()[0]
    native._use_crc_kernel(request.param)
    yield native
    native._use_crc_kernel(before)


def test_sha256d_of_the_nist_messages(impl: ModuleType) -> None:
    for message, digest in NIST.items():
        assert impl.sha256d(message) == sha256(bytes.fromhex(digest)).digest()


def test_sha256d_of_a_header_is_the_block_hash(impl: ModuleType) -> None:
    assert impl.sha256d(GENESIS_HEADER) == GENESIS_HASH
    assert impl.sha256d_many(GENESIS_HEADER * 3, 80) == GENESIS_HASH * 3


def test_sha256d_takes_any_buffer(impl: ModuleType) -> None:
    assert impl.sha256d(bytearray(b"abc")) == impl.sha256d(memoryview(b"xabc")[1:]) == double(b"abc")
    with pytest.raises(TypeError):
        impl.sha256d("abc")


def test_each_kernel_hashes_every_length(sha_kernel: ModuleType) -> None:
    data = bytes(range(256)) * 3
    for size in range(300):
        assert sha_kernel.sha256d(data[:size]) == double(data[:size])


# The leaves and roots of the Certificate Transparency project's tests of RFC 6962.
CT_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def test_tree_root_gives_the_published_roots(impl: ModuleType) -> None:
    assert impl.tree_root([]) == bytes(32)
    for count, root in CT_ROOTS.items():
        assert impl.tree_root(CT_LEAVES[:count]).hex() == root


def test_tree_root_takes_a_list_of_bytes(impl: ModuleType) -> None:
    with pytest.raises(TypeError):
        impl.tree_root(["text"])


def test_each_kernel_folds_leaves_of_every_length(sha_kernel: ModuleType) -> None:
    data = bytes(range(256)) * 2
    for size in range(300):
        assert sha_kernel.tree_root([data[:size]]) == sha256(b"\x00" + data[:size]).digest()
    for count in range(70):
        leaves = [data[: 7 * at % 150] for at in range(count)]
        assert sha_kernel.tree_root(leaves) == _pure.tree_root(leaves)


@pytest.mark.parametrize("item_size", [64, 80, 33, 1])
def test_each_kernel_hashes_batches_of_every_count(sha_kernel: ModuleType, item_size: int) -> None:
    for count in [*range(40), 63, 64, 65]:
        items = [double(bytes([i])) * 3 for i in range(count)]
        data = b"".join(item[:item_size] for item in items)
        assert sha_kernel.sha256d_many(data, item_size) == b"".join(
            double(item[:item_size]) for item in items
        )


def test_each_kernel_folds_trees_of_every_size(sha_kernel: ModuleType) -> None:
    leaves = [double(bytes([i])) for i in range(70)]
    for count in range(1, 71):
        assert sha_kernel.merkle_root(b"".join(leaves[:count])) == root_by_the_book(leaves[:count])


def test_every_machine_has_the_portable_kernels(native: ModuleType) -> None:
    assert native._kernels()[-1] == "portable"
    assert native._crc_kernels()[-1] == "table"


def test_an_unknown_kernel_is_refused(native: ModuleType) -> None:
    for choose in (native._use_kernel, native._use_crc_kernel):
        with pytest.raises(LookupError):
            choose("abacus")


@both
@given(data=st.binary(max_size=400))
def test_sha256d_is_that_of_hashlib(impl: ModuleType, data: bytes) -> None:
    assert impl.sha256d(data) == double(data)


@pytest.mark.parametrize(("size", "item_size"), [(10, 0), (10, -1), (10, 3), (1, 2)])
def test_a_batch_of_broken_items_is_refused(impl: ModuleType, size: int, item_size: int) -> None:
    with pytest.raises(ValueError, match="bad-item-size"):
        impl.sha256d_many(bytes(size), item_size)


def test_a_batch_large_enough_to_release_the_lock(impl: ModuleType) -> None:
    count = 20_000
    data = b"".join(i.to_bytes(64, "little") for i in range(count))
    hashes = impl.sha256d_many(data, 64)
    assert hashes[-32:] == double(data[-64:])
    assert impl.merkle_root(hashes) == root_by_the_book(
        [hashes[i : i + 32] for i in range(0, 32 * count, 32)]
    )


def test_merkle_root_of_a_real_block(impl: ModuleType) -> None:
    leaves = b"".join(bytes.fromhex(txid)[::-1] for txid in BLOCK_100000_TXIDS)
    assert impl.merkle_root(leaves) == (bytes.fromhex(BLOCK_100000_ROOT)[::-1], False)


def test_a_single_leaf_is_the_root(impl: ModuleType) -> None:
    assert impl.merkle_root(b"\x07" * 32) == (b"\x07" * 32, False)


def test_a_duplicated_tail_has_the_same_root_and_is_told(impl: ModuleType) -> None:
    """CVE-2012-2459: [1 2 3] and [1 2 3 3], [1..6] and [1..6 5 6] have one root."""
    leaves = [double(bytes([i])) for i in range(6)]
    for honest, forged in ((leaves[:3], [*leaves[:3], leaves[2]]), (leaves, leaves + leaves[4:])):
        root, mutated = impl.merkle_root(b"".join(honest))
        assert not mutated
        assert impl.merkle_root(b"".join(forged)) == (root, True)


def test_equal_neighbours_of_different_pairs_are_no_mutation(impl: ModuleType) -> None:
    a, b, c = (double(bytes([i])) for i in range(3))
    assert impl.merkle_root(a + b + b + c)[1] is False


@both
@given(picks=st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_merkle_root_by_the_book(impl: ModuleType, picks: list[int]) -> None:
    leaves = [double(bytes([pick])) for pick in picks]
    assert impl.merkle_root(b"".join(leaves)) == root_by_the_book(leaves)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 65])
def test_broken_leaves_are_refused(impl: ModuleType, size: int) -> None:
    with pytest.raises(ValueError, match="bad-merkle-leaves"):
        impl.merkle_root(bytes(size))


def test_merkle_root_leaves_its_argument_alone(impl: ModuleType) -> None:
    leaves = bytearray(range(96))
    impl.merkle_root(leaves)
    assert leaves == bytearray(range(96))


# RFC 3720 appendix B.4, and the check value of the CRC catalogue.
CRC_VECTORS = {
    b"": 0,
    b"123456789": 0xE3069283,
    bytes(32): 0x8A9136AA,
    b"\xff" * 32: 0x62A8AB43,
    bytes(range(32)): 0x46DD794E,
    bytes(reversed(range(32))): 0x113FDB5C,
}


def test_crc32c_vectors(impl: ModuleType) -> None:
    for data, crc in CRC_VECTORS.items():
        assert impl.crc32c(data) == crc


def test_each_crc_kernel_knows_the_vectors(crc_kernel: ModuleType) -> None:
    for data, crc in CRC_VECTORS.items():
        assert crc_kernel.crc32c(data) == crc


@both
@given(data=st.binary(max_size=100), cut=st.integers(0, 100))
def test_crc32c_goes_on_where_it_stopped(impl: ModuleType, data: bytes, cut: int) -> None:
    assert impl.crc32c(data[cut:], impl.crc32c(data[:cut])) == impl.crc32c(data)


@both
@given(data=st.binary(max_size=100), crc=st.integers(0, 2**32 - 1))
def test_each_crc_kernel_is_the_pure_one(crc_kernel: ModuleType, data: bytes, crc: int) -> None:
    assert crc_kernel.crc32c(data, crc) == _pure.crc32c(data, crc)


@pytest.mark.parametrize("crc", [-1, 2**32])
def test_a_crc_of_more_than_32_bits_is_refused(impl: ModuleType, crc: int) -> None:
    with pytest.raises(OverflowError):
        impl.crc32c(b"", crc)
