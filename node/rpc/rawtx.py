"""RPC methods on raw transactions, scripts and addresses."""

from collections.abc import Sequence
from typing import Any

from cext import plain_cost
from consensus.address import decode_address, encode_address
from consensus.coins import is_unspendable
from consensus.errors import DecodeError, PeerFault, RuleError
from consensus.params import COIN
from consensus.script import templates
from consensus.transaction import Transaction, hash_hex
from contracts.payload import is_payload_script
from node.limits import RPC_MAX_TEST_ACCEPT
from node.rpc.backend import AcceptResult, Backend, KnownHeader
from node.rpc.chain import find_block, find_header, is_active, known_header, pending_coin, spent_in
from node.rpc.encoding import coins
from node.rpc.errors import (
    ALREADY_IN_MEMPOOL,
    DESERIALIZATION_ERROR,
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    MAX_FEE_EXCEEDED,
    MISC_ERROR,
    MISSING_INPUTS,
    VERIFY_ERROR,
    RpcError,
)
from node.rpc.registry import CoinAmount, Hash32, HexBytes, Text, Texts, Verbosity, hex_bytes, method
from node.rpc.scripts import decoded_script
from node.rpc.shapes import add_spent, transaction_shape

SECTION = "Rawtransactions"

DEFAULT_MAX_FEE_RATE = COIN // 10
"""Base units per kvB above which a client probably mistook something (Bitcoin Core's default)."""

_FEE_TOO_HIGH = RpcError(VERIFY_ERROR, "Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)")


def parse_transaction(hexstring: str) -> Transaction:
    """Read a transaction in hex. Raises RpcError -22."""
    try:
        return Transaction.parse(hex_bytes("hexstring", hexstring))
    except (DecodeError, RpcError):
        raise RpcError(
            DESERIALIZATION_ERROR, "TX decode failed. Make sure the tx has at least one input."
        ) from None


@method("getrawtransaction", SECTION)
def get_raw_transaction(
    node: Backend, txid: Hash32, verbosity: Verbosity = 0, blockhash: Hash32 | None = None
) -> dict[str, Any] | str:
    """Return a transaction of the mempool or the chain, or of the block ``blockhash``.

    ``verbosity`` 0: in hex; 1: an object; 2: with fee and what the inputs spend.
    """
    tx, known, active = _find(node, txid, blockhash)
    if verbosity == 0:
        return tx.raw.hex()
    shape = transaction_shape(tx, node.params.addresses)
    if blockhash is not None:
        shape["in_active_chain"] = active
    if verbosity > 1:
        spent = _pending_inputs(node, tx) if known is None else {}
        if known is not None and active:
            spent = spent_in(node, find_block(node, known.height), known.height)
        add_spent(shape, tx, spent, node.params.addresses, with_prevouts=True)
    shape["hex"] = tx.raw.hex()
    if known is not None:
        shape["blockhash"] = hash_hex(known.header.hash)
        shape["confirmations"] = node.tip().height - known.height + 1 if active else 0
        if active:
            shape["time"] = shape["blocktime"] = known.header.time_s
    return shape


def _find(
    node: Backend, txid: bytes, blockhash: bytes | None
) -> tuple[Transaction, KnownHeader | None, bool]:
    """Return (transaction, header of its block or None, whether that is on the active chain)."""
    if blockhash is not None:
        return _find_in_block(node, txid, blockhash)
    place = node.find_transaction(txid)
    if place is not None:
        tx = find_block(node, place[0]).txs[place[1]]
        return tx, known_header(node, find_header(node, place[0]).hash), True
    entry = node.mempool.get(txid)
    if entry is not None:
        return entry.tx, None, False
    index = node.indexes.info().get("txindex")
    if index is None:
        what = (
            "No such mempool transaction. Set [storage] tx_index = true or provide a block hash "
            "to enable blockchain transaction queries"
        )
    elif not index.synced:
        what = (
            "No such mempool transaction. Blockchain transactions are still in the process of being indexed"
        )
    else:
        what = "No such mempool or blockchain transaction"
    raise RpcError(INVALID_ADDRESS_OR_KEY, f"{what}. Use gettransaction for wallet transactions.")


def _find_in_block(node: Backend, txid: bytes, blockhash: bytes) -> tuple[Transaction, KnownHeader, bool]:
    known = node.known_header(blockhash)
    if known is None:
        raise RpcError(INVALID_ADDRESS_OR_KEY, "Block hash not found")
    block = node.stored_block(blockhash)
    if block is None:
        raise RpcError(MISC_ERROR, "Block not available")
    for tx in block.txs:
        if tx.txid == txid:
            return tx, known, is_active(node, known)
    raise RpcError(
        INVALID_ADDRESS_OR_KEY,
        "No such transaction found in the provided block. Use gettransaction for wallet transactions.",
    )


def _pending_inputs(node: Backend, tx: Transaction) -> dict[bytes, bytes]:
    """Return the coin values that an unconfirmed transaction spends, as far as they are known."""
    spent = {}
    for prevout in tx.prevouts:
        coin = node.coin(prevout)
        if coin is None:
            entry = node.mempool.get(prevout[:32])
            if entry is not None:
                coin = pending_coin(entry.tx, int.from_bytes(prevout[32:], "little"))
        if coin is not None:
            spent[prevout] = coin
    return spent


