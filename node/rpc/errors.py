"""JSON-RPC error numbers, as Bitcoin Core assigns them (rpc/protocol.h), and the way from our
coded errors to them."""

from consensus.errors import DecodeError, PeerFault, RuleError

INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603
PARSE_ERROR = -32700

MISC_ERROR = -1
TYPE_ERROR = -3
INVALID_ADDRESS_OR_KEY = -5
INVALID_PARAMETER = -8
NOT_CONNECTED = -9
IN_INITIAL_DOWNLOAD = -10
DATABASE_ERROR = -20
DESERIALIZATION_ERROR = -22
VERIFY_ERROR = -25
VERIFY_REJECTED = -26
VERIFY_ALREADY_IN_CHAIN = -27

MISSING_INPUTS = "bad-txns-inputs-missingorspent"
ALREADY_IN_CHAIN = ("txn-already-known", "txn-already-confirmed")
MAX_FEE_EXCEEDED = "max-fee-exceeded"
ALREADY_IN_MEMPOOL = "txn-already-in-mempool"


class RpcError(PeerFault):
    """An error for the client: ``number`` is the JSON-RPC error code, ``reason`` the message."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"rpc{number}", message)
        self.number = number


def rpc_error(fault: PeerFault) -> RpcError:
    """Return what the client is told of ``fault``."""
    if isinstance(fault, RpcError):
        return fault
    if isinstance(fault, DecodeError):
        return RpcError(DESERIALIZATION_ERROR, f"TX decode failed. {fault}")
    if isinstance(fault, RuleError):
        if fault.code == MISSING_INPUTS:
            return RpcError(VERIFY_ERROR, fault.code)
        if fault.code in ALREADY_IN_CHAIN:
            return RpcError(VERIFY_ALREADY_IN_CHAIN, "Transaction outputs already in utxo set")
        return RpcError(VERIFY_REJECTED, str(fault))
    return RpcError(MISC_ERROR, str(fault))
