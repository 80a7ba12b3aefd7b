"""Organisations come by a quorum under the licence agreement, and go by themselves or by a quorum."""

from dataclasses import replace

import pytest

from consensus import dpos
from consensus.errors import RuleError
from consensus.params import NO_BFT, Organisation, PowParams
from contracts import keys
from contracts import queries as energy_queries
from contracts.governance import queries
from contracts.governance.entry import agreement_message, sign_application
from contracts.governance.operations import Apply, Approve, Expel, Leave, VoteDelegates
from contracts.operations import Deposit, RegisterMember, encode, object_id
from contracts.records import unpack

DAY_S = 86_400
AGREEMENT = bytes(range(32))
LIFETIME_S = 14 * DAY_S


def application(world, kit, number, *, agreement=AGREEMENT, name=None):
    return sign_application(
        world.params,
        bytes([number]) * 32,
        bytes([number + 100]) * 32,
        name=name or f"esp-{number}",
        account=kit.p2pkh(number),
        agreement_hash=agreement,
    )


def applied(world, kit, number, **how):
    """Hand in an application; returns its id."""
    operation = application(world, kit, number, **how)
    tx = world.do(kit.p2pkh(number), operation)
    return object_id(tx.prevouts[0], encode(operation))


def admitted(world, kit, number, **how):
    """Take a provider in with the votes of as many as it needs; returns its account."""
    found = applied(world, kit, number, **how)
    for each in queries.candidates(world.state, world.params, world.time_s):
        if queries.application(world.state, found) is not None:
            world.do(bytes.fromhex(each["account"]), Approve(found, AGREEMENT))
    return kit.p2pkh(number)


def accounts(world):
    found = queries.candidates(world.state, world.params, world.time_s)
    return [bytes.fromhex(each["account"]) for each in found]


def pending_timers(world):
    return [(keys.timer_due(key), unpack(value)[:2]) for key, value in world.state.scan(keys.TIMER)]


def founders(kit):
    return [kit.OPERATOR, kit.PROVIDER, kit.PROVIDER_2, kit.OTHER_OPERATOR]


# ---- joining ---------------------------------------------------------------------------------------


def test_a_provider_is_admitted_by_a_quorum_and_then_serves(kit, world):
    found = applied(world, kit, 50)
    view = queries.application(world.state, found)
    assert (view["name"], view["role"], view["approved_by"]) == ("esp-50", "service-provider", [])
    assert view["expires_s"] == world.time_s + LIFETIME_S
    newcomer = kit.p2pkh(50)
    member = RegisterMember(kit.COMMUNITY, kit.p2pkh(1001), newcomer)
    for at, founder in enumerate(founders(kit)[:3]):
        assert world.refused(kit.OPERATOR, member) == "unknown-provider"
        assert queries.application(world.state, found)["approved_by"] == [
            each.hex() for each in founders(kit)[:at]
        ]
        world.do(founder, Approve(found, AGREEMENT))
    assert queries.application(world.state, found) is None
    assert pending_timers(world) == []
    assert newcomer in accounts(world)
    view = next(each for each in queries.candidates(world.state, world.params, 0) if each["name"] == "esp-50")
    assert view["agreement_hash"] == AGREEMENT.hex()
    assert view["height"] == world.height
    listed = [each["account"] for each in energy_queries.organisations(world.state)]
    assert newcomer.hex() in listed
    world.do(kit.OPERATOR, member)
    # it has a vote now: of five organisations four make a quorum
    assert queries.status(world.state, world.params)["quorum"] == 4
    other = applied(world, kit, 51)
    for each in (kit.OPERATOR, kit.PROVIDER, newcomer):
        world.do(each, Approve(other, AGREEMENT))
    assert kit.p2pkh(51) not in accounts(world)
    assert world.refused(newcomer, Approve(other, AGREEMENT)) == "already-approved"
    world.do(kit.PROVIDER_2, Approve(other, AGREEMENT))
    assert kit.p2pkh(51) in accounts(world)


def test_only_members_of_the_committee_approve_and_only_what_they_hold(kit, world):
    found = applied(world, kit, 50)
    assert world.refused(kit.p2pkh(50), Approve(found, AGREEMENT)) == "not-in-committee"
    assert world.refused(kit.p2pkh(99), Approve(found, AGREEMENT)) == "not-in-committee"
    assert world.refused(kit.OPERATOR, Approve(bytes(32), AGREEMENT)) == "unknown-application"
    assert world.refused(kit.OPERATOR, Approve(found, bytes(32))) == "wrong-agreement"
    world.do(kit.OPERATOR, Approve(found, AGREEMENT))
    assert world.refused(kit.OPERATOR, Approve(found, AGREEMENT)) == "already-approved"


