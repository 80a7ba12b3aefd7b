"""Checks of the fields of a payload; every refusal is ``bad-op-field`` and names the field."""

from typing import Any

from consensus.errors import RuleError
from contracts.limits import MAX_ACCOUNT_BYTES, MAX_COMMUNITY_CHARS


def bad_field(name: str, reason: str) -> RuleError:
    """Return the refusal of field ``name``."""
    return RuleError("bad-op-field", f"{name}: {reason}")


def uint(name: str, value: Any, low: int, high: int) -> int:
    """Return ``value`` if it is an integer of [low, high]."""
    if type(value) is not int or not low <= value <= high:
        raise bad_field(name, f"an integer from {low} to {high} wanted")
    return value


def fixed(name: str, value: Any, size: int) -> bytes:
    """Return ``value`` if it is ``size`` bytes."""
    if type(value) is not bytes or len(value) != size:
        raise bad_field(name, f"{size} bytes wanted")
    return value


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``."""
    if type(value) is not str or value not in choices:
        raise bad_field(name, "one of " + ", ".join(choices) + " wanted")
    return value


def community(name: str, value: Any) -> str:
    """Return ``value`` if it can be the id of a community."""
    if type(value) is not str or not is_community_id(value):
        raise bad_field(name, "no community id")
    return value


def is_community_id(value: str) -> bool:
    """Whether ``value`` is 1 to 64 printable ASCII characters without space and "/"."""
    return 0 < len(value) <= MAX_COMMUNITY_CHARS and all("!" <= c <= "~" and c != "/" for c in value)


def account(name: str, value: Any) -> bytes:
    """Return ``value`` if it is a scriptPubKey of a kind that can act: see ``auth.account_kind``."""
    if type(value) is not bytes or not 22 <= len(value) <= MAX_ACCOUNT_BYTES or account_kind(value) is None:
        raise bad_field(name, "a P2PKH, P2SH, P2WPKH, P2WSH or P2TR script wanted")
    return value


def script(name: str, value: Any) -> bytes:
    """Return ``value`` if it could be the script of an organisation of the chain file."""
    if type(value) is not bytes or not 0 < len(value) <= 255:
        raise bad_field(name, "a script of 1 to 255 bytes wanted")
    return value


def account_kind(script_pubkey: bytes) -> str | None:
    """Return "p2pkh", "p2sh", "p2wpkh", "p2wsh" or "p2tr", None for any other script."""
    size = len(script_pubkey)
    if size == 22 and script_pubkey[:2] == b"\x00\x14":
        return "p2wpkh"
    if size == 23 and script_pubkey[:2] == b"\xa9\x14" and script_pubkey[22] == 0x87:
        return "p2sh"
    if size == 25 and script_pubkey[:3] == b"\x76\xa9\x14" and script_pubkey[23:] == b"\x88\xac":
        return "p2pkh"
    if size == 34 and script_pubkey[:2] == b"\x00\x20":
        return "p2wsh"
    if size == 34 and script_pubkey[:2] == b"\x51\x20":
        return "p2tr"
    return None
