"""Base58 and Base58Check, the text form of legacy addresses and private keys."""

from cext import sha256d
from consensus.errors import DecodeError
from consensus.limits import MAX_BASE58_CHARS

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {char: value for value, char in enumerate(ALPHABET)}
_CHECKSUM = 4


def encode(data: bytes) -> str:
    """Return ``data`` in Base58; each leading zero byte becomes a ``1``."""
    number = int.from_bytes(data, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\x00"))
    return "1" * zeros + "".join(reversed(digits))


def decode(text: str) -> bytes:
    """Return the bytes of a Base58 string. Raises DecodeError ``bad-base58``."""
    if len(text) > MAX_BASE58_CHARS:
        raise DecodeError("bad-base58", f"longer than {MAX_BASE58_CHARS} characters")
    number = 0
    for char in text:
        digit = _DIGITS.get(char)
        if digit is None:
            raise DecodeError("bad-base58", "a character outside the alphabet")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def encode_check(payload: bytes) -> str:
    """Return ``payload`` with its checksum in Base58."""
    return encode(payload + sha256d(payload)[:_CHECKSUM])


def decode_check(text: str) -> bytes:
    """Return the payload of a Base58Check string. Raises DecodeError ``bad-base58`` or ``bad-checksum``."""
    data = decode(text)
    payload, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
    if len(data) < _CHECKSUM or sha256d(payload)[:_CHECKSUM] != checksum:
        raise DecodeError("bad-checksum", "the Base58Check checksum is wrong")
    return payload
