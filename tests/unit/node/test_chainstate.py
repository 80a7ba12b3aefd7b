"""The chain state over a real store, real contracts and real blocks."""

import shutil

import pytest

from consensus.bft.types import Proposal
from consensus.errors import RuleError, StorageError
from consensus.script.templates import push_number
from consensus.transaction import Transaction, TxIn, outpoint
from contracts.operations import Deposit, Withdraw
from node.bodies import proposal_of
from node.chainstate import block_height


def refusal(node, block, parent=None, **given):
    with pytest.raises(RuleError) as caught:
        node.chain.execute(block, parent or node.chain.tip.block_hash, **given)
    assert node.chain.candidate(block.hash) is None
    return caught.value.code


def conserved(node):
    coins = sum(int.from_bytes(coin[4:12], "little") for _, coin in node.store.iterate_coins())
    return coins + sum(node.contracts.accounting(node.chain.state).values()) == node.chain.tip.issued


def test_genesis_is_written_once(make_node, chain4):
    node = make_node(chain4)
    assert (node.chain.tip.height, node.chain.tip.block_hash) == (0, chain4.genesis.hash)
    assert node.chain.block(chain4.genesis.hash) == chain4.genesis
    assert node.chain.coins.get(chain4.coin(0)) is not None
    assert conserved(node)


def test_blocks_are_built_executed_and_committed(make_node, kit, chain4):
    leader, follower = make_node(chain4), make_node(chain4)
    deposit = kit.operate(chain4.coin(1), Deposit(), value=90_000)
    withdraw = kit.operate(chain4.coin(2), Withdraw(50_000))
    for txs in ([kit.pay(chain4.coin(0)), deposit], [withdraw], [], []):
        block = leader.build(txs)
        follower.chain.execute(block, follower.chain.tip.block_hash)
        for node in (leader, follower):
            assert node.chain.commit(block.hash, b"qc").block == block
        assert follower.chain.tip == leader.chain.tip
        assert follower.store.certificate(follower.chain.tip.height) == b"qc"
        assert conserved(leader)
        assert conserved(follower)
    assert follower.chain.tip.height == 4
    assert leader.contracts.accounting(leader.chain.state) == {"accounts": 40_000, "payouts": 0}


