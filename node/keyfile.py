"""``<datadir>/keys.toml``: the node's private keys, readable by its owner alone."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from consensus.errors import ConfigError, LocalFault, RuleError
from consensus.keys import ed25519_public, pubkey_from_secret, xonly_from_secret
from consensus.toml import parse_toml
from node.config import read_text

SECRET_BYTES = 32

_HEADER = "# The private keys of this node. Whoever reads them can vote and spend in its name.\n"


class KeyFileError(LocalFault):
    """The key file cannot be used."""

    exit_status = 78


class Secret:
    """32 secret bytes that show themselves only through ``reveal``."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        if len(value) != SECRET_BYTES:
            raise ValueError(f"a secret has {SECRET_BYTES} bytes")
        self._value = value

    def reveal(self) -> bytes:
        """Return the bytes, for the one place that signs with them."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(hidden)"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a Secret cannot be pickled")


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """``vote`` is a secp256k1 secret (BIP340 votes), ``identity`` an Ed25519 seed (the wire),
    ``payout`` the secp256k1 secret of the organisation's account."""

    vote: Secret
    identity: Secret
    payout: Secret

    @property
    def vote_key(self) -> bytes:
        """The x-only vote key, 32 bytes."""
        return xonly_from_secret(self.vote.reveal())

    @property
    def identity_key(self) -> bytes:
        """The Ed25519 key, 32 bytes."""
        return ed25519_public(self.identity.reveal())

    @property
    def payout_pubkey(self) -> bytes:
        """The compressed public key of the payout account, 33 bytes."""
        return pubkey_from_secret(self.payout.reveal())


_FIELDS = {"vote_secret": "vote", "identity_seed": "identity", "payout_secret": "payout"}


def generate_keys(random_bytes: Callable[[int], bytes]) -> NodeKeys:
    """Return fresh keys."""
    return NodeKeys(
        vote=_generate(random_bytes, xonly_from_secret),
        identity=_generate(random_bytes, ed25519_public),
        payout=_generate(random_bytes, pubkey_from_secret),
    )


def _generate(random_bytes: Callable[[int], bytes], public: Callable[[bytes], bytes]) -> Secret:
    while True:
        value = random_bytes(SECRET_BYTES)
        if _is_usable(value, public):
            return Secret(value)


def _is_usable(value: bytes, public: Callable[[bytes], bytes]) -> bool:
    """Zero and the curve's order and beyond are no secrets; odds are 2^-128."""
    try:
        public(value)
    except RuleError:
        return False
    return True


def write_keys(path: Path, keys: NodeKeys) -> None:
    """Create the key file, mode 0600. Raises KeyFileError ``key-file-exists`` or ``key-file-unwritable``."""
    lines = [f'{field} = "{getattr(keys, name).reveal().hex()}"\n' for field, name in _FIELDS.items()]
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileError(
            "key-file-exists", f"{path} exists and is never overwritten", fix="choose another directory"
        ) from None
    except OSError as error:
        raise KeyFileError("key-file-unwritable", f"{path}: {error.strerror}") from None
    with os.fdopen(handle, "w") as file:
        file.write(_HEADER + "".join(lines))
        file.flush()
        os.fsync(file.fileno())


def read_keys(path: Path) -> NodeKeys:
    """Read the key file.

    Raises KeyFileError ``key-file-missing`` or ``key-file-exposed``, and ConfigError
    ``bad-key-file`` with every problem; no message holds a secret.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise KeyFileError(
            "key-file-missing", f"{path}: {error.strerror}", fix="make keys with `wattd init`"
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyFileError(
            "key-file-exposed",
            f"{path} can be read by others (mode {stat.S_IMODE(mode):04o})",
            fix=f"chmod 600 {path}",
        )
    try:
        values = parse_toml(read_text(path))
    except ValueError:
        raise ConfigError("bad-key-file", (f"{path}: not TOML",)) from None
    problems = [f"{path}: {key}: unknown key" for key in values if key not in _FIELDS]
    secrets: dict[str, Secret] = {}
    for field, name in _FIELDS.items():
        public = ed25519_public if name == "identity" else xonly_from_secret
        secret = _parse(values.get(field), public)
        if secret is None:
            problems.append(
                f"{path}: {field}: must be a usable secret of {2 * SECRET_BYTES} hexadecimal digits"
            )
        else:
            secrets[name] = secret
    if problems:
        raise ConfigError("bad-key-file", tuple(problems))
    return NodeKeys(**secrets)


def _parse(value: object, public: Callable[[bytes], bytes]) -> Secret | None:
    if not isinstance(value, str):
        return None
    try:
        data = bytes.fromhex(value)
    except ValueError:
        return None
    return Secret(data) if len(data) == SECRET_BYTES and _is_usable(data, public) else None
