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
from node.rpc.backend import Backend, KnownHeader, Pruning
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


def known_header(node: Backend, block_hash: bytes) -> KnownHeader:
    """Return a header of any branch. Raises RpcError "Block not found"."""
    known = node.known_header(block_hash)
    if known is None:
        raise RpcError(INVALID_ADDRESS_OR_KEY, "Block not found")
    return known


def is_active(node: Backend, known: KnownHeader) -> bool:
    """Tell whether a header is on the active chain."""
    return node.block_hash(known.height) == known.header.hash


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


def branch_median_time_s(node: Backend, known: KnownHeader) -> int:
    """Return the median of the block times from a header of any branch eleven blocks back."""
    if is_active(node, known):
        return median_time_s(node, known.height)
    times: list[int] = []
    at: KnownHeader | None = known
    while at is not None and len(times) < _MEDIAN_TIME_SPAN:
        times.append(at.header.time_s)
        at = node.known_header(at.header.prev_hash)
    return sorted(times)[len(times) // 2]


def tx_count(node: Backend, block_hash: bytes) -> int | None:
    """Return the number of transactions of a block, None if its body is not here; the last are remembered."""
    count = _tx_counts.get(block_hash)
    if count is None:
        block = node.stored_block(block_hash)
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
    known = known_header(node, tip.block_hash)
    header = known.header
    ready, reason = node.is_ready()
    headers = tip.height if node.pow is None else node.pow.headers_height
    best_known = max([headers, *(peer.height for peer in node.peers())])
    return {
        "chain": node.params.name,
        "blocks": tip.height,
        "headers": headers,
        "bestblockhash": hash_hex(tip.block_hash),
        "bits": f"{header.bits:08x}",
        "target": f"{target_of(header.bits):064x}",
        "difficulty": difficulty_of(header.bits),
        "time": header.time_s,
        "mediantime": median_time_s(node, tip.height),
        "verificationprogress": (tip.height + 1) / (best_known + 1),
        "initialblockdownload": not ready,
        "chainwork": f"{known.work:064x}",
        "size_on_disk": node.size_on_disk(),
        **_pruning_shape(node.pruning()),
        "chain_id": hash_hex(node.chain_id),
        "engine": node.params.engine,
        "effects_digest": tip.effects_digest.hex(),
        "issued": coins(tip.issued),
        "warnings": [] if ready else [reason],
    }


def _pruning_shape(pruning: Pruning) -> dict[str, Any]:
    if not pruning.height and not pruning.is_automatic:
        return {"pruned": False}
    shape = {"pruned": True, "pruneheight": pruning.height, "automatic_pruning": pruning.is_automatic}
    return shape | ({"prune_target_size": pruning.target_bytes} if pruning.target_bytes else {})


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


def _header_fields(node: Backend, known: KnownHeader) -> dict[str, Any]:
    header, height, active = known.header, known.height, is_active(node, known)
    shape = header_shape(
        header,
        height,
        confirmations=node.tip().height - height + 1 if active else -1,
        median_time_s=branch_median_time_s(node, known),
        chain_work=known.work,
    )
    count = tx_count(node, header.hash)
    if count is not None:  # nobody knows it of a pruned block, or of one that never came
        shape["nTx"] = count
    if height > 0:
        shape["previousblockhash"] = hash_hex(header.prev_hash)
    following = node.block_hash(height + 1) if active else None
    if following is not None:
        shape["nextblockhash"] = hash_hex(following)
    return shape


@method("getdifficulty", SECTION)
def get_difficulty(node: Backend) -> float:
    """Return how many times harder than Bitcoin's easiest target the tip's target is."""
    return difficulty_of(find_header(node, node.tip().height).bits)


@method("getblockheader", SECTION)
def get_block_header(node: Backend, blockhash: Hash32, verbose: Boolean = True) -> dict[str, Any] | str:
    """Return a block's header: an object, or the 80 bytes in hex if not ``verbose``.

    The object lacks ``nTx`` where the block was pruned or never came; ``confirmations`` are -1 off the
    active chain.
    """
    known = known_header(node, blockhash)
    return _header_fields(node, known) if verbose else known.header.raw.hex()


@method("getblock", SECTION)
async def get_block(node: Backend, blockhash: Hash32, verbosity: Verbosity = 1) -> dict[str, Any] | str:
    """Return a block.

    ``verbosity`` 0: the raw block in hex; 1: an object with transaction ids; 2: with transactions
    and their fees; 3: also with what their inputs spend. Beside Bitcoin Core's fields: ``term`` of
    the block's first proposal on a bft chain, and ``commitment`` of its coinbase. Off the active chain
    ``confirmations`` are -1, and what the block spends is not known.
    """
    known = known_header(node, blockhash)
    active = is_active(node, known)
    block = find_block(node, known.height) if active else node.stored_block(blockhash)
    if block is None:
        raise RpcError(MISC_ERROR, "Block not available (not fully downloaded)")
    if verbosity == 0:
        return block.raw.hex()
    shape = _header_fields(node, known)
    shape["strippedsize"] = block.stripped_size
    shape["size"] = len(block.raw)
    shape["weight"] = block.weight
    if node.pow is None:
        shape["term"] = block.header.nonce
    shape["commitment"] = commitment_shape(find_commitment(block.txs[0]))
    if verbosity == 1:
        shape["tx"] = [hash_hex(tx.txid) for tx in block.txs]
    else:
        spent = spent_in(node, block, known.height) if active else {}
        shape["tx"] = await _transactions(node, block, spent, with_prevouts=verbosity > 2)
    return shape


async def _transactions(
    node: Backend, block: Block, spent: dict[bytes, bytes], *, with_prevouts: bool
) -> list[dict[str, Any]]:
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
