"""How organisations come and go: applications under the licence agreement, removals, departures.

The keyless-signature paper lets the leader compare {h(Am), Sig(Am)} of a new provider with its own
agreement. Here the signatures are a matter of form, and each member of the committee compares: its
approval names the agreement that it holds. A quorum of approvals admits.
"""

from collections.abc import Sequence

from consensus.errors import RuleError
from consensus.ledger_limits import MIN_VALIDATORS
from consensus.params import Validator
from contracts import keys
from contracts.governance.committee import activate, committee, entry, is_quorum, require_vote
from contracts.governance.entry import role_of
from contracts.governance.operations import Apply, Approve, Expel, Leave
from contracts.governance.records import Application, Provider, Removal
from contracts.governance.reveals import end_reveals
from contracts.limits import MAX_COMMITTEE, MOTION_LIFETIME_S
from contracts.records import ReadableState, pack, unpack
from contracts.scope import Call, Scope

CONTRACT = b"governance"
APPLICATION_TIMER = "1-application"
REMOVAL_TIMER = "2-removal"


def find_application(state: ReadableState, application_id: bytes) -> Application | None:
    """Return a pending application, None if it is unknown, decided or expired."""
    value = state.get(keys.APPLICATION + application_id)
    return None if value is None else read_application(value)


def read_application(value: bytes) -> Application:
    """Decode the record of an application."""
    account, provider, expires_s, approvals = unpack(value)
    return Application(account, Provider(*provider), expires_s, approvals)


def application_of(state: ReadableState, account: bytes) -> bytes | None:
    """Return the id of the pending application of ``account``."""
    return state.get(keys.APPLICATION_OF + account)


def find_removal(state: ReadableState, account: bytes) -> Removal | None:
    """Return the pending removal of ``account``."""
    value = state.get(keys.REMOVAL + account)
    return None if value is None else Removal(*unpack(value))


# ---- joining ---------------------------------------------------------------------------------------


def apply(scope: Scope, call: Call, operation: Apply) -> None:
    """Enter an application; it replaces the one that the account has pending, whose approvals are void.

    Raises RuleError: not-applicant, no-committee, already-organisation, committee-full, name-taken,
    vote-key-taken, identity-key-taken.
    """
    state = scope.state
    if operation.account != call.account:
        raise RuleError("not-applicant", "an organisation applies by its own account")
    if not scope.params.bft.validators:
        raise RuleError("no-committee", "nobody has a vote on this chain")
    provider = Provider(
        name=operation.name,
        role=role_of(scope.params, call.account),
        vote_key=operation.vote_key,
        identity_key=operation.identity_key,
        vote_signature=operation.vote_signature,
        identity_signature=operation.identity_signature,
        agreement_hash=operation.agreement_hash,
        agreement_signature=operation.agreement_signature,
        height=scope.context.height,
    )
    _require_room(committee(state, scope.params), call.account, provider)
    activate(scope)
    pending = application_of(state, call.account)
    if pending is not None:
        _drop_application(scope, pending)
    expires_s = scope.context.time_s + MOTION_LIFETIME_S
    state.put(keys.APPLICATION + call.object_id, pack(Application(call.account, provider, expires_s)))
    state.put(keys.APPLICATION_OF + call.account, call.object_id)
    state.put(*_timer(expires_s, APPLICATION_TIMER, call.object_id))


def _require_room(members: list[Validator], account: bytes, provider: Provider) -> None:
    """Refuse an applicant whom the committee cannot take as it is now."""
    if any(member.payout_script == account for member in members):
        raise RuleError("already-organisation", "the account has a vote", permanent=False)
    if len(members) >= MAX_COMMITTEE:
        raise RuleError("committee-full", f"{MAX_COMMITTEE} organisations", permanent=False)
    for member in members:
        if member.name == provider.name:
            raise RuleError("name-taken", "an organisation of that name has a vote", permanent=False)
        if member.vote_key == provider.vote_key:
            raise RuleError("vote-key-taken", f"it is {member.name}'s", permanent=False)
        if member.identity_key == provider.identity_key:
            raise RuleError("identity-key-taken", f"it is {member.name}'s", permanent=False)


def approve(scope: Scope, call: Call, operation: Approve) -> None:
    """Approve an application; the one that completes a quorum admits the applicant.

    Raises RuleError: not-in-committee, unknown-application, application-expired, wrong-agreement,
    already-approved; from the last one also committee-full, name-taken, vote-key-taken,
    identity-key-taken.
    """
    require_vote(scope, call.account)
    found = find_application(scope.state, operation.application)
    if found is None:
        raise RuleError("unknown-application", "no such application is pending", permanent=False)
    if scope.context.time_s >= found.expires_s:
        raise RuleError("application-expired", f"at {found.expires_s}")
    provider = found.provider
    if provider.agreement_hash != operation.agreement_hash:
        raise RuleError("wrong-agreement", "the applicant signed another licence agreement")
    if call.account in found.approvals:
        raise RuleError("already-approved", "an organisation approves once")
    found = found._replace(approvals=(*found.approvals, call.account))
    members = committee(scope.state, scope.params)
    activate(scope)
    if not is_quorum(members, found.approvals):
        scope.state.put(keys.APPLICATION + operation.application, pack(found))
        return
    _require_room(members, found.account, provider)
    _drop_application(scope, operation.application)
    admitted = provider._replace(height=scope.context.height)
    scope.state.put(keys.ORGANISATION + found.account, pack((provider.name, provider.role)))
    scope.state.put(keys.PROVIDER + found.account, pack(admitted))


