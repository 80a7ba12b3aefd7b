"""Signature batches against coincurve, BIP340's vectors, and what must simply be False."""

import random
import threading
from types import ModuleType

import pytest
from coincurve import PrivateKey

from cext import _pure

Check = tuple[bytes, bytes, bytes]
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
dice = random.Random(7)
KEYS = [PrivateKey(dice.randbytes(32)) for _ in range(6)]


def ecdsa(key: PrivateKey, message: bytes) -> Check:
    return message, key.public_key.format(), key.sign(message, hasher=None)


def schnorr(key: PrivateKey, message: bytes) -> Check:
    return message, key.public_key_xonly.format(), key.sign_schnorr(message, bytes(32))


def der(r: int, s: int) -> bytes:
    body = b""
    for number in (r, s):
        digits = number.to_bytes(number.bit_length() // 8 + 1, "big")
        body += b"\x02" + bytes([len(digits)]) + digits
    return b"\x30" + bytes([len(body)]) + body


def numbers(signature: bytes) -> tuple[int, int]:
    r_size = signature[3]
    return int.from_bytes(signature[4 : 4 + r_size], "big"), int.from_bytes(signature[6 + r_size :], "big")


@pytest.fixture(params=["pure", "native", "native without addresses"])
def impl(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    """The two implementations, and the native one as it is without the addresses of the library."""
    if request.param == "pure":
        yield _pure
        return
    native = pytest.importorskip(
        "cext._native", reason="the native module is not built", exc_type=ImportError
    )
    if request.param == "native without addresses":
        native._unbind_signatures()
    yield native
    native._bind_signatures()


def test_the_native_module_calls_the_library_directly(native: ModuleType) -> None:
    assert native.signature_backend() == "nogil"
    native._unbind_signatures()
    assert native.signature_backend() == "coincurve"
    native._bind_signatures()
    assert native.signature_backend() == "nogil"


def test_an_empty_batch(impl: ModuleType) -> None:
    assert impl.verify_ecdsa_batch([]) == impl.verify_schnorr_batch([]) == []


def test_the_published_vectors(impl: ModuleType) -> None:
    for batch, vectors in (
        (impl.verify_ecdsa_batch, _pure.ECDSA_SELF_TEST),
        (impl.verify_schnorr_batch, _pure.SCHNORR_SELF_TEST),
    ):
        assert batch([vector[:3] for vector in vectors]) == [True, False]


@pytest.mark.parametrize("count", [1, 23, 24, 60])
def test_every_item_gets_its_own_answer(impl: ModuleType, count: int) -> None:
    for sign, verify in ((ecdsa, impl.verify_ecdsa_batch), (schnorr, impl.verify_schnorr_batch)):
        items = [sign(KEYS[i % len(KEYS)], bytes([i]) * 32) for i in range(count)]
        expected = [i % 3 != 1 for i in range(count)]
        broken = [
            item if good else (bytes(31) + b"\x77", *item[1:])
            for item, good in zip(items, expected, strict=True)
        ]
        assert verify(broken) == expected


def test_both_forms_of_a_public_key(impl: ModuleType) -> None:
    message, _, signature = ecdsa(KEYS[0], b"m" * 32)
    full = KEYS[0].public_key.format(compressed=False)
    hybrid = bytes([6 | full[-1] & 1]) + full[1:]
    wrong_hybrid = bytes([7 ^ full[-1] & 1]) + full[1:]
    keys = [KEYS[0].public_key.format(), full, hybrid, wrong_hybrid]
    assert impl.verify_ecdsa_batch([(message, key, signature) for key in keys]) == [True, True, True, False]


def test_a_high_s_is_as_good_as_a_low_one(impl: ModuleType) -> None:
    message, key, signature = ecdsa(KEYS[1], b"h" * 32)
    r, s = numbers(signature)
    assert impl.verify_ecdsa_batch([(message, key, der(r, ORDER - s))]) == [True]


def test_what_is_no_ecdsa_signature_is_false(impl: ModuleType) -> None:
    message, key, good = ecdsa(KEYS[2], b"e" * 32)
    r, s = numbers(good)
    bad = [
        b"",
        b"\x30",
        good[:-1],
        good + b"\0",
        good + b"\x01",
        bytes(72),
        bytes(73),
        b"\xff" * 1000,
        der(r + ORDER, s),
        der(0, s),
        der(r, 0),
        der(r, ORDER),
        der(r, s).replace(b"\x30", b"\x31", 1),
        b"\x30\x81" + good[1:],
        good[:2] + b"\x02\x22\0" + good[3:],
    ]
    assert impl.verify_ecdsa_batch([(message, key, signature) for signature in bad]) == [False] * len(bad)


def test_what_is_no_public_key_is_false(impl: ModuleType) -> None:
    message, key, signature = ecdsa(KEYS[3], b"k" * 32)
    off_curve = b"\x02" + bytes(31) + b"\x05"
    bad = [
        b"",
        b"\x02",
        key[:-1],
        key + b"\0",
        b"\x04" + key[1:],
        bytes(33),
        bytes(65),
        bytes(66),
        off_curve,
        b"\xff" * 200,
    ]
    assert impl.verify_ecdsa_batch([(message, key, signature) for key in bad]) == [False] * len(bad)


def test_what_is_no_schnorr_check_is_false(impl: ModuleType) -> None:
    message, key, signature = schnorr(KEYS[4], b"s" * 32)
    bad = [
        (message, b"", signature),
        (message, key[:-1], signature),
        (message, b"\x02" + key, signature),
        (message, b"\xff" * 32, signature),
        (message, bytes(31) + b"\x05", signature),
        (message, key, b""),
        (message, key, signature[:-1]),
        (message, key, signature + b"\0"),
        (message, key, signature + bytes(100)),
        (message, key, bytes(64)),
        (message, key, signature[:32] + ORDER.to_bytes(32, "big")),
    ]
    assert impl.verify_schnorr_batch(bad) == [False] * len(bad)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_message_of_another_size_is_the_callers_fault(impl: ModuleType, size: int) -> None:
    for sign, verify in ((ecdsa, impl.verify_ecdsa_batch), (schnorr, impl.verify_schnorr_batch)):
        good = sign(KEYS[0], bytes(32))
        with pytest.raises(ValueError, match="bad-message-size"):
            verify([good, (bytes(size), *good[1:])])


@pytest.mark.parametrize(
    "broken", [("text", b"", b""), (None, b"", b""), (bytes(32), None, b""), (bytes(32), bytearray(32), b"")]
)
def test_what_is_not_bytes_is_the_callers_fault(impl: ModuleType, broken: Check) -> None:
    for verify in (impl.verify_ecdsa_batch, impl.verify_schnorr_batch):
        with pytest.raises(TypeError):
            verify([broken])


def test_damaged_signatures_are_judged_alike(native: ModuleType) -> None:
    items: list[Check] = []
    for i in range(120):
        message, key, signature = ecdsa(KEYS[i % len(KEYS)], bytes([i]) * 32)
        at = dice.randrange(len(signature))
        damaged = bytearray(signature)
        damaged[at] ^= 1 << dice.randrange(8)
        items.append((message, key, bytes(damaged)))
    assert native.verify_ecdsa_batch(items) == _pure.verify_ecdsa_batch(items)


def test_two_threads_check_at_once(impl: ModuleType) -> None:
    items = [ecdsa(KEYS[i % len(KEYS)], bytes([i]) * 32) for i in range(50)]
    answers: list[list[bool]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(impl.verify_ecdsa_batch(items))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[True] * 50] * 2
