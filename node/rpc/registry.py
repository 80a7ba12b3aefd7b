"""The table of RPC methods: arguments, types and help come from each handler's signature.

A handler is a function ``(node, argument, ...)`` whose argument types are the aliases below; it
returns what ``node.rpc.encoding`` can encode, or a coroutine of it.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import zip_longest
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from consensus.errors import DecodeError
from consensus.params import COIN
from consensus.transaction import hash_from_hex
from node.rpc.backend import Backend
from node.rpc.errors import INVALID_PARAMETER, METHOD_NOT_FOUND, MISC_ERROR, TYPE_ERROR, RpcError

Reader = Callable[[str, Any], Any]
"""Turns the JSON value of a named argument into a typed one, or raises RpcError."""


@dataclass(frozen=True, slots=True)
class ArgType:
    """``json_type`` is what clients and the command line see; ``read`` checks and converts."""

    json_type: str
    read: Reader


def json_type_of(value: Any) -> str:
    """Return the JSON type of a decoded value, as Bitcoin Core names it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | Decimal):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def wrong_type(name: str, value: Any, expected: str) -> RpcError:
    """Return the error for an argument of the wrong JSON type."""
    return RpcError(
        TYPE_ERROR,
        f'Wrong type passed: "{name}": JSON value of type {json_type_of(value)} '
        f"is not of expected type {expected}",
    )


