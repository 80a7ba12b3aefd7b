"""Noise_XX_25519_ChaChaPoly_SHA256 between node identities (Noise specification, revision 34).

The static key is the X25519 form of the node's Ed25519 identity, so one key names a node and
authenticates its connections. Two Ed25519 keys that differ only in sign share an X25519 form; only
their one owner can use either, so nobody can take another's name.

Ephemeral keys come from the operating system through the ``cryptography`` package unless the caller
gives them (simulations); two connections must never share one.
"""

from struct import Struct
from typing import Any

import nacl.bindings
import nacl.exceptions
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from noise.backends.default.keypairs import KeyPair25519
from noise.connection import Keypair, NoiseConnection
from noise.exceptions import NoiseInvalidMessage, NoiseValueError

from consensus.errors import PeerFault

PROTOCOL_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
PROLOGUE = b"wattd p2p 1"
"""Binds protocol and transport version, not the chain: hello compares that, for a clear error."""

KEY_BYTES = 32
TAG_BYTES = 16
HANDSHAKE_SIZES = (KEY_BYTES, KEY_BYTES + KEY_BYTES + 2 * TAG_BYTES, KEY_BYTES + 2 * TAG_BYTES)
"""Bytes of the messages ``-> e``, ``<- e, ee, s, es``, ``-> s, se``, all with an empty payload."""


class NodeKeys:
    """The identity of this node. Holds the private key; shows only public ones."""

    __slots__ = ("_static_private", "identity", "static_public")

    def __init__(self, seed: bytes) -> None:
        identity, secret = nacl.bindings.crypto_sign_seed_keypair(seed)
        self.identity: bytes = identity
        self._static_private: bytes = nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(secret)
        self.static_public: bytes = static_of(identity)

    def __repr__(self) -> str:
        return f"NodeKeys({self.identity.hex()})"


def static_of(identity: bytes) -> bytes:
    """Return the X25519 form of an Ed25519 public key. Raises PeerFault "bad-identity"."""
    try:
        converted: bytes = nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(identity)
    except (nacl.exceptions.CryptoError, ValueError, TypeError) as error:
        raise PeerFault("bad-identity", "not a point of the Ed25519 main subgroup") from error
    return converted


_NONCE = Struct("<4xQ")


class _Cipher:
    """One direction of the channel, section 5.1: the key of the split, and the number of the next message.

    The library's own takes as long around the cipher as the cipher does for a vote.
    """

    __slots__ = ("_aead", "_number")

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._number = 0

    def seal(self, plain: bytes) -> bytes:
        sealed = self._aead.encrypt(_NONCE.pack(self._number), plain, None)
        self._number += 1
        return sealed

    def open(self, sealed: bytes) -> bytes:
        """Raises InvalidTag; the number is then that of the next message still."""
        plain = self._aead.decrypt(_NONCE.pack(self._number), sealed, None)
        self._number += 1
        return plain


class NoiseSession:
    """One side of a handshake, then of the encrypted channel. Bytes in, bytes out."""

    __slots__ = ("_handshake", "_incoming", "_noise", "_outgoing", "_step", "initiator", "remote_static")

    def __init__(self, keys: NodeKeys, *, initiator: bool, ephemeral: bytes | None = None) -> None:
        noise: Any = NoiseConnection.from_name(PROTOCOL_NAME)
        noise.set_prologue(PROLOGUE)
        noise.set_keypair_from_private_bytes(Keypair.STATIC, keys._static_private)
        if initiator:
            noise.set_as_initiator()
        else:
            noise.set_as_responder()
        noise.start_handshake()
        # The library forgets this object at the end of the handshake, and with it the peer's key.
        self._handshake: Any = noise.noise_protocol.handshake_state
        if ephemeral is not None:
            self._handshake.e = KeyPair25519.from_private_bytes(ephemeral)
        self._noise = noise
        self._outgoing: _Cipher | None = None
        self._incoming: _Cipher | None = None
        self._step = 0
        self.initiator = initiator
        self.remote_static: bytes | None = None

    @property
    def finished(self) -> bool:
        """The handshake is over: both static keys are authenticated."""
        return self._step == len(HANDSHAKE_SIZES)

    @property
    def writes_next(self) -> bool:
        """The next handshake message is ours."""
        return not self.finished and (self._step % 2 == 0) == self.initiator

    @property
    def read_size(self) -> int:
        """Bytes of the handshake message that the peer owes us."""
        return HANDSHAKE_SIZES[self._step]

    def write_handshake(self) -> bytes:
        """Return our next handshake message.

        Raises PeerFault "handshake-malformed" if the peer's key allows no shared secret (low order).
        """
        try:
            message = bytes(self._noise.write_message())
        except ValueError as error:
            raise PeerFault("handshake-malformed", "low-order key") from error
        self._advance()
        return message

    def read_handshake(self, message: bytes) -> None:
        """Take the peer's handshake message. Raises PeerFault "handshake-malformed"."""
        if len(message) != self.read_size:
            raise PeerFault("handshake-malformed", "wrong length")
        try:
            self._noise.read_message(message)
        except (InvalidTag, NoiseInvalidMessage, NoiseValueError, ValueError) as error:
            raise PeerFault("handshake-malformed", "not authentic") from error
        remote = self._handshake.rs
        if hasattr(remote, "public_bytes"):
            self.remote_static = remote.public_bytes
        self._advance()

    def _advance(self) -> None:
        self._step += 1
        if self.finished:
            split = self._noise.noise_protocol
            self._outgoing = _Cipher(split.cipher_state_encrypt.k)
            self._incoming = _Cipher(split.cipher_state_decrypt.k)
            self._handshake = self._noise = None

    def encrypt(self, plain: bytes) -> bytes:
        """Return the next transport message; at most 65,519 bytes of plaintext."""
        if self._outgoing is None:
            raise RuntimeError("the handshake is not over")
        return self._outgoing.seal(plain)

    def decrypt(self, sealed: bytes) -> bytes:
        """Open the peer's next transport message. Raises PeerFault "decrypt-failed"."""
        if self._incoming is None:
            raise RuntimeError("the handshake is not over")
        try:
            return self._incoming.open(sealed)
        except InvalidTag as error:
            raise PeerFault("decrypt-failed", "transport message is not authentic") from error