def test_an_application_is_the_applicants_own(kit, world):
    assert world.refused(kit.p2pkh(51), application(world, kit, 50)) == "not-applicant"
    founder = sign_application(
        world.params,
        bytes([1]) * 32,
        bytes([2]) * 32,
        name="x",
        account=kit.PROVIDER,
        agreement_hash=AGREEMENT,
    )
    assert world.refused(kit.PROVIDER, founder) == "already-organisation"


def test_names_and_keys_belong_to_one_organisation(kit, world):
    assert world.refused(kit.p2pkh(50), application(world, kit, 50, name="esp-1")) == "name-taken"
    admitted(world, kit, 50)
    secrets = {"vote": bytes([50]) * 32, "identity": bytes([150]) * 32}
    for changed, code in (("identity", "vote-key-taken"), ("vote", "identity-key-taken")):
        chosen = secrets | {changed: bytes([9]) * 32}
        operation = sign_application(
            world.params,
            chosen["vote"],
            chosen["identity"],
            name="other",
            account=kit.p2pkh(60),
            agreement_hash=AGREEMENT,
        )
        assert world.refused(kit.p2pkh(60), operation) == code


def test_of_two_applications_with_one_name_the_first_quorum_wins(kit, world):
    first, second = applied(world, kit, 50, name="twin"), applied(world, kit, 51, name="twin")
    for each in founders(kit)[:2]:
        world.do(each, Approve(first, AGREEMENT))
        world.do(each, Approve(second, AGREEMENT))
    world.do(kit.PROVIDER_2, Approve(second, AGREEMENT))
    assert kit.p2pkh(51) in accounts(world)
    world.do(kit.PROVIDER_2, Approve(first, AGREEMENT))
    # five now have a vote, four must approve: the fourth is refused and changes nothing
    assert world.refused(kit.OTHER_OPERATOR, Approve(first, AGREEMENT)) == "name-taken"
    assert len(queries.application(world.state, first)["approved_by"]) == 3


def test_a_new_application_replaces_the_pending_one(kit, world):
    first = applied(world, kit, 50)
    world.do(kit.OPERATOR, Approve(first, AGREEMENT))
    second = applied(world, kit, 50, name="better name")
    assert queries.application(world.state, first) is None
    (view,) = queries.applications(world.state, 10)
    assert (view["application"], view["approved_by"]) == (second.hex(), [])
    assert pending_timers(world) == [(world.time_s + LIFETIME_S, ("1-application", second))]
    assert world.refused(kit.OPERATOR, Approve(first, AGREEMENT)) == "unknown-application"


def test_an_application_expires(kit, world):
    found = applied(world, kit, 50)
    before = {key for key in world.state.values if key != keys.GOVERNANCE}
    due = world.time_s + LIFETIME_S
    world.block(at=due - 1)
    assert queries.application(world.state, found) is not None
    world.block(at=due)
    assert queries.applications(world.state, 10) == []
    assert pending_timers(world) == []
    assert {key.split(b"/")[0] for key in before - set(world.state.values)} == {
        b"application",
        b"application-of",
        b"timer",
    }
    applied(world, kit, 50)


def test_expiry_keeps_to_the_budget_and_rules_go_by_time(kit):
    world = kit.World(kit.make_params({"timer_budget": 20}))
    found = [applied(world, kit, number) for number in range(50, 75)]
    due = world.time_s + LIFETIME_S
    world.block(at=due)
    left = [each for each in found if queries.application(world.state, each)]
    assert len(left) == 5
    # what its timer has not reached yet is over all the same
    session = world.open()
    with pytest.raises(RuleError) as caught:
        session.execute(*world.tx(kit.OPERATOR, Approve(left[0], AGREEMENT)))
    assert caught.value.code == "application-expired"
    world.block()
    assert queries.applications(world.state, 100) == []


def test_applications_are_listed_in_pages(kit, world):
    found = sorted(applied(world, kit, number) for number in range(50, 57))
    pages, after = [], b""
    while page := queries.applications(world.state, 3, after):
        pages += [bytes.fromhex(each["application"]) for each in page]
        after = pages[-1]
    assert pages == found