def _drop_application(scope: Scope, application_id: bytes) -> None:
    found = find_application(scope.state, application_id)
    if found is None:
        return
    scope.state.delete(keys.APPLICATION + application_id)
    scope.state.delete(keys.APPLICATION_OF + found.account)
    scope.state.delete(_timer(found.expires_s, APPLICATION_TIMER, application_id)[0])


def expire_application(scope: Scope, application_id: bytes, number: int, budget: int) -> int | None:
    """Forget an application that found no quorum in time; takes one unit. ``number`` is not used."""
    _drop_application(scope, application_id)
    return 1


# ---- leaving ---------------------------------------------------------------------------------------


def leave(scope: Scope, call: Call, operation: Leave) -> None:
    """Take the vote and the role from the organisation that asks for it.

    Raises RuleError: not-in-committee, committee-too-small.
    """
    require_vote(scope, call.account)
    _require_others(committee(scope.state, scope.params))
    activate(scope)
    _remove(scope, call.account)


def expel(scope: Scope, call: Call, operation: Expel) -> None:
    """Vote for the removal of another organisation; the vote that completes a quorum removes it.

    Raises RuleError: not-in-committee, own-account, unknown-organisation, committee-too-small,
    already-voted.
    """
    state, accused = scope.state, operation.organisation
    require_vote(scope, call.account)
    if accused == call.account:
        raise RuleError("own-account", "whoever wants to go leaves")
    if entry(state, scope.params, accused) is None:
        raise RuleError("unknown-organisation", "the account has no vote", permanent=False)
    members = committee(state, scope.params)
    _require_others(members)
    now_s = scope.context.time_s
    found = find_removal(state, accused)
    if found is not None and now_s >= found.expires_s:
        _drop_removal(scope, accused)
        found = None
    if found is None:
        found = Removal(scope.context.height, now_s + MOTION_LIFETIME_S)
        state.put(*_timer(found.expires_s, REMOVAL_TIMER, accused))
    if call.account in found.votes:
        raise RuleError("already-voted", "an organisation votes once", permanent=False)
    found = found._replace(votes=(*found.votes, call.account))
    activate(scope)
    state.put(keys.REMOVAL + accused, pack(found))
    if is_quorum(members, found.votes):
        _remove(scope, accused)


def _require_others(members: list[Validator]) -> None:
    """Refuse what would leave a committee that tolerates no fault, which no round could use."""
    if len(members) <= MIN_VALIDATORS:
        raise RuleError("committee-too-small", f"{MIN_VALIDATORS} organisations must stay", permanent=False)


def _remove(scope: Scope, account: bytes) -> None:
    """Take vote and role; what other organisations said of it counts no more, as it has no entry."""
    _drop_removal(scope, account)
    for key, value in dismissal(scope.state, (account,)).items():
        if value is None:
            scope.state.delete(key)
        else:
            scope.state.put(key, value)


def dismissal(state: ReadableState, accounts: Sequence[bytes]) -> dict[bytes, bytes | None]:
    """Return the writes that take vote and role from organisations; a motion against one expires later."""
    writes: dict[bytes, bytes | None] = {}
    for account in accounts:
        for prefix in (keys.ORGANISATION, keys.PROVIDER, keys.DELEGATE_VOTE):
            if state.get(prefix + account) is not None:
                writes[prefix + account] = None
        writes |= end_reveals(state, account)
    return writes


def _drop_removal(scope: Scope, account: bytes) -> None:
    found = find_removal(scope.state, account)
    if found is not None:
        scope.state.delete(keys.REMOVAL + account)
        scope.state.delete(_timer(found.expires_s, REMOVAL_TIMER, account)[0])


def expire_removal(scope: Scope, account: bytes, number: int, budget: int) -> int | None:
    """Forget a removal that found no quorum in time; takes one unit. ``number`` is not used."""
    _drop_removal(scope, account)
    return 1


def _timer(due_s: int, kind: str, subject: bytes) -> tuple[bytes, bytes]:
    """Return key and value of the timer that ends a motion."""
    key = keys.timer(due_s, CONTRACT, b"%b/%b" % (kind.encode(), subject))
    return key, pack((kind, subject, 0))
