"""Reveal chains: what an organisation commits to before it leads, so that nobody can choose the next seed.

An organisation registers the top of a hash chain. As delegate it publishes the next pre-image in its first
block of a term (``consensus.rounds``), which goes into the seed of the next election. Whoever could change
its chain during an epoch would choose among seeds, or reveal nothing without losing its term: so a new
chain counts from the next epoch on, and the one before stays due until then.
"""

from consensus import rounds
from consensus.errors import RuleError
from consensus.rounds import RevealChain
from contracts import keys
from contracts.governance.committee import activate, require_vote
from contracts.governance.operations import CommitReveals
from contracts.governance.records import NextReveals
from contracts.records import ReadableState, pack, unpack
from contracts.scope import Call, Scope

CONTRACT = b"governance"
REVEALS_TIMER = "3-reveals"


def next_reveals(state: ReadableState, account: bytes) -> NextReveals | None:
    """Return the chain that waits for the end of the epoch, None if there is none."""
    value = state.get(keys.REVEALS_NEXT + account)
    return None if value is None else NextReveals(*unpack(value))


def commit_reveals(scope: Scope, call: Call, operation: CommitReveals) -> None:
    """Register the reveal chain of an organisation, from the next epoch on.

    Raises RuleError: not-in-committee, generation-used.
    """
    state, account = scope.state, call.account
    require_vote(scope, account)
    known, waiting = rounds.reveal_chain(state, account), next_reveals(state, account)
    used = max(-1 if each is None else each.generation for each in (known, waiting))
    if operation.generation <= used:
        raise RuleError("generation-used", f"give more than {used}: a chain is revealed once")
    activate(scope)
    _drop_waiting(scope, account)
    epoch = rounds.current(state, scope.params, scope.context.chain_id).epoch
    chain = RevealChain(operation.top, operation.length, operation.generation, epoch + 1)
    if known is None or not known.left or known.from_epoch > epoch:
        state.put(rounds.REVEAL + account, rounds.encode_reveal_chain(chain))
        return
    round_s = scope.params.bft.round_s
    due_s = (scope.context.time_s // round_s + 1) * round_s
    state.put(keys.REVEALS_NEXT + account, pack(NextReveals(*chain, due_s)))
    state.put(_timer_key(due_s, account), pack((REVEALS_TIMER, account, 0)))


def start_reveals(scope: Scope, account: bytes, number: int, budget: int) -> int | None:
    """Put the chain that waits in the place of the old one; takes one unit. ``number`` is not used.

    It runs in the block that ends the epoch, or in a later one if the timers of markets fill that.
    """
    found = next_reveals(scope.state, account)
    if found is not None:
        chain = RevealChain(found.top, found.left, found.generation, found.from_epoch)
        scope.state.put(rounds.REVEAL + account, rounds.encode_reveal_chain(chain))
        _drop_waiting(scope, account)
    return 1


def end_reveals(state: ReadableState, account: bytes) -> dict[bytes, bytes | None]:
    """Return the writes by which an organisation that loses its vote has nothing left to reveal.

    The generation stays: should it come back with the same keys, it must not reveal again what is known.
    """
    known, waiting = rounds.reveal_chain(state, account), next_reveals(state, account)
    writes: dict[bytes, bytes | None] = dict.fromkeys(_waiting_keys(state, account))
    if known is not None:
        generation = known.generation if waiting is None else waiting.generation
        ended = known._replace(left=0, generation=generation)
        writes[rounds.REVEAL + account] = rounds.encode_reveal_chain(ended)
    return writes


def _waiting_keys(state: ReadableState, account: bytes) -> list[bytes]:
    found = next_reveals(state, account)
    return [] if found is None else [keys.REVEALS_NEXT + account, _timer_key(found.due_s, account)]


def _drop_waiting(scope: Scope, account: bytes) -> None:
    for key in _waiting_keys(scope.state, account):
        scope.state.delete(key)


def _timer_key(due_s: int, account: bytes) -> bytes:
    return keys.timer(due_s, CONTRACT, b"%b/%b" % (REVEALS_TIMER.encode(), account))
