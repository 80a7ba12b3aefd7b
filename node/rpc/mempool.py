"""RPC methods on the mempool."""

import asyncio
from typing import Any

from consensus.transaction import hash_hex
from node.limits import RPC_YIELD_EVERY
from node.rpc.backend import Backend, MempoolEntry, MempoolView
from node.rpc.encoding import coins
from node.rpc.errors import INVALID_ADDRESS_OR_KEY, RpcError
from node.rpc.registry import Boolean, Hash32, method

SECTION = "Mempool"


def _children(mempool: MempoolView, entry: MempoolEntry) -> list[bytes]:
    """Return the txids that spend an output of ``entry``, each once."""
    txid = entry.tx.txid
    found: dict[bytes, None] = {}
    for index in range(entry.tx.output_count):
        child = mempool.spender(txid + index.to_bytes(4, "little"))
        if child is not None:
            found[child] = None
    return list(found)


def _family(mempool: MempoolView, entry: MempoolEntry, *, upwards: bool) -> list[MempoolEntry]:
    """Return ``entry`` with all its unconfirmed ancestors, or descendants."""
    found = {entry.tx.txid: entry}
    queue = [entry]
    while queue:
        current = queue.pop()
        for txid in current.parents if upwards else _children(mempool, current):
            relative = mempool.get(txid)
            if relative is not None and txid not in found:
                found[txid] = relative
                queue.append(relative)
    return list(found.values())


def entry_shape(node: Backend, entry: MempoolEntry) -> dict[str, Any]:
    """Return an entry as ``getmempoolentry`` shows it."""
    mempool, tx = node.mempool, entry.tx
    ancestors = _family(mempool, entry, upwards=True)
    descendants = _family(mempool, entry, upwards=False)
    return {
        "vsize": tx.vsize,
        "weight": tx.weight,
        "time": entry.added_s,
        "height": node.tip().height,
        "descendantcount": len(descendants),
        "descendantsize": sum(each.tx.vsize for each in descendants),
        "ancestorcount": len(ancestors),
        "ancestorsize": sum(each.tx.vsize for each in ancestors),
        "wtxid": hash_hex(tx.wtxid),
        "fees": {
            "base": coins(entry.fee),
            "modified": coins(entry.fee),
            "ancestor": coins(sum(each.fee for each in ancestors)),
            "descendant": coins(sum(each.fee for each in descendants)),
        },
        "depends": [hash_hex(txid) for txid in entry.parents if mempool.get(txid) is not None],
        "spentby": [hash_hex(txid) for txid in _children(mempool, entry)],
        "bip125-replaceable": False,
        "unbroadcast": False,
    }


@method("getrawmempool", SECTION)
async def get_raw_mempool(node: Backend, verbose: Boolean = False) -> list[str] | dict[str, Any]:
    """Return the ids of pending transactions; with ``verbose``, an object of id to entry."""
    entries = list(node.mempool.entries())
    if not verbose:
        return [hash_hex(entry.tx.txid) for entry in entries]
    shapes = {}
    for index, entry in enumerate(entries):
        shapes[hash_hex(entry.tx.txid)] = entry_shape(node, entry)
        if index % RPC_YIELD_EVERY == RPC_YIELD_EVERY - 1:
            await asyncio.sleep(0)
    return shapes


@method("getmempoolinfo", SECTION)
def get_mempool_info(node: Backend) -> dict[str, Any]:
    """Return size, fees and limits of the mempool; fee rates are tokens per 1000 virtual bytes."""
    mempool = node.mempool
    floor = coins(node.params.ledger.min_fee_per_kvb)
    return {
        "loaded": True,
        "size": mempool.count,
        "bytes": mempool.vsize_total,
        "usage": mempool.bytes_used,
        "total_fee": coins(mempool.fee_total),
        "maxmempool": mempool.max_bytes,
        "mempoolminfee": coins(mempool.min_fee_per_kvb),
        "minrelaytxfee": floor,
        "incrementalrelayfee": floor,
        "unbroadcastcount": 0,
        "fullrbf": False,
    }


@method("getmempoolentry", SECTION)
def get_mempool_entry(node: Backend, txid: Hash32) -> dict[str, Any]:
    """Return one pending transaction: sizes, fees, ancestors, descendants."""
    entry = node.mempool.get(txid)
    if entry is None:
        raise RpcError(INVALID_ADDRESS_OR_KEY, "Transaction not in mempool")
    return entry_shape(node, entry)
