"""RPC methods for miners, and those by which an operator steers a proof-of-work chain."""

import asyncio
from typing import Annotated, Any

from consensus.address import decode_address, encode_address
from consensus.block import Block, BlockHeader
from consensus.errors import DecodeError, RuleError
from consensus.pow.target import work_of
from consensus.transaction import Transaction, hash_hex
from node.limits import LONG_POLL_MAX_S, LONG_POLL_S, MAX_LONG_POLLS, MINING_MAX_THREADS, RPC_YIELD_EVERY
from node.miner import NODE_STOPPING, KeptTemplate, Miner
from node.mining_port import PowControl
from node.rpc.backend import Backend
from node.rpc.encoding import coins
from node.rpc.errors import (
    DATABASE_ERROR,
    DESERIALIZATION_ERROR,
    IN_INITIAL_DOWNLOAD,
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    MISC_ERROR,
    NOT_CONNECTED,
    VERIFY_ERROR,
    RpcError,
)
from node.rpc.registry import (
    ArgType,
    Boolean,
    Hash32,
    Integer,
    Natural,
    Text,
    Texts,
    hex_bytes,
    method,
    wrong_type,
)
from node.rpc.shapes import difficulty_of, target_of
from node.rpc.template import template_shape, with_witness_nonce

SECTION = "Mining"

DEFAULT_TRIES = 1_000_000
DEFAULT_RATE_BLOCKS = 120
"""Bitcoin Core's defaults."""


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type(name, value, "object")
    return value


Object = Annotated[dict[str, Any], ArgType("object", _object)]


def control_of(node: Backend) -> PowControl:
    """Return what steers the chain. Raises RpcError on a bft chain."""
    if node.pow is None:
        raise RpcError(
            MISC_ERROR,
            f"not on this chain: its engine is {node.params.engine}, nobody mines or reorganises it",
        )
    return node.pow


def miner_of(node: Backend) -> Miner:
    """Return the miner inside the daemon. Raises RpcError on a bft chain."""
    control_of(node)
    if node.miner is None:
        raise RpcError(MISC_ERROR, "this node has no miner")
    return node.miner


def script_of(node: Backend, address: str) -> bytes:
    """Return the output script of an address. Raises RpcError -5."""
    try:
        return decode_address(address, node.params.addresses)
    except RuleError as fault:
        raise RpcError(INVALID_ADDRESS_OR_KEY, f"Error: Invalid address ({fault.reason})") from None


def parse_block(name: str, value: Any) -> Block:
    """Read a block in hex. Raises RpcError -22 as Bitcoin Core does."""
    try:
        block = Block.parse(hex_bytes(name, value))
    except (DecodeError, RpcError):
        raise RpcError(DESERIALIZATION_ERROR, "Block decode failed") from None
    if not block.txs or not block.txs[0].is_coinbase:
        raise RpcError(DESERIALIZATION_ERROR, "Block does not start with a coinbase")
    return block


def _mining_fault(fault: RuleError) -> RpcError:
    if fault.code == NODE_STOPPING:
        return RpcError(NOT_CONNECTED, "Shutting down")
    return RpcError(MISC_ERROR, str(fault))


# ---- the miner inside --------------------------------------------------------------------------


@method("generatetoaddress", SECTION)
async def generate_to_address(
    node: Backend, nblocks: Natural, address: Text, maxtries: Natural = DEFAULT_TRIES
) -> list[str]:
    """Mine ``nblocks`` blocks that pay to ``address``; return their hashes, lowest first.

    After ``maxtries`` hashes it ends, with fewer blocks. It uses as many threads as the miner, which need
    not run.
    """
    miner, script = miner_of(node), script_of(node, address)
    try:
        hashes = await miner.generate(nblocks, script, maxtries)
    except RuleError as fault:
        raise _mining_fault(fault) from None
    return [hash_hex(each) for each in hashes]


