"""State roots over a real store: of the past, ahead of need, after restarts, and in blocks."""

from dataclasses import replace
from hashlib import sha256
from threading import Event

import pytest

from consensus.commitment import find_commitment
from consensus.errors import RuleError, StorageError
from consensus.genesis import genesis_block
from consensus.state_root import Space, state_root, verify
from contracts.api import EnergyContracts
from contracts.operations import Deposit
from node import stateroots
from node.stateroots import PastState, StateRoots

INTERVAL = 4


@pytest.fixture(scope="module")
def chain(chain4):
    """The chain of four validators with a state root each INTERVAL blocks."""
    made = type(chain4)(4)
    ledger = replace(made.params.ledger, snapshot_interval_blocks=INTERVAL)
    made.params = replace(made.params, ledger=ledger)
    made.genesis = genesis_block(made.params, EnergyContracts(made.params))
    return made


def content(store):
    return list(store.iterate_coins()), list(store.state_view.scan(b""))


def grow(node, kit, chain, count):
    """Extend by ``count`` blocks with payments and deposits; return {height: (coins, state)}."""
    seen = {}
    for _ in range(count):
        height = node.chain.tip.height + 1
        txs = []
        if height < 30:
            coin = chain.coin(height)
            txs = [kit.pay(coin) if height % 2 else kit.operate(coin, Deposit(), value=90_000)]
        node.extend(txs, time_s=node.clock.now_s() + 300 * height)
        seen[height] = content(node.store)
    return seen


@pytest.fixture
def grown(make_node, kit, chain):
    node = make_node(chain)
    return node, grow(node, kit, chain, 15)


@pytest.mark.parametrize("budget", [1 << 20, 2_000, 1])
def test_the_state_of_every_earlier_block_can_be_read(grown, budget):
    node, seen = grown
    for height, (coins, state) in seen.items():
        past = PastState(node.store, height, budget)
        assert list(past.coins()) == coins
        assert list(past.state()) == state
    assert PastState(node.store, 0).close() is None


@pytest.mark.parametrize("height", [-1, 16])
def test_there_is_no_state_beyond_the_chain(grown, height):
    node, _ = grown
    with pytest.raises(ValueError, match="no state"):
        PastState(node.store, height)


def test_what_is_connected_meanwhile_does_not_show(grown, kit, chain):
    node, seen = grown
    past = PastState(node.store, 12)
    coins = past.coins()
    first = next(coins)
    grow(node, kit, chain, 3)
    assert [first, *coins] == seen[12][0]
    assert list(past.state()) == seen[12][1]


def test_blocks_commit_to_the_state_one_interval_before(grown):
    node, seen = grown
    for height in range(1, 16):
        block = node.chain.block(node.store.block_hash(height))
        due = state_root(*seen[height - 4]) if height in (8, 12) else None
        assert find_commitment(block.txs[0]).state_root == due


def test_a_block_with_a_wrong_root_is_refused(grown, kit):
    node, _ = grown
    block = node.build()
    assert find_commitment(block.txs[0]).state_root is not None
    coinbase = block.txs[0]
    wrong = replace(find_commitment(coinbase), state_root=bytes(32)).encode_script()
    outputs = [*coinbase.vout[:-1], coinbase.vout[-1]._replace(script_pubkey=wrong)]
    forged = type(coinbase).build(coinbase.version, coinbase.vin, outputs, coinbase.lock_time)
    rival = kit.remade(block, txs=(forged, *block.txs[1:]))
    with pytest.raises(RuleError) as caught:
        node.chain.execute(rival, node.chain.tip.block_hash)
    assert caught.value.code == "bad-state-root"
    with pytest.raises(RuleError) as caught:  # known here, so no certificate helps
        node.chain.execute(rival, node.chain.tip.block_hash, certified=True)
    assert caught.value.code == "bad-state-root"


def test_certified_blocks_connect_before_the_root_is_at_hand(grown, make_node, chain):
    full, _ = grown
    light = make_node(chain)
    for height in range(1, 16):
        block = full.chain.block(full.store.block_hash(height))
        light.chain.execute(block, light.chain.tip.block_hash, certified=True)
        light.chain.commit(block.hash, b"certificate")
    assert [light.chain.state_roots.known(height) for height in (4, 8, 12)] == [None] * 3
    assert light.chain.state_roots.root_at(12) == full.chain.state_roots.root_at(12)
    assert light.build().hash == full.build().hash


def test_what_was_computed_is_there_after_a_restart(grown, kit, chain):
    node, seen = grown
    root = node.chain.state_roots.root_at(12)
    assert root == state_root(*seen[12])
    node.close()
    again = kit.Node(node.path, chain)
    assert again.chain.state_roots.known(12) == root
    again.store.state_roots.put(12, sha256(b"another branch").digest(), bytes(32))
    assert again.chain.state_roots.known(12) is None
    assert again.chain.state_roots.root_at(12) == root
    again.close()
    node.store = kit.Node(node.path, chain).store  # the fixture closes it once more


