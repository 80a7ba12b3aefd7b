"""Hash functions against published values and against each other."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import ripemd160 as pure
from consensus.hashes import hash160, ripemd160, sha1, sha256, sha256d, tagged_hash


@pytest.mark.parametrize(
    ("text", "digest"),
    [  # from the authors' page, https://homes.esat.kuleuven.be/~bosselae/ripemd160.html
        ("", "9c1185a5c5e9fc54612808977ee8f548b2258d31"),
        ("a", "0bdc9d2d256b3ee9daae347be6f4dc835a467ffe"),
        ("abc", "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"),
        ("message digest", "5d0689ef49d2fae572b881b123a85ffa21595f36"),
        ("abcdefghijklmnopqrstuvwxyz", "f71c27109c692c1b56bbdceb5b9d2865b3708dbc"),
        ("1234567890" * 8, "9b752e45573d4b39f4dbd3323cab82bf63326bfb"),
    ],
)
def test_ripemd160_of_the_authors_strings(text: str, digest: str) -> None:
    assert pure.digest(text.encode()).hex() == digest
    assert ripemd160(text.encode()).hex() == digest


@given(st.binary(max_size=300))
def test_ripemd160_in_python_agrees_with_the_one_in_use(data: bytes) -> None:
    assert pure.digest(data) == ripemd160(data)


@given(st.binary(max_size=200))
def test_compositions(data: bytes) -> None:
    assert sha256d(data) == sha256(hashlib.sha256(data).digest())
    assert hash160(data) == pure.digest(sha256(data))
    assert sha1(data) == hashlib.sha1(data).digest()
    tag = sha256(b"TapLeaf")
    assert tagged_hash("TapLeaf", data) == sha256(tag + tag + data)