@method("generateblock", SECTION)
async def generate_block(
    node: Backend, output: Text, transactions: Texts, submit: Boolean = True
) -> dict[str, Any]:
    """Mine one block of exactly these ``transactions`` that pays to the address ``output``.

    ``transactions``: ids of pending ones or raw ones in hex, parents first. Without ``submit`` the block
    comes back as ``hex`` and is not handed in.
    """
    miner = miner_of(node)
    script = script_of(node, output)
    txs = [_transaction(node, text) for text in transactions]
    try:
        template = node.template_of(txs, script)
    except RuleError as fault:
        raise RpcError(VERIFY_ERROR, f"TestBlockValidity failed: {fault}") from None
    try:
        block = await miner.solve(template, DEFAULT_TRIES)
    except RuleError as fault:
        raise _mining_fault(fault) from None
    if block is None:
        raise RpcError(MISC_ERROR, "Failed to make block.")
    if not submit:
        return {"hash": hash_hex(block.hash), "hex": block.raw.hex()}
    answer = await control_of(node).submit_block(block)
    if answer is not None:
        raise RpcError(VERIFY_ERROR, answer)
    return {"hash": hash_hex(block.hash)}


def _transaction(node: Backend, text: str) -> Transaction:
    """Return a transaction named by its id, of the mempool, or given in hex."""
    data = hex_bytes("transactions", text)
    if len(data) == 32:
        entry = node.mempool.get(data[::-1])
        if entry is None:
            raise RpcError(INVALID_ADDRESS_OR_KEY, f"Transaction {text} not in mempool.")
        return entry.tx
    try:
        return Transaction.parse(data)
    except DecodeError:
        raise RpcError(
            DESERIALIZATION_ERROR,
            f"Transaction decode failed for {text[:80]}. Make sure the tx has at least one input.",
        ) from None


@method("miner.start", SECTION)
def start_miner(node: Backend, address: Text | None = None, threads: Natural | None = None) -> dict[str, Any]:
    """Mine from now until ``miner.stop`` or the daemon's stop; a restart goes by the configuration.

    ``address`` and ``threads`` stay as they were, at first as configured, unless they are given.
    """
    miner = miner_of(node)
    if threads is not None and not 1 <= threads <= MINING_MAX_THREADS:
        raise RpcError(INVALID_PARAMETER, f"threads must be 1 to {MINING_MAX_THREADS}")
    miner.start(None if address is None else script_of(node, address), threads)
    return _miner_shape(node, miner)


@method("miner.stop", SECTION)
def stop_miner(node: Backend) -> dict[str, Any]:
    """End mining; return what the miner was doing."""
    miner = miner_of(node)
    miner.stop()
    return _miner_shape(node, miner)


def _miner_shape(node: Backend, miner: Miner) -> dict[str, Any]:
    now = miner.status()
    return {
        "enabled": now.enabled,
        "threads": now.threads,
        "address": encode_address(now.script, node.params.addresses),
        "scriptPubKey": now.script.hex(),
        "hashespersec": round(now.hashes_per_s),
        "blocksfound": now.blocks_found,
        "waitsfor": now.waits_for,
    }


@method("getmininginfo", SECTION)
async def get_mining_info(node: Backend) -> dict[str, Any]:
    """Return what concerns miners: tip, next block, hash rates, the last template, and our own miner.

    Beside Bitcoin Core's fields: ``miner``, with its hash rate over the last half minute.
    """
    control, miner = control_of(node), miner_of(node)
    tip, last = node.tip(), miner.templates.last
    header = node.header(tip.height)
    bits, next_bits = 0 if header is None else header.bits, control.next_bits()
    ready, reason = node.is_ready()
    info: dict[str, Any] = {"blocks": tip.height}
    if last is not None:
        info |= {"currentblockweight": last.weight, "currentblocktx": last.txs}
    return {
        **info,
        **_bits_shape(bits),
        "networkhashps": await get_network_hash_rate(node),
        "pooledtx": node.mempool.count,
        "blockmintxfee": coins(node.params.ledger.min_fee_per_kvb),
        "chain": node.params.name,
        "next": {"height": tip.height + 1, **_bits_shape(next_bits)},
        "warnings": [] if ready else [reason],
        "miner": _miner_shape(node, miner),
    }


def _bits_shape(bits: int) -> dict[str, Any]:
    return {"bits": f"{bits:08x}", "difficulty": difficulty_of(bits), "target": f"{target_of(bits):064x}"}


