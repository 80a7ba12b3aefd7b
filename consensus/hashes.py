"""Hash functions of Bitcoin: SHA-256, double SHA-256, RIPEMD-160, HASH160 and tagged hashes."""

import hashlib
from collections.abc import Callable
from functools import lru_cache

from cext import sha256d
from consensus import ripemd160 as pure_ripemd160

__all__ = ["hash160", "ripemd160", "sha1", "sha256", "sha256d", "tagged_hash"]


def sha256(data: bytes) -> bytes:
    """Return SHA-256 of ``data``, 32 bytes."""
    return hashlib.sha256(data).digest()


def sha1(data: bytes) -> bytes:
    """Return SHA-1 of ``data``, 20 bytes; only OP_SHA1 uses it."""
    return hashlib.sha1(data, usedforsecurity=False).digest()


def _choose_ripemd160() -> Callable[[bytes], bytes]:
    """Return OpenSSL's RIPEMD-160, or ours where OpenSSL has none (version 3 made it a legacy)."""
    try:
        empty = hashlib.new("ripemd160", usedforsecurity=False)
    except ValueError:
        return pure_ripemd160.digest

    def digest(data: bytes) -> bytes:
        state = empty.copy()  # a third of the cost of asking OpenSSL for the algorithm again
        state.update(data)
        return state.digest()

    return digest


ripemd160 = _choose_ripemd160()


def hash160(data: bytes) -> bytes:
    """Return RIPEMD-160 of SHA-256 of ``data``, 20 bytes."""
    return ripemd160(hashlib.sha256(data).digest())


@lru_cache(maxsize=64)
def _tag_prefix(tag: str) -> bytes:
    digest = hashlib.sha256(tag.encode()).digest()
    return digest + digest


def tagged_hash(tag: str, data: bytes) -> bytes:
    """Return SHA-256(SHA-256(tag) || SHA-256(tag) || data), 32 bytes (BIP340)."""
    return hashlib.sha256(_tag_prefix(tag) + data).digest()
