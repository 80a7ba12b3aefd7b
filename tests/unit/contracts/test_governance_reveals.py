"""Reveal chains: who registers one, from when it counts, and that nobody escapes a reveal by a new one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import canonical, rounds
from consensus.errors import RuleError
from consensus.hashes import sha256
from contracts import keys, payload
from contracts.governance import queries
from contracts.governance.operations import CommitReveals, Leave, VoteDelegates
from contracts.limits import MAX_REVEALS
from contracts.operations import MARK, VERSION, encode
from contracts.payload import decode
from contracts.records import pack

TOP, OTHER_TOP = sha256(b"one"), sha256(b"two")


def chain_of(world, account):
    return rounds.reveal_chain(world.state, account)


def reveal(world, account, times=1):
    """Let reveals be published, as the rules of rounds note it."""
    known = chain_of(world, account)
    after = known._replace(left=known.left - times, top=sha256(b"pre-image of" + known.top))
    world.state.apply({rounds.REVEAL + account: rounds.encode_reveal_chain(after)})
    return after


def epoch_end(world):
    round_s = world.params.bft.round_s
    return (world.time_s // round_s + 1) * round_s


def written_under_round(world, before):
    after = {key: value for key, value in world.state.values.items() if key.startswith(b"round/")}
    return {key for key in {**before, **after} if before.get(key) != after.get(key)}


# ---- form ------------------------------------------------------------------------------------------


@given(
    st.builds(
        CommitReveals,
        st.binary(min_size=32, max_size=32),
        st.integers(1, MAX_REVEALS),
        st.integers(0, 2**32 - 1),
    )
)
def test_the_operation_survives_the_wire(operation):
    assert payload.decode(encode(operation)) == operation


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ([bytes(31), 1, 0], "top"),
        (["top", 1, 0], "top"),
        ([TOP, 0, 0], "length"),
        ([TOP, 65_537, 0], "length"),
        ([TOP, True, 0], "length"),
        ([TOP, 1, -1], "generation"),
        ([TOP, 1, 2**32], "generation"),
        ([TOP, 1], "fields"),
        ([TOP, 1, 0, 0], "fields"),
    ],
)
def test_bad_fields_are_named(values, field):
    with pytest.raises(RuleError) as caught:
        decode(MARK + bytes([VERSION]) + canonical.encode(["governance.commit_reveals", *values]))
    assert (caught.value.code, caught.value.reason.split(":")[0]) == ("bad-op-field", field)


# ---- registering -----------------------------------------------------------------------------------


def test_a_first_chain_counts_from_the_next_epoch(kit, world):
    world.do(kit.PROVIDER, CommitReveals(TOP, 100, 7))
    assert chain_of(world, kit.PROVIDER) == (TOP, 100, 7, 1)
    assert world.state.get(b"round/reveal/" + kit.PROVIDER) == canonical.encode([TOP, 100, 7, 1])
    kit.enter_epoch(world, 5)
    world.do(kit.PROVIDER_2, CommitReveals(OTHER_TOP, 1, 0))
    assert chain_of(world, kit.PROVIDER_2) == (OTHER_TOP, 1, 0, 6)
    assert queries.status(world.state, world.params)["counting_since"] == 1


def test_who_registers_and_which_generation(kit, world):
    assert world.refused(kit.p2pkh(99), CommitReveals(TOP, 1, 0)) == "not-in-committee"
    world.do(kit.PROVIDER, CommitReveals(TOP, 5, 3))
    for generation in (0, 3):
        assert world.refused(kit.PROVIDER, CommitReveals(OTHER_TOP, 5, generation)) == "generation-used"
    world.do(kit.PROVIDER_2, CommitReveals(OTHER_TOP, 5, 3))


def test_a_chain_that_does_not_count_yet_or_has_nothing_left_is_replaced_at_once(kit, world):
    world.do(kit.PROVIDER, CommitReveals(TOP, 5, 0))
    world.do(kit.PROVIDER, CommitReveals(OTHER_TOP, 6, 1))
    assert chain_of(world, kit.PROVIDER) == (OTHER_TOP, 6, 1, 1)
    kit.enter_epoch(world, 1)
    reveal(world, kit.PROVIDER, 6)
    world.do(kit.PROVIDER, CommitReveals(TOP, 9, 2))
    assert chain_of(world, kit.PROVIDER) == (TOP, 9, 2, 2)
    assert not list(world.state.scan(keys.TIMER))


def test_a_chain_that_counts_stays_due_until_the_epoch_ends(kit, world):
    """Otherwise a leader could look at the seed so far and get out of its last reveal."""
    world.do(kit.PROVIDER, CommitReveals(TOP, 50, 0))
    kit.enter_epoch(world, 1)
    before = reveal(world, kit.PROVIDER)
    world.do(kit.PROVIDER, CommitReveals(OTHER_TOP, 60, 1))
    assert chain_of(world, kit.PROVIDER) == before
    (view,) = [
        each
        for each in queries.candidates(world.state, world.params, world.time_s)
        if each["account"] == kit.PROVIDER.hex()
    ]
    assert view["reveals"] == {"left": 49, "generation": 0, "from_epoch": 1}
    assert view["next_reveals"] == {"left": 60, "generation": 1, "from_epoch": 2}
    end = epoch_end(world)
    world.block(at=end - 1)
    before = reveal(world, kit.PROVIDER)
    assert chain_of(world, kit.PROVIDER) == before
    world.block(at=end)
    assert chain_of(world, kit.PROVIDER) == (OTHER_TOP, 60, 1, 2)
    assert world.state.get(keys.REVEALS_NEXT + kit.PROVIDER) is None
    assert not list(world.state.scan(keys.TIMER))


def test_a_chain_that_waits_is_replaced_by_a_later_one(kit, world):
    world.do(kit.PROVIDER, CommitReveals(TOP, 50, 0))
    kit.enter_epoch(world, 1)
    world.do(kit.PROVIDER, CommitReveals(OTHER_TOP, 60, 4))
    assert world.refused(kit.PROVIDER, CommitReveals(TOP, 60, 4)) == "generation-used"
    world.do(kit.PROVIDER, CommitReveals(sha256(b"three"), 70, 5))
    assert len(list(world.state.scan(keys.TIMER))) == 1
    world.block(at=epoch_end(world))
    assert chain_of(world, kit.PROVIDER) == (sha256(b"three"), 70, 5, 2)


def test_whoever_has_no_vote_has_nothing_to_reveal_and_comes_back_with_another_chain(kit, world):
    fifth = kit.p2pkh(77)
    record = ("five", "service-provider")
    entry = pack((*record, *[bytes(32)] * 2, *[bytes(64)] * 2, bytes(32), bytes(64), 1))
    admitted = {keys.ORGANISATION + fifth: pack(record), keys.PROVIDER + fifth: entry}
    world.state.apply(admitted)
    world.do(fifth, CommitReveals(TOP, 5, 0))
    kit.enter_epoch(world, 1)
    world.do(fifth, CommitReveals(OTHER_TOP, 5, 1))
    assert list(world.state.scan(keys.TIMER))
    world.do(fifth, Leave())
    assert chain_of(world, fifth) == (TOP, 0, 1, 1)
    assert not list(world.state.scan(keys.TIMER)) + list(world.state.scan(keys.REVEALS_NEXT))
    world.state.apply(admitted)
    assert world.refused(fifth, CommitReveals(OTHER_TOP, 5, 1)) == "generation-used"
    world.do(fifth, CommitReveals(OTHER_TOP, 5, 2))
    assert chain_of(world, fifth) == (OTHER_TOP, 5, 2, 2)


# ---- against a model -------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["commit", "commit", "reveal", "wait", "vote"]),
        st.integers(0, 1),
        st.integers(1, 5),
        st.integers(0, 30_000),
    ),
    max_size=30,
)


@settings(max_examples=40)
@given(STEPS)
def test_in_every_epoch_exactly_the_chain_is_due_that_was_registered_before_it(kit, steps):
    """The model keeps what each registered and when; only reveals change the chain that counts."""
    world, epoch, generation = kit.World(), 0, 0
    people = (kit.PROVIDER, kit.PROVIDER_2)
    active, coming = {}, {}
    for kind, who, length, wait in steps:
        account, round_s = people[who], world.params.bft.round_s
        before = {key: value for key, value in world.state.values.items() if key.startswith(b"round/")}
        at = world.time_s + wait
        if at // round_s != world.time_s // round_s:  # the block that ends the epoch
            world.block(at=at)
            epoch += 1
            kit.enter_epoch(world, epoch)
            active |= coming
            coming = {}
        elif kind == "commit":
            generation += 1
            world.do(account, CommitReveals(TOP, length, generation), at=at)
            coming[account] = [length, generation, epoch + 1]
            assert written_under_round(world, before) <= {rounds.REVEAL + account}
        elif kind == "reveal" and account in active and active[account][0]:
            reveal(world, account)
            active[account][0] -= 1
        elif kind == "vote":
            world.do(account, VoteDelegates((kit.OPERATOR,)), at=at)
            assert not written_under_round(world, before)
        for each in people:
            found = chain_of(world, each)
            due = found if found and found.left and found.from_epoch <= epoch else None
            expected = active.get(each)
            if expected and expected[0]:
                assert due is not None
                assert list(due[1:]) == expected
            else:
                assert due is None
