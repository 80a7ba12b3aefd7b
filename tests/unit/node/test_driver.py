"""The driver: a real engine alone, what it takes from peers, and the order in which effects happen."""

import asyncio
from copy import copy
from dataclasses import replace

import pytest

from consensus.bft.codec import decode_qc, encode_qc, frame
from consensus.bft.shown import Evidence, Signed, Vote
from consensus.bft.types import (
    AskEC,
    BlockAvailable,
    Broadcast,
    Build,
    Built,
    CancelTimer,
    Check,
    Checked,
    Commit,
    Committed,
    Fetch,
    Fsync,
    Halt,
    Misbehaviour,
    PendingWork,
    Persist,
    PersistBody,
    Send,
    SetTimer,
    Slash,
    Start,
    Synced,
    Timer,
    TimerFired,
    ValRecord,
)
from consensus.errors import DecodeError, PeerFault, RuleError, StorageError
from consensus.transaction import Transaction, outpoint
from contracts.operations import Deposit
from node import driver as module
from node.bodies import proposal_of
from node.driver import ConsensusHalt
from node.limits import MAX_FETCH_DEPTH, MAX_WANTED_BODIES

# ---- a real engine ------------------------------------------------------------------------------


@pytest.fixture
async def alone(make_node, kit, chain1):
    """The only validator of its chain, running."""
    node = make_node(chain1, 0, clock=kit.RealTime())
    node.open_driver().start()
    return node