def test_whoever_left_counts_no_more_among_the_approvals(kit, world):
    fifth = admitted(world, kit, 50)
    found = applied(world, kit, 51)
    world.do(fifth, Approve(found, AGREEMENT))
    world.do(kit.PROVIDER, Approve(found, AGREEMENT))
    world.do(fifth, Leave())
    world.do(kit.OPERATOR, Approve(found, AGREEMENT))
    # three approved, but of the four that are left only two
    assert kit.p2pkh(51) not in accounts(world)
    world.do(kit.PROVIDER_2, Approve(found, AGREEMENT))
    assert kit.p2pkh(51) in accounts(world)


# ---- signatures and form ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"vote_signature": bytes(64)}, "bad-vote-signature"),
        ({"name": "somebody"}, "bad-vote-signature"),
        ({"vote_key": bytes([2]) * 32}, "bad-vote-signature"),
        ({"identity_signature": bytes(64)}, "bad-identity-signature"),
        ({"agreement_signature": bytes(64)}, "bad-agreement-signature"),
        ({"agreement_hash": bytes(32)}, "bad-agreement-signature"),
        ({"name": ""}, "bad-op-field"),
        ({"name": "x" * 65}, "bad-op-field"),
        ({"name": " x"}, "bad-op-field"),
        ({"name": "K\u00f6ln"}, "bad-op-field"),
        ({"account": b"\x51"}, "bad-op-field"),
        ({"agreement_hash": bytes(31)}, "bad-op-field"),
    ],
)
def test_what_an_application_must_prove(kit, world, changes, code):
    world.contracts.check_payload(world.tx(kit.p2pkh(50), application(world, kit, 50))[0])
    with pytest.raises(RuleError) as caught:
        world.contracts.check_payload(
            world.tx(kit.p2pkh(50), replace(application(world, kit, 50), **changes))[0]
        )
    assert caught.value.code == code
    assert caught.value.permanent


def test_an_application_is_bound_to_its_chain_account_and_key(kit, world):
    foreign = kit.make_params()
    foreign = replace(foreign, name="elsewhere")
    operation = application(kit.World(foreign), kit, 50)
    with pytest.raises(RuleError) as caught:
        world.contracts.check_payload(world.tx(kit.p2pkh(50), operation)[0])
    assert caught.value.code == "bad-vote-signature"
    base = [world.tag, kit.p2pkh(50), bytes(32), AGREEMENT]
    others = [bytes(32), kit.p2pkh(51), bytes([1]) * 32, bytes(32)]
    messages = {agreement_message(*base)}
    for at, other in enumerate(others):
        messages.add(agreement_message(*base[:at], other, *base[at + 1 :]))
    assert len(messages) == 5


@pytest.mark.parametrize(
    "operation", [Leave(), Approve(bytes(32), bytes(32)), Expel(b"\x51"), VoteDelegates(())]
)
def test_governance_takes_no_money(kit, world, operation):
    with pytest.raises(RuleError) as caught:
        world.contracts.check_payload(world.tx(kit.OPERATOR, operation, value=1)[0])
    assert caught.value.code == "bad-op-value"


def test_governance_costs_more_of_the_budget(kit):
    world = kit.World(kit.make_params({"op_budget": 120}))
    items = [world.tx(kit.p2pkh(number), application(world, kit, number)) for number in (50, 51, 52)]
    errors = world.block(*items, world.tx(kit.p2pkh(70), Deposit(), 1))
    assert [error and error.code for error in errors] == [None, None, "op-budget-exceeded", None]


# ---- leaving ---------------------------------------------------------------------------------------


def test_an_organisation_leaves_and_may_come_back(kit, world):
    assert world.refused(kit.PROVIDER, Leave()) == "committee-too-small"
    newcomer = admitted(world, kit, 50)
    world.do(newcomer, VoteDelegates((kit.PROVIDER,)))
    world.do(newcomer, Leave())
    assert newcomer not in accounts(world)
    assert queries.votes(world.state) == []
    assert world.refused(newcomer, Leave()) == "not-in-committee"
    member = RegisterMember(kit.COMMUNITY, kit.p2pkh(1001), newcomer)
    assert world.refused(kit.OPERATOR, member) == "unknown-provider"
    assert admitted(world, kit, 50) in accounts(world)
    world.do(kit.OPERATOR, member)


