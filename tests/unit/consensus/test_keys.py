"""Signatures: agreement with independent implementations, and refusal of everything else."""

import pytest
from bitcoin.core.key import CPubKey
from cryptography.hazmat.primitives import hashes as crypto_hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import keys
from consensus.errors import RuleError

secrets = st.integers(1, keys.CURVE_ORDER - 1).map(lambda value: value.to_bytes(32, "big"))
messages = st.binary(min_size=32, max_size=32)


@settings(max_examples=25)
@given(secrets, messages)
def test_ecdsa_is_what_openssl_and_bitcoinlib_accept(secret: bytes, message: bytes) -> None:
    signature = keys.sign_ecdsa(secret, message)
    pubkey = keys.pubkey_from_secret(secret)
    assert keys.is_strict_der(signature)
    assert CPubKey(pubkey).verify(message, signature)
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), pubkey)
    point.verify(signature, message, ec.ECDSA(utils.Prehashed(crypto_hashes.SHA256())))
    assert keys.verify_ecdsa(pubkey, message, signature)
    assert keys.verify_ecdsa(keys.pubkey_from_secret(secret, compressed=False), message, signature)
    assert keys.sign_ecdsa(secret, message) == signature


def test_the_published_rfc6979_nonce_is_used() -> None:
    # Secret 1 and the hash of "Satoshi Nakamoto": the vector that Bitcoin's libraries share.
    message = bytes.fromhex("a0dc65ffca799873cbea0ac274015b9526505daaaed385155425f7337704883e")
    r, s = utils.decode_dss_signature(keys.sign_ecdsa((1).to_bytes(32, "big"), message))
    assert f"{r:064x}" == "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
    assert f"{s:064x}" == "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"


@settings(max_examples=30)
@given(secrets, messages, st.data())
def test_a_damaged_signature_never_holds(secret: bytes, message: bytes, data: st.DataObject) -> None:
    pubkey = keys.pubkey_from_secret(secret)
    signature = bytearray(keys.sign_ecdsa(secret, message))
    at = data.draw(st.integers(4, len(signature) - 1))
    signature[at] ^= 1 << data.draw(st.integers(0, 7))
    normal = keys.normalise_der(bytes(signature))
    if normal is not None and normal == keys.sign_ecdsa(secret, message):
        return  # the damage hit a length that the lax reader skips
    assert not keys.verify_ecdsa(pubkey, message, bytes(signature))


def high_s(signature: bytes) -> bytes:
    r, s = utils.decode_dss_signature(signature)
    return keys.encode_der(r, keys.CURVE_ORDER - s)


@settings(max_examples=20)
@given(secrets, messages)
def test_high_s_and_lax_der_verify_as_in_bitcoin(secret: bytes, message: bytes) -> None:
    pubkey = keys.pubkey_from_secret(secret)
    signature = keys.sign_ecdsa(secret, message)
    assert keys.verify_ecdsa(pubkey, message, high_s(signature))
    r, s = utils.decode_dss_signature(signature)
    padded = b"\x02\x22\x00" + r.to_bytes(33, "big") + b"\x02\x81\x20" + s.to_bytes(32, "big")
    lax = b"\x30\x81\xff" + padded + b"trailing"
    assert not keys.is_strict_der(lax)
    assert keys.normalise_der(lax) == signature
    assert keys.verify_ecdsa(pubkey, message, lax)


def test_numbers_beyond_the_order_verify_nowhere() -> None:
    secret = bytes(31) + b"\x01"
    signature = keys.sign_ecdsa(secret, bytes(32))
    r, s = utils.decode_dss_signature(signature)
    for numbers in ((r + keys.CURVE_ORDER, s), (r, s + keys.CURVE_ORDER), (2**2000, s)):
        body = b"".join([b"\x02\x82\x01\x00" + number.to_bytes(256, "big") for number in numbers])
        lax = b"\x30\x80" + body
        assert keys.normalise_der(lax) is None
        assert not keys.verify_ecdsa(keys.pubkey_from_secret(secret), bytes(32), lax)
    wide = b"".join([b"\x02\x82\x01\x00" + number.to_bytes(256, "big") for number in (r, s)])
    assert keys.normalise_der(b"\x30\x80" + wide) == signature
    assert keys.normalise_der(b"\x30\x88" + wide) is None
    assert keys.normalise_der(b"\x30\x80" + wide[:-1]) is None
    assert keys.normalise_der(b"\x30\x80" + b"\x02\xff" + wide) is None


