"""RPC methods on partially signed transactions (BIP174). No private key passes through here.

What parses and verifies runs in a thread: a PSBT of 16 MiB must not hold the node up.
"""

from asyncio import to_thread
from typing import Annotated, Any, get_args

from consensus import psbt as roles
from consensus.address import decode_address
from consensus.coins import coin_amount, coin_script
from consensus.errors import DecodeError, RuleError
from consensus.params import AddressPrefixes
from consensus.psbt import Missing, Psbt
from consensus.script.templates import data_carrier
from consensus.transaction import SEQUENCE_FINAL, TxIn, TxOut, outpoint
from node.rpc.backend import Backend
from node.rpc.chain import find_block, pending_coin
from node.rpc.encoding import coins
from node.rpc.errors import (
    DESERIALIZATION_ERROR,
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    RpcError,
)
from node.rpc.psbt_shapes import fee_of, psbt_shape
from node.rpc.rawtx import SECTION, parse_transaction
from node.rpc.registry import (
    ArgType,
    Boolean,
    CoinAmount,
    Hash32,
    Natural,
    Text,
    Texts,
    hex_bytes,
    method,
    wrong_type,
)

MAX_U32 = 0xFFFF_FFFF
SEQUENCE_REPLACEABLE = 0xFFFF_FFFD
"""Says that the sender may replace the transaction, and leaves its lock time in force (BIP125)."""

_ORDER = ("updater", "signer", "finalizer", "extractor")


