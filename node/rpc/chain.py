"""RPC methods on blocks and the UTXO set."""

import asyncio
from collections import OrderedDict
from typing import Any

from consensus.block import Block, BlockHeader
from consensus.coins import (
    coin_amount,
    coin_height,
    coin_is_coinbase,
    coin_script,
    encode_coin,
    is_unspendable,
)
from consensus.commitment import find_commitment
from consensus.transaction import Transaction, hash_hex, outpoint
from node.limits import RPC_TX_COUNT_CACHE, RPC_YIELD_EVERY
from node.rpc.backend import Backend
from node.rpc.encoding import coins
from node.rpc.errors import INVALID_ADDRESS_OR_KEY, INVALID_PARAMETER, MISC_ERROR, RpcError
from node.rpc.registry import Boolean, Hash32, Natural, Text, Verbosity, invalid, method
from node.rpc.scripts import script_shape
from node.rpc.shapes import (
    add_spent,
    commitment_shape,
    difficulty_of,
    header_shape,
    target_of,
    transaction_shape,
    work_of,
)

SECTION = "Blockchain"

_MEDIAN_TIME_SPAN = 11

_tx_counts: OrderedDict[bytes, int] = OrderedDict()


def find_header(node: Backend, height: int) -> BlockHeader:
    """Return the header of a height that the chain has."""
    header = node.header(height)
    if header is None:
        raise LookupError(f"no header at height {height} below the tip")
    return header


def find_block(node: Backend, height: int) -> Block:
    """Return the block of a height that the chain has. Raises RpcError if it was pruned."""
    block = node.block(height)
    if block is None:
        raise RpcError(MISC_ERROR, "Block not available (pruned data)")
    return block


