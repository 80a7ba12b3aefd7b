"""Reading the state of governance for clients: plain values, as ``contracts.queries`` gives them."""

from itertools import islice
from typing import Any

from consensus import dpos, duties, rounds
from consensus.bft.quorum import faults, quorum
from consensus.ledger_limits import MAX_ALTERNATES
from consensus.params import ChainParams, Validator
from consensus.ports import StateView
from consensus.rounds import RevealChain
from contracts import keys
from contracts.governance.activity import active_meters
from contracts.governance.admission import find_application, read_application
from contracts.governance.committee import committee, find_provider
from contracts.governance.delegates import ballots, most_approvals
from contracts.governance.records import Application, NextReveals, Removal, Vote
from contracts.governance.reveals import next_reveals
from contracts.limits import ACTIVITY_STEP_S, ACTIVITY_STEPS, MAX_COMMITTEE, MOTION_LIFETIME_S
from contracts.records import unpack

View = dict[str, Any]


def status(state: StateView, params: ChainParams) -> View:
    """Return the size of the committee, what decides in it, and the bounds of governance.

    ``with_reveals`` is how many of the committee have reveals left, ``barred`` how many are barred.
    """
    members = [member.payout_script for member in committee(state, params)]
    n = len(members)
    chains = [rounds.reveal_chain(state, account) for account in members]
    offenders = rounds.offences(state)
    since = state.get(keys.GOVERNANCE)
    return {
        "committee": n,
        "faults": faults(n) if n else 0,
        "quorum": quorum(n) if n else 0,
        "counting_since": None if since is None else int.from_bytes(since, "big"),
        "max_committee": MAX_COMMITTEE,
        "max_approvals": most_approvals(params),
        "max_delegates": params.bft.delegates,
        "max_alternates": MAX_ALTERNATES,
        "election": params.bft.election,
        "with_reveals": len([chain for chain in chains if chain is not None and chain.left]),
        "barred": len([account for account in members if account in offenders]),
        "motion_lifetime_s": MOTION_LIFETIME_S,
        "activity_s": ACTIVITY_STEP_S * ACTIVITY_STEPS,
    }


def candidates(state: StateView, params: ChainParams, time_s: int) -> list[View]:
    """Return the organisations with a vote in order of account, with their active meters at ``time_s``.

    ``agreement_hash`` and ``height`` are null for founders. ``reveals`` is the reveal chain,
    ``next_reveals`` the one that waits for the end of the epoch, ``barred_until`` the epoch from which an
    offender can be elected again; null where there is none.
    """
    found = []
    offenders = rounds.offences(state)
    for member in committee(state, params):
        admitted = find_provider(state, member.payout_script)
        found.append(
            {
                "account": member.payout_script.hex(),
                "name": member.name,
                "role": member.role,
                "vote_key": member.vote_key.hex(),
                "identity_key": member.identity_key.hex(),
                "agreement_hash": None if admitted is None else admitted.agreement_hash.hex(),
                "height": None if admitted is None else admitted.height,
                "active_meters": active_meters(state, member.payout_script, time_s),
                "reveals": _chain_view(rounds.reveal_chain(state, member.payout_script)),
                "next_reveals": _chain_view(next_reveals(state, member.payout_script)),
                "barred_until": offenders.get(member.payout_script),
            }
        )
    return found


def _chain_view(chain: RevealChain | NextReveals | None) -> View | None:
    if chain is None:
        return None
    return {"left": chain.left, "generation": chain.generation, "from_epoch": chain.from_epoch}


def application(state: StateView, application_id: bytes) -> View | None:
    """Return a pending application; null once it is decided or expired."""
    found = find_application(state, application_id)
    return None if found is None else _application_view(application_id, found)


def applications(state: StateView, limit: int, after: bytes = b"") -> list[View]:
    """Return at most ``limit`` pending applications in order of id, those beyond ``after``."""
    size = len(keys.APPLICATION)
    rest = (item for item in state.scan(keys.APPLICATION) if item[0][size:] > after)
    return [_application_view(key[size:], read_application(value)) for key, value in islice(rest, limit)]


def _application_view(application_id: bytes, found: Application) -> View:
    provider = found.provider
    return {
        "application": application_id.hex(),
        "account": found.account.hex(),
        "name": provider.name,
        "role": provider.role,
        "vote_key": provider.vote_key.hex(),
        "identity_key": provider.identity_key.hex(),
        "agreement_hash": provider.agreement_hash.hex(),
        "agreement_signature": provider.agreement_signature.hex(),
        "height": provider.height,
        "expires_s": found.expires_s,
        "approved_by": [account.hex() for account in found.approvals],
    }


