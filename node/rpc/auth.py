"""Who may call: the cookie file for local clients, and credentials from the configuration."""

import base64
import binascii
import hmac
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from consensus.errors import LocalFault
from node.config import RpcCredential
from node.dice import random_bytes

COOKIE_USER = "__cookie__"
COOKIE_BYTES = 32


class Cookie:
    """A credential of this process, in a file that only its owner can read."""

    def __init__(self, path: Path) -> None:
        """Write a fresh cookie to ``path``. Raises LocalFault ``cookie-unwritable``."""
        self.path = path
        self.text = f"{COOKIE_USER}:{random_bytes(COOKIE_BYTES).hex()}"
        fresh = path.with_name(path.name + ".new")
        try:
            fresh.unlink(missing_ok=True)
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(self.text)
            fresh.replace(path)
        except OSError as error:
            raise LocalFault("cookie-unwritable", f"{path}: {error.strerror}") from None

    def remove(self) -> None:
        """Delete the file, unless another process has replaced it."""
        try:
            if self.path.read_text() == self.text:
                self.path.unlink()
        except OSError:
            pass

    def __repr__(self) -> str:
        return f"Cookie({str(self.path)!r})"


class Authenticator:
    """Judges Authorization headers in constant time."""

    def __init__(self, cookie: Cookie, credentials: Sequence[RpcCredential]) -> None:
        self._cookie = cookie.text.encode()
        self._credentials = credentials

    def accepts(self, header: str) -> bool:
        """Return whether ``header`` (the value of Authorization) names a known user and password."""
        scheme, _, encoded = header.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            pair = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        user, separator, password = pair.partition(b":")
        if not separator:
            return False
        accepted = hmac.compare_digest(pair, self._cookie)
        for credential in self._credentials:
            digest = hmac.new(credential.salt.encode(), password, sha256).hexdigest()
            same_user = hmac.compare_digest(user, credential.user.encode())
            accepted |= same_user & hmac.compare_digest(digest, credential.digest)
        return accepted
