"""Block templates as ``getblocktemplate`` shows them, and blocks as miners hand them in."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from consensus.block import Block
from consensus.block_rules import WITNESS_NONCE_BYTES, is_witness_commitment
from consensus.coin_rules import signature_cost, signature_cost_limit
from consensus.coins import coin_amount, encode_coin
from consensus.pow.mining import Work
from consensus.pow.rules import median, pow_of
from consensus.script.sigops import transaction_cost
from consensus.transaction import Transaction, hash_hex
from node.limits import RPC_YIELD_EVERY
from node.mining_port import Template
from node.rpc.backend import Backend
from node.rpc.shapes import target_of

RULES = ("csv", "!segwit", "taproot")
"""What a miner must know of blocks here (BIP9): as on Bitcoin's chain, and what docs/pow.md adds."""

MUTABLE = ("time", "coinbase/append")
"""What a miner may change (BIP23). Not the transactions and the parent: the coinbase commits to both."""


async def template_shape(node: Backend, template: Template, long_poll_id: str) -> dict[str, Any]:
    """Return a template for a miner outside; others on the loop have their turn meanwhile."""
    block, params = template.block, node.params
    header, ledger = block.header, params.ledger
    parent = node.tip()
    if parent.block_hash != header.prev_hash:
        raise LookupError("a template that is not on the tip")
    transactions = []
    for index, shape in enumerate(_transactions(template)):
        transactions.append(shape)
        if index % RPC_YIELD_EVERY == RPC_YIELD_EVERY - 1:
            await asyncio.sleep(0)
    connected = template.assembled.connected
    reward = connected.fees + connected.tip.issued - parent.issued
    outputs = coinbase_outputs(block.txs[0], has_reward=reward > 0)
    result: dict[str, Any] = {
        "capabilities": ["proposal"],
        "version": header.version,
        "rules": list(RULES),
        "vbavailable": {},
        "vbrequired": 0,
        "previousblockhash": hash_hex(header.prev_hash),
        "transactions": transactions,
        "coinbaseaux": {},
        "coinbasevalue": reward,
        "coinbasetxn": _coinbase_shape(template),
        "coinbase_outputs": outputs,
        "longpollid": long_poll_id,
        "target": f"{target_of(header.bits):064x}",
        "mintime": median(parent.times) + 1,
        "maxtime": node.now_s() + pow_of(params).future_limit_s,
        "mutable": list(MUTABLE),
        "noncerange": "00000000ffffffff",
        "sigoplimit": signature_cost_limit(ledger),
        "sizelimit": ledger.max_block_weight,
        "weightlimit": ledger.max_block_weight,
        "curtime": max(header.time_s, node.now_s()),
        "bits": f"{header.bits:08x}",
        "height": template.height,
    }
    for each in outputs:
        if each["type"] == "witness":
            result["default_witness_commitment"] = each["script"]
    return result


def _transactions(template: Template) -> Iterator[dict[str, Any]]:
    """Yield all transactions but the coinbase, with their fees and the positions of their parents, from 1."""
    before = template.assembled.connected.coins_undo
    places: dict[bytes, int] = {}
    txs = template.block.txs
    for place, tx in enumerate(txs[1:], 1):
        places[tx.txid] = place
        spent = [_spent(prevout, before, places, txs, template.height) for prevout in tx.prevouts]
        parents = {places[prevout[:32]] for prevout in tx.prevouts if prevout[:32] in places}
        yield {
            "data": tx.raw.hex(),
            "txid": hash_hex(tx.txid),
            "hash": hash_hex(tx.wtxid),
            "depends": sorted(parents),
            "fee": sum(map(coin_amount, spent)) - sum(output.value for output in tx.vout),
            "sigops": signature_cost(tx, spent),
            "weight": tx.weight,
        }


def _spent(
    prevout: bytes,
    before: dict[bytes, bytes | None],
    places: dict[bytes, int],
    txs: Sequence[Transaction],
    height: int,
) -> bytes:
    """Return the coin value that an input spends: from before the block, or made inside it."""
    coin = before.get(prevout)
    if coin is not None:
        return coin
    output = txs[places[prevout[:32]]].vout[int.from_bytes(prevout[32:], "little")]
    return encode_coin(height, False, output.value, output.script_pubkey)


def _coinbase_shape(template: Template) -> dict[str, Any]:
    """Return the coinbase as miners expect it: without witness, so that its double SHA-256 is its id.

    It has no extra nonce; the template has room for one of MAX_EXTRA_NONCE bytes.
    """
    coinbase = Work(template.block, template.height).coinbase(b"")
    plain = _with_witness(coinbase, ())
    return {
        "data": plain.raw.hex(),
        "txid": hash_hex(plain.txid),
        "hash": hash_hex(plain.wtxid),
        "depends": [],
        "fee": -template.assembled.connected.fees,
        "sigops": transaction_cost(coinbase, ()),
        "weight": coinbase.weight,
        "required": True,
    }


def coinbase_outputs(coinbase: Transaction, *, has_reward: bool) -> list[dict[str, Any]]:
    """Return what each output of an assembled coinbase is for, in order.

    ``type``: "payout" (owed by a contract), "reward" (the miner's), "witness" (BIP141), "commitment" (WC).
    """
    shapes = []
    outputs = coinbase.vout
    last = len(outputs) - 1
    has_witness = len(outputs) > 1 and is_witness_commitment(outputs[-2].script_pubkey)
    paying = last - has_witness
    for index, (value, script) in enumerate(outputs):
        if index == last:
            kind = "commitment"
        elif index >= paying:
            kind = "witness"
        else:
            kind = "reward" if has_reward and index == paying - 1 else "payout"
        shapes.append({"type": kind, "value": value, "script": script.hex()})
    return shapes


def with_witness_nonce(block: Block) -> Block:
    """Return a block whose coinbase has its witness, if it commits to witnesses and lacks it (BIP141)."""
    coinbase = block.txs[0]
    commits = any(is_witness_commitment(output.script_pubkey) for output in coinbase.vout)
    if coinbase.has_witness or not commits:
        return block
    filled = _with_witness(coinbase, (bytes(WITNESS_NONCE_BYTES),))
    return Block.build(block.header, (filled, *block.txs[1:]))


def _with_witness(tx: Transaction, witness: tuple[bytes, ...]) -> Transaction:
    first = tx.vin[0]._replace(witness=witness)
    return Transaction.build(tx.version, (first, *tx.vin[1:]), tx.vout, tx.lock_time)