@given(st.binary(max_size=80))
def test_no_signature_bytes_make_the_reader_stumble(raw: bytes) -> None:
    normal = keys.normalise_der(raw)
    assert normal is None or keys.is_strict_der(normal)
    if keys.is_strict_der(raw) and normal is not None:
        assert normal == raw
    assert not keys.verify_ecdsa(keys.pubkey_from_secret(bytes(31) + b"\x01"), bytes(32), raw)


@pytest.mark.parametrize(
    "der",
    [
        "",
        "30",
        "3006020101020101"[:-2],
        "3106020101020101",
        "3007020101020101",
        "3006030101020101",
        "3006020101030101",
        "30060200010201",
        "3006020181020101",
        "3006020101020181",
        "300702020001020101",
        "300702010102020001",
        "3006020001020101",
        "3005020101020000",
    ],
)
def test_strict_der_refuses(der: str) -> None:
    assert not keys.is_strict_der(bytes.fromhex(der))


def test_strict_der_takes_the_smallest_and_the_padded() -> None:
    assert keys.is_strict_der(bytes.fromhex("3006020101020101"))
    assert keys.is_strict_der(bytes.fromhex("30070202008002017f"))
    assert keys.encode_der(128, 127).hex() == "30070202008002017f"


@pytest.mark.parametrize("number", [0, keys.CURVE_ORDER, 2**256 - 1])
def test_secrets_out_of_range(number: int) -> None:
    secret = number.to_bytes(32, "big")
    for function in (keys.pubkey_from_secret, keys.xonly_from_secret):
        with pytest.raises(RuleError) as caught:
            function(secret)
        assert caught.value.code == "bad-secret-key"
        assert secret.hex() not in str(caught.value)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_secrets_of_another_size(size: int) -> None:
    for function in (keys.pubkey_from_secret, keys.ed25519_public):
        with pytest.raises(RuleError, match="bad-secret-key"):
            function(b"\x01" * size)


@settings(max_examples=25)
@given(secrets, st.binary(max_size=100))
def test_schnorr_holds_for_its_message_alone(secret: bytes, message: bytes) -> None:
    signature = keys.sign_schnorr(secret, message)
    xonly = keys.xonly_from_secret(secret)
    assert keys.verify_schnorr(xonly, message, signature)
    assert not keys.verify_schnorr(xonly, message + b"\x00", signature)
    assert not keys.verify_schnorr(xonly, message, signature[:-1])
    assert not keys.verify_schnorr(xonly[:-1], message, signature)
    assert keys.sign_schnorr(secret, message, b"\x01" * 32) != signature
    with pytest.raises(ValueError):
        keys.sign_schnorr(secret, message, b"")


def test_keys_that_are_no_points_verify_nothing() -> None:
    no_point = bytes.fromhex("eefdea4cdb677750a420fee807eacf21eb9898ae79b9768766e4faa04a2d4a34")
    assert not keys.verify_schnorr(no_point, bytes(32), bytes(64))
    with pytest.raises(RuleError, match="bad-public-key"):
        keys.taproot_tweak(no_point)
    for pubkey in (b"", b"\x02" + no_point, b"\x02" + bytes(31), b"\x04" + bytes(64), b"\x05" * 33):
        assert not keys.verify_ecdsa(pubkey, bytes(32), bytes.fromhex("3006020101020101"))


@settings(max_examples=20)
@given(messages, st.binary(max_size=100))
def test_ed25519_agrees_with_openssl(seed: bytes, message: bytes) -> None:
    other = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    public_key = keys.ed25519_public(seed)
    assert public_key == other.public_key().public_bytes_raw()
    signature = keys.ed25519_sign(seed, message)
    assert signature == other.sign(message)
    assert keys.ed25519_verify(public_key, message, signature)
    assert not keys.ed25519_verify(public_key, message + b"x", signature)
    assert not keys.ed25519_verify(public_key, message, signature[:-1])
    assert not keys.ed25519_verify(public_key[:-1], message, signature)
    assert not keys.ed25519_verify(bytes(32), message, signature)