async def test_a_lone_validator_makes_blocks(alone, kit, chain1):
    await alone.ear.reach(2)
    txs = [kit.pay(chain1.coin(at)) for at in range(3)]
    txs.append(kit.operate(chain1.coin(3), Deposit(), value=90_000))
    txs.append(kit.pay(outpoint(txs[0].txid, 0), 5_000, payer=kit.OTHER, have=kit.TOKEN // 2))
    for tx in txs:
        alone.add(tx)
    alone.driver.report_work()
    await alone.ear.reach(alone.chain.tip.height + 3)
    confirmed = [tx for block, _, _ in alone.ear.blocks for tx in block.txs[1:]]
    assert set(confirmed) == set(txs)
    assert alone.mempool.count == 0
    for height in range(1, alone.chain.tip.height + 1):
        qc = decode_qc(alone.store.certificate(height))
        assert (qc.height, qc.block_hash) == (height, alone.store.block_hash(height))
    assert alone.links.sent == []
    assert alone.driver.status()["committed_height"] == alone.chain.tip.height


async def test_a_validator_goes_on_after_a_restart(alone, kit, chain1):
    await alone.ear.reach(3)
    alone.driver.stop()
    alone.close()
    height = alone.chain.tip.height
    alone.__init__(alone.path, chain1, 0, clock=kit.RealTime())
    assert alone.chain.tip.height == height
    alone.open_driver().start()
    await alone.ear.reach(height + 2)
    assert alone.driver._state.val.height > height


async def test_stop_ends_everything(alone):
    await alone.ear.reach(1)
    alone.driver.stop()
    height = alone.chain.tip.height
    alone.driver.post(Start())
    for _ in range(5):
        await asyncio.sleep(0)
    assert (alone.chain.tip.height, len(alone.driver._events), alone.driver._timers) == (height, 0, {})


async def make_history(make_node, kit, chain1, blocks, txs=()):
    """Return a lone validator that has stopped at or above height ``blocks``."""
    node = make_node(chain1, 0, clock=kit.RealTime())
    for tx in txs:
        node.add(tx)
    node.open_driver().start()
    await node.ear.reach(blocks)
    node.driver.stop()
    return node


def segment(node, first, last):
    """Return (blocks, certificate of the last) of committed heights."""
    blocks = [node.chain.block(node.store.block_hash(height)) for height in range(first, last + 1)]
    return blocks, node.store.certificate(last)


@pytest.fixture
async def history(make_node, kit, chain1):
    return await make_history(make_node, kit, chain1, 12, [kit.pay(chain1.coin(0))])


@pytest.fixture
async def follower(make_node, chain1):
    """A node that is no validator, started."""
    node = make_node(chain1)
    node.open_driver().start()
    await asyncio.sleep(0)
    return node


async def test_block_sync_brings_a_follower_up(history, follower):
    assert follower.driver.take_sync(1, *segment(history, 1, 5))
    assert follower.driver.take_sync(4, *segment(history, 4, 7))  # it may overlap
    assert follower.chain.tip.height == 7
    assert follower.store.certificate(7) == history.store.certificate(7)
    assert decode_qc(follower.store.certificate(6)).height == 7  # an ancestor has a descendant's
    assert follower.ear.errors == []


async def test_a_certified_header_over_a_broken_body_harms_nobody(history, follower, kit):
    """Nothing but check_block ties the body to the header that was certified."""
    blocks, certificate = segment(history, 1, 3)
    at = next(index for index, block in enumerate(blocks) if len(block.txs) > 1)
    good = blocks[at]
    for txs in ((), good.txs[:1], (*good.txs, good.txs[1]), (good.txs[0], kit.unsigned(good.txs[1]))):
        broken = kit.remade(good, txs=txs, merkle_root=good.header.merkle_root)
        assert broken.hash == good.hash
        with pytest.raises(PeerFault):
            follower.driver.take_sync(1, [*blocks[:at], broken, *blocks[at + 1 :]], certificate)
    witness = good.txs[1].vin[0]._replace(witness=(b"x",))
    mutated = Transaction.build(2, [witness], good.txs[1].vout)
    broken = kit.remade(good, txs=(good.txs[0], mutated), merkle_root=good.header.merkle_root)
    with pytest.raises(RuleError, match="unexpected-witness"):
        follower.driver.take_sync(1, [*blocks[:at], broken, *blocks[at + 1 :]], certificate)
    assert (follower.chain.tip.height, follower.ear.errors) == (0, [])
    assert follower.driver.take_sync(1, blocks, certificate)


async def test_old_blocks_do_not_pass_as_new_ones(history, follower):
    """Else the sync height would move past the tip and every honest reply would be refused."""
    assert follower.driver.take_sync(1, *segment(history, 1, 5))
    with pytest.raises(RuleError, match="sync-bad-certificate"):
        follower.driver.take_sync(6, *segment(history, 1, 5))


async def test_hostile_certificates_are_refused(history, follower):
    blocks, certificate = segment(history, 1, 3)
    qc = decode_qc(certificate)
    cases = [
        b"",
        b"\xff" * 50,
        certificate[:-1],
        bytes(5_000),
        encode_qc(qc._replace(height=0xFFFF_FFFF)),
        encode_qc(qc._replace(height=0)),
    ]
    for hostile in cases:
        with pytest.raises(PeerFault):
            follower.driver.take_sync(1, blocks, hostile)
    for forged in (
        qc._replace(block_hash=bytes(32)),
        qc._replace(term=qc.term + 1),
        qc._replace(sigs=(bytes(64),)),
        qc._replace(bitmap=b"\xff"),
    ):
        assert not follower.driver.take_sync(1, blocks, encode_qc(forged))
    for restarted in (qc._replace(round=9), qc._replace(sigs=(), bitmap=b"")):
        with pytest.raises(RuleError, match="sync-later-round"):
            follower.driver.take_sync(1, blocks, encode_qc(restarted))
    assert not follower.driver.take_sync(3, *segment(history, 3, 3))  # not at our tip
    assert not follower.driver.take_sync(1, [blocks[1], blocks[0], blocks[2]], certificate)  # no chain
    with pytest.raises(RuleError, match="sync-bad-certificate"):
        follower.driver.take_sync(1, [], certificate)
    assert (follower.chain.tip.height, follower.ear.errors) == (0, [])


async def test_a_certified_block_that_breaks_a_rule_here_halts(history, follower, monkeypatch):
    def refuse(*_, **__):
        raise RuleError("bad-effects-digest")

    monkeypatch.setattr(follower.chain, "execute", refuse)
    assert not follower.driver.take_sync(1, *segment(history, 1, 2))
    [error] = follower.ear.errors
    assert isinstance(error, ConsensusHalt)
    assert (error.code, error.exit_status) == ("certified-block-invalid", 70)


async def test_a_crash_on_a_certified_block_stops_the_node(history, follower, monkeypatch):
    def crash(*_, **__):
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(follower.chain, "execute", crash)
    follower.driver.take_sync(1, *segment(history, 1, 2))
    assert [type(error) for error in follower.ear.errors] == [ZeroDivisionError]


async def test_a_full_disk_stops_the_node_with_its_status(history, follower, monkeypatch):
    def full(batch):
        raise StorageError("disk-full", "no space")

    monkeypatch.setattr(follower.store, "connect", full)
    follower.driver.take_sync(1, *segment(history, 1, 2))
    [error] = follower.ear.errors
    assert (error.code, error.exit_status) == ("disk-full", 74)
    assert follower.chain.tip.height == 0
    follower.driver.post(Start())
    assert len(follower.driver._events) == 0


async def test_a_certificate_alone_makes_it_fetch_downwards(history, follower):
    """Bodies come newest first; what the engine holds stays, however long the way down is."""
    depth = MAX_FETCH_DEPTH
    qc = decode_qc(history.store.certificate(depth))
    follower.links.up = [0]
    follower.driver.receive(0, frame(0, Committed(qc)))
    for height in range(depth, 0, -1):
        await asyncio.sleep(0)
        validator, block_hash = follower.links.asked_bodies[-1]
        assert (validator, block_hash) == (0, history.store.block_hash(height))
        follower.driver.take_body(history.chain.block(block_hash))
    await asyncio.sleep(0)
    assert follower.chain.tip.height == depth
    assert follower.driver._fetched == {}
    assert follower.driver._wanted == {}


async def test_far_behind_it_leaves_the_work_to_block_sync(history, follower):
    follower.links.up = [0]
    qc = decode_qc(history.store.certificate(MAX_FETCH_DEPTH + 1))
    follower.driver.receive(0, frame(0, Committed(qc)))
    await asyncio.sleep(0)
    assert follower.links.asked_bodies == []
    assert follower.driver.take_sync(1, *segment(history, 1, MAX_FETCH_DEPTH + 1))


async def test_sync_and_fetch_may_overlap(history, follower):
    """A body that waits for its ancestors is still there when block sync brings them."""
    follower.links.up = [0]
    follower.driver.receive(0, frame(0, Committed(decode_qc(history.store.certificate(6)))))
    await asyncio.sleep(0)
    follower.driver.take_body(history.chain.block(history.store.block_hash(6)))
    await asyncio.sleep(0)
    assert follower.driver.take_sync(1, *segment(history, 1, 5))
    assert (follower.chain.tip.height, follower.ear.errors) == (6, [])


async def test_unasked_and_broken_bodies_are_dropped(history, follower, kit):
    follower.links.up = [0]
    block = history.chain.block(history.store.block_hash(2))
    follower.driver.take_body(block)
    assert follower.driver._fetched == {}
    follower.driver.receive(0, frame(0, Committed(decode_qc(history.store.certificate(2)))))
    await asyncio.sleep(0)
    broken = kit.remade(block, txs=block.txs + block.txs[:1], merkle_root=block.header.merkle_root)
    with pytest.raises(RuleError, match="bad-txnmrklroot"):
        follower.driver.take_body(broken)
    follower.driver.take_body(block)  # still wanted
    assert list(follower.driver._fetched) == [block.hash]


# ---- what may be said, and by whom -------------------------------------------------------------


async def test_strangers_may_only_show_certificates(follower, history):
    shown = decode_qc(history.store.certificate(1))
    follower.driver.receive(None, frame(0, Committed(shown)))
    with pytest.raises(PeerFault, match="bad-cert-signature"):  # the engine would have nobody to charge
        follower.driver.receive(None, frame(0, Committed(shown._replace(block_hash=bytes(32)))))
    with pytest.raises(PeerFault, match="not-a-validator"):
        follower.driver.receive(None, frame(0, AskEC(1)))
    for garbage in (b"", b"\x91", b"\x92\x05", b"\x91\x63", bytes(300)):
        with pytest.raises(DecodeError):
            follower.driver.receive(0, garbage)


# ---- scripted effects --------------------------------------------------------------------------


async def test_save_then_send_then_apply(scripted, make_node, chain4, monkeypatch):
    """Whatever the order of effects in a group: nothing leaves before all of it is on disk."""
    done = []

    def note(owner, name, label):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **given: (done.append(label), real(*args, **given))[1])

    note(scripted.chain, "save_body", "body")
    note(scripted.store, "sync", "sync bodies")
    note(scripted.vote_log, "append", "record")
    note(scripted.vote_log, "sync", "sync votes")
    note(scripted.links, "send", "send")
    note(scripted.links, "broadcast", "broadcast")
    note(scripted.chain, "commit", "commit")
    block = scripted.build()
    qc = scripted.driver._state.commit_qc._replace(height=1, block_hash=block.hash)
    await scripted.run(
        Commit(1, block.hash, qc),
        Send(1, AskEC(1)),
        Persist(ValRecord(1, 1, block.hash)),
        Broadcast(AskEC(1)),
        PersistBody(block.hash),
        Fsync(),
    )
    assert done == ["record", "body", "sync bodies", "sync votes", "send", "broadcast", "commit"]
    assert scripted.chain.tip.height == 1
    assert scripted.ear.errors == []


async def test_events_of_a_group_share_one_sync(scripted, monkeypatch):
    syncs = []
    monkeypatch.setattr(scripted.vote_log, "sync", lambda: syncs.append(len(scripted.links.sent)))
    scripted.script.queue = [(Persist(ValRecord(1, 1, bytes(32))), Fsync(), Send(1, AskEC(1)))] * 3
    for _ in range(3):
        scripted.driver.post(Start())
    await asyncio.sleep(0)
    assert syncs == [0]
    assert len(scripted.links.sent) == 3


async def test_what_cannot_be_saved_is_not_sent(scripted, monkeypatch):
    def fail(*_):
        raise StorageError("disk-full", "no space")

    monkeypatch.setattr(scripted.vote_log, "sync", fail)
    await scripted.run(Persist(ValRecord(1, 1, bytes(32))), Fsync(), Send(1, AskEC(1)))
    assert scripted.links.sent == []
    assert [error.code for error in scripted.ear.errors] == ["disk-full"]


async def test_a_vote_for_a_body_that_is_not_here_stops_the_node(scripted):
    await scripted.run(PersistBody(bytes(32)), Send(1, AskEC(1)))
    assert [error.code for error in scripted.ear.errors] == ["body-missing"]
    assert scripted.links.sent == []


async def test_build_answers_and_says_what_work_is_left(scripted, kit, chain4):
    txs = [kit.pay(chain4.coin(at)) for at in range(2)]
    for tx in txs:
        scripted.add(tx)
    parent = chain4.genesis.hash
    built, work = await scripted.run(Build(parent, 1, 1, b"\x0f"))
    assert isinstance(built, Built)
    assert (built.parent_hash, built.term, set(built.proposal.wtxids)) == (
        parent,
        1,
        {tx.wtxid for tx in txs},
    )
    assert work == PendingWork(0)
    for at in range(2, 4):
        scripted.add(kit.pay(chain4.coin(at)))
    scripted.driver.report_work()
    await asyncio.sleep(0)
    assert scripted.script.events[-1] == PendingWork(2)
    again = await scripted.run(Build(built.proposal.block_hash, 2, 1, b"\x0f"))
    assert (len(again[0].proposal.wtxids), again[1]) == (2, PendingWork(0))
    assert await scripted.run(Build(bytes(32), 1, 1, b"\x0f")) == [Built(bytes(32), 1, None)]
    assert scripted.ear.errors == []


async def test_the_same_number_is_reported_again_after_a_build(scripted, kit, chain4):
    """The engine counts a block's transactions down by itself: silence would leave it at zero."""
    scripted.add(kit.pay(chain4.coin(0)))
    scripted.driver.report_work()
    await asyncio.sleep(0)
    txs = [scripted.add(kit.pay(chain4.coin(1))).tx]
    scripted.mempool.candidates = lambda exclude: txs
    _, work = await scripted.run(Build(chain4.genesis.hash, 1, 1, b"\x0f"))
    assert [event for event in scripted.script.events if isinstance(event, PendingWork)] == [
        PendingWork(1),
        PendingWork(1),
    ]
    assert work == PendingWork(1)


async def test_what_cannot_be_built_on_leaves_the_pool(scripted, kit, chain4, monkeypatch):
    tx = kit.pay(chain4.coin(0))
    scripted.add(tx)
    rival = scripted.build([kit.pay(chain4.coin(0), 7_000)])
    built, _ = await scripted.run(Build(rival.hash, 2, 1, b"\x0f"))
    assert built.proposal.wtxids == ()
    assert scripted.mempool.count == 0


async def test_a_crashing_contract_does_not_stop_a_leader(scripted, kit, chain4, monkeypatch, caplog):
    bad, good = (kit.operate(chain4.coin(at), Deposit(), value=5_000) for at in range(2))
    for tx in (bad, good):
        scripted.add(tx)
    opened = scripted.contracts.open

    def open_session(*args, **given):
        session = opened(*args, **given)
        execute = session.execute

        def crash(tx, spent):
            if tx.txid == bad.txid:
                raise ZeroDivisionError("bug")
            execute(tx, spent)

        session.execute = crash
        return session

    monkeypatch.setattr(scripted.contracts, "open", open_session)
    built, _ = await scripted.run(Build(chain4.genesis.hash, 1, 1, b"\x0f"))
    assert built.proposal.wtxids == (good.wtxid,)
    assert scripted.mempool.get(bad.txid) is None
    assert "contract crashed" in caplog.text
    assert scripted.ear.errors == []


def check_of(block, *, is_new=True, leader=0):
    return Check(proposal_of(block), 1, is_new, block.header.prev_hash, leader)


async def test_a_proposal_is_completed_from_the_pool_and_judged(scripted, make_node, kit, chain4):
    tx = kit.pay(chain4.coin(0))
    scripted.add(tx)
    block = make_node(chain4).build([tx], proposer=1)
    checked, *_ = await scripted.run(check_of(block, leader=1))
    assert checked == Checked(block.hash, True)


async def test_a_proposal_waits_for_its_transactions(scripted, make_node, kit, chain4):
    scripted.links.up = [1, 2]
    txs = [kit.pay(chain4.coin(at)) for at in range(2)]
    block = make_node(chain4).build(txs, proposer=1)
    assert await scripted.run(check_of(block, leader=1)) == []
    assert scripted.links.asked_txs == [(1, block.hash, [tx.wtxid for tx in block.txs[1:]])]
    scripted.driver.supply(txs[:1])
    scripted.driver.supply(txs[1:])
    await asyncio.sleep(0)
    assert Checked(block.hash, True) in scripted.script.events


async def test_a_whole_body_serves_as_well(scripted, make_node, kit, chain4):
    scripted.links.up = [1]
    block = make_node(chain4).build([kit.pay(chain4.coin(0))], proposer=1)
    await scripted.run(check_of(block, leader=1), Fetch(block.hash, 1, 1, (1,)))
    assert scripted.links.asked_bodies == [(1, block.hash)]
    scripted.driver.take_body(block)
    await asyncio.sleep(0)
    assert scripted.script.events[-3:-1] == [BlockAvailable(1, proposal_of(block)), Checked(block.hash, True)]
    assert scripted.driver._judge.parked == 0


async def test_wrong_proposals_are_refused_and_nobody_dies(scripted, make_node, kit, chain4):
    """Whatever a leader puts under its signature costs it the vote, and no more."""
    tx = kit.pay(chain4.coin(0))
    scripted.add(tx)
    maker = make_node(chain4)
    block = maker.build([tx], proposer=1)
    good = proposal_of(block)
    now_s = scripted.clock.now_s()
    far = make_node(chain4).build(proposer=1, time_s=now_s + 3)
    old = make_node(chain4).build(proposer=1, time_s=now_s - 3)
    cases = {
        "bad-txns-duplicate": replace(good, wtxids=good.wtxids * 2),
        "bad-txnmrklroot": replace(good, wtxids=()),
        "tx-truncated": replace(good, coinbase=b"\x01"),
        "bad-commitment-missing": replace(good, coinbase=tx.raw),
        "time-too-new": proposal_of(far),
        "time-too-far-back": proposal_of(old),
    }
    for code, proposal in cases.items():
        assert await scripted.run(Check(proposal, 1, True, chain4.genesis.hash, 1)) == [
            Checked(proposal.block_hash, False, code)
        ]
    for code, check in {
        "bad-proposer": Check(good, 1, True, chain4.genesis.hash, 2),
        "prev-blk-not-found": Check(good, 1, True, bytes(32), 1),
    }.items():
        assert await scripted.run(check) == [Checked(block.hash, False, code)]
    assert scripted.ear.errors == []
    [answer, *_] = await scripted.run(Check(proposal_of(far), 1, False, chain4.genesis.hash, 2))
    assert answer == Checked(far.hash, True)  # a re-certified block is exempt from clock and proposer


async def test_a_proposed_block_that_crashes_the_rules_is_refused(
    scripted, make_node, chain4, monkeypatch, caplog
):
    block = make_node(chain4).build(proposer=1)

    def crash(*_, **__):
        raise KeyError("bug")

    monkeypatch.setattr(scripted.chain, "execute", crash)
    assert await scripted.run(check_of(block, leader=1)) == [Checked(block.hash, False, "contract-crash")]
    assert "crashed" in caplog.text
    assert scripted.ear.errors == []

    def fail(*_, **__):
        raise StorageError("disk-failed", "no")

    monkeypatch.setattr(scripted.chain, "execute", fail)
    await scripted.run(check_of(block, leader=1))
    assert [error.code for error in scripted.ear.errors] == ["disk-failed"]


async def test_timers_replace_each_other_and_fire_with_their_token(scripted):
    now = scripted.clock.ms
    await scripted.run(
        SetTimer(Timer.SLOT, now + 60_000, 1), SetTimer(Timer.BLOCK, now, 2), SetTimer(Timer.SLOT, now - 5, 3)
    )
    async with asyncio.timeout(5):
        while TimerFired(Timer.SLOT, 3) not in scripted.script.events:
            await asyncio.sleep(0)
    fired = [event for event in scripted.script.events if isinstance(event, TimerFired)]
    assert fired == [TimerFired(Timer.BLOCK, 2), TimerFired(Timer.SLOT, 3)]
    await scripted.run(
        SetTimer(Timer.TICK, now + 60_000, 4), CancelTimer(Timer.TICK), CancelTimer(Timer.SLOT)
    )
    assert scripted.driver._timers == {}


async def test_bodies_owed_too_long_are_asked_of_the_next(scripted, make_node, kit, chain4):
    scripted.links.up = [1, 2]
    block = make_node(chain4).build([kit.pay(chain4.coin(0))], proposer=1)
    await scripted.run(check_of(block, leader=1))
    scripted.driver._state.checking = {block.hash: None}
    scripted.clock.ms += 1_000
    scripted.driver._judge._retry_bodies()
    assert [asked[0] for asked in scripted.links.asked_txs] == [1, 2]
    scripted.driver._state.checking = {}  # the engine has given it up
    scripted.driver._judge._retry_bodies()
    assert scripted.driver._judge.parked == 0


async def test_a_bug_in_a_timer_does_not_pass_unseen(scripted, make_node, kit, chain4, monkeypatch):
    block = make_node(chain4).build([kit.pay(chain4.coin(0))], proposer=1)
    await scripted.run(check_of(block, leader=1))

    def crash(now_ms):
        raise KeyError("bug")

    monkeypatch.setattr(scripted.driver._judge._bodies, "retry", crash)
    scripted.driver._judge._retry_bodies()
    assert [type(error) for error in scripted.ear.errors] == [KeyError]
    scripted.driver._judge._retry_bodies()
    assert len(scripted.ear.errors) == 1


async def test_faults_evidence_and_halts(scripted, caplog):
    await scripted.run(Misbehaviour(2, "bad-vote-signature"), Misbehaviour(None, "x"))
    assert scripted.links.punished == [(2, "bad-vote-signature"), (None, "x")]
    shown = [Signed(Vote.VALIDATED, 3, 7, bytes([at]) * 32, bytes(64)) for at in (1, 2)]
    await scripted.run(Slash(Evidence(2, *shown)), Slash(Evidence(2, *shown)))
    assert scripted.driver.status()["evidence"] == 1
    name = scripted.params.bft.validators[2].name
    told = {"validator": name, "term": 3, "height": 7, "statement": "VALIDATED"}
    assert scripted.ear.alarms == [("validator-contradicts-itself", told)]
    await scripted.run(Halt("two certificates"))
    [error] = scripted.ear.errors
    assert (error.code, error.reason) == ("consensus-halt", "two certificates")


async def test_a_follower_never_builds(make_node, kit, chain4, monkeypatch):
    node = make_node(chain4)
    node.open_driver()
    script = kit.Script()
    script.queue = [(Build(chain4.genesis.hash, 1, 1, b"\x0f"),)]
    monkeypatch.setattr(module, "step", script.step)
    node.driver.start()
    await asyncio.sleep(0)
    assert [error.code for error in node.ear.errors] == ["build-without-key"]


async def test_a_validator_that_has_just_lost_its_vote_builds_nothing(scripted, chain4):
    """The engine was told so behind its order to build, in the same group of events."""
    lost = copy(scripted.driver._state)
    lost.learner, lost.config = "put back", replace(lost.config, me=None, secret=None)
    scripted.driver._state = lost
    assert await scripted.run(Build(chain4.genesis.hash, 1, 1, b"\x0f")) == []
    assert scripted.ear.errors == []


async def test_fetches_ask_candidates_first_and_are_bounded(scripted):
    scripted.links.up = [3]
    hashes = [bytes([at]) * 32 for at in range(MAX_WANTED_BODIES + 2)]
    await scripted.run(*[Fetch(block_hash, 1, 1, (1, 2)) for block_hash in hashes])
    assert scripted.links.asked_bodies[:3] == [(1, hashes[0]), (2, hashes[0]), (3, hashes[0])]
    assert list(scripted.driver._wanted) == hashes[2:]


async def test_a_late_commit_is_ignored(scripted):
    qc = scripted.driver._state.commit_qc
    await scripted.run(Commit(0, bytes(32), qc))
    assert scripted.ear.errors == []


async def test_a_commit_tells_the_pool_and_the_listener(scripted, kit, chain4):
    tx, loser = kit.pay(chain4.coin(0)), kit.pay(chain4.coin(1))
    for each in (tx, loser):
        scripted.add(each)
    block = scripted.build([tx, kit.pay(chain4.coin(1), 7_000)])
    qc = scripted.driver._state.commit_qc._replace(height=1, block_hash=block.hash)
    await scripted.run(Commit(1, block.hash, qc))
    [(told, connected, evicted)] = scripted.ear.blocks
    assert (told, connected.tip.height, evicted) == (block, 1, [loser])
    assert scripted.mempool.count == 0
    assert scripted.driver.last_commit_ms == scripted.clock.ms
    assert scripted.store.certificate(1) == encode_qc(qc)


async def test_the_log_is_rewritten_when_it_is_long(scripted, monkeypatch):
    monkeypatch.setattr("storage.limits.WAL_BYTES_MAX", 200)
    records = [Persist(ValRecord(1, height, bytes(32))) for height in range(1, 9)]
    await scripted.run(*records, Fsync())
    assert scripted.vote_log.size_bytes < 400
    assert not scripted.ear.errors


async def test_synced_events_are_stepped_before_the_call_returns(scripted, make_node, chain4):
    block = make_node(chain4).build()
    base = scripted.driver._state.commit_qc
    qc = base._replace(height=1, block_hash=block.hash, bitmap=b"\x01", sigs=(bytes(64),))
    assert not scripted.driver.take_sync(1, [block], encode_qc(qc))
    assert scripted.script.events == [Synced(None, ((1, block.hash, chain4.genesis.hash),), qc)]
    assert scripted.driver._segment == {}