def test_uncommitted_blocks_stand_on_each_other(node, kit, chain4):
    parent_tx = kit.pay(chain4.coin(0))
    child_tx = kit.pay(outpoint(parent_tx.txid, 0), 5_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    first = node.build([parent_tx])
    second = node.build([child_tx], parent=first.hash)
    branch = node.chain.branch_or_empty(second.hash)
    assert [candidate.block for candidate in branch] == [first, second]
    assert node.chain.pending_txids(second.hash) >= {parent_tx.txid, child_tx.txid}
    views = node.chain.views(second.hash)
    assert (views.tip.height, views.coins.get(outpoint(parent_tx.txid, 0))) == (2, None)
    assert views.coins.get(outpoint(child_tx.txid, 0)) is not None
    assert node.chain.coins.get(outpoint(child_tx.txid, 0)) is None
    with pytest.raises(StorageError, match="commit-out-of-order"):
        node.chain.commit(second.hash, b"qc")
    node.chain.commit(first.hash, b"qc of the second")
    node.chain.commit(second.hash, b"qc of the second")
    assert node.chain.tip.height == 2


def test_a_commit_drops_rivals_and_keeps_descendants(node, kit, chain4):
    first = node.build([kit.pay(chain4.coin(0))])
    rival = node.build([kit.pay(chain4.coin(1))])
    on_rival = node.build(parent=rival.hash)
    second = node.build(parent=first.hash)
    third = node.build(parent=second.hash)
    node.chain.commit(first.hash, b"qc")
    held = [block for block in (rival, on_rival, second, third) if node.chain.candidate(block.hash)]
    assert held == [second, third]
    assert node.chain.branch_or_empty(on_rival.hash) == []
    with pytest.raises(RuleError, match="prev-blk-not-found"):
        node.chain.views(rival.hash)


def test_trim_keeps_what_the_engine_names(node, kit, chain4):
    blocks = [node.build([kit.pay(chain4.coin(at))]) for at in range(20)]
    node.chain.trim({block.hash for block in blocks[3:5]} | {bytes(32)})
    assert [block for block in blocks if node.chain.candidate(block.hash)] == blocks[3:5]


def test_wrong_blocks_are_refused_and_leave_nothing(node, make_node, kit, chain4):
    maker = make_node(chain4)
    good = maker.build([kit.pay(chain4.coin(0))])
    tip = node.chain.tip
    late = kit.remade(good, time_s=tip.time_s - 1)
    assert refusal(node, late) == "time-too-old"
    assert refusal(node, kit.remade(good, prev_hash=bytes(32))) == "bad-prevblk"
    assert refusal(node, kit.remade(good, txs=good.txs + good.txs[1:])) == "bad-txns-inputs-missingorspent"
    assert refusal(node, kit.remade(good, txs=good.txs[:1], merkle_root=bytes(32))) == "bad-txnmrklroot"
    assert refusal(node, kit.remade(good, txs=[])) == "bad-cb-missing"
    assert refusal(node, kit.remade(good, txs=[*good.txs, kit.pay(bytes(36))])).startswith("bad-txns-inputs")
    assert refusal(node, good, parent=bytes(32)) == "prev-blk-not-found"
    spoilt = kit.remade(good, txs=[good.txs[0], kit.unsigned(good.txs[1])])
    assert refusal(node, spoilt) == "mandatory-script-verify-flag-failed"
    assert node.chain.tip == tip
    node.chain.execute(good, tip.block_hash)


def test_certified_blocks_are_taken_without_signatures_and_teach_the_cache_nothing(make_node, kit, chain4):
    """q validators checked them; what the cache says must rest on our own checks."""
    maker, node = make_node(chain4), make_node(chain4)
    maker.verifier.check = lambda items: None
    forged = kit.unsigned(kit.pay(chain4.coin(0)))
    block = maker.build([forged])
    assert refusal(node, block) == "mandatory-script-verify-flag-failed"
    node.chain.execute(block, node.chain.tip.block_hash, certified=True)
    assert forged.wtxid not in node.verifier._cache
    node.chain.commit(block.hash, b"qc")


def test_executing_twice_is_executing_once(node, make_node, kit, chain4):
    block = make_node(chain4).build([kit.pay(chain4.coin(0))])
    first = node.chain.execute(block, node.chain.tip.block_hash)
    assert node.chain.execute(block, node.chain.tip.block_hash) is first


def test_coins_of_a_block_are_read_in_one_go(node, make_node, kit, chain4, monkeypatch):
    block = make_node(chain4).build([kit.pay(chain4.coin(at)) for at in (3, 1, 2)])
    asked = []
    monkeypatch.setattr(node.chain._coins, "_load", lambda keys: asked.append(keys) or {})
    node.chain.execute(block, node.chain.tip.block_hash)
    assert [sorted(keys) for keys in asked] == [sorted(chain4.coin(at) for at in (1, 2, 3))]


def test_times_are_those_of_committed_headers(node):
    node.extend(time_s=1_700_000_200)
    node.extend(time_s=1_700_000_300)
    assert [node.chain.time_at(height) for height in range(3)] == [
        1_700_000_000,
        1_700_000_200,
        1_700_000_300,
    ]
    node.build(time_s=1_700_000_400)
    with pytest.raises(StorageError, match="header-missing"):
        node.chain.time_at(3)
    assert node.chain.ground().context.time_at(2) == 1_700_000_300


def test_a_relative_lock_in_seconds_opens_alike_for_builder_and_follower(make_node, kit, chain4):
    """On an uncommitted branch the times come from the branch itself."""
    leader, follower = make_node(chain4), make_node(chain4)
    first = leader.build([kit.pay(chain4.coin(0))], time_s=1_700_001_000)
    coin = outpoint(first.txs[1].txid, 0)
    locked = kit.OTHER.sign(
        Transaction.build(
            2, [TxIn(coin, b"", 1 << 22 | 1)], [kit.pay(coin, 5_000, have=kit.TOKEN // 2).vout[0]]
        )
    )
    early = leader.chain.build(
        first.hash, lambda _: [locked], time_s=1_700_001_511, term=1, proposer=0, last_bitmap=b"\0"
    )
    assert [error.code for _, error in early.refused] == ["bad-txns-nonfinal"]
    second = leader.build([locked], parent=first.hash, time_s=1_700_001_512)
    for block, parent in ((first, chain4.genesis.hash), (second, first.hash)):
        follower.chain.execute(block, parent)


# ---- restarts ----------------------------------------------------------------------------------


def test_blocks_that_leveldb_lost_are_replayed(make_node, kit, chain4, tmp_path):
    node = make_node(chain4)
    node.extend([kit.pay(chain4.coin(0))])
    node.store.close()
    shutil.copytree(node.path / "index", tmp_path / "old-index")
    node = reopened(make_node, node, chain4)
    node.extend([kit.operate(chain4.coin(1), Deposit(), value=90_000)])
    node.extend([kit.operate(chain4.coin(2), Withdraw(50_000))])
    uncommitted = node.build([kit.pay(chain4.coin(3))])
    node.chain.save_body(uncommitted)
    node.store.sync()
    tip, coins = node.chain.tip, list(node.store.iterate_coins())
    node.store.close()
    shutil.rmtree(node.path / "index")
    shutil.copytree(tmp_path / "old-index", node.path / "index")

    again = reopened(make_node, node, chain4)
    assert again.chain.tip == tip
    assert list(again.store.iterate_coins()) == coins
    assert [again.store.certificate(height) for height in (1, 2, 3)] == [
        b"certificate %d" % at for at in range(3)
    ]
    assert list(again.store.uncommitted_bodies()) == [uncommitted.hash]
    assert again.chain.block(uncommitted.hash) == uncommitted
    assert again.chain.raw_block(uncommitted.hash) == uncommitted.raw
    again.chain.execute(uncommitted, tip.block_hash)
    again.chain.commit(uncommitted.hash, b"qc")
    assert conserved(again)


def reopened(make_node, node, chain):
    """Return a fresh node over the folder of a closed one."""
    node.store.close()
    target = make_node(chain)
    target.store.close()
    shutil.rmtree(target.path)
    shutil.copytree(node.path, target.path)
    target.__init__(target.path, chain)
    return target


def test_a_replay_that_breaks_a_rule_stops_the_start(make_node, kit, chain4, tmp_path, monkeypatch):
    node = make_node(chain4)
    node.store.close()
    shutil.copytree(node.path / "index", tmp_path / "old-index")
    node = reopened(make_node, node, chain4)
    node.extend([kit.pay(chain4.coin(0))])
    node.store.close()
    shutil.rmtree(node.path / "index")
    shutil.copytree(tmp_path / "old-index", node.path / "index")

    def broken(block, params):
        raise RuleError("bad-version")

    monkeypatch.setattr("node.chainstate.check_block", broken)
    with pytest.raises(StorageError) as caught:
        reopened(make_node, node, chain4)
    assert (caught.value.code, caught.value.exit_status) == ("replay-failed", 74)
    assert "block 1" in caught.value.reason


# ---- heights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("height", [0, 1, 16, 17, 127, 128, 255, 256, 32_768, 8_388_608, 499_999_999])
def test_heights_are_read_as_bip34_writes_them(kit, chain1, height):
    assert block_height(with_script(kit, chain1, push_number(height) + b"\x00")) == height


@pytest.mark.parametrize(
    "script",
    ["0101", "01ff", "020100", "ff00", "4c0101", "ffff", "4bffffffff", "05ffffffff7f", "0400ca9a3b", "0200"],
)
def test_hostile_heights_are_refused(kit, chain1, script):
    with pytest.raises(RuleError, match="bad-cb-height"):
        block_height(with_script(kit, chain1, bytes.fromhex(script)))


def with_script(kit, chain, script):
    coinbase = chain.genesis.txs[0]
    txin = coinbase.vin[0]._replace(script_sig=script)
    return kit.remade(chain.genesis, txs=[Transaction.build(1, [txin], coinbase.vout)])


def test_a_proposal_carries_ids_only(node, kit, chain4):
    tx = kit.pay(chain4.coin(0))
    block = node.build([tx])
    proposal = proposal_of(block)
    assert proposal == Proposal(block.header.raw, block.txs[0].raw, (tx.wtxid,))
    assert (proposal.block_hash, proposal.parent) == (block.hash, chain4.genesis.hash)
