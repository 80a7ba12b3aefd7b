"""The engine against an oracle over random trees, and the stories that it must get right."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.block import BlockHeader
from consensus.errors import ConfigError, RuleError
from consensus.pow import engine, limits
from consensus.pow import types as t
from consensus.pow.engine import chain_tips, config_of, locator, wants_body
from consensus.pow.state import StoredHeader, restore, root_height_of
from consensus.pow.target import work_of
from tests.unit.consensus_pow.powkit import GENESIS_TIME, SPACING, Hill, Shell, make_params, spoil


def cumulative(hill, header):
    work = work_of(header.bits)
    while header.prev_hash in hill.headers:
        header = hill.headers[header.prev_hash]
        work += work_of(header.bits)
    return work


def ancestry(hill, header):
    chain = [header]
    while chain[-1].prev_hash in hill.headers:
        chain.append(hill.headers[chain[-1].prev_hash])
    return chain


def random_tree(dice, size):
    """Branches with other block times, so that the longest is not always the one of most work."""
    hill = Hill()
    made = [hill.genesis]
    for _ in range(size):
        parent = made[max(0, len(made) - 1 - int(dice.expovariate(0.5)))]
        made.append(hill.child(parent, dice.choice([1, 3, 10, 10, 40])))
    return hill, made[1:]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_random_trees_in_any_order_end_in_the_tip_of_most_work(seed):
    dice = random.Random(seed)
    hill, made = random_tree(dice, dice.randrange(1, 40))
    bad = {header.hash for header in made if dice.random() < 0.1}
    shell = Shell(hill, bad=bad)
    arriving = list(made)
    dice.shuffle(arriving)
    work = cumulative(hill, hill.genesis)
    for header in arriving:
        shell.hear(header, sender=dice.randrange(3))
        now = cumulative(hill, hill.headers[shell.tip])
        assert now >= work, "the tip fell to lower work"
        work = now
    for header in made:  # what came before its parent and was asked for
        if header.prev_hash not in shell.marks:
            shell.hear(header)
    good = [
        header
        for header in [hill.genesis, *made]
        if not any(above.hash in bad for above in ancestry(hill, header))
    ]
    assert work_of_tip(hill, shell) == max(cumulative(hill, header) for header in good)
    assert not any(h in bad for h in shell.chain)
    assert set(shell.marks) <= bad


def work_of_tip(hill, shell):
    return cumulative(hill, hill.headers[shell.tip])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_marks_and_their_removal_leave_the_best_of_what_is_allowed(seed):
    dice = random.Random(seed)
    hill, made = random_tree(dice, 25)
    shell = Shell(hill)
    for header in made:
        shell.hear(header)
    for header in made:  # side branches too, as if they had been pushed to us
        shell.do(t.BodyStored(header.hash))
    for _ in range(12):
        victim = dice.choice(made)
        if dice.random() < 0.6:
            shell.do(t.Invalidate(victim.hash))
        else:
            shell.do(t.Reconsider(victim.hash))
        allowed = [
            header
            for header in [hill.genesis, *made]
            if not any(above.hash in shell.marks for above in ancestry(hill, header))
        ]
        assert work_of_tip(hill, shell) == max(cumulative(hill, header) for header in allowed)
        tree = shell.state.tree
        assert set(tree.entries) - set(tree.invalid) == {header.hash for header in allowed}
        assert set(tree.faults) == set(shell.marks)
    for header in made:
        shell.do(t.Reconsider(header.hash))
    assert shell.marks == {}
    assert shell.state.tree.invalid == {}


def test_first_seen_wins_a_tie_until_work_decides():
    hill = Hill()
    a, b = hill.child(hill.genesis), hill.child(hill.genesis)
    shell = Shell(hill)
    shell.hear(a)
    shell.hear(b)
    shell.do(t.BodyStored(b.hash))
    assert shell.tip == a.hash
    on_b = hill.child(b)
    shell.hear(on_b)
    assert shell.tip == on_b.hash
    assert [row.status for row in chain_tips(shell.state)] == ["active", "valid-fork"]


def test_work_decides_and_not_length():
    hill = Hill()
    slow = hill.chain(hill.genesis, 6, 30 * SPACING)
    fast = hill.chain(hill.genesis, 5, 1)
    assert cumulative(hill, fast[-1]) > cumulative(hill, slow[-1])
    shell = Shell(hill)
    shell.hear(*fast)
    shell.hear(*slow)
    assert shell.tip == fast[-1].hash


def test_precious_block_wins_its_tie():
    hill = Hill()
    a, b = hill.child(hill.genesis), hill.child(hill.genesis)
    shell = Shell(hill)
    shell.hear(a)
    shell.hear(b)
    shell.do(t.BodyStored(b.hash))
    shell.do(t.Precious(b.hash))
    assert shell.tip == b.hash
    shell.do(t.Precious(a.hash))
    assert shell.tip == a.hash


def test_bodies_are_fetched_for_the_best_headers_only_and_in_order():
    hill = Hill()
    main = hill.chain(hill.genesis, 5)
    side = hill.chain(main[0], 2)
    shell = Shell(hill)
    shell.hear(*main)
    shell.hear(*side)
    assert shell.fetched == [header.hash for header in main]
    assert shell.tip == main[-1].hash
    rows = {row.block_hash: row for row in chain_tips(shell.state)}
    assert rows[side[-1].hash] == (side[-1].hash, 3, 2, "headers-only")
    assert not wants_body(shell.state, side[-1].hash)


def test_fetching_is_bounded_and_repeated():
    hill = Hill()
    main = hill.chain(hill.genesis, 100)
    shell = Shell(hill)
    shell.auto = False
    shell.hear(*main)
    assert shell.fetched == [header.hash for header in main[: limits.MAX_FETCHING]]
    shell.do(t.Tick())
    assert len(shell.fetched) == limits.MAX_FETCHING
    shell.now += limits.FETCH_RETRY_S
    shell.do(t.Tick())
    assert shell.fetched[limits.MAX_FETCHING :] == shell.fetched[: limits.MAX_FETCHING]
    shell.now -= 10**6  # a clock set back does not stop it either
    shell.do(t.Tick())
    assert len(shell.fetched) == 3 * limits.MAX_FETCHING


def test_a_rival_whose_bodies_fill_the_window_before_it_wins_is_followed(monkeypatch):
    """A reorganisation deeper than the window: the branch is no candidate before all its bodies are there."""
    monkeypatch.setattr(engine, "FETCH_WINDOW", 8)
    hill = Hill()
    old, new = hill.chain(hill.genesis, 30), hill.chain(hill.genesis, 35)
    shell = Shell(hill)
    shell.hear(*old)
    shell.hear(*new)
    for _ in range(10):
        shell.do(t.Tick())
    assert shell.tip == new[-1].hash


def test_bodies_wait_for_a_missing_one_within_the_window(monkeypatch):
    monkeypatch.setattr(engine, "FETCH_WINDOW", 8)
    hill = Hill()
    main = hill.chain(hill.genesis, 30)
    shell = Shell(hill, withheld={main[3].hash})
    shell.hear(*main)
    for _ in range(5):
        shell.do(t.Tick())
    assert shell.tip == main[2].hash
    assert len(shell.state.tree.bodies) == 1 + 3 + 7
    shell.do(t.BodyStored(main[3].hash))
    for _ in range(5):
        shell.do(t.Tick())
    assert shell.tip == main[-1].hash


def test_one_connect_at_a_time_in_order_save_send_apply():
    hill = Hill()
    a, b = hill.chain(hill.genesis, 2)
    shell = Shell(hill)
    shell.auto = False
    shell.hear(a, b)
    shell.do(t.BodyStored(b.hash))
    assert shell.of(t.Connect) == []
    shell.do(t.BodyStored(a.hash))
    assert shell.of(t.Connect) == [t.Connect(a.hash)]
    shell.do(t.Tick())
    assert shell.effects == []
    c = hill.child(b)
    shell.hear(c)
    kinds = [type(effect) for effect in shell.effects]
    assert kinds == [t.StoreHeader, t.FetchBodies]
    shell.chain.append(a.hash)
    shell.do(t.Connected(a.hash))
    assert shell.of(t.Connect) == [t.Connect(b.hash)]
    shell.do(t.Connected(a.hash))  # an answer to nothing
    assert shell.effects == []


def test_reorganisation_takes_off_and_puts_on_and_warns_past_its_depth():
    hill = Hill()
    old = hill.chain(hill.genesis, 4)
    new = hill.chain(hill.genesis, 5)
    shell = Shell(hill)
    shell.hear(*old)
    shell.hear(*new)
    assert shell.tip == new[-1].hash
    assert [e.block_hash for e in shell.of(t.Disconnect)] == [h.hash for h in reversed(old)]
    assert [e.block_hash for e in shell.of(t.Connect)] == [h.hash for h in new]
    assert shell.of(t.DeepReorg) == [t.DeepReorg(4, hill.genesis.hash, old[-1].hash, new[-1].hash)]
    newer = hill.chain(new[1], 4)
    shell.hear(*newer)
    assert shell.tip == newer[-1].hash
    assert shell.of(t.DeepReorg) == []  # three blocks


def test_a_branch_that_fails_half_way_is_left_for_the_old_one():
    hill = Hill()
    old = hill.chain(hill.genesis, 3)
    new = hill.chain(hill.genesis, 5)
    shell = Shell(hill, bad={new[2].hash})
    shell.hear(*old)
    shell.hear(*new)
    assert shell.tip == old[-1].hash
    assert shell.marks == {new[2].hash: "bad-toy"}
    statuses = {row.block_hash: row.status for row in chain_tips(shell.state)}
    assert statuses == {old[-1].hash: "active", new[-1].hash: "invalid"}
    shell.hear(hill.child(new[-1]))
    assert shell.of(t.Misbehaviour) == [t.Misbehaviour(1, "bad-prevblk")]
    shell.hear(new[3])
    assert shell.of(t.Misbehaviour) == [t.Misbehaviour(1, "duplicate-invalid")]


def test_an_invalid_branch_far_ahead_is_told():
    hill = Hill()
    ahead = hill.chain(hill.genesis, 10)
    shell = Shell(hill, bad={ahead[0].hash})
    shell.hear(*ahead)
    assert shell.of(t.InvalidLead) == [t.InvalidLead(ahead[0].hash, "bad-toy")]
    assert shell.tip == hill.genesis.hash


def test_a_body_that_is_not_the_headers_is_fetched_again_and_one_that_is_wrong_marks_it():
    hill = Hill()
    a, b = hill.chain(hill.genesis, 2)
    shell = Shell(hill)
    shell.auto = False
    shell.hear(a, b)
    shell.do(t.BodyRefused(a.hash, "bad-txnmrklroot", permanent=False))
    shell.now += limits.FETCH_RETRY_S
    shell.do(t.Tick())
    assert a.hash in shell.of(t.FetchBodies)[0].block_hashes
    shell.do(t.BodyRefused(b.hash, "bad-cb-missing", permanent=True))
    assert shell.marks == {b.hash: "bad-cb-missing"}


def test_a_stored_body_found_damaged_is_dropped_with_what_depends_on_it():
    hill = Hill()
    a, b = hill.chain(hill.genesis, 2)
    shell = Shell(hill, withheld={a.hash})
    shell.hear(a, b)
    shell.withheld.add(b.hash)
    shell.do(t.BodyRefused(b.hash, "bad-crc", permanent=False))
    assert shell.state.tree.bodies == {hill.genesis.hash}
    shell.withheld.clear()
    shell.now += limits.FETCH_RETRY_S
    shell.do(t.Tick())
    assert shell.tip == b.hash


# ---- marks


def test_invalidate_and_reconsider_the_active_chain():
    hill = Hill()
    main = hill.chain(hill.genesis, 4)
    shell = Shell(hill)
    shell.hear(*main)
    shell.do(t.Invalidate(main[1].hash))
    assert shell.tip == main[0].hash
    assert shell.state.tree.best.block_hash == main[0].hash
    other = hill.chain(main[0], 1)
    shell.hear(*other)
    assert shell.tip == other[0].hash
    shell.do(t.Reconsider(main[3].hash))  # takes the mark off its ancestor
    assert shell.tip == main[3].hash
    assert shell.marks == {}


def test_a_block_marked_while_it_is_being_connected_is_taken_off_again():
    hill = Hill()
    a = hill.child(hill.genesis)
    shell = Shell(hill)
    shell.auto = False
    shell.hear(a)
    shell.do(t.BodyStored(a.hash))
    shell.do(t.Invalidate(a.hash))
    assert shell.of(t.Disconnect) == []
    shell.chain.append(a.hash)
    shell.do(t.Connected(a.hash))
    assert shell.of(t.Disconnect) == [t.Disconnect(a.hash)]
    assert shell.tip == hill.genesis.hash


@pytest.mark.parametrize("command", [t.Invalidate, t.Reconsider, t.Precious])
def test_commands_about_unknown_blocks_are_refused(command):
    shell = Shell(Hill())
    with pytest.raises(RuleError) as caught:
        shell.do(command(b"\x01" * 32))
    assert caught.value.code == "unknown-block"


def test_genesis_cannot_be_marked():
    hill = Hill()
    shell = Shell(hill)
    with pytest.raises(RuleError) as caught:
        shell.do(t.Invalidate(hill.genesis.hash))
    assert caught.value.code == "bad-genesis-mark"


# ---- header rules


def refusal(shell, header):
    shell.hear(header)
    (effect,) = shell.of(t.Misbehaviour)
    assert header.hash not in shell.state.tree.entries
    return effect.code


def test_high_hash():
    hill = Hill()
    assert refusal(Shell(hill), spoil(hill.child(hill.genesis))) == "high-hash"


def test_bad_diffbits():
    hill = Hill()
    fast = hill.chain(hill.genesis, 3, 1)
    shell = Shell(hill)
    shell.hear(*fast)
    assert refusal(shell, hill.child(fast[-1], bits=0x207FFFFF)) == "bad-diffbits"


def test_a_target_beyond_the_chains_is_refused_before_its_parent_is_looked_for():
    hill = Hill(make_params(bits=0x1F7FFFFF, max_target=0x1F7FFFFF))
    lost = hill.child(hill.genesis, prev_hash=b"\x05" * 32, bits=0x207FFFFF)
    shell = Shell(hill)
    assert refusal(shell, lost) == "bad-diffbits"
    assert shell.state.orphans == {}


def test_time_must_be_after_the_median_of_eleven():
    hill = Hill()
    main = hill.chain(hill.genesis, 12)
    shell = Shell(hill)
    shell.hear(*main)
    median = main[6].time_s  # of the last eleven, main[1] to main[11]
    assert refusal(shell, hill.child(main[-1], median - main[-1].time_s)) == "time-too-old"
    shell.hear(hill.child(main[-1], median + 1 - main[-1].time_s))
    assert shell.of(t.Misbehaviour) == []


def test_future_headers_wait_and_are_never_marked():
    hill = Hill()
    soon, late = hill.child(hill.genesis, 100), hill.child(hill.genesis, 101)
    after = hill.child(late)
    shell = Shell(hill, now=GENESIS_TIME)
    shell.hear(late, after)
    assert shell.effects == []  # no blame, no mark
    assert shell.state.locked.keys() == {late.hash}
    shell.hear(soon)
    assert shell.tip == soon.hash
    shell.now += 11
    shell.do(t.Tick())
    assert shell.tip == after.hash
    assert shell.state.locked == shell.state.orphans == {}


def test_the_time_lock_queue_is_bounded_and_loses_the_farthest(monkeypatch):
    monkeypatch.setattr(engine, "MAX_LOCKED", 3)
    hill = Hill()
    future = [hill.child(hill.genesis, 200 + n) for n in range(5)]
    shell = Shell(hill, now=GENESIS_TIME)
    for header in reversed(future):
        shell.hear(header)
    assert {held.header for held in shell.state.locked.values()} == set(future[:3])


def test_half_the_nodes_two_hours_off_agree_once_their_clocks_heal():
    """Clock drift (PriWatt A11): a header that is too new is not a header that is wrong."""
    hill = Hill()
    right, behind = Shell(hill, now=GENESIS_TIME), Shell(hill, now=GENESIS_TIME - 7_200)
    parent = hill.genesis
    for _ in range(30):
        parent = hill.child(parent)
        right.now += SPACING
        behind.now += SPACING
        right.hear(parent)
        behind.hear(parent)
    assert right.tip == parent.hash
    assert behind.tip == hill.genesis.hash
    behind.now += 7_200
    behind.do(t.Tick())
    behind.hear(*ancestry(hill, parent)[-2::-1])
    assert behind.tip == right.tip
    assert behind.marks == right.marks == {}


def test_orphans_are_asked_about_and_adopted():
    hill = Hill()
    main = hill.chain(hill.genesis, 5)
    shell = Shell(hill)
    shell.hear(*main[2:])
    assert shell.of(t.AskHeaders) == [t.AskHeaders(1, (hill.genesis.hash,))]
    shell.hear(main[0], main[1])
    assert shell.tip == main[-1].hash
    assert shell.state.orphans == {}


def test_orphans_are_bounded_per_sender_and_together(monkeypatch):
    monkeypatch.setattr(engine, "MAX_ORPHANS", 8)
    monkeypatch.setattr(engine, "MAX_ORPHANS_PER_SENDER", 5)
    hill = Hill()
    shell = Shell(hill)

    def held():
        return [held for group in shell.state.orphans.values() for held in group]

    lost = [hill.child(hill.genesis, prev_hash=bytes([9 + n]) * 32) for n in range(20)]
    for header in lost:
        shell.hear(header, sender=7)
    assert [h.header for h in held()] == lost[-5:]
    first = hill.child(hill.genesis, prev_hash=b"\x01" * 32)
    shell.hear(first, sender=8)
    assert {h.sender for h in held()} == {7, 8}
    for n in range(10):
        shell.hear(hill.child(hill.genesis, prev_hash=bytes([100 + n]) * 32), sender=10 + n)
    assert len(held()) == 8


def test_of_many_orphans_in_one_message_the_first_are_kept(monkeypatch):
    """Without them the others would be of no use, and nobody would send them again."""
    monkeypatch.setattr(engine, "MAX_ORPHANS_PER_SENDER", 5)
    hill = Hill()
    main = hill.chain(hill.genesis, 12)
    shell = Shell(hill)
    shell.hear(*main[1:])
    shell.hear(main[0])
    assert shell.tip == main[5].hash


def test_a_lost_answer_about_orphans_is_asked_for_again():
    """Found by simulation: with its question lost in a partition a node stayed on its own branch for good."""
    hill = Hill()
    main = hill.chain(hill.genesis, 40)
    shell = Shell(hill)
    shell.hear(main[5])
    assert shell.of(t.AskHeaders) == [t.AskHeaders(1, (hill.genesis.hash,))]
    asked = 0
    for header in main[6:]:  # one announcement after the other, ten seconds apart
        shell.now += SPACING
        shell.hear(header, sender=2)
        asked += len(shell.of(t.AskHeaders))
        assert all(ask.peer is None for ask in shell.of(t.AskHeaders))
    assert asked == 34 * SPACING // limits.HEADERS_RETRY_S
    shell.hear(*main)
    assert shell.tip == main[-1].hash
    shell.hear(hill.child(hill.child(main[-1])))
    assert [ask.peer for ask in shell.of(t.AskHeaders)] == [1]  # another gap, another question


def test_a_full_message_is_followed_by_the_next(monkeypatch):
    monkeypatch.setattr(engine, "MAX_HEADERS", 3)
    hill = Hill()
    main = hill.chain(hill.genesis, 4)
    shell = Shell(hill)
    shell.hear(*main[:3])
    assert shell.of(t.AskHeaders) == [t.AskHeaders(1, (main[2].hash,))]
    shell.hear(*main)
    assert shell.of(t.Misbehaviour) == [t.Misbehaviour(1, "too-many-headers")]


def test_headers_far_ahead_wait_for_bodies(monkeypatch):
    monkeypatch.setattr(engine, "MAX_AHEAD", 10)
    hill = Hill()
    main = hill.chain(hill.genesis, 30)
    shell = Shell(hill)
    shell.auto = False
    shell.hear(*main)
    assert shell.state.tree.best.block_hash == main[9].hash
    assert shell.state.paused
    shell.auto = True
    shell.now += limits.FETCH_RETRY_S
    shell.do(t.Tick())
    assert shell.of(t.AskHeaders)
    assert not shell.state.paused
    for _ in range(3):
        shell.hear(*main)
    assert shell.tip == main[-1].hash


# ---- checkpoints, pruning, memory


def test_no_branch_leaves_the_chain_below_a_checkpoint():
    hill = Hill()
    main = hill.chain(hill.genesis, 5)
    shell = Shell(hill, checkpoints={3: main[2].hash})
    early = hill.chain(main[0], 3)
    shell.hear(main[0], *early)
    assert [e.code for e in shell.of(t.Misbehaviour)] == ["checkpoint-mismatch"]
    shell.hear(*main)
    assert shell.tip == main[-1].hash
    assert refusal(shell, hill.child(main[0])) == "bad-fork-prior-to-checkpoint"
    assert refusal(shell, hill.child(main[1])) == "checkpoint-mismatch"
    long = hill.chain(main[2], 4)
    shell.hear(*long)
    assert shell.tip == long[-1].hash


def test_old_headers_leave_memory_and_come_back_for_a_deep_branch(monkeypatch):
    monkeypatch.setattr(engine, "PRUNE_STEP", 5)
    hill = Hill()
    main = hill.chain(hill.genesis, 60)
    shell = Shell(hill, keep_depth=15)
    for header in main:
        shell.hear(header)
    tree = shell.state.tree
    assert len(tree.entries) <= 15 + 5 + 1
    assert tree.root_height == 60 - len(tree.entries) + 1
    works = {h: e.work for h, e in tree.entries.items()}

    rival = hill.chain(main[19], 45)
    shell.hear(*rival)
    (recall,) = shell.of(t.Recall)
    assert recall == t.Recall(main[19].hash, tree.root_height)
    shell.do(t.Recalled(tuple(main[20 - 11 - 1 : tree.root_height - 1])))
    assert shell.tip == rival[-1].hash
    assert shell.of(t.DeepReorg)[0].depth == 40
    tree = shell.state.tree
    assert all(tree.entries[h].work == work for h, work in works.items() if h in tree.entries)


def test_a_deep_branch_with_more_headers_than_may_wait_is_followed(monkeypatch):
    monkeypatch.setattr(engine, "PRUNE_STEP", 5)
    monkeypatch.setattr(engine, "MAX_ORPHANS_PER_SENDER", 10)
    hill = Hill()
    main = hill.chain(hill.genesis, 60)
    shell = Shell(hill, keep_depth=15)
    for header in main:
        shell.hear(header)
    rival = hill.chain(main[19], 45)
    shell.hear(*rival)
    (recall,) = shell.of(t.Recall)
    shell.do(t.Recalled(tuple(main[20 - 11 - 1 : recall.root_height - 1])))
    (ask,) = shell.of(t.AskHeaders)
    assert ask.peer == 1
    assert rival[9].hash in shell.state.tree.entries
    shell.hear(*rival)
    assert shell.tip == rival[-1].hash


def test_recalled_headers_that_do_not_fit_are_left_out():
    hill = Hill()
    main = hill.chain(hill.genesis, 2)
    state = restore(
        config_of(hill.params),
        main[0],
        1,
        cumulative(hill, main[0]),
        [StoredHeader(main[1], True)],
        main[1].hash,
    )
    state, _ = engine.step(state, t.Recalled((main[1], main[1])), GENESIS_TIME)
    assert state.tree.root_height == 1
    state, _ = engine.step(state, t.Recalled((hill.genesis,)), GENESIS_TIME)
    assert state.tree.root_height == 0
    assert state.tree.entries[hill.genesis.hash].work == work_of(hill.genesis.bits)


def test_spam_branches_are_dropped_least_work_first(monkeypatch):
    monkeypatch.setattr(engine, "MAX_TREE", 30)
    hill = Hill()
    main = hill.chain(hill.genesis, 8)
    shell = Shell(hill)
    shell.hear(*main)
    for _ in range(60):
        shell.hear(hill.child(hill.genesis))
    assert len(shell.state.tree.entries) <= 30
    assert shell.tip == main[-1].hash
    best = hill.child(main[-1])
    shell.hear(best)
    assert shell.tip == best.hash


def test_locator_grows_with_the_logarithm_and_ends_at_the_root():
    hill = Hill()
    main = hill.chain(hill.genesis, 200)
    shell = Shell(hill)
    shell.hear(*main)
    hashes = locator(shell.state)
    assert hashes[:10] == tuple(header.hash for header in reversed(main[-10:]))
    assert hashes[-1] == hill.genesis.hash
    assert len(hashes) <= 10 + 8 + 1


def test_stale_tip_is_told_once_per_tip():
    hill = Hill()
    main = hill.chain(hill.genesis, 2)
    shell = Shell(hill)
    shell.hear(main[0])
    shell.now += limits.STALE_INTERVALS * SPACING
    shell.do(t.Tick())
    assert shell.of(t.StaleTip) == [t.StaleTip(limits.STALE_INTERVALS * SPACING)]
    assert shell.of(t.AskHeaders)
    shell.now += 10**4
    shell.do(t.Tick())
    assert shell.of(t.StaleTip) == []
    shell.hear(main[1])
    shell.now += 10**4
    shell.do(t.Tick())
    assert len(shell.of(t.StaleTip)) == 1


# ---- restart


def test_restart_goes_on_where_it_was():
    hill = Hill()
    old, new = hill.chain(hill.genesis, 3), hill.chain(hill.genesis, 4)
    shell = Shell(hill)
    shell.hear(*old)
    stored = [StoredHeader(h, h in old or h in new[:2]) for h in [*old, *new]]
    state = restore(config_of(hill.params), hill.genesis, 0, work_of(hill.genesis.bits), stored, old[-1].hash)
    assert state.tree.tip.block_hash == old[-1].hash
    assert state.tree.best.block_hash == new[-1].hash
    shell.state = state
    shell.do(t.Start())
    assert shell.fetched[-2:] == [new[2].hash, new[3].hash]
    assert shell.tip == new[-1].hash


def test_restart_with_a_new_checkpoint_or_a_stored_mark_leaves_what_contradicts_it():
    hill = Hill()
    old, new = hill.chain(hill.genesis, 3), hill.chain(hill.genesis, 2)
    for marks, checkpoints in (({}, {1: new[0].hash}), ({old[1].hash: "bad-toy"}, {})):
        shell = Shell(hill, checkpoints=checkpoints)
        stored = [StoredHeader(h, True, marks.get(h.hash)) for h in [*old, *new]]
        shell.state = restore(
            shell.state.config, hill.genesis, 0, work_of(hill.genesis.bits), stored, old[-1].hash
        )
        shell.chain = [hill.genesis.hash, *[h.hash for h in old]]
        shell.do(t.Start())
        assert shell.tip == new[-1].hash


def test_a_new_checkpoint_far_below_the_tip_is_obeyed_after_a_restart():
    """It may lie below what a tree keeps in memory; the chain that contradicts it is left all the same."""
    hill = Hill()
    main = hill.chain(hill.genesis, 60)
    rival = hill.chain(main[19], 5)
    shell = Shell(hill)
    shell.hear(*main)
    config = config_of(hill.params, keep_depth=15)
    block_at = shell.chain.__getitem__
    assert root_height_of(config, 60, block_at) == 45
    assert root_height_of(config, 10, block_at) == 0
    same = {20: main[19].hash, 30: main[29].hash, 99: bytes(32)}
    assert root_height_of(replace(config, checkpoints=same), 60, block_at) == 45
    config = replace(config, checkpoints={20: main[19].hash, 21: rival[0].hash})
    root = root_height_of(config, 60, block_at)
    assert root == 10

    stored = [StoredHeader(h, True) for h in main[root:]]
    work = cumulative(hill, main[root - 1])
    shell.state = restore(config, main[root - 1], root, work, stored, main[-1].hash)
    shell.do(t.Start())
    assert shell.tip == main[19].hash
    shell.hear(*rival)
    assert shell.tip == rival[-1].hash
    assert refusal(shell, hill.child(main[19])) == "checkpoint-mismatch"


def test_a_tip_without_header_is_a_local_fault():
    hill = Hill()
    with pytest.raises(ConfigError):
        restore(config_of(hill.params), hill.genesis, 0, 2, [], b"\x01" * 32)


def test_nothing_moves_before_the_start():
    hill = Hill()
    state = engine.begin(config_of(hill.params), hill.genesis)
    header = hill.child(hill.genesis)
    state, effects = engine.step(state, t.Headers(None, (header,)), GENESIS_TIME + 50)
    assert [type(e) for e in effects] == [t.StoreHeader]
    state, effects = engine.step(state, t.Start(), GENESIS_TIME + 50)
    assert t.FetchBodies((header.hash,)) in effects


def test_headers_are_the_kit_s_own():
    """The kit mines what Bitcoin's serialisation says."""
    header = Hill().genesis
    assert BlockHeader.parse(header.raw) == header
