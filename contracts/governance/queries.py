"""Reading the state of governance for clients: plain values, as ``contracts.queries`` gives them."""

from itertools import islice
from typing import Any

from consensus import dpos
from consensus.bft.quorum import faults, quorum
from consensus.ledger_limits import MAX_ALTERNATES, MAX_DELEGATES
from consensus.params import ChainParams
from consensus.ports import StateView
from contracts import keys
from contracts.governance.activity import active_meters
from contracts.governance.admission import find_application, read_application
from contracts.governance.committee import committee, find_provider
from contracts.governance.delegates import ballots
from contracts.governance.records import Application, Removal, Vote
from contracts.limits import ACTIVITY_STEP_S, ACTIVITY_STEPS, MAX_APPROVALS, MAX_COMMITTEE, MOTION_LIFETIME_S
from contracts.records import unpack

View = dict[str, Any]


def status(state: StateView, params: ChainParams) -> View:
    """Return the size of the committee, what decides in it, and the bounds of governance."""
    n = len(committee(state, params))
    since = state.get(keys.GOVERNANCE)
    return {
        "committee": n,
        "faults": faults(n) if n else 0,
        "quorum": quorum(n) if n else 0,
        "counting_since": None if since is None else int.from_bytes(since, "big"),
        "max_committee": MAX_COMMITTEE,
        "max_approvals": MAX_APPROVALS,
        "max_delegates": MAX_DELEGATES,
        "max_alternates": MAX_ALTERNATES,
        "motion_lifetime_s": MOTION_LIFETIME_S,
        "activity_s": ACTIVITY_STEP_S * ACTIVITY_STEPS,
    }


def candidates(state: StateView, params: ChainParams, time_s: int) -> list[View]:
    """Return the organisations with a vote in order of account, with their active meters at ``time_s``.

    ``agreement_hash`` and ``height`` are null for founders.
    """
    found = []
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
            }
        )
    return found


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


def tally(state: StateView, params: ChainParams, time_s: int, seed: bytes, mode: str) -> View:
    """Return what an election on this state would give: delegates and alternates as shuffled by ``seed``.

    ``mode`` is one of ``dpos.MODES``. The ranking has all candidates, with weights as of ``time_s``.
    ``takes_over`` is False where too few are elected, so that the validators before would go on.
    """
    cast = ballots(state, params, time_s)
    weights = {ballot.provider: ballot.weight for ballot in cast}
    found = dpos.elect(list(weights), cast, seed, mode)
    return {
        "mode": mode,
        "seed": seed.hex(),
        "takes_over": dpos.takes_over(found.delegates),
        "delegates": [account.hex() for account in found.delegates],
        "alternates": [account.hex() for account in found.alternates],
        "ranking": [
            {"account": account.hex(), "votes": found.votes[account], "active_meters": weights[account]}
            for account in found.ranking
        ],
    }