def test_a_founder_that_left_comes_back_with_the_role_it_had(kit, world):
    admitted(world, kit, 50)
    world.do(kit.OPERATOR, Leave())
    assert kit.OPERATOR not in accounts(world)
    # the grid of its community remains its own
    world.do(kit.OPERATOR, RegisterMember(kit.COMMUNITY, kit.p2pkh(1001), kit.PROVIDER))
    operation = sign_application(
        world.params,
        bytes([1]) * 32,
        bytes([2]) * 32,
        name="dso",
        account=kit.OPERATOR,
        agreement_hash=AGREEMENT,
    )
    tx = world.do(kit.OPERATOR, operation)
    found = object_id(tx.prevouts[0], encode(operation))
    for each in (kit.PROVIDER, kit.PROVIDER_2, kit.p2pkh(50)):
        world.do(each, Approve(found, AGREEMENT))
    views = {each["name"]: each for each in queries.candidates(world.state, world.params, 0)}
    assert views["dso"]["role"] == "grid-operator"
    assert views["dso"]["vote_key"] == operation.vote_key.hex()


def test_a_quorum_removes_an_organisation(kit, world):
    bad = admitted(world, kit, 50)
    for each in founders(kit)[:3]:
        world.do(each, Expel(bad))
        assert world.refused(each, Expel(bad)) == "already-voted"
    (view,) = queries.removals(world.state)
    assert view["account"] == bad.hex()
    assert view["voted_by"] == [each.hex() for each in founders(kit)[:3]]
    assert world.refused(bad, Expel(bad)) == "own-account"
    world.do(kit.OTHER_OPERATOR, Expel(bad))
    assert bad not in accounts(world)
    assert queries.removals(world.state) == []
    assert pending_timers(world) == []
    assert world.refused(kit.PROVIDER, Expel(bad)) == "unknown-organisation"
    assert world.refused(bad, Expel(kit.PROVIDER)) == "not-in-committee"


def test_four_organisations_stay(kit, world):
    assert world.refused(kit.PROVIDER, Expel(kit.PROVIDER_2)) == "committee-too-small"


def test_a_removal_expires(kit, world):
    bad = admitted(world, kit, 50)
    for each in founders(kit)[:3]:
        world.do(each, Expel(bad))
    world.block(dt=LIFETIME_S)
    assert queries.removals(world.state) == []
    world.do(kit.OTHER_OPERATOR, Expel(bad))
    assert bad in accounts(world)
    assert len(queries.removals(world.state)[0]["voted_by"]) == 1


def test_a_removal_whose_timer_waits_starts_anew(kit):
    world = kit.World(kit.make_params({"timer_budget": 20}))
    bad = admitted(world, kit, 40)
    for number in range(50, 75):
        applied(world, kit, number)
    for each in founders(kit)[:3]:
        world.do(each, Expel(bad))
    world.block(dt=LIFETIME_S)
    assert queries.removals(world.state) != []
    tx, spent = world.tx(kit.OTHER_OPERATOR, Expel(bad))
    session = world.open()
    session.execute(tx, spent)
    world.state.apply(session.finish())
    assert bad in accounts(world)
    (view,) = queries.removals(world.state)
    assert view["voted_by"] == [kit.OTHER_OPERATOR.hex()]
    world.block()
    world.block()
    assert [timer[1] for timer in pending_timers(world)] == [("2-removal", bad)]


# ---- what is not there -----------------------------------------------------------------------------


def test_a_chain_without_a_committee_has_no_governance(kit):
    params = kit.make_params()
    organisations = tuple(
        Organisation(each.name, each.role, each.payout_script) for each in params.bft.validators
    )
    pow_params = PowParams(0x207FFFFF, 0x207FFFFF, 15, 1440, 150, 0, 1, 6, (), organisations)
    world = kit.World(replace(params, engine="pow", bft=NO_BFT, pow=pow_params))
    assert world.refused(kit.p2pkh(50), application(world, kit, 50)) == "no-committee"
    assert world.refused(kit.PROVIDER, VoteDelegates((kit.OPERATOR,))) == "not-in-committee"
    assert world.refused(kit.PROVIDER, Leave()) == "not-in-committee"
    assert queries.status(world.state, world.params)["committee"] == 0
    preview = queries.tally(world.state, world.params, bytes(32), 0, bytes(32), dpos.PLURALITY)
    assert preview["delegates"] == []


def test_the_operations_survive_their_encoding(kit, world):
    from contracts.payload import decode

    for operation in (
        application(world, kit, 50),
        Approve(bytes(32), AGREEMENT),
        Expel(kit.PROVIDER),
        Leave(),
        VoteDelegates((kit.OPERATOR, kit.PROVIDER)),
    ):
        assert decode(encode(operation)) == operation
    assert isinstance(application(world, kit, 50), Apply)
