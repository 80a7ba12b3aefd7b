"""What clients see of the node: submissions, trials, figures."""

import asyncio

import pytest

from consensus.errors import DecodeError, RuleError
from consensus.transaction import outpoint
from contracts.operations import Deposit, Withdraw
from node.engines import Engine
from node.facade import NodeFacade
from node.limits import MEMPOOL_EXPIRY_S
from node.mempool_store import MempoolKeeper
from node.pruner import Pruner


class NoNetwork:
    identity = bytes(32)
    listen_address = ("127.0.0.1", 1)

    def peers(self):
        return []


@pytest.fixture
async def world(make_node, chain4):
    """A follower with admission running; ``facade`` is what its clients talk to."""
    node = make_node(chain4)
    node.open_driver()
    node.spread, node.stops = [], []
    admission = node.open_admission()
    node.facade = NodeFacade(
        chain=node.chain,
        indexes=node.indexer,
        contracts=node.contracts,
        mempool=node.mempool,
        admission=admission,
        keeper=MempoolKeeper(
            node.path / "mempool.dat",
            node.mempool,
            admission,
            node.clock,
            node.chain.chain_id,
            expiry_s=MEMPOOL_EXPIRY_S,
        ),
        verifier=node.verifier,
        engine=Engine(node.driver, None, None, bft=node.driver),
        pruner=Pruner(node.store, keep_blocks=300, keep_bytes=0),
        network=NoNetwork(),
        clock=node.clock,
        user_agent="test",
        services=lambda: 1,
        rebroadcast=node.spread.append,
        stop=node.stops.append,
    )
    task = asyncio.create_task(node.admission.run())
    yield node
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def judged(world, *txs):
    """Return one code per transaction, "" where it would be taken."""
    results = await world.facade.test_accept([tx.raw for tx in txs])
    assert [result.tx for result in results] == list(txs)
    return [result.refusal.code if result.refusal is not None else "" for result in results]


async def test_submitting_twice_is_no_error(world, kit, chain4):
    tx = kit.pay(chain4.coin(0))
    # Both wait in the same batch; the second finds the first in the pool.
    assert await asyncio.gather(world.facade.submit(tx.raw), world.facade.submit(tx.raw)) == [tx.txid] * 2
    assert await world.facade.submit(tx.raw) == tx.txid
    assert world.spread == [tx]
    assert len(world.accepted) == 1


async def test_submissions_are_refused_with_their_code(world, kit, chain4):
    done = kit.pay(chain4.coin(0))
    world.extend([done])
    for tx, code in (
        (done, "txn-already-confirmed"),
        (kit.pay(chain4.coin(0), 5_000), "bad-txns-inputs-missingorspent"),
        (kit.unsigned(kit.pay(chain4.coin(1))), "mandatory-script-verify-flag-failed"),
    ):
        with pytest.raises(RuleError) as caught:
            await world.facade.submit(tx.raw)
        assert caught.value.code == code
    with pytest.raises(DecodeError):
        await world.facade.submit(b"\x00" * 20)


