"""Is what a dead node left the state that its chain leads to? Judged on a copy, by a replay from genesis.

Two looks: at LevelDB as it lies there, before anything is mended, and at the store as a start opens it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from consensus.bft.certificates import check_qc
from consensus.bft.codec import decode_qc
from consensus.bft.config import SCHNORR, Electorate, VoterSet, genesis_base
from consensus.bft.types import Kind as VoteKind
from consensus.block import Block
from consensus.chain import Connected
from consensus.genesis import genesis_block
from consensus.params import ChainParams
from consensus.rounds import Round
from consensus.undo import decode_undo
from contracts.api import EnergyContracts
from node.chainstate import ChainState
from node.pow_driver import restore_engine
from node.sigcheck import SignatureVerifier
from storage import schema
from storage.follower import Follower
from storage.index import Index
from storage.indexes import AddressIndex
from storage.store import ChainStore

CACHE_BYTES = 4 << 20


@dataclass(frozen=True)
class Raw:
    """LevelDB as it lies there: the places of tip and coins, the coins, the contract state."""

    height: int = -1
    coins_height: int = -1
    coins: dict[bytes, bytes] = field(default_factory=dict)
    state: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What the store holds, once it was found to be right.

    ``blocks`` are the block hashes by height, ``bodies`` all blocks that can be read, ``branches`` on a
    proof-of-work chain those that the engine would take up at a start, ``marks`` what is held for invalid.
    """

    blocks: list[bytes]
    bodies: frozenset[bytes]
    branches: frozenset[bytes]
    marks: frozenset[bytes]
    digest: str
    pruned_below: int

    @property
    def height(self) -> int:
        return len(self.blocks) - 1


class Judge:
    """Judges stores of one chain. ``blocks`` has raw blocks by hash, for heights that a store pruned."""

    def __init__(self, params: ChainParams) -> None:
        self.params = params
        self.contracts = EnergyContracts(params)
        self.genesis = genesis_block(params, self.contracts)
        self.blocks: dict[bytes, bytes] = {}

    def judge(self, path: Path, *, address_index: bool = False) -> Found:
        """Judge a data directory, which this changes. AssertionError says what is wrong."""
        raw = _look(path)
        with TemporaryDirectory(prefix="wattd-judge-") as folder:
            verifier = SignatureVerifier(self.contracts)
            live = ChainStore.open(path, chain_id=self.genesis.hash, cache_bytes=CACHE_BYTES)
            fresh = ChainStore.open(Path(folder), chain_id=self.genesis.hash, cache_bytes=CACHE_BYTES)
            try:
                followers = [self._follow(store) for store in (live, fresh) if address_index]
                chain = self._chain(live, verifier)
                self._replay(live, self._chain(fresh, verifier), raw)
                self._compare(live, fresh)
                for follower in followers:
                    while follower.step():
                        pass
                if followers:
                    _compare_addresses(live, fresh)
                return self._found(live, chain)
            finally:
                verifier.close()
                fresh.close()
                live.close()

    def _follow(self, store: ChainStore) -> Follower:
        return Follower.open(store, AddressIndex(), wanted=True)

    def _chain(self, store: ChainStore, verifier: SignatureVerifier) -> ChainState:
        trial = partial(self.contracts.open, metered=False)
        return ChainState(store, self.genesis, self.params, self.contracts, trial, verifier)

    def _replay(self, live: ChainStore, chain: ChainState, raw: Raw) -> None:
        """Execute the active chain of ``live`` in a fresh store, with all signatures, and hold it against."""
        for height in range(live.height + 1):
            block_hash = live.block_hash(height)
            assert block_hash is not None, f"no block hash at {height}"
            body = live.body(block_hash)
            if body is None:
                assert height < live.pruned_below, f"no body at {height}"
                body = self.blocks[block_hash]
            block = Block.parse(body)
            assert block.hash == block_hash, f"the body at {height} is another block's"
            assert live.header(height) == block.header.raw, f"the header at {height}"
            assert live.height_of(block_hash) == height
            if height:
                connected = chain.execute(block, chain.tip.block_hash)
                self._block(live, height, block, connected, chain.round)
                chain.commit(block_hash, live.certificate(height))
                self._end_of_round(live, height, chain)
            if height == raw.coins_height:
                assert dict(chain.store.iterate_coins()) == raw.coins, f"LevelDB's coins at {height}"
            if height == raw.height:
                assert dict(chain.store.state_view.scan(b"")) == raw.state, f"LevelDB's state at {height}"
        assert max(raw.height, raw.coins_height) <= live.height

    def _end_of_round(self, live: ChainStore, height: int, chain: ChainState) -> None:
        """What proves the end of a round is there for each, pruned or not, and nowhere else."""
        kept, round_ = live.round_end(height), chain.round
        ended = self.params.pow is None and round_.number > 0 and round_.first_height == height + 1
        assert (kept is not None) == ended, f"what proves the end of a round at {height}"
        if kept is not None and height >= live.pruned_below:
            assert kept == chain.store.round_end(height), f"what proves the end of the round at {height}"

    def _block(
        self, live: ChainStore, height: int, block: Block, connected: Connected, signing: Round
    ) -> None:
        """Hold what is stored beside a block against what executing it gave."""
        if height < live.pruned_below:
            return
        undo = live.undo(block.hash)
        assert undo is not None, f"no undo data at {height}"
        assert decode_undo(undo) == (connected.coins_undo, connected.state_undo), f"undo data at {height}"
        for at, tx in enumerate(block.txs):
            assert live.find_tx(tx.txid) == (height, at), f"transaction {at} of {height} by its id"
        if self.params.pow is None:
            certificate, chain_id = live.certificate(height), self.genesis.hash
            assert certificate is not None, f"no certificate at {height}"
            voters = VoterSet.of(signing.validator_set)
            electorate = Electorate(chain_id, voters, genesis_base(chain_id), SCHNORR)
            check_qc(electorate, decode_qc(certificate), VoteKind.COMMIT)

    def _compare(self, live: ChainStore, fresh: ChainStore) -> None:
        assert live.tip == fresh.tip, "the tip, with its effects digest"
        assert dict(live.iterate_coins()) == dict(fresh.iterate_coins()), "unspent outputs"
        assert list(live.state_view.scan(b"")) == list(fresh.state_view.scan(b"")), "contract state"
        assert live.header(live.height + 1) is None
        for height in range(live.height + 1):
            block_hash = live.block_hash(height) or b""
            roots = {store.state_roots.get(height, block_hash) for store in (live, fresh)} - {None}
            assert len(roots) <= 1, f"the state root at {height}"
        for prevout, coin in fresh.iterate_coins():
            assert live.coin(prevout) == coin

    def _found(self, live: ChainStore, chain: ChainState) -> Found:
        hashes = [live.block_hash(height) or b"" for height in range(live.height + 1)]
        active = {block_hash for block_hash in hashes if live.has_body(block_hash)}
        bodies = frozenset(active.union(block_hash for _, block_hash in live.bodies_off_chain(-1)))
        branches: frozenset[bytes] = frozenset()
        if self.params.pow is not None:
            tree = restore_engine(chain).tree
            branches = frozenset(each for each in tree.order if each not in tree.invalid)
        return Found(
            hashes,
            bodies,
            branches,
            frozenset(live.headers.marks()),
            coins_digest(live.iterate_coins()),
            live.pruned_below,
        )


