"""The engine: ``step(state, event, now_ms) -> (state, effects)``, pure.

A step first takes the event in, then lets every part make its next move (commit what is certified,
vote on what is parked, lead) until nothing changes. Messages from others never raise: one that breaks
a rule changes nothing and leaves as ``Misbehaviour``.
"""

from collections.abc import Callable
from typing import Any

from consensus.bft import catchup, election, evidence, leading, starting, terms, voting
from consensus.bft.certificates import check_qc
from consensus.bft.state import Role, State
from consensus.bft.turn import Turn
from consensus.bft.types import (
    Accuse,
    Ask,
    AskEC,
    BlockAvailable,
    Built,
    Censored,
    Checked,
    Committed,
    CommitVote,
    Effects,
    Event,
    Halt,
    Kind,
    Message,
    Misbehaviour,
    PendingWork,
    Prepared,
    PreVote,
    Proof,
    Propose,
    Received,
    Report,
    RequestVote,
    ShowEC,
    Start,
    Synced,
    Timer,
    TimerFired,
    Validated,
    VoteGranted,
)
from consensus.errors import RuleError

_PRE_VOTE_TICKS = 3
_REQUEST_TICKS = 2
"""PreVote is repeated every third, RequestVote every second retransmission period."""


def step(state: State, event: Event, now_ms: int) -> tuple[State, Effects]:
    """Return the next state and what to do, in order. ``now_ms`` never decreases.

    ``state`` itself is left as it was.
    """
    if state.halted is not None or state.ended:
        return state, ()
    turn = Turn(state, now_ms)
    try:
        _HANDLERS[type(event)](turn, event)
    except RuleError as error:
        sender = event.sender if isinstance(event, Received | Synced) else None
        return state, (Misbehaviour(sender, error.code),)
    while turn.stirred and turn.s.halted is None:
        turn.stirred = False
        catchup.settle(turn)
        if turn.s.votes and turn.s.halted is None:
            if not turn.s.ended:
                voting.settle(turn)
            leading.settle(turn)
    if turn.s.halted is not None:
        return _stopped(state, turn.s.halted)
    return turn.s, turn.effects()


def _stopped(state: State, reason: str) -> tuple[State, Effects]:
    """Return the state before, halted for good; whatever else the step would have done is not done."""
    last = state.fork()
    last.halted = reason
    return last, (Halt(reason),)


def _on_start(turn: Turn, event: Start) -> None:
    s = turn.s
    if s.started:
        return
    s.started = True
    if s.config.me is not None:
        starting.start(turn, event.session)
    turn.set_timer(Timer.TICK, turn.now + s.config.timing.tick_ms)
    turn.stir()


# --- messages -----------------------------------------------------------------------------------

_MESSAGES: dict[type[Any], Callable[[Turn, int | None, Any], None]] = {
    PreVote: terms.on_pre_vote,
    RequestVote: election.on_request_vote,
    VoteGranted: election.on_vote_granted,
    Propose: voting.on_propose,
    Validated: leading.on_validated,
    CommitVote: leading.on_commit_vote,
    Prepared: voting.on_prepared,
    Committed: catchup.on_committed,
    Proof: terms.on_proof,
    AskEC: terms.on_ask_ec,
    ShowEC: terms.on_show_ec,
    Ask: starting.on_ask,
    Report: starting.on_report,
    Accuse: evidence.on_accuse,
}

_PROVEN = (Committed, Accuse)
"""What proves itself by its signatures, whoever shows it; nodes without a vote hear nothing else."""

_BEFORE_VOTING = (Ask, Report, *_PROVEN)
"""What a validator listens to while it does not know yet whether it may sign."""

_SIGNS_OF_LIFE = (Propose, Prepared, Committed, ShowEC)
"""What only a leader sends unasked; over its own link it shows that it is alive."""


def _on_received(turn: Turn, event: Received) -> None:
    s = turn.s
    message, sender = event.message, event.sender
    if sender is not None and not 0 <= sender < s.config.validator_set.n:
        raise RuleError("not-a-validator")
    if not s.started:
        return
    if s.config.me is None or sender is None:
        if isinstance(message, _PROVEN):
            _MESSAGES[type(message)](turn, sender, message)
        elif s.config.me is not None:
            raise RuleError("not-a-validator")
        return
    if s.asking and not isinstance(message, _BEFORE_VOTING):
        return
    _MESSAGES[type(message)](turn, sender, message)
    if sender == s.leader and isinstance(message, _SIGNS_OF_LIFE):
        s.leader_at = turn.now


def check_stranger(state: State, message: Message) -> None:
    """Check a message of somebody who is no validator: it may show commit certificates and evidence alone.

    The engine knows validators alone, so only here can a forged one be charged. Raises RuleError.
    """
    if isinstance(message, Committed):
        check_qc(state.config.electorate, message.qc, Kind.COMMIT, state.verified)
    elif isinstance(message, Accuse):
        evidence.check_accuse(state, message)
    else:
        raise RuleError("not-a-validator", type(message).__name__)


# --- timers -------------------------------------------------------------------------------------


def _on_timer(turn: Turn, event: TimerFired) -> None:
    s = turn.s
    armed = s.timers.get(event.name)
    if armed is None or armed.token != event.token:
        return
    s.timers = {name: other for name, other in s.timers.items() if name is not event.name}
    if event.name is Timer.TICK:
        _on_tick(turn)
    elif event.name is Timer.PROGRESS:
        terms.on_progress_timer(turn, armed.at_ms)
    elif event.name is Timer.SLOT:
        election.on_slot_timer(turn)
    elif event.name is Timer.GRANT:
        election.grant_in_turn(turn)
    turn.stir()


def _on_tick(turn: Turn) -> None:
    """Say again what may have been lost, and ask again for what is missing."""
    s = turn.s
    s.ticks += 1
    turn.set_timer(Timer.TICK, turn.now + s.config.timing.tick_ms)
    if s.asking:
        starting.on_tick(turn)
    if not s.votes:
        return
    if s.suspect and s.ticks % _PRE_VOTE_TICKS == 0:
        terms.send_pre_vote(turn)
    if s.role is Role.CANDIDATE and s.ticks % _REQUEST_TICKS == 0:
        election.request_votes(turn)
    if s.pending is not None:
        if s.leader is None:
            turn.send(s.pending.leader, AskEC(s.pending.term))
        voting.flush_held(turn)
    leading.on_tick(turn)


# --- the shell ----------------------------------------------------------------------------------


def _on_pending_work(turn: Turn, event: PendingWork) -> None:
    turn.s.work = event.tx_count
    if turn.s.role is Role.LEADER:
        turn.stir()


def _on_censored(turn: Turn, event: Censored) -> None:
    if turn.s.votes and turn.s.started:
        terms.suspect(turn)


_HANDLERS: dict[type[Any], Callable[[Turn, Any], None]] = {
    Start: _on_start,
    Received: _on_received,
    TimerFired: _on_timer,
    PendingWork: _on_pending_work,
    Built: leading.on_built,
    Checked: voting.on_checked,
    BlockAvailable: catchup.on_block_available,
    Synced: catchup.on_synced,
    Censored: _on_censored,
}