class Gate:
    """Holds the background at its first undo record or slice until it is opened."""

    def __init__(self, patch):
        self.reached, self.open = Event(), Event()
        slices = stateroots._slices

        def gated(pairs):
            for piece in slices(pairs):
                self.reached.set()
                self.open.wait(10)
                yield piece

        patch.setattr(stateroots, "_slices", gated)


def test_the_background_is_ahead_of_need(make_node, kit, chain, monkeypatch):
    node = make_node(chain)
    node.chain.state_roots.run_in_background()
    seen = grow(node, kit, chain, 3)
    gate = Gate(monkeypatch)
    seen |= grow(node, kit, chain, 3)
    assert gate.reached.wait(10)
    assert node.chain.state_roots.known(4) is None
    gate.open.set()
    node.chain.state_roots._job._thread.join(10)
    assert node.chain.state_roots.known(4) == state_root(*seen[4])
    grow(node, kit, chain, 2)
    node.chain.state_roots.close()


def test_who_needs_it_waits_for_the_background(make_node, kit, chain, monkeypatch):
    node = make_node(chain)
    node.chain.state_roots.run_in_background()
    gate = Gate(monkeypatch)
    seen = grow(node, kit, chain, 7)
    job = node.chain.state_roots._job
    hurried = job._hurry.set
    monkeypatch.setattr(job._hurry, "set", lambda: (hurried(), gate.open.set()))
    assert find_commitment(node.build().txs[0]).state_root == state_root(*seen[4])
    node.chain.state_roots.close()


def test_a_later_interval_and_a_stop_end_what_is_under_way(make_node, kit, chain, monkeypatch):
    node = make_node(chain)
    roots = node.chain.state_roots
    roots.run_in_background()
    gate = Gate(monkeypatch)
    grow(node, kit, chain, 4)
    first = roots._job
    cancelled = first.cancel
    monkeypatch.setattr(first, "cancel", lambda: (gate.open.set(), cancelled()))
    roots._begin(0)
    assert roots._job is first
    roots._drop()
    assert not first._thread.is_alive()
    assert roots.known(4) is None
    grow(node, kit, chain, 4)
    assert roots._job.height == 8
    roots.close()
    assert roots._job is None


def test_a_start_computes_what_the_last_run_did_not(grown, kit, chain):
    node, seen = grown
    roots = StateRoots(node.store, chain.params)
    assert roots.known(12) is None
    roots.run_in_background()
    roots._job._thread.join(10)
    assert roots.known(12) == state_root(*seen[12])
    roots.close()


def test_undo_records_that_are_gone_are_named(grown, monkeypatch):
    node, _ = grown
    monkeypatch.setattr(node.store, "undo", lambda block_hash: None)
    with pytest.raises(StorageError) as caught:
        node.chain.state_roots.root_at(12)
    assert caught.value.code == "undo-missing"
    monkeypatch.setattr(node.store, "undo", lambda block_hash: b"\x90")
    with pytest.raises(StorageError) as caught:
        node.chain.state_roots.root_at(12)
    assert caught.value.code == "undo-corrupt"


def test_values_of_the_past_can_be_proven(grown):
    node, seen = grown
    root = find_commitment(node.chain.block(node.store.block_hash(12)).txs[0]).state_root
    for space in Space:
        key, value = seen[8][space][3]
        proof = node.chain.state_roots.prove(8, space, key)
        assert proof.value == value
        assert verify(proof, root)
    assert node.chain.state_roots.prove(8, Space.STATE, b"no such key") is None


def test_a_final_chain_without_state_roots_keeps_no_past(make_node, chain4):
    node = make_node(chain4)
    node.extend()
    key, value = next(node.store.state_view.scan(b""))
    roots = StateRoots(node.store, chain4.params)
    assert roots.prove(1, Space.STATE, key).value == value
    with pytest.raises(StorageError) as caught:
        roots.prove(0, Space.STATE, key)
    assert caught.value.code == "no-past-state"


def test_without_an_interval_nothing_is_computed(make_node, chain4, monkeypatch):
    node = make_node(chain4)
    node.chain.state_roots.run_in_background()
    monkeypatch.setattr(stateroots, "_Job", None)
    for _ in range(9):
        node.extend()
    node.chain.state_roots.close()


def test_undo_records_stay_until_the_root_is_known(grown, kit, chain, monkeypatch):
    node, _ = grown
    monkeypatch.setattr("storage.limits.KEEP_BLOCKS_MIN", 1)
    assert node.store.prunable(15) == 13
    node.chain.state_roots.root_at(12)
    assert node.store.prunable(15) == 15
    grow(node, kit, chain, 1)
    assert node.store.prunable(17) == 16
    node.chain.state_roots.root_at(16)
    assert node.store.prunable(17) == 16
    assert StateRoots(node.store, chain.params).known(16) is not None