@method("getnetworkhashps", SECTION)
async def get_network_hash_rate(
    node: Backend, nblocks: Integer = DEFAULT_RATE_BLOCKS, height: Integer = -1
) -> float:
    """Return the hashes per second that the last ``nblocks`` blocks up to ``height`` took.

    ``height`` -1 is the tip. ``nblocks`` -1 looks back to the last change of difficulty, which is one
    block: it changes with each.
    """
    control_of(node)
    tip = node.tip().height
    if nblocks < -1 or nblocks == 0:
        raise RpcError(INVALID_PARAMETER, "Invalid nblocks. Must be a positive number or -1.")
    if height < -1 or height > tip:
        raise RpcError(INVALID_PARAMETER, "Block does not exist at specified height")
    last = tip if height == -1 else height
    first = max(0, last - (1 if nblocks == -1 else nblocks))
    work, times = 0, []
    for at in range(first, last + 1):
        header = node.header(at)
        if header is None:  # a reorganisation meanwhile
            break
        times.append(header.time_s)
        work += work_of(header.bits) if at > first else 0
        if at % RPC_YIELD_EVERY == RPC_YIELD_EVERY - 1:
            await asyncio.sleep(0)
    span_s = max(times) - min(times) if times else 0
    return work / span_s if span_s else 0.0


# ---- outside miners ----------------------------------------------------------------------------


@method("getblocktemplate", SECTION)
async def get_block_template(
    node: Backend, template_request: Object | None = None
) -> dict[str, Any] | str | None:
    """Return a block to mine (BIP22, BIP23, BIP145), or judge one (``mode`` "proposal", ``data`` in hex).

    ``template_request``: {"rules": ["segwit"], "mode", "longpollid", "data", "payout_address"}. The
    coinbase must pay what contracts owe and carry a commitment, so it comes ready as ``coinbasetxn``, paid
    to ``payout_address`` (default: as the node's own miner); ``coinbase_outputs`` says output by output
    what is needed. docs/pow.md has an example.
    """
    request = template_request or {}
    control_of(node)
    mode = request.get("mode", "template")
    if mode == "proposal":
        return await _judge_proposal(node, request)
    if mode != "template":
        raise RpcError(INVALID_PARAMETER, "Invalid mode")
    rules = request.get("rules", [])
    if not isinstance(rules, list) or "segwit" not in rules:
        raise RpcError(
            INVALID_PARAMETER,
            'getblocktemplate must be called with the segwit rule set (call with {"rules": ["segwit"]})',
        )
    miner = miner_of(node)
    script = miner.script
    if request.get("payout_address") is not None:
        script = script_of(node, _text("payout_address", request["payout_address"]))
    if request.get("longpollid") is not None:
        await _long_poll(node, miner, _text("longpollid", request["longpollid"]))
    kept = miner.templates.get(script)
    if miner.templates.is_behind(kept.template):
        raise RpcError(IN_INITIAL_DOWNLOAD, "wattd is in initial sync and waiting for blocks...")
    return await template_shape(node, kept.template, _long_poll_id(kept))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong_type(name, value, "string")
    return value


def _long_poll_id(kept: KeptTemplate) -> str:
    return f"{hash_hex(kept.template.block.header.prev_hash)}{kept.revision}"


async def _long_poll(node: Backend, miner: Miner, watched: str) -> None:
    """Return on another tip than the watched one, or with new transactions after LONG_POLL_S."""
    if len(watched) < 65 or not watched[64:].isascii() or not watched[64:].isdigit():
        raise RpcError(INVALID_PARAMETER, "longpollid is none that getblocktemplate gave")
    if miner.long_polls >= MAX_LONG_POLLS:
        raise RpcError(MISC_ERROR, f"{MAX_LONG_POLLS} calls wait for a template already")
    tip, revision = watched[:64], watched[64:]
    miner.long_polls += 1
    try:
        for _ in range(round(LONG_POLL_MAX_S / LONG_POLL_S)):
            moved = control_of(node).watch()
            if hash_hex(node.tip().block_hash) != tip:
                return
            await asyncio.wait(
                {moved, miner.closed}, timeout=LONG_POLL_S, return_when=asyncio.FIRST_COMPLETED
            )
            if miner.closed.done() or moved.cancelled():
                raise RpcError(NOT_CONNECTED, "Shutting down")
            if str(miner.templates.revision) != revision:
                return
    finally:
        miner.long_polls -= 1


