"""Certificates and engines for unit tests: four validators with cheap signatures."""

from consensus.bft import statements
from consensus.bft.certificates import bitmap_of
from consensus.bft.engine import step
from consensus.bft.shown import Vote
from consensus.bft.state import Role, initial
from consensus.bft.types import (
    EC,
    QC,
    TC,
    Checked,
    Grant,
    Kind,
    PreVote,
    Propose,
    Received,
    Start,
    Timer,
    TimerFired,
    VoteGranted,
)
from tests.simulation.cluster import CHAIN_ID, config_of, make_proposal

N = 4
CONFIGS = [config_of(N, index) for index in range(N)]
ELECTORATE = CONFIGS[0].electorate
BASE = ELECTORATE.base


def sign(index, digest):
    return CONFIGS[index].secret.sign(digest)


def block_sig(index, vote, term, height, block_hash):
    return sign(index, statements.block_vote(ELECTORATE, Vote(vote), term, height, block_hash))


def make_qc(kind, term, height, block_hash, members=(0, 1, 2)):
    vote = Vote.VALIDATED if kind is Kind.PREPARE else Vote.COMMIT
    sigs = tuple(block_sig(member, vote, term, height, block_hash) for member in members)
    return QC(kind, 0, term, height, block_hash, bitmap_of(members, N), sigs)


def make_tc(term, members=(0, 1, 2)):
    digest = statements.pre_vote(ELECTORATE, term)
    return TC(0, term, bitmap_of(members, N), tuple(sign(member, digest) for member in members))


def make_grant(voter, term, cand, lock):
    digest = statements.grant(ELECTORATE, term, cand, lock.term, lock.height, lock.block_hash)
    return Grant(voter, lock.term, lock.height, lock.block_hash, sign(voter, digest))


def make_ec(term, cand, locks=None):
    """``locks``: {voter: QC}; default: three voters that know nothing."""
    locks = locks or dict.fromkeys((0, 1, 2), BASE)
    votes = tuple(make_grant(voter, term, cand, locks[voter]) for voter in sorted(locks))
    return EC(0, term, cand, votes, max(locks.values(), key=lambda qc: qc.rank))


def make_propose(term, height, leader, proposal, justify, commit_qc=None):
    sig = block_sig(leader, Vote.PROPOSE, term, height, proposal.block_hash)
    return Propose(term, height, leader, proposal, justify, commit_qc, sig)


class Engine:
    """One engine under a test's hands."""

    def __init__(self, config=CONFIGS[0], state=None, start=True):
        self.state = initial(config) if state is None else state
        self.now = 1_000
        self.last = ()
        if start:
            self.feed(Start())

    def feed(self, event):
        self.state, self.last = step(self.state, event, self.now)
        return self.last

    def receive(self, sender, message):
        return self.feed(Received(sender, message))

    def fire(self, name):
        """Let a timer run out, moving the clock to it."""
        armed = self.state.timers[name]
        self.now = max(self.now, armed.at_ms)
        return self.feed(TimerFired(name, armed.token))

    def validate(self, propose):
        """Deliver a proposal and find its block good."""
        effects = self.receive(propose.leader, propose)
        return effects + self.feed(Checked(propose.block_hash, True))

    def sent(self, kind, effects=None):
        messages = [e.message for e in (self.last if effects is None else effects) if hasattr(e, "message")]
        return [message for message in messages if isinstance(message, kind)]

    def effects(self, kind):
        return [effect for effect in self.last if isinstance(effect, kind)]


def block(parent, height, term, salt=b""):
    return make_proposal(parent, height, term, b"%d/%d/" % (height, term) + salt)


B1 = block(CHAIN_ID, 1, 1)
B2 = block(B1.block_hash, 2, 1)
B3 = block(B2.block_hash, 3, 1)
EC1 = make_ec(1, 1)
P1 = make_propose(1, 1, 1, B1, EC1)
PQ1 = make_qc(Kind.PREPARE, 1, 1, B1.block_hash)
CQ1 = make_qc(Kind.COMMIT, 1, 1, B1.block_hash)
P2 = make_propose(1, 2, 1, B2, PQ1)
PQ2 = make_qc(Kind.PREPARE, 1, 2, B2.block_hash)
CQ2 = make_qc(Kind.COMMIT, 1, 2, B2.block_hash)
P3 = make_propose(1, 3, 1, B3, PQ2, CQ1)


def pre_vote(voter, term, proof, height=0):
    return PreVote(term, voter, sign(voter, statements.pre_vote(ELECTORATE, term)), proof, height)


def granted(engine, voter, lock=BASE):
    me = engine.state.config.me
    term = engine.state.cur_term
    digest = statements.grant(ELECTORATE, term, me, lock.term, lock.height, lock.block_hash)
    return VoteGranted(term, me, voter, lock, sign(voter, digest))


def elected(index=0):
    """An engine that leads term 1 and has been asked to build."""
    engine = Engine(CONFIGS[index])
    engine.fire(Timer.SLOT)
    for voter in range(4):
        if voter != index and engine.state.role is Role.CANDIDATE:
            engine.receive(voter, granted(engine, voter))
    assert engine.state.role is Role.LEADER
    return engine
