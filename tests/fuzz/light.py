"""Proofs of a light client: what decodes comes back, and only what the original proves is proven."""

from consensus.errors import RuleError
from consensus.light import check_proof, decode_proof, encode_proof
from tests.fuzz.mutate import mutate_msgpack
from tests.fuzz.runner import Target, ensure
from tests.unit.consensus_bft.test_light import Ledger


def light_proof() -> Target:
    ledger = Ledger(blocks=12, length=4)
    proofs = [ledger.proof(2, links=1), ledger.proof(11), ledger.proof(3, anchor=9)]
    proven = {(proof.tx.txid, proof.height) for proof in proofs}

    def run(data: bytes) -> str:
        proof = decode_proof(data)
        ensure(decode_proof(encode_proof(proof)) == proof, "it comes back")
        try:
            found = check_proof(ledger.trust(), proof)
        except RuleError as error:
            return error.code
        ensure((found.tx.txid, found.height) in proven, "nothing else is proven")
        return "proven"

    return Target("light_proof", [encode_proof(proof) for proof in proofs], run, mutate_msgpack())


TARGETS = (light_proof,)
