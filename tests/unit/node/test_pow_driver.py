"""The proof-of-work driver: mining, following, reorganisation with full undo, the operator's commands."""

import asyncio
import shutil
from dataclasses import replace

import pytest

from consensus.block import Block, BlockHeader
from consensus.errors import RuleError
from consensus.merkle import txid_root
from consensus.transaction import Transaction, outpoint
from contracts.operations import Deposit
from node.pow_driver import restore_engine
from node.testnet import TEST_POW
from p2p.messages import Body, GetData, Headers
from tests.unit.node.conftest import TOKEN, FakeClock, operate, pay
from tests.unit.node.pownet import Hill, PowNode, replayed


@pytest.fixture
def hill():
    return Hill()


@pytest.fixture
async def make(tmp_path):
    nodes = []

    def build(number, hill, clock=None, path=None):
        nodes.append(PowNode(number, path or tmp_path / f"node-{number}", hill, clock))
        return nodes[-1]

    yield build
    for node in nodes:
        await node.close()
        assert not node.errors


async def accept(node, *txs):
    for tx in txs:
        await node.admission.submit(tx)


async def test_a_mined_block_confirms_what_waits_and_reaches_the_peers(make, hill):
    miner, other = make(1, hill), make(2, hill)
    miner.meet(other)
    tx = pay(hill.coin(0))
    await accept(miner, tx)
    (block,) = await miner.mine()
    assert tx in block.txs
    assert len(miner.mempool) == 0
    await other.until(lambda: other.height == 1)
    assert other.contents() == miner.contents()
    assert await other.driver.submit_block(block) == "duplicate"


