"""Members of a community, and money that they bring and take."""

from consensus.errors import RuleError
from contracts import keys
from contracts.operations import Deposit, RegisterMember, Withdraw
from contracts.records import Member, ReadableState, WritableState, pack, unpack
from contracts.scope import Call, Scope, grid_operator, require_operator, require_provider


def find_member(state: ReadableState, community: str, account: bytes) -> Member | None:
    """Return the member record of ``account``, None if it is no member."""
    value = state.get(keys.of_community(keys.MEMBER, community) + account)
    return None if value is None else Member(*unpack(value))


def member_of(state: ReadableState, community: str, account: bytes) -> Member:
    """Return the member record of ``account``. Raises RuleError: not-a-member, unknown-community."""
    member = find_member(state, community, account)
    if member is None:
        grid_operator(state, community)
        raise RuleError("not-a-member", f"the account is no member of {community!r}", permanent=False)
    return member


def store_member(state: WritableState, community: str, account: bytes, member: Member) -> None:
    """Write a member record."""
    state.put(keys.of_community(keys.MEMBER, community) + account, pack(member))


def member_count(state: ReadableState, community: str) -> int:
    """Return how many members a community has."""
    value = state.get(keys.MEMBERS + community.encode())
    return 0 if value is None else int.from_bytes(value, "big")


def register(scope: Scope, call: Call, operation: RegisterMember) -> None:
    """Admit a member; by the grid operator.

    Raises RuleError: unknown-community, not-grid-operator, unknown-provider, already-registered,
    community-full.
    """
    state, community = scope.state, operation.community
    require_operator(state, community, call.account)
    require_provider(state, operation.provider)
    if find_member(state, community, operation.member) is not None:
        raise RuleError("already-registered", f"the account is a member of {community!r}")
    count = member_count(state, community)
    if count >= scope.params.energy.max_participants:
        raise RuleError("community-full", f"{count} members", permanent=False)
    state.put(keys.MEMBERS + community.encode(), keys.number(count + 1))
    store_member(state, community, operation.member, Member(operation.provider, scope.context.height))


def deposit(scope: Scope, call: Call, operation: Deposit) -> None:
    """Credit what the payload output brings."""
    scope.bank.deposit(call.account, call.value)


def withdraw(scope: Scope, call: Call, operation: Withdraw) -> None:
    """Queue a payout. Raises RuleError ``insufficient-balance``."""
    scope.bank.withdraw(call.account, operation.amount, scope.context.height)