async def _judge_proposal(node: Backend, request: dict[str, Any]) -> str | None:
    """Return None for a block that lacks nothing but its proof, else why it is refused."""
    data = request.get("data")
    if not isinstance(data, str):
        raise wrong_type("data", data, "string")
    block = with_witness_nonce(parse_block("data", data))
    known = node.known_header(block.hash)
    if known is not None:
        return "duplicate" if node.block_hash(known.height) == block.hash else "duplicate-inconclusive"
    if block.header.prev_hash != node.tip().block_hash:
        return "inconclusive-not-best-prevblk"
    try:
        await node.check_proposal(block)
    except RuleError as fault:
        return fault.code
    return None


@method("submitblock", SECTION)
async def submit_block(node: Backend, hexdata: Text, dummy: Text = "") -> str | None:
    """Hand in a block; return null if it is on the chain now, else why it is not (BIP22).

    A coinbase that commits to witnesses may lack its own; it is filled in. ``dummy`` is ignored.
    """
    control = control_of(node)
    return await control.submit_block(with_witness_nonce(parse_block("hexdata", hexdata)))


@method("submitheader", SECTION)
async def submit_header(node: Backend, hexdata: Text) -> None:
    """Hand in a header of 80 bytes; an error says why it is refused."""
    control = control_of(node)
    try:
        header = BlockHeader.parse(hex_bytes("hexdata", hexdata))
    except (DecodeError, RpcError):
        raise RpcError(DESERIALIZATION_ERROR, "Block header decode failed") from None
    if node.known_header(header.prev_hash) is None:
        raise RpcError(VERIFY_ERROR, f"Must submit previous header ({hash_hex(header.prev_hash)}) first")
    try:
        await control.submit_header(header)
    except RuleError as fault:
        raise RpcError(VERIFY_ERROR, fault.code) from None


# ---- steering the chain ------------------------------------------------------------------------


@method("getchaintips", "Blockchain")
def get_chain_tips(node: Backend) -> list[dict[str, Any]]:
    """Return all ends of branches, most work first: ``branchlen`` blocks off the active chain.

    ``status``: "active", "valid-fork" (was on the chain once), "valid-headers" (not yet judged),
    "headers-only" (blocks are missing), "invalid". A bft chain has one, the active one.
    """
    if node.pow is None:
        tip = node.tip()
        return [_tip_shape(tip.height, tip.block_hash, 0, "active")]
    return [
        _tip_shape(each.height, each.block_hash, each.branch_length, each.status)
        for each in node.pow.chain_tips()
    ]


def _tip_shape(height: int, block_hash: bytes, branch_length: int, status: str) -> dict[str, Any]:
    return {"height": height, "hash": hash_hex(block_hash), "branchlen": branch_length, "status": status}


def _command_fault(fault: RuleError) -> RpcError:
    if fault.code == "unknown-block":
        return RpcError(INVALID_ADDRESS_OR_KEY, "Block not found")
    return RpcError(DATABASE_ERROR, str(fault))


@method("invalidateblock", "Blockchain")
async def invalidate_block(node: Backend, blockhash: Hash32) -> None:
    """Treat a block as if it broke a rule, and leave it and what builds on it; kept over a restart."""
    try:
        await control_of(node).invalidate(blockhash)
    except RuleError as fault:
        raise _command_fault(fault) from None


@method("reconsiderblock", "Blockchain")
async def reconsider_block(node: Backend, blockhash: Hash32) -> None:
    """Take back ``invalidateblock``, on a block, its ancestors and its descendants."""
    try:
        await control_of(node).reconsider(blockhash)
    except RuleError as fault:
        raise _command_fault(fault) from None


@method("preciousblock", "Blockchain")
async def precious_block(node: Backend, blockhash: Hash32) -> None:
    """Treat a block as if it had come before others of the same work; forgotten at a restart."""
    try:
        await control_of(node).precious(blockhash)
    except RuleError as fault:
        raise _command_fault(fault) from None
