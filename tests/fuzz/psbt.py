"""Target of partially signed transactions: what parses goes through every role and shape."""

import json
from base64 import b64decode
from pathlib import Path

from consensus import psbt as roles
from consensus.coins import encode_coin
from consensus.errors import PeerFault
from consensus.params import AddressPrefixes
from consensus.psbt import Psbt
from consensus.script import verify_transaction
from node.rpc.encoding import encode
from node.rpc.psbt_shapes import psbt_shape
from tests.fuzz.runner import Target, ensure

VECTORS = Path(__file__).parents[1] / "vectors" / "bip174.json"
SECRETS = tuple(bytes(31) + bytes([number]) for number in range(1, 4))
PREFIXES = AddressPrefixes(111, 196, 239, "tb")


def samples() -> list[bytes]:
    vectors = json.loads(VECTORS.read_text())
    flow = vectors["workflow"]
    texts = [*vectors["valid"], flow["with_sighash"], flow["combined"], flow["finalised"]]
    return [b64decode(text) for text in texts]


def partially_signed() -> Target:
    def run(data: bytes) -> str:
        psbt = Psbt.parse(data)
        ensure(Psbt.parse(psbt.raw) == psbt, "the same again")
        ensure(Psbt.from_base64(psbt.to_base64()) == psbt, "the same in Base64")
        ensure(roles.combine([psbt, psbt]).tx == psbt.tx, "combined with itself")
        encode(psbt_shape(psbt, PREFIXES))
        for index in range(len(psbt.inputs)):
            try:
                roles.missing_parts(psbt, index)
            except PeerFault:
                continue
        roles.estimate(psbt)
        signed = roles.sign_all(psbt, SECRETS)
        ensure(signed.tx == psbt.tx, "signing leaves the transaction alone")
        final, refused = roles.finalise(signed)
        ensure(all(not roles.is_final(final, index) for index, _ in refused), "refused and final")
        if refused:
            return "incomplete"
        tx = roles.extract(final)
        spent = roles.spent_outputs(final)
        verify_transaction(tx, [encode_coin(1, False, out.value, out.script_pubkey) for out in spent])
        ensure(tx.vout == psbt.tx.vout and tx.prevouts == psbt.tx.prevouts, "another transaction")
        return "signed"

    return Target("partially_signed", samples(), run)


TARGETS = (partially_signed,)