def _array(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise wrong_type(name, value, "array")
    return value


def _outputs(name: str, value: Any) -> list[tuple[str, Any]]:
    """Read an array of objects, or the older form of one object, into (address or "data", value)."""
    if isinstance(value, dict):
        return list(value.items())
    pairs: list[tuple[str, Any]] = []
    for each in _array(name, value):
        if not isinstance(each, dict):
            raise wrong_type(name, each, "object")
        if len(each) != 1:
            raise RpcError(
                INVALID_PARAMETER, "Invalid parameter, key-value pair must contain exactly one key"
            )
        pairs.extend(each.items())
    return pairs


_read_hash = get_args(Hash32)[1].read
_read_amount = get_args(CoinAmount)[1].read
_read_natural = get_args(Natural)[1].read

Inputs = Annotated[list[Any], ArgType("array", _array)]
Outputs = Annotated[list[tuple[str, Any]], ArgType("array", _outputs)]


def parse_psbt(text: str) -> Psbt:
    """Read a PSBT in Base64. Raises RpcError -22."""
    try:
        return Psbt.from_base64(text)
    except DecodeError as error:
        raise RpcError(DESERIALIZATION_ERROR, f"TX decode failed {error}") from None


@method("createpsbt", SECTION)
def create_psbt(
    node: Backend, inputs: Inputs, outputs: Outputs, locktime: Natural = 0, replaceable: Boolean = True
) -> str:
    """Return a new PSBT, in Base64, that spends ``inputs`` to ``outputs``.

    ``inputs``: [{"txid", "vout", "sequence"}]; ``outputs``: [{address: amount}, {"data": hex}].
    """
    if locktime > MAX_U32:
        raise RpcError(INVALID_PARAMETER, "Invalid parameter, locktime out of range")
    default = SEQUENCE_REPLACEABLE if replaceable else SEQUENCE_FINAL - bool(locktime)
    vin = [_read_input(each, default) for each in inputs]
    return roles.create(vin, _read_outputs(outputs, node.params.addresses), lock_time=locktime).to_base64()


def _read_input(value: Any, default: int) -> TxIn:
    if not isinstance(value, dict):
        raise wrong_type("inputs", value, "object")
    txid = _read_hash("txid", value.get("txid"))
    if not isinstance(value.get("vout"), int):
        raise RpcError(INVALID_PARAMETER, "Invalid parameter, missing vout key")
    index = _read_natural("vout", value["vout"])
    sequence = _read_natural("sequence", value.get("sequence", default))
    if index > MAX_U32 or sequence > MAX_U32:
        raise RpcError(INVALID_PARAMETER, "Invalid parameter, sequence number is out of range")
    return TxIn(outpoint(txid, index), b"", sequence)


def _read_outputs(pairs: list[tuple[str, Any]], prefixes: AddressPrefixes) -> list[TxOut]:
    found: dict[str, TxOut] = {}
    for name, value in pairs:
        if name in found:
            what = "key: data" if name == "data" else f"address: {name}"
            raise RpcError(INVALID_PARAMETER, f"Invalid parameter, duplicated {what}")
        if name == "data":
            found[name] = TxOut(0, data_carrier(hex_bytes("Data", value)))
            continue
        try:
            script = decode_address(name, prefixes)
        except RuleError:
            raise RpcError(INVALID_ADDRESS_OR_KEY, f"Invalid Bitcoin address: {name}") from None
        found[name] = TxOut(_read_amount(name, value), script)
    return list(found.values())


@method("converttopsbt", SECTION)
def convert_to_psbt(node: Backend, hexstring: Text, permitsigdata: Boolean = False) -> str:
    """Return a PSBT over a raw transaction; its signatures are thrown away, if ``permitsigdata``."""
    tx = parse_transaction(hexstring)
    if not permitsigdata and (tx.has_witness or any(txin.script_sig for txin in tx.vin)):
        raise RpcError(DESERIALIZATION_ERROR, "Inputs must not have scriptSigs and scriptWitnesses")
    return roles.from_transaction(tx).to_base64()


@method("decodepsbt", SECTION)
async def decode_psbt(node: Backend, psbt: Text) -> dict[str, Any]:
    """Return the object that a PSBT stands for."""
    return await to_thread(lambda: psbt_shape(parse_psbt(psbt), node.params.addresses))


@method("combinepsbt", SECTION)
async def combine_psbts(node: Backend, txs: Texts) -> str:
    """Return the records of several PSBTs over the same transaction in one."""
    if not txs:
        raise RpcError(INVALID_PARAMETER, "Parameter 'txs' cannot be empty")
    return await to_thread(_combine, txs)


def _combine(texts: list[str]) -> str:
    try:
        return roles.combine([parse_psbt(text) for text in texts]).to_base64()
    except RuleError as error:
        raise RpcError(INVALID_PARAMETER, error.reason) from None


@method("finalizepsbt", SECTION)
async def finalize_psbt(node: Backend, psbt: Text, extract: Boolean = True) -> dict[str, Any]:
    """Finalise the inputs that have their signatures.

    Returns the transaction in ``hex`` if it is complete and ``extract`` asks for it, else the ``psbt``.
    """
    return await to_thread(_finalize, psbt, extract)


def _finalize(text: str, extract: bool) -> dict[str, Any]:
    final, refused = roles.finalise(parse_psbt(text))
    if refused or not extract:
        return {"psbt": final.to_base64(), "complete": not refused}
    return {"hex": roles.extract(final, verify=False).raw.hex(), "complete": True}


@method("utxoupdatepsbt", SECTION)
def utxo_update_psbt(node: Backend, psbt: Text) -> str:
    """Add what this node knows of the outputs that a PSBT spends, from the chain and the mempool."""
    updated = parse_psbt(psbt)
    for index, prevout in enumerate(updated.tx.prevouts):
        if not roles.is_final(updated, index):
            updated = _add_known(node, updated, index, prevout)
    return updated.to_base64()


def _add_known(node: Backend, psbt: Psbt, index: int, prevout: bytes) -> Psbt:
    place = node.find_transaction(prevout[:32])
    pending = node.mempool.get(prevout[:32])
    previous = None
    if place is not None:
        previous = find_block(node, place[0]).txs[place[1]]
    elif pending is not None:
        previous = pending.tx
    coin = node.coin(prevout)
    if coin is None and previous is not None:
        coin = pending_coin(previous, int.from_bytes(prevout[32:], "little"))
    try:
        if previous is not None:
            psbt = roles.add_utxo(psbt, index, previous=previous)
        if coin is not None:
            output = TxOut(coin_amount(coin), coin_script(coin))
            if roles.is_segwit_output(psbt, index, output):
                psbt = roles.add_utxo(psbt, index, output=output)
    except (DecodeError, RuleError) as error:
        raise RpcError(INVALID_PARAMETER, f"input {index}: {error}") from None
    return psbt


@method("analyzepsbt", SECTION)
async def analyze_psbt(node: Backend, psbt: Text) -> dict[str, Any]:
    """Return what every input lacks, which role is next, and fee and size as far as they are known."""
    return await to_thread(_analyze, psbt)


def _analyze(text: str) -> dict[str, Any]:
    parsed = parse_psbt(text)
    try:
        inputs = [_input_state(parsed, index) for index in range(len(parsed.inputs))]
    except RuleError as error:
        return {"next": "creator", "error": f"PSBT is not valid. {error}"}
    shape: dict[str, Any] = {"inputs": inputs} if inputs else {}
    estimate, fee = roles.estimate(parsed), fee_of(parsed)
    if fee is not None and fee < 0:
        return {"next": "creator", "error": "PSBT is not valid. Output amount greater than input amount"}
    if estimate is not None:
        shape["estimated_vsize"] = estimate.vsize
        if fee is not None:
            shape["estimated_feerate"] = coins(fee * 1000 // estimate.vsize)
    if fee is not None:
        shape["fee"] = coins(fee)
    shape["next"] = min([each["next"] for each in inputs], key=_ORDER.index, default="extractor")
    return shape


def _input_state(psbt: Psbt, index: int) -> dict[str, Any]:
    if roles.is_final(psbt, index):
        return {"has_utxo": _has_utxo(psbt, index), "is_final": True, "next": "extractor"}
    lacks = roles.missing_parts(psbt, index)
    state: dict[str, Any] = {"has_utxo": not lacks.utxo, "is_final": False}
    missing = _missing_shape(lacks)
    if missing:
        state["missing"] = missing
    if lacks.utxo or missing.keys() - {"signatures"}:
        state["next"] = "updater"
    else:
        state["next"] = "signer" if lacks.count else "finalizer"
    return state


def _has_utxo(psbt: Psbt, index: int) -> bool:
    try:
        roles.spent_output(psbt, index)
    except RuleError:
        return False
    return True


def _missing_shape(lacks: Missing) -> dict[str, Any]:
    found: dict[str, Any] = {
        "pubkeys": [each.hex() for each in lacks.pubkeys],
        "signatures": [each.hex() for each in lacks.signers],
        "redeemscript": lacks.redeem_script and lacks.redeem_script.hex(),
        "witnessscript": lacks.witness_script and lacks.witness_script.hex(),
    }
    return {name: value for name, value in found.items() if value}