async def test_the_longer_of_two_branches_wins_and_everything_else_is_undone(make, hill, tmp_path):
    clock = FakeClock()
    one, two = make(1, hill, clock), make(2, hill, clock)
    one.meet(two)
    await one.mine(3)
    await two.until(lambda: two.height == 3)
    one.part(two)
    # Both sides spend coin 0, to different owners; coin 1 is spent on the losing side alone, then its change.
    only_here = pay(hill.coin(1))
    child = pay(outpoint(only_here.txid, 1), amount=1_000_000, have=TOKEN // 2 - 1_000)
    deposit = operate(hill.coin(2), Deposit(), value=70_000)
    await accept(one, pay(hill.coin(0)), only_here, deposit)
    await one.mine(1, extra=b"\x01")
    assert len(dict(one.store.state_view.scan(b""))) > len(dict(two.store.state_view.scan(b"")))
    await accept(one, child)
    await one.mine(1, extra=b"\x02")
    rival = pay(hill.coin(0), amount=TOKEN // 4)
    await accept(two, rival)
    await two.mine(4, extra=b"\x03")
    assert (one.height, two.height) == (5, 7)
    one.meet(two)
    await one.until(lambda: one.height == 7)
    assert one.contents() == two.contents() == await replayed(two, tmp_path / "fresh")
    assert len(one.disconnected) == 2
    # What only the losing side had confirmed waits again, the loser of the double spend does not.
    await one.until(lambda: len(one.mempool) == 3)
    waiting = {entry.tx.txid for entry in one.mempool.entries()}
    assert waiting == {only_here.txid, child.txid, deposit.txid}
    await one.mine()
    assert len(one.mempool) == 0
    await two.until(lambda: two.height == 8)


async def test_of_branches_with_equal_work_the_first_seen_stays(make, hill):
    clock = FakeClock()
    one, two = make(1, hill, clock), make(2, hill, clock)
    (first,) = await one.mine(extra=b"\x01")
    (second,) = await two.mine(extra=b"\x02")
    one.meet(two)
    await one.until(lambda: one.driver.knows(second.hash) and two.driver.knows(first.hash))
    assert (one.chain.tip.block_hash, two.chain.tip.block_hash) == (first.hash, second.hash)
    statuses = {tip.block_hash: tip.status for tip in one.driver.chain_tips()}
    assert statuses[first.hash] == "active"
    await one.mine()
    await two.until(lambda: two.height == 2)
    assert two.contents() == one.contents()


async def test_invalidate_and_reconsider_move_the_chain(make, hill, tmp_path):
    node = make(1, hill)
    blocks = await node.mine(5)
    before = node.contents()
    await node.driver.invalidate(blocks[2].hash)
    assert node.height == 2
    assert node.contents() == await replayed(node, tmp_path / "fresh")
    assert await node.driver.submit_block(blocks[2]) == "duplicate-invalid"
    await node.restart()  # the mark outlives the process
    assert node.height == 2
    await node.driver.reconsider(blocks[4].hash)
    assert node.contents() == before
    for command in (node.driver.invalidate, node.driver.reconsider, node.driver.precious):
        with pytest.raises(RuleError) as caught:
            await command(bytes(32))
        assert caught.value.code == "unknown-block"
    with pytest.raises(RuleError) as caught:
        await node.driver.invalidate(hill.genesis.hash)
    assert caught.value.code == "bad-genesis-mark"


async def test_a_precious_block_wins_its_tie(make, hill):
    clock = FakeClock()
    one, two = make(1, hill, clock), make(2, hill, clock)
    (first,) = await one.mine(extra=b"\x01")
    (second,) = await two.mine(extra=b"\x02")
    assert await one.driver.submit_block(second) == "inconclusive"
    await one.driver.precious(second.hash)
    assert one.chain.tip.block_hash == second.hash
    await one.driver.precious(first.hash)
    assert one.chain.tip.block_hash == first.hash


def remade(block, txs=None, **fields):
    """Return the block with other transactions or header fields, and a nonce that fits."""
    txs = tuple(txs or block.txs)
    old = block.header
    given = {
        "version": old.version, "prev_hash": old.prev_hash, "merkle_root": txid_root(txs)[0],
        "time_s": old.time_s, "bits": old.bits,
    } | fields  # fmt: skip
    for nonce in range(1 << 16):
        header = BlockHeader.build(nonce=nonce, **given)
        if int.from_bytes(header.hash, "little") < 1 << 254:
            return Block.build(header, txs)
    raise AssertionError("no nonce")


async def test_blocks_that_break_a_rule_are_answered_with_its_code(make, hill):
    node = make(1, hill)
    node.clock.time_s += 10
    block = node.solve()
    coinbase = block.txs[0]
    greedy = Transaction.build(
        coinbase.version,
        coinbase.vin,
        (coinbase.vout[0]._replace(value=coinbase.vout[0].value + 1), *coinbase.vout[1:]),
        0,
    )
    bad = remade(block, [greedy])
    assert await node.driver.submit_block(bad) == "bad-cb-amount"
    assert await node.driver.submit_block(bad) == "duplicate-invalid"
    assert await node.driver.submit_block(remade(block, bits=0x207EFFFF)) == "bad-diffbits"
    assert await node.driver.submit_block(remade(block, time_s=hill.params.genesis_time_s)) == "time-too-old"
    late = remade(block, time_s=node.clock.time_s + TEST_POW.future_limit_s + 1)
    assert await node.driver.submit_block(late) == "time-too-new"
    assert await node.driver.submit_block(remade(block, prev_hash=b"\x07" * 32)) == "prev-blk-not-found"
    assert await node.driver.submit_block(Block.build(block.header, (greedy,))) == "bad-txnmrklroot"
    assert await node.driver.submit_block(block) is None
    assert node.height == 1
    with pytest.raises(RuleError) as caught:
        await node.driver.submit_header(bad.header)
    assert caught.value.code == "duplicate-invalid"


async def test_a_peers_invalid_block_is_left_and_charged_and_stays_marked(make, hill):
    clock = FakeClock()
    liar, node = make(1, hill, clock), make(2, hill, clock)
    await liar.mine(1)
    liar.meet(node)
    await node.until(lambda: node.height == 1)
    liar.part(node)
    clock.time_s += 10
    block = liar.solve()
    coinbase = block.txs[0]
    paid = coinbase.vout[0]
    greedy = Transaction.build(
        coinbase.version, coinbase.vin, (paid._replace(value=paid.value + 1), *coinbase.vout[1:]), 0
    )
    bad = remade(block, [greedy])
    node.wire.links[1] = liar
    node.peering.on_peer_ready(node.peer(liar))
    node.driver.take_headers(1, [bad.header])
    node.peering._sources[1].asked[bad.hash] = clock.ms
    node.peering.on_message(node.peer(liar), Body(bad.hash, bad.raw))
    await node.until(lambda: node.wire.charged)
    assert node.wire.charged == [(1, "bad-cb-amount")]
    assert node.height == 1
    await node.restart()
    statuses = {tip.block_hash: tip.status for tip in node.driver.chain_tips()}
    assert statuses[bad.hash] == "invalid"


async def test_a_body_that_is_not_the_headers_marks_nothing(make, hill):
    clock = FakeClock()
    miner, node, liar = make(1, hill, clock), make(2, hill, clock), make(3, hill, clock)
    (block,) = await miner.mine()
    node.wire.links[3] = liar
    liar.peering.on_message = lambda peer, message: None
    node.peering.on_peer_ready(node.peer(liar))
    node.driver.take_headers(3, [block.header])
    asked = [message for _, message in node.wire.sent if isinstance(message, GetData)]
    assert [message.hashes for message in asked] == [[block.hash]]
    twice = Block.build(block.header, (*block.txs, *block.txs))
    with pytest.raises(RuleError) as caught:
        node.peering.on_message(node.peer(liar), Body(block.hash, twice.raw))
    assert caught.value.code in ("bad-txns-duplicate", "bad-txnmrklroot")
    node.meet(miner)
    clock.ms += 60_000
    clock.time_s += 60
    node.driver._on_tick()
    await node.until(lambda: node.height == 1)


async def test_a_peer_that_owes_bodies_is_passed_over(make, hill):
    clock = FakeClock()
    silent, miner, node = make(1, hill, clock), make(2, hill, clock), make(3, hill, clock)
    await miner.mine(40)
    silent.meet(miner)
    await silent.until(lambda: silent.height == 40)
    silent.part(miner)
    silent.wire.drop = lambda message: isinstance(message, Body)
    node.meet(silent)
    await node.until(lambda: node.driver.headers_height == 40)
    node.meet(miner)
    await node.until(lambda: any(source.asked for source in node.peering._sources.values()))
    clock.ms += 60_000
    await node.until(lambda: node.height == 40)
    assert node.contents() == miner.contents()


async def test_a_long_chain_is_fetched_in_windows(make, hill):
    clock = FakeClock()
    miner, node = make(1, hill, clock), make(2, hill, clock)
    await miner.mine(700)
    node.meet(miner)
    await node.until(lambda: node.height == 700)
    assert node.contents() == miner.contents()


async def test_a_deep_reorganisation_is_an_alarm_and_a_checkpoint_forbids_it(make):
    hill = Hill(replace(TEST_POW, reorg_warn_depth=2))
    clock = FakeClock()
    one, two = make(1, hill, clock), make(2, hill, clock)
    await one.mine(3, extra=b"\x01")
    blocks = await two.mine(5, extra=b"\x02")
    one.meet(two)
    await one.until(lambda: one.height == 5)
    assert [(name, fields["depth"]) for name, fields in one.alarms] == [("deep-reorg", 3)]
    assert one.chain.tip.block_hash == blocks[-1].hash


async def test_an_immature_reward_is_spent_no_earlier_whatever_the_reorganisation(make):
    hill = Hill(coinbase_maturity_blocks=2)
    clock = FakeClock()
    one, two = make(1, hill, clock), make(2, hill, clock)
    (first,) = await one.mine(1)
    two.meet(one)
    await two.until(lambda: two.height == 1)
    one.part(two)
    await one.mine(1, extra=b"\x01")
    reward = first.txs[0]
    spend = pay(outpoint(reward.txid, 0), have=reward.vout[0].value, amount=TOKEN)
    await accept(one, spend)
    # One block off the chain, and the reward is too young for the next block again.
    tip = one.chain.tip.block_hash
    await one.driver.invalidate(tip)
    await one.until(lambda: one.admission.backlog == 0)
    assert spend.txid not in {entry.tx.txid for entry in one.mempool.entries()}
    await one.driver.reconsider(tip)
    await accept(one, spend)
    assert len(one.mempool) == 1


async def test_a_node_comes_back_wherever_it_was_cut(make, hill, tmp_path):
    clock = FakeClock()
    one, two = make(1, hill, clock), make(2, hill, clock)
    await one.mine(4, extra=b"\x01")
    await two.mine(6, extra=b"\x02")
    one.meet(two)
    await one.until(lambda: one.height == 6)
    want = one.contents()
    await one.close()
    for cut in range(3):
        # LevelDB gone altogether: the bodies alone bring the chain back through the engine.
        path = tmp_path / f"cut-{cut}"
        shutil.copytree(one.path, path)
        if cut == 1:
            shutil.rmtree(path / "index")
        back = make(10 + cut, hill, clock, path)
        if cut == 1:
            await back.until(lambda: back.height == 6)  # noqa: B023
        assert back.contents() == want
    one.open()


async def test_headers_that_were_lost_come_back_from_their_bodies(make, hill):
    clock = FakeClock()
    one, two = make(1, hill, clock), make(2, hill, clock)
    await one.mine(3, extra=b"\x01")
    rivals = await two.mine(2, extra=b"\x02")
    for block in rivals:
        assert await one.driver.submit_block(block) == "inconclusive"
    known = {record.block_hash for record in one.store.headers.above(0)}
    assert {block.hash for block in rivals} <= known
    batch = one.store._index.batch()
    for block in rivals:
        batch.delete(b"n" + block.hash)
        height = 1 + rivals.index(block)
        batch.delete(b"w" + height.to_bytes(4, "big") + block.hash)
    one.store._index.write(batch)
    state = restore_engine(one.chain)
    assert all(block.hash in state.tree.bodies for block in rivals)
    assert {record.block_hash for record in one.store.headers.above(0)} == known


async def test_a_stopping_driver_leaves_no_task_behind(make, hill):
    node = make(1, hill)
    node.clock.time_s += 10
    submitting = asyncio.create_task(node.driver.submit_block(node.solve()))
    await asyncio.sleep(0)
    connecting = node.driver._connecting
    node.driver.stop()
    await asyncio.gather(submitting, connecting, return_exceptions=True)
    assert connecting.cancelled()
    assert submitting.cancelled()
    assert node.height == 0
    await node.restart()
    await node.until(lambda: node.height == 1)  # its body was kept


async def test_a_node_that_catches_up_announces_no_tip_but_the_last(make, hill):
    clock = FakeClock()
    miner, node, third = make(1, hill, clock), make(2, hill, clock), make(3, hill, clock)
    await miner.mine(60)
    node.meet(third)
    node.meet(miner)
    await node.until(lambda: node.height == 60)
    await third.until(lambda: third.height == 60)
    announced = [message for peer, message in node.wire.sent if isinstance(message, Headers) and peer == 3]
    assert 1 <= len(announced) <= 3
