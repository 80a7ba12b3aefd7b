"""RPC methods on the optional indexes; those by address have the names and shapes of Bitcore's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

from consensus.transaction import hash_hex
from node.limits import RPC_ADDRESS_ROWS, RPC_ADDRESS_SCAN, RPC_MAX_ADDRESSES
from node.rpc.backend import Backend
from node.rpc.encoding import Encoded, encode
from node.rpc.energy import account_script
from node.rpc.errors import INVALID_PARAMETER, RpcError
from node.rpc.registry import ArgType, Text, hex_bytes, invalid, json_type_of, method, wrong_type
from storage.address_view import END, AddressView
from storage.indexes import Entry, height_order, script_hash

SECTION = "Address index"

MAX_HEIGHT = (1 << 31) - 1

Shape = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """What a client asks for: ``names`` as it gave them, heights ``start`` to ``end`` inclusive.

    ``limit`` None: all rows, or an error if they are too many; ``after`` continues an earlier answer.
    """

    names: tuple[str, ...]
    start: int = 0
    end: int = MAX_HEIGHT
    chain_info: bool = False
    limit: int | None = None
    after: bytes = b""


def _read_query(name: str, value: Any) -> Query:
    """Read an address, a list of them, or an object with "addresses" and options."""
    if isinstance(value, str | list):
        value = {"addresses": value}
    if not isinstance(value, dict):
        raise wrong_type(name, value, "object")
    options = dict(value)
    names = _names(name, options.pop("addresses", None))
    start, end = (_number(options.pop(key, None), key, MAX_HEIGHT) or 0 for key in ("start", "end"))
    if end and end < start:
        raise invalid("end", "must not be below start")
    chain_info = options.pop("chainInfo", None) or False
    if not isinstance(chain_info, bool):
        raise wrong_type("chainInfo", chain_info, "bool")
    limit = _number(options.pop("limit", None), "limit", RPC_ADDRESS_ROWS)
    if limit == 0:
        raise invalid("limit", "must be at least 1")
    after = hex_bytes("after", options.pop("after", None) or "")
    for key in options:
        raise RpcError(INVALID_PARAMETER, f"Unknown option {str(key)[:80]}")
    return Query(names, start, end or MAX_HEIGHT, chain_info, limit, after)


def _names(name: str, value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise wrong_type(f"{name}.addresses", value, "array")
    names = list(dict.fromkeys(names))
    if not 1 <= len(names) <= RPC_MAX_ADDRESSES:
        raise invalid("addresses", f"must be 1 to {RPC_MAX_ADDRESSES} (got {len(names)})")
    return tuple(names)


def _number(value: Any, key: str, highest: int) -> int | None:
    if value is None:
        return None
    if json_type_of(value) != "number" or not isinstance(value, int):
        raise wrong_type(key, value, "number")
    if not 0 <= value <= highest:
        raise invalid(key, f"must be from 0 to {highest}")
    return value


AddressQuery = Annotated[Query, ArgType("object or string", _read_query)]


@dataclass(frozen=True, slots=True)
class _Page:
    """Rows as a client sees them, encoded, and the order of the last one if there are more."""

    rows: Encoded
    last: bytes | None
    info: Shape


class _Scripts:
    """The scripts of a query, each once: two texts may stand for the same one."""

    def __init__(self, node: Backend, query: Query) -> None:
        by_script: dict[bytes, str] = {}
        for name in query.names:
            by_script.setdefault(account_script(node, "addresses", name), name)
        self.names = list(by_script.values())
        self.scripts = list(by_script)
        self.hashes = [script_hash(script) for script in by_script]


def _info(view: AddressView) -> Shape:
    """The block that an answer is for, and where its history begins if that is not genesis."""
    place = view.place
    info: Shape = {"height": place.height, "hash": hash_hex(place.block_hash)}
    return {**info, "history_from": place.history_from} if place.history_from else info


def _page(query: Query, rows: Iterator[tuple[bytes, Any]], info: Shape) -> _Page:
    """Take what the query allows of (order, row)."""
    limit = query.limit or RPC_ADDRESS_ROWS
    taken = list(islice(rows, limit + 1))
    more = len(taken) > limit
    if more and query.limit is None:
        raise RpcError(
            INVALID_PARAMETER,
            f"More than {limit} rows. Give start and end, or a limit with chainInfo and go on after its next",
        )
    del taken[limit:]
    # Ten thousand rows take 0.1 s to encode: here they do not keep the event loop.
    encoded = Encoded(encode([row for _, row in taken]))
    return _Page(encoded, taken[-1][0] if more else None, info)


def _answer(query: Query, page: _Page, key: str, extra: Mapping[str, Any] | None = None) -> Any:
    """Return the bare rows, or with ``chainInfo`` an object that says which block they are for."""
    if not query.chain_info:
        return page.rows
    following = {} if page.last is None else {"next": page.last.hex()}
    return {key: page.rows, **(extra or {}), **page.info, **following}


def _range(query: Query) -> tuple[bytes, bytes]:
    start = max(height_order(query.start), query.after + b"\x00" if query.after else b"")
    return start, END if query.end == MAX_HEIGHT else height_order(query.end + 1)


@method("getindexinfo", "Util")
def get_index_info(node: Backend, index_name: Text = "") -> Shape:
    """Return the indexes that are turned on, or the one called ``index_name``, and how far they are."""
    return {
        name: {"synced": index.synced, "best_block_height": index.best_height}
        for name, index in node.indexes.info().items()
        if index_name in ("", name)
    }


@method("getaddressbalance", SECTION)
async def get_address_balance(node: Backend, addresses: AddressQuery) -> Shape:
    """Return the sum of the unspent outputs of addresses, and of all they ever received, in base units.

    Only "addresses" counts among the options. ``received`` includes change; after pruning it begins
    at ``history_from``. ``height`` and ``hash`` tell the block.
    """
    scripts = _Scripts(node, addresses)

    def read(view: AddressView) -> Shape:
        with view.unspent(scripts.hashes) as rows:
            balance = sum(row.amount for _, row in _bounded(rows))
        with view.history(scripts.hashes) as entries:
            received = sum(max(0, entry.amount) for _, entry in _bounded(entries))
        return {"balance": balance, "received": received, **_info(view)}

    return await node.indexes.read_addresses(read)


def _bounded(rows: Iterator[Any]) -> Iterator[Any]:
    for number, row in enumerate(rows):
        if number >= RPC_ADDRESS_SCAN:
            raise RpcError(INVALID_PARAMETER, f"More than {RPC_ADDRESS_SCAN} rows: ask for fewer at a time")
        yield row


@method("getaddressutxos", SECTION)
async def get_address_utxos(node: Backend, addresses: AddressQuery) -> Any:
    """Return the confirmed unspent outputs of addresses, by height.

    Options as for getaddressdeltas. A coinbase's output may still have to mature.
    """
    scripts = _Scripts(node, addresses)

    def read(view: AddressView) -> _Page:
        with view.unspent(scripts.hashes, *_range(addresses)) as rows:
            shaped = (
                (
                    row.order,
                    {
                        "address": scripts.names[number],
                        "txid": hash_hex(row.prevout[:32]),
                        "outputIndex": int.from_bytes(row.prevout[32:], "little"),
                        "script": scripts.scripts[number].hex(),
                        "satoshis": row.amount,
                        "height": row.height,
                        "coinbase": row.is_coinbase,
                    },
                )
                for number, row in rows
            )
            return _page(addresses, shaped, _info(view))

    return _answer(addresses, await node.indexes.read_addresses(read), "utxos")


@method("getaddresstxids", SECTION)
async def get_address_txids(node: Backend, addresses: AddressQuery) -> Any:
    """Return the ids of the confirmed transactions that pay to addresses or spend from them, in chain order.

    Options as for getaddressdeltas; each transaction comes once.
    """
    scripts = _Scripts(node, addresses)

    def read(view: AddressView) -> _Page:
        with view.history(scripts.hashes, *_range(addresses)) as rows:
            return _page(addresses, _once(entry for _, entry in _bounded(rows)), _info(view))

    return _answer(addresses, await node.indexes.read_addresses(read), "txids")


def _once(entries: Iterator[Entry]) -> Iterator[tuple[bytes, str]]:
    """Yield each transaction at its first entry, with an order behind all of its entries."""
    seen = None
    for entry in entries:
        if entry.txid != seen:
            seen = entry.txid
            yield entry.order[:8] + b"\xff", hash_hex(seen)


@method("getaddressdeltas", SECTION)
async def get_address_deltas(node: Backend, addresses: AddressQuery) -> Any:
    """Return every output and input of addresses in chain order, inputs with negative ``satoshis``.

    ``addresses``: an address, a list, or an object: "addresses" (addresses, or scripts in hex), "start"
    and "end" heights (inclusive; 0: none), "chainInfo" (true: an object with "height" and "hash" of the
    block that the answer is for), "limit" rows, and "after" the "next" of an earlier answer.
    """
    scripts = _Scripts(node, addresses)

    def read(view: AddressView) -> _Page:
        with view.history(scripts.hashes, *_range(addresses)) as rows:
            shaped = (
                (
                    entry.order,
                    {
                        "satoshis": entry.amount,
                        "txid": hash_hex(entry.txid),
                        "index": entry.number,
                        "blockindex": entry.place,
                        "height": entry.height,
                        "address": scripts.names[number],
                    },
                )
                for number, entry in rows
            )
            return _page(addresses, shaped, _info(view))

    page = await node.indexes.read_addresses(read)
    return _answer(addresses, page, "deltas", _ends(node, addresses))


def _ends(node: Backend, query: Query) -> Shape:
    """Return the first and last block of the range that was asked for, as Bitcore shows them."""
    ends: Shape = {}
    for key, height in (("start", query.start), ("end", query.end)):
        block_hash = node.block_hash(height) if 0 < height < MAX_HEIGHT else None
        if block_hash is not None:
            ends[key] = {"height": height, "hash": hash_hex(block_hash)}
    return ends
