"""Offences on the chain: evidence that a block carries, and who is barred for it (section 2.13).

Evidence stands in the coinbase, in one output ``OP_RETURN <push>`` whose pushed bytes are ``WE`` and a
canonical array of evidence; ``evidence_root`` of the commitment covers it. It costs nobody a fee.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from consensus import canonical
from consensus.bft.config import Electorate, VoterSet, genesis_base
from consensus.bft.evidence import check_evidence, decode_evidence, encode_evidence
from consensus.bft.shown import Evidence
from consensus.commitment import carried
from consensus.errors import DecodeError, RuleError
from consensus.ledger_limits import BARRED_EPOCHS, EVIDENCE_EPOCHS, MAX_EVIDENCE_PER_BLOCK
from consensus.params import ChainParams
from consensus.ports import StateView
from consensus.rounds import EVIDENCE, OFFENCE, Round, SetRecord, record_of, set_hash_of, set_record
from consensus.script.templates import data_carrier
from consensus.transaction import Transaction

MARK = b"WE"
"""First two bytes of the push."""

Writes = dict[bytes, bytes | None]


def evidence_script(evidence: Sequence[bytes]) -> bytes:
    """Return the scriptPubKey of the output that carries ``evidence``."""
    return data_carrier(MARK + canonical.encode(list(evidence)))


def is_evidence(script: bytes) -> bool:
    """Tell whether an output script claims to carry evidence, well-formed or not."""
    return carried(script).startswith(MARK)


def carried_evidence(coinbase: Transaction) -> tuple[bytes, ...]:
    """Return the evidence that a coinbase carries, in order.

    Raises RuleError "bad-evidence-output" for more than one output with the mark, or another form.
    """
    found = [out for out in coinbase.vout if is_evidence(out.script_pubkey)]
    if not found:
        return ()
    try:
        value = canonical.decode(carried(found[0].script_pubkey)[len(MARK) :])
    except DecodeError as error:
        raise RuleError("bad-evidence-output", str(error)) from None
    if not isinstance(value, list) or not value or not all(isinstance(item, bytes) for item in value):
        raise RuleError("bad-evidence-output", "not an array of evidence")
    if len(found) > 1 or found[0].value or found[0].script_pubkey != evidence_script(value):
        raise RuleError("bad-evidence-output", "not one output without value and with one minimal push")
    return tuple(value)


def accept_evidence(
    evidence: Sequence[bytes], state: StateView, found: Round, params: ChainParams, chain_id: bytes
) -> Writes:
    """Return what the ``evidence`` in a block of round ``found`` changes: offenders are barred.

    Raises RuleError: "bad-evidence-count", "bad-evidence-order" (ascending by round and offender),
    "bad-evidence-known", "bad-evidence-round" (unknown, or of more than EVIDENCE_EPOCHS before), and those
    of ``consensus.bft.evidence``.
    """
    if len(evidence) > MAX_EVIDENCE_PER_BLOCK:
        raise RuleError("bad-evidence-count", f"{len(evidence)}, at most {MAX_EVIDENCE_PER_BLOCK}")
    writes: Writes = {}
    last = b""
    for item in evidence:
        case = _judge(item, state, found, params, chain_id)
        if case.key <= last:
            raise RuleError("bad-evidence-order", "not ascending by round and offender")
        last = case.key
        until = found.epoch + 1 + BARRED_EPOCHS
        writes[EVIDENCE + case.key] = _epoch(case.forget)
        writes[OFFENCE + case.account] = _epoch(until)
    return writes


class _Case(NamedTuple):
    """Evidence that holds: ``key`` names round and offender, ``forget`` the epoch in which it is too old."""

    key: bytes
    account: bytes
    forget: int


def _judge(item: bytes, state: StateView, found: Round, params: ChainParams, chain_id: bytes) -> _Case:
    number, evidence = decode_evidence(item)
    record = _record(number, state, found, params, chain_id)
    if record is None or _too_old(record, found):
        raise RuleError("bad-evidence-round", f"of round {number}, now is round {found.number}")
    voters = VoterSet(number, record.first_height, set_hash_of(number, record), record.keys)
    key = _case_key(number, evidence.offender)
    if state.get(EVIDENCE + key) is not None:
        raise RuleError("bad-evidence-known", f"validator {evidence.offender} was convicted for that round")
    check_evidence(Electorate(chain_id, voters, genesis_base(chain_id)), evidence)
    return _Case(key, record.accounts[evidence.offender], record.epoch + EVIDENCE_EPOCHS + 1)


def is_pending(
    number: int, evidence: Evidence, state: StateView, found: Round, params: ChainParams, chain_id: bytes
) -> bool:
    """Return whether a block of round ``found`` could carry evidence of round ``number``.

    False: it is too old, of a round that is unknown here, or its offender was convicted for that round.
    Raises RuleError as ``consensus.bft.evidence.check_evidence`` if it proves nothing.
    """
    try:
        _judge(encode_evidence(number, evidence), state, found, params, chain_id)
    except RuleError as error:
        if error.code in ("bad-evidence-round", "bad-evidence-known"):
            return False
        raise
    return True


def _record(
    number: int, state: StateView, found: Round, params: ChainParams, chain_id: bytes
) -> SetRecord | None:
    if number == found.number:
        return record_of(found)  # after a restart the state does not have it yet
    return set_record(state, params, chain_id, number) if number < found.number else None


def _too_old(record: SetRecord, found: Round) -> bool:
    return record.epoch + EVIDENCE_EPOCHS < found.epoch


def _case_key(number: int, offender: int) -> bytes:
    return number.to_bytes(4, "big") + bytes([offender])


def _epoch(number: int) -> bytes:
    return number.to_bytes(8, "big")


def acceptable_evidence(
    known: Iterable[tuple[int, Evidence]],
    state: StateView,
    found: Round,
    params: ChainParams,
    chain_id: bytes,
) -> tuple[bytes, ...]:
    """Return what of the ``known`` (round, evidence) a block of round ``found`` can carry, as many as fit.

    What is too old or on the chain costs no decoding and no signature: a book is full of it after years.
    """
    pairs = list(known)
    taken = _taken_rounds({number for number, _ in pairs}, state, found, params, chain_id)
    cases: dict[bytes, bytes] = {}
    for number, evidence in pairs:
        if number not in taken:
            continue
        key = _case_key(number, evidence.offender)
        if key in cases or state.get(EVIDENCE + key) is not None:
            continue
        item = encode_evidence(number, evidence)
        try:
            cases[_judge(item, state, found, params, chain_id).key] = item
        except RuleError:
            continue
        if len(cases) == MAX_EVIDENCE_PER_BLOCK:
            break
    return tuple([cases[key] for key in sorted(cases)])


def _taken_rounds(
    numbers: Collection[int], state: StateView, found: Round, params: ChainParams, chain_id: bytes
) -> tuple[int, ...]:
    """Return those of ``numbers`` whose evidence is still taken, latest first.

    Epochs never go down from round to round, so behind the first that is too old nothing is looked up.
    """
    taken: list[int] = []
    for number in sorted(numbers, reverse=True):
        record = _record(number, state, found, params, chain_id)
        if record is None:
            continue
        if _too_old(record, found):
            break
        taken.append(number)
    return tuple(taken)


def forget_expired(state: StateView, epoch: int) -> Writes:
    """Return the writes that forget, when ``epoch`` begins, what has lost its effect."""
    writes: Writes = {}
    for prefix in (OFFENCE, EVIDENCE):
        for key, value in state.scan(prefix):
            if int.from_bytes(value, "big") <= epoch:
                writes[key] = None
    return writes
