"""Offences on the chain: evidence that a block carries, and who is barred for it (section 2.13).

Evidence stands in the coinbase, in one output ``OP_RETURN <push>`` whose pushed bytes are ``WE`` and a
canonical array of evidence; ``evidence_root`` of the commitment covers it. It costs nobody a fee.
"""

from collections.abc import Iterable, Sequence

from consensus import canonical
from consensus.commitment import carried
from consensus.errors import DecodeError, RuleError
from consensus.params import ChainParams
from consensus.ports import StateView
from consensus.rounds import EVIDENCE, OFFENCE, Round
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
    """Return what ``evidence`` in a block of round ``found`` changes."""
    if evidence:
        raise RuleError("bad-evidence-form", "not yet")
    return {}


def acceptable_evidence(
    known: Iterable[bytes], state: StateView, found: Round, params: ChainParams, chain_id: bytes
) -> tuple[bytes, ...]:
    """Return which of the ``known`` evidence a block of round ``found`` can carry, as many as fit."""
    return ()


def forget_expired(state: StateView, epoch: int) -> Writes:
    """Return the writes that forget, when ``epoch`` begins, what has lost its effect."""
    writes: Writes = {}
    for prefix in (OFFENCE, EVIDENCE):
        for key, value in state.scan(prefix):
            if int.from_bytes(value, "big") <= epoch:
                writes[key] = None
    return writes
