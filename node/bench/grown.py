"""Chains of certified blocks made without an engine, for nodes that are to serve or to load them."""

from collections.abc import Iterable
from pathlib import Path

from consensus.bft.certificates import bitmap_of
from consensus.bft.codec import encode_qc
from consensus.bft.config import Electorate, VoterSet, genesis_base
from consensus.bft.shown import Vote
from consensus.bft.statements import block_vote
from consensus.bft.types import QC, Kind
from consensus.errors import LocalFault
from consensus.genesis import genesis_block
from consensus.keys import sign_schnorr
from consensus.transaction import Transaction
from consensus.validators import initial_set
from contracts.api import EnergyContracts
from node.chainstate import ChainState, Trusting
from node.testnet import Testnet
from storage.files import Files
from storage.store import ChainStore

TERM = 1


class Unsynced(Files):
    """Files that nobody waits for: what a benchmark builds must not outlive a power cut."""

    def sync(self, fd: int) -> None:
        """Leave it to the system."""


def grow(net: Testnet, datadir: Path, blocks: Iterable[list[Transaction]]) -> None:
    """Build a block of each list in ``datadir``, certified by the only validator of ``net``."""
    contracts = EnergyContracts(net.params)
    genesis = genesis_block(net.params, contracts)
    voters = VoterSet.of(initial_set(net.params))
    electorate = Electorate(genesis.hash, voters, genesis_base(genesis.hash))
    secret = net.nodes[0].keys.vote.reveal()
    with ChainStore.open(datadir, chain_id=genesis.hash, files=Unsynced()) as store:
        chain = ChainState(store, genesis, net.params, contracts, contracts.open, Trusting())
        for txs in blocks:
            block_hash = _build(chain, txs)
            height = chain.tip.height + 1
            signature = sign_schnorr(secret, block_vote(electorate, Vote.COMMIT, TERM, height, block_hash))
            qc = QC(Kind.COMMIT, 0, TERM, height, block_hash, bitmap_of([0], 1), (signature,))
            chain.commit(block_hash, encode_qc(qc))


def _build(chain: ChainState, txs: list[Transaction]) -> bytes:
    """Build a block on the tip and return its hash. Raises LocalFault if it does not take all ``txs``."""
    made = chain.build(
        chain.tip.block_hash,
        lambda _: txs,
        time_s=chain.tip.time_s,
        term=TERM,
        proposer=0,
        last_bitmap=b"\x00",
    )
    if len(made.block.txs) != len(txs) + 1:
        raise LocalFault("bench-refused", str(made.refused[:1]))
    return made.block.hash