def coins_digest(coins: Iterator[tuple[bytes, bytes]]) -> str:
    """The ``hash_serialized`` of gettxoutsetinfo, from its definition."""
    inner = sha256()
    for prevout, coin in coins:
        inner.update(prevout + len(coin).to_bytes(4, "little") + coin)
    return sha256(inner.digest()).digest()[::-1].hex()


def _check_positions(index: Index, path: Path) -> None:
    """Whatever LevelDB knows of a record, its file is there: pruning forgets the records first."""
    present = {file.name for file in (path / "blocks").glob("seg-*.dat")}
    for _, value in index.scan(schema.BLOCK):
        records = schema.decode_block(value)
        for position in records[1:]:
            if isinstance(position, schema.Position):
                name = f"seg-{position.segment:05d}.dat"
                assert name in present, (
                    f"LevelDB knows of records of block {records.height} in {name}, which is gone"
                )


def _look(path: Path) -> Raw:
    """Read LevelDB as it is; an absent or empty one holds nothing."""
    if not (path / "index").is_dir():
        return Raw()
    index = Index.open(path / "index", CACHE_BYTES)
    try:
        _check_positions(index, path)
        tip, coins_tip = index.get(schema.TIP), index.get(schema.COINS_TIP)
        return Raw(
            -1 if tip is None else schema.decode_tip(tip)[0],
            -1 if coins_tip is None else schema.decode_tip(coins_tip)[0],
            dict(index.scan(schema.COIN)),
            dict(index.scan(schema.STATE)),
        )
    finally:
        index.close()


def _entries(store: ChainStore, space: bytes) -> Mapping[bytes, bytes]:
    with store.side.snapshot() as view:
        return dict(view.scan_from(space, bytes([space[0] + 1])))


def _compare_addresses(live: ChainStore, fresh: ChainStore) -> None:
    """The address index; of pruned blocks it has the unspent outputs, and no more of their history."""
    assert _entries(live, schema.UNSPENT) == _entries(fresh, schema.UNSPENT), "unspent outputs by address"
    mine, theirs = _entries(live, schema.HISTORY), _entries(fresh, schema.HISTORY)
    kept = {
        key: value for key, value in theirs.items() if int.from_bytes(key[33:37], "big") >= live.pruned_below
    }
    assert {key: mine.get(key) for key in kept} == kept, "history by address"
    assert mine.items() <= theirs.items(), "history by address of blocks that are not on the chain"