async def test_trials_see_the_pool_and_each_other_but_change_nothing(world, kit, chain4):
    world.add(kit.pay(chain4.coin(0)))
    parent = kit.pay(chain4.coin(1))
    child = kit.pay(outpoint(parent.txid, 0), 5_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    rival = kit.pay(chain4.coin(1), 7_000)
    spent = kit.pay(chain4.coin(0), 7_000)
    assert await judged(world, parent, child, rival, spent, parent) == [
        "",
        "",
        "txn-mempool-conflict",
        "txn-mempool-conflict",
        "txn-already-in-mempool",
    ]
    assert await judged(world, child) == ["bad-txns-inputs-missingorspent"]
    assert world.mempool.count == 1
    [result] = await world.facade.test_accept([parent.raw])
    assert result.fee == kit.FEE


async def test_a_forged_transaction_is_no_rival_and_no_parent(world, kit, chain4):
    forged = kit.unsigned(kit.pay(chain4.coin(0)))
    child = kit.pay(outpoint(forged.txid, 0), 5_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    good = kit.pay(chain4.coin(0))
    assert await judged(world, forged, child, good) == [
        "mandatory-script-verify-flag-failed",
        "bad-txns-inputs-missingorspent",
        "",
    ]


async def test_operations_are_tried_on_pending_ones_and_on_those_before(world, kit, chain4):
    world.add(kit.operate(chain4.coin(0), Deposit(), value=50_000))
    first, second = (kit.operate(chain4.coin(at), Withdraw(40_000)) for at in (1, 2))
    assert await judged(world, first, second) == ["", "insufficient-balance"]
    more = kit.operate(chain4.coin(3), Deposit(), value=40_000)
    assert await judged(world, first, more, second) == ["", "", ""]


async def test_the_tip_may_move_during_a_trial(world, kit, chain4, monkeypatch):
    """The verdict is of one instant, and an operation is never tried on a state that changes."""
    deposit = kit.operate(chain4.coin(0), Deposit(), value=50_000)
    world.add(deposit)
    withdraw = kit.operate(chain4.coin(1), Withdraw(40_000))
    check_many = world.verifier.check_many

    async def moved(items):
        world.extend([deposit])
        world.mempool.connect([deposit], world.chain.ground(), world.clock.now_s())
        return await check_many(items)

    monkeypatch.setattr(world.verifier, "check_many", moved)
    assert await judged(world, withdraw, deposit) == ["", "txn-already-known"]


async def test_a_crash_in_a_trial_is_a_refusal(world, kit, chain4, monkeypatch):
    opened = world.chain._open_trial

    def open_session(*args, **given):
        session = opened(*args, **given)

        def crash(tx, spent):
            raise ZeroDivisionError("bug")

        session.execute = crash
        return session

    monkeypatch.setattr(world.chain, "_open_trial", open_session)
    assert await judged(world, kit.operate(chain4.coin(0), Deposit(), value=5_000)) == ["contract-crash"]


async def test_reading_the_chain(world, kit, chain4):
    tx = kit.pay(chain4.coin(0))
    block = world.extend([tx]).block
    facade = world.facade
    assert (facade.tip(), facade.block(1), facade.block(9)) == (world.chain.tip, block, None)
    assert (facade.header(1), facade.header(2)) == (block.header, None)
    assert (facade.height_of(block.hash), facade.block_hash(1)) == (1, block.hash)
    assert facade.find_transaction(tx.txid) == (1, 1)
    assert facade.coin(chain4.coin(0)) is None
    assert set(facade.undo_coins(1)) >= {chain4.coin(0), outpoint(tx.txid, 0)}
    assert facade.undo_coins(7) == {}
    stats = await facade.coin_stats()
    assert stats.total_amount + stats.contract_accounts + stats.payout_queue == stats.issued
    assert (stats.height, stats.txouts) == (1, sum(1 for _ in world.store.iterate_coins()))
    assert (await facade.coin_stats()).hash_serialized == stats.hash_serialized
    assert facade.certificate(1) == b"certificate 0"


async def test_ready_means_that_blocks_advance(world):
    ready, reason = world.facade.is_ready()
    assert not ready
    assert reason.startswith("no block was committed since the start: ")
    limit_s = world.driver.stall_limit_ms // 1000
    world.driver.last_commit_ms = world.clock.ms
    assert world.facade.is_ready() == (True, "")
    world.clock.ms += limit_s * 1000 + 1_000
    ready, reason = world.facade.is_ready()
    assert not ready
    assert reason.startswith(f"no block was committed for {limit_s + 1} s: ")
    assert world.facade.uptime_s() == limit_s + 1


async def test_stops_are_passed_on(world):
    bug = KeyError("bug")
    world.facade.request_stop()
    world.facade.fatal(bug)
    assert world.stops == [None, bug]
