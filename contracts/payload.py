"""Finding and decoding the payload of a transaction: stateless, one output at most."""

from typing import NamedTuple

from consensus import canonical
from consensus.errors import DecodeError, RuleError
from consensus.transaction import Transaction, TxOut
from contracts.limits import MAX_PAYLOAD_BYTES, MAX_PAYLOAD_DEPTH
from contracts.operations import (
    MARK,
    OP_PUSHDATA1,
    OP_PUSHDATA2,
    OP_PUSHDATA4,
    OP_RETURN,
    VERSION,
    Operation,
    from_array,
    payload_script,
)

_HEAD = len(MARK) + 1


class Payload(NamedTuple):
    """A decoded payload; ``value`` is what its output brings along, base units."""

    data: bytes
    value: int
    operation: Operation


def is_payload_script(script: bytes) -> bool:
    """Whether ``script`` is OP_RETURN and a push of any form whose data starts with ``WT``.

    Such an output is a payload or makes its transaction invalid; it is never a plain data carrier.
    """
    if len(script) < 4 or script[0] != OP_RETURN:
        return False
    at = _data_at(script[1])
    return at > 0 and script[at : at + len(MARK)] == MARK


def _data_at(opcode: int) -> int:
    """Return where the data of a push behind OP_RETURN begins, 0 if ``opcode`` pushes no bytes."""
    if 0 < opcode < OP_PUSHDATA1:
        return 2
    return {OP_PUSHDATA1: 3, OP_PUSHDATA2: 4, OP_PUSHDATA4: 6}.get(opcode, 0)


def payload_outputs(tx: Transaction) -> list[TxOut]:
    """Return the outputs that claim to carry a payload; a search for the mark spares most transactions."""
    if MARK not in tx.raw:
        return []
    return [output for output in tx.vout if is_payload_script(output.script_pubkey)]


def parse(tx: Transaction) -> Payload | None:
    """Decode the payload of ``tx``, None if it has none.

    Raises RuleError: bad-op-multiple, bad-op-coinbase, bad-op-push, bad-op-version,
    bad-op-encoding, bad-op-unknown, bad-op-field.
    """
    found = payload_outputs(tx)
    if not found:
        return None
    if len(found) > 1:
        raise RuleError("bad-op-multiple", f"{len(found)} payloads")
    if tx.is_coinbase:
        raise RuleError("bad-op-coinbase", "a coinbase carries no operation")
    output = found[0]
    data = _pushed(output.script_pubkey)
    return Payload(data, output.value, decode(data))


def _pushed(script: bytes) -> bytes:
    data = script[_data_at(script[1]) :]
    if len(data) > MAX_PAYLOAD_BYTES or payload_script(data) != script:
        raise RuleError("bad-op-push", "one push in its shortest form wanted, and nothing behind it")
    return data


def decode(data: bytes) -> Operation:
    """Decode a whole payload. Raises RuleError as ``parse`` does."""
    if data[:_HEAD] != MARK + bytes([VERSION]):
        raise RuleError("bad-op-version", f"version {data[len(MARK) : _HEAD].hex() or 'missing'}")
    try:
        array = canonical.decode(data[_HEAD:], max_depth=MAX_PAYLOAD_DEPTH)
    except DecodeError as error:
        raise RuleError("bad-op-encoding", error.reason or error.code) from error
    return from_array(array)
