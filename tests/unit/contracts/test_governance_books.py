"""Governance under random use: what belongs together stays together, and bounds hold."""

from collections import Counter
from random import Random

import pytest

from consensus import dpos, rounds
from consensus.bft.quorum import quorum
from consensus.keys import ed25519_public
from contracts import keys
from contracts.energy.readings import ACCEPTED, find_outcome
from contracts.governance import queries
from contracts.governance.activity import active_meters
from contracts.governance.admission import find_removal, read_application
from contracts.governance.committee import committee, entry
from contracts.governance.entry import sign_application
from contracts.governance.operations import Approve, CommitReveals, Expel, Leave, VoteDelegates
from contracts.governance.records import NextReveals
from contracts.limits import MAX_COMMITTEE
from contracts.operations import ReassignDevice, RevokeDevice, SubmitReadings, encode, object_id, reading_hash
from contracts.records import Device, pack, unpack

AGREEMENT = bytes(range(32))
STEP_S = 21_600


def accounts_under(state, prefix):
    return [key[len(prefix) :] for key, _ in state.scan(prefix)]


def check_state(world, read_steps):
    state, params = world.state, world.params
    members = [member.payout_script for member in committee(state, params)]
    assert len(members) >= 4
    assert [entry(state, params, account) for account in members] == committee(state, params)
    assert set(accounts_under(state, keys.PROVIDER)) <= set(members)
    assert members == accounts_under(state, keys.ORGANISATION)
    timers = {}
    for key, value in state.scan(keys.TIMER):
        if b"/governance/" in key:
            kind, subject, _ = unpack(value)
            timers[kind, subject] = keys.timer_due(key)
    motions = {}
    for key, value in state.scan(keys.APPLICATION):
        application_id, found = key[len(keys.APPLICATION) :], read_application(value)
        motions["1-application", application_id] = found.expires_s
        assert state.get(keys.APPLICATION_OF + found.account) == application_id
        assert found.account not in members
        assert len(set(found.approvals)) == len(found.approvals)
    assert len(accounts_under(state, keys.APPLICATION_OF)) == len(motions)
    for account in accounts_under(state, keys.REMOVAL):
        assert account in members
        motions["2-removal", account] = find_removal(state, account).expires_s
    for key, value in state.scan(keys.REVEALS_NEXT):
        account, waiting = key[len(keys.REVEALS_NEXT) :], NextReveals(*unpack(value))
        motions["3-reveals", account] = waiting.due_s
        known = rounds.reveal_chain(state, account)
        assert (known.left > 0, known.generation < waiting.generation) == (True, True)
    for account in set(accounts_under(state, rounds.REVEAL)) - set(members):
        assert rounds.reveal_chain(state, account).left == 0
    assert timers == motions
    assert set(accounts_under(state, keys.DELEGATE_VOTE)) <= set(members)
    check_weights(world, members, read_steps)


def check_weights(world, members, read_steps):
    """Counters against the steps that a model kept per meter, by who serves the meter now."""
    steps = {}
    for key, value in world.state.scan(keys.METER_READ):
        steps[key[len(keys.METER_READ) :]] = int.from_bytes(value, "big")
    assert steps == read_steps
    now = world.time_s // STEP_S
    for account in members:
        served = [
            key for key in steps if Device(*unpack(world.state.get(keys.DEVICE + key))).provider == account
        ]
        recent = [key for key in served if now - 7 <= steps[key] <= now]
        assert active_meters(world.state, account, world.time_s) == len(recent)


KINDS = (
    ["apply"] * 6
    + ["approve"] * 20
    + ["expel"] * 12
    + ["leave"]
    + ["vote"] * 4
    + ["commit"] * 6
    + ["read"] * 20
    + ["move"] * 2
)
WAITS_S = [0] * 24 + [900] * 8 + [40_000, 700_000]
STEPS = 1_000


