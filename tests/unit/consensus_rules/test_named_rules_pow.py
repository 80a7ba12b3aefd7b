"""Bitcoin's rules about time and maturity on a chain of proof of work: blocks that were really mined.

Its header times may run backwards, so locks look at the median of the last eleven (BIP113), and its blocks
may be reorganised away, so coinbases wait.
"""

from dataclasses import replace

import pytest

from consensus.assemble import assemble_template
from consensus.block import Block, BlockHeader
from consensus.block_rules import check_block
from consensus.connect import RuleEnv, connect_block
from consensus.errors import RuleError
from consensus.genesis import genesis_block, genesis_connected
from consensus.params import COIN, NO_BFT, PowParams
from consensus.pow.rules import median
from consensus.pow.target import target_of
from consensus.transaction import Transaction, TxIn, TxOut

FINAL, NOT_FINAL, SECONDS = 0xFFFFFFFF, 0xFFFFFFFE, 1 << 22
MATURITY = 3


class AllTimes:
    """Header times by height, as a node knows those of committed blocks."""

    def __init__(self):
        self.times = []

    def time_at(self, height):
        return self.times[height] if 0 <= height < len(self.times) else None


class PowWorld:
    def __init__(self, tools):
        rules = PowParams(0x207FFFFF, 0x207FFFFF, 10, 960, 100, 50 * COIN, 1000, 6)
        params = tools.make_params(coinbase_maturity_blocks=MATURITY)
        self.params = replace(
            params, engine="pow", bft=NO_BFT, pow=rules, energy=replace(params.energy, communities=())
        )
        self.script = tools.script_of(9)
        contracts = tools.ToyContracts()
        genesis = genesis_block(self.params, contracts)
        self.coins, self.state = tools.DictView({}), tools.DictView({})
        self.history = AllTimes()

        class Believing:
            def check(self, items):
                pass

        self.env = RuleEnv(self.params, genesis.hash, contracts, Believing(), self.history)
        self.apply(genesis_connected(self.params, contracts))
        self.purse = tools.Wallet(genesis.txs[0].txid + bytes(4), 1000 * COIN, tools.script_of(1))

    def apply(self, connected):
        for view, diff in ((self.coins, connected.coins), (self.state, connected.state)):
            for key, value in diff.items():
                if value is None:
                    view.data.pop(key, None)
                else:
                    view.data[key] = value
        self.tip = connected.tip
        self.history.times.append(connected.tip.time_s)

    def mine(self, txs=(), *, time_s=None):
        """Mine a block and append it; return what connecting it gave. Raises RuleError for bad ``txs``."""
        time_s = self.tip.time_s + 10 if time_s is None else time_s
        made = assemble_template(
            self.tip, txs, self.coins, self.state, self.env, time_s=time_s, payout_script=self.script
        )
        if made.refused:
            raise made.refused[0][1]
        block = made.block
        target, nonce = target_of(block.header.bits), 0
        while int.from_bytes(block.hash, "little") > target:
            nonce += 1
            raw = block.header.raw[:76] + nonce.to_bytes(4, "little")
            block = Block.build(BlockHeader.parse(raw), block.txs)
        check_block(block, self.params)
        connected = connect_block(block, self.tip, self.coins, self.state, self.env)
        self.apply(connected)
        return connected

    def refusal(self, tx, **given):
        with pytest.raises(RuleError) as caught:
            self.mine([tx], **given)
        return caught.value.code

    def spend(self, prevout, amount, *, sequence=FINAL, lock_time=0):
        out = TxOut(amount - 10_000, self.script)
        return Transaction.build(2, [TxIn(prevout, b"\x01\x01", sequence)], [out], lock_time)


@pytest.fixture
def hill(tools):
    hill = PowWorld(tools)
    for _ in range(12):
        hill.mine()
    return hill


def test_bip113_a_lock_looks_at_the_median_time_past_and_not_at_the_header(hill):
    past = median(hill.tip.times)
    assert past == hill.tip.time_s - 50  # blocks come every ten seconds: the sixth of eleven
    purse = hill.purse
    for lock_time in (past, past + 10, hill.tip.time_s):
        tx = hill.spend(purse.prevout, purse.amount, sequence=NOT_FINAL, lock_time=lock_time)
        # A header as far ahead as clocks allow does not help, which is why the BIP exists.
        assert hill.refusal(tx, time_s=hill.tip.time_s + 90) == "bad-txns-nonfinal"
    opened = hill.spend(purse.prevout, purse.amount, sequence=NOT_FINAL, lock_time=past - 1)
    hill.mine([opened])


def test_bip113_header_times_may_run_backwards_but_not_below_the_median(hill):
    past = median(hill.tip.times)
    with pytest.raises(ValueError, match="no block of time"):
        hill.mine(time_s=past)
    hill.mine(time_s=past + 1)
    assert hill.tip.time_s < hill.tip.times[-2]


def test_bip68_seconds_count_between_medians(hill):
    """From the median time past of the block before the coin's to that of the block before the spender's."""
    paid = hill.mine([hill.spend(hill.purse.prevout, hill.purse.amount)])
    height = hill.tip.height
    born = median(hill.history.times[height - 11 : height])
    prevout = paid.txids[1] + bytes(4)
    tx = hill.spend(prevout, hill.purse.amount - 10_000, sequence=SECONDS | 1)
    while median(hill.tip.times) < born + 512:
        assert hill.refusal(tx, time_s=hill.tip.time_s + 90) == "bad-txns-nonfinal"
        hill.mine(time_s=hill.tip.time_s + 37)
    hill.mine([tx])
    assert hill.tip.height > height + 11  # the coin's median had left the tip's window


def test_bip68_blocks(hill):
    paid = hill.mine([hill.spend(hill.purse.prevout, hill.purse.amount)])
    tx = hill.spend(paid.txids[1] + bytes(4), hill.purse.amount - 10_000, sequence=2)
    assert hill.refusal(tx) == "bad-txns-nonfinal"
    hill.mine()
    hill.mine([tx])


def test_coinbase_maturity(hill):
    mined = hill.mine()
    prevout = mined.txids[0] + bytes(4)
    tx = hill.spend(prevout, 50 * COIN)
    for _ in range(MATURITY - 1):
        assert hill.refusal(tx) == "bad-txns-premature-spend-of-coinbase"
        hill.mine()
    hill.mine([tx])
    # Allocations of genesis stand in a coinbase too, and were never mined.
    fresh = hill.spend(hill.purse.prevout, hill.purse.amount)
    hill.mine([fresh])
