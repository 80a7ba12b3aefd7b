"""The history tree against RFC 6962's published roots and against a slow twin."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.history import EMPTY_ROOT, AuditPath, append, leaf_hash, prove, root, tree_root, verify

# Inputs and roots of the reference implementation (google/certificate-transparency, merkletree tests).
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaves(count):
    return [hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(count)]


def slow_root(items):
    """MTH as RFC 6962 defines it, by recursion."""
    if not items:
        return bytes(32)
    if len(items) == 1:
        return hashlib.sha256(b"\x00" + items[0]).digest()
    k = 1 << (len(items) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + slow_root(items[:k]) + slow_root(items[k:])).digest()


def peaks_of(items):
    peaks = ()
    for count, item in enumerate(items):
        peaks = append(peaks, count, item)
    return peaks


@pytest.mark.parametrize("count", range(1, 9))
def test_published_roots(count):
    expected = bytes.fromhex(CT_ROOTS[count - 1])
    assert tree_root([leaf_hash(leaf) for leaf in CT_LEAVES[:count]]) == expected
    assert root(peaks_of(CT_LEAVES[:count])) == expected


def test_empty_tree():
    assert tree_root([]) == root(()) == EMPTY_ROOT == bytes(32)


@settings(deadline=None)
@given(st.integers(0, 130))
def test_mountain_range_is_the_tree(count):
    items = leaves(count)
    peaks = peaks_of(items)
    assert len(peaks) == count.bit_count()
    assert root(peaks) == tree_root([leaf_hash(item) for item in items]) == slow_root(items)


@settings(deadline=None)
@given(st.data())
def test_every_leaf_has_a_proof_and_nothing_else_has(data):
    count = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, count - 1))
    items = leaves(count)
    path = prove(items, index)
    expected = root(peaks_of(items))
    assert len(path) <= (count - 1).bit_length()
    assert verify(items[index], index, count, path, expected)
    other = data.draw(st.integers(0, count - 1))
    if other != index:
        assert not verify(items[index], other, count, path, expected)
        assert not verify(items[other], index, count, path, expected)
    assert not verify(items[index], index, count, (*path, bytes(32)), expected)
    assert not verify(items[index], count, count, path, expected)
    if path:
        assert not verify(items[index], index, count, path[:-1], expected)
        assert not verify(items[index], index, count, (bytes(32), *path[1:]), expected)


def test_misuse_is_told():
    with pytest.raises(IndexError):
        prove(leaves(3), 3)
    with pytest.raises(ValueError, match="peaks"):
        append((bytes(32),), 3, bytes(32))


@given(count=st.integers(1, 300), data=st.data())
def test_a_path_made_leaf_by_leaf_is_that_of_the_whole_tree(count, data):
    index = data.draw(st.integers(0, count - 1))
    leaves = [bytes([at % 256, at >> 8]) * 16 for at in range(count)]
    path = AuditPath(index, count)
    with pytest.raises(ValueError):
        path.path()
    for leaf in leaves:
        path.add(leaf)
    assert path.path() == prove(leaves, index)


@pytest.mark.parametrize(("index", "count"), [(0, 0), (3, 3), (-1, 4)])
def test_no_path_to_a_leaf_that_is_not_there(index, count):
    with pytest.raises(IndexError):
        AuditPath(index, count)