def removals(state: StateView) -> list[View]:
    """Return the pending removals in order of account."""
    found = []
    for key, value in state.scan(keys.REMOVAL):
        record = Removal(*unpack(value))
        found.append(
            {
                "account": key[len(keys.REMOVAL) :].hex(),
                "height": record.height,
                "expires_s": record.expires_s,
                "voted_by": [account.hex() for account in record.votes],
            }
        )
    return found


def votes(state: StateView) -> list[View]:
    """Return the standing delegate votes in order of account."""
    found = []
    for key, value in state.scan(keys.DELEGATE_VOTE):
        record = Vote(*unpack(value))
        found.append(
            {
                "account": key[len(keys.DELEGATE_VOTE) :].hex(),
                "approvals": [account.hex() for account in record.approvals],
                "height": record.height,
            }
        )
    return found


def coming_seed(state: StateView, params: ChainParams, chain_id: bytes) -> bytes:
    """Return the seed of the next epoch if this one ended with the next block."""
    now = rounds.current(state, params, chain_id)
    return dpos.next_seed(now.seed, state.get(rounds.MIX) or bytes(32))


def tally(
    state: StateView, params: ChainParams, chain_id: bytes, time_s: int, seed: bytes, mode: str
) -> View:
    """Return what an election on this state would give: delegates and alternates as shuffled by ``seed``.

    It is for the epoch after the current one. ``mode`` is one of ``dpos.MODES``. The ranking has all
    candidates, with weights as of ``time_s``; ``barred`` has the offenders, which are none, and what is left
    of their weight. ``takes_over`` is False where too few are elected, so that the validators before go on.
    """
    epoch = rounds.current(state, params, chain_id).epoch + 1 if params.bft.validators else 0
    offenders = rounds.offences(state)
    names, cast = dpos.eligible(ballots(state, params, time_s), offenders, epoch)
    weights = {ballot.provider: ballot.weight for ballot in cast}
    found = dpos.elect(names, cast, seed, mode, params.bft.delegates)
    return {
        "epoch": epoch,
        "mode": mode,
        "seed": seed.hex(),
        "takes_over": dpos.takes_over(found.delegates),
        "delegates": [account.hex() for account in found.delegates],
        "alternates": [account.hex() for account in found.alternates],
        "ranking": [
            {"account": account.hex(), "votes": found.votes[account], "active_meters": weights[account]}
            for account in found.ranking
        ],
        "barred": [
            {"account": account.hex(), "until_epoch": offenders[account], "weight": weight}
            for account, weight in weights.items()
            if account not in found.votes
        ],
    }


def round_now(state: StateView, params: ChainParams, chain_id: bytes, time_s: int) -> View:
    """Return the round that signs the next block: who is in it, what they missed, and when it can end.

    ``time_s`` is the time of the tip; ``epoch_ends_s`` and ``next_substitution_s`` are block times.
    """
    now = rounds.current(state, params, chain_id)
    value = state.get(rounds.DUTY)
    counted = duties.counters(duties.decode(value)) if value is not None else ()
    missed = counted or (dpos.Duty(0, 0),) * len(now.members)
    failed = dpos.failed(missed)
    offenders = rounds.offences(state)
    bft = params.bft
    return {
        "round": now.number,
        "epoch": now.epoch,
        "first_height": now.first_height,
        "set_hash": now.validator_set.set_hash.hex(),
        "seed": now.seed.hex(),
        "n": len(now.members),
        "faults": faults(len(now.members)),
        "quorum": quorum(len(now.members)),
        "members": [
            {
                **_member_view(state, member, offenders),
                "absent": missed[place].absent,
                "failed_leads": missed[place].failed_lead,
                "failed": place in failed,
            }
            for place, member in enumerate(now.members)
        ],
        "alternates": [_member_view(state, member, offenders) for member in now.alternates],
        "epoch_ends_s": (time_s // bft.round_s + 1) * bft.round_s,
        "next_substitution_s": (time_s // bft.substitution_s + 1) * bft.substitution_s,
    }


def _member_view(state: StateView, member: Validator, offenders: dict[bytes, int]) -> View:
    account = member.payout_script
    return {
        "name": member.name,
        "account": account.hex(),
        "role": member.role,
        "vote_key": member.vote_key.hex(),
        "identity_key": member.identity_key.hex(),
        "reveals": _chain_view(rounds.reveal_chain(state, account)),
        "barred_until": offenders.get(account),
    }
