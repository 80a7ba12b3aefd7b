"""The committee: the organisations with a vote, and how many of them decide.

A founder has a vote from genesis on by its entry in the chain file, an admitted organisation by its
record ``provider/<script>``; both only as long as ``org/<script>`` is there. Founders that share an
account are one organisation, whose entry is the first of them. Where nobody validates by vote, on a
proof-of-work chain, there is no committee.
"""

from consensus.bft.quorum import quorum
from consensus.errors import RuleError
from consensus.params import ChainParams, Validator
from contracts import keys
from contracts.governance.records import Provider
from contracts.records import ReadableState, unpack
from contracts.scope import Scope


def find_provider(state: ReadableState, account: bytes) -> Provider | None:
    """Return the record of an admitted organisation, None for founders and strangers."""
    value = state.get(keys.PROVIDER + account)
    return None if value is None else Provider(*unpack(value))


def entry(state: ReadableState, params: ChainParams, account: bytes) -> Validator | None:
    """Return the validator entry of an organisation with a vote, None for anybody else."""
    if state.get(keys.ORGANISATION + account) is None:
        return None
    admitted = find_provider(state, account)
    if admitted is not None:
        return validator_of(account, admitted)
    for founder in params.bft.validators:
        if founder.payout_script == account:
            return founder
    return None


def validator_of(account: bytes, provider: Provider) -> Validator:
    """Return the validator entry of a record."""
    return Validator(
        name=provider.name,
        role=provider.role,
        vote_key=provider.vote_key,
        identity_key=provider.identity_key,
        payout_script=account,
        vote_signature=provider.vote_signature,
        identity_signature=provider.identity_signature,
    )


def committee(state: ReadableState, params: ChainParams) -> list[Validator]:
    """Return the entries of all organisations with a vote, in order of account."""
    entries: dict[bytes, Validator] = {}
    for founder in params.bft.validators:
        entries.setdefault(founder.payout_script, founder)
    if not entries:
        return []
    for key, value in state.scan(keys.PROVIDER):
        account = key[len(keys.PROVIDER) :]
        entries[account] = validator_of(account, Provider(*unpack(value)))
    accounts = [key[len(keys.ORGANISATION) :] for key, _ in state.scan(keys.ORGANISATION)]
    return [entries[account] for account in accounts if account in entries]


def require_vote(scope: Scope, account: bytes) -> Validator:
    """Return the entry of ``account``. Raises RuleError ``not-in-committee`` if it has no vote."""
    found = entry(scope.state, scope.params, account)
    if found is None:
        raise RuleError("not-in-committee", "the account is no organisation with a vote", permanent=False)
    return found


def is_quorum(members: list[Validator], supporters: tuple[bytes, ...]) -> bool:
    """Whether those of ``supporters`` that have a vote now are a quorum of the committee ``members``.

    The quorum is that of the validators: floor((n + f) / 2) + 1 of n. Who has left counts no more.
    """
    accounts = {member.payout_script for member in members}
    return len([each for each in supporters if each in accounts]) >= quorum(len(members))


def activate(scope: Scope) -> None:
    """Note the first operation of governance: from here on readings count for weights.

    So a chain whose organisations never use governance has the state that it had without it.
    """
    if scope.state.get(keys.GOVERNANCE) is None:
        scope.state.put(keys.GOVERNANCE, keys.number(scope.context.height))