@pytest.mark.parametrize("seed", range(3))
def test_random_use_keeps_the_books(kit, seed):
    dice = Random(seed)
    world = kit.World()
    people = [kit.OPERATOR, kit.PROVIDER, kit.PROVIDER_2, kit.OTHER_OPERATOR, *map(kit.p2pkh, range(50, 54))]
    world.do(kit.OPERATOR, VoteDelegates(()))
    for number in range(6):
        world.household(number)
    epochs = [world.time_s // 86_400]
    read_steps, applications, done = {}, [bytes(32)], Counter()
    for _ in range(STEPS):
        kind, wait = dice.choice([*KINDS, "revoke"] if dice.random() < 0.6 else KINDS), dice.choice(WAITS_S)
        who, meter = dice.randrange(8), dice.randrange(6)
        actor, other, device_key = people[who], dice.choice(people), ed25519_public(world.seed(meter))
        if kind == "read":
            item = world.reading(meter, (world.time_s + wait) // 900 - 1, 5)
            operation = SubmitReadings((item,))
        else:
            operation = {
                "apply": lambda who=who: signed(world, kit, who, people),
                "approve": lambda: Approve(applications[-1], AGREEMENT),
                "expel": lambda: Expel(people[-1 - dice.randrange(2)]),
                "leave": Leave,
                "vote": lambda other=other: VoteDelegates((other,)),
                "commit": lambda height=world.height: CommitReveals(bytes(32), 3, height // 8),
                "move": lambda key=device_key, other=other: ReassignDevice(key, other),
                "revoke": lambda key=device_key: RevokeDevice(key),
            }[kind]()
        if kind in ("move", "revoke"):
            actor = kit.OPERATOR
        elif kind in ("approve", "expel", "read") and dice.random() < 0.8:
            actor = dice.choice(committee(world.state, world.params)).payout_script
        tx, spent = world.tx(actor, operation)
        voters = len(committee(world.state, world.params))
        epochs.append((world.time_s + wait) // 86_400)
        (error,) = world.block((tx, spent), dt=wait)
        if epochs[-1] != epochs[-2]:
            kit.enter_epoch(world, epochs[-1])
        done[kind if error is None else error.code] += 1
        done["removed"] += kind == "expel" and len(committee(world.state, world.params)) < voters
        done["admitted"] += len(committee(world.state, world.params)) > voters
        done["replaced"] += error is None and world.state.get(keys.REVEALS_NEXT + actor) is not None
        if error is None and kind == "apply":
            applications.append(object_id(tx.prevouts[0], encode(operation)))
        elif error is None and kind == "revoke":
            read_steps.pop(device_key, None)
        elif error is None and kind == "read":
            found = find_outcome(world.state, reading_hash(item))
            if found.code == ACCEPTED and found.height == world.height:
                read_steps[device_key] = world.time_s // STEP_S
                done["counted"] += 1
        check_state(world, read_steps)
    expected = ("admitted", "removed", "leave", "vote", "commit", "replaced", "move", "revoke", "counted")
    for each in (*expected, "generation-used", "unknown-application"):
        assert done[each], f"seed {seed}: {each} never happened: {done}"


def signed(world, kit, who, people):
    return sign_application(
        world.params,
        bytes([who + 1]) * 32,
        bytes([who + 101]) * 32,
        name=f"applicant-{who}",
        account=people[who],
        agreement_hash=AGREEMENT,
    )


def crowd(kit, world, count):
    """Enter organisations as if they had been admitted."""
    for number in range(count):
        account, secret = kit.p2pkh(10_000 + number), number.to_bytes(32, "big")
        record = (f"org-{number:03}", "service-provider", secret, secret, bytes(64), bytes(64))
        world.state.apply(
            {
                keys.ORGANISATION + account: pack(record[:2]),
                keys.PROVIDER + account: pack((*record, AGREEMENT, bytes(64), 1)),
            }
        )


def test_a_full_committee_takes_nobody_and_still_elects(kit, world):
    crowd(kit, world, MAX_COMMITTEE - 5)
    application = signed(world, kit, 0, [kit.p2pkh(50)])
    late = signed(world, kit, 1, [kit.p2pkh(50), kit.p2pkh(51)])
    tx = world.do(kit.p2pkh(50), application)
    world.do(kit.p2pkh(51), late)
    found = object_id(tx.prevouts[0], encode(application))
    voters = [member.payout_script for member in committee(world.state, world.params)]
    approve = Approve(found, AGREEMENT)
    wanted = quorum(MAX_COMMITTEE - 1)
    world.block(*[world.tx(who, approve) for who in voters[:15]])
    assert world.errors == [None] * 15
    for at in range(15, wanted, 15):
        world.block(*[world.tx(who, approve) for who in voters[at : min(wanted, at + 15)]])
    assert kit.p2pkh(50) in [member.payout_script for member in committee(world.state, world.params)]
    another = signed(world, kit, 2, [b"", b"", kit.p2pkh(52)])
    assert world.refused(kit.p2pkh(52), another) == "committee-full"
    found = queries.tally(world.state, world.params, bytes(32), world.time_s, bytes(32), dpos.PROPORTIONAL)
    assert (len(found["delegates"]), len(found["alternates"])) == (21, 10)
    assert len(found["ranking"]) == MAX_COMMITTEE