@method("decoderawtransaction", SECTION)
def decode_raw_transaction(node: Backend, hexstring: Text) -> dict[str, Any]:
    """Return the object that a serialised transaction stands for."""
    return transaction_shape(parse_transaction(hexstring), node.params.addresses)


@method("decodescript", SECTION)
def decode_script(node: Backend, hexstring: HexBytes) -> dict[str, Any]:
    """Return what a script says, and the addresses that it has inside P2SH and segwit."""
    return decoded_script(hexstring, node.params.addresses)


@method("validateaddress", "Util")
def validate_address(node: Backend, address: Text) -> dict[str, Any]:
    """Return whether ``address`` is one of this chain, and what it stands for."""
    prefixes = node.params.addresses
    try:
        script = decode_address(address, prefixes)
    except RuleError as error:
        return {"isvalid": False, "error_locations": [], "error": error.reason or error.code}
    witness = templates.match_witness_program(script)
    kind = templates.classify(script)[0]
    result: dict[str, Any] = {
        "isvalid": True,
        "address": encode_address(script, prefixes),
        "scriptPubKey": script.hex(),
        "isscript": kind
        in (templates.SCRIPTHASH, templates.WITNESS_V0_SCRIPTHASH, templates.WITNESS_V1_TAPROOT),
        "iswitness": witness is not None,
    }
    if witness is not None:
        result["witness_version"], result["witness_program"] = witness[0], witness[1].hex()
    return result


async def send_together(node: Backend, calls: Sequence[tuple[str, int, int]], /) -> list[str | PeerFault]:
    """Answer calls of ``sendrawtransaction``, given (hex, maxfeerate, maxburnamount) each."""
    answers: list[str | PeerFault] = []
    txs: list[Transaction] = []
    rates: list[int] = []
    places: list[int] = []
    for at, (text, max_fee_rate, max_burn) in enumerate(calls):
        try:
            tx = parse_transaction(text)
            _check_burn(tx, max_burn)
        except RpcError as fault:
            answers.append(fault)
            continue
        answers.append(hash_hex(tx.txid))
        txs.append(tx)
        rates.append(max_fee_rate)
        places.append(at)
    for at, refusal in zip(places, await node.submit_many(txs, rates), strict=True):
        if refusal is not None and refusal.code != ALREADY_IN_MEMPOOL:
            answers[at] = _FEE_TOO_HIGH if refusal.code == MAX_FEE_EXCEEDED else refusal
    return answers


@method("sendrawtransaction", SECTION, together=send_together)
async def send_raw_transaction(
    node: Backend,
    hexstring: Text,
    maxfeerate: CoinAmount = DEFAULT_MAX_FEE_RATE,
    maxburnamount: CoinAmount = 0,
) -> str:
    """Submit a transaction to the mempool and the network; return its id.

    Refused above ``maxfeerate`` tokens per kvB (0: any), or if outputs that nobody can spend carry
    more than ``maxburnamount``; what a contract payload brings along is not burnt.
    """
    [answer] = await send_together(node, [(hexstring, maxfeerate, maxburnamount)])
    if isinstance(answer, PeerFault):
        raise answer
    return answer


def _check_burn(tx: Transaction, max_burn: int) -> None:
    if plain_cost(tx, []) >= 0:
        return  # it pays to addresses only, and what carries data has no value
    for output in tx.vout:
        script = output.script_pubkey
        if output.value > max_burn and is_unspendable(script) and not is_payload_script(script):
            raise RpcError(
                VERIFY_ERROR, "Unspendable output exceeds maximum configured by user (maxburnamount)"
            )


def _fee_limit(tx: Transaction, max_fee_rate: int) -> int:
    return max_fee_rate * tx.vsize // 1000


@method("testmempoolaccept", SECTION)
async def judge_transactions(
    node: Backend, rawtxs: Texts, maxfeerate: CoinAmount = DEFAULT_MAX_FEE_RATE
) -> list[dict[str, Any]]:
    """Return whether the mempool would accept transactions, each after those before it."""
    if not 1 <= len(rawtxs) <= RPC_MAX_TEST_ACCEPT:
        raise RpcError(
            INVALID_PARAMETER, f"Array must contain between 1 and {RPC_MAX_TEST_ACCEPT} transactions."
        )
    transactions = [parse_transaction(text) for text in rawtxs]
    verdicts = await node.test_accept([tx.raw for tx in transactions])
    return [_verdict_shape(verdict, maxfeerate) for verdict in verdicts]


def _verdict_shape(verdict: AcceptResult, max_fee_rate: int) -> dict[str, Any]:
    tx, fee = verdict.tx, verdict.fee
    shape: dict[str, Any] = {"txid": hash_hex(tx.txid), "wtxid": hash_hex(tx.wtxid)}
    if verdict.refusal is not None:
        code = "missing-inputs" if verdict.refusal.code == MISSING_INPUTS else verdict.refusal.code
        return {**shape, "allowed": False, "reject-reason": code, "reject-details": str(verdict.refusal)}
    if fee is not None and max_fee_rate and fee > _fee_limit(tx, max_fee_rate):
        return {**shape, "allowed": False, "reject-reason": MAX_FEE_EXCEEDED}
    fees = {
        "base": coins(fee or 0),
        "effective-feerate": coins((fee or 0) * 1000 // tx.vsize),
        "effective-includes": [hash_hex(tx.wtxid)],
    }
    return {**shape, "allowed": True, "vsize": tx.vsize, "fees": fees}
