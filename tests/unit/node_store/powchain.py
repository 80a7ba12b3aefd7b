"""Data directories of a proof-of-work chain that was mined and reorganised for real."""

from dataclasses import replace
from functools import partial

from consensus.block import Block, BlockHeader
from consensus.chainfile import render_chain_file
from consensus.errors import RuleError
from consensus.genesis import genesis_block
from consensus.hashes import hash160
from consensus.merkle import txid_root
from consensus.params import COIN, Allocation, PowParams
from consensus.pow.target import target_of, work_of
from consensus.script.templates import p2pkh
from consensus.transaction import Transaction, TxIn, TxOut, outpoint
from contracts.api import EnergyContracts
from node.chainstate import ChainState
from node.sigcheck import SignatureVerifier
from node.testnet import TEST_LEDGER, ChainPlan, Founder
from storage.headers import HeaderRecord
from storage.store import ChainStore

SPACING = 10
ALLOCATIONS = 12


class PowChain:
    """Parameters whose blocks take two hashes. ``rich`` owns the genesis coins and signs for them."""

    def __init__(self, rich, keys, *, interval=0, checkpoints=()):
        self.rich = rich
        rules = PowParams(
            bits=0x207FFFFF,
            max_target=0x207FFFFF,
            spacing_s=SPACING,
            half_life_s=96 * SPACING,
            future_limit_s=10 * SPACING,
            subsidy=50 * COIN,
            subsidy_halving_blocks=1000,
            reorg_warn_depth=6,
            checkpoints=tuple(checkpoints),
        )
        plan = ChainPlan(
            name="hill",
            ledger=replace(TEST_LEDGER, coinbase_maturity_blocks=2, snapshot_interval_blocks=interval),
            allocations=(Allocation(rich.script, COIN),) * ALLOCATIONS,
            pow=rules,
        )
        self.params = plan.params([(Founder("grid", "grid-operator"), keys)])
        self.genesis = genesis_block(self.params, EnergyContracts(self.params))

    def coin(self, number):
        return outpoint(self.genesis.txs[0].txid, 1 + number)

    def write_datadir(self, path):
        path.mkdir(parents=True)
        (path / "chain.toml").write_text(render_chain_file(self.params))
        return path


class PowNode:
    """A chain state over a store that follows the branch of most work, as the driver makes it do."""

    def __init__(self, path, chain):
        self.path, self.given = path, chain
        contracts = EnergyContracts(chain.params)
        self.store = ChainStore.open(path, chain_id=chain.genesis.hash)
        self.verifier = SignatureVerifier(contracts)
        trial = partial(contracts.open, metered=False)
        self.chain = ChainState(self.store, chain.genesis, chain.params, contracts, trial, self.verifier)

    def close(self):
        self.verifier.close()
        self.store.close()

    def pay(self, number, amount=COIN // 2):
        """Spend genesis coin ``number``, half of it back."""
        rich = self.given.rich
        outputs = [TxOut(amount, p2pkh(hash160(b"%d" % number))), TxOut(COIN - amount - 2000, rich.script)]
        return rich.sign(Transaction.build(2, [TxIn(self.given.coin(number), b"")], outputs))

    def mine(self, txs=(), *, salt=0, step_s=SPACING):
        """Return a solved block on the tip."""
        tip = self.chain.tip
        script = p2pkh(hash160(b"miner %d" % salt))
        made = self.chain.template(list(txs), tip.time_s + step_s, script, salt.to_bytes(4, "big"))
        assert made.refused == []
        return solved(made.block)

    def note(self, block):
        """Keep the header and the body, as a driver does when they arrive."""
        parent = self.store.headers.get(block.header.prev_hash)
        work = parent.work + work_of(block.header.bits)
        record = HeaderRecord(block.hash, parent.height + 1, block.header.raw, work)
        self.store.headers.put([record])
        self.store.put_body(block.hash, record.height, block.raw)
        return record

    def connect(self, block):
        """Put a block on the tip."""
        self.note(block)
        self.chain.execute(block, self.chain.tip.block_hash)
        self.chain.commit(block.hash, None)
        return block

    def extend(self, count, salt=0, txs=()):
        made = []
        for at in range(count):
            made.append(self.connect(self.mine(txs if at == 0 else (), salt=salt)))
        return made

    def back(self, count):
        """Take ``count`` blocks off the tip."""
        return [self.chain.disconnect() for _ in range(count)]

    @property
    def work(self):
        return self.store.headers.get(self.chain.tip.block_hash).work


def solved(block):
    """Return the block with a nonce that meets its target."""
    target, nonce = target_of(block.header.bits), 0
    while True:
        header = BlockHeader.parse(block.header.raw[:76] + nonce.to_bytes(4, "little"))
        if int.from_bytes(header.hash, "little") <= target:
            return Block.build(header, block.txs)
        nonce += 1


def unsolved(header):
    """Return the header with a nonce that does not meet its target."""
    target, nonce = target_of(header.bits), 0
    while True:
        other = BlockHeader.parse(header.raw[:76] + nonce.to_bytes(4, "little"))
        if int.from_bytes(other.hash, "little") > target:
            return other
        nonce += 1


def greedy(block):
    """Return a solved block whose coinbase takes one unit too much."""
    coinbase = block.txs[0]
    first = coinbase.vout[0]._replace(value=coinbase.vout[0].value + 1)
    outputs = (first, *coinbase.vout[1:])
    txs = [Transaction.build(coinbase.version, coinbase.vin, outputs, 0), *block.txs[1:]]
    raw = block.header.raw
    header = BlockHeader.parse(raw[:36] + txid_root(txs)[0] + raw[68:])
    return solved(Block.build(header, txs))


def refused(node, block):
    """Return the code by which a block on the tip is refused."""
    try:
        node.chain.execute(block, node.chain.tip.block_hash)
    except RuleError as fault:
        return fault.code
    return None


def stormy(path, chain):
    """Make a data directory whose chain has been reorganised twice; return it.

    Heights 1 to 6 of a first branch; 3 to 8 of a second one take over; the third, 8 to 14, wins. At the
    end there are one stored block that was never connected and one that is marked as invalid.
    """
    chain.write_datadir(path)
    node = PowNode(path, chain)
    node.extend(2, txs=[node.pay(0)])
    node.extend(4, salt=1, txs=[node.pay(1), node.pay(2)])
    node.back(4)
    node.extend(6, salt=2, txs=[node.pay(2)])
    node.back(1)
    node.extend(7, salt=3, txs=[node.pay(3), node.pay(4)])
    side = node.mine(salt=9)
    node.connect(node.mine(salt=4))
    node.note(side)
    bad = node.mine(salt=5)
    node.note(bad)
    node.store.headers.mark(bad.hash, "invalidated")
    node.store.sync()
    node.close()
    return path
