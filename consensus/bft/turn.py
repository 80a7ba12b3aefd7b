"""One step in the making: the copy of the state that it changes and the effects that it collects.

Effects leave in the order of section 2.6: bodies and records, one Fsync if a vote is among what is
sent, sends, then the rest as it came.
"""

from consensus.bft import certificates, statements
from consensus.bft.certificates import Certificate
from consensus.bft.config import Config, Electorate
from consensus.bft.limits import MAX_VERIFIED
from consensus.bft.shown import Signed, Vote
from consensus.bft.state import Armed, State
from consensus.bft.types import (
    EC,
    QC,
    TC,
    Broadcast,
    CancelTimer,
    Effect,
    Effects,
    Fsync,
    Kind,
    Message,
    Persist,
    PersistBody,
    Record,
    Send,
    SetTimer,
    TermProof,
    Timer,
)
from consensus.errors import RuleError


class Turn:
    """Working context of one step."""

    __slots__ = ("acts", "config", "must_sync", "now", "s", "saves", "sends", "stirred")

    def __init__(self, state: State, now_ms: int) -> None:
        self.s = state.fork()
        self.config: Config = state.config
        self.now = now_ms
        self.saves: list[Persist | PersistBody] = []
        self.must_sync = False
        self.sends: list[Send | Broadcast] = []
        self.acts: list[Effect] = []
        self.stirred = False

    @property
    def electorate(self) -> Electorate:
        """Return who votes."""
        return self.config.electorate

    @property
    def me(self) -> int:
        """Return our index; only validators get to code that asks."""
        if self.config.me is None:
            raise ValueError("a follower has no index")
        return self.config.me

    @property
    def is_leader(self) -> bool:
        """Return whether we lead the current term."""
        return self.s.leader is not None and self.s.leader == self.config.me

    def effects(self) -> Effects:
        """Return all effects in the order in which they must be carried out."""
        sync: list[Effect] = [Fsync()] if self.must_sync else []
        return (*self.saves, *sync, *self.sends, *self.acts)

    # --- effects --------------------------------------------------------------------------------

    def persist(self, record: Record) -> None:
        """Append a record to the log."""
        self.saves.append(Persist(record))

    def persist_body(self, block_hash: bytes) -> None:
        """Append a body to stable storage."""
        self.saves.append(PersistBody(block_hash))

    def sync(self) -> None:
        """Nothing may leave before all that was persisted is durable."""
        self.must_sync = True

    def send(self, to: int, message: Message) -> None:
        """Send to one other validator."""
        if to != self.config.me:
            self.sends.append(Send(to, message))

    def reply(self, sender: int | None, message: Message) -> None:
        """Send to the validator behind a link, if it is one."""
        if sender is not None:
            self.send(sender, message)

    def broadcast(self, message: Message) -> None:
        """Send to all other validators."""
        if self.electorate.voters.n > 1:
            self.sends.append(Broadcast(message))

    def act(self, effect: Effect) -> None:
        """Add an effect that comes after the sends."""
        self.acts.append(effect)

    def stir(self) -> None:
        """Something changed that may allow the next move: the engine looks again."""
        self.stirred = True

    # --- timers ---------------------------------------------------------------------------------

    def set_timer(self, name: Timer, at_ms: int) -> None:
        """Arm a timer, replacing what was armed under that name."""
        token = self.s.next_token
        self.s.next_token = token + 1
        self.s.timers = {**self.s.timers, name: Armed(at_ms, token)}
        self.acts.append(SetTimer(name, at_ms, token))

    def cancel_timer(self, name: Timer) -> None:
        """Disarm a timer, if it is armed."""
        if name in self.s.timers:
            self.s.timers = {key: armed for key, armed in self.s.timers.items() if key is not name}
            self.acts.append(CancelTimer(name))

    # --- signatures -----------------------------------------------------------------------------

    def sign(self, digest: bytes) -> bytes:
        """Sign with our vote key."""
        if self.config.secret is None:
            raise ValueError("a follower has no vote key")
        return self.config.secret.sign(digest)

    def sign_block(self, vote: Vote, term: int, height: int, block_hash: bytes) -> bytes:
        """Sign a statement about a block."""
        return self.sign(statements.block_vote(self.electorate, vote, term, height, block_hash))

    def verify(self, items: list[tuple[int, bytes, bytes]]) -> None:
        """Check (validator, digest, signature) triples. Raises RuleError ``bad-vote-signature``."""
        electorate = self.config.electorate
        keys = electorate.voters.keys
        batch = []
        for member, digest, sig in items:
            if member >= len(keys):
                raise RuleError("bad-vote-signature", "no such validator")
            batch.append((digest, keys[member], sig))
        if not all(electorate.scheme.verify(batch)):
            raise RuleError("bad-vote-signature")

    def is_signed(self, member: int, shown: Signed) -> bool:
        """Return whether a validator signed a statement about a block."""
        electorate = self.config.electorate
        digest = self.block_digest(shown.vote, shown.term, shown.height, shown.block_hash)
        return electorate.scheme.verify([(digest, electorate.voters.keys[member], shown.sig)])[0]

    def remember(self, certificate: Certificate) -> None:
        """Do not check this certificate again."""
        verified = self.s.verified
        if certificate in verified:
            return
        kept = {**verified, certificate: None}
        if len(kept) > MAX_VERIFIED:
            del kept[next(iter(kept))]
        self.s.verified = kept

    def check_qc(self, qc: QC, kind: Kind) -> None:
        """Check a quorum certificate. Raises RuleError."""
        certificates.check_qc(self.electorate, qc, kind, self.s.verified)
        self.remember(qc)

    def check_ec(self, ec: EC) -> None:
        """Check an election certificate. Raises RuleError."""
        certificates.check_ec(self.electorate, ec, self.s.verified)
        self.remember(ec)

    def check_proof(self, term: int, proof: TermProof) -> None:
        """Check a proof of a term. Raises RuleError."""
        certificates.check_term_proof(self.electorate, term, proof, self.s.verified)
        if isinstance(proof, QC | TC | EC):
            self.remember(proof)

    def block_digest(self, vote: Vote, term: int, height: int, block_hash: bytes) -> bytes:
        """Return what a statement about a block signs."""
        return statements.block_vote(self.config.electorate, vote, term, height, block_hash)
