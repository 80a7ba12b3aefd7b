"""Proofs of a light client: what decodes comes back, and only what the original proves is proven."""

from consensus.errors import RuleError
from consensus.light import check_proof, decode_proof, decode_steps, encode_proof, encode_steps, follow
from tests.fuzz.mutate import mutate_msgpack
from tests.fuzz.runner import Target, ensure
from tests.unit.consensus_bft.test_light import CHAIN, Ledger
from tests.unit.consensus_bft.test_light_rounds import FRESH, Rounds, replace


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


def light_steps() -> Target:
    rounds = Rounds(5, 10)
    skip = replace(rounds.steps[2], voters=rounds.signers(2))
    pages = [rounds.steps[:1], rounds.steps[:3], (skip, rounds.steps[3])]
    reached = {follow(rounds.trust(), page, **FRESH) for page in pages}
    reached |= {follow(rounds.trust(), page[:1], **FRESH) for page in pages}
    reached |= {rounds.trust(), follow(rounds.trust(), rounds.steps[:2])}

    def run(data: bytes) -> str:
        chain_id, steps = decode_steps(data)
        ensure(decode_steps(encode_steps(chain_id, steps)) == (chain_id, steps), "it comes back")
        try:
            found = follow(rounds.trust(), steps, **FRESH)
        except RuleError as error:
            return error.code
        ensure(found in reached, "nothing else is trusted")
        return "followed"

    return Target("light_steps", [encode_steps(CHAIN, page) for page in pages], run, mutate_msgpack())


TARGETS = (light_proof, light_steps)
