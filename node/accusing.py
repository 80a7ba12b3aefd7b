"""What this node holds against validators, and how everybody comes to hear of it.

The engine finds contradictions in its own round and tells them once. Whoever was away then, or in another
round, would never learn of them, and evidence would wait for its finder to lead. So every node takes what
proves itself from anybody, also of rounds that are over but whose offenders can still be barred, and tells
again from time to time what no block has carried yet.
"""

from consensus.bft.codec import decode, frame, type_of
from consensus.bft.evidence import decode_evidence
from consensus.bft.shown import Evidence
from consensus.bft.types import Accuse
from consensus.errors import RuleError
from consensus.rounds import set_record
from contracts.governance import committee
from node.chainstate import ChainState
from node.clock import Clock
from node.driver_ports import Links, Listener
from node.evidence import EvidenceBook
from node.limits import EVIDENCE_REPEAT_MS


class Accusations:
    """Fills the book of evidence and tells of what is in it."""

    def __init__(
        self, book: EvidenceBook, chain: ChainState, clock: Clock, links: Links, listener: Listener
    ) -> None:
        self._book = book
        self._chain = chain
        self._clock = clock
        self._links = links
        self._listener = listener
        self._told_ms: int | None = None

    def keep(self, evidence: Evidence, round_number: int, name: str) -> None:
        """Keep what proves that ``name`` broke the rules; leaders put it into their blocks.

        Who found it tells all, so it is not told again before some time has passed.
        """
        if not self._book.add(evidence, self._clock.now_s(), round_number):
            return
        self._told_ms = self._clock.monotonic_ms()
        first = evidence.first
        fields = {"validator": name, "term": first.term, "height": first.height, "statement": first.vote.name}
        self._listener.on_alarm("validator-contradicts-itself", fields)

    def take(self, round_number: int, body: bytes) -> None:
        """Take a message of an earlier round: evidence counts for two epochs, all else is over.

        Raises DecodeError, and RuleError for evidence that proves nothing.
        """
        if type_of(body) is not Accuse:
            return
        message = decode(body)
        if not isinstance(message, Accuse) or message.round != round_number:
            raise RuleError("bad-evidence-form", "of another round")
        evidence = message.evidence
        if self._book.holds(round_number, evidence.offender):
            return
        if self._chain.misses_evidence(round_number, evidence):
            self.keep(evidence, round_number, self._name(round_number, evidence.offender))

    def _name(self, round_number: int, place: int) -> str:
        chain = self._chain
        record = set_record(chain.state, chain.params, chain.chain_id, round_number)
        entry = None if record is None else committee.entry(chain.state, chain.params, record.accounts[place])
        return f"validator {place} of round {round_number}" if entry is None else entry.name

    def tell(self, *, anew: bool = False) -> None:
        """Tell all what no block has carried yet, if it was not told lately; ``anew``: at once."""
        now_ms = self._clock.monotonic_ms()
        recent = self._told_ms is not None and now_ms - self._told_ms < EVIDENCE_REPEAT_MS
        if not len(self._book) or (recent and not anew):
            return
        self._told_ms = now_ms
        for item in self._chain.pending_evidence(self._chain.tip.block_hash, self._book.pairs()):
            number, evidence = decode_evidence(item)
            self._links.broadcast(frame(number, Accuse(number, evidence)))
