"""Delegate votes, and the election that they and the weights give."""

from consensus.dpos import Ballot, Candidate
from consensus.errors import RuleError
from consensus.params import ChainParams
from contracts import keys
from contracts.governance.activity import active_meters
from contracts.governance.committee import activate, committee, entry, require_vote
from contracts.governance.operations import VoteDelegates
from contracts.governance.records import Vote
from contracts.limits import USUAL_APPROVALS
from contracts.records import ReadableState, pack, unpack
from contracts.scope import Call, Scope


def most_approvals(params: ChainParams) -> int:
    """Return how many organisations one vote of this chain may approve."""
    return max(USUAL_APPROVALS, params.bft.delegates)


def find_vote(state: ReadableState, account: bytes) -> Vote | None:
    """Return the standing vote of an organisation."""
    value = state.get(keys.DELEGATE_VOTE + account)
    return None if value is None else Vote(*unpack(value))


def vote(scope: Scope, call: Call, operation: VoteDelegates) -> None:
    """Replace the delegate vote of an organisation; without approvals it has none.

    Raises RuleError: not-in-committee, self-vote, unknown-candidate.
    """
    require_vote(scope, call.account)
    if call.account in operation.approvals:
        raise RuleError("self-vote", "an organisation votes for others")
    for account in operation.approvals:
        if entry(scope.state, scope.params, account) is None:
            raise RuleError("unknown-candidate", f"{account.hex()} has no vote", permanent=False)
    activate(scope)
    key = keys.DELEGATE_VOTE + call.account
    if operation.approvals:
        scope.state.put(key, pack(Vote(operation.approvals, scope.context.height)))
    else:
        scope.state.delete(key)


def candidates(state: ReadableState, params: ChainParams, time_s: int) -> list[Candidate]:
    """Return every organisation with a vote in order of account, with its ballot: all are candidates.

    ``time_s`` is the block time at which meters count as active. Approvals of organisations that are
    gone are still in the ballots; the tally leaves them out.
    """
    found = []
    for member in committee(state, params):
        account = member.payout_script
        standing = find_vote(state, account)
        approvals = () if standing is None else standing.approvals
        ballot = Ballot(account, active_meters(state, account, time_s), approvals)
        found.append(Candidate(member, ballot))
    return found


def ballots(state: ReadableState, params: ChainParams, time_s: int) -> list[Ballot]:
    """Return the ballots of all candidates in order of account."""
    return [candidate.ballot for candidate in candidates(state, params, time_s)]
