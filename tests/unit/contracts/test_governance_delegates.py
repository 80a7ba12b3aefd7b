"""Delegate votes and weights: meters that were read within two days, and the election they give."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import dpos, duties, rounds
from consensus.errors import RuleError
from consensus.hashes import sha256
from consensus.keys import ed25519_public
from contracts import keys
from contracts import queries as energy_queries
from contracts.governance import activity, queries
from contracts.governance.operations import Leave, VoteDelegates
from contracts.operations import MARK, VERSION, ReassignDevice, RevokeDevice, encode, reading_hash
from contracts.payload import decode

STEP_S = 21_600
HOUR_S = 3_600
SEED = bytes(32)


def weight(world, provider, time_s=None):
    return activity.active_meters(world.state, provider, world.time_s if time_s is None else time_s)


def read(world, number, *, at, provider=None, **more):
    """Submit the reading of a meter for the slot that ended last before ``at``."""
    slot = at // 900 - 1
    item = world.reading(number, slot, 5, **more)
    world.submit(item, at=at, **({} if provider is None else {"provider": provider}))


def counting(world, kit):
    """Governance begins: from here on readings count."""
    world.do(kit.OPERATOR, VoteDelegates(()))


# ---- weights ---------------------------------------------------------------------------------------


def test_a_meter_weighs_from_its_first_reading_until_two_days_after_its_last(kit, world):
    counting(world, kit)
    world.household(1)
    start = kit.START_S + 5 * HOUR_S
    assert weight(world, kit.PROVIDER) == 0
    read(world, 1, at=start)
    assert weight(world, kit.PROVIDER) == 1
    assert weight(world, kit.PROVIDER_2) == 0
    assert weight(world, kit.PROVIDER, start + 42 * HOUR_S) == 1
    assert weight(world, kit.PROVIDER, start + 48 * HOUR_S) == 0
    read(world, 1, at=start + 40 * HOUR_S)
    assert weight(world, kit.PROVIDER, start + 48 * HOUR_S) == 1
    assert weight(world, kit.PROVIDER, start + 200 * HOUR_S) == 0


def test_before_governance_begins_readings_leave_no_trace(kit, world):
    world.household(1)
    read(world, 1, at=kit.START_S + HOUR_S)
    prefixes = {key.split(b"/")[0] for key in world.state.values}
    assert not prefixes & {b"governance", b"meter-read", b"meters-read"}
    counting(world, kit)
    assert weight(world, kit.PROVIDER) == 0
    read(world, 1, at=kit.START_S + 2 * HOUR_S)
    assert weight(world, kit.PROVIDER) == 1


def test_readings_of_one_step_are_written_once(kit, world):
    counting(world, kit)
    world.household(1)
    read(world, 1, at=kit.START_S + HOUR_S)
    before = dict(world.state.values)
    read(world, 1, at=kit.START_S + 2 * HOUR_S)
    changed = [key for key, value in world.state.values.items() if before.get(key) != value]
    assert not [key for key in changed if key.startswith((b"meter-read/", b"meters-read/"))]
    read(world, 1, at=kit.START_S + STEP_S)
    assert [key for key in world.state.values if key.startswith(b"meters-read/")] == [
        keys.owned(keys.METERS_READ, kit.PROVIDER) + keys.number((kit.START_S + STEP_S) // STEP_S)
    ]


def test_refused_readings_and_revoked_meters_do_not_weigh(kit, world):
    counting(world, kit)
    world.household(1, meters=2)
    at = kit.START_S + HOUR_S
    read(world, 1, at=at)
    read(world, 1, at=at, provider=kit.PROVIDER_2, meter=1)
    assert (weight(world, kit.PROVIDER), weight(world, kit.PROVIDER_2)) == (1, 0)
    read(world, 1, at=at, meter=1)
    assert weight(world, kit.PROVIDER) == 2
    world.do(kit.OPERATOR, RevokeDevice(ed25519_public(world.seed(1))))
    assert weight(world, kit.PROVIDER) == 1
    world.do(kit.OPERATOR, RevokeDevice(ed25519_public(world.seed(1, 1))))
    assert weight(world, kit.PROVIDER) == 0
    assert not list(world.state.scan(b"meter-read/")) + list(world.state.scan(b"meters-read/"))


def test_a_meter_that_another_provider_takes_over_weighs_for_that_one(kit, world):
    """So households keep their meters when their provider is no organisation any more."""
    counting(world, kit)
    owner = world.household(1)
    key = ed25519_public(world.seed(1))
    read(world, 1, at=kit.START_S + HOUR_S)
    move = ReassignDevice(key, kit.PROVIDER_2)
    assert world.refused(kit.PROVIDER, move) == "not-grid-operator"
    assert world.refused(kit.OPERATOR, ReassignDevice(bytes(32), kit.PROVIDER_2)) == "unknown-device"
    assert world.refused(kit.OPERATOR, ReassignDevice(key, owner)) == "unknown-provider"
    assert world.refused(kit.OPERATOR, ReassignDevice(key, kit.PROVIDER)) == "same-provider"
    world.do(kit.OPERATOR, move)
    assert (weight(world, kit.PROVIDER), weight(world, kit.PROVIDER_2)) == (0, 1)
    assert energy_queries.device(world.state, key)["provider"] == kit.PROVIDER_2.hex()
    assert energy_queries.member(world.state, kit.COMMUNITY, owner)["provider"] == kit.PROVIDER_2.hex()
    slot = world.slot_now
    old, new = world.reading(1, slot, 7), world.reading(1, slot, 8)
    world.submit(old, at=world.end(slot))
    world.submit(new, provider=kit.PROVIDER_2)
    codes = [energy_queries.outcome(world.state, reading_hash(item))["code"] for item in (old, new)]
    assert codes == ["wrong-provider", "accepted"]
    world.do(kit.OPERATOR, RevokeDevice(key))
    assert world.refused(kit.OPERATOR, ReassignDevice(key, kit.PROVIDER)) == "device-revoked"
    assert weight(world, kit.PROVIDER_2) == 0


def test_a_meter_of_which_nothing_was_read_is_reassigned_without_weight(kit, world):
    world.household(1)
    world.do(kit.OPERATOR, ReassignDevice(ed25519_public(world.seed(1)), kit.PROVIDER_2))
    assert not list(world.state.scan(b"meter-read/")) + list(world.state.scan(b"meters-read/"))


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 30 * HOUR_S), st.booleans()), min_size=1, max_size=40
    )
)
def test_the_counters_agree_with_a_scan_over_all_meters(kit, steps):
    """Against a model that keeps the time of every meter's last reading."""
    state = kit.DictState()

    class Writable:
        get, scan = state.get, state.scan
        put = staticmethod(lambda key, value: state.apply({key: value}))
        delete = staticmethod(lambda key: state.apply({key: None}))

    last, now = {}, kit.START_S
    for meter, wait, revoke in steps:
        now += wait
        provider, key = kit.p2pkh(meter % 2), bytes([meter]) * 32
        if revoke:
            activity.forget_meter(Writable, provider, key)
            last.pop(meter, None)
        else:
            activity.note_reading(Writable, provider, key, now)
            last[meter] = now
        for parity in (0, 1):
            times = [time for each, time in last.items() if each % 2 == parity]
            recent = sum(now // STEP_S - time // STEP_S < 8 for time in times)
            found = activity.active_meters(state, kit.p2pkh(parity), now)
            assert found == recent
            assert sum(now - time <= 42 * HOUR_S for time in times) <= found
            assert found <= sum(now - time < 48 * HOUR_S for time in times)


# ---- votes -----------------------------------------------------------------------------------------


def test_a_vote_stands_until_the_next(kit, world):
    world.do(kit.PROVIDER, VoteDelegates((kit.OPERATOR, kit.PROVIDER_2)))
    (view,) = queries.votes(world.state)
    assert view == {
        "account": kit.PROVIDER.hex(),
        "approvals": [kit.OPERATOR.hex(), kit.PROVIDER_2.hex()],
        "height": world.height,
    }
    world.block(dt=30 * kit.DAY_S)
    assert queries.votes(world.state) == [view]
    world.do(kit.PROVIDER, VoteDelegates((kit.OTHER_OPERATOR,)))
    (view,) = queries.votes(world.state)
    assert view["approvals"] == [kit.OTHER_OPERATOR.hex()]
    world.do(kit.PROVIDER, VoteDelegates(()))
    assert queries.votes(world.state) == []


def test_who_votes_for_whom(kit, world):
    assert world.refused(kit.p2pkh(99), VoteDelegates((kit.PROVIDER,))) == "not-in-committee"
    assert world.refused(kit.PROVIDER, VoteDelegates((kit.PROVIDER,))) == "self-vote"
    assert world.refused(kit.PROVIDER, VoteDelegates((kit.p2pkh(99),))) == "unknown-candidate"


@pytest.mark.parametrize("approvals", ["twice", "descending", "too many", "no list", "no script"])
def test_approvals_have_one_form(kit, approvals):
    one, two = kit.p2pkh(1), kit.p2pkh(2)
    value = {
        "twice": [one, one],
        "descending": [two, one],
        "too many": [kit.p2pkh(number) for number in range(51)],
        "no list": one,
        "no script": [b""],
    }[approvals]
    from consensus import canonical

    with pytest.raises(RuleError) as caught:
        decode(MARK + bytes([VERSION]) + canonical.encode(["governance.vote", value]))
    assert caught.value.code == "bad-op-field"
    good = VoteDelegates(tuple(kit.p2pkh(number) for number in range(50)))
    assert decode(encode(good)) == good


@pytest.mark.parametrize(("seats", "most"), [(4, 21), (21, 21), (22, 22), (50, 50)])
def test_a_vote_names_21_or_as_many_as_the_chain_has_seats(kit, seats, most):
    params = kit.make_params()
    params = replace(params, bft=replace(params.bft, delegates=seats))
    world = kit.World(params)
    full = VoteDelegates(tuple(kit.p2pkh(number) for number in range(most)))
    world.contracts.check_payload(world.tx(kit.PROVIDER, full)[0])
    assert queries.status(world.state, params)["max_approvals"] == most
    if most < 50:
        more = VoteDelegates((*full.approvals, kit.p2pkh(most)))
        with pytest.raises(RuleError) as caught:
            world.contracts.check_payload(world.tx(kit.PROVIDER, more)[0])
        assert (caught.value.code, caught.value.reason.split(":")[0]) == ("bad-op-field", "approvals")


# ---- election --------------------------------------------------------------------------------------


def tally(world, mode=dpos.PLURALITY, *, seed=SEED, wait_s=0):
    return queries.tally(world.state, world.params, bytes(32), world.time_s + wait_s, seed, mode)


def prepared(kit, world):
    """Three meters with one provider, one with another; each votes, as does an operator without meters."""
    counting(world, kit)
    for number in (1, 2, 3):
        world.household(number)
    world.household(4, provider=kit.PROVIDER_2)
    at = kit.START_S + HOUR_S
    for number in (1, 2, 3):
        read(world, number, at=at)
    read(world, 4, at=at, provider=kit.PROVIDER_2)
    world.do(kit.PROVIDER, VoteDelegates((kit.OPERATOR, kit.PROVIDER_2)))
    world.do(kit.PROVIDER_2, VoteDelegates((kit.OPERATOR,)))
    world.do(kit.OPERATOR, VoteDelegates((kit.OTHER_OPERATOR,)))


def test_the_tally_weighs_votes_by_active_meters(kit, world):
    prepared(kit, world)
    found = tally(world)
    ranking = {bytes.fromhex(each["account"]): each for each in found["ranking"]}
    assert {account: each["votes"] for account, each in ranking.items()} == {
        kit.OPERATOR: 4,
        kit.PROVIDER_2: 3,
        kit.PROVIDER: 0,
        kit.OTHER_OPERATOR: 0,
    }
    assert ranking[kit.PROVIDER]["active_meters"] == 3
    assert [each["votes"] for each in found["ranking"]] == [4, 3, 0, 0]
    assert sorted(found["delegates"]) == sorted(each["account"] for each in found["ranking"])
    assert found["alternates"] == []
    assert found["takes_over"]
    later = tally(world, wait_s=3 * kit.DAY_S)
    assert {each["votes"] for each in later["ranking"]} == {0}
    # another seed, another order
    orders = [tally(world, dpos.PROPORTIONAL, seed=sha256(bytes([at]))) for at in range(8)]
    assert len({tuple(each["delegates"]) for each in orders}) > 1


def test_approvals_of_who_is_gone_count_for_nothing(kit, world):
    from contracts.records import pack

    prepared(kit, world)
    # a fifth organisation, so that one may leave
    fifth = kit.p2pkh(77)
    world.state.apply(
        {
            keys.ORGANISATION + fifth: pack(("five", "service-provider")),
            keys.PROVIDER + fifth: pack(
                ("five", "service-provider", *[bytes(32)] * 2, *[bytes(64)] * 2, bytes(32), bytes(64), 1)
            ),
        }
    )
    world.do(kit.PROVIDER_2, VoteDelegates((kit.OPERATOR, fifth)))
    world.do(fifth, Leave())
    found = tally(world)
    assert fifth.hex() not in [each["account"] for each in found["ranking"]]
    assert len(found["delegates"]) == 4
    assert fifth.hex() in queries.votes(world.state)[-1]["approvals"]


def test_offenders_are_shown_beside_the_ranking_and_weigh_half(kit, world):
    prepared(kit, world)
    world.state.apply({rounds.OFFENCE + kit.PROVIDER: (9).to_bytes(8, "big")})
    found = tally(world)
    assert (found["epoch"], found["takes_over"]) == (1, False)
    assert kit.PROVIDER.hex() not in [each["account"] for each in found["ranking"]]
    assert found["barred"] == [{"account": kit.PROVIDER.hex(), "until_epoch": 9, "weight": 1}]
    votes = {bytes.fromhex(each["account"]): each["votes"] for each in found["ranking"]}
    assert votes == {kit.OPERATOR: 2, kit.PROVIDER_2: 1, kit.OTHER_OPERATOR: 0}
    assert queries.status(world.state, world.params)["barred"] == 1
    barred = {
        each["account"]: each["barred_until"]
        for each in queries.candidates(world.state, world.params, world.time_s)
    }
    assert barred.pop(kit.PROVIDER.hex()) == 9
    assert set(barred.values()) == {None}


def test_the_port_gives_every_candidate_with_its_ballot(kit, world):
    prepared(kit, world)
    found = world.contracts.candidates(world.state, world.time_s)
    accounts = [each.entry.payout_script for each in found]
    assert accounts == sorted(accounts) == [each.ballot.provider for each in found]
    ballots = {each.ballot.provider: each.ballot for each in found}
    assert ballots[kit.PROVIDER] == (kit.PROVIDER, 3, (kit.OPERATOR, kit.PROVIDER_2))
    assert ballots[kit.OTHER_OPERATOR] == (kit.OTHER_OPERATOR, 0, ())
    later = world.contracts.candidates(world.state, world.time_s + 3 * kit.DAY_S)
    assert [each.ballot.weight for each in later] == [0, 0, 0, 0]


def test_the_round_shows_who_signs_and_what_they_missed(kit, world):
    founders = world.params.bft.validators
    found = queries.round_now(world.state, world.params, bytes(32), world.time_s)
    assert (found["round"], found["epoch"], found["first_height"]) == (0, 0, 1)
    assert [each["name"] for each in found["members"]] == [each.name for each in founders]
    assert {(each["absent"], each["failed_leads"], each["failed"]) for each in found["members"]} == {
        (0, 0, False)
    }
    assert (found["n"], found["faults"], found["quorum"], found["alternates"]) == (4, 1, 3, [])
    assert found["epoch_ends_s"] == (world.time_s // kit.DAY_S + 1) * kit.DAY_S
    assert 0 < found["next_substitution_s"] - world.time_s <= 10_800
    seed = sha256(b"epoch 3")
    now = rounds.Round(7, 3, 100, seed, seed, 55, founders[:2] + founders[3:], founders[2:3])
    missed = duties.Duties(60, 0, 0, False, (0, 0, 0), (0, 1, 0), (0, 0, 3))
    world.state.apply({rounds.NOW: rounds.encode_round(now), rounds.DUTY: duties.encode(missed)})
    found = queries.round_now(world.state, world.params, bytes(32), world.time_s)
    assert (found["round"], found["epoch"], found["first_height"]) == (7, 3, 100)
    assert found["set_hash"] == now.validator_set.set_hash.hex()
    assert [each["name"] for each in found["alternates"]] == [founders[2].name]
    assert [(each["absent"], each["failed_leads"], each["failed"]) for each in found["members"]] == [
        (0, 0, False),
        (1, 0, True),
        (0, 3, True),
    ]


def test_the_seed_to_come_follows_what_was_revealed(kit, world):
    first = dpos.first_seed(bytes(32))
    assert queries.coming_seed(world.state, world.params, bytes(32)) == dpos.next_seed(first, bytes(32))
    mix = dpos.fold_reveals([sha256(b"one")])
    world.state.apply({rounds.MIX: mix})
    assert queries.coming_seed(world.state, world.params, bytes(32)) == dpos.next_seed(first, mix)


def test_genesis_knows_nothing_of_governance(kit, world):
    state = world.contracts.genesis_state()
    assert {key.split(b"/")[0] for key in state} == {b"org", b"community", b"energy-params"}
    assert queries.status(world.state, world.params) == {
        "committee": 4,
        "faults": 1,
        "quorum": 3,
        "counting_since": None,
        "max_committee": 256,
        "max_approvals": 21,
        "max_delegates": 21,
        "max_alternates": 10,
        "election": "plurality",
        "with_reveals": 0,
        "barred": 0,
        "motion_lifetime_s": 14 * kit.DAY_S,
        "activity_s": 2 * kit.DAY_S,
    }
