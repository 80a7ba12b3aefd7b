"""Bech32 and bech32m, the text form of witness programs (BIP173, BIP350)."""

from collections.abc import Iterable

from consensus.errors import DecodeError
from consensus.limits import MAX_BECH32_CHARS

ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_DIGITS = {char: value for value, char in enumerate(ALPHABET)}
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM = 6

BECH32 = 1
BECH32M = 0x2BC830A3
"""What the checksum polynomial must leave, which is what tells the two encodings apart."""


def _polymod(values: Iterable[int]) -> int:
    remainder = 1
    for value in values:
        top = remainder >> 25
        remainder = (remainder & 0x1FF_FFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                remainder ^= generator
    return remainder


def _expand(hrp: str) -> list[int]:
    return [ord(char) >> 5 for char in hrp] + [0] + [ord(char) & 31 for char in hrp]


def encode(hrp: str, data: list[int], constant: int) -> str:
    """Return the string of a human-readable part and 5-bit ``data``; ``constant`` is BECH32 or BECH32M."""
    check = _polymod([*_expand(hrp), *data, *[0] * _CHECKSUM]) ^ constant
    checksum = [check >> 5 * (_CHECKSUM - 1 - at) & 31 for at in range(_CHECKSUM)]
    return hrp + "1" + "".join([ALPHABET[value] for value in data + checksum])


def decode(text: str) -> tuple[str, list[int], int]:
    """Return (human-readable part, 5-bit data, BECH32 or BECH32M). Raises DecodeError ``bad-bech32``."""
    if len(text) > MAX_BECH32_CHARS or not all(33 <= ord(char) <= 126 for char in text):
        raise DecodeError("bad-bech32", "too long, or a character that is not printable ASCII")
    if text != text.lower() and text != text.upper():
        raise DecodeError("bad-bech32", "upper and lower case mixed")
    hrp, separator, tail = text.lower().rpartition("1")
    if not separator or not hrp or len(tail) < _CHECKSUM:
        raise DecodeError("bad-bech32", "no separator, or nothing before or behind it")
    values = [_DIGITS.get(char, -1) for char in tail]
    if -1 in values:
        raise DecodeError("bad-bech32", "a character outside the alphabet")
    constant = _polymod([*_expand(hrp), *values])
    if constant not in (BECH32, BECH32M):
        raise DecodeError("bad-bech32", "the checksum is wrong")
    return hrp, values[:-_CHECKSUM], constant


def _regroup(values: Iterable[int], from_bits: int, to_bits: int) -> tuple[list[int], int, int]:
    """Cut a stream of ``from_bits`` groups into ``to_bits`` groups; return them, the rest and its bits."""
    groups = []
    rest = bits = 0
    for value in values:
        rest = rest << from_bits | value
        bits += from_bits
        while bits >= to_bits:
            bits -= to_bits
            groups.append(rest >> bits)
            rest &= (1 << bits) - 1
    return groups, rest, bits


def encode_witness(hrp: str, version: int, program: bytes) -> str:
    """Return the address of a witness program: bech32 for version 0, bech32m above (BIP350)."""
    groups, rest, bits = _regroup(program, 8, 5)
    if bits:
        groups.append(rest << 5 - bits)
    return encode(hrp, [version, *groups], BECH32M if version else BECH32)


def decode_witness(hrp: str, text: str) -> tuple[int, bytes]:
    """Return (version, program) of an address with this human-readable part.

    Raises DecodeError ``bad-bech32``. The length of the program is judged by the caller.
    """
    found, values, constant = decode(text)
    if found != hrp:
        raise DecodeError("bad-bech32", f"an address of another network ({found})")
    if not values or values[0] > 16:
        raise DecodeError("bad-bech32", "no witness version up to 16")
    version = values[0]
    if constant != (BECH32M if version else BECH32):
        raise DecodeError("bad-bech32", "bech32 and bech32m confused")
    program, rest, bits = _regroup(values[1:], 5, 8)
    if bits >= 5 or rest:
        raise DecodeError("bad-bech32", "the padding is wrong")
    return version, bytes(program)
