"""Proofs made from what a node stores, however many blocks one of its certificates covers."""

from types import SimpleNamespace

import pytest

from consensus.bft.codec import decode_qc, encode_qc
from consensus.block import Block
from consensus.errors import RuleError
from consensus.light import check_proof, decode_proof, encode_proof
from consensus.light_limits import MAX_LINKS
from node.proofs import make_proof
from tests.unit.consensus_bft.test_light import CHAIN, Ledger

BLOCKS = 13


class Store:
    """A chain where only every ``apart``-th block has a certificate of its own."""

    chain_id = CHAIN

    def __init__(self, apart, pruned=()):
        self.ledger = Ledger(BLOCKS)
        self.apart = apart
        self.pruned = pruned

    def block(self, height):
        if height in self.pruned:
            return None
        return Block(b"", self.ledger.header(height), self.ledger.txs[height - 1])

    def header(self, height):
        return self.ledger.header(height)

    def block_hash(self, height):
        return CHAIN if height == 0 else self.ledger.header(height).hash

    def certificate(self, height):
        above = -(-height // self.apart) * self.apart
        return encode_qc(self.ledger.qc(above)) if above <= BLOCKS else None


@pytest.mark.parametrize("apart", [1, 2, MAX_LINKS + 1, MAX_LINKS + 2, 12])
@pytest.mark.parametrize("height", [1, 2, 8, 12])
def test_a_proof_holds_wherever_the_certificate_is(apart, height):
    store = Store(apart)
    shown = check_proof(
        store.ledger.trust(), decode_proof(encode_proof(make_proof(store, height, height % 5)))
    )
    assert (shown.height, shown.header) == (height, store.header(height))
    assert shown.tx == store.ledger.txs[height - 1][height % 5]


@pytest.mark.parametrize("anchor", [3, 4, 7, 12])
def test_an_anchor_with_a_far_certificate_is_moved_up_to_it(anchor):
    store = Store(6)
    proof = make_proof(store, 3, 1, anchor)
    shown = check_proof(store.ledger.trust(), decode_proof(encode_proof(proof)))
    assert shown.height == 3
    assert proof.certified.height in (anchor, 6, 12)


class Decreed(Store):
    """Block 3 is final by a restart of the operators: its certificate has no signatures."""

    def certificate(self, height):
        found = super().certificate(height)
        return encode_qc(decode_qc(found)._replace(bitmap=b"", sigs=())) if height == 3 else found

    def tip(self):
        return SimpleNamespace(height=self.top)


def test_a_block_that_operators_made_final_is_proven_by_a_later_one():
    store = Decreed(1)
    store.top = BLOCKS
    proof = make_proof(store, 3, 1)
    assert proof.certified.height == BLOCKS
    assert check_proof(store.ledger.trust(), decode_proof(encode_proof(proof))).height == 3
    store.top = 3
    with pytest.raises(RuleError, match="proof-unavailable"):
        make_proof(store, 3, 1)


def test_a_far_certificate_over_a_pruned_block_is_told():
    with pytest.raises(RuleError, match="proof-unavailable"):
        make_proof(Store(12, pruned=(12,)), 3, 1)
