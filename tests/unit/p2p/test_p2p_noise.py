import hashlib
import hmac

import nacl.bindings
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import PeerFault
from p2p.noise import HANDSHAKE_SIZES, PROLOGUE, NodeKeys, NoiseSession, static_of

ALICE, BOB = NodeKeys(b"\x01" * 32), NodeKeys(b"\x02" * 32)


def shaken(alice=ALICE, bob=BOB):
    a = NoiseSession(alice, initiator=True)
    b = NoiseSession(bob, initiator=False)
    b.read_handshake(a.write_handshake())
    a.read_handshake(b.write_handshake())
    b.read_handshake(a.write_handshake())
    return a, b


class Judge:
    """The Noise specification's SymmetricState, written from its section 5 for the test alone."""

    def __init__(self):
        self.ck = self.h = b"Noise_XX_25519_ChaChaPoly_SHA256"
        self.key = None
        self.mix_hash(PROLOGUE)

    def mix_hash(self, data):
        self.h = hashlib.sha256(self.h + data).digest()

    def mix_key(self, private, public):
        shared = X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
        self.ck, self.key = self.hkdf(shared)
        self.n = 0

    def hkdf(self, material):
        temp = hmac.digest(self.ck, material, "sha256")
        first = hmac.digest(temp, b"\x01", "sha256")
        return first, hmac.digest(temp, first + b"\x02", "sha256")

    def seal(self, plain):
        if self.key is None:
            sealed = plain
        else:
            nonce = bytes(4) + self.n.to_bytes(8, "little")
            sealed = ChaCha20Poly1305(self.key).encrypt(nonce, plain, self.h)
            self.n += 1
        self.mix_hash(sealed)
        return sealed


def test_handshake_bytes_are_what_the_specification_says():
    ea, eb = b"\x33" * 32, b"\x44" * 32
    a = NoiseSession(ALICE, initiator=True, ephemeral=ea)
    b = NoiseSession(BOB, initiator=False, ephemeral=eb)
    first = a.write_handshake()
    b.read_handshake(first)
    second = b.write_handshake()
    a.read_handshake(second)
    third = a.write_handshake()
    b.read_handshake(third)

    def public(private):
        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()

    def static(seed):
        return nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(
            nacl.bindings.crypto_sign_seed_keypair(seed)[1]
        )

    sa, sb = static(b"\x01" * 32), static(b"\x02" * 32)
    judge = Judge()
    judge.mix_hash(public(ea))
    assert first == public(ea) + judge.seal(b"")
    judge.mix_hash(public(eb))
    judge.mix_key(ea, public(eb))
    sealed_static = judge.seal(public(sb))
    judge.mix_key(ea, public(sb))
    assert second == public(eb) + sealed_static + judge.seal(b"")
    sealed_static = judge.seal(public(sa))
    judge.mix_key(sa, public(eb))
    assert third == sealed_static + judge.seal(b"")
    k1, k2 = judge.hkdf(b"")
    assert a.encrypt(b"to bob") == ChaCha20Poly1305(k1).encrypt(bytes(12), b"to bob", b"")
    assert b.encrypt(b"to alice") == ChaCha20Poly1305(k2).encrypt(bytes(12), b"to alice", b"")


def test_each_side_learns_the_other():
    a, b = shaken()
    assert a.finished
    assert b.finished
    assert a.remote_static == BOB.static_public == static_of(BOB.identity)
    assert b.remote_static == ALICE.static_public
    assert b.decrypt(a.encrypt(b"x" * 65_519)) == b"x" * 65_519
    assert a.decrypt(b.encrypt(b"y")) == b"y"


def test_ephemeral_keys_are_fresh_unless_given():
    first = NoiseSession(ALICE, initiator=True).write_handshake()
    assert first != NoiseSession(ALICE, initiator=True).write_handshake()


@pytest.mark.parametrize("stage", [0, 1, 2])
@given(st.data())
@settings(max_examples=30, deadline=None)
def test_damage_at_any_stage_is_a_peer_fault(stage, data):
    a = NoiseSession(ALICE, initiator=True)
    b = NoiseSession(BOB, initiator=False)
    sides = [a, b]
    for step in range(stage + 1):
        message = bytearray(sides[step % 2].write_handshake())
        reader = sides[(step + 1) % 2]
        if step < stage:
            reader.read_handshake(bytes(message))
            continue
        message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
        with pytest.raises(PeerFault) as caught:  # noqa: PT012
            reader.read_handshake(bytes(message))
            a.read_handshake(reader.write_handshake())  # any 32 bytes are a key: shows in the answer
        assert caught.value.code == "handshake-malformed"


@pytest.mark.parametrize("size", [0, 31, 33, 96])
def test_wrong_length(size):
    with pytest.raises(PeerFault) as caught:
        NoiseSession(BOB, initiator=False).read_handshake(bytes(size))
    assert caught.value.code == "handshake-malformed"


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31)])
def test_low_order_ephemeral(key):
    session = NoiseSession(BOB, initiator=False)
    session.read_handshake(key)
    with pytest.raises(PeerFault) as caught:
        session.write_handshake()
    assert caught.value.code == "handshake-malformed"


@pytest.mark.parametrize("identity", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32, b"short"])
def test_identity_that_is_no_key(identity):
    with pytest.raises(PeerFault) as caught:
        static_of(identity)
    assert caught.value.code == "bad-identity"


def test_damage_replay_and_reordering_of_transport_messages():
    a, b = shaken()
    first, second = a.encrypt(b"one"), a.encrypt(b"two")
    for wrong in (second, first[:-1] + bytes([first[-1] ^ 1]), first[:15], b""):
        with pytest.raises(PeerFault) as caught:
            b.decrypt(wrong)
        assert caught.value.code == "decrypt-failed"
    assert b.decrypt(first) == b"one"
    with pytest.raises(PeerFault):
        b.decrypt(first)
    assert b.decrypt(second) == b"two"


def test_another_prologue_does_not_shake(monkeypatch):
    a = NoiseSession(ALICE, initiator=True)
    monkeypatch.setattr("p2p.noise.PROLOGUE", b"wattd p2p 2")
    b = NoiseSession(BOB, initiator=False)
    b.read_handshake(a.write_handshake())
    with pytest.raises(PeerFault):
        a.read_handshake(b.write_handshake())


def test_private_keys_do_not_show():
    seed = bytes(range(32))
    keys = NodeKeys(seed)
    secret = nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(
        nacl.bindings.crypto_sign_seed_keypair(seed)[1]
    )
    assert repr(keys) == f"NodeKeys({keys.identity.hex()})"
    assert secret.hex() not in repr(keys)
    assert HANDSHAKE_SIZES == (32, 96, 64)
