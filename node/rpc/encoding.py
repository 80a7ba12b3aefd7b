"""JSON in and out. Amounts never pass through a float: they are written and read as decimals."""

import json
import json.encoder
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from consensus.params import COIN

_quote: Callable[[str], str] = json.encoder.encode_basestring_ascii


class Amount(str):
    """The text of a JSON number with eight decimals; the encoder writes it without quotes."""

    __slots__ = ()


class Encoded(str):
    """A value that is JSON text already, such as a long one that a thread encoded."""

    __slots__ = ()


def coins(value: int) -> Amount:
    """Return base units as tokens with eight decimals, like Bitcoin Core's ValueFromAmount."""
    whole, part = divmod(abs(value), COIN)
    return Amount(f"{'-' if value < 0 else ''}{whole}.{part:08d}")


def _text(value: str) -> str:
    return str(value) if type(value) in (Amount, Encoded) else _quote(value)


def _default(value: object) -> Amount:
    """Clients may pass decimals as arguments; anything else that JSON lacks is a bug."""
    if isinstance(value, Decimal) and value.is_finite():
        return Amount(format(value, "f"))
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _make_encoder() -> Callable[[Any], str]:
    """Build the encoder around the standard library's C routine, which lets the caller supply the
    function for strings; an interpreter without it takes ``encode_slowly``."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encode_slowly
    run = make(None, _default, _text, None, ":", ",", False, False, False)
    return lambda value: _quote(value) if type(value) is str else "".join(run(value, 0))


def encode_slowly(value: Any) -> str:
    """Encode as ``encode`` does, in pure Python."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return "{" + ",".join([f"{_quote(key)}:{encode_slowly(item)}" for key, item in value.items()]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([encode_slowly(item) for item in value]) + "]"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value, allow_nan=False)
    return _default(value)


encode: Callable[[Any], str] = _make_encoder()
"""Encode a value of dicts with string keys, lists, strings, Amounts, numbers, booleans and None."""


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def decode(data: bytes | str) -> Any:
    """Parse JSON with decimals for fractions. Raises ValueError for anything else."""
    try:
        return json.loads(data, parse_float=Decimal, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def encode_pretty(value: Any, indent: str = "") -> str:
    """Encode for people, two spaces per level; takes decoded JSON too, whose fractions are decimals."""
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{deeper}{_quote(key)}: {encode_pretty(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join([deeper + encode_pretty(item, deeper) for item in value]) + f"\n{indent}]"
    return encode(value)