def invalid(name: str, what: str) -> RpcError:
    """Return the error for an argument whose value cannot be used."""
    return RpcError(INVALID_PARAMETER, f"{name} {what}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong_type(name, value, "string")
    return value


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(name, value, "bool")
    return value


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise wrong_type(name, value, "number")
    if isinstance(value, Decimal) or not -(1 << 63) <= value < 1 << 63:
        raise invalid(name, "must be a 64-bit integer")
    return value


def _natural(name: str, value: Any) -> int:
    number = _integer(name, value)
    if number < 0:
        raise invalid(name, f"must not be negative (got {number})")
    return number


def _verbosity(name: str, value: Any) -> int:
    """Accept a boolean as 0 or 1, as Bitcoin Core does for its older clients."""
    return int(value) if isinstance(value, bool) else _natural(name, value)


def _hash32(name: str, value: Any) -> bytes:
    text = _text(name, value)
    if len(text) != 64:
        raise invalid(name, f"must be of length 64 (not {len(text)}, for '{_clip(text)}')")
    try:
        return hash_from_hex(text)
    except DecodeError:
        raise invalid(name, f"must be hexadecimal string (not '{_clip(text)}')") from None


def hex_bytes(name: str, value: Any) -> bytes:
    """Read a hexadecimal string of any length."""
    text = _text(name, value)
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if 2 * len(data) != len(text):
        raise invalid(name, f"must be hexadecimal string (not '{_clip(text)}')")
    return data


def _key32(name: str, value: Any) -> bytes:
    data = hex_bytes(name, value)
    if len(data) != 32:
        raise invalid(name, f"must be of length 64 (not {2 * len(data)})")
    return data


def _fee_rate(name: str, value: Any) -> int:
    """Read tokens per kvB, as number or string, into base units."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise wrong_type(name, value, "number")
    try:
        units = Decimal(value) * COIN
        exact = units == units.to_integral_value()
    except ArithmeticError:
        raise RpcError(TYPE_ERROR, f"Invalid amount: {name}") from None
    if not exact or not 0 <= units < 1 << 63:
        raise RpcError(TYPE_ERROR, f"Amount out of range or finer than 8 decimals: {name}")
    return int(units)


def _texts(name: str, value: Any) -> list[str]:
    if not isinstance(value, list):
        raise wrong_type(name, value, "array")
    return [_text(f"{name}[{index}]", item) for index, item in enumerate(value)]


def _clip(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


Text = Annotated[str, ArgType("string", _text)]
Boolean = Annotated[bool, ArgType("boolean", _boolean)]
Integer = Annotated[int, ArgType("numeric", _integer)]
Natural = Annotated[int, ArgType("numeric", _natural)]
Verbosity = Annotated[int, ArgType("numeric", _verbosity)]
Hash32 = Annotated[bytes, ArgType("string", _hash32)]
"""A hash as it is displayed, read into internal order."""
Key32 = Annotated[bytes, ArgType("string", _key32)]
"""32 bytes in their own order: a public key, an order id."""
HexBytes = Annotated[bytes, ArgType("string", hex_bytes)]
CoinAmount = Annotated[int, ArgType("numeric", _fee_rate)]
"""Tokens with at most eight decimals, read into base units."""
Texts = Annotated[list[str], ArgType("array", _texts)]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a method. ``default`` counts only where it is not ``required``."""

    name: str
    type: ArgType
    required: bool
    default: Any


@dataclass(frozen=True, slots=True)
class Method:
    """A method. Calls of one in a batch that has ``together`` are answered by it, all at once."""

    name: str
    section: str
    handler: Callable[..., Any]
    arguments: tuple[Argument, ...]
    help: str
    together: "Together | None" = None

    @property
    def usage(self) -> str:
        """The method with its arguments on one line, as Bitcoin Core's help prints it."""
        parts = [self.name]
        for argument in self.arguments:
            name = f'"{argument.name}"' if argument.type.json_type == "string" else argument.name
            parts.append(name if argument.required else f"( {name} )")
        return " ".join(parts)

    def bind(self, params: list[Any] | dict[str, Any]) -> list[Any]:
        """Return the typed argument values. Raises RpcError naming the argument."""
        if isinstance(params, list):
            if len(params) > len(self.arguments):
                raise self._too_many(params)
            return [
                self._value(argument, value)
                for argument, value in zip_longest(self.arguments, params, fillvalue=None)
                if argument is not None
            ]
        given = self._by_name(params)
        known = [argument.name for argument in self.arguments]
        for name in given:
            if name not in known:
                raise RpcError(INVALID_PARAMETER, f"Unknown named parameter {_clip(name)}")
        return [self._value(argument, given.get(argument.name)) for argument in self.arguments]

    def _value(self, argument: Argument, value: Any) -> Any:
        if value is not None:
            return argument.type.read(argument.name, value)
        if argument.required:
            raise RpcError(MISC_ERROR, f"{argument.name} is missing; usage: {self.usage}")
        return argument.default

    def _too_many(self, params: list[Any]) -> RpcError:
        return RpcError(MISC_ERROR, f"{len(params)} arguments are too many; usage: {self.usage}")

    def _by_name(self, params: dict[str, Any]) -> dict[str, Any]:
        """Named parameters, also mixed with positional ones through Bitcoin Core's ``args`` key."""
        named = dict(params)
        positional = named.pop("args", [])
        if not isinstance(positional, list):
            raise wrong_type("args", positional, "array")
        if len(positional) > len(self.arguments):
            raise self._too_many(positional)
        for argument, value in zip(self.arguments, positional, strict=False):
            if argument.name in named:
                raise RpcError(
                    INVALID_PARAMETER,
                    f"Parameter {argument.name} specified twice both as positional and named argument",
                )
            named[argument.name] = value
        return named

    async def call(self, node: Backend, params: list[Any] | dict[str, Any]) -> Any:
        """Run the method. Raises PeerFault for what the client did wrong."""
        result = self.handler(node, *self.bind(params))
        return await result if isinstance(result, Awaitable) else result


METHODS: dict[str, Method] = {}
"""All methods by name; filled by importing ``node.rpc.methods``."""

Handler = TypeVar("Handler", bound=Callable[..., Any])


Together = Callable[[Backend, Sequence[Any]], Awaitable[Sequence[Any]]]
"""Takes the argument values of several calls; returns the answers in order, a PeerFault for a refusal."""


def method(name: str, section: str, *, together: Together | None = None) -> Callable[[Handler], Handler]:
    """Register the decorated handler as RPC ``name``; its docstring becomes the help."""

    def register(handler: Handler) -> Handler:
        if name in METHODS:
            raise ValueError(f"RPC method {name} is registered twice")
        text = inspect.cleandoc(handler.__doc__ or "")
        METHODS[name] = Method(name, section, handler, _arguments(handler), text, together)
        return handler

    return register


def find_method(name: str) -> Method:
    """Return the method called ``name``. Raises RpcError."""
    found = METHODS.get(name)
    if found is None:
        raise RpcError(METHOD_NOT_FOUND, "Method not found")
    return found


def _arguments(handler: Callable[..., Any]) -> tuple[Argument, ...]:
    hints = get_type_hints(handler, include_extras=True)
    found = []
    for parameter in list(inspect.signature(handler).parameters.values())[1:]:
        required = parameter.default is inspect.Parameter.empty
        kind = _arg_type(hints[parameter.name])
        found.append(Argument(parameter.name, kind, required, None if required else parameter.default))
    return tuple(found)


def _arg_type(hint: Any) -> ArgType:
    if get_origin(hint) in (Union, UnionType):
        [hint] = [each for each in get_args(hint) if each is not NoneType]
    for extra in get_args(hint)[1:]:
        if isinstance(extra, ArgType):
            return extra
    raise TypeError(f"{hint} is not an RPC argument type")
