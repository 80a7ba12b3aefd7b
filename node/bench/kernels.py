"""Benchmarks of ``cext`` against the best that Python offers without it."""

from hashlib import sha256

from coincurve import PrivateKey, PublicKey

from cext import merkle_root, pow_search, sha256d, sha256d_many, verify_ecdsa_batch
from node.bench.measure import interleaved
from node.bench.registry import Benchmark, Progress, Result, less_is_better, more_is_better

LEAVES = 4096
HEADERS = 2000
"""As many as one message of headers carries in Bitcoin's protocol."""

SIGNATURES = 500
"""The smallest batch that the node hands to one thread."""

NONCES = 20_000
"""Nonces that the loop in Python tries, some 10 ms."""

SEARCH_FACTOR = 16
"""The native search tries so many times more, or starting it would be part of the figure."""

_NANOSECONDS = 1e9
_MEGA = 1e6


def _numbered(size: int, count: int) -> list[bytes]:
    """Return ``count`` different items of ``size`` bytes that look random, the same in each run."""
    return [(sha256(index.to_bytes(4, "little")).digest() * 3)[:size] for index in range(count)]


def _hashlib_root(leaves: list[bytes]) -> bytes:
    level = leaves
    while len(level) > 1:
        level = [
            sha256(sha256(level[at] + level[at + 1]).digest()).digest() for at in range(0, len(level), 2)
        ]
    return level[0]


def _agree(ours: object, reference: object) -> None:
    """Refuse to time two things that are not the same thing."""
    if ours != reference:
        raise RuntimeError("the two ways to compute it differ")


def _merkle_root(_: Progress) -> list[Result]:
    leaves = _numbered(32, LEAVES)
    joined = b"".join(leaves)
    _agree(merkle_root(joined)[0], _hashlib_root(leaves))
    ours, theirs = interleaved(lambda: merkle_root(joined), lambda: _hashlib_root(leaves))
    scale = _NANOSECONDS / LEAVES
    return [less_is_better("merkle_root", ours * scale, "ns/leaf", "hashlib loop", theirs * scale)]


def _header_hash(_: Progress) -> list[Result]:
    headers = _numbered(80, HEADERS)
    joined = b"".join(headers)

    def by_hashlib() -> list[bytes]:
        return [sha256(sha256(header).digest()).digest() for header in headers]

    def one_by_one() -> list[bytes]:
        return [sha256d(header) for header in headers]

    def batch() -> bytes:
        return sha256d_many(joined, 80)

    _agree(batch(), b"".join(by_hashlib()))
    _agree(one_by_one(), by_hashlib())
    scale = _NANOSECONDS / HEADERS
    results = []
    for name, work in (("header_hash", batch), ("header_hash_single", one_by_one)):
        ours, theirs = interleaved(work, by_hashlib)
        results.append(less_is_better(name, ours * scale, "ns/header", "hashlib loop", theirs * scale))
    return results


def _pow_search(_: Progress) -> list[Result]:
    header = _numbered(80, 1)[0]

    def by_hashlib() -> bool:
        """Tell that no nonce meets target 0."""
        middle = sha256(header[:76])
        for nonce in range(NONCES):
            inner = middle.copy()
            inner.update(nonce.to_bytes(4, "little"))
            if int.from_bytes(sha256(inner.digest()).digest(), "little") <= 0:
                return False
        return True

    def ours() -> bool:
        return pow_search(header, 0, NONCES * SEARCH_FACTOR, 0) is None

    _agree(ours(), by_hashlib())
    searched, looped = interleaved(ours, by_hashlib)
    return [
        more_is_better(
            "pow_search",
            NONCES * SEARCH_FACTOR / searched / _MEGA,
            "MH/s per core",
            "hashlib loop with midstate",
            NONCES / looped / _MEGA,
        )
    ]


def _signature_batch(_: Progress) -> list[Result]:
    items = []
    for index, message in enumerate(_numbered(32, SIGNATURES)):
        key = PrivateKey(sha256(b"bench" + bytes([index % 16])).digest())
        items.append((message, key.public_key.format(), key.sign(message, hasher=None)))

    def by_coincurve() -> list[bool]:
        return [PublicKey(key).verify(signature, message, hasher=None) for message, key, signature in items]

    _agree(verify_ecdsa_batch(items), [True] * SIGNATURES)
    ours, theirs = interleaved(lambda: verify_ecdsa_batch(items), by_coincurve)
    return [
        more_is_better(
            "signature_batch", SIGNATURES / ours, "checks/s", "coincurve, one by one", SIGNATURES / theirs
        )
    ]


BENCHMARKS = (
    Benchmark(("merkle_root",), f"Merkle root of {LEAVES} leaves", _merkle_root),
    Benchmark(
        ("header_hash", "header_hash_single"),
        f"double SHA-256 of {HEADERS} headers of 80 bytes",
        _header_hash,
    ),
    Benchmark(("pow_search",), "search for a proof of work on one core", _pow_search),
    Benchmark(("signature_batch",), f"{SIGNATURES} ECDSA signatures on one thread", _signature_batch),
)
