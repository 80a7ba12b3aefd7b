"""RPC methods on the mempool."""

import asyncio
from collections.abc import Iterable
from typing import Any

from consensus.errors import StorageError
from consensus.transaction import hash_hex
from node.fees import MAX_TARGET
from node.limits import RPC_YIELD_EVERY
from node.rpc.backend import Backend, MempoolEntry
from node.rpc.encoding import coins
from node.rpc.errors import INVALID_ADDRESS_OR_KEY, INVALID_PARAMETER, MISC_ERROR, RpcError
from node.rpc.registry import Boolean, Hash32, Integer, Text, method

SECTION = "Mempool"

ESTIMATE_MODES = ("unset", "economical", "conservative")


def entry_shape(node: Backend, entry: MempoolEntry) -> dict[str, Any]:
    """Return an entry as ``getmempoolentry`` shows it."""
    mempool, tx = node.mempool, entry.tx
    txid = tx.txid
    return {
        "vsize": tx.vsize,
        "weight": tx.weight,
        "time": entry.added_s,
        "height": node.tip().height if entry.height < 0 else entry.height,
        "descendantcount": entry.descendant_count,
        "descendantsize": entry.descendant_vsize,
        "ancestorcount": entry.ancestor_count,
        "ancestorsize": entry.ancestor_vsize,
        "wtxid": hash_hex(tx.wtxid),
        "fees": {
            "base": coins(entry.fee),
            "modified": coins(entry.modified_fee),
            "ancestor": coins(entry.ancestor_fees),
            "descendant": coins(entry.descendant_fees),
        },
        "depends": [hash_hex(parent) for parent in entry.parents if mempool.get(parent) is not None],
        "spentby": [hash_hex(child) for child in mempool.children(txid)],
        "bip125-replaceable": mempool.full_rbf or mempool.replaceable(txid),
        "unbroadcast": False,
    }


def _find(node: Backend, txid: bytes) -> MempoolEntry:
    entry = node.mempool.get(txid)
    if entry is None:
        raise RpcError(INVALID_ADDRESS_OR_KEY, "Transaction not in mempool")
    return entry


async def _shapes(node: Backend, entries: Iterable[MempoolEntry]) -> dict[str, Any]:
    """Return the shapes by id; others on the loop have their turn meanwhile."""
    shapes = {}
    for index, entry in enumerate(entries):
        if node.mempool.get(entry.tx.txid) is entry:
            shapes[hash_hex(entry.tx.txid)] = entry_shape(node, entry)
        if index % RPC_YIELD_EVERY == RPC_YIELD_EVERY - 1:
            await asyncio.sleep(0)
    return shapes


@method("getrawmempool", SECTION)
async def get_raw_mempool(node: Backend, verbose: Boolean = False) -> list[str] | dict[str, Any]:
    """Return the ids of pending transactions; with ``verbose``, an object of id to entry."""
    entries = list(node.mempool.entries())
    if not verbose:
        return [hash_hex(entry.tx.txid) for entry in entries]
    return await _shapes(node, entries)


@method("getmempoolinfo", SECTION)
def get_mempool_info(node: Backend) -> dict[str, Any]:
    """Return size, fees and limits of the mempool; fee rates are tokens per 1000 virtual bytes."""
    mempool = node.mempool
    return {
        "loaded": node.mempool_loaded(),
        "size": mempool.count,
        "bytes": mempool.vsize_total,
        "usage": mempool.bytes_used,
        "total_fee": coins(mempool.fee_total),
        "maxmempool": mempool.max_bytes,
        "mempoolminfee": coins(mempool.min_fee(node.now_s())),
        "minrelaytxfee": coins(mempool.min_fee_per_kvb),
        "incrementalrelayfee": coins(mempool.incremental_per_kvb),
        "unbroadcastcount": 0,
        "fullrbf": mempool.full_rbf,
    }


@method("getmempoolentry", SECTION)
def get_mempool_entry(node: Backend, txid: Hash32) -> dict[str, Any]:
    """Return one pending transaction: sizes, fees, ancestors, descendants."""
    return entry_shape(node, _find(node, txid))


@method("getmempoolancestors", SECTION)
async def get_mempool_ancestors(
    node: Backend, txid: Hash32, verbose: Boolean = False
) -> list[str] | dict[str, Any]:
    """Return the unconfirmed ancestors of a pending transaction: ids, or with ``verbose`` entries by id."""
    _find(node, txid)
    entries = node.mempool.ancestors(txid)
    return await _shapes(node, entries) if verbose else [hash_hex(each.tx.txid) for each in entries]


@method("getmempooldescendants", SECTION)
async def get_mempool_descendants(
    node: Backend, txid: Hash32, verbose: Boolean = False
) -> list[str] | dict[str, Any]:
    """Return all pending transactions that depend on one: ids, or with ``verbose`` entries by id."""
    _find(node, txid)
    entries = node.mempool.descendants(txid)
    return await _shapes(node, entries) if verbose else [hash_hex(each.tx.txid) for each in entries]


@method("prioritisetransaction", SECTION)
def prioritise_transaction(node: Backend, txid: Hash32, dummy: Integer = 0, fee_delta: Integer = 0) -> bool:
    """Let blocks of this node order a transaction as if it paid ``fee_delta`` base units more.

    It need not be pending yet. ``dummy`` must be 0, as in Bitcoin Core.
    """
    if dummy:
        raise RpcError(INVALID_PARAMETER, "Priority is no longer supported, dummy argument must be 0.")
    if abs(fee_delta) > node.params.ledger.max_money:
        raise RpcError(INVALID_PARAMETER, "fee_delta is more money than there is")
    node.mempool.prioritise(txid, fee_delta)
    return True


@method("savemempool", SECTION)
async def save_mempool(node: Backend) -> dict[str, Any]:
    """Write the mempool to its file now; return the path."""
    if not node.mempool_loaded():
        raise RpcError(MISC_ERROR, "The mempool was not loaded yet")
    try:
        return {"filename": await node.save_mempool()}
    except StorageError as fault:
        raise RpcError(MISC_ERROR, f"Unable to dump mempool to disk: {fault}") from None


@method("estimatesmartfee", "Util")
def estimate_smart_fee(
    node: Backend, conf_target: Integer, estimate_mode: Text = "economical"
) -> dict[str, Any]:
    """Return the fee rate, in tokens per 1000 virtual bytes, to confirm within ``conf_target`` blocks.

    ``blocks`` is the target that the answer is for. ``estimate_mode`` "conservative" also asks what was
    paid longer ago, "economical" or "unset" follows the last blocks.
    """
    if not 1 <= conf_target <= MAX_TARGET:
        raise RpcError(INVALID_PARAMETER, f"Invalid conf_target, must be between 1 and {MAX_TARGET}")
    mode = estimate_mode.lower()
    if mode not in ESTIMATE_MODES:
        names = ", ".join(f'"{name}"' for name in ESTIMATE_MODES)
        raise RpcError(INVALID_PARAMETER, f"Invalid estimate_mode parameter, must be one of: {names}")
    rate, blocks = node.estimate_fee(conf_target, conservative=mode == "conservative")
    if rate is None:
        return {"errors": ["Insufficient data or no feerate found"], "blocks": blocks}
    return {"feerate": coins(rate), "blocks": blocks}