def median_time_s(node: Backend, height: int) -> int:
    """Return the median of the block times from ``height`` eleven blocks back (BIP113)."""
    heights = range(max(0, height - _MEDIAN_TIME_SPAN + 1), height + 1)
    times = sorted(find_header(node, each).time_s for each in heights)
    return times[len(times) // 2]


def height_of(node: Backend, block_hash: bytes) -> int:
    """Return the height of a block. Raises RpcError "Block not found"."""
    height = node.height_of(block_hash)
    if height is None:
        raise RpcError(INVALID_ADDRESS_OR_KEY, "Block not found")
    return height


def tx_count(node: Backend, height: int, block_hash: bytes) -> int | None:
    """Return the number of transactions of a block, None if it was pruned; the last ones are remembered."""
    count = _tx_counts.get(block_hash)
    if count is None:
        block = node.block(height)
        if block is None:
            return None
        count = _tx_counts[block_hash] = len(block.txs)
        if len(_tx_counts) > RPC_TX_COUNT_CACHE:
            _tx_counts.popitem(last=False)
    return count


@method("getblockchaininfo", SECTION)
def get_blockchain_info(node: Backend) -> dict[str, Any]:
    """Return the state of the chain.

    Beside Bitcoin Core's fields: ``chain_id`` (genesis hash), ``engine``, the tip's
    ``effects_digest``, and ``issued`` tokens.
    """
    tip = node.tip()
    header = find_header(node, tip.height)
    ready, reason = node.is_ready()
    best_known = max([tip.height, *(peer.height for peer in node.peers())])
    return {
        "chain": node.params.name,
        "blocks": tip.height,
        "headers": tip.height,
        "bestblockhash": hash_hex(tip.block_hash),
        "bits": f"{header.bits:08x}",
        "target": f"{target_of(header.bits):064x}",
        "difficulty": difficulty_of(header.bits),
        "time": header.time_s,
        "mediantime": median_time_s(node, tip.height),
        "verificationprogress": (tip.height + 1) / (best_known + 1),
        "initialblockdownload": not ready,
        "chainwork": f"{work_of(header.bits) * (tip.height + 1):064x}",
        "size_on_disk": node.size_on_disk(),
        "pruned": node.block(0) is None,
        "chain_id": hash_hex(node.chain_id),
        "engine": node.params.engine,
        "effects_digest": tip.effects_digest.hex(),
        "issued": coins(tip.issued),
        "warnings": [] if ready else [reason],
    }


@method("getblockcount", SECTION)
def get_block_count(node: Backend) -> int:
    """Return the height of the tip; the genesis block has height 0."""
    return node.tip().height


@method("getbestblockhash", SECTION)
def get_best_block_hash(node: Backend) -> str:
    """Return the hash of the tip."""
    return hash_hex(node.tip().block_hash)


@method("getblockhash", SECTION)
def get_block_hash(node: Backend, height: Natural) -> str:
    """Return the hash of the block at ``height``."""
    block_hash = node.block_hash(height)
    if block_hash is None:
        raise RpcError(INVALID_PARAMETER, "Block height out of range")
    return hash_hex(block_hash)


def _header_fields(node: Backend, header: BlockHeader, height: int) -> dict[str, Any]:
    shape = header_shape(header, height, node.tip().height, median_time_s(node, height))
    count = tx_count(node, height, header.hash)
    if count is not None:  # nobody knows it of a pruned block
        shape["nTx"] = count
    if height > 0:
        shape["previousblockhash"] = hash_hex(header.prev_hash)
    following = node.block_hash(height + 1)
    if following is not None:
        shape["nextblockhash"] = hash_hex(following)
    return shape


@method("getblockheader", SECTION)
def get_block_header(node: Backend, blockhash: Hash32, verbose: Boolean = True) -> dict[str, Any] | str:
    """Return a block's header: an object, or the 80 bytes in hex if not ``verbose``.

    The object lacks ``nTx`` where the block was pruned.
    """
    height = height_of(node, blockhash)
    header = find_header(node, height)
    return _header_fields(node, header, height) if verbose else header.raw.hex()


@method("getblock", SECTION)
async def get_block(node: Backend, blockhash: Hash32, verbosity: Verbosity = 1) -> dict[str, Any] | str:
    """Return a block.

    ``verbosity`` 0: the raw block in hex; 1: an object with transaction ids; 2: with transactions
    and their fees; 3: also with what their inputs spend. Beside Bitcoin Core's fields: ``term`` of
    the block's first proposal, and ``commitment`` of its coinbase.
    """
    height = height_of(node, blockhash)
    block = find_block(node, height)
    if verbosity == 0:
        return block.raw.hex()
    shape = _header_fields(node, block.header, height)
    shape["strippedsize"] = block.stripped_size
    shape["size"] = len(block.raw)
    shape["weight"] = block.weight
    shape["term"] = block.header.nonce
    shape["commitment"] = commitment_shape(find_commitment(block.txs[0]))
    if verbosity == 1:
        shape["tx"] = [hash_hex(tx.txid) for tx in block.txs]
    else:
        shape["tx"] = await _transactions(node, block, height, with_prevouts=verbosity > 2)
    return shape


async def _transactions(
    node: Backend, block: Block, height: int, *, with_prevouts: bool
) -> list[dict[str, Any]]:
    spent = spent_in(node, block, height)
    prefixes = node.params.addresses
    shapes = []
    for index, tx in enumerate(block.txs):
        shape = transaction_shape(tx, prefixes)
        add_spent(shape, tx, spent, prefixes, with_prevouts=with_prevouts)
        shape["hex"] = tx.raw.hex()
        shapes.append(shape)
        if index % RPC_YIELD_EVERY == RPC_YIELD_EVERY - 1:
            await asyncio.sleep(0)
    return shapes


def spent_in(node: Backend, block: Block, height: int) -> dict[bytes, bytes]:
    """Return the coin value of every output that ``block`` spends, by outpoint.

    The undo record knows what older blocks created; what a block creates and spends itself is in
    neither.
    """
    spent = {prevout: coin for prevout, coin in node.undo_coins(height).items() if coin is not None}
    within = {tx.txid: tx for tx in block.txs}
    for tx in block.txs:
        for prevout in tx.prevouts:
            parent = within.get(prevout[:32])
            if parent is not None and prevout not in spent:
                output = parent.vout[int.from_bytes(prevout[32:], "little")]
                spent[prevout] = encode_coin(height, parent.is_coinbase, output.value, output.script_pubkey)
    return spent


@method("gettxout", SECTION)
def get_tx_out(
    node: Backend, txid: Hash32, n: Natural, include_mempool: Boolean = True
) -> dict[str, Any] | None:
    """Return an unspent output, or null.

    With ``include_mempool``, outputs of pending transactions count, and what they spend does not.
    """
    if n >= 1 << 32:
        raise invalid("n", "must be a 32-bit number")
    prevout = outpoint(txid, n)
    tip = node.tip()
    coin = confirmed = node.coin(prevout)
    if include_mempool:
        if node.mempool.spender(prevout) is not None:
            return None
        entry = node.mempool.get(txid)
        if coin is None and entry is not None:
            coin = pending_coin(entry.tx, n)
    if coin is None:
        return None
    return {
        "bestblock": hash_hex(tip.block_hash),
        "confirmations": 0 if confirmed is None else tip.height - coin_height(coin) + 1,
        "value": coins(coin_amount(coin)),
        "scriptPubKey": script_shape(coin_script(coin), node.params.addresses),
        "coinbase": coin_is_coinbase(coin),
    }


def pending_coin(tx: Transaction, index: int) -> bytes | None:
    """Return output ``index`` of a pending transaction as a coin value of height 0, None if it
    has no such output or nobody can spend it."""
    if index >= tx.output_count or is_unspendable(tx.vout[index].script_pubkey):
        return None
    return encode_coin(0, False, tx.vout[index].value, tx.vout[index].script_pubkey)


@method("gettxoutsetinfo", SECTION)
async def get_tx_out_set_info(node: Backend, hash_type: Text = "hash_serialized") -> dict[str, Any]:
    """Return totals over the unspent outputs and the contracts.

    ``hash_type``: "hash_serialized" (also under Bitcoin Core's name "hash_serialized_3") or "none".
    ``conserved`` tells whether ``total_amount`` + ``contract_accounts`` + ``payout_queue`` =
    ``issued``. This walks the whole set.
    """
    if hash_type not in ("hash_serialized", "hash_serialized_3", "none"):
        raise RpcError(INVALID_PARAMETER, f"hash_type '{hash_type[:80]}' is not a valid hash_type")
    stats = await node.coin_stats()
    total = stats.total_amount + stats.contract_accounts + stats.payout_queue
    result: dict[str, Any] = {
        "height": stats.height,
        "bestblock": hash_hex(stats.block_hash),
        "txouts": stats.txouts,
    }
    if hash_type != "none":
        result[hash_type] = hash_hex(stats.hash_serialized)
    return {
        **result,
        "total_amount": coins(stats.total_amount),
        "contract_accounts": coins(stats.contract_accounts),
        "payout_queue": coins(stats.payout_queue),
        "issued": coins(stats.issued),
        "conserved": total == stats.issued,
        "disk_size": node.size_on_disk(),
    }
